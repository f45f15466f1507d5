"""The table of commands: words, arguments, columns, privilege, help. All else about commands reads the rows.

Pure. A row has no default privilege, so one that says nothing of it does not import. What answers a command is a
function that is registered for its words (`lib.console.replies`); a row without one, or a function without a row, does
not import either.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from typing import NamedTuple


class Privilege(Enum):
    """Who may run a command. Who may operate may watch, too."""

    WATCH = "watch"
    OPERATE = "operate"


WATCH, OPERATE = Privilege.WATCH, Privilege.OPERATE


class Type(NamedTuple):
    """A type of the protocol; `size` is that of its binary form, -1 where that varies."""

    name: str
    oid: int
    size: int


TYPES = {
    each.name: each
    for each in (
        Type("bool", 16, 1), Type("int8", 20, 8), Type("text", 25, -1), Type("float8", 701, 8),
        Type("timestamptz", 1184, 8),
    )
}  # fmt: skip


class Column(NamedTuple):
    name: str
    type: Type


def columns(text: str) -> tuple[Column, ...]:
    """From "id int8, host text"."""
    pairs = (each.split() for each in text.split(","))
    return tuple(Column(name, TYPES[type_name]) for name, type_name in pairs)


class Kind(Enum):
    """What an argument may be."""

    ID = "id"  # a number
    IDS = "id[,id...]"
    ADDRESS = "host:port"
    NAME = "name"
    CHOICE = "choice"  # one of a few words
    PARAMETERS = "k=v[,k=v...]"  # the rest of the line
    SETTING = "key=value"  # the same, for one
    SQL = "sql"  # the same, as it is


_PRIVATE = (Kind.PARAMETERS, Kind.SETTING, Kind.SQL)  # what is in them may be secret


class Argument(NamedTuple):
    """One argument, by the name that help and errors have for it; `choices` are the words of a CHOICE."""

    name: str
    kind: Kind
    is_optional: bool = False
    choices: tuple[str, ...] = ()

    @property
    def usage(self) -> str:
        word = "|".join(self.choices) or self.name
        return f"[{word}]" if self.is_optional else word


@dataclass(frozen=True, kw_only=True)
class Command:
    """One row.

    words      in lower case
    also       other words for the same
    columns    of the rows that it answers with; none: it answers with its tag alone
    tag        of CommandComplete, where it answers with no rows
    serial     it changes something: one such at a time
    """

    words: str
    privilege: Privilege
    help: str
    arguments: tuple[Argument, ...] = ()
    columns: tuple[Column, ...] = ()
    also: tuple[str, ...] = ()
    tag: str = ""
    is_serial: bool = False

    @property
    def is_listing(self) -> bool:
        """Whether it takes where, order by and limit."""
        takes_sql = any(each.kind is Kind.SQL for each in self.arguments)
        return bool(self.columns) and self.privilege is WATCH and not takes_sql

    @property
    def logged(self) -> tuple[str, ...]:
        """Names of the arguments that are in the log: nothing that may be secret."""
        return tuple(each.name for each in self.arguments if each.kind not in _PRIVATE)

    @property
    def usage(self) -> str:
        return " ".join((self.words, *(each.usage for each in self.arguments)))

    @property
    def command_tag(self) -> bytes:
        return (self.tag or self.words.upper()).encode()


_TOTALS = (
    "database text, xact_count int8, query_count int8, bytes_received int8, bytes_sent int8, xact_time int8, "
    "query_time int8, wait_time int8"
)
_SOCKETS = columns(
    "type text, user text, database text, state text, addr text, port int8, local_addr text, local_port int8, "
    "connect_time timestamptz, request_time timestamptz, wait int8, wait_us int8, close_needed int8, ptr text, "
    "link text, remote_pid int8, tls text, application_name text"
)
_POOL_ID = Argument("pool_id", Kind.ID)
_ID = Argument("id", Kind.ID)
_DATABASE = Argument("database", Kind.NAME, is_optional=True)
_FORCE = Argument("force", Kind.CHOICE, is_optional=True, choices=("force",))
_WHO = Argument("who", Kind.NAME, is_optional=True)
_HOW_TO_STOP = Argument("how", Kind.CHOICE, is_optional=True, choices=("wait_for_clients", "wait_for_servers"))

TABLE: tuple[Command, ...] = (
    Command(
        words="cmd", also=("show help", "help"), privilege=WATCH, help="all commands",
        columns=columns("command text, arguments text, privilege text, help text"),
    ),
    Command(
        words="fe list", also=("fe",), privilege=WATCH,
        help="the frontends: who is connected, what they do, and for how long they have waited",
        columns=columns(
            "id int8, host text, port int8, database text, user text, startup_msg text, state text, wait float8, "
            "age float8, idle float8, class text, route text, pool_id int8, worker_id int8, pending int8, "
            "received int8, sent int8, unread int8, mode text, tls bool, connected timestamptz"
        ),
    ),
    Command(
        words="pool list", also=("pool",), privilege=WATCH,
        help="the pools: one for each server, who is primary, and how it is",
        columns=columns(
            "pool_id int8, master bool, addr text, worker int8, state text, role text, lag float8, lag_bytes int8, "
            "queue int8, busy int8, held int8, starting int8, failures int8"
        ),
    ),
    Command(
        words="pool show", privilege=WATCH, arguments=(Argument("id[,id...]", Kind.IDS, is_optional=True),),
        help="the workers of some pools, or of all",
        columns=columns(
            "pool_id int8, worker_id int8, addr text, database text, user text, startup_msg text, processed int8, "
            "state text, in_flight int8, age float8, idle float8, last_run float8, frontend_id int8, "
            "backend_pid int8, settings text, started timestamptz"
        ),
    ),
    Command(
        words="explain route", privilege=WATCH, arguments=(Argument("[in database] sql", Kind.SQL),),
        help="what a statement is, which server and worker would run it, and why; it is not run",
        columns=columns("item text, value text"),
    ),
    Command(
        words="pool add", privilege=OPERATE, is_serial=True, arguments=(Argument("host:port", Kind.ADDRESS),),
        help="use a standby that is not in the conf file, from now until the pool is stopped",
        columns=columns("pool_id int8, addr text"),
    ),
    Command(
        words="pool remove", privilege=OPERATE, is_serial=True, arguments=(_POOL_ID,),
        help="send nothing more to a standby; its workers finish what they do",
        columns=columns("pool_id int8, addr text"),
    ),
    Command(
        words="ha list", also=("ha",), privilege=WATCH,
        help="who is the primary, what is thought of it, and what has become of the last switch",
        columns=columns(
            "enabled bool, primary text, state text, failures int8, refusal text, timeline int8, sync text, "
            "former text, pending text, untold text, switches int8, last_switch text, switched_at text, "
            "held text, left_out text"
        ),
    ),
    Command(
        words="pool switchover", privilege=OPERATE, is_serial=True,
        arguments=(Argument("pool_id", Kind.ID, is_optional=True), _FORCE),
        help="make a standby the primary, as planned: nothing fails, and the old one comes back as a standby",
        columns=columns("step text, what text"),
    ),
    Command(
        words="pool switchover dry run", privilege=OPERATE,
        arguments=(Argument("pool_id", Kind.ID, is_optional=True),),
        help="what that would do, and every reason against it", columns=columns("item text, value text"),
    ),
    Command(
        words="pool rejoin", privilege=OPERATE, is_serial=True, arguments=(_POOL_ID,),
        help="make a standby of a former primary, or of a standby that has followed it too far, by pg_rewind",
        columns=columns("step text, what text"),
    ),
    Command(
        words="pool changemaster", privilege=OPERATE, is_serial=True,
        arguments=(Argument("pool_id|host:port", Kind.NAME),),
        help="write to this server from now on, which somebody else has made the primary",
    ),
    Command(
        words="pool hold", privilege=OPERATE, arguments=(_WHO,),
        help="have statements for the primary wait for 5 s, as it is about to be replaced; said again, for 5 s more",
        columns=columns("quiet bool, seconds float8"),
    ),
    Command(
        words="pool release", privilege=OPERATE, arguments=(_WHO,), help="go on with the primary, after pool hold",
    ),
    Command(
        words="pool new_worker", privilege=OPERATE, is_serial=True,
        arguments=(_POOL_ID, Argument("k=v[,k=v...]", Kind.PARAMETERS)),
        help="start a worker with these connection parameters: user, database, password and settings",
        columns=columns("pool_id int8, worker_id int8"),
    ),
    Command(
        words="pool remove_worker", privilege=OPERATE, is_serial=True,
        arguments=(_POOL_ID, Argument("worker_id", Kind.ID)),
        help="close a worker, as soon as what it does is done", columns=columns("pool_id int8, worker_id int8"),
    ),
    Command(
        words="fe cancel", privilege=OPERATE, arguments=(_ID,),
        help="cancel the statement of a frontend, waiting or running", columns=columns("id int8"),
    ),
    Command(
        words="fe kill", also=("kill_client",), privilege=OPERATE, arguments=(_ID,),
        help="disconnect a frontend, and cancel its statement", columns=columns("id int8"),
    ),
    Command(
        words="pause", privilege=OPERATE, arguments=(_DATABASE,),
        help="send nothing more to the servers, wait until nothing runs there any more, and close all workers",
    ),
    Command(words="resume", privilege=OPERATE, arguments=(_DATABASE,), help="go on after pause or kill"),
    Command(
        words="reconnect", privilege=OPERATE, arguments=(_DATABASE,),
        help="replace every worker, as soon as what it does is done",
    ),
    Command(
        words="kill", privilege=OPERATE, arguments=(_DATABASE,),
        help="disconnect all frontends and close all workers; who comes back waits until resume",
    ),
    Command(
        words="reload", privilege=OPERATE, is_serial=True, help="read the conf file again",
        columns=columns("setting text, result text"),
    ),
    Command(
        words="set", privilege=OPERATE, is_serial=True, arguments=(Argument("key=value", Kind.SETTING),),
        help="change a setting until the next reload", tag="SET",
    ),
    Command(
        words="shutdown", privilege=OPERATE, arguments=(_HOW_TO_STOP,),
        help="stop the pool: at once (shutdown_timeout), when nothing runs any more, or when all clients have left",
    ),
    Command(
        words="show version", privilege=WATCH, help="the version of the pool", columns=columns("version text"),
    ),
    Command(
        words="show stats", privilege=WATCH,
        help="what was counted for each database, and averages of the last one to two minutes",
        columns=columns(
            "database text, total_xact_count int8, total_query_count int8, total_received int8, total_sent int8, "
            "total_xact_time int8, total_query_time int8, total_wait_time int8, avg_xact_count int8, "
            "avg_query_count int8, avg_recv int8, avg_sent int8, avg_xact_time int8, avg_query_time int8, "
            "avg_wait_time int8, total_requests int8"
        ),
    ),
    Command(
        words="show stats_totals", privilege=WATCH, help="what was counted; bytes, and times in microseconds",
        columns=columns(_TOTALS),
    ),
    Command(
        words="show stats_averages", privilege=WATCH,
        help="the same in a second, or for one, in the last one to two minutes",
        columns=columns(_TOTALS),
    ),
    Command(
        words="top", privilege=WATCH, help="the shapes of statements that have cost most, without their values",
        columns=columns(
            "database text, class text, calls int8, total_ms float8, mean_ms float8, p99_ms float8, rows float8, "
            "wait_ms float8, rides bool, shape text"
        ),
    ),
    Command(
        words="show pools", privilege=WATCH, help="users and databases, with how many clients and servers each has",
        columns=columns(
            "database text, user text, cl_active int8, cl_waiting int8, cl_active_cancel_req int8, "
            "cl_waiting_cancel_req int8, sv_active int8, sv_active_cancel int8, sv_being_canceled int8, sv_idle int8, "
            "sv_used int8, sv_tested int8, sv_login int8, maxwait int8, maxwait_us int8, pool_mode text"
        ),
    ),
    Command(words="show clients", privilege=WATCH, help="the frontends as PgBouncer shows them", columns=_SOCKETS),
    Command(words="show servers", privilege=WATCH, help="the workers as PgBouncer shows them", columns=_SOCKETS),
    Command(
        words="show databases", privilege=WATCH, help="the databases that are in use, and which of them are paused",
        columns=columns(
            "name text, host text, port int8, database text, force_user text, pool_size int8, min_pool_size int8, "
            "reserve_pool int8, pool_mode text, max_connections int8, current_connections int8, paused int8, "
            "disabled int8"
        ),
    ),
    Command(
        words="show users", privilege=WATCH, help="the users that are connected, and their pool mode",
        columns=columns("name text, pool_mode text"),
    ),
    Command(
        words="show lists", privilege=WATCH, help="how many there are of each",
        columns=columns("list text, items int8"),
    ),
    Command(
        words="show config", privilege=WATCH, help="the settings, and which of them a reload can change",
        columns=columns("key text, value text, default text, changeable text"),
    ),
    Command(
        words="show state", privilege=WATCH, help="whether the pool is paused", columns=columns("key text, value text"),
    ),
    Command(
        words="show mem", privilege=WATCH, help="the memory of the process, in bytes",
        columns=columns("name text, size int8, used int8, free int8, memtotal int8"),
    ),
)  # fmt: skip


def by_words(table: tuple[Command, ...]) -> dict[tuple[str, ...], Command]:
    """Every way to say each command, as a tuple of words.

    raises   ValueError when two commands have the same words
    """
    found: dict[tuple[str, ...], Command] = {}
    for command in table:
        for words in (command.words, *command.also):
            key = tuple(words.split())
            if key in found:
                raise ValueError(f"two commands are called {words!r}")
            found[key] = command
    return found


BY_WORDS = by_words(TABLE)
_LONGEST = max(map(len, BY_WORDS))


def find(words: list[str]) -> tuple[Command, int] | None:
    """The command that a line begins with, and how many of its words name it; the longest name counts."""
    lower = [word.lower() for word in words[:_LONGEST]]
    for size in range(len(lower), 0, -1):
        command = BY_WORDS.get(tuple(lower[:size]))
        if command is not None:
            return command, size
    return None


def is_beginning(words: list[str]) -> bool:
    """Whether some command begins with these words, and has more."""
    key = tuple(word.lower() for word in words)
    return any(len(each) > len(key) and each[: len(key)] == key for each in BY_WORDS)


def nearest(words: list[str]) -> str | None:
    """The command that somebody may have meant who typed `words`."""
    names = {" ".join(key): key for key in BY_WORDS}
    for size in range(min(len(words), _LONGEST), 0, -1):
        near = get_close_matches(" ".join(words[:size]).lower(), names, 1, cutoff=0.7)
        if near:
            return near[0]
    first = words[0].lower() if words else ""
    return next((name for name, key in names.items() if key[0] == first), None)
