"""The tables of the proof run, beside those of the leak fuzz."""

from __future__ import annotations

from tests.cluster import fuzz

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
