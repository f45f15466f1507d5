"""Settings are those of a connection of one's own, on whichever worker a statement runs.

Each dialogue is held with the server itself, then through a pooler in which every step may run on another worker, that
belonged to others meanwhile (see `twice`). After each step both frontends look at their settings, and at what follows
from them; the settings that the server reports must have been reported when a step is over.
"""

from __future__ import annotations

import pytest

from tests import roles
from tests.cluster.follow import STARTS, TEXTS, USERS, Text
from tests.cluster.twice import ORDER, WORKERS, Dialogue, Home, Step, a, b
from tests.cluster.wire import FLUSH, SYNC, bind, execute, message, once, parse, query

SHOWN = """
    search_path datestyle timezone intervalstyle application_name client_encoding work_mem extra_float_digits
    bytea_output statement_timeout default_transaction_isolation default_transaction_read_only transaction_isolation
    role xmloption session_replication_role log_min_messages hnsw.ef_search
"""
# A worker may have loaded a library for somebody else, or not yet: docs/pooling.md says so.
LOOK = f"""
    select current_user, session_user, current_setting('home.tenant', true), current_setting('home.other', true),
           date '2001-02-03', timestamptz '2001-02-03 04:05+00', interval '1 day 2:03', '\\x00'::bytea, 1::float8 / 3,
           (select relnamespace::regnamespace from pg_class where oid = to_regclass('whose')),
           {", ".join(f"current_setting('{name}')" for name in SHOWN.split())},
           coalesce(current_setting('plpgsql.extra_warnings', true), 'none')
"""
EVERYTHING = (
    "select name, setting from pg_settings where name <> 'transaction_deferrable' and name not like 'plpgsql.%'"
    " order by name"
)


def steps(texts: list[Text], extended: bool) -> list[Step]:
    """Each text and what is to be seen then; in the extended protocol where a text is a single statement."""
    pairs = [("A", each) if isinstance(each, str) else each for each in texts]
    frontends = sorted({who for who, _ in pairs})
    found = []
    for who, text in [*((who, "select 'first'") for who in frontends), *pairs]:
        sent = once(text) if extended and (";" not in text or "$$" in text) else query(text)
        found.append(Step(who, sent))
        found += [Step(each, once(LOOK) if extended else query(LOOK)) for each in frontends]
    return found + [Step(who, query(EVERYTHING)) for who in frontends]


DIALOGUES = [
    pytest.param(
        Dialogue(
            *steps(texts, way == "extended"), user=USERS.get(group, roles.TRUST.name), **STARTS.get(group, {})
        ),
        id=f"{group}-{name}-{way}",
    )
    for group, dialogues in TEXTS.items() for name, texts in dialogues.items() for way in ("simple", "extended")
]  # fmt: skip


@pytest.mark.parametrize("dialogue", DIALOGUES)
def test_settings_are_those_of_a_connection_of_ones_own(home: Home, dialogue: Dialogue):
    home.hold(dialogue)


def set_to(name: str, value: str) -> bytes:
    return once(f"set {name} to {value}")


def statement(text: str) -> bytes:
    return parse(text) + bind() + execute()


NAME = "select name from whose"
DAY = "select date '2001-02-03'"
LATIN1 = message(b"Q", "set home.tenant to 'ä'\0".encode("latin-1"))
UNITS = {
    "pipelined": Dialogue(
        a(query("set datestyle to german"), query(DAY), query("begin"), query("set datestyle to sql"), query(DAY),
          query("rollback"), query(DAY), query("reset datestyle"), query(DAY), tags="Z" * 9),
        a(query(LOOK)),
    ),
    "pipelined_in_the_extended_protocol": Dialogue(
        a(set_to("search_path", "far"), once(NAME), set_to("search_path", "near"), once(NAME),
          set_to("search_path", "nowhere"), once(NAME), once("reset all"), once("select to_regclass('whose')"),
          tags="Z" * 8),
        a(query(LOOK)),
    ),
    "several_in_one_unit": Dialogue(

        a(statement("set datestyle to german"), statement(DAY), statement("set work_mem to '3MB'"), SYNC),
        a(query(LOOK)),
        a(statement("set datestyle to sql"), statement("select 1 / 0"), statement("set work_mem to '4MB'"), SYNC),
        a(query(LOOK)), a(statement("set local datestyle to iso"), statement("show datestyle"), SYNC), a(query(LOOK)),
        a(statement("reset datestyle"), statement("set datestyle to 'postgres'"), SYNC), a(query(LOOK)),
    ),
    "streamed": Dialogue(
        a(statement("set datestyle to german"), FLUSH, tags="C"),
        a(statement(DAY), FLUSH, tags="C"),
        a(SYNC), a(query(LOOK)), a(statement("set datestyle to sql"), FLUSH, tags="C"), a(statement("selekt"), SYNC),
        a(query(LOOK)), a(statement("begin"), FLUSH, tags="C"), a(statement("set work_mem to '3MB'"), SYNC),
        a(once("commit")),
        a(query(LOOK)),
    ),
    "by_parameters": Dialogue(
        a(once("select set_config($1, $2, false)", "datestyle", "german")), a(query(LOOK)),
        a(once("select set_config($1, $2, $3)", "work_mem", "3MB", "f")), a(query(LOOK)),
        a(once("select set_config($1, $2, $3)", "work_mem", "4MB", "t")), a(query(LOOK)),
        a(once("select set_config($1, $2, $3)", "work_mem", "much", "f")), a(query(LOOK)),
        a(once("select set_config($1, $2, $3)", "home.tenant", "x", "f")), a(query(LOOK)), b(query(LOOK)),
        a(once("update pg_settings set setting = $1 where name = $2", "5MB", "work_mem")), a(query(LOOK)),
    ),
    "prepared": Dialogue(
        a(parse("set datestyle to german", "s"), SYNC), a(parse("reset datestyle", "t"), SYNC), a(query(LOOK)),
        a(bind(name="s"), execute(), SYNC), a(query(LOOK)), a(bind(name="t"), execute(), SYNC), a(query(LOOK)),
        a(query("begin")), a(bind(name="s"), execute(), SYNC), a(query("rollback")), a(query(LOOK)), b(query(LOOK)),
    ),
    "in_another_encoding": Dialogue(
        a(query("set client_encoding to latin1")), a(LATIN1), a(query("show home.tenant")), a(query("select 'x'")),
        a(query("set client_encoding to utf8")), a(query("show home.tenant")), a(query("set work_mem to '3MB'")),
        a(query("show home.tenant")), b(query(LOOK)),
    ),
    "in_an_encoding_from_the_start": Dialogue(
        a(LATIN1), a(query("show home.tenant")), a(query("set work_mem to '3MB'")), a(query("show home.tenant")),
        b(query("set home.tenant to 'ä'")), b(query("show home.tenant")), a(query("reset client_encoding")),
        a(query("show home.tenant")), A={"client_encoding": "latin1"},
    ),
    "many_values": Dialogue(
        *(a(query(f"set application_name to 'name {turn}'; set home.tenant to '{turn}'")) for turn in range(100)),
        a(query(LOOK)), b(query(LOOK)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNITS)
def test_settings_in_every_kind_of_unit_are_those_of_a_connection_of_ones_own(home: Home, name: str):
    home.hold(UNITS[name])


def test_a_frontend_with_settings_runs_on_whichever_worker_is_free(home: Home):
    """It is what the rest of this file is for: or else the frontend would have kept a worker for itself."""
    sets = [a(query(f"set {each}")) for each in ("search_path to far", "datestyle to german", "role to home_role")]
    heard = home.pooled(Dialogue(*sets, *(a(query("select pg_backend_pid()")) for _ in ORDER)))
    assert len({message[1][0] for messages, _ in heard for message in messages if message[0] == "D"}) == WORKERS
