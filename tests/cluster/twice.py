"""The same dialogue twice: with the server itself, then through a pooler whose workers have all been used by others.

A dialogue is steps of one or more frontends. What each of them hears is compared message by message: types, columns,
rows, errors, notices, the settings that are reported, the transaction status.

Through the pooler no frontend may count on its worker. Neighbours hold all workers in transactions; before a step one
of them gives its worker back, and is the only one that does, so that the step runs on that one and on no other. Before
that the neighbour has used the same names for statements of its own. So a frontend meets each worker again and again,
and never as it has left it.
"""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

from tests import roles
from tests.cluster.wire import SYNC, Message, Wire, bind, close, describe, execute, parse
from tests.servers import Pooler, Server

WORKERS = 3
ORDER = (0, 1, 0, 0, 2, 1, 1, 2)  # which worker is free for one step after the other
ROOT = "root_trust"  # a superuser who needs no password
FIRST_OID = 16384  # of what was created by users
TIMEOUT_S = 60.0
SHOWN = 200  # of what was said before a difference

SCHEMA = f"""
    create schema near; create schema far;
    create table near.t (id int, word text, day date, at timestamptz);
    create table far.t (id bigint, word varchar(20), day date, at timestamp);
    insert into near.t values (1, 'near one', '2001-02-03', '2001-02-03 04:05:06+00');
    insert into far.t values (1, 'far one', '2001-03-02', '2001-03-02 04:05:06');
    create table near.whose as select 'near' as name; create table far.whose as select 'far' as name;
    create type near.mood as enum ('glad', 'sad'); create type far.mood as enum ('sad', 'glad', 'far');
    create function near.f(n int) returns text immutable language sql as $$select 'near ' || n$$;
    create function far.f(n int) returns bigint immutable language sql as 'select n * 100::bigint';
    create function near.sets(value text) returns text language plpgsql as
        $$begin perform set_config('work_mem', value, false); return value; end$$;
    create function near.keeps() returns text language plpgsql set datestyle to german as
        $$begin return date '2001-02-03'::text; end$$;
    create function near.changes() returns void language plpgsql set work_mem to '2MB' as
        $$begin set timezone to 'Asia/Tokyo'; end$$;
    create function near.runs(command text) returns void language plpgsql as $$begin execute command; end$$;
    create procedure near.commits() language plpgsql as $$begin set work_mem to '6MB'; commit; end$$;
    create table near.rows (id serial primary key, note text);
    create role home_role; create role home_other;
    grant home_role, home_other to {roles.TRUST.name};
    grant usage, create on schema near, far to public;
    grant all on all tables in schema near, far to public; grant all on all sequences in schema near to public;
    create table near.guarded (owner text, note text);
    insert into near.guarded values ('{roles.TRUST.name}', 'of the login'), ('home_role', 'of home_role');
    alter table near.guarded enable row level security; create policy own on near.guarded using (owner = current_user);
    grant select on near.guarded to public
"""

# What a neighbour begins with: one is of the same group as a frontend that has nothing special.
NEIGHBOURS: list[dict[str, str]] = [
    {},
    {"DateStyle": "German, DMY", "TimeZone": "Asia/Tokyo", "search_path": "far, public"},
    {"application_name": "neighbour", "work_mem": "3MB"},
]


class Step(NamedTuple):
    """What a frontend says, and the types of messages that it then waits for, one after the other.

    who    a letter, or "server" for a text that a superuser runs on the server itself
    """

    who: str
    sent: bytes
    tags: str = "Z"


def a(*parts: bytes, tags: str = "Z") -> Step:
    return Step("A", b"".join(parts), tags)


def b(*parts: bytes, tags: str = "Z") -> Step:
    return Step("B", b"".join(parts), tags)


def on_server(sql: str) -> Step:
    return Step("server", sql.encode())


class Dialogue:
    """Steps, and with what startup parameters the frontends begin (by their letters)."""

    def __init__(self, *steps: Step, user: str = roles.TRUST.name, **starts: dict[str, str]) -> None:
        self.steps = steps
        self.starts = {step.who: starts.get(step.who, {}) for step in steps if step.who != "server"}
        self.user = user


class Names:
    """Numbers for what the server gives another oid each time it is created, in the order in which they were seen."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}

    def __call__(self, oid: int) -> int | str:
        return oid if oid < FIRST_OID else f"own {self._numbers.setdefault(oid, len(self._numbers))}"


def told(message: Message, name: Names) -> tuple[Any, ...]:
    """A message as it can be compared, and read where it differs."""
    tag, body = message
    if tag == "T":
        return tag, _columns(body, name)
    if tag == "t":
        return tag, [name(oid) for oid in struct.unpack_from(f"!{len(body) // 4}I", body, 2)]
    if tag == "D":
        return tag, _values(body)
    if tag in "EN":  # without the place in the server's source, which an answer of the pooler's own cannot have
        return tag, {letter: text for letter, text in message.fields.items() if letter not in "FLR"}
    if tag == "A":
        return tag, body[4:]
    return tag, body.decode(errors="backslashreplace").rstrip("\0")


def _columns(body: bytes, name: Names) -> list[tuple[Any, ...]]:
    columns = []
    at = 2
    for _ in range(struct.unpack_from("!H", body)[0]):
        end = body.index(b"\0", at)
        table, number, kind, size, modifier, format = struct.unpack_from("!IhIhih", body, end + 1)
        columns.append((body[at:end].decode(), name(table), number, name(kind), size, modifier, format))
        at = end + 19
    return columns


def _values(body: bytes) -> list[str | None]:
    values: list[str | None] = []
    at = 2
    for _ in range(struct.unpack_from("!H", body)[0]):
        (size,) = struct.unpack_from("!i", body, at)
        at += 4
        values.append(None if size < 0 else body[at : at + size].decode(errors="backslashreplace"))
        at += max(size, 0)
    return values


class Neighbours:
    """Frontends that have all workers, and give one of them back when it is somebody's turn."""

    def __init__(self, pooler: Pooler, user: str) -> None:
        self._all = [Wire(pooler, user=user, timeout_s=TIMEOUT_S, **parameters) for parameters in NEIGHBOURS]
        self._order = itertools.cycle(ORDER)
        self._given: dict[str, int] = {}  # whose worker is whose turn
        self._turn = 0

    def take_all(self) -> None:
        for each in self._all:
            each.rows("begin")

    def make_room(self, who: str) -> None:
        if who not in self._given:
            number = next(each for each in self._order if each not in self._given.values())
            self._given[who] = number
            self._use(self._all[number])
            self._all[number].rows("commit")

    def fill(self, who: str) -> None:
        self._all[self._given.pop(who)].rows("begin")

    def _use(self, neighbour: Wire) -> None:
        self._turn += 1
        named, unnamed = f"named {self._turn}", f"unnamed {self._turn}"
        found = neighbour.ask(
            close("S", "s"), parse(f"select '{named}', $1::int", "s"), parse(f"select '{unnamed}'"),
            bind("1", name="s"), execute(), bind(), execute(), SYNC,
        )  # fmt: skip
        rows = [each.values for each in found if each.tag == "D"]
        assert rows == [[named, "1"], [unnamed]], found

    def leave(self) -> None:
        for each in self._all:
            each.sock.close()


class Home:
    """A server, and a pooler in front of it with few workers."""

    def __init__(self, server: Server, pooler: Pooler) -> None:
        self.server = server
        self.pooler = pooler

    @classmethod
    @contextlib.contextmanager
    def open(cls, **conf: Any) -> Iterator[Self]:
        hba = [*roles.hba_lines(), f"host all {ROOT} 127.0.0.1/32 trust"]
        with Server("home", hba=hba, conf={"shared_preload_libraries": "vector, plpgsql"}) as server:
            roles.create(server)
            server.query(f"create role {ROOT} login superuser")
            server.query(SCHEMA, dbname=roles.DATABASE)
            own = {
                "admin_cnn": {**roles.ADMIN.login, "database": "postgres"}, "master": (server.host, server.port),
                "worker_min_cnt": [WORKERS] * 20, "max_workers": WORKERS,
            }  # fmt: skip
            with Pooler({**own, **conf}, name="home") as pooler:
                yield cls(server, pooler)
            assert "Traceback" not in pooler.log, pooler.log
            assert "answered with status" not in pooler.log, pooler.log

    def hold(self, dialogue: Dialogue) -> None:
        """Fail at the first step at which the pooler does not say what the server says."""
        expected = self._hold(dialogue, self.server, None)
        found = self.pooled(dialogue)
        steps = [step for step in dialogue.steps if step.who != "server"]
        for number, (step, told, heard) in enumerate(zip(steps, expected, found, strict=True)):
            if heard != told:
                said = "".join(f"\n  {each.who}: {each.sent[:SHOWN]!r}" for each in steps[: number + 1])
                raise AssertionError(f"after{said}\n{step.who} heard   {heard}\nand not {told}")

    def pooled(self, dialogue: Dialogue) -> list[Any]:
        """By steps: what is heard through the pooler, and which of the settings that are told have changed."""
        neighbours = Neighbours(self.pooler, dialogue.user)
        try:
            return self._hold(dialogue, self.pooler, neighbours)
        finally:
            neighbours.leave()

    def _hold(self, dialogue: Dialogue, where: object, neighbours: Neighbours | None) -> list[Any]:
        name = Names()
        heard = []
        with contextlib.ExitStack() as stack:
            frontends = {
                who: stack.enter_context(Wire(where, user=dialogue.user, timeout_s=TIMEOUT_S, **parameters))
                for who, parameters in dialogue.starts.items()
            }
            if neighbours is not None:
                neighbours.take_all()
            for step in dialogue.steps:
                if step.who == "server":
                    self.server.query(step.sent.decode(), dbname=roles.DATABASE)
                    continue
                frontend = frontends[step.who]
                if neighbours is not None:
                    neighbours.make_room(step.who)
                before = dict(frontend.parameters)
                frontend.send(step.sent)
                found = [each for tag in step.tags for each in frontend.until(tag)]
                changed = {key: value for key, value in frontend.parameters.items() if before.get(key) != value}
                heard.append(([told(each, name) for each in found if each.tag != "S"], changed))
                if neighbours is not None and found and found[-1] == Message("Z", b"I"):
                    neighbours.fill(step.who)
        return heard


def run(*values: str | None, name: str = "s") -> bytes:
    """A prepared statement, run as a unit of its own that asks for its columns."""
    return bind(*values, name=name) + describe() + execute() + SYNC
