"""The demo of docker-compose.yml, built and brought up once for all tests, on ports and a network of its own."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from pytest_docker.plugin import DockerComposeExecutor, Services

from tests.pooler import PROJECT
from tests.workplace import NotThere, free_port, wait_until

LONG_S = 90.0
PORTS = {"PGST_PORT": "haproxy", "PGST_POOL1_PORT": "pool1", "PGST_POOL2_PORT": "pool2"}
WHOLE = ["primary", "standby", "standby"]
SERVERS = {1: "primary", 2: "standby1", 3: "standby2"}  # by their pools' numbers


class Demo:
    """The demo while it runs.

    compose   runs a subcommand of docker compose
    command   what to type in front of one
    ports     where haproxy and the pools listen
    """

    def __init__(self, executor: DockerComposeExecutor, ports: dict[str, int]) -> None:
        self._executor = executor
        self.ports = ports

    def compose(self, subcommand: str) -> str:
        return self._executor.execute(subcommand).decode()

    def connect(self, where: str = "haproxy", database: str = "demo") -> psycopg2.extensions.connection:
        """A client, in autocommit."""
        connection = psycopg2.connect(
            host="127.0.0.1", port=self.ports[where], user="demo", password="demo", dbname=database, connect_timeout=60
        )  # fmt: skip
        connection.autocommit = True
        return connection

    def console(self, command: str, where: str = "pool1") -> list[dict[str, Any]]:
        """What a command answers."""
        with contextlib.closing(self.connect(where, "pseudo")) as connection, connection.cursor() as cursor:
            cursor.execute(command)
            names = [column.name for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def roles(self, where: str = "pool1") -> dict[str, str]:
        """What each server is to a pool: primary, standby or former."""
        return {row["addr"].partition(":")[0]: row["role"] for row in self.console("pool list", where)}

    def primary(self) -> str:
        return next(name for name, role in self.roles().items() if role == "primary")

    def ask_server(self, server: str, sql: str) -> str:
        """What psql in a server's own container prints."""
        return self.compose(f"""exec -T {server} psql -XAtq -d demo -c "{sql}" """).strip()

    def wait_streaming(self, *servers: str) -> None:
        """Until these stream from the primary and have all that it has written."""
        sql = "select application_name from pg_stat_replication where replay_lsn = pg_current_wal_lsn()"
        primary = self.primary()
        wait_until(
            lambda: {*servers} <= {*self.ask_server(primary, sql).split()}, LONG_S, f"{servers} to follow {primary}"
        )

    def wait_whole(self) -> None:
        """Until there is a primary with two standbys again, whatever was done to them."""
        if not self._is_whole():
            self.compose("up -d")
            for number, name in SERVERS.items():
                wait_until(lambda name=name: self.answers(name), LONG_S, f"{name} to answer")
                if self.roles()[name] == "former":
                    self.console(f"pool rejoin {number}")
        self.wait_streaming(*(name for name, role in self.roles().items() if role == "standby"))

    def _is_whole(self) -> bool:
        try:
            return all(sorted(self.roles(pool).values()) == WHOLE for pool in ("pool1", "pool2"))
        except psycopg2.OperationalError:
            return False

    def answers(self, server: str) -> bool:
        try:
            return self.ask_server(server, "select 1") == "1"
        except Exception:  # of pytest-docker's own
            return False


def succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="session")
def docker_compose_command() -> str:
    """Of a running engine; version 2 of compose, or else version 1."""
    if not (shutil.which("docker") and succeeds("docker", "info")):
        raise NotThere("no Docker engine answers: apt-get install docker.io docker-compose iptables, and start dockerd")
    if succeeds("docker", "compose", "version"):
        return "docker compose"
    if shutil.which("docker-compose"):
        return "docker-compose"
    raise NotThere("there is no docker compose: apt-get install docker-compose")


@pytest.fixture(scope="session")
def ports() -> Iterator[dict[str, int]]:
    """Where its services listen; docker-compose.yml reads that, and the network, from the environment."""
    found = {service: free_port() for service in PORTS.values()}
    before = dict(os.environ)
    os.environ.update({name: str(found[service]) for name, service in PORTS.items()})
    os.environ["PGST_NET"] = f"172.29.{random.randrange(80, 250)}"
    yield found
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def docker_compose_file(ports: dict[str, int]) -> Path:
    return PROJECT / "docker-compose.yml"


@pytest.fixture(scope="session")
def docker_setup() -> list[str]:
    return ["build", "up -d"]


@pytest.fixture(scope="session")
def docker_cleanup() -> list[str]:
    return ["down -v --timeout 5"]


@pytest.fixture(scope="session")
def whole_demo(
    docker_services: Services, docker_compose_command: str, docker_compose_file: Path,
    docker_compose_project_name: str, ports: dict[str, int],
) -> Demo:  # fmt: skip
    return Demo(DockerComposeExecutor(docker_compose_command, docker_compose_file, docker_compose_project_name), ports)


@pytest.fixture
def demo(whole_demo: Demo) -> Iterator[Demo]:
    """With a primary and two standbys; the end of its logs stands below a test that has failed."""
    whole_demo.wait_whole()
    yield whole_demo
    print(whole_demo.compose("logs --no-color --tail=40"))
