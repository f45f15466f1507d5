"""What opaque statements were found to leave in their sessions: learned when they run, by shape.

Pure. The text of an opaque statement does not show what it sets; its first runs do, when the backend is asked behind
them. A shape that has left something is followed from then on: its backend is asked each time. One that left nothing is
asked about for a few runs, and then after the 8th, 16th, 32nd …: what a function sets may depend on its arguments.
Bounded: a digest and two words per shape, forgotten first where nothing was left.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from lib.route.verdict import Kind, Verdict

MAX_SHAPES = 2000
_ASKED_RUNS = 4
_MAX_REASONS = 3  # of what was left, named in the reason of a verdict

# What lasts longer than DISCARD ALL (see backend/traces), and what is no setting: then the class is session's own.
SPOILING = frozenset({"a temporary replication slot"})
SETTING = "setting "


def _digest(shape: bytes) -> bytes:
    return hashlib.blake2b(shape, digest_size=16).digest()


class Learned:
    """What is known of the opaque statements of one database.

    max_shapes   how many are remembered
    """

    def __init__(self, max_shapes: int = MAX_SHAPES) -> None:
        self._max_shapes = max_shapes
        self._runs: dict[bytes, int] = {}  # of shapes that have left nothing so far
        self._left: dict[bytes, tuple[str, ...]] = {}

    def __repr__(self) -> str:
        return f"<Learned {len(self._left)} shapes leave something, {len(self._runs)} nothing>"

    def is_due(self, shape: bytes) -> bool:
        """Count a run of `shape`: True when its backend should be asked what it has left (runs 1 to 4, 8, 16 …)."""
        key = _digest(shape)
        if key in self._left:
            return False
        runs = self._runs.get(key, 0) + 1
        if key not in self._runs and len(self._runs) + len(self._left) >= self._max_shapes:
            oldest: dict = self._runs or self._left
            del oldest[next(iter(oldest))]
        self._runs[key] = runs
        return runs <= _ASKED_RUNS or runs & (runs - 1) == 0

    def left(self, shape: bytes, traces: Sequence[str]) -> bool:
        """Remember that a run of `shape` has left `traces` (as backend.traces reads them): True when that is new."""
        key = _digest(shape)
        if not traces or key in self._left:
            return False
        self._runs.pop(key, None)
        if len(self._left) >= self._max_shapes:
            del self._left[next(iter(self._left))]
        self._left[key] = tuple(traces)
        return True

    def changed(self) -> None:
        """The catalog was changed: what has left nothing so far may do so now, and is asked from its first run on."""
        self._runs.clear()

    def apply(self, shape: bytes, verdict: Verdict) -> Verdict:
        """The verdict of a text of `shape`, with what was learned of it."""
        if verdict.kind is not Kind.OPAQUE or not self._left:
            return verdict
        traces = self._left.get(_digest(shape))
        if traces is None:
            return verdict
        more = "" if len(traces) <= _MAX_REASONS else f" and {len(traces) - _MAX_REASONS} more"
        return replace(
            verdict,
            follows=True,
            holds=verdict.holds or not SPOILING.isdisjoint(traces),
            session=verdict.session or any(not trace.startswith(SETTING) for trace in traces),
            spoils=verdict.spoils or not SPOILING.isdisjoint(traces),
            reason=f"was found to leave {', '.join(traces[:_MAX_REASONS])}{more} in its session",
        )
