"""`make demo` as a user sees it: the lines it prints work, the README's first session is what psql shows, and Ctrl-C
leaves nothing behind."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

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


def lines_of(chapter: str) -> list[str]:
    """What stands in the blocks of a chapter of the README."""
    text = (PROJECT / "README.md").read_text().partition(f"\n## {chapter}\n")[2].partition("\n## ")[0]
    return [line for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]


def outage() -> tuple[str, list[str], list[str]]:
    """What the README types into psql when the primary was killed, what that shows, and how it is killed."""
    lines = lines_of("Kill the primary")
    typed = [match[1] for line in lines if (match := re.match(r"demo=> (.*)", line))]
    commands = [match[1] for line in lines if (match := re.match(r"\$ (.*)", line))]
    return "\n".join(typed), [line for line in lines if line and not re.match(r"demo=>|\$ ", line)], commands


def first_session() -> tuple[str, list[str], list[str]]:
    """What the README types into psql, and the lines that it shows: answers, and errors."""
    lines = lines_of("A first session")
    typed = [match[1] for line in lines if (match := re.match(r"demo=\*?> (.*)", line))]
    answers = [line for line in lines if not re.match(r"demo=|\$ ", line)]
    errors = [line for line in answers if re.match(r"[A-Z]+: ", line)]
    return "\n".join(typed), [line for line in answers if line and line not in errors], errors


@pytest.mark.parametrize("goodbye", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_demo_prints_lines_that_work_shows_what_the_readme_says_and_cleans_up(demo, goodbye):
    process, printed = demo
    wait_until(lambda: "Ctrl-C ends everything" in printed(), 60, "the demo to be ready")
    for label, on_standby in (("on the primary:", "f"), ("on a standby:", "t")):
        line = re.search(rf"{label} +(.*)", printed())[1]
        asked = subprocess.run(["sh", "-c", f"{line} -XAt"], cwd=PROJECT, capture_output=True, text=True, check=False)
        assert asked.stdout.splitlines()[0] == f"Tokyo|37400068|{on_standby}", asked.stderr

    statements, shown, errors = first_session()
    line = re.search(r"a whole session: +(.*)", printed())[1]
    asked = subprocess.run(
        ["sh", "-c", f"{line} -X"], input=statements, cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert [line for line in asked.stdout.splitlines() if line] == shown
    assert asked.stderr.splitlines() == errors

    about = re.search(r"the pool itself: +(.*)", printed())[1]
    asked = subprocess.run(["sh", "-c", about], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert asked.stderr == "" and "primary" in asked.stdout and "pool switchover" in asked.stdout

    page = re.search(r"the page: +(.*)", printed())[1]
    with urllib.request.urlopen(f"{page}status.json", timeout=20) as answer:
        assert [each["role"] for each in json.load(answer)["pools"]] == ["primary", "standby", "standby"]

    statements, shown, typed = outage()
    pid = re.search(r"kill the primary: +kill -9 (\d+)", printed())[1]
    os.kill(int(pid), signal.SIGKILL)
    asked = subprocess.run(
        ["sh", "-c", f"{line} -X"], input=statements, cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert typed == ["kill -9 12345"]
    assert [line for line in asked.stdout.splitlines() if line] == shown
    assert asked.stderr == ""

    steps = [line.partition("|")[0].strip() for line in lines_of("Switch over") if re.match(r" \w.*\|", line)]
    line = re.search(r"switch over: +(.*)", printed())[1]
    asked = subprocess.run(["sh", "-c", f"{line} -XAt"], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert [line.partition("|")[0] for line in asked.stdout.splitlines()] == steps, asked.stderr
    assert asked.stdout.rstrip().endswith("follows")

    conf_path = re.search(r"Its conf file is (.*),", printed())[1]
    assert os.path.exists(conf_path)
    process.send_signal(goodbye)
    assert process.wait(20) == 0
    assert "Everything is stopped" in printed()
    wait_until(lambda: not os.path.exists(os.path.dirname(os.path.dirname(conf_path))), what="its files to be removed")
