"""A farm for tests of what standbys have replayed: a primary and two standbys that can be paused, and log what they are
asked by poolers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.cluster.wire import Wire
from tests.servers import Cluster, Pooler, Server
from tests.workplace import wait_until

HBA = ["local all all trust", "host all all 127.0.0.1/32 trust"]
CONF = {"admin_cnn": {"user": "observer", "database": "postgres"}, "standby_check_interval": 0.1, "login_retry": 0.05}
LOGIN = {"user": "app", "database": "app"}
WHERE = "/*s*/ select inet_server_port()"


@contextlib.contextmanager
def open_farm() -> Iterator[Cluster]:
    """With the databases app and other, and the poolers' own user, whose statements are logged."""
    with Cluster(standbys=2, hba=HBA, max_connections=150) as farm:
        farm.primary.query("create role app login superuser; create role observer login superuser")
        farm.primary.query("alter role observer set log_statement = 'all'")
        for name in ("app", "other"):
            farm.primary.query(f"create database {name}")
            farm.primary.query("create table things (n int)", dbname=name)
        farm.wait_caught_up()
        yield farm


@contextlib.contextmanager
def pooled(farm: Cluster, **conf) -> Iterator[Pooler]:
    """A pooler whose workers on the standbys are there."""
    with Pooler({**CONF, **conf}, cluster=farm) as pooler:
        wait_until(lambda: servers_of_new(pooler) == ports(farm), what="all standbys to be used")
        yield pooler
    assert "Traceback" not in pooler.log


def servers_of_new(pooler: Pooler) -> set[int]:
    """Who answers a frontend that has run nothing yet, which the pool may have taken for a write."""
    with Wire(pooler, **LOGIN) as session:
        return {port(session) for _ in range(6)}


def port(session: Wire, text: str = WHERE) -> int:
    """The port of the server that answers."""
    return int(str(session.value(text)))


def ports(farm: Cluster) -> set[int]:
    return {standby.port for standby in farm.standbys}


def is_paused(standby: Server) -> bool:
    return standby.query("select pg_get_wal_replay_pause_state()")[0][0] == "paused"


@contextlib.contextmanager
def paused(*standbys: Server) -> Iterator[None]:
    """They replay nothing."""
    for standby in standbys:
        standby.query("select pg_wal_replay_pause()")
    try:
        for standby in standbys:
            wait_until(lambda standby=standby: is_paused(standby), what=f"{standby.name} to stop")
        yield
    finally:
        for standby in standbys:
            standby.query("select pg_wal_replay_resume()")


@contextlib.contextmanager
def not_let_in(*standbys: Server) -> Iterator[None]:
    """Their pg_hba.conf rejects the poolers' own user."""
    for standby in standbys:
        standby.set_hba(["host all observer 127.0.0.1/32 reject", *HBA])
        standby.reload()
    try:
        yield
    finally:
        for standby in standbys:
            standby.set_hba(HBA)
            standby.reload()


def delay(standby: Server, how_long: str) -> None:
    """It replays every commit so much later; '0' at once."""
    standby.configure(recovery_min_apply_delay=how_long)
    standby.reload()


def questions(farm: Cluster) -> list[int]:
    """How often each server was asked by poolers how far it is."""
    return [
        sum("observer@" in line and ("insert_lsn" in line or "replay_lsn" in line) for line in server.log.splitlines())
        for server in farm.servers
    ]


def caught_up(farm: Cluster) -> None:
    """All standbys have all there is, and the primary writes nothing by itself for a while."""
    farm.primary.query("checkpoint")
    farm.wait_caught_up()
