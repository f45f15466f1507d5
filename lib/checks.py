"""What the value of a setting may be: one function per kind, from what the conf file gave to a normal form.

Pure. A check is `check(given, text)`: `text` says that the value comes from an INI file, where everything is a string,
so that '10' is a number there and a mistake in a Python file. It returns the normal form (immutable, as a frozen
`Settings` needs it) or raises `Wrong` with every problem it found. Nothing here knows a setting by name, and nothing
that could be a password is ever shown, be it in a complaint, a repr or a log.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

Check = Callable[[object, bool], Any]

SECRET = re.compile(r"pass|pwd|\bpw|secret|token|credential|key", re.IGNORECASE)
HIDDEN = "***"

# Parameters that would choose the server, as `master` and `slaver` do.
NO_CHOICE = frozenset(
    ["host", "hostaddr", "port", "service", "servicefile", "target_session_attrs", "load_balance_hosts"]
)

# What libpq keeps for itself and never puts into a startup packet (libpq-connect.html#LIBPQ-PARAMKEYWORDS).
CLIENT_ONLY = NO_CHOICE.union(
    [
        "channel_binding", "connect_timeout", "fallback_application_name", "gssdelegation", "gssencmode", "gsslib",
        "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "krbsrvname",
        "max_protocol_version", "min_protocol_version", "passfile", "require_auth", "requirepeer", "requiressl",
        "scram_client_key", "scram_server_key", "ssl_max_protocol_version", "ssl_min_protocol_version", "sslcert",
        "sslcertmode", "sslcompression", "sslcrl", "sslcrldir", "sslkey", "sslkeylogfile", "sslmode",
        "sslnegotiation", "sslpassword", "sslrootcert", "sslsni", "tcp_user_timeout",
    ]
)


class Problem(NamedTuple):
    """One thing that is wrong: `where` within the value ('' is all of it), what was `given`, and what is `wanted`."""

    where: str
    given: str
    wanted: str


class Wrong(Exception):
    """A value that is not what its setting wants; `problems` holds every reason."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(problems)
        self.problems = problems


def shown(given: object) -> str:
    """A value as a complaint may show it: short, and only its type where it could hold a password."""
    if not isinstance(given, (str, int, float, list, tuple, dict, type(None))):
        return f"of type {type(given).__name__}"
    try:
        text = repr(given)
    except ValueError:
        return "a number of very many digits"
    if SECRET.search(text) or "@" in text or "://" in text:
        return f"a {type(given).__name__} that is not shown here"
    return text if len(text) <= 60 else text[:57] + "..."


def is_secret(name: str, value: str = "") -> bool:
    """Whether a connection parameter has to be hidden: by its name, or as options that set something by such a name."""
    return SECRET.search(name) is not None or (name == "options" and SECRET.search(value) is not None)


class FileMode(int):
    """Permission bits of a Unix socket, shown in octal."""

    def __repr__(self) -> str:
        return f"0o{int(self):03o}"


class Parameters(Mapping[str, str]):
    """Connection parameters, frozen, whose repr hides passwords."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, str]) -> None:
        self._items = dict(items)

    def __getitem__(self, name: str) -> str:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self.redacted())

    def redacted(self) -> dict[str, str]:
        return {name: HIDDEN if is_secret(name, value) else value for name, value in self._items.items()}

    @property
    def password(self) -> str | None:
        return self._items.get("password")

    @property
    def startup(self) -> dict[str, str]:
        """What of it goes into a startup packet."""
        return {name: value for name, value in self._items.items() if name != "password" and name not in CLIENT_ONLY}


def whole(least: int, most: int = 2**31 - 1) -> Check:
    """A whole number in [least, most]; True and False are none."""
    wanted = f"a whole number, {least} or more" if most == 2**31 - 1 else f"a whole number from {least} to {most}"

    def check(given: object, text: bool) -> int:
        value = given
        if text and isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise Wrong(Problem("", shown(given), wanted))
        return value

    return check


def seconds(least: float, most: float = 31_536_000) -> Check:
    """A duration in seconds in [least, most]; nan and infinity are none."""
    wanted = f"a number of seconds, {least} to {most}"

    def check(given: object, text: bool) -> float:
        value = given
        if text and isinstance(value, str) and re.fullmatch(r"[+-]?([0-9]{1,18}\.?[0-9]{0,18}|\.[0-9]{1,18})", value):
            value = float(value) if "." in value else int(value)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value <= most:
            raise Wrong(Problem("", shown(given), wanted))
        return value

    return check


def boolean(given: object, text: bool) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if isinstance(given, bool):
        return given
    if text and isinstance(given, str) and given.lower() in words:
        return words[given.lower()]
    raise Wrong(Problem("", shown(given), "yes or no" if text else "True or False"))


def choice(*words: str) -> Check:
    """One of a few words, in any case."""

    def check(given: object, text: bool) -> str:
        if isinstance(given, str) and given.lower() in words:
            return given.lower()
        raise Wrong(Problem("", shown(given), f"one of {', '.join(map(repr, words))}"))

    return check


def file_name(given: object, text: bool) -> str:
    if isinstance(given, str) and given and given == given.strip() and given.isprintable():
        return given
    raise Wrong(Problem("", shown(given), "the name of a file, as 'trigger'"))


def role_name(given: object, text: bool) -> str:
    if isinstance(given, str) and given and "\0" not in given and len(given.encode("utf-8", "replace")) <= 63:
        return given
    raise Wrong(Problem("", shown(given), "the name of a role"))


def log_place(given: object, text: bool) -> str:
    """'stderr', 'syslog', 'syslog:/path of a socket', or the whole path of a file."""
    if isinstance(given, str) and given.isprintable() and re.fullmatch(r"stderr|syslog|(syslog:)?/.+", given):
        return given
    raise Wrong(Problem("", shown(given), "'stderr', 'syslog', or the whole path of a file"))


UNIX = "unix"  # in the place of a network: everybody on a Unix socket


def network(given: object, text: bool) -> str:
    """A network as '10.0.0.0/8', an address, or 'unix'; returns it in its normal form."""
    if isinstance(given, str) and given.lower() == UNIX:
        return UNIX
    try:
        if not isinstance(given, str):
            raise ValueError
        return str(ipaddress.ip_network(given))
    except ValueError:
        raise Wrong(Problem("", shown(given), "a network, as '10.0.0.0/8', an address, or 'unix'")) from None


def optional_file_name(given: object, text: bool) -> str:
    """A file, or '' for none."""
    return "" if given == "" else file_name(given, text)


TLS_VERSIONS = ("tlsv1.2", "tlsv1.3")
_BOTH = ("secure", "default", "all")  # PgBouncer's words for more than one


def tls_versions(given: object, text: bool) -> str:
    """'tlsv1.2', 'tlsv1.3', or 'secure' for both, which may be named one by one, too; in any case, as PgBouncer's."""
    words = given.split(",") if isinstance(given, str) else given
    if isinstance(words, (list, tuple)) and words and all(isinstance(word, str) for word in words):
        named = {word.strip().lower() for word in words}
        if named.issubset({*TLS_VERSIONS, *_BOTH}):
            return named.pop() if len(named) == 1 and named.issubset(TLS_VERSIONS) else _BOTH[0]
    raise Wrong(Problem("", shown(given), "'tlsv1.2', 'tlsv1.3', or 'secure' for both"))


def ciphers(given: object, text: bool) -> str:
    """A list in OpenSSL's words; '' for OpenSSL's own, as are PgBouncer's words for it. In an INI file it may have
    commas between the names, which OpenSSL takes like colons."""
    if text and isinstance(given, (list, tuple)) and all(isinstance(word, str) for word in given):
        given = ":".join(given)
    if isinstance(given, str) and given.isprintable() and not set(given) & set("\"'"):
        return "" if given.lower() in ("default", "secure", "fast", "normal") else given.strip()
    raise Wrong(Problem("", shown(given), "ciphers in OpenSSL's words, as 'HIGH:!aNULL', or '' for its own"))


def file_mode(given: object, text: bool) -> FileMode:
    value = given
    if text and isinstance(value, str) and re.fullmatch(r"(0o)?[0-7]{1,4}", value):
        value = int(value.removeprefix("0o"), 8)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0o777:
        return FileMode(value)
    raise Wrong(Problem("", shown(given), "permission bits from 0o000 to 0o777, in octal"))


def list_of(check: Check) -> Check:
    """A list whose every entry passes `check`; in an INI file one entry may stand alone, and nothing is no entry."""

    def check_all(given: object, text: bool) -> tuple[Any, ...]:
        entries: object = given
        if text and isinstance(given, str):
            entries = [given] if given else []
        if not isinstance(entries, (list, tuple)):
            raise Wrong(Problem("", shown(given), "a list"))
        return each_of(check, [(f"[{index}]", entry) for index, entry in enumerate(entries)], text)

    return check_all


def each_of(check: Check, entries: list[tuple[str, object]], text: bool) -> tuple[Any, ...]:
    values, problems = [], []
    for where, entry in entries:
        try:
            values.append(check(entry, text))
        except Wrong as wrong:
            problems += [Problem(where + problem.where, problem.given, problem.wanted) for problem in wrong.problems]
    if problems:
        raise Wrong(*problems)
    return tuple(values)


def parameters(*, need_user: bool = False, startup_only: bool = False) -> Check:
    """A dict of connection parameters: those of a startup packet, and `password`. `dbname` is taken for `database`.

    startup_only  refuse what only libpq knows: no frontend ever sends it, so it would match none
    """

    def check(given: object, text: bool) -> Parameters:
        if not isinstance(given, Mapping):
            raise Wrong(Problem("", f"of type {type(given).__name__}", "a dict, as {'user': 'postgres'}"))
        problems = [] if given else [Problem("", "empty", "at least a user")]
        if given and need_user and "user" not in given:
            problems.append(Problem("['user']", "missing", "a superuser, as 'postgres'"))
        for name, value in given.items():
            wanted = _name_problem(name, startup_only)
            if wanted is not None:
                where = repr(name) if isinstance(name, str) and name.isidentifier() else shown(name)
                problems.append(Problem(f"[{where}]", "given", wanted))
            elif (wanted := _value_problem(value)) is not None:
                problems.append(Problem(f"[{name!r}]", f"of type {type(value).__name__}", wanted))
        if "dbname" in given and "database" in given:
            problems.append(Problem("['dbname']", "given", "'database' alone"))
        if problems:
            raise Wrong(*problems)
        words = {True: "on", False: "off"}
        return Parameters(
            {
                "database" if name == "dbname" else name: words[value] if isinstance(value, bool) else str(value)
                for name, value in given.items()
            }
        )

    return check


def _name_problem(name: object, startup_only: bool) -> str | None:
    """What is wanted instead of a parameter of this name, or None."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][\w.$]*", name):
        return "the name of a connection parameter, as 'database'"
    if name in NO_CHOICE:
        return "no host, port or service (master and slaver say where)"
    if name == "replication":
        return "no replication connection"
    if name != "password" and get_close_matches(name.lower(), ["password", "pass", "pwd", "pw"], 1, 0.75):
        return "'password', if that is meant (a server would be sent anything else as a setting)"
    if startup_only and name in CLIENT_ONLY:
        return "only what a frontend sends in its startup packet, and password"
    return None


def _value_problem(value: object) -> str | None:
    if isinstance(value, list):
        return "one string (in an INI file, one that holds a comma needs quotes)"
    if isinstance(value, str):
        return "a string without zero bytes and surrogates" if re.search("[\0\ud800-\udfff]", value) else None
    return None if isinstance(value, (int, float)) and abs(value) < 2**63 else "a string"


def parameter_lists(given: object, text: bool) -> tuple[Parameters, ...]:
    """A list of connection parameters; in an INI file a section of sub-sections, whose names only label them."""
    wanted = "a [conn_params] section with [[name]] sub-sections" if text else "a list of dicts"
    return sub_sections(parameters(startup_only=True), given, text, wanted)


def sub_sections(check: Check, given: object, text: bool, wanted: str) -> tuple[Any, ...]:
    """A list of what `check` takes; in an INI file a section of sub-sections, whose names only label them."""
    entries: list[tuple[str, object]]
    if text and isinstance(given, Mapping):
        entries = [(f"[{name!r}]", entry) for name, entry in given.items()]
    elif isinstance(given, (list, tuple)):
        entries = [(f"[{index}]", entry) for index, entry in enumerate(given)]
    else:
        raise Wrong(Problem("", f"of type {type(given).__name__}", wanted))
    return each_of(check, entries, text)
