"""A standby that was told to be the primary, and nobody knows what has become of that.

Green. The pool was killed in the middle, or the promotion has failed. Nothing was announced, so that the switch can be
completed as well as undone; but until the standby has answered nothing is sent to the old primary either.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import gevent

from lib.ha import acts
from lib.ha.choice import Answer, Choice
from lib.ha.machine import State

if TYPE_CHECKING:
    from lib.backend.pool import Pool
    from lib.ha.executor import Guardian

log = logging.getLogger(__name__)

_ASK_S = 2.0


class Target:
    """What is to become of the target that the state file names."""

    def __init__(self, guardian: Guardian) -> None:
        self._ha = guardian
        self._is_settling = False

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
        if target is None:
            if self._ha.is_news(pool, "target is silent"):
                log.error(
                    "%s may have been promoted and does not answer: nothing is sent to the old primary until it does. "
                    "(If you know that it was not promoted, stop the pool and remove the line `target` from %s.)",
                    pool.describe(), self._ha.file.path,
                )  # fmt: skip
        elif not target.in_recovery and target.timeline > self._ha.watch.known.timeline:
            log.warning("%s was promoted: the switch that had begun is completed", target.name)
            self._complete(pool, target)
        elif target.in_recovery and old is not None and old.in_recovery and target.has >= old.has:
            # A planned switch, and the old primary is a standby already.
            log.warning("%s is a standby, too: the switch that had begun is completed", old.name)
            try:
                self._ha.promote(target)
            except acts.NotPromoted as error:
                log.error("it could not be completed: %s", error)
            else:
                self._complete(pool, target)
        elif target.in_recovery and target.receiver is not None and target.receiver.is_connected:
            log.warning("%s was not promoted: the switch that had begun is undone", target.name)
            self._ha.write(target=None, former=self._ha.without("former", pool))
            self._ha.cluster.rejoined(pool)
            self._ha.machine.no_way_back = False

    def _complete(self, pool: Pool, target: Answer) -> None:
        rest = [each for each in self._ha.cluster.standbys if each is not pool]
        others = tuple(self._ha.watch.ask_all(rest, _ASK_S))
        self._ha.machine.state = State.PROMOTING
        self._ha.switched(pool, Choice(target, False, 0, others, ()))
