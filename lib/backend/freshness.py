"""Which standby may serve a read of somebody who has written: how far each server is, and what follows from that.

Pure. A write is noted and costs nothing; a read that comes after it needs a position in the WAL (LSN) at or behind its
commit, which the primary says when it is asked *after* the commit: a question that was begun before does not count. A
standby that has replayed up to there may serve the read. What it has replayed only grows while it runs, so an answer
holds until the standby may have been restarted.
"""

from __future__ import annotations

from collections.abc import Sequence

NEVER = 1 << 64  # a position that no server reaches

# How far a server is: a primary with its WAL, a standby with what it has replayed. A row for `position`.
WRITTEN_SQL = (
    "select pg_catalog.pg_current_wal_insert_lsn()::pg_catalog.text, "
    "pg_catalog.current_setting('wal_block_size')::pg_catalog.int8, "
    "pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))"
)
REPLAYED_SQL = "select pg_catalog.pg_last_wal_replay_lsn()::pg_catalog.text"

_SILENT_S = 1.0  # how long a server that could not be asked is not asked again
_SHORT_HEADER, _LONG_HEADER = 24, 40  # of a page of the WAL, and of the first one of a segment


class Mark:
    """The last write of a frontend, or of all frontends of a database.

    asked   how many questions the primary had been asked by then, so that only later ones count; -1: nothing written
    lsn     what the primary has answered to the first one that counts; 0 until then
    """

    __slots__ = ("asked", "lsn")

    def __init__(self) -> None:
        self.asked = -1
        self.lsn = 0

    def __repr__(self) -> str:
        return f"<Mark asked={self.asked} lsn={shown(self.lsn)}>"

    def wrote(self, primary: Progress) -> None:
        self.asked = primary.begun
        self.lsn = 0


class Progress:
    """How far one server is, as it has answered last, and the questions it is asked: one at a time.

    lsn        the primary: the end of its WAL; a standby: what it has replayed; 0 while nothing is known
    begun      how many questions were begun
    answered   the number of the last one that was answered, from 1 on
    asked_at   when the last one was begun
    """

    __slots__ = ("_is_asked", "_silent_until", "_void", "answered", "asked_at", "begun", "lsn")

    def __init__(self) -> None:
        self.lsn = self.begun = self.answered = 0
        self.asked_at = float("-inf")
        self._is_asked = False
        self._void = 0  # answers up to this question mean nothing
        self._silent_until = float("-inf")

    def __repr__(self) -> str:
        return f"<Progress lsn={shown(self.lsn)} asked={self.begun}{' waiting' if self._is_asked else ''}>"

    def may_ask(self, now: float, every_s: float) -> bool:
        """Whether to ask it now, when it is to be asked every so often."""
        return not self._is_asked and now >= self.due_at(every_s)

    def due_at(self, every_s: float) -> float:
        """When it may be asked the next time."""
        return max(self.asked_at + every_s, self._silent_until)

    def is_silent(self, now: float) -> bool:
        """Whether it could not be asked a moment ago."""
        return now < self._silent_until

    def begin(self, now: float) -> int:
        """A question is asked; its number."""
        self._is_asked = True
        self.asked_at = now
        self.begun += 1
        return self.begun

    def answer(self, number: int, lsn: int) -> None:
        self._is_asked = False
        self._silent_until = float("-inf")
        if number > self._void:
            self.lsn, self.answered = lsn, number

    def fail(self, now: float) -> None:
        self._is_asked = False
        self._silent_until = now + _SILENT_S

    def forget(self) -> None:
        """It may have been restarted: after a crash a standby answers queries before it has come as far as it was."""
        self.lsn = 0
        self._void = self.begun
        self._silent_until = float("-inf")


def needed(asked: int, lsn: int, primary: Progress) -> int:
    """The position that serves a read after a write; 0 when the primary has to be asked for it.

    asked, lsn   as in a Mark
    """
    if primary.answered <= asked:
        return 0
    # A primary that is behind what it has said itself has lost the end of its WAL, and no standby will ever have it.
    return min(lsn or primary.lsn, primary.lsn)


def may_hope(lsn: int, usable: Sequence[Progress], primary: Progress, late: int, now: float) -> bool:
    """Whether a read that no standby may serve now should wait for one of the `usable` ones.

    lsn    what it needs; 0 while that is not known
    late   what reads have waited for in vain: until one has come as far nobody waits; 0 for nothing
    """
    if not lsn and primary.is_silent(now):
        return False
    return any(each.lsn >= late and not each.is_silent(now) for each in usable)


def pause(waiting: int, waited_s: float = 0.0) -> float:
    """How long after one question to a server the next one follows.

    waiting    reads that wait: one is asked for at once, many rather share a question
    waited_s   how long the one of them that came last has: it begins soon, as a standby is hardly ever more than a few
               milliseconds behind
    """
    return min(max(0.0005 * min(waiting, 4), waited_s / 2), 0.025)


def position(lsn: str, block: int = 0, segment: int = 0) -> int:
    """From an answer to WRITTEN_SQL, which has all three, or REPLAYED_SQL."""
    high, _, low = lsn.partition("/")
    found = int(high, 16) << 32 | int(low, 16)
    return record_end(found, block, segment) if block else found


def record_end(lsn: int, block: int, segment: int) -> int:
    """The end of the last record, where a primary has said where it will insert the next one.

    At the beginning of a page that is behind the page's header, which is not there yet: a standby that has replayed
    everything would not be as far until somebody writes again.

    block, segment   wal_block_size and wal_segment_size
    """
    if lsn % segment == _LONG_HEADER:
        return lsn - _LONG_HEADER
    if lsn % block == _SHORT_HEADER:
        return lsn - _SHORT_HEADER
    return lsn


def shown(lsn: int) -> str:
    """As the server writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
