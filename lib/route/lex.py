"""The tokens of a text of SQL, as PostgreSQL's own lexer would cut it, or an honest "this cannot be told".

Pure, over bytes: the text comes in the frontend's encoding and is never decoded. Every encoding has ASCII for the
bytes that matter here, but in some that only clients may use (SJIS, BIG5, GBK, GB18030 ...) the second byte of a
character can look like a backslash or an operator. So a backslash or such an operator right behind a byte >= 0x80
cannot be told, and neither can a '...' string that ends elsewhere with standard_conforming_strings off. Comments are no
tokens.

source: sql-syntax-lexical.html; src/backend/parser/scan.l
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_TEXT = 65536  # bytes; a longer text is not looked at

# Kinds of token. IDENT's value is folded to lower case, QIDENT's is unquoted, PUNCT's and OPERATOR's are as written;
# the value of all others is empty. UNREADABLE is always the last token and covers the rest; its value says why.
IDENT, QIDENT, PUNCT, STRING, NUMBER, PARAM, OPERATOR, UNREADABLE = range(1, 9)


class Token(NamedTuple):
    """One token: its kind, its value (see above), and text[start:stop] that it was cut from."""

    kind: int
    value: bytes
    start: int
    stop: int


_TOKEN = re.compile(
    rb"""
    (?: [ \t\n\r\f\v]++ | --[^\n\r]*+ )*+
    (?:
      ( [eE]'(?: [^'\\]++ | \\. | '' )*+' )                                      # 1  E''
    | ( [uU]&["'] )                                                              # 2  U&"" and U&''
    | ( [A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*+ )                             # 3  identifier or keyword
    | ( [(),;\[\]] | \.(?![0-9]) )                                              # 4  what stands for itself
    | ( '[^'\\]*+(?:''[^'\\]*+)*+' )                                             # 5  '' without a backslash
    | ( "(?: [^"]++ | "" )++" )                                                  # 6  ""
    | ( (?: [0-9]++ (?: \.[0-9]*+ )? | \.[0-9]++ ) (?: [eE][-+]?[0-9]++ )? )     # 7  number
    | ( \$[0-9]++ )                                                              # 8  parameter
    | ( :[:=]? )                                                                 # 9
    | ( /\* )                                                                    # 10 comment, nested
    | ( (?: (?! /\* | -- ) [-~!@\#^&|`?+*/%<>=] )++ )                            # 11 operator
    | ( \$(?: [A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*+ )?\$ )                   # 12 dollar quote
    | ( ' )                                                                      # 13 '' with a backslash, or open
    | ( \Z )                                                                     # 14
    )
    """,
    re.X | re.S,
)
_COMMENT_MARK = re.compile(rb"/\*|\*/")
_STRING_CONFORMING = re.compile(rb"'[^']*+(?:''[^']*+)*+'")
_STRING_ESCAPING = re.compile(rb"'(?:[^'\\]++|\\.|'')*+'", re.S)
_HIGH_BACKSLASH = re.compile(rb"[\x80-\xff]\\")
# Second bytes of a character in client-only encodings that would end an identifier if they stood for themselves.
_TRAIL_BYTES = frozenset(b"@[\\]^`{|}~")


def lex(text: bytes) -> list[Token]:
    """Cut `text` into tokens.

    text     a statement text as in Query or Parse, without the trailing NUL, in any client encoding
    returns  the tokens in order; between them are only white space and comments. Never raises: what cannot be read
             for certain is one last token UNREADABLE up to the end of the text
    """
    if len(text) > MAX_TEXT:
        return [Token(UNREADABLE, b"it is longer than 64 KB", 0, len(text))]
    tokens: list[Token] = []
    append = tokens.append
    match_at = _TOKEN.match
    new = tuple.__new__
    at = 0
    end = len(text)
    while True:
        found = match_at(text, at)
        if found is None:
            append(Token(UNREADABLE, b"it has a character that is not SQL, or a quote that is not closed", at, end))
            return tokens
        group = found.lastindex or 14
        start, stop = found.span(group)
        if group == 3:
            if text[stop - 1] >= 0x80 and stop < end and text[stop] in _TRAIL_BYTES:
                append(Token(UNREADABLE, b"what follows a letter depends on the client's encoding", start, end))
                return tokens
            append(new(Token, (IDENT, found[3].lower(), start, stop)))
        elif group == 4:
            append(new(Token, (PUNCT, found[4], start, stop)))
        elif group == 5:
            append(new(Token, (STRING, b"", start, stop)))
        elif group == 7:
            append(new(Token, (NUMBER, b"", start, stop)))
        elif group == 11:
            append(new(Token, (OPERATOR, found[11], start, stop)))
        elif group == 6:
            append(new(Token, (QIDENT, found[6][1:-1].replace(b'""', b'"'), start, stop)))
        elif group == 8:
            append(new(Token, (PARAM, b"", start, stop)))
        elif group == 9:
            append(new(Token, (PUNCT, found[9], start, stop)))
        elif group == 14:
            return tokens
        else:
            reason, stop = _read_irregular(text, group, start, stop)
            if reason:
                append(Token(UNREADABLE, reason, start, end))
                return tokens
            if group != 10:
                append(Token(STRING, b"", start, stop))
        at = stop


def _read_irregular(text: bytes, group: int | None, start: int, stop: int) -> tuple[bytes, int]:
    """Read what one regular expression cannot: (why not, or empty; offset behind it)."""
    if group == 10:
        return _skip_comment(text, stop)
    if group == 1:
        if _HIGH_BACKSLASH.search(text, start, stop):
            return b"a backslash in it depends on the client's encoding", stop
        return b"", stop
    if group == 2:
        if text[stop - 1] == 0x22:
            return b'it has a U&"" identifier', stop
        start = stop - 1
    elif group == 12:
        delimiter = text[start:stop]
        closed = text.find(delimiter, stop)
        return (b"", closed + len(delimiter)) if closed >= 0 else (b"a dollar quote is not closed", stop)
    conforming = _STRING_CONFORMING.match(text, start)
    escaping = _STRING_ESCAPING.match(text, start)
    if conforming is None or escaping is None or conforming.end() != escaping.end():
        return b"a quote is not closed, or where it ends depends on standard_conforming_strings", stop
    stop = conforming.end()
    if _HIGH_BACKSLASH.search(text, start, stop):
        return b"a backslash in it depends on the client's encoding", stop
    return b"", stop


def _skip_comment(text: bytes, at: int) -> tuple[bytes, int]:
    """Find the end of a comment whose opening mark ends at `at`: (why not, or empty; offset behind it)."""
    depth = 1
    while depth:
        mark = _COMMENT_MARK.search(text, at)
        if mark is None:
            return b"a comment is not closed", at
        depth += 1 if mark[0] == b"/*" else -1
        at = mark.end()
    return b"", at
