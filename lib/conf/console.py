"""Rows: the pseudo database. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from lib import checks
from lib.conf.row import row

CONSOLE = "Pseudo database"


@dataclass(frozen=True, kw_only=True, repr=False)
class Console:
    """Who may use it."""

    pseudo_admin_users: tuple[str, ...] = row(
        CONSOLE, "list of role names", "", [], True, checks.list_of(checks.role_name),
        "Who may run every command of the pseudo database, beside superusers; as PgBouncer's `admin_users`. They log "
        "in as anywhere else.",
        "They can disconnect anybody, and stop the pool.",
    )
    pseudo_stats_users: tuple[str, ...] = row(
        CONSOLE, "list of role names", "", [], True, checks.list_of(checks.role_name),
        "Who may look there and change nothing, beside these, superusers and members of `pg_monitor`; as PgBouncer's "
        "`stats_users`.",
        "They see who is connected from where, and with which settings, but no statements and no passwords.",
    )
