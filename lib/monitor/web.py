"""The HTTP server: /metrics, /healthz, /readyz, and a page at /.

Green, by gevent.pywsgi. It only reads, knows its few paths by heart and touches no files; whoever asks for anything
else gets 404 or 405. A few connections are open at a time, and none for long; whoever comes when there are as many as
there may be is served all the same, and the one that has asked for nothing for the longest time is closed for it. So
nobody who holds connections open keeps others from their answer.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from http.client import HTTPException
from itertools import chain
from typing import TYPE_CHECKING, Any

import gevent
from gevent import pywsgi
from gevent.pool import Pool

from lib.counting import counted
from lib.errors import ConfigError
from lib.monitor import exporter, page
from lib.monitor.counters import counted_families
from lib.monitor.history import History
from lib.monitor.status import Observer

if TYPE_CHECKING:
    from lib.addresses import Address
    from lib.config import Settings

log = logging.getLogger(__name__)

_AT_ONCE = 32  # connections
_LONGEST_S = 30.0  # a connection, from its first request to its last answer
_SAMPLE_S = 1.0
_BOTH_WAYS = 2  # SHUT_RDWR
_JSON, _TEXT = "application/json", "text/plain; charset=utf-8"

Answer = tuple[str, str, bytes]  # status, content type, body
StartResponse = Callable[[str, list[tuple[str, str]]], Any]


class _Server(pywsgi.WSGIServer):
    """callers   the connections that are open, the one that has asked last is last"""

    def __init__(self, address: Address, application: Any) -> None:
        quiet: Any = _Log()
        super().__init__(
            tuple(address), application, spawn=Pool(), log=None, error_log=quiet, handler_class=_Handler
        )
        self.callers: dict[_Handler, None] = {}


class _Handler(pywsgi.WSGIHandler):
    """One connection, for a limited time."""

    def handle(self) -> None:
        callers: dict[_Handler, None] = self.server.callers
        if len(callers) >= _AT_ONCE:
            next(iter(callers)).hang_up()
        callers[self] = None
        try:
            with gevent.Timeout(_LONGEST_S, False):
                super().handle()
        finally:
            callers.pop(self, None)

    def handle_one_response(self) -> None:
        callers: dict[_Handler, None] = self.server.callers
        if callers.pop(self, self) is None:  # it was there: now it is last
            callers[self] = None
        super().handle_one_response()

    def read_request(self, raw_requestline: str) -> bool:
        try:
            return super().read_request(raw_requestline)
        except HTTPException as error:  # too many headers: pywsgi would print a traceback for all but a ValueError
            raise ValueError(str(error)) from None

    def hang_up(self) -> None:
        """Others are to be served: its thread finds that the connection has ended."""
        self.server.callers.pop(self, None)
        with suppress(OSError, AttributeError):
            self.socket.shutdown(_BOTH_WAYS)

    def log_request(self) -> None:
        pass


class _Log:
    """What pywsgi has to say: garbage that it was sent is nothing to wake anybody for."""

    def write(self, said: str) -> None:
        if said.strip():
            log.debug("http: %s", said.strip())

    def flush(self) -> None:
        pass


class Web:
    """The HTTP server, where `http_listen` is given, and what it tells."""

    def __init__(self, settings: Settings, observer: Observer) -> None:
        self._settings = settings
        self._observer = observer
        self._history = History()
        self._server: pywsgi.WSGIServer | None = None
        self._bound: pywsgi.WSGIServer | None = None  # not started yet
        self._sampler: gevent.Greenlet | None = None
        self._answers: dict[str, Callable[[], Answer]] = {
            "/": lambda: ("200 OK", "text/html; charset=utf-8", page.HTML),
            "/status.json": self._status,
            "/metrics": self._metrics,
            "/healthz": lambda: ("200 OK", _TEXT, b"ok\n"),
            "/readyz": self._ready,
        }

    def __repr__(self) -> str:
        return f"<Web {self._settings.http_listen or 'off'}>"

    # --- where -------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Listen where the settings say, if anywhere.

        raises   OSError
        """
        self._bind(self._settings.http_listen)
        self.settings_changed()

    def try_address(self, new: Settings) -> None:
        """Bind the new address before the old one is given up.

        raises   ConfigError
        """
        try:
            self._bind(new.http_listen)
        except OSError as error:
            raise ConfigError([f"http_listen: {error}"]) from None

    def give_up(self) -> None:
        """Nothing changes after all."""
        bound, self._bound = self._bound, None
        if bound is not None:
            bound.stop(timeout=0)

    def settings_changed(self) -> None:
        """Serve at the address that was bound, and no more at the one before."""
        self.close()
        self._server, self._bound = self._bound, None
        if self._server is not None:
            self._server.start()
            self._sampler = gevent.spawn(self._sample)
            log.info("http on %s", self._settings.http_listen)

    def close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.stop(timeout=0)
        if self._sampler is not None:
            self._sampler.kill()
            self._sampler = None

    def _bind(self, address: Address | None) -> None:
        if address is None:
            return
        server = _Server(address, self._application)
        server.init_socket()
        self._bound = server

    # --- what --------------------------------------------------------------------------------------------------------

    def _application(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        answer = self._answers.get(environ["PATH_INFO"])
        if answer is None:
            status, kind, body = "404 Not Found", _TEXT, b"there are /, /metrics, /healthz and /readyz\n"
        elif method not in ("GET", "HEAD"):
            status, kind, body = "405 Method Not Allowed", _TEXT, b"GET or HEAD\n"
        else:
            try:
                status, kind, body = answer()
            except Exception:
                log.exception("http: no answer for %s", environ["PATH_INFO"])
                status, kind, body = "500 Internal Server Error", _TEXT, b"see the log of the pool\n"
        headers = [
            ("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"), ("X-Frame-Options", "DENY"), ("Referrer-Policy", "no-referrer"),
            ("Content-Security-Policy", page.POLICY),
        ]  # fmt: skip
        if status.startswith("405"):
            headers.append(("Allow", "GET, HEAD"))
        start_response(status, headers)
        return [b"" if method == "HEAD" else body]

    def _ready(self) -> Answer:
        reason = self._observer.not_ready
        return ("503 Service Unavailable", _TEXT, f"{reason}\n".encode()) if reason else ("200 OK", _TEXT, b"ready\n")

    def _metrics(self) -> Answer:
        observer = self._observer
        counts = counted(observer.cluster, observer.arrivals)
        answered = sum(each.queries for each in counts.values())
        found = chain(exporter.families(observer.status(), answered), counted_families(counts))
        return "200 OK", exporter.CONTENT_TYPE_LATEST, exporter.text(found)

    def _status(self) -> Answer:
        status = self._observer.status()
        told = {
            **status._asdict(),
            "pools": [each._asdict() for each in status.pools],
            "rosters": [each._asdict() for each in status.rosters],
            "waiters": [each._asdict() for each in status.waiters],
            "history": self._history.columns,
        }
        return "200 OK", _JSON, json.dumps(told).encode()

    def _sample(self) -> None:
        while True:
            self._history.add(time.time(), self._observer.totals(), *self._observer.queue())
            gevent.sleep(_SAMPLE_S)
