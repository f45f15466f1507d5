"""Prepared statements are those of a connection of one's own, on whichever worker they run.

Each dialogue is held with the server itself, then through a pooler in which every step may run on another worker, that
others have used meanwhile for statements of the same names (see `twice`).
"""

from __future__ import annotations

import contextlib

import pytest

from tests import roles
from tests.cluster.prepared import BY_NAME, TYPES, UNNAMED
from tests.cluster.prepared_between import CATALOG, SETTINGS, SQL, TRANSACTIONS
from tests.cluster.twice import ORDER, TIMEOUT_S, WORKERS, Dialogue, Home, a, run
from tests.cluster.wire import SYNC, Message, Wire, bind, close, describe, execute, once, parse, query

ALL = {
    "by_name": BY_NAME, "unnamed": UNNAMED, "types": TYPES, "settings": SETTINGS, "catalog": CATALOG,
    "transactions": TRANSACTIONS, "sql": SQL,
}  # fmt: skip
DIALOGUES = [
    pytest.param(dialogue, id=f"{group}-{name}")
    for group, dialogues in ALL.items() for name, dialogue in dialogues.items()
]  # fmt: skip


@pytest.mark.parametrize("dialogue", DIALOGUES)
def test_prepared_statements_answer_as_on_a_connection_of_ones_own(home: Home, dialogue: Dialogue):
    home.hold(dialogue)


def test_a_statement_runs_on_whichever_worker_is_free(home: Home):
    """It is what the rest of this file is for: or else the frontend would have kept a worker for itself."""
    dialogue = Dialogue(
        a(parse("select pg_backend_pid()", "s"), SYNC), a(parse("select pg_backend_pid()"), SYNC),
        *(a(bind(name=name), execute(), SYNC) for _ in ORDER for name in ("s", "")),
    )  # fmt: skip
    heard = [message for messages, _ in home.pooled(dialogue) for message in messages]
    # There may be one more than the neighbours have: one that was held for a session before.
    assert len({tuple(message[1]) for message in heard if message[0] == "D"}) > 1


TYPED = "select id, word from t"  # of other types in each of the schemas
NEAR, FAR = [["1", "near one"]], [["1", "far one"]]
CHANGING = """
    drop table if exists changing cascade; create table changing as select 1 as id; grant all on changing to public
"""
STRICT = bind(name="s") + execute() + SYNC


def test_what_a_statement_was_in_a_transaction_it_is_not_afterwards(home: Home):
    """In a transaction with other settings than it was parsed with, it is parsed by those. So it stayed, on that worker
    and for that frontend: afterwards the server said that its result had changed."""
    for change in ("set local search_path to far", "set search_path to far", "create temp table t (id text, word int)"):
        turns = [
            [a(close("S", "s"), parse(f"{TYPED} /* {turn} */", "s"), SYNC), a(query("begin")), a(query(change)),
             a(STRICT), a(query("rollback")), *[a(STRICT)] * 4]
            for turn in range(6)
        ]  # fmt: skip
        heard = home.pooled(Dialogue(a(query("set search_path to near")), *(step for turn in turns for step in turn)))
        for first in range(1, len(heard), 9):
            assert [values(step) for step in heard[first + 5 : first + 9]] == [NEAR] * 4, change


def test_a_statement_of_which_nobody_knows_what_it_was_parsed_with_is_parsed_by_what_is_set(home: Home):
    """It was parsed in a transaction with settings of its own. A worker that had parsed it later, by other settings,
    still had it so when its frontend's were those of the transaction again: a changed result, the server said."""
    dialogue = Dialogue(
        a(query("begin; set local search_path to far")), a(parse(TYPED, "s"), SYNC), a(query("commit")),
        *(
            step for _ in range(3)
            for step in (a(query("set search_path to near")), *[a(STRICT)] * 4, a(query("set search_path to far")),
                         *[a(STRICT)] * 4)
        ),
    )  # fmt: skip
    heard = home.pooled(dialogue)[3:]
    for turn in range(0, len(heard), 10):
        assert [values(step) for step in heard[turn + 1 : turn + 5]] == [NEAR] * 4
        assert [values(step) for step in heard[turn + 6 : turn + 10]] == [FAR] * 4


def test_statements_that_were_parsed_with_this_and_that_run_in_one_unit(home: Home):
    """To see what one of them is, the worker was given the settings of that, and lost what it knew of the other; then
    the other way round, and so for ever."""
    both = bind(name="inner") + execute() + bind(name="outer") + execute() + SYNC
    with Wire(home.pooler, timeout_s=TIMEOUT_S) as session:
        session.ask(query("set search_path to near"))
        session.ask(parse("select name from whose", "outer"), describe("S", "outer"), SYNC)
        session.ask(query("begin; set local datestyle to german"))
        session.ask(parse("select 'inner'", "inner"), describe("S", "inner"), SYNC)
        session.ask(query("commit"))
        session.ask(query("set datestyle to german"))
        for _ in range(3):
            roles.end_backends(home.server, roles.TRUST)
            assert rows(session.ask(both)) == [["inner"], ["near"]]


def test_a_literal_is_not_read_by_what_was_set_in_a_transaction_afterwards(home: Home):
    dialogue = Dialogue(
        a(query("set datestyle to 'ISO, MDY'")), a(parse("select '02/03/2001'::date as day", "s"), SYNC),
        a(query("begin; set local datestyle to 'ISO, DMY'")), a(STRICT), a(query("rollback")), *[a(STRICT)] * 4,
        a(query("set datestyle to 'ISO, DMY'")), *[a(STRICT)] * 4,
    )  # fmt: skip
    heard = home.pooled(dialogue)
    assert [values(step) for step in heard[5:9] + heard[10:]] == [[["2001-02-03"]]] * 8


def values(step: tuple) -> list[list[str | None]] | tuple:
    """The rows of what was heard, or the error."""
    errors = [each for each in step[0] if each[0] == "E"]
    return errors[0] if errors else [each[1] for each in step[0] if each[0] == "D"]


def test_what_a_portal_was_described_as_last_is_what_its_frontend_knows(home: Home):
    """Only the first description of a portal was noted. When the next was another, the statement was refused to those
    who asked for none, as if they did not know."""
    home.server.query(CHANGING, dbname=roles.DATABASE)
    with Wire(home.pooler, timeout_s=TIMEOUT_S) as knows, Wire(home.pooler, timeout_s=TIMEOUT_S) as knows_not:
        for session in (knows, knows_not):
            session.ask(parse("table changing", "s"), SYNC)
            assert rows(session.ask(run())) == [["1"]]
        home.server.query("alter table changing add column more int default 7", dbname=roles.DATABASE)
        roles.end_backends(home.server, roles.TRUST)
        for again in (run(), STRICT, STRICT, run(), STRICT):
            assert rows(knows.ask(again)) == [["1", "7"]]
        assert codes(knows_not.ask(STRICT)) == ["0A000"]


def test_a_portal_that_is_bound_again_in_the_same_unit_was_run_undescribed(home: Home):
    """The second Bind was taken for all that there was, and its description for that of both: columns came that the
    frontend had never been told."""
    home.server.query(CHANGING, dbname=roles.DATABASE)
    with Wire(home.pooler, timeout_s=TIMEOUT_S) as session:
        session.ask(parse("table changing", "s"), parse("select 'other'", "t"), SYNC)
        assert rows(session.ask(run())) == [["1"]]
        home.server.query("alter table changing add column more int default 7", dbname=roles.DATABASE)
        roles.end_backends(home.server, roles.TRUST)
        found = session.ask(bind(name="s"), execute(), bind(name="t"), describe(), execute(), SYNC)
        assert codes(found) == ["0A000"]


def test_the_columns_of_an_unnamed_statement_are_not_those_of_the_one_whose_portal_it_takes(home: Home):
    """They were taken for its columns, and then it was refused for having others."""
    with Wire(home.pooler, timeout_s=TIMEOUT_S) as session:
        session.ask(parse("select 'named'", "s"), SYNC)
        both = bind(name="s") + execute() + parse("select 'un', 'named'") + bind() + describe() + execute() + SYNC
        for _ in ORDER:
            assert rows(session.ask(both)) == [["named"], ["un", "named"]]
            assert rows(session.ask(STRICT)) == [["named"]]


def codes(found: list[Message]) -> list[str]:
    return [each.fields["C"] for each in found if each.tag == "E"]


def test_a_statement_outlives_the_backends_that_it_was_prepared_on(home: Home):
    with Wire(home.pooler, timeout_s=TIMEOUT_S) as session, Wire(home.pooler, timeout_s=TIMEOUT_S) as other:
        session.ask(parse("select $1::int + 1", "s"), parse("select 'unnamed'"), SYNC)
        other.ask(parse("select 'not this'", "s"), SYNC)
        for turn in range(5):
            roles.end_backends(home.server, roles.TRUST)
            assert rows(session.ask(run(str(turn)))) == [[str(turn + 1)]]
            assert rows(session.ask(bind(), execute(), SYNC)) == [["unnamed"]]
            assert rows(other.ask(run())) == [["not this"]]


def rows(found: list[Message]) -> list[list[str | None]]:
    return [each.values for each in found if each.tag == "D"]


def test_what_others_have_prepared_is_not_shown(home: Home):
    looks = [query("select statement from pg_prepared_statements"), once("table pg_prepared_statements")]
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(Wire(home.pooler, timeout_s=TIMEOUT_S)) for _ in range(2 * WORKERS)]
        for number, session in enumerate(sessions):
            session.ask(parse(f"select 'secret of {number}'", "s"), SYNC)
            session.ask(run())
        for number, session in enumerate(sessions):
            for look in looks:
                shown = str(rows(session.ask(look)))
                assert not [other for other in range(len(sessions)) if other != number and f"of {other}" in shown]
