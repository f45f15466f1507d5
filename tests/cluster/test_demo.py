"""`make demo` as a user sees it: the lines it prints work, and Ctrl-C leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys

import pytest

from tests.pooler import PROJECT
from tests.workplace import tool_env, wait_until


@pytest.fixture
def demo(tmp_path):
    """A running demo: the process, and a function that says what it printed up to now."""
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.demo"], cwd=PROJECT, env=tool_env(), stdin=subprocess.DEVNULL, stdout=file,
            stderr=subprocess.STDOUT,
        )  # fmt: skip

    def printed() -> str:
        assert process.poll() is None or "removed" in output.read_text(), output.read_text()
        return output.read_text()

    yield process, printed
    if process.poll() is None:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("goodbye", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_demo_prints_lines_that_work_and_cleans_up(demo, goodbye):
    process, printed = demo
    wait_until(lambda: "Ctrl-C ends everything" in printed(), 60, "the demo to be ready")
    for label, on_standby in (("on the primary:", "f"), ("on a standby:", "t")):
        line = re.search(rf"{label} +(.*)", printed())[1]
        asked = subprocess.run(["sh", "-c", f"{line} -XAt"], cwd=PROJECT, capture_output=True, text=True, check=False)
        assert asked.stdout.splitlines()[0] == f"Tokyo|37400068|{on_standby}", asked.stderr

    conf_path = re.search(r"Its conf file is (.*),", printed())[1]
    assert os.path.exists(conf_path)
    process.send_signal(goodbye)
    assert process.wait(20) == 0
    assert "Everything is stopped" in printed()
    wait_until(lambda: not os.path.exists(os.path.dirname(os.path.dirname(conf_path))), 10, "its files to be removed")
