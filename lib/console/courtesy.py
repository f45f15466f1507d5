"""What drivers and tools send by themselves and mean no harm by: answered as by a server, and otherwise ignored.

Pure. A driver that begins with `SET extra_float_digits` or pings with `SELECT 1` gets what it needs to go on; it
has no effect here. Transactions are only followed, for there is nothing that could be rolled back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lib.console.commands import Column, columns

# Settings of PostgreSQL that drivers set, and PgBouncer's word for them is ignore_startup_parameters.
_IGNORED = """
    application_name bytea_output characteristics client_encoding client_min_messages datestyle
    default_transaction_isolation default_transaction_read_only extra_float_digits geqo
    idle_in_transaction_session_timeout intervalstyle lc_messages lock_timeout names row_security search_path session
    standard_conforming_strings statement_timeout time timezone transaction
"""
IGNORED = frozenset(_IGNORED.split())
BEGIN, COMMIT, ROLLBACK = "BEGIN", "COMMIT", "ROLLBACK"
_TRANSACTION = {
    "begin": BEGIN, "start": "START TRANSACTION", "commit": COMMIT, "end": COMMIT, "rollback": ROLLBACK,
    "abort": ROLLBACK,
}  # fmt: skip
_RESETS = {
    "reset all": "RESET", "discard all": "DISCARD ALL", "close all": "CLOSE CURSOR ALL", "unlisten *": "UNLISTEN",
    "deallocate all": "DEALLOCATE ALL", "select pg_advisory_unlock_all ( )": "SELECT 0",
}  # fmt: skip


@dataclass(frozen=True)
class Courtesy:
    """An answer that is known at once.

    tag       of CommandComplete
    rows      with `columns`; none of both for an answer without rows
    """

    tag: str
    columns: tuple[Column, ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()

    @property
    def begins(self) -> bool:
        return self.tag in (BEGIN, _TRANSACTION["start"])

    @property
    def ends(self) -> bool:
        return self.tag in (COMMIT, ROLLBACK)


def _row(column: str, value: Any) -> Courtesy:
    return Courtesy("SELECT 1", columns(column), ((value,),))


def answer(tokens: Sequence[Any], parameters: Mapping[str, str], user: str, database: str) -> Courtesy | None:
    """What a driver's own statement is answered with; None for what is none.

    tokens       of `parsing`
    parameters   what the frontend was told at its login (ParameterStatus)
    """
    words = [token.value.lower() for token in tokens]
    first = words[0]
    text = " ".join(words).replace("pg_catalog.", "")
    if first in _TRANSACTION and (first != "start" or words[1:2] == ["transaction"]) and "prepared" not in words:
        if first == "rollback" and "to" in words:
            return None
        return Courtesy(_TRANSACTION[first])
    if text in _RESETS:
        return Courtesy(_RESETS[text])
    if first in ("set", "reset"):
        names = [word for word in words[1:3] if word not in ("session", "local")] or words[1:2]
        is_driver_s = bool(names) and names[0] in IGNORED
        return Courtesy(first.upper()) if is_driver_s else None
    if first == "show":
        return _show(" ".join(words[1:]), parameters)
    if first == "select":
        return _select(text, parameters, user, database)
    return None


def _show(name: str, parameters: Mapping[str, str]) -> Courtesy | None:
    values = {key.lower(): (key, value) for key, value in parameters.items()}
    values |= {"time zone": values.get("timezone", ("TimeZone", "UTC"))}
    values |= dict.fromkeys(("transaction isolation level", "transaction_isolation"), _ISOLATION)
    values |= {"transaction_read_only": ("transaction_read_only", "off"), "search_path": ("search_path", "")}
    found = values.get(name)
    return Courtesy("SHOW", columns(f"{found[0]} text"), ((found[1],),)) if found else None


_ISOLATION = ("transaction_isolation", "read committed")


def _select(text: str, parameters: Mapping[str, str], user: str, database: str) -> Courtesy | None:
    if text in ("select 1", "select 1 as one"):
        return _row("?column? int8", 1)
    name = text.removeprefix("select ").replace(" ( )", "").replace("()", "")
    known: dict[str, tuple[str, Any]] = {
        "version": ("version text", f"PostgreSQL {parameters.get('server_version', '')}"),
        "current_database": ("current_database text", database),
        "current_catalog": ("current_catalog text", database),
        "current_schema": ("current_schema text", None),
        "current_user": ("current_user text", user),
        "session_user": ("session_user text", user),
        "pg_is_in_recovery": ("pg_is_in_recovery bool", False),
    }
    return _row(*known[name]) if name in known else None
