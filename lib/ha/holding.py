"""Other pools have this one hold: they are about to stop the primary, and its clients' statements wait meanwhile.

Green. A hold is a lease: it ends LEASE_S after it was asked for last, so that nobody waits for a pool that has died in
the middle of its switchover. Everybody has one under a name of his own, and releases only that. What is under way ends
first, transactions too, as in the pool that switches. Before statements go on, because that was said or because a lease
has run out, the primary is asked whether it still is one: it may be a standby by now.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING

import gevent

from lib.errors import PoolError, ServerUnreachable

if TYPE_CHECKING:
    from lib.ha.executor import Guardian

log = logging.getLogger(__name__)

LEASE_S = 5.0
_LOOK_S = 0.005  # how often it is seen whether what is under way has ended
_QUIET_LOOK_S = 0.05
_ASK_S = 0.2
_COMES_OR_GOES = "57P03"
_REMEMBERED = 32


class CannotHold(Exception):
    """This pool does not hold for others; the message says why."""


class Holding:
    """Who has this pool hold.

    until      when each one's lease ends (time.monotonic())
    is_quiet   nothing is under way on the primary, and nothing begins
    is_own     this pool switches over by itself: it holds for nobody else
    """

    def __init__(self, guardian: Guardian) -> None:
        self._ha = guardian
        self.until: dict[str, float] = {}
        self.is_quiet = self.is_own = False
        self._over: deque[str] = deque(maxlen=_REMEMBERED)  # who held when another server became the primary
        self._is_ending = False  # nobody has a lease any more, and it is not known yet what has become of the primary
        self._asked_at = 0.0
        self._thread: gevent.Greenlet | None = None

    def __repr__(self) -> str:
        return f"<Holding {self.shown(time.monotonic())}{' quiet' if self.is_quiet else ''}>"

    def shown(self, now: float) -> str:
        """For whom, and for how long at least."""
        names = [f"{name or 'an administrator'} for {max(0.0, end - now):.1f} s" for name, end in self.until.items()]
        return ", ".join(names) or ("nobody knows who is the primary" if self._is_ending else "")

    def hold(self, name: str, now: float) -> None:
        """Begin nothing more on the primary, for LEASE_S from now on.

        raises   CannotHold
        """
        if self.is_own:
            raise CannotHold("this pool is switching over itself")
        if name and name in self._over:
            raise CannotHold(f"the switchover of {name} is over")
        if name not in self.until:
            log.info("statements wait: %s is about to replace the primary", name or "an administrator")
        self.until[name] = now + LEASE_S
        self.look()
        if self._thread is None:
            self._thread = gevent.spawn(self._run)

    def release(self, name: str) -> bool:
        """End a hold; whether there was one."""
        if self.until.pop(name, None) is None:
            return False
        log.info("%s does not have statements wait any more", name or "an administrator")
        self._is_ending = True
        return True

    def end(self) -> None:
        """Another server is the primary: what was held for that is over."""
        self._over.extend(self.until)
        self.until.clear()
        self.is_quiet = self._is_ending = False

    def look(self) -> None:
        """Hold what may be held by now. Called again when a primary in doubt was released."""
        if self._ha.machine.is_trusted and (self.until or self._is_ending):
            self.is_quiet = self._ha.cluster.primary.hold_gently()
        else:
            self.is_quiet = False

    def _go_on(self) -> None:
        self.is_quiet = self._is_ending = False
        self._asked_at = 0.0
        if self._ha.machine.is_trusted:
            self._ha.cluster.primary.release()

    def _run(self) -> None:
        try:
            while self.until or self._is_ending:
                gevent.sleep(_QUIET_LOOK_S if self.is_quiet else _LOOK_S)
                self.look()
                self._drop_overdue(time.monotonic())
                if self._is_ending and not self.until:
                    self._try_to_go_on(time.monotonic())
        finally:
            self._thread = None

    def _drop_overdue(self, now: float) -> None:
        for name, end in list(self.until.items()):
            if now >= end:
                del self.until[name]
                self._is_ending = True
                log.warning("%s was not heard of for %g s, and is not waited for", name or "an administrator", LEASE_S)

    def _try_to_go_on(self, now: float) -> None:
        if now - self._asked_at < _ASK_S:
            return
        self._asked_at = now
        doubt = self._doubt()
        if self.until or not self._is_ending:
            return  # meanwhile somebody has asked for it again, or has said who is the primary
        primary = self._ha.cluster.primary
        if not doubt:
            log.info("%s is still the primary: statements go on", primary.describe())
            self._go_on()
            return
        if self._ha.is_news(primary, doubt):
            log.warning("statements still wait: %s", doubt)
        self._ha.ask_peers()

    def _doubt(self) -> str:
        """Why the primary may be none any more, or nothing."""
        primary = self._ha.cluster.primary
        try:
            return f"{primary.describe()} is in recovery" if self._ha.watch.ask(primary).in_recovery else ""
        except ServerUnreachable as error:
            return str(error)
        except PoolError as error:
            return f"{error} {error.detail or ''}".strip() if error.sqlstate == _COMES_OR_GOES else ""
