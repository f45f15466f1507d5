"""A `/*s*/` read sees what its frontend, or anybody, has written, on standbys that are paused, late or restarted."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.cluster.standbys import (
    CONF,
    LOGIN,
    caught_up,
    delay,
    not_let_in,
    open_farm,
    paused,
    pooled,
    port,
    ports,
    questions,
    servers_of_new,
)
from tests.cluster.wire import COPY_DONE, SYNC, TERMINATE, Wire, bind, copy_data, execute, once, parse, query
from tests.servers import Cluster, Pooler
from tests.workplace import wait_until

LONG = 60  # seconds that nobody waits in a test
HEAVY_COUNT = 100  # frontends


@pytest.fixture(scope="module")
def farm() -> Iterator[Cluster]:
    with open_farm() as farm:
        farm.primary.query(
            "create function add(n int) returns int language plpgsql as "
            "'begin insert into things values (n); return n; end'", dbname="app",
        )  # fmt: skip
        farm.wait_caught_up()
        yield farm


@pytest.fixture(scope="module")
def eager(farm) -> Iterator[Pooler]:
    """Reads go to the primary at once when no standby is known to have what they need."""
    with pooled(farm, read_your_writes_timeout=0) as pooler:
        yield pooler


@pytest.fixture(scope="module")
def patient(farm) -> Iterator[Pooler]:
    """Reads wait until a standby has what they need."""
    with pooled(farm, read_your_writes_timeout=LONG) as pooler:
        yield pooler


@pytest.fixture(scope="module")
def everybodys(farm) -> Iterator[Pooler]:
    with pooled(farm, read_your_writes="all", read_your_writes_timeout=0) as pooler:
        yield pooler


_numbers = iter(range(1, 1_000_000))


def new_number() -> int:
    return next(_numbers)


def finds(session: Wire, number: int) -> bool:
    return session.value(f"/*s*/ select count(*) from things where n = {number}") == "1"


def insert(session: Wire) -> int:
    """A row of the session's own, committed."""
    number = new_number()
    session.rows(f"insert into things values ({number})")
    return number


# --- the reads after writes --------------------------------------------------------------------------------------


def test_without_read_your_writes_a_read_does_not_find_what_was_just_written(farm):
    with pooled(farm, read_your_writes="off") as pooler, Wire(pooler, **LOGIN) as session, paused(*farm.standbys):
        before = questions(farm)
        number = insert(session)
        assert not finds(session, number)
        assert port(session) in ports(farm)
        assert questions(farm) == before


def in_a_transaction(session: Wire, number: int) -> None:
    session.rows("begin")
    session.rows(f"insert into things values ({number})")
    session.rows("commit")


def in_one_text(session: Wire, number: int) -> None:
    session.rows(f"begin; insert into things values ({number}); commit; select 1")


def with_an_error_behind(session: Wire, number: int) -> None:
    session.ask(query(f"insert into things values ({number}); commit; select 1 / 0"))


def extended(session: Wire, number: int) -> None:
    session.ask(once("insert into things values ($1)", str(number)))


def copied(session: Wire, number: int) -> None:
    session.send(query("copy things from stdin"))
    session.until("G")
    session.ask(copy_data(f"{number}\n") + COPY_DONE)


def by_a_function(session: Wire, number: int) -> None:
    session.rows(f"select add({number})")


def by_a_block(session: Wire, number: int) -> None:
    session.rows(f"do $$ begin insert into things values ({number}); commit; end $$")


def without_waiting_for_the_disk(session: Wire, number: int) -> None:
    session.rows(f"begin; set local synchronous_commit = off; insert into things values ({number}); commit")


def with_a_chained_commit(session: Wire, number: int) -> None:
    session.rows(f"begin; insert into things values ({number}); savepoint x; release x; commit and chain; select 1")
    session.rows("rollback")


WAYS = [
    lambda session, number: session.rows(f"insert into things values ({number})"), in_a_transaction, in_one_text,
    with_an_error_behind, extended, copied, by_a_function, by_a_block, without_waiting_for_the_disk,
    with_a_chained_commit,
]  # fmt: skip


@pytest.mark.parametrize("write", WAYS, ids=lambda write: write.__name__.strip("<>"))
def test_a_read_finds_what_was_written_however_it_was_written(farm, eager, write):
    with Wire(eager, **LOGIN) as session, Wire(eager, **LOGIN) as other, paused(*farm.standbys):
        for text in ("simple", "extended"):
            number = new_number()
            write(session, number)
            read = f"/*s*/ select count(*) from things where n = {number}"
            answer = session.ask(query(read) if text == "simple" else once(read))
            assert [each.values for each in answer if each.tag == "D"] == [["1"]]
            assert port(session) == farm.primary.port
        assert port(other) in ports(farm), "who has not written reads on, on the standbys"


def test_a_write_by_a_statement_that_is_prepared_by_name_is_noted_too(farm, eager):
    with Wire(eager, **LOGIN) as session, paused(*farm.standbys):
        number = new_number()
        session.ask(parse("insert into things values ($1)", "name") + SYNC)
        session.ask(bind(str(number), name="name") + execute() + SYNC)
        assert finds(session, number)


def test_a_pipeline_of_writes_and_reads_finds_all_it_wrote(farm, eager):
    with Wire(eager, **LOGIN) as session, paused(*farm.standbys):
        numbers = [new_number() for _ in range(20)]
        for number in numbers:
            session.send(
                once(f"insert into things values ({number})"),
                once(f"/*s*/ select count(*) from things where n = {number}"),
            )
        for _ in numbers:
            session.until_ready()
            assert [each.values for each in session.until_ready() if each.tag == "D"] == [["1"]]


def test_a_transaction_on_a_standby_has_what_was_written_before(farm, eager):
    with Wire(eager, **LOGIN) as session:
        with paused(*farm.standbys):
            number = insert(session)
            session.rows("/*s*/ begin read only")
            assert session.value(f"select count(*) from things where n = {number}") == "1"
            session.rows("commit")
        caught_up(farm)
        wait_until(lambda: port(session) in ports(farm), what="a standby that is known to have caught up")
        session.rows("/*s*/ begin read only")
        assert session.value("select pg_is_in_recovery()") == "t"
        session.rows("commit")


def test_the_standby_that_has_the_write_is_used_and_the_one_that_has_not_is_not(farm, patient):
    late, other = farm.standbys
    with Wire(patient, **LOGIN) as session:
        with paused(late):
            number = insert(session)
            for _ in range(10):
                assert finds(session, number)
                assert port(session) == other.port
        caught_up(farm)
        wait_until(lambda: {port(session) for _ in range(2)} == ports(farm), what="both to be used again")


def test_a_read_waits_for_a_standby_and_others_do_not_wait_with_it(farm, patient):
    with Wire(patient, **LOGIN) as session, Wire(patient, **LOGIN) as other:
        with paused(*farm.standbys):
            number = insert(session)
            session.send(query(f"/*s*/ select count(*), pg_is_in_recovery() from things where n = {number}"))
            for _ in range(50):
                assert port(other) in ports(farm)
                assert other.value("select 1") == "1"
        (row,) = (each.values for each in session.until_ready() if each.tag == "D")
        assert row == ["1", "t"]


def test_a_read_that_has_waited_in_vain_is_answered_by_the_primary_and_the_next_ones_do_not_wait(farm):
    with pooled(farm, read_your_writes_timeout=1) as pooler, Wire(pooler, **LOGIN) as session:
        with paused(*farm.standbys):
            number = insert(session)
            began = time.monotonic()
            assert finds(session, number)
            assert time.monotonic() - began >= 1
            began = time.monotonic()
            for _ in range(100):
                number = insert(session)
                assert finds(session, number)
                assert port(session) == farm.primary.port
            assert time.monotonic() - began < 100
        caught_up(farm)
        wait_until(lambda: port(session) in ports(farm), what="the standbys to be used again")
        number = insert(session)
        session.rows(f"/*s*/ select 1 from things where n = {number}")
        assert port(session) in ports(farm)


def test_no_read_waits_longer_than_query_wait_timeout(farm):
    with (
        pooled(farm, read_your_writes_timeout=LONG, query_wait_timeout=2) as pooler,
        Wire(pooler, **LOGIN) as session,
        paused(*farm.standbys),
    ):
        assert finds(session, insert(session))


def test_a_read_that_waits_is_canceled_at_once(farm, patient):
    with Wire(patient, **LOGIN) as session:
        with paused(*farm.standbys):
            number = insert(session)
            session.send(query(f"/*s*/ select count(*) from things where n = {number}"))
            session.cancel()
            (error,) = (each.fields for each in session.until_ready() if each.tag == "E")
            assert error["C"] == "57014"
            assert session.value(f"select count(*) from things where n = {number}") == "1"
            session.send(query("/*s*/ select pg_is_in_recovery()"))
        assert [each.values for each in session.until_ready() if each.tag == "D"] == [["t"]]


def test_a_frontend_that_leaves_while_its_read_waits_leaves_nothing_behind(farm):
    with pooled(farm, read_your_writes_timeout=LONG) as pooler, paused(*farm.standbys):
        for goodbye in (b"", TERMINATE):
            with Wire(pooler, **LOGIN) as session:
                insert(session)
                session.send(query("/*s*/ select 'of one that has left'"), goodbye)
        with Wire(pooler, **LOGIN) as session:
            assert port(session) in ports(farm)
    assert all("of one that has left" not in server.log for server in farm.servers)


def test_a_primary_that_has_just_begun_a_new_segment_is_not_waited_for(farm, patient):
    """Where it will insert next is behind the header of a page that it has not written yet: no standby gets there."""
    with Wire(patient, **LOGIN) as session:
        for _ in range(3):
            session.rows("insert into things values (0); select pg_switch_wal()")
            farm.wait_caught_up()
            assert port(session) in ports(farm)


def test_a_standby_that_comes_back_with_less_than_it_had_is_not_taken_for_what_it_was(farm):
    """After a crash a standby answers as soon as its files are consistent, which may be before what it had replayed."""
    crashed, other = farm.standbys
    with pooled(farm, read_your_writes_timeout=LONG) as pooler, Wire(pooler, **LOGIN) as session:
        farm.primary.query("checkpoint")
        crashed.query("checkpoint")
        number = insert(session)
        wait_until(
            lambda: finds(session, number) and {port(session) for _ in range(2)} == ports(farm), what="both to be used"
        )
        crashed.configure(recovery_min_apply_delay="1h")
        crashed.kill9()
        crashed.start()
        try:
            sql = f"select count(*) from things where n = {number}"
            assert crashed.query(sql, dbname="app") == [(0,)], "this standby cannot show what this test is about"
            count = "select count(*) from pg_stat_activity where usename = 'app'"
            with Wire(pooler, **LOGIN) as reader:
                wait_until(lambda: port(reader) and crashed.query(count)[0][0], what="its workers")
                wait_until(lambda: port(reader) == crashed.port, what="it to be used by those who have not written")
            for _ in range(20):
                assert finds(session, number)
                assert port(session) == other.port
        finally:
            delay(crashed, "0")
            caught_up(farm)


def test_standbys_that_cannot_be_asked_serve_no_reads_after_writes_and_the_log_says_why(farm):
    with not_let_in(*farm.standbys), pooled(farm, read_your_writes_timeout=LONG) as pooler:
        with Wire(pooler, **LOGIN) as session:
            for _ in range(5):
                assert finds(session, insert(session))
                assert port(session) == farm.primary.port
        assert servers_of_new(pooler) == ports(farm)
        for standby in farm.standbys:
            said = f"standby 127.0.0.1:{standby.port} could not be asked how far it is"
            pooler.wait_said(said)
            assert pooler.log.count(said) == 1


# --- everybody's writes ------------------------------------------------------------------------------------------


def test_with_all_a_read_finds_what_any_frontend_of_its_database_has_written(farm, everybodys):
    with Wire(everybodys, **LOGIN) as writer, Wire(everybodys, **LOGIN) as reader, paused(*farm.standbys):
        for _ in range(5):
            number = insert(writer)
            assert finds(reader, number)
            with Wire(everybodys, **LOGIN) as late:
                assert finds(late, number)


def test_with_all_another_database_is_not_concerned_unless_it_is_by_ddl(farm, everybodys):
    other = {"user": "app", "database": "other"}
    with Wire(everybodys, **LOGIN) as writer, Wire(everybodys, **other) as reader:
        wait_until(lambda: {port(reader) for _ in range(6)} == ports(farm), what="workers for the other database")
        with paused(*farm.standbys):
            insert(writer)
            assert port(reader) in ports(farm)
            writer.rows("create role made_elsewhere")
            assert reader.value("/*s*/ select count(*) from pg_roles where rolname = 'made_elsewhere'") == "1"
            writer.rows("drop role made_elsewhere")


def test_with_all_writes_of_those_who_do_not_use_standbys_count_too(farm):
    given = [{"application_name": "reader"}]
    with Pooler(
        {**CONF, "conn_params": given, "read_your_writes": "all", "read_your_writes_timeout": 0}, cluster=farm
    ) as pooler, Wire(pooler, application_name="reader", **LOGIN) as reader, Wire(pooler, **LOGIN) as writer:
        wait_until(lambda: {port(reader) for _ in range(6)} == ports(farm), what="all standbys to be used")
        with paused(*farm.standbys):
            assert finds(reader, insert(writer))


# --- what it costs -----------------------------------------------------------------------------------------------


def test_reads_of_frontends_that_have_not_written_ask_nothing(farm, patient):
    with Wire(patient, **LOGIN) as session:
        caught_up(farm)
        number = insert(session)
        wait_until(lambda: finds(session, number) and {port(session) for _ in range(2)} == ports(farm))
        before = questions(farm)
        with Wire(patient, **LOGIN) as other:
            for _ in range(200):
                assert port(other) in ports(farm)
        for _ in range(200):
            assert finds(session, number)
        assert questions(farm) == before, "neither those of one who knows already that all have what it wrote"


class Load:
    """Frontends that write and look for what they have written, all the time; one thread for a few of them."""

    def __init__(self, pooler: Pooler, frontends: int, rounds: int, threads: int = 4) -> None:
        self.sessions = [Wire(pooler, timeout_s=LONG, **LOGIN) for _ in range(frontends)]
        self.rounds = rounds
        self.missed = 0
        self.served: Counter[int] = Counter()
        self.errors: list[str] = []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._go, args=[number, threads]) for number in range(threads)]

    def run(self) -> float:
        began = time.monotonic()
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join()
        seconds = time.monotonic() - began
        for session in self.sessions:
            session.sock.close()
        assert not self.errors, self.errors
        return seconds

    def _go(self, number: int, threads: int) -> None:
        try:
            mine = self.sessions[number::threads]
            for turn in range(self.rounds):
                numbers = [10_000_000 + number + threads * (turn * len(mine) + each) for each in range(len(mine))]
                for session, row in zip(mine, numbers, strict=True):
                    session.send(query(f"insert into things values ({row})"))
                for session, row in zip(mine, numbers, strict=True):
                    session.until_ready()
                    session.send(query(f"/*s*/ select count(*), inet_server_port() from things where n = {row}"))
                for session in mine:
                    (found,) = (each.values for each in session.until_ready() if each.tag == "D")
                    with self._lock:
                        self.missed += found[0] != "1"
                        self.served[int(str(found[1]))] += 1
        except Exception as error:
            self.errors.append(repr(error))


def test_many_frontends_that_write_and_read_all_find_what_they_wrote(farm, patient, request):
    late = farm.standbys[0]
    delay(late, "20ms")
    farm.primary.query("truncate things; create index if not exists by_number on things (n)", dbname="app")
    farm.wait_caught_up()
    try:
        before = questions(farm)
        load = Load(patient, HEAVY_COUNT, rounds=10)
        seconds = load.run()
    finally:
        delay(late, "0")
    assert load.missed == 0
    assert sum(load.served[port] for port in ports(farm)) > sum(load.served.values()) / 2
    per_server = [after - before for after, before in zip(questions(farm), before, strict=True)]
    request.node.user_properties.append(("questions_per_s", [round(count / seconds) for count in per_server]))
    print(f"{sum(load.served.values())} reads in {seconds:.2f} s by {dict(load.served)}; questions {per_server}")
    assert max(per_server) <= sum(load.served.values()) / 4
