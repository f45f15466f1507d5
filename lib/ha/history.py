"""Where the WAL of a primary has left the timelines before its own: a timeline history file. Pure.

A standby that has replayed an older timeline beyond the place where the primary left it has what the primary has not.
It can never follow that primary, whatever it is told: PostgreSQL says that the new timeline "forked off current
database system timeline before current recovery point", again and again, in the standby's own log only.

source: high-availability "Timelines", continuous-archiving.html#BACKUP-TIMELINES; src/backend/access/transam/timeline.c
"""

from __future__ import annotations

from collections.abc import Mapping

from lib.backend import freshness


def lsn(text: str | None) -> int:
    """A position in the WAL as a number; 0 for none."""
    if not text:
        return 0
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)


def file_name(timeline: int) -> str:
    """Where a server keeps the history of a timeline, from its data directory."""
    return f"pg_wal/{timeline:08X}.history"


def parse(text: str) -> dict[int, int]:
    """Timeline -> the position at which it was left.

    text   lines of "timeline, position, reason"; comments and what cannot be read are passed over
    """
    forks = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0].isdigit() and "/" in words[1]:
            try:
                forks[int(words[0])] = lsn(words[1])
            except ValueError:
                continue
    return forks


def beyond(timeline: int, replayed: int, forks: Mapping[int, int]) -> str | None:
    """How a standby has gone another way than the primary, or None where it has not.

    timeline, replayed   of the standby: its timeline, and how far it has replayed
    forks                as from parse, of the primary's timeline
    """
    left = forks.get(timeline)
    if left is None or replayed <= left:
        return None
    return (
        f"it has replayed timeline {timeline} up to {freshness.shown(replayed)}, and the primary has left that at "
        f"{freshness.shown(left)}: it has WAL of another primary, and can never follow this one"
    )
