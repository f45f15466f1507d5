"""One statement on its way through the pool, and a worker's own exchanges with its backend.

Green only by what it points to: no I/O here. A worker has both kinds in its deque of units in flight and does not ask
which is which: each is told of its messages and of its end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lib.errors import StatementCancelled
from lib.route.verdict import Kind
from lib.wire.prepared import PREFIX
from lib.wire.session import Script
from lib.wire.units import gather

if TYPE_CHECKING:
    from lib.backend.groups import Group
    from lib.backend.riders import Riders
    from lib.backend.statements import Lead
    from lib.backend.worker import Worker
    from lib.frontend import Frontend
    from lib.route.known import Known
    from lib.route.verdict import Verdict
    from lib.wire.prepared import Prepared, Unnamed, Watch

_CRASH_OF_ANOTHER, _ENDED = "57P02", "57P01"
_MEANT_S = 1.0  # who has a backend ended means the statement that it runs, when that has been running for so long
_SAME_LOSS_S = 1.0  # how long after a unit has lost its backend the loss of another one may have the same cause
_NOTICED_S = 0.1  # how long a server may go on taking connections when one of its backends has crashed

SIMPLE, EXTENDED, CALL = b"Q", b"E", b"F"
CANCELED = StatementCancelled("canceling statement due to user request")


class Unit:
    """The least that can be dispatched, from one frontend.

    data            what is sent when a worker takes it: all of it, or for a streamed unit the first part
    kind            SIMPLE, EXTENDED or CALL
    verdict         what route says of it
    marks           it may leave something behind on the backend, apart from numbers drawn from sequences
    is_plain        it is a whole simple query that leaves no such thing, and nothing has to be done about it
    known           what is known of statements like it; None where it is not one statement
    names           it names statements of its frontend, and is not yet as backends get it
    keeps_names     it parses a statement that is too long to be remembered, which stays in the session
    uses            prepared statements of earlier units that it uses
    makes           those that it parses
    effects         what each of its Parse and Close messages does to the frontend's statements
    shows           names of statements that it may have deallocated where nobody sees it
    customs         names of custom settings that the parts of a text show which was not kept
    first           messages that go in front of it, one answer each
    lead            what was put in front of it for its worker, those included
    watch           what comes about of all that
    parse_unnamed   the unnamed statement that it leaves behind, or None
    drops_unnamed   it leaves no unnamed statement behind
    is_strict       it runs one of them without asking what columns it has
    has_several     it parses an unnamed statement more than once
    script          what it still owes, message by message; None while one ReadyForQuery is all
    open            the frontend still streams to it
    swallow         ParseComplete or CloseComplete answers that come first and the frontend must not see
    withholds       its frontend is told what parameters it has changed, and that it is ready, when what it has reset is
                    restored
    before          the backend's parameters before such a unit has changed them
    cut             bytes still to come of a message that was sent to the backend in part
    worker          the one that has taken it: its bytes may have reached the backend
    withdrawn       answered by the pool before a worker had it
    is_told         its frontend was told that it waits
    is_canceled     is to be canceled, and was not sent yet, or not all of it
    is_over         it was answered, and its frontend's next one waits for what its worker is asked, or restores
    answered        something of its answer was passed on
    lost_at         when its backend died for the first time
    reruns          how often it was run again for that
    losses          how often it was behind the head when a backend died
    failed          an ErrorResponse was part of its answer
    has_parsed      a ParseComplete was
    """

    # Defaults of the class, not assignments: a unit is made for every statement, and few of these are ever set.
    names = keeps_names = open = withdrawn = is_canceled = answered = failed = has_parsed = drops_unnamed = False
    withholds = has_several = is_strict = is_told = is_plain = is_over = False
    before: dict[str, str] | None = None
    marks = True
    uses: Sequence[Prepared] = ()
    makes: Sequence[Prepared] = ()
    effects: Sequence[tuple[bytes, Prepared | None] | None] = ()
    first: Sequence[bytes] = ()
    shows: Sequence[str] = ()
    customs: frozenset[str] = frozenset()
    lead: Lead | tuple[()] = ()
    watch: Watch | None = None
    parse_unnamed: Unnamed | None = None
    known: Known | None = None
    script: Script | None = None
    worker: Riders | None = None
    swallow = cut = losses = reruns = 0
    queued_at = lost_at = 0.0

    def __init__(self, frontend: Frontend, data: bytes, kind: bytes, verdict: Verdict) -> None:
        self.frontend = frontend
        self.group: Group = frontend.group
        self.data = data
        self.kind = kind
        self.verdict = verdict

    def __repr__(self) -> str:
        flags = "".join(f" {name}" for name in ("open", "answered", "failed") if getattr(self, name))
        return f"<Unit {self.kind.decode()} {self.verdict.kind.name}{flags} of {self.frontend!r}>"

    @property
    def is_wanted(self) -> bool:
        """Whether somebody is still there for the answer."""
        return not (self.withdrawn or self.frontend.is_gone)

    @property
    def rides(self) -> bool:
        """Whether it may share a backend: a read that leaves nothing behind."""
        return self.known is not None and self.known.rides

    @property
    def texts(self) -> list[bytes]:
        """The statements in it, as far as they are still there."""
        if self.kind == SIMPLE:
            return [self.data[5:-1]] if self.data else []
        read = gather(self.data, 0)[2] if self.kind == EXTENDED and self.script is None else None
        if read is None:
            return []
        return [*(prepared.statement.text for prepared in self.uses), *read.texts]

    @property
    def shown(self) -> bytes:
        """All that its messages and its statements show, for what looks for names in it."""
        # The length of a Query could be taken for a letter.
        return b" ".join([self.data[5:], *(prepared.statement.text for prepared in self.uses)])

    @property
    def is_followed(self) -> bool:
        """Whether its answer is looked at message by message."""
        return self.script is not None or self.swallow > 0 or self.withholds or self.watch is not None

    def is_unwatched(self, data: bytes, position: int) -> bool:
        """Whether its answer, which begins there, tells nothing new of statements."""
        return self.watch is None or data.startswith(self.watch.usual, position)

    @property
    def is_refused(self) -> bool:
        """Whether its frontend was told that it has failed, and only not yet that the server is ready."""
        return self.failed and self.answered and (self.script is None or self.script.refused)

    def is_passed(self, data: bytes) -> bool:
        """Whether its answer, which `data` begins with, need not be looked at message by message."""
        return self.script is None and not (self.swallow or self.withholds) and self.is_unwatched(data, 0)

    def may_rerun(self, worker: Worker, now: float, sqlstate: str | None) -> bool:
        """Whether running it again cannot be told from running it once (design: at most once, and honest).

        worker     the one that was lost `now`
        sqlstate   of the server's goodbye, when it said one

        What has taken a backend with it once may do so again, so there is no third time. But a restart takes all
        backends at once, also the one that the unit was given next: then it is the same loss, be it that this one was
        started before the server had noticed, which is believed once; or the server says that it was another backend
        which has crashed, or that somebody has ended this one, which was hardly meant for a statement that had just
        begun.
        """
        if self.verdict.kind is not Kind.SHAREABLE or self.answered or self.script is not None:
            return False
        since_s, was_there = now - self.lost_at, worker.started_at < self.lost_at
        is_same_loss = since_s < _SAME_LOSS_S if was_there else since_s < _NOTICED_S and self.reruns < 2
        return not self.lost_at or is_same_loss or sqlstate == _CRASH_OF_ANOTHER or (
            sqlstate == _ENDED and now - worker.head_since < _MEANT_S
        )

    def unnamed_after(self, before: Unnamed | None) -> Unnamed | None:
        """The unnamed statement that the frontend has after this unit, when it had `before`.

        A Parse that fails has dropped the one before; of several nobody knows which was the last.
        """
        if self.kind == SIMPLE or self.drops_unnamed:
            return None
        if self.failed and self.parse_unnamed is not None and (self.has_several or not self.has_parsed):
            return None
        return before if self.parse_unnamed is None else self.parse_unnamed

    def named(self, raw: bytes) -> bytes:
        """The ErrorResponse `raw` with the names of statements that the frontend knows."""
        if PREFIX in raw:
            for prepared in (*self.uses, *self.makes):
                raw = raw.replace(b'"%b"' % prepared.statement.name, b'"%b"' % prepared.given)
            raw = raw[:1] + (len(raw) - 1).to_bytes(4, "big") + raw[5:]
        return raw

    def copy_begins(self) -> None:
        """CopyInResponse: the frontend now streams CopyData, and what follows is known message by message."""
        if self.script is None:
            self.script = Script(self.kind)
            self.script.received(ord("G"))
            self.is_plain = False
        self.open = True
        self.frontend.copy_begins(self)

    def refuse(self, raw: bytes) -> None:
        """A server's ErrorResponse in the place of an answer: no worker could be had for the unit."""
        self.frontend.refused(self, raw)


_new = object.__new__


def simple_query(frontend: Frontend, data: bytes, known: Known) -> Unit:
    """`Unit(frontend, data, SIMPLE, known.verdict)`, of which `known` is known.

    Made for nearly every statement, and so without an __init__: the interpreter's way into one costs more than all that
    is in it.
    """
    unit = _new(Unit)
    unit.frontend = frontend
    unit.group = frontend.group
    unit.data = data
    unit.kind = SIMPLE
    unit.verdict = known.verdict
    unit.known = known
    unit.marks = known.marks
    return unit


class Visit:
    """A frontend that is being let in and wants its group's worker for a moment, to learn the ParameterStatus values.

    Waits in the roster like a unit; `arrived` is called when a worker is tuned to the group, `refuse` with the
    ErrorResponse when that cannot be.
    """

    __slots__ = ("arrived", "group", "is_wanted", "queued_at", "refuse")
    known = None
    is_plain = False
    uses = ()

    def __init__(self, group: Group, arrived: Callable[[], None], refuse: Callable[[bytes], None]) -> None:
        self.group = group
        self.arrived = arrived
        self.refuse = refuse
        self.is_wanted = True
        self.queued_at = 0.0


class Exchange:
    """A worker's own simple query: its holder sees nothing of it but, where `is_shown`, what parameters it changes.

    error   the first ErrorResponse, whole, or None
    keeps   which messages of its answer are kept
    rows    those, whole
    """

    __slots__ = ("error", "is_shown", "purpose", "rows", "then")
    keeps = frozenset(b"D")
    known = None
    is_plain = False

    def __init__(self, purpose: str, then: Callable[[Exchange], None], is_shown: bool = True) -> None:
        self.purpose = purpose
        self.is_shown = is_shown
        self.then = then  # called with this exchange when its ReadyForQuery has come
        self.error: bytes | None = None
        self.rows: list[bytes] = []

    def __repr__(self) -> str:
        return f"<Exchange {self.purpose}>"


class Stale(Exchange):
    """The place of a rider that was given to another worker, or was canceled: its answer is nobody's."""

    __slots__ = ()
    keeps = frozenset(b"")

    def __init__(self, then: Callable[[Exchange], None]) -> None:
        super().__init__("stale", then, is_shown=False)
