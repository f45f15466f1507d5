"""The prepared statements of one backend: what it has, and what it must be given before a unit."""

from __future__ import annotations

from struct import pack
from types import SimpleNamespace

import pytest

from lib.backend.statements import Statements
from lib.wire.described import columns, miscounted
from lib.wire.prepared import Prepared, Registry, Resolver, Watch
from tests.cluster.wire import SYNC, bind, bind_as, describe, execute, message, parse

NEAR, FAR = (("search_path", "near"),), (("search_path", "far"),)
TOLD = b"t\0\0\0\6\0\0"


def made(registry: Registry, text: str, settings: object = NEAR) -> Prepared:
    return Prepared(registry.statement(text.encode() + b"\0\0\0", settings, "database"), b"s")


def of_two() -> Statements:
    return Statements(SimpleNamespace(max_prepared_statements=2))  # type: ignore[arg-type]


def sent(lead: list) -> list[tuple[str, bytes]]:
    return [(chr(raw[0]), raw[5:].lstrip(b"S").split(b"\0")[0]) for raw, _ in lead]


def test_the_same_text_with_the_same_settings_is_one_statement():
    registry = Registry()
    first, same, other = made(registry, "select 1"), made(registry, "select 1"), made(registry, "select 1", FAR)
    assert first.statement is same.statement is not other.statement
    assert registry.private(b"select 1\0\0\0") is not first.statement


def test_what_is_missing_is_parsed_once_and_the_one_used_last_stays():
    statements, registry = of_two(), Registry()
    one, two, three = (made(registry, f"select {number}") for number in range(3))
    names = [each.statement.name for each in (one, two, three)]
    assert sent(statements.lead([one], [])) == [("P", names[0])]
    assert sent(statements.lead([two], [])) == [("P", names[1])]
    assert sent(statements.lead([one], [])) == []
    assert sent(statements.lead([three], [])) == [("C", names[1]), ("P", names[2])]
    assert one.statement in statements and two.statement not in statements


def test_what_a_frontend_parses_itself_is_closed_first_so_that_it_hears_what_is_wrong_now():
    statements, registry = of_two(), Registry()
    one = made(registry, "select 1")
    statements.lead([one], [])
    assert sent(statements.lead([], [one])) == [("C", one.statement.name)]
    assert one.statement not in statements


def test_messages_that_an_error_has_skipped_have_done_nothing():
    statements, registry = of_two(), Registry()
    one, two, three = (made(registry, f"select {number}") for number in range(3))
    statements.lead([one, two], [])
    lead = statements.lead([three], [])
    assert sent(lead) == [("C", one.statement.name), ("P", three.statement.name)]
    assert statements.failed(lead, unanswered=2)
    assert three.statement not in statements
    assert sent(statements.lead([one], []))[:2] == [("C", one.statement.name), ("P", one.statement.name)]


def test_what_is_parsed_anew_to_be_asked_after_is_not_closed_by_what_was_put_off():
    """Riders that were moved had parsed it, so it was to be closed; then it was asked what it is, and closed after
    that: the next who used it was told that it does not exist."""
    statements, registry = of_two(), Registry()
    one, two = made(registry, "select 1"), made(registry, "select 2")
    statements.doubt(statements.lead([one], []))
    assert statements.question(one).startswith(one.statement.close + one.statement.parse)
    statements.answered(one, TOLD)
    assert sent(statements.lead([two], [])) == [("P", two.statement.name)]
    assert sent(statements.lead([one], [])) == []


def test_when_nobody_knows_what_is_left_all_is_closed_before_it_is_parsed_again():
    statements, registry = of_two(), Registry()
    one = made(registry, "select 1")
    statements.lead([one], [])
    statements.forget()
    assert sent(statements.lead([one], [])) == [("C", one.statement.name), ("P", one.statement.name)]
    lead = statements.lead([made(registry, "select 2")], [])
    statements.doubt(lead)
    assert [tag for tag, _ in sent(statements.lead([one], []))] == ["C"]


def test_a_statement_is_doubtful_when_it_cannot_be_parsed_here_or_may_not_be_what_was_told():
    statements, registry = of_two(), Registry()
    one = made(registry, "select 1")
    assert statements.doubtful([one], NEAR, is_strict=False) is None
    assert statements.doubtful([one], FAR, is_strict=False) is one
    statements.lead([one], [])
    assert statements.doubtful([one], FAR, is_strict=False) is None
    one.told = TOLD
    assert statements.doubtful([one], NEAR, is_strict=False) is one
    assert not statements.parses_for(one)
    statements.answered(one, TOLD)
    assert statements.doubtful([one], NEAR, is_strict=False) is None
    statements.answered(one, TOLD + b"x")
    assert statements.parses_for(one)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((), 'bind message supplies 0 parameters, but prepared statement "s" requires 1'), (("1",), ""), ((None,), ""),
        (("1", "2"), 'bind message supplies 2 parameters, but prepared statement "s" requires 1'),
    ],
)  # fmt: skip
def test_a_bind_with_another_number_of_parameters_is_found(values, said):
    """The server says so before it finds that the columns have changed; so has the pool to."""
    one = made(Registry(), "select $1")
    name = one.statement.name.decode()
    told = b"t\0\0\0\x0a\0\1\0\0\0\x17"
    rest = bind("1", "2", name="other") + describe() + execute() + SYNC
    assert miscounted(bind(*values, name=name) + rest, one.statement.name, b"s", told) == said
    binary = bind_as([1] * len(values), [each and each.encode() for each in values], [1], name)
    assert miscounted(rest + binary, one.statement.name, b"s", told) == said


def test_what_is_behind_a_parse_that_must_fail_need_not_be_there():
    """Otherwise it is asked after, and what is wrong with it is said in the place of what is wrong with the Parse."""
    registry = Registry()
    one = made(registry, "select 1")
    resolver = Resolver(lambda name: one, lambda body, name, unit: made(registry, "select 2"))
    resolver.take_all(parse("select 2", "s") + describe("S", "s") + bind(name="s") + execute() + SYNC)
    assert [raw[:1] for raw in resolver.first] == [b"C", b"P"]
    assert resolver.uses == []
    resolver = Resolver(lambda name: one, lambda body, name, unit: made(registry, "select 2"))
    resolver.take_all(describe("S", "s") + bind(name="s") + execute() + SYNC)
    assert resolver.uses == [one]


def test_what_nobody_knows_how_it_was_parsed_is_parsed_anew_when_settings_have_changed():
    statements, registry = of_two(), Registry()
    known, loose = made(registry, "select 1"), Prepared(registry.private(b"select 2\0\0\0"), b"t")
    statements.lead([known, loose], [])
    statements.settings_changed()
    assert sent(statements.lead([known, loose], [])) == [("C", loose.statement.name), ("P", loose.statement.name)]
    assert sent(statements.lead([known, loose], [])) == []


def test_what_its_holder_has_parsed_itself_is_left_to_the_server_until_it_leaves():
    statements, registry = of_two(), Registry()
    own = Prepared(registry.private(b"select 1\0\0\0"), b"s")
    statements.lead([], [own])
    statements.made(own)
    statements.settings_changed()
    assert own.statement in statements
    statements.settings_changed(is_over=True)
    assert own.statement not in statements
    assert sent(statements.lead([own], [])) == [("C", own.statement.name), ("P", own.statement.name)]
    statements.settings_changed()
    assert own.statement not in statements


def resolved(*messages: bytes, **statements: Prepared) -> Resolver:
    resolver = Resolver(lambda name: statements.get(name.decode()), lambda body, name, unit: made(Registry(), "new"))
    resolver.take_all(b"".join(messages) + SYNC)
    return resolver


def test_a_portal_is_that_of_its_last_bind():
    registry = Registry()
    one, two = made(registry, "select 1"), made(registry, "select 2")
    found = resolved(bind(name="s"), execute(), bind(name="t"), describe(), execute(), s=one, t=two)
    assert (found.described, found.is_strict) == ([two], True)
    found = resolved(bind(name="s"), describe(), execute(), bind(name="t"), describe(), execute(), s=one, t=two)
    assert (found.described, found.is_strict) == ([one, two], False)
    found = resolved(bind(name="s"), execute(), parse("select 3"), bind(), describe(), execute(), s=one)
    assert (found.described, found.is_strict) == ([None], True)
    found = resolved(bind(name="s"), describe(), describe(), s=one)
    assert (found.described, found.is_strict) == ([one, one], False)


def test_what_a_frontend_was_told_of_a_portal_last_is_what_it_knows():
    one = made(Registry(), "select 1")
    before, after = (message(b"T", pack("!h", 1) + name + bytes(19)) for name in (b"old", b"new"))
    for row in (before, after, after):
        Watch([one]).received(ord("T"), row)
        assert one.row == row
        assert not one.differs(TOLD + columns(row), is_strict=True)
    assert one.differs(TOLD + columns(before), is_strict=True)
    assert not one.differs(TOLD + columns(before), is_strict=False)


def test_what_nobody_knows_how_it_was_parsed_is_asked_after_last():
    """It was asked after first, and the settings of the other one, set to ask after that, took it away: for ever."""
    statements, registry = of_two(), Registry()
    known, loose = made(registry, "select 1"), Prepared(registry.private(b"select 2\0\0\0"), b"t")
    known.told = loose.told = TOLD
    assert statements.doubtful([loose, known], FAR, is_strict=True) is known
    statements.answered(known, TOLD)
    assert statements.doubtful([loose, known], FAR, is_strict=True) is loose
    statements.answered(loose, TOLD)
    assert statements.doubtful([loose, known], FAR, is_strict=True) is None
