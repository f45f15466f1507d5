"""What commands show of the pool: rows made from what is there at the moment, one object after the other.

Green by what it points to; it changes nothing. A listing is a generator over a copy of who is there, so that the one
who sends its rows can let others have their turn in between.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from lib import __version__, ends, modes, net
from lib.backend.lease import Lease
from lib.backend.lease import State as LeaseState
from lib.backend.worker import State, Worker
from lib.console import commands
from lib.console.house import Caller, House, Row, reply
from lib.console.parsing import SPACE, Request
from lib.console.routes import Server, explained
from lib.console.shown import shape_shown, shown
from lib.errors import UnknownObject
from lib.frontend import Frontend
from lib.patience import Doing
from lib.route.refused import refusal
from lib.turns import in_slices

if TYPE_CHECKING:
    from lib.backend.pool import Pool
    from lib.console.pseudodb import PseudoFrontend
    from lib.presence import Presence
    from lib.sessions import SessionFrontend

_STATES = {Doing.RUNNING: "active", Doing.WAITING: "waiting"}
_IN_BLOCK = {b"T": "idle in transaction", b"E": "idle in transaction (aborted)"}


@reply("cmd")
def _cmd(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    for each in commands.TABLE:
        arguments = each.usage.removeprefix(each.words).strip()
        filters = "[where ...] [order by ...] [limit n]" if each.is_listing else ""
        yield each.words, f"{arguments} {filters}".strip(), each.privilege.value, each.help


@reply("show version")
def _version(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    yield (f"pgstmtpool {__version__}",)


# --- frontends -------------------------------------------------------------------------------------------------------


@reply("fe list")
def _fe_list(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    for presence in list(house.arrivals.presences.values()):
        yield _fe_row(presence)


def _fe_row(presence: Presence) -> Row:
    frontend, now = presence.frontend, time.time()
    stream = frontend.stream
    state, wait, kind, pending, worker = activity(frontend)
    pool = worker.roster.pool if worker is not None else None
    startup = presence.startup
    pairs = (("database", startup.database), ("user", startup.user), *startup.parameters)
    idle_s = ends.quiet_s(stream)[1] if state not in _STATES.values() else None
    return (
        frontend.key[0], presence.host, presence.port, startup.database, startup.user, shown(pairs), state, wait,
        round(now - presence.since, 3), idle_s, kind, pool.role if pool is not None else None,
        pool.number if pool is not None else None, worker.number if worker is not None else None, pending,
        stream.received, stream.sent, stream.pending, presence.mode, stream.is_encrypted, presence.since,
    )  # fmt: skip


class Activity(NamedTuple):
    """What a frontend does, as listings say it.

    wait      seconds that its statement has waited for a worker
    kind      class of the statement
    pending   statements behind it
    worker    Worker or Lease that runs it, or that the frontend holds
    """

    state: str
    wait: float | None
    kind: str | None
    pending: int
    worker: Any


def activity(frontend: Frontend | SessionFrontend | PseudoFrontend) -> Activity:
    what, _ = frontend.doing()
    worker = frontend.backend
    state = _STATES.get(what) or _IN_BLOCK.get(frontend.status) or ("held" if worker is not None else "idle")
    if not isinstance(frontend, Frontend) or (unit := frontend.unit) is None or frontend.is_between:
        return Activity(state, None, None, 0, worker)
    waits = what is Doing.WAITING and unit.queued_at
    wait = round(time.monotonic() - unit.queued_at, 6) if waits else None
    return Activity(state, wait, unit.verdict.kind.name.lower(), len(frontend.pending), worker)


# --- pools and workers -----------------------------------------------------------------------------------------------


def pool_of(house: House, number: int) -> Pool:
    """The pool of this id.

    raises   UnknownObject
    """
    pools = house.cluster.all_pools
    for pool in pools:
        if pool.number == number:
            return pool
    ids = ", ".join(str(pool.number) for pool in pools)
    raise UnknownObject(f"there is no pool {number}", hint=f"There are: {ids}.")


def workers_of(pool: Pool) -> list[Worker | Lease]:
    return [worker for crew in pool.all_crews for worker in crew.workers]


@reply("pool list")
def _pool_list(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    primary = house.cluster.primary
    for pool in house.cluster.all_pools:
        crews = pool.all_crews
        busy, held = sum(len(crew.busy()) for crew in crews), sum(crew.held for crew in crews)
        queue, starting = sum(len(crew.waiting) for crew in crews), sum(crew.starting for crew in crews)
        is_known = not pool.is_primary and primary.progress.lsn and pool.progress.lsn
        yield (
            pool.number, pool.is_primary, net.show_address(pool.address), sum(len(crew.workers) for crew in crews),
            pool.state, pool.role, house.cluster.replay.behind_s(pool),
            max(0, primary.progress.lsn - pool.progress.lsn) if is_known else None, queue, busy, held, starting,
            pool.failures,
        )  # fmt: skip


@reply("pool show")
def _pool_show(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    ids = request.values["id[,id...]"]
    pools = house.cluster.all_pools if ids is None else [pool_of(house, number) for number in dict.fromkeys(ids)]
    for pool in pools:
        for worker in workers_of(pool):
            yield _worker_row(pool, worker)


def _worker_row(pool: Pool, worker: Worker | Lease) -> Row:
    now = time.monotonic()
    if isinstance(worker, Worker):
        login, settings = worker.roster.login, shown(worker.group.settings)
        holder: Any = worker.holder
        in_flight, processed = len(worker.in_flight), worker.processed
        is_idle = worker.state is State.IDLE
        if holder is None and worker.in_flight:
            holder = getattr(worker.in_flight[0], "frontend", None)
        session = " for its session" if worker.session else ""
    else:
        login, settings, holder = worker.login, "", worker.holder
        in_flight, processed = int(not worker.course.is_idle), worker.processed
        is_idle, session = worker.state is LeaseState.IDLE, ""
    pairs = (("database", login.database), ("user", login.user), *login.packet)
    return (
        pool.number, worker.number, net.show_address(pool.address), login.database, login.user, shown(pairs), processed,
        worker.state.value + session + (", retiring" if worker.retiring else ""), in_flight,
        round(now - worker.started_at, 3), round(now - worker.idle_since, 3) if is_idle else None,
        round(worker.last_s, 6) if processed else None,
        holder.key[0] if holder is not None else None, worker.key[0], settings,
        time.time() - (now - worker.started_at),
    )  # fmt: skip


# --- top -------------------------------------------------------------------------------------------------------------


@reply("top")
def _top(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    found = [
        (each.calls * (each.runs.total / each.runs.count if each.runs else 0.0), database, shape, each)
        for database, router in house.cluster.routers()
        for shape, each in in_slices(router.shapes())
        if each.calls
    ]
    found.sort(key=lambda entry: entry[0], reverse=True)
    for total_s, database, text, each in found:
        mean_s = total_s / each.calls
        p99_s = each.runs.quantile(0.99) if each.runs else None
        yield (
            database, each.verdict.kind.name.lower(), each.calls, round(total_s * 1000, 3), round(mean_s * 1000, 3),
            None if p99_s is None else round(p99_s * 1000, 3), each.rows, round(each.wait_s * 1000, 3), each.rides,
            shape_shown(text),
        )  # fmt: skip


# --- explain route ---------------------------------------------------------------------------------------------------

_IN_DATABASE = re.compile(rf'(?:{SPACE})*+in\s+(?:"((?:[^"]|"")+)"|([^\s"]+))\s', re.IGNORECASE | re.DOTALL)


@reply("explain route")
def _explain_route(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    text = request.values["[in database] sql"]
    database, sql = _database_of(house, text)
    users = {who[1] for who in house.in_use() if who[0] == database}
    cluster, settings = house.cluster, house.settings
    known = cluster.router(database).known(sql.encode("utf-8", "surrogateescape"))
    mode = modes.mode_of(settings, min(users, default=""), database).pool_mode
    standbys: list[Server] = [*cluster.standbys]
    yield "database", database
    rider_limit = settings.rider_limit if settings.riders else 0.0
    error = refusal(known.verdict, settings, holds_worker=False)
    yield from explained(known, mode, cluster.primary, standbys, rider_limit, error)


def _database_of(house: House, text: str) -> tuple[str, str]:
    """The database that a statement is meant for, and the statement: what somebody uses has been scanned."""
    names = sorted({database for database, _ in house.in_use()})
    match = _IN_DATABASE.match(text)
    if match is None:
        if len(names) == 1:
            return names[0], text
        said = f"In use are: {', '.join(names)}." if names else "Nobody is connected to any."
        raise UnknownObject("which database?", hint=f'Wanted: explain route in database sql. {said}')
    name = match[1].replace('""', '"') if match[1] else match[2]
    if name not in names:
        raise UnknownObject(f'database "{name}" is not in use', hint=f"In use are: {', '.join(names) or 'none'}.")
    return name, text[match.end() :]
