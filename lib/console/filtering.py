"""What a listing is narrowed to: `where state = waiting and wait > 0.1 order by wait desc limit 10`.

Pure. A value is compared by the type of its column; what is null meets no condition but `is null`, and comes last.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from heapq import merge
from itertools import islice
from typing import Any, NamedTuple

from lib.console.commands import Column
from lib.errors import CommandInvalid, UnknownColumn, ValueUnfit

Row = tuple[Any, ...]
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "<>": lambda a, b: a != b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
_BEHIND_A_CONDITION = ("and", "or", "order", "limit")
_RUN = 500  # rows that are sorted in one go
_TRUE, _FALSE = ("t", "true", "yes", "on", "1"), ("f", "false", "no", "off", "0")


class Condition(NamedTuple):
    """`meets(value)` of the column at `place`."""

    place: int
    meets: Callable[[Any], bool]


@dataclass(frozen=True)
class Filter:
    """any_of   one of these lists of conditions must be met whole; none: every row is kept
    order    (index, descending), the most important first
    limit    None for all
    """

    any_of: tuple[tuple[Condition, ...], ...] = ()
    order: tuple[tuple[int, bool], ...] = ()
    limit: int | None = None

    @property
    def is_sorted(self) -> bool:
        """Whether all rows have to be there before the first one is known."""
        return bool(self.order)

    def keeps(self, row: Row) -> bool:
        if not self.any_of:
            return True
        return any(all(each.meets(row[each.place]) for each in conditions) for conditions in self.any_of)

    def sort(self, rows: Iterable[Row]) -> Iterator[Row]:
        """In the order that was asked for, and cut off where it was limited.

        Never all at once: some are sorted whenever so many have come, and what they come to is put together one by one,
        so that whoever makes the rows and whoever takes them can let others have their turn in between.
        """
        runs: list[list[Row]] = [[]]
        for row in rows:
            if len(runs[-1]) == _RUN:
                runs[-1].sort(key=self._key)
                runs.append([])
            runs[-1].append(row)
        runs[-1].sort(key=self._key)
        return islice(merge(*runs, key=self._key), self.limit)

    def _key(self, row: Row) -> tuple[tuple[bool, Any], ...]:
        return tuple((row[index] is None, _place(row[index], descending)) for index, descending in self.order)


def _place(value: Any, descending: bool) -> Any:
    if value is None:
        return 0
    if not descending:
        return value
    return _Descending(value) if isinstance(value, str) else -value


class _Descending(str):
    """A text that comes before those that it is greater than."""

    def __lt__(self, other: str) -> bool:
        return str.__gt__(self, other)


NO_FILTER = Filter()


class _Reader:
    """Tokens, one after the other."""

    def __init__(self, tokens: Sequence[Any], columns: Sequence[Column]) -> None:
        self._tokens = tokens
        self._columns = columns
        self._at = 0

    def peek(self) -> str:
        """The next word or operator in lower case, "" at the end and where a quoted one comes."""
        if self._at >= len(self._tokens) or self._tokens[self._at].kind in ("string", "name"):
            return ""
        return self._tokens[self._at].value.lower()

    @property
    def is_at_end(self) -> bool:
        return self._at >= len(self._tokens)

    def take(self, *words: str) -> bool:
        """Go past the next one if it is one of `words`."""
        if self.peek() in words:
            self._at += 1
            return True
        return False

    def want(self, *words: str) -> str:
        word = self.peek()
        if not self.take(*words):
            raise self.wrong()
        return word

    def value(self) -> str:
        if self.is_at_end or self._tokens[self._at].kind == "op":
            raise self.wrong()
        self._at += 1
        return self._tokens[self._at - 1].value

    def column(self) -> int:
        name = self.value()
        names = [each.name for each in self._columns]
        if name.lower() not in names:
            near = get_close_matches(name.lower(), names, 1)
            known = f'Did you mean "{near[0]}"?' if near else f"There are: {', '.join(names)}."
            raise UnknownColumn(f'column "{name}" does not exist', hint=known)
        return names.index(name.lower())

    def wrong(self) -> CommandInvalid:
        if self.is_at_end:
            return CommandInvalid("syntax error at end of input", hint=_HINT)
        return CommandInvalid(f'syntax error at or near "{self._tokens[self._at].value}"', hint=_HINT)


_HINT = "Wanted: [where column = value [and ...]] [order by column [desc]] [limit n]"


def read_filter(tokens: Sequence[Any], columns: Sequence[Column]) -> Filter:
    """What stands behind a listing's arguments.

    tokens   of `parsing`
    raises   CommandInvalid, UnknownColumn, ValueUnfit
    """
    if not tokens:
        return NO_FILTER
    reader = _Reader(tokens, columns)
    any_of: list[list[Condition]] = []
    order: list[tuple[int, bool]] = []
    limit = None
    if reader.take("where"):
        any_of.append([_condition(reader, columns)])
        while reader.peek() in ("and", "or"):
            if reader.take("or"):
                any_of.append([])
            else:
                reader.take("and")
            any_of[-1].append(_condition(reader, columns))
    if reader.take("order"):
        reader.want("by")
        order.append(_order(reader))
        while reader.take(","):
            order.append(_order(reader))
    if reader.take("limit"):
        word = reader.value()
        if not re.fullmatch(r"[0-9]{1,9}", word):
            raise ValueUnfit(f'"{word}" is not a number', hint="Wanted: limit n")
        limit = int(word)
    if not reader.is_at_end:
        raise reader.wrong()
    return Filter(tuple(map(tuple, any_of)), tuple(order), limit)


def _order(reader: _Reader) -> tuple[int, bool]:
    index = reader.column()
    is_descending = reader.take("desc")
    if not is_descending:
        reader.take("asc")
    return index, is_descending


def _condition(reader: _Reader, columns: Sequence[Column]) -> Condition:
    if reader.take("not"):
        denied = _condition(reader, columns)
        return Condition(denied.place, lambda value: value is not None and not denied.meets(value))
    index = reader.column()
    column = columns[index]
    if column.type.name == "bool" and (reader.is_at_end or reader.peek() in _BEHIND_A_CONDITION):
        return Condition(index, lambda value: value is True)
    if reader.take("is"):
        is_not = reader.take("not")
        reader.want("null")
        return Condition(index, lambda value: (value is None) != is_not)
    is_not = reader.take("not")
    if reader.take("in"):
        reader.want("(")
        wanted = [_typed(column, reader.value())]
        while reader.take(","):
            wanted.append(_typed(column, reader.value()))
        reader.want(")")
        return Condition(index, lambda value: value is not None and (value in wanted) != is_not)
    if is_not or reader.peek() in ("like", "ilike"):
        how = reader.want("like", "ilike")
        pattern = _like(reader.value(), how == "ilike")
        return Condition(index, lambda value: value is not None and bool(pattern.fullmatch(str(value))) != is_not)
    compare = _OPERATORS[reader.want(*_OPERATORS)]
    against = _typed(column, reader.value())
    return Condition(index, lambda value: value is not None and compare(value, against))


def _like(pattern: str, ignores_case: bool) -> re.Pattern[str]:
    parts = [{"%": ".*", "_": "."}.get(char) or re.escape(char) for char in pattern]
    return re.compile("".join(parts), re.DOTALL | (re.IGNORECASE if ignores_case else 0))


def _typed(column: Column, word: str) -> Any:
    """What was typed as a value of the column's type."""
    name = column.type.name
    try:
        if name in ("int8", "float8"):
            return float(word) if name == "float8" or "." in word else int(word)
        if name == "timestamptz":
            moment = datetime.fromisoformat(word)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except ValueError:
        raise ValueUnfit(f'"{word}" is no value of column "{column.name}", which is {name}') from None
    if name == "bool":
        if word.lower() not in _TRUE + _FALSE:
            raise ValueUnfit(f'"{word}" is no value of column "{column.name}", which is {name}')
        return word.lower() in _TRUE
    return word
