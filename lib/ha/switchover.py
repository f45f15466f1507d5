"""A planned switch: nothing fails, nothing is lost, and the old primary comes back as a standby.

Green. What is under way on the primary ends first, and what comes waits. The primary is stopped cleanly, so that the
standby has all of its WAL, the shutdown checkpoint too; then that one is promoted, and the old one, which has been told
before, starts as its standby: no rewind. The other pools hold meanwhile. The same reasons against it serve the dry run
and the real one.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import gevent

from lib.addresses import Address
from lib.backend import freshness
from lib.errors import PoolError, StatementCancelled
from lib.ha import acts, choice, conninfo
from lib.ha.choice import Answer, Choice
from lib.ha.conninfo import NotAConninfo
from lib.ha.machine import Event
from lib.ha.silence import Silence

if TYPE_CHECKING:
    from lib.backend.pool import Pool
    from lib.ha.executor import Guardian

log = logging.getLogger(__name__)

_ASK_S = 3.0
_QUIET_S = 10.0  # for transactions and statements that are under way
_CAUGHT_UP_S = 5.0
_DOWN_S = 60.0  # for a clean shutdown
_BACK_S = 30.0  # for the old primary to follow
_LOOK_S = 0.01
_TOLD_S = 2.0  # for the other pools to hear who is the primary
_FAR_BEHIND = 64 << 20  # bytes


class Refused(Exception):
    """It is not done, and nothing was changed, or what was changed is taken back. The message says why."""


class Plan(NamedTuple):
    """What is going to be done, and every reason against it.

    primary   None when it does not answer
    found     None when there is nobody to be chosen
    holding   other pools, which will hold
    """

    primary: Answer | None
    found: Choice | None
    against: tuple[str, ...]
    holding: tuple[str, ...] = ()

    def rows(self) -> Iterator[tuple[str, str]]:
        """As a DBA wants to see it: item, value."""
        if self.primary is not None:
            yield "primary", f"{_shown(self.primary)}, timeline {self.primary.timeline}"
            yield "written", freshness.shown(self.primary.written)
        if self.found is not None:
            chosen = self.found.chosen
            kind = "synchronous, " if self.found.is_sync else ""
            yield "chosen", f"{_shown(chosen)}, {kind}timeline {chosen.timeline}"
            yield "received", freshness.shown(chosen.received)
            yield "replayed", freshness.shown(chosen.replayed)
            yield "behind", f"{max(0, (self.primary.written if self.primary else 0) - chosen.has)} bytes"
            for each in self.found.others:
                slot = f" with slot {each.slot}" if each.slot else ""
                yield "follows", f"{_shown(each)} as {each.application_name}{slot}"
            if self.primary is not None:
                yield "comes back", f"{_shown(self.primary)} as a standby, {_how(self.primary)}"
        for pool in self.holding:
            yield "holds", pool
        for reason in self.against:
            yield "against", reason


def _how(server: Answer) -> str:
    return f"restarted by {acts.RESTART}()" if acts.RESTART in server.functions else "restarted by ha_restart_command"


def _shown(answer: Answer) -> str:
    return f"{answer.address[0]}:{answer.address[1]} (pool {answer.number})"


class Switchover:
    """One planned switch.

    to           the pool that is to be the primary; None: the one that would be chosen if the primary were gone
    check_wanted raises what ends it, as long as it can be left
    is_forced    without the pools that cannot hold
    """

    def __init__(
        self, guardian: Guardian, to: Pool | None, check_wanted: Callable[[], None], is_forced: bool = False
    ) -> None:
        self._guardian = guardian
        self._to = to
        self._check_wanted = check_wanted
        self._is_forced = is_forced
        self._silence = Silence(guardian.peers, guardian.settings.peers)
        self._cluster = guardian.cluster
        self._settings = guardian.settings

    # --- the plan ----------------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """Ask everybody, and see what there is against it."""
        guardian, cluster = self._guardian, self._cluster
        asking = gevent.spawn(self._silence.refusals)
        answers = guardian.watch.ask_all([cluster.primary, *cluster.standbys], _ASK_S)
        primary = next((each for each in answers if each.number == cluster.primary.number), None)
        standbys = [each for each in answers if each is not primary]
        against = [*self._against_us(primary), *self._against_peers(asking.get())]
        if primary is not None and not primary.in_recovery:
            guardian.watch.learn(primary)
        found = self._choose(standbys)
        if isinstance(found, str):
            return Plan(primary, None, (*against, found))
        chosen = found.chosen
        if chosen.receiver is None or not chosen.receiver.is_connected:
            against.append(f"{chosen.name} does not stream from the primary")
        if primary is not None:
            behind = primary.written - chosen.has
            if behind > _FAR_BEHIND:
                against.append(f"{chosen.name} is {behind} bytes behind")
            if chosen.version < acts.HAS_SIGNAL_FILES and acts.CHANGE not in primary.functions:
                against.append(f"{primary.name} has no function {acts.CHANGE}: run switchfunc.sql")
            if acts.RESTART not in primary.functions and not self._settings.ha_restart_command:
                way = "which is possible" if primary.can_rewind else "but has neither wal_log_hints nor checksums"
                against.append(f"{acts.no_restart(primary)}; by hand it would have to be rewound, {way}")
        against += [reason for each in found.others if (reason := cannot_follow(each, self._settings))]
        return Plan(primary, found, tuple(against), tuple(f"the pool at {each}" for each in self._silence.asked))

    def _against_us(self, primary: Answer | None) -> Iterator[str]:
        if not self._settings.enable_ha:
            yield "this pool may not promote (enable_ha is off)"
        elif not self._guardian.machine.is_trusted:
            yield f"the primary is in doubt ({self._guardian.machine.state.value})"
        if primary is None:
            yield "the primary does not answer"
        elif primary.in_recovery:
            yield f"{primary.name} is in recovery: it is no primary"
        if self._guardian.holding.until:
            yield f"another switchover is under way: {self._guardian.holding.shown(time.monotonic())}"

    def _against_peers(self, refusals: dict[Address, str]) -> Iterator[str]:
        for address, why in refusals.items():
            reason = self._silence.leave_out(address, why)
            if not self._is_forced:
                yield reason

    def _choose(self, standbys: list[Answer]) -> Choice | str:
        known = self._guardian.watch.known
        if self._to is None:
            return choice.choose(standbys, known, [pool.number for pool in self._cluster.standbys])
        wanted = next((each for each in standbys if each.number == self._to.number), None)
        if wanted is None:
            return f"{self._to.describe()} does not answer"
        reason = choice.may_be_promoted(wanted, known)
        others = tuple(each for each in standbys if each is not wanted)
        is_sync = wanted.application_name in known.sync
        return reason or Choice(wanted, is_sync, max(0, known.written - wanted.has), others, ())

    # --- the switch --------------------------------------------------------------------------------------------------

    def run(self) -> Iterator[tuple[str, str]]:
        """Do it; what was done, step by step.

        raises   Refused; before anything was changed what check_wanted raises, too
        """
        holding = self._guardian.holding
        if holding.is_own:
            raise Refused("a switchover is under way")
        holding.is_own = True
        try:
            plan = self.plan()
            if plan.against or plan.found is None or plan.primary is None:
                raise Refused("; ".join(plan.against))
            yield from self._run(plan.primary, plan.found)
        finally:
            holding.is_own = False

    def _run(self, old: Answer, found: Choice) -> Iterator[tuple[str, str]]:
        chosen, pool = found.chosen, self._cluster.primary
        log.warning("a switchover from %s to %s begins", old.name, chosen.name)
        self._checkpoint(old)
        began = time.monotonic()
        try:
            self._quieten(pool)
        except BaseException:
            self._silence.end()
            raise
        for each in self._silence.left_out.values():
            yield "left out", each
        yield "quiet", f"{_since(began)}: nothing is under way on {old.name}"
        guardian = self._guardian
        guardian.happened(Event.PLANNED)
        is_told = False
        try:
            if not guardian.write(target=chosen.address):
                raise Refused("the state file cannot be written")
            self._catch_up(old, chosen)
            self._see_that_all_are_quiet()
            is_told = True  # or half of it
            self._tell(old, chosen)
            self._see_that_all_are_quiet()
            acts.restart(guardian.admin, old, self._settings.ha_restart_command)
            self._wait_for_its_end(old, chosen)
            yield "stopped", f"{_since(began)}: {chosen.name} has all that {old.name} has written"
            guardian.promote(chosen)
        except (Refused, PoolError, NotAConninfo, acts.CannotRestart, acts.NotPromoted) as error:
            log.error("the switchover does not go on: %s", error)
            if isinstance(error, acts.NotPromoted) and not isinstance(error, acts.NotTold):
                guardian.not_promoted(chosen)
            if isinstance(error, acts.NotPromoted) or not self._undo(old, is_told):
                self._leave_to_what_they_are()
            if self._cluster.primary.address != chosen.address:
                self._silence.end()
                is_open = guardian.machine.no_way_back
                awaited = f" ({chosen.name} is awaited, or {old.name}: see the log)" if is_open else ""
                raise Refused(f"the switchover is given up: {error}{awaited}") from None
        else:
            guardian.switched(guardian.pool_of(chosen), found)
        self._silence.end_when_told()
        took = _since(began)
        guardian.last_switch = f"{old.name} was replaced by {chosen.name}, as planned, in {took}"
        log.warning("%s", guardian.last_switch)
        yield "promoted", f"{took}: {chosen.name} is the primary, and statements go on"
        self._silence.wait_until_told(_TOLD_S)  # before this pool stops, if it was told to
        yield "comes back", self._wait_for_return(old)

    def _checkpoint(self, old: Answer) -> None:
        # Or the shutdown's own would have all statements wait for what has to be written.
        try:
            self._guardian.admin.query(old.address, None, "checkpoint", timeout_s=600)
        except PoolError as error:
            raise Refused(f"{old.name} could not make a checkpoint: {error}") from None

    def _quieten(self, pool: Pool) -> None:
        """Until nothing is under way on the primary, whichever pool it would come from."""
        deadline = time.monotonic() + _QUIET_S
        self._silence.begin()
        while True:
            is_quiet = pool.hold_gently()
            noisy = self._silence.noisy(time.monotonic())
            if is_quiet and not noisy:
                return
            if not self._guardian.machine.is_trusted:
                pool.hold()
                raise Refused(f"{pool.describe()} does not answer any more")
            try:
                self._check_wanted()
                self._see_that_all_hold()
                if time.monotonic() > deadline:
                    whose = ["of this pool"] if not is_quiet else []
                    whose += [f"of the pool at {each}" for each in noisy]
                    raise Refused(
                        f"statements or transactions on {pool.describe()} did not end within {_QUIET_S:g} s: "
                        f"those {', '.join(whose)}"
                    )
            except BaseException:
                pool.release()
                raise
            gevent.sleep(_LOOK_S / 2)

    def _see_that_all_hold(self) -> None:
        for address, why in self._silence.failed().items():
            reason = self._silence.leave_out(address, why)
            if not self._is_forced:
                raise Refused(reason)

    def _see_that_all_are_quiet(self) -> None:
        """Once more, and for long enough that the old primary can be told to stop."""
        noisy = self._silence.noisy(time.monotonic())
        if noisy and not self._is_forced:
            raise Refused(f"the pool at {noisy[0]} was quiet and is not any more, or does not answer")

    def _catch_up(self, old: Answer, chosen: Answer) -> None:
        deadline = time.monotonic() + _CAUGHT_UP_S
        written = self._ask(old).written
        while self._ask(chosen).has < written:
            if time.monotonic() > deadline:
                raise Refused(f"{chosen.name} did not catch up within {_CAUGHT_UP_S:g} s")
            gevent.sleep(_LOOK_S)

    def _ask(self, server: Answer) -> Answer:
        return self._guardian.watch.ask(self._guardian.pool_of(server))

    def _tell(self, old: Answer, chosen: Answer) -> None:
        """How the old primary is to come back."""
        slot = old.slot or (f"pgstmtpool_{old.number}" if chosen.slot else "")
        name = _name_of(old)
        to = conninfo.follow(conninfo.without_name(chosen.conninfo), *chosen.address, name)
        if slot:
            is_made = acts.ensure_slot(self._guardian.admin, chosen.address, slot)
            if is_made:
                self._guardian.following.has_made(self._guardian.pool_of(chosen), slot)
        acts.change_recovery(self._guardian.admin, old, to, slot, self._settings.trigger_file)

    def _wait_for_its_end(self, old: Answer, chosen: Answer) -> None:
        """Until the old primary has ended and the chosen one has all that it has written.

        A clean shutdown ends the standby's connection only when that has received the shutdown checkpoint.
        """
        deadline = time.monotonic() + _DOWN_S
        pool = self._guardian.pool_of(old)
        while True:
            try:
                answer = self._guardian.watch.ask(pool)
                if answer.in_recovery and self._ask(chosen).has >= answer.replayed:
                    return
            except PoolError:
                # It is stopping, down or starting.
                receiver = self._ask(chosen).receiver
                if receiver is None or not receiver.is_connected:
                    return
            if time.monotonic() > deadline:
                raise Refused(f"{old.name} was not restarted within {_DOWN_S:g} s")
            gevent.sleep(_LOOK_S)

    def _undo(self, old: Answer, is_told: bool) -> bool:
        """The chosen one has not been promoted: whether the old one still is the primary, and will be."""
        guardian = self._guardian
        try:
            if is_told and not guardian.target.have_stay(old):
                return False
        except PoolError as error:
            log.info("%s could not be told to stay the primary: %s", old.name, error)
            return False
        guardian.write(target=None)
        guardian.happened(Event.REFUSED)
        return True

    def _leave_to_what_they_are(self) -> None:
        """Wait until it is known what the servers are, and the switch was completed or undone by that; but not for
        ever."""
        guardian = self._guardian
        guardian.machine.no_way_back = True
        guardian.happened(Event.REFUSED)
        began = time.monotonic()
        # The state file is no sign of it: what is decided is written there first.
        while guardian.machine.no_way_back and time.monotonic() - began < _DOWN_S:
            gevent.sleep(_LOOK_S)

    def _wait_for_return(self, old: Answer) -> str:
        pool, began = self._guardian.pool_of(old), time.monotonic()
        with contextlib.suppress(StatementCancelled):  # it is done, whoever does not want to see that
            while time.monotonic() - began < _BACK_S:
                if pool in self._cluster.standbys:
                    return f"{_since(began)} later: {old.name} follows"
                self._check_wanted()
                gevent.sleep(0.05)
        return f"{old.name} does not follow yet"


def _since(began: float) -> str:
    return f"{time.monotonic() - began:.2f} s"


def _name_of(server: Answer) -> str:
    """What it was known by when it was a standby, or would be."""
    return server.application_name if server.application_name != "walreceiver" else ""


def cannot_follow(answer: Answer, settings: object) -> str | None:
    """Why a standby cannot be told to follow another primary, or None."""
    if answer.version >= acts.RELOADS_CONNINFO:
        return None
    if answer.version < acts.HAS_SIGNAL_FILES and acts.CHANGE not in answer.functions:
        return f"{answer.name} cannot follow another primary without {acts.CHANGE}: run switchfunc.sql"
    if acts.RESTART not in answer.functions and not getattr(settings, "ha_restart_command", ""):
        return acts.no_restart(answer)
    return None
