"""Measure direct, PgBouncer, pgpool-II and pgstmtpool side by side on one PostgreSQL, and print the tables.

    python -m bench.run                    all of it, three rounds, in ten minutes or so
    python -m bench.run --quick            a smoke run: one round of one second each
    python -m bench.run --write            and write docs/benchmarks.md with its plot

Another checkout of pgstmtpool, or this one with other settings, can be measured in the same run, which is how a change
is judged (a value is a Python literal, as in the conf file):

    git worktree add ../before HEAD~3
    python -m bench.run --contenders pgbouncer,pgstmtpool --workloads simple-64,mixed --also before=../before
    python -m bench.run --contenders pgbouncer,pgstmtpool --also 'alone=. riders=False' --also 'deep=. rider_depth=64'

Prepared statements are measured against a PgBouncer that follows them (1.21 and newer). Where the one that is installed
does not, PGBOUNCER_ROOT=DIRECTORY names a system that has one: debootstrap --include=pgbouncer trixie DIRECTORY

The exit code is 0 when all that could be started was measured, 1 when something failed, 2 for a wrong option.
A target that is not met is a result, not a failure.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from bench import client, contenders, plot, postgres, report, workloads
from bench.contenders import Contender
from bench.pgbench import Place, Sample
from bench.report import Measurement, Results
from bench.workloads import Workload
from tests.pooler import PROJECT
from tests.servers import NotThere, Server

DOCS = PROJECT / "docs"
Row = TypeVar("Row")


def options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=int, default=3, metavar="N", help="how often everything is measured (3)")
    add("--seconds", type=float, default=2.5, metavar="S", help="how long each measurement takes (2.5)")
    add("--scale", type=int, default=10, metavar="N", help="pgbench's scale: 100,000 accounts each (10)")
    always = [one for one in contenders.CONTENDERS.values() if not one.on_request]
    for name, rows, default in (
        ("contenders", contenders.CONTENDERS, always),
        ("workloads", workloads.WORKLOADS, list(workloads.WORKLOADS.values())),
    ):
        add(f"--{name}", type=some_of(rows), default=default, metavar="A,B", help=f"of {', '.join(rows)}")
    also = (
        "measure one more: a directory with another checkout of pgstmtpool and settings for it (see above), or the "
        "command of another pooler, where {server_host} {server_port} {port} {user} {database} are filled in"
    )
    add("--also", type=contenders.another, action="append", default=[], metavar="NAME=WHAT", help=also)
    every_round = "measure all contenders in every round; else direct and pgpool-II only in the first, being slow"
    add("--every-round", action="store_true", help=every_round)
    add("--quick", action="store_true", help="one round of one second each, scale 1, 200 idle clients")
    add("--write", action="store_true", help="write docs/benchmarks.md and its plot")
    chosen = parser.parse_args(arguments)
    if chosen.quick:
        chosen.rounds, chosen.seconds, chosen.scale = 1, 1.0, 1
    return chosen


def some_of(rows: Mapping[str, Row]) -> Callable[[str], list[Row]]:
    """An argparse type: names with commas between them -> the rows of a table."""

    def parse(text: str) -> list[Row]:
        unknown = [name for name in text.split(",") if name not in rows]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)} (there are {', '.join(rows)})")
        return [rows[name] for name in text.split(",")]

    return parse


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def installed(candidates: Sequence[Contender]) -> dict[Contender, str]:
    """The contenders that can be started, with their versions; says what to install for the others."""
    found = {}
    for contender in candidates:
        try:
            found[contender] = contender.version()
        except NotThere as missing:
            say(f"{contender.title} is left out: {missing}")
    return found


def measure(chosen: argparse.Namespace, rows: Sequence[Workload], ready: Sequence[Contender]) -> list[Measurement]:
    """Every workload of every round, the contenders one after the other within each, in turn the first."""
    measurements = []
    asked = [*chosen.contenders, *chosen.also]
    with postgres.primary(chosen.scale) as server:
        for number in range(chosen.rounds):
            for row in rows:
                for contender in in_turn(number, those_for(row, ready, asked), chosen.every_round):
                    one = measure_once(number, row, contender, server, chosen)
                    measurements.append(one)
                    shown = f"failed: {one.failure}" if one.sample is None else told(row, one.sample)
                    say(f"round {number + 1}/{chosen.rounds}  {row.title:34}  {contender.title:10}  {shown}")
    return measurements


def those_for(row: Workload, ready: Sequence[Contender], asked: Sequence[Contender]) -> list[Contender]:
    """Who is measured in a workload: all who were asked for; in one for a few those few, if any of them was."""
    if not row.among:
        return [one for one in ready if one in asked and one.name not in row.without]
    few = [one for one in ready if one.name in row.among]
    return few if any(one in asked for one in few) else []


def needed(chosen: argparse.Namespace) -> list[Contender]:
    """Who has to be there: those who were asked for, and those that they are to be compared with."""
    asked = [*chosen.contenders, *chosen.also]
    rows = [row for row in chosen.workloads if any(one.name in row.among for one in asked)]
    others = {name: contenders.CONTENDERS[name] for row in rows for name in row.among}
    return [*asked, *(one for one in others.values() if one not in asked)]


def in_turn(number: int, ready: Sequence[Contender], every_round: bool) -> list[Contender]:
    """Who is measured in a round, and in which order: each is once the first."""
    those = [one for one in ready if number == 0 or every_round or one.every_round]
    first = number % len(those) if those else 0
    return [*those[first:], *those[:first]]


def told(row: Workload, sample: Sample) -> str:
    """A sample in a line."""
    return ", ".join(
        f"{one.name} {report.number(sample[one.name])}{f' {one.unit}' if one.unit else ''}"
        for one in row.figures
        if one.name in sample
    )


def measure_once(
    number: int, row: Workload, contender: Contender, server: Server, chosen: argparse.Namespace
) -> Measurement:
    """One turn of one contender. Whatever goes wrong in it is a line in the report, and the next one has its turn."""
    idle_clients = min(contender.idle_clients, 200 if chosen.quick else 2000)
    try:
        for text in row.before:
            server.query(text, dbname=client.DATABASE)
        with contenders.started(contender, postgres.endpoint(server), row.pool_mode) as running:
            sample = row.measure(Place(running.at, server, running.pid, chosen.seconds, idle_clients))
    except (client.Refused, OSError, AssertionError, subprocess.TimeoutExpired) as error:
        reason = " ".join(str(error).replace(f"{PROJECT}/", "").split())
        return Measurement(number, row.name, contender.name, None, reason or type(error).__name__)
    return Measurement(number, row.name, contender.name, sample)


def facts(chosen: argparse.Namespace, versions: Mapping[Contender, str]) -> list[str]:
    """The lines of the page on the machine, the versions and the run."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    system = f"{models[0] if models else platform.machine()}, {memory_gb:.0f} GB, Linux {platform.release()}"
    poolers = [f"{one.title} {version}" for one, version in versions.items() if one.command]
    rounds = f"{chosen.rounds} round(s)"
    if chosen.rounds > 1 and not chosen.every_round and any(not one.every_round for one in versions):
        rounds += f" ({' and '.join(one.title for one in versions if not one.every_round)} only in the first)"
    return [
        f"{len(os.sched_getaffinity(0))} cores for the server, the poolers and pgbench together: {system}",
        f"PostgreSQL {contenders.server_version()}; {'; '.join(poolers)}",
        f"pgstmtpool was run by {contenders.interpreter()}",
        f"{rounds}, {chosen.seconds:g} s for each measurement, pgbench scale {chosen.scale}",
    ]


def raise_limit_of_open_files() -> None:
    """As many as the hard limit allows, for us and (inherited) for the poolers: 2,000 clients are 4,000 sockets."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(arguments: Sequence[str]) -> int:
    chosen = options(arguments)
    raise_limit_of_open_files()
    versions = installed(needed(chosen))
    rows = chosen.workloads
    measurements = measure(chosen, rows, list(versions))
    results = Results(measurements)
    titles = {contender.name: contender.title for contender in versions}
    tables = report.body(results, rows, titles)
    print(tables)
    if chosen.write:
        DOCS.mkdir(exist_ok=True)
        plot.draw(results, rows, titles, DOCS / "benchmarks.svg")
        (DOCS / "benchmarks.md").write_text(report.page(rows, tables, facts(chosen, versions), "benchmarks.svg"))
    return 1 if any(one.failure for one in measurements) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
