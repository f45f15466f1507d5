"""Who follows whom: the other standbys are told of the new primary, and those that never can follow it are found.

Green. An old primary that comes back feeds whoever still asks it, and a standby that has replayed that can never follow
the new primary. So the others are told before there is one: they follow the chosen standby, which is promoted after
that. Before PostgreSQL 13 that takes a restart, which is begun together with the promotion, as there is a way back
until then. Who could not be told then is told later, and may have gone another way meanwhile: it is left out, and the
primary does not wait for it at commit.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import gevent

from lib.addresses import Address
from lib.errors import PoolError
from lib.ha import acts, choice, history, survey
from lib.ha.choice import Answer, Choice
from lib.ha.conninfo import NotAConninfo

if TYPE_CHECKING:
    from gevent import Greenlet

    from lib.backend.pool import Pool
    from lib.ha.executor import Guardian

log = logging.getLogger(__name__)

_TELL_S = 2.0  # how long a promotion waits for the other standbys to be told


class Following:
    """Has standbys follow the primary.

    busy   servers that something is done to
    why    of servers that are left out: what has become of them
    """

    def __init__(self, guardian: Guardian) -> None:
        self._ha = guardian
        self.busy: set[Pool] = set()
        self.why: dict[Pool, str] = {}
        self._begun: dict[int, Greenlet] = {}  # number -> whether it was told, beside a promotion
        self._names: dict[Pool, str] = {}  # what standbys are known by to a primary
        self._astray: set[Pool] = set()
        self._made: dict[Pool, set[str]] = {}  # slots on standbys that were to be promoted
        self._forks: tuple[int, dict[int, int]] = 0, {}  # of the primary's timeline, and which that is

    def __repr__(self) -> str:
        return f"<Following busy={len(self.busy)} astray={len(self._astray)}>"

    # --- with a promotion --------------------------------------------------------------------------------------------

    def before(self, found: Choice) -> str | None:
        """Have the other standbys follow the chosen one: why that is not to be promoted now, or None.

        The primary is asked for no more: it can have come back, and given one of them more than the chosen one has.
        """
        gevent.killall(list(self._begun.values()), block=False)
        others = [each for each in found.others if each.in_recovery and each.version >= acts.RELOADS_CONNINFO]
        self._begun = self._begin(others, found)
        gevent.joinall(list(self._begun.values()), timeout=_TELL_S)
        told = [each for each in others if self._begun[each.number].value]
        if not told:
            return None
        asked = [gevent.spawn(self._ask, each) for each in (found.chosen, *told)]
        gevent.joinall(asked, timeout=_TELL_S)
        chosen, *answers = [each.value for each in asked]
        present = [each for each in (chosen, *answers) if each is not None]
        refusal = choice.witness(present, len(asked), self._ha.not_the_primary())
        if refusal:
            return refusal
        ahead = next((each for each in present if chosen is not None and each.has > chosen.has), None)
        return f"{ahead.name} has got more WAL meanwhile than {found.chosen.name} has" if ahead is not None else None

    def beside(self, found: Choice) -> None:
        """There is no way back: begin to restart those who need that to follow."""
        older = [each for each in found.others if each.in_recovery and each.version < acts.RELOADS_CONNINFO]
        self._begun |= self._begin(older, found)

    def after(self, found: Choice) -> None:
        """It is the primary: whoever was not told is."""
        begun, self._begun = self._begun, {}
        self._made.pop(self._ha.cluster.primary, None)
        for each in found.others:
            gevent.spawn(self._complete, self._ha.pool_of(each), each, begun.get(each.number))

    def _begin(self, others: list[Answer], found: Choice) -> dict[int, Greenlet]:
        to = Address(*found.chosen.address)
        return {each.number: gevent.spawn(self._tell, self._ha.pool_of(each), each, to) for each in others}

    def _complete(self, pool: Pool, answer: Answer, begun: Greenlet | None) -> None:
        if begun is not None and begun.get():
            self._ha.write(pending=self._ha.without("pending", pool))
        else:
            self.have_follow(pool, answer)

    def _ask(self, server: Answer) -> Answer | None:
        try:
            return self._ha.watch.ask(self._ha.pool_of(server))
        except PoolError:
            return None

    # --- while the primary is well -----------------------------------------------------------------------------------

    def have_follow(self, pool: Pool, answer: Answer) -> None:
        """Have a standby follow the primary."""
        if answer.in_recovery and self._tell(pool, answer, Address(*self._ha.cluster.primary.address)):
            self._ha.write(pending=self._ha.without("pending", pool))

    def _tell(self, pool: Pool, answer: Answer, to: Address) -> bool:
        self.busy.add(pool)
        try:
            if acts.follow(self._ha.admin, answer, to, answer.slot, self._ha.settings.ha_restart_command):
                self.has_made(self._ha.pool_at(to), answer.slot)
        except (PoolError, NotAConninfo, acts.CannotRestart) as error:
            if self._ha.is_news(pool, f"cannot follow: {error}"):
                log.error("%s could not be told to follow %s: %s", pool.describe(), to, error)
            return False
        finally:
            self.busy.discard(pool)
        log.info("%s was told to follow %s", pool.describe(), to)
        return True

    def has_made(self, pool: Pool, slot: str) -> None:
        """A slot, on a server that is to be the primary: it goes when that is not."""
        if pool is not self._ha.cluster.primary:
            self._made.setdefault(pool, set()).add(slot)

    def _drop_slots(self, pool: Pool) -> None:
        try:
            if acts.drop_unused_slots(self._ha.admin, pool.address, sorted(self._made[pool])):
                del self._made[pool]
        except PoolError as error:
            log.info("slots of %s that are for nobody are dropped later: %s", pool.describe(), error)
        finally:
            self.busy.discard(pool)

    def look(self, pool: Pool, answer: Answer) -> None:
        """See to a server that is in recovery: whether it keeps slots for nobody, or has gone another way than the
        primary."""
        self._names[pool] = answer.application_name
        if pool in self._made:
            self.busy.add(pool)
            gevent.spawn(self._drop_slots, pool)
            return
        timeline = self._ha.watch.known.timeline
        if timeline > 1 and self._forks[0] != timeline:
            self._forks = timeline, {}
            gevent.spawn(self._learn_forks, timeline)
        if pool not in self._astray and history.beyond(answer.timeline, answer.replayed, self._forks[1]):
            self.busy.add(pool)
            gevent.spawn(self._leave_out_if_sure, pool, answer)

    def _learn_forks(self, timeline: int) -> None:
        try:
            forks = survey.forks_of(self._ha.admin, self._ha.cluster.primary.address, timeline)
        except PoolError as error:
            log.info("the primary could not be asked where its timeline began: %s", error)
            forks = {}
        self._forks = (timeline, forks) if forks else (0, {})

    def astray(self, pool: Pool, answer: Answer) -> str | None:
        """How a standby has gone another way than the primary, by what it says now; None when it has not, or that is
        not sure.

        raises   PoolError
        """
        primary = self._ha.cluster.primary.address
        # What the control file says of a standby's timeline is too old for this.
        timeline = survey.timeline_of(self._ha.watch.walsender, pool.address)
        self._ha.watch.walsender.forget(pool.address)
        newest = survey.timeline_of(self._ha.watch.walsender, primary)
        self._ha.watch.walsender.forget(primary)
        return history.beyond(timeline, answer.replayed, survey.forks_of(self._ha.admin, primary, newest))

    def _leave_out_if_sure(self, pool: Pool, answer: Answer) -> None:
        primary = self._ha.cluster.primary
        try:
            how = self.astray(pool, answer)
            if how is None or primary is not self._ha.cluster.primary:
                return
            if pool in self._ha.cluster.standbys:
                self._ha.cluster.leave_out(pool)
                self._ha.write(
                    former=(*self._ha.file.state.former, pool.address), pending=self._ha.without("pending", pool)
                )
            self.why[pool] = f"{how}; {way_back(answer)}"
            if self._ha.is_news(pool, "astray"):
                log.error("server %s cannot follow, and is not used: %s", pool.address, self.why[pool])
            names = [self._names[each] for each in self._ha.cluster.standbys if each in self._names]
            self.keep_satisfiable(self._ha.watch.ask(primary), names)
            self._astray.add(pool)
        except PoolError as error:
            log.info("whether %s can follow is seen later: %s", answer.name, error)
        finally:
            self.busy.discard(pool)

    def is_back(self, pool: Pool) -> None:
        """It follows the primary again."""
        self._astray.discard(pool)
        self.why.pop(pool, None)

    def keep_satisfiable(self, primary: Answer, standbys: list[str]) -> None:
        """No commit may wait for standbys that do not follow: the primary has these."""
        try:
            changed = acts.keep_satisfiable(self._ha.admin, primary, standbys)
        except PoolError as error:
            log.error("synchronous_standby_names of %s could not be looked after: %s", primary.name, error)
            return
        if changed is not None:
            log.error(
                "%s has too few standbys for its synchronous_standby_names, which was %s and is %s now",
                primary.name, repr(primary.sync), repr(changed),
            )  # fmt: skip


def way_back(answer: Answer) -> str:
    """How a server that has gone another way can become a standby again."""
    if answer.can_rewind:
        return "pg_rewind can make a standby of it"
    return "pg_rewind cannot be used on it (wal_log_hints is off, and it has no checksums): it has to be made anew"
