"""What the log says is one line a message, whoever chose the words."""

import json
import logging
from pathlib import Path

from lib import config
from lib.logs import Logs, OneLine


def said(message: str, *args: object) -> str:
    return OneLine("%(message)s").format(logging.LogRecord("x", logging.INFO, "", 0, message, args, None))


def test_a_name_with_a_newline_writes_no_line_of_its_own():
    assert said("login failed for %s", "eve\n2026-01-01 ERROR all is lost\r") == (
        "login failed for eve\\n2026-01-01 ERROR all is lost\\r"
    )


def test_bytes_that_are_no_text_can_be_logged_to_any_terminal():
    assert said("user %s", "caf\udce9\x1b[31m") == "user caf\\udce9\\x1b[31m"


def test_what_was_left_to_be_summed_up_at_the_end_is_a_line_like_all_others(tmp_path: Path, monkeypatch):
    """It was written without its time and level, and between lines of JSON it was none."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers[:])
    monkeypatch.setattr(root, "level", root.level)
    path = tmp_path / "log"
    conf = {"admin_cnn": {"user": "postgres"}, "master": "127.0.0.1:1", "log_to": str(path), "log_format": "json"}
    logs = Logs(config.make(conf))
    for _ in range(8):
        logging.getLogger("x").warning("again and again")
    logs.end()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["message"] for line in lines] == ["again and again"] * 5 + [
        "again and again (3 more like this within 10 s)"
    ]
    assert lines[-1]["level"] == "warning"
