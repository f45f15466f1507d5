"""The servers that all other tests stand on: they do what they say, and leave nothing behind."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg2
import pytest

from tests.pooler import PROJECT
from tests.servers import Cluster, Server
from tests.workplace import NotThere, bin_dir, free_port, wait_until


@pytest.mark.parametrize(
    "version", [16, 18, *(pytest.param(number, marks=pytest.mark.needs_npm) for number in (13, 14, 17))]
)
def test_standbys_have_what_was_written_on_the_primary(version):
    with Cluster(standbys=2, version=version) as cluster:
        cluster.primary.query("create table t as select generate_series(1, 1000) as n")
        cluster.wait_caught_up()
        assert [standby.query("select count(*) from t") for standby in cluster.standbys] == [[(1000,)]] * 2
        assert [server.is_standby for server in cluster.servers] == [False, True, True]
        assert cluster.primary.query("show server_version")[0][0].startswith(str(version))


def test_a_killed_primary_comes_back_with_what_it_had_and_a_standby_can_be_promoted():
    with Cluster(standbys=1) as cluster:
        cluster.primary.query("create table t as select 1 as n")
        cluster.wait_caught_up()
        cluster.primary.kill9()
        with pytest.raises(psycopg2.OperationalError):
            cluster.primary.connect()
        cluster.standbys[0].promote()
        cluster.standbys[0].query("insert into t values (2)")
        cluster.primary.start()
        assert cluster.primary.query("select n from t") == [(1,)]


def test_a_frozen_server_is_silent_until_it_is_thawed():
    with Server() as server:
        server.sigstop()
        states = {psutil.Process(pid).status() for pid in server.processes()}
        server.sigcont()
        assert states == {psutil.STATUS_STOPPED}
        assert server.query("select 1") == [(1,)]


def test_rules_and_settings_hold_after_a_reload():
    with Server(hba=["local all all trust", "host all all all reject"]) as server:
        with pytest.raises(psycopg2.OperationalError, match="rejects connection"):
            server.connect(host=server.host)
        server.set_hba(["host all all all trust"])
        server.configure(work_mem="7MB")
        server.reload()
        assert server.query("show work_mem", host=server.host) == [("7MB",)]


def test_a_port_that_somebody_took_meanwhile_is_exchanged_for_another():
    with socket.socket() as thief:
        server = Server()
        thief.bind(("127.0.0.1", server.port))
        thief.listen()
        taken = server.port
        with server.start():
            assert server.port != taken
            assert server.query("select 1", host=server.unix_dir) == [(1,)]


def test_no_two_processes_of_tests_are_given_the_same_port_nor_one_of_the_kernels():
    """A fake server that was down for a while found its port taken by an outgoing connection when it came back."""
    ours = {free_port() for _ in range(200)}
    script = "from tests.workplace import free_port; print(*(free_port() for _ in range(200)))"
    told = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True)
    theirs = {int(word) for word in told.stdout.split()}
    assert (len(ours), len(theirs), ours & theirs) == (200, 200, set())
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(ours | theirs) < lowest


def test_what_is_not_installed_is_told_with_the_command_that_installs_it():
    with pytest.raises(NotThere, match="apt-get install postgresql-999"):
        bin_dir(999)


@pytest.mark.needs_debian
def test_debians_server_has_python_inside():
    with Server(version=15) as server:
        server.query("create extension plpython3u")
        server.query("create function two() returns int language plpython3u as 'return 1 + 1'")
        assert server.query("select two()") == [(2,)]


STARTER = """
import os, sys
from tests.servers import Server, workplace
server = Server().start()
print(workplace().root, server.pid, flush=True)
{end}
"""


ENDS = ["server.sigstop(); os.kill(os.getpid(), 9)", "sys.exit(3)", "os.kill(os.getpid(), 15)"]


@pytest.mark.parametrize("end", ENDS)
def test_nothing_is_left_of_a_process_that_started_servers_however_it_ends(end):
    started = subprocess.run(
        [sys.executable, "-c", STARTER.format(end=end)], cwd=PROJECT, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert started.returncode in (-signal.SIGKILL, 3, -signal.SIGTERM), started.stderr
    root, pid = started.stdout.split()
    wait_until(lambda: not os.path.exists(root), what=f"{root} to be removed")
    assert not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
