"""Rows: limits, and the intervals of what looks after things. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from lib import checks, modes
from lib.conf.row import row
from lib.modes import Condition

LIMITS = "Limits"
UPKEEP = "Upkeep"


@dataclass(frozen=True, kw_only=True, repr=False)
class Limits:
    """How long things may take."""

    query_wait_timeout: float = row(
        LIMITS, "number", "seconds", 120, True, checks.seconds(0),
        "How long a statement waits for a worker before it fails with 53300. 0 is for ever.",
        "Longer lets frontends wait while the server restarts, instead of failing; shorter tells them of an overload.",
    )
    query_wait_notify: float = row(
        LIMITS, "number", "seconds", 5, True, checks.seconds(0),
        "A frontend whose statement has waited for a worker for so long is told so by a NOTICE (01000). 0 is never.",
        "Shorter tells them of short queues, too.",
    )
    query_timeout: float = row(
        LIMITS, "number", "seconds", 0, True, checks.seconds(0),
        "A statement that has run on its server for longer than this is canceled there: the frontend gets a NOTICE "
        "with the reason, and 57014. The time in which it has waited for a worker does not count. 0 is no limit.",
        "It holds for everything, dumps and CREATE INDEX as well: the server's `statement_timeout` can be set for some "
        "roles or databases only.",
    )
    idle_in_transaction_timeout: float = row(
        LIMITS, "number", "seconds", 0, True, checks.seconds(0),
        "A frontend that has been idle in a transaction for so long is disconnected with 25P03, and the transaction "
        "rolled back, as by PostgreSQL's `idle_in_transaction_session_timeout`. 0 is no limit.",
        "A transaction has a worker for itself, and its locks: shorter gets both back from what was forgotten.",
    )
    active_cnn_timeout: float = row(
        LIMITS, "number", "seconds", 0, True, checks.seconds(0),
        "A frontend that has been idle for so long, in a transaction or not, is disconnected with 57P05, as by "
        "PostgreSQL's `idle_session_timeout`. Never in the middle of a statement. 0 is no limit. "
        "`client_idle_timeout`, PgBouncer's name for it, means the same.",
        "Shorter gets rid of what was forgotten; applications must then be ready to connect again.",
    )
    disable_conds_list: tuple[tuple[Condition, ...], ...] = row(
        LIMITS, "list of lists of (name, value)", "", [], True, modes.check_conditions,
        "Which frontends `active_cnn_timeout` does not concern: those whose startup packet (`user`, `database`, "
        "`application_name`, ...) meets all conditions of one of these lists: `[[('user', 'report'), ('database', "
        "'shop')], [('application_name', 'psql')]]`.",
        "A frontend on the list may be idle for ever, and keep what it holds.",
    )
    connect_timeout: float = row(
        LIMITS, "number", "seconds", 15, True, checks.seconds(0.1, 3600),
        "How long a server may take to accept the connection of a worker, and again for each step of its login.",
        "Shorter notices a silent server sooner; longer is kinder to one that is overloaded.",
    )
    login_retry: float = row(
        LIMITS, "number", "seconds", 0.2, True, checks.seconds(0.01, 3600),
        "The wait between two attempts to start a worker when statements wait and there is none, as the primary is "
        "down or a server is full. For standbys that are down see `standby_check_interval`.",
        "Shorter goes on sooner when it is back, and knocks more often while it is not.",
    )
    auth_timeout: float = row(
        LIMITS, "number", "seconds", 60, True, checks.seconds(0.1, 3600),
        "How long a frontend may take to log in, as PostgreSQL's `authentication_timeout`: for its startup packet, and "
        "again from there until it is authenticated. While the primary is down, logins that the pool does not know yet "
        "wait for it as long.",
        "Shorter frees what half-open connections hold; longer is for people who type their password.",
    )
    shutdown_timeout: float = row(
        LIMITS, "number", "seconds", 30, True, checks.seconds(0),
        "How long statements in flight may go on after SIGTERM or SIGINT before they are canceled. 0 is not at all.",
        "Longer lets them finish; it should be shorter than what the service manager waits before it kills.",
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class Upkeep:
    """How often things are looked at, and what is logged."""

    standby_check_interval: float = row(
        UPKEEP, "number", "seconds", 2, True, checks.seconds(0.01, 86400),
        "How often a standby that has failed is tried again: a worker logs in to it. One that works is not asked; it "
        "is left out as soon as a worker cannot be started on it.",
        "Shorter uses it sooner when it is back; each try is one connection.",
    )
    catalog_interval: float = row(
        UPKEEP, "number", "seconds", 5, True, checks.seconds(0.01, 86400),
        "How often each database that frontends have used is asked whether its catalog has changed; if so, it is "
        "scanned for functions, triggers, views and the like that change sessions. DDL through the pool has it scanned "
        "at once.",
        "Until a check has seen a trigger or function that was changed past the pool, statements that use it may be "
        "taken for harmless.",
    )
    hba_interval: float = row(
        UPKEEP, "number", "seconds", 10, True, checks.seconds(0.01, 86400),
        "How often the roles that have workers, and what ALTER ROLE or ALTER DATABASE has set, are looked at on the "
        "primary: workers that such a change concerns are replaced, and who has lost a right in the pseudo database "
        "may not use it any more. The rules of pg_hba.conf are read again at the next login after so long, and at once "
        "when a login finds that the server has reloaded them.",
        "Shorter replaces such workers sooner; each look is two small queries.",
    )
