"""Prepared statements are those of a connection of one's own, on whichever worker they run.

Each dialogue is held with the server itself, then through a pooler in which every step may run on another worker, that
others have used meanwhile for statements of the same names (see `twice`).
"""

from __future__ import annotations

import pytest

from tests.cluster.prepared import BY_NAME, TYPES, UNNAMED
from tests.cluster.prepared_between import CATALOG, SETTINGS, SQL, TRANSACTIONS
from tests.cluster.twice import Dialogue, Home

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
