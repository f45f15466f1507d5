"""The pooler as a program: pgstmtpool.py with a conf file made from a dict, for tests, demo and benchmarks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil
import psycopg2

from tests.workplace import PATIENCE_S, ServerFailed, free_port, tool_env, wait_until, workplace

if TYPE_CHECKING:
    from tests.servers import Cluster

PROJECT = Path(__file__).resolve().parent.parent

# Settings of every pooler whose conf does not say otherwise; pytest's --riders=off stands here.
EVERYWHERE: dict[str, Any] = {}


class Pooler:
    """A running pgstmtpool.py, with a conf file written from a dict.

    conf      the dict `all` of the conf file; `listen` defaults to a free port on 127.0.0.1 and a Unix socket
    cluster   when given, the defaults of `master` and `slaver` are its servers

    host, port   where it listens on TCP (the first such address of `listen`)
    unix_dir     the directory of its Unix socket, None when it has none
    """

    def __init__(self, conf: dict[str, Any], *, cluster: Cluster | None = None, name: str = "pooler") -> None:
        self.name = name
        self.dir = workplace().new_path(name)
        self.dir.mkdir()
        self.log_path = self.dir.with_suffix(".log")
        self.log_path.touch()
        self.conf_path = self.dir / "pgstmtpool.conf.py"
        port = free_port()
        own: dict[str, Any] = {"listen": [("127.0.0.1", port), (str(self.dir), port)]}
        if cluster is not None:
            own["master"] = (cluster.primary.host, cluster.primary.port)
            own["slaver"] = [(standby.host, standby.port) for standby in cluster.standbys]
        self.conf = {**own, **EVERYWHERE, **conf}
        listen = self.conf["listen"]
        addresses = listen if isinstance(listen, list) else [listen]
        self.host, self.port = next(each for each in addresses if not each[0].startswith("/"))
        self.unix_dir = next((host for host, _ in addresses if host.startswith("/")), None)
        self._pid_file = self.dir.with_suffix(".pid")
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.is_running else "down"
        return f"<Pooler {self.name} {self.host}:{self.port} {state}>"

    def __enter__(self) -> Self:
        return self if self.is_running else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_said(self, text: str, times: int = 1, timeout_s: float = 2 * PATIENCE_S) -> None:
        """Until the log has said so so often: lines are written by a thread of their own."""
        what = f"the log to say {text!r}; it says:\n{self.log[-3000:]}"
        wait_until(lambda: self.log.count(text) >= times, timeout_s, what)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    def write_conf(self) -> None:
        """Write self.conf as the conf file, secrets for us alone."""
        rows = "".join(f"    {key!r}: {value!r},\n" for key, value in self.conf.items())
        self.conf_path.write_text(f"all = {{\n{rows}}}\n")
        self.conf_path.chmod(0o600)

    def start(self, timeout_s: float = PATIENCE_S) -> Self:
        """Start it and wait till it listens.

        raises   ServerFailed, with its log, when it ended instead
        """
        self.write_conf()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, PROJECT / "pgstmtpool.py", self.conf_path], cwd=self.dir, env=tool_env(),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._pid_file.write_text(f"{self.pid}\n")
        workplace().at_end[id(self)] = self.kill
        wait_until(self._listens, timeout_s, f"the pooler to listen on {self.host}:{self.port}; its log:\n{self.log}")
        return self

    def _listens(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            code = self._process and self._process.returncode
            raise ServerFailed(f"the pooler ended with {code}:\n{self.log[-3000:]}")
        # Looked up and not connected to, so that the pooler's own log and counters begin empty.
        try:
            sockets = [each for process in self._processes() for each in process.net_connections("inet")]
        except psutil.Error:  # one of them has just ended
            return False
        return any(each.status == psutil.CONN_LISTEN and each.laddr.port == self.port for each in sockets)

    def reload(self, timeout_s: float = PATIENCE_S, **conf: Any) -> str:
        """Change settings in the conf file and send SIGHUP; returns the lines that the log has said since."""
        self.conf = {**self.conf, **conf}
        self.write_conf()
        before = len(self.log)
        os.kill(self.pid, signal.SIGHUP)
        wait_until(lambda: "reloaded:" in self.log[before:], timeout_s, "the pooler to reload its conf file")
        return self.log[before:]

    def stop(self, timeout_s: float = PATIENCE_S) -> None:
        """SIGTERM; it must end by itself within timeout_s, with exit code 0. Nothing when it does not run."""
        if self._process is None or not self.is_running:
            return
        self._process.terminate()
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailed(f"the pooler did not stop within {timeout_s} s:\n{self.log[-3000:]}") from None
        self._forget()
        if code != 0:
            raise ServerFailed(f"the pooler ended with {code}:\n{self.log[-3000:]}")

    def kill(self) -> None:
        """SIGKILL, for it and the processes it started."""
        if self._process is not None and self.is_running:
            for process in reversed(self._processes()):
                process.kill()
            self._process.wait()
        self._forget()

    def _forget(self) -> None:
        self._pid_file.unlink(missing_ok=True)
        workplace().at_end.pop(id(self), None)

    def _processes(self) -> list[psutil.Process]:
        first = psutil.Process(self.pid)
        return [first, *first.children(recursive=True)]

    def rss_bytes(self) -> int:
        """Resident memory of its processes together."""
        return sum(process.memory_info().rss for process in self._processes())

    def open_fds(self) -> int:
        """Number of open file descriptors of its processes together."""
        return sum(process.num_fds() for process in self._processes())

    def connect(self, **params: Any) -> psycopg2.extensions.connection:
        """A blocking psycopg2 connection through the pooler; params must say user, dbname and password."""
        return psycopg2.connect(**{"host": self.host, "port": self.port, "connect_timeout": 30, **params})
