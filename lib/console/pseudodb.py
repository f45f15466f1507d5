"""A frontend of the pseudo database: commands in, rows out, by the simple or the extended protocol.

Green. No server has anything to do with it, so it answers when all of them are down. What a command does is up to the
function that is registered for it; here it is checked that the user may run it, one that changes something is run while
no other does, and its rows are sent in slices, so that a long listing lets everybody else go on.

source: protocol-flow.html#PROTOCOL-FLOW-SIMPLE-QUERY, protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gevent

from lib.console import encoding, house, listings, operations, pgbouncer, switching  # noqa: F401 (replies register themselves)
from lib.console.access import PSEUDO
from lib.console.commands import Privilege
from lib.console.courtesy import Courtesy, answer
from lib.console.extended import EXTENDED, Extended, Portal
from lib.console.parsing import Request, read, split
from lib.errors import (
    CommandFailed,
    CommandInvalid,
    InFailedTransaction,
    InTransactionBlock,
    PoolError,
    PrivilegeMissing,
    ProtocolViolation,
    ShuttingDown,
    StatementCancelled,
)
from lib.patience import Doing
from lib.turns import in_slices
from lib.wire import messages

if TYPE_CHECKING:
    from lib import net
    from lib.console.house import House

log = logging.getLogger(__name__)

if house.missing():
    raise ImportError(f"commands without a reply: {house.missing()}")

_FOR = {
    Privilege.OPERATE: "It is for superusers and pseudo_admin_users.",
    Privilege.WATCH: "It is for superusers, members of pg_monitor, pseudo_admin_users and pseudo_stats_users.",
}
_MAX_MESSAGE_BYTES = 1 << 20
_LOOK_S = 0.05  # how often it is seen whether what a command waits for has come true
_BATCH_BYTES = 16_384


class PseudoFrontend:
    """One client of the pseudo database.

    key         (pid, secret) that it was told
    parameters  what it was told of
    status      transaction status
    rights      tells what the user may do now, which may be less, or more, than at login
    silence     not used: nobody is disconnected from here for being idle
    """

    silence = None
    backend = None

    def __init__(
        self, stream: net.Stream, house: House, user: str, rights: Callable[[], frozenset[Privilege]],
        key: tuple[int, bytes], peer: str, parameters: Mapping[str, str],
    ) -> None:  # fmt: skip
        self.stream = stream
        self.house = house
        self.user = user
        self.key = key
        self.peer = peer
        self.parameters = parameters
        self.status = b"I"
        self.is_gone = self.is_busy = False
        self.rights = rights
        self._is_stopping = self._is_canceled = False
        self._extended = Extended(stream.write, self._courtesy, self._read, self._run)
        self._skips = False  # an error: nothing counts until Sync

    def __repr__(self) -> str:
        return f"<PseudoFrontend {self.key[0]} {self.peer} {self.user}{' gone' if self.is_gone else ''}>"

    def may(self, privilege: Privilege) -> bool:
        return privilege in self.rights()

    @property
    def greeting(self) -> bytes:
        parts = [messages.parameter_status(name, value) for name, value in self.parameters.items()]
        return b"".join((*parts, messages.backend_key_data(*self.key), messages.READY[b"I"]))

    # --- messages ----------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Read until the frontend is gone."""
        try:
            while not self.is_gone:
                raw = self.stream.recv_message(_MAX_MESSAGE_BYTES)
                if raw[:1] == b"X":
                    break
                self.is_busy, self._is_canceled = True, False
                self._take(raw[:1], raw[5:])
                self.is_busy = False
                if self._is_stopping:
                    self.stop()
        except EOFError:
            pass
        except ProtocolViolation as error:
            self.end(error)
        finally:
            self.is_gone = True
            self._extended.close_portals()
            with gevent.Timeout(1.0, False):
                self.stream.wait_drained()
            self.stream.close()

    def _take(self, tag: bytes, body: bytes) -> None:
        if tag == b"Q":
            self._skips = False
            self._query(body)
        elif tag == b"S":
            self._skips = False
            if self.status == b"I":
                self._extended.close_portals()
            self.stream.write(messages.READY[self.status])
        elif tag in EXTENDED:
            if not self._skips:
                self._guarded(lambda: self._extended.take(tag, body))
        elif tag == b"F":
            self._guarded(lambda: _refuse_call())
            self._skips = False
            self.stream.write(messages.READY[self.status])
        elif tag not in b"Hdcf":  # Flush: nothing is kept back. COPY data belongs to nothing and is ignored
            raise ProtocolViolation(f"invalid frontend message type {tag[0]}")

    def _guarded(self, action: Callable[[], None]) -> bool:
        """Tell the frontend of an error: whether there was none."""
        try:
            action()
            return True
        except PoolError as error:
            told = error
        except (struct.error, IndexError, UnicodeDecodeError):
            told = ProtocolViolation("invalid message format")
        except EOFError:
            raise
        except Exception:
            log.exception("%r: a command failed", self)
            told = CommandFailed("the command failed", hint="The log of the pool says why.")
        self.stream.write(messages.error_response(told, "ERROR"))
        self._skips = True
        if self.status == b"T":
            self.status = b"E"
        return False

    # --- simple protocol ---------------------------------------------------------------------------------------------

    def _query(self, body: bytes) -> None:
        self._extended.forget_unnamed()
        text = messages.decode(body.rstrip(b"\0"))

        def run() -> None:
            statements = split(text)
            if not statements:
                self.stream.write(messages.EMPTY_QUERY_RESPONSE)
            for statement, tokens in statements:
                command = self._read(statement, tokens, text)
                if command.columns:
                    self.stream.write(encoding.row_description(command.columns))
                portal = Portal(command, ())
                self._run(portal, 0)

        self._guarded(run)
        self._skips = False
        if not self.is_gone:
            self.stream.write(messages.READY[self.status])

    def _read(self, statement: str, tokens: Sequence[Any], source: str, given: Sequence[str | None] = ()) -> Any:
        """A Request that this user may run, or a Courtesy."""
        courtesy = self._courtesy(tokens)
        if self.status == b"E" and not (courtesy is not None and courtesy.ends):
            raise InFailedTransaction("current transaction is aborted, commands ignored until end of transaction block")
        if courtesy is not None:
            return courtesy
        request = read(statement, tokens, source, given)
        self._check(request)
        return request

    def _courtesy(self, tokens: Sequence[Any]) -> Courtesy | None:
        return answer(tokens, self.parameters, self.user, PSEUDO)

    def _check(self, request: Request) -> None:
        command = request.command
        if not self.may(command.privilege):
            raise PrivilegeMissing(
                f'permission denied for command "{command.words}"',
                hint=_FOR[command.privilege],
            )
        if self.status == b"T" and command.privilege is Privilege.OPERATE:
            raise InTransactionBlock(
                f'"{command.words}" cannot run inside a transaction block',
                hint="Nothing here can be rolled back: have your driver commit by itself (autocommit).",
            )

    # --- running -----------------------------------------------------------------------------------------------------

    def _run(self, portal: Portal, most: int) -> None:
        """Send the rows of a portal, at most so many (0: all), and what ends them."""
        command = portal.command
        if portal.rows is None:
            portal.rows = self._rows(command)
        write = encoding.encoders(command.columns, portal.formats)
        parts: list[bytes] = []
        size = sent = 0
        is_done = True
        for row in portal.rows:
            if command.columns:
                parts.append(encoding.data_row(row, write))
                size += len(parts[-1])
                sent += 1
            if size > _BATCH_BYTES:
                self._send(b"".join(parts))
                parts.clear()
                size = 0
            if sent == most > 0:
                is_done = False
                break
        portal.sent += sent
        parts.append(self._end_of(portal) if is_done else _SUSPENDED)
        self._send(b"".join(parts))

    def _send(self, data: bytes) -> None:
        if self.is_gone:
            raise EOFError
        self.stream.write(data)
        if self.stream.pending > self.house.settings.client_buffer:
            self.stream.wait_drained()

    def _end_of(self, portal: Portal) -> bytes:
        command = portal.command
        if isinstance(command, Courtesy):
            if command.begins:
                self.status = b"T"
            elif command.ends:
                tag = b"ROLLBACK" if self.status == b"E" else command.tag.encode()
                self.status = b"I"
                return messages.command_complete(tag)
            return messages.command_complete(command.tag.encode())
        if command.columns:
            return messages.command_complete(b"SELECT %d" % portal.sent)
        return messages.command_complete(command.command.command_tag)

    def _rows(self, command: Request | Courtesy) -> Iterator[tuple[Any, ...]]:
        if isinstance(command, Courtesy):
            return iter(command.rows)
        self._check(command)  # once more: it may have been bound long ago
        if command.command.privilege is Privilege.OPERATE:
            said = " ".join(house.shown(command.values[name]) for name in command.command.logged)
            log.info("%s, as %s: %s", self.peer, self.user, f"{command.command.words} {said}".rstrip())
        reply = house.REPLIES[command.command.words]
        if command.command.is_serial:
            self._acquire()
            try:
                return iter(list(reply(self.house, self, command) or ()))
            finally:
                self.house.serial.release()
        return self._sliced(reply(self.house, self, command) or (), command)

    def _acquire(self) -> None:
        while not self.house.serial.acquire(timeout=_LOOK_S):
            self.check_wanted()

    def _sliced(self, rows: Iterable[tuple[Any, ...]], request: Request) -> Iterator[tuple[Any, ...]]:
        """Rows that are wanted, in the order that is wanted; others have their turn between slices."""
        chosen = request.filter
        if chosen.is_sorted:
            rows = chosen.sort(row for row in in_slices(rows, self.check_wanted) if chosen.keeps(row))
        left = chosen.limit if chosen.limit is not None else -1
        if left == 0:
            return
        for row in in_slices(rows, self.check_wanted):
            if not chosen.is_sorted and not chosen.keeps(row):
                continue
            yield row
            left -= 1
            if left == 0:
                return

    def wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.check_wanted()
            gevent.sleep(_LOOK_S)

    def check_wanted(self) -> None:
        if self.is_gone or self.stream.has_ended():
            raise EOFError
        if self._is_stopping:
            raise StatementCancelled("canceling statement due to user request", detail="The pool is being stopped.")
        if self._is_canceled:
            raise StatementCancelled("canceling statement due to user request")

    # --- being told --------------------------------------------------------------------------------------------------

    def doing(self) -> tuple[Doing, object]:
        """What it does at this moment, as other frontends tell it."""
        return (Doing.RUNNING if self.is_busy else Doing.IDLE), None

    def cancel(self) -> None:
        """What it runs ends where it can be left."""
        self._is_canceled = self.is_busy

    def look(self, now: float) -> None:
        """Nobody is disconnected from here for being idle."""

    def stop(self) -> None:
        """The pool is being stopped: goodbye as soon as the command has answered."""
        self._is_stopping = True
        if not self.is_busy:
            self.end(ShuttingDown("terminating connection due to administrator command"))

    def end(self, error: PoolError) -> None:
        """Say why, and close."""
        if not self.is_gone:
            self.stream.write(messages.error_response(error, "FATAL"))
            self.is_gone = True
            self.stream.stop_reading()


_SUSPENDED = b"s\0\0\0\4"


def _refuse_call() -> None:
    raise CommandInvalid("functions cannot be called here", hint="Type cmd for a list of all commands.")
