"""An old primary that comes back before the other standbys follow the new one: it must not feed them, and one that it
has fed is found out, is not waited for, and can be made a standby again."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import psycopg2
import pytest

from tests.cluster.house import (
    LONG_S,
    MATRIX,
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
from tests.cluster.rawclient import Raw
from tests.cluster.standin import install
from tests.cluster.test_ha_faults import is_announced, is_doubted, is_target_written, wait_for
from tests.cluster.test_ha_planned import console
from tests.servers import Server
from tests.workplace import wait_until

REPLAYED = "select pg_last_wal_replay_lsn() > %s::pg_lsn"


def write_on(server: Server, name: str) -> None:
    """Past the pool, and past whoever the server waits for."""
    server.query(f"set synchronous_commit = off; insert into {TABLE} values ('{name}')", dbname="app")


def conninfo_of(server: Server) -> str:
    return str(server.query("show primary_conninfo")[0][0])


def other_than(house: House, primary: Server) -> Server:
    (other,) = [each for each in house.standbys if each is not primary]
    return other


@contextlib.contextmanager
def untellable(*servers: Server) -> Iterator[None]:
    """Nothing of their configuration can be changed."""
    files = [server.data / "postgresql.auto.conf" for server in servers]
    for file in files:
        os.chmod(file, 0)
    try:
        yield
    finally:
        for file in files:
            os.chmod(file, 0o600)


def test_the_other_standbys_follow_the_chosen_one_before_it_is_promoted():
    """So that an old primary which comes back in the middle of a switch has nobody to feed."""
    with open_house() as house, house.pool() as pooler:
        house.cluster.wait_caught_up()
        chosen, other = house.standbys
        house.first.kill9()
        house.wait_promoted()
        house.wait_following(other)
        told = pooler.log.index(f"was told to follow 127.0.0.1:{chosen.port}")
        assert told < pooler.log.index(f"server 127.0.0.1:{chosen.port} is promoted")


@pytest.mark.parametrize("conf", [{}, SYNC] if MATRIX else [SYNC])
@pytest.mark.parametrize("step", [is_doubted, is_target_written, is_announced])
def test_an_old_primary_that_comes_back_at_a_step_of_the_switch_leaves_nobody_behind(step, conf):
    with open_house(conf=conf) as house, house.pool() as pooler:
        with loaded(pooler) as load:
            house.first.kill9()
            wait_for(step, house, pooler)
            house.first.start()
            with contextlib.suppress(psycopg2.OperationalError):
                write_on(house.first, "lonely")
            load.go_on(timeout_s=LONG_S)
            port = "select inet_server_port()"
            with frontend(pooler) as client:
                wait_until(lambda: state_file(pooler).read_text().count("target") == 0, LONG_S, "the switch to be over")
                primary = next(each for each in house.cluster.servers if str(each.port) == client.value(port))
            if primary is not house.first:
                house.wait_following(other_than(house, primary))
            load.go_on(timeout_s=LONG_S)
        assert "cannot follow, and is not used" not in pooler.log
        if conf:
            load.check(kept(primary) - {"lonely"})
        for standby in house.standbys:
            if standby is not primary:
                wait_until(lambda standby=standby: kept(standby) == kept(primary), LONG_S, "it to have all of it")


def test_standbys_that_were_told_are_told_to_come_back_when_nobody_is_promoted():
    """The primary answers again when the others follow the chosen standby already."""
    with open_house() as house, house.pool() as pooler:
        with frontend(pooler) as client:
            client.query(f"insert into {TABLE} values ('one')")
        house.cluster.wait_caught_up()
        chosen, other = house.standbys
        pooler.kill()
        to = conninfo_of(other).replace(f"port={house.first.port}", f"port={chosen.port}")
        chosen.query("select pg_create_physical_replication_slot('standby2', true)")
        other.configure(primary_conninfo=to)
        other.reload()
        state = state_file(pooler)
        lines = [line for line in state.read_text().splitlines() if not line.startswith(("pending", "target"))]
        lines += [f"pending = 127.0.0.1:{other.port},", f"target = 127.0.0.1:{chosen.port}", ""]
        state.write_text("\n".join(lines))
        pooler.start()
        pooler.wait_said("was not promoted: the switch that had begun is undone")
        senders = "select application_name from pg_stat_replication where state = 'streaming'"
        both = {(each.name,) for each in house.standbys}
        wait_until(lambda: set(house.first.query(senders)) == both, LONG_S, "both to follow the primary")
        with frontend(pooler) as client:
            client.query(f"insert into {TABLE} values ('two')")
        wait_until(lambda: kept(other) == {"one", "two"}, LONG_S, "it to have all of it")
        wait_until(lambda: "pending = ," in state.read_text(), LONG_S, "that to be remembered")


@pytest.mark.parametrize("is_killed", [False, True], ids=["", "killed"])
def test_a_standby_that_an_old_primary_has_fed_is_found_out_and_not_waited_for_and_can_rejoin(is_killed):
    """It cannot be told of the new primary, the old one comes back and gives it WAL that the new one has not. It could
    never follow, its reads showed what the old primary had, and as the new primary waited for it every commit hung."""
    with open_house(conf=SYNC) as house:
        install(house.first)
        house.cluster.wait_caught_up()
        with house.pool() as pooler, contextlib.ExitStack() as stack:
            stack.enter_context(untellable(house.standbys[1]))
            house.first.kill9()
            primary = house.wait_promoted()
            astray = other_than(house, primary)
            assert astray is house.standbys[1]
            pooler.wait_said("could not be told to follow")
            with frontend(pooler) as client:
                answer = in_thread(lambda: client.query(f"insert into {TABLE} values ('waits')"))
                if is_killed:
                    pooler.kill()
                house.first.start()
                for number in range(3):
                    write_on(house.first, f"lonely {number}")
                if is_killed:
                    wait_until(lambda: "lonely 2" in kept(astray), LONG_S, "it to be fed")
                    pooler.start()
                pooler.wait_said("cannot follow, and is not used: it has replayed timeline 1 up to")
                pooler.wait_said("has too few standbys for its synchronous_standby_names")
                if not is_killed:
                    assert answer().commands == ["INSERT 0 1"]
            with frontend(pooler) as client:
                assert client.query(f"insert into {TABLE} values ('goes on')").commands == ["INSERT 0 1"]
                reads = {client.query("/*s*/ select inet_server_port()").rows[0][0] for _ in range(10)}
                assert reads == {str(primary.port)}
            with console(pooler) as admin:
                (row,) = admin.query("ha list").rows
                assert f"127.0.0.1:{astray.port}" in row[7]
                assert f"127.0.0.1:{astray.port}: it has replayed timeline 1" in row[-1]
                assert "pg_rewind can make a standby of it" in row[-1]
                stack.close()
                if rejoined(admin, astray):
                    (row,) = admin.query("ha list").rows
                    assert f"127.0.0.1:{astray.port}" not in row[-1]
                    wait_until(lambda: kept(astray) == kept(primary), LONG_S, "it to have all of it, and nothing else")


def rejoined(admin: Raw, server: Server) -> bool:
    """Whether it could be: it needs pg_rewind."""
    number = next(row[0] for row in admin.query("pool list").rows if f":{server.port}" in " ".join(map(str, row)))
    if not (server.bin / "pg_rewind").exists():  # the packages of npm have none
        assert admin.query(f"pool rejoin {number}").errors
        return False
    answer = in_thread(lambda: admin.query(f"pool rejoin {number}"))
    server.adopt(LONG_S)
    assert not answer().errors, (answer().error, (server.data / "pgstmtpool_rejoin.log").read_text())
    assert [step for step, _ in answer().rows] == ["told", "back"]
    return True


def test_a_standby_that_only_is_behind_is_not_taken_for_one_that_has_gone_astray():
    with open_house() as house, house.pool() as pooler:
        away, other = house.standbys
        away.stop()
        house.first.kill9()
        assert house.wait_promoted() is other
        with frontend(pooler) as client:
            client.query(f"insert into {TABLE} values ('meanwhile')")
            away.start()
            house.wait_following(away)
            # Its control file still says that it is on the first timeline, with WAL of the second one.
            for number in range(20):
                client.query(f"insert into {TABLE} values ('{number}')")
            other.stop()
            wait_until(lambda: away.query("select count(*) from pg_stat_wal_receiver")[0][0] == 0, what="it to notice")
            other.start()
            house.wait_following(away)
        assert "cannot follow, and is not used" not in pooler.log
