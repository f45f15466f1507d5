"""Whether a word of pg_hba.conf or pg_ident.conf means this role or database: yes, no, or it cannot be known here.

Pure. The third answer is there because the server's regular expressions are not Python's: what is the same in both is
tried, and everything else is answered with None, which callers must take for the safer side.

source: auth-pg-hba-conf.html; functions-matching.html#FUNCTIONS-POSIX-REGEXP
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection

from lib.auth.hbatext import Word

REGEX_IN_RULES = 160000  # since PostgreSQL 16 a word that begins with / is a regular expression

_CLASSES = {
    "alpha": "a-zA-Z", "digit": "0-9", "alnum": "a-zA-Z0-9", "upper": "A-Z", "lower": "a-z", "xdigit": "0-9A-Fa-f",
    "space": r" \t\n\r\f\v",
}  # fmt: skip
_SAME_ESCAPES = frozenset("dswDSWAZ") | frozenset("/.^$*+?()[]{}|\\-@")


@functools.lru_cache(maxsize=1000)
def regex(pattern: str) -> re.Pattern[str] | None:
    """The server's regular expression as Python's, or None when the two may not mean the same."""
    translated = re.sub(r"\[:(\w+):\]", lambda found: _CLASSES.get(found[1], "[:"), pattern)
    if translated.startswith("***") or re.search(r"\[[:.=]|\(\?(?![:=!])|[*+?}]\+|\{,|&&|--|~~|\|\|", translated):
        return None
    if not all(escaped[1:] in _SAME_ESCAPES for escaped in re.findall(r"\\.?", translated, re.DOTALL)):
        return None
    try:
        return re.compile(translated, re.ASCII | re.DOTALL)
    except (re.error, RecursionError, OverflowError):
        return None


def search(pattern: str, name: str) -> re.Match[str] | bool | None:
    """The match, False for none, or None when it cannot be known."""
    compiled = regex(pattern)
    # ASCII because the server matches with the C collation; $ before a last newline is Python's own idea.
    if compiled is None or "\n" in name or (not name.isascii() and not pattern.isascii()):
        return None
    return compiled.search(name) or False


def _found(pattern: str, name: str) -> bool | None:
    match = search(pattern, name)
    return None if match is None else bool(match)


def any_of(answers: list[bool | None]) -> bool | None:
    """True when one is, None when one may be, else False."""
    if True in answers:
        return True
    return None if None in answers else False


def role(word: Word, user: str, roles: Collection[str], version: int) -> bool | None:
    """Whether the word means this user: a name, all, +group, /regex.

    roles    every role that the user is a member of, directly or not, itself included; empty for an unknown user
    """
    if not word.quoted and word.text.startswith("+"):
        return word.text[1:] in roles
    if word.is_keyword("all"):
        return True
    if version >= REGEX_IN_RULES and word.text.startswith("/"):
        return _found(word.text[1:], user)
    return word.text == user


def database(word: Word, name: str, user: str, roles: Collection[str], version: int) -> bool | None:
    """Whether the word means this database for a connection that is not for replication."""
    if word.is_keyword("all"):
        return True
    if word.is_keyword("sameuser"):
        return name == user
    if word.is_keyword("samerole") or word.is_keyword("samegroup"):
        return name in roles
    if word.is_keyword("replication"):
        return False
    if version >= REGEX_IN_RULES and word.text.startswith("/"):
        return _found(word.text[1:], name)
    return word.text == name
