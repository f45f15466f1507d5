"""A wire tap between a client and a server: it passes all on, and remembers what the client has said."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import NamedTuple, Self

STARTUP_VERSIONS = range(3 << 16, 4 << 16)
CANCEL = 1234 << 16 | 5678


class Said(NamedTuple):
    """What one connection has said: the parameters of its startup packet, and the text of each Query and Parse.

    texts   pairs of a kind, "Query", "Parse" (of the unnamed statement) or "Parse with a name", and the SQL
    """

    parameters: dict[str, str]
    texts: list[tuple[str, str]]


class Tap:
    """Listens on a port of 127.0.0.1 for connections that are passed on to (host, port) of a server."""

    host = "127.0.0.1"

    def __init__(self, host: str, port: int) -> None:
        self.server = (host, port)
        self.connections: list[Said] = []
        self._listener = socket.create_server((self.host, 0))
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.create_connection(self.server)
                threading.Thread(target=self._listen, args=(client, server), daemon=True).start()
                threading.Thread(target=_pass_on, args=(server, client), daemon=True).start()

    def _listen(self, client: socket.socket, server: socket.socket) -> None:
        said = Said({}, [])
        with contextlib.suppress(OSError, EOFError), client, server:
            while not said.parameters:
                head = _read(client, 8)
                size, version = struct.unpack("!II", head)
                body = _read(client, size - 8)
                server.sendall(head + body)
                if version in STARTUP_VERSIONS:
                    words = body.split(b"\0")
                    said.parameters.update(
                        (name.decode(), value.decode())
                        for name, value in zip(words[::2], words[1::2], strict=False)
                        if name
                    )
                    self.connections.append(said)
                elif version == CANCEL:
                    return
            while True:
                head = _read(client, 5)
                body = _read(client, struct.unpack("!I", head[1:])[0] - 4)
                if head[:1] == b"Q":
                    said.texts.append(("Query", body[:-1].decode()))
                elif head[:1] == b"P":
                    name, text, _ = body.split(b"\0", 2)
                    said.texts.append(("Parse with a name" if name else "Parse", text.decode()))
                server.sendall(head + body)


def _read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
