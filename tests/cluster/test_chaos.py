"""Everything at once: frontends of every kind, some of which vanish, while backends are terminated and crash.

Whatever happens, an answer is a frontend's own, an error is one that its own statement can have, and when it is over no
worker is stuck, no transaction or lock is left, and nobody has been lent anybody else's session.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from lib.wire import messages
from tests import roles
from tests.cluster import rawclient
from tests.cluster.rawclient import COPY_DONE, Answer, Raw, copy_data
from tests.conftest import POOLER
from tests.servers import Pooler, Server
from tests.workplace import PATIENCE_S, wait_until

CHAOS_S = float(os.environ.get("CHAOS_S", "3"))
SEED = int(os.environ.get("SEED", "0"))
FRONTENDS = 16
WORKERS = 4
pytestmark = pytest.mark.time_limit_s(90 + CHAOS_S)

UNKNOWN, LOST, FAILED, CLOSED, CANCELED = "08007", "08006", "25P02", "57P01", "57014"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("chaos", hba=roles.hba_lines()) as server:
        roles.create(server)
        server.query(
            "create table chaos (id text primary key, word text); grant all on chaos to public;"
            "insert into chaos select i, 'row' from generate_series(1, 10) i",
            dbname=roles.DATABASE,
        )
        yield server


@pytest.fixture
def pooler(server: Server, request: pytest.FixtureRequest) -> Iterator[Pooler]:
    conf = {
        "admin_cnn": {**roles.ADMIN.login, "database": "postgres"}, "master": (server.host, server.port),
        "worker_per_fe_cnt": 8, "max_workers": WORKERS, "login_retry": 0.02, "catalog_interval": 0.1,
        "client_buffer": 100_000, "idle_timeout": 0.5,
    }  # fmt: skip
    with Pooler(conf, name="chaos") as pooler:
        request.config.stash[POOLER] = pooler
        yield pooler
    assert "Traceback" not in pooler.log, pooler.log


class _Over(Exception):
    """This connection is over, as it may be: the server or the test has ended it."""


class Frontend:
    """One thread that does what a frontend may do, again and again, on one connection after the other."""

    def __init__(self, number: int, pooler: Pooler, kills: str) -> None:
        self.number = number
        self.kills = kills
        self.chance = random.Random(f"{SEED} {number}")
        self.pooler = pooler
        self.done: Counter[str] = Counter()
        self.inserted: set[str] = set()
        self.sent: set[str] = set()
        self.wrong: list[str] = []
        self.now = ""
        self.raw: Raw | None = None

    def run(self, is_over: threading.Event) -> None:
        while not is_over.is_set() and not self.wrong:
            try:
                self.raw = Raw(self.pooler.host, self.pooler.port, application_name=f"chaos {self.number}")
                if self.raw.greeting.status != "I":
                    self.wrong.append(f"not let in: {self.raw.greeting}")
                while not is_over.is_set() and not self.wrong:
                    act: Callable[[Raw], None] = self.chance.choice(ACTS)
                    self.now = act.__name__
                    act(self, self.raw)
                    self.done[self.now] += 1
            except _Over:
                self.done["over"] += 1
            except ConnectionError:  # it was closed while we sent
                with suppress(_Over):
                    self.expect(self.raw.until("E"))
            except Exception as error:
                self.wrong.append(f"{self.now}: {error!r}")
            finally:
                if self.raw is not None:
                    self.raw.close()

    def name(self) -> str:
        return f"{self.kills}-{self.number}-{self.chance.randrange(1 << 60)}"

    def either(self) -> Callable[[str], bytes]:
        return self.chance.choice([rawclient.simple, rawclient.extended])

    def expect(self, answer: Answer, *codes: str) -> bool:
        """Whether the answer came; False for an error among `codes`."""
        if answer.status is None:
            if not answer.errors or answer.code == CLOSED:
                raise _Over
            self.wrong.append(f"{self.now}: {answer}")
            raise _Over
        if answer.code is not None and answer.code not in codes:
            self.wrong.append(f"{self.now}: {answer}")
        return answer.code is None

    def check(self, is_right: bool, what: object) -> None:
        if not is_right:
            self.wrong.append(f"{self.now}: {what}")

    # --- what a frontend does ----------------------------------------------------------------------------------------

    def read(self, raw: Raw) -> None:
        name = self.name()
        raw.send(self.either()(f"select '{name}', word from chaos limit 2"))
        answer = raw.answer()
        if self.expect(answer, UNKNOWN):
            self.check(answer.rows == [(name, "row")] * 2, answer)

    def insert(self, raw: Raw) -> None:
        name = self.name()
        raw.send(self.either()(f"insert into chaos values ('{name}')"))
        self.sent.add(name)
        if self.expect(raw.answer(), UNKNOWN):
            self.inserted.add(name)

    def pipeline(self, raw: Raw) -> None:
        names = [self.name() for _ in range(5)]
        raw.send(*(rawclient.extended(f"select '{name}'") for name in names))
        for name in names:
            answer = raw.answer()
            if self.expect(answer, UNKNOWN):
                self.check(answer.rows == [(name,)], answer)

    def error(self, raw: Raw) -> None:
        self.check(not self.expect(raw.query("select 1/0"), UNKNOWN, "22012"), "no error")

    def transaction(self, raw: Raw) -> None:
        name = self.name()
        began = raw.query("begin")
        if not self.expect(began, UNKNOWN, LOST):
            self.check(began.status == "I", began)
            return
        lost = False
        for text in (f"insert into chaos values ('{name}')", f"select id from chaos where id = '{name}'"):
            answer = raw.query(text)
            lost = not self.expect(answer, UNKNOWN, LOST, FAILED) or lost
            self.check(answer.status == ("E" if lost else "T"), answer)
        commit = self.chance.random() < 0.7
        if commit and not lost:
            self.sent.add(name)
        answer = raw.query("commit" if commit else "rollback")
        if not self.expect(answer, UNKNOWN, LOST, FAILED):
            if answer.status == "E":
                self.check(raw.query("rollback").status == "I", "rollback")
        elif commit and not lost:
            self.check(answer.commands == ["COMMIT"], answer)
            self.inserted.add(name)
        else:
            self.check(answer.commands == ["ROLLBACK"], answer)

    def copy_in(self, raw: Raw) -> None:
        names = [self.name() for _ in range(3)]
        raw.send(rawclient.simple("copy chaos (id) from stdin"))
        answer = raw.until("GZ")
        if answer.tags[-1:] != "G":
            self.expect(answer, UNKNOWN)
            return
        self.sent.update(names)
        for name in names:
            raw.send(copy_data(f"{name}\n".encode()))
        raw.send(COPY_DONE)
        if self.expect(raw.answer(), UNKNOWN):
            self.inserted.update(names)

    def copy_out(self, raw: Raw) -> None:
        raw.send(rawclient.simple("copy (select repeat('x', 1000), generate_series(1, 300)) to stdout"))
        answer = raw.answer()
        if self.expect(answer, UNKNOWN):
            self.check(answer.tags.count("d") == 300, answer.tags)

    def setting(self, raw: Raw) -> None:
        value = f"{self.chance.randrange(64, 999)}kB"
        if self.expect(raw.query(f"set work_mem = '{value}'"), UNKNOWN):
            for _ in range(2):
                answer = raw.query("show work_mem")
                if self.expect(answer, UNKNOWN):
                    self.check(answer.rows == [(value,)], answer)
            self.expect(raw.query("reset work_mem"), UNKNOWN)

    def clean(self, raw: Raw) -> None:
        """Nothing of anybody else is to be seen on a new connection."""
        with Raw(self.pooler.host, self.pooler.port) as fresh:
            answer = fresh.query(
                "select current_setting('work_mem'), current_setting('application_name'), "
                "to_regclass('pg_temp.mine') is null, (select count(*) from pg_listening_channels()), "
                "(select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory')"
            )
            if self.expect(answer, UNKNOWN):
                self.check(answer.rows == [("4MB", "", "t", "0", "0")], answer)

    def session(self, raw: Raw) -> None:
        make = self.chance.choice(
            ["create temp table mine (id int)", "listen mine", f"select pg_advisory_lock({self.number})"]
        )
        with Raw(self.pooler.host, self.pooler.port) as own:
            if self.expect(own.query(make), UNKNOWN):
                self.expect(own.query("select 1"))
            if self.chance.random() < 0.5:
                own.vanish()

    def cancel(self, raw: Raw) -> None:
        raw.send(rawclient.simple(f"select 'mine' from pg_sleep({self.chance.random() / 50})"))
        raw.cancel()
        answer = raw.answer()
        if self.expect(answer, UNKNOWN, CANCELED):
            self.check(answer.rows == [("mine",)], answer)

    def sleep(self, raw: Raw) -> None:
        self.expect(raw.query("select pg_sleep(0.01)"), UNKNOWN)

    def do(self, raw: Raw) -> None:
        self.expect(raw.query("do $$ begin perform set_config('work_mem', '99kB', false); end $$"), UNKNOWN)

    def leave(self, raw: Raw) -> None:
        raise _Over

    def vanish(self, raw: Raw) -> None:
        name = self.name()
        scripts = [
            rawclient.simple("begin") + rawclient.simple("lock chaos in row exclusive mode"),
            rawclient.simple("copy chaos (id) from stdin") + copy_data(f"{name}\n".encode()) + COPY_DONE,
            rawclient.simple("copy (select repeat('x', 1000), generate_series(1, 1000000)) to stdout"),
            rawclient.extended(f"insert into chaos values ('{name}')"),
            rawclient.parse("select 1") + rawclient.FLUSH,
            rawclient.simple(f"select '{'x' * 100_000}'"),
            rawclient.simple("select pg_sleep(0.02)"),
        ]
        script = self.chance.choice(scripts)
        raw.send(script[: self.chance.randrange(len(script) + 1)])
        if self.chance.random() < 0.5:
            raw.sock.settimeout(0.01)
            with suppress(TimeoutError):
                raw.sock.recv(100)
        raw.vanish()
        self.sent.add(name)
        raise _Over

    def garbage(self, raw: Raw) -> None:
        raw.send(self.chance.choice([b"y\0\0\0\4", messages.message(b"d", b"no copy"), b"Q\0\0\0\1"]))
        self.expect(raw.until("EZ") if raw.says_nothing(0.01) is False else raw.query("select 1"), "08P01", UNKNOWN)


ACTS = [
    Frontend.read, Frontend.read, Frontend.read, Frontend.insert, Frontend.pipeline, Frontend.error,
    Frontend.transaction, Frontend.transaction, Frontend.copy_in, Frontend.copy_out, Frontend.setting, Frontend.clean,
    Frontend.session, Frontend.cancel, Frontend.sleep, Frontend.do, Frontend.leave, Frontend.vanish,
]  # fmt: skip


def backends(server: Server, where: str = "true") -> list[tuple]:
    return server.query(
        f"select pid, state, query from pg_stat_activity where usename = '{roles.TRUST.name}' and ({where})"
    )


@pytest.mark.parametrize("kills", ["none", "terminated", "crashed"])
def test_whatever_happens_answers_are_right_and_in_the_end_nothing_is_stuck(server, pooler, kills):
    chance = random.Random(SEED)
    frontends = [Frontend(number, pooler, kills) for number in range(FRONTENDS)]
    is_over = threading.Event()
    threads = [threading.Thread(target=each.run, args=[is_over]) for each in frontends]
    for thread in threads:
        thread.start()
    until = time.monotonic() + CHAOS_S
    while not any(each.wrong for each in frontends):
        now = time.monotonic()
        if now > until and (_has_done_all(frontends) or now > until + PATIENCE_S):
            break
        _kill(server, kills, chance.choice([pid for pid, *_ in backends(server)] or [0]))
    is_over.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), f"stuck: {[(each.now, each.raw) for each in frontends]}\n{backends(server)}"
    assert [each.wrong for each in frontends if each.wrong] == []
    _check_nothing_is_left(server, pooler)
    _check_the_books(server, frontends)
    assert _has_done_all(frontends), [each.done for each in frontends]


def _has_done_all(frontends: list[Frontend]) -> bool:
    """Whether each act was done by somebody, to its end."""
    acts = [act.__name__ for act in ACTS if act not in (Frontend.leave, Frontend.vanish)]
    return all(any(each.done[act] for each in frontends) for act in acts)


def _kill(server: Server, kills: str, pid: int) -> None:
    """Wait a moment, and then kill one backend."""
    logged = len(server.log)
    if kills == "crashed" and pid:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # its frontend has just left
            return
        wait_until(lambda: "ready to accept connections" in server.log[logged:], 30, "the server to be up")
        threading.Event().wait(0.5)
    elif kills == "terminated" and pid:
        server.query("select pg_terminate_backend(%s)", [pid])
    threading.Event().wait(0.02)


def _check_nothing_is_left(server: Server, pooler: Pooler) -> None:
    """All shared workers answer at the same time, each is clean, and there are no more than there may be."""
    wait_until(lambda: not backends(server, "state <> 'idle' or xact_start is not null"), what="all to be idle")
    wait_until(lambda: len(backends(server)) <= WORKERS, what="workers of sessions to be gone")
    frontends = [Raw(pooler.host, pooler.port) for _ in range(WORKERS)]
    for each in frontends:
        assert each.query("begin").status == "T"
        state = "select current_setting('work_mem'), to_regclass('pg_temp.mine') is null"
        assert each.query(state).rows == [("4MB", "t")]
    for each in frontends:
        each.close()
    wait_until(lambda: pooler.open_fds() < WORKERS + 20, what="all sockets to be closed")


def _check_the_books(server: Server, frontends: list[Frontend]) -> None:
    committed = {name for (name,) in server.query("select id from chaos where word is null", dbname=roles.DATABASE)}
    inserted = set().union(*(each.inserted for each in frontends))
    sent = set().union(*(each.sent for each in frontends))
    assert inserted - committed == set(), "acknowledged but not there"
    assert committed - sent == set(), "there but never sent, or of a transaction that was not committed"
    server.query("delete from chaos where word is null", dbname=roles.DATABASE)
