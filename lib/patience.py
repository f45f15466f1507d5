"""What a frontend has been doing and for how long, as somebody sees it who looks now and then; and when it is enough.

Pure. No statement has a timer: `look` is called for every frontend several times within the shortest limit, so that
limits are kept a little late and never early. What began and ended between two looks is not seen, and need not be.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Doing(Enum):
    """What a frontend does."""

    IDLE = "idle"
    WAITING = "waiting"  # for a worker
    RUNNING = "running"
    IN_TRANSACTION = "in transaction"  # and idle


class Enough(Enum):
    """What is due."""

    CANCEL = "cancel"  # the statement has run for longer than query_timeout
    END = "end"  # it has been idle in a transaction for longer than idle_in_transaction_timeout


class Limits(NamedTuple):
    """In seconds; 0 is none."""

    running_s: float = 0.0
    in_transaction_s: float = 0.0
    slow_s: float = 0.0

    @property
    def interval_s(self) -> float:
        """How often to look; 0 when there is nothing to look for."""
        least = min((each for each in self if each), default=0.0)
        return min(1.0, max(0.05, least / 10)) if least else 0.0


class Seen:
    """One frontend, since it was last seen to do something else.

    mark    tells two statements, or two pauses, from one another; compared by equality
    since   when it was first seen to do so, or was last told that it is enough
    began   when it was first seen to do so
    """

    __slots__ = ("began", "doing", "mark", "since")

    def __init__(self) -> None:
        self.doing = Doing.IDLE
        self.mark: object = None
        self.since = self.began = 0.0

    def __repr__(self) -> str:
        return f"<Seen {self.doing.value} since {self.since:.1f}>"

    def slow_s(self, doing: Doing, mark: object, now: float, limits: Limits) -> float:
        """How long the statement has run that is seen to be over, if that is to be logged; 0 if it is not."""
        is_over = self.doing is Doing.RUNNING and (doing is not Doing.RUNNING or mark != self.mark)
        ran_s = now - self.began
        return ran_s if is_over and limits.slow_s and ran_s > limits.slow_s else 0.0

    def look(self, doing: Doing, mark: object, now: float, limits: Limits) -> Enough | None:
        """What is due; a statement that does not end when it is canceled is due again after as long."""
        if doing is not self.doing or mark != self.mark:
            self.doing, self.mark, self.since = doing, mark, now
            self.began = now
            return None
        if doing is Doing.RUNNING and limits.running_s and now - self.since > limits.running_s:
            self.since = now
            return Enough.CANCEL
        if doing is Doing.IN_TRANSACTION and limits.in_transaction_s and now - self.since > limits.in_transaction_s:
            return Enough.END
        return None
