"""What a text may do to its session: every statement of it, and every name that it calls or mentions.

Pure. No value of a literal is looked at (shape.py relies on that). Names are compared without their schema: a text that
mentions a name which is suspect anywhere in the database counts as using it. When in doubt: opaque.

source: sql-commands.html, protocol-flow.html#PROTOCOL-FLOW-MULTI-STATEMENT
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lib.route.body import Body, Does, judge_body
from lib.route.calls import foreign_calls, sets_locally
from lib.route.catalog import Catalog
from lib.route.harmless import EFFECT, Effect
from lib.route.lex import IDENT, OPERATOR, PUNCT, QIDENT, STRING, UNREADABLE, Token, lex
from lib.route.shape import shape
from lib.route.statements import EMPTY, OPAQUE, Row, look
from lib.route.verdict import Kind, Refusal, Verdict

# In a text that cannot be read, these words are taken for what they seem to be.
_SEEMS_TO_HOLD = re.compile(
    rb"(?:\A|;|\*/|--[^\n]*\n)\s*(?:set|reset|discard|listen|prepare|load)\b"
    rb"|\b(?:temp|temporary|with\s+hold|set_config|setseed|pg_temp\w*|pg_(?:try_)?advisory_lock\w*)\b|u&\"",
    re.I,
)
_SEEMS_TO_BEGIN = re.compile(rb"(?:\A|;|\*/|--[^\n]*\n)\s*(?:begin|start\s+transaction|savepoint)\b", re.I)

_SEEMS_TO_DEFINE = re.compile(
    rb"\b(?:create|alter|drop|grant|revoke|import|execute|call)\b|(?:\A|;|\*/|--[^\n]*\n)\s*do\b|u&\"", re.I
)

_EFFECT_NAMES = frozenset(EFFECT)
_ANY_SETTING = frozenset({"*"})
_CHANGING_WORDS = frozenset({b"insert", b"update", b"delete", b"merge", b"copy"})
_MAX_NAME = 63  # bytes: PostgreSQL cuts names there (NAMEDATALEN - 1)
_MAX_WIDE_NAME = 57  # a longer name in another encoding could be cut down to one that is all ASCII

CURRVAL_REFUSED = Refusal(
    "55000",
    "currval() and lastval() outside a transaction would answer for another session",
    "Use INSERT ... RETURNING, or call them in the transaction that called nextval().",
)


class _Findings:
    """What was found so far; the gravest finding gives the reason."""

    __slots__ = (
        "clean", "currval", "ddl", "deallocates", "follows", "frees", "holds", "kind", "local_resets", "local_sets",
        "reason", "releases", "resets", "session", "sets", "spoils", "transaction",
    )  # fmt: skip

    def __init__(self) -> None:
        self.kind = Kind.SHAREABLE
        self.reason = EMPTY.reason
        self.clean = self.holds = self.spoils = self.session = self.transaction = self.ddl = self.currval = False
        self.releases = self.follows = False
        self.sets = self.resets = self.local_sets = self.local_resets = frozenset[str]()
        self.deallocates = self.frees = frozenset[str]()

    def add(self, kind: Kind, reason: str, clean: bool = False, holds: bool = False, ddl: bool = False) -> None:
        if kind > self.kind or self.reason == EMPTY.reason:
            self.kind = kind
            self.reason = reason
        self.clean |= clean
        self.holds |= holds
        self.session |= kind == Kind.SESSION
        self.ddl |= ddl

    def add_row(self, row: Row) -> None:
        self.add(row.kind, row.reason, row.clean, row.holds, row.ddl)
        self.transaction |= row.transaction
        self.spoils |= row.spoils
        self.follows |= row.follows
        self.releases |= row.releases
        self.sets |= row.sets
        self.resets |= row.resets
        self.local_sets |= row.local_sets
        self.local_resets |= row.local_resets
        self.deallocates |= row.deallocates
        self.frees |= row.frees


def classify(text: bytes, catalog: Catalog) -> Verdict:
    """Say what `text` is and leaves behind.

    text     a statement text as in Query or Parse, without the trailing NUL, in any client encoding
    catalog  what the scan of its database found
    returns  a Verdict; never raises
    """
    tokens = lex(text)
    standby = text[:5] == b"/*s*/"
    if tokens and tokens[-1].kind == UNREADABLE:
        return _classify_unreadable(text, tokens[-1].value, standby)
    statements = _split(tokens)
    found = _Findings()
    rows = [_look_at(statement, text, catalog, found) for statement in statements]
    if len(rows) > 1:
        if any(row.clean and row.kind not in (Kind.SETTING, Kind.SESSION) for row in rows):
            # What it defines may be used by those behind it, before it was looked at.
            found.add(Kind.OPAQUE, "is several statements, and one of them " + found.reason)
        else:
            found.add(Kind.WRITE, "is several statements")
        found.currval &= all(row.kind == Kind.SHAREABLE for row in rows) and all(t[1] != b"nextval" for t in tokens)
    return Verdict(
        kind=Kind.REFUSED if found.currval else found.kind,
        standby=standby,
        clean=found.clean,
        holds=found.holds,
        follows=found.follows,
        spoils=found.spoils,
        session=found.session,
        sets=found.sets,
        resets=found.resets,
        local_sets=found.local_sets,
        local_resets=found.local_resets,
        releases=found.releases,
        discards=len(rows) == 1 and rows[0].discards,
        deallocates=found.deallocates,
        frees=found.frees,
        ends=len(rows) == 1 and rows[0].ends,
        transaction=found.transaction or (len(rows) > 1 and any(row.ends for row in rows)),
        ddl=found.ddl,
        currval=found.currval,
        reason=found.reason,
        refusal=CURRVAL_REFUSED if found.currval else None,
    )


def _split(tokens: list[Token]) -> list[Sequence[Token]]:
    """Cut at the semicolons outside parentheses; empty statements are left out."""
    ends = [i for i, token in enumerate(tokens) if token[0] == PUNCT and token[1] == b";"]
    if not ends:
        return [tokens] if tokens else []
    if ends == [len(tokens) - 1]:
        return [tokens[:-1]] if len(tokens) > 1 else []
    parts: list[Sequence[Token]] = []
    start = depth = 0
    for i, (kind, value, _, _) in enumerate(tokens):
        if kind != PUNCT:
            continue
        if value == b"(":
            depth += 1
        elif value == b")":
            depth -= 1
        elif value == b";" and depth <= 0:
            parts.append(tokens[start:i])
            start = i + 1
    parts.append(tokens[start:])
    return [part for part in parts if part]


def _look_at(tokens: Sequence[Token], text: bytes, catalog: Catalog, found: _Findings) -> Row:
    """Add what one statement does to `found`."""
    row = look(tokens)
    if row is OPAQUE:
        row = _look_inside(tokens, text, catalog)
    found.add_row(row)
    names = {token[1] for token in tokens if token[0] <= QIDENT}
    calls = foreign_calls(tokens)
    if calls:
        _add_calls(calls, tokens, row, catalog, found)
    if not names.isdisjoint(_EFFECT_NAMES):
        _add_attribute_calls(tokens, row, catalog, found)
    if row.looks and row.kind != Kind.OPAQUE:
        _add_names(names, tokens, row, catalog, found)
    for name in names:
        if name[:7] == b"pg_temp":
            found.add(Kind.SESSION, "names the temporary schema", clean=True, holds=True)
    return row


def _look_inside(tokens: Sequence[Token], text: bytes, catalog: Catalog) -> Row:
    """Find what a CALL, or a DO whose body stands between dollars, is seen to leave in the session and the catalog."""
    if tokens[0][1] == b"call":
        body = Body(Does.READ, "", frozenset(foreign_calls(tokens)), frozenset(t[1] for t in tokens if t[0] <= QIDENT))
    elif tokens[0][1] == b"do" and any(text[token.start] == 0x24 for token in tokens if token[0] == STRING):
        body = _read_do(tokens, text)
    else:
        return OPAQUE
    defines = body.does & Does.ANYTHING or not body.names.isdisjoint(catalog.definers)
    spoils = bool(body.does & Does.SPOIL) or not body.names.isdisjoint(catalog.spoilers)
    return OPAQUE._replace(
        holds=spoils or bool(body.does & Does.HIDE) or not body.names.isdisjoint(catalog.hiders),
        follows=bool(body.does & Does.SET) or not body.names.isdisjoint(catalog.holders),
        spoils=spoils,
        ddl=bool(defines) or any(name not in catalog.harmless and name not in catalog.functions for name in body.calls),
    )


def _read_do(tokens: Sequence[Token], text: bytes) -> Body:
    language = "plpgsql"
    source = b""
    for i, token in enumerate(tokens):
        if token[0] == STRING:
            opening = text.find(b"$", token.start + 1) + 1 - token.start
            source = text[token.start + opening : token.stop - opening]
        elif token[:2] == (IDENT, b"language") and i + 1 < len(tokens):
            language = tokens[i + 1].value.decode("utf-8", "replace")
    return judge_body(language, source.decode("utf-8", "replace"))


def _add_calls(calls: list[bytes], tokens: Sequence[Token], row: Row, catalog: Catalog, found: _Findings) -> None:
    for name in calls:
        effect = EFFECT.get(name)
        if effect is None:
            if row.looks and name not in catalog.harmless and name not in catalog.setters:
                reason = f"calls {name.decode('utf-8', 'replace')}(), which is not known to be harmless"
                ddl = not catalog.suspect_all and (name not in catalog.functions or name in catalog.definers)
                found.add(Kind.OPAQUE, reason, clean=True, ddl=ddl)
        elif effect == Effect.WRITES:
            found.add(Kind.WRITE, f"calls {name.decode()}()")
        elif effect == Effect.SETS:
            if sets_locally(tokens):
                found.add(Kind.WRITE, "calls set_config() for the transaction")
                found.local_sets |= _ANY_SETTING
            else:
                found.add(Kind.SETTING, "calls set_config()")
                found.sets |= _ANY_SETTING
        elif effect == Effect.RELEASES:
            found.add(Kind.WRITE, f"calls {name.decode()}()")
            found.releases = True
        elif effect in (Effect.HOLDS, Effect.SPOILS):
            found.add(Kind.SESSION, f"calls {name.decode()}()", clean=True, holds=True)
            found.spoils |= effect == Effect.SPOILS
        elif effect == Effect.READS_SESSION:
            found.add(Kind.WRITE, f"calls {name.decode()}()")
            found.currval |= not _is_told_before(tokens, name)
        else:
            found.add(Kind.OPAQUE, f"calls {name.decode()}()", clean=True)


def _add_attribute_calls(tokens: Sequence[Token], row: Row, catalog: Catalog, found: _Findings) -> None:
    """Find x.f, which PostgreSQL takes for f(x) when x has no column f."""
    for i in range(1, len(tokens)):
        kind, name = tokens[i][:2]
        if kind <= QIDENT and name in _EFFECT_NAMES and tokens[i - 1][:2] == (PUNCT, b"."):
            _add_calls([name], tokens, row, catalog, found)


def _add_names(names: set[bytes], tokens: Sequence[Token], row: Row, catalog: Catalog, found: _Findings) -> None:
    """Add what the catalog knows of the names that a statement mentions."""
    suspects = names & catalog.suspects
    if suspects and suspects <= catalog.setters.keys():
        found.add(Kind.SETTING, f"uses {min(suspects).decode()}, which sets custom settings")
        found.sets = found.sets.union(*(catalog.setters[name] for name in suspects))
        found.follows = True  # whether it has is not sure
        suspects = set()
    if suspects:
        name = min(names & catalog.suspects).decode("utf-8", "replace")
        found.follows |= not names.isdisjoint(catalog.holders)
        spoils = not names.isdisjoint(catalog.spoilers)
        holds = spoils or not names.isdisjoint(catalog.hiders)
        ddl = not names.isdisjoint(catalog.definers)
        found.spoils |= spoils
        found.add(Kind.OPAQUE, f"uses {name}, which may change the session", clean=True, holds=holds, ddl=ddl)
    elif catalog.suspect_all:
        found.add(Kind.OPAQUE, catalog.suspect_reason, clean=True)
    elif catalog.operators and _has_operator(tokens, catalog.operators):
        found.add(Kind.OPAQUE, "uses an operator that may change the session", clean=True, ddl=True)
    elif not names.isdisjoint(catalog.writers):
        name = min(names & catalog.writers).decode("utf-8", "replace")
        found.add(Kind.WRITE, f"uses {name}, which may write or wait")
    elif catalog.writing_operators and _has_operator(tokens, catalog.writing_operators):
        found.add(Kind.WRITE, "uses an operator that may write or wait")
    elif catalog.writes_all:
        found.add(Kind.WRITE, catalog.writes_all)
    for word in names:
        if len(word) > _MAX_WIDE_NAME and (len(word) > _MAX_NAME or not word.isascii()):
            found.add(Kind.OPAQUE, "has a name that PostgreSQL would cut", clean=True, ddl=True)
        if catalog.wide and not word.isascii():
            found.add(Kind.OPAQUE, "has a name that depends on the client's encoding", clean=True, ddl=True)
    if not names.isdisjoint(_CHANGING_WORDS):
        if b"pg_settings" in names:
            found.add(Kind.OPAQUE, "writes to pg_settings", clean=True)
            found.follows = True
        elif any(_is_system_name(tokens, i) for i in range(1, len(tokens))):
            found.add(Kind.OPAQUE, "writes to the catalog", clean=True, ddl=True)


def _is_system_name(tokens: Sequence[Token], at: int) -> bool:
    """Tell whether tokens[at] is a pg_* relation behind UPDATE, INTO, DELETE FROM or COPY."""
    kind, name = tokens[at][:2]
    if kind > QIDENT or name[:3] != b"pg_" or name == b"pg_catalog":
        return False
    at -= 1
    while at >= 1 and tokens[at][:2] == (PUNCT, b".") and tokens[at - 1][0] <= QIDENT:
        at -= 2
    if tokens[at][:2] == (IDENT, b"only"):
        at -= 1
    if tokens[at][:2] == (IDENT, b"from"):
        return tokens[at - 1][:2] == (IDENT, b"delete")
    return tokens[at][0] == IDENT and tokens[at][1] in (b"update", b"into", b"copy")


def _has_operator(tokens: Sequence[Token], operators: frozenset[bytes]) -> bool:
    return any(token[0] == OPERATOR and any(sign in token[1] for sign in operators) for token in tokens)


def _is_told_before(tokens: Sequence[Token], name: bytes) -> bool:
    """Tell whether the statement itself draws from a sequence before it asks: nextval(), or INSERT ... RETURNING."""
    for kind, value, _, _ in tokens:
        if kind <= QIDENT:
            if value == name:
                return False
            if value == b"nextval" or (kind == IDENT and value == b"returning"):
                return True
    return False


def _classify_unreadable(text: bytes, why: bytes, standby: bool) -> Verdict:
    seen = shape(text)
    holds = _SEEMS_TO_HOLD.search(seen) is not None
    return Verdict(
        kind=Kind.OPAQUE,
        standby=standby,
        clean=True,
        holds=holds,
        session=holds,
        transaction=_SEEMS_TO_BEGIN.search(seen) is not None,
        ddl=_SEEMS_TO_DEFINE.search(seen) is not None,
        reason=f"cannot be read: {why.decode()}",
    )
