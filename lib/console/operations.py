"""What commands change: who is connected, which workers there are, and whether anything is sent to the servers at all.

Green. Nothing here takes a statement from its frontend: a worker that is to go finishes what it does, what is paused
waits. Only `fe kill`, KILL and a shutdown end frontends, which is what they are for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import AsyncResult

from lib import modes, net
from lib.auth.credential import Credential
from lib.backend import tuning
from lib.backend.unit import Visit
from lib.backend.worker import Worker
from lib.checks import CLIENT_ONLY
from lib.console.access import PSEUDO
from lib.console.house import Caller, House, Row, reply
from lib.console.listings import pool_of, workers_of
from lib.console.parsing import Request
from lib.errors import (
    CannotBeDone,
    ConfigError,
    KilledByAdministrator,
    ObjectExists,
    PoolError,
    ServerRefused,
    ServerUnreachable,
    SettingsRefused,
    UnknownObject,
    ValueUnfit,
)
from lib.frontend import Frontend
from lib.login import responder
from lib.turns import in_slices
from lib.wire import messages

if TYPE_CHECKING:
    from lib.backend.groups import Group
    from lib.backend.lease import Lease
    from lib.backend.pool import Pool
    from lib.backend.roster import Roster
    from lib.reload import Reload

_WHO_IS_IT = "select pg_catalog.pg_is_in_recovery(), system_identifier::text from pg_catalog.pg_control_system()"
_TUNED_WITHIN_S = 10.0
_LAST_WORDS_S = 1.0  # for what is canceled by KILL


# --- frontends -------------------------------------------------------------------------------------------------------


def _frontend(house: House, number: int) -> Any:
    frontend = house.arrivals.frontends.get(number)
    if frontend is None:
        raise UnknownObject(f"there is no frontend {number}", hint='"fe list" shows who is there.')
    return frontend


@reply("fe cancel")
def _fe_cancel(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    frontend = _frontend(house, request.values["id"])
    frontend.cancel()
    yield (request.values["id"],)


@reply("fe kill")
def _fe_kill(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    _end(_frontend(house, request.values["id"]))
    yield (request.values["id"],)


def _end(frontend: Any) -> None:
    """Disconnect it, and cancel what it runs."""
    frontend.cancel()
    unit = getattr(frontend, "unit", None)
    worker = unit.worker if unit is not None else None
    if worker is not None and worker.mid_message:
        frontend.close()  # it has part of a message, and can be told nothing any more
    else:
        frontend.end(KilledByAdministrator("terminating connection due to administrator command"))


# --- pause, and what belongs to it -----------------------------------------------------------------------------------


def _see_that_there_is(house: House, caller: Caller, database: str | None) -> None:
    """Whoever means a database and has its name wrong is to know that nothing has happened to it."""
    if database is None or database in {name for name, _ in house.in_use()}:
        return
    try:
        is_there = house.arrivals.directory.access(caller.user, database).database_exists
    except PoolError:  # there is nobody who could be asked
        return
    if not is_there:
        raise UnknownObject(f'database "{database}" does not exist', hint='"show databases" tells which are in use.')


@reply("pause")
def _pause(house: House, caller: Caller, request: Request) -> None:
    """Done when nothing runs any more; canceled, it is as if nothing had been said."""
    database, pause = request.values["database"], house.cluster.pause
    if pause.is_whole or (database is not None and database in pause.databases):
        raise CannotBeDone("already paused", hint='"resume" ends that.')
    _see_that_there_is(house, caller, database)
    pause.pause(database)
    try:
        caller.wait_until(lambda: not pause.covers(database) or pause.is_quiet(database))
        if not pause.covers(database):
            raise CannotBeDone("resumed by somebody else before all was quiet")
    except BaseException:
        pause.resume(database)
        raise
    pause.retire(database)


@reply("resume")
def _resume(house: House, caller: Caller, request: Request) -> None:
    database, pause = request.values["database"], house.cluster.pause
    if not (pause.is_whole or pause.databases) or (database is not None and database not in pause.databases):
        raise CannotBeDone("not paused", hint='"show state" and "show databases" tell what is.')
    pause.resume(database)


@reply("reconnect")
def _reconnect(house: House, caller: Caller, request: Request) -> None:
    database = request.values["database"]
    _see_that_there_is(house, caller, database)
    house.cluster.pause.retire(database)


@reply("kill")
def _kill(house: House, caller: Caller, request: Request) -> None:
    """As PgBouncer does: all go, and who comes back waits until RESUME."""
    database, pause = request.values["database"], house.cluster.pause
    _see_that_there_is(house, caller, database)
    pause.pause(database)
    for presence in list(house.arrivals.presences.values()):
        is_meant = database in (None, presence.startup.database)
        if is_meant and presence.mode != PSEUDO:
            _end(presence.frontend)
    pause.retire(database)
    with gevent.Timeout(_LAST_WORDS_S, False):
        caller.wait_until(lambda: not pause.workers(database))
    for worker in pause.workers(database):
        worker.close("killed in the pseudo database")


@reply("shutdown")
def _shutdown(house: House, caller: Caller, request: Request) -> None:
    gevent.spawn(house.stop, request.values["how"] or "")


# --- pools -----------------------------------------------------------------------------------------------------------


@reply("pool add")
def _pool_add(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    address, cluster = request.values["host:port"], house.cluster
    for pool in (*cluster.pools, *cluster.former):
        if pool.address == address:
            raise ObjectExists(f"{net.show_address(address)} is pool {pool.number} already")
    _see_that_it_follows(house, address)
    pool = cluster.add_standby(address)
    for frontend in in_slices(list(house.arrivals.frontends.values())):
        if isinstance(frontend, Frontend) and frontend.may_use_standbys:
            pool.roster(frontend.group.login).ensure()
    yield pool.number, net.show_address(address)


def _see_that_it_follows(house: House, address: net.Address) -> None:
    """That a server answers, is a standby, and has the primary's data."""
    primary = house.cluster.primary.address
    ((_, system),) = house.admin.query(primary, None, _WHO_IS_IT)
    ((is_standby, found),) = house.admin.query(address, None, _WHO_IS_IT)
    shown = net.show_address(address)
    if found != system:
        raise CannotBeDone(f"{shown} is no standby of this primary", detail="It has another system identifier.")
    if not is_standby:
        raise CannotBeDone(f"{shown} is no standby", detail="It is not in recovery.")


def _that_is_ours(pool: Pool) -> Pool:
    if pool in pool.cluster.departing:
        raise CannotBeDone(f"pool {pool.number} has been removed", detail="Its workers finish what they do.")
    return pool


@reply("pool remove")
def _pool_remove(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    pool = _that_is_ours(pool_of(house, request.values["pool_id"]))
    if pool.is_primary:
        raise CannotBeDone(
            f"pool {pool.number} is the primary, and cannot be removed", hint="Switch to another server before."
        )
    house.cluster.remove_standby(pool)
    house.admin.forget(pool.address)
    yield pool.number, net.show_address(pool.address)


# --- workers ---------------------------------------------------------------------------------------------------------


@reply("pool remove_worker")
def _remove_worker(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    pool = pool_of(house, request.values["pool_id"])
    number = request.values["worker_id"]
    worker = next((each for each in workers_of(pool) if each.number == number), None)
    if worker is None:
        raise UnknownObject(f"pool {pool.number} has no worker {number}", hint=f'"pool show {pool.number}" lists them.')
    worker.retire()
    yield pool.number, number


@reply("pool new_worker")
def _new_worker(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    pool = _that_is_ours(pool_of(house, request.values["pool_id"]))
    if pool in house.cluster.former:
        raise CannotBeDone(f"pool {pool.number} is left out", hint='Nothing is sent to it until it is a standby again.')
    pairs = request.values["k=v[,k=v...]"]
    given = {("database" if name == "dbname" else name): value for name, value in pairs.items()}
    for name in given:
        if name in CLIENT_ONLY:
            raise ValueUnfit(f'parameter "{name}" means nothing here', hint="Wanted are those of a startup packet.")
    password = given.pop("password", None)
    user, database = given.pop("user", ""), given.pop("database", "")
    if not user:
        raise ValueUnfit("a worker needs a user", hint="Wanted: user=...,database=...[,password=...]")
    worker = _start(house, pool, user, database or user, given, password)
    yield pool.number, worker.number


def _start(
    house: House, pool: Pool, user: str, database: str, parameters: dict[str, str], password: str | None
) -> Worker | Lease:
    """Start one; whatever is wrong with that is told, and leaves nothing behind.

    raises   ServerRefused, ServerUnreachable, CredentialUnfit
    """
    cluster = house.cluster
    packet, wanted = tuning.split(parameters.items())
    is_session = modes.mode_of(house.settings, user, database).pool_mode == modes.SESSION
    login = cluster.login(user, database, tuple(sorted(parameters.items())) if is_session else packet)
    with contextlib.suppress(PoolError):  # so that what changes after its login is seen; the server says what is wrong
        house.arrivals.directory.rules(house.arrivals.directory.access(user, database).loaded)
    credential = Credential.of_password(password) if password is not None else None
    answer = responder(user, credential) if credential is not None else cluster.answer_for(login)
    if is_session:
        return pool.leases(user, database).start(login, answer)
    roster = pool.roster(login)
    worker = roster.start(answer)
    if wanted:
        _tune(cluster.group(login, wanted), roster, worker)
    return worker


def _tune(group: Group, roster: Roster, worker: Worker) -> None:
    found: AsyncResult = AsyncResult()
    visit = Visit(group, lambda: found.set(None), found.set)
    roster.dispatch(visit)
    try:
        raw = found.get(timeout=_TUNED_WITHIN_S)
    except gevent.Timeout:
        worker.retire()
        raise ServerUnreachable("the new worker did not become ready in time") from None
    finally:
        visit.is_wanted = False
    if raw is not None:
        worker.retire()
        raise ServerRefused(messages.error_fields(raw), raw)


# --- settings --------------------------------------------------------------------------------------------------------


@reply("reload")
def _reload(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    try:
        outcome = _reloading(house).reload()
    except ConfigError as error:
        raise SettingsRefused(
            "the conf file cannot be used, and nothing has changed", detail="\n".join(error.complaints)
        ) from None
    yield from ((name, "changed") for name in outcome.changed)
    yield from ((name, "needs a restart") for name in outcome.restart)
    yield from ((None, warning) for warning in outcome.warnings)


@reply("set")
def _set(house: House, caller: Caller, request: Request) -> None:
    name, value = request.values["key=value"]
    try:
        _reloading(house).set(name, value)
    except ConfigError as error:
        kind = ValueUnfit if name in house.settings.__dataclass_fields__ else UnknownObject
        raise kind(error.complaints[0]) from None


def _reloading(house: House) -> Reload:
    if house.reload is None:
        raise CannotBeDone("this pool takes over no settings")
    return house.reload
