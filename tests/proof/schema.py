"""The tables of the proof run, beside those of the leak fuzz."""

from __future__ import annotations

from tests import roles
from tests.cluster import fuzz
from tests.proof.model import ROLES, SCHEMAS

FACTS = 10_000  # rows of leaks.facts; the note of each follows from its id
HOT = ("a", "b", "c")

SCHEMA = f"""
    {fuzz.SCHEMA};
    create table leaks.books (id text primary key, note text);
    create table leaks.facts as select n as id, 'fact ' || n as note from generate_series(1, {FACTS}) n;
    alter table leaks.facts add primary key (id);
    create table leaks.hot (id text primary key, n int not null default 0);
    insert into leaks.hot values ('a'), ('b'), ('c');
    create table leaks.locked as select 1 as id, 'locked' as note;
    create view leaks.harmless_view as select id, upper(note) as note from leaks.facts;
    create procedure leaks.commit_and_wait(id text) language plpgsql as
        $$begin insert into leaks.books values (id); commit; perform pg_sleep(0.05); end$$;
    grant all on all tables in schema leaks to public
"""

TYPED = {"home_1": "int, word text", "home_2": "bigint, word text", "home_3": "int, word text",
         "home_4": "int, word varchar(20)"}  # fmt: skip
NAMES = ", ".join(f"'{name}'" for name in (roles.TRUST.name, *ROLES[1:]))


def _schema(name: str) -> str:
    return f"""
        create schema {name}; create table {name}.whose as select '{name}' as name;
        create table {name}.typed (id {TYPED[name]}); insert into {name}.typed values (1, 'in {name}');
        grant usage on schema {name} to public; grant select on all tables in schema {name} to public;
    """


HOME = f"""
    alter database {roles.DATABASE} set search_path to home_1; create schema home;
    {"".join(_schema(name) for name in SCHEMAS)}
    {"".join(f"create role {name}; grant {name} to {roles.TRUST.name};" for name in ROLES[1:])}
    create table home.books (id text primary key);
    create table home.changing as select 1 as id;
    create table home.guarded (owner text, note text);
    insert into home.guarded select name, 'for ' || name from unnest(array[{NAMES}]) name;
    alter table home.guarded enable row level security;
    create policy own on home.guarded using (owner = current_user);
    grant usage on schema home to public; grant select on all tables in schema home to public;
    grant insert on home.books to public
"""
