"""`synchronous_standby_names`: how many of whom a commit waits for, and what follows from that. Pure.

Whether a commit was acknowledged by k of n members is known of none of them alone; but any n - k + 1 members have one
among them that has it. So many must answer before a new primary is chosen, and then the one with the newest WAL has all
that was ever acknowledged.

source: runtime-config-replication.html#GUC-SYNCHRONOUS-STANDBY-NAMES
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

_WORD = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([^\s,()"]+)|([,()]))')


class Rule(NamedTuple):
    """`method` number (names); no names: nothing is waited for. '*' stands for everybody."""

    method: str = "FIRST"
    number: int = 0
    names: tuple[str, ...] = ()

    @property
    def is_for_all(self) -> bool:
        return "*" in self.names

    def has(self, name: str) -> bool:
        """Whether a standby of this application_name is a member."""
        return self.is_for_all or name.lower() in {each.lower() for each in self.names}

    def render(self) -> str:
        if not self.names:
            return ""
        names = ", ".join(each if each == "*" else _quoted(each) for each in self.names)
        return f"{self.method} {self.number} ({names})"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def parse(text: str) -> Rule:
    """The rule; what cannot be read is taken for one that everybody is a member of, which is the careful way."""
    words: list[tuple[str, bool]] = []  # (text, whether it is a name for sure)
    position, text = 0, text.strip()
    while position < len(text):
        found = _WORD.match(text, position)
        if found is None:
            return Rule("FIRST", 1, ("*",))
        quoted, plain, sign = found.groups()
        words.append((quoted.replace('""', '"'), True) if quoted else (plain or sign, False))
        position = found.end()
    if not words:
        return Rule()
    method, number = "FIRST", 1
    signs = [word for word, is_name in words if not is_name]
    if "(" in signs:
        at = words.index(("(", False))
        head = [word for word, _ in words[:at]]
        if head and head[0].upper() in ("ANY", "FIRST"):
            method = head.pop(0).upper()
        if len(head) != 1 or not head[0].isdigit():
            return Rule("FIRST", 1, ("*",))
        number = int(head[0])
        words = words[at + 1 :]
    names = tuple(word for word, is_name in words if is_name or word not in (",", "(", ")"))
    return Rule(method, number, names)


def needed_answers(rule: Rule, seen: Collection[str]) -> int:
    """How many members must answer before one of them may be promoted.

    seen   application_names of the standbys that the primary was seen with, for a rule that names nobody
    """
    if not rule.names:
        return 0
    members = len(set(seen)) if rule.is_for_all else len(rule.names)
    return max(1, members - rule.number + 1)


def satisfiable(rule: Rule, standbys: Collection[str]) -> Rule:
    """The rule that a new primary can keep with these standbys: the same one where it can.

    standbys   application_names of those that follow it, or soon will
    """
    members = {name for name in standbys if rule.has(name)}
    if not rule.names or len(members) >= rule.number:
        return rule
    return rule._replace(number=len(members)) if members else Rule()
