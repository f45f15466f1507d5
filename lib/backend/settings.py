"""What a frontend has set for its session: what is known of that without asking, and what its backend is asked.

Pure. A frontend's settings are pairs in the server's own spelling, those of its startup packet as they came. Values are
asked for in hexadecimal UTF-8, so that they do not depend on the frontend's client_encoding. Names are the server's, in
lower case; one that nobody could ask for (a custom setting whose name no text shows) makes the answer `None` wherever
names are looked for: then the frontend keeps its worker.

source: view-pg-settings.html, functions-admin.html#FUNCTIONS-ADMIN-SET, sql-set-role.html
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from typing import Any, NamedTuple

from lib.backend.tuning import AT_DEFAULT, ROLES, Pairs, canonical, quote, taken_away

# Each transaction begins with its own again, whatever was set for the session.
_OF_TRANSACTION = ("transaction_isolation", "transaction_read_only", "transaction_deferrable")
# Settings that pg_settings hides from whoever may not see them.
HIDDEN = frozenset({"dynamic_library_path", "session_preload_libraries", "local_preload_libraries"})
SEED = "seed"  # of random(): a setting that nothing can be asked for, and that does not go back
MAX_REMEMBERED_BYTES = 500  # bytes

# ALTER ROLE or DATABASE ... SET role makes another default than `none`, and nothing tells it.
_DEFAULT_ROLE = (
    "EXISTS (SELECT FROM pg_catalog.pg_db_role_setting, pg_catalog.unnest(setconfig) AS c WHERE c LIKE 'role=%')"
)
_NAMED = re.compile(rb"\bset_config\s*\(\s*'([A-Za-z_][\w$]*(?:\.[A-Za-z_][\w$]*)*)'\s*,", re.I)
# SELECT set_config('name', 'value', false) and nothing else
_PLAIN = re.compile(
    rb"\s*select\s+(?:pg_catalog\s*\.\s*)?set_config\s*\(\s*'[A-Za-z_][\w$.]*'\s*,\s*'[^'\\]*'\s*,\s*false\s*\)[\s;]*",
    re.I,
)


class Plan(NamedTuple):
    """What follows from a text that was run outside of a transaction block and did not fail.

    settings   those that are known
    ask        names of those whose value the backend must be asked for
    restore    startup values that a RESET has taken away and that are to be brought back
    """

    settings: dict[str, str]
    ask: tuple[str, ...]
    restore: Pairs


def plan(current: Pairs, home: Pairs, sets: frozenset[str], resets: frozenset[str]) -> Plan | None:
    """What must be asked after a text that has set `sets` and reset `resets`; None: everything.

    current   the frontend's settings before
    home      those of its startup packet
    """
    if (sets and resets) or "*" in sets:
        return None
    now, at_home = dict(current), dict(home)
    if not resets:
        return Plan(now, _with_role(sets), ())
    if "session_authorization" in resets and any(name in now or name in at_home for name in ROLES):
        return None
    restored = taken_away(home, resets)
    names = {*resets, *(name for name in now if name not in ROLES)} if "*" in resets else resets
    ask = []
    for name in names:
        if name in at_home:
            now[name] = at_home[name]
        else:
            now.pop(name, None)
            if "." in name:
                ask.append(name)  # '' for one that nobody has defined, which is not as if it had never been set
    return Plan(now, tuple(sorted(ask)), restored)


def _with_role(names: frozenset[str]) -> tuple[str, ...]:
    # SET SESSION AUTHORIZATION changes the role, too.
    return tuple(sorted(names | {"role"} if "session_authorization" in names else names))


# --- questions -------------------------------------------------------------------------------------------------------


def ask_for(names: Iterable[str]) -> str:
    """SQL that answers with a row (name, value in hexadecimal or NULL) for each of `names`."""
    rows = ", ".join(f"({quote(name)}, {_hex(_value_of(name))})" for name in names)
    return f"SELECT * FROM (VALUES {rows}) AS settings"


def ask_all(customs: Iterable[str], user: str | None = None) -> str:
    """SQL that answers with such a row for each setting that holds for the session, and for role and
    session_authorization; and with one of the name '*' when `user`, if given, could not have set all of them.

    customs   names of custom settings that the backend may know: no view shows those
    """
    hidden = ", ".join(quote(name) for name in (*_OF_TRANSACTION, *ROLES, SEED))
    now = "pg_catalog.current_setting(name)"
    parts = [f"SELECT {quote(name)}, {_hex(_value_of(name))}" for name in ROLES]
    names = ", ".join(f"({quote(name)})" for name in sorted(customs))
    if names:
        # One that an extension has defined since is among the others, and holds for the session when it was set.
        value = _hex("pg_catalog.current_setting(c.name, true)")
        parts.append(
            f"SELECT c.name, {value} FROM (VALUES {names}) AS c (name) WHERE NOT EXISTS"
            " (SELECT FROM pg_catalog.pg_settings AS s WHERE pg_catalog.lower(s.name) = c.name)"
        )
    parts.append(
        f"SELECT pg_catalog.lower(name), {_hex(now)} FROM pg_catalog.pg_settings"
        f" WHERE source = 'session' AND name NOT IN ({hidden})"
    )
    if user is not None:
        parts.append(
            "SELECT '*', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_settings"
            " WHERE source = 'session' AND context = 'superuser')"
            f" AND NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = {quote(user)})"
        )
    return " UNION ALL ".join(parts)


def _value_of(name: str) -> str:
    if name == "role":
        now = "pg_catalog.current_setting('role')"
        return f"CASE WHEN {now} <> 'none' OR {_DEFAULT_ROLE} THEN {now} END"
    return f"pg_catalog.current_setting({quote(name)}, true)"


def _hex(value: str) -> str:
    return f"pg_catalog.encode(pg_catalog.convert_to({value}, 'UTF8'), 'hex')"


# --- answers ---------------------------------------------------------------------------------------------------------


def read(rows: Iterable[Sequence[str | None]]) -> dict[str, str | None] | None:
    """The values in an answer, None for what is not there; or None when it is no answer to such a question."""
    try:
        return {name or "": None if value is None else bytes.fromhex(value).decode() for name, value in rows}
    except ValueError:
        return None


def with_answer(
    settings: dict[str, str], values: dict[str, str | None], user: str, home: Pairs, set_now: Container[str] = ()
) -> Pairs:
    """`settings` with those that were asked for as they are.

    user      who has logged in
    home      the settings of the frontend's startup packet
    set_now   names of those that were surely set, and not reset
    """
    now, at_home = dict(settings), dict(home)
    for name, value in values.items():
        if name == "role" and value is None and name in at_home:
            value = "none"
        if name == "session_authorization" and value == user and name not in at_home:
            value = None
        if value == "" and "." in name and name not in set_now:
            value = AT_DEFAULT
        if value is None:
            now.pop(name, None)
        else:
            now[name] = value
    return canonical(now)


def of_all(
    current: Pairs, home: Pairs, values: dict[str, str | None], touched: frozenset[str], resets: frozenset[str],
    user: str,
) -> tuple[Pairs, Pairs]:  # fmt: skip
    """A frontend's settings, when all that holds for its session is known.

    values    as answered to `ask_all`
    touched   which of them may have been changed: what others were before they are still; '*' is any
    resets    names that its last text has reset
    returns   (settings, those that must be brought back: startup values that a RESET has taken away)
    """
    asked = dict(current)
    names = {*asked, *values} if "*" in touched else {*_with_role(touched)}
    found = with_answer(asked, {name: values.get(name) for name in names}, user, home)
    known = dict(found)
    back = []
    for name, value in home:
        if name in ROLES:
            is_away = name in resets and known.get(name) in (None, "none", user)
        elif known.get(name) == AT_DEFAULT:
            is_away = name in resets or "*" in resets
        else:
            is_away = name in names and name not in known
        if is_away:
            known[name] = value
            back.append((name, value))
    return canonical(known), tuple(back)


# --- texts -----------------------------------------------------------------------------------------------------------


def named(text: bytes) -> frozenset[str] | None:
    """The names of the settings that the calls of set_config() in `text` set; None when they cannot be told.

    text   of a statement, or of messages as they are
    """
    found = _NAMED.findall(text)
    if len(found) != text.lower().count(b"set_config"):
        return None
    return frozenset(name.decode().lower() for name in found)


def is_plain(text: bytes) -> bool:
    """Whether `text` is one set_config() with literals, and surely sets what it names."""
    return _PLAIN.fullmatch(text) is not None


def may_be_remembered(data: bytes, sets: frozenset[str]) -> bool:
    """Whether what the unit `data` sets depends on nothing but its text and the settings before it. (A DateStyle may
    be completed by the server's default.)"""
    return len(data) <= MAX_REMEMBERED_BYTES and "datestyle" not in sets


class Memo:
    """What certain units have led to, the ones used last.

    size   how many are remembered
    """

    def __init__(self, size: int = 1000) -> None:
        self._size = size
        self._known: dict[object, Any] = {}

    def __repr__(self) -> str:
        return f"<Memo {len(self._known)} of {self._size}>"

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: object) -> Any | None:
        found = self._known.pop(key, None)
        if found is not None:
            self._known[key] = found
        return found

    def put(self, key: object, found: object) -> None:
        """Remember it; nothing is remembered for None."""
        if key is not None:
            self._known[key] = found
            if len(self._known) > self._size:
                del self._known[next(iter(self._known))]

    def forget(self) -> None:
        self._known.clear()
