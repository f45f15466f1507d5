"""What is measured: one row per workload, with its figures and what the project wants each to reach.

A workload is given a Place (an endpoint that answers and the pid of the pooler behind it) and returns a Sample. It
knows nothing of who is behind the endpoint. A failure is an exception; run.py notes it and goes on.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import cache, partial

from bench import client, meter, pgbench, postgres
from bench.pgbench import CPU, Load, Place, Sample

COPY_MB = 16
READ_ACCOUNTS = "select aid, bid, abalance, filler from pgbench_accounts"
COPY_ACCOUNTS = "copy pgbench_accounts to stdout"

BASE, SUBJECT, UNCOUNTED, PREPARING = "pgbouncer", "pgstmtpool", "uncounted", "pgbouncer-prepared"

SHAPES_FILL = 400  # times 64 clients: pgstmtpool remembers 5,000 shapes, and has often forgotten them all by then
FLAT_KB = 2000  # who kept what these loads send would grow by 6,000 KB or more, while one full memo takes 3,000


@dataclass(frozen=True)
class Target:
    """What pgstmtpool is to reach: at least or at most this ratio to another contender (base), or at most this value in
    the unit."""

    least_ratio: float | None = None
    most_ratio: float | None = None
    most: float | None = None
    base: str = BASE


@dataclass(frozen=True)
class Figure:
    """One figure of a workload. has_ratio: whether it says anything to divide it by PgBouncer's."""

    name: str
    unit: str = ""
    target: Target | None = None
    less_is_better: bool = False
    has_ratio: bool = True

    @property
    def title(self) -> str:
        return f"{self.name}, {self.unit}" if self.unit else self.name


@dataclass(frozen=True)
class Workload:
    """A row of the table; the first of its figures is the one that a plot with room for one shows.

    what       a sentence for the page
    before     SQL that puts the server in order first
    pool_mode  PgBouncer's
    """

    name: str
    title: str
    what: str
    figures: tuple[Figure, ...]
    measure: Callable[[Place], Sample]
    pool_mode: str = "statement"
    before: tuple[str, ...] = ()
    without: tuple[str, ...] = ()  # contenders that cannot be measured
    among: tuple[str, ...] = ()  # the only contenders that it is for; none: all

    @property
    def base(self) -> str:
        """Who the ratios are taken to."""
        return next((figure.target.base for figure in self.figures if figure.target is not None), BASE)


def throughput(place: Place, once: Callable[[], int]) -> Sample:
    """MB/s (a million bytes) of `once`, which returns the bytes it moved; the first one is not timed."""
    once()
    moved, began = 0, time.monotonic()
    while (took := time.monotonic() - began) < place.seconds or not moved:
        moved += once()
    return {"MB/s": moved / took / 1e6}


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
    return {"memory": (after - before) / place.idle_clients}


NEW_SHAPE = """\
\\set aid random(1, 100000)
\\set name random(1, 1000000000)
select abalance as a_:name from pgbench_accounts where aid = :aid
"""


def new_shapes(place: Place) -> Sample:
    """The load, between two fills of the pooler's memo; the growth is from the first fill to the end of all.

    At 200 a second, the load alone would not fill a memo in the time of a measurement, and all memory would grow.
    """
    fill = Load(64, ("-t", str(SHAPES_FILL)), NEW_SHAPE)
    pgbench.run_one(place, fill, 0)
    before = meter.own_memory_kb(place.pid) if place.pid else 0.0
    sample = pgbench.measure_beside(place, Load(64, ("-S",)), Load(4, ("-R", "200"), NEW_SHAPE), "new shapes/s")
    pgbench.run_one(place, fill, 0)
    return {**sample, "growth": meter.own_memory_kb(place.pid) - before} if place.pid else sample


RANDOM_LITERALS = """\
\\set aid random(1, 100000)
\\set number random(1, 1000000000)
\\set other random(1, 1000000000)
select abalance, 'note :number' as note, :other as other from pgbench_accounts \
where aid = :aid and filler <> 'it''s :other' and bid < :number + 1000 limit 10
"""

def listing(place: Place) -> Sample:
    """The load four times: without, with, with, without somebody who looks at the pool all the time."""
    load = Load(64, ("-S",))
    pgbench.run_one(place, load, 1)  # what is learned of the statement is no part of any of them
    listed, alone = [], []
    took_s: list[float] = []
    with client.connect(place.at, "pseudo") as console:
        for is_listed in (False, True, True, False):
            with ThreadPoolExecutor(1) as aside:
                running = aside.submit(pgbench.measure, place, load)
                while is_listed and not running.done():
                    for text in LISTED:
                        began = time.monotonic()
                        client.query(console, text)
                        if text == LISTED[0]:
                            took_s.append(time.monotonic() - began)
                    wait([running], timeout=1.0)
                (listed if is_listed else alone).append(running.result())

    def ratio(figure: str) -> float:
        return sum(one[figure] for one in listed) / sum(one[figure] for one in alone)

    return {
        "fe list, slowest": max(took_s) * 1000,
        "loss": 100 * (1 - ratio("tps")),
        "more CPU": 100 * (ratio(CPU) - 1),
    }


SETTINGS = (
    "-c search_path=public,pg_temp -c timezone=Asia/Tokyo -c datestyle=German -c work_mem=5MB "
    "-c statement_timeout=60s -c application_name=bench"
)
OWN_SETTINGS = """\
\\if :first
set search_path = own:client_id, public;
set timezone = 'Asia/Tokyo';
set application_name = 'bench:client_id';
\\set first 0
\\endif
\\set aid random(1, 100000)
select abalance from pgbench_accounts where aid = :aid;
"""


def settings(place: Place) -> Sample:
    """Clients with settings against clients without: all of them in turn, then half beside half, then each with others
    than anybody else has, in turn again."""
    none, alike = Load(64, ("-S",)), Load(64, ("-S",), settings=SETTINGS)
    own, same = (Load(64, ("-D", f"first={first}"), OWN_SETTINGS) for first in (1, 0))
    pgbench.run_one(place, none, 1)  # what is learned of the statement is no part of any of them
    place = replace(place, seconds=place.seconds / 2)

    def loss(without: Load, those: Load) -> float:
        tps = [pgbench.measure(place, each)["tps"] for each in (without, those, those, without)]
        return 100 * (1 - (tps[1] + tps[2]) / (tps[0] + tps[3]))

    half = replace(none, clients=32)
    beside = pgbench.measure_beside(place, replace(half, settings=SETTINGS), half, "without")
    return {
        "loss": loss(none, alike),
        "loss beside others": 100 * (1 - beside["tps"] / beside["without"]),
        "loss, all different": loss(same, own),
    }


HOT_UPDATE = """\
\\set id random(1, 10)
update hot set n = n + 1 where id = :id
"""


def select_only(clients: int, mode: str, least: float | None, most_cpu: float | None = None) -> Workload:
    return Workload(
        f"{mode}-{clients}",
        f"pgbench -S -M {mode}, {clients} client{'s' if clients > 1 else ''}",
        f"look-ups by primary key, {mode} protocol",
        of_tps(least, most_cpu),
        partial(pgbench.measure, load=Load(clients, ("-S", "-M", mode))),
    )


def of_tps(least: float | None = None, most_cpu: float | None = None) -> tuple[Figure, ...]:
    """The two figures of a load of pgbench: tps and CPU, each with its target."""
    cpu_target = Target(most_ratio=most_cpu) if most_cpu else None
    return (Figure("tps", target=Target(least) if least else None), Figure(CPU, "µs", cpu_target, less_is_better=True))


def ms(name: str, most: float | None = None) -> Figure:
    return Figure(name, "ms", Target(most_ratio=most) if most else None, less_is_better=True)


def growth(most_kb: float) -> Figure:
    return Figure("growth", "KB", Target(most=most_kb), less_is_better=True, has_ratio=False)


def megabytes(least: float) -> tuple[Figure, ...]:
    return (Figure("MB/s", target=Target(least)),)


CLIENTS = (1, 8, 64, 256)
LISTED = ("fe list", "pool show", "top", "show stats")
TIDY = ("truncate pgbench_history", "vacuum pgbench_branches, pgbench_tellers, pgbench_accounts")
COOL = ("truncate hot", "insert into hot select id, 0 from generate_series(1, 10) as id", "vacuum analyze hot")

WORKLOADS = {
    row.name: row
    for row in (
        select_only(1, "simple", 0.9),
        select_only(8, "simple", 0.9),
        select_only(64, "simple", 1.6, most_cpu=0.75),
        select_only(256, "simple", 1.6),
        replace(select_only(1000, "simple", None), without=("direct", "pgpool")),
        select_only(1, "extended", None),
        select_only(8, "extended", None),
        select_only(64, "extended", 1.4),
        select_only(256, "extended", None),
        Workload(
            "tls-64", "pgbench -S with TLS, 64 clients",
            "the same over TLS 1.3, with an RSA certificate; the server is connected to without",
            of_tps(1.2), partial(pgbench.measure, load=Load(64, ("-S",), is_encrypted=True)), without=("direct",),
        ),
        Workload(
            "mixed", "mixed load",
            "60 clients with pgbench -S (the figures are theirs) beside 4 that run `select pg_sleep(0.05)`",
            (*of_tps(1.5), ms("p50"), ms("p99", 1.0), ms("p99.9"), Figure("tps of the slow")),
            partial(
                pgbench.measure_beside, load=Load(60, ("-S",)),
                other=Load(4, script="select pg_sleep(0.05)\n"), other_name="tps of the slow",
            ),
        ),
        Workload(
            "locks", "lock load",
            "32 clients with pgbench -S (the figures are theirs) beside 32 that update one of 10 rows, each in a "
            "transaction of its own",
            (*of_tps(), ms("p50"), ms("p99", 1.2), ms("p99.9"), Figure("tps of the writers")),
            partial(
                pgbench.measure_beside, load=Load(32, ("-S",)),
                other=Load(32, script=HOT_UPDATE), other_name="tps of the writers",
            ),
            before=COOL,
        ),
        Workload(
            "counting", "pgbench -S, 64 clients, counting",
            "look-ups by primary key, with and without what counts statements and times",
            (
                Figure("tps", target=Target(0.97, base=UNCOUNTED)),
                Figure(CPU, "µs", Target(most_ratio=1.03, base=UNCOUNTED), less_is_better=True),
            ),
            partial(pgbench.measure, load=Load(64, ("-S",))), among=(SUBJECT, UNCOUNTED),
        ),
        Workload(
            "listing", "pgbench -S, 64 clients, listing",
            f"the same while the pseudo database is asked for {', '.join(f'`{each}`' for each in LISTED)} once a "
            "second; loss and more CPU are against as much time without that, in the same run of the pooler",
            (
                Figure("fe list, slowest", "ms", Target(most=50), less_is_better=True, has_ratio=False),
                Figure("loss", "%", Target(most=3), less_is_better=True, has_ratio=False),
                Figure("more CPU", "%", Target(most=3), less_is_better=True, has_ratio=False),
            ),
            listing, among=(SUBJECT,),
        ),
        Workload(
            "prepared-64", "pgbench -S -M prepared, 64 clients",
            "look-ups by primary key, each client with a prepared statement, against a PgBouncer in transaction mode "
            "that follows those",
            (
                Figure("tps", target=Target(1.6, base=PREPARING)),
                Figure(CPU, "µs", less_is_better=True),
            ),
            partial(pgbench.measure, load=Load(64, ("-S", "-M", "prepared"))), "transaction",
            among=(SUBJECT, PREPARING),
        ),
        Workload(
            "settings-64", "pgbench -S, 64 clients, settings",
            "look-ups by primary key by clients with six settings in their startup packets: all of them, then half of "
            "them beside the other half without; and by clients that have each set three to values of its own. The "
            "losses are against as many without",
            (
                Figure("loss", "%", Target(most=5), less_is_better=True, has_ratio=False),
                Figure("loss beside others", "%", Target(most=5), less_is_better=True, has_ratio=False),
                Figure("loss, all different", "%", less_is_better=True, has_ratio=False),
            ),
            settings, among=(SUBJECT,),
        ),
        Workload(
            "sleep", "pg_sleep(0.0005), 16 clients", "a statement that takes 0.5 ms and no CPU",
            of_tps(0.8), partial(pgbench.measure, load=Load(16, script="select pg_sleep(0.0005)\n")),
        ),
        Workload(
            "tpcb-32", "TPC-B, 32 clients", "pgbench's transaction of seven statements",
            of_tps(0.9), partial(pgbench.measure, load=Load(32)), "transaction", TIDY,
        ),
        Workload(
            "read-mostly", "read-mostly, 64 clients", "95 % look-ups by primary key, 5 % TPC-B",
            of_tps(), partial(pgbench.measure, load=Load(64, ("-b", "select-only@95", "-b", "tpcb-like@5"))),
            "transaction", TIDY,
        ),
        Workload(
            "shapes", "new shapes, 64 clients",
            "64 clients with pgbench -S (the figures are theirs) beside 200 texts a second that differ in more than "
            f"their literals; growth is that of the pooler's memory over {64 * SHAPES_FILL:,} such texts sent after "
            "as many others",
            (*of_tps(0.9), ms("p50"), ms("p99"), ms("p99.9"), Figure("new shapes/s"), growth(FLAT_KB)),
            new_shapes,
        ),
        Workload(
            "literals", "random literals, 64 clients",
            "look-ups whose texts have random numbers and strings in the middle; growth is that of the pooler's "
            "memory between the middle and the end",
            (*of_tps(0.9), growth(FLAT_KB)),
            partial(pgbench.measure_growing, load=Load(64, script=RANDOM_LITERALS)),
        ),
        Workload(
            "select", "large SELECT", "all accounts, read again and again by one client",
            megabytes(0.8), partial(read, text=READ_ACCOUNTS),
        ),
        Workload(
            "copy-out", "COPY TO STDOUT", "the same by COPY", megabytes(0.8), partial(read, text=COPY_ACCOUNTS)
        ),
        Workload(
            "copy-in", "COPY FROM STDIN", f"{COPY_MB} MB into an unlogged table, again and again, by one client",
            megabytes(0.8), copy_in,
        ),
        Workload(
            "connect", "pgbench -S -C, 8 clients", "a new connection for every query",
            (Figure("tps"), Figure(CPU, "µs", less_is_better=True)),
            partial(pgbench.measure, load=Load(8, ("-S", "-C"))),
        ),
        Workload(
            "idle-memory", "memory per idle client",
            "the growth of the pooler's resident memory over many clients that have each run one query",
            (Figure("memory", "KB", Target(most=25), less_is_better=True),), idle_memory,
        ),
    )
}  # fmt: skip
