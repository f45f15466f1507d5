"""What is known of the statements of one shape: what they are, and how quick.

Pure: time is an argument. A shape is quick, and its statements ride, when its runs were; it is not when it is new, when
its runs are slow, or for a while after one was caught keeping others waiting, longer each time.

What a statement takes is seen only when nothing else is in its way. On a busy machine every run waits for a processor
most of its time, so what counts is the quickest of the last runs. And where statements run alone, many of them on many
backends, all runs look slow because they run alone. So a shape that looks slow is tried: a few of those that wait are
sent to one backend together, and if they are answered one hard upon the other, they are quick. And where a machine
stands still for a moment, all backends answer late at once: what was under way at the same time counts as one.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from lib.metrics import Histogram
from lib.route.verdict import Kind, Verdict

_LEAVE_NOTHING = (Kind.SHAREABLE, Kind.WRITE, Kind.TRANSACTION)
TRIED_TOGETHER = 16
_LOOK = 4  # runs of which the average is taken, as the process may be late for one and early for the next
_RISE = 0.05  # how fast the cost follows runs that took longer
_OUTLIER = 4  # times the limit: what took longer counts as that
_RELIEF = 0.7  # part of the limit below which what was slow is quick again
_PAUSE_S, _BAN_S, _MAX_PAUSE_S = 0.05, 1.0, 60.0  # before the next trial; after keeping others waiting; at most
_MAX_STRIKES, _FORGIVEN_AFTER = 3, 500  # strikes, and runs after which one is forgotten
_DOUBT_S = 1.0  # how long the first time is remembered that it may not have been the statement's fault

_ALL_OF, _SOME = 100, 8  # runs that are all sampled, and of how many one is then
LEAST_BYTES = 60  # that an error has
_READY_BYTES = 7  # ReadyForQuery, and the end of the CommandComplete before it


class Known:
    """The verdict of a shape, and its pace.

    rides     whether such a statement may share a backend at all: a read that leaves nothing behind
    marks     whether it may leave anything behind in the session, apart from numbers drawn from sequences
    is_plain  it does not, nor in its transaction: SET LOCAL marks nothing, but may change how a text is read
    cost_s    how long one takes a backend when nothing is in its way; inf while it must run alone
    calls     how many were answered
    next_sample  from which of these on one is looked at again: at first all are, later some
    runs      how long some of them took, about, from being sent to being answered; None before the first
    wait_s    how long all of them have waited for a worker
    rows      of some of them, in the mean; None before the first
    least     bytes that an answer has: those of the shortest that was seen, or LEAST_BYTES
    """

    __slots__ = (
        "_ban_s", "_doubted_at", "_is_tried", "_low_s", "_pause_s", "_rose_at", "_rows", "_rows_of", "_runs",
        "_strikes", "_struck_at", "_time_s", "_tried_from", "_until", "calls", "cost_s", "is_plain", "least", "marks",
        "next_sample", "rides", "runs", "verdict", "wait_s",
    )  # fmt: skip

    def __init__(self, verdict: Verdict, names_setting: bool = True, names_set: bool = True) -> None:
        self.verdict = verdict
        leaves = (
            verdict.clean or verdict.holds or verdict.follows or verdict.session or verdict.spoils or verdict.ddl
            or verdict.sets or verdict.resets or verdict.local_sets or verdict.local_resets
            or verdict.releases or verdict.deallocates
        )  # fmt: skip
        self.rides = verdict.kind is Kind.SHAREABLE and not leaves
        self.marks = bool(leaves) or names_setting or verdict.kind not in _LEAVE_NOTHING
        self.is_plain = not (self.marks or verdict.frees or (names_set and verdict.kind is Kind.TRANSACTION))
        self.cost_s = inf
        self.calls = self.next_sample = 0
        self.runs: Histogram | None = None
        self.wait_s = 0.0
        self.least = LEAST_BYTES
        self._rows = self._rows_of = 0
        self._low_s = inf
        self._time_s = 0.0  # of the runs that are not averaged yet
        self._runs = 0
        self._rose_at = -inf  # what had begun before has waited for the same
        self._is_tried = False
        self._strikes = 0.0
        self._struck_at = self._doubted_at = -inf
        self._ban_s = self._pause_s = 0.0
        self._until = -inf  # not quick before
        self._tried_from = -inf

    def __repr__(self) -> str:
        pace = "alone" if self.cost_s == inf else "quick"
        return f"<Known {self.verdict.kind.name} {pace} {self._low_s * 1e6:.0f}us>"

    def sample(self, seconds: float, times: int = 1) -> None:
        """One of them, or each of some that were answered at the same moment, took so long."""
        if self.runs is None:
            self.runs = Histogram()
        self.runs.add(seconds, times)
        self.next_sample = self.calls + (1 if self.calls < _ALL_OF else _SOME)

    def count_on(self, other: Known) -> None:
        """Go on with what was counted of the same shape, whose verdict may have been another one."""
        self.calls, self.next_sample, self.runs, self.wait_s = other.calls, 0, other.runs, other.wait_s
        self._rows, self._rows_of = other._rows, other._rows_of

    def saw(self, answer: bytes) -> None:
        """What one of them was answered with, whole: its CommandComplete says how many rows there were."""
        if 0 < len(answer) < self.least:
            self.least = len(answer)
        rows = answer[answer.rfind(b" ", 0, -_READY_BYTES) + 1 : -_READY_BYTES]
        if rows.isdigit():
            self._rows += int(rows)
            self._rows_of += 1

    @property
    def rows(self) -> float | None:
        return self._rows / self._rows_of if self._rows_of else None

    def took(
        self, seconds: float, runs: int, in_batch: bool, is_exact: Callable[[], bool], limit_s: float, now: float
    ) -> None:
        """A backend has answered one of them, and some of what was behind it, in so long.

        in_batch   others could ride behind it; what was sent before that was decided says nothing any more
        is_exact   whether it was not this process that was late, so that longer was longer
        """
        is_quick = self.cost_s != inf
        if in_batch is not is_quick:
            return
        self._time_s += seconds
        self._runs += runs
        if self._runs < _LOOK and self._low_s != inf:
            return
        self._strikes = max(0.0, self._strikes - self._runs / _FORGIVEN_AFTER)
        began = now - self._time_s
        each, self._time_s, self._runs = self._time_s / self._runs, 0.0, 0
        low = self._low_s
        if each < low:
            low = self._low_s = each
        elif not is_quick or (began >= self._rose_at and is_exact()):
            self._rose_at = now
            low = self._low_s = low + (min(each, _OUTLIER * limit_s) - low) * _RISE
        if is_quick:
            if low > limit_s:
                self._put_off_trial(now)
            else:
                self.cost_s = low
        elif low <= _RELIEF * limit_s and now >= self._until:
            self.cost_s = low

    # --- trials ------------------------------------------------------------------------------------------------------

    def may_be_tried(self, now: float) -> bool:
        is_alone = self.rides and self.cost_s == inf and self._low_s != inf
        return is_alone and not self._is_tried and now >= max(self._until, self._tried_from)

    def begin_trial(self) -> None:
        self._is_tried = True

    def end_trial(self, each_s: float, is_exact: bool, limit_s: float, now: float) -> None:
        """They were answered in intervals of `each_s`, or less if that is not exact; inf when it came to nothing."""
        self._is_tried = False
        if each_s <= limit_s or (each_s != inf and not is_exact):
            self.cost_s = self._low_s = min(each_s, _RELIEF * limit_s)
            self._time_s, self._runs = 0.0, 0
        else:
            self._put_off_trial(now)

    def strike(self, is_sure: bool, now: float) -> bool:
        """One of them keeps those behind it waiting, though not yet for far too long; True when that was too often.

        is_sure   other backends have answered meanwhile, so that it was not the whole server that stood still
        """
        if now == self._struck_at or self.cost_s == inf:
            return False  # on several backends at a time: more likely the machine. Or it was sent before the ban
        self._struck_at = now
        self._strikes += 1 if is_sure else 0.5
        if self._strikes < _MAX_STRIKES:
            return False
        self._ban(now)
        return True

    def caught(self, is_sure: bool, since: float, now: float) -> None:
        """One of them has kept those behind it waiting for far too long; the rest as in `strike`.

        since   when it began
        """
        if is_sure or (since >= self._doubted_at and now - self._doubted_at < _DOUBT_S):
            self._ban(now)
        else:
            self._doubted_at = now

    def _ban(self, now: float) -> None:
        if self.cost_s != inf:  # else one of those that were sent before
            self._ban_s = _longer(self._ban_s, _BAN_S, now - self._until)
            self._until = now + self._ban_s
        self._run_alone()

    def _put_off_trial(self, now: float) -> None:
        self._pause_s = _longer(self._pause_s, _PAUSE_S, now - self._tried_from)
        self._tried_from = now + self._pause_s
        self._run_alone()

    def _run_alone(self) -> None:
        self._time_s, self._runs, self._strikes = 0.0, 0, 0.0
        self.cost_s = self._low_s = inf


def _longer(last_s: float, first_s: float, ago_s: float) -> float:
    """The next pause: twice the last one, unless that was over long ago."""
    return min(_MAX_PAUSE_S, 2 * last_s) if last_s and ago_s < 2 * last_s else first_s
