"""pg_ident.conf: which operating system's user may be which role, for the method peer."""

from __future__ import annotations

import pytest

from lib.auth import ident
from lib.auth.hbatext import NeedsText
from lib.errors import RulesUnusable

V14, V15, V16 = 140009, 150010, 160004
FILE = "/data/pg_ident.conf"


def allows(text, system_user, user, version=V16, roles=None, map_name="m"):
    rows = ident.rows_of_text(text, FILE, version)
    maps = ident.parse(rows, {FILE: text}, version)
    return ident.allows(maps, map_name, system_user, user, {user} if roles is None else roles, version)


@pytest.mark.parametrize("map_name", [None, ""])
def test_without_a_map_both_names_have_to_be_the_same(map_name):
    assert ident.allows((), map_name, "bob", "bob", {"bob"}, V16)
    assert not ident.allows((), map_name, "bob", "alice", {"alice"}, V16)


@pytest.mark.parametrize(
    ("text", "system_user", "user", "allowed"),
    [
        ("m os_bob bob", "os_bob", "bob", True),
        ("m os_bob bob", "os_bob", "alice", False),
        ("m os_bob bob", "os_alice", "bob", False),
        ("other os_bob bob", "os_bob", "bob", False),
        ("m a x\nm a y", "a", "y", True),
        (r"m /^(.*)@example$ \1", "bob@example", "bob", True),
        (r"m /^(.*)@example$ \1", "bob@example", "alice", False),
        (r"m /^(.*)@example$ app_\1", "bob@example", "app_bob", True),
        (r"m /^.*$ \1", "bob", "bob", False),
        ("m /^adm bob", "admin", "bob", True),
        (r"m /\yadm bob", "admin", "bob", False),
        (r"m /^(.*)$ \1", "all", "alice", False),
    ],
)
def test_a_map_is_applied_line_by_line(text, system_user, user, allowed):
    assert allows(text, system_user, user) is allowed
    assert allows(text, system_user, user, V14) is allowed


def test_all_groups_and_regular_expressions_for_the_role_came_with_16():
    for text, roles in (("m root all", {"bob"}), ("m root +staff", {"bob", "staff"}), ("m root /^b", {"bob"})):
        assert allows(text, "root", "bob", V16, roles)
        assert not allows(text, "root", "bob", V15, roles)


def test_a_quoted_all_is_a_name():
    assert not allows('m root "all"', "root", "bob")
    assert allows('m root "all"', "root", "all")


def test_quotes_are_read_from_the_text_of_the_file():
    row = {"file_name": FILE, "line_number": 1, "map_name": "m", "sys_name": "a", "pg_username": "all", "error": None}
    with pytest.raises(NeedsText):
        ident.parse([row], {}, V16)
    with pytest.raises(RulesUnusable):
        ident.parse([row], {FILE: "m a b"}, V16)


def test_a_line_with_an_error_makes_the_file_unusable():
    with pytest.raises(RulesUnusable, match="line 2"):
        allows("m a b\nm a", "a", "b")
