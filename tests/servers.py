"""Real PostgreSQL servers for tests, demo and benchmarks.

`Server` is one PostgreSQL, `Cluster` a primary with streaming standbys; `Pooler` (in `pooler`, also to be had from
here) is a running pgstmtpool.py. Servers listen on 127.0.0.1 and on a Unix socket only, are waited for by condition and
never by time, and are gone when this process is (`workplace`). They begin as copies of one freshly made data directory,
so a standby needs no pg_basebackup: the primary and its standbys start from the same shutdown checkpoint.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg2

from tests.pooler import Pooler
from tests.workplace import (
    NotThere,
    ServerFailed,
    bin_dir,
    free_port,
    give,
    run,
    server_user,
    tool_env,
    wait_until,
    workplace,
)

__all__ = ["Cluster", "NotThere", "Pooler", "Server", "ServerFailed", "bin_dir", "free_port", "wait_until", "workplace"]

SUPERUSER = "postgres"
REPLICATOR = "replicator"

# The first two lines of every pg_hba.conf: for these classes themselves, and for the standbys' receivers.
OWN_HBA = [
    f"local all {SUPERUSER} trust",
    f"host replication {REPLICATOR} 127.0.0.1/32 trust",
]
DEFAULT_HBA = [
    "local all all trust",
    "host all all 127.0.0.1/32 scram-sha-256",
    "host all all ::1/128 scram-sha-256",
]
OWN_CONF: dict[str, Any] = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "shared_buffers": "64MB",
    "dynamic_shared_memory_type": "mmap",  # in the data directory: goes with it, also after kill9
    "wal_level": "replica",
    "hot_standby": "on",
    "wal_log_hints": "on",
    "max_wal_senders": 20,
    "max_replication_slots": 20,
    "wal_receiver_timeout": "2s",  # the proof of a primary's death takes this long (design section 7)
    "wal_receiver_status_interval": "1s",
    "wal_retrieve_retry_interval": "100ms",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "lc_messages": "C",
}


@functools.cache
def _template(bin_path: Path, checksums: bool) -> Path:
    """A data directory as initdb makes it, with the replicator role, shut down: one per process and kind."""
    data = workplace().new_dir(f"template-{bin_path.parent.name}")
    run(
        bin_path / "initdb", "-D", data, "-U", SUPERUSER, "-A", "trust", "--no-sync", "--encoding=UTF8", "--locale=C",
        *(["--data-checksums"] if checksums else []),
    )  # fmt: skip
    subprocess.run(
        [bin_path / "postgres", "--single", "-F", "-D", data, "postgres"], cwd="/", env=tool_env(), check=True,
        input=f"create role {REPLICATOR} login replication\n", text=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, **server_user(),
    )  # fmt: skip
    return data


def _quoted(value: Any) -> str:
    return "'" + str(value).replace("\\", "\\\\").replace("'", "''") + "'"


def _is_in_state(pid: int, *states: str) -> bool:
    """Whether a process is in one of psutil's states, or gone altogether."""
    try:
        return psutil.Process(pid).status() in states
    except psutil.NoSuchProcess:
        return True


class _Adopted:
    """A postmaster that is no child of ours, as much like a Popen as is needed of one."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        return 0 if _is_in_state(self.pid, psutil.STATUS_ZOMBIE) else None

    def wait(self) -> None:
        wait_until(lambda: self.poll() is not None, 30, f"process {self.pid} to end")


def _is_ready(pid_file: list[str]) -> bool:
    """Whether the lines of a postmaster.pid say that it takes connections."""
    return len(pid_file) > 7 and pid_file[7].startswith("ready")


class Server:
    """One PostgreSQL: a data directory of its own, and the postmaster when it runs.

    name             for file names and as the application_name of a standby
    version          see workplace.bin_dir: 16 (default) and 18 from the wheel, 15 from Debian, 10 to 14, 17 from npm
    hba              lines of pg_hba.conf, after OWN_HBA; default: trust on the Unix socket, scram on TCP
    conf             settings of postgresql.conf, over OWN_CONF
    port             default: a free one

    host, port       where it listens on TCP; `unix_dir` is the directory of its Unix socket (the data directory)
    data, log_path   paths; `log` is the text of the log
    """

    host = "127.0.0.1"

    def __init__(
        self, name: str = "server", *, version: int | str = 16, max_connections: int = 120,
        hba: Iterable[str] | None = None, conf: dict[str, Any] | None = None, port: int | None = None,
        checksums: bool = False,
    ) -> None:  # fmt: skip
        self.name = name
        self.version = version
        self.bin = bin_dir(version)
        self.data = workplace().new_path(name)
        self.unix_dir = str(self.data)
        self.log_path = self.data.with_suffix(".log")
        self.log_path.touch()
        self.conninfo = ""  # more of it for when it follows
        self._port_is_ours = port is None
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | _Adopted | None = None
        template = _template(self.bin, checksums)
        subprocess.run(["cp", "-a", "--reflink=auto", template, self.data], check=True)
        self._conf: dict[str, Any] = {**OWN_CONF, "max_connections": max_connections, **(conf or {})}
        self.configure(unix_socket_directories=self.unix_dir)
        self.set_hba(DEFAULT_HBA if hba is None else hba)

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.is_running else "down"
        return f"<Server {self.name} {self.version} {self.host}:{self.port} {state}>"

    def __enter__(self) -> Self:
        return self if self.is_running else self.start()

    def __exit__(self, *_: object) -> None:
        self.remove()

    # --- files ------------------------------------------------------------------------------------------------------

    def write(self, name: str, text: str) -> None:
        """Write a file of the data directory."""
        path = self.data / name
        path.write_text(text)
        give(path)

    def configure(self, **settings: Any) -> None:
        """Set settings in tests.conf, which postgresql.conf includes; a running server needs reload() or restart()."""
        self._conf |= settings
        main = self.data / "postgresql.conf"
        include = "include 'tests.conf'\n"
        if not main.read_text().endswith(include):
            self.write("postgresql.conf", main.read_text() + include)
        lines = [f"{name} = {_quoted(value)}\n" for name, value in {**self._conf, "port": self.port}.items()]
        self.write("tests.conf", "".join(lines))

    def set_hba(self, lines: Iterable[str]) -> None:
        """Replace pg_hba.conf (OWN_HBA stays in front); a running server needs reload()."""
        self.hba = [*OWN_HBA, *lines]
        self.write("pg_hba.conf", "\n".join(self.hba) + "\n")

    def follow(self, primary: Server, slot: str | None = None) -> None:
        """Make this (stopped) server a standby of primary."""
        conninfo = f"host={primary.host} port={primary.port} user={REPLICATOR} application_name={self.name}"
        conninfo = f"{conninfo} {self.conninfo}".rstrip()
        if int(str(self.version).removeprefix("debian")) < 12:
            lines = ["standby_mode = 'on'", "recovery_target_timeline = 'latest'", "trigger_file = 'trigger'"]
            lines += [f"primary_conninfo = '{conninfo}'", *([f"primary_slot_name = '{slot}'"] if slot else [])]
            self.write("recovery.conf", "\n".join(lines) + "\n")
            return
        self.configure(primary_conninfo=conninfo, **({"primary_slot_name": slot} if slot else {}))
        self.write("standby.signal", "")

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    # --- the process ------------------------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the postmaster."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    def launch(self) -> None:
        """Start the postmaster without waiting till it is ready; see start."""
        assert not self.is_running, f"{self} is running already"
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [self.bin / "postgres", "-D", self.data], cwd="/", env=tool_env(), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True, **server_user(),
            )  # fmt: skip
        workplace().at_end[id(self)] = self.remove

    def start(self, timeout_s: float = 60.0) -> Self:
        """Start it and wait till it answers queries; another port is taken when this one turned out to be in use.

        raises   ServerFailed, with the end of the log
        """
        for _ in range(5):
            logged = self.log_path.stat().st_size
            self.launch()
            try:
                self.wait_ready(timeout_s)
                return self
            except ServerFailed:
                taken = "Address already in use" in self.log_path.read_bytes()[logged:].decode(errors="replace")
                if not (taken and self._port_is_ours):
                    raise
                self.port = free_port()
                self.configure()
        raise ServerFailed(f"{self.name} found no free port")

    def _says_ready(self) -> bool:
        if not self.is_running:
            raise ServerFailed(f"{self.name} did not start:\n{self.log[-3000:]}")
        return _is_ready(self._pid_file())

    def _pid_file(self) -> list[str]:
        """The lines of postmaster.pid; none where there is no such file."""
        try:
            return (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def adopt(self, timeout_s: float = 60.0) -> None:
        """Somebody else has restarted it, or is about to: wait until it is ready, and know its new process."""
        before = self._process.pid if self._process is not None else 0

        def is_new() -> bool:
            lines = self._pid_file()
            return _is_ready(lines) and int(lines[0]) != before

        wait_until(is_new, timeout_s, f"{self.name} to be restarted; its log:\n{self.log[-2000:]}")
        self._process = _Adopted(int(self._pid_file()[0]))

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Wait till the postmaster says in its pid file that it takes connections (a standby: for reading)."""
        wait_until(self._says_ready, timeout_s, f"{self.name} to be ready")

    def stop(self, mode: str = "fast", timeout_s: float = 30.0) -> None:
        """Stop it: mode is smart, fast or immediate, as pg_ctl has them. Nothing when it does not run."""
        if not self.is_running:
            return
        number = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode]
        self._signal([self.pid], number)
        try:
            wait_until(lambda: not self.is_running, timeout_s, f"{self.name} to stop ({mode})")
        except AssertionError as error:
            self.kill9()
            raise ServerFailed(f"{error}; killed. Its log:\n{self.log[-3000:]}") from None

    def restart(self, mode: str = "fast") -> None:
        self.stop(mode)
        self.start()

    def reload(self) -> None:
        """Reload postgresql.conf and pg_hba.conf, and wait till new sessions see them."""
        loaded = "select pg_conf_load_time()"
        before = self.query(loaded)
        self._signal([self.pid], signal.SIGHUP)
        wait_until(lambda: self.query(loaded) != before, what=f"{self.name} to reload")

    def processes(self) -> list[int]:
        """Process ids of the postmaster and all its children."""
        try:
            return [self.pid, *(child.pid for child in psutil.Process(self.pid).children(recursive=True))]
        except psutil.NoSuchProcess:
            return []

    @staticmethod
    def _signal(pids: list[int], number: signal.Signals) -> None:
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def kill9(self) -> None:
        """SIGKILL for the postmaster and all its children: what a power cut looks like from outside."""
        if not self.is_running:
            return
        pids = self.processes()
        self._signal(pids, signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        # Not before all are gone can the data directory be used again. A dead orphan may stay a zombie for ever: in
        # most containers it is nobody's job to reap it.
        for pid in pids:
            wait_until(functools.partial(_is_in_state, pid, psutil.STATUS_ZOMBIE), what=f"{self.name} to be gone")

    def sigstop(self) -> None:
        """Freeze the postmaster and all its children; its sockets stay open and are silent."""
        self._signal([self.pid], signal.SIGSTOP)  # first, so that no child is born meanwhile
        for pid in self.processes():
            self._signal([pid], signal.SIGSTOP)
            still = functools.partial(_is_in_state, pid, psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
            wait_until(still, what=f"{self.name} to stand still")

    def sigcont(self) -> None:
        self._signal(self.processes(), signal.SIGCONT)

    def promote(self, timeout_s: float = 30.0) -> None:
        """Make a standby a primary and wait till it is one."""
        self.query("select pg_promote(false)")
        wait_until(lambda: not self.is_standby, timeout_s, f"{self.name} to be promoted")

    def _stop_at_end(self) -> None:
        restarted = self._restarted_by_others()
        if restarted:
            self._process = _Adopted(restarted)
        if self.is_running:
            self.sigcont()
            self.stop("immediate", timeout_s=5)

    def _restarted_by_others(self) -> int:
        """The process of it that is not ours; 0 when there is none."""
        try:
            pid = int(self._pid_file()[0])
            is_it = str(self.data) in psutil.Process(pid).cmdline()
        except (ValueError, IndexError, psutil.Error):
            return 0
        return pid if is_it and (self._process is None or pid != self._process.pid) else 0

    def remove(self) -> None:
        """Stop it at once and delete its files."""
        self._stop_at_end()
        lines = self._pid_file()
        if lines:  # it was killed, so the segment that postmasters know each other by is still there
            segment = lines[6].split()[1]
            subprocess.run(["ipcrm", "-m", segment], check=False, stderr=subprocess.DEVNULL)
        workplace().at_end.pop(id(self), None)
        shutil.rmtree(self.data, ignore_errors=True)

    # --- asking it --------------------------------------------------------------------------------------------------

    def connect(self, **params: Any) -> psycopg2.extensions.connection:
        """A blocking psycopg2 connection; default: superuser, Unix socket. Any libpq parameter can be given."""
        own = {"host": self.unix_dir, "port": self.port, "user": SUPERUSER, "dbname": "postgres", "connect_timeout": 30}
        return psycopg2.connect(**{**own, **params})

    def query(self, sql: str, args: Any = None, **params: Any) -> list[tuple[Any, ...]]:
        """Run one text in autocommit on a connection of its own (params: see connect); its rows, [] if it has none."""
        connection = self.connect(**params)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql, args)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def psql(self, sql: str, database: str = "postgres", user: str = SUPERUSER) -> str:
        """What psql prints for sql (unaligned, tuples only), stopping at the first error, which is raised."""
        where = ["-h", self.unix_dir, "-p", str(self.port), "-U", user, "-d", database]
        return run(self.bin / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *where, "-c", sql).rstrip("\n")

    def wait_replayed(self, lsn: str, timeout_s: float = 30.0) -> None:
        """Wait till this standby has replayed up to lsn."""
        replayed = "select pg_last_wal_replay_lsn() >= %s::pg_lsn"
        wait_until(lambda: self.query(replayed, [lsn])[0][0], timeout_s, f"{self.name} to replay up to {lsn}")

    @property
    def is_standby(self) -> bool:
        return bool(self.query("select pg_is_in_recovery()")[0][0])


class Cluster:
    """A primary and streaming standbys, each with a physical slot of its name on the primary.

    Arguments as for Server, the same for all; servers are named primary, standby1, standby2 …
    """

    def __init__(self, standbys: int = 2, **server_args: Any) -> None:
        self.primary = Server("primary", **server_args)
        self.standbys = [Server(f"standby{number}", **server_args) for number in range(1, standbys + 1)]

    def __repr__(self) -> str:
        return f"<Cluster {self.primary} {self.standbys}>"

    @property
    def servers(self) -> list[Server]:
        return [self.primary, *self.standbys]

    def __enter__(self) -> Self:
        return self if self.primary.is_running else self.start()

    def __exit__(self, *_: object) -> None:
        self.remove()

    def start(self) -> Self:
        """Start all, and wait till all standbys are streaming."""
        self.primary.start()
        have = {name for (name,) in self.primary.query("select slot_name from pg_replication_slots")}
        for standby in self.standbys:
            if standby.name not in have:
                self.primary.query("select pg_create_physical_replication_slot(%s, true)", [standby.name])
            standby.follow(self.primary, slot=standby.name)
            standby.start()
        self.wait_streaming()
        return self

    def wait_streaming(self, timeout_s: float = 30.0) -> None:
        count = "select count(*) from pg_stat_replication where state = 'streaming'"
        wait_until(lambda: self.primary.query(count)[0][0] >= len(self.standbys), timeout_s, "all standbys to stream")

    def wait_caught_up(self, timeout_s: float = 30.0) -> None:
        """Wait till every standby has replayed what the primary has written up to now."""
        lsn = self.primary.query("select pg_current_wal_lsn()")[0][0]
        for standby in self.standbys:
            standby.wait_replayed(lsn, timeout_s)

    def restart_command(self, between: str = "") -> str:
        """What a pool can restart these servers by (ha_restart_command), where they have no functions for it.

        between   is run when the server is down
        """
        user = server_user()
        as_user = f"setpriv --reuid={user['user']} --regid={user['group']} --clear-groups" if user else ""
        words = []
        for server in self.servers:
            restart = (
                f"pid=$(head -n 1 {server.data}/postmaster.pid) && kill -INT $pid && while kill -0 $pid 2>/dev/null &&"
                f" ! grep -q '^State:.*Z' /proc/$pid/status; do sleep 0.02; done; {between}"
                f" {as_user} setsid {server.bin}/postgres -D {server.data} </dev/null >>{server.log_path} 2>&1 &"
            )
            words.append(f'if [ "$PGST_PORT" = {server.port} ]; then {restart} fi')
        return "\n".join(words)

    def stop(self, mode: str = "fast") -> None:
        for server in self.servers:
            server.stop(mode)

    def remove(self) -> None:
        for server in reversed(self.servers):
            server.remove()
