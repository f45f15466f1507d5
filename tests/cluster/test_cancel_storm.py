"""Clients that set, begin, listen and pipeline cancel what runs for ever, at any moment: each its own, and no other."""

from __future__ import annotations

import os
import random
import threading
import time

import pytest

from lib.wire import messages
from tests import roles
from tests.cluster.conftest import own_pooler
from tests.cluster.rawclient import FLUSH, Raw, bind, execute, extended, parse, simple

CLIENTS, ROUNDS = 16, int(os.environ.get("STORM_ROUNDS", "6"))
CANCELED, ABORTED = "57014", "25P02"
BEFORE: list[list[str]] = [
    [],
    ["set work_mem = '1MB'"],
    ["select set_config('stormy.one', 'x', false)"],
    ["do $$ begin perform set_config('work_mem', '2MB', false); end $$"],
    ["set work_mem = '3MB'", "reset work_mem"],
    ["reset all"],
    ["discard all"],
    ["begin", "set local work_mem = '4MB'"],
    ["begin", "reset datestyle"],
    ["begin", "set work_mem = '5MB'", "commit"],
    ["listen storm"],
    ["listen storm", "unlisten *"],
    ["listen storm", "begin"],
]
SLEEPS = [
    "select pg_sleep(1000)",
    "do $$ begin perform pg_sleep(1000); end $$",
    "copy (select pg_sleep(1000)) to stdout",
    f"select pg_sleep(1000) /* {'x' * 150_000} */",
]
WAYS = [
    simple,
    extended,
    lambda text: parse(text) + bind() + execute() + FLUSH + messages.SYNC,
    lambda text: messages.message(b"C", b"Sn\0") + parse(text, "n") + bind("n") + execute() + messages.SYNC,
]


@pytest.fixture(scope="module")
def pooler(cluster):
    """With too few workers for all, and limits that nobody reaches."""
    session = [{"database": roles.OTHER_DATABASE, "pool_mode": "session"}]
    limits = {"query_timeout": 60, "idle_in_transaction_timeout": 60}
    with own_pooler(cluster, max_workers=CLIENTS // 2, worker_per_fe_cnt=5000, pool_modes=session, **limits) as pooler:
        yield pooler


class Client:
    """One of them, in a thread of its own; `wrong` is what it was told that it should not have been."""

    def __init__(self, number: int, frontend: Raw) -> None:
        self.wrong: list[str] = []
        self._frontend = frontend
        self._random = random.Random(number)

    def run(self) -> None:
        try:
            for number in range(ROUNDS):
                self._round(number)
        except Exception as error:
            self.wrong.append(f"{error!r}")

    def _round(self, number: int) -> None:
        choose, frontend = self._random.choice, self._frontend
        before, text, way = choose(BEFORE), choose(SLEEPS), choose(WAYS)
        is_pipelined = self._random.random() < 0.7
        frontend.send(*map(simple, before))
        codes = [] if is_pipelined else [frontend.answer().code for _ in before]
        frontend.send(way(text))
        time.sleep(choose((0.0, 0.001, 0.01, 0.05)) * self._random.random())
        frontend.cancel()
        if is_pipelined:
            codes = [frontend.answer().code for _ in before]
        for _ in range(30):
            if not frontend.says_nothing(1.0):
                break
            frontend.cancel()  # the first one met what came before, or was quicker than the server
        answer = frontend.answer()
        name = f"{before} {text[:30]} {way.__name__} {codes}"
        was_hit = CANCELED in codes
        allowed = {CANCELED, ABORTED} if was_hit else {CANCELED}
        if answer.code not in allowed or any(tag == "N" and b"query_timeout" in body for tag, body in answer):
            self.wrong.append(f"{name}: {answer.errors} {answer.commands}")
        if any(codes) and not was_hit:
            self.wrong.append(f"{name}: before it")
        for sql in ("rollback", f"select 'round {number}'"):
            after = frontend.query(sql)
            if after.code or (after.rows and after.rows != [(f"round {number}",)]):
                self.wrong.append(f"{name}: after it {after.errors} {after.rows}")


def test_every_cancel_of_a_statement_that_runs_ends_it_and_none_meets_another(pooler):
    """What was sent behind a SET ran for ever when the request came while its backend was asked what that had set:
    once in 15 times, where a test sent two statements one after the other."""
    databases = [roles.DATABASE] * 3 + [roles.OTHER_DATABASE]
    frontends = [
        Raw(pooler.host, pooler.port, database=databases[number % 4], datestyle="German") for number in range(CLIENTS)
    ]
    clients = [Client(number, frontend) for number, frontend in enumerate(frontends)]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [wrong for client in clients for wrong in client.wrong] == []
    for frontend in frontends:
        frontend.close()
