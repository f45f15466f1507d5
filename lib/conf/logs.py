"""Rows: the log. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from lib import checks
from lib.conf.row import row

LOG = "Log"


@dataclass(frozen=True, kw_only=True, repr=False)
class Logging:
    """What is logged, how, and where to."""

    log_to: str = row(
        LOG, "word or file name", "", "stderr", True, checks.log_place,
        "Where the log goes: `'stderr'`; a file, by its whole path, which is opened anew on SIGUSR1 and SIGHUP; or "
        "`'syslog'`, facility daemon (`'syslog:/path'` for a socket other than `/dev/log`).",
        "A service manager keeps what goes to stderr; for a file there is docs/pgstmtpool.logrotate.",
    )
    log_format: str = row(
        LOG, "word", "", "text", True, checks.choice("text", "json"),
        "`'text'`, or `'json'`: an object a line with `time`, `level`, `message`, and `frontend`, `worker`, `user`, "
        "`database` and the like where the message is about one.",
        "JSON is for programs that read it.",
    )
    log_level: str = row(
        LOG, "word", "", "info", True, checks.choice("debug", "info", "warning", "error"),
        "The least important messages that are logged: `'debug'`, `'info'`, `'warning'` or `'error'`. What repeats "
        "itself is summed up every ten seconds.",
        "`'debug'` is for looking into something; nothing secret is logged at any level.",
    )
    log_connections: bool = row(
        LOG, "boolean", "", False, True, checks.boolean,
        "Whether each login is logged, with who came from where. One that fails always is.",
        "Clients that connect for every statement make the log long.",
    )
    log_disconnections: bool = row(
        LOG, "boolean", "", False, True, checks.boolean,
        "Whether each end of a connection is logged, with how long it lasted.",
        "The same.",
    )
    log_min_duration: float = row(
        LOG, "number", "seconds", 0, True, checks.seconds(0),
        "Statements that run for longer than this are logged when they have ended, with their text, but without "
        "literals and comments. They are looked for every so often, so that the time is right to about a tenth of "
        "this, or 50 ms. 0 is none.",
        "It costs next to nothing; the server's `log_min_duration_statement` also finds short ones.",
    )
