"""What the pool does not run at all: what its settings reject, and what could only answer for another frontend.

Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.errors import FeatureRefused, PoolError, StatementRefused
from lib.route.verdict import Verdict

if TYPE_CHECKING:
    from lib.config import Settings


def refusal(verdict: Verdict, settings: Settings, holds_worker: bool) -> PoolError | None:
    """Why a statement is not run at all, or None.

    holds_worker   its frontend has one, which knows what it has drawn from sequences
    """
    if verdict.transaction and settings.transactions == "reject":
        return FeatureRefused(
            "transactions are not allowed through this pool",
            hint="Send the statements as one text, or have the pool's `transactions` set to 'allow'.",
        )
    if verdict.session and settings.session_features == "reject":
        return FeatureRefused(
            f"session features are not allowed through this pool: {verdict.reason}",
            hint="Have the pool's `session_features` set to 'allow', or connect to the server directly.",
        )
    if verdict.refusal is not None and not (verdict.currval and holds_worker):
        return StatementRefused(verdict.refusal.message, sqlstate=verdict.refusal.sqlstate, hint=verdict.refusal.hint)
    return None
