"""Failover on PostgreSQL 12 and older, where a standby that changes its primary has to be restarted, and 11 and older
are promoted by a file."""

from __future__ import annotations

import pytest

from tests.cluster.house import (
    SYNC,
    TABLE,
    House,
    frontend,
    in_thread,
    kept,
    loaded,
    open_house,
    state_file,
)
from tests.cluster.standin import install
from tests.cluster.test_ha_planned import console, dry_run, switch
from tests.workplace import wait_until

pytestmark = pytest.mark.needs_npm


def wait_for_object(house: House, oid: int) -> None:
    has_it = f"select count(*) from pg_largeobject_metadata where oid = {oid}"
    wait_until(lambda: all(each.query(has_it) == [(1,)] for each in house.standbys), 30, "the large object")


def test_on_12_the_other_standby_is_restarted_to_follow():
    with open_house(12, conf=SYNC) as house, house.pool(ha_restart_command=house.cluster.restart_command()) as pooler:
        with loaded(pooler) as load:
            house.first.kill9()
            primary = house.wait_promoted()
            (other,) = [each for each in house.standbys if each is not primary]
            other.adopt()
            load.go_on(timeout_s=60)
            house.wait_following(other)
        load.check(kept(primary))


def test_on_12_the_old_primary_comes_back_from_a_switchover():
    with open_house(12, standbys=1) as house, house.pool(ha_restart_command=house.cluster.restart_command()) as pooler:
        with loaded(pooler) as load:
            steps = in_thread(lambda: switch(pooler))
            house.first.adopt()
            assert "follows" in dict(steps())["comes back"]
            load.go_on()
        assert load.unknown == set()
        load.check(kept(house.wait_promoted()))


@pytest.mark.parametrize("version", [10, 11])
def test_before_12_a_standby_is_promoted_by_the_file_that_a_large_object_makes(version):
    with open_house(version, standbys=1) as house, house.pool(lo_oid=4711) as pooler, frontend(pooler) as client:
        wait_for_object(house, 4711)
        house.kill(pooler, house.first)
        assert client.query(f"insert into {TABLE} values ('late')").commands == ["INSERT 0 1"]
        assert kept(house.wait_promoted()) == {"late"}


@pytest.mark.parametrize("version", [10, 11])
def test_before_12_standbys_that_cannot_follow_are_named_with_what_is_missing(version):
    with open_house(version) as house, house.pool() as pooler, console(pooler) as admin:
        reasons = [value for item, value in admin.query("pool switchover dry run").rows if item == "against"]
        wait_for_object(house, 9999)
        assert sum("without pgstmtpool_change_recovery: run switchfunc.sql" in reason for reason in reasons) == 1
        house.first.kill9()
        pooler.wait_said("could not be told to follow")
        pooler.wait_said("has no function pgstmtpool_change_recovery: run switchfunc.sql")
        (other,) = [each for each in house.standbys if each is not house.wait_promoted()]
        assert f"pending = 127.0.0.1:{other.port}" in state_file(pooler).read_text()


# --- with the functions of switchfunc.sql ----------------------------------------------------------------------------


@pytest.mark.parametrize("version", [10, 11, 12])
def test_by_the_functions_the_other_standby_follows_and_a_switchover_fails_nothing(version):
    with open_house(version, conf=SYNC) as house:
        install(house.first)
        house.cluster.wait_caught_up()
        with house.pool() as pooler:
            if version < 12:
                wait_for_object(house, 9999)
            with loaded(pooler) as load:
                assert "against" not in dry_run(pooler)
                steps = in_thread(lambda: switch(pooler, "2"))
                for each in (house.first, house.standbys[1]):
                    each.adopt()
                assert "follows" in dict(steps())["comes back"]
                load.go_on()
                house.wait_streams(2)
            assert load.unknown == set()
            load.check(kept(house.standbys[0]))
            wait_until(lambda: kept(house.first) == kept(house.standbys[0]), what="the old primary to have all of it")

            house.kill(pooler, house.standbys[0])
            with frontend(pooler) as client:
                assert client.query(f"insert into {TABLE} values ('late')").commands == ["INSERT 0 1"]
            other = house.first if house.standbys[1] is house.promoted() else house.standbys[1]
            other.adopt()
            wait_until(lambda: "late" in kept(other), what="the other standby to follow the new primary")
