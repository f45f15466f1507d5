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

from lib.route import parsing
from lib.route.calls import foreign_calls, sets_locally
from lib.route.harmless import EFFECT, Effect
from lib.route.lex import IDENT, OPERATOR, PUNCT, QIDENT, STRING, UNREADABLE, Token, lex


class Does(enum.IntFlag):
    """What a function, or something that using a relation runs, may do. Of several, all counts."""

    READ = 0  # only reads: a statement that uses it may still be shareable
    WRITE = 1  # writes, locks or waits, but leaves nothing in the session
    SET = 2  # changes the session
    ANYTHING = 4  # changes the catalog, or runs SQL that is not seen
    SPOIL = 8  # together with SET: what it leaves in the session is not undone by DISCARD ALL
    NAME = 16  # leaves the name of a custom setting, which a backend never forgets, or what matters to Parse until the
    # transaction ends, but no value afterwards
    HIDE = 32  # together with SET: sets something that nobody can ask for afterwards, as its name is not known
    SUSPECT = 22


@dataclass(frozen=True, slots=True)
class Body:
    """A body as far as it can be judged alone."""

    does: Does
    why: str = ""  # a clause that says what makes it suspect
    calls: frozenset[bytes] = frozenset()  # functions that are not built-in and harmless
    names: frozenset[bytes] = frozenset()  # all identifiers
    operators: frozenset[bytes] = frozenset()
    sets: frozenset[str] = frozenset()  # custom settings, where set_config() by these names is all that it leaves


# Dynamic SQL, session state, transactions, DDL. In doubt a column of that name makes a function suspect: slower, right.
_ANYTHING_WORDS = frozenset(
    b"alter drop execute grant import load reassign refresh revoke truncate".split()
)
_SETTING_WORDS = frozenset(b"deallocate discard hold listen prepare reset temp temporary unlisten".split())
# COMMIT and ROLLBACK are for procedures, which only CALL can run; and what those do is known by their names.
_WRITING_WORDS = frozenset(b"call commit copy delete insert lock merge notify rollback share update".split())
_LOCAL = frozenset({b"local", b"transaction", b"constraints"})
_PARSING = parsing.SETTINGS | parsing.WORDS
_BEHIND_ON_CONFLICT_DO = frozenset({b"nothing", b"update"})
# At the beginning of a statement only: elsewhere they are names of columns, or options.
_STARTING_WORDS = frozenset(b"analyse analyze checkpoint cluster comment reindex security vacuum".split())
# What lasts from one call to the next, by the language's name without "u".
_SHARED_STATE = {
    "plpython": re.compile(r"\b(?:GD|SD|global|globals|setattr)\b"),
    "plpython2": re.compile(r"\b(?:GD|SD|global|globals|setattr)\b"),
    "plpython3": re.compile(r"\b(?:GD|SD|global|globals|setattr)\b"),
    "plperl": re.compile(r"\b_SHARED\b|\bour\b|\bstate\b|::"),
    "pltcl": re.compile(r"\b(?:GD|global|upvar|variable)\b|::"),
    "plv8": re.compile(r"\bplv8\b|\bglobalThis\b|\bthis\b"),
}
# What may stand between UPDATE and its SET, apart from names.
_IN_UPDATE_TARGET = frozenset({b"only", b"as"})
# Those that matter to Parse are none of the plain: it would take a text of the same transaction for something else.
_PLAIN_NAME = re.compile(rb"'(?!(?i:%b)')[A-Za-z_]+'" % "|".join(sorted(parsing.SETTINGS)).encode())
_ANY_NAME = re.compile(rb"'[A-Za-z_][\w$]*(?:\.[A-Za-z_][\w$]*)*'")
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
    """As judge_body, remembered: functions are judged again at every scan."""
    return judge_body(language, source)


def judge_body(language: str, source: str) -> Body:
    """Judge the body of one function.

    language  the name in pg_language; other than sql and plpgsql: suspect
    source    pg_proc.prosrc
    returns   a Body that does not yet count what its calls and names do
    """
    if language not in ("sql", "plpgsql"):
        shared = _SHARED_STATE.get(language.removesuffix("u"))
        if shared is not None and shared.search(source):
            return Body(Does.ANYTHING | Does.SET | Does.SPOIL, f"shares data with other calls in {language}")
        return Body(Does.ANYTHING, f"is written in {language}")
    text = source.encode("utf-8")
    tokens = lex(text)
    if tokens and tokens[-1].kind == UNREADABLE:
        return Body(Does.ANYTHING, "has a body that cannot be read")
    names = frozenset(token[1] for token in tokens if token[0] <= QIDENT)
    calls = set(foreign_calls(tokens))
    for i, (kind, value, _, _) in enumerate(tokens):
        if kind <= QIDENT and value in EFFECT and i and tokens[i - 1][:2] == (PUNCT, b"."):
            calls.add(value)
    does, why = _words_do(tokens, language)
    others = does
    for name in sorted(calls & EFFECT.keys()):
        if EFFECT[name] != Effect.SETS:
            others |= does_with(EFFECT[name])
        if EFFECT[name] == Effect.SETS and sets_locally(tokens):
            does |= Does.WRITE if _names_are_known(tokens, text, _PLAIN_NAME) else Does.WRITE | Does.NAME
        else:
            does |= does_with(EFFECT[name])
            if EFFECT[name] == Effect.SETS and not _names_are_known(tokens, text, _ANY_NAME):
                does |= Does.HIDE
        if does & Does.SUSPECT and not why:
            why = f"calls {name.decode()}()"
    for name in sorted(names):
        if len(name) > 57 or name.startswith((b"pg_temp", b"pg_prepared_statement", b"dblink")):
            does |= Does.ANYTHING
            others |= Does.ANYTHING
            why = why or f"names {name.decode()}"
    sets = frozenset[str]()
    if does & (Does.SUSPECT | Does.HIDE) == Does.SET and not others & Does.SUSPECT:
        sets = _custom_names(tokens, text)
    return Body(
        does,
        why if does & Does.SUSPECT else "",
        frozenset(calls - EFFECT.keys()),
        names,
        frozenset(token[1] for token in tokens if token[0] == OPERATOR),
        sets,
    )


def _names_are_known(tokens: Sequence[Token], text: bytes, wanted: re.Pattern[bytes]) -> bool:
    """Tell whether every set_config() in `tokens` names a setting in a plain literal, and all those as `wanted`."""
    for i, token in enumerate(tokens):
        if token[0] <= QIDENT and token[1] == b"set_config":
            behind = tokens[i + 1 : i + 4]
            if [each[:2] for each in behind] != [(PUNCT, b"("), (STRING, b""), (PUNCT, b",")]:
                return False
            if not wanted.fullmatch(text, behind[1].start, behind[1].stop):
                return False
    return True


def _custom_names(tokens: Sequence[Token], text: bytes) -> frozenset[str]:
    """The settings that set_config() names in plain literals; nothing when one of them is no custom setting."""
    found = set()
    for i, token in enumerate(tokens):
        if token[0] <= QIDENT and token[1] == b"set_config":
            name = text[tokens[i + 2].start + 1 : tokens[i + 2].stop - 1].decode().lower()
            if "." not in name:
                return frozenset()
            found.add(name)
    return frozenset(found)


def _words_do(tokens: Sequence[Token], language: str) -> tuple[Does, str]:
    """What the words of a body may do, and a clause that says which of them makes it suspect."""
    does = Does.READ
    why = ""
    updates = any(token[0] == IDENT and token[1] == b"update" for token in tokens)
    for i, (kind, word, _, _) in enumerate(tokens):
        if kind != IDENT or (i and tokens[i - 1][:2] == (PUNCT, b".")):
            continue
        following = tokens[i + 1][1] if i + 1 < len(tokens) else b""
        before = does
        if word in _STARTING_WORDS:
            if _starts_statement(tokens, i):
                does |= Does.ANYTHING
        elif word in _ANYTHING_WORDS or (word == b"do" and following not in _BEHIND_ON_CONFLICT_DO):
            does |= Does.ANYTHING
        elif word == b"create":
            does |= Does.SET if following in (b"temp", b"temporary") else Does.ANYTHING
        elif word == b"into" and language == "sql":
            does |= Does.WRITE if i and tokens[i - 1][1] in (b"insert", b"merge") else Does.ANYTHING
        elif word == b"set" and not _is_of_update(tokens, i):
            does |= _set_does(tokens, i)
        elif word in _SETTING_WORDS or (word == b"pg_settings" and updates):
            does |= Does.SET
        elif word in _WRITING_WORDS or (word == b"for" and following in (b"no", b"key")):
            does |= Does.WRITE
        if does & Does.SUSPECT and not before & Does.SUSPECT:
            why = f"has {word.decode().upper()} in it"
    return does, why


def _set_does(tokens: Sequence[Token], at: int) -> Does:
    """What the command SET at `at` leaves."""
    following = [token[1] for token in tokens[at + 1 : at + 4]]
    if not following or following[0] not in _LOCAL or following[1:2] == [b"."]:
        return Does.SET
    is_local = following[0] == b"local"
    is_custom = is_local and any(b"." in value for value in following[1:3])
    matters = is_local and following[1:2] and following[1].decode("utf-8", "replace") in _PARSING
    return Does.WRITE | Does.NAME if is_custom or matters else Does.WRITE


def _starts_statement(tokens: Sequence[Token], at: int) -> bool:
    if at == 0:
        return True
    kind, before = tokens[at - 1][:2]
    # a label ends with >>
    return before == b";" or (kind == IDENT and before in _STATEMENT_STARTS) or (kind == OPERATOR and before == b">>")


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
