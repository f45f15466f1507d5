"""Replaces a primary that is gone: chooses, promotes, remembers, switches, and has the others follow.

Green. `watch` sees, `machine` and `choice` decide, `acts` changes servers; here these are put in order. The order is
what makes it safe to be killed at any moment: what is going to be done is in the state file before it is done, and what
was done is there before any frontend's statement is sent to the new primary. Nothing is sent to the old one from its
first failure on (`Pool.hold`).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gevent

from lib.addresses import Address
from lib.backend import freshness
from lib.ha import acts, choice
from lib.ha.choice import Answer, Choice, Known
from lib.ha.following import Following
from lib.ha.holding import Holding
from lib.ha.machine import Action, Event, Machine, State
from lib.ha.peers import Peers
from lib.ha.statefile import StateFile
from lib.ha.switchover import Refused
from lib.ha.target import Target
from lib.ha.tending import Tending
from lib.ha.watch import Watch

if TYPE_CHECKING:
    from lib.backend.cluster import Cluster
    from lib.backend.pool import Pool
    from lib.config import Settings

log = logging.getLogger(__name__)

_PEER_LOOK_S = 1.0
_CHOICE_S = 2.0  # how long servers are asked how far they are
_PYTHON, _INI = ".py", ".ini"


def state_path(settings: Settings) -> str:
    """Where the state file is."""
    if settings.ha_state_file or not settings.path:
        return settings.ha_state_file
    name, suffix = os.path.splitext(settings.path)
    return (name if suffix in (_PYTHON, _INI) else settings.path) + ".state"


class Guardian:
    """Keeps a primary.

    machine   what is thought of it
    watch     what is seen
    file      what is remembered
    holding   who else has statements wait, as he is about to replace the primary
    """

    def __init__(self, settings: Settings, cluster: Cluster, as_admin: Mapping[str, Any]) -> None:
        self.settings = settings
        self.cluster = cluster
        self.file = StateFile(state_path(settings))
        self.machine = Machine(settings.ha_after_fail_cnt, settings.ha_recovery_wait, settings.enable_ha)
        self.watch = Watch(settings, cluster, as_admin, self.machine)
        self.as_admin = as_admin
        self.peers = Peers(as_admin)
        self.holding = Holding(self)
        self.watch.act = self._act
        self.watch.on_look = self._look
        self.watch.on_known = self._remember
        self.switched_at = 0.0
        self.switches = 0
        self.last_switch = ""
        self._unwritable = ""
        self._refusing: set[int] = set()  # numbers of standbys that could not be promoted, in this outage
        self.following = Following(self)
        self.tending = Tending(self)
        self.target = Target(self)
        self._said: dict[Pool, str] = {}
        cluster.on_doubt = self.watch.doubt

    def __repr__(self) -> str:
        return f"<Guardian {self.machine!r} {self.file!r}>"

    @property
    def admin(self) -> Any:
        return self.watch.admin

    def begin(self) -> None:
        """Before anything is sent to any server: who is the primary, as far as this pool knows.

        raises   StateFileUnusable, when there is a file that says something and it cannot be read
        """
        state = self.file.read()
        self.watch.known = Known(state.system, state.timeline, state.written, state.sync, state.members)
        if state.primary is not None and state.primary != self.cluster.primary.address:
            log.warning(
                "%s says that %s is the primary, and the conf file has %s as master: the state file holds. To have the "
                "conf file hold, stop the pool, be sure of it, and remove the state file.",
                self.file.path, state.primary, self.cluster.primary.address,
            )  # fmt: skip
            self.cluster.switch(self.pool_at(state.primary))
        for address in state.former:
            self.cluster.leave_out(self.pool_at(address))
        if self.settings.enable_ha:
            self._remember()
        else:
            self.ask_peers()

    def _look(self) -> None:
        self.machine.after_fail_cnt = self.settings.ha_after_fail_cnt  # a reload may have changed them
        self.machine.recovery_wait_s = self.settings.ha_recovery_wait
        self.target.settle()
        self.tending.look()

    def is_news(self, pool: Pool, what: str) -> bool:
        """Whether this was not the last that was said of it."""
        was = self._said.get(pool)
        self._said[pool] = what
        return was != what

    def without(self, name: str, pool: Pool) -> tuple[Address, ...]:
        """One of the state's lists of servers without this one."""
        return tuple(each for each in getattr(self.file.state, name) if each != pool.address)

    def pool_at(self, address: Address) -> Pool:
        """The pool of a server, which may be one that is not in the conf file."""
        pools = [*self.cluster.pools, *self.cluster.former]
        found = next((pool for pool in pools if pool.address == address), None)
        return found or self.cluster.add_standby(address)

    def become(self, as_admin: Mapping[str, Any]) -> None:
        """Log in with these from now on."""
        self.as_admin = as_admin
        self.watch.become(as_admin)
        self.peers.become(as_admin)

    def run(self) -> None:
        """Watch as long as the pool runs."""
        if not self.settings.enable_ha:
            self._run_as_peer()
            return
        if self.file.state.target is not None:
            log.warning("a switch to %s had begun before this pool was stopped", self.file.state.target)
            self._act(self.machine.begin_in_the_middle(time.monotonic()))
        self.watch.run()

    def _run_as_peer(self) -> None:
        """Have somebody else decide, and use former primaries again that have become standbys."""
        while True:
            if self.cluster.primary.failures:
                self.ask_peers()
            for pool in self.cluster.former[:]:
                for answer in self.watch.ask_all([pool], _CHOICE_S):
                    self.tending.look_at_former(pool, answer)
            gevent.sleep(_PEER_LOOK_S)

    def ask_peers(self) -> None:
        """Take over the primary of another pool that may promote."""
        primary = self.peers.ask(self.settings.peers)
        try:
            if primary is not None:
                self.adopt(primary)
        except Refused as refused:
            log.error("the primary of another pool is not taken over: %s", refused)

    def adopt(self, address: Address) -> None:
        """Somebody else has made the server at `address` the primary.

        raises   Refused
        """
        if address == self.cluster.primary.address:
            return
        if self.machine.state in (State.PROMOTING, State.FOLLOWING):
            raise Refused("this pool is switching itself")
        pool = self.pool_at(address)
        answers = self.watch.ask_all([pool], _CHOICE_S)
        if not answers:
            raise Refused(f"{pool.describe()} does not answer")
        if pool is self.cluster.primary:
            return  # somebody else was quicker: told and asked at the same time
        known = self.watch.known
        if answers[0].in_recovery:
            raise Refused(f"{pool.describe()} is a standby")
        if known.system and (answers[0].system != known.system or answers[0].timeline < known.timeline):
            raise Refused(f"{pool.describe()} is of another cluster, or on an older timeline than the primary")
        log.warning("%s is the primary, as this pool was told", pool.describe())
        self.write(
            primary=pool.address, target=None, former=self._former_beside(pool), timeline=answers[0].timeline,
            system=answers[0].system,
        )  # fmt: skip
        self.machine.begin_anew()
        self.holding.end()
        self.cluster.switch(pool)
        self.watch.begin_anew()
        self.watch.learn(answers[0])
        self._noted()

    def _noted(self) -> None:
        self.switched_at = time.time()
        self.switches += 1

    def _remember(self) -> None:
        known = self.watch.known
        self.write(
            primary=self.cluster.primary.address, timeline=known.timeline, system=known.system, written=known.written,
            sync=known.sync, members=known.members,
        )  # fmt: skip

    def write(self, **values: Any) -> bool:
        """Whether it was written. It holds for this pool in any case, as long as that runs."""
        self.file.change(**values)
        error = gevent.get_hub().threadpool.apply(self.file.save)
        if error and self._unwritable != error:
            log.error("%s: nothing is promoted until it can be", error)
        self._unwritable = error
        return not error

    # --- what the machine says ---------------------------------------------------------------------------------------

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            if action is Action.HOLD:
                self.cluster.primary.hold()
            elif action is Action.RELEASE:
                log.info("%s answers again", self.cluster.primary.describe())
                self._refusing.clear()
                self.cluster.primary.release()
                self.holding.look()
            elif action is Action.SWITCH:
                gevent.spawn(self._replace)

    def happened(self, event: Event) -> None:
        """Tell the machine, and do what it says."""
        self._act(self.machine.happened(event, time.monotonic()))

    def _replace(self) -> None:
        """Choose, promote, switch."""
        try:
            refusal = self._try_to_replace()
        except Exception as error:  # whatever it is, the primary is still to be watched
            log.exception("the primary could not be replaced")
            refusal = f"internal error: {error!r}"
            if self.machine.state is State.FOLLOWING:  # it was, and what failed came after that
                self.happened(Event.DONE)
                return
        if refusal:
            if self.is_news(self.cluster.primary, refusal):
                log.error("the primary is not replaced: %s", refusal)
            self.machine.refusal = refusal
            self.happened(Event.REFUSED)

    def _try_to_replace(self) -> str | None:
        """Why not, or None when it is done."""
        old, began = self.cluster.primary.describe(), time.monotonic()
        failed_for_s = began - self.machine.failing_since
        standbys = list(self.cluster.standbys)
        answers = self.watch.ask_all(standbys, _CHOICE_S)
        refusal = choice.witness(answers, len(standbys), self.not_the_primary())
        if refusal:
            return refusal
        found = self._choose(answers)
        if isinstance(found, str):
            return found
        if self.machine.state is not State.CHOOSING:
            return None  # it has answered meanwhile
        # Who is told to follow the chosen one has to be told to come back, should it not be promoted.
        pending = {*self.file.state.pending, *(Address(*each.address) for each in found.others)}
        if not self.write(target=found.chosen.address, written=self.watch.known.written, pending=tuple(pending)):
            self.file.change(target=None)
            return "the state file cannot be written"
        refusal = self.following.before(found) if found.chosen.in_recovery else None
        if refusal or self.machine.state is not State.CHOOSING:
            self.write(target=None)
            return refusal
        self.happened(Event.CHOSEN)
        self.following.beside(found)
        log.warning("%s has not answered for %.1f s: it is replaced", old, failed_for_s)
        log.warning("%s is promoted: %s", found.chosen.name, _reasons(found))
        try:
            self.promote(found.chosen)
        except acts.NotTold as error:
            self._refusing.add(found.chosen.number)
            self.write(target=None)
            self.machine.no_way_back = False
            return str(error)
        except acts.NotPromoted as error:
            self.not_promoted(found.chosen)
            return str(error)
        promoted_s = time.monotonic() - began
        self.switched(self.pool_of(found.chosen), found)
        self.last_switch = (
            f"{old} was gone; {found.chosen.name} was promoted in {promoted_s:.2f} s, "
            f"{time.monotonic() - began + failed_for_s:.2f} s after the first failure; {_lost(found)}"
        )
        log.warning("%s", self.last_switch)
        return None

    def promote(self, chosen: Answer) -> None:
        """Tell it to be the primary, and wait until it is.

        raises   acts.NotPromoted
        """
        conf = self.settings
        acts.promote(self.admin, chosen, conf.lo_oid, conf.trigger_file, conf.ha_promote_timeout)

    def _choose(self, answers: list[Answer]) -> Choice | str:
        promoted = [each for each in answers if choice.is_promoted(each, self.watch.known)]
        if len(promoted) > 1:
            return "more than one standby was promoted by somebody else"
        if promoted:
            others = tuple(each for each in answers if each is not promoted[0])
            return Choice(promoted[0], False, max(0, self.watch.known.written - promoted[0].has), others, ())
        # One that refuses to be the primary is tried again when there is nobody else.
        willing = [each for each in answers if each.number not in self._refusing]
        order = [pool.number for pool in self.cluster.standbys]
        found = choice.choose(willing, self.watch.known, order)
        if isinstance(found, str):
            return choice.choose(answers, self.watch.known, order)
        rest = tuple(each for each in answers if each.number in self._refusing)
        return found._replace(others=(*found.others, *rest))

    def not_promoted(self, chosen: Answer) -> None:
        """It may still become a primary at any moment, so it is none of the standbys any more, and the old primary is
        not trusted until it is known what has become of it."""
        pool = self.pool_of(chosen)
        self.cluster.leave_out(pool)
        self.write(former=(*self.file.state.former, pool.address))

    def not_the_primary(self) -> set[tuple[str, int]]:
        """Addresses of servers from which one may be fed without the primary being there."""
        pools = {*self.cluster.standbys, *self.cluster.former} - {self.cluster.primary}
        return {pool.address for pool in pools}

    def pool_of(self, answer: Answer) -> Pool:
        """The pool of the server that has answered."""
        return next(pool for pool in [*self.cluster.pools, *self.cluster.former] if pool.number == answer.number)

    def switched(self, pool: Pool, found: Choice | None) -> None:
        """`pool` is the primary: remember it, have statements go there, and the others follow."""
        pending = tuple(each.address for each in self.cluster.standbys if each is not pool)
        self.write(primary=pool.address, target=None, former=self._former_beside(pool), pending=pending)
        self.holding.end()
        self.cluster.switch(pool)
        self._noted()
        self._refusing.clear()
        self.happened(Event.PROMOTED)
        self.peers.tell(self.settings.peers, Address(*pool.address))
        self.watch.begin_anew()
        self.watch.known = self.watch.known._replace(members=())
        if found is not None:
            names = [each.application_name for each in found.others if each.in_recovery]
            self.following.keep_satisfiable(found.chosen, names)
            self.following.after(found)
        self.happened(Event.DONE)

    def _former_beside(self, primary: Pool) -> tuple[Address, ...]:
        """Who was the primary and is not any more, when this one is."""
        was = (*self.file.state.former, Address(*self.cluster.primary.address))
        return tuple(each for each in was if each != primary.address)


def _reasons(found: Choice) -> str:
    chosen = found.chosen
    kind = "a synchronous standby, " if found.is_sync else ""
    return f"{kind}on timeline {chosen.timeline} up to {freshness.shown(chosen.has)}; {_lost(found)}"


def _lost(found: Choice) -> str:
    if not found.missing:
        return "it had all that the old primary was seen to have"
    return f"the old primary was seen to have {found.missing} bytes of WAL more"
