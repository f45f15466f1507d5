"""What is measured: one row per workload, with its unit and what the project wants to reach.

A workload is given a Place (an endpoint that answers and the pid of the pooler behind it) and returns a Sample. It
knows nothing of who is behind the endpoint. A failure is an exception; run.py notes it and goes on.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

from bench import client, meter, postgres
from bench.client import DATABASE, USER, Endpoint
from tests.servers import Server, ServerFailed
from tests.workplace import run

COPY_MB = 16
READ_ACCOUNTS = "select aid, bid, abalance, filler from pgbench_accounts"
COPY_ACCOUNTS = "copy pgbench_accounts to stdout"


@dataclass(frozen=True)
class Place:
    """Where to measure and for how long. server is PostgreSQL itself, for what must not be timed."""

    at: Endpoint
    server: Server
    pid: int | None
    seconds: float
    idle_clients: int


@dataclass(frozen=True)
class Sample:
    """One measurement. cpu_us: the pooler's CPU time per query, where queries were counted."""

    value: float
    cpu_us: float | None = None


@dataclass(frozen=True)
class Target:
    """What pgstmtpool is to reach: at least this ratio to PgBouncer, or at most this value in the workload's unit."""

    least_ratio: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class Workload:
    """A row of the table. before: SQL that puts the server in order first; pool_mode: PgBouncer's."""

    name: str
    title: str
    unit: str
    measure: Callable[[Place], Sample]
    target: Target | None = None
    pool_mode: str = "statement"
    before: tuple[str, ...] = ()
    less_is_better: bool = False


def pgbench(place: Place, clients: int, *options: str) -> Sample:
    """tps of one pgbench run, in one thread. Raises AssertionError when pgbench fails or a client is aborted."""
    seconds = place.seconds + clients / 128  # its time runs from the first connect on, and 256 forks take a second
    cpu_s = meter.cpu_s(place.pid) if place.pid else 0.0
    where = ["-h", place.at.host, "-p", str(place.at.port), "-U", USER]
    how = ["-n", "-c", str(clients), "-T", str(round(seconds)), *options]
    output = run(postgres.program("pgbench"), *where, *how, DATABASE, timeout_s=seconds + 30)
    cpu_s = meter.cpu_s(place.pid) - cpu_s if place.pid else 0.0
    queries = found(r"number of transactions actually processed: (\d+)", output)
    return Sample(found(r"^tps = ([\d.]+)", output), cpu_s / queries * 1e6 if place.pid and queries else None)


def tpcb(place: Place) -> Sample:
    return pgbench(place, 32)


def connect_each(place: Place) -> Sample:
    """A new connection for every query."""
    return pgbench(place, 8, "-S", "-C")


def found(pattern: str, output: str) -> float:
    if match := re.search(pattern, output, re.MULTILINE):
        return float(match.group(1))
    raise ServerFailed(f"pgbench said nothing like {pattern!r}: {output.strip()[-500:]}")


def throughput(place: Place, once: Callable[[], int]) -> Sample:
    """MB/s (a million bytes) of `once`, which returns the bytes it moved; the first one is not timed."""
    once()
    moved, began = 0, time.monotonic()
    while (took := time.monotonic() - began) < place.seconds or not moved:
        moved += once()
    return Sample(moved / took / 1e6)


def read(place: Place, text: str) -> Sample:
    with client.connect(place.at) as sock:
        return throughput(place, partial(client.query, sock, text))


@cache
def copy_messages() -> list[bytes]:
    """COPY_MB of CopyData in messages of 8 KB with whole lines of about 100 bytes, as libpq's users send them."""
    line = b"%07d " + b"x" * 91 + b"\n"
    lines = [line % number for number in range(COPY_MB * 1_000_000 // 100)]
    return [client.message(b"d", b"".join(lines[first : first + 82])) for first in range(0, len(lines), 82)]


def copy_in(place: Place) -> Sample:
    """COPY into a table that is emptied before each; the TRUNCATE goes to the server itself, its time is counted."""
    messages = copy_messages()
    with client.connect(place.at) as sock, client.connect(postgres.endpoint(place.server)) as direct:

        def once() -> int:
            client.query(direct, "truncate copied")
            return client.copy_in(sock, "copy copied from stdin", messages)

        return throughput(place, once)


def idle_memory(place: Place) -> Sample:
    """KB per client of the many that have run one query and now do nothing."""
    pid = place.pid or place.server.pid
    with contextlib.ExitStack() as clients:
        for _ in range(20):  # what the first few cost is not the price of one more
            client.query(clients.enter_context(client.connect(place.at)), "select 1")
        before = meter.settled_memory_kb(pid)
        for _ in range(place.idle_clients):
            client.query(clients.enter_context(client.connect(place.at)), "select 1")
        after = meter.settled_memory_kb(pid)
    return Sample((after - before) / place.idle_clients)


STREAMS = Target(least_ratio=0.8)

CLIENTS = (1, 8, 64, 256)


def select_only(clients: int, mode: str, target: Target | None) -> Workload:
    def measure(place: Place) -> Sample:
        return pgbench(place, clients, "-S", "-M", mode)

    return Workload(
        f"{mode}-{clients}",
        f"pgbench -S -M {mode}, {clients} client{'s' if clients > 1 else ''}",
        "tps",
        measure,
        target,
    )


TIDY = ("truncate pgbench_history", "vacuum pgbench_branches, pgbench_tellers, pgbench_accounts")

WORKLOADS = {
    row.name: row
    for row in (
        *(select_only(clients, "simple", Target(least_ratio=0.75)) for clients in CLIENTS),
        *(select_only(clients, "extended", None) for clients in CLIENTS),
        Workload("tpcb-32", "TPC-B, 32 clients", "tps", tpcb, Target(least_ratio=0.85), "transaction", TIDY),
        Workload("select", "large SELECT", "MB/s", partial(read, text=READ_ACCOUNTS), STREAMS),
        Workload("copy-out", "COPY TO STDOUT", "MB/s", partial(read, text=COPY_ACCOUNTS), STREAMS),
        Workload("copy-in", "COPY FROM STDIN", "MB/s", copy_in, STREAMS),
        Workload("connect", "pgbench -S -C, 8 clients", "connections/s", connect_each),
        Workload("idle-memory", "memory per idle client", "KB", idle_memory, Target(most=25), less_is_better=True),
    )
}
