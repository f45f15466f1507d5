"""What is done to servers in a switch: promote one, have others follow it. No decisions here.

Green: done through an Admin as the user of admin_cnn, who is a superuser. Each can be done again without harm, for a
pool may be killed between any two of them.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import Any

import gevent
from gevent import subprocess

from lib.admin import Admin
from lib.errors import AdminQueryFailed, PoolError
from lib.ha import conninfo, syncnames
from lib.ha.choice import Answer
from lib.net import Address

log = logging.getLogger(__name__)

_LOOK_S = 0.02  # how often it is seen whether a promotion is over
_GONE_AFTER = 20  # looks in a row that fail before a server that is being promoted is given up
_SAY_AGAIN_S = 10.0
_ACT_S = 30.0  # how long a server may take for what changes it; for what is only asked it has less
_TELL_S = 5.0  # how long a standby may take for being told to be the primary: there may be another one
_NOBODY_KNOWS = "57"  # SQLSTATEs of a statement that was canceled, or whose server was stopped, when it may have run

RELOADS_CONNINFO = 130000
HAS_PG_PROMOTE = 120000


class NotPromoted(Exception):
    """The standby could not be promoted; the message says why."""


class NotTold(NotPromoted):
    """It has refused to be, so that it stays a standby."""


def promote(admin: Admin, answer: Answer, lo_oid: int, trigger_file: str, patience_s: float) -> None:
    """Tell a standby to be the primary, and wait until it is.

    patience_s   for a server that answers and still is a standby: it may have much WAL to replay
    raises       NotPromoted
    """
    address = answer.address
    try:
        if is_primary(admin, address):
            return
        if answer.version >= HAS_PG_PROMOTE:
            admin.query(address, None, "select pg_catalog.pg_promote(false)", timeout_s=_TELL_S)
        else:
            _trigger(admin, address, lo_oid, trigger_file)
    except PoolError as error:
        if isinstance(error, AdminQueryFailed) and not error.sqlstate.startswith(_NOBODY_KNOWS):
            raise NotTold(f"{answer.name} refuses to be the primary: {error}") from None
        raise NotPromoted(f"{answer.name} could not be told to be the primary: {error}") from None
    began = said_at = time.monotonic()
    failures, last = 0, ""
    while True:
        try:
            if is_primary(admin, address):
                return
            failures = 0
        except PoolError as error:
            failures, last = failures + 1, str(error)
        now = time.monotonic()
        if failures >= _GONE_AFTER:
            raise NotPromoted(f"{answer.name} was told to be the primary and does not answer any more: {last}")
        if now - began > patience_s:
            raise NotPromoted(f"{answer.name} was told to be the primary and is a standby after {patience_s:g} s")
        if now - said_at > _SAY_AGAIN_S:
            said_at = now
            log.warning("%s was told to be the primary %.0f s ago and is not yet", answer.name, now - began)
        gevent.sleep(_LOOK_S)


def _do(admin: Admin, address: Address, sql: str, args: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
    return admin.query(address, None, sql, args, timeout_s=_ACT_S)


def is_primary(admin: Admin, address: Address) -> bool:
    """raises   PoolError"""
    return not admin.query(address, None, "select pg_catalog.pg_is_in_recovery()")[0][0]


def _trigger(admin: Admin, address: Address, lo_oid: int, trigger_file: str) -> None:
    # PostgreSQL 11 and older look for a file, which only a large object can make.
    admin.query(address, None, "select pg_catalog.lo_export(%s, %s)", [lo_oid, trigger_file], timeout_s=_TELL_S)


def make_large_object(admin: Admin, address: Address, oid: int) -> None:
    """An empty large object in the primary, from which a trigger file can be made on a standby."""
    rows = _do(admin, address, "select 1 from pg_catalog.pg_largeobject_metadata where oid = %s", [oid])
    if not rows:
        _do(admin, address, "select pg_catalog.lo_create(%s)", [oid])
        log.info("large object %d was made on the primary, for trigger files", oid)


def ensure_slot(admin: Admin, primary: Address, slot: str) -> bool:
    """A physical replication slot of this name on the primary, or who is to be that; whether it was made."""
    try:
        if not _do(admin, primary, "select 1 from pg_catalog.pg_replication_slots where slot_name = %s", [slot]):
            _do(admin, primary, "select pg_catalog.pg_create_physical_replication_slot(%s, true)", [slot])
            return True
    except AdminQueryFailed as error:
        if error.sqlstate != "42710":  # somebody was quicker
            raise
    return False


def set_conf(admin: Admin, address: Address, **values: str) -> None:
    """Settings of a server, which it reads at once."""
    for name, value in values.items():
        _do(admin, address, f"alter system set {name} = {literal(value)}")
    _do(admin, address, "select pg_catalog.pg_reload_conf()")


def literal(text: str) -> str:
    """As ALTER SYSTEM takes it: a string constant. What is in the file then is quoted by the server."""
    quoted = "'" + text.replace("'", "''").replace("\\", "\\\\") + "'"
    return f"E{quoted}" if "\\" in text else quoted


def follow(admin: Admin, standby: Answer, primary: Address, slot: str, command: str = "") -> bool:
    """Have a standby follow another primary: by a reload, before PostgreSQL 13 by a restart.

    returns  whether its slot was made for that
    raises   PoolError, NotAConninfo, CannotRestart
    """
    to = conninfo.follow(standby.conninfo, *primary, standby.application_name)
    if standby.version < RELOADS_CONNINFO:
        change_recovery(admin, standby, to, slot)
    is_made = bool(slot) and ensure_slot(admin, primary, slot)
    if standby.version < RELOADS_CONNINFO:
        restart(admin, standby, command)
    else:
        set_conf(admin, standby.address, primary_conninfo=to, primary_slot_name=slot)
    return is_made


def keep_satisfiable(admin: Admin, primary: Answer, standbys: list[str]) -> str | None:
    """A new primary must not wait at commit for standbys that are not there. Returns what it waits for now, where that
    had to be changed."""
    rule = syncnames.parse(primary.sync)
    kept = syncnames.satisfiable(rule, standbys)
    if kept == rule:
        return None
    set_conf(admin, primary.address, synchronous_standby_names=kept.render())
    return kept.render()


# --- a restart -------------------------------------------------------------------------------------------------------

CHANGE, STAY, RESTART, REJOIN = (
    "pgstmtpool_change_recovery", "pgstmtpool_stay_primary", "pgstmtpool_restart", "pgstmtpool_rejoin"
)  # fmt: skip
HAS_SIGNAL_FILES = 120000


class CannotRestart(Exception):
    """A server could not be restarted, or not be told how to come back; the message says why."""


def change_recovery(admin: Admin, server: Answer, to: str, slot: str, trigger_file: str = "") -> None:
    """Have a server follow another one from its next start on.

    trigger_file   what it is to be promoted by later, where it is no standby yet (PostgreSQL 11 and older)
    raises   PoolError, CannotRestart
    """
    if CHANGE in server.functions:
        _do(admin, server.address, f"select public.{CHANGE}(%s, %s, %s)", [to, slot, trigger_file])
    elif server.version >= HAS_SIGNAL_FILES:
        set_conf(admin, server.address, primary_conninfo=to, primary_slot_name=slot)
        path = _do(admin, server.address, "select pg_catalog.current_setting('data_directory')")[0][0]
        signal = literal(f"{path}/standby.signal")
        _do(admin, server.address, f"copy (select 1 where false) to {signal}")
    else:
        raise CannotRestart(f"{server.name} has no function {CHANGE}: run switchfunc.sql")


def stay_primary(admin: Admin, server: Answer) -> None:
    """Take that back, on a server that still is a primary.

    raises   PoolError
    """
    if STAY in server.functions:
        _do(admin, server.address, f"select public.{STAY}()")
    elif server.version >= HAS_SIGNAL_FILES:  # a server's processes are in its data directory
        _do(admin, server.address, "copy (select 1 where false) to program 'rm -f standby.signal'")


def restart(admin: Admin, server: Answer, command: str) -> None:
    """Restart a server, which is over some time after this has returned.

    command   what does it where the server has no function for it
    raises    PoolError, CannotRestart
    """
    if RESTART in server.functions:
        _do(admin, server.address, f"select public.{RESTART}()")
    elif command:
        host, port = server.address
        environment = {**os.environ, "PGST_HOST": host, "PGST_PORT": str(port)}
        done = subprocess.run(
            ["/bin/sh", "-c", command], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        if done.returncode:
            said = done.stdout.decode(errors="replace").strip()
            raise CannotRestart(f"ha_restart_command ended with {done.returncode}: {said[-200:]}")
    else:
        raise CannotRestart(no_restart(server))


def begin_rejoin(
    admin: Admin, server: Answer, source: str, password: str, to: str, slot: str, trigger_file: str
) -> None:
    """Have an old primary stop, rewind and start as a standby, which takes its time.

    source, password   to the new primary, for pg_rewind
    trigger_file       as for change_recovery
    """
    args = [source, password, to, slot, trigger_file]
    _do(admin, server.address, f"select public.{REJOIN}(%s, %s, %s, %s, %s)", args)


def drop_unused_slots(admin: Admin, standby: Address, slots: list[str]) -> bool:
    """A server that is no primary keeps WAL for those that follow another one, until its disk is full. Whether none of
    these slots is left."""
    sql = (
        "select pg_catalog.pg_drop_replication_slot(slot_name) from pg_catalog.pg_replication_slots"
        " where slot_type = 'physical' and not active and slot_name = any(%s)"
    )
    _do(admin, standby, sql, [slots])
    left = "select 1 from pg_catalog.pg_replication_slots where slot_type = 'physical' and slot_name = any(%s)"
    return not _do(admin, standby, left, [slots])


def no_restart(server: Answer) -> str:
    return f"{server.name} cannot be restarted: there is neither {RESTART}() (switchfunc.sql) nor ha_restart_command"
