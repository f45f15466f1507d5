"""Prepared statements are those of a connection of one's own, on whichever worker they run.

Each dialogue is held with the server itself, then through a pooler in which every step may run on another worker, that
others have used meanwhile for statements of the same names (see `twice`).
"""

from __future__ import annotations

import contextlib

import pytest

from tests.cluster.prepared import BY_NAME, TYPES, UNNAMED
from tests.cluster.prepared_between import CATALOG, SETTINGS, SQL, TRANSACTIONS
from tests.cluster.twice import TIMEOUT_S, WORKERS, Dialogue, Home, run
from tests.cluster.wire import SYNC, Message, Wire, once, parse, query

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
