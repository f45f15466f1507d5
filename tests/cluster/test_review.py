"""What a second look found on real servers: logins that the pool's end and a storm overtake."""

from __future__ import annotations

import struct
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import roles
from tests.cluster.minipool import MiniPool, in_thread
from tests.cluster.wire import PROTOCOL_3_0, Wire, message, query, startup
from tests.servers import Pooler

CONF = {"admin_cnn": {**roles.ADMIN.login, "database": "postgres"}}


def test_a_login_that_the_end_of_the_pool_overtakes_is_refused(cluster):
    """It was let in when everybody had been told to go, and the pool waited for it until shutdown_timeout."""
    conf = {**CONF, "shutdown_timeout": 3600}
    with (
        Pooler(conf, cluster=cluster) as pooler, Wire(pooler) as busy, Wire(pooler, login=False) as late,
        ThreadPoolExecutor() as executor,
    ):  # fmt: skip
        busy.send(query("select pg_sleep(2)"))
        role = roles.PASSWORD
        late.send(startup(PROTOCOL_3_0, {"user": role.name, "database": roles.DATABASE}))
        assert late.receive().body == struct.pack("!I", 3), "the server did not ask for a password"
        stopping = executor.submit(pooler.stop)
        while "stopping" not in pooler.log:
            time.sleep(0.01)
        late.send(message(b"p", f"{role.password}\0".encode()))
        last = late.until_closed()[-1]
        assert (last.tag, last.fields.get("C")) == ("E", "57P01")
        assert [each.tag for each in busy.until_ready()][-1] == "Z"
        stopping.result()


class _OnlyFirst:
    """A worker is wanted when the login begins, and is not any more when the frontend has proved who it is."""

    def __init__(self) -> None:
        self.asked = 0

    def __bool__(self) -> bool:
        self.asked += 1
        return self.asked == 1


@pytest.mark.parametrize("role", [roles.TRUST], ids=lambda role: role.name)
def test_a_storm_of_logins_starts_no_more_workers_than_are_wanted_in_the_end(cluster, role):
    """Each had found that one was missing, and started it when its dialogue was over."""
    with MiniPool(cluster.primary, {**roles.ADMIN.login, "database": "postgres"}) as pool:
        pool.wants_worker = wanted = _OnlyFirst()  # type: ignore[assignment]
        in_thread(lambda: Wire(("127.0.0.1", pool.port), user=role.name).sock.close())
        assert wanted.asked == 2
        assert pool.started == 0


def test_a_frontend_that_does_not_say_who_it_is_keeps_nobody_else_of_its_role_waiting(cluster):
    """The server had asked it for a password, and the worker that its answer was to start was the only one wanted."""
    role = roles.PASSWORD
    with Pooler({**CONF, "max_workers": 0}, cluster=cluster) as pooler, Wire(pooler, login=False) as silent:
        silent.send(startup(PROTOCOL_3_0, {"user": role.name, "database": roles.DATABASE}))
        assert silent.receive().tag == "R"
        pooler.connect(**role.login, dbname=roles.DATABASE, connect_timeout=30).close()
