"""The settings of the pool: one row each, and everything that is done with them reads the rows.

Pure, but for `load`, for which `lib.conffile` reads the file. A row of `Settings` says a setting's name, type, unit and
default, whether a reload will be able to change it once there is one, how a value is checked (`lib.checks`) and what it
is for; the same rows load, check, show and document. All complaints come at once, and none shows a password. `Settings`
are checked whole and frozen: whoever uses one reads an attribute, and checks nothing again.
"""

# ruff: noqa: RUF009 (a row is a dataclasses.field, which is made once)

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from itertools import combinations, pairwise
from typing import Any, NamedTuple

from lib import checks, conffile, modes
from lib.checks import Address, Check, FileMode, Parameters, Wrong
from lib.errors import ConfigError
from lib.modes import Condition, PoolMode

REQUIRED = object()

NET, SERVERS, WORKERS, LIMITS = "Listening", "Servers", "Workers", "Limits"
TLS = "TLS"
SESSIONS, HA, UPKEEP = "Sessions", "High availability", "Upkeep"


SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


class Setting(NamedTuple):
    """One row.

    default      as a Python conf file would give it
    reloadable   whether a running pool could take over a new value; in this release none does, see `changed`
    trade        what choosing it differently costs
    """

    name: str
    group: str
    type: str
    unit: str
    default: object
    reloadable: bool
    check: Check
    help: str
    trade: str


def _row(
    group: str, type: str, unit: str, default: object, reloadable: bool, check: Check, help: str, trade: str
) -> Any:
    row = {"row": (group, type, unit, default, reloadable, check, help, trade)}
    return field(metadata=row) if default is REQUIRED else field(default=check(default, False), metadata=row)


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """Every setting in its normal form, what to warn of, and the file they came from."""

    listen: tuple[Address, ...] = _row(
        NET, "address, or a list of them", "", ("127.0.0.1", 7777), False, checks.addresses(everywhere=True),
        "Where frontends connect: `(host, port)`. `''` or `'*'` is every interface, IPv4 and IPv6; a host that begins "
        "with `/` is a directory, and the Unix socket in it is `.s.PGSQL.<port>`.",
        "A Unix socket costs less than TCP and lets peer authenticate; every interface lets the network knock.",
    )
    unix_socket_mode: FileMode = _row(
        NET, "permission bits", "", FileMode(0o777), False, checks.file_mode,
        "Permission bits of the Unix sockets in `listen`, as PostgreSQL's `unix_socket_permissions`.",
        "Fewer bits keep local users out before anything is asked of them; only the write bits count.",
    )
    max_client_conn: int = _row(
        NET, "integer", "frontends", 10000, True, checks.whole(1, 1_000_000),
        "How many frontends may be connected at once; the next one is refused with 53300.",
        "Each takes some memory and a file descriptor: the hard limit of open files (`ulimit -Hn`), up to which the "
        "pool raises its own, must be higher than this.",
    )
    client_buffer: int = _row(
        NET, "integer", "bytes", 1048576, True, checks.whole(4096),
        "How much of an answer may wait for a frontend that does not read it before its worker stops reading, too.",
        "More lets slow readers give their worker back sooner; it is memory that each of them may take.",
    )
    proxy_networks: tuple[str, ...] = _row(
        NET, "list of networks", "", [], False, checks.list_of(checks.network),
        "From where proxies connect that speak for others, by the PROXY protocol, version 1 or 2 (haproxy's "
        "`send-proxy` and `send-proxy-v2`): networks as `'10.0.0.0/8'`, or `'unix'` for the Unix sockets in `listen`. "
        "What comes from there must begin with such a header, and counts as coming from the address in it.",
        "Whoever can connect from there can pretend to be anybody: name the proxies, and not a network of clients.",
    )
    admin_cnn: Parameters = _row(
        SERVERS, "connection parameters", "", REQUIRED, False, checks.parameters(need_user=True),
        "How the pool itself connects to the primary: a dict with `user` (a superuser), and if needed `database`, "
        "`password` and what else a connection string of libpq may hold (settings in `options`). No host and no port.",
        "A superuser is needed to read password hashes and pg_hba.conf; keep this file private.",
    )
    master: Address = _row(
        SERVERS, "address", "", REQUIRED, False, checks.address(),
        "The primary: `(host, port)`; a host that begins with `/` is the directory of its Unix socket.",
        "If it is down when the pool starts, the pool waits for it.",
    )
    slaver: tuple[Address, ...] = _row(
        SERVERS, "list of addresses", "", [], False, checks.addresses(),
        "The standbys: `[(host, port), ...]`. Statements whose text begins with `/*s*/` go to them in turn.",
        "A standby answers from a moment ago; without standbys such statements go to the primary.",
    )
    conn_params: tuple[Parameters, ...] = _row(
        SERVERS, "list of connection parameters", "", [], True, checks.parameter_lists,
        "Which frontends get workers on standbys: those whose startup parameters match one of these dicts; empty means "
        "every frontend. A `password` beside a `user` is what all workers of that user (and `database`, if it is "
        "there) log in with, else it is what a frontend has shown at its own login. No host and no port.",
        "A list keeps connections to standbys few, and starts them before the first statement that wants one.",
    )
    read_your_writes: str = _row(
        SERVERS, "word", "", "frontend", True, checks.choice("off", "frontend", "all"),
        "Whose writes a `/*s*/` read is sure to see: those that its own frontend has made before (`'frontend'`), those "
        "that any frontend has made in its database through this pool (`'all'`), or nobody's (`'off'`). It goes to a "
        "standby that has replayed them, waits a little for one, or goes to the primary.",
        "`'frontend'` costs only who has written; with `'all'` every such read in a database that is written to waits "
        "for the answers of the primary and a standby.",
    )
    read_your_writes_timeout: float = _row(
        SERVERS, "number", "seconds", 0.1, True, checks.seconds(0, 3600),
        "How long a read waits for a standby to have replayed the writes that it must see, before it goes to the "
        "primary. 0 is not at all.",
        "Longer spares the primary; shorter answers sooner where standbys are slow.",
    )
    max_lag: float = _row(
        SERVERS, "number", "seconds", 0, True, checks.seconds(0),
        "A standby that is further behind the primary than this is left out until it has caught up; when all are, the "
        "primary reads. It is told from positions in the WAL, so that neither clocks matter nor how long nothing was "
        "written. 0 is no limit.",
        "Shorter keeps old data from being read, and sends more to the primary when a standby is slow.",
    )
    lag_check_interval: float = _row(
        SERVERS, "number", "seconds", 1, True, checks.seconds(0.01, 3600),
        "How often all servers are asked how far they are, where `max_lag` is set; at least twice in `max_lag`. For so "
        "long a standby that falls behind may go unnoticed.",
        "Shorter notices it sooner; each look is one small query to each server.",
    )
    client_tls_sslmode: str = _row(
        TLS, "word", "", "prefer", False, checks.choice(*SSLMODES),
        "Whether frontends on TCP may or must use TLS, as in PgBouncer: `'disable'`; `'allow'` or `'prefer'`, which "
        "are the same: whoever asks for it; `'require'`: all; `'verify-ca'` or `'verify-full'`, which are the same: "
        "all, and with a certificate of `client_tls_ca_file`. Without `client_tls_cert_file` there is no TLS.",
        "`hostssl` and `hostnossl` rules of pg_hba.conf say the same for some frontends; this says it for all.",
    )
    client_tls_cert_file: str = _row(
        TLS, "file name", "", "", False, checks.optional_file_name,
        "The certificate that frontends are shown (PEM), with those of intermediate authorities behind it. When the "
        "file changes it is read again within a second or two; connections that are there stay.",
        "One that cannot be used is logged, and the last one is shown on.",
    )
    client_tls_key_file: str = _row(
        TLS, "file name", "", "", False, checks.optional_file_name,
        "Its private key (PEM, without a passphrase).",
        "Only the pool's user should be able to read it.",
    )
    client_tls_ca_file: str = _row(
        TLS, "file name", "", "", False, checks.optional_file_name,
        "Certificates of the authorities (PEM) that certificates of frontends are checked against; with it, frontends "
        "are asked for one. `cert` rules and `clientcert` options of pg_hba.conf need it.",
        "A frontend whose certificate does not hold is refused, whatever the rules say; one without is not.",
    )
    server_tls_sslmode: str = _row(
        TLS, "word", "", "prefer", False, checks.choice(*SSLMODES),
        "How workers, cancel requests and `admin_cnn` connect to servers on TCP, as libpq's `sslmode`: `'disable'`; "
        "`'allow'`: by TLS only if the server insists; `'prefer'`: by TLS if the server has it; `'require'`; "
        "`'verify-ca'`, and its certificate is one of `server_tls_ca_file`; `'verify-full'`, and it is for that host.",
        "Only the last two keep out who pretends to be the server. TLS costs time: `'disable'` does without where the "
        "network can be trusted.",
    )
    server_tls_ca_file: str = _row(
        TLS, "file name", "", "", False, checks.optional_file_name,
        "Certificates of the authorities (PEM) that certificates of servers are checked against; `'system'` for those "
        "that this machine trusts, with `'verify-full'` only. With `'require'`, too, a server is then checked as by "
        "`'verify-ca'`.",
        "The files of this and the next two settings are read again when they change, for connections from then on.",
    )
    server_tls_cert_file: str = _row(
        TLS, "file name", "", "", False, checks.optional_file_name,
        "The certificate that the pool shows to servers that ask for one (PEM).",
        "All workers show the same one, so `cert` rules for the pool's address need a user name map.",
    )
    server_tls_key_file: str = _row(
        TLS, "file name", "", "", False, checks.optional_file_name,
        "Its private key (PEM, without a passphrase).",
        "Only the pool's user should be able to read it; libpq refuses one that others can read.",
    )
    worker_min_cnt: tuple[int, ...] = _row(
        WORKERS, "list of integers", "", [], True, checks.list_of(checks.whole(1, 100_000)),
        "How many workers a few frontends have, on each server that they use: the n-th number is for n frontends of a "
        "user and database.",
        "More workers mean less waiting behind slow statements, and more connections that the server has to keep.",
    )
    worker_per_fe_cnt: int = _row(
        WORKERS, "integer", "frontends", 10, True, checks.whole(1),
        "With more frontends than `worker_min_cnt` has numbers: one worker for each so many of them, rounded up.",
        "Fewer frontends per worker mean less waiting and more connections to the server.",
    )
    max_workers: int = _row(
        WORKERS, "integer", "workers", 20, True, checks.whole(0, 100_000),
        "While statements wait, workers are added one at a time up to so many for a user and database on a server. "
        "Those that a frontend holds for its session do not count. 0 keeps to what `worker_min_cnt` and "
        "`worker_per_fe_cnt` say.",
        "Beyond a few per core of the server they make it slower; the server's `max_connections` must allow for them, "
        "and for those that are held.",
    )
    grow_after: float = _row(
        WORKERS, "number", "seconds", 0.02, True, checks.seconds(0, 3600),
        "One more worker is started when statements have had to wait for so long in all, because all workers are busy "
        "(time in which none has to is taken off again); then it begins anew. It is looked at about every 10 ms, which "
        "is what 0 comes to.",
        "Shorter answers bursts sooner; longer starts fewer connections that are soon idle.",
    )
    riders: bool = _row(
        WORKERS, "boolean", "", True, True, checks.boolean,
        "Whether a worker is sent the next reads before it has answered the last one. Only reads that are known to be "
        "harmless and quick ride behind one another; what writes, locks, waits or is not known yet has a worker alone.",
        "With riders the pool takes about half the time for a read, and few workers do the work of many; `False` gives "
        "every statement a worker of its own, as other poolers do.",
    )
    rider_depth: int = _row(
        WORKERS, "integer", "statements", 32, True, checks.whole(2, 1000),
        "How many reads at most are on their way to one worker at the same time.",
        "More make longer batches and use fewer workers; fewer make a read wait for fewer others.",
    )
    rider_limit: float = _row(
        WORKERS, "number", "seconds", 0.001, True, checks.seconds(0.00001, 0.01),
        "Reads that take a server longer than this, as learned from their earlier runs, ride behind nobody and carry "
        "nobody. Riders also spread over idle workers where more of them than fit in this time would be in one row.",
        "Longer lets more reads ride, each of which may wait longer for those ahead of it.",
    )
    idle_timeout: float = _row(
        WORKERS, "number", "seconds", 600, True, checks.seconds(0),
        "A worker beyond what `worker_min_cnt` and `worker_per_fe_cnt` say is closed after being idle for so long, "
        "unless statements wait; one of session mode, whatever these say. 0 is never. `idle_cnn_timeout`, the older "
        "pg_proxy's name, is the same setting.",
        "Shorter frees connections of the server; starting one again takes it some milliseconds.",
    )
    server_lifetime: float = _row(
        WORKERS, "number", "seconds", 3600, True, checks.seconds(0),
        "A worker that is older than this is closed when it is found idle and no statement waits; another is started "
        "when one is needed. 0 is never.",
        "A backend's caches grow with its age: shorter gives that memory back, longer spares new connections.",
    )
    query_wait_timeout: float = _row(
        LIMITS, "number", "seconds", 120, True, checks.seconds(0),
        "How long a statement waits for a worker before it fails with 53300. 0 is for ever.",
        "Longer lets frontends wait while the server restarts, instead of failing; shorter tells them of an overload.",
    )
    active_cnn_timeout: float = _row(
        LIMITS, "number", "seconds", 0, True, checks.seconds(0),
        "A frontend that has been idle for so long, in a transaction or not, is disconnected with 57P05, as by "
        "PostgreSQL's `idle_session_timeout`. Never in the middle of a statement. 0 is no limit.",
        "Shorter gets rid of what was forgotten; applications must then be ready to connect again.",
    )
    disable_conds_list: tuple[tuple[Condition, ...], ...] = _row(
        LIMITS, "list of lists of (name, value)", "", [], True, modes.check_conditions,
        "Which frontends `active_cnn_timeout` does not concern: those whose startup packet (`user`, `database`, "
        "`application_name`, ...) meets all conditions of one of these lists: `[[('user', 'report'), ('database', "
        "'shop')], [('application_name', 'psql')]]`.",
        "A frontend on the list may be idle for ever, and keep what it holds.",
    )
    connect_timeout: float = _row(
        LIMITS, "number", "seconds", 15, True, checks.seconds(0.1, 3600),
        "How long a server may take to accept the connection of a worker, and again for each step of its login.",
        "Shorter notices a silent server sooner; longer is kinder to one that is overloaded.",
    )
    login_retry: float = _row(
        LIMITS, "number", "seconds", 0.2, True, checks.seconds(0.01, 3600),
        "The wait between two attempts to start a worker when statements wait and there is none, as the primary is "
        "down or a server is full. For standbys that are down see `standby_check_interval`.",
        "Shorter goes on sooner when it is back, and knocks more often while it is not.",
    )
    auth_timeout: float = _row(
        LIMITS, "number", "seconds", 60, True, checks.seconds(0.1, 3600),
        "How long a frontend may take to log in, as PostgreSQL's `authentication_timeout`: for its startup packet, and "
        "again from there until it is authenticated. While the primary is down, logins that the pool does not know yet "
        "wait for it as long.",
        "Shorter frees what half-open connections hold; longer is for people who type their password.",
    )
    shutdown_timeout: float = _row(
        LIMITS, "number", "seconds", 30, True, checks.seconds(0),
        "How long statements in flight may go on after SIGTERM or SIGINT before they are canceled. 0 is not at all.",
        "Longer lets them finish; it should be shorter than what the service manager waits before it kills.",
    )
    pool_mode: str = _row(
        SESSIONS, "word", "", "statement", True, modes.check_mode,
        "For how long a frontend has a worker: `'statement'`, as long as a statement, transaction or what else holds "
        "one; `'transaction'`, the same, but reads do not ride behind one another; `'session'`, from login to "
        "disconnect. In session mode nothing is refused or looked at, and at most `max_workers` frontends of a user "
        "and database have a session on a server at the same time; others wait for `query_wait_timeout`.",
        "`'session'` can do all that a direct connection can, and needs a server connection for every frontend.",
    )
    pool_modes: tuple[PoolMode, ...] = _row(
        SESSIONS, "list of rules", "", [], True, modes.check_pool_modes,
        "Other modes for some: `[{'user': 'report', 'database': 'shop', 'pool_mode': 'session'}, ...]`. The first rule "
        "that matches counts; `user` or `database` may be left out, and `max_workers`, where it is there, is for them "
        "instead of the setting of that name.",
        "A mode for the few that need it leaves all others the fewer connections.",
    )
    transactions: str = _row(
        SESSIONS, "word", "", "allow", True, checks.choice("allow", "reject"),
        "Whether transactions may hold a worker until they end: `'allow'`, or `'reject'` them with 0A000. Not for "
        "session mode.",
        "`'reject'` finds the applications that need transactions; what else may hold a worker is up to "
        "`session_features`.",
    )
    session_features: str = _row(
        SESSIONS, "word", "", "allow", True, checks.choice("allow", "reject"),
        "Whether what lives in a session (LISTEN, temporary tables, advisory locks, ...) may hold a worker until the "
        "frontend disconnects: `'allow'`, or `'reject'` it with 0A000. Statements that a driver prepares by name hold "
        "one all the same; settings (SET) hold none. Not for session mode.",
        "`'reject'` finds the applications that do so, before they take all workers.",
    )
    pin_notice: bool = _row(
        SESSIONS, "boolean", "", False, True, checks.boolean,
        "Whether a frontend is told by a NOTICE (01000), once, that it now has a worker of its own for its session, "
        "and what for.",
        "`True` shows those who write the application what costs a server connection each.",
    )
    track_application_name: bool = _row(
        SESSIONS, "boolean", "", True, False, checks.boolean,
        "Whether a worker has the `application_name` of the frontend that it serves. `False` takes that for cosmetic: "
        "a frontend is told what it has set, but the server may see, and SHOW may answer, that of another one.",
        "`False` saves a round trip to the server where frontends with different names take turns, and shows less in "
        "`pg_stat_activity` and the server's log.",
    )
    enable_ha: bool = _row(
        HA, "boolean", "", False, False, checks.boolean,
        "Whether this pool promotes a standby when the primary is gone. **Without effect in this release**, as are the "
        "three settings below: they are read and checked, but failover is not built yet.",
        "Statements for the primary wait until it is back, `query_wait_timeout` long.",
    )
    ha_after_fail_cnt: int = _row(
        HA, "integer", "failures", 10, True, checks.whole(1, 1_000_000),
        "Without effect yet. The switch will begin after so many failed connections to the primary in a row.",
        "Fewer are faster; more are surer that it is not only restarting.",
    )
    lo_oid: int = _row(
        HA, "integer", "", 9999, True, checks.whole(1, 2**32 - 1),
        "Without effect yet. The large object in the primary from which the trigger file on a standby will be made "
        "(PostgreSQL 11 and older).",
        "Any number that no application uses for a large object of its own.",
    )
    trigger_file: str = _row(
        HA, "file name", "", "trigger", True, checks.file_name,
        "Without effect yet. The `trigger_file` in the `recovery.conf` of the standbys (PostgreSQL 11 and older).",
        "It has to be the same on all of them; newer servers will be promoted without it.",
    )
    standby_check_interval: float = _row(
        UPKEEP, "number", "seconds", 2, True, checks.seconds(0.01, 86400),
        "How often a standby that has failed is tried again: a worker logs in to it. One that works is not asked; it "
        "is left out as soon as a worker cannot be started on it.",
        "Shorter uses it sooner when it is back; each try is one connection.",
    )
    catalog_interval: float = _row(
        UPKEEP, "number", "seconds", 5, True, checks.seconds(0.01, 86400),
        "How often each database that frontends have used is asked whether its catalog has changed; if so, it is "
        "scanned for functions, triggers, views and the like that change sessions. DDL through the pool has it scanned "
        "at once.",
        "Until a check has seen a trigger or function that was changed past the pool, statements that use it may be "
        "taken for harmless.",
    )
    hba_interval: float = _row(
        UPKEEP, "number", "seconds", 10, True, checks.seconds(0.01, 86400),
        "How often the roles that have workers, and what ALTER ROLE or ALTER DATABASE has set, are looked at on the "
        "primary: workers that such a change concerns are replaced. The rules of pg_hba.conf are read again at the "
        "next login after so long, and at once when a login finds that the server has reloaded them.",
        "Shorter replaces such workers sooner; each look is two small queries.",
    )
    log_level: str = _row(
        UPKEEP, "word", "", "info", True, checks.choice("debug", "info", "warning", "error"),
        "The least important messages that are logged (to stderr): `'debug'`, `'info'`, `'warning'` or `'error'`.",
        "`'debug'` logs every connection and slows logins down; nothing secret is logged at any level.",
    )
    path: str = ""
    warnings: tuple[str, ...] = ()

    def rows(self, redact: bool = True) -> Iterator[tuple[Setting, str, bool]]:
        """Each setting with its value as a Python conf file would give it, and whether that is not the default."""
        for name, row in TABLE.items():
            value = getattr(self, name)
            is_default = row.default is not REQUIRED and value == row.check(row.default, False)
            yield row, repr(_plain(value, redact)), not is_default

    def show(self, redact: bool = True) -> str:
        """The effective settings, a line each; `*` marks those that are not the default."""
        lines = []
        for row, value, is_changed in self.rows(redact):
            line = f"{'*' if is_changed else ' '} {row.name:<22} = {value} {row.unit}".rstrip()
            if is_changed:
                line += f"   ({_default(row)})"
            lines.append(line)
        return "\n".join(lines)

    def __repr__(self) -> str:
        changed = " ".join(f"{row.name}={value}" for row, value, is_changed in self.rows() if is_changed)
        return f"<Settings {self.path} {changed}>"


TABLE: dict[str, Setting] = {
    each.name: Setting(each.name, *each.metadata["row"]) for each in fields(Settings) if "row" in each.metadata
}


# Older names that mean the same.
ALIASES = {"idle_cnn_timeout": "idle_timeout"}


def _plain(value: object, redact: bool) -> object:
    """A normal form as what a Python conf file would hold."""
    if isinstance(value, PoolMode):
        return value.plain()
    if isinstance(value, Parameters):
        return value.redacted() if redact else dict(value)
    if isinstance(value, tuple):
        return tuple(value) if isinstance(value, (Address, Condition)) else [_plain(entry, redact) for entry in value]
    return value


def _default(row: Setting) -> str:
    return "required" if row.default is REQUIRED else f"default: {row.default!r}"


class Changes(NamedTuple):
    """Names of the settings that differ: those that a reload could take over, and those that need a restart.

    There is no reload yet, so that in this release all of them need one.
    """

    reloadable: tuple[str, ...]
    restart: tuple[str, ...]


def changed(old: Settings, new: Settings) -> Changes:
    names = [name for name in TABLE if getattr(old, name) != getattr(new, name)]
    return Changes(
        tuple(name for name in names if TABLE[name].reloadable),
        tuple(name for name in names if not TABLE[name].reloadable),
    )


# --- checking --------------------------------------------------------------------------------------------------------


def make(given: Mapping[Any, object], path: str = "", text: bool = False, complaints: Iterable[str] = ()) -> Settings:
    """Settings from what a conf file gave.

    text        every value is a string or a list of strings (INI), so '10' is a number
    complaints  what is wrong with the file already
    raises      ConfigError with every complaint: the key, what was given, what is wanted
    """
    values: dict[str, Any] = {}
    twice = [(old, new) for old, new in ALIASES.items() if old in given and new in given]
    complaints = [*complaints, *(f"{old} is given beside {new}: wanted one of them" for old, new in twice)]
    given = {ALIASES.get(name, name): value for name, value in given.items()}
    complaints += [_unknown(name) for name in given if name not in TABLE]
    for name, row in TABLE.items():
        if name not in given:
            if row.default is REQUIRED:
                complaints.append(f"{name} is missing: wanted its {row.type}")
            continue
        misplaced = _misplaced(given[name]) if name not in ("pool_modes", "disable_conds_list") else []
        complaints += [f"{inner} is in {name}: wanted one level above" for inner in misplaced]
        try:
            values[name] = row.check(given[name], text)
        except Wrong as wrong:
            complaints += [f"{name}{each.where} is {each.given}: wanted {each.wanted}" for each in wrong.problems]
    complaints += _conflicts(values)
    if complaints:
        raise ConfigError(complaints)
    return Settings(**values, path=path, warnings=tuple(_doubts(values)))


def load(path: str) -> Settings:
    """Read and check a conf file: INI when its name ends in .ini, else Python.

    raises   ConfigError (F0000) with every complaint
    """
    conf = conffile.read(path)
    return make(conf.given, path, conf.is_text, conf.complaints)


def _unknown(name: object) -> str:
    if not isinstance(name, str) or not name.isidentifier():
        return f"the key {checks.shown(name)} is not a setting"
    near = get_close_matches(name.lower(), TABLE, 1)
    return f"{name} is not a setting: " + (f"did you mean {near[0]}?" if near else "see docs/configuration.md")


def _misplaced(given: object) -> list[str]:
    """Names of settings inside connection parameters: lines that slipped below the header of an INI section."""
    if isinstance(given, (list, tuple)):
        return [name for entry in given for name in _misplaced(entry)]
    if not isinstance(given, Mapping):
        return []
    here = [name for name in given if name in TABLE and name not in checks.CLIENT_ONLY]
    return here + [name for entry in given.values() if isinstance(entry, Mapping) for name in _misplaced(entry)]


def _conflicts(values: Mapping[str, Any]) -> list[str]:
    """What cannot be together, among the values that are right by themselves."""
    complaints = []
    listen = values.get("listen", TABLE["listen"].check(TABLE["listen"].default, False))
    servers = [("master", values["master"])] if "master" in values else []
    servers += [("slaver", each) for each in values.get("slaver", ())]
    for one, other in combinations(listen, 2):
        everywhere = "" in (one.host, other.host) and one.port == other.port and not (one.is_unix or other.is_unix)
        if one.meets(other) or everywhere:
            complaints.append(f"listen has {one} and {other}: wanted each address once")
    for (name, one), (other_name, other) in combinations(servers, 2):
        if one.meets(other):
            where = f"both {name}" if name == other_name else f"{name} and {other_name}"
            complaints.append(f"{other} is in {where}: wanted each server once")
    for name, server in servers:
        if any(each.meets(server) for each in listen):
            complaints.append(f"{server} is in listen and {name}: wanted another port, as the pool would meet itself")
    return complaints + _tls_conflicts(values)


def _tls_conflicts(values: Mapping[str, Any]) -> list[str]:
    """What is missing beside the TLS settings that were given."""
    complaints = []
    for side in ("client", "server"):
        cert, key = f"{side}_tls_cert_file", f"{side}_tls_key_file"
        for one, other in ((cert, key), (key, cert)):
            if values.get(one) and not values.get(other):
                complaints.append(f"{one} is given without {other}: wanted both, or neither")
    mode = values.get("client_tls_sslmode", "prefer")
    if mode in ("require", "verify-ca", "verify-full") and not values.get("client_tls_cert_file"):
        complaints.append(f"client_tls_sslmode is {mode!r}: wanted client_tls_cert_file, too")
    if mode.startswith("verify") and not values.get("client_tls_ca_file"):
        complaints.append(f"client_tls_sslmode is {mode!r}: wanted client_tls_ca_file, too")
    mode, authorities = values.get("server_tls_sslmode", "prefer"), values.get("server_tls_ca_file")
    if mode.startswith("verify") and not authorities:
        complaints.append(f"server_tls_sslmode is {mode!r}: wanted server_tls_ca_file, too")
    if authorities == "system" and mode != "verify-full":
        complaints.append("server_tls_ca_file is 'system': wanted server_tls_sslmode 'verify-full'")
    return complaints


def _doubts(values: Mapping[str, Any]) -> list[str]:
    """What is allowed, but hardly meant."""
    doubts = []
    workers = values.get("worker_min_cnt", ())
    if any(later < earlier for earlier, later in pairwise(workers)):
        doubts.append(f"worker_min_cnt {list(workers)} does not grow: more frontends would have fewer workers")
    if values.get("enable_ha"):
        doubts.append("enable_ha is on, but failover is not built yet: this release switches nothing")
    if any("password" in each and "user" not in each for each in values.get("conn_params", ())):
        doubts.append("conn_params has a password without a user: it is not used")
    if values.get("disable_conds_list") and not values.get("active_cnn_timeout"):
        doubts.append("disable_conds_list is given, but active_cnn_timeout is 0: nobody is disconnected anyway")
    if not values.get("slaver"):
        if values.get("enable_ha"):
            doubts.append("enable_ha is on, but slaver is empty: there is no standby to promote")
        if values.get("conn_params"):
            doubts.append("conn_params is given, but slaver is empty: there are no standbys to start workers on")
    return doubts


# --- documenting -----------------------------------------------------------------------------------------------------

INTRODUCTION = """\
# Configuration

<!-- Made from the table in lib/config.py by docs/generate.py: change it there. -->

`pgstmtpool.py [conf_file]` reads `pgstmtpool.conf.py` beside the script when no file is named. `pgstmtpool.py --check
[conf_file]` says everything that is wrong with a file (exit code 2), or prints the effective settings without
passwords, a `*` before those that are not the default (exit code 0).

Only `admin_cnn` and `master` are required. The file is Python, run with the rights of the pool, and leaves a dict named
`all`; an encoding other than UTF-8 is declared in its first line (`# -*- coding: gbk -*-`):

```python
all = {
    'listen': ('127.0.0.1', 7777),
    'admin_cnn': {'user': 'postgres', 'password': '...'},
    'master': ('10.0.0.1', 5432),
    'slaver': [('10.0.0.2', 5432), ('10.0.0.3', 5432)],
    'conn_params': [{'user': 'app', 'database': 'shop'}],
}
```

A file whose name ends in `.ini` holds the same names. Lists are separated by commas, a value that holds a comma or a
`#` (a password, say) needs quotes, and the sections come last:

```ini
listen = 127.0.0.1:7777
master = 10.0.0.1:5432
slaver = 10.0.0.2:5432, [fd00::3]:5432

[admin_cnn]
user = postgres
password = "..."

[conn_params]
[[shop]]
user = app
database = shop
```

An address is `(host, port)` or `'host:port'`. A host that begins with `/` is the directory of a Unix socket, as in
`('/var/run/postgresql', 5432)`. The file is read once, at the start: whatever is changed in it needs a restart.
"""


def documentation() -> str:
    """The text of docs/configuration.md."""
    parts = [INTRODUCTION]
    group = ""
    for row in TABLE.values():
        if row.group != group:
            group = row.group
            parts.append(f"## {group}\n")
        unit = f" ({row.unit})" if row.unit else ""
        default = "required" if row.default is REQUIRED else f"default `{row.default!r}`"
        parts.append(f"### `{row.name}`\n\n*{row.type}{unit}, {default}*\n")
        parts.append(textwrap.fill(f"{row.help} {row.trade}", 119) + "\n")
    return "\n".join(parts)
