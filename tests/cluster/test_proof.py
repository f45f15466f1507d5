"""The proof run (`make proof`) in short: what tests/proof says must hold, on every release that matters."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.pooler import PROJECT

RUNS = [
    pytest.param("riders", 13, "on", 8_000, marks=pytest.mark.needs_npm, id="13"),
    pytest.param("riders", 15, "on", 8_000, marks=pytest.mark.needs_debian, id="15"),
    pytest.param("riders", 16, "on", 20_000, id="16"),
    pytest.param("riders", 16, "off", 20_000, id="16-off"),
    pytest.param("riders", 18, "on", 8_000, id="18"),
    pytest.param("home", 13, "on", 8_000, marks=pytest.mark.needs_npm, id="home-13"),
    pytest.param("home", 16, "on", 12_000, id="home-16"),
]


@pytest.mark.time_limit_s(300)
@pytest.mark.parametrize(("load", "version", "riders", "statements"), RUNS)
def test_every_answer_is_right_nothing_leaks_and_what_is_committed_was_told(
    load: str, version: int, riders: str, statements: int
):
    chosen = ["--load", load, "--version", version, "--riders", riders, "--statements", statements, "--crash-every", 6]
    done = subprocess.run(
        [sys.executable, "-m", "tests.proof", *map(str, chosen)], cwd=PROJECT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=280, check=False,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-5000:]
    assert done.stdout.endswith("it holds\n")


def test_the_load_at_home_knows_what_a_server_answers():
    """Directly all of it holds, too: what fails through the pooler is not for a mistake in the proof."""
    chosen = ["--load", "home", "--directly", "--statements", "6000", "--kill-every", "0", "--crash-every", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.proof", *chosen], cwd=PROJECT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=100, check=False,
    )  # fmt: skip
    assert done.stdout.endswith("it holds\n"), done.stdout[-5000:]
