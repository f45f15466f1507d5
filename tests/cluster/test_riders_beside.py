"""Riders beside what cannot ride: writers that wait, timeouts, errors, messages that no server takes, other groups.

As in test_riders: right with and without riders, asserted with a wide bound, and printed how long riders have waited.
"""

from __future__ import annotations

import itertools
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from lib.wire import messages
from tests.cluster import rawclient
from tests.cluster.convoy import CONF, RIDERS, Convoy, Meanwhile, Place, way
from tests.cluster.rawclient import Raw
from tests.workplace import wait_until

UNKNOWN, CANCELED, SHUTDOWN = "08007", "57014", "57P01"
UPDATE = "update rows set number = number + 1 where id = 'hot'"
ENOUGH = 100  # rows acknowledged while backends are terminated
_numbers = itertools.count(1)


def unique(what: str = "row") -> str:
    return f"{what} {next(_numbers)}"


# --- writers that wait ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [UPDATE, "select number from rows where id = 'hot' for update"], ids=["write", "lock"])
def test_readers_do_not_wait_beside_a_writer_that_waits_for_a_row(convoy: Convoy, place: Place, text: str):
    with place.locked(UPDATE):
        first = convoy.send(rawclient.simple(text))
        place.wait_running(text, "Lock")
        convoy.answer_soon()
        for _ in range(3):
            convoy.ask_riders()
        assert not first.is_over
    assert not first.answer().errors


def test_readers_do_not_wait_beside_more_writers_than_there_may_be_workers(convoy: Convoy, place: Place):
    """One worker is kept for those who read."""
    if not place.rides:
        return _writers_take_all_workers(convoy, place)
    before = place.look("select number from rows where id = 'hot'")[0][0]
    count = CONF["max_workers"] + 4
    with ExitStack() as stack:
        writers = [stack.enter_context(place.connect()) for _ in range(count)]
        with place.locked("select from rows where id = 'hot' for update"):
            for raw in writers:
                raw.send(rawclient.simple(UPDATE))
            place.wait_running(UPDATE, "Lock")
            for _ in range(10):
                convoy.send(rawclient.simple("select 'head'"), [("head",)]).check()
                convoy.answer_soon()
            assert all(raw.says_nothing() for raw in writers)
        assert [raw.answer().commands for raw in writers] == [["UPDATE 1"]] * count
    assert place.look("select number from rows where id = 'hot'")[0][0] == before + count
    return None


def _writers_take_all_workers(convoy: Convoy, place: Place) -> None:
    """Without riders readers wait for the writers, as in any pool; nothing is lost by it."""
    count = CONF["max_workers"]
    with ExitStack() as stack:
        writers = [stack.enter_context(place.connect()) for _ in range(count)]
        with place.locked("select from rows where id = 'hot' for update"):
            for raw in writers:
                raw.send(rawclient.simple(UPDATE))
            first = convoy.send(rawclient.simple("select 'head'"), [("head",)])
            place.wait_running(UPDATE, "Lock")
        assert [raw.answer().commands for raw in writers] == [["UPDATE 1"]] * count
    for flight in [first, *convoy.flights]:
        flight.check()


@contextmanager
def standby_that_is_not_there(place: Place):
    """Every commit waits for it."""
    place.look("alter system set synchronous_standby_names = 'nobody'")
    place.server.reload()
    try:
        _wait_until_commits_wait(place)
        yield
    finally:
        place.look("alter system reset synchronous_standby_names")
        place.server.reload()


def _wait_until_commits_wait(place: Place) -> None:
    """That there is somebody to wait for is told to all by the checkpointer, which may be slow to read its files."""
    with Raw(place.server.host, place.server.port) as probe:

        def waits() -> bool:
            name = unique("probe")
            probe.send(rawclient.simple(f"insert into rows values ('{name}')"))
            wait_until(lambda: place.running(name, "IPC") or not probe.says_nothing(), what="the probe's end")
            if probe.says_nothing():
                return True
            probe.answer()
            return False

        wait_until(waits, what="commits to wait")
        probe.cancel()
        assert probe.answer().commands == ["INSERT 0 1"]


@pytest.mark.parametrize("end", ["the standby is given up", "cancel", "terminate"])
def test_readers_do_not_wait_beside_writes_that_wait_for_a_standby(convoy: Convoy, place: Place, end: str):
    """What such a write has done is done, whatever is said of it: the row is there, and the frontend is told so."""
    ids = [unique(end) for _ in range(4)]
    with ExitStack() as stack:
        writers = [stack.enter_context(place.connect()) for _ in ids]
        with standby_that_is_not_there(place):
            for number, (raw, name) in enumerate(zip(writers, ids, strict=True)):
                raw.send(way(number)(f"insert into rows values ('{name}')"))
            pids = [place.wait_running(name, "IPC")[0] for name in ids]
            for _ in range(3):
                convoy.send(rawclient.simple("select 'head'"), [("head",)]).check()
                convoy.answer_soon()
            assert all(raw.says_nothing() for raw in writers)
            for raw, pid in zip(writers, pids, strict=True):
                if end == "cancel":
                    raw.cancel()
                elif end == "terminate":
                    place.look("select pg_terminate_backend(%s)", pid)
            if end != "the standby is given up":
                answers = [raw.answer() for raw in writers]
        if end == "the standby is given up":
            answers = [raw.answer() for raw in writers]
        for answer in answers:
            told = "unknown" if answer.errors and answer.code == UNKNOWN else answer.commands
            assert told == ["INSERT 0 1"] or (end == "terminate" and told == "unknown"), answer
            assert answer.status == "I"
        assert set(ids) <= place.ids()
        assert all(raw.query("select 'on'").rows == [("on",)] for raw in writers)


def test_what_was_written_beside_riders_is_what_was_told_when_backends_are_terminated(convoy: Convoy, place: Place):
    """Every row acknowledged is there, and every other one was declared unknown; every read is right, or unknown when
    it has lost two backends that had no time for a goodbye."""
    before = place.ids()
    acked, unknown, chance = set(), set(), random.Random(0)

    def terminate() -> None:
        pids = place.look("select pid from pg_stat_activity where usename = 'app_trust'")
        if pids:
            place.look("select pg_terminate_backend(%s)", *chance.choice(pids))

    def write(raw: Raw) -> None:
        for number in range(400):
            if number >= 40 and len(acked) > ENOUGH:
                break  # on a busy machine most of the first ones are hit
            name = unique("terminated")
            raw.send(way(number)(f"insert into rows values ('{name}')"))
            answer = raw.answer()
            assert answer.status == "I"
            if answer.commands == ["INSERT 0 1"]:
                acked.add(name)
            else:
                assert answer.code == UNKNOWN, answer
                unknown.add(name)

    def read() -> None:
        head = convoy.send(rawclient.simple("select 'head'"), [("head",)])
        for flight in (head, *convoy.flights):
            if flight.answer().code != UNKNOWN:
                flight.check()

    with ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        writers = [stack.enter_context(place.connect()) for _ in range(8)]
        with Meanwhile(read), Meanwhile(terminate, pause_s=0.005):
            for done in [pool.submit(write, raw) for raw in writers]:
                done.result(100)
    committed = place.ids() - before
    assert acked <= committed <= acked | unknown
    assert len(acked) > ENOUGH
    convoy.ask_all()


# --- timeouts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "code"), [("statement_timeout", CANCELED), ("lock_timeout", "55P03")], ids=["statement", "lock"]
)
def test_a_timeout_ends_the_statement_that_has_taken_so_long_and_no_others(place: Place, setting: str, code: str):
    with Convoy(place, **{setting: "1000"}) as convoy:
        with convoy.behind(
            "select word as {name} from quick", None, stuck=place.locked, waiting="Lock"
        ) as stuck:
            convoy.answer_soon()
            answer = stuck.flight.answer()
            assert (answer.code, answer.status) == (code, "I")
        convoy.ask_all()


def test_transaction_timeout_ends_the_backend_of_the_head_and_no_rider_notices(place: Place):
    if place.version < 17:
        return _transaction_timeout_is_unknown(place)
    with Convoy(place, transaction_timeout="1000") as convoy:
        with convoy.behind("select word as {name} from quick", None, stuck=place.locked, waiting="Lock") as stuck:
            convoy.answer_soon()
            answer = stuck.flight.answer()  # it was run again, and that ended in the same way
            assert (answer.code, answer.status) == (UNKNOWN, "I")
        convoy.ask_all()
    return None


def _transaction_timeout_is_unknown(place: Place) -> None:
    with Raw(place.pooler.host, place.pooler.port, user="") as raw:
        raw.send(messages.startup_packet({"user": "app_trust", "database": "app", "transaction_timeout": "300"}))
        assert raw.until("EZ").code == "42704"


@pytest.mark.parametrize("setting", ["idle_session_timeout", "idle_in_transaction_session_timeout"])
def test_a_backend_that_ends_because_it_idles_costs_nobody_an_answer(place: Place, setting: str):
    """Bursts at the very moment when the worker that they are for is ended; and beside a transaction that is."""
    if place.version < 14 and setting == "idle_session_timeout":
        setting = "idle_in_transaction_session_timeout"
    with Convoy(place, **{setting: "30"}) as convoy, convoy.connect() as idle:
        for turn in range(15):
            if setting == "idle_in_transaction_session_timeout":
                assert idle.query("begin").status == "T"
            threading.Event().wait(0.026 + turn % 5 * 0.002)
            convoy.send(rawclient.simple("select 'head'"), [("head",)]).check()
            convoy.answer_soon()
            if setting == "idle_in_transaction_session_timeout":
                wait_until(lambda: idle.query("select 1").code == "25P02", what="the transaction to be lost")
                assert idle.query("rollback").status == "I"


# --- what is wrong with one is no others' ----------------------------------------------------------------------------


def test_a_describe_of_11_kb_ends_its_frontend_and_no_other(convoy: Convoy):
    """The server closes the connection on it, and would take all riders with it."""
    long = messages.message(b"D", b"P" + b"x" * 11_000 + b"\0")
    head = rawclient.parse("select 1") + rawclient.bind() + long + rawclient.execute() + messages.SYNC
    for _ in range(5):
        answer = convoy.send(head).answer()
        assert answer.error["S"] == "FATAL"
        assert answer.code == "08P01"
        convoy.answer_soon()
        convoy.head = convoy.connect()
    convoy.ask_all()


@pytest.mark.parametrize("head", ["select 1/0", "selekt", "select no_such from quick", "select 'x'::int"])
def test_an_error_is_the_error_of_one(convoy: Convoy, head: str):
    for number in range(10):
        answer = convoy.send(way(number)(head)).answer()
        assert answer.code in ("22012", "42601", "42703", "22P02")
        assert answer.status == "I"
        convoy.answer_soon()


def test_a_notice_is_told_to_one(convoy: Convoy):
    """A NOTICE of a quick read stands in the middle of what a backend answers."""
    for number in range(20):
        answer = convoy.send(way(number)("select to_tsquery('english', 'the')"), [("",)]).answer()
        assert answer.tags.count("N") == 1
        for flight in convoy.flights:
            flight.check()
            assert "N" not in flight.answer().tags
    convoy.answer_soon()


def test_large_answers_among_riders_are_whole(convoy: Convoy):
    for number in range(10):
        text = f"select repeat('{number}', 1000), n from generate_series(1, 3000) n"
        rows = [(str(number) * 1000, str(each)) for each in range(1, 3001)]
        convoy.send(way(number)(text), rows).check()
        convoy.answer_soon()


def test_every_frontend_has_its_answers_in_its_own_order_and_sees_its_own_writes(convoy: Convoy):
    """All send a pipeline at once: reads that ride, a write, and a read of what it wrote."""
    names = [unique("own") for _ in convoy.riders]
    for number, (raw, name) in enumerate(zip(convoy.riders, names, strict=True)):
        texts = [f"select '{name} {turn}'" for turn in range(3)]
        texts += [f"insert into rows values ('{name}')", f"select id from rows where id = '{name}'", f"select '{name}'"]
        raw.send(*(way(number + turn)(text) for turn, text in enumerate(texts)))
    for raw, name in zip(convoy.riders, names, strict=True):
        answers = [raw.answer() for _ in range(6)]
        found = [answer.rows or answer.commands for answer in answers]
        assert found == [*([(f"{name} {turn}",)] for turn in range(3)), ["INSERT 0 1"], [(name,)], [(name,)]]


def test_those_of_one_group_never_ride_with_those_of_another(place: Place):
    """They differ in what their statements see; all of it is read in every burst."""
    state = "select current_setting('application_name'), current_setting('search_path'), current_setting('my.tenant')"
    groups = [("a", "x", "1"), ("b", "y", "2"), ("b", "y", "3")]
    with ExitStack() as stack:
        frontends = [
            stack.enter_context(
                place.connect(application_name=group[0], search_path=group[1], **{"my.tenant": group[2]})
            )
            for _ in range(RIDERS // 3) for group in groups
        ]  # fmt: skip
        for turn in range(40):
            for number, raw in enumerate(frontends):
                raw.send(way(number + turn)(state))
            for number, raw in enumerate(frontends):
                assert raw.answer().rows == [groups[number % 3]]
