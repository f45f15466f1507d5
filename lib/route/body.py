"""What the body of a function in SQL or PL/pgSQL could do to a session.

Pure. The body is read as tokens, with no grammar: a word that could begin a dangerous statement makes the body suspect,
unless it plainly is something else (the SET of an UPDATE, the DO of ON CONFLICT). Names that it calls or mentions are
handed back, to be judged with everything else in the database.

source: plpgsql-statements.html, plpgsql-control-structures.html
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from lib.route.calls import foreign_calls, sets_locally
from lib.route.harmless import EFFECT, Effect
from lib.route.lex import IDENT, OPERATOR, PUNCT, QIDENT, UNREADABLE, Token, lex


class Does(enum.IntFlag):
    """What a function, or something that using a relation runs, may do. Of several, all counts."""

    READ = 0  # only reads: a statement that uses it may still be shareable
    WRITE = 1  # writes, locks or waits, but leaves nothing in the session
    SET = 2  # changes the session
    ANYTHING = 4  # changes the catalog, or runs SQL that is not seen
    SUSPECT = 6
    SPOIL = 8  # together with SET: what it leaves in the session is not undone by DISCARD ALL


@dataclass(frozen=True, slots=True)
class Body:
    """A body as far as it can be judged alone."""

    does: Does
    calls: frozenset[bytes] = frozenset()  # functions that are not built-in and harmless
    names: frozenset[bytes] = frozenset()  # all identifiers
    operators: frozenset[bytes] = frozenset()


# Dynamic SQL, session state, transactions, DDL. In doubt a column of that name makes a function suspect: slower, right.
_ANYTHING_WORDS = frozenset(
    b"alter call commit drop execute grant import load reassign refresh revoke rollback truncate".split()
)
_SETTING_WORDS = frozenset(b"deallocate discard hold listen prepare reset temp temporary unlisten".split())
_WRITING_WORDS = frozenset({b"insert", b"update", b"delete", b"merge", b"copy", b"lock", b"notify", b"share"})
_LOCAL = frozenset({b"local", b"transaction", b"constraints"})
_BEHIND_ON_CONFLICT_DO = frozenset({b"nothing", b"update"})
_SHARED_STATE = re.compile(r"\bGD\b|\b_SHARED\b")
# What may stand between UPDATE and its SET, apart from names.
_IN_UPDATE_TARGET = frozenset({b"only", b"as"})
_STATEMENT_STARTS = frozenset({b"begin", b"then", b"else", b"loop", b"declare", b"exception", b"atomic"})


def does_with(effect: Effect) -> Does:
    """What a function does that calls a built-in one with this effect."""
    if effect == Effect.WRITES:
        return Does.WRITE
    if effect == Effect.SPOILS:
        return Does.SET | Does.SPOIL
    return Does.ANYTHING if effect == Effect.OPAQUE else Does.SET


@lru_cache(maxsize=8192)
def read_body(language: str, source: str) -> Body:
    """Judge the body of one function.

    language  the name in pg_language; other than sql and plpgsql: suspect
    source    pg_proc.prosrc
    returns   a Body that does not yet count what its calls and names do
    """
    if language not in ("sql", "plpgsql"):
        # The dictionaries that all functions of a session share, in PL/Python and PL/Perl
        shares = _SHARED_STATE.search(source) is not None
        return Body(Does.ANYTHING | Does.SET | Does.SPOIL if shares else Does.ANYTHING)
    tokens = lex(source.encode("utf-8"))
    if tokens and tokens[-1].kind == UNREADABLE:
        return Body(Does.ANYTHING)
    names = frozenset(token[1] for token in tokens if token[0] <= QIDENT)
    calls = set(foreign_calls(tokens))
    for i, (kind, value, _, _) in enumerate(tokens):
        if kind <= QIDENT and value in EFFECT and i and tokens[i - 1][:2] == (PUNCT, b"."):
            calls.add(value)
    does = _words_do(tokens, language)
    for name in calls & EFFECT.keys():
        is_local = EFFECT[name] == Effect.SETS and sets_locally(tokens)
        does |= Does.WRITE if is_local else does_with(EFFECT[name])
    if any(len(name) > 57 or name.startswith((b"pg_temp", b"dblink")) for name in names):
        does |= Does.ANYTHING
    return Body(
        does,
        frozenset(calls - EFFECT.keys()),
        names,
        frozenset(token[1] for token in tokens if token[0] == OPERATOR),
    )


def _words_do(tokens: Sequence[Token], language: str) -> Does:
    does = Does.READ
    updates = any(token[0] == IDENT and token[1] == b"update" for token in tokens)
    for i, (kind, word, _, _) in enumerate(tokens):
        if kind != IDENT or (i and tokens[i - 1][:2] == (PUNCT, b".")):
            continue
        following = tokens[i + 1][1] if i + 1 < len(tokens) else b""
        if word in _ANYTHING_WORDS or (word == b"do" and following not in _BEHIND_ON_CONFLICT_DO):
            does |= Does.ANYTHING
        elif word == b"create":
            does |= Does.SET if following in (b"temp", b"temporary") else Does.ANYTHING
        elif word == b"into" and language == "sql":
            does |= Does.WRITE if i and tokens[i - 1][1] in (b"insert", b"merge") else Does.ANYTHING
        elif word == b"set" and not _is_of_update(tokens, i):
            does |= Does.WRITE if following in _LOCAL else Does.SET
        elif word in _SETTING_WORDS or (word == b"pg_settings" and updates):
            does |= Does.SET
        elif word in _WRITING_WORDS or (word == b"for" and following in (b"no", b"key")):
            does |= Does.WRITE
    return does


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
