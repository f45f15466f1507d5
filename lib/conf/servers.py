"""Rows: the servers, and which of them may read. Pure."""

# ruff: noqa: RUF009 (a row is a dataclasses.field, which is made once)

from __future__ import annotations

from dataclasses import dataclass

from lib import addresses, checks
from lib.addresses import Address
from lib.checks import Parameters
from lib.conf.row import REQUIRED, row

SERVERS = "Servers"


@dataclass(frozen=True, kw_only=True, repr=False)
class Servers:
    """Who is primary, who are the standbys, and how to log in to them."""

    admin_cnn: Parameters = row(
        SERVERS, "connection parameters", "", REQUIRED, True, checks.parameters(need_user=True),
        "How the pool itself connects to the primary: a dict with `user` (a superuser), and if needed `database`, "
        "`password` and what else a connection string of libpq may hold (settings in `options`). No host and no port.",
        "A superuser is needed to read password hashes and pg_hba.conf; keep this file private.",
    )
    master: Address = row(
        SERVERS, "address", "", REQUIRED, False, addresses.address(),
        "The primary: `(host, port)`; a host that begins with `/` is the directory of its Unix socket.",
        "If it is down when the pool starts, the pool waits for it.",
    )
    slaver: tuple[Address, ...] = row(
        SERVERS, "list of addresses", "", [], True, addresses.addresses(),
        "The standbys: `[(host, port), ...]`. Statements whose text begins with `/*s*/` go to them in turn.",
        "A standby answers from a moment ago; without standbys such statements go to the primary.",
    )
    conn_params: tuple[Parameters, ...] = row(
        SERVERS, "list of connection parameters", "", [], True, checks.parameter_lists,
        "Which frontends get workers on standbys: those whose startup parameters match one of these dicts; empty means "
        "every frontend. A `password` beside a `user` is what all workers of that user (and `database`, if it is "
        "there) log in with, else it is what a frontend has shown at its own login. No host and no port.",
        "A list keeps connections to standbys few, and starts them before the first statement that wants one.",
    )
    read_your_writes: str = row(
        SERVERS, "word", "", "frontend", True, checks.choice("off", "frontend", "all"),
        "Whose writes a `/*s*/` read is sure to see: those that its own frontend has made before (`'frontend'`), those "
        "that any frontend has made in its database through this pool (`'all'`), or nobody's (`'off'`). It goes to a "
        "standby that has replayed them, waits a little for one, or goes to the primary.",
        "`'frontend'` costs only who has written; with `'all'` every such read in a database that is written to waits "
        "for the answers of the primary and a standby.",
    )
    read_your_writes_timeout: float = row(
        SERVERS, "number", "seconds", 0.1, True, checks.seconds(0, 3600),
        "How long a read waits for a standby to have replayed the writes that it must see, before it goes to the "
        "primary. 0 is not at all.",
        "Longer spares the primary; shorter answers sooner where standbys are slow.",
    )
    max_lag: float = row(
        SERVERS, "number", "seconds", 0, True, checks.seconds(0),
        "A standby that is further behind the primary than this is left out until it has caught up; when all are, the "
        "primary reads. It is told from positions in the WAL, so that neither clocks matter nor how long nothing was "
        "written. 0 is no limit.",
        "Shorter keeps old data from being read, and sends more to the primary when a standby is slow.",
    )
    lag_check_interval: float = row(
        SERVERS, "number", "seconds", 1, True, checks.seconds(0.01, 3600),
        "How often all servers are asked how far they are, where `max_lag` is set; at least twice in `max_lag`. For so "
        "long a standby that falls behind may go unnoticed.",
        "Shorter notices it sooner; each look is one small query to each server.",
    )
