"""Parameters of startup packets and settings of sessions as the pseudo database shows them: nothing secret.

Pure. What an application keeps in settings of its own (`app.token`) is nobody else's business, and a password in a
packet, where it does not belong, is none of anybody's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lib.checks import HIDDEN, is_secret

_CUSTOM = re.compile(r"([\w$]+\.[\w.$]+)(\s*=\s*)(?:'[^']*'|(?:\\.|\S)+)")
_UNSURE = re.compile(r"\\|--|/\*|\$(?![0-9])")
_QUOTE_OR_UNSURE = re.compile(rf"['\"]|{_UNSURE.pattern}")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*(?:''[^']*)*(?:'|$)")
_NUMBER = re.compile(r"(?<![\w$])[0-9][\w.]*")
_MOST = 1000  # characters of a shape that are shown
_PLAIN = re.compile(r"[^\s'\\=]+")


def shown(pairs: Iterable[tuple[str, str]]) -> str:
    """`name=value` as in a connection string."""
    return " ".join(f"{name}={_quoted(_value(name, value))}" for name, value in pairs)


def shape_shown(shape: bytes) -> str:
    """A text without its literals. Where one could be hidden behind something else, what comes before that."""
    text = " ".join(shape.decode("utf-8", "replace").split())
    mark = "/*s*/" if text.startswith("/*s*/") else ""
    rest = text.removeprefix(mark)
    if _UNSURE.search(rest):
        rest = _QUOTE_OR_UNSURE.split(rest, maxsplit=1)[0] + "..."
    return mark + _NUMBER.sub("0", _QUOTED.sub(_without_value, rest))[:_MOST]


def _without_value(found: re.Match[str]) -> str:
    return found[0] if found[0][0] == '"' else "''"


def _value(name: str, value: str) -> str:
    if "." in name or is_secret(name, value):
        return HIDDEN
    return _CUSTOM.sub(rf"\1\2{HIDDEN}", value) if name == "options" else value


def _quoted(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
