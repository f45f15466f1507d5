"""The primary dies: a pause for those who write, nothing for those who read, and never two primaries."""

from __future__ import annotations

import os
import signal
from itertools import permutations

import psutil
import pytest

from tests.cluster.house import (
    HELD,
    LONG_S,
    MATRIX,
    SYNC,
    TABLE,
    Cut,
    check_left_behind,
    frontend,
    in_thread,
    kept,
    loaded,
    open_house,
    set_target,
    state_file,
    versions,
)
from tests.servers import Pooler, Server
from tests.workplace import wait_until

VERSIONS = versions(
    16,
    18,
    pytest.param(13, marks=pytest.mark.needs_npm),
    pytest.param(17, marks=pytest.mark.needs_npm),
    pytest.param(15, marks=pytest.mark.needs_debian),
)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_was_acknowledged_is_there_after_the_primary_was_killed_under_load(version):
    with open_house(version, conf=SYNC) as house, house.pool() as pooler:
        with loaded(pooler) as load:
            house.first.kill9()
            primary = house.wait_promoted()
            load.go_on(timeout_s=LONG_S)
            house.wait_following(*(each for each in house.standbys if each is not primary))
            load.go_on()
        load.check(kept(primary))
        assert primary.query("select slot_name from pg_replication_slots where active")


@pytest.mark.parametrize("is_stopped", [False, True], ids=["killed", "stopped"])
def test_a_statement_that_comes_while_there_is_no_primary_waits_and_runs_on_the_new_one(is_stopped):
    with open_house(standbys=1) as house, house.pool() as pooler, frontend(pooler) as client:
        assert client.query("select 1").rows == [("1",)]
        if is_stopped:
            house.first.stop("fast")
        else:
            house.kill(pooler, house.first)
        assert client.query(f"insert into {TABLE} values ('late')").commands == ["INSERT 0 1"]
        assert kept(house.wait_promoted()) == {"late"}


def test_transactions_and_sessions_on_the_old_primary_end_as_they_must():
    with (
        open_house() as house,
        house.pool() as pooler,
        frontend(pooler) as idle,
        frontend(pooler) as waiting,
        frontend(pooler) as in_transaction,
        frontend(pooler) as listening,
    ):
        idle.query("select 1")
        in_transaction.query("begin")
        in_transaction.query(f"insert into {TABLE} values ('lost')")
        waiting.query("begin")
        listening.query("listen channel")
        house.first.sigstop()
        pooler.wait_said(HELD)
        answer = in_thread(lambda: waiting.query(f"insert into {TABLE} values ('never sent')"))
        house.wait_promoted()
        assert answer().code == "08006"
        assert waiting.query("commit").commands == ["ROLLBACK"]
        assert in_transaction.query("commit").code == "08006"
        assert in_transaction.query("rollback").status == "I"
        assert listening.answer().code == "57P01"
        for each in (idle, waiting, in_transaction):
            assert each.query(f"select count(*) from {TABLE}").rows == [("0",)]


def test_statements_of_transactions_that_wait_for_the_primary_can_be_canceled_and_do_not_wait_for_ever():
    with (
        open_house(standbys=1) as house,
        house.pool() as pooler,
        house.pool(query_wait_timeout=1) as late,
        frontend(pooler) as canceled,
        frontend(pooler) as failed,
        frontend(late) as waiting,
        frontend(pooler, user="keeper", database="pseudo") as admin,
    ):
        house.standbys[0].stop()  # so that nobody is promoted
        for each in (canceled, failed, waiting):
            each.query("begin")
            each.query(f"insert into {TABLE} values ('rolled back {each.sock.fileno()}')")
        failed.query("select 1 / 0")
        house.first.sigstop()
        for each in (pooler, late):
            each.wait_said(HELD)
        assert waiting.query("select 2").code == "53300"
        assert waiting.query("rollback").commands == ["ROLLBACK"]
        answers = [in_thread(lambda each=each: each.query("select 2")) for each in (canceled, failed)]
        wait_until(lambda: len(admin.query("fe list where state = waiting").rows) == 2, what="both to wait")
        for each in (canceled, failed):
            each.cancel()
        assert [(answer().code, answer().status) for answer in answers] == [("57014", "E")] * 2
        assert canceled.query("select 3").code == "25P02"
        assert canceled.query("rollback").commands == ["ROLLBACK"]
        house.first.sigcont()
        assert failed.query("rollback").commands == ["ROLLBACK"]
        for number, each in enumerate((canceled, failed, waiting)):
            assert each.query(f"insert into {TABLE} values ('{number}')").commands == ["INSERT 0 1"]
        assert kept(house.first) == {"0", "1", "2"}


def test_a_frozen_primary_is_replaced_and_what_it_does_when_it_is_thawed_is_nothing():
    with open_house(conf=SYNC) as house, house.pool() as pooler:
        with loaded(pooler) as load:
            house.first.sigstop()
            pooler.wait_said(HELD)
            begun = set(load.begun)
            primary = house.wait_promoted()
            load.go_on(timeout_s=LONG_S)
            house.first.sigcont()
            load.go_on(10)
            pooler.wait_said(f"server 127.0.0.1:{house.first.port} is no standby, and gets no statement")
            load.go_on(10)
        load.check(kept(primary))
        # In flight when it froze were the statements that were declared unknown, and nothing came after these.
        check_left_behind(house.first, primary, load, begun)


def test_reads_of_standbys_go_on_while_there_is_no_primary():
    with open_house() as house, house.pool(query_wait_timeout=0) as pooler, frontend(pooler) as client:
        where = "/*s*/ select inet_server_port()"
        ports = {str(standby.port) for standby in house.standbys}
        wait_until(lambda: client.query(where).rows[0][0] in ports, what="the standbys to have workers")
        house.first.sigstop()
        pooler.wait_said(HELD)
        answer = in_thread(lambda: frontend(pooler).query(f"insert into {TABLE} values ('x')"))
        while house.promoted() is None:
            assert client.query(where).rows[0][0] in ports
        assert answer().commands == ["INSERT 0 1"]


# --- must not --------------------------------------------------------------------------------------------------------


def test_a_primary_that_only_the_pool_cannot_reach_is_not_replaced():
    with (
        open_house() as house,
        Cut(house.first.port) as cut,
        house.pool(master=("127.0.0.1", cut.port), ha_after_fail_cnt=3) as pooler,
        frontend(pooler) as client,
    ):
        client.query("select 1")
        cut.is_cut = True
        pooler.wait_said("and is not replaced: server 127.0.0.1:")
        pooler.wait_said("still follows a server")
        answer = in_thread(lambda: client.query(f"insert into {TABLE} values ('held')"))
        pooler.wait_said("and is not replaced: server 127.0.0.1:", times=2)
        assert house.promoted() is None
        assert kept(house.first) == set()
        cut.is_cut = False
        assert answer().commands == ["INSERT 0 1"]
        assert house.promoted() is None
        assert kept(house.first) == {"held"}


def test_a_primary_that_recovers_from_a_crashed_backend_is_waited_for():
    with (
        open_house() as house,
        house.pool(ha_after_fail_cnt=3) as pooler,
        frontend(pooler) as client,
    ):
        pid = int(client.value("select pg_backend_pid()"))
        postmaster = psutil.Process(house.first.pid)
        # So much to recover that a busy test sees it.
        house.first.query("create table ballast as select generate_series(1, 1000000)", dbname="app")
        os.kill(pid, signal.SIGKILL)
        startup = wait_until(lambda: recovering(postmaster), what="the recovery to begin")
        startup.suspend()
        try:
            pooler.wait_said("the primary answers that it cannot serve yet")
            answer = in_thread(lambda: client.query(f"insert into {TABLE} values ('patient')"))
            pooler.wait_said("the primary answers that it cannot serve yet", times=2)
            assert house.promoted() is None
        finally:
            startup.resume()
        assert answer().commands == ["INSERT 0 1"]
        assert house.promoted() is None
        assert kept(house.first) == {"patient"}


def test_a_primary_that_is_restarted_is_waited_for():
    with open_house(standbys=1) as house, house.pool(ha_after_fail_cnt=50) as pooler:
        with loaded(pooler) as load:
            house.first.restart()
            load.go_on(timeout_s=LONG_S)
        load.check(kept(house.first))
        assert house.promoted() is None


def recovering(postmaster: psutil.Process) -> psutil.Process | None:
    """The process of the server that recovers it."""
    for child in postmaster.children():
        try:
            if "startup" in " ".join(child.cmdline()):
                return child
        except psutil.NoSuchProcess:
            pass
    return None


def test_a_primary_that_is_full_is_not_replaced():
    with open_house(max_connections=100) as house, house.pool(ha_after_fail_cnt=1, ha_check_interval=0.1) as pooler:
        hogs = []
        try:
            with pytest.raises(Exception, match="too many clients"):
                while True:
                    hogs.append(house.first.connect())
            wait_until(lambda: is_asked(house.first) >= 20, LONG_S, "the primary to have been probed often")
            assert "does not answer" not in pooler.log
            assert house.promoted() is None
        finally:
            for hog in hogs:
                hog.close()


def is_asked(server: Server) -> int:
    return server.log.count("too many clients")


def test_nobody_is_promoted_when_no_standby_can_be_asked():
    with open_house(standbys=1) as house, house.pool(ha_after_fail_cnt=3) as pooler:
        house.standbys[0].stop()
        house.first.kill9()
        pooler.wait_said("no standby can be asked whether the primary is gone")
        house.standbys[0].start()
        with frontend(pooler) as client:
            assert client.query(f"insert into {TABLE} values ('late')").commands == ["INSERT 0 1"]
        assert house.promoted() is house.standbys[0]


def test_nobody_is_promoted_while_a_commit_could_be_missed():
    names = {"synchronous_standby_names": "ANY 1 (standby1, standby2)"}
    with open_house(conf=names) as house, house.pool(ha_after_fail_cnt=3) as pooler:
        house.standbys[0].stop()
        house.first.kill9()
        pooler.wait_said("2 of these must answer, so that none of its commits is missed, and 1 do")
        assert house.promoted() is None
        house.standbys[0].start()
        primary = house.wait_promoted()
        house.wait_following(*(each for each in house.standbys if each is not primary))


def test_nobody_is_promoted_when_that_cannot_be_remembered(tmp_path):
    where = tmp_path / "gone"
    where.mkdir()
    with open_house(standbys=1) as house, house.pool(ha_after_fail_cnt=3, ha_state_file=str(where / "s")) as pooler:
        for file in where.iterdir():
            file.unlink()
        where.rmdir()
        house.first.kill9()
        pooler.wait_said("the primary is not replaced: the state file cannot be written")
        assert house.promoted() is None
        where.mkdir()
        assert house.wait_promoted() is house.standbys[0]
        wait_until(lambda: str(house.standbys[0].port) in (where / "s").read_text(), what="it to be remembered")


def test_without_enable_ha_nobody_is_promoted():
    with open_house(standbys=1) as house, house.pool(enable_ha=False) as pooler, frontend(pooler) as client:
        client.query("select 1")
        house.first.kill9()
        pooler.wait_said("lost its backend")
        answer = in_thread(lambda: client.query(f"insert into {TABLE} values ('back')"))
        pooler.wait_said("cannot be used")
        house.first.start()
        assert answer().commands == ["INSERT 0 1"]
        assert house.promoted() is None
        assert not state_file(pooler).exists()


# --- never go back ---------------------------------------------------------------------------------------------------


def test_the_old_primary_gets_no_statement_when_it_comes_back_nor_does_a_pool_that_was_restarted_go_back():
    with open_house() as house:
        with house.pool() as pooler:
            house.first.kill9()
            primary = house.wait_promoted()
            house.first.start()
            pooler.wait_said("is no standby, and gets no statement")
            with frontend(pooler) as client:
                client.query(f"insert into {TABLE} values ('one')")
            pooler.stop()
            pooler.start()
            pooler.wait_said("the state file holds")
            with frontend(pooler) as client:
                assert client.query("select inet_server_port()").rows == [(str(primary.port),)]
                client.query(f"insert into {TABLE} values ('two')")
                others = {client.query("/*s*/ select inet_server_port()").rows[0][0] for _ in range(10)}
            assert str(house.first.port) not in others
        assert kept(primary) == {"one", "two"}
        assert kept(house.first) == set()


def test_a_standby_that_was_away_is_told_of_the_new_primary_when_it_comes_back():
    with open_house() as house, house.pool() as pooler:
        away, other = house.standbys
        away.stop()
        house.first.kill9()
        assert house.wait_promoted() is other
        with frontend(pooler) as client:
            client.query(f"insert into {TABLE} values ('meanwhile')")
        away.start()
        house.wait_following(away)
        wait_until(lambda: kept(away) == {"meanwhile"}, what="it to catch up")
        wait_until(lambda: "pending = ," in state_file(pooler).read_text(), what="that to be remembered")


def test_a_switch_that_the_pool_was_killed_in_is_completed_when_the_standby_was_promoted():
    with open_house() as house, house.pool() as pooler:
        pooler.kill()
        set_target(pooler, house.standbys[0])
        house.first.kill9()
        house.standbys[0].promote()
        house.first.start()
        pooler.start()
        with frontend(pooler) as client:
            assert client.query("select inet_server_port()").rows == [(str(house.standbys[0].port),)]
        house.wait_following(house.standbys[1])
        pooler.wait_said("was promoted: the switch that had begun is completed")


def test_a_switch_that_the_pool_was_killed_in_is_undone_when_the_standby_was_not_promoted():
    with open_house() as house, house.pool() as pooler:
        pooler.kill()
        set_target(pooler, house.standbys[0])
        pooler.start()
        with frontend(pooler) as client:
            assert client.query("select inet_server_port()").rows == [(str(house.first.port),)]
        pooler.wait_said("was not promoted: the switch that had begun is undone")
        assert house.promoted() is None
        assert "target" not in state_file(pooler).read_text()


def test_as_long_as_nobody_knows_whether_it_was_promoted_the_old_primary_is_not_trusted():
    with open_house() as house, house.pool() as pooler:
        target = house.standbys[0]
        pooler.kill()
        set_target(pooler, target)
        target.sigstop()
        pooler.start()
        answer = in_thread(lambda: frontend(pooler).query(f"insert into {TABLE} values ('held')"))
        pooler.wait_said("may have been promoted and does not answer")
        pooler.wait_said("and is not replaced: server 127.0.0.1:")
        assert kept(house.first) == set()
        target.sigcont()
        assert answer().commands == ["INSERT 0 1"]
        assert house.promoted() is None
        assert kept(house.first) == {"held"}


def test_a_standby_that_dies_when_it_is_told_is_not_waited_for_when_another_one_can_take_its_place():
    with open_house() as house, house.pool() as pooler:
        first, other = house.standbys
        pooler.kill()
        set_target(pooler, first)
        first.kill9()
        house.first.kill9()
        pooler.start()
        pooler.wait_said("may have been promoted and does not answer")
        with frontend(pooler) as client:
            assert client.query(f"insert into {TABLE} values ('x')").commands == ["INSERT 0 1"]
        assert house.promoted() is other


def test_a_promotion_that_hangs_is_given_up_for_another_standby_and_nothing_is_sent_to_that_one_later():
    with open_house() as house, house.pool(ha_promote_timeout=1) as pooler, frontend(pooler) as client:
        hanging, other = house.standbys
        house.cluster.wait_caught_up()
        startup = wait_until(lambda: recovering(psutil.Process(hanging.pid)), what="its startup process")
        startup.suspend()  # it answers as before, and never gets to being a primary
        try:
            house.kill(pooler, house.first)
            assert client.query(f"insert into {TABLE} values ('late')").errors == []
            assert not other.is_standby
            pooler.wait_said("was told to be the primary and is a standby after 1 s")
        finally:
            startup.resume()
        pooler.wait_said(f"server 127.0.0.1:{hanging.port} is no standby, and gets no statement")
        for number in range(5):
            client.query(f"insert into {TABLE} values ('{number}')")
        assert kept(hanging) == set()
        assert len(kept(other)) == 6


def test_a_standby_that_refuses_to_be_promoted_is_not_waited_for_when_another_one_can_be():
    with open_house() as house, house.pool() as pooler, frontend(pooler) as client:
        refusing, other = house.standbys
        house.cluster.wait_caught_up()
        refusing.data.chmod(0o500)  # so that it cannot make the file by which it is told
        try:
            house.kill(pooler, house.first)
            assert client.query(f"insert into {TABLE} values ('late')").errors == []
            assert house.promoted() is other
            pooler.wait_said("refuses to be the primary")
        finally:
            refusing.data.chmod(0o700)
        house.wait_following(refusing)
        wait_until(lambda: kept(refusing) == {"late"}, LONG_S, "it to have all of it")
        with frontend(pooler) as reader:
            reads = "/*s*/ select inet_server_port()"
            wait_until(lambda: reader.query(reads).rows == [(str(refusing.port),)], LONG_S, "it to be read from")


def test_a_standby_that_lags_is_not_chosen():
    with open_house() as house, house.pool() as pooler, frontend(pooler) as client:
        lagging, other = house.standbys
        sender = "select pid from pg_stat_replication where application_name = %s"
        psutil.Process(house.first.query(sender, [lagging.name])[0][0]).suspend()
        client.query(f"insert into {TABLE} values ('late')")
        other.wait_replayed(house.first.query("select pg_current_wal_lsn()")[0][0])
        house.kill(pooler, house.first)
        assert client.query(f"select count(*) from {TABLE}").rows == [("1",)]
        assert house.promoted() is other
        house.wait_following(lagging)


def test_a_standby_that_would_take_long_to_notice_is_named_and_tuned_where_that_is_wanted():
    with open_house(standbys=1, conf={"wal_receiver_timeout": "60s"}) as house:
        with house.pool() as pooler:
            pooler.wait_said("has a wal_receiver_timeout of 60 s")
        with house.pool(ha_tune_standbys=True):
            wait_until(lambda: house.standbys[0].query("show wal_receiver_timeout") == [("2s",)], 30, "it to be set")
        ours = [line for line in house.first.log.splitlines() if "keeper" in line or "unknown" in line]
        assert ours == [], "what the pool looks at is no news for the server's log"


def test_a_pool_that_may_not_ask_the_servers_says_so_and_promotes_nobody():
    with open_house(standbys=1) as house:
        wrong = {"user": "nobody", "database": "postgres"}
        with Pooler({**house.conf, "admin_cnn": wrong}, cluster=house.cluster) as pooler:
            pooler.wait_said("cannot be asked what it is: FATAL XX000")
            house.first.kill9()
            pooler.wait_said("this pool has never seen the primary")
            assert house.promoted() is None


def test_a_standby_that_somebody_else_has_promoted_is_taken_and_no_second_one_is_promoted():
    with open_house() as house, house.pool() as pooler:
        house.first.kill9()
        house.standbys[1].promote()
        with frontend(pooler) as client:
            assert client.query("select inet_server_port()").rows == [(str(house.standbys[1].port),)]
        assert house.promoted() is house.standbys[1]
        house.wait_following(house.standbys[0])
        assert pooler.is_running


ORDERS = list(permutations(range(3))) if MATRIX else [(2, 1, 0), (0, 1, 2), (1, 2, 0)]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: "-".join(map(str, order)))
def test_all_servers_down_and_back_in_any_order_leave_one_primary(order):
    """And once more: it may be another one then, and an old one is among those that come back."""
    with open_house(conf=SYNC) as house, house.pool() as pooler, frontend(pooler) as client:
        servers, where, names = house.cluster.servers, "select inet_server_port()", {"before"}
        client.query(f"insert into {TABLE} values ('before')")
        for number, name in enumerate(("after", "again"), 1):
            house.kill(pooler, *servers)
            answer = in_thread(lambda name=name: client.query(f"insert into {TABLE} values ('{name}')"))
            pooler.wait_said("no standby can be asked", times=number)
            for each in order:
                servers[each].start()
            assert answer().commands == ["INSERT 0 1"]
            names.add(name)
            (primary,) = [server for server in servers if str(server.port) == client.value(where)]
            assert kept(primary) == names
            others = [each for each in servers if each is not primary and not each.is_standby]
            assert all(name not in kept(each) for each in others)
