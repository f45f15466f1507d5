"""What follows from a SET or RESET without asking, what the backend is asked, and what its answer means."""

from __future__ import annotations

import pytest

from lib.backend import settings
from lib.backend.settings import Memo, Plan
from lib.backend.tuning import AT_DEFAULT

NONE: frozenset[str] = frozenset()
HOME = (("datestyle", "SQL"), ("my.home", "1"))
CURRENT = (("datestyle", "German"), ("my.home", "2"), ("my.own", "3"), ("work_mem", "9MB"))
WITH_ROLE = (*CURRENT, ("role", "r"))


def names(*given: str) -> frozenset[str]:
    return frozenset(given)


def test_what_was_set_is_asked_for():
    assert settings.plan(CURRENT, HOME, names("work_mem", "a"), NONE) == Plan(dict(CURRENT), ("a", "work_mem"), ())


def test_who_becomes_somebody_else_has_another_role_too():
    assert settings.plan((), (), names("session_authorization"), NONE) == Plan(
        {}, ("role", "session_authorization"), ()
    )


@pytest.mark.parametrize(
    ("resets", "expected"),
    [
        (names("work_mem"), Plan(dict(CURRENT[:3]), (), ())),
        (names("never_set"), Plan(dict(CURRENT), (), ())),
        (names("never.set"), Plan(dict(CURRENT), ("never.set",), ())),
        (names("datestyle"), Plan({**dict(CURRENT), "datestyle": "SQL"}, (), HOME[:1])),
        (names("my.own"), Plan({**dict(CURRENT[:2]), "work_mem": "9MB"}, ("my.own",), ())),
        (names("*"), Plan(dict(HOME), ("my.own",), HOME)),
        (names("*", "role", "session_authorization"), Plan(dict(HOME), ("my.own",), HOME)),
    ],
)
def test_what_was_reset_is_as_at_home(resets, expected):
    assert settings.plan(CURRENT, HOME, NONE, resets) == expected


def test_reset_all_leaves_who_one_is():
    plan = settings.plan(WITH_ROLE, HOME, NONE, names("*"))
    assert plan is not None
    assert plan.settings == {**dict(HOME), "role": "r"}
    assert settings.plan(WITH_ROLE, HOME, NONE, names("role")) == Plan(dict(CURRENT), (), ())


@pytest.mark.parametrize(
    ("sets", "resets"),
    [
        (names("*"), NONE),
        (names("a"), names("a")),
        (names("a"), names("*")),
        (NONE, names("session_authorization")),
        (NONE, names("*", "role", "session_authorization")),
    ],
)
def test_what_cannot_be_told_is_asked_in_full(sets, resets):
    assert settings.plan(WITH_ROLE, HOME, sets, resets) is None


# --- answers ---------------------------------------------------------------------------------------------------------


def test_values_are_read_whatever_their_encoding_was():
    assert settings.read([["a", "47c3b6"], ["b", None], ["c", ""]]) == {"a": "G\u00f6", "b": None, "c": ""}
    assert settings.read([["a"]]) is None
    assert settings.read([["a", "nonsense"]]) is None


@pytest.mark.parametrize(
    ("home", "values", "expected"),
    [
        ((), {"work_mem": "1MB"}, (("work_mem", "1MB"),)),
        ((), {"a": None, "role": None}, ()),
        ((("role", "x"),), {"role": None}, (("role", "none"),)),
        ((), {"session_authorization": "me", "role": "y"}, (("role", "y"),)),
        ((("session_authorization", "x"),), {"session_authorization": "me"}, (("session_authorization", "me"),)),
        ((), {"my.own": ""}, (("my.own", AT_DEFAULT),)),
        ((), {"my.set": ""}, (("my.set", ""),)),
    ],
)
def test_what_is_answered_is_what_the_frontend_has(home, values, expected):
    assert settings.with_answer(dict(home), values, "me", home, {"my.set"}) == expected


ALL = {"session_authorization": "me", "role": None, "datestyle": "SQL, DMY", "my.home": "2", "work_mem": "7MB"}


def test_of_all_that_holds_only_what_was_touched_is_taken_over():
    found, back = settings.of_all(CURRENT, HOME, ALL, names("work_mem"), NONE, "me")
    assert (dict(found), back) == ({**dict(CURRENT), "work_mem": "7MB"}, ())


def test_of_all_that_holds_everything_is_taken_over_where_anything_may_have_been_touched():
    found, back = settings.of_all(CURRENT, HOME, ALL, names("*"), NONE, "me")
    assert (dict(found), back) == ({"datestyle": "SQL, DMY", "my.home": "2", "work_mem": "7MB"}, ())


def test_what_a_transaction_has_reset_is_brought_back_from_home():
    values = {"session_authorization": "me", "role": None, "my.home": ""}
    found, back = settings.of_all(CURRENT, HOME, values, names("*"), names("*"), "me")
    assert (found, back) == (HOME, HOME)
    home = (*HOME, ("role", "x"))
    found, back = settings.of_all(home, home, ALL, names("role"), names("role"), "me")
    assert (found, back) == (home, home[2:])
    found, back = settings.of_all(home, home, ALL, names("role"), NONE, "me")
    assert (found, back) == ((*HOME, ("role", "none")), ())


def test_a_backend_is_asked_for_what_no_view_shows_by_name():
    asked = settings.ask_all({"b.c", "a.it's"})
    assert asked.index("'a.it''s'") < asked.index("'b.c'") < asked.index("pg_settings")
    assert "current_setting('role')" in asked


# --- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"select set_config('app.Tenant', '1', false)", {"app.tenant"}),
        (b"select SET_CONFIG ( 'a', $1, false), pg_catalog.set_config('b', 'c', $2)", {"a", "b"}),
        (b"select 1", set()),
        (b"select set_config($1, $2, false)", None),
        (b"select set_config('app.' || 'tenant', '1', false)", None),
        (b"select set_config(E'app\\x2etenant', '1', false)", None),
        (b"select set_config('a', set_config(b, 'c', false), false)", None),
        (b'select "set_config"(\'a\', \'b\', false)', None),
    ],
)
def test_what_set_config_sets_is_told_by_literals(text, found):
    assert settings.named(text) == found


@pytest.mark.parametrize(
    ("text", "is_plain"),
    [
        (b"select set_config('app.tenant', '1', false)", True),
        (b" SELECT pg_catalog.set_config ( 'a' , '' , FALSE ) ; ", True),
        (b"select set_config('a', 'b', false) from t", False),
        (b"select set_config('a', now()::text, false)", False),
        (b"select set_config('a', 'b', false), 1", False),
        (b"select set_config('a', E'\\n', false)", False),
    ],
)
def test_one_set_config_with_literals_surely_sets_what_it_names(text, is_plain):
    assert settings.is_plain(text) is is_plain


def test_what_depends_on_more_than_its_text_is_not_remembered():
    assert settings.may_be_remembered(b"set a = 1", names("a"))
    assert not settings.may_be_remembered(b"set datestyle = dmy", names("datestyle"))
    assert not settings.may_be_remembered(b"set a = '" + b"x" * 1000, names("a"))


def test_the_memo_keeps_those_that_were_used_last():
    memo = Memo(2)
    memo.put("a", 1)
    memo.put("b", 2)
    memo.put(None, 3)
    assert memo.get("a") == 1
    memo.put("c", 3)
    assert [memo.get(key) for key in ("a", "b", "c", None)] == [1, None, 3, None]
    assert repr(memo) == "<Memo 2 of 2>"
    memo.forget()
    assert len(memo) == 0
