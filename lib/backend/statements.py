"""The prepared statements that a backend has, and what must be sent before a unit that uses others.

Pure. The one that was used last is last; when there are too many the first goes. What backends are told is only ever
sent together with the unit that it is for, and what came about is known when that was answered.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING

from lib.wire.messages import SYNC
from lib.wire.prepared import PREFIX, Prepared, Statement

if TYPE_CHECKING:
    from lib.config import Settings

_CLOSE = ord("C")
Lead = list[tuple[bytes, Statement | None]]


class Statements:
    """What one backend has.

    settings   of the pool: how many it may have
    """

    __slots__ = ("_closes", "_has_loose", "_own", "_settings", "_there")

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._there: dict[Statement, bytes] = {}  # with what it has told of it; b"" when it was not asked
        self._closes: list[bytes] = []  # messages that close what it may have or not: for the next lead
        # Of those of which nobody knows what was set when their frontends parsed them, and so what they must be parsed
        # with: whether some may be there, and which of them the holder has parsed here itself.
        self._has_loose = False
        self._own: set[Statement] = set()

    def __repr__(self) -> str:
        return f"<Statements {len(self._there)} of {self._settings.max_prepared_statements}>"

    def __len__(self) -> int:
        return len(self._there)

    def __contains__(self, statement: Statement) -> bool:
        return statement in self._there

    def has(self, prepared: Prepared, is_strict: bool) -> bool:
        """Whether the backend has it and has told of it what its frontend was told; where not, more has
        to be looked at: see `doubtful`."""
        told = self._there.get(prepared.statement)
        return told == prepared.told and (not is_strict or not prepared.row or bool(told))

    def take_others(self, uses: Iterable[Prepared]) -> list[bytes]:
        """Messages that close all but these."""
        others = self._there.keys() - {prepared.statement for prepared in uses}
        for statement in others:
            del self._there[statement]
        return [*self._take_closes(), *(statement.close for statement in others)]

    def settings_changed(self, is_over: bool = False) -> None:
        """What matters to Parse may have changed: what was parsed on the way with what nobody knows is parsed anew.

        (The server would go by what was set at its Parse, and not take it for what it is with what is set now.)

        is_over   the holder leaves, too, and what it has parsed so itself is no more what the next would parse
        """
        if is_over:
            self._own.clear()
        if self._has_loose:
            loose = [each for each in self._there if each.settings is None and each not in self._own]
            self._closes += [statement.close for statement in map(self._without, loose)]
            self._has_loose = bool(self._own)

    def _without(self, statement: Statement) -> Statement:
        del self._there[statement]
        return statement

    def clear(self) -> None:
        """The backend has none any more."""
        self._there.clear()
        self._closes.clear()
        self._own.clear()

    def forget(self) -> None:
        """Nobody knows which of them the backend still has."""
        self._closes += [statement.close for statement in self._there]
        self._there.clear()

    def doubt(self, lead: Sequence[tuple[bytes, Statement | None]]) -> None:
        """Nobody will see how these messages are answered."""
        for _, statement in lead:
            if statement is not None and self._there.pop(statement, None) is not None:
                self._closes.append(statement.close)

    def _take_closes(self) -> list[bytes]:
        closes, self._closes = self._closes, []
        return closes

    def doubtful(self, uses: Iterable[Prepared], settings: Hashable, is_strict: bool) -> Prepared | None:
        """The first that cannot be parsed in front of the unit, or is not known to be what the frontend was told.

        Those come last of which nobody knows what they were parsed with: they are asked after with what is set for the
        unit, and would have to be again when something else had been set for others meanwhile.

        settings    that the backend has now, as far as they matter to Parse
        is_strict   the frontend does not ask what the columns are
        """
        loose = None
        for prepared in uses:
            told, parsed_with = self._there.get(prepared.statement), prepared.statement.settings
            if parsed_with is None:
                if loose is None and prepared.differs(told or b"", is_strict):
                    loose = prepared
            elif (told is None and parsed_with != settings) or prepared.differs(told or b"", is_strict):
                return prepared
        return loose

    def differs(self, prepared: Prepared) -> bool:
        """Whether it is not known to be here what the frontend was told."""
        return prepared.differs(self._there.get(prepared.statement, b""), False)

    def parses_for(self, prepared: Prepared) -> bool:
        """Whether it is parsed to see what the backend takes it for: not when that has it, and only was not asked."""
        return self._there.get(prepared.statement) != b""

    def question(self, prepared: Prepared) -> bytes:
        """Messages that have the backend say what it takes the statement for."""
        statement = prepared.statement
        if not self.parses_for(prepared):
            return statement.describe + SYNC
        self._there.pop(statement, None)
        # A Close that it was to be given later would take away what is parsed now.
        self._closes = [each for each in self._closes if each != statement.close]
        return statement.close + statement.parse + statement.describe + SYNC

    def answered(self, prepared: Prepared, told: bytes) -> None:
        """The backend has the statement, and has told this of it."""
        self._there[prepared.statement] = told
        self._has_loose = self._has_loose or prepared.statement.settings is None

    def touch(self, statement: Statement) -> bool:
        """Whether the backend has it: then it is the one used last."""
        there = self._there
        told = there.pop(statement, None)
        if told is None:
            return False
        there[statement] = told
        return True

    def lead(self, uses: Iterable[Prepared], makes: Iterable[Prepared]) -> Lead:
        """What goes in front of a unit: messages, one answer each, each with the statement that it parses, if any."""
        there = self._there
        parses: Lead = []
        closes: Lead = [(close, None) for close in self._take_closes()] if self._closes else []
        for prepared in makes:
            # It is parsed anew, so that the frontend is told what is wrong with it now.
            if there.pop(prepared.statement, None) is not None:
                closes.append((prepared.statement.close, None))
        used = [prepared.statement for prepared in uses]
        for statement in used:
            if not self.touch(statement):
                parses.append((statement.parse, statement))
                there[statement] = b""
                self._own.discard(statement)
                self._has_loose = self._has_loose or statement.settings is None
        most = self._settings.max_prepared_statements
        while len(there) > most and (oldest := next(iter(there))) not in used:
            del there[oldest]
            closes.append((oldest.close, None))
        return closes + parses

    def failed(self, lead: Sequence[tuple[bytes, Statement | None]], unanswered: int) -> bool:
        """The unit has failed when so many of the messages in front of it were not answered: True when the backend has
        not got all that it was given."""
        missing = False
        for raw, statement in lead[len(lead) - unanswered :]:
            if statement is not None:
                self._there.pop(statement, None)
                missing = True
            elif raw.startswith(PREFIX, 6) and raw[0] == _CLOSE:
                self._closes.append(raw)  # what it has still
        return missing

    def made(self, prepared: Prepared) -> None:
        """A unit has parsed it."""
        self._there[prepared.statement] = prepared.told
        prepared.statement.is_good = True
        if prepared.statement.settings is None:
            self._has_loose = True
            self._own.add(prepared.statement)
