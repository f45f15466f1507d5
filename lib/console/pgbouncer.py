"""What PgBouncer's SHOW commands tell, with its column names, for the dashboards and exporters that know them.

Green by what it points to; it changes nothing. PgBouncer's pool is a user and a database on all servers here; what it
has no word for is in `fe list`, `pool list` and `pool show`.
"""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import gevent

from lib import config, ends, modes
from lib.backend.lease import State as LeaseState
from lib.backend.leases import Leases
from lib.backend.roster import Roster
from lib.backend.worker import State, Worker
from lib.console.access import PSEUDO
from lib.console.averages import PERIOD_S
from lib.console.house import Caller, House, Row, reply
from lib.console.listings import activity, workers_of
from lib.console.parsing import Request
from lib.counting import by_database, counted
from lib.turns import in_slices

if TYPE_CHECKING:
    from lib.metrics import Counts
    from lib.presence import Presence

Who = tuple[str, str]  # database, user


def _crews(house: House) -> list[tuple[Who, Roster | Leases]]:
    return [((crew.database, crew.user), crew) for pool in house.cluster.all_pools for crew in pool.all_crews]


def _who(presence: Presence) -> Who:
    return presence.startup.database, presence.startup.user


def _mode(house: House, database: str, user: str) -> str:
    return modes.mode_of(house.settings, user, database).pool_mode


# --- statistics ------------------------------------------------------------------------------------------------------


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)


def _figures(counts: Counts) -> tuple[int, ...]:
    """As SHOW STATS_TOTALS has them."""
    return (
        counts.transactions, counts.queries, counts.received, counts.sent, _microseconds(counts.transaction_s),
        _microseconds(counts.run_s), _microseconds(counts.wait_s),
    )  # fmt: skip


def _totals(house: House) -> dict[str, tuple[int, ...]]:
    found = by_database(counted(house.cluster, house.arrivals))
    return {database: _figures(found[database]) for database in sorted(found)}


def keep_averages(house: House) -> None:
    """Note the totals every period. Runs for ever."""
    while True:
        gevent.sleep(PERIOD_S)
        house.averages.note(_totals(house), time.monotonic())


@reply("show stats")
def _stats(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    totals = _totals(house)
    averages = house.averages.of(totals, time.monotonic())
    for database, figures in totals.items():
        # total_requests is what PgBouncer has called the queries once, and Debian's exporter still does.
        yield database, *figures, *averages[database], figures[1]


@reply("show stats_totals")
def _stats_totals(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    for database, figures in _totals(house).items():
        yield database, *figures


@reply("show stats_averages")
def _stats_averages(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    for database, figures in house.averages.of(_totals(house), time.monotonic()).items():
        yield database, *figures


# --- pools, databases, users -----------------------------------------------------------------------------------------


@reply("show pools")
def _pools(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    active: Counter[Who] = Counter()
    waiting: Counter[Who] = Counter()
    longest: dict[Who, float] = {}
    for presence in in_slices(list(house.arrivals.presences.values())):
        state, wait, *_ = activity(presence.frontend)
        who = _who(presence)
        (waiting if state == "waiting" else active)[who] += 1
        longest[who] = max(longest.get(who, 0.0), wait or 0.0)
    servers: Counter[tuple[Who, str]] = Counter()
    known: dict[Who, None] = dict.fromkeys((*active, *waiting))
    for who, crew in _crews(house):
        known[who] = None
        busy, idle = len(crew.busy()), sum(each.state in (State.IDLE, LeaseState.IDLE) for each in crew.workers)
        servers.update({(who, "active"): busy, (who, "idle"): idle, (who, "login"): crew.starting})
        servers[who, "tested"] += len(crew.workers) - busy - idle
        servers[who, "canceled"] += sum(bool(each.cancels) for each in crew.workers)
    for who in known:
        database, user = who
        most = longest.get(who, 0.0)
        mode = "statement" if database == PSEUDO else _mode(house, database, user)
        yield (
            database, user, active[who], waiting[who], 0, 0, servers[who, "active"], 0, servers[who, "canceled"],
            servers[who, "idle"], 0, servers[who, "tested"], servers[who, "login"], int(most),
            int(most % 1 * 1_000_000), mode,
        )  # fmt: skip


@reply("show databases")
def _databases(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    settings, pause = house.settings, house.cluster.pause
    connections: Counter[str] = Counter()
    names = {PSEUDO, *pause.databases}
    for (database, _user), crew in _crews(house):
        names.add(database)
        connections[database] += len(crew.workers)
    names.update(presence.startup.database for presence in in_slices(list(house.arrivals.presences.values())))
    host, port = house.cluster.primary.address
    for name in sorted(names):
        if name == PSEUDO:
            yield name, None, None, name, PSEUDO, 2, 0, 0, "statement", 0, 0, 0, 0
            continue
        yield (
            name, host, port, name, None, settings.max_workers, 0, 0, _mode(house, name, ""), 0, connections[name],
            int(pause.holds(name)), 0,
        )  # fmt: skip


@reply("show users")
def _users(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    names = {user for (_, user), _ in _crews(house)}
    names.update(presence.startup.user for presence in in_slices(list(house.arrivals.presences.values())))
    for name in sorted(names):
        yield name, _mode(house, "", name)


@reply("show lists")
def _lists(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    arrivals = house.arrivals
    whos = {who for who, _ in _crews(house)}
    workers = [worker for pool in house.cluster.all_pools for worker in workers_of(pool)]
    idle = sum(worker.state in (State.IDLE, LeaseState.IDLE) for worker in workers)
    yield "databases", len({database for database, _ in whos}) + 1
    yield "users", len({user for _, user in whos})
    yield "pools", len(whos)
    yield "free_clients", 0
    yield "used_clients", len(arrivals.frontends)
    yield "login_clients", arrivals.connected - len(arrivals.frontends)
    yield "free_servers", idle
    yield "used_servers", len(workers) - idle
    for name in ("dns_names", "dns_zones", "dns_queries", "dns_pending"):
        yield name, 0


# --- clients and servers ---------------------------------------------------------------------------------------------


@reply("show clients")
def _clients(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    for presence in list(house.arrivals.presences.values()):
        frontend = presence.frontend
        state, wait, _, _, worker = activity(frontend)
        startup = presence.startup
        wait = wait or 0.0
        _, quiet_s = ends.quiet_s(frontend.stream)
        yield (
            "C", startup.user, startup.database, "waiting" if state == "waiting" else "active", presence.host,
            presence.port, *ends.own_address(frontend.stream), presence.since,
            time.time() - quiet_s if quiet_s is not None else None, int(wait), int(wait % 1 * 1_000_000), 0,
            str(frontend.key[0]), _link(worker), 0, "TLS" if frontend.stream.is_encrypted else "",
            dict(startup.parameters).get("application_name", ""),
        )  # fmt: skip


def _link(worker: Any) -> str:
    return f"{worker.roster.pool.number}/{worker.number}" if worker is not None else ""


@reply("show servers")
def _servers(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    for pool in house.cluster.all_pools:
        for worker in workers_of(pool):
            login = worker.roster.login if isinstance(worker, Worker) else worker.login
            settings = worker.group.settings if isinstance(worker, Worker) else login.packet
            since = time.time() - (time.monotonic() - worker.started_at)
            quiet_s, _ = ends.quiet_s(worker.stream)
            is_idle = worker.state in (State.IDLE, LeaseState.IDLE)
            holder: Any = worker.holder
            yield (
                "S", login.user, login.database, "idle" if is_idle else "active", pool.address[0], pool.address[1],
                *ends.own_address(worker.stream), since, time.time() - quiet_s if quiet_s is not None else None, 0, 0,
                int(worker.retiring), f"{pool.number}/{worker.number}",
                str(holder.key[0]) if holder is not None else "", worker.key[0],
                "TLS" if worker.stream.is_encrypted else "", dict(settings).get("application_name", ""),
            )  # fmt: skip


# --- the pool itself -------------------------------------------------------------------------------------------------


@reply("show config")
def _config(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    for row, value, _ in house.settings.rows():
        default = None if row.default is config.REQUIRED else str(row.default)
        yield row.name, value.strip("'"), default, "yes" if row.reloadable else "no"


@reply("show state")
def _state(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    pause = house.cluster.pause
    yield "active", "no" if pause.is_whole else "yes"
    yield "paused", "yes" if pause.is_whole else "no"
    yield "suspended", "no"


@reply("show mem")
def _mem(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    """Python's memory is not divided into caches: the whole process, at its largest, and what there is of each."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    workers = sum(len(workers_of(pool)) for pool in house.cluster.all_pools)
    yield "process", 1, most, 0, most
    yield "clients", None, len(house.arrivals.frontends), 0, None
    yield "servers", None, workers, 0, None
