"""A planned switchover with several pools: the others hold meanwhile, and no statement of anybody's clients fails."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from lib.ha.holding import LEASE_S
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
    versions,
)
from tests.cluster.load import Load
from tests.cluster.rawclient import Raw
from tests.cluster.test_ha_planned import console, dry_run, switch
from tests.pooler import Pooler
from tests.workplace import wait_until

STEPS = ["quiet", "stopped", "promoted", "comes back"]


class Pools(NamedTuple):
    """Two pools in front of the same servers.

    leader   may promote
    peer     is told
    """

    house: House
    leader: Pooler
    peer: Pooler


@contextlib.contextmanager
def two_pools(house: House, **of_leader: object) -> Iterator[Pools]:
    conf = {"ha_restart_command": house.cluster.restart_command(), **of_leader}
    with house.pool(enable_ha=False) as peer, house.pool(peers=[(peer.host, peer.port)], **conf) as leader:
        peer.reload(peers=[(leader.host, leader.port)])
        yield Pools(house, leader, peer)


@contextlib.contextmanager
def one_standby(**of_leader: object) -> Iterator[Pools]:
    with open_house(standbys=1) as house, two_pools(house, **of_leader) as pools:
        yield pools


@contextlib.contextmanager
def both_loaded(pools: Pools) -> Iterator[tuple[Load, Load]]:
    """Frontends of both pools write, with names of their own, and read."""
    with loaded(pools.leader, name="leader") as own, loaded(pools.peer, name="peer") as others:
        yield own, others


def check(loads: tuple[Load, Load], committed: set[str]) -> None:
    """Nothing was lost, and nothing failed."""
    for load, name in zip(loads, ("leader", "peer"), strict=True):
        assert load.unknown == set()
        load.check({each for each in committed if each.startswith(name)})


def insert(client: Raw, name: str) -> list[str]:
    return client.query(f"insert into {TABLE} values ('{name}')").commands


def is_held(pooler: Pooler) -> str:
    with console(pooler) as admin:
        return admin.query("ha list").rows[0][-2] or ""


# --- nothing fails ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", versions(16, 18, pytest.param(13, marks=pytest.mark.needs_npm)))
def test_no_statement_of_any_pools_clients_fails_in_a_switchover(version):
    with open_house(version, conf=SYNC) as house, two_pools(house) as pools:
        with both_loaded(pools) as loads:
            plan = dry_run(pools.leader)
            assert "against" not in plan
            assert plan["holds"] == f"the pool at {pools.peer.host}:{pools.peer.port}"
            steps = in_thread(lambda: switch(pools.leader))
            house.first.adopt()
            assert [step for step, _ in steps()] == STEPS
            for load in loads:
                load.go_on()
        primary = house.wait_promoted()
        check(loads, kept(primary))
        with frontend(pools.peer) as client:
            assert client.query("select inet_server_port()").rows == [(str(primary.port),)]
        assert is_held(pools.peer) == ""


def test_transactions_of_another_pool_end_before_the_switch_and_who_comes_there_meanwhile_waits():
    with one_standby() as pools, frontend(pools.peer) as client, frontend(pools.peer) as late:
        client.query("begin")
        insert(client, "one")
        steps = in_thread(lambda: switch(pools.leader))
        pools.peer.wait_said("statements wait")
        answer = in_thread(lambda: insert(late, "late"))
        assert insert(client, "two") == ["INSERT 0 1"]
        assert pools.house.promoted() is None
        assert client.query("commit").commands == ["COMMIT"]
        pools.house.first.adopt()
        assert [step for step, _ in steps()] == STEPS
        assert answer() == ["INSERT 0 1"]
        assert kept(pools.house.wait_promoted()) == {"one", "two", "late"}


def test_in_session_mode_transactions_end_before_the_switch_and_sessions_that_begin_meanwhile_begin_behind_it():
    """In session mode a login began a backend on the held primary, and what it ran there was cut off by its end. And an
    open transaction there was taken for an idle session."""
    with open_house(standbys=1) as house, two_pools(house) as pools:
        for pooler in (pools.leader, pools.peer):
            pooler.reload(pool_mode="session")
        with frontend(pools.leader) as client:
            client.query("begin")
            insert(client, "open")
            steps = in_thread(lambda: switch(pools.leader))
            pools.peer.wait_said("statements wait")
            late = [in_thread(lambda each=each: frontend(each)) for each in (pools.leader, pools.peer)]
            assert client.query("commit").commands == ["COMMIT"]
            house.first.adopt()
            steps()
        for number, each in enumerate(late):
            with each() as session:
                assert insert(session, f"late {number}") == ["INSERT 0 1"]
        assert kept(house.wait_promoted()) == {"open", "late 0", "late 1"}


# --- given up --------------------------------------------------------------------------------------------------------


def test_a_transaction_of_another_pool_that_does_not_end_stops_the_switch_and_all_goes_on():
    with one_standby() as pools, frontend(pools.peer) as client, frontend(pools.peer) as late:
        client.query("begin")
        insert(client, "early")
        with console(pools.leader) as admin, loaded(pools.leader, 2, name="leader") as load:
            answer = in_thread(lambda: admin.query("pool switchover"))
            pools.peer.wait_said("statements wait")
            waiting = in_thread(lambda: insert(late, "late"))
            said = answer().error["M"]
            assert f"did not end within 10 s: those of the pool at {pools.peer.host}:{pools.peer.port}" in said
            load.go_on()
        assert load.unknown == set()
        assert waiting() == ["INSERT 0 1"]
        assert client.query("commit").commands == ["COMMIT"]
        assert pools.house.promoted() is None
        assert is_held(pools.peer) == ""


def test_a_restart_that_fails_has_all_pools_go_on():
    with one_standby(ha_restart_command="exit 7") as pools:
        with both_loaded(pools) as loads:
            with console(pools.leader) as admin:
                assert "ha_restart_command ended with 7" in admin.query("pool switchover").error["M"]
            for load in loads:
                load.go_on()
        assert pools.house.promoted() is None
        check(loads, kept(pools.house.first))


def test_a_switchover_that_is_canceled_while_it_waits_has_changed_nothing():
    with one_standby() as pools, frontend(pools.peer) as client, frontend(pools.peer) as late:
        client.query("begin")
        insert(client, "early")
        with console(pools.leader) as admin:
            answer = in_thread(lambda: admin.query("pool switchover"))
            pools.peer.wait_said("statements wait")
            admin.cancel()
            assert answer().code == "57014"
        assert insert(late, "late") == ["INSERT 0 1"]
        assert client.query("commit").commands == ["COMMIT"]
        assert pools.house.promoted() is None


def test_a_pool_that_is_told_to_stop_while_its_switchover_waits_stops_at_once_and_all_go_on():
    """It waited for the transactions, or for its shutdown_timeout."""
    with one_standby(shutdown_timeout=600) as pools, frontend(pools.peer) as client, frontend(pools.peer) as late:
        client.query("begin")
        insert(client, "early")
        with console(pools.leader) as admin:
            answer = in_thread(lambda: admin.query("pool switchover"))
            pools.peer.wait_said("statements wait")
            pools.leader.stop()
            assert answer().code == "57014"
        assert insert(late, "late") == ["INSERT 0 1"]
        assert pools.house.promoted() is None


# --- the switching pool dies -----------------------------------------------------------------------------------------


def test_pools_that_hold_go_on_by_themselves_when_the_switching_pool_is_killed():
    with one_standby() as pools, frontend(pools.leader) as client:
        client.query("begin")
        insert(client, "early")
        with loaded(pools.peer, name="peer") as load:
            in_thread(lambda: console(pools.leader).query("pool switchover"))
            pools.peer.wait_said("statements wait")
            pools.leader.kill()
            began = time.monotonic()
            load.go_on()
            assert time.monotonic() - began < LEASE_S + 10.0
        pools.peer.wait_said("is still the primary: statements go on")
        load.check({each for each in kept(pools.house.first) if each.startswith("peer")})
        assert load.unknown == set()
        assert pools.house.promoted() is None


def test_when_the_old_primary_is_a_standby_already_pools_wait_until_the_switching_pool_is_back():
    """Their leases have run out, and what was the primary answers them: as a standby, which takes no writes, and whose
    reads are of yesterday as soon as another one is promoted."""
    with open_house(standbys=1) as house, two_pools(house, ha_restart_command="") as pools:
        pools.leader.stop()
        as_long_as_the_pool = "\nwhile kill -0 $PPID 2>/dev/null; do sleep 0.1; done"
        pools.leader.conf["ha_restart_command"] = house.cluster.restart_command() + as_long_as_the_pool
        pools.leader.start()
        wait_until(lambda: dry_run(pools.leader).get("against") is None, LONG_S, "it to see all of them")
        with loaded(pools.peer, name="peer") as load:
            in_thread(lambda: console(pools.leader).query("pool switchover"))
            house.first.adopt(LONG_S)
            wait_until(lambda: house.first.is_standby, LONG_S, "the old primary to be a standby")
            os.kill(pools.leader.pid, signal.SIGKILL)
            pools.peer.wait_said("is in recovery", timeout_s=LONG_S)
            assert house.promoted() is None
            pools.leader.start()
            load.go_on(timeout_s=LONG_S)
        assert house.promoted() is house.standbys[0]
        load.check(kept(house.standbys[0]))
        assert load.unknown == set()


def gated(house: House, where: Path) -> str:
    """A restart command that says that it was asked, and waits until it may."""
    return f"touch {where}/asked; while [ ! -e {where}/go ]; do sleep 0.05; done\n{house.cluster.restart_command()}"


def test_a_lease_that_runs_out_in_the_middle_loses_nothing_unsaid(tmp_path):
    """The switching pool is frozen just before it stops the old primary, and when it thaws that has been stopped: the
    other pool's clients have gone on meanwhile. What was acknowledged is on the new primary."""
    with open_house(standbys=1) as house, two_pools(house, ha_restart_command=gated(house, tmp_path)) as pools:
        with loaded(pools.peer, name="peer") as load:
            steps = in_thread(lambda: switch(pools.leader))
            wait_until((tmp_path / "asked").exists, LONG_S, "the old primary to be restarted")
            os.kill(pools.leader.pid, signal.SIGSTOP)
            try:
                load.go_on(timeout_s=LONG_S)
                pools.peer.wait_said("is still the primary: statements go on")
                (tmp_path / "go").touch()
                house.first.adopt()
                pools.peer.wait_said("is in recovery: it is no primary any more", timeout_s=LONG_S)
            finally:
                os.kill(pools.leader.pid, signal.SIGCONT)
            assert [step for step, _ in steps()][-2:] == ["promoted", "comes back"]
            load.go_on(timeout_s=LONG_S)
        load.check(kept(house.wait_promoted()))


def test_a_pool_that_is_frozen_in_the_middle_of_a_switch_goes_on_with_the_new_primary(tmp_path):
    with open_house(standbys=1) as house, two_pools(house, ha_restart_command=gated(house, tmp_path)) as pools:
        with loaded(pools.peer, name="peer") as load:
            steps = in_thread(lambda: switch(pools.leader))
            wait_until((tmp_path / "asked").exists, LONG_S, "the old primary to be restarted")
            os.kill(pools.peer.pid, signal.SIGSTOP)
            try:
                until = time.monotonic() + LEASE_S + 0.5
                (tmp_path / "go").touch()
                house.first.adopt()
                assert [step for step, _ in steps()] == STEPS
                wait_until(lambda: time.monotonic() > until, what="its lease to be over")
            finally:
                os.kill(pools.peer.pid, signal.SIGCONT)
            load.go_on(timeout_s=LONG_S)
        load.check(kept(house.wait_promoted()))
        assert load.unknown == set()


def test_a_pool_that_is_told_to_stop_in_the_middle_of_a_switch_tells_the_others_before_it_goes(tmp_path):
    with open_house(standbys=1) as house, two_pools(house, ha_restart_command=gated(house, tmp_path)) as pools:
        with loaded(pools.peer, name="peer") as load, console(pools.leader) as admin:
            answer = in_thread(lambda: admin.query("pool switchover"))
            wait_until((tmp_path / "asked").exists, LONG_S, "the old primary to be restarted")
            os.kill(pools.leader.pid, signal.SIGTERM)
            (tmp_path / "go").touch()
            house.first.adopt()
            assert [step for step, _ in answer().rows][:3] == STEPS[:3]
            wait_until(lambda: not pools.leader.is_running, LONG_S, "it to stop")
            load.go_on()
        load.check(kept(house.wait_promoted()))
        assert load.unknown == set()


def test_a_pool_that_was_not_told_yet_does_not_take_a_standby_for_its_primary():
    """One that was left out, or whose lease has run out: its workers are lost when the old primary stops, and began
    anew on a server that refuses all writes, and whose reads may be old."""
    with one_standby() as pools, frontend(pools.peer) as client:
        insert(client, "before")
        pools.leader.stop()
        pools.house.first.stop()
        pools.house.first.follow(pools.house.standbys[0])
        pools.house.first.start()
        answer = in_thread(lambda: insert(client, "behind"))
        pools.peer.wait_said("is in recovery: it is no primary any more")
        pools.house.standbys[0].promote()
        with console(pools.peer) as admin:
            admin.query("pool changemaster 2")
        assert answer() == ["INSERT 0 1"]
        assert kept(pools.house.standbys[0]) == {"before", "behind"}


# --- pools that cannot hold ------------------------------------------------------------------------------------------


def test_a_pool_that_is_down_is_a_reason_against_unless_that_is_forced():
    with one_standby() as pools:
        pools.peer.stop()
        name = f"the pool at {pools.peer.host}:{pools.peer.port} does not hold: no connection to server"
        reason = dry_run(pools.leader)["against"]
        assert reason.startswith(name)
        assert "its clients' statements fail that are under way" in reason
        with loaded(pools.leader, name="leader") as load:
            with console(pools.leader) as admin:
                assert admin.query("pool switchover").error["M"] == reason
            steps = in_thread(lambda: switch(pools.leader, "2 force"))
            pools.house.first.adopt()
            assert [step for step, _ in steps()] == ["left out", *STEPS]
            assert steps()[0][1] == reason
            load.go_on()
        assert load.unknown == set()
        pools.peer.start()
        with frontend(pools.peer) as client:
            assert insert(client, "back") == ["INSERT 0 1"]
        assert "back" in kept(pools.house.wait_promoted())


def test_a_pool_that_hangs_is_a_reason_against_and_with_force_it_learns_of_it_later():
    with one_standby() as pools:
        os.kill(pools.peer.pid, signal.SIGSTOP)
        try:
            with console(pools.leader) as admin:
                assert "did not answer in time" in admin.query("pool switchover").error["M"]
                assert admin.query("ha list").rows[0][2] == "watching"
            steps = in_thread(lambda: switch(pools.leader, "force"))
            pools.house.first.adopt()
            assert [step for step, _ in steps()] == ["left out", *STEPS]
        finally:
            os.kill(pools.peer.pid, signal.SIGCONT)
        with frontend(pools.peer) as client:
            pools.leader.wait_said("was told of the new primary")
            assert insert(client, "thawed") == ["INSERT 0 1"]
        assert "thawed" in kept(pools.house.wait_promoted())


def test_a_pool_that_dies_while_it_holds_stops_the_switch():
    with one_standby() as pools, frontend(pools.leader) as client:
        client.query("begin")
        insert(client, "early")
        with console(pools.leader) as admin:
            answer = in_thread(lambda: admin.query("pool switchover"))
            pools.peer.wait_said("statements wait")
            pools.peer.kill()
            assert "does not hold" in answer().error["M"]
        assert insert(client, "more") == ["INSERT 0 1"]
        assert client.query("commit").commands == ["COMMIT"]
        assert pools.house.promoted() is None


def test_a_pool_that_does_not_know_the_command_or_refuses_it_is_a_reason_against():
    """Here servers stand for it: one has a database of that name, and to both such a command is a syntax error."""
    with open_house() as house:
        house.first.query("create database pseudo")
        house.cluster.wait_caught_up()
        older = house.standbys[0]
        with house.pool(peers=[(older.host, older.port)], ha_restart_command=house.cluster.restart_command()) as pooler:
            assert 'it is an older one, and has no "pool hold"' in dry_run(pooler)["against"]
        house.first.query("drop database pseudo")
        house.cluster.wait_caught_up()
        with house.pool(peers=[(older.host, older.port)], ha_restart_command=house.cluster.restart_command()) as pooler:
            assert 'database "pseudo" does not exist' in dry_run(pooler)["against"]
