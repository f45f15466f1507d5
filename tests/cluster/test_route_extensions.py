"""Extensions: those that are known to be harmless keep nothing from sharing a backend, but for the functions of theirs
that are named; what other languages keep from call to call is found.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lib.route import SCAN_SQL, Catalog, Kind, Router
from lib.route.catalog import HARMLESS_EXTENSIONS
from tests.servers import Server

# Functions of contrib that change a session or a server, or do not only read.
EXCEPTED = {
    b"isn_weak", b"set_limit", b"pg_stat_statements_reset", b"pg_truncate_visibility_map", b"pg_buffercache_evict",
}  # fmt: skip
READS = """
select a % 'b', similarity(a, 'b') from t
select uuid_generate_v4(), gen_random_bytes(4), crypt('a', gen_salt('md5'))
select h -> 'a', h ? 'b', c = 'X', l <@ 'a.b' from t
select unaccent(a), levenshtein(a, 'b'), i && array[1] from t
select '0-393-04002-X'::isbn
select * from t tablesample system_rows (10)
select earth_distance(ll_to_earth(1, 1), ll_to_earth(2, 2))
""".strip().splitlines()


@pytest.fixture(scope="module", params=[pytest.param(version, marks=pytest.mark.needs_npm) for version in (13, 17)])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(version=request.param) as server:
        for (name,) in server.query("select name from pg_available_extensions"):
            if name in HARMLESS_EXTENSIONS:
                server.query(f'create extension if not exists "{name}" cascade')
        server.query("create table t (a text, h hstore, c citext, l ltree, i int[]); create index on t using gist (l)")
        server.query("create index on t using bloom (a); create index on t using gin (a gin_trgm_ops)")
        yield server


def test_known_extensions_leave_everything_else_harmless(server):
    catalog = Catalog.from_rows(server.query(SCAN_SQL))
    known = {name.encode() for (name,) in server.query("select proname from pg_proc")}
    assert catalog.functions == EXCEPTED & known
    assert (catalog.relations, catalog.operators, catalog.writing_operators) == (set(), set(), set())
    assert (catalog.suspect_all, catalog.writes_all) == (False, "")


@pytest.mark.parametrize("text", READS)
def test_reads_with_them_share_backends(server, text):
    assert Router(Catalog.from_rows(server.query(SCAN_SQL))).verdict(text.encode()).kind == Kind.SHAREABLE
    server.query(text)


def test_an_extension_that_is_not_known_is_suspect(server):
    """dblink leaves connections in the session; xml2 and tablefunc run texts as SQL."""
    server.query("create extension if not exists dblink; create extension if not exists tablefunc")
    catalog = Catalog.from_rows(server.query(SCAN_SQL))
    server.query("drop extension dblink; drop extension tablefunc")
    assert {b"dblink", b"dblink_connect", b"crosstab"} <= catalog.functions
    assert b"dblink_connect" in catalog.spoilers & catalog.holders
    assert b"crosstab" not in catalog.holders


@pytest.fixture(scope="module")
def debian() -> Iterator[Server]:
    with Server(version=15) as server:
        yield server


LEFT_BEHIND = {
    "isn_weak": ("create extension if not exists isn", "select isn_weak(true)", "select isn_weak()"),
    "plpython": (
        "create extension if not exists plpython3u;"
        "create or replace function put() returns int language plpython3u as $$ GD['a'] = 1; return 1 $$;"
        "create or replace function got() returns bool language plpython3u as $$ return 'a' in GD $$",
        "select put()",
        "select got()",
    ),
}


@pytest.mark.needs_debian
@pytest.mark.parametrize("what", LEFT_BEHIND)
def test_what_discard_all_does_not_undo_spoils_the_worker(debian, what):
    setup, text, ask = LEFT_BEHIND[what]
    debian.query(setup)
    connection = debian.connect()
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(text)
        cursor.execute("discard all")
        cursor.execute(ask)
        assert cursor.fetchall() == [(True,)]
    connection.close()
    verdict = Router(Catalog.from_rows(debian.query(SCAN_SQL))).verdict(text.encode())
    assert (verdict.kind, verdict.holds, verdict.spoils) == (Kind.OPAQUE, True, True)
