"""Rows: how many workers there are, what rides on them, and who has one for longer. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from lib import checks, modes
from lib.conf.row import row
from lib.modes import PoolMode

WORKERS = "Workers"
SESSIONS = "Sessions"


@dataclass(frozen=True, kw_only=True, repr=False)
class Workers:
    """How many workers, and what they are sent."""

    worker_min_cnt: tuple[int, ...] = row(
        WORKERS, "list of integers", "", [], True, checks.list_of(checks.whole(1, 100_000)),
        "How many workers a few frontends have, on each server that they use: the n-th number is for n frontends of a "
        "user and database.",
        "More workers mean less waiting behind slow statements, and more connections that the server has to keep.",
    )
    worker_per_fe_cnt: int = row(
        WORKERS, "integer", "frontends", 10, True, checks.whole(1),
        "With more frontends than `worker_min_cnt` has numbers: one worker for each so many of them, rounded up.",
        "Fewer frontends per worker mean less waiting and more connections to the server.",
    )
    max_workers: int = row(
        WORKERS, "integer", "workers", 20, True, checks.whole(0, 100_000),
        "While statements wait, workers are added one at a time up to so many for a user and database on a server. "
        "Those that a frontend holds for its session do not count. 0 keeps to what `worker_min_cnt` and "
        "`worker_per_fe_cnt` say.",
        "Beyond a few per core of the server they make it slower; the server's `max_connections` must allow for them, "
        "and for those that are held.",
    )
    max_user_connections: int = row(
        WORKERS, "integer", "workers", 0, True, checks.whole(0, 100_000),
        "How many workers one user may have on a server, in all databases and modes, also those that are held for a "
        "session. Who has none gets the place of one that is idle. 0 is no limit.",
        "It should be below the role's own limit on the server; what waits then waits here.",
    )
    max_db_connections: int = row(
        WORKERS, "integer", "workers", 0, True, checks.whole(0, 100_000),
        "The same for one database, with all its users.",
        "It keeps many users of one database from taking all connections of the server.",
    )
    max_prepared_statements: int = row(
        WORKERS, "integer", "statements", 200, True, checks.whole(1, 100_000),
        "How many prepared statements a worker keeps: the frontends' named ones, and unnamed ones that are used again. "
        "Each is parsed where it is first run, and the one that was not used for longest makes room.",
        "More saves parsing where applications prepare many; each costs the server some memory in every worker.",
    )
    grow_after: float = row(
        WORKERS, "number", "seconds", 0.02, True, checks.seconds(0, 3600),
        "One more worker is started when statements have had to wait for so long in all, because all workers are busy "
        "(time in which none has to is taken off again); then it begins anew. It is looked at about every 10 ms, which "
        "is what 0 comes to.",
        "Shorter answers bursts sooner; longer starts fewer connections that are soon idle.",
    )
    riders: bool = row(
        WORKERS, "boolean", "", True, True, checks.boolean,
        "Whether a worker is sent the next reads before it has answered the last one. Only reads that are known to be "
        "harmless and quick ride behind one another; what writes, locks, waits or is not known yet has a worker alone.",
        "With riders the pool takes about half the time for a read, and few workers do the work of many; `False` gives "
        "every statement a worker of its own, as other poolers do.",
    )
    rider_depth: int = row(
        WORKERS, "integer", "statements", 128, True, checks.whole(2, 1000),
        "How many reads at most are on their way to one worker at the same time.",
        "More make longer batches and use fewer workers; fewer make a read wait for fewer others.",
    )
    rider_limit: float = row(
        WORKERS, "number", "seconds", 0.001, True, checks.seconds(0.00001, 0.01),
        "Reads that take a server longer than this, as learned from their earlier runs, ride behind nobody and carry "
        "nobody. Riders also spread over idle workers where more of them than fit in this time would be in one row.",
        "Longer lets more reads ride, each of which may wait longer for those ahead of it.",
    )
    idle_timeout: float = row(
        WORKERS, "number", "seconds", 600, True, checks.seconds(0),
        "A worker beyond what `worker_min_cnt` and `worker_per_fe_cnt` say is closed after being idle for so long, "
        "unless statements wait; one of session mode, whatever these say. 0 is never. `idle_cnn_timeout`, the older "
        "pg_proxy's name, is the same setting.",
        "Shorter frees connections of the server; starting one again takes it some milliseconds.",
    )
    server_lifetime: float = row(
        WORKERS, "number", "seconds", 3600, True, checks.seconds(0),
        "A worker that is older than this is closed when it is found idle and no statement waits; another is started "
        "when one is needed. 0 is never.",
        "A backend's caches grow with its age: shorter gives that memory back, longer spares new connections.",
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class Sessions:
    """For how long a frontend has a worker."""

    pool_mode: str = row(
        SESSIONS, "word", "", "statement", True, modes.check_mode,
        "For how long a frontend has a worker: `'statement'`, as long as a statement, transaction or what else holds "
        "one; `'transaction'`, the same, but reads do not ride behind one another; `'session'`, from login to "
        "disconnect. In session mode nothing is refused or looked at, and at most `max_workers` frontends of a user "
        "and database have a session on a server at the same time; others wait for `query_wait_timeout`.",
        "`'session'` can do all that a direct connection can, and needs a server connection for every frontend.",
    )
    pool_modes: tuple[PoolMode, ...] = row(
        SESSIONS, "list of rules", "", [], True, modes.check_pool_modes,
        "Other modes for some: `[{'user': 'report', 'database': 'shop', 'pool_mode': 'session'}, ...]`. The first rule "
        "that matches counts; `user` or `database` may be left out, and `max_workers`, where it is there, is for them "
        "instead of the setting of that name.",
        "A mode for the few that need it leaves all others the fewer connections.",
    )
    transactions: str = row(
        SESSIONS, "word", "", "allow", True, checks.choice("allow", "reject"),
        "Whether transactions may hold a worker until they end: `'allow'`, or `'reject'` them with 0A000. Not for "
        "session mode.",
        "`'reject'` finds the applications that need transactions; what else may hold a worker is up to "
        "`session_features`.",
    )
    session_features: str = row(
        SESSIONS, "word", "", "allow", True, checks.choice("allow", "reject"),
        "Whether what lives in a session (LISTEN, temporary tables, advisory locks, ...) may hold a worker until the "
        "frontend disconnects: `'allow'`, or `'reject'` it with 0A000. Statements that a driver prepares by the "
        "protocol and settings (SET) hold none, and are never rejected. Not for session mode.",
        "`'reject'` finds the applications that do so, before they take all workers.",
    )
    pin_notice: bool = row(
        SESSIONS, "boolean", "", False, True, checks.boolean,
        "Whether a frontend is told by a NOTICE (01000), once, that it now has a worker of its own for its session, "
        "and what for.",
        "`True` shows those who write the application what costs a server connection each.",
    )
    track_application_name: bool = row(
        SESSIONS, "boolean", "", True, False, checks.boolean,
        "Whether a worker has the `application_name` of the frontend that it serves. `False` takes that for cosmetic: "
        "a frontend is told what it has set, but the server may see, and SHOW may answer, that of another one.",
        "`False` saves a round trip to the server where frontends with different names take turns, and shows less in "
        "`pg_stat_activity` and the server's log.",
    )
