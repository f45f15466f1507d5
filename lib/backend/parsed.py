"""The prepared statements of one backend, and what goes in front of the units that use them.

Green by what it writes to; it never parks. Units name statements as any backend may have them (`lib.preparing`); what
this one does not have yet is parsed on the way, and answered unseen. `Worker` is the only one that is Parsed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lib.backend.relay import Relay
from lib.backend.statements import Statements
from lib.backend.unit import Unit
from lib.route.verdict import Kind
from lib.wire.messages import message

if TYPE_CHECKING:
    from lib.backend import dialogue
    from lib.backend.roster import Roster
    from lib.wire.prepared import Prepared

_PARSE = ord("P")


class Parsed(Relay):
    """What a worker knows of its backend's prepared statements.

    statements   under names that are the same for everybody
    lent         names of a frontend's own under which some were made to exist here, for its SQL
    """

    __slots__ = ("lent", "statements")

    def __init__(self, roster: Roster, backend: dialogue.Backend) -> None:
        super().__init__(roster, backend)
        self.lent: set[bytes] = set()
        self.statements = Statements(roster.pool.settings)

    @abstractmethod
    def move_riders(self, with_head: bool = False) -> None:
        """Have all behind the head run elsewhere, or all."""

    def takes(self, unit: Unit) -> bool:
        """Whether what `unit` uses is here as its frontend was told it is, or can be parsed on the way.

        (For a frontend that holds the worker it is parsed with what is set now, whatever that is.)
        """
        uses = unit.uses
        return (
            not uses
            or (len(uses) == 1 and self.statements.has(uses[0], unit.is_strict))
            or self.statements.doubtful(uses, unit.group.parse_settings, unit.is_strict) is None
        )

    def led(self, unit: Unit) -> bytes:
        """The bytes of `unit` with what must go in front of it here."""
        uses, first = unit.uses, unit.first
        if unit.verdict.kind >= Kind.SESSION:
            # It could see what others have prepared, and they are closed first.
            first = [*self.statements.take_others(uses), *first]
        if self.lent:
            first = [*self.take_lent(), *first]
        if len(uses) == 1 and not first and not unit.makes and self.statements.touch(uses[0].statement):
            return unit.data
        lead = unit.lead = [*((each, None) for each in first), *self.statements.lead(uses, unit.makes)]
        if unit.script is None:
            unit.swallow = len(lead)
        else:
            for each, _ in lead:
                unit.script.sent_hidden(each[0])
        return b"".join([*(each for each, _ in lead), unit.data])

    def lead_in_stream(
        self, unit: Unit, uses: Sequence[Prepared], makes: Sequence[Prepared], first: Sequence[bytes]
    ) -> bytes:
        """What must go in front of the next message of a unit that is streamed to this worker."""
        script = unit.script
        assert script is not None
        doubtful = [each for each in uses if each.told and self.statements.differs(each)]
        lead = [*((each, None) for each in first), *self.statements.lead(uses, makes)]
        lead += [(prepared.statement.describe, None) for prepared in doubtful]
        for each, _ in lead:
            script.sent_hidden(each[0])
        script.checks += doubtful
        unit.lead = [*unit.lead, *lead]
        return b"".join([each for each, _ in lead])

    def note_statements(self, unit: Unit) -> bool:
        """What came about of the statements that `unit` was given here, and of those that it has parsed.

        returns  True when the backend has others now that are not to stay: they were made to exist there so that the
                 server says what it would say of the frontend's own
        """
        if unit.failed:
            unanswered = unit.swallow if unit.script is None else unit.script.hidden
            if self.statements.failed(unit.lead, unanswered) and self.in_flight:
                self.move_riders(with_head=True)  # they may count on what is not there
        done = unit.watch.done if unit.watch is not None else 0
        for effect in unit.effects[: done if unit.failed else None]:
            if effect is not None and effect[1] is not None:
                self.statements.made(effect[1])
        lent = set()
        for each in unit.first:
            if each[0] == _PARSE:
                lent.add(each[5 : each.index(b"\0", 5)])
            else:
                lent.discard(each[6:-1])
        self.lent |= lent
        return bool(lent)

    def take_lent(self) -> list[bytes]:
        """Messages that close what was lent."""
        lent, self.lent = self.lent, set()
        return [message(b"C", b"S" + name + b"\0") for name in lent]
