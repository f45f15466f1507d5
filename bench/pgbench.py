"""pgbench as the load: one process, or two at once whose transactions are told apart by their logs.

Each pgbench runs in one thread. Two at once (Beside) log every transaction (-l), and both logs are cut to the time in
which both were at work, so that nothing counts that one of them did before the other had connected or after it ended.
The logs go to the workplace, which is in memory where there is room. Parsing is pure and happens after the run.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from bench import meter, postgres
from bench.client import DATABASE, USER, Endpoint
from tests.servers import Server, ServerFailed
from tests.workplace import give, run, workplace

CPU = "CPU"  # the figure of every pgbench workload: µs of the pooler per transaction

Sample = dict[str, float]  # the figures of one measurement, by their names in the table of workloads


@dataclass(frozen=True)
class Place:
    """Where to measure and for how long. server is PostgreSQL itself, for what must not be timed."""

    at: Endpoint
    server: Server
    pid: int | None
    seconds: float
    idle_clients: int


@dataclass(frozen=True)
class Load:
    """One pgbench process. script: the text of a custom script, in the place of a built-in one among the options;
    settings: those of its startup packets, as the options -c of a server."""

    clients: int
    options: tuple[str, ...] = ()
    script: str = ""
    is_encrypted: bool = False
    settings: str = ""


@dataclass(frozen=True)
class Transaction:
    """A line of pgbench's log, in seconds since the epoch."""

    began: float
    ended: float


def measure(place: Place, load: Load) -> Sample:
    """tps and CPU of one process. Raises AssertionError when pgbench fails or a client is aborted."""
    cpu_s = meter.cpu_s(place.pid) if place.pid else 0.0
    output = run_one(place, load, lasting(place, load))
    return {"tps": tps(output), **cpu_of(place, cpu_s, transactions(output))}


def measure_growing(place: Place, load: Load) -> Sample:
    """The same, and how much the pooler's memory grew between the middle and the end, all clients being connected."""
    seconds = lasting(place, load)
    with ThreadPoolExecutor(1) as aside:
        running = aside.submit(measure, place, load)
        readings = []
        for part in (0.5, 0.45):
            time.sleep(seconds * part)
            readings.append(meter.own_memory_kb(place.pid) if place.pid else 0.0)
        sample = running.result()
    return {**sample, "growth": readings[1] - readings[0]} if place.pid else sample


def measure_beside(place: Place, load: Load, other: Load, other_name: str) -> Sample:
    """tps, latencies and CPU of `load` while `other` runs beside it, whose tps get a name of their own.

    CPU is that of the pooler divided by the transactions of both.
    """
    logs = [workplace().new_dir("log") for _ in range(2)]
    seconds = max(lasting(place, one) for one in (load, other))
    cpu_s = meter.cpu_s(place.pid) if place.pid else 0.0
    with ThreadPoolExecutor(2) as both:
        started = [
            both.submit(run_one, place, one, seconds, "-l", "--log-prefix", str(log / "log"))
            for one, log in zip((load, other), logs, strict=True)
        ]
        outputs = [one.result() for one in started]
    cpu = cpu_of(place, cpu_s, sum(map(transactions, outputs)))
    ours, others = (parse_log(read_and_remove(log)) for log in logs)
    return {**beside(ours, others, other_name), **cpu}


def run_one(place: Place, load: Load, seconds: int, *options: str) -> str:
    """What one pgbench of so many seconds has printed; 0: the load's own options say how long."""
    script = ["-f", script_file(load.script)] if load.script else []
    where = ["-h", place.at.host, "-p", str(place.at.port), "-U", USER]
    how = ["-n", "-c", str(load.clients), *(["-T", str(seconds)] if seconds else []), *load.options, *script, *options]
    # Without the name of a certificate libpq looks for one in a home that may not be its user's.
    database = f"dbname={DATABASE} sslmode={'require sslcert=none' if load.is_encrypted else 'disable'}"
    database += f" options='{load.settings}'" if load.settings else ""
    return run(postgres.program("pgbench"), *where, *how, database, timeout_s=seconds + 60)


def script_file(text: str) -> str:
    """The path of a file with this text that pgbench may read."""
    path = workplace().new_path("script.sql")
    path.write_text(text)
    give(path)
    return str(path)


def read_and_remove(log_dir: Path) -> str:
    """The one log in the directory: a second of a fast pooler is a megabyte of them."""
    (path,) = log_dir.iterdir()
    text = path.read_text()
    path.unlink()
    return text


def lasting(place: Place, load: Load) -> int:
    """The seconds of pgbench's -T: its time runs from the first connect on, and 256 forks take a second."""
    return max(round(place.seconds + load.clients / 128), 1)


def tps(output: str) -> float:
    return found(r"^tps = ([\d.]+)", output)


def transactions(output: str) -> float:
    return found(r"number of transactions actually processed: (\d+)", output)


def cpu_of(place: Place, before_s: float, queries: float) -> Sample:
    """The figure CPU; empty without a pooler."""
    return {CPU: (meter.cpu_s(place.pid) - before_s) / queries * 1e6} if place.pid and queries else {}


def found(pattern: str, output: str) -> float:
    if match := re.search(pattern, output, re.MULTILINE):
        return float(match.group(1))
    raise ServerFailed(f"pgbench said nothing like {pattern!r}: {output.strip()[-500:]}")


def parse_log(text: str) -> list[Transaction]:
    """The transactions of a pgbench log. Raises ServerFailed when one of them failed or was skipped.

    source: pgbench.html, "Per-Transaction Logging": client, number, time in µs, script, end in s, and its µs
    """
    parsed = []
    for line in text.splitlines():
        _, _, took_us, _, end_s, end_us, *_ = line.split()
        if not took_us.isdigit():
            raise ServerFailed(f"a transaction of pgbench {took_us}: {line}")
        ended = int(end_s) + int(end_us) / 1e6
        parsed.append(Transaction(ended - int(took_us) / 1e6, ended))
    return parsed


def beside(ours: Sequence[Transaction], others: Sequence[Transaction], other_name: str) -> Sample:
    """What `ours` reached while both began new transactions.

    tps count what ended in that time. Latencies are of what began in it, whenever it ended: what was stuck until after
    the end was slow all the same.
    """
    if not ours or not others:
        raise ServerFailed("pgbench has logged no transaction")
    first = max(min(one.began for one in each) for each in (ours, others))
    last = min(max(one.began for one in each) for each in (ours, others))
    if last <= first:
        raise ServerFailed("the two pgbench were not at work at the same time")

    def rate(each: Sequence[Transaction]) -> float:
        return sum(first <= one.ended <= last for one in each) / (last - first)

    latencies = sorted((one.ended - one.began) * 1e3 for one in ours if first <= one.began <= last)
    return {
        "tps": rate(ours),
        other_name: rate(others),
        **{f"p{percent:g}": percentile(latencies, percent) for percent in (50, 99, 99.9)},
    }


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The least of the ordered values that so many per cent of them do not pass (nearest rank)."""
    return ordered[max(ceil(round(len(ordered) * percent / 100, 6)), 1) - 1]
