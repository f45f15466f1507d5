"""A connection that knows which ends an answer may have, and fails on all others."""

from __future__ import annotations

from collections import Counter

from tests.cluster.wire import Message, Wire

UNKNOWN, LOST, CANCELED, CLOSED = "08007", "08006", "57014", "57P01"


class Told(Exception):
    """The backend was lost, and the frontend was told so in one of the ways in which it may be."""


class Unknown(Told):
    """It is not known whether the statement took effect; the session goes on."""


class Lost(Told):
    """The transaction is lost; the session goes on."""


class Over(Told):
    """The session is lost with the backend that held its state."""


class Wrong(AssertionError):
    """An answer that cannot be."""


class Session(Wire):
    """A session through the pool.

    counts         of statements and of what they were told
    holds          has, or may have, session state: then the pool may close it when its backend is lost
    may_cancel     a CancelRequest was sent for what is in flight
    """

    def __init__(self, where: object, counts: Counter[str], *, holds: bool, **parameters: str) -> None:
        self.counts = counts
        self.holds = holds
        self.may_cancel = False
        super().__init__(where, timeout_s=None, **parameters)  # whoever runs us sees when nothing goes on any more

    def until_ready(self) -> list[Message]:
        found = super().until_ready()
        self.counts["statements"] += 1
        self.judge(found)
        return found

    def judge(self, found: list[Message]) -> None:
        """Raise what an answer comes to, where it is not one of the statement's own."""
        if not found or found[-1].tag not in "ZG":
            self._ended(found)
        for each in found:
            if each.tag == "E":
                self._failed(each.fields, found)

    def _failed(self, fields: dict[str, str], found: list[Message]) -> None:
        code = fields.get("C")
        if code in (UNKNOWN, LOST):
            is_honest = fields["S"] == fields["V"] == "ERROR" and fields.get("H")
            if not is_honest or found[-2].tag != "E":
                raise Wrong(f"not told as it should be: {found[-3:]}")
            self.counts[f"answers of {code}"] += 1
            # What may have committed may be unknown in a transaction, too, which has to be ended all the same.
            raise Unknown(found) if code == UNKNOWN and found[-1].body != b"E" else Lost(found)
        if code == CANCELED:
            self.counts["statements canceled"] += 1
            if not self.may_cancel:
                raise Wrong(f"canceled by somebody else: {fields}")

    def _ended(self, found: list[Message]) -> None:
        fields = found[-1].fields if found and found[-1].tag == "E" else {}
        if not self.holds or (fields and (fields["V"], fields["C"]) != ("FATAL", CLOSED)):
            raise Wrong(f"closed, though it holds nothing: {fields or found}")
        self.counts["sessions lost with their state"] += 1
        raise Over

    def send(self, *parts: bytes) -> None:
        try:
            super().send(*parts)
        except ConnectionError:
            self._ended([])
