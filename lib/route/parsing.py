"""Which settings make Parse take the same text for something else, and what surely leaves those alone.

Pure. What is parsed while one of them may have been changed by a transaction that is not over must not be taken for
what others parse. So a text is believed only as far as it shows plainly what it sets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lib.route.verdict import Kind, Verdict

# By their names in lower case.
SETTINGS = frozenset(
    (
        "array_nulls", "backslash_quote", "client_encoding", "datestyle", "escape_string_warning", "intervalstyle",
        "lc_monetary", "lc_numeric", "lc_time", "role", "search_path", "session_authorization",
        "standard_conforming_strings", "timezone", "timezone_abbreviations", "transform_null_equals", "xmloption",
    )
)  # fmt: skip
# Words behind SET that stand for one of them.
WORDS = frozenset(("time", "names", "schema", "role", "session"))

_SETS = re.compile(rb"\bset(?:_config)?\b", re.I)
# SET [LOCAL] name = ..., SET TRANSACTION ..., set_config('name', ...
_PLAIN = re.compile(
    rb"\bset\s+(?:(?:local|session)\s+)?([a-z_][\w$.]*)\s*(?:=|\bto\b)"
    rb"|\bset\s+(?:transaction|constraints)\b"
    rb"|\bset_config\s*\(\s*'([a-z_][\w$.]*)'\s*,",
    re.I,
)


def is_kept(verdict: Verdict, texts: Iterable[bytes]) -> bool:
    """Whether running `texts`, of which `verdict` is what holds for all, has surely changed none of SETTINGS."""
    if verdict.kind <= Kind.WRITE and not verdict.local_sets:
        return True
    if verdict.kind > Kind.SETTING:
        return False
    names = verdict.sets | verdict.resets | verdict.local_sets | verdict.local_resets
    if not SETTINGS.isdisjoint(names) or "*" in verdict.resets:
        return False
    return all(map(_shows_others, texts))


def _shows_others(text: bytes) -> bool:
    # Every `set` in the text is one whose name is seen: what is hidden by a comment or a quote is one more, or escaped.
    if b'&"' in text:
        return False
    plain = _PLAIN.findall(text)
    return len(plain) == len(_SETS.findall(text)) and not any(
        (name or called).decode().lower() in SETTINGS | WORDS for name, called in plain
    )
