"""When the primary dies: who finds out, who decides, who acts.

`machine` decides from what was seen whether the primary is gone; `choice` which standby may take its place, or why none
may. Both are pure. `probe` and `survey` ask the servers, `acts` changes them, `statefile` remembers; `executor` joins
them, and tells `backend.cluster` to hold, to release and to switch.
"""
