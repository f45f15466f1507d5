"""A planned switchover: no statement fails, and the old primary comes back as a standby."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from lib.ha import conninfo
from tests.cluster.house import (
    LONG_S,
    SYNC,
    TABLE,
    House,
    frontend,
    in_thread,
    kept,
    loaded,
    open_house,
    set_target,
    state_file,
    versions,
)
from tests.cluster.rawclient import Raw
from tests.pooler import PROJECT, Pooler
from tests.workplace import wait_until

SWITCHFUNC = PROJECT / "switchfunc.sql"


def console(pooler: Pooler) -> Raw:
    return frontend(pooler, user="keeper", database="pseudo")


def dry_run(pooler: Pooler) -> dict[str, str]:
    with console(pooler) as admin:
        return dict(admin.query("pool switchover dry run").rows)


def switch(pooler: Pooler, to: str = "") -> list[tuple]:
    with console(pooler) as admin:
        answer = admin.query(f"pool switchover {to}")
        assert not answer.errors, answer.error
        return answer.rows


@pytest.mark.parametrize("version", versions(16, 18, pytest.param(13, marks=pytest.mark.needs_npm)))
def test_nothing_fails_in_a_switchover_and_the_old_primary_comes_back(version):
    with (
        open_house(version, conf=SYNC) as house,
        house.pool(ha_restart_command=house.cluster.restart_command()) as pooler,
    ):
        with loaded(pooler) as load:
            plan = dry_run(pooler)
            assert "against" not in plan
            assert plan["comes back"].endswith("restarted by ha_restart_command")
            steps = in_thread(lambda: switch(pooler))
            house.first.adopt()
            assert [step for step, _ in steps()] == ["quiet", "stopped", "promoted", "comes back"]
            load.go_on()
            house.wait_streams(2)
            load.go_on()
        primary = house.wait_promoted()
        assert load.unknown == set()
        load.check(kept(primary))
        wait_until(lambda: kept(house.first) == kept(primary), what="the old primary to have all of it")
        with frontend(pooler) as client:
            port = str(house.first.port)
            reads = "/*s*/ select inet_server_port()"
            wait_until(lambda: client.query(reads).rows == [(port,)], what="it to be read from")


@contextlib.contextmanager
def open_transaction() -> Iterator[tuple[House, Pooler, Raw, Raw]]:
    """A pool that can switch, a client of it in a transaction, and one that comes later."""
    with (
        open_house(standbys=1) as house,
        house.pool(ha_restart_command=house.cluster.restart_command()) as pooler,
        frontend(pooler) as client,
        frontend(pooler) as late,
    ):
        client.query("begin")
        yield house, pooler, client, late


def test_transactions_end_before_the_switch_and_who_comes_meanwhile_waits():
    with open_transaction() as (house, pooler, client, late):
        client.query(f"insert into {TABLE} values ('one')")
        steps = in_thread(lambda: switch(pooler, "2"))
        pooler.wait_said("a switchover from")
        answer = in_thread(lambda: late.query(f"insert into {TABLE} values ('late')"))
        assert client.query(f"insert into {TABLE} values ('two')").commands == ["INSERT 0 1"]
        assert house.promoted() is None
        assert client.query("commit").commands == ["COMMIT"]
        house.first.adopt()
        steps()
        assert answer().commands == ["INSERT 0 1"]
        assert kept(house.wait_promoted()) == {"one", "two", "late"}


def test_a_transaction_that_does_not_end_stops_the_switch_and_all_goes_on():
    with open_transaction() as (house, pooler, client, late):
        with console(pooler) as admin:
            answer = in_thread(lambda: admin.query("pool switchover"))
            pooler.wait_said("a switchover from")
            waiting = in_thread(lambda: late.query(f"insert into {TABLE} values ('late')"))
            assert "did not end within 10 s" in answer().error["M"]
        assert waiting().commands == ["INSERT 0 1"]
        assert client.query("commit").commands == ["COMMIT"]
        assert house.promoted() is None
        assert "target" not in state_file(pooler).read_text()


def test_a_restart_that_fails_is_undone():
    with open_house(standbys=1) as house, house.pool(ha_restart_command="echo no such server; exit 7") as pooler:
        with loaded(pooler, 4) as load, console(pooler) as admin:
            said = admin.query("pool switchover").error["M"]
            assert "ha_restart_command ended with 7: no such server" in said
            load.go_on()
        load.check(kept(house.first))
        assert load.unknown == set()
        assert house.promoted() is None
        assert not (house.first.data / "standby.signal").exists()


def test_a_switchover_that_the_pool_was_killed_in_is_completed_when_the_old_primary_is_a_standby_already():
    with open_house(standbys=1) as house, house.pool() as pooler:
        pooler.kill()
        house.first.stop()
        house.first.follow(house.standbys[0])
        house.first.start()
        set_target(pooler, house.standbys[0])
        pooler.start()
        with frontend(pooler) as client:
            assert client.query(f"insert into {TABLE} values ('late')").commands == ["INSERT 0 1"]
        assert house.promoted() is house.standbys[0]
        pooler.wait_said("is a standby, too: the switch that had begun is completed")
        wait_until(lambda: kept(house.first) == {"late"}, what="the old primary to follow")


def test_a_dry_run_says_all_that_is_against_it():
    with open_house(standbys=1) as house, house.pool() as pooler, console(pooler) as admin:
        rows = admin.query("pool switchover dry run").rows
        (reason,) = [value for item, value in rows if item == "against"]
        assert "there is neither pgstmtpool_restart() (switchfunc.sql) nor ha_restart_command" in reason
        assert reason.endswith("by hand it would have to be rewound, which is possible")
        assert admin.query("pool switchover").error["M"] == reason
        house.standbys[0].stop()
        reasons = [value for item, value in admin.query("pool switchover dry run 2").rows if item == "against"]
        assert reasons[-1] == f"standby 127.0.0.1:{house.standbys[0].port} does not answer"
        assert admin.query("pool switchover 1").error["M"] == "pool 1 is the primary already"


def test_the_state_of_things_can_be_asked_for():
    with open_house(standbys=1) as house, house.pool() as pooler, console(pooler) as admin:
        (row,) = admin.query("ha list").rows
        assert row[:4] == ("t", f"127.0.0.1:{house.first.port}", "watching", "0")
        house.first.kill9()
        house.wait_promoted()
        pooler.wait_said("was promoted in")
        (row,) = admin.query("ha list").rows
        assert row[1] == f"127.0.0.1:{house.standbys[0].port}"
        assert row[7] == f"127.0.0.1:{house.first.port}"
        assert row[10] == "1"
        assert "was promoted in" in row[11]


# --- several pools ---------------------------------------------------------------------------------------------------


def test_other_pools_are_told_and_one_that_was_down_asks_when_it_comes_back():
    with (
        open_house(standbys=1) as house, house.pool(enable_ha=False) as told,
        house.pool(enable_ha=False) as away,
        house.pool(peers=[(told.host, told.port), (away.host, away.port)]) as leader,
    ):
        away.conf["peers"] = [(leader.host, leader.port)]
        away.stop()
        with frontend(told) as client:
            client.query("select 1")
            answer = in_thread(lambda: client.query(f"insert into {TABLE} values ('told')"))
            answer()
            house.first.kill9()
            leader.wait_said("was promoted in")
            began = time.monotonic()
            assert client.query(f"insert into {TABLE} values ('told, too')").commands == ["INSERT 0 1"]
            print(f"the other pool wrote {time.monotonic() - began:.2f} s later")
        with console(leader) as admin:
            (row,) = admin.query("ha list").rows
            assert f"{away.host}:{away.port}" in row[9]
        away.start()
        with frontend(away) as client:
            assert client.query(f"insert into {TABLE} values ('back')").commands == ["INSERT 0 1"]
        leader.wait_said(f"the pool at {away.host}:{away.port} was told of the new primary")
        assert kept(house.wait_promoted()) >= {"told, too", "back"}
        told.stop()
        told.start()
        told.wait_said("the state file holds")
        with frontend(told) as client:
            assert client.query("select inet_server_port()").rows == [(str(house.standbys[0].port),)]


def test_a_pool_does_not_take_a_standby_for_the_primary():
    with open_house(standbys=1) as house, house.pool(enable_ha=False) as pooler, console(pooler) as admin:
        for which in ("2", f"127.0.0.1:{house.standbys[0].port}"):
            assert admin.query(f"pool changemaster {which}").error["M"].endswith("is a standby")
        assert "nor an address" in admin.query("pool changemaster nonsense").error["M"]
        assert admin.query("pool changemaster 9").error["M"] == "there is no pool 9"


# --- switchfunc.sql --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_functions():
    with open_house(15, conf=SYNC, is_odd=True) as house:
        house.first.query("create role watcher login")
        house.first.query(SWITCHFUNC.read_text())
        house.cluster.wait_caught_up()
        yield house


@pytest.mark.needs_debian
def test_a_switchover_and_a_failover_and_the_way_back_by_switchfunc(with_functions):
    house = with_functions
    with house.pool() as pooler:
        with loaded(pooler) as load:
            steps = in_thread(lambda: switch(pooler, "2"))
            house.first.adopt()
            assert [step for step, _ in steps()][-1] == "comes back"
            load.go_on()
        assert load.unknown == set()
        primary = house.wait_promoted()
        load.check(kept(primary))
        house.wait_streams(2)

        primary.kill9()
        pooler.wait_said("was promoted in")
        primary.start()
        pooler.wait_said("is no standby, and gets no statement")
        with console(pooler) as admin:
            answer = in_thread(lambda: admin.query("pool rejoin 2"))
            primary.adopt(LONG_S)
            assert not answer().errors, (answer().error, (primary.data / "pgstmtpool_rejoin.log").read_text())
            assert [step for step, _ in answer().rows] == ["told", "back"]
            assert "nothing to rejoin" in admin.query("pool rejoin 2").error["M"]
        assert primary.is_standby
        with frontend(pooler) as client:
            client.query(f"truncate {TABLE}")
        with loaded(pooler) as more:
            more.go_on()
        others = [each for each in house.cluster.servers if each is not primary and not each.is_standby]
        assert len(others) == 1
        wait_until(lambda: kept(primary) == kept(others[0]), what="it to have all of it")
        shown = primary.query("show primary_conninfo")[0][0]
        assert conninfo.parse(shown)["fallback_application_name"] == "it's \\ \"odd\""


@pytest.mark.needs_debian
def test_nobody_but_superusers_may_call_the_functions(with_functions):
    server = next(each for each in with_functions.cluster.servers if not each.is_standby)
    names = server.query("select oid::regprocedure::text from pg_proc where proname like 'pgstmtpool_%'")
    assert len(names) == 4
    for (name,) in names:
        assert not server.query("select has_function_privilege('watcher', %s, 'execute')", [name])[0][0]
