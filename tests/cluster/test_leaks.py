"""Nothing of one frontend ever reaches another: directed attempts, and a fuzz of many frontends at once.

The fuzz is seeded: LEAK_SEED repeats a run, LEAK_FRONTENDS and LEAK_STEPS make it larger (200 and 300 in full).
Every frontend keeps a model of the session that it would have on a connection of its own, and asks for it all the time.
"""

from __future__ import annotations

import collections
import contextlib
import os
import random
import threading

import pytest

from tests import roles
from tests.cluster.wire import FLUSH, SYNC, Message, Wire, bind, describe, execute, once, parse, query
from tests.servers import Pooler
from tests.workplace import wait_until

FRONTENDS = int(os.environ.get("LEAK_FRONTENDS", "24"))
STEPS = int(os.environ.get("LEAK_STEPS", "80"))
SEED = int(os.environ.get("LEAK_SEED", "0")) or random.randrange(1, 1_000_000)

# What an application may have in its database. `leaky_*` change the session of whoever runs them, and no text shows it.
SCHEMA = f"""
    drop schema if exists leaks cascade;
    create schema leaks;
    create schema leaks_1; create schema leaks_2; create schema leaks_3;
    create table leaks_1.whose as select 'schema 1' as name;
    create table leaks_2.whose as select 'schema 2' as name;
    create table leaks_3.whose as select 'schema 3' as name;
    create table leaks.plain (id serial, note text);
    create table leaks.triggered (id int, note text);
    create function leaks.harmless(n int) returns int language sql as 'select n + 1';
    create function leaks.leaky_set() returns text language plpgsql as
        $$begin perform set_config('search_path', 'leaks_3', false); return 'x'; end$$;
    create function leaks.leaky_tenant() returns text language sql as
        $$select set_config('leaks.tenant', 'stolen', false)$$;
    create function leaks.leaky_lock() returns int language plpgsql as
        $$begin perform pg_advisory_lock(1000 + pg_backend_pid()); return 1; end$$;
    create function leaks.leaky_temp() returns int language plpgsql as
        $$begin create temp table if not exists left_behind as select 'left' as note; return 1; end$$;
    create function leaks.leaky_listen() returns int language plpgsql as
        $$begin execute 'listen leaks_heard'; return 1; end$$;
    create function leaks.leaky_trigger() returns trigger language plpgsql as
        $$begin
            perform set_config('application_name', 'stolen', false), set_config('leaks.tenant', 'stolen', false);
            set search_path to leaks_2;
            return new;
        end$$;
    create trigger leaky before insert on leaks.triggered for each row execute function leaks.leaky_trigger();
    create view leaks.leaky_view as select leaks.leaky_set() as x;
    create view leaks.writable as select * from leaks.triggered;
    create procedure leaks.leaky_call() language plpgsql as $$begin set work_mem to '7MB'; commit; end$$;
    create function leaks.leaky_sign(n int) returns text language sql as 'select leaks.leaky_set()';
    create operator leaks.### (function = leaks.leaky_sign, rightarg = int);
    drop role if exists leaks_role; create role leaks_role; grant leaks_role to {roles.TRUST.name}, {roles.SCRAM.name};
    grant usage on schema leaks, leaks_1, leaks_2, leaks_3 to public;
    grant all on all tables in schema leaks, leaks_1, leaks_2, leaks_3 to public;
    grant all on all sequences in schema leaks to public
"""  # fmt: skip
DROP = """
    drop schema leaks, leaks_1, leaks_2, leaks_3 cascade; drop owned by leaks_role; drop role leaks_role
"""


@pytest.fixture(scope="module")
def schema(cluster):
    cluster.primary.query("drop schema if exists leaks_1, leaks_2, leaks_3 cascade", dbname=roles.DATABASE)
    cluster.primary.query(SCHEMA, dbname=roles.DATABASE)
    cluster.wait_caught_up()
    yield
    cluster.primary.query(DROP, dbname=roles.DATABASE)


@pytest.fixture(scope="module")
def few(cluster, schema):
    """A pooler with very few workers, so that everybody meets what others left behind."""
    conf = {
        "admin_cnn": {**roles.ADMIN.login, "database": "postgres"}, "max_workers": 3, "worker_per_fe_cnt": 100,
        "catalog_interval": 0.5,
    }  # fmt: skip
    with Pooler(conf, cluster=cluster) as pooler:
        yield pooler
    assert "Traceback" not in pooler.log
    assert "answered with status" not in pooler.log


STATE = """
    select current_user, session_user, current_setting('search_path'), current_setting('application_name'),
           current_setting('work_mem'), current_setting('leaks.tenant', true), current_setting('datestyle'),
           (select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'),
           (select count(*) from pg_class where relnamespace = pg_my_temp_schema() and relkind = 'r'),
           (select count(*) from pg_listening_channels()), (select count(*) from pg_prepared_statements),
           (select count(*) from pg_cursors)
"""


def state(session: Wire) -> list[str | None]:
    """Everything that somebody could have left in the session."""
    return session.rows(STATE)[0]


# --- one attempt after the other ------------------------------------------------------------------------------------

ATTEMPTS = {
    "set": ["set search_path to leaks_3", "set application_name to 'stolen'", "set datestyle to german"],
    "set_custom": ["set leaks.tenant to 'stolen'"],
    "set_session": ["set session work_mem to '7MB'; set session characteristics as transaction read only"],
    "set_role": ["set role leaks_role"],
    "set_session_authorization": ["set session authorization default; set role leaks_role"],
    "set_config": ["select set_config('search_path', 'leaks_3', false)"],
    "set_config_by_parameter": [once("select set_config($1, $2, $3::bool)", "leaks.tenant", "stolen", "false")],
    "set_config_hidden_in_a_unicode_name": ["select U&\"set\\005fconfig\"('search_path', 'leaks_3', false)"],
    "set_config_with_an_escape": ["select set_config(E'search\\x5fpath', 'leaks_3', (1 = 2))"],
    "set_config_in_a_cte": ["with x as (select set_config('leaks.tenant', 'stolen', false)) select 1 from x"],
    "update_pg_settings": ["update pg_settings set setting = 'leaks_3' where name = 'search_path'"],
    "function": ["select leaks.leaky_set()", "select leaks.leaky_tenant()"],
    "function_by_search_path": ["begin; set local search_path to leaks; select leaky_tenant(); commit"],
    "function_in_the_extended_protocol": [once("select leaks.leaky_set()"), once("select leaks.leaky_lock()")],
    "function_that_locks": ["select leaks.leaky_lock()"],
    "function_that_makes_a_temporary_table": ["select leaks.leaky_temp()"],
    "function_that_listens": ["select leaks.leaky_listen()"],
    "operator": ["select operator(leaks.###) 1", "set search_path to leaks; select ### 1"],
    "view": ["table leaks.leaky_view"],
    "trigger": ["insert into leaks.triggered values (1, 'x')"],
    "trigger_behind_a_view": ["insert into leaks.writable values (1, 'x')"],
    "trigger_by_copy": ["copy leaks.triggered from stdin"],
    "do": ["do $$begin perform set_config('leaks.tenant', 'stolen', false); set search_path to leaks_3; end$$"],
    "call": ["call leaks.leaky_call()"],
    "explain_analyze": ["explain analyze select leaks.leaky_set()", "explain analyze create temp table t as select 1"],
    "lock": ["select pg_advisory_lock(7)", "select pg_try_advisory_lock_shared(8)"],
    "temporary_table": ["create temp table left_behind (n int)", "select 1 as n into temp left_too"],
    "listen": ["listen leaks_heard"],
    "prepare": ["prepare p as select 1", parse("select 2", "left_behind") + SYNC],
    "cursor": ["begin; declare c cursor with hold for select 1; commit"],
    "several": ["select 1; set search_path to leaks_3; select 2"],
    "open_transaction": ["begin; set local search_path to leaks_3; create temp table t (n int) on commit drop"],
    "failed_transaction": ["begin; set search_path to leaks_3; select 1 / 0"],
    "set_local_of_a_custom_setting": ["begin; set local leaks.tenant to 'mine'; commit"],
    "set_config_local_of_a_custom_setting": ["select set_config('leaks.tenant', 'mine', true)"],
    "custom_setting_rolled_back": ["begin; set leaks.tenant to 'mine'; rollback"],
    "execute": ["prepare q as select set_config('search_path', 'leaks_3', false)", "execute q"],
    "streamed": [parse("set search_path to leaks_3") + bind() + execute() + FLUSH + parse("set role leaks_role")
                 + bind() + execute() + SYNC],
    "query_inside_an_unsynced_unit": [
        parse("select 1") + query("set search_path to leaks_3") + SYNC,
        parse("select 1") + FLUSH + query("select leaks.leaky_lock()") + SYNC,
    ],
    "text_that_is_too_long_to_read": ["select '" + "x" * 70_000 + "', set_config('search_path', 'leaks_3', false)"],
    "parse_that_is_too_long_to_read": [
        once("select '" + "x" * 70_000 + "', set_config('leaks.tenant', 'stolen', false)")
    ],
    "text_that_cannot_be_read": ["select 1 /* open", "set search_path to 'leaks_3' /* open"],
    "seed": ["select setseed(0.5)"],
    "load": ["load 'auto_explain'"],
}  # fmt: skip


@pytest.mark.parametrize("leaves", [True, False], ids=["leaves", "stays"])
@pytest.mark.parametrize("name", ATTEMPTS)
def test_nothing_that_a_frontend_does_to_its_session_is_seen_by_another(few, name, leaves):
    with contextlib.ExitStack() as others:
        for group in ({}, {}, {"search_path": "leaks_1"}, {"leaks.tenant": "42"}):
            others.enter_context(watched(few, group))
        for attempt in ATTEMPTS[name]:
            thief = Wire(few)
            thief.send(attempt if isinstance(attempt, bytes) else query(attempt))
            if name == "trigger_by_copy":
                thief.until("G")
                thief.send(b"d\0\0\0\x081\ta\n", b"c\0\0\0\4")
            if not name.startswith("text_that_cannot"):
                thief.until_ready()
            if leaves:
                thief.sock.close()
            else:
                others.enter_context(thief)
            for _ in range(4):  # more than there are workers
                others.enter_context(watched(few, {}))


@contextlib.contextmanager
def watched(pooler, group):
    """A frontend whose session must be at the end what it was at the beginning, and that of any other of its group."""
    expected = {"search_path": '"$user", public', "leaks.tenant": None, "application_name": ""} | group
    with Wire(pooler, **group) as session:
        at_first = state(session)
        assert at_first[2:4] == [expected["search_path"], expected["application_name"]]
        assert at_first[5] == expected["leaks.tenant"]
        assert at_first[7:] == ["0", "0", "0", "0", "0"]
        yield
        assert state(session) == at_first
        assert [each.tag for each in session.ask(query("select 1"))] == ["T", "D", "C", "Z"]


def test_what_was_created_through_the_pool_is_dangerous_for_whoever_uses_it_next(few):
    """The trigger was not there when the catalog was scanned, and the INSERT is another frontend's, right behind it."""
    names = [f"fresh_{number}" for number in range(10)]
    with Wire(few, user=roles.TRUST.name) as maker, Wire(few) as user, Wire(few) as victim:
        for name in names:
            maker.rows(f"create table leaks_{name} (n int); grant all on leaks_{name} to public")
            assert user.rows(f"insert into leaks_{name} values (1) returning n") == [["1"]]
            maker.rows(
                f"""create function {name}() returns trigger language plpgsql as
                    $$begin
                        perform set_config('leaks.tenant', 'stolen', false); set search_path to leaks_3; return new;
                    end$$"""
            )
            maker.rows(f"create trigger t before insert on leaks_{name} for each row execute function {name}()")
            user.rows(f"insert into leaks_{name} values (1)")
            assert state(victim)[2:6] == ['"$user", public', "", "4MB", None]
            maker.rows(
                f"create function {name}_f() returns text language sql as "
                "$$select set_config('search_path', 'x', false)$$"
            )
            user.rows(f"select {name}_f()")
            assert state(victim)[2:6] == ['"$user", public', "", "4MB", None]
            maker.rows(f"create or replace function {name}_f() returns text language sql as $$select 'harmless'$$")
            assert user.value(f"select {name}_f()") == "harmless"
            maker.rows("begin")
            maker.rows(f"create view {name}_v as select set_config('work_mem', '9MB', false) as n")
            maker.rows(f"grant select on {name}_v to public")
            maker.rows("commit")
            user.rows(f"table {name}_v")
            assert state(victim)[2:6] == ['"$user", public', "", "4MB", None]
            maker.rows(f"drop table leaks_{name}; drop function {name}, {name}_f; drop view {name}_v")


@pytest.mark.parametrize("name", ["ddl", ""], ids=["named", "unnamed"])
def test_what_was_created_by_a_statement_that_was_prepared_before_is_dangerous_too(few, name):
    text = "create or replace view leaks_late as select set_config('work_mem', '{}MB', false) as n"
    with Wire(few) as maker, Wire(few) as user, Wire(few) as victim:
        maker.rows("create or replace view leaks_late as select 'harmless' as n; grant select on leaks_late to public")
        wait_until(lambda: user.value("table leaks_late") == "harmless", what="the view")
        for turn in range(5):
            maker.rows("create or replace view leaks_late as select 'harmless' as n")
            assert user.value("table leaks_late") == "harmless"
            maker.ask(parse(text.format(turn + 5), f"{name}{turn}" if name else "") + SYNC)
            for _ in range(200):  # meanwhile the catalog is scanned, and nothing has changed yet
                assert user.value("table leaks_late") == "harmless"
            answer = maker.ask(bind(name=f"{name}{turn}" if name else "") + execute() + SYNC)
            assert [each.tag for each in answer] == ["2", "C", "Z"]
            user.rows("table leaks_late")
            assert victim.value("show work_mem") == "4MB"
        maker.rows("drop view leaks_late")


def test_a_custom_setting_whose_name_was_bound_to_a_prepared_statement_leaves_no_trace(few):
    with Wire(few) as thief:
        thief.ask(parse("select set_config($1, $2, true)", "by_name") + SYNC)
        thief.ask(bind("leaks.bound", "x", name="by_name") + execute() + SYNC)
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            session = stack.enter_context(Wire(few))
            assert session.value("select current_setting('leaks.bound', true)") is None


def test_ddl_past_the_pool_is_seen_after_an_interval(cluster, few):
    with Wire(few) as victim:
        cluster.primary.query(
            "create or replace function leaks.harmless(n int) returns int language plpgsql as "
            "$$begin perform set_config('search_path', 'leaks_3', false); return n; end$$",
            dbname=roles.DATABASE,
        )

        def is_seen():
            with Wire(few) as user:
                user.rows("select leaks.harmless(1)")
            return state(victim)[2] == '"$user", public'

        try:
            # Those workers that were taken in before the scan must be cleaned too, or it would take for ever.
            wait_until(lambda: all(is_seen() for _ in range(20)), what="the catalog to be scanned")
        finally:
            cluster.primary.query(
                "create or replace function leaks.harmless(n int) returns int language sql as 'select n + 1'",
                dbname=roles.DATABASE,
            )


def test_the_answer_of_a_frontend_that_vanished_is_nobody_elses(few):
    for size in (10, 100_000, 3_000_000):
        for _ in range(4):
            with Wire(few) as vanishing:
                vanishing.send(
                    query(f"select repeat('x', 1000) from generate_series(1, {size // 1000 + 1})"), query("listen x")
                )
            with Wire(few) as session:
                assert [each.tag for each in session.ask(query("select 'mine'"))] == ["T", "D", "C", "Z"]


# --- the fuzz -------------------------------------------------------------------------------------------------------


class Model:
    """What the session of one frontend is, had it a server of its own."""

    def __init__(self, number: int, random: random.Random) -> None:
        self.number = number
        self.random = random
        self.schema = random.choice(["leaks_1", "leaks_2", "leaks_3"])
        self.tenant = random.choice([None, None, f"tenant {random.randrange(3)}"])
        self.role = random.choice([None, None, "leaks_role"])
        self.name = f"frontend {number}"
        self.start = {"search_path": self.schema, "application_name": self.name}
        if self.tenant is not None:
            self.start["leaks.tenant"] = self.tenant
        if self.role:
            self.start["role"] = self.role
        self.initial = (self.schema, self.tenant, self.role, self.name)
        self.locks: set[int] = set()
        self.has_set_tenant = False
        self.temporary = False
        self.listens = False
        self.unnamed: str | None = None
        self.named: str | None = None


class Frontend(threading.Thread):
    """One frontend of the fuzz, again and again with a new session, until it has done its steps."""

    def __init__(self, pooler: Pooler, number: int, seed: int) -> None:
        super().__init__(name=f"frontend {number}")
        self.pooler = pooler
        self.random = random.Random(seed * 1000 + number)
        self.number = number
        self.failure: BaseException | None = None
        self.story: collections.deque[str] = collections.deque(maxlen=12)
        self.done = 0

    def run(self) -> None:
        try:
            while self.done < STEPS:
                self.live()
        except BaseException as error:
            self.failure = error

    def live(self) -> None:
        """One session, that ends somehow."""
        self.model = Model(self.number, self.random)
        self.story.append(f"START {self.model.start}")
        with Wire(self.pooler, **self.model.start) as self.session:
            self.check()
            for _ in range(self.random.randrange(1, 25)):
                self.done += 1
                step = self.random.choice(STEP_METHODS)
                if self.model.unnamed is not None and self.random.random() < 0.7:
                    step = self.random.choice([Frontend.run_unnamed, Frontend.named])
                self.story.append(step.__name__)
                step(self)
                if self.model.unnamed is None and self.random.random() < 0.5:
                    self.check()
            self.random.choice([self.vanish, self.vanish, self.say_goodbye])()

    # --- what is asked

    def expect(self, found: object, expected: object, what: str) -> None:
        assert found == expected, f"{what}: {found!r} instead of {expected!r}"

    def values(self, *parts: bytes, keeps_unnamed: bool = False) -> list[list[str | None]]:
        """Rows of one unit, which must not fail, and have nothing in it that belongs to others."""
        if not keeps_unnamed:
            self.model.unnamed = None
        answer = self.session.ask(*parts)
        strange = [each for each in answer if each.tag in "EA" and not self.is_mine(each)]
        assert not strange, f"{strange}"
        return [each.values for each in answer if each.tag == "D"]

    def is_mine(self, each: Message) -> bool:
        return each.tag == "A" and self.model.listens and each.body[4:].startswith(b"leaks_heard\0")

    def check(self) -> None:
        model = self.model
        row = self.values(query(STATE) if self.random.random() < 0.5 else once(STATE))[0]
        user = model.role or roles.TRUST.name
        self.expect(row[0:4], [user, roles.TRUST.name, model.schema, model.name], "role, search_path, application_name")
        self.expect(row[4], "4MB", "work_mem")
        # Who has set it and reset it again finds '' on a connection of its own, too.
        self.expect(None if row[5] == "" and model.has_set_tenant else row[5], model.tenant, "tenant")
        self.expect(row[7], str(len(model.locks)), "advisory locks")
        self.expect(row[8], "1" if model.temporary else "0", "temporary tables")
        self.expect(row[9], "1" if model.listens else "0", "channels")
        self.expect(row[10], "1" if model.named else "0", "prepared statements")
        self.expect(
            self.values(query("select name from whose")), [[model.schema.replace("leaks_", "schema ")]], "table"
        )

    # --- what is done

    def read(self) -> None:
        word = f"{self.number}/{self.done}/"
        expected = word + self.model.schema.replace("leaks_", "schema ")
        self.expect(self.values(once("select $1 || name from whose", word)), [[expected]], "answer")

    def read_with_functions(self) -> None:
        self.expect(
            self.values(query(f"select leaks.harmless({self.done}), upper('a')")), [[str(self.done + 1), "A"]], "sum"
        )

    def pipeline(self) -> None:
        self.model.unnamed = None
        words = [f"{self.number}/{self.done}/{turn}" for turn in range(self.random.randrange(2, 9))]
        self.session.send(*(once("select $1", word) if len(word) % 2 else query(f"select '{word}'") for word in words))
        for word in words:
            rows = [each.values for each in self.session.until_ready() if each.tag == "D"]
            self.expect(rows, [[word]], "pipeline")

    def write(self) -> None:
        note = f"{self.number}/{self.done}"
        self.expect(
            self.values(once("insert into leaks.plain (note) values ($1) returning note", note)), [[note]], "row"
        )

    def write_with_a_trigger(self) -> None:
        self.in_a_transaction_of_its_own(once("insert into leaks.triggered values ($1, 'x')", str(self.done)))

    def call_a_leaky_function(self) -> None:
        names = ["set", "tenant", "lock", "temp", "listen"]
        self.in_a_transaction_of_its_own(query(f"select leaks.leaky_{self.random.choice(names)}()"))

    def use_a_leaky_view(self) -> None:
        self.in_a_transaction_of_its_own(query("select * from leaks.leaky_view"))

    def do(self) -> None:
        self.in_a_transaction_of_its_own(query("do $$begin set search_path to leaks_3; set work_mem to '9MB'; end$$"))

    def in_a_transaction_of_its_own(self, part: bytes) -> None:
        """Run what leaks, and end the session: what it has done to it is not for the model to know."""
        if self.random.random() < 0.3:
            # Rolled back, a setting and a temporary table are gone; a lock is not.
            if b"lock" not in part and b"listen" not in part:
                self.model.has_set_tenant = True
                self.values(query("begin"))
                self.values(part)
                self.values(query("rollback"))
            return
        with Wire(self.pooler, **self.model.start) as other:
            other.ask(part)
            if self.random.random() < 0.5:
                other.ask(query("select 1"))

    def set(self) -> None:
        model = self.model
        what = self.random.randrange(5)
        if what == 0:
            model.schema = self.random.choice(["leaks_1", "leaks_2", "leaks_3"])
            self.values(query(f"set search_path to {model.schema}"))
        elif what == 1:
            model.tenant = f"tenant {self.random.randrange(9)}"
            model.has_set_tenant = True
            self.values(once(f"set leaks.tenant to '{model.tenant}'"))
        elif what == 2:
            model.role = self.random.choice([None, "leaks_role"])
            self.values(query(f"set role {model.role or 'none'}"))
            if model.role is None and model.initial[2]:
                model.role = (
                    model.initial[2] if self.values(query("select current_user"))[0][0] == "leaks_role" else None
                )
        elif what == 3:
            model.name = f"renamed {self.done}"
            self.values(once("select set_config('application_name', $1, false)", model.name))
        else:
            self.values(query("update pg_settings set setting = 'leaks_2' where name = 'search_path'"))
            model.schema = "leaks_2"

    def reset(self) -> None:
        model = self.model
        self.values(query("reset all"))
        model.schema, tenant, _, model.name = model.initial
        model.tenant = tenant

    def discard(self) -> None:
        model = self.model
        self.values(query("discard all"))
        model.schema, model.tenant, model.role, model.name = model.initial
        model.locks.clear()
        model.temporary = model.listens = False
        model.named = None

    def transaction(self) -> None:
        self.values(query("begin"))
        if self.random.random() < 0.3:
            self.values(query("set local leaks.tenant to 'for a moment'"))
            self.model.has_set_tenant = True
        if self.random.random() < 0.5:
            self.values(query("set local search_path to leaks_1; set local work_mem to '8MB'"))
            self.expect(self.values(query("select name from whose")), [["schema 1"]], "in the transaction")
        if self.random.random() < 0.5:
            self.values(
                query("select set_config('application_name', 'inside', true), pg_advisory_xact_lock_shared(99)")
            )
        if self.random.random() < 0.3:
            self.session.ask(query("set search_path to nowhere; select 1 / 0"))
            self.values(query("rollback"))
        else:
            self.values(query(self.random.choice(["commit", "rollback", "end"])))

    def advisory_lock(self) -> None:
        key = self.number * 100 + self.random.randrange(3)
        if key in self.model.locks:
            self.expect(self.values(query(f"select pg_advisory_unlock({key})")), [["t"]], "unlock")
            self.model.locks.discard(key)
        else:
            self.expect(self.values(once(f"select pg_try_advisory_lock({key})")), [["t"]], "lock")
            self.model.locks.add(key)

    def temporary_table(self) -> None:
        if self.model.temporary:
            self.expect(self.values(query("select whose from mine_only")), [[str(self.number)]], "temporary table")
        else:
            self.values(query(f"create temp table mine_only as select {self.number} as whose"))
            self.values(query("grant all on mine_only to public"))
            self.model.temporary = True

    def listen(self) -> None:
        self.values(query("listen leaks_heard"))
        self.model.listens = True

    def notify(self) -> None:
        self.values(query("notify leaks_heard, 'x'"))

    def parse_unnamed(self) -> None:
        text = f"unnamed {self.number}/{self.done}"
        self.values(parse(f"select '{text}'"), SYNC)
        self.model.unnamed = text

    def run_unnamed(self) -> None:
        if self.model.unnamed is not None:
            self.expect(self.values(bind(), execute(), SYNC, keeps_unnamed=True), [[self.model.unnamed]], "unnamed")

    def named(self) -> None:
        if self.model.named is None:
            self.model.named = f"named {self.number}/{self.done}"
            self.values(parse(f"select '{self.model.named}'", "n"), SYNC, keeps_unnamed=True)
        self.expect(
            self.values(bind(name="n"), execute(), SYNC, keeps_unnamed=True), [[self.model.named]], "named statement"
        )

    def fail(self) -> None:
        self.session.ask(self.random.choice([query("select 1 / 0"), once("selekt"), query("table not_there")]))
        self.model.unnamed = None

    def stream(self) -> None:
        word = f"{self.number}/{self.done}"
        self.session.send(parse("select $1::text"), describe("S"), FLUSH)
        self.session.until("T")
        self.expect(self.values(bind(word), execute(), SYNC), [[word]], "streamed")
        self.model.unnamed = None

    def copy(self) -> None:
        self.model.unnamed = None
        self.session.send(query("copy leaks.plain (note) from stdin"), b"d\0\0\0\6a\n", b"c\0\0\0\4")
        tags = [each.tag for each in self.session.until_ready() if not self.is_mine(each) and each.tag != "S"]
        self.expect(tags, ["G", "C", "Z"], "COPY")

    # --- how it ends

    def vanish(self) -> None:
        """At any byte of something."""
        last = self.random.choice(
            [
                once("select pg_sleep(0.01)"), query("begin; select 1"), query("select repeat('x', 100000)"),
                query("copy leaks.plain from stdin") + b"d\0\0\0\xffx", parse("select 1") + FLUSH,
                query("set search_path to leaks_3"), query("select pg_advisory_lock(5, 5 + pg_backend_pid())"),
                query("create temp table vanishing (n int)"), query("listen vanishing"),
                parse("select 'left'", "left") + SYNC, query("reset all"),
            ]
        )  # fmt: skip
        self.session.send(last[: self.random.randrange(len(last) + 1)])

    def say_goodbye(self) -> None:
        self.session.send(b"X\0\0\0\4")


STEP_METHODS = [
    Frontend.read, Frontend.read, Frontend.read_with_functions, Frontend.pipeline, Frontend.write, Frontend.set,
    Frontend.write_with_a_trigger, Frontend.call_a_leaky_function, Frontend.use_a_leaky_view, Frontend.do,
    Frontend.reset, Frontend.discard, Frontend.transaction, Frontend.advisory_lock, Frontend.temporary_table,
    Frontend.listen, Frontend.notify, Frontend.parse_unnamed, Frontend.run_unnamed, Frontend.named,
    Frontend.fail, Frontend.stream, Frontend.copy,
]  # fmt: skip


def test_many_frontends_that_do_everything_at_once_never_see_anything_of_each_other(cluster, few):
    frontends = [Frontend(few, number, SEED) for number in range(FRONTENDS)]
    for frontend in frontends:
        frontend.start()
    for frontend in frontends:
        frontend.join()
    wrong = [
        f"{frontend.name}: {frontend.failure!r} after {list(frontend.story)}"
        for frontend in frontends
        if frontend.failure
    ]
    assert not wrong, f"LEAK_SEED={SEED}, {len(wrong)} of {len(frontends)}:\n" + "\n".join(wrong[:5])
    held = "select count(*) from pg_stat_activity where usename = %s and backend_type = 'client backend'"
    wait_until(
        lambda: cluster.primary.query(held, [roles.TRUST.name])[0][0] < 30,
        20,
        "the workers of those that left to be free",
    )
