"""The benchmark as a program, on a real server, with the shortest runs that it knows."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench.workloads import WORKLOADS
from tests.pooler import PROJECT

MEASURED = ("simple-8", "mixed", "locks", "sleep", "tpcb-32", "shapes", "literals", "select", "copy-in", "idle-memory")


def printed(*arguments: str) -> list[str]:
    """The lines that a quick run prints, which must have measured all that it was told to."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.run", "--quick", *arguments],
        cwd=PROJECT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.needs_debian
def test_quick_run_measures_everyone_and_prints_the_tables() -> None:
    lines = printed("--contenders", "direct,pgbouncer,pgstmtpool", "--workloads", ",".join(MEASURED))
    assert "| workload | figure | direct | PgBouncer | pgstmtpool |" in lines
    assert "| workload | figure | PgBouncer | pgstmtpool |" in lines
    assert "## Failed" not in lines
    targets, figures = lines[: lines.index("## Figures")], lines[lines.index("## Figures") :]
    for row in map(WORKLOADS.__getitem__, MEASURED):
        for figure in row.figures:
            (cells,) = (line for line in figures if line.startswith(f"| {row.title} | {figure.title} |"))
            assert cells.count("–") == (1 if figure.name == "growth" else 0)  # direct has no pooler that could grow
            verdicts = [line for line in targets if line.startswith(f"| {row.title} | {figure.name} |")]
            assert len(verdicts) == (1 if figure.target else 0)
            assert all(line.endswith((" met |", " **not met** |")) for line in verdicts)


def test_counting_and_listing_are_measured_on_and_off_in_one_run() -> None:
    lines = printed("--contenders", "pgstmtpool", "--workloads", "counting,listing")
    assert "| workload | figure | pgstmtpool | pgstmtpool that counts nothing |" in lines
    assert "## Failed" not in lines
    targets = lines[: lines.index("## Compared with others")]
    assert sum(line.endswith((" met |", " **not met** |")) for line in targets) == 5


def test_clients_with_settings_are_measured_against_clients_without() -> None:
    lines = printed("--contenders", "pgstmtpool", "--workloads", "settings-64")
    assert "## Failed" not in lines
    (row,) = (line for line in lines if line.startswith("| pgbench -S, 64 clients, settings | loss, all different"))
    assert "–" not in row


def test_another_checkout_with_its_own_settings_is_measured_beside_this_one() -> None:
    chosen = ["--contenders", "pgstmtpool", "--workloads", "simple-8"]
    lines = printed(*chosen, "--also", "alone=. riders=False")
    assert "| workload | figure | pgstmtpool | alone |" in lines
    figures = lines[lines.index("## Figures") :]
    (cells,) = (line for line in figures if line.startswith(f"| {WORKLOADS['simple-8'].title} | tps |"))
    assert "–" not in cells


def test_a_run_of_the_failover_benchmark_loses_nothing_and_prints_its_table() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.failover", "--versions", "16", "--runs", "1", "--planned", "1"],
        cwd=PROJECT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    killed, planned = (line.split(" | ")[1:] for line in done.stdout.splitlines() if line.startswith("| 16 | "))
    for what, runs, _, lost, _, reads_failed, disconnected, strays in (killed, planned):
        assert (runs, lost, reads_failed, disconnected, strays) == ("1", "0", "0", "0", "0 |"), what
    assert (killed[0], planned[0], planned[4]) == ("kill -9", "planned", "0 / 0")
