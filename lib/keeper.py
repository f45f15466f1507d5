"""Keeps the limits of frontends that are a matter of time, in one look at all of them every so often.

Green. What is due is decided in `lib.patience`.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import gevent

from lib.backend.unit import Unit
from lib.errors import IdleInTransactionTooLong
from lib.frontend import Frontend
from lib.patience import Enough, Limits, Seen
from lib.route.masked import masked
from lib.sessions import SessionFrontend
from lib.turns import in_slices

if TYPE_CHECKING:
    from lib.arrival import Arrivals
    from lib.config import Settings

log = logging.getLogger(__name__)

_NOTHING_TO_DO_S = 1.0


class Keeper:
    """The limits of running statements and idle transactions: query_timeout, idle_in_transaction_timeout."""

    def __init__(self, settings: Settings, arrivals: Arrivals) -> None:
        self._settings = settings
        self._arrivals = arrivals
        self._seen: dict[int, Seen] = {}

    def __repr__(self) -> str:
        return f"<Keeper {self._limits} frontends={len(self._seen)}>"

    @property
    def _limits(self) -> Limits:
        settings = self._settings
        return Limits(settings.query_timeout, settings.idle_in_transaction_timeout, settings.log_min_duration)

    def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            limits = self._limits
            gevent.sleep(limits.interval_s or _NOTHING_TO_DO_S)
            try:
                self.look(limits)
            except Exception:  # whatever it is, the others still have their limits
                log.exception("not all limits could be kept")

    def look(self, limits: Limits) -> None:
        """Look at everybody once."""
        if not limits.interval_s:
            self._seen.clear()
            return
        before, self._seen = self._seen, {}
        for pid, frontend in in_slices(list(self._arrivals.frontends.items())):
            if not isinstance(frontend, (Frontend, SessionFrontend)) or frontend.is_gone:
                continue
            seen = self._seen[pid] = before.get(pid) or Seen()
            doing, mark, now = *frontend.doing(), time.monotonic()
            ran_s = seen.slow_s(doing, mark, now, limits)
            if ran_s:
                _log_slow(frontend, seen.mark, ran_s)
            enough = seen.look(doing, mark, now, limits)
            if enough is Enough.CANCEL:
                log.warning("%r: a statement has run for longer than query_timeout and is canceled", frontend)
                frontend.cancel_late(limits.running_s)
            elif enough is Enough.END:
                log.warning("%r: idle in a transaction for longer than idle_in_transaction_timeout", frontend)
                frontend.end(
                    IdleInTransactionTooLong("terminating connection due to idle-in-transaction timeout")
                )


def _log_slow(frontend: Frontend | SessionFrontend, mark: object, ran_s: float) -> None:
    # In session mode the pool does not know the text.
    texts, where = "", dict[str, object]()
    if isinstance(mark, Unit):
        texts = "; ".join(map(masked, mark.texts))
        where = getattr(mark.worker, "log_fields", {})
    fields = {**frontend.log_fields, **where, "seconds": round(ran_s, 3), "statement": texts}
    extra = {"fields": fields}
    log.info("%r: a statement took about %.2f s: %s", frontend, ran_s, texts or "(session mode)", extra=extra)
