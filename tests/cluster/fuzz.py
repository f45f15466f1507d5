"""Frontends that do to their sessions whatever can be done, each with a model of the session that it should have.

A frontend asks for its role, search_path, settings, locks, temporary tables, channels, prepared statements and answers
all the time, and finds out when it is shown anything of another's.
"""

from __future__ import annotations

import collections
import random
import threading
from typing import NamedTuple

from tests import roles
from tests.cluster.wire import FLUSH, SYNC, Message, Wire, bind, describe, execute, once, parse, query

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
    create function leaks.changing() returns int language sql as 'select 1';
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

STATE = """
    select current_user, session_user, current_setting('search_path'), current_setting('application_name'),
           current_setting('work_mem'), current_setting('leaks.tenant', true), current_setting('datestyle'),
           (select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'),
           (select count(*) from pg_class where relnamespace = pg_my_temp_schema() and relkind = 'r'),
           (select count(*) from pg_listening_channels()), (select count(*) from pg_prepared_statements),
           (select count(*) from pg_cursors)
"""


class Leak(AssertionError):
    """Something of another's session was seen."""


class Start(NamedTuple):
    """What a session begins with."""

    schema: str
    name: str
    tenant: str | None = None
    role: str | None = None


class Model:
    """What the session of one frontend is, had it a server of its own."""

    def __init__(self, number: int, random: random.Random, start: Start | None = None) -> None:
        self.number = number
        self.random = random
        self.schema, self.name, self.tenant, self.role = start or Start(
            random.choice(["leaks_1", "leaks_2", "leaks_3"]),
            f"frontend {number}",
            random.choice([None, None, f"tenant {random.randrange(3)}"]),
            random.choice([None, None, "leaks_role"]),
        )
        self.locks: set[int] = set()
        self.has_set_tenant = False
        self.temporary = False
        self.listens = False
        self.unnamed: str | None = None
        self.named: str | None = None
        self.begin()

    def begin(self) -> None:
        """What the session is now is what it begins with."""
        self.initial = (self.schema, self.tenant, self.role, self.name)
        self.start = {"search_path": self.schema, "application_name": self.name}
        if self.tenant is not None:
            self.start["leaks.tenant"] = self.tenant
        if self.role:
            self.start["role"] = self.role


class Frontend(threading.Thread):
    """One frontend of the fuzz, again and again with a new session, until it has done its steps."""

    def __init__(self, where: object, number: int, seed: int, steps: int) -> None:
        super().__init__(name=f"frontend {number}")
        self.where = where
        self.steps = steps
        self.random = random.Random(seed * 1000 + number)
        self.number = number
        self.failure: BaseException | None = None
        self.story: collections.deque[str] = collections.deque(maxlen=12)
        self.done = 0
        self.lives = 0

    def run(self) -> None:
        try:
            while self.done < self.steps:
                self.live()
        except BaseException as error:
            self.failure = error

    def connect(self) -> Wire:
        return Wire(self.where, **self.model.start)

    def live(self) -> None:
        """One session, that ends somehow."""
        self.lives += 1
        self.model = Model(self.number, self.random)
        self.story.append(f"START {self.model.start}")
        with self.connect() as self.session:
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

    def expect_state(self, found: object, expected: object, what: str) -> None:
        if found != expected:
            raise Leak(f"{what}: {found!r} instead of {expected!r}")

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
        expected = [user, roles.TRUST.name, model.schema, model.name]
        self.expect_state(row[0:4], expected, "role, search_path, application_name")
        self.expect_state(row[4], "4MB", "work_mem")
        # Who has set it and reset it again finds '' on a connection of its own, too.
        self.expect_state(None if row[5] == "" and model.has_set_tenant else row[5], model.tenant, "tenant")
        self.expect_state(row[7], str(len(model.locks)), "advisory locks")
        self.expect_state(row[8], "1" if model.temporary else "0", "temporary tables")
        self.expect_state(row[9], "1" if model.listens else "0", "channels")
        self.expect_state(row[10], "1" if model.named else "0", "prepared statements")
        self.expect_state(
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
        with self.connect() as other:
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
        # Not the keys of its last session, whose end the server may still have before it.
        key = self.number * 1_000_000 + self.lives * 10 + self.random.randrange(3)
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
        self.has_begun(self.session.until("TE"))
        self.expect(self.values(bind(word), execute(), SYNC), [[word]], "streamed")
        self.model.unnamed = None

    def has_begun(self, found: list[Message]) -> None:
        """Of a unit that has had no Sync yet, what was described has come."""
        self.expect("".join(each.tag for each in found if each.tag not in "SAt"), "1T", "description")

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
