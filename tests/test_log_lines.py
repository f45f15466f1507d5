"""What the log says is one line a message, whoever chose the words."""

import logging

from lib.logs import OneLine


def said(message: str, *args: object) -> str:
    return OneLine("%(message)s").format(logging.LogRecord("x", logging.INFO, "", 0, message, args, None))


def test_a_name_with_a_newline_writes_no_line_of_its_own():
    assert said("login failed for %s", "eve\n2026-01-01 ERROR all is lost\r") == (
        "login failed for eve\\n2026-01-01 ERROR all is lost\\r"
    )


def test_bytes_that_are_no_text_can_be_logged_to_any_terminal():
    assert said("user %s", "caf\udce9\x1b[31m") == "user caf\\udce9\\x1b[31m"
