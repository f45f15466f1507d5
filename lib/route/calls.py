"""Which names a text calls as functions: everything in front of a "(" that the grammar does not explain otherwise.

Pure. The allow list decides, so a name is only passed over when it is harmless wherever it stands, or when no function
call can stand at that place: a keyword, a type behind "::", an alias with its column names, the target of an INSERT or
COPY, the name of a WITH query. Whatever is not understood counts as a call.

source: sql-syntax.html, sql-select.html; src/backend/parser/gram.y
"""

from __future__ import annotations

from collections.abc import Sequence

from lib.route.harmless import HARMLESS
from lib.route.lex import IDENT, PUNCT, QIDENT, Token

# Words of the grammar, of SQL and of PL/pgSQL, that a "(" may follow. A function that is named like one and is not
# harmless is found by its name, like every other one in the catalog scan.
KEYWORDS = frozenset(
    b"""
    all analyse analyze and any array as asymmetric between bit by case cast char character coalesce collation
    columns conflict constant copy cube current_time current_timestamp cursor dec decimal distinct else elseif elsif
    escape except exists exit explain extract filter first float for force_not_null force_null force_quote from
    greatest group grouping having if ilike in insert intersect interval into is join json_array json_arrayagg
    json_exists json_object json_objectagg json_query json_scalar json_serialize json_table json_value lateral least
    like limit localtime localtimestamp materialized merge_action national nchar next not nullif numeric offset on
    only operator or ordinality over overlaps overlay partition passing path perform position precision query raise
    repeatable return returning rollup row rows second select set sets similar some substring symmetric table then
    time timestamp to treat trim union unique using values varchar variadic varying verbose when where while window
    with within xmlattributes xmlconcat xmlelement xmlexists xmlforest xmlnamespaces xmlparse xmlpi xmlroot
    xmlserialize xmltable zone
    """.split()
)
_PASS = HARMLESS | KEYWORDS
# In front of a "(...)" that an expression may follow directly, so that a name behind it need not be an alias.
_NO_ALIAS_BEHIND = frozenset({b"on", b"operator", b"with"})


def foreign_calls(tokens: Sequence[Token]) -> list[bytes]:
    """List the names in `tokens` that are called and are not built-in functions known to be harmless.

    tokens   of one statement or one function body, without UNREADABLE
    returns  names as folded, without schema, in the order of the text; () for a call whose name is not a plain one
    """
    found: list[bytes] = []
    opened: list[int] = []  # where the "(" that are open stand
    opener: dict[int, int] = {}  # where the "(" of each ")" stands
    for i, token in enumerate(tokens):
        if token[0] != PUNCT:
            continue
        if token[1] == b"(":
            opened.append(i)
            if i:
                kind, name = tokens[i - 1][:2]
                if (kind == QIDENT or (kind == IDENT and name not in _PASS)) and _is_call(tokens, i - 1, opener):
                    found.append(name)
        elif token[1] == b")" and opened:
            opener[i] = opened.pop()
    return found


def _is_call(tokens: Sequence[Token], at: int, opener: dict[int, int]) -> bool:
    """Tell whether the name at `at`, which a "(" follows, can be a function there."""
    while at >= 2 and tokens[at - 1][:2] == (PUNCT, b".") and tokens[at - 2][0] in (IDENT, QIDENT):
        at -= 2
    if at == 0:
        return True
    kind, before = tokens[at - 1][:2]
    if kind == IDENT and not _follows_dot(tokens, at - 1):
        if before == b"recursive":
            return not _is_word(tokens, at - 2, b"with")
        if before == b"copy":
            return at != 1
        return before not in (b"as", b"into", b"with")
    if kind != PUNCT:
        return True
    if before == b")":
        start = opener.get(at - 1, 0) - 1
        return start < 0 or tokens[start][1] in _NO_ALIAS_BEHIND or tokens[start][0] not in (IDENT, QIDENT, PUNCT)
    if before == b",":
        return not _is_with_query(tokens, at - 2, opener)
    return before != b"::"


def _is_with_query(tokens: Sequence[Token], close: int, opener: dict[int, int]) -> bool:
    """Tell whether tokens[close] ends `AS [NOT MATERIALIZED] (SELECT ...)`: the next name is another WITH query."""
    start = opener.get(close)
    if start is None or not (_is_word(tokens, start - 1, b"as") or _is_word(tokens, start - 1, b"materialized")):
        return False
    # select and with are reserved: this is no list of column definitions
    return _is_word(tokens, start + 1, b"select") or _is_word(tokens, start + 1, b"with")


def _is_word(tokens: Sequence[Token], at: int, word: bytes) -> bool:
    return at >= 0 and tokens[at][0] == IDENT and tokens[at][1] == word


def _follows_dot(tokens: Sequence[Token], at: int) -> bool:
    return at > 0 and tokens[at - 1][:2] == (PUNCT, b".")


def sets_locally(tokens: Sequence[Token]) -> bool:
    """Tell whether every set_config() in `tokens` ends with `, true)`: it lasts until the transaction ends."""
    for i, token in enumerate(tokens):
        if token[0] > QIDENT or token[1] != b"set_config":
            continue
        depth = 0
        at = i
        for at in range(i + 1, len(tokens)):
            sign = tokens[at][1] if tokens[at][0] == PUNCT else b""
            depth += (sign == b"(") - (sign == b")")
            if depth <= 0:
                break
        is_true = _is_word(tokens, at - 1, b"true") and tokens[at - 2][:2] == (PUNCT, b",")
        if tokens[at][:2] != (PUNCT, b")") or not is_true:
            return False
    return True
