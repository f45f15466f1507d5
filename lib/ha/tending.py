"""All that is to be done while the primary is well: standbys that have to be told something, former primaries that come
back.

Green. Decided from what `watch` has seen of each server; nothing of it is urgent, and all of it is tried again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import gevent

from lib.errors import PoolError
from lib.ha import acts
from lib.ha.choice import WANTED_TIMEOUT_S, Answer
from lib.ha.following import way_back
from lib.net import Address

if TYPE_CHECKING:
    from lib.backend.pool import Pool
    from lib.ha.executor import Guardian

log = logging.getLogger(__name__)


class Tending:
    """Looks after servers."""

    def __init__(self, guardian: Guardian) -> None:
        self._ha = guardian

    def __repr__(self) -> str:
        return f"<Tending {self._ha.following!r}>"

    def look(self) -> None:
        if not self._ha.machine.is_trusted:
            return
        self._ha.peers.keep(self._ha.settings.peers)
        for pool, seen in list(self._ha.watch.seen.items()):
            answer = seen.answer
            if answer is None or pool in self._ha.following.busy:
                continue
            if pool is self._ha.cluster.primary:
                self._prepare(pool, answer)
            elif pool in self._ha.cluster.former:
                self.look_at_former(pool, answer)
            elif pool in self._ha.cluster.standbys:
                self._look_at_standby(pool, answer)

    def _prepare(self, pool: Pool, answer: Answer) -> None:
        if answer.version >= acts.HAS_PG_PROMOTE or answer.in_recovery or not self._ha.is_news(pool, "large object"):
            return
        gevent.spawn(self._try_to, pool, "make a large object", acts.make_large_object, self._ha.settings.lo_oid)

    def _try_to(self, pool: Pool, what: str, act: Any, *args: Any) -> None:
        try:
            act(self._ha.admin, pool.address, *args)
        except PoolError as error:
            log.error("%s could not %s: %s", pool.describe(), what, error)

    def _look_at_standby(self, pool: Pool, answer: Answer) -> None:
        if not answer.in_recovery:
            log.error("%s is no standby any more, and is not used", pool.describe())
            self._ha.cluster.leave_out(pool)
            self._ha.write(former=(*self._ha.file.state.former, pool.address))
            return
        self._ha.following.look(pool, answer)
        if pool in self._ha.following.busy:
            return
        if pool.address in self._ha.file.state.pending:
            self._ha.following.busy.add(pool)
            gevent.spawn(self._ha.following.have_follow, pool, answer)
        else:
            self._look_at_timeout(pool, answer)

    def _look_at_timeout(self, pool: Pool, answer: Answer) -> None:
        timeout_s = answer.receiver_timeout_s
        if 0 < timeout_s <= WANTED_TIMEOUT_S or not self._ha.is_news(pool, f"timeout {timeout_s}"):
            return
        if self._ha.settings.ha_tune_standbys:
            value = f"{WANTED_TIMEOUT_S:g}s"
            log.info("%s: wal_receiver_timeout is set to %s", pool.describe(), value)
            gevent.spawn(self._try_to, pool, "be tuned", _set_timeout, value)
        else:
            log.warning(
                "%s has a wal_receiver_timeout of %g s: when the primary is frozen or cut off, nobody is promoted "
                "before that has passed (set it to %g s, or ha_tune_standbys)",
                pool.describe(), timeout_s, WANTED_TIMEOUT_S,
            )  # fmt: skip

    def look_at_former(self, pool: Pool, answer: Answer) -> None:
        receiver, known, following = answer.receiver, self._ha.watch.known, self._ha.following
        if answer.in_recovery:
            if receiver is not None and receiver.is_connected and answer.timeline >= known.timeline:
                log.info("server %s follows the primary: it is used as a standby", pool.address)
                self._ha.cluster.rejoined(pool)
                following.is_back(pool)
                slots = [seen.answer.slot for seen in self._ha.watch.seen.values() if seen.answer and seen.answer.slot]
                gevent.spawn(self._try_to, pool, "drop slots that nobody uses", acts.drop_unused_slots, slots)
                self._ha.write(former=self._ha.without("former", pool))
            elif self._ha.settings.enable_ha:
                following.look(pool, answer)
            return
        where = f"it is on timeline {answer.timeline}, and the primary on {known.timeline}"
        following.why[pool] = f"{where}; {way_back(answer)}"
        if self._ha.is_news(pool, "diverged"):
            log.error("server %s is no standby, and gets no statement: %s", pool.address, following.why[pool])


def _set_timeout(admin: Any, address: Address, value: str) -> None:
    acts.set_conf(admin, address, wal_receiver_timeout=value)
