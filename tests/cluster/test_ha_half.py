"""A switchover that fails in the middle, or whose pool is killed there: whatever was done last, it is completed or
undone by what the servers are, and never half."""

from __future__ import annotations

import contextlib
import fcntl
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.house import (
    LONG_S,
    TABLE,
    House,
    frontend,
    in_thread,
    kept,
    loaded,
    open_house,
    set_target,
    state_file,
)
from tests.cluster.test_ha import recovering
from tests.cluster.test_ha_faults import check_one_primary, is_new_primary_written, is_target_written, wait_for
from tests.cluster.test_ha_planned import console
from tests.pooler import Pooler
from tests.workplace import wait_until


class Gates:
    """Files by which a restart command says where it is, and waits."""

    def __init__(self, where: Path) -> None:
        self._where = where

    def script(self, name: str) -> str:
        """For a shell: say that it is here, and wait (for a minute at most, so that nothing of a test remains)."""
        wait = f"for turn in $(seq 3000); do [ -e {self._where}/{name}-go ] && break; sleep 0.02; done;"
        return f"touch {self._where}/{name}; {wait}"

    def wait(self, name: str) -> None:
        wait_until((self._where / name).exists, LONG_S, f"the restart to be at {name}")

    def open(self, name: str) -> None:
        (self._where / f"{name}-go").touch()


@pytest.fixture
def gates(tmp_path: Path) -> Gates:
    return Gates(tmp_path)


def is_old_primary_told(house: House, pooler: Pooler) -> bool:
    return (house.first.data / "standby.signal").exists()


def is_promoted(house: House, pooler: Pooler) -> bool:
    return house.promoted() is not None


def outliving(command: str, where: Path) -> str:
    """The same, done by a process that is nobody's child, and so is not killed with the pool."""
    script = where / "restart"
    script.write_text(command)
    return f"(sh {script} </dev/null >/dev/null 2>&1 &)"


@contextlib.contextmanager
def unwritable_yet(path: str) -> Iterator[None]:
    """Who opens this file waits, as for a disk that is busy: a lease, which the kernel would end after 45 s."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # by which it asks for it
    with open(path, "r+b") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield
    signal.signal(signal.SIGIO, before)


def adopted(house: House) -> None:
    """It may have been restarted by now, or not at all."""
    with contextlib.suppress(AssertionError):
        house.first.adopt(3)


# --- the pool is killed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [is_target_written, is_old_primary_told, is_promoted, is_new_primary_written])
def test_a_pool_that_is_killed_at_a_step_of_a_switchover_completes_or_undoes_it(step):
    with open_house() as house, house.pool(ha_restart_command=house.cluster.restart_command()) as pooler:
        with frontend(pooler) as client:
            client.query(f"insert into {TABLE} values ('before')")
        with console(pooler) as admin:
            in_thread(lambda: admin.query("pool switchover"))
            wait_for(step, house, pooler)
            pooler.kill()
        pooler.start()
        adopted(house)
        primary = check_one_primary(house, pooler)
        if primary is house.first:  # and it stays that
            assert not is_old_primary_told(house, pooler)


@pytest.mark.parametrize("is_late, standbys", [(False, 1), (False, 2), (True, 2)])
def test_a_pool_that_is_killed_while_the_old_primary_is_down_completes_the_switch(is_late, standbys, gates, tmp_path):
    with open_house(standbys=standbys) as house:
        command = outliving(house.cluster.restart_command(gates.script("down")), tmp_path)
        with house.pool(ha_restart_command=command) as pooler:
            with frontend(pooler) as client:
                client.query(f"insert into {TABLE} values ('before')")
            with console(pooler) as admin:
                in_thread(lambda: admin.query("pool switchover"))
                gates.wait("down")
                pooler.kill()
            if is_late:
                pooler.start()
                house.wait_promoted()
                gates.open("down")
                house.first.adopt(LONG_S)
            else:
                gates.open("down")
                house.first.adopt(LONG_S)
                pooler.start()
            assert check_one_primary(house, pooler) is not house.first
            wait_until(lambda: kept(house.first) == {"before", "after"}, LONG_S, "the old primary to follow")


def test_a_switchover_that_is_undone_leaves_the_primary_one_after_its_next_start():
    """It had been told to come back as a standby, and nobody took that back: at its next restart, weeks later, there
    would have been no primary."""
    with open_house(standbys=1) as house, house.pool(ha_restart_command="exit 1", ha_after_fail_cnt=200) as pooler:
        pooler.kill()
        house.first.write("standby.signal", "")
        path = Path(pooler.dir / "pgstmtpool.conf.state")
        path.write_text(path.read_text() + f"target = 127.0.0.1:{house.standbys[0].port}\n")
        pooler.start()
        with frontend(pooler) as client:
            assert client.query(f"insert into {TABLE} values ('one')").commands == ["INSERT 0 1"]
        pooler.wait_said("the switch that had begun is undone")
        house.first.restart()
        assert not house.first.is_standby
        with frontend(pooler) as client:
            assert client.query(f"insert into {TABLE} values ('two')").commands == ["INSERT 0 1"]


def test_an_old_primary_that_follows_one_that_somebody_else_has_promoted_is_not_promoted_again():
    """The pool was killed in a switchover to another one, which is silent."""
    with open_house() as house, house.pool() as pooler:
        silent, other = house.standbys
        house.cluster.wait_caught_up()
        pooler.kill()
        set_target(pooler, silent)
        silent.stop()
        house.first.stop()
        other.promote()
        house.first.follow(other)
        house.first.start()
        pooler.start()
        with frontend(pooler) as client:
            assert client.query(f"insert into {TABLE} values ('late')").commands == ["INSERT 0 1"]
        assert kept(other) == {"late"}
        wait_until(lambda: kept(house.first) == {"late"}, LONG_S, "the old primary to follow")
        assert house.first.is_standby
        assert "is to be the primary again" not in pooler.log


# --- the restart fails, or seems to ----------------------------------------------------------------------------------


def test_a_restart_that_was_done_and_is_said_to_have_failed_is_a_switchover():
    """It was taken back then: the old primary, which came back as the standby that it had been told to be, was taken
    for the primary, and there was none."""
    with open_house() as house:
        command = f"{house.cluster.restart_command()}\nexit 7"
        with house.pool(ha_restart_command=command) as pooler, loaded(pooler) as load, console(pooler) as admin:
            answer = in_thread(lambda: admin.query("pool switchover"))
            house.first.adopt(LONG_S)
            assert not answer().errors, answer().error
            assert [step for step, _ in answer().rows][-2:] == ["promoted", "comes back"]
            load.go_on(timeout_s=LONG_S)
        assert load.unknown == set()
        load.check(kept(house.wait_promoted()))
        pooler.wait_said("ha_restart_command ended with 7")


def test_a_switchover_that_is_completed_is_not_said_to_be_given_up_while_that_is_written(gates):
    """What was decided had not been written to a busy disk yet, and was taken for the end: the standby that had been
    promoted was not the primary then, and the other pools were let go on with the old one."""
    with open_house(standbys=1) as house:
        command = f"{house.cluster.restart_command(gates.script('down'))}\nexit 7"
        with house.pool(ha_restart_command=command) as pooler, console(pooler) as admin:
            answer = in_thread(lambda: admin.query("pool switchover"))
            gates.wait("down")
            with unwritable_yet(f"{state_file(pooler)}.new"):
                gates.open("down")
                house.wait_promoted()
                time.sleep(0.3)
            assert not answer().errors, answer().error
            house.first.adopt(LONG_S)
        pooler.wait_said("ha_restart_command ended with 7")


def test_a_restart_that_is_said_to_have_failed_and_is_done_later_leaves_a_primary(gates):
    with open_house(standbys=1) as house:
        command = f"( {gates.script('late')} {house.cluster.restart_command()} ) </dev/null >/dev/null 2>&1 & exit 7"
        with house.pool(ha_restart_command=command, ha_after_fail_cnt=200) as pooler:
            with loaded(pooler) as load, console(pooler) as admin:
                assert "ha_restart_command ended with 7" in admin.query("pool switchover").error["M"]
                load.go_on()
                gates.open("late")
                house.first.adopt(LONG_S)
                load.go_on(timeout_s=LONG_S)
            assert house.promoted() is None
            load.check(kept(house.first))
            slots = "select count(*) from pg_replication_slots"
            wait_until(lambda: house.standbys[0].query(slots) == [(0,)], LONG_S, "slots that nobody needs to be gone")


# --- the chosen standby fails ----------------------------------------------------------------------------------------


def switched_back(house: House, gates: Gates, pooler: Pooler, fail: Callable[[], None]) -> None:
    """Have the chosen standby fail when the old primary is down, and that be the primary again."""
    with loaded(pooler) as load, console(pooler) as admin:
        answer = in_thread(lambda: admin.query("pool switchover 2"))
        gates.wait("down")
        fail()
        gates.open("down")
        house.first.adopt(LONG_S)
        assert "the switchover is given up" in answer().error["M"]
        load.go_on(timeout_s=LONG_S)
        assert not house.first.is_standby
    assert load.unknown == set()
    load.check(kept(house.first))
    pooler.wait_said(f"server 127.0.0.1:{house.first.port} is to be the primary again")


def test_a_standby_that_dies_in_a_switchover_leaves_the_old_primary_which_takes_it_back(gates):
    with open_house(standbys=1) as house:
        chosen = house.standbys[0]
        with house.pool(ha_restart_command=house.cluster.restart_command(gates.script("down"))) as pooler:
            switched_back(house, gates, pooler, chosen.kill9)
            chosen.start()
            wait_until(lambda: kept(chosen) == kept(house.first), LONG_S, "it to follow")
            with frontend(pooler) as client:
                where = [(str(chosen.port),)]
                reads = "/*s*/ select inet_server_port()"
                wait_until(lambda: client.query(reads).rows == where, LONG_S, "it to be read from")


def test_a_standby_that_hangs_in_a_switchover_gets_nothing_when_it_is_promoted_later(gates):
    """Both call their timeline 2 then, and pg_rewind would see no difference between them."""
    with open_house(standbys=1) as house:
        chosen = house.standbys[0]
        startup = wait_until(lambda: recovering(psutil.Process(chosen.pid)), what="its startup process")
        command = house.cluster.restart_command(gates.script("down"))
        with house.pool(ha_restart_command=command, ha_promote_timeout=1) as pooler:
            try:
                switched_back(house, gates, pooler, startup.suspend)
            finally:
                startup.resume()
            wait_until(lambda: not chosen.is_standby, LONG_S, "it to be promoted")
            pooler.wait_said(f"server 127.0.0.1:{chosen.port} is no standby, and gets no statement")
            with frontend(pooler) as client:
                client.query(f"insert into {TABLE} values ('late')")
            assert "late" not in kept(chosen)
            with console(pooler) as admin:
                assert "both call their timeline 2" in admin.query("pool rejoin 2").error["M"]
