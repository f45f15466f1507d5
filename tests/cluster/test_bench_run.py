"""The benchmark as a program, on a real server, with the shortest run that it knows."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.pooler import PROJECT

WORKLOADS = {
    "simple-8": "pgbench -S -M simple, 8 clients | tps",
    "extended-8": "pgbench -S -M extended, 8 clients | tps",
    "tpcb-32": "TPC-B, 32 clients | tps",
    "select": "large SELECT | MB/s",
    "copy-in": "COPY FROM STDIN | MB/s",
    "connect": "pgbench -S -C, 8 clients | connections/s",
    "idle-memory": "memory per idle client | KB",
}


@pytest.mark.needs_debian
def test_quick_run_measures_everyone_and_prints_the_tables() -> None:
    names = ["--contenders", "direct,pgbouncer,pgstmtpool", "--workloads", ",".join(WORKLOADS)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.run", "--quick", *names],
        cwd=PROJECT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert "| workload | unit | direct | PgBouncer | pgstmtpool |" in lines
    for row in WORKLOADS.values():
        figures = [line for line in lines if line.startswith(f"| {row} |")]
        assert len(figures) == 1
        assert "–" not in figures[0]
    assert "| CPU of the pooler, µs per transaction | PgBouncer | pgstmtpool |" in lines
    assert "## Failed" not in lines
