"""What halts a worker: a cancel request that may still be on its way, a primary that is doubted.

Green. Meanwhile nothing is sent to the backend: a CancelRequest would meet whatever comes next, and a server that is
given up must not have run what another one is given then. What there is to be sent waits here, and may still be taken
back. `Worker` is the only one that is Halting.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import gevent

from lib.backend import dialogue
from lib.backend.settling import Settling
from lib.backend.unit import Unit, Visit
from lib.backend.upkeep import State

if TYPE_CHECKING:
    from lib.answering import Behind
    from lib.backend.roster import Roster
    from lib.tlsfiles import Approach

_CANCEL_TIMEOUT_S = 10.0


class Halting(Settling):
    """What halts a worker.

    key   (pid, secret) of its backend
    """

    __slots__ = ("_after_cancel", "_is_held", "key")

    def __init__(self, roster: Roster, backend: dialogue.Backend) -> None:
        super().__init__(roster, backend)
        self.key = backend.key
        self._is_held = False
        self._after_cancel: Unit | Visit | None = None  # waits until nothing halts the worker any more

    @abstractmethod
    def _put(self, unit: Unit | Visit) -> None:
        """Have `unit` run."""

    @property
    def approach(self) -> Approach | None:
        """How a cancel request gets there: encrypted if the backend's own connection is."""
        return self.roster.cluster.approach if self.stream.is_encrypted else None

    # --- cancelling --------------------------------------------------------------------------------------------------

    def cancel(self, unit: Unit, behind: Behind | None = None) -> None:
        """Cancel `unit` and nothing else: until the cancel connection was closed by the server and the unit has
        answered, nothing is sent to this backend.

        behind   what is meant where the unit ends before the server could be asked
        """
        if self.drop_rider(unit):
            # It need not be told: a read that nobody waits for does no harm.
            unit.frontend.canceled(unit)
            return
        if unit not in self.in_flight:
            return
        if (unit.open or unit.cut) and unit.frontend.streaming.puts_off_cancel(unit):
            return
        self.move_riders()
        self.cancels += 1
        gevent.spawn(self._cancel, unit, behind)

    def _cancel(self, unit: Unit, behind: Behind | None) -> None:
        came_late = False

        def is_wanted() -> bool:
            nonlocal came_late
            came_late = not self.in_flight or self.in_flight[0] is not unit
            return not came_late

        certain = dialogue.cancel(self.roster.address, self.key, _CANCEL_TIMEOUT_S, is_wanted, self.approach)
        if not certain and self.state is not State.CLOSED:
            self.close("a cancel request was sent to it and nobody knows when it will arrive")
        elif came_late and behind is not None:
            unit.frontend.cancel_behind(unit, behind)
        self._go_on()

    def _go_on(self) -> None:
        """A reason not to send anything to the backend is gone; the last one lets it go on."""
        self.cancels -= 1
        if self.state is not State.CLOSED and not self.cancels:
            resume, self._resume = self._resume, None
            if resume is not None:
                resume()
            elif (waiting := self._after_cancel) is not None:
                self._after_cancel = None
                self._put(waiting)

    def parked(self, before: float) -> Unit | None:
        """The unit of its holder that has waited since `before` for being sent."""
        unit = self._after_cancel if self.holder is not None else None
        return unit if isinstance(unit, Unit) and unit.queued_at < before else None

    def take_back(self, unit: Unit) -> bool:
        """Whether its holder's unit still waits for being sent: then it does so no more."""
        if self._after_cancel is not unit:
            return False
        self._after_cancel = None
        self.state = State.HELD
        return True

    # --- a primary that is doubted -----------------------------------------------------------------------------------

    def hold(self) -> None:
        """Nothing more is sent to the backend, as behind a cancel request that may still be on its way."""
        if not self._is_held:
            self._is_held = True
            self.cancels += 1
            self.close_batch()
            self.stream.cork()
            if self.state is State.IDLE:
                self.reclaim()

    @property
    def is_between(self) -> bool:
        """Nothing is under way: it is idle, or held for a session that is between two transactions."""
        if self.in_flight or self.cancels > self._is_held:
            return False
        return self.state is State.IDLE or (self.holder is not None and self.holder.status == b"I")

    @property
    def is_quiet(self) -> bool:
        """Nothing is under way, and nothing more is sent to it."""
        return self._is_held and not self.in_flight

    def release(self) -> None:
        if self._is_held:
            self._is_held = False
            self.stream.uncork()
            self._go_on()
