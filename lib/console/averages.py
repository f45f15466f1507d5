"""Averages as PgBouncer's SHOW STATS has them.

Pure: time is an argument. They go from a moment that is one to two periods ago up to now, and from the start as long as
the first period is not over; so a look right after the start, or right after the end of a period, is an average, too.
"""

from __future__ import annotations

from collections.abc import Mapping

PERIOD_S = 60.0  # PgBouncer's stats_period
_LEAST_S = 1.0  # what was counted in the first moments is not multiplied

Figures = tuple[int, ...]  # of a database: transactions, queries, bytes received and sent, and three times, all totals


class Averages:
    """What the totals were, an older and a newer time."""

    def __init__(self, now: float) -> None:
        self._older: tuple[float, Mapping[str, Figures]] = (now - _LEAST_S, {})
        self._newer: tuple[float, Mapping[str, Figures]] = (now, {})

    def __repr__(self) -> str:
        return f"<Averages of {len(self._newer[1])} databases>"

    def note(self, totals: Mapping[str, Figures], now: float) -> None:
        """A period is over."""
        self._older, self._newer = self._newer, (now, totals)

    def of(self, totals: Mapping[str, Figures], now: float) -> dict[str, Figures]:
        """By database, for what the totals are now."""
        since, before = self._older
        seconds = max(now - since, _LEAST_S)
        return {
            database: averaged(before.get(database, (0,) * len(figures)), figures, seconds)
            for database, figures in totals.items()
        }


def averaged(before: Figures, now: Figures, seconds: float) -> Figures:
    """A second's worth of the first four, how long one transaction and one query took, and one second's waiting."""
    gone = [max(0, new - old) for old, new in zip(before, now, strict=True)]
    transactions, queries, received, sent, transaction_us, query_us, wait_us = gone
    per_second = [round(each / seconds) for each in (transactions, queries, received, sent)]
    each = (round(transaction_us / (transactions or 1)), round(query_us / (queries or 1)), round(wait_us / seconds))
    return *per_second, *each
