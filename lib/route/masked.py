"""A statement's text as it may be shown and logged: without what its literals and comments say.

Pure. `route.shape` leaves texts alone that it is not sure of; here nothing may be let through, so that what cannot be
read for certain is left out with all that follows it.
"""

from __future__ import annotations

from lib.route.lex import NUMBER, STRING, UNREADABLE, lex

MOST = 1000  # characters
_READ = 8192  # bytes; what is behind them is left out


def masked(text: bytes) -> str:
    """`text` with strings and numbers as `?`, without comments and with single blanks."""
    parts: list[bytes] = []
    stop = 0
    for token in lex(text[:_READ]):
        if token.kind == UNREADABLE:
            parts.append(b" ...")
            break
        if parts and token.start > stop:
            parts.append(b" ")
        parts.append(b"?" if token.kind in (STRING, NUMBER) else text[token.start : token.stop])
        stop = token.stop
    shown = b"".join(parts).decode(errors="replace").strip()
    return shown if len(shown) <= MOST else shown[: MOST - 4] + " ..."
