"""`pool hold` and `pool release`: what other pools say to this one before they switch over, typed by hand."""

from __future__ import annotations

import time

import pytest

from lib.ha.holding import LEASE_S
from tests.cluster.house import frontend, in_thread, kept, loaded, open_house
from tests.cluster.test_ha_peers import insert, is_held, one_standby
from tests.cluster.test_ha_planned import console
from tests.workplace import wait_until


@pytest.fixture(scope="module")
def held():
    """A pool that others may have hold."""
    modes = [{"database": "sessions", "pool_mode": "session"}]
    with open_house(standbys=1) as house, house.pool(enable_ha=False, pool_modes=modes) as pooler:
        house.first.query("create database sessions")
        yield house, pooler


def test_a_hold_has_statements_wait_and_lets_reads_of_standbys_through(held):
    house, pooler = held
    with frontend(pooler) as client, frontend(pooler) as reader, console(pooler) as admin:
        reads = "/*s*/ select inet_server_port()"
        port = str(house.standbys[0].port)
        wait_until(lambda: reader.query(reads).rows == [(port,)], what="the standby to have workers")
        ((quiet, seconds),) = admin.query("pool hold").rows
        assert quiet == "t"
        assert 0 < float(seconds) <= LEASE_S
        answer = in_thread(lambda: insert(client, "held"))
        assert reader.query(reads).rows == [(port,)]
        assert "held" not in kept(house.first)
        assert is_held(pooler).startswith("an administrator for")
        assert admin.query("pool release").commands == ["POOL RELEASE"]
        assert answer() == ["INSERT 0 1"]


def test_a_hold_is_over_by_itself(held):
    _, pooler = held
    with frontend(pooler) as client, console(pooler) as admin:
        admin.query("pool hold")
        began = time.monotonic()
        assert insert(client, "patient") == ["INSERT 0 1"]
        assert time.monotonic() - began > LEASE_S - 1.0
        assert admin.query("pool release").error["M"] == "nothing is held"


def test_a_hold_that_is_said_again_goes_on(held):
    house, pooler = held
    with frontend(pooler) as client, console(pooler) as admin:
        admin.query("pool hold")
        answer = in_thread(lambda: insert(client, "renewed"))
        until = time.monotonic() + LEASE_S + 1.0
        while time.monotonic() < until:
            assert admin.query("pool hold").rows[0][0] == "t"
            assert "renewed" not in kept(house.first)
        admin.query("pool release")
        assert answer() == ["INSERT 0 1"]


def test_a_hold_that_is_not_quiet_yet_says_so(held):
    _, pooler = held
    with frontend(pooler) as client, console(pooler) as admin:
        client.query("begin")
        insert(client, "open")
        assert admin.query("pool hold").rows[0][0] == "f"
        assert client.query("commit").commands == ["COMMIT"]
        assert admin.query("pool hold").rows[0][0] == "t"
        admin.query("pool release")


def test_a_session_that_begins_while_all_is_held_waits_for_its_backend(held):
    house, pooler = held
    with console(pooler) as admin, frontend(pooler, database="sessions") as before:
        assert admin.query("pool hold").rows[0][0] == "t"
        backends = "select count(*) from pg_stat_activity where datname = 'sessions' and usename = 'app'"
        assert house.first.query(backends) == [(1,)]
        late = in_thread(lambda: frontend(pooler, database="sessions"))
        answer = in_thread(lambda: before.query("select 'held'").rows)

        def waits() -> bool:
            admin.query("pool hold")
            return admin.query("pool list where pool_id = 1 and queue > 0").rows != []

        wait_until(waits, what="it to wait")
        assert house.first.query(backends) == [(1,)]
        admin.query("pool release")
        assert answer() == [("held",)]
        with late() as session:
            assert session.query("select 'late'").rows == [("late",)]


def test_nobody_releases_what_another_one_holds(held):
    house, pooler = held
    with frontend(pooler) as client, console(pooler) as one, console(pooler) as other, console(pooler) as third:
        assert one.query("pool hold a-switchover").rows[0][0] == "t"
        assert other.query("pool hold 'another one'").rows[0][0] == "t"
        assert third.query("pool release").error["M"] == "nothing is held"
        assert third.query("pool release nobody").error["M"] == "nothing is held for nobody"
        answer = in_thread(lambda: insert(client, "twice"))
        assert one.query("pool release a-switchover").commands == ["POOL RELEASE"]
        assert is_held(pooler).startswith("another one for")
        assert "twice" not in kept(house.first)
        assert other.query("pool release 'another one'").commands == ["POOL RELEASE"]
        assert answer() == ["INSERT 0 1"]


def test_many_administrators_at_the_same_time_leave_nothing_held(held):
    house, pooler = held

    def work(number: int) -> list[str]:
        with console(pooler) as admin:
            for _ in range(20):
                assert admin.query(f"pool hold who{number}").rows[0][0] in "tf"
                assert not admin.query(f"pool release who{number}").errors
                assert admin.query(f"pool release who{number}").error["C"] == "55000"
        return []

    with loaded(pooler, 4, name="many") as load:
        for done in [in_thread(lambda number=number: work(number)) for number in range(5)]:
            assert done() == []
        load.go_on()
    load.check({each for each in kept(house.first) if each.startswith("many")})
    assert load.unknown == set()
    wait_until(lambda: is_held(pooler) == "", what="nothing to be held")


def test_wrong_arguments_are_told(held):
    _, pooler = held
    with console(pooler) as admin:
        assert admin.query("pool hold a b").error["H"] == "Wanted: pool hold [who]"
        assert admin.query("pool release a b").error["H"] == "Wanted: pool release [who]"
        assert admin.query(f"pool hold {'x' * 101}").error["C"] == "22023"
        assert admin.query("pool switchover force 2").error["H"] == "Wanted: pool switchover [pool_id] [force]"
        assert admin.query("pool switchover 2 really").error["H"] == "Wanted: [force]"
        assert admin.query("pool switchover really").error["M"] == '"really" is not a number'


def test_a_pool_that_is_held_by_another_one_does_not_switch_over():
    with open_house(standbys=1) as house, house.pool() as pooler, console(pooler) as other, console(pooler) as admin:
        other.query("pool hold other")
        assert "another switchover is under way: other for" in admin.query("pool switchover").error["M"]


def test_a_hold_that_comes_too_late_does_not_hold_the_new_primary():
    with one_standby() as pools, console(pools.peer) as admin, frontend(pools.peer) as client:
        admin.query("pool hold late")
        pools.leader.stop()
        pools.house.first.stop()
        pools.house.standbys[0].promote()
        answer = in_thread(lambda: insert(client, "new"))
        admin.query(f"pool changemaster 127.0.0.1:{pools.house.standbys[0].port}")
        assert answer() == ["INSERT 0 1"]
        assert admin.query("pool hold late").error["M"] == "the switchover of late is over"
        assert insert(client, "newer") == ["INSERT 0 1"]
