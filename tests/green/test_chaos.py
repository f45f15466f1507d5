"""Everything at once: many frontends, backends that die, cancels and hang-ups at random; and the rules hold.

Every statement is a text of its own, and is answered with its text. So whatever a frontend is told can be checked: it
is its own, what was acknowledged was run, nothing was run twice, and a transaction was run by one backend as a whole.
"""

from __future__ import annotations

import random
from collections import Counter

import gevent
import pytest

from tests.green.fake_server import TERMINATED, FakeBackend, HungUp
from tests.green.small_pool import Answer, Client, SmallPool, wait_until
from tests.wire_samples import (
    BACKEND,
    COPY_DONE,
    FLUSH,
    SYNC,
    bind,
    copy_data,
    execute,
    notice,
    parameter,
    parse,
    query,
)

FRONTENDS, TURNS = 12, 25
NOTIFICATION, WARNING = BACKEND["NotificationResponse"], notice("WARNING", "01000", "something is the matter")
MAY_BE_TOLD = {"ERROR 08007", "ERROR 08006", "ERROR 25P02", "ERROR 57014", "ERROR 26000"}


class Somebody:
    """A frontend's user, who checks every answer.

    acknowledged   statements that were answered without an error, outside of transactions
    """

    def __init__(self, pool: SmallPool, number: int, dice: random.Random) -> None:
        self.pool, self.number, self.dice = pool, number, dice
        self.acknowledged: list[str] = []
        self._count = 0
        self._client = self._come()

    def _come(self) -> Client:
        named = {"application_name": f"number {self.number}"} if self.number % 3 == 0 else {}
        return self.pool.connect(**named)

    def statement(self, kind: str = "") -> str:
        self._count += 1
        kind = kind or self.dice.choice(["select {}", "insert into t values ({})"])
        return kind.format(f"{self.number * 1000 + self._count}")

    def live(self) -> None:
        turns = [self.simple, self.simple, self.extended, self.flushed, self.pipeline, self.transaction, self.copy,
                 self.unnamed, self.vanish, self.cancelled]  # fmt: skip
        for _ in range(TURNS):
            self.dice.choice(turns)()
            if self.dice.random() < 0.3:
                gevent.sleep(self.dice.random() * 0.003)
        self._client.vanish()

    def check(self, statement: str, answer: Answer) -> bool:
        """Whether it was acknowledged; all that came is this statement's."""
        assert set(answer.rows) <= {statement}, f"{statement} was answered {answer.rows}"
        assert set(answer.errors) <= MAY_BE_TOLD, answer.errors
        assert answer.errors or answer.rows == [statement]
        assert "A" not in answer.tags, "a notification that nobody listens for"
        return not answer.errors

    def note(self, statement: str, answer: Answer) -> None:
        assert answer.status == "I"
        if self.check(statement, answer):
            self.acknowledged.append(statement)

    def simple(self) -> None:
        statement = self.statement()
        self.note(statement, self._client.query(statement))

    def extended(self) -> None:
        statement = self.statement()
        self._client.send(parse(statement), bind(), execute(), SYNC)
        self.note(statement, self._client.until_ready())

    def flushed(self) -> None:
        statement = self.statement()
        self._client.send(parse(statement), FLUSH, bind(), execute(), FLUSH, SYNC)
        self.note(statement, self._client.until_ready())

    def unnamed(self) -> None:
        statement = self.statement()
        self._client.send(parse(statement), SYNC)
        if not self._client.until_ready().errors:
            gevent.sleep(self.dice.random() * 0.002)
            self._client.send(bind(), execute(), SYNC)
            self.note(statement, self._client.until_ready())

    def pipeline(self) -> None:
        statements = [self.statement() for _ in range(self.dice.randint(2, 8))]
        self._client.send(*map(query, statements))
        for statement in statements:
            self.note(statement, self._client.until_ready())

    def transaction(self) -> None:
        while self._client.query("begin").status != "T":
            pass
        for _ in range(self.dice.randint(1, 4)):
            statement = self.statement()
            answer = self._client.query(statement)
            assert answer.status in "TE"
            self.check(statement, answer)
        while self._client.query(self.dice.choice(["commit", "rollback"])).status != "I":
            pass

    def copy(self) -> None:
        statement = self.statement("copy t{} from stdin")
        self._client.send(query(statement))
        while (first := self._client.read()) is not None and first.tag in "NS":
            pass
        if first is not None and first.tag == "G":
            self._client.send(*[copy_data(b"1\n")] * 5, COPY_DONE)
        answer = self._client.until_ready()
        assert set(answer.errors) <= MAY_BE_TOLD

    def cancelled(self) -> None:
        statement = self.statement()
        self._client.send(query(statement))
        gevent.sleep(self.dice.random() * 0.001)
        self._client.frontend.cancel()
        self.note(statement, self._client.until_ready())

    def vanish(self) -> None:
        data = query(self.statement()) + parse(self.statement()) + bind() + execute() + FLUSH + SYNC
        self._client.send(data[: self.dice.randint(0, len(data))])
        self._client.vanish()
        self._client = self._come()


def kill_at_random(pool: SmallPool, dice: random.Random) -> None:
    """Backends go while they run something, while they answer, and while they are idle."""
    original = FakeBackend._run

    def run(backend: FakeBackend, statement: str, protocol: str) -> None:
        if dice.random() < 0.02:
            backend.die(*dice.choice([(), (TERMINATED,)]))
        original(backend, statement, protocol)
        if dice.random() < 0.02:
            backend.hang_up(reset=dice.random() < 0.5)
            raise HungUp
        if dice.random() < 0.3:
            gevent.sleep(dice.random() * 0.002)

    FakeBackend._run = run  # type: ignore[method-assign]
    try:
        while True:
            gevent.sleep(0.01)
            alive = [backend for backend in pool.server.backends if not backend.is_gone]
            if alive:
                dice.choice(alive).hang_up()
    finally:
        FakeBackend._run = original  # type: ignore[method-assign]


def chatter(pool: SmallPool, dice: random.Random) -> None:
    """Backends say what they may say at any time, between two messages of an answer, and while they are idle."""
    while True:
        gevent.sleep(0.001)
        for backend in pool.server.backends:
            if not backend.is_gone:
                backend.say(dice.choice([NOTIFICATION, WARNING, parameter("TimeZone", str(dice.randint(1, 9)))]))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("weather", [None, chatter, kill_at_random])
@pytest.mark.loop_gap_ms(50)
def test_whatever_happens_everybody_gets_their_own_answers_and_nothing_runs_twice(start, seed, weather):
    dice = random.Random(seed)
    pool = start(worker_per_fe_cnt=5, max_workers=dice.choice([0, 4]), grow_after=0.005)
    storm = gevent.spawn(weather, pool, dice) if weather else None
    everybody = [Somebody(pool, number, random.Random(f"{seed} {number}")) for number in range(FRONTENDS)]
    try:
        threads = [gevent.spawn(somebody.live) for somebody in everybody]
        gevent.joinall(threads, timeout=60, raise_error=True)
        assert all(thread.ready() for thread in threads)
    finally:
        if storm is not None:
            storm.kill()
    wait_until(lambda: not any(worker.in_flight for worker in pool.workers), "the end of what is in flight")
    ran = Counter(pool.server.statements)
    twice = [statement for statement, count in ran.items() if count > 1 and statement.startswith(("insert", "copy"))]
    assert twice == []
    assert [each for somebody in everybody for each in somebody.acknowledged if each not in ran] == []
    for backend in pool.server.backends:
        assert_transactions_are_whole(backend)


def assert_transactions_are_whole(backend: FakeBackend) -> None:
    """From begin to its end a backend runs the statements of one frontend only."""
    owners: set[int] | None = None
    for statement in backend.statements:
        if statement == "begin":
            assert owners is None
            owners = set()
        elif statement in ("commit", "rollback"):
            owners = None
        elif owners is not None:
            owners.add(int("".join(filter(str.isdigit, statement))) // 1000)
            assert len(owners) == 1, backend.statements
