"""The shape of a text: what is left when what cannot change its verdict is taken out. The key of the memo.

Pure. Numbers that stand alone become 0 and '...' strings become ''; lists of them become one, and so do rows that are
then alike, so that an IN list or a bulk INSERT of any length is looked at once and cheaply. Nothing is touched where a
quote, comment or digit could be something else: with a backslash, a comment, or a "$" that is no parameter, the whole
text is its own shape. classify.py looks at no value of a literal and counts none: classify(shape(text)) says the same.
"""

from __future__ import annotations

import re

from lib.route.lex import MAX_TEXT

MIN_ROWS = 200  # bytes; a shorter text is not searched for rows that are alike

# Digit first, then the look behind it: so the search skips to digits at the speed of C.
_NUMBER = re.compile(rb"[0-9](?<![A-Za-z0-9_$\x80-\xff][0-9])[0-9]*+")
_STRING = re.compile(rb"'[^']*+(?:''[^']*+)*+'")
_NAME = rb'"[^"]*+"'
_LITERAL_OR_NAME = re.compile(_NAME + rb"|" + _STRING.pattern + rb"|" + _NUMBER.pattern)
_NO_PARAMETER = re.compile(rb"\$(?![0-9])")
_LIST = re.compile(
    rb"0(?<![A-Za-z0-9_$.\x80-\xff]0)(?:\s*,\s*0(?![A-Za-z0-9_$.\x80-\xff]))+"  # 0, 0, 0
    rb"|''(?:\s*,\s*'')+"  # '', '', ''
)
_LIST_OR_NAME = re.compile(_NAME + rb"|" + _LIST.pattern)
_ROWS = re.compile(_NAME + rb"|(\((?:[^()'\"]|'')*+\))(?:\s*,\s*\1)+")


def shape(text: bytes) -> bytes:
    """Take the literals out of `text`.

    text     a statement text as in Query or Parse, without the trailing NUL
    returns  a text with the same verdict: numbers are 0, strings are empty, repetitions are left out; or `text` itself
    """
    if (
        b"\\" in text
        or b"--" in text
        or len(text) > MAX_TEXT
        or text.find(b"/*", 5 if text[:5] == b"/*s*/" else 0) >= 0
        or (b"$" in text and _NO_PARAMETER.search(text))
    ):
        return text
    if b'"' in text:
        text = _LITERAL_OR_NAME.sub(_without_literal, text)
        text = _LIST_OR_NAME.sub(_first_of_list, text)
    else:
        if b"'" in text:
            text = _STRING.sub(b"''", text)
        text = _NUMBER.sub(b"0", text)
        if b"0, 0" in text or b"0,0" in text or b"'', ''" in text or b"'',''" in text:
            text = _LIST.sub(_first_of_list, text)
    if len(text) >= MIN_ROWS and (b"), (" in text or b"),(" in text):
        text = _ROWS.sub(_first_row, text)
    return text


def _without_literal(found: re.Match[bytes]) -> bytes:
    literal = found[0]
    return literal if literal[0] == 0x22 else b"''" if literal[0] == 0x27 else b"0"


def _first_of_list(found: re.Match[bytes]) -> bytes:
    items = found[0]
    return items if items[0] == 0x22 else b"''" if items[0] == 0x27 else b"0"


def _first_row(found: re.Match[bytes]) -> bytes:
    return found[1] or found[0]
