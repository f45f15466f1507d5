"""One statement on its way through the pool, and a worker's own exchanges with its backend.

Green only by what it points to: no I/O here. A worker has both kinds in its deque of units in flight and does not ask
which is which: each is told of its messages and of its end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lib.route.verdict import Kind
from lib.wire.messages import CLOSE_UNNAMED
from lib.wire.session import Script
from lib.wire.units import gather, text_of

if TYPE_CHECKING:
    from lib.backend.cluster import Group
    from lib.backend.riders import Riders
    from lib.backend.worker import Worker
    from lib.frontend import Frontend
    from lib.route.known import Known
    from lib.route.verdict import Verdict

_CRASH_OF_ANOTHER, _ENDED = "57P02", "57P01"
_MEANT_S = 1.0  # who has a backend ended means the statement that it runs, when that has been running for so long
_SAME_LOSS_S = 1.0  # how long after a unit has lost its backend the loss of another one may have the same cause

SIMPLE, EXTENDED, CALL = b"Q", b"E", b"F"


SOMEBODYS = b"somebody's"  # of a worker whose unnamed statement may be anybody's


class Unit:
    """The least that can be dispatched, from one frontend.

    data            what is sent when a worker takes it: all of it, or for a streamed unit the first part
    kind            SIMPLE, EXTENDED or CALL
    verdict         what route says of it
    marks           it may leave something behind on the backend, apart from numbers drawn from sequences
    known           where it is a read that leaves nothing behind, what is known of such reads; else None
    names           it parses a named statement, which stays in the session
    parse_unnamed   the Parse of the unnamed statement that it leaves behind, or None
    drops_unnamed   it leaves no unnamed statement behind
    wants_unnamed   it uses the unnamed statement of an earlier unit
    script          what it still owes, message by message; None while one ReadyForQuery is all
    open            the frontend still streams to it
    swallow         ParseComplete or CloseComplete answers that the frontend must not see
    withholds       its frontend is told what parameters it has changed, and that it is ready, when what it has reset is
                    restored
    before          the backend's parameters before such a unit has changed them
    cut             bytes still to come of a message that was sent to the backend in part
    worker          the one that has taken it: its bytes may have reached the backend
    withdrawn       answered by the pool before a worker had it
    is_canceled     is to be canceled as soon as it is sent
    answered        something of its answer was passed on
    lost_at         when its backend died for the first time
    losses          how often it was behind the head when a backend died
    failed          an ErrorResponse was part of its answer
    """

    # Defaults of the class, not assignments: a unit is made for every statement, and few of these are ever set.
    names = open = withdrawn = is_canceled = answered = failed = drops_unnamed = wants_unnamed = withholds = False
    before: dict[str, str] | None = None
    marks = True
    parse_unnamed: bytes | None = None
    known: Known | None = None
    script: Script | None = None
    worker: Riders | None = None
    swallow = cut = losses = 0
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
    def texts(self) -> list[bytes]:
        """The statements in it, as far as they are still there."""
        if self.kind == SIMPLE:
            return [self.data[5:-1]]
        read = gather(self.data, 0)[2] if self.kind == EXTENDED and self.script is None else None
        if read is None:
            return []
        used = self.frontend.unnamed if self.wants_unnamed else None
        return [*([text_of(used)] if used is not None else ()), *read.texts]

    @property
    def is_followed(self) -> bool:
        """Whether its answer is looked at message by message."""
        return self.script is not None or self.swallow > 0 or self.withholds

    def may_rerun(self, worker: Worker, now: float, sqlstate: str | None) -> bool:
        """Whether running it again cannot be told from running it once (design: at most once, and honest).

        worker     the one that was lost `now`
        sqlstate   of the server's goodbye, when it said one

        What has taken a backend with it once may do so again, so there is no third time. But a restart takes all
        backends at once, also the one that the unit was given next: then it is the same loss, or the server says that
        it was another backend which has crashed, or that somebody has ended this one, which was hardly meant for a
        statement that had just begun.
        """
        if self.verdict.kind is not Kind.SHAREABLE or self.answered or self.script is not None:
            return False
        is_same_loss = worker.started_at < self.lost_at and now - self.lost_at < _SAME_LOSS_S
        return not self.lost_at or is_same_loss or sqlstate == _CRASH_OF_ANOTHER or (
            sqlstate == _ENDED and now - worker.head_since < _MEANT_S
        )

    def prepared(self, worker: Riders) -> bytes:
        """The bytes for `worker` of a unit that wants the unnamed statement of an earlier one: with that in front where
        the worker has another's."""
        self.swallow = 0
        if worker.unnamed is self.frontend.unnamed:
            return self.data
        self.swallow = 1
        first = self.frontend.unnamed or CLOSE_UNNAMED
        if self.script is not None:
            self.script.sent(first[0])
        return first + self.data

    def unnamed_after(self, before: bytes | None) -> bytes | None:
        """The Parse of the unnamed statement that the frontend has after this unit, when it had `before`.

        After an error nobody knows how far the unit came: then it has none, and is told so when it uses it.
        """
        if self.kind == SIMPLE or self.drops_unnamed:
            return None
        if self.parse_unnamed is None:
            return before
        return None if self.failed else self.parse_unnamed

    def copy_begins(self) -> None:
        """CopyInResponse: the frontend now streams CopyData, and what follows is known message by message."""
        if self.script is None:
            self.script = Script(self.kind)
            self.script.received(ord("G"))
        self.open = True
        self.frontend.copy_begins(self)

    def refuse(self, raw: bytes) -> None:
        """A server's ErrorResponse in the place of an answer: no worker could be had for the unit."""
        self.frontend.refused(self, raw)


class Visit:
    """A frontend that is being let in and wants its group's worker for a moment, to learn the ParameterStatus values.

    Waits in the roster like a unit; `arrived` is called when a worker is tuned to the group, `refuse` with the
    ErrorResponse when that cannot be.
    """

    __slots__ = ("arrived", "group", "is_wanted", "queued_at", "refuse")
    known = None

    def __init__(self, group: Group, arrived: Callable[[], None], refuse: Callable[[bytes], None]) -> None:
        self.group = group
        self.arrived = arrived
        self.refuse = refuse
        self.is_wanted = True
        self.queued_at = 0.0


class Exchange:
    """A worker's own simple query: its holder sees nothing of it but, where `is_shown`, what parameters it changes.

    error   the first ErrorResponse, whole, or None
    rows    its DataRows, whole
    """

    __slots__ = ("error", "is_shown", "purpose", "rows", "then")
    keeps_rows = True
    known = None

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
    keeps_rows = False

    def __init__(self, then: Callable[[Exchange], None]) -> None:
        super().__init__("stale", then, is_shown=False)
