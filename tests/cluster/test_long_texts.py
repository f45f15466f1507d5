"""What a text leaves in the session that is too long to be read: it is its frontend's, as what shorter texts leave.

Each dialogue is held with the server itself, then through a pooler in which every step may run on another worker (see
`twice`).
"""

from __future__ import annotations

import pytest

from tests.cluster.twice import ROOT, Dialogue, Home, a, b
from tests.cluster.wire import COPY_DONE, copy_data, query

LONG = f"select length('{'x' * 100_000}')"


def long(text: str) -> bytes:
    """A script of more than 64 KB, as applications send that run a file."""
    return query(f"{text}; {LONG}")


# What was left by such a text was thrown away, and nobody was told.
DIALOGUES = {
    "settings": Dialogue(
        a(long("set work_mem to '7MB'")), a(query("show work_mem")), b(query("show work_mem")),
        a(long("begin; set datestyle to german; commit; reset work_mem")), a(query("select date '2001-02-03'")),
        a(long("set role home_role")), a(query("select current_user")), b(query("select current_user")),
        a(long("set home.tenant to '5'")), a(query("show home.tenant")), a(long("discard all; set datestyle to sql")),
        a(query("show datestyle")),
    ),
    "a_name_where_the_text_is_cut": Dialogue(
        *(
            step
            for length in range(65_450, 65_560, 7)
            for step in (
                a(query(f"/*{'x' * length}*/ set home.tenant to '{length}'; {LONG}")), a(query("show home.tenant")),
            )
        ),
    ),
    "temporary_tables": Dialogue(
        a(long("create temp table t (n int)")), a(query("insert into t values (1)")), b(query("table t")),
        a(query("table t")), a(long("drop table t")), a(query("table t")),
    ),
    "channels": Dialogue(
        a(long("listen news")), a(query("notify news, 'heard'")), a(query("unlisten news")), a(query("notify news")),
    ),
    "locks": Dialogue(
        a(long("select pg_advisory_lock(71)")), b(query("select pg_try_advisory_lock(71)")),
        a(query("select pg_advisory_unlock(71)")), b(query("select pg_try_advisory_lock(71)")),
        b(long("select pg_advisory_unlock(71)")),
    ),
    "prepared_by_sql_and_cursors": Dialogue(
        a(long("prepare p as select 5 as five")), a(query("execute p")), b(query("execute p")),
        a(long("begin; declare c cursor with hold for select 6 as six; commit")), a(query("fetch c")),
        a(long("close c; deallocate p")), a(query("execute p")),
    ),
    "transactions_and_errors": Dialogue(
        a(long("begin; set work_mem to '8MB'")), a(query("show work_mem")), a(query("rollback")),
        a(query("show work_mem")), a(long("set work_mem to '9MB'; select 1 / 0")), a(query("show work_mem")),
        a(query("begin")), a(long("set work_mem to '9MB'")), a(query("commit")), a(query("show work_mem")),
    ),
    "copy": Dialogue(
        a(
            query(f"{LONG}; set work_mem to '5MB'; truncate near.rows; copy near.rows from stdin"),
            copy_data("1\tset home.never\n"), COPY_DONE,
        ),
        a(query("table near.rows; show work_mem; truncate near.rows")),
        user=ROOT,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DIALOGUES)
def test_what_a_long_text_leaves_is_its_frontends(home: Home, name: str):
    home.hold(DIALOGUES[name])
