"""What a client has typed, as commands with their arguments.

Pure. A text may hold several commands, ended by semicolons; comments and quotes are as in SQL. The table of commands
says what each takes; here its arguments are read, so that what answers a command is given values and no text. A `$1` of
the extended protocol stands where an argument may stand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lib.console import commands
from lib.console.commands import Argument, Column, Command, Kind
from lib.console.filtering import NO_FILTER, Filter, read_filter
from lib.errors import CommandInvalid, NoStatements, PoolError, ValueUnfit

SPACE = r"\s+|--[^\n\r]*|/\*.*?\*/"  # with re.DOTALL
_TOKEN = re.compile(
    rf"""(?P<space>{SPACE})
      |(?P<end>;)
      |(?P<string>'(?:[^']|'')*')
      |(?P<name>"(?:[^"]|"")*")
      |(?P<op><>|!=|<=|>=|=|<|>|,|\(|\))
      |(?P<word>[^\s;'"=<>!,()]+)
      |(?P<other>!)""",
    re.VERBOSE | re.DOTALL,
)
_PLACEHOLDER = re.compile(r"\$([1-9][0-9]{0,3})")
_PARAMETER = re.compile(r"\s*,?\s*([\w.]+)\s*=\s*(?:'((?:[^'\\]|\\.|'')*)'|((?:[^\s,'\\]|\\.)*))(?=[\s,]|$)", re.DOTALL)
_SQL = """
    abort alter analyze call checkpoint close cluster comment copy create deallocate declare delete do drop end execute
    explain fetch grant import insert listen load lock merge move notify prepare reassign refresh reindex release revoke
    savepoint security select table truncate unlisten update vacuum values with
"""
_STATEMENTS = frozenset(_SQL.split())
_FILTER_WORDS = frozenset(("where", "order", "limit"))


class Token(NamedTuple):
    """kind    word, string, name, op or other
    value     without its quotes
    start, end   where it is in the text
    """

    kind: str
    value: str
    start: int
    end: int


@dataclass(frozen=True)
class Request:
    """A command and what it was given.

    values   by the names of its arguments; None where an optional one was left out
    filter   of a listing
    text     as it was typed
    """

    command: Command
    values: dict[str, Any] = field(default_factory=dict)
    filter: Filter = NO_FILTER
    text: str = ""

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.command.columns


def split(text: str) -> list[tuple[str, list[Token]]]:
    """The statements of a text, each with its tokens.

    raises   CommandInvalid for a quote or a comment that does not end
    """
    found: list[tuple[str, list[Token]]] = []
    tokens: list[Token] = []
    position = begin = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or (match.lastgroup == "word" and match[0].startswith("/*")):
            raise CommandInvalid(f"unterminated quote or comment at or near {text[position : position + 20]!r}")
        position = match.end()
        kind = str(match.lastgroup)
        if kind == "end":
            if tokens:
                found.append((text[begin : match.start()].strip(), tokens))
            tokens, begin = [], position
        elif kind != "space":
            value = match[0]
            if kind in ("string", "name"):
                value = value[1:-1].replace(value[0] * 2, value[0])
            tokens.append(Token(kind, value, match.start(), match.end()))
    if tokens:
        found.append((text[begin:].strip(), tokens))
    return found


def find(text: str, tokens: Sequence[Token]) -> tuple[Command, list[Token]]:
    """The command that a statement names, and the tokens behind its name.

    raises   CommandInvalid, naming the nearest one, or what it takes; NoStatements for what is SQL
    """
    words: list[str] = []
    for token in tokens:
        if token.kind != "word":
            break
        words.append(token.value)
    found = commands.find(words)
    if found is not None:
        command, size = found
        rest = list(tokens[size:])
        # "pool lst" is no "pool" with an argument.
        if command.arguments or not rest or rest[0].value.lower() in _FILTER_WORDS:
            return command, rest
        if not commands.is_beginning(words[:size]):
            raise _wrong_usage(command)
    raise unknown(text, words)


def unknown(text: str, words: Sequence[str]) -> PoolError:
    """What is said of a statement that is no command."""
    if words and words[0].lower() in _STATEMENTS:
        return NoStatements(
            "the pseudo database runs commands of the pool, and no SQL", hint="Type cmd for a list of all commands."
        )
    shown = " ".join(text.split())
    near = commands.nearest(list(words))
    hint = f'Did you mean "{near}"? ' if near else ""
    return CommandInvalid(
        f'unknown command "{shown[:60]}{"..." if len(shown) > 60 else ""}"',
        hint=f"{hint}Type cmd for a list of all commands.",
    )


def read(text: str, tokens: Sequence[Token], source: str, given: Sequence[str | None] = ()) -> Request:
    """A statement as a request.

    text     of the statement
    tokens   of it, with their places in `source`
    given    what stands for $1, $2, ... (extended protocol)
    raises   CommandInvalid, NoStatements, ValueUnfit, UnknownColumn
    """
    command, behind = find(text, tokens)
    rest = _bare([_bound(token, given) for token in behind])
    values: dict[str, Any] = {}
    for argument in command.arguments:
        at_end = not rest or (command.is_listing and rest[0].kind == "word" and rest[0].value.lower() in _FILTER_WORDS)
        if at_end:
            if not argument.is_optional:
                raise _wrong_usage(command)
            values[argument.name] = None
        elif argument.is_optional and _is_choice(rest[0], command.arguments, behind=argument):
            values[argument.name] = None
        elif argument.kind is Kind.SQL:
            # With its comments, as /*s*/ is one.
            values[argument.name] = source[tokens[-len(behind) - 1].end : tokens[-1].end].strip()
            rest = []
        elif argument.kind in (Kind.PARAMETERS, Kind.SETTING):
            values[argument.name] = _read_rest(command, argument, rest, source)
            rest = []
        else:
            taken = _size(argument, rest)
            values[argument.name] = _read_value(argument, rest[:taken])
            rest = rest[taken:]
    if rest and not command.is_listing:
        raise _wrong_usage(command)
    return Request(command, values, read_filter(rest, command.columns), text)


def parameters_of(text: str) -> int:
    """How many parameters ($1, $2, ...) the commands in `text` have, if it is read by the extended protocol."""
    most = 0
    for statement, tokens in split(text):
        command, rest = find(statement, tokens)
        if not any(argument.kind is Kind.SQL for argument in command.arguments):
            numbers = [int(match[1]) for token in rest if (match := _is_placeholder(token))]
            most = max([most, *numbers])
    return most


def _is_placeholder(token: Token) -> re.Match[str] | None:
    return _PLACEHOLDER.fullmatch(token.value) if token.kind == "word" else None


def _bound(token: Token, given: Sequence[str | None]) -> Token:
    match = _is_placeholder(token) if given else None
    if match is None or int(match[1]) > len(given):
        return token
    value = given[int(match[1]) - 1]
    if value is None:
        raise ValueUnfit(f"${match[1]} is null", hint="Arguments of commands have a value.")
    return token._replace(kind="string", value=value)


def _bare(tokens: Sequence[Token]) -> list[Token]:
    """Without casts, and without brackets around single values: JDBC's simple mode writes ('7'::int4) for a 7."""
    plain = [token for token in tokens if not (token.kind == "word" and token.value.startswith("::"))]
    found: list[Token] = []
    position = 0
    while position < len(plain):
        some = plain[position : position + 3]
        is_list = bool(found) and found[-1].value.lower() == "in"
        is_wrapped = len(some) == 3 and (some[0].value, some[2].value) == ("(", ")") and some[1].kind != "op"
        found.append(some[1] if is_wrapped and not is_list else some[0])
        position += 3 if is_wrapped and not is_list else 1
    return found


def _wrong_usage(command: Command) -> PoolError:
    filters = " [where ...] [order by ...] [limit n]" if command.is_listing else ""
    return CommandInvalid(f'wrong arguments of "{command.words}"', hint=f"Wanted: {command.usage}{filters}")


# --- arguments -------------------------------------------------------------------------------------------------------


def _is_choice(token: Token, arguments: Sequence[Argument], behind: Argument) -> bool:
    """Whether it is one of the words of an argument that comes later."""
    later = arguments[arguments.index(behind) + 1 :]
    return token.kind == "word" and any(token.value.lower() in each.choices for each in later)


def _size(argument: Argument, rest: Sequence[Token]) -> int:
    """How many tokens it takes: a list goes on behind each comma."""
    size = 1
    while argument.kind is Kind.IDS and size + 1 < len(rest) and rest[size].value == ",":
        size += 2
    return size


def _read_value(argument: Argument, tokens: Sequence[Token]) -> Any:
    first = tokens[0]
    if first.kind == "op":
        raise CommandInvalid(f'syntax error at or near "{first.value}"', hint=f"Wanted: {argument.usage}")
    if argument.kind is Kind.IDS:
        words = "".join(token.value for token in tokens).split(",")
        return [_number(argument, word.strip()) for word in words]
    if argument.kind is Kind.ID:
        return _number(argument, first.value)
    if argument.kind is Kind.ADDRESS:
        return read_address(first.value)
    if argument.kind is Kind.CHOICE:
        if first.value.lower() not in argument.choices:
            raise CommandInvalid(f'syntax error at or near "{first.value}"', hint=f"Wanted: {argument.usage}")
        return first.value.lower()
    return first.value


def _number(argument: Argument, word: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", word):
        raise ValueUnfit(f'"{word}" is not a number', hint=f"Wanted: {argument.usage}")
    return int(word)


def read_address(word: str) -> tuple[str, int]:
    """(host, port) of "host:port"; IPv6 in brackets or not, and the directory of a Unix socket as host.

    raises   ValueUnfit
    """
    host, colon, port = word.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueUnfit(f'"{word}" is not an address', hint="Wanted: host:port")
    return host, int(port)


def _read_rest(command: Command, argument: Argument, rest: Sequence[Token], source: str) -> Any:
    text = source[rest[0].start : rest[-1].end]
    if len(rest) == 1 and rest[0].kind in ("string", "name"):
        text = rest[0].value
    elif len(rest) > 2 and rest[1].value.lower() == "to":
        text = f"{rest[0].value} = {source[rest[2].start : rest[-1].end]}"
    if argument.kind is Kind.PARAMETERS:
        return read_parameters(text)
    try:
        pairs = read_parameters(text)
    except CommandInvalid:
        raise _wrong_usage(command) from None
    if len(pairs) != 1:
        raise CommandInvalid("one setting at a time can be changed", hint=f"Wanted: {argument.usage}")
    return next(iter(pairs.items()))


def read_parameters(text: str) -> dict[str, str]:
    """`k=v` pairs with blanks or commas between them, values quoted as in a connection string.

    raises   CommandInvalid; it does not say what was given, as that may be a password
    """
    found: dict[str, str] = {}
    position = 0
    while text[position:].strip():
        match = _PARAMETER.match(text, position)
        if match is None:
            raise CommandInvalid(
                "not a list of parameters", hint="Wanted: k=v[,k=v...], values with blanks in single quotes"
            )
        name, quoted, plain = match.groups()
        value = plain if quoted is None else quoted.replace("''", "'")
        found[name] = re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
        position = match.end()
    return found
