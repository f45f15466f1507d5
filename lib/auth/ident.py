"""pg_ident.conf: whether an operating system's user may be this PostgreSQL user, for the method peer.

Pure. Maps come from the view pg_ident_file_mappings (PostgreSQL 15 and newer) or, before it existed, from the text of
the file. What cannot be known here (a regular expression that only the server can evaluate) is a no.

source: auth-username-maps.html, view-pg-ident-file-mappings.html
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from lib.auth import matching
from lib.auth.hbatext import NeedsText, Word, expand, fields, line_at, lines
from lib.errors import RulesUnusable


class UserMap(NamedTuple):
    """One line of pg_ident.conf: the map's name, the operating system's user, the PostgreSQL user."""

    map: str
    system_user: str
    pg_user: Word


def parse(rows: Iterable[Mapping[str, Any]], texts: Mapping[str, str | None], version: int) -> tuple[UserMap, ...]:
    """Build the maps from the rows of pg_ident_file_mappings, or from rows_of_text().

    raises   NeedsText for a file that is missing in texts; RulesUnusable when a line has an error
    """
    maps = []
    for row in rows:
        if row.get("error"):
            raise RulesUnusable(f"line {row['line_number']} of {row['file_name']}: {row['error']}")
        pg_user = Word(row["pg_username"])
        if version >= matching.REGEX_IN_RULES and (pg_user.text == "all" or pg_user.text.startswith("+")):
            pg_user = _with_quotes(row, texts, version)
        maps.append(UserMap(row["map_name"], row["sys_name"], pg_user))
    return tuple(maps)


def _with_quotes(row: Mapping[str, Any], texts: Mapping[str, str | None], version: int) -> Word:
    name = row["file_name"]
    if name not in texts:
        raise NeedsText(name)
    line = line_at(texts[name] or "", row["line_number"], version)
    words = [word for field in fields(line or "") for word in expand(field, name, texts, version)]
    if len(words) < 3 or words[2].text != row["pg_username"]:
        raise RulesUnusable(f"{name} changed while it was read")
    return words[2]


def rows_of_text(text: str, file_name: str, version: int) -> list[dict[str, Any]]:
    """The text of pg_ident.conf as rows of the view, for the servers that do not have it (up to 14)."""
    rows: list[dict[str, Any]] = []
    for number, line in lines(text, version):
        found = fields(line)
        row: dict[str, Any] = {"file_name": file_name, "line_number": number, "error": None}
        if len(found) < 3 or any(len(field) > 1 for field in found[:3]):
            row["error"] = "not a map, a system user and a PostgreSQL user"
        else:
            names = ("map_name", "sys_name", "pg_username")
            row.update(zip(names, (field[0].text for field in found), strict=False))
        rows.append(row)
    return rows


def allows(
    maps: Iterable[UserMap], map_name: str | None, system_user: str, user: str, roles: Collection[str], version: int
) -> bool:
    """Whether the operating system's user may log in as `user`.

    map_name   the map= option of the rule; None or empty when both names have to be the same
    roles      every role that the user is a member of, directly or not, itself included
    """
    if not map_name:
        return system_user == user
    return any(_allows(each, system_user, user, roles, version) for each in maps if each.map == map_name)


def _allows(each: UserMap, system_user: str, user: str, roles: Collection[str], version: int) -> bool:
    pg_user = each.pg_user
    special = version >= matching.REGEX_IN_RULES
    if each.system_user.startswith("/"):
        match = matching.search(each.system_user[1:], system_user)
        if not match or match is True:
            return False
        is_group = not pg_user.quoted and pg_user.text.startswith("+")
        is_name = not special or not (is_group or pg_user.text.startswith("/"))
        if is_name and "\\1" in pg_user.text:
            if not match.re.groups or match[1] is None:
                return False
            return pg_user.text.replace("\\1", match[1], 1) == user  # a name now, whatever it looks like
    elif each.system_user != system_user:
        return False
    if not special:
        return pg_user.text == user
    return matching.role(pg_user, user, roles, version) is True
