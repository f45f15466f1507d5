"""Who may do what in the pseudo database, and what a frontend is told at its login there.

Pure. Whoever may do nothing is not let in; what each command wants is said in its row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.auth.access import Access
from lib.console.commands import Privilege

if TYPE_CHECKING:
    from lib.config import Settings

PSEUDO = "pseudo"  # the database's name
ALIAS = "pgbouncer"  # the same, for tools that know PgBouncer's, where there is no database of that name
MONITOR = "pg_monitor"  # whose members may watch


def privileges(access: Access, user: str, settings: Settings) -> frozenset[Privilege]:
    """What a user may do here. Whoever is dropped, or may not log in any more, may do nothing."""
    if not (access.role_exists and access.can_login):
        return frozenset()
    if access.superuser or user in settings.pseudo_admin_users:
        return frozenset(Privilege)
    if MONITOR in access.roles or user in settings.pseudo_stats_users:
        return frozenset((Privilege.WATCH,))
    return frozenset()


def reported(version: int, pool_version: str, user: str, application_name: str) -> dict[str, str]:
    """What a frontend is told of parameters, as a server with `version` (server_version_num) would."""
    return {
        "application_name": application_name,
        "client_encoding": "UTF8",
        "DateStyle": "ISO, MDY",
        "in_hot_standby": "off",
        "integer_datetimes": "on",
        "IntervalStyle": "postgres",
        "is_superuser": "off",
        "server_encoding": "UTF8",
        "server_version": f"{version // 10000}.{version % 10000} (pgstmtpool {pool_version})",
        "session_authorization": user,
        "standard_conforming_strings": "on",
        "TimeZone": "UTC",
    }
