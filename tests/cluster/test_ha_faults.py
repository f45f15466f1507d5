"""What else can go wrong in a failover: the pool is killed at any step, everyone is cut off, the disk is full, a
password is wrong, the old primary comes back meanwhile."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lib.console import commands
from tests.cluster.house import (
    HBA,
    HELD,
    LONG_S,
    SYNC,
    TABLE,
    Cut,
    House,
    check_left_behind,
    frontend,
    kept,
    loaded,
    open_house,
    state_file,
)
from tests.cluster.rawclient import simple
from tests.cluster.test_ha_planned import console
from tests.pooler import Pooler
from tests.servers import Server
from tests.workplace import wait_until


def is_target_written(house: House, pooler: Pooler) -> bool:
    return "target = 127" in state_file(pooler).read_text()


def is_new_primary_written(house: House, pooler: Pooler) -> bool:
    return any(f"primary = 127.0.0.1:{each.port}" in state_file(pooler).read_text() for each in house.standbys)


def is_doubted(house: House, pooler: Pooler) -> int:
    return pooler.log.count(HELD)


def is_announced(house: House, pooler: Pooler) -> int:
    return pooler.log.count("was promoted in")


def wait_for(step: Callable[[House, Pooler], object], house: House, pooler: Pooler) -> None:
    """Until the step is reached, or missed: some of them are over in milliseconds, and the machine may be busy."""
    while not (step(house, pooler) or is_new_primary_written(house, pooler)):
        assert pooler.is_running
        time.sleep(0.0005)


def check_one_primary(house: House, pooler: Pooler) -> Server:
    """What was done is whole: one server takes writes, has all of them, and the others follow."""
    with frontend(pooler) as client:
        assert client.query(f"insert into {TABLE} values ('after')").commands == ["INSERT 0 1"]
        port = int(client.value("select inet_server_port()"))
    primary = next(server for server in house.cluster.servers if server.port == port)
    assert kept(primary) == {"before", "after"}
    assert house.promoted() is (None if primary is house.first else primary)
    assert "target" not in state_file(pooler).read_text()
    return primary


@pytest.mark.parametrize("step", [is_doubted, is_target_written, is_new_primary_written, is_announced])
def test_a_pool_that_is_killed_at_a_step_of_a_failover_completes_or_undoes_it(step):
    with open_house(conf=SYNC) as house, house.pool() as pooler:
        with frontend(pooler) as client:
            client.query(f"insert into {TABLE} values ('before')")
        house.first.kill9()
        wait_for(step, house, pooler)
        pooler.kill()
        house.first.start()  # it would serve, if anything was sent there
        pooler.start()
        primary = check_one_primary(house, pooler)
        if primary is not house.first:
            assert kept(house.first) == {"before"}
            house.wait_following(*(each for each in house.standbys if each is not primary))


def test_an_old_primary_that_comes_back_in_the_middle_of_the_switch_gets_nothing():
    with open_house(conf=SYNC) as house, house.pool() as pooler:
        with loaded(pooler) as load:
            house.first.kill9()
            begun = set(load.begun)
            wait_for(is_target_written, house, pooler)
            house.first.launch()
            primary = house.wait_promoted()
            house.first.wait_ready()
            load.go_on(timeout_s=LONG_S)
            pooler.wait_said("is no standby, and gets no statement")
            load.go_on()
        load.check(kept(primary))
        check_left_behind(house.first, primary, load, begun)
        assert len(kept(primary) - kept(house.first)) > 0


def test_a_primary_that_is_cut_off_from_everyone_is_replaced_and_gets_nothing_when_it_is_back():
    """The books once were closed at the cut by what had been counted till then. An answer that was given just before
    it, and read by its frontend just after, was missing in them."""
    with open_house() as house, Cut(house.first.port) as cut:
        for standby in house.standbys:
            to = standby.query("show primary_conninfo")[0][0].replace(f"port={house.first.port}", f"port={cut.port}")
            standby.configure(primary_conninfo=to)
            standby.reload()
        by_proxy = "select count(*) from pg_stat_wal_receiver where sender_port = %s and status = 'streaming'"
        for standby in house.standbys:
            wait_until(lambda standby=standby: standby.query(by_proxy, [cut.port])[0][0], what="it to follow that way")
        with house.pool(master=("127.0.0.1", cut.port)) as pooler:
            with loaded(pooler) as load:
                cut.is_cut = True
                pooler.wait_said(HELD)
                begun = set(load.begun)  # till then the pool has sent statements into the void
                house.first.query(f"insert into {TABLE} values ('lonely')", dbname="app")
                primary = house.wait_promoted()
                load.go_on(timeout_s=LONG_S)
                house.wait_following(*(each for each in house.standbys if each is not primary))
                cut.is_cut = False
                pooler.wait_said(f"server 127.0.0.1:{cut.port} is no standby, and gets no statement")
                load.go_on()
            # What was written in the moment of the cut and not received yet by a standby is lost: it is asynchronous.
            assert load.acked - kept(primary) <= begun & kept(house.first)
            assert kept(primary) <= load.acked | load.unknown
            house.first.query(f"delete from {TABLE} where name = 'lonely'", dbname="app")
            check_left_behind(house.first, primary, load, begun)


@contextlib.contextmanager
def with_password() -> Iterator[House]:
    """The user of admin_cnn has one, which is 'right'."""
    with open_house(standbys=1) as house:
        house.first.query("alter role keeper password 'right'")
        house.cluster.wait_caught_up()
        for server in house.cluster.servers:
            server.set_hba(["host all keeper 127.0.0.1/32 scram-sha-256", *HBA])
            server.reload()
        yield house


def as_keeper(password: str) -> dict[str, str]:
    return {"user": "keeper", "password": password, "database": "postgres"}


def test_with_a_password_that_was_changed_meanwhile_nobody_is_promoted_and_the_log_says_why():
    with with_password() as house, house.pool(admin_cnn=as_keeper("right"), ha_after_fail_cnt=3) as pooler:
        house.first.query("alter role keeper password 'new'")
        house.cluster.wait_caught_up()
        for server in house.cluster.servers:
            server.query("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'keeper'")
        for server in house.cluster.servers:
            pooler.wait_said(f"127.0.0.1:{server.port} cannot be asked what it is")
        pooler.wait_said('password authentication failed for user "keeper"')
        house.first.kill9()
        pooler.wait_said("no standby can be asked whether the primary is gone")
        assert house.promoted() is None
        assert "right" not in pooler.log


def test_with_a_wrong_password_nobody_is_promoted_and_the_log_says_why():
    with with_password() as house:
        conf = {**house.conf, "admin_cnn": as_keeper("wrong")}
        with Pooler(conf, cluster=house.cluster) as pooler:
            pooler.wait_said('password authentication failed for user "keeper"')
            house.first.kill9()
            pooler.wait_said("this pool has never seen the primary")
            assert house.promoted() is None
            assert "right" not in pooler.log and "wrong" not in pooler.log


def test_a_primary_that_is_restarted_while_all_is_paused_is_waited_for():
    """PAUSE is for a restart of the server, and one that took longer than a second had a standby promoted: the server
    that came back was left out, and needed pg_rewind."""
    with open_house() as house, house.pool() as pooler, frontend(pooler) as client, console(pooler) as admin:
        assert admin.query("pause").commands == ["PAUSE"]
        client.send(simple(f"insert into {TABLE} values ('waited')"))
        house.first.stop("fast")
        pooler.wait_said("and is not replaced: all is paused")
        assert "all is paused" in dict(zip(HA_LIST, admin.query("ha list").rows[0], strict=True))["refusal"]
        house.first.start()
        assert admin.query("resume").commands == ["RESUME"]
        assert client.answer().commands == ["INSERT 0 1"]
        assert house.promoted() is None and kept(house.first) == {"waited"}
        house.cluster.wait_caught_up()  # or it is lost with a primary that no standby has come back to yet
        admin.query("pause")
        house.first.stop("fast")
        pooler.wait_said("and is not replaced: all is paused", 2)
        client.send(simple(f"insert into {TABLE} values ('moved')"))
        admin.query("resume")
        primary = house.wait_promoted()
        assert client.answer().commands == ["INSERT 0 1"]
        assert kept(primary) == {"waited", "moved"}


HA_LIST = [column.name for column in commands.BY_WORDS["ha", "list"].columns]


@contextlib.contextmanager
def small_disk(where: Path) -> Iterator[None]:
    """A file system of 64 kB."""
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    mount = [*as_root, "mount", "-t", "tmpfs", "-o", f"size=64k,uid={os.geteuid()}", "tmpfs", where]
    assert subprocess.run(mount, check=False).returncode == 0, "this test needs root, or sudo, for a full disk"
    try:
        yield
    finally:
        subprocess.run([*as_root, "umount", where], check=True)


@pytest.mark.needs_debian
def test_a_disk_that_is_full_does_not_keep_a_standby_from_being_promoted(tmp_path):
    """The room for the next state was taken with the last one."""
    with (
        small_disk(tmp_path),
        open_house(standbys=1) as house,
        house.pool(ha_state_file=str(tmp_path / "state")) as pooler,
        frontend(pooler) as client,
    ):
        with contextlib.suppress(OSError), open(tmp_path / "all", "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 512)
        assert os.statvfs(tmp_path).f_bavail == 0
        house.kill(pooler, house.first)
        assert client.query(f"insert into {TABLE} values ('late')").commands == ["INSERT 0 1"]
        assert f"primary = 127.0.0.1:{house.standbys[0].port}" in state_file(pooler).read_text()
        pooler.stop()
        pooler.start()
        pooler.wait_said("the state file holds")
