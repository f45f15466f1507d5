"""The loads that the simulator replays: whom riders are for, and whom they must not hurt.

Pure. Times are what such statements take a server: a look-up by primary key 30 us, an UPDATE 100 us and an fsync.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.simulator import Load, Statement

Chooser = Callable[[int, float, Random], tuple[Statement, float]]

READ_S = 30e-6
READ = Statement("read", b"select abalance from pgbench_accounts where aid = 42;", READ_S)
MS = 1e-3


def always(statement: Statement, think_s: float = 0.0) -> Chooser:
    return lambda client, now, random: (statement, think_s * 2 * random.random())


def split(first: int, one: Chooser, other: Chooser) -> Chooser:
    """The first so many clients do the one, the others the other."""
    return lambda client, now, random: (one if client < first else other)(client, now, random)


def by_group(groups: int) -> Chooser:
    """Look-ups, scored under the clients' groups."""
    statements = [Statement(f"group {number}", READ.text, READ_S) for number in range(groups)]
    return lambda client, now, random: (statements[client % groups], 0.0)


def sometimes(part: float, rare: Statement, usual: Statement = READ, think_s: float = 0.0) -> Chooser:
    """The `part` is of the clients' statements."""

    def choose(client: int, now: float, random: Random) -> tuple[Statement, float]:
        return (rare if random.random() < part else usual), think_s * 2 * random.random()

    return choose


def reads(clients: int, cores: int = 2, groups: int = 1, seconds: float = 0.15) -> Load:
    """Look-ups, nothing else."""
    return Load(clients, always(READ), seconds=seconds, warm_up_s=0.1, cores=cores, groups=groups)


def mixed(slow: Statement, fast: int = 60, few: int = 4) -> Load:
    """Look-ups beside a few clients with slow statements."""
    return Load(fast + few, split(fast, always(READ), always(slow)), seconds=0.3, warm_up_s=0.2)


SLOW_SLEEP = Statement("slow", b"select pg_sleep(0.05);", 20e-6, wait_s=50 * MS)
SLOW_CPU = Statement("slow", b"select sum(abalance) from pgbench_accounts;", 50 * MS)


def locks() -> Load:
    """Writers that wait for one another's rows, beside readers."""

    def write(client: int, now: float, random: Random) -> tuple[Statement, float]:
        row = random.randrange(10)
        return Statement("write", b"update hot set n = n + 1 where id = 7;", 100e-6, wait_s=MS, lock=row), 0.0

    return Load(64, split(32, write, always(READ)), seconds=0.3, warm_up_s=0.2)


NAP = Statement("nap", b"select pg_sleep(0.0005);", 15e-6, wait_s=0.5 * MS)
DISK = Statement("disk", b"select filler from pgbench_accounts where aid = 42;", 30e-6, wait_s=0.5 * MS)


def naps(statement: Statement, cores: int = 2) -> Load:
    """Statements of half a millisecond, in which the server sleeps."""
    return Load(16, always(statement), seconds=0.2, warm_up_s=0.3, cores=cores)


def bimodal(part: float, seconds_each: float, clients: int = 64) -> Load:
    """One shape; nearly all are look-ups, but for some the server has to read a disk."""
    rare = Statement("rare", READ.text, READ_S, wait_s=seconds_each)
    return Load(clients, sometimes(part, rare), seconds=0.3, warm_up_s=0.4)


def turning(slow_from: float, slow_to: float, until: float, clients: int = 32, think_s: float = 4 * MS) -> Load:
    """One shape, which takes 5 ms for a while (a plan has gone wrong) and is quick again then."""
    late = Statement("late", READ.text, 5 * MS)
    quick, slow = always(READ, think_s), always(late, think_s)

    def choose(client: int, now: float, random: Random) -> tuple[Statement, float]:
        return (slow if slow_from <= now < slow_to else quick)(client, now, random)

    return Load(clients, choose, seconds=until, warm_up_s=0.0)


def new_shapes(each_s: float = 0.005) -> Load:
    """Look-ups, and 200 times a second one that nobody has seen before."""
    seen = [0]

    def choose(client: int, now: float, random: Random) -> tuple[Statement, float]:
        if now >= seen[0] * each_s:
            seen[0] += 1
            letters = "".join("abcdefghij"[int(digit)] for digit in str(seen[0]))
            return Statement("new", f"select {letters} from things where id = 1;".encode(), READ_S), 0.0
        return READ, 0.0

    return Load(64, choose, seconds=0.2, warm_up_s=0.2)


REPORT = Statement("report", b"select region, sum(price) from sales group by region;", 2 * MS, wait_s=498 * MS)


def reports() -> Load:
    """One in a hundred statements is a report of half a second."""
    return Load(64, sometimes(0.01, REPORT), seconds=2.0, warm_up_s=1.0)


def loads() -> dict[str, Load]:
    """All of them, by what they are called in the table of scores."""
    return {
        **{f"{clients} readers, {cores} cores": reads(clients, cores) for cores in (2, 32) for clients in _CLIENTS},
        "60 readers, 4 asleep for 50 ms": mixed(SLOW_SLEEP),
        "60 readers, 4 that compute 50 ms": mixed(SLOW_CPU),
        "32 writers that wait, 32 readers": locks(),
        "16 that sleep 0.5 ms": naps(NAP),
        "16 that read a disk for 0.5 ms": naps(DISK),
        "2 % take 20 ms": bimodal(0.02, 20 * MS),
        "10 % take 50 ms": bimodal(0.1, 50 * MS),
        "quick, 5 ms for a while, quick": turning(0.2, 0.5, 1.5),
        "200 new shapes a second": new_shapes(),
        "two groups": reads(64, groups=2),
        "1 % reports of 500 ms": reports(),
    }


_CLIENTS = (1, 8, 64, 256, 1000)
