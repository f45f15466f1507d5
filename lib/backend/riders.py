"""Several frontends' reads in flight on one backend, and how each gets out of another's way.

Green by what it writes to; it never parks. Only units that may be run again without anybody knowing ride: reads that
leave nothing behind, and of which nothing was passed on. So whenever the head keeps the others waiting (it is slow, it
is to be canceled, its frontend does not read), they are moved: given to other workers at once, while their places here
become stale, which means that their answers are dropped. The head itself is left alone.

Where many ride, half of their answers are let come before anybody looks at them. Else, on a machine with more to do,
this process is woken for each one: it passes that on, sends its frontend's next statement, and is just in time for the
next answer. Then every statement has its own system calls and switches between processes, and riding saves nothing.

`Worker` is the only one that has Riders; which worker a unit rides on is decided in `dispatch`.
"""

from __future__ import annotations

from abc import abstractmethod
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from lib.backend.dispatch import CLOSED_AFTER_S, MOVED_AFTER_S
from lib.backend.parsed import Parsed
from lib.backend.unit import Exchange, Stale, Unit
from lib.route.known import LEAST_BYTES
from lib.wire.framing import end_of_read

if TYPE_CHECKING:
    from lib.answering import Behind
    from lib.backend import dialogue
    from lib.backend.groups import Group
    from lib.backend.roster import Roster
    from lib.route.known import Known

SOME = 7  # of so many, and one more, one is looked at
NOTED = 255  # of so many, and one more, the times are counted together
_LARGE_BYTES = 65_536  # an answer of more than this counts as slow
_MANY = 16  # in flight, of whose answers half are let come
_STEPS = frozenset((_MANY, 24, 32, 48, 64, 96, 128))  # how many in flight make it more
_GATHERED_FOR_S = 0.005  # when no answer has come for so long, one of them is slow, and those before it may be there


class Riders(Parsed):
    """What a worker knows of the reads that share its backend.

    open_to      the group whose quick reads may ride here now, or None
    head_since   when the oldest unit in flight became that
    is_awaited   takes no riders any more, because something waits for it alone
    processed    how many units it has answered
    tally        what is counted of those of its roster
    ran_shared   how long those took of them that may share a worker
    note_shared  notes one of those
    note_run     notes how long one took that had its worker alone
    last_s       how long the last one took
    """

    __slots__ = (
        "_is_batch", "_is_exact", "_large", "_least", "_struck", "_trial", "_trial_left", "_trial_rest", "_trial_since",
        "head_since", "is_awaited", "last_s", "note_run", "note_shared", "open_to", "processed", "ran_shared",
        "rider_limit", "tally",
    )  # fmt: skip

    def __init__(self, roster: Roster, backend: dialogue.Backend) -> None:
        super().__init__(roster, backend)
        self.open_to: Group | None = None
        self.head_since = 0.0
        self.is_awaited = False
        self.processed = 0
        self.last_s = 0.0
        self.tally = roster.tally
        self.ran_shared = self.tally.shared.run
        self.note_shared = self.ran_shared.noted.append
        self.note_run = self.tally.alone.run.noted.append
        self.rider_limit: float = roster.rider_limit
        self._is_exact = roster.cluster.turns.had_to_wait
        self._trial: Known | None = None  # what is tried now: units that were sent together
        self._trial_left = self._trial_rest = 0  # units still to be answered, now and at `_trial_since`
        self._trial_since = 0.0
        self._is_batch = False  # others could ride behind the first of what is in flight
        self._struck: object = None  # the head that was last seen to take long
        self._large = 0  # bytes of the head's answer that have been passed on
        self._least = LEAST_BYTES  # that each answer has

    @abstractmethod
    def cancel(self, unit: Unit, behind: Behind | None = None) -> None:
        """Cancel `unit` and nothing else."""

    @abstractmethod
    def close(self, reason: str = "") -> None:
        """End the backend."""

    @abstractmethod
    def may_serve(self, group: Group) -> bool:
        """Whether nothing of earlier groups would show in `group`."""

    def begin_batch(self, unit: Unit) -> None:
        """`unit` alone was sent; others of its group may ride behind it if it is quick."""
        self.head_since = monotonic()
        self._struck = None
        known = unit.known
        self._is_batch = known is not None and known.cost_s <= self.rider_limit
        if known is not None and self._is_batch and not self.retiring:
            self._least = known.least
            self.open_to = unit.group
            self.roster.batch_begins(self)

    def ride(self, unit: Unit) -> None:
        """Send `unit` behind those that are in flight; what rides in one turn of the loop leaves in one send."""
        unit.worker = self
        in_flight = self.in_flight
        in_flight.append(unit)
        known = unit.known
        if known is not None and known.least < self._least:
            self._least = known.least
        depth = len(in_flight)
        if depth == 2:
            cluster = self.roster.cluster
            cluster.watch()
            cluster.turns.start()
        elif depth in _STEPS:
            self._gather()
        self.stream.write_later(self.led(unit) if unit.uses else unit.data)

    def _gather(self) -> None:
        """Let half of the answers come before this process is woken for them: of all but the head's, of which some may
        have been read."""
        depth = len(self.in_flight)
        self.stream.wake_at((depth - 1) * self._least // 2 if depth >= _MANY and self._is_batch else 1)

    def gather_less(self) -> None:
        """Some were answered: wait for no more than is still to come."""
        if (len(self.in_flight) - 1) * self._least < self.stream.wakes_at:
            self._gather()

    def close_batch(self) -> None:
        """Nothing more rides here until all that is in flight was answered."""
        if self.open_to is not None:
            self.open_to = None
            self.roster.batch_ends(self)

    def try_together(self, known: Known, units: list[Unit]) -> None:
        """One of a shape that looks slow was sent: send `units` behind it, to see whether it is only the machine."""
        known.begin_trial()
        self._trial, self._trial_since = known, self.head_since
        self._trial_left = self._trial_rest = 1 + len(units)
        for unit in units:
            self.ride(unit)

    def _learn(
        self, head: Unit, trial: Known | None, in_batch: bool, answered: int, size: int, since: float, at: float
    ) -> None:
        """Bytes arrived `at` a moment, `since` then `head` had been running, in a `trial` or a batch or alone; with
        them so many units were answered, and what was sent after the last of them is no part of that."""
        if not answered:
            self._large += size
            return
        seconds = at - since
        if self._large > _LARGE_BYTES:
            seconds = max(seconds, 2 * answered * self.rider_limit)
        self._large = 0
        self.roster.answered_at = at
        if self.head_since == since:
            self.head_since = at
        if trial is not None:
            if trial is self._trial:
                self._follow_trial(answered, at)
        elif head.known is not None and self.rider_limit > 0:
            was_alone = head.known.cost_s == inf
            head.known.took(seconds, answered, in_batch, self._is_exact, self.rider_limit, at)
            is_alone = head.known.cost_s == inf
            if was_alone and not is_alone:
                self.roster.became_quick()
            elif is_alone and not was_alone:
                self.move_riders()  # they would have to wait for one slow read after the other

    def _follow_trial(self, answered: int, at: float) -> None:
        # From the first answer on, for before that it may have been waiting for a processor.
        is_first = self._trial_left == self._trial_rest
        self._trial_left -= answered
        if self._trial_left <= 0:
            self._end_trial((at - self._trial_since) / self._trial_rest)
        elif is_first and answered <= self._trial_rest // 2:
            self._trial_since, self._trial_rest = at, self._trial_left

    def _end_trial(self, each_s: float = inf) -> None:
        trial, self._trial = self._trial, None
        if trial is not None:
            trial.end_trial(each_s, self._is_exact(), self.rider_limit, monotonic())
            if trial.cost_s != inf:
                self.roster.became_quick()

    def feed_reads(self, data: bytes) -> None:
        """Take bytes from the backend while nobody holds it: pass on the whole answers of reads, and leave whatever is
        not as usual to `_feed`."""
        in_flight = self.in_flight
        head = in_flight[0] if in_flight else None
        if head is None or head.known is None:
            self._feed(data)
            return
        at, since, processed = monotonic(), self.head_since, self.processed
        depth, stop = len(in_flight), len(data)
        trial, in_batch = self._trial, self._is_batch
        if (
            depth == 1 and in_batch and trial is None and not (self._parts or self._skip or self._large)
            and (head.is_plain or (not head.swallow and head.is_unwatched(data, 0))) and end_of_read(data, 0) == stop
        ):  # fmt: skip
            self._feed_lone(head, head.known, data, at - since, at)
            return
        position = 0
        if not self._parts and not self._skip:
            while in_flight:
                unit = in_flight[0]
                if unit.known is None:
                    break
                if not unit.is_plain and (unit.swallow or not unit.is_unwatched(data, position)):
                    break
                end = end_of_read(data, position)
                if not end:
                    break
                if end < stop and len(in_flight) == 1:
                    break  # nobody has asked for what comes behind
                frontend = unit.frontend
                frontend.stream.write(data[position:end] if position or end < stop else data)
                in_flight.popleft()
                self.processed += 1
                unit.known.calls += 1
                if not in_flight:
                    self._drained()
                frontend.read_done(unit)
                position = end
        if position < stop:
            self._feed(data[position:] if position else data)
        answered = self.processed - processed
        if stop < answered * head.known.least:
            head.known.least = stop // answered  # they are shorter than thought, or only their ends
        if answered and (depth == 1 or not self.processed & SOME):
            self._count(head.known, (at - since) * depth / answered, answered if depth == 1 else answered * (SOME + 1))
            if answered == depth == 1 and head.known.calls & SOME == 1:
                head.known.saw(data)
        self._learn(head, trial, in_batch, answered, stop, since, at)
        if self.open_to is not None and self.roster.waiting.quick:
            self.roster.fill(self)

    def _feed_lone(self, unit: Unit, known: Known, data: bytes, seconds: float, at: float) -> None:
        """The same for the whole answer of a quick read that nobody rides behind, which has come `at` a moment."""
        frontend = unit.frontend
        frontend.stream.write(data)
        self.in_flight.clear()
        self.processed += 1
        self._drained()
        frontend.read_done(unit)
        self._count_lone(known, seconds, data)
        self.roster.answered_at = at
        if known.cost_s != inf and self.rider_limit > 0:
            known.took(seconds, 1, True, self._is_exact, self.rider_limit, at)
            if known.cost_s == inf:
                self.move_riders()  # of what has begun since

    def _count_lone(self, known: Known, seconds: float, answer: bytes) -> None:
        self.last_s = seconds
        note = self.note_shared
        note(seconds)
        if not self.processed & NOTED:
            self.ran_shared.catch_up()
        known.calls = calls = known.calls + 1
        if calls >= known.next_sample:
            known.sample(seconds)
            known.saw(answer)

    def _count(self, known: Known, each_s: float, times: int) -> None:
        """So long took a unit of those that were answered: `depth` were in flight all the time, and those that were
        answered have each had their share of it. Where units ride, some are counted for the others."""
        self.last_s = each_s
        self.ran_shared.add(each_s, times)
        known.sample(each_s, times)

    def is_late(self, now: float) -> bool:
        """Whether the head has been running for so long that nobody may ride behind it any more."""
        # An answer that is there already is only late because we are.
        return now - self.head_since >= CLOSED_AFTER_S and not self.stream.is_readable()

    def look(self, now: float) -> None:
        """Keep the limits of a head that others ride behind."""
        late_s = now - self.head_since
        if late_s >= _GATHERED_FOR_S and self.stream.wakes_at > 1:
            self.stream.wake_at(1)
        if len(self.in_flight) < 2 or not self.is_late(now):
            return
        self.close_batch()
        head = self.in_flight[0]
        known = head.known
        is_sure = self.roster.answered_at - self.head_since > late_s / 2  # others go on meanwhile
        if known is not None and head is not self._struck:
            self._struck = head
            if known.strike(is_sure, now):
                self.move_riders()
                return
        if late_s >= MOVED_AFTER_S:
            if known is not None:
                known.caught(is_sure, self.head_since, now)
            self.move_riders()

    def move_riders(self, with_head: bool = False) -> None:
        """Have all behind the head run elsewhere, or all; their answers here will be nobody's."""
        self.close_batch()
        self._end_trial()
        moved: list[Unit] = []
        for index, unit in enumerate(self.in_flight):
            if (index or with_head) and isinstance(unit, Unit):
                self._make_stale(index, unit)
                moved.append(unit)
        self.roster.requeue(*moved)

    def _make_stale(self, index: int, unit: Unit) -> None:
        self.in_flight[index] = Stale(self._stale_answered)
        if unit.lead:
            self.statements.doubt(unit.lead)

    @abstractmethod
    def _drained(self) -> None:
        """All reads that shared the backend were answered."""

    @abstractmethod
    def _stale_answered(self, stale: Exchange) -> None:
        """The answer of a rider that is not here any more has come."""

    def drop_rider(self, unit: Unit) -> bool:
        """The answer of `unit` is nobody's any more; False when it is not a rider but the head, or not here."""
        try:
            index = self.in_flight.index(unit)
        except ValueError:
            return False
        if index:
            self._make_stale(index, unit)
            unit.worker = None
            self._end_trial()  # its answer will not be counted
        return index > 0
