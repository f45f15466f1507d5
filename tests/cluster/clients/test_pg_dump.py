"""pg_dump and pg_restore with several jobs do through the pooler what they do with the primary itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import roles
from tests.cluster.clients.tools import run_client
from tests.cluster.conftest import Address

SCHEMA = """
    drop schema if exists dumped cascade;
    create schema dumped;
    create type dumped.mood as enum ('fine', 'tired');
    create table dumped.people (id serial primary key, name text not null, mood dumped.mood, born timestamptz);
    create table dumped.notes (person int references dumped.people, text text, data bytea);
    create index on dumped.notes (person);
    create view dumped.tired as select * from dumped.people where mood = 'tired';
    create function dumped.add(int, int) returns int language sql as 'select $1 + $2';
    create function dumped.touch() returns trigger language plpgsql as $$ begin new.born = coalesce(new.born, now()); return new; end $$;
    create trigger touch before insert on dumped.people for each row execute function dumped.touch();
    insert into dumped.people (name, mood)
        select 'person ' || n, (array['fine', 'tired'])[1 + n % 2]::dumped.mood from generate_series(1, 2000) n;
    insert into dumped.notes select 1 + n % 2000, repeat('text ', n % 20), decode(md5(n::text), 'hex') from generate_series(1, 5000) n;
"""  # noqa: E501


@pytest.fixture
def schema(address: Address) -> str:
    """A schema with something of each kind, in the one database; it is not in the other one."""
    address.query(SCHEMA)
    address.query("drop schema if exists dumped cascade", database=roles.OTHER_DATABASE)
    return "dumped"


def plain_dump(pg_bin: Path, address: Address, schema: str, database: str = roles.DATABASE) -> str:
    printed = run_client(pg_bin / "pg_dump", address, "-n", schema, database, role=roles.ADMIN)
    return re.sub(r"^\\(un)?restrict .*\n", "", printed, flags=re.MULTILINE)  # a new word every time


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_what_is_dumped_and_restored_is_the_same_again(address, pg_bin, schema, tmp_path, jobs):
    directory = tmp_path / "dump"
    options = ["-Fd", "-j", jobs, "-n", schema, "-f", directory]
    assert run_client(pg_bin / "pg_dump", address, *options, role=roles.ADMIN) == ""
    into = ["-j", jobs, "--exit-on-error", "-d", roles.OTHER_DATABASE, directory]
    assert run_client(pg_bin / "pg_restore", address, *into, role=roles.ADMIN) == ""
    primary = Address(address.primary.host, address.primary.port, address.primary)
    expected = plain_dump(pg_bin, primary, schema)
    assert expected.count("\n") > 7000
    assert plain_dump(pg_bin, address, schema) == expected
    assert plain_dump(pg_bin, primary, schema, roles.OTHER_DATABASE) == expected


def test_pg_dump_that_is_told_to_clean_can_be_run_by_psql(address, pg_bin, schema, tmp_path):
    """With INSERTs and a transaction around it all, as many scripts have it."""
    options = ["-n", schema, "--clean", "--if-exists", "--rows-per-insert=100", "-f", tmp_path / "dump.sql"]
    run_client(pg_bin / "pg_dump", address, *options, role=roles.ADMIN)
    before = address.query("select * from dumped.people order by id")
    address.query("truncate dumped.people cascade")
    options = ["-Xq1", "-v", "ON_ERROR_STOP=1", "-f", tmp_path / "dump.sql"]
    run_client(pg_bin / "psql", address, *options, role=roles.ADMIN)
    assert address.query("select * from dumped.people order by id") == before
