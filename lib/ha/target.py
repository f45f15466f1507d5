"""A standby that was to be the primary, and nobody knows what has become of that.

Green. The pool was killed in the middle, the promotion has failed, or a planned switch has after the old primary was
told how to come back. Nothing was announced, so that the switch can be completed as well as undone: which of both is
decided by what the servers are, and not by what was done last. Until the standby has answered nothing is sent to the
old primary either.
"""

from __future__ import annotations

import logging
import time
from math import inf
from typing import TYPE_CHECKING

import gevent

from lib.errors import AdminQueryFailed, PoolError
from lib.ha import acts, choice
from lib.ha.choice import Answer, Choice
from lib.ha.machine import Event, State

if TYPE_CHECKING:
    from lib.backend.pool import Pool
    from lib.ha.executor import Guardian

log = logging.getLogger(__name__)

_ASK_S = 2.0
_NOBODY_S = 5.0  # how long a target that should be the primary may be silent while the old one is a standby


class Target:
    """What is to become of the target that the state file names."""

    def __init__(self, guardian: Guardian) -> None:
        self._ha = guardian
        self._is_settling = False
        self._nobody_since = inf  # since when the old primary is a standby, and nobody is the primary

    def __repr__(self) -> str:
        return f"<Target {self._ha.file.state.target}>"

    def settle(self) -> None:
        """See what has become of the target; nothing was announced yet, so it can be either completed or undone."""
        target = self._ha.file.state.target
        if target is None or self._is_settling or self._ha.machine.state is not State.DOUBTING:
            return
        self._is_settling = True
        gevent.spawn(self._look_at_target, self._ha.pool_at(target))

    def _look_at_target(self, pool: Pool) -> None:
        try:
            old = self._ha.cluster.primary
            answers = {answer.number: answer for answer in self._ha.watch.ask_all([pool, old], _ASK_S)}
            if self._ha.machine.state is State.DOUBTING:
                self._decide_on_target(pool, answers.get(pool.number), answers.get(old.number))
        finally:
            self._is_settling = False

    def _decide_on_target(self, pool: Pool, target: Answer | None, old: Answer | None) -> None:
        if target is not None and not target.in_recovery and target.timeline > self._ha.watch.known.timeline:
            log.warning("%s was promoted: the switch that had begun is completed", target.name)
            self._ha.machine.state = State.PROMOTING
            self._complete(pool, target)
        elif old is not None and old.in_recovery:
            self._decide_between_standbys(pool, target, old)
            return
        elif target is None:
            if self._ha.is_news(pool, "target is silent"):
                log.error(
                    "%s may have been promoted and does not answer: nothing is sent to the old primary until it does. "
                    "(If you know that it was not promoted, stop the pool and remove the line `target` from %s.)",
                    pool.describe(), self._ha.file.path,
                )  # fmt: skip
        elif target.in_recovery and old is not None and target.receiver is not None and target.receiver.is_connected:
            self._undo(pool, target, old)
        self._nobody_since = inf

    def _decide_between_standbys(self, pool: Pool, target: Answer | None, old: Answer) -> None:
        """A planned switch, and the old primary is a standby already: it has ended, and nothing is missing."""
        ha, now = self._ha, time.monotonic()
        rest = ha.watch.ask_all([each for each in ha.cluster.standbys if each is not pool], _ASK_S)
        sender = old.receiver if old.receiver is not None and old.receiver.is_connected else None
        is_led = sender is not None and (sender.host, sender.port) != pool.address
        if is_led or any(choice.is_promoted(each, ha.watch.known) for each in rest):
            self._nobody_since = inf  # somebody else has made another one the primary, which will be found
            return
        if ha.machine.state is not State.DOUBTING:
            return
        self._nobody_since = min(self._nobody_since, now)
        was_tried = pool in ha.cluster.former  # and may be promoted yet
        if target is not None and target.in_recovery and target.has >= old.has and not was_tried:
            log.warning("%s is a standby, too: the switch that had begun is completed", old.name)
            if self._promote(target):
                self._complete(pool, target)
                return
        if now - self._nobody_since > _NOBODY_S:
            self._go_back(pool, old)

    def _promote(self, server: Answer) -> bool:
        machine = self._ha.machine
        machine.state = State.PROMOTING  # so that nobody else is chosen meanwhile
        try:
            self._ha.promote(server)
        except acts.NotPromoted as error:
            log.error("it could not be: %s", error)
            machine.no_way_back = True
            self._ha.happened(Event.REFUSED)
            return False
        return True

    def _undo(self, pool: Pool, target: Answer, old: Answer) -> None:
        try:
            if not self.have_stay(old):
                return
        except AdminQueryFailed as error:
            log.error(
                "%s could not be told to stay the primary: remove standby.signal from its data directory, or it will "
                "start as a standby: %s", old.name, error,
            )  # fmt: skip
        except PoolError as error:
            log.info("%s could not be told to stay the primary: %s", old.name, error)
            return
        log.warning("%s was not promoted: the switch that had begun is undone", target.name)
        self._ha.write(target=None, former=self._ha.without("former", pool))
        self._ha.cluster.rejoined(pool)
        self._ha.machine.no_way_back = False

    def have_stay(self, old: Answer) -> bool:
        """Have an old primary be one after its next start, too; False when it is none any more.

        raises   PoolError
        """
        if not acts.is_primary(self._ha.admin, old.address):
            return False
        acts.stay_primary(self._ha.admin, old)
        return True

    def _complete(self, pool: Pool, target: Answer) -> None:
        rest = [each for each in self._ha.cluster.standbys if each is not pool]
        others = tuple(self._ha.watch.ask_all(rest, _ASK_S))
        self._ha.switched(pool, Choice(target, False, 0, others, ()))

    def _go_back(self, pool: Pool, old: Answer) -> None:
        """Nothing was announced, so that the old primary can as well be the next one. If the target is promoted later,
        nothing is sent to it."""
        log.error("%s cannot take its place: %s is to be the primary again", pool.describe(), old.name)
        if pool not in self._ha.cluster.former:
            self._ha.cluster.leave_out(pool)
            self._ha.write(former=(*self._ha.file.state.former, pool.address))
        if self._promote(old):
            self._nobody_since = inf
            self._complete(self._ha.cluster.primary, old)
