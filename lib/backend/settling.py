"""What its holder has left in a worker's session: settings, which are the frontend's from then on, or more.

Green by what it writes to; it never parks. A worker that was only set differently is given back: its frontend moves to
the group of these settings, and the worker is tuned to that already. What must be asked is asked after the frontend's
unit and before its next one, on the same worker. When nobody can tell what was set, the frontend keeps the worker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from lib.backend import settings, traces, tuning
from lib.backend.catalogs import MAX_CUSTOMS
from lib.backend.unit import EXTENDED, SIMPLE, Exchange, Unit
from lib.backend.upkeep import MAX_ASKS, State, Upkeep
from lib.route.learned import SETTING, SPOILING
from lib.route.verdict import Kind
from lib.wire import messages
from lib.wire.framing import header

if TYPE_CHECKING:
    from lib.backend import dialogue
    from lib.backend.groups import Group
    from lib.backend.roster import Roster
    from lib.frontend import Frontend

log = logging.getLogger(__name__)

_NONE: frozenset[str] = frozenset()
_ANY, _WHO = frozenset({"*"}), frozenset(tuning.ROLES)
_MAY_BE_OTHER = _ANY | _WHO
_TOO_MANY = "too many custom settings"
_MAX_MURK = 20  # texts
_WHOLE = (b"PBES", b"PBDES")  # the messages of one statement that was surely executed


class Settling(Upkeep):
    """What a worker's holder may have changed.

    touched      names of settings that it may have changed since the worker was tuned; '*' is any
    doubtful     it may have left something that no text shows, since anybody could tell
    local        names of custom settings that it has set until its transaction ends, and has not set before
    is_own       they were by one text outside of a transaction block, which was surely run
    asks_back    it may have nothing any more that holds the worker: to be seen when its transaction is over
    murky        it may have set what nobody can ask for
    murk         texts that may have done so, as long as nothing better is known of them
    unsettled    one of these is to be looked at
    is_settling  it is asked what the holder has set, which is lost if it dies
    """

    __slots__ = ("asks_back", "doubtful", "is_own", "is_settling", "local", "murk", "murky", "touched", "unsettled")

    def __init__(self, roster: Roster, backend: dialogue.Backend) -> None:
        super().__init__(roster, backend)
        self.touched = self.local = _NONE
        self.is_own = self.asks_back = self.doubtful = self.murky = self.unsettled = self.is_settling = False
        self.murk: list[bytes] = []

    # --- what a unit may have left -----------------------------------------------------------------------------------

    def _note_marks(self, unit: Unit, status: bytes) -> None:
        was_held, asks = self.session, len(self.asks)
        super()._note_marks(unit, status)
        verdict = unit.verdict
        in_block = unit.frontend.status != b"I" or verdict.transaction or unit.script is not None
        is_undone = unit.failed and not in_block and verdict.kind <= Kind.SESSION
        if verdict.discards and not unit.failed:
            self.discarded()
        if (verdict.sets or verdict.resets) and not is_undone:
            self._note_settings(unit, in_block)
        if verdict.local_sets and not unit.failed:
            self._note_local(unit)
        if verdict.kind is Kind.OPAQUE and not self.session:
            self._note_doubt(unit, len(self.asks) > asks)
        if self.session:
            if verdict.kind is Kind.OPAQUE and not verdict.follows:
                self._note_murk(unit)
            # What is known to hold it does so; but a transaction may be rolled back, and an error may undo it.
            begins = not was_held and (in_block or status != b"I" or unit.failed)
            self.asks_back = self.asks_back or verdict.releases or begins
        self.unsettled = bool(self.touched or self.local or verdict.local_resets) or self.asks_back or self.doubtful

    def _note_local(self, unit: Unit) -> None:
        # Afterwards it is '' where it was not there before, as a backend never forgets the name of one.
        names = unit.verdict.local_sets
        if "*" in names:
            names |= settings.named(unit.shown) or _NONE
        known = dict(unit.frontend.group.settings)
        self.local |= {name for name in names if "." in name and name not in known}

    def _note_doubt(self, unit: Unit, is_due: bool) -> None:
        # It is asked what it has left, and not only cleaned: what can be told is the frontend's.
        verdict, texts = unit.verdict, unit.texts
        in_doubt = list(filter(unit.frontend.router.is_in_doubt, texts))
        self.asks += in_doubt[: max(0, MAX_ASKS - len(self.asks))]
        if verdict.follows:
            self.touched |= _ANY
        if is_due or verdict.follows or in_doubt or (verdict.clean and not texts):
            self.doubtful, self.is_own = True, False

    def _note_murk(self, unit: Unit) -> None:
        # A text is opaque while the catalog is scanned; that may be over when the worker could be given back.
        texts = unit.texts
        self.murky = self.murky or not texts or len(self.murk) + len(texts) > _MAX_MURK
        if not self.murky:
            self.murk += texts

    def _is_murky(self, frontend: Frontend) -> bool:
        verdicts = map(frontend.router.verdict, self.murk)
        return self.murky or any(each.kind is Kind.OPAQUE and not each.follows for each in verdicts)

    def _note_settings(self, unit: Unit, in_block: bool) -> None:
        verdict = unit.verdict
        sets, is_sure = verdict.sets, not verdict.follows
        self.unsure = self.unsure or verdict.follows  # a function's text does not show which custom settings it sets
        if "*" in sets:
            named, is_sure = self._named(unit)
            if named is None:
                self._keep()
                self.spoilt = self.spoilt or b"." in unit.shown
            elif is_sure or _are_custom(named):
                sets = named
        is_one = is_sure and not (sets and verdict.resets) and "*" not in sets and verdict.kind is Kind.SETTING
        self.is_own = is_one and not (in_block or self.touched or verdict.clean) and _is_whole(unit)
        if settings.SEED in sets:
            sets -= {settings.SEED}
            self._keep()
            self.spoilt = True
        self.touched |= (sets | verdict.resets) - self.roster.cosmetic

    def _named(self, unit: Unit) -> tuple[frozenset[str] | None, bool]:
        # The settings that set_config() may set, None when nobody can tell; and whether it surely does.
        text = unit.shown
        named = settings.named(text)
        if named is None or unit.script is not None:
            return None, False
        texts = unit.texts
        return named, len(texts) == 1 and settings.is_plain(texts[0])

    def _keep(self) -> None:
        # Nobody can tell what was set: the frontend keeps the worker until it disconnects.
        self.session = self.unclean = self.murky = True

    def discarded(self) -> None:
        super().discarded()
        self._forget_notes()

    def _forget_notes(self) -> None:
        self.touched = self.local = _NONE
        self.is_own = self.asks_back = self.doubtful = self.murky = self.unsettled = False
        self.murk.clear()

    def reclaim(self, status: bytes = b"I") -> None:
        if self.has_notes:
            self.unclean = self.unclean or bool(self.touched)
            self._forget_notes()
            self.is_settling = False
        super().reclaim(status)

    # --- after a unit ------------------------------------------------------------------------------------------------

    def settle(self, unit: Unit, status: bytes) -> bool:
        """The unit of the holder, which is still there, was answered.

        returns   True when something must be asked or restored first: `frontend.settled` is called when that is done
        """
        frontend, resets = unit.frontend, unit.verdict.resets
        if status != b"I":  # what was set may still be undone; after an error all of it is
            sql = "" if unit.failed or status == b"E" else self._restoring(frontend, unit)
            if sql:
                self.run_restore(sql, frontend.settled, is_shown=not unit.withholds)
            return bool(sql)
        touched, self.touched = self.touched, _NONE
        is_own, self.is_own = self.is_own, False
        asks_back, self.asks_back = self.asks_back, False
        doubtful, self.doubtful = self.doubtful, False
        self.unsettled = False
        is_mere_doubt = doubtful and not touched
        if doubtful:
            touched |= _ANY
        if not settings.HIDDEN.isdisjoint(touched):
            self._keep()
        if self.session and (not asks_back or self._is_murky(frontend)):
            self.asks_back = self.unsettled = asks_back and not self.murky  # it may be known better after a scan
            sql = frontend.home.restore(resets) if touched else ""
            if sql:
                self.run_restore(sql, frontend.settled, is_shown=not unit.withholds)
            return bool(sql)
        if self.session:
            return self._look(unit, _ANY, is_more=True)
        if not touched:  # what was SET LOCAL is over
            moved = self._group_of(frontend, frontend.group.settings)
            return self._settled_badly(frontend, _TOO_MANY) if moved is None else self._give_back(frontend, moved)
        if is_own or (_are_custom(touched) and not unit.verdict.resets):
            return self._settle_named(unit, touched, is_sure=is_own)
        return self._look(unit, touched, is_more=doubtful, is_mere_doubt=is_mere_doubt)

    def _restoring(self, frontend: Frontend, unit: Unit) -> str:
        verdict = unit.verdict
        parts = (frontend.home.restore(verdict.resets), frontend.home.restore(verdict.local_resets, local=True))
        return "; ".join(part for part in parts if part)

    def _settle_named(self, unit: Unit, touched: frozenset[str], is_sure: bool) -> bool:
        """What is known by name was set, or reset, by one text outside of a transaction block. Or it may
        have been, where that is not sure: of custom settings the answer tells.
        """
        frontend, memo = unit.frontend, self.roster.cluster.settled
        group, home, resets = frontend.group, frontend.home.settings, unit.verdict.resets
        may_remember = is_sure and not resets and settings.may_be_remembered(unit.data, touched)
        key = (group, unit.data) if may_remember else None
        known = memo.get(key)
        if known is not None:
            return self._give_back(frontend, known)
        plan = settings.plan(group.settings, home, _NONE if resets else touched, resets)
        if plan is None or (not resets and _is_other(group) and not touched <= _WHO):
            return self._look(unit, touched, is_more=False)

        def answered(exchange: Exchange | None) -> bool:
            values = settings.read(map(messages.read_data_row, exchange.rows)) if exchange is not None else {}
            if values is None:
                return self._settled_badly(frontend, "the answer cannot be read")
            set_now = touched if is_sure and not resets else _NONE
            self._learn_customs_of(frontend, values)
            found = settings.with_answer(plan.settings, values, group.login.user, home, set_now)
            moved = self._group_of(frontend, found)
            if moved is None:
                return self._settled_badly(frontend, _TOO_MANY)
            memo.put(key, moved)
            return self._give_back(frontend, moved)

        texts = [tuning.apply(plan.restore)] if plan.restore else []
        texts += [settings.ask_for(plan.ask)] if plan.ask else []
        if not texts:
            return answered(None)
        self._converse(frontend, texts, lambda exchanges: answered(exchanges[-1] if plan.ask else None))
        return True

    def _look(self, unit: Unit, touched: frozenset[str], is_more: bool, is_mere_doubt: bool = False) -> bool:
        """See what holds for the session now; and where there may be more than settings in it, whether there is.

        is_mere_doubt   as a rule there is nothing: a backend that dies meanwhile takes nothing with it
        """
        frontend = unit.frontend
        login, home = frontend.group.login, frontend.home.settings
        customs = self.roster.customs | self.placeholders | frontend.group.placeholders
        customs.update(name for name in touched if "." in name)
        may_be_other = _is_other(frontend.group) or not _MAY_BE_OTHER.isdisjoint(touched)

        def answered(exchanges: list[Exchange]) -> bool:
            asked = exchanges[-1]
            values = settings.read(map(messages.read_data_row, asked.rows))
            if values is None:
                return self._settled_badly(frontend, "the answer cannot be read")
            if values.pop("*", None) is not None:
                return self._settled_badly(frontend, f"{login.user} may not set all of that")
            for name in self.roster.cosmetic:
                values.pop(name, None)
            self._learn_customs_of(frontend, values)
            found, back = settings.of_all(
                frontend.group.settings, home, values, touched, unit.verdict.resets, login.user
            )
            left = traces.read(map(messages.read_data_row, exchanges[0].rows)) if is_more else ()
            is_held = bool(left)
            self.unsure = False
            if self.asks:
                texts, self.asks = self.asks, []
                # What was SET is no secret of theirs.
                changed = {name for name, _ in {*found} ^ {*frontend.group.settings}} - touched
                more = (SETTING + name for name in sorted(changed))
                self.roster.pool.cluster.left(login.database, texts, (*left, *more))
            if is_held and not self.session:
                self.session = self.unclean = True
                self.spoilt = self.spoilt or not SPOILING.isdisjoint(left)
                frontend.tell_held(f"has left {', '.join(left)} in the session")
            moved = None if is_held else self._group_of(frontend, found)

            def restored(_: object = None) -> bool:
                if is_held:
                    return False
                if moved is None:
                    return self._settled_badly(frontend, _TOO_MANY)
                self.session = False
                return self._give_back(frontend, moved)

            if back:
                self._converse(frontend, [tuning.apply(back)], restored)
                return True
            return restored()

        texts = [traces.ask_held()] if is_more else []
        question = settings.ask_all(customs, login.user if may_be_other else None)
        self._converse(frontend, [*texts, question], answered, is_mere_doubt)
        return True

    def _learn_customs_of(self, frontend: Frontend, values: dict[str, str | None]) -> None:
        names = frozenset(name for name, value in values.items() if "." in name and value is not None)
        if not names <= frontend.group.placeholders:
            self._learn_customs(frontend, names)

    def _group_of(self, frontend: Frontend, found: tuning.Pairs) -> Group | None:
        # None: with so many names of custom settings the worker is of no use to anybody else
        if self.local:
            found = tuning.canonical({**dict.fromkeys(self.local, tuning.AT_DEFAULT), **dict(found)})
        placeholders = frontend.group.placeholders | tuning.placeholders(found)
        if len(placeholders) > MAX_CUSTOMS:
            return None
        return self.roster.cluster.group(frontend.group.login, found, placeholders)

    def _converse(
        self, frontend: Frontend, texts: list[str], then: Callable[[list[Exchange]], bool], is_mere_doubt: bool = False
    ) -> None:
        """Run `texts` on the holder's behalf, and tell it afterwards. `then` returns True when that goes on."""
        exchanges: list[Exchange] = []

        def answered(exchange: Exchange) -> None:
            exchanges.append(exchange)
            if len(exchanges) < len(texts):
                return
            self.state, self.is_settling = State.HELD, False
            error = next((each.error for each in exchanges if each.error is not None), None)
            if error is not None:
                self._settled_badly(frontend, messages.error_fields(error).get("M", ""))
            elif then(exchanges):
                return
            frontend.settled()

        self.state, self.is_settling = State.BUSY, not is_mere_doubt
        if self.cancels:
            self._resume = lambda: self._converse(frontend, texts, then, is_mere_doubt)
            return
        is_shown = frontend.unit is None or not frontend.unit.withholds
        self.in_flight.extend(Exchange("settle", answered, is_shown) for _ in texts)
        self.stream.write(b"".join(self.take_lent()) + b"".join(map(messages.query, texts)))

    def _give_back(self, frontend: Frontend, group: Group) -> bool:
        """The frontend is of `group` from now on, and so is the worker, which is anybody's again."""
        frontend.move(group)
        frontend.worker = None
        self.group = group
        self.roster.group_seen(self)
        self.reclaim()
        return False

    def _settled_badly(self, frontend: Frontend, why: str) -> bool:
        """What was set cannot be told, or is too much for anybody else: the frontend keeps the worker."""
        log.warning("%r keeps %r, as what that has set cannot be told: %s", frontend, self, why)
        self._keep()
        frontend.tell_held("has set what nobody else can be asked for")
        return False


def _are_custom(names: frozenset[str]) -> bool:
    return bool(names) and all("." in name for name in names)


def _is_other(group: Group) -> bool:
    """Whether its frontends have become another role, which may set what the one that has logged in may not."""
    return any(name in _WHO for name, _ in group.settings)


def _is_whole(unit: Unit) -> bool:
    """Whether the unit has surely run what its texts say, when it has not failed."""
    if unit.kind == SIMPLE:
        return True
    if unit.kind != EXTENDED or unit.script is not None:
        return False
    tags, position = bytearray(), 0
    while position < len(unit.data):
        tag, length = header(unit.data, position)
        tags.append(tag)
        position += 1 + length
    return bytes(tags) in _WHOLE
