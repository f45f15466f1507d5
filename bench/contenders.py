"""Who is compared, and how each is started: one row per contender.

All in front of the same PostgreSQL, on loopback, trust authentication on both legs, at most 20 server connections where
there is a pool (PgBouncer's default), room for all the clients of the benchmark, logging of connections off. Everything
else is each one's default. One runs at a time: the idle connections of another would slow the server's snapshots.
"""

from __future__ import annotations

import ast
import contextlib
import os
import platform
import re
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals
from types import MappingProxyType

import psutil

from bench import client, meter, postgres
from bench.client import DATABASE, USER, Endpoint
from bench.workloads import PREPARING
from tests.certificates import Authority, Pair
from tests.pooler import PROJECT
from tests.servers import NotThere, ServerFailed, free_port, wait_until, workplace
from tests.workplace import TookTooLong, give, server_user, tool_env

# Debian 13 has 1.24.
MAKE_ROOT = "debootstrap --include=pgbouncer trixie DIRECTORY, and PGBOUNCER_ROOT=DIRECTORY"
PGPOOL_CHILDREN = 300  # a process per client; more than the 256 of the largest pgbench run


@dataclass(frozen=True)
class Setup:
    """What a contender is told when it is started. pool_mode is PgBouncer's word: statement or transaction."""

    server: Endpoint
    port: int
    directory: Path
    pool_mode: str
    certificate: Pair


@dataclass(frozen=True)
class Contender:
    """A row of the table.

    command      makes the conf files in setup.directory and returns what to run; None: clients go to the server itself
    version      one line for the report. Raises NotThere when the program is not installed
    runs_as_root False when it refuses to
    idle_clients how many idle clients it can be measured with; those with a process per client, fewer
    stop         the signal that ends it without waiting for the clients
    every_round  False when it is only there to compare with, and measured in the first round alone: it has no targets
    on_request   measured only by the workloads that name it, and by the others when it was asked for
    """

    name: str
    title: str
    version: Callable[[], str]
    command: Callable[[Setup], list[str]] | None = None
    runs_as_root: bool = True
    idle_clients: int = 2000
    stop: Signals = SIGTERM
    every_round: bool = True
    on_request: bool = False


@dataclass(frozen=True)
class Running:
    """A contender that answers. pid is that of the pooler, None when there is none."""

    at: Endpoint
    pid: int | None


def server_version() -> str:
    return first_line([str(postgres.program("postgres")), "--version"]).removeprefix("postgres (PostgreSQL) ")


def pgbouncer_program() -> str:
    return postgres.find_pooler("pgbouncer", "pgbouncer")


def pgbouncer_version() -> str:
    return first_line([pgbouncer_program(), "--version"]).removeprefix("PgBouncer ")


def preparing_pgbouncer() -> list[str]:
    """The words that start a PgBouncer which follows prepared statements: the one that is installed, or that of another
    system in the directory PGBOUNCER_ROOT, with that system's libraries. Raises NotThere with what to do."""
    root = os.environ.get("PGBOUNCER_ROOT")
    if root is not None:
        loaders = sorted(Path(root).glob("lib*/ld-linux-*.so.*"))
        libraries = sorted(Path(root).glob("usr/lib/*-linux-gnu"))
        program = Path(root) / "usr/sbin/pgbouncer"
        if not (loaders and libraries and program.is_file()):
            raise NotThere(f"there is no system with a pgbouncer in PGBOUNCER_ROOT={root}: {MAKE_ROOT}")
        command = [str(loaders[0]), "--library-path", str(libraries[0]), str(program)]
    else:
        try:
            command = [pgbouncer_program()]
        except NotThere:
            raise NotThere(f"PgBouncer 1.21 or newer is not installed: {MAKE_ROOT}") from None
    version = first_line([*command, "--version"]).removeprefix("PgBouncer ")
    if not follows_prepared(version):
        raise NotThere(f"PgBouncer {version} follows no prepared statements, 1.21 and newer do: {MAKE_ROOT}")
    return command


def follows_prepared(version: str) -> bool:
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= (1, 21)


def preparing_pgbouncer_version() -> str:
    return first_line([*preparing_pgbouncer(), "--version"]).removeprefix("PgBouncer ")


def pgbouncer(setup: Setup, program: Callable[[], list[str]] | None = None, settings: str = "") -> list[str]:
    """program: the words that start it, where that is not the one that is installed; settings: lines of its conf."""
    users = setup.directory / "userlist.txt"
    users.write_text(f'"{USER}" ""\n')
    conf = setup.directory / "pgbouncer.ini"
    conf.write_text(f"""\
[databases]
{DATABASE} = host={setup.server.host} port={setup.server.port} dbname={DATABASE}
[pgbouncer]
listen_addr = {postgres.HOST}
listen_port = {setup.port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = {setup.pool_mode}
default_pool_size = 20
max_client_conn = 10000
log_connections = 0
log_disconnections = 0
client_tls_sslmode = allow
client_tls_cert_file = {setup.certificate.cert}
client_tls_key_file = {setup.certificate.key}
server_tls_sslmode = disable
{settings}""")
    return [*(program() if program is not None else [pgbouncer_program()]), str(conf)]


def pgpool_program() -> str:
    return postgres.find_pooler("pgpool", "pgpool2")


def pgpool_version() -> str:
    return first_line([pgpool_program(), "--version"]).removeprefix("pgpool-II version ")


def pgpool(setup: Setup) -> list[str]:
    """Raw mode: connections are kept, nothing is parsed for load balancing. runtime-config-connection-pooling.html"""
    conf = setup.directory / "pgpool.conf"
    conf.write_text(f"""\
backend_clustering_mode = 'raw'
listen_addresses = '{postgres.HOST}'
port = {setup.port}
pcp_listen_addresses = '{postgres.HOST}'
pcp_port = {free_port()}
socket_dir = '{setup.directory}'
pcp_socket_dir = '{setup.directory}'
pid_file_name = '{setup.directory}/pgpool.pid'
logdir = '{setup.directory}'
backend_hostname0 = '{setup.server.host}'
backend_port0 = {setup.server.port}
num_init_children = {PGPOOL_CHILDREN}
max_pool = 1
ssl = on
ssl_cert = '{setup.certificate.cert}'
ssl_key = '{setup.certificate.key}'
""")
    return [pgpool_program(), "-n", "-D", "-f", str(conf)]


def pgstmtpool_version(checkout: Path = PROJECT) -> str:
    revision = first_line(["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"])
    return f"{revision}, gevent {metadata.version('gevent')}"


def interpreter() -> str:
    """The Python that runs pgstmtpool, which is our own, and whether it was built with optimisations."""
    how = optimisation(sysconfig.get_config_var("CONFIG_ARGS") or "", sysconfig.get_config_var("CFLAGS") or "")
    return f"{platform.python_implementation()} {platform.python_version()}, {how}"


def optimisation(configure_arguments: str, cflags: str) -> str:
    """What a Python's build settings say. (Some distributions make and use a profile without a trace of it there.)"""
    if "--enable-optimizations" in configure_arguments or "-fprofile-use" in cflags:
        return "built with profile-guided optimisation"
    return "whose build settings name no profile-guided optimisation (--enable-optimizations)"


def pgstmtpool(
    setup: Setup, checkout: Path = PROJECT, settings: Mapping[str, object] = MappingProxyType({})
) -> list[str]:
    """That of a checkout, run by our own Python; settings are those of the conf file that are not at their defaults."""
    conf = setup.directory / "pgstmtpool.conf.py"
    own = {
        "listen": (postgres.HOST, setup.port),
        "admin_cnn": {"user": USER, "database": "postgres"},
        "master": (setup.server.host, setup.server.port),
        "client_tls_cert_file": str(setup.certificate.cert),
        "client_tls_key_file": str(setup.certificate.key),
        **settings,
    }
    conf.write_text(f"all = {own!r}\n")
    return [sys.executable, str(checkout / "pgstmtpool.py"), str(conf)]


def uncounted(setup: Setup) -> list[str]:
    """This checkout's, without what counts in it."""
    interpreter, *rest = pgstmtpool(setup)
    return [interpreter, str(PROJECT / "bench" / "uncounted.py"), *rest]


CONTENDERS = {
    row.name: row
    for row in (
        Contender("direct", "direct", server_version, idle_clients=200, every_round=False),
        Contender("pgbouncer", "PgBouncer", pgbouncer_version, pgbouncer, runs_as_root=False),
        Contender(
            "pgpool", "pgpool-II", pgpool_version, pgpool, runs_as_root=False, idle_clients=200, stop=SIGINT,
            every_round=False,
        ),
        Contender("pgstmtpool", "pgstmtpool", pgstmtpool_version, pgstmtpool),
        Contender(
            PREPARING, "PgBouncer that prepares", preparing_pgbouncer_version,
            partial(pgbouncer, program=preparing_pgbouncer, settings="max_prepared_statements = 200\n"),
            runs_as_root=False, on_request=True,
        ),
        Contender("uncounted", "pgstmtpool that counts nothing", pgstmtpool_version, uncounted, on_request=True),
    )
}  # fmt: skip


def another(text: str) -> Contender:
    """A contender from `NAME=CHECKOUT [SETTING=VALUE ...]` or from `NAME=COMMAND`.

    CHECKOUT  a directory with a pgstmtpool.py, run by our own Python; VALUE is a Python literal, as in the conf file
    COMMAND   another pooler's, where {server_host}, {server_port}, {port}, {user}, {database} are filled in
    raises    ValueError
    """
    name, _, template = text.partition("=")
    if not name or not template:
        raise ValueError(f"neither NAME=CHECKOUT nor NAME=COMMAND: {text!r}")
    words = shlex.split(template)
    checkout = Path(words[0]).resolve()
    if (checkout / "pgstmtpool.py").is_file():
        try:
            settings = {key: ast.literal_eval(value) for key, _, value in (word.partition("=") for word in words[1:])}
        except SyntaxError as error:
            raise ValueError(f"not a Python literal in {text!r}") from error
        version = partial(pgstmtpool_version, checkout)
        return Contender(name, name, version, partial(pgstmtpool, checkout=checkout, settings=settings))

    def command(setup: Setup) -> list[str]:
        filled = template.format(
            server_host=setup.server.host, server_port=setup.server.port, port=setup.port, user=USER, database=DATABASE
        )
        return shlex.split(filled)

    return Contender(name, name, lambda: "as given on the command line", command)


@cache
def certificate() -> Pair:
    """What the poolers show to clients that want TLS."""
    pair = Authority(workplace().new_dir("certificates")).issue(hosts=("localhost", postgres.HOST), kind="rsa")
    for path in (*pair, *pair.cert.parents[:1]):
        give(path)
    return pair


def first_line(command: list[str]) -> str:
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else "unknown version"


@contextlib.contextmanager
def started(contender: Contender, server: Endpoint, pool_mode: str) -> Iterator[Running]:
    """The contender, answering, until the end of the block. Raises ServerFailed with the end of its log."""
    if contender.command is None:
        yield Running(server, None)
        return
    directory = workplace().new_dir(contender.name)
    setup = Setup(server, free_port(), directory, pool_mode, certificate())
    command = contender.command(setup)
    at = Endpoint(postgres.HOST, setup.port)
    log = directory.with_suffix(".log")

    def says(what: object) -> ServerFailed:
        return ServerFailed(f"{what}: {log.read_text(errors='replace')[-300:]}")

    with log.open("wb") as output:
        pooler = subprocess.Popen(
            command, cwd=directory, env=tool_env(), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            **({} if contender.runs_as_root else server_user()),
        )  # fmt: skip
    pid_file = directory.with_suffix(".pid")  # for the workplace, should we be killed
    pid_file.write_text(f"{pooler.pid}\n")
    try:
        try:
            wait_until(lambda: client.answers(at) or pooler.poll() is not None, 30, f"{contender.title} to answer")
        except TookTooLong as error:
            raise says(error) from None
        if pooler.poll() is not None:
            raise says(f"{contender.title} ended with {pooler.returncode}")
        yield Running(at, pooler.pid)
    finally:
        stop(pooler, contender.stop)
        pid_file.unlink()


def stop(pooler: subprocess.Popen[bytes], how: Signals, timeout_s: float = 10.0) -> None:
    """End the pooler and whatever it started, by force when it takes longer than timeout_s."""
    family = meter.family(pooler.pid)
    pooler.send_signal(how)
    try:
        pooler.wait(timeout_s)
    except subprocess.TimeoutExpired:
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        pooler.wait()
