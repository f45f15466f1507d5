"""What each statement of SQL does to its session, by its first words.

Pure, a table: HEADS maps the first word to a Row, or to a function that looks further and answers with one. Names that
are called and relations that are named are not looked at here (classify.py does); a word that is not in the table is a
statement that nobody knows, and opaque.

source: sql-commands.html
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from lib.route.lex import IDENT, PUNCT, QIDENT, Token
from lib.route.verdict import Kind


class Row(NamedTuple):
    """What a statement is; the fields are those of Verdict. `looks`: names in it matter, as it runs what they name."""

    kind: Kind
    reason: str
    clean: bool = False
    holds: bool = False
    ddl: bool = False
    transaction: bool = False
    ends: bool = False
    spoils: bool = False
    resets: frozenset[str] = frozenset()
    looks: bool = True


Look = Callable[[Sequence[Token], int], Row]

READ = Row(Kind.SHAREABLE, "only reads")
WRITES = Row(Kind.WRITE, "writes")
LOCKS_ROWS = Row(Kind.WRITE, "locks the rows that it reads")
SHOWS = Row(Kind.SHAREABLE, "shows a setting", looks=False)
EMPTY = Row(Kind.SHAREABLE, "is empty")
# What DDL and maintenance run is not seen in their text, and they are rare: the worker is always cleaned.
DEFINES = Row(Kind.WRITE, "changes the catalog", clean=True, ddl=True, looks=False)
MAINTAINS = Row(Kind.WRITE, "is maintenance", clean=True, looks=False)
BEGINS = Row(Kind.TRANSACTION, "begins a transaction", transaction=True, looks=False)
IN_TRANSACTION = Row(Kind.TRANSACTION, "belongs to a transaction", transaction=True, looks=False)
DECLARES = Row(Kind.TRANSACTION, "declares a cursor", transaction=True)
LOCAL = Row(Kind.TRANSACTION, "lasts until the transaction ends", looks=False)
ENDS = Row(Kind.TRANSACTION, "ends a transaction", ends=True, looks=False)
CHAINS = Row(Kind.TRANSACTION, "ends a transaction and begins the next", transaction=True, looks=False)
TWO_PHASE = Row(Kind.WRITE, "ends a prepared transaction", looks=False)
SETS = Row(Kind.SETTING, "changes a setting of the session", clean=True, holds=True, looks=False)
HOLDS = Row(Kind.SESSION, "leaves something in the session", clean=True, holds=True, looks=False)
LOADS = HOLDS._replace(reason="loads a library", spoils=True)
# Nobody but its frontend sees a temporary object: the catalog of the others stays as it is.
TEMPORARY = Row(Kind.SESSION, "makes a temporary object", clean=True, holds=True, looks=False)
OPAQUE = Row(Kind.OPAQUE, "runs what its text does not show", clean=True, ddl=True, looks=False)
UNKNOWN = Row(Kind.OPAQUE, "is no statement that is known", clean=True, ddl=True, looks=False)
FILES = Row(Kind.OPAQUE, "reads or writes a file or a program of the server", clean=True)

_TEMPORARY_WORDS = frozenset({b"temp", b"temporary"})
_TARGETS = frozenset({b"table", b"view", b"sequence", b"recursive"})
_WRITING_WORDS = frozenset({b"insert", b"update", b"delete", b"merge"})
_LOCKING_WORDS = frozenset({b"update", b"share", b"no", b"key"})


def look(tokens: Sequence[Token], at: int = 0) -> Row:
    """Say what the statement that starts at tokens[at] is.

    tokens   of one statement, without the semicolon and without UNREADABLE
    """
    if at >= len(tokens):
        return EMPTY
    kind, word = tokens[at][:2]
    if kind == PUNCT and word == b"(":
        return _look_read(tokens, at)
    row = HEADS.get(word, UNKNOWN) if kind == IDENT else UNKNOWN
    return row if isinstance(row, Row) else row(tokens, at)


def _word(tokens: Sequence[Token], at: int) -> bytes:
    """The unquoted word at `at`, or nothing."""
    return tokens[at][1] if at < len(tokens) and tokens[at][0] == IDENT else b""


def _sign(tokens: Sequence[Token], at: int) -> bytes:
    return tokens[at][1] if at < len(tokens) and tokens[at][0] == PUNCT else b""


def _words(tokens: Sequence[Token]) -> set[bytes]:
    return {token[1] for token in tokens if token[0] == IDENT}


def _look_read(tokens: Sequence[Token], at: int) -> Row:
    words = _words(tokens)
    row = READ
    if b"with" in words and not words.isdisjoint(_WRITING_WORDS):
        row = WRITES
    elif b"for" in words:
        for i, token in enumerate(tokens):
            if token[1] == b"for" and token[0] == IDENT and _word(tokens, i + 1) in _LOCKING_WORDS:
                row = LOCKS_ROWS
                break
    return _look_into(tokens, row) if b"into" in words else row


def _look_into(tokens: Sequence[Token], row: Row) -> Row:
    """Find SELECT ... INTO, which makes a table; the INTO of an INSERT or MERGE does not."""
    for i, token in enumerate(tokens):
        if token[1] == b"into" and token[0] == IDENT and i and _word(tokens, i - 1) not in (b"insert", b"merge"):
            if _word(tokens, i + 1) in (b"temp", b"temporary", b"local", b"global"):
                return TEMPORARY._replace(looks=True)
            row = DEFINES._replace(looks=True)
    return row


def _look_write(tokens: Sequence[Token], at: int) -> Row:
    return _look_into(tokens, WRITES)


def _look_copy(tokens: Sequence[Token], at: int) -> Row:
    depth = 0
    for i in range(at, len(tokens)):
        sign = _sign(tokens, i)
        depth += (sign == b"(") - (sign == b")")
        if depth == 0 and _word(tokens, i) in (b"from", b"to"):
            return WRITES if _word(tokens, i + 1) in (b"stdin", b"stdout") else FILES
    return FILES


def _look_create(tokens: Sequence[Token], at: int) -> Row:
    for i in range(at + 1, min(at + 6, len(tokens))):
        word = _word(tokens, i)
        if word in _TEMPORARY_WORDS:
            return TEMPORARY
        if word in _TARGETS:
            return DEFINES
    if _word(tokens, at + 1) == b"schema" and not _words(tokens).isdisjoint(_TEMPORARY_WORDS):
        return TEMPORARY
    return DEFINES


def _look_explain(tokens: Sequence[Token], at: int) -> Row:
    at += 1
    if _sign(tokens, at) == b"(" and _word(tokens, at + 1) not in (b"select", b"with", b"values", b"table", b""):
        while at < len(tokens) and _sign(tokens, at) != b")":
            at += 1
        at += 1
    else:
        while _word(tokens, at) in (b"analyze", b"analyse", b"verbose"):
            at += 1
    row = look(tokens, at)
    return row if row is not EMPTY else UNKNOWN


def _look_prepare(tokens: Sequence[Token], at: int) -> Row:
    return IN_TRANSACTION if _word(tokens, at + 1) == b"transaction" else HOLDS


def _look_declare(tokens: Sequence[Token], at: int) -> Row:
    for i in range(at, len(tokens)):
        if _word(tokens, i) == b"hold":
            if _word(tokens, i - 1) == b"without":
                return DECLARES
            return HOLDS._replace(reason="declares a cursor that outlives its transaction")
    return DECLARES


def _look_end(tokens: Sequence[Token], at: int) -> Row:
    """COMMIT, END, ROLLBACK, ABORT with what may stand behind them."""
    at += 1
    if _word(tokens, at) == b"prepared":
        return TWO_PHASE
    if _word(tokens, at) in (b"work", b"transaction"):
        at += 1
    rest = [token[1] for token in tokens[at:]]
    if not rest or rest == [b"and", b"no", b"chain"]:
        return ENDS
    return CHAINS if rest == [b"and", b"chain"] else IN_TRANSACTION


def _look_discard(tokens: Sequence[Token], at: int) -> Row:
    if _word(tokens, at + 1) == b"all":
        return SETS._replace(resets=frozenset({"*"}))
    return OPAQUE._replace(ddl=False, reason="discards state of the session")


def _look_reset(tokens: Sequence[Token], at: int) -> Row:
    return SETS._replace(resets=_setting(tokens, at + 1, {b"all": "*"})[0])


def _setting(tokens: Sequence[Token], at: int, special: dict[bytes, str]) -> tuple[frozenset[str], int]:
    """Read the name of a setting, lower case: ({name}, offset behind it), or (nothing, at)."""
    pair = (_word(tokens, at), _word(tokens, at + 1))
    if pair == (b"time", b"zone"):
        return frozenset({"timezone"}), at + 2
    if pair == (b"session", b"authorization"):
        return frozenset({"session_authorization"}), at + 2
    if pair == (b"transaction", b"isolation"):
        return frozenset({"transaction_isolation"}), at + 3
    if _word(tokens, at) in special and at + 1 == len(tokens):
        return frozenset({special[_word(tokens, at)]}), at + 1
    start = at
    while at < len(tokens) and (tokens[at][0] in (IDENT, QIDENT) or tokens[at][:2] == (PUNCT, b".")):
        at += 1
        if _sign(tokens, at) != b"." and _sign(tokens, at - 1) != b".":
            break
    name = b"".join(token[1] for token in tokens[start:at]).decode("utf-8", "replace").lower()
    return (frozenset({name}) if name else frozenset()), at


def _look_set(tokens: Sequence[Token], at: int) -> Row:
    at += 1
    scope = _word(tokens, at)
    if _sign(tokens, at + 1) == b".":
        return SETS  # local.x or session.x is the name of a setting
    if scope == b"local":
        return LOCAL
    if scope == b"session" and _word(tokens, at + 1) not in (b"authorization", b"characteristics"):
        at += 1
    if _word(tokens, at) in (b"transaction", b"constraints") and _sign(tokens, at + 1) != b".":
        return LOCAL
    if _word(tokens, at) == b"role" and _word(tokens, at + 1) == b"none":
        return SETS._replace(resets=frozenset({"role"}))
    resets, at = _setting(tokens, at, {})
    if _word(tokens, at) == b"to" or (at < len(tokens) and tokens[at][1] == b"="):
        at += 1
    if at + 1 == len(tokens) and (_word(tokens, at) == b"default" or _is_local_zone(tokens, at, resets)):
        return SETS._replace(resets=resets)
    return SETS


def _is_local_zone(tokens: Sequence[Token], at: int, names: frozenset[str]) -> bool:
    return names == {"timezone"} and _word(tokens, at) == b"local"


HEADS: dict[bytes, Row | Look] = {
    b"select": _look_read,
    b"values": _look_read,
    b"table": _look_read,
    b"with": _look_read,
    b"show": SHOWS,
    b"explain": _look_explain,
    b"insert": _look_write,
    b"update": _look_write,
    b"delete": _look_write,
    b"merge": _look_write,
    b"copy": _look_copy,
    b"notify": WRITES,
    b"begin": BEGINS,
    b"start": BEGINS,
    b"commit": _look_end,
    b"end": _look_end,
    b"rollback": _look_end,
    b"abort": _look_end,
    b"savepoint": IN_TRANSACTION,
    b"release": IN_TRANSACTION,
    b"lock": IN_TRANSACTION,
    b"declare": _look_declare,
    b"fetch": LOCAL,
    b"move": LOCAL,
    b"close": LOCAL,
    b"set": _look_set,
    b"reset": _look_reset,
    b"discard": _look_discard,
    b"prepare": _look_prepare,
    b"deallocate": HOLDS,
    b"listen": HOLDS,
    b"unlisten": HOLDS,
    b"load": LOADS,
    b"execute": OPAQUE,
    b"do": OPAQUE,
    b"call": OPAQUE,
    b"create": _look_create,
    b"alter": DEFINES,
    b"drop": DEFINES,
    b"grant": DEFINES,
    b"revoke": DEFINES,
    b"comment": DEFINES,
    b"security": DEFINES,
    b"import": DEFINES,
    b"reassign": DEFINES,
    b"truncate": MAINTAINS,
    b"vacuum": MAINTAINS,
    b"analyze": MAINTAINS,
    b"analyse": MAINTAINS,
    b"cluster": MAINTAINS,
    b"reindex": MAINTAINS,
    b"refresh": MAINTAINS,
    b"checkpoint": MAINTAINS,
}
