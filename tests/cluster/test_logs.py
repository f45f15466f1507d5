"""The log: where it goes, what a line says, who is told that the pool is ready; and that nothing secret is in it."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests import roles
from tests.cluster.conftest import own_pooler
from tests.cluster.rawclient import Raw
from tests.workplace import wait_until

TRUST = roles.TRUST.name
OTHER = roles.OTHER_DATABASE
DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def pooler(cluster):
    conf = {
        "log_connections": True, "log_disconnections": True, "log_min_duration": 1,
        "pool_modes": [{"user": TRUST, "database": OTHER, "pool_mode": "session"}],
    }  # fmt: skip
    with own_pooler(cluster, **conf) as pooler:
        yield pooler


def grow(pooler, pattern: str, what: str = "the line") -> re.Match[str]:
    """The line of the log that comes."""
    wait_until(lambda: re.search(pattern, pooler.log), what=f"{what} {pattern!r} in the log")
    found = re.search(pattern, pooler.log)
    assert found is not None
    return found


def test_logins_and_ends_are_logged_with_who_came_from_where(pooler):
    with Raw(pooler.host, pooler.port) as client:
        pid, port = client.key[0], client.sock.getsockname()[1]
        grow(pooler, rf"INFO frontend {pid}: {TRUST}@app from 127.0.0.1:{port} has logged in\n")
    grow(pooler, rf"INFO frontend {pid}: {TRUST}@app from 127.0.0.1:{port} has left after \d+\.\d s\n")


def test_a_login_that_fails_is_logged_with_who_wanted_to_be_whom(pooler):
    with pytest.raises(Exception, match="password"):
        pooler.connect(user=roles.SCRAM.name, password="a wrong secret", dbname=roles.DATABASE)
    grow(pooler, rf"INFO 127.0.0.1:\d+: login failed as {roles.SCRAM.name}@app: FATAL 28P01: password auth")
    assert "a wrong secret" not in pooler.log


@pytest.mark.parametrize(("database", "said"), [(roles.DATABASE, "select pg_sleep(?), ?"), (OTHER, "(session mode)")])
def test_a_slow_statement_is_logged_without_its_literals(pooler, database, said):
    with Raw(pooler.host, pooler.port, database=database) as client:
        client.query("select 'quick'")
        client.query("select pg_sleep(1.5), 'a secret' -- another secret")
        pid = client.key[0]
        found = grow(pooler, rf"Frontend {pid} .* a statement took about (\d+\.\d+) s: {re.escape(said)}\n")
        assert 1 <= float(found[1]) < 60
    assert len(re.findall(rf"Frontend {pid} .* a statement took", pooler.log)) == 1, "the quick one did not"
    assert "a secret" not in pooler.log


def test_json_lines_name_the_frontend_and_the_worker(cluster):
    conf = {"log_format": "json", "log_connections": True, "log_min_duration": 0.2}
    with own_pooler(cluster, **conf) as pooler, Raw(pooler.host, pooler.port) as client:
        client.query("select pg_sleep(0.5)")
        wait_until(lambda: "a statement took" in pooler.log)
        lines = [json.loads(line) for line in pooler.log.splitlines()]
        (came,) = [line for line in lines if line["message"].endswith("has logged in")]
        (slow,) = [line for line in lines if "a statement took" in line["message"]]
        assert (came["level"], came["user"], came["database"]) == ("info", TRUST, "app")
        assert came["frontend"] == slow["frontend"] == client.key[0]
        assert slow["worker"] >= 1
        assert slow["pool"] == 1
        assert slow["statement"] == "select pg_sleep(?)"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", came["time"])


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP], ids=["USR1", "HUP"])
def test_a_file_that_is_moved_away_is_opened_anew(cluster, tmp_path, number):
    log = tmp_path / "pool.log"
    with own_pooler(cluster, log_to=str(log), log_connections=True) as pooler:
        with Raw(pooler.host, pooler.port) as one:
            wait_until(lambda: f"frontend {one.key[0]}:" in log.read_text())
            log.rename(tmp_path / "pool.log.1")
            os.kill(pooler.pid, number)
            wait_until(log.exists)
        with Raw(pooler.host, pooler.port) as other:
            wait_until(lambda: f"frontend {other.key[0]}:" in log.read_text())
        assert pooler.log == ""
    assert "stopped\n" in log.read_text()
    assert f"frontend {one.key[0]}:" in (tmp_path / "pool.log.1").read_text()
    assert log.stat().st_mode & 0o007 == 0


@pytest.mark.needs_debian
def test_the_logrotate_file_of_the_manual_rotates_it(cluster, tmp_path):
    """Its own text, but for the path, and for the command that sends the signal: there is no systemd here."""
    if shutil.which("logrotate", path=os.environ["PATH"] + ":/usr/sbin") is None:
        pytest.fail("there is no logrotate: apt-get install logrotate")
    directory = tmp_path / "logs"
    directory.mkdir(mode=0o700)
    log = directory / "pgstmtpool.log"
    with own_pooler(cluster, log_to=str(log), log_connections=True) as pooler:
        text = (DOCS / "pgstmtpool.logrotate").read_text().replace("/var/log/pgstmtpool", str(directory))
        text = re.sub(r"systemctl kill .*", f"kill -USR1 {pooler.pid}", text)
        conf = tmp_path / "logrotate.conf"
        conf.write_text(text)
        conf.chmod(0o600)
        command = ["logrotate", "--force", "--state", str(tmp_path / "state"), str(conf)]
        env = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
        subprocess.run(command, check=True, env=env, timeout=60)
        wait_until(log.exists)
        with Raw(pooler.host, pooler.port) as client:
            wait_until(lambda: f"frontend {client.key[0]}:" in log.read_text())
    assert "is ready" in (directory / "pgstmtpool.log.1").read_text()


def test_syslog_is_sent_its_lines_with_their_level(cluster, tmp_path):
    path = str(tmp_path / "log.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(path)
        syslog.settimeout(20)
        with own_pooler(cluster, log_to=f"syslog:{path}") as pooler:
            seen = b""
            while b"is ready" not in seen:
                seen = syslog.recv(65536)
            assert seen.startswith(b"<30>pgstmtpool[%d]: pgstmtpool " % pooler.pid)  # daemon.info
            assert pooler.log == ""


def test_a_log_that_cannot_be_opened_is_complained_of_at_the_start_and_changes_nothing_in_a_reload(pooler, tmp_path):
    before = pooler.conf
    try:
        said = pooler.reload(log_to=str(tmp_path / "nowhere" / "x.log"))
        assert "the conf file was not reloaded: log_to: " in said
        assert "No such file" in said
        log = tmp_path / "x.log"
        pooler.conf = {**before, "log_to": str(log)}
        pooler.write_conf()
        os.kill(pooler.pid, signal.SIGHUP)
        wait_until(lambda: log.exists() and "reloaded: changed: log_to" in log.read_text())
    finally:
        pooler.conf = before
        pooler.write_conf()
        os.kill(pooler.pid, signal.SIGHUP)
    wait_until(lambda: "reloaded: changed: log_to" in pooler.log)


def test_a_storm_of_failing_logins_is_summed_up(pooler):
    before = len(pooler.log)
    for _ in range(80):
        with Raw(pooler.host, pooler.port, user="nobody") as client:
            assert client.greeting.code == "28000"
    assert pooler.log[before:].count(": login failed as nobody@app") < 80
    wait_until(lambda: re.search(r"login failed as nobody@app.* more like this within 10 s\)", pooler.log), 30)


# --- the service manager ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_abstract", [False, True], ids=["path", "abstract"])
def test_the_service_manager_is_told_of_ready_reload_watchdog_and_stop(cluster, tmp_path, monkeypatch, is_abstract):
    name = f"@pgstmtpool-{os.getpid()}" if is_abstract else str(tmp_path / "notify.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if is_abstract else name)
        manager.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        monkeypatch.setenv("WATCHDOG_USEC", "300000")

        def told(what: bytes) -> bytes:
            while what not in (said := manager.recv(4096)):
                pass
            return said

        with own_pooler(cluster) as pooler:
            assert told(b"READY=1") == b"READY=1"
            assert told(b"WATCHDOG=1") == told(b"WATCHDOG=1")
            os.kill(pooler.pid, signal.SIGHUP)
            assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", told(b"RELOADING"))
            told(b"READY=1")
        told(b"STOPPING=1")


def test_the_unit_file_says_what_the_pool_does():
    unit = (DOCS / "pgstmtpool.service").read_text()
    wanted = ("Type=notify", "ExecReload=/bin/kill -HUP $MAINPID", "RestartPreventExitStatus=2")
    assert [line for line in wanted if line not in unit.splitlines()] == []
    assert int(re.search(r"TimeoutStopSec=(\d+)", unit)[1]) > 30  # shutdown_timeout


def test_the_thread_that_writes_keeps_nobody_waiting_when_nothing_can_be_written():
    """Lines for a place that is stuck wait, up to a limit, and then are counted."""
    import threading

    from lib import logs

    class Stuck:
        def __init__(self) -> None:
            self.may_go, self.lines = threading.Event(), []

        def write(self, level: int, text: str) -> None:
            self.may_go.wait(20)
            self.lines.append(text)

        def close(self) -> None:
            pass

    stuck = Stuck()
    writer = logs._Writer(stuck)
    for number in range(logs._MOST_WAITING + 500):
        writer.write(logging.INFO, str(number))
    stuck.may_go.set()
    wait_until(lambda: len(stuck.lines) > logs._MOST_WAITING)
    writer.write(logging.INFO, "the last")
    writer.end()
    assert re.fullmatch(r"49\d lines of the log were lost: .*", stuck.lines[-2])
    assert stuck.lines[-1] == "the last"
