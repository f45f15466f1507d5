"""What a startup packet means for a worker: its bare packet, the settings that it is tuned to, and the SQL for that."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.backend import tuning
from lib.backend.tuning import PACKET_ONLY

words = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=20)


def settings_of(options: str) -> dict[str, str]:
    packet, settings = tuning.split([("options", options)])
    assert packet == ()
    return dict(settings)


# --- what only a packet can set --------------------------------------------------------------------------------------


def test_settings_make_no_workers_of_their_own():
    parameters = [("application_name", "psql"), ("client_encoding", "UTF8"), ("search_path", "a, b")]
    assert tuning.split(parameters) == ((), tuple(sorted(parameters)))


@pytest.mark.parametrize("name", sorted(PACKET_ONLY))
def test_what_only_a_packet_can_set_is_what_the_worker_is_started_with(name):
    assert tuning.split([(name.upper(), "on"), ("role", "r")]) == (((name, "on"),), (("role", "r"),))
    assert tuning.split([("options", f"-c {name}=on")]) == (((name, "on"),), ())


def test_the_same_parameters_in_another_order_are_the_same_group():
    one = [("timezone", "UTC"), ("DateStyle", "ISO"), ("options", "-c work_mem=1MB -c jit=off")]
    other = [("options", "-c jit=off -c work_mem=1MB"), ("datestyle", "ISO"), ("TimeZone", "UTC")]
    assert tuning.split(one) == tuning.split(other)


def test_the_later_value_of_a_setting_wins():
    assert tuning.split([("jit", "on"), ("JIT", "off")]) == ((), (("jit", "off"),))
    assert settings_of("-c jit=on -c jit=off") == {"jit": "off"}


def test_a_parameter_wins_over_the_options_as_in_the_server():
    assert tuning.split([("jit", "on"), ("options", "-c jit=off")]) == ((), (("jit", "on"),))


def test_replication_and_empty_options_are_no_settings():
    assert tuning.split([("replication", "off"), ("options", "  ")]) == ((), ())


def test_who_one_is_comes_last_as_it_may_take_the_right_to_set_the_others():
    _, settings = tuning.split([("role", "r"), ("session_authorization", "s"), ("work_mem", "1MB"), ("zero", "0")])
    assert [name for name, _ in settings] == ["work_mem", "zero", "session_authorization", "role"]


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ("-c work_mem=1MB", {"work_mem": "1MB"}),
        ("-cwork_mem=1MB", {"work_mem": "1MB"}),
        ("--work_mem=1MB", {"work_mem": "1MB"}),
        ("--work-mem=1MB", {"work_mem": "1MB"}),
        ("-c a=1 -c b=2  --c=3\t-cd=4", {"a": "1", "b": "2", "c": "3", "d": "4"}),
        (r"-c search_path=a,\ b", {"search_path": "a, b"}),
        (r"-c application_name=back\\slash", {"application_name": "back\\slash"}),
        ("-c a=b=c", {"a": "b=c"}),
        ("-c a=", {"a": ""}),
        ("-c my.tenant=7", {"my.tenant": "7"}),
    ],
)
def test_options_are_read_as_the_server_reads_them(options, settings):
    assert settings_of(options) == settings


@pytest.mark.parametrize("options", ["-e", "-f s", "-s -x 1", "-c", "-c work_mem"])
def test_switches_that_are_no_settings_go_to_the_server_as_they_are(options):
    assert tuning.split([("options", options)]) == ((("options", options),), ())


def test_switches_and_settings_may_be_mixed():
    packet, settings = tuning.split([("options", "-e -c jit=off -f s")])
    assert packet == (("options", "-e -f s"),)
    assert settings == (("jit", "off"),)


@given(st.text(max_size=60))
def test_any_options_are_divided(options):
    packet, settings = tuning.split([("options", options)])
    assert all(name == "options" or name in PACKET_ONLY for name, _ in packet)
    assert not PACKET_ONLY & {name for name, _ in settings}


# --- SQL -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "literal"),
    [("", "''"), ("a", "'a'"), ("it's", "'it''s'"), ("a\\b", "E'a\\\\b'"), ("'\\'", "E'''\\\\'''"), ('"', "'\"'")],
)
def test_a_literal_means_the_same_whatever_strings_mean_on_that_server(text, literal):
    assert tuning.quote(text) == literal


@given(words, st.booleans())
def test_what_is_quoted_is_read_back_by_the_servers_rules(text, standard_conforming_strings):
    assert read_literal(tuning.quote(text), standard_conforming_strings) == text


def read_literal(literal: str, standard_conforming_strings: bool) -> str:
    """As scan.l does (sql-syntax-lexical.html#SQL-SYNTAX-STRINGS), for the escapes that can occur here."""
    escapes = not standard_conforming_strings
    if literal.startswith("E"):
        literal, escapes = literal[1:], True
    assert literal[0] == literal[-1] == "'"
    inner, text, position = literal[1:-1], "", 0
    while position < len(inner):
        if inner[position] == "'":
            assert inner[position + 1] == "'", "the literal ends in its middle"
            position += 1
        elif inner[position] == "\\" and escapes:
            assert inner[position + 1] == "\\", "an escape that nobody meant"
            position += 1
        text += inner[position]
        position += 1
    return text


BARE = "SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL"
SELECT, SET = "SELECT ", "pg_catalog.set_config("


def test_a_worker_is_tuned_by_what_differs():
    before, after = (("a", "1"), ("b", "2"), ("c", "3")), (("b", "2"), ("c", "4"), ("d", "it's"))
    assert tuning.retune(before, after) == (
        f"{SELECT}{SET}'a', NULL, false), {SET}'c', '4', false), {SET}'d', 'it''s', false)"
    )
    assert tuning.retune(before, before) == ""
    assert tuning.retune((), ()) == ""
    assert tuning.retune(before[:1], ()) == f"{SELECT}{SET}'a', NULL, false)"


@pytest.mark.parametrize("who", tuning.ROLES)
def test_who_one_is_takes_a_worker_back_to_its_bare_state_first(who):
    """As somebody else the settings that differ might not be allowed to be set."""
    settings = (("a", "1"), (who, "it's"))
    assert tuning.retune((("a", "1"),), settings) == (
        f"{BARE}; {SELECT}{SET}'a', '1', false), {SET}'{who}', 'it''s', false)"
    )
    assert tuning.retune(settings, ()) == BARE
    assert tuning.retune(settings, (("a", "1"),)) == f"{BARE}; {SELECT}{SET}'a', '1', false)"


def test_a_value_that_is_not_ascii_is_the_same_in_every_client_encoding():
    assert tuning.apply([("a.b", "Größe")]) == (
        f"{SELECT}{SET}'a.b', pg_catalog.convert_from(pg_catalog.decode('4772c3b6c39f65', 'hex'), 'UTF8'), false)"
    )
    assert tuning.apply([("a.b", "\udce9")]) == f"{SELECT}{SET}'a.b', '\udce9', false)"


def test_a_custom_setting_at_its_default_is_made_known_and_no_more():
    unknown = "pg_catalog.current_setting('a.b', true) IS NULL"
    assert tuning.apply([("a.b", tuning.AT_DEFAULT)]) == f"{SELECT}{SET}'a.b', CASE WHEN {unknown} THEN '' END, false)"


def test_what_a_reset_takes_away_is_brought_back():
    settings = (("a", "1"), ("b", "2"), ("role", "r"))
    assert tuning.restore(settings, frozenset({"b", "c"})) == f"{SELECT}{SET}'b', '2', false)"
    assert tuning.restore(settings, frozenset({"*"})) == tuning.apply(settings[:2])
    assert tuning.restore(settings, frozenset({"*", "role"})) == tuning.apply(settings)
    assert tuning.restore(settings, frozenset({"c"})) == ""
    assert tuning.restore((), frozenset({"*"})) == ""
    assert tuning.restore(settings, frozenset({"a"}), local=True) == f"{SELECT}{SET}'a', '1', true)"


def test_custom_settings_are_those_with_a_dot():
    assert tuning.placeholders((("a", "1"), ("my.tenant", "7"))) == {"my.tenant"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (b"SET LOCAL app.tenant TO 5", {"app.tenant"}),
        (b'begin; set "App" . "User" = \'x.y\'; commit', {"app.user"}),
        (b"select set_config('app.tenant', $1, true)", {"app.tenant"}),
        (b"select pg_catalog.set_config($1, $2, true)\0B\0\0\0\x1f\0\0\0\0\0\2\0\0\0\x0aapp.x\0\0\0\1x", {"app.x"}),
        (b"reset app.tenant; select 1", {"app.tenant"}),
        (b"set app.tenant to default", {"app.tenant"}),
        (b"update public.t set a.b = 1.5", set()),
        (b"insert into s.t values (1.5, 'offset x.y')", set()),
        (b"set search_path to a, b", set()),
        (b"select 1", set()),
    ],
)
def test_a_text_shows_the_custom_settings_that_it_may_leave_behind(text, names):
    assert tuning.customs(text) == names


def test_a_backend_is_asked_for_custom_settings_by_name():
    asked = tuning.ask_for({"b.c", "a.it's"})
    assert "ARRAY['a.it''s', 'b.c']" in asked
