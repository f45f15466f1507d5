"""Pool modes: what the conf file may say, which rule counts, names with @ro, and who may be idle."""

import pytest

from lib import modes
from lib.config import make
from lib.errors import ConfigError
from lib.modes import Condition, PoolMode, Silence, meets, mode_of, read_only, without_suffix

NEEDED = {"admin_cnn": {"user": "postgres"}, "master": ("10.0.0.1", 5432)}


def complaint(text=False, **given):
    needed = {"admin_cnn": {"user": "postgres"}, "master": "10.0.0.1:5432"} if text else NEEDED
    with pytest.raises(ConfigError) as caught:
        make({**needed, **given}, text=text)
    (only,) = caught.value.complaints
    return only


RULES = [
    {"user": "report", "database": "shop", "pool_mode": "Session", "max_workers": 5},
    {"user": "report", "pool_mode": "transaction"},
    {"database": "legacy", "pool_mode": "session"},
]


def test_the_first_rule_that_matches_counts_and_else_the_default():
    settings = make({**NEEDED, "pool_modes": RULES, "max_workers": 7})
    for user, database, mode, limit in [
        ("report", "shop", "session", 5),
        ("report", "legacy", "transaction", 7),
        ("app", "legacy", "session", 7),
        ("app", "shop", "statement", 7),
    ]:
        assert mode_of(settings, user, database) == (mode, limit)


def test_rules_are_shown_as_they_are_given():
    settings = make({**NEEDED, "pool_modes": RULES[1:], "pool_mode": "TRANSACTION"})
    assert settings.pool_mode == "transaction"
    assert f"* pool_modes             = {RULES[1:]!r}   (default: [])" in settings.show().splitlines()


def test_an_ini_file_has_rules_and_conditions_in_sub_sections():
    given = {
        "admin_cnn": {"user": "postgres"},
        "master": "10.0.0.1:5432",
        "active_cnn_timeout": "300",
        "pool_modes": {"reports": {"user": "report", "pool_mode": "session", "max_workers": "7"}},
        "disable_conds_list": {"batch": {"user": "batch", "dbname": "shop"}},
    }
    settings = make(given, text=True)
    assert settings.pool_modes == (PoolMode("session", user="report", max_workers=7),)
    assert settings.disable_conds_list == ((Condition("user", "batch"), Condition("database", "shop")),)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([{"user": "a", "pool_mode": "sessions"}], "pool_modes[0]['pool_mode'] is 'sessions': wanted one of"),
        ([{"user": "a"}], "pool_modes[0]['pool_mode'] is missing: wanted 'statement', 'transaction' or 'session'"),
        ([{"dbname": "a", "pool_mode": "session"}], "pool_modes[0]['dbname'] is given: wanted 'database'"),
        ([{"pool_mode": "session", "pool_size": 5}], "pool_modes[0]['pool_size'] is given: wanted 'max_workers'"),
        ([{"pool_mode": "session", "host": "x"}], "pool_modes[0]['host'] is given: wanted only 'user', 'database', "),
        ([{"user": "a@ro", "pool_mode": "session"}], "pool_modes[0]['user'] is a str that is not shown here: wanted"),
        ([{"user": 7, "pool_mode": "session"}], "pool_modes[0]['user'] is 7: wanted the name of a user"),
        ([{"pool_mode": "session", "max_workers": -1}], "pool_modes[0]['max_workers'] is -1: wanted a whole number"),
        (["session"], "pool_modes[0] is of type str: wanted a dict"),
        ("session", "pool_modes is of type str: wanted a list of dicts"),
    ],
)
def test_a_rule_that_cannot_be_is_told_with_what_is_wanted(given, said):
    assert complaint(pool_modes=given).startswith(said)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([[]], "disable_conds_list[0] is empty: wanted a list of (name, value)"),
        ([("user", "a")], "disable_conds_list[0][0] is 'user': wanted (name, value), two strings"),
        ([[("user", 7)]], "disable_conds_list[0][0] is ('user', 7): wanted (name, value), two strings"),
        (["user"], "disable_conds_list[0] is of type str: wanted a list of (name, value)"),
        (7, "disable_conds_list is of type int: wanted a list of lists"),
    ],
)
def test_conditions_that_cannot_be_are_told_with_what_is_wanted(given, said):
    with pytest.raises(ConfigError) as caught:
        make({**NEEDED, "active_cnn_timeout": 1, "disable_conds_list": given})
    assert caught.value.complaints[0].startswith(said)


def test_conditions_without_a_timeout_are_doubted():
    (said,) = make({**NEEDED, "disable_conds_list": [[("user", "a")]]}).warnings
    assert said.startswith("disable_conds_list is given, but active_cnn_timeout is 0")


def test_the_older_name_of_the_idle_timeout_means_the_same():
    assert make({**NEEDED, "idle_cnn_timeout": 300}).idle_timeout == 300
    assert make({**NEEDED, "client_idle_timeout": 300}).active_cnn_timeout == 300
    assert complaint(idle_cnn_timeout=1, idle_timeout=1) == (
        "idle_cnn_timeout is given beside idle_timeout: wanted one of them"
    )
    assert complaint(idle_cnn_timeout=-1).startswith("idle_timeout is -1: wanted a number of seconds")


def test_the_suffix_is_taken_off_names_that_have_it():
    assert without_suffix("app@ro") == ("app", True)
    assert without_suffix("app@ro@ro") == ("app@ro", True)
    for name in ("app", "app@RO", "app@rw", "@ro", "ro"):
        assert without_suffix(name) == (name, False)


def test_who_reads_only_does_not_write_on_a_primary_either_unless_it_says_so_itself():
    assert read_only([("a", "b")]) == (("a", "b"), ("default_transaction_read_only", "on"))
    said = (("Default_Transaction_Read_Only", "off"),)
    assert read_only(said) == said


def test_all_conditions_of_one_list_have_to_be_met():
    lists = [[Condition("user", "report"), Condition("database", "shop")], [Condition("application_name", "psql")]]
    assert meets(lists, {"user": ("report",), "database": ("shop",)})
    assert meets(lists, {"user": ("report@ro", "report"), "database": ("shop",)})
    assert meets(lists, {"user": ("x",), "application_name": ("psql",)})
    assert not meets(lists, {"user": ("report",), "database": ("other",)})
    assert not meets([], {"user": ("report",)})


def test_silence_is_counted_from_the_last_look_that_saw_or_heard_something():
    silence = Silence(100.0)
    assert silence.look(103.0, is_busy=False) == 3.0
    assert silence.look(104.0, is_busy=True) == 0.0
    assert silence.look(106.0, is_busy=False) == 2.0
    silence.heard = True
    assert silence.look(107.0, is_busy=False) == 0.0
    assert silence.look(109.5, is_busy=False) == 2.5
    assert repr(silence) == "<Silence since 107.0>"


def test_modes_are_named_once():
    assert {modes.STATEMENT, modes.TRANSACTION, modes.SESSION} == {"statement", "transaction", "session"}
