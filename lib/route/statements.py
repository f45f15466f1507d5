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
    looks: bool = True
    sets: frozenset[str] = frozenset()
    resets: frozenset[str] = frozenset()
    local_sets: frozenset[str] = frozenset()
    local_resets: frozenset[str] = frozenset()
    releases: bool = False
    discards: bool = False
    deallocates: frozenset[str] = frozenset()
    frees: frozenset[str] = frozenset()
    follows: bool = False


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
SETS = Row(Kind.SETTING, "changes a setting of the session", looks=False)
HOLDS = Row(Kind.SESSION, "leaves something in the session", clean=True, holds=True, looks=False)
LOADS = HOLDS._replace(reason="loads a library", spoils=True)
SEEDS = HOLDS._replace(reason="sets the seed of random()", spoils=True)
RELEASES = Row(Kind.WRITE, "gives back what it had in the session", releases=True, looks=False)
DROPS = DEFINES._replace(releases=True)
# Nobody but its frontend sees a temporary object: the catalog of the others stays as it is.
TEMPORARY = Row(Kind.SESSION, "makes a temporary object", clean=True, holds=True, looks=False)
OPAQUE = Row(Kind.OPAQUE, "runs what its text does not show", clean=True, ddl=True, looks=False)
UNKNOWN = Row(Kind.OPAQUE, "is no statement that is known", clean=True, ddl=True, looks=False)
FILES = Row(Kind.OPAQUE, "reads or writes a file or a program of the server", clean=True)

_TEMPORARY_WORDS = frozenset({b"temp", b"temporary"})
_TARGETS = frozenset({b"table", b"view", b"sequence", b"recursive"})
_WRITING_WORDS = frozenset({b"insert", b"update", b"delete", b"merge"})
_LOCKING_WORDS = frozenset({b"update", b"share", b"no", b"key"})
_MAX_NAME = 63  # bytes: PostgreSQL cuts names there (NAMEDATALEN - 1)
# Each transaction begins with its own again, whatever was set for the session.
_OF_TRANSACTION = frozenset({"transaction_isolation", "transaction_read_only", "transaction_deferrable"})
_CHARACTERISTICS = {
    b"isolation": "default_transaction_isolation",
    b"read": "default_transaction_read_only",
    b"deferrable": "default_transaction_deferrable",
}
# SET name value, without "=" or TO: the setting that it means.
_SPECIAL_SETS = {b"names": "client_encoding", b"schema": "search_path", b"role": "role"}
_ANY, _WHO = frozenset({"*"}), frozenset({"role", "session_authorization"})
_ALL = _ANY | _WHO


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
    if _word(tokens, at + 1) == b"database":
        return DEFINES._replace(frees=_template(tokens, at + 2))
    return DEFINES


def _template(tokens: Sequence[Token], at: int) -> frozenset[str]:
    for i in range(at + 1, len(tokens)):
        if _word(tokens, i) == b"template":
            return _name(tokens, i + 2 if tokens[i + 1 : i + 2] and tokens[i + 1][1] == b"=" else i + 1)
    return frozenset({"template1"})


def _look_alter(tokens: Sequence[Token], at: int) -> Row:
    behind = [token[1] for token in tokens[at + 3 : at + 5] if token[0] == IDENT]
    if _word(tokens, at + 1) == b"database" and behind in ([b"rename", b"to"], [b"set", b"tablespace"]):
        return DEFINES._replace(frees=_name(tokens, at + 2))
    return DEFINES


def _look_drop(tokens: Sequence[Token], at: int) -> Row:
    if _word(tokens, at + 1) != b"database":
        return DROPS
    return DEFINES._replace(frees=_name(tokens, at + 4 if _word(tokens, at + 2) == b"if" else at + 2))


def _name(tokens: Sequence[Token], at: int) -> frozenset[str]:
    """The name at `at` as SQL reads it: {name}, or nothing."""
    if at >= len(tokens) or tokens[at][0] not in (IDENT, QIDENT):
        return frozenset()
    return frozenset({tokens[at][1][:_MAX_NAME].decode("utf-8", "surrogateescape")})


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
    if _word(tokens, at + 1) != b"all":
        return RELEASES
    return SETS._replace(resets=_ALL, releases=True, discards=True, deallocates=_ANY)


def _look_deallocate(tokens: Sequence[Token], at: int) -> Row:
    at += 2 if _word(tokens, at + 1) == b"prepare" and at + 2 < len(tokens) else 1
    return RELEASES._replace(deallocates=_ANY if _word(tokens, at) == b"all" else _name(tokens, at))


def _look_reset(tokens: Sequence[Token], at: int) -> Row:
    if _word(tokens, at + 1) == b"all" and at + 2 == len(tokens):
        return SETS._replace(resets=_ANY)
    name, end = _setting(tokens, at + 1)
    if end != len(tokens):
        return SETS._replace(sets=_ANY)  # the server says what it is, or that it is nothing
    return _changes(name, is_reset=True)


def _changes(name: str, is_reset: bool) -> Row:
    """What is known of a statement that changes the setting `name`, or sets it back to its default."""
    if name in _OF_TRANSACTION:
        return LOCAL
    if name == "seed" and not is_reset:
        return SEEDS
    if not name or not name.isascii():
        return SETS._replace(clean=True, holds=True)  # nobody could be asked for it by name
    if not is_reset:
        return SETS._replace(sets=frozenset({name}))
    # The role goes back with who one is.
    return SETS._replace(resets=_WHO if name == "session_authorization" else frozenset({name}))


def _setting(tokens: Sequence[Token], at: int) -> tuple[str, int]:
    """Read the name of a setting: (name in lower case, offset behind it)."""
    pair = (_word(tokens, at), _word(tokens, at + 1))
    if pair == (b"time", b"zone"):
        return "timezone", at + 2
    if pair == (b"session", b"authorization"):
        return "session_authorization", at + 2
    if pair == (b"transaction", b"isolation"):
        return "transaction_isolation", at + 3
    start = at
    while at < len(tokens) and (tokens[at][0] in (IDENT, QIDENT) or tokens[at][:2] == (PUNCT, b".")):
        at += 1
        if _sign(tokens, at) != b"." and _sign(tokens, at - 1) != b".":
            break
    return b"".join(token[1] for token in tokens[start:at]).decode("utf-8", "replace").lower(), at


def _look_set(tokens: Sequence[Token], at: int) -> Row:
    at += 1
    scope = _word(tokens, at)
    is_name = _sign(tokens, at + 1) == b"."  # local.x or session.x is the name of a setting
    if scope == b"local" and not is_name:
        row = _look_set(tokens, at)
        custom = frozenset(name for name in row.sets | row.resets if "." in name)
        return LOCAL._replace(local_sets=custom, local_resets=row.resets)
    if scope == b"session" and not is_name:
        if _word(tokens, at + 1) == b"characteristics":
            words = _words(tokens)
            return SETS._replace(sets=frozenset(each for word, each in _CHARACTERISTICS.items() if word in words))
        at += _word(tokens, at + 1) != b"authorization"
        is_name = _sign(tokens, at + 1) == b"."
    word = _word(tokens, at)
    if word in (b"transaction", b"constraints") and not is_name:
        return LOCAL
    name, value = _setting(tokens, at)
    is_assigned = _word(tokens, value) == b"to" or (value < len(tokens) and tokens[value][1] == b"=")
    if is_assigned:
        value += 1
    elif word in _SPECIAL_SETS and value == at + 1:
        name = _SPECIAL_SETS[word]
        if word == b"names" and value == len(tokens):
            return _changes(name, is_reset=True)
    elif (word, _word(tokens, at + 1)) == (b"xml", b"option"):
        name = "xmloption"
    elif name not in ("timezone", "session_authorization"):
        return SETS._replace(sets=_ANY)
    is_last = value + 1 == len(tokens)
    is_local_zone = name == "timezone" and _word(tokens, value) == b"local"
    return _changes(name, is_reset=is_last and (_word(tokens, value) == b"default" or is_local_zone))


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
    b"close": RELEASES,
    b"set": _look_set,
    b"reset": _look_reset,
    b"discard": _look_discard,
    b"prepare": _look_prepare,
    b"deallocate": _look_deallocate,
    b"listen": HOLDS,
    b"unlisten": RELEASES,
    b"load": LOADS,
    b"execute": OPAQUE,
    b"do": OPAQUE,
    b"call": OPAQUE,
    b"create": _look_create,
    b"alter": _look_alter,
    b"drop": _look_drop,
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
