"""What a startup packet means for a worker: what only a packet can set, and what SET can.

Pure. Workers start with a bare packet, so that application_name or search_path make no workers of their own; all else
is a setting. `set_config` is used and not SET, because a startup packet's value is the raw text of a setting ('a, b'
of search_path is two schemas), which SET would quote as one.

source: protocol-message-formats.html (StartupMessage), functions-admin.html#FUNCTIONS-ADMIN-SET
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from lib.route import parsing

Pairs = tuple[tuple[str, str], ...]

# Settings of context backend or superuser-backend, and the libraries that are loaded while a session starts.
PACKET_ONLY = frozenset(
    (
        "ignore_system_indexes",
        "jit_debugging_support",
        "jit_profiling_support",
        "local_preload_libraries",
        "log_connections",
        "log_disconnections",
        "post_auth_delay",
        "session_preload_libraries",
    )
)
ROLES = ("session_authorization", "role")  # who one is, which may take away the right to set the others: set last
_NAME = rb'(?:[a-z_\x80-\xff][\w$\x80-\xff]*|"[^"]+")'
_SETS = re.compile(rb"\b(?:set\s+(?:(?:local|session)\s+)?|reset\s+)(%b(?:\s*\.\s*%b)+)" % (_NAME, _NAME), re.I)
_UPDATES = re.compile(rb"\bupdate\s[^;]*\Z", re.I)
_SET_CONFIG = re.compile(rb"set_config", re.I)
_DOTTED = re.compile(rb"[a-z_\x80-\xff][\w$\x80-\xff]*(?:\.[a-z_\x80-\xff][\w$\x80-\xff]*)+", re.I)
_WORD = re.compile(r"(?:\\.|[^\\\s])+", re.DOTALL)

# The value of a custom setting that was reset. Where nobody has defined one of that name it is '', and not as if it had
# never been set; where an extension has, it is the extension's default.
AT_DEFAULT = "\0"

UNTUNE = "SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL"
CLEAN = "DISCARD ALL"
FORGET_NUMBERS = "DISCARD SEQUENCES"
FAIL = "ROLLBACK TO pgstmtpool_fails"  # there is no such savepoint
ROLLBACK = "ROLLBACK"


def split(parameters: Iterable[tuple[str, str]]) -> tuple[Pairs, Pairs]:
    """Divide a startup packet's parameters, without user and database.

    returns  (packet, settings): what a worker must be started with, and what it is tuned to; both in canonical order,
             names of settings in lower case, later values winning as in the server
    source   process_startup_options() of postinit.c: `options` first, then the parameters by name
    """
    packet: dict[str, str] = {}
    settings: dict[str, str] = {}
    named = dict(parameters)
    named.pop("replication", None)
    switches, rest = _read_options(named.pop("options", ""))
    for name, value in [*switches, *named.items()]:
        (packet if name.lower() in PACKET_ONLY else settings)[name.lower()] = value
    if rest:
        packet["options"] = rest
    return tuple(sorted(packet.items())), canonical(settings)


def canonical(settings: Mapping[str, str]) -> Pairs:
    """Settings in the order in which they are set."""
    return tuple(sorted(settings.items(), key=_order))


def _order(setting: tuple[str, str]) -> tuple[int, str]:
    name = setting[0]
    return (ROLES.index(name) + 1 if name in ROLES else 0), name


def _read_options(options: str) -> tuple[list[tuple[str, str]], str]:
    """Settings in the `options` parameter (-c a=b, -ca=b, --a=b), and the other switches as they were.

    source: pg_split_opts() of postinit.c, libpq-connect.html#LIBPQ-CONNECT-OPTIONS
    """
    words = _WORD.findall(options)
    settings, others = [], []
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if word == "-c" and position < len(words):
            assignment = words[position]
            position += 1
        elif word.startswith(("--", "-c")) and len(word) > 2:
            assignment = word[2:]
        else:
            others.append(word)
            continue
        name, equals, value = re.sub(r"\\(.)", r"\1", assignment, flags=re.DOTALL).partition("=")
        if equals:
            settings.append((name.replace("-", "_"), value))
        else:
            # The server says what is wrong with it.
            others.append(f"--{assignment}" if word.startswith("--") else f"-c {assignment}")
    return settings, " ".join(others)


def quote(text: str) -> str:
    """A literal that means the same whatever standard_conforming_strings is."""
    quoted = text.replace("'", "''")
    return "E'" + quoted.replace("\\", "\\\\") + "'" if "\\" in text else f"'{quoted}'"


def apply(settings: Iterable[tuple[str, str | None]], local: bool = False) -> str:
    """SQL that sets each of `settings` for the session, or until the transaction ends (None: back to its default), in
    one statement so that all or none of them hold."""
    scope = "true" if local else "false"
    quoted = [(quote(name), value) for name, value in settings]
    calls = ", ".join(f"pg_catalog.set_config({name}, {_value(name, value)}, {scope})" for name, value in quoted)
    return "SELECT " + calls if calls else ""


def _value(name: str, value: str | None) -> str:
    if value is None:
        return "NULL"
    if value == AT_DEFAULT:
        return f"CASE WHEN pg_catalog.current_setting({name}, true) IS NULL THEN '' END"
    if value.isascii():
        return quote(value)
    try:
        # Whatever the backend's client_encoding is now.
        return f"pg_catalog.convert_from(pg_catalog.decode('{value.encode().hex()}', 'hex'), 'UTF8')"
    except UnicodeEncodeError:
        return quote(value)  # of a startup packet: as it came, as for the server


def retune(before: Pairs, after: Pairs) -> str:
    """SQL that takes a worker that is tuned to `before` to `after`: no more than what differs, unless that is who one
    is, which decides what one may set."""
    old, new = dict(before), dict(after)
    if any(name in old or name in new for name in ROLES):
        return "; ".join(part for part in (UNTUNE, apply(after)) if part)
    gone = [(name, None) for name, _ in before if name not in new]
    return apply([*gone, *((name, value) for name, value in after if old.get(name) != value)])


def restore(settings: Pairs, resets: frozenset[str], local: bool = False) -> str:
    """SQL that brings back the startup values that a frontend's RESET has taken away.

    resets   names, or '*' for all but who one is
    local    until the transaction ends

    A frontend's RESET goes back to its own startup values, but its worker was started with a bare packet.
    """
    return apply(taken_away(settings, resets), local)


def taken_away(settings: Pairs, resets: frozenset[str]) -> Pairs:
    """Those of `settings` that a RESET of these names concerns."""
    is_all = "*" in resets
    return tuple(pair for pair in settings if pair[0] in resets or (is_all and pair[0] not in ROLES))


def parse_settings(settings: Pairs) -> Pairs:
    """Those that matter when a statement is parsed."""
    return tuple(pair for pair in settings if pair[0] in parsing.SETTINGS)


def placeholders(settings: Pairs) -> frozenset[str]:
    """Custom settings (with a dot): a backend that once had one never forgets the name, RESET ALL or not."""
    return frozenset(name for name, _ in settings if "." in name)


def customs(text: bytes) -> frozenset[str]:
    """Names of custom settings that a backend may learn: those of SET and RESET, and all with a dot beside set_config.

    text   of a statement or of a function's body; or messages, as they are: names may be in the parameters of Bind
    """
    if b"." not in text or b"set" not in text.lower():
        return frozenset()
    found = [
        match[1].replace(b'"', b"")
        for match in _SETS.finditer(text)
        if not _UPDATES.search(text, max(0, match.start() - 200), match.start())
    ]
    if _SET_CONFIG.search(text):
        found += _DOTTED.findall(text)
    names = (re.sub(rb"\s", b"", name).decode("utf-8", "surrogateescape").lower() for name in found)
    return frozenset(name for name in names if not name.startswith("pg_catalog."))


def ask_for(names: Iterable[str]) -> str:
    """SQL that answers with those of `names` that the backend knows as settings."""
    listed = ", ".join(quote(name) for name in sorted(names))
    return (
        f"SELECT name FROM pg_catalog.unnest(ARRAY[{listed}]::pg_catalog.text[]) AS name"
        " WHERE pg_catalog.current_setting(name, true) IS NOT NULL"
    )
