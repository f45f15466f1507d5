"""What `explain route` says of a statement: what it is, where it would run, with whom it shares, and why.

Pure. It is told what the router knows of the text; nothing is run for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Protocol

from lib import modes
from lib.errors import PoolError
from lib.route.known import Known
from lib.route.verdict import Kind, Verdict

_CLASSES = {
    Kind.SHAREABLE: "a read that leaves nothing behind",
    Kind.WRITE: "it writes or locks, and leaves nothing behind in its session",
    Kind.TRANSACTION: "it begins, ends or presupposes a transaction",
    Kind.SETTING: "it changes settings of the session",
    Kind.SESSION: "it leaves something in the session",
    Kind.OPAQUE: "it could do anything",
    Kind.REFUSED: "it would answer with what another session has done",
}


class Server(Protocol):
    """What is looked at of a standby."""

    is_down: bool
    is_behind: bool

    def describe(self) -> str: ...


def explained(
    known: Known, mode: str, primary: Server, standbys: list[Server], rider_limit: float, error: PoolError | None
) -> Iterator[tuple[str, str]]:
    """(item, value) for each thing that there is to say.

    mode          pool mode of the frontend
    rider_limit   in seconds; not above 0 where nothing rides
    error         that it would be refused with
    """
    verdict = known.verdict
    yield "class", f"{verdict.kind.name.lower()}: {_CLASSES[verdict.kind]}"
    if verdict.reason:
        yield "because", f"the statement {verdict.reason}"
    if mode == modes.SESSION:
        yield "server", f"{primary.describe()}: in session mode all of a session is where it began"
        yield "worker", "the session's own"
        return
    if error is not None:
        yield "server", f"none: it is refused with {error.sqlstate}, {error.message}"
        if error.hint:
            yield "hint", error.hint
        return
    yield "server", _server(verdict, primary, standbys)
    yield "worker", _worker(known, mode, rider_limit)
    yield "afterwards", _afterwards(verdict)
    if known.rides:
        pace = "not known yet, or slow" if known.cost_s == inf else f"{known.cost_s * 1000:.3f} ms"
        yield "pace", pace


def _server(verdict: Verdict, primary: Server, standbys: list[Server]) -> str:
    if not verdict.standby:
        return f"{primary.describe()}: it does not begin with /*s*/"
    usable = [each for each in standbys if not (each.is_down or each.is_behind)]
    if not usable:
        why = "there is no standby" if not standbys else "every standby is down or too far behind"
        return f"{primary.describe()}: it begins with /*s*/, but {why}"
    return f"in turn {', '.join(each.describe() for each in usable)}: it begins with /*s*/"


def _worker(known: Known, mode: str, rider_limit: float) -> str:
    verdict = known.verdict
    if verdict.transaction and verdict.kind is not Kind.OPAQUE:
        return "held until the transaction is over"
    if verdict.session or (verdict.holds and verdict.kind is not Kind.SETTING):
        return "held until the client disconnects, or nothing of that is left"
    if not known.rides or mode == modes.TRANSACTION or rider_limit <= 0:
        return "alone, for this statement"
    if known.cost_s <= rider_limit:
        return "shared: it rides behind other reads, and they behind it"
    return "alone, for this statement, until reads of its shape are known to be quick"


def _afterwards(verdict: Verdict) -> str:
    if verdict.spoils:
        return "the worker is closed: DISCARD ALL does not undo it"
    if verdict.clean:
        return "the worker is cleaned (DISCARD ALL) before anybody else has it"
    if verdict.sets or verdict.resets or verdict.local_sets or verdict.local_resets:
        return "the worker is asked what has been set, which is the client's from then on"
    return "the worker is anybody's"
