"""The shape of a text: what is left when literals that cannot change its verdict are taken out. The key of the memo.

Pure. Numbers that stand alone become 0 and '...' strings become ''. Nothing else is touched, and nothing at all where a
quote, comment or digit could be something else: with a backslash, a comment, or a "$" that is no parameter the whole
text is its own shape. classify.py looks at no value of a literal, so classify(text) == classify(shape(text)).
"""

from __future__ import annotations

import re

MAX_SHAPED = 16384  # bytes; a longer text is its own shape

# Digit first, then the look behind it: so the search skips to digits at the speed of C.
_NUMBER = re.compile(rb"[0-9](?<![A-Za-z0-9_$\x80-\xff][0-9])[0-9]*+")
_STRING = re.compile(rb"'[^']*+(?:''[^']*+)*+'")
_LITERAL_OR_NAME = re.compile(rb'"[^"]*+"|' + _STRING.pattern + rb"|" + _NUMBER.pattern)
_NO_PARAMETER = re.compile(rb"\$(?![0-9])")


def shape(text: bytes) -> bytes:
    """Take the literals out of `text`.

    text     a statement text as in Query or Parse, without the trailing NUL
    returns  a text with the same verdict: numbers are 0, strings are empty; or `text` itself
    """
    if (
        b"\\" in text
        or b"--" in text
        or len(text) > MAX_SHAPED
        or text.find(b"/*", 5 if text[:5] == b"/*s*/" else 0) >= 0
        or (b"$" in text and _NO_PARAMETER.search(text))
    ):
        return text
    if b'"' in text:
        return _LITERAL_OR_NAME.sub(_without_literal, text)
    if b"'" in text:
        text = _STRING.sub(b"''", text)
    return _NUMBER.sub(b"0", text)


def _without_literal(found: re.Match[bytes]) -> bytes:
    literal = found[0]
    return literal if literal[0] == 0x22 else b"''" if literal[0] == 0x27 else b"0"
