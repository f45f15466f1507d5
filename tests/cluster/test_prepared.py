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
from tests.cluster.wire import SYNC, Message, Wire, bind, execute, once, parse, query
from tests.workplace import wait_until

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


def test_a_statement_outlives_the_backends_that_it_was_prepared_on(home: Home):
    with Wire(home.pooler, timeout_s=TIMEOUT_S) as session, Wire(home.pooler, timeout_s=TIMEOUT_S) as other:
        session.ask(parse("select $1::int + 1", "s"), parse("select 'unnamed'"), SYNC)
        other.ask(parse("select 'not this'", "s"), SYNC)
        for turn in range(5):
            terminate(home)
            assert rows(session.ask(run(str(turn)))) == [[str(turn + 1)]]
            assert rows(session.ask(bind(), execute(), SYNC)) == [["unnamed"]]
            assert rows(other.ask(run())) == [["not this"]]


def terminate(home: Home) -> None:
    """All backends of the login, and wait until they are gone."""
    where = "from pg_stat_activity where usename = %s"
    pids = [pid for pid, _ in home.server.query(f"select pid, pg_terminate_backend(pid) {where}", [roles.TRUST.name])]
    left = "select 1 from pg_stat_activity where pid = any (%s)"
    wait_until(lambda: not home.server.query(left, [pids]), what="the backends to end")


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
