"""What a statement has left in its backend: the SQL that asks, before the backend is cleaned.

Pure. One query, on PostgreSQL 13 and newer, as the frontend's own role; it changes nothing. What the group's tuning has
set is told from what a statement has set by giving each setting its value again, for that query only, and comparing.

source: view-pg-settings.html, functions-admin.html#FUNCTIONS-ADMIN-SET, sql-discard.html
"""

from __future__ import annotations

from collections.abc import Iterable

from lib.backend.tuning import Pairs, quote

_ROLES = ("role", "session_authorization")

# What DISCARD ALL takes away, or (the last) leaves. The temporary schema itself stays when all in it is gone.
_TRACES = """
SELECT 'an advisory lock' WHERE EXISTS (SELECT FROM pg_catalog.pg_locks
 WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid())
UNION ALL SELECT 'a channel that it listens to' WHERE EXISTS (SELECT FROM pg_catalog.pg_listening_channels())
UNION ALL SELECT 'a cursor' WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable)
UNION ALL SELECT 'a prepared statement' WHERE EXISTS (SELECT FROM pg_catalog.pg_prepared_statements
 WHERE NOT pg_catalog.starts_with(name, 'pgstmtpool_'))
UNION ALL SELECT 'a temporary object' WHERE EXISTS (SELECT FROM pg_catalog.pg_depend
 WHERE refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND refobjid = pg_catalog.pg_my_temp_schema())
UNION ALL SELECT 'a temporary replication slot' WHERE EXISTS (SELECT FROM pg_catalog.pg_replication_slots
 WHERE temporary AND active_pid = pg_catalog.pg_backend_pid())
"""


def ask(user: str, settings: Pairs, customs: Iterable[str]) -> str:
    """SQL that answers with a row of one column for each trace.

    user      whose backend it is
    settings  that it was tuned to, in canonical order
    customs   names of custom settings that its database is known to use: no view shows those
    """
    tuned = dict(settings)
    others = ", ".join(quote(name) for name in tuned)
    parts = [
        _TRACES,
        "SELECT 'setting ' || name FROM pg_catalog.pg_settings WHERE source = 'session'"
        + (f" AND pg_catalog.lower(name) NOT IN ({others})" if others else ""),
    ]
    for name, value in settings:
        if name not in _ROLES:
            now = f"pg_catalog.current_setting({quote(name)}, true)"
            parts.append(
                f"SELECT {quote('setting ' + name)}"
                f" WHERE {now} IS DISTINCT FROM pg_catalog.set_config({quote(name)}, {quote(value)}, true)"
            )
    parts += [
        f"SELECT {quote('setting ' + name)}"
        f" WHERE nullif(pg_catalog.current_setting({quote(name)}, true), '') IS NOT NULL"
        for name in sorted(set(customs) - tuned.keys())
    ]
    session_user = tuned.get("session_authorization", user)
    parts.append(f"SELECT 'setting session_authorization' WHERE session_user::text <> {quote(session_user)}")
    # ALTER ROLE ... SET role makes another default, and nothing tells it
    role = quote(tuned.get("role", ""))
    parts.append(
        f"SELECT 'setting role' WHERE pg_catalog.current_setting('role') NOT IN ('none', {role})"
        " AND NOT EXISTS (SELECT FROM pg_catalog.pg_db_role_setting, pg_catalog.unnest(setconfig) AS c"
        " WHERE c LIKE 'role=%')"
    )
    return "\nUNION ALL ".join(parts)


def ask_held() -> str:
    """SQL that answers with a row of one column for each trace that is no setting."""
    return _TRACES


def read(rows: Iterable[list[str | None]], cosmetic: Iterable[str] = ()) -> tuple[str, ...]:
    """The traces in an answer, sorted: "setting work_mem", "an advisory lock" …; but for settings that are cosmetic."""
    passed_over = {f"setting {name}" for name in cosmetic}
    return tuple(sorted({row[0] for row in rows if row and row[0]} - passed_over))
