"""What a backend still owes for the messages that were sent to it.

Pure. ReadyForQuery cannot be counted by Syncs: COPY eats them, an error skips to one, and a Query inside an unsynced
unit answers with a ReadyForQuery of its own unless an error skips it. A `Script` follows a unit that is streamed, one
message at a time, on both sides. (A unit that was gathered whole owes exactly one ReadyForQuery, and needs no script
unless it turns out to be a COPY.)

source: protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY, protocol-flow.html#PROTOCOL-COPY
"""

from __future__ import annotations

from collections import deque

from lib.errors import ResultChanged
from lib.wire.described import description
from lib.wire.prepared import Prepared

# Backend message -> the frontend message that it ends, where that is what is owed next.
_ENDS = {
    ord("1"): frozenset(b"P"),
    ord("2"): frozenset(b"B"),
    ord("3"): frozenset(b"C"),
    ord("n"): frozenset(b"D"),
    ord("T"): frozenset(b"D"),
    ord("C"): frozenset(b"E"),
    ord("I"): frozenset(b"E"),
    ord("s"): frozenset(b"E"),
    ord("Z"): frozenset(b"QFS"),
}
_NOTHING: frozenset[int] = frozenset()
_HIDDEN = 0x100  # added to the tag of a message of the pool's own
_PARAMETERS = ord("t")
_HIDING = {ord(answer): ord(tag) + _HIDDEN for answer, tag in ("1P", "3C", "tD", "TD", "nD")}
_ANSWERED = frozenset(b"PBCDEQFS")  # Flush and the COPY messages owe nothing
_COPY_BEGINS = frozenset(b"GW")  # CopyInResponse, CopyBothResponse
_COPY_ENDS = frozenset(b"cf")  # CopyDone, CopyFail
_ERROR, _READY = b"EZ"
_QUERIES = frozenset(b"QF")
_SYNC = ord("S")
_EXTENDED = frozenset(b"PBDEC")


class Script:
    """The answers that one unit still has to get.

    owed      deque of frontend tags, oldest first
    copying   the backend waits for CopyData: what is sent now is eaten, Sync and Flush too
    skipping  an error came: the backend reads on to the next Sync
    refused   an error came, and no ReadyForQuery behind it
    checks    statements whose descriptions were asked for by such messages, and what they are must not differ
    hidden    answers to messages of the pool's own that have not come, and after an error never will
    """

    __slots__ = ("_parameters", "checks", "copying", "hidden", "owed", "refused", "skipping")

    def __init__(self, sent: bytes = b"") -> None:
        self.owed: deque[int] = deque(sent)
        self.copying = False
        self.skipping = self.refused = False
        self.hidden = 0
        self.checks: list[Prepared] = []
        self._parameters = b""

    def __repr__(self) -> str:
        flags = "".join(f" {name}" for name in ("copying", "skipping") if getattr(self, name))
        return f"<Script owed={''.join(map(chr, self.owed))!r}{flags}>"

    @property
    def is_done(self) -> bool:
        return not self.owed and not self.skipping

    @property
    def queries(self) -> int:
        """How many ReadyForQuery are owed that are not a Sync's."""
        return sum(tag in _QUERIES for tag in self.owed)

    def sent_hidden(self, tag: int) -> None:
        """A Parse, Close or Describe of the pool's own goes to the backend."""
        self.hidden += 1
        if not self.skipping:
            self.owed.append(tag + _HIDDEN)

    def sent(self, tag: int) -> None:
        """A frontend message goes to the backend."""
        if self.copying:
            # Until CopyDone or CopyFail the backend eats all that comes.
            self.copying = tag not in _COPY_ENDS
        elif self.skipping:
            if tag == _SYNC:
                self.skipping = False
                self.owed.append(tag)
        elif tag in _ANSWERED or (tag in _COPY_ENDS and self.owed):
            # CopyDone owes nothing, but marks how far a COPY that is still to begin will eat.
            self.owed.append(tag)

    def is_hidden(self, tag: int, raw: bytes) -> bool:
        """Whether the next message is the answer to one of the pool's own; then that is answered.

        raises   ResultChanged when a statement is not what its frontend was told
        """
        owed = self.owed
        if not owed or owed[0] != _HIDING.get(tag):
            return False
        if tag == _PARAMETERS:
            self._parameters = raw
            return True
        owed.popleft()
        self.hidden -= 1
        if self._parameters:
            prepared = self.checks.pop(0)
            told, self._parameters = description(self._parameters, raw), b""
            if told != prepared.told:
                raise ResultChanged("cached plan must not change result type")
        return True

    def received(self, tag: int) -> None:
        """A backend message arrives, which is not hidden."""
        owed = self.owed
        if tag == _READY:
            self.refused = False
        if tag == _ERROR:
            self.copying, self.refused = False, True
            if owed and (owed[0] in _EXTENDED or owed[0] >= _HIDDEN):
                # It reads on to the next Sync, and what was sent before that is never answered.
                while owed and owed[0] != _SYNC:
                    owed.popleft()
                self.skipping = not owed
        elif tag in _COPY_BEGINS:
            # What was sent behind the Execute is in front of the CopyDone, and eaten with the CopyData.
            head = owed.popleft() if owed else None
            while owed and owed[0] not in _COPY_ENDS:
                owed.popleft()
            self.copying = not owed
            if owed:
                owed.popleft()
            if head is not None:
                owed.appendleft(head)
        elif owed and owed[0] in _ENDS.get(tag, _NOTHING):
            owed.popleft()
            while owed and owed[0] in _COPY_ENDS:  # CopyDone without COPY: the backend ignored it
                owed.popleft()
