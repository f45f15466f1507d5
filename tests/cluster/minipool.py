"""As little of a pool as a login needs: a listener that admits frontends by lib.login and then answers every query."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import gevent
from gevent.server import StreamServer

from lib import connecting, ends, net
from lib.admin import Admin
from lib.auth.credential import Secrets
from lib.auth.hba import Peer
from lib.directory import Directory
from lib.errors import PoolError, ServerRefused, ServerUnreachable
from lib.login import Admission, Answer, admit
from lib.wire import messages

STATUSES = {
    "server_version": "16.0", "client_encoding": "UTF8", "DateStyle": "ISO, MDY", "integer_datetimes": "on",
    "standard_conforming_strings": "on", "TimeZone": "UTC", "server_encoding": "UTF8",
}  # fmt: skip


class MiniPool:
    """Frontends come in at `port`; `admissions` and `errors` tell what became of them.

    peer          instead of the frontend's real address
    wants_worker  what needs_worker() says; workers are counted and closed
    """

    def __init__(self, server: Any, admin_login: dict[str, str], *, by_unix: bool = False, **options: Any) -> None:
        self.address = (server.unix_dir, server.port) if by_unix else (server.host, server.port)
        self.admin = Admin(admin_login, idle_timeout_s=30)
        self.directory = Directory(self.admin, lambda: self.address, access_ttl_s=options.pop("access_ttl_s", 0.0))
        self.secrets = Secrets(options.pop("conn_params", ()))
        self.peer: Peer | None = options.pop("peer", None)
        self.wants_worker = options.pop("wants_worker", False)
        self.before_start: Callable[[], None] = options.pop("before_start", lambda: None)
        self.options = options
        self.admissions: list[Admission] = []
        self.errors: list[Exception] = []
        self.started = 0
        self._listener = StreamServer(("127.0.0.1", 0), self._serve)
        self._listener.start()
        self.port = self._listener.server_port

    def __enter__(self) -> MiniPool:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.stop(timeout=0.1)
        self.admin.close()

    def _serve(self, sock: Any, _address: Any) -> None:
        stream = net.Stream(socket.socket(fileno=sock.detach()))
        try:
            self._talk(stream)
        except EOFError:
            pass
        finally:
            stream.wait_drained()
            stream.close()

    def _talk(self, stream: net.Stream) -> None:
        while True:
            length = int.from_bytes(stream.recv_exactly(4), "big")
            request = messages.read_startup(stream.recv_exactly(length - 4))
            if isinstance(request, messages.Startup):
                break
            stream.write(b"N")
        host, _, uid = ends.peer_address(stream)
        try:
            admission = admit(
                stream, request, self.peer or Peer.at(host, uid), self.directory, lambda: self.wants_worker,
                lambda answer: self.start_worker(request, answer), secrets=self.secrets, **self.options,
            )  # fmt: skip
        except PoolError as error:
            self.errors.append(error)
            stream.write(error.raw if isinstance(error, ServerRefused) else messages.error_response(error))
            return
        self.admissions.append(admission)
        stream.write(messages.AUTHENTICATION_OK)
        for name, value in STATUSES.items():
            stream.write(messages.parameter_status(name, value))
        stream.write(messages.READY[b"I"])
        while stream.recv_message()[:1] != b"X":
            stream.write(messages.command_complete(b"SELECT 0") + messages.READY[b"I"])

    def start_worker(self, request: messages.Startup, answer: Answer) -> str:
        """Log in to the server as the frontend's user, close the connection again, and say so."""
        self.before_start()
        stream = connecting.connect(self.address, 5.0)
        try:
            stream.write(messages.startup_packet({"user": request.user, "database": request.database}))
            while True:
                raw = stream.recv_message()
                if raw[:1] == b"R":
                    reply = answer(raw)
                    if reply is not None:
                        stream.write(reply)
                elif raw[:1] == b"E":
                    raise ServerRefused(messages.error_fields(raw), raw)
                elif raw[:1] == b"Z":
                    stream.write(messages.TERMINATE)
                    self.started += 1
                    return f"worker {self.started}"
        except EOFError:
            raise ServerUnreachable("the server closed the connection") from None
        finally:
            stream.wait_drained()
            stream.close()


def in_thread(function: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """Run something that blocks (a driver) while the loop goes on; its exception is returned, not raised."""

    def call() -> Any:
        try:
            return function(*args, **named)
        except Exception as error:
            return error

    return gevent.get_hub().threadpool.apply(call)
