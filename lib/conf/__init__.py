"""The table of settings, in its groups: `lib.config` joins them, and does everything that is done with them.

Pure. A row says a setting's name, type, unit and default, whether a reload can change it, how a value is checked
(`lib.checks`) and what it is for. A new setting is a new row, and a line in `pgstmtpool.conf.py`; what goes together
with what is said in `lib.conf.together`.
"""
