"""The table of commands, and what is made of a line that somebody has typed."""

import re
from typing import Any

import pytest

from lib.auth.access import Access
from lib.config import make
from lib.console import commands, house, listings, pseudodb  # noqa: F401 (the replies register themselves)
from lib.console.access import privileges
from lib.console.commands import Command, Kind, Privilege, columns
from lib.console.courtesy import answer
from lib.console.parsing import Request, find, parameters_of, read, read_address, read_parameters, split
from lib.console.shown import shape_shown, shown
from lib.errors import CommandInvalid, NoStatements, UnknownColumn, ValueUnfit

SETTINGS = make({
    "admin_cnn": {"user": "x"}, "master": "127.0.0.1:1", "pseudo_admin_users": ["ops"],
    "pseudo_stats_users": ["exporter"],
})  # fmt: skip


def request(text: str, *given: str | None) -> Request:
    ((statement, tokens),) = split(text)
    return read(statement, tokens, text, given)


def kept(text: str, rows: list[tuple]) -> list[tuple]:
    chosen = request(text).filter
    return list(chosen.sort(row for row in rows if chosen.keeps(row)))


# --- the table -------------------------------------------------------------------------------------------------------


def test_row_without_a_privilege_cannot_be_made():
    with pytest.raises(TypeError, match="privilege"):
        Command(words="pool explode", help="nobody said who may")  # type: ignore[call-arg]


def test_two_commands_cannot_have_the_same_words():
    with pytest.raises(ValueError, match="show version"):
        commands.by_words((*commands.TABLE, commands.BY_WORDS["show", "version"]))


def test_every_command_is_answered_by_a_function():
    assert house.missing() == []


def test_nobody_answers_a_command_that_is_not_in_the_table():
    with pytest.raises(ValueError, match="no command"):
        house.reply("pool explode")


@pytest.mark.parametrize("command", commands.TABLE, ids=lambda each: each.words)
def test_every_row_says_what_it_is_for_in_lower_case_and_without_a_full_stop(command):
    assert re.fullmatch(r"[a-z].*[^.]", command.help)
    assert command.words == command.words.lower()


@pytest.mark.parametrize("command", commands.TABLE, ids=lambda each: each.words)
def test_what_only_looks_is_never_one_at_a_time(command):
    assert not (command.is_serial and command.privilege is Privilege.WATCH)


def test_specification_s_columns_are_there():
    def names(words: str) -> set[str]:
        return {each.name for each in commands.BY_WORDS[tuple(words.split())].columns}

    assert {"host", "port", "database", "user", "startup_msg"} <= names("fe list")
    assert {"pool_id", "master", "addr", "worker"} <= names("pool list")
    wanted = {"pool_id", "worker_id", "addr", "database", "user", "startup_msg", "processed"}
    assert wanted <= names("pool show")


# --- who may ---------------------------------------------------------------------------------------------------------


def there(**more: Any) -> Access:
    return Access(**{"role_exists": True, "can_login": True, **more})


@pytest.mark.parametrize(
    ("access", "user", "may"),
    [
        (there(superuser=True), "boss", {Privilege.WATCH, Privilege.OPERATE}),
        (there(), "ops", {Privilege.WATCH, Privilege.OPERATE}),
        (there(roles=frozenset({"nagios", "pg_monitor"})), "nagios", {Privilege.WATCH}),
        (there(), "exporter", {Privilege.WATCH}),
        (there(roles=frozenset({"app", "ops"})), "app", set()),
        (Access(), "ops", set()),  # dropped since
        (there(superuser=True, can_login=False), "boss", set()),
    ],
)
def test_privileges_follow_from_the_role_and_the_settings(access, user, may):
    assert privileges(access, user, SETTINGS) == may


# --- lines -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cmd", "cmd"),
        ("FE", "fe list"),
        ("fe  LIST", "fe list"),
        ("pool /* all */ list -- of them", "pool list"),
        ("fe where user = a", "fe list"),
        ("Show\n Version", "show version"),
    ],
)
def test_words_are_known_in_any_case_and_with_comments_between_them(text, words):
    assert request(text).command.words == words


def test_a_text_holds_several_commands_and_empty_ones_are_none():
    assert [statement for statement, _ in split(" ; cmd; fe list where user = 'a;b' ;; ")] == [
        "cmd", "fe list where user = 'a;b'",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["fe list where user = 'a", 'fe list where user = "a', "cmd /* on and on"])
def test_what_does_not_end_is_an_error(text):
    with pytest.raises(CommandInvalid, match="unterminated"):
        split(text)


@pytest.mark.parametrize(
    ("typed", "meant"), [("pool lst", "pool list"), ("fee", "fe"), ("cmds", "cmd"), ("show versoin", "show version")]
)
def test_unknown_command_names_the_nearest(typed, meant):
    with pytest.raises(CommandInvalid, match="unknown command") as caught:
        request(typed)
    assert f'"{meant}"' in str(caught.value.hint)


@pytest.mark.parametrize("text", ["reload now", "show version 1", "fe list all", "top 5", "cmd pool"])
def test_command_that_takes_nothing_says_so(text):
    with pytest.raises(CommandInvalid, match="wrong arguments of"):
        request(text)


def test_sql_is_no_command():
    with pytest.raises(NoStatements):
        request("select c.relname from pg_catalog.pg_class c where c.relname !~ '^pg_toast'")


@pytest.mark.parametrize(
    ("typed", "sql"),
    [
        ("explain route /*s*/ select 1", "/*s*/ select 1"),  # the hint is a comment
        ("explain route in app /*s*/ select 1 -- so", "in app /*s*/ select 1"),
        ("explain  route\n(select (1)::int4)", "(select (1)::int4)"),
    ],
)
def test_sql_to_be_explained_is_taken_as_it_is(typed, sql):
    assert list(request(typed).values.values()) == [sql]


def test_superfluous_arguments_are_an_error():
    with pytest.raises(CommandInvalid, match="syntax error"):
        request("pool show 1 2")


def test_ids_are_a_list_with_blanks_or_without():
    assert [request(text).values for text in ("pool show", "pool show 1", "pool show 1,2 , 3", "pool show '4,5'")] == [
        {"id[,id...]": None}, {"id[,id...]": [1]}, {"id[,id...]": [1, 2, 3]}, {"id[,id...]": [4, 5]},
    ]  # fmt: skip


def test_values_as_jdbc_writes_them_are_read():
    found = request("pool show ('1') where worker_id in (1, 2) and processed > ('0'::int4) limit 5")
    assert found.values == {"id[,id...]": [1]}
    assert found.filter.limit == 5
    assert found.filter.keeps((1, 2, "", "", "", "", 7))
    assert not found.filter.keeps((1, 2, "", "", "", "", 0))
    assert request("cmd where command in ('cmd')").filter.keeps(("cmd", "", "", ""))


@pytest.mark.parametrize("text", ["pool show one", "pool show 1,", "pool show -1", "pool show 99999999999999999999"])
def test_an_id_is_a_number(text):
    with pytest.raises((ValueUnfit, CommandInvalid)):
        request(text)


@pytest.mark.parametrize(
    ("word", "address"),
    [
        ("10.0.0.3:5432", ("10.0.0.3", 5432)),
        ("[fd00::3]:5432", ("fd00::3", 5432)),
        ("fd00::3:5432", ("fd00::3", 5432)),
        ("/var/run/postgresql:5432", ("/var/run/postgresql", 5432)),
    ],
)
def test_addresses(word, address):
    assert read_address(word) == address


@pytest.mark.parametrize("word", ["10.0.0.3", "10.0.0.3:", ":5432", "host:0", "host:65536", "host:port"])
def test_what_is_no_address(word):
    with pytest.raises(ValueUnfit, match="not an address"):
        read_address(word)


@pytest.mark.parametrize(
    "text",
    [
        "user=app,database=shop,password='o''ne two'",
        "user=app database=shop password='o\\'ne two'",
        " user = app , database = 'shop' password=o\\'ne\\ two",
    ],
)
def test_parameters_are_read_with_commas_or_as_a_connection_string(text):
    assert read_parameters(text) == {"user": "app", "database": "shop", "password": "o'ne two"}


@pytest.mark.parametrize("text", ["user=app,database=shop", "'user=app database=shop'", '"user=app database=shop"'])
def test_a_list_of_parameters_may_be_quoted_as_a_whole(text):
    (given,) = [value for value in request(f"pool new_worker 1 {text}").values.values() if isinstance(value, dict)]
    assert given == {"user": "app", "database": "shop"}


@pytest.mark.parametrize("text", ["user", "user=a b", "=a", "user='a", "user='a'b"])
def test_what_is_no_list_of_parameters_is_refused_without_showing_it(text):
    with pytest.raises(CommandInvalid) as caught:
        read_parameters(text)
    assert text not in str(caught.value) + str(caught.value.hint)


# --- filters ---------------------------------------------------------------------------------------------------------

CMD_ROWS = [("fe list", "", "watch", "b"), ("pool add", "host", "operate", "a"), ("pool list", None, "watch", "c")]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("where privilege = watch", ["fe list", "pool list"]),
        ("where privilege <> 'watch'", ["pool add"]),
        ("where command like 'pool%' and privilege != operate", ["pool list"]),
        ("where command ilike 'FE%' or privilege = operate", ["fe list", "pool add"]),
        ("where command not like 'pool%'", ["fe list"]),
        ("where arguments is null", ["pool list"]),
        ("where arguments is not null", ["fe list", "pool add"]),
        ("where arguments = ''", ["fe list"]),
        ("where command in ('fe list', \"pool add\")", ["fe list", "pool add"]),
        ("order by help", ["pool add", "fe list", "pool list"]),
        ("order by privilege desc, help desc", ["pool list", "fe list", "pool add"]),
        ("order by arguments desc", ["pool add", "fe list", "pool list"]),
        ("order by command limit 1", ["fe list"]),
        ("limit 0", []),
    ],
)
def test_listings_are_narrowed_and_ordered(words, found):
    assert [row[0] for row in kept(f"cmd {words}", CMD_ROWS)] == found


def test_values_are_compared_by_the_type_of_the_column():
    chosen = request("pool list where pool_id > 9 and master = true and lag >= 0.5").filter
    assert chosen.keeps((10, True, "", 0, "", "", 0.5))
    assert not chosen.keeps((9, True, "", 0, "", "", 0.5))
    assert not chosen.keeps((10, False, "", 0, "", "", 0.5))
    assert not chosen.keeps((10, True, "", 0, "", "", None))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("where master", [1]),
        ("where not master", [2]),
        ("where not master = true and worker = 0", [2]),
        ("where master or state = down order by pool_id", [1, 2]),
        ("where not state in (up, down)", []),
        ("where not lag > 1", [2]),
        ("where not lag is null", [2]),
        ("where not not master limit 1", [1]),
    ],
)
def test_conditions_are_denied_and_a_column_that_is_true_or_false_is_one(words, found):
    """docs/console.md promised `not`, and there was none."""
    rows = [(1, True, "a", 0, "up", "primary", None), (2, False, "b", 0, "down", "standby", 0.5)]
    assert [row[0] for row in kept(f"pool list {words}", rows)] == found


@pytest.mark.parametrize("text", ["set max_workers 5", "set max_workers", "set a=1,b=2", "set = 5"])
def test_what_is_no_setting_is_told_how_to_set_one(text):
    with pytest.raises(CommandInvalid) as caught:
        request(text)
    assert "key=value" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("cmd where nothing = 1", UnknownColumn),
        ("cmd where command", CommandInvalid),
        ("cmd where command =", CommandInvalid),
        ("cmd where command ~ x", CommandInvalid),
        ("cmd order command", CommandInvalid),
        ("cmd limit many", ValueUnfit),
        ("cmd where command = a b", CommandInvalid),
        ("pool list where worker = many", ValueUnfit),
        ("pool list where master = perhaps", ValueUnfit),
        ("fe list where connected > yesterday", ValueUnfit),
    ],
)
def test_wrong_filters_are_errors(text, error):
    with pytest.raises(error):
        request(text)


# --- parameters of the extended protocol -----------------------------------------------------------------------------


def test_parameters_stand_for_arguments_and_for_values_of_filters():
    assert parameters_of("pool show $1 where worker_id = $2 limit $3") == 3
    found = request("pool show $1 where worker_id = $2", "1,2", "7")
    assert found.values == {"id[,id...]": [1, 2]}
    assert found.filter.keeps((1, 7))


def test_parameter_that_is_null_is_refused():
    with pytest.raises(ValueUnfit, match=r"\$1 is null"):
        request("pool show $1", None)


# --- drivers' own statements, and what is shown ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("SET extra_float_digits = 3", "SET"),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SET"),
        ("set time zone 'UTC'", "SET"),
        ("RESET ALL", "RESET"),
        ("begin", "BEGIN"),
        ("START TRANSACTION", "START TRANSACTION"),
        ("end", "COMMIT"),
        ("abort", "ROLLBACK"),
        ("SELECT pg_advisory_unlock_all()", "SELECT 0"),
        ("select pg_catalog.version()", "SELECT 1"),
        ("show standard_conforming_strings", "SHOW"),
        ("SHOW TRANSACTION ISOLATION LEVEL", "SHOW"),
    ],
)
def test_what_drivers_send_by_themselves_is_answered(text, tag):
    ((_, tokens),) = split(text)
    found = answer(tokens, {"standard_conforming_strings": "on"}, "me", "pseudo")
    assert found is not None
    assert found.tag == tag


@pytest.mark.parametrize(
    "text", ["set max_workers = 5", "rollback to savepoint a", "select 2", "show version", "start"]
)
def test_all_else_is_not(text):
    ((_, tokens),) = split(text)
    assert answer(tokens, {}, "me", "pseudo") is None


def test_every_command_is_one_and_no_courtesy():
    for command in commands.TABLE:
        for words in (command.words, *command.also):
            ((statement, tokens),) = split(words)
            assert answer(tokens, {"server_version": "16"}, "me", "pseudo") is None
            assert find(statement, tokens)[0] is command


def test_settings_of_applications_and_passwords_are_not_shown():
    options = "-c app.jwt=s3cret -c geqo=off"
    pairs = [("user", "a b"), ("app.token", "s3cret"), ("options", options), ("password", "s3cret")]
    assert shown(pairs) == "user='a b' app.token=*** options='-c app.jwt=*** -c geqo=off' password=***"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("select  a from t where b = 0 and c = ''", "select a from t where b = 0 and c = ''"),
        ("/*s*/ select a1, 5 from t2", "/*s*/ select a1, 0 from t2"),
        ("select \"it's\" from t where a = 's3cret", "select \"it's\" from t where a = ''"),
        ("select 's3cret' -- why", "select ..."),
        ("select \"it's\", 's3cret' /* why */", "select ..."),
        ("select E'\\x's3cret", "select E..."),
        ("do $$ s3cret $$", "do ..."),
        ("select $1, $$s3cret$$", "select $1, ..."),
        ("select s3cret9 where 1=123", "select s3cret9 where 0=0"),
    ],
)
def test_shapes_are_shown_without_what_could_be_a_literal(text, seen):
    assert shape_shown(text.encode()) == seen


def test_columns_are_written_with_their_types():
    assert [(each.name, each.type.oid) for each in columns("a int8, b text")] == [("a", 20), ("b", 25)]


def test_every_kind_of_argument_is_read():
    assert {argument.kind for command in commands.TABLE for argument in command.arguments} <= set(Kind)


def test_many_rows_are_ordered_though_never_all_at_once():
    """By several columns, up and down, with what is null at the end of either; as stable as any sort."""
    chosen = request("pool list order by state desc, lag, pool_id desc").filter
    rows = [
        (number, False, "", 0, "up" if number % 3 else "behind", "", None if number % 5 == 0 else number % 7 / 2)
        for number in range(2345)
    ]
    expected = sorted(rows, key=lambda row: -row[0])
    expected.sort(key=lambda row: (row[6] is None, row[6] or 0))
    expected.sort(key=lambda row: row[4], reverse=True)
    assert list(chosen.sort(iter(rows))) == expected
    assert list(request("pool list order by lag desc limit 2").filter.sort(rows)) == [
        row for row in rows if row[6] == 3
    ][:2]  # fmt: skip
