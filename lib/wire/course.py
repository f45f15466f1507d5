"""What passes between a frontend and the one backend that it has for its whole session, in both directions.

Pure. The bytes go on as they are: nothing is gathered, and rows are not looked at. What is followed is what has to be
known when the session is given back, or ended by the pool: where messages begin, what the backend still owes, and
which transaction status it said last. Only a Terminate is kept back, for the backend outlives its frontend.

source: protocol-flow.html, protocol-message-formats.html
"""

from __future__ import annotations

from collections.abc import Callable

from lib.errors import ProtocolViolation
from lib.wire.framing import copy_data_run, frontend_header, header
from lib.wire.messages import read_parameter_status
from lib.wire.session import Script

_QUERY, _PARSE, _TERMINATE, _COPY_DATA = b"QPXd"
_OWES = frozenset(b"PBDECQFS")  # what makes the backend do something
_DATA_ROW, _READY, _PARAMETER = b"DZS"
_WHOLE = frozenset(b"ZS")  # what means something and is short: not passed on before all of it is there

Look = Callable[[int, bytes | None], None]


class Course:
    """One session's bytes.

    status         the transaction status that the backend said last
    is_ready       all that was sent was answered with ReadyForQuery
    answers        how many ReadyForQuery the backend has said
    has_ended      the frontend has said goodbye
    is_broken      it has sent what no server takes: that is passed on, too, and the server says what is to be said
    """

    __slots__ = (
        "_held", "_receiving", "_rest", "_sending", "answers", "has_ended", "is_broken", "is_ready", "script", "status",
    )  # fmt: skip

    def __init__(self) -> None:
        self.script = Script()
        self.status = b"I"
        self.is_ready = True
        self.answers = 0
        self.has_ended = self.is_broken = False
        self._rest = b""  # the beginning of a header from the frontend
        self._held = b""  # the beginning of a header, or of a short message, from the backend
        self._sending = self._receiving = 0  # bytes still to come of a message that was passed on in part

    def __repr__(self) -> str:
        flags = "".join(f" {name}" for name in ("is_ready", "has_ended", "is_broken") if getattr(self, name))
        return f"<Course status={self.status.decode()}{flags} {self.script!r}>"

    @property
    def is_idle(self) -> bool:
        """Whether the session is between two units, on both sides."""
        return self.is_ready and not (self._sending or self._rest or self.is_broken)

    @property
    def is_cut(self) -> bool:
        """Whether the backend waits for more of what the frontend has begun: a message, or a COPY."""
        return bool(self._sending or self._rest) or self.script.copying

    @property
    def is_mid_message(self) -> bool:
        """Whether the frontend has part of a message of the backend."""
        return self._receiving > 0

    def sent(self, data: bytes, look: Look) -> bytes:
        """Bytes from the frontend.

        look      called for every Query and Parse with its type and its body, None when that is not all there
        returns   what goes to the backend now
        """
        if self.is_broken:
            return data
        if self._rest:
            data, self._rest = self._rest + data, b""
        position, stop = 0, len(data)
        if self._sending:
            position = min(self._sending, stop)
            self._sending -= position
        script = self.script
        while position < stop:
            if stop - position < 5:
                self._rest = data[position:]
                return data[:position]
            try:
                tag, end = frontend_header(data, position)
            except ProtocolViolation:
                self.is_broken = True
                self.is_ready = False
                return data
            if tag == _TERMINATE:
                self.has_ended = True
                return data[:position]
            if tag == _COPY_DATA:
                run = copy_data_run(data, position)
                if run > position:
                    position = run
                    continue
            elif tag in _OWES:
                self.is_ready = False
                if tag in (_QUERY, _PARSE):
                    look(tag, data[position + 5 : end] if end <= stop else None)
            script.sent(tag)
            position = min(end, stop)
            self._sending = end - position
        return data

    def received(self, data: bytes, parameters: dict[str, str]) -> bytes:
        """Bytes from the backend.

        parameters   ParameterStatus values are put here
        returns      what goes to the frontend now
        raises       ProtocolViolation when a length word is below 4
        """
        if self._held:
            data, self._held = self._held + data, b""
        position, stop = 0, len(data)
        if self._receiving:
            position = min(self._receiving, stop)
            self._receiving -= position
        last_header = stop - 5
        received = self.script.received
        while position <= last_header:
            tag, length = header(data, position)
            if length < 4:
                raise ProtocolViolation("invalid message length from the server")
            end = position + 1 + length
            if end > stop:
                if tag in _WHOLE:
                    break
                self._receiving = end - stop
            elif tag == _PARAMETER:
                name, value = read_parameter_status(data[position:end])
                parameters[name] = value
            if tag != _DATA_ROW:
                received(tag)
                if tag == _READY:
                    self.status = data[end - 1 : end]
                    self.answers += 1
                    self.is_ready = self.script.is_done
            position = end
        if position < stop:
            self._held = data[position:]
            return data[:position]
        return data
