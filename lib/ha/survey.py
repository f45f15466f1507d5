"""What a server says of its part in replication: one question, and its answer as `choice.Answer`.

Green: asked through an Admin. Every name that is used exists since PostgreSQL 10; what came later is asked by
`current_setting(..., true)` or read from a row as JSON.
"""

from __future__ import annotations

import json
import re
from typing import Any

from lib.admin import Admin
from lib.errors import PoolError
from lib.ha import conninfo, history
from lib.ha.choice import Answer, Receiver
from lib.ha.history import lsn
from lib.net import Address

_SQL = r"""
select pg_catalog.json_build_object(
    'version', pg_catalog.current_setting('server_version_num')::int,
    'in_recovery', pg_catalog.pg_is_in_recovery(),
    'system', (select system_identifier::text from pg_catalog.pg_control_system()),
    'timeline', case when pg_catalog.pg_is_in_recovery() then (
            select greatest(c.timeline_id, r.min_recovery_end_timeline)
              from pg_catalog.pg_control_checkpoint() c, pg_catalog.pg_control_recovery() r
        ) else ('x' || substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::int end,
    'received', case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_receive_lsn()::text end,
    'replayed', case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()::text end,
    'written', case when not pg_catalog.pg_is_in_recovery() then pg_catalog.pg_current_wal_flush_lsn()::text end,
    'receiver', (select pg_catalog.row_to_json(r) from (
        select w.*, extract(epoch from pg_catalog.clock_timestamp() - w.last_msg_receipt_time) as silent
          from pg_catalog.pg_stat_wal_receiver w) r),
    'receiver_timeout', (select setting from pg_catalog.pg_settings where name = 'wal_receiver_timeout'),
    'cluster_name', pg_catalog.current_setting('cluster_name', true),
    'conninfo', pg_catalog.current_setting('primary_conninfo', true),
    'slot', pg_catalog.current_setting('primary_slot_name', true),
    'recovery_conf', case when pg_catalog.current_setting('server_version_num')::int < 120000
        then coalesce(pg_catalog.pg_read_file('recovery.conf', 0, 100000, true),
            pg_catalog.pg_read_file('recovery.done', 0, 100000, true)) end,
    'sync', pg_catalog.current_setting('synchronous_standby_names'),
    'followers', (select pg_catalog.json_agg(application_name) from pg_catalog.pg_stat_replication
        where state in ('streaming', 'catchup')),
    'can_rewind', pg_catalog.current_setting('wal_log_hints') = 'on'
        or pg_catalog.current_setting('data_checksums') = 'on',
    'functions', (select pg_catalog.json_agg(distinct proname) from pg_catalog.pg_proc
        where proname like 'pgstmtpool\_%' and pronamespace = 'public'::pg_catalog.regnamespace)
)::text
"""
_IDENTIFY = "IDENTIFY_SYSTEM"
_READ = "select pg_catalog.pg_read_file(%s, 0, 1000000, true)"


def ask(admin: Admin, number: int, address: Address, lane: str = "") -> Answer:
    """What the server says of itself.

    raises   ServerUnreachable, AdminQueryFailed
    """
    found = json.loads(admin.query(address, None, _SQL, lane=lane)[0][0])
    return read(found, number, address)


def timeline_of(walsender: Admin, address: Address) -> int:
    """The timeline of the newest WAL that it has, which the control file of a standby may not know yet; 0 when it does
    not say. `walsender` is an Admin with replication=database, which ordinary rules of pg_hba.conf let in."""
    try:
        return int(walsender.query(address, None, _IDENTIFY)[0][1])
    except PoolError:
        return 0


def forks_of(admin: Admin, primary: Address, timeline: int) -> dict[int, int]:
    """Where the primary's timeline has left those before it: `history.parse` of what the primary has of it.

    raises   ServerUnreachable, AdminQueryFailed
    """
    return history.parse(admin.query(primary, None, _READ, [history.file_name(timeline)])[0][0] or "")


def read(found: dict[str, Any], number: int, address: Address) -> Answer:
    """The answer's JSON as an Answer."""
    text, slot = found["conninfo"] or "", found["slot"] or ""
    if found["recovery_conf"]:
        text, slot = _of_recovery_conf(found["recovery_conf"])
    receiver = _receiver(found["receiver"])
    return Answer(
        number=number, name=f"server {address[0]}:{address[1]}", address=address, version=found["version"],
        in_recovery=found["in_recovery"], system=found["system"],
        # What the control file says of a standby is as old as its last restart point.
        timeline=max(found["timeline"] or 0, (found["receiver"] or {}).get("received_tli") or 0),
        received=lsn(found["received"]), replayed=lsn(found["replayed"]), written=lsn(found["written"]),
        receiver=receiver, receiver_timeout_s=int(found["receiver_timeout"]) / 1000,
        application_name=_application_name(text) or found["cluster_name"] or "walreceiver",
        conninfo=text, slot=slot, sync=found["sync"], followers=tuple(found["followers"] or ()),
        can_rewind=found["can_rewind"], functions=frozenset(found["functions"] or ()),
    )  # fmt: skip


def _receiver(row: dict[str, Any] | None) -> Receiver | None:
    if row is None:
        return None
    host, port = row.get("sender_host"), row.get("sender_port")
    if not host:  # PostgreSQL 10 shows the connection string only
        host, port = (_hosts(row.get("conninfo") or "") or [("", "0")])[0]
    return Receiver(row.get("status") or "", str(host), int(port or 0), float(row.get("silent") or 0))


def _hosts(text: str) -> list[tuple[str, str]]:
    try:
        return conninfo.hosts(text)
    except conninfo.NotAConninfo:
        return []


def _application_name(text: str) -> str:
    try:
        return conninfo.parse(text).get("application_name", "")
    except conninfo.NotAConninfo:
        return ""


def _of_recovery_conf(text: str) -> tuple[str, str]:
    """primary_conninfo and primary_slot_name of a recovery.conf."""
    found = {"primary_conninfo": "", "primary_slot_name": ""}
    for line in text.splitlines():
        match = re.match(r"\s*(\w+)\s*=?\s*'((?:[^'\\]|''|\\.)*)'", line)
        if match and match[1].lower() in found:
            found[match[1].lower()] = re.sub(r"''|\\(.)", lambda each: each[1] or "'", match[2])
    return found["primary_conninfo"], found["primary_slot_name"]
