"""The log: to stderr, a file or syslog, as text or JSON, a line a message, and never in the way of a query.

Lines are made where they are logged and written by a thread of their own, for a disk or a pipe may be slow or stuck;
when too many wait, further ones are lost and counted. A file is opened anew on SIGUSR1 and SIGHUP, so that logrotate
may move it away. What repeats itself is summed up (`lib.summing`).
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lib.errors import ConfigError
from lib.summing import Sum, Summing

if TYPE_CHECKING:
    from lib.config import Settings

STDERR, SYSLOG = "stderr", "syslog"
TEXT, JSON = "text", "json"
_TEXT_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_MOST_WAITING = 10_000  # lines
_COMPLAIN_AGAIN_S = 10.0
_LAST_WORDS_S = 2.0  # how long the end of the process waits for what is still to be written
_FILE_MODE = 0o640


# --- what a line is --------------------------------------------------------------------------------------------------


class OneLine(logging.Formatter):
    """A message is one line whatever names are in it: a user called "x\\nERROR ..." writes no line of his own."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = _printable(record.message)
        return super().formatMessage(record)


class JsonLines(logging.Formatter):
    """One object a line: time, level, message, and what it is about (frontend, worker, ...) where it says so."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{at}.{int(record.msecs):03d}Z", "level": record.levelname.lower(), "logger": record.name,
            "message": record.getMessage(),
        }  # fmt: skip
        for each in record.args if isinstance(record.args, tuple) else ():
            line |= getattr(each, "log_fields", None) or {}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


# --- where lines go --------------------------------------------------------------------------------------------------


class _Stderr:
    def write(self, level: int, text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def reopen(self) -> None:
        pass

    close = reopen


class _File:
    """raises   OSError, when it cannot be opened"""

    def __init__(self, name: str) -> None:
        self._name = name
        self._fd = self._open()

    def _open(self) -> int:
        return os.open(self._name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)

    def write(self, level: int, text: str) -> None:
        data = (text + "\n").encode(errors="backslashreplace")
        while data:
            data = data[os.write(self._fd, data) :]

    def reopen(self) -> None:
        """The file of that name, which may be another one by now; when it cannot be opened the old one stays."""
        fd, self._fd = self._fd, self._open()
        os.close(fd)

    def close(self) -> None:
        os.close(self._fd)


class _Syslog:
    """raises   OSError, when nobody listens there"""

    def __init__(self, path: str) -> None:
        self._handler = logging.handlers.SysLogHandler(path, logging.handlers.SysLogHandler.LOG_DAEMON)
        self._handler.ident = f"pgstmtpool[{os.getpid()}]: "
        self._handler.setFormatter(logging.Formatter("%(message)s"))

    def write(self, level: int, text: str) -> None:
        self._handler.emit(logging.LogRecord("pgstmtpool", level, "", 0, "%s", (text,), None))

    def reopen(self) -> None:
        pass

    def close(self) -> None:
        self._handler.close()


_Place = _Stderr | _File | _Syslog


def _place(log_to: str) -> _Place:
    if log_to == STDERR:
        return _Stderr()
    kind, _, path = log_to.partition(":")
    return _Syslog(path or "/dev/log") if kind == SYSLOG else _File(log_to)


class _Writer:
    """The thread that writes."""

    def __init__(self, place: _Place) -> None:
        self._place = place
        self._queue: queue.SimpleQueue[tuple[int, str] | Callable[[], None] | None] = queue.SimpleQueue()
        self._lost = 0
        self._complained_at = float("-inf")
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, level: int, text: str) -> None:
        if self._queue.qsize() > _MOST_WAITING:
            self._lost += 1
            return
        if self._lost:
            lost, self._lost = self._lost, 0
            self._queue.put((logging.WARNING, f"{lost} lines of the log were lost: they could not be written in time"))
        self._queue.put((level, text))

    def change_place(self, place: _Place) -> None:
        """What was said until now still goes to the old one."""
        self._queue.put(lambda: self._move(place))

    def _move(self, place: _Place) -> None:
        old, self._place = self._place, place
        old.close()

    def reopen(self) -> None:
        self._queue.put(lambda: self._place.reopen())

    def end(self) -> None:
        """Write what is left, unless that takes too long."""
        self._queue.put(None)
        self._thread.join(_LAST_WORDS_S)

    def _run(self) -> None:
        while (what := self._queue.get()) is not None:
            try:
                if callable(what):
                    what()
                else:
                    self._place.write(*what)
            except Exception as error:  # a full disk, say: others may still hear of it
                self._complain(error)

    def _complain(self, error: Exception) -> None:
        now = time.monotonic()
        if now - self._complained_at < _COMPLAIN_AGAIN_S:
            return
        self._complained_at = now
        try:
            sys.stderr.write(f"the log cannot be written: {error}\n")
            sys.stderr.flush()
        except OSError:
            pass


# --- the whole -------------------------------------------------------------------------------------------------------


class Logs(logging.Handler):
    """The handler of all messages."""

    def __init__(self, settings: Settings) -> None:
        """raises   OSError, when the log cannot be opened"""
        super().__init__()
        self._settings = settings
        self._summing = Summing()
        self._opened: _Place | None = None  # by a check, for a change that is about to come
        self._log_to = settings.log_to
        self._writer = _Writer(_place(settings.log_to))
        self._configure()
        root = logging.getLogger()
        root.handlers[:] = [self]

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
            is_wanted = getattr(record, "fields", None) is not None  # asked for by a setting, each of them
            if not is_wanted and not self._summing.may_say(time.monotonic(), str(record.msg), record.levelno, text):
                return
            self._writer.write(record.levelno, self.format(record))
        except Exception:
            self.handleError(record)

    @contextmanager
    def _own_lock(self) -> Iterator[None]:
        # What psycopg2's threads have to say comes at any time.
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def sum_up(self) -> None:
        """Say what was not said. To be called every second or so."""
        with self._own_lock():
            due = self._summing.due(time.monotonic())
        self._say(due)

    def _say(self, sums: list[Sum]) -> None:
        for each in sums:
            record = logging.LogRecord("pgstmtpool", each.level, "", 0, "%s", (str(each),), None)
            self._writer.write(each.level, self.format(record))

    def _configure(self) -> None:
        is_syslog = self._settings.log_to.partition(":")[0] == SYSLOG  # which has the time and the level by itself
        text = OneLine("%(message)s" if is_syslog else _TEXT_FORMAT)
        self.setFormatter(JsonLines() if self._settings.log_format == JSON else text)
        logging.getLogger().setLevel(self._settings.log_level.upper())

    def try_settings(self, new: Settings) -> None:
        """Open the new log before the old one is given up.

        raises   ConfigError
        """
        if new.log_to != self._log_to:
            try:
                self._opened = _place(new.log_to)
            except OSError as error:
                raise ConfigError([f"log_to: {new.log_to} cannot be opened: {error.strerror}"]) from None

    def give_up(self) -> None:
        """Nothing changes after all."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    def settings_changed(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            self._log_to = self._settings.log_to
            self._writer.change_place(opened)
        self._configure()

    def reopen(self) -> None:
        """The file may have been moved away."""
        self._writer.reopen()

    def end(self) -> None:
        self._say(self._summing.due(float("inf")))
        self._writer.end()
