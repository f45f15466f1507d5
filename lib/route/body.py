"""What the body of a function in SQL or PL/pgSQL could do to a session.

Pure. The body is read as tokens, with no grammar: a word that could begin a dangerous statement makes the body suspect,
unless it plainly is something else (the SET of an UPDATE, the DO of ON CONFLICT). Names that it calls or mentions are
handed back, to be judged with everything else in the database.

source: plpgsql-statements.html, plpgsql-control-structures.html
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from lib.route.calls import foreign_calls
from lib.route.harmless import EFFECT, Effect
from lib.route.lex import IDENT, OPERATOR, PUNCT, QIDENT, UNREADABLE, Token, lex


class Level(enum.IntEnum):
    """How far a function, or what reads a relation, may go. Of several, the highest counts."""

    READS = 0  # only reads: a statement that uses it may still be shareable
    WRITES = 1  # writes, locks or waits, but leaves nothing in the session
    SUSPECT = 2  # may change the session, run SQL from a string, or change the catalog


@dataclass(frozen=True, slots=True)
class Body:
    """A body as far as it can be judged alone."""

    level: Level
    calls: frozenset[bytes] = frozenset()  # functions that are not built-in and harmless
    names: frozenset[bytes] = frozenset()  # all identifiers
    operators: frozenset[bytes] = frozenset()


# Dynamic SQL, session state, transactions, DDL. In doubt a column of that name makes a function suspect: slower, right.
_SUSPECT_WORDS = frozenset(
    b"""
    alter call commit create deallocate discard drop execute grant hold import listen load prepare reassign refresh
    reset revoke rollback temp temporary truncate unlisten
    """.split()
)
_WRITING_WORDS = frozenset({b"insert", b"update", b"delete", b"merge", b"copy", b"lock", b"notify", b"share"})
_BEHIND_ON_CONFLICT_DO = frozenset({b"nothing", b"update"})
# What may stand between UPDATE and its SET, apart from names.
_IN_UPDATE_TARGET = frozenset({b"only", b"as"})
_STATEMENT_STARTS = frozenset({b"begin", b"then", b"else", b"loop", b"declare", b"exception", b"atomic"})


@lru_cache(maxsize=8192)
def read_body(language: str, source: str) -> Body:
    """Judge the body of one function.

    language  the name in pg_language; other than sql and plpgsql: suspect
    source    pg_proc.prosrc
    returns   a Body whose level does not yet count its calls and names
    """
    if language not in ("sql", "plpgsql"):
        return Body(Level.SUSPECT)
    tokens = lex(source.encode("utf-8"))
    if tokens and tokens[-1].kind == UNREADABLE:
        return Body(Level.SUSPECT)
    names = frozenset(token[1] for token in tokens if token[0] <= QIDENT)
    calls = set(foreign_calls(tokens))
    for i, (kind, value, _, _) in enumerate(tokens):
        if kind <= QIDENT and value in EFFECT and i and tokens[i - 1][:2] == (PUNCT, b"."):
            calls.add(value)
    level = _level_of_words(tokens, language)
    for name in calls & EFFECT.keys():
        level = max(level, Level.WRITES if EFFECT[name] == Effect.WRITES else Level.SUSPECT)
    if any(len(name) > 57 or name.startswith((b"pg_temp", b"dblink")) for name in names):
        level = Level.SUSPECT
    return Body(
        level,
        frozenset(calls - EFFECT.keys()),
        names,
        frozenset(token[1] for token in tokens if token[0] == OPERATOR),
    )


def _level_of_words(tokens: Sequence[Token], language: str) -> Level:
    level = Level.READS
    for i, (kind, word, _, _) in enumerate(tokens):
        if kind != IDENT or (i and tokens[i - 1][:2] == (PUNCT, b".")):
            continue
        following = tokens[i + 1][1] if i + 1 < len(tokens) else b""
        if word in _SUSPECT_WORDS:
            return Level.SUSPECT
        if word == b"set" and not _is_of_update(tokens, i):
            return Level.SUSPECT
        if word == b"do" and following not in _BEHIND_ON_CONFLICT_DO:
            return Level.SUSPECT
        if word == b"into" and language == "sql" and (not i or tokens[i - 1][1] not in (b"insert", b"merge")):
            return Level.SUSPECT
        if word == b"pg_settings" and any(token[:2] == (IDENT, b"update") for token in tokens):
            return Level.SUSPECT
        if word in _WRITING_WORDS or (word == b"for" and following in (b"no", b"key")):
            level = Level.WRITES
    return level


def _is_of_update(tokens: Sequence[Token], at: int) -> bool:
    """Tell whether the SET at `at` belongs to an UPDATE: between them is nothing but the name of a table."""
    for i in range(at - 1, max(at - 10, -1), -1):
        kind, value = tokens[i][:2]
        if kind == IDENT and value == b"update":
            return True
        if kind == IDENT and value in _STATEMENT_STARTS:
            return False
        if not (kind <= QIDENT or value in (b".", b"*") or value in _IN_UPDATE_TARGET):
            return False
    return False
