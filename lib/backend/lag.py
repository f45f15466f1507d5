"""How many seconds a standby is behind, from what the primary had written when: `max_lag`.

Pure. The clocks of the servers are not used, nor the times of commits, which get old when nobody writes: it is noted
where the end of the primary's WAL was at which moment, and looked up when a standby says how far it is. So a standby is
left out only when it certainly is too far behind, and used again only when it certainly is not.
"""

from __future__ import annotations

from bisect import bisect_right
from math import inf

_MOST_ENTRIES = 1000  # of a history


class _Entry:
    """The end of the primary's WAL was at `lsn`: from `since`, when it first said so, to when it was asked `until`."""

    __slots__ = ("lsn", "since", "until")

    def __init__(self, lsn: int, since: float, until: float) -> None:
        self.lsn = lsn
        self.since = since
        self.until = until


class History:
    """What the primary had written, and when.

    keep_s       how far back
    silent_at    when it could not be asked any more; None while it can
    """

    def __init__(self, keep_s: float) -> None:
        self.keep_s = keep_s
        self.silent_at: float | None = None
        self._entries: list[_Entry] = []

    def __repr__(self) -> str:
        return f"<History entries={len(self._entries)}>"

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, lsn: int, asked_at: float, answered_at: float) -> None:
        entries = self._entries
        self.silent_at = None
        if entries and lsn < entries[-1].lsn:
            entries.clear()  # it has lost the end of its WAL, and what was known of that says nothing of the new one
        if entries and lsn == entries[-1].lsn:
            entries[-1].until = asked_at
        elif len(entries) > 1 and answered_at - entries[-2].since < self.keep_s / _MOST_ENTRIES:
            entries[-1] = _Entry(lsn, answered_at, asked_at)
        else:
            entries.append(_Entry(lsn, answered_at, asked_at))
        while len(entries) > 2 and entries[1].until < asked_at - self.keep_s:
            del entries[0]

    def failed(self, now: float) -> None:
        """It could not be asked."""
        if self.silent_at is None:
            self.silent_at = now

    def behind(self, lsn: int, now: float) -> tuple[float, float]:
        """How many seconds a standby is behind that has replayed up to `lsn` `now`: at least, and at most.

        While the primary cannot be asked nothing is known to be missing that was not written before.
        """
        now = now if self.silent_at is None else min(now, self.silent_at)
        following = bisect_right(self._entries, lsn, key=lambda entry: entry.lsn)
        least = max(0.0, now - self._entries[following].since) if following < len(self._entries) else 0.0
        most = max(least, now - self._entries[following - 1].until) if following else inf
        return least, most


class Standing:
    """Whether a standby is used, under max_lag. A new one is not, until it has been seen to be near enough.

    is_in      it is
    is_known   whether it is has been found out, since it came or came back
    behind_s   how far it was behind, at least, when it was asked last
    """

    __slots__ = ("_seen_at", "behind_s", "is_in", "is_known")

    def __init__(self) -> None:
        self.is_in = self.is_known = False
        self.behind_s = 0.0
        self._seen_at = -inf

    def __repr__(self) -> str:
        state = "unknown" if not self.is_known else "in" if self.is_in else f"out, {self.behind_s:.1f} s behind"
        return f"<Standing {state}>"

    def forget(self) -> None:
        """It was away, and whoever comes back may have much to catch up."""
        self.is_in = self.is_known = False
        self._seen_at = -inf

    def seen(self, lsn: int, asked_at: float, history: History, max_lag: float) -> None:
        """It has replayed up to `lsn`."""
        self._seen_at = asked_at
        self.behind_s, most = history.behind(lsn, asked_at)
        if self.behind_s > max_lag:
            self.is_in, self.is_known = False, True
        elif most <= max_lag:
            self.is_in = self.is_known = True

    def failed(self, now: float, max_lag: float) -> None:
        """It could not be asked: what was seen last holds for max_lag."""
        if now - self._seen_at > max_lag:
            self.is_in, self.is_known = False, True
