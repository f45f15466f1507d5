"""What a backend has of the frontends that it served, and how it is made fit for the next one.

Green by what it writes to; it never parks. A worker is tuned to the group of the unit that it gets, and cleaned when
its frontend has left, or may have left, something in the session. Whenever nothing is known for sure the backend is
asked, cleaned or closed. `Worker` is the only one that has an Upkeep.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from lib.backend import dialogue, traces, tuning
from lib.backend.riders import Riders
from lib.backend.unit import EXTENDED, Exchange, Unit, Visit
from lib.errors import ProtocolViolation, ResultChanged
from lib.route import parsing
from lib.route.learned import SPOILING
from lib.route.verdict import Kind
from lib.wire import messages
from lib.wire.described import description, miscounted, parameters_of

if TYPE_CHECKING:
    from lib.backend.groups import Group
    from lib.backend.roster import Roster
    from lib.frontend import Frontend

log = logging.getLogger(__name__)

_RESULT_CHANGED = ResultChanged("cached plan must not change result type")
MAX_ASKS = 8  # statements of one transaction that are blamed for what it has left


class State(Enum):
    IDLE = "idle"  # in its roster, for anybody
    BUSY = "busy"  # something is in flight
    HELD = "held"  # between two units of the frontend that has it
    CLOSED = "closed"


_IDLE, _BUSY, _CLOSED = State.IDLE, State.BUSY, State.CLOSED


class Upkeep(Riders):
    """The state of a worker's backend.

    group         what it is tuned to
    unclean       nobody else gets it before DISCARD ALL
    spoilt        nobody else gets it at all: it may know a custom setting, and a backend never forgets the name of one
    placeholders  names of custom settings that the backend knows since it was tuned to them
    unsure        it may know custom settings that no text has shown
    asks          statements that may have left something no text shows: it is asked before it is cleaned
    drew          it may know numbers that somebody drew from sequences, for currval() and lastval()
    ddl           the catalog was changed in a transaction that is still open
    defines       a statement was prepared that may change the catalog whenever it is run
    is_as_tuned   nothing that was run for its holder may have changed a setting that matters to Parse since
    cancels       reasons not to send it anything: CancelRequests that may be on their way to it, for one
    has_notes     what its holder's units may have left was noted
    """

    __slots__ = (
        "_left_by", "_resume", "asks", "cancels", "ddl", "defines", "drew", "group", "has_notes", "idle_since",
        "is_as_tuned", "placeholders", "spoilt", "state", "unclean", "unsure",
    )  # fmt: skip

    def __init__(self, roster: Roster, backend: dialogue.Backend) -> None:
        super().__init__(roster, backend)
        self.group: Group = roster.bare_group
        self.state = State.IDLE
        self.idle_since = 0.0
        self.unclean = self.spoilt = self.unsure = self.ddl = self.defines = self.drew = False
        self.is_as_tuned = True
        self.placeholders: frozenset[str] = frozenset()
        self.asks: list[bytes] = []
        self.cancels = 0
        self.has_notes = False
        self._left_by: Frontend | None = None  # whose it was last
        self._resume: Callable[[], None] | None = None  # waits until the server has closed the cancel connection

    @abstractmethod
    def retire(self) -> None:
        """Close now when idle, else when what it does is done."""

    @abstractmethod
    def hold(self) -> None:
        """Nothing more is sent to the backend."""

    @abstractmethod
    def _go_on(self) -> None:
        """A reason not to send anything to the backend is gone."""

    @abstractmethod
    def put(self, unit: Unit | Visit) -> None:
        """Have `unit` run."""

    @abstractmethod
    def begin_alone(self, unit: Unit) -> None:
        """What `put` comes to for a plain unit that does not ride, where the worker is tuned to its group."""

    def may_serve(self, group: Group) -> bool:
        """Whether nothing of earlier groups would show in `group`: the name of a custom setting never goes away."""
        return not self.placeholders or self.placeholders <= group.placeholders

    # --- before a unit -----------------------------------------------------------------------------------------------

    def _tune(self, unit: Unit | Visit, sql: str, group: Group | None = None) -> None:
        def tuned(exchange: Exchange) -> None:
            if exchange.error is not None:
                # Who knows what it is tuned to now: the worker goes, and the frontend is told why. Unless it was tuned
                # to another group before, whose statement_timeout (say) held until now: then a new worker tries.
                was_bare = not self.group.settings
                self.close()
                if not was_bare:
                    self.roster.requeue(unit)
                elif unit.is_wanted:
                    unit.refuse(exchange.error)
                return
            if sql == tuning.FORGET_NUMBERS:
                self.drew = False
            else:
                self._tuned_to(group or unit.group)
            self.put(unit)

        self.in_flight.append(Tuning(unit, tuned))
        self.stream.write(messages.query(sql))

    def begin_with(self, unit: Unit) -> None:
        """What `put` comes to for a quick read, where the worker is idle, tuned to its group, and none has riders."""
        self.state = _BUSY
        unit.worker = self
        self.in_flight.append(unit)
        self.stream.write(unit.data)
        self.begin_batch(unit)

    def _tuned_to(self, group: Group) -> None:
        if group.parse_settings != self.group.parse_settings:
            self.statements.settings_changed(is_over=True)
        self.group = group
        self.placeholders |= group.placeholders
        self.roster.group_seen(self)

    def run_restore(self, sql: str, then: Callable[[], None], is_shown: bool = True) -> None:
        """Bring back startup values that the holder's RESET has taken away; `then` is called when they are."""

        def restored(exchange: Exchange) -> None:
            self.state = State.HELD
            if exchange.error is not None:
                log.warning("%r could not restore startup settings: %s", self, messages.error_fields(exchange.error))
            then()

        self.state = _BUSY
        if self.cancels:
            self._resume = lambda: self.run_restore(sql, then, is_shown)
            return
        self.in_flight.append(Exchange("restore", restored, is_shown))
        self.stream.write(messages.query(sql))

    def _inquire(self, unit: Unit) -> None:
        """See that a statement is here what its frontend was told it is, before it is run."""
        prepared = self.statements.doubtful(unit.uses, unit.group.parse_settings, unit.is_strict)
        assert prepared is not None
        settings = prepared.statement.settings
        is_fresh = self.statements.parses_for(prepared)
        if self.holder is None:
            # With other settings than it was parsed with it may be something else, or an error even to ask what it is.
            group = unit.group
            if settings not in (None, group.parse_settings):
                group = self._nobodys(settings)
            if self.group.parse_settings != group.parse_settings:
                self._tune(unit, tuning.retune(self.group.settings, group.settings), group)
                return
        may_parse = settings is None or (self.is_as_tuned and settings == self.group.parse_settings)
        question = self.statements.question(prepared) if may_parse or not is_fresh else messages.SYNC

        def changed(told: bytes) -> bytes:
            # That a Bind of it is wrong in itself is said first.
            names = prepared.statement.name, prepared.given
            wrong = miscounted(unit.data, *names, parameters_of(told)) if told and unit.script is None else ""
            return messages.error_response(ProtocolViolation(wrong) if wrong else _RESULT_CHANGED, "ERROR")

        def answered(exchange: Exchange) -> None:
            refusal = exchange.error
            if not exchange.rows and refusal is None:
                # It is here as something else, and what is set now is not what it must be parsed with.
                refusal = changed(prepared.told)
            elif refusal is None:
                told = description(*exchange.rows)
                self.statements.answered(prepared, told)
                if is_fresh and prepared.differs(told, unit.is_strict):
                    refusal = changed(told)
            if refusal is None:
                self.put(unit)
                return
            # The server, too, tells the parameters before it finds that the columns are not the same.
            told = parameters_of(prepared.told) if unit.data.startswith(b"D") else b""
            if exchange.error is None:
                self.refuse_unit(unit, told + unit.named(refusal))
            else:
                self._refuse_here(unit, told + unit.named(refusal))

        self.in_flight.append(Inquiry(unit, answered))
        self.stream.write(question)

    def refuse_unit(self, unit: Unit, raw: bytes) -> None:
        """`unit` is not run here. The server would have failed the transaction that it is in, and does: so savepoints
        go on working."""
        if self.holder is None or self.holder.status != b"T":
            self._refuse_here(unit, raw)
        elif self.cancels:
            self._resume = self._fail_first
            self._refuse_here(unit, raw)
        else:
            self.state = _BUSY
            self._fail(Inquiry(unit, partial(self._refuse_here, unit, raw)))

    def _fail_first(self) -> None:
        # Its frontend was told before the server could be: now that is, and what came meanwhile goes on waiting for it.
        self.cancels += 1
        self._fail(Exchange("fail", lambda _: self._go_on()))

    def _fail(self, exchange: Exchange) -> None:
        self.in_flight.append(exchange)
        self.stream.write(messages.query(tuning.FAIL))

    def _refuse_here(self, unit: Unit, raw: bytes, _: object = None) -> None:
        """`unit` cannot be run, as its frontend is told; a transaction that it is in has failed in the server."""
        self.state = State.HELD
        status = self.holder.status if self.holder is not None else b"I"
        if self.holder is None or not unit.is_wanted:
            self.reclaim(status)
        if unit.is_wanted:
            unit.frontend.fail(unit, raw, b"E" if status == b"T" else status)

    # --- after a unit ------------------------------------------------------------------------------------------------

    def _note_marks(self, unit: Unit, status: bytes) -> None:
        # What the unit may have left behind on the backend, for when it is given back.
        self.has_notes = True
        verdict = unit.verdict
        self.drew = self.drew or verdict.kind >= Kind.WRITE
        self._note_customs(unit)
        self.unclean = self.unclean or verdict.clean
        self.defines = self.defines or (unit.keeps_names and verdict.ddl)
        self.ddl = self.ddl or verdict.ddl or (self.defines and unit.kind == EXTENDED)
        if verdict.holds or unit.keeps_names:
            self.session = self.unclean = True
            self.spoilt = self.spoilt or (verdict.holds and verdict.kind is not Kind.SESSION and b"." in unit.shown)
        self.spoilt = self.spoilt or verdict.spoils
        if verdict.kind is Kind.OPAQUE and not verdict.holds and not unit.failed and len(self.asks) < MAX_ASKS:
            self.asks += [text for text in unit.texts if unit.frontend.router.asks_after(text)]
        if self.ddl and status == b"I":
            self.ddl = False
            self.statements.settings_changed()  # or the catalog, which may be as it was before
            self.roster.catalog_changed()

    def _note_tuning(self, unit: Unit) -> None:
        """A unit is answered that is more than a read or a write: whether it may have changed what matters to Parse."""
        if self.is_as_tuned:
            self.is_as_tuned = unit.script is None and parsing.is_kept(unit.verdict, unit.texts)
        if not self.is_as_tuned:
            # Or brought something back, as the end of a transaction does; so from now on plain ones are noted, too.
            self.has_notes = True
            self.statements.settings_changed()

    def _note_customs(self, unit: Unit) -> None:
        # A streamed unit is not kept, and what OPAQUE ones run is not seen: then the backend itself is asked.
        self.unsure = self.unsure or unit.verdict.kind is Kind.OPAQUE or unit.script is not None
        text = unit.shown
        names = tuning.customs(text) | unit.customs
        # Which setting a statement sets that is not kept may be a parameter, at any time.
        self.spoilt = self.spoilt or (unit.keeps_names and b"set_config" in text.lower())
        if names and not (unit.failed and unit.frontend.status == b"E"):  # where nothing of it was run
            self._learn_customs(unit.frontend, names)

    def _learn_customs(self, frontend: Frontend, names: frozenset[str]) -> None:
        self.placeholders |= names
        self.roster.learn_customs(names)
        frontend.move(self.roster.pool.cluster.group_with(frontend.group, names))

    def _ask_for_customs(self) -> None:
        """See which custom settings the backend knows, of those that have ever been seen in this database."""

        def answered(exchange: Exchange) -> None:
            if exchange.error is not None:
                self.close(f"could not be looked at: {messages.error_fields(exchange.error).get('M')}")
                return
            self.unsure = False
            names = frozenset(messages.read_data_row(row)[0] or "" for row in exchange.rows)
            self.placeholders |= names
            if names and self._left_by is not None:
                self._learn_customs(self._left_by, names)
            self.reclaim()

        self.state = _BUSY
        self.in_flight.append(Exchange("look", answered))
        self.stream.write(messages.query(tuning.ask_for(self.roster.customs - self.placeholders)))

    # --- between two frontends ---------------------------------------------------------------------------------------

    def reclaim(self, status: bytes = b"I") -> None:
        """Nobody has the worker any more and nothing is in flight: make it fit for the next, or close it."""
        if self.holder is not None:
            self._left_by = self.holder
            self.holder = None
        self._discarded = 0
        if not self.is_as_tuned:
            self.statements.settings_changed(is_over=True)
        self.is_as_tuned, self.has_notes = True, False
        if self.state is _CLOSED:
            return
        if self.cancels:
            self.state = _BUSY
            self._resume = lambda: self.reclaim(status)
        elif self.retiring or self.spoilt:
            self.close()
        elif self.unclean or status != b"I":
            if self.asks and status == b"I" and not self.session:
                self._ask_for_traces()
            else:
                self._clean(status)
        elif self.unsure and not self.roster.customs <= self.placeholders:
            self._ask_for_customs()
        else:
            self.unsure = False
            if self.placeholders and not self.placeholders <= self.group.placeholders:
                self._regroup()
            self._left_by = None
            self.state = _IDLE
            if self.parameters_changed:
                self.roster.group_seen(self)
            self.roster.worker_idle(self)

    def _drained(self) -> None:
        self.close_batch()
        if (
            self.cancels or self.retiring or self.spoilt or self.unclean or self.unsure or self.placeholders
            or self.parameters_changed or self.has_notes or self.state is _CLOSED
        ):  # fmt: skip
            self.reclaim()
        else:  # it comes to this
            self._discarded = 0
            self.state = _IDLE
            self.roster.worker_idle(self)

    def _stale_answered(self, stale: Exchange) -> None:
        self.head_since = time.monotonic()
        if not self.in_flight:
            self._drained()

    def _regroup(self) -> None:
        # It knows more than those of its group do: it is of the group that the last frontend is in now, where that is
        # tuned alike, or else of one that no frontend is in, so that it is asked whether it may serve.
        left = self._left_by.group if self._left_by is not None else self.group
        is_tuned = left.settings == self.group.settings and self.placeholders <= left.placeholders
        self.group = left if is_tuned else self._nobodys(self.group.settings)

    def _nobodys(self, settings: tuning.Pairs) -> Group:
        """A group that no frontend is in, so that a worker of it is asked whether it may serve."""
        return type(self.group)(self.roster.login, settings)

    def _ask_for_traces(self) -> None:
        """See what opaque statements have left, which the text does not show, before it is taken away."""

        def answered(exchange: Exchange) -> None:
            if exchange.error is None:  # else nothing is known, and the worker is cleaned all the same
                left = traces.read(map(messages.read_data_row, exchange.rows), self.roster.cosmetic)
                self.spoilt = self.spoilt or not SPOILING.isdisjoint(left)
                self.roster.pool.cluster.left(login.database, texts, left)
            self.reclaim()

        texts, self.asks = self.asks, []
        login = self.roster.login
        self.state = _BUSY
        self.in_flight.append(Exchange("look", answered))
        question = traces.ask(login.user, self.group.settings, self.roster.customs)
        self.stream.write(b"".join(self.take_lent()) + messages.query(question))

    def _clean(self, status: bytes) -> None:
        def cleaned(exchange: Exchange) -> None:
            if exchange.error is not None:
                self.close(f"could not be cleaned: {messages.error_fields(exchange.error).get('M')}")
            elif exchange.purpose == tuning.CLEAN:
                self.discarded()
                self.group = self.roster.bare_group
                self.parameters_changed = True  # for that group they may be news
                self.reclaim()

        self.state = _BUSY
        steps = (tuning.CLEAN,) if status == b"I" else (tuning.ROLLBACK, tuning.CLEAN)
        self.in_flight.extend(Exchange(sql, cleaned) for sql in steps)
        self.stream.write(b"".join(messages.query(sql) for sql in steps))

    def discarded(self) -> None:
        """DISCARD ALL was run: nothing is left but what outlives that."""
        self.session = self.unclean = self.defines = self.drew = False
        self.statements.clear()
        self.asks.clear()


class Tuning(Exchange):
    """The tuning that goes before a unit."""

    __slots__ = ("unit",)

    def __init__(self, unit: Unit | Visit, then: Callable[[Exchange], None]) -> None:
        super().__init__("tune", then, is_shown=False)
        self.unit = unit


class Inquiry(Tuning):
    """What a statement is here, asked before a unit that uses it; or that its transaction fails, as it is not the same.

    When that fails in a transaction, its frontend is told of the parameters that this takes back.
    """

    __slots__ = ()
    keeps = frozenset(b"tTn")

    def __init__(self, unit: Unit, then: Callable[[Exchange], None]) -> None:
        super().__init__(unit, then)
        self.is_shown = True
