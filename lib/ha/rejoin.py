"""An old primary becomes a standby again, by a function of switchfunc.sql on that server: pg_rewind, and a start. A
standby that has followed an old primary beyond the place where the new one began does so, too.

Green. What the server had written that the new primary has not is thrown away by that: it is done when somebody asks
for it, and never by itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import gevent

from lib.errors import PoolError
from lib.ha import acts, conninfo
from lib.ha.choice import Answer
from lib.ha.conninfo import NotAConninfo
from lib.ha.switchover import Refused

if TYPE_CHECKING:
    from lib.backend.pool import Pool
    from lib.ha.executor import Guardian

log = logging.getLogger(__name__)

_BACK_S = 120.0
_OURS = ("user", "password", "dbname", "database", "sslmode", "sslrootcert", "sslcert", "sslkey")


def rejoin(guardian: Guardian, pool: Pool, as_admin: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Make a standby of a server that was the primary, or has followed it too far; what was done, step by step.

    raises   Refused
    """
    if pool not in guardian.cluster.former:
        raise Refused(f"{pool.describe()} is in use: there is nothing to rejoin")
    try:
        old, primary = guardian.watch.ask(pool), guardian.watch.ask(guardian.cluster.primary)
        is_astray = old.in_recovery and guardian.following.astray(pool, old) is not None
        refusal = against(old, primary, is_astray)
        if refusal:
            raise Refused(refusal)
        slot = old.slot or (f"pgstmtpool_{old.number}" if primary.slot else "")
        if slot:
            acts.ensure_slot(guardian.admin, primary.address, slot)
        name = old.application_name if old.application_name != "walreceiver" else ""
        to = conninfo.follow(conninfo.without_name(primary.conninfo), *primary.address, name)
        # What the control file says of the timeline is what pg_rewind goes by.
        guardian.admin.query(primary.address, None, "checkpoint", timeout_s=600)
        source, password = source_of(primary, as_admin), str(as_admin.get("password", ""))
        acts.begin_rejoin(guardian.admin, old, source, password, to, slot, guardian.settings.trigger_file)
    except (PoolError, NotAConninfo) as error:
        raise Refused(f"the server cannot rejoin: {error}") from None
    log.warning("%s was told to rejoin", old.name)
    yield "told", f"{old.name} stops, rewinds and follows {primary.name}"
    began = time.monotonic()
    while pool not in guardian.cluster.standbys:
        if time.monotonic() - began > _BACK_S:
            raise Refused(f"{old.name} does not follow yet: see pgstmtpool_rejoin.log in its data directory")
        gevent.sleep(0.05)
    yield "back", f"{time.monotonic() - began:.1f} s: {old.name} is a standby"


def against(old: Answer, primary: Answer, is_astray: bool) -> str | None:
    """Why it cannot be done, or None.

    is_astray   it is a standby that has gone another way
    """
    if old.in_recovery and not is_astray:
        return f"{old.name} is in recovery already: it is used as soon as it follows the primary"
    if old.system != primary.system:
        return f"{old.name} is a server of another cluster"
    if not old.in_recovery and old.timeline == primary.timeline:
        return (
            f"{old.name} and {primary.name} were both promoted, and both call their timeline {old.timeline}: pg_rewind "
            "would see no difference, so that it has to be made anew"
        )
    if not old.can_rewind:
        return f"pg_rewind cannot be used on {old.name}: wal_log_hints is off, and it has no checksums"
    if acts.REJOIN not in old.functions:
        return f"{old.name} has no function {acts.REJOIN} (switchfunc.sql): use pg_rewind by hand"
    if not primary.conninfo:
        return f"{primary.name} has no primary_conninfo from when it was a standby, so that nobody knows how to follow"
    return None


def source_of(primary: Answer, as_admin: Mapping[str, Any]) -> str:
    """How pg_rewind connects to the new primary: as we do, without the password."""
    host, port = primary.address
    ours = {"dbname" if name == "database" else name: str(as_admin[name]) for name in _OURS if name in as_admin}
    ours.pop("password", None)
    return conninfo.render({"host": host, "port": str(port), "dbname": "postgres", **ours})
