"""The demo in containers: what the README shows, restarts, a pool that dies, a planned switchover."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import threading
import time
from typing import Self

import pexpect
import psycopg2
import pytest

from tests.cluster.test_demo import lines_of
from tests.docker.conftest import LONG_S, SERVERS, Demo
from tests.pooler import PROJECT
from tests.workplace import bin_dir, tool_env, wait_until

# With the first one's fixtures: three images are built.
pytestmark = [pytest.mark.needs_docker, pytest.mark.time_limit_s(600)]

CHAPTER = "In containers"
TIME = re.compile(r"\d+\.\d+ s")


class Terminal:
    """psql, as the README starts it, on the ports of this demo."""

    def __init__(self, command: str, demo: Demo) -> None:
        match = re.fullmatch(r"PGPASSWORD=demo psql -h 127.0.0.1 -p (\d+) -U demo (\w+)", command)
        assert match, command
        service = {"7777": "haproxy", "7771": "pool1", "7772": "pool2"}[match[1]]
        self.prompt = f"{match[2]}=[>#] "
        login = {"PGPASSWORD": "demo", "TERM": "dumb", "PAGER": "cat"}
        words = ["-X", "-h", "127.0.0.1", "-p", str(demo.ports[service]), "-U", "demo", match[2]]
        self._psql = pexpect.spawn(
            str(bin_dir(16) / "psql"), words, env={**tool_env(), **login}, encoding="utf-8", timeout=LONG_S, echo=False,
            dimensions=(50, 200),
        )  # fmt: skip
        self._psql.expect(self.prompt)

    def type(self, line: str) -> list[str]:
        """The lines that are shown then."""
        self._psql.sendline(line)
        self._psql.expect(self.prompt)
        return [line.rstrip() for line in self._psql.before.splitlines() if line.strip()]

    def close(self) -> None:
        self._psql.sendeof()
        self._psql.expect(pexpect.EOF)
        self._psql.close()


def test_the_readme_shows_what_is_seen_when_the_primary_is_killed_and_comes_back(demo):
    assert demo.primary() == "primary", "the first test, on a new demo"
    terminals: list[Terminal] = []
    shown: list[str] = []
    for line in [*lines_of(CHAPTER), "$ end"]:
        if not re.match(r"\$ |\w+=[>#] ", line):
            shown.append(line.rstrip())
            continue
        expected = [TIME.sub("", line) for line in shown[1:] if line]
        seen = [TIME.sub("", line) for line in typed(shown[0], terminals, demo)] if shown else []
        assert [widths(line) for line in seen] == [widths(line) for line in expected], shown[0]
        shown = [line]
    for terminal in terminals:
        terminal.close()


def typed(line: str, terminals: list[Terminal], demo: Demo) -> list[str]:
    """Do what a line of the README says; what a psql shows then."""
    if line.startswith("$ docker compose "):
        subcommand = line.removeprefix("$ docker compose ")
        if subcommand.startswith("kill"):
            demo.wait_streaming("standby1", "standby2")
        demo.compose(subcommand)
        if subcommand == "start primary":
            wait_until(lambda: demo.answers("primary"), LONG_S, "the old primary to be there")
        return []
    if line.startswith("$ "):
        terminals.append(Terminal(line.removeprefix("$ "), demo))
        return []
    prompt, _, text = re.match(r"(\w+=)([>#]) (.*)", line).groups()
    return next(each for each in reversed(terminals) if each.prompt.startswith(prompt)).type(text)


def widths(line: str) -> str:
    """A line of a table, however wide its columns are."""
    return re.sub(r"-+", "-", re.sub(r" +", " ", line)).strip()


def ask(connection, sql: str) -> list[tuple]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else []


def ask_once(demo: Demo, sql: str, where: str = "haproxy") -> list[tuple]:
    with contextlib.closing(demo.connect(where)) as connection:
        return ask(connection, sql)


def test_data_and_who_is_the_primary_survive_and_an_old_primary_is_no_second_one(demo):
    old = demo.primary()
    demo.compose(f"kill {old}")
    ask_once(demo, "create table later as select 1 as n")
    new = demo.primary()
    assert new != old
    demo.compose("down --timeout 5")
    demo.compose("up -d")
    for pool in ("pool1", "pool2"):
        assert ask_once(demo, "select current_setting('cluster_name'), n from later", pool) == [(new, 1)]
    wait_until(lambda: demo.answers(old), LONG_S, "the old primary to be there")
    assert demo.roles()[old] == demo.roles("pool2")[old] == "former"
    with pytest.raises(Exception, match="read-only transaction"):
        demo.ask_server(old, "create table nonsense ()")
    number = next(number for number, name in SERVERS.items() if name == old)
    assert [row["step"] for row in demo.console(f"pool rejoin {number}")] == ["told", "back"]
    demo.wait_streaming(*({*SERVERS.values()} - {new}))
    wait_until(lambda: demo.roles("pool2")[old] == "standby", LONG_S, "the other pool to use it")


def test_who_comes_while_a_pool_is_dead_comes_in_by_the_other_one_and_counts_as_itself(demo):
    with contextlib.closing(demo.connect()) as connection:
        ask(connection, "select 1")
        hosts = {row["host"] for pool in ("pool1", "pool2") for row in demo.console("fe list", pool)}
    assert not any(host.endswith(".10") for host in hosts), "haproxy's address"
    for pool in ("pool1", "pool2"):
        demo.compose(f"kill {pool}")
        wait_until(lambda: comes_in(demo), LONG_S, "haproxy to know")
        demo.compose(f"start {pool}")
        wait_until(lambda pool=pool: comes_in(demo, pool), LONG_S, f"{pool} to be back")


def comes_in(demo: Demo, where: str = "haproxy") -> bool:
    try:
        return ask_once(demo, "select 1", where) == [(1,)]
    except psycopg2.OperationalError:
        return False


class Writer:
    """A client that inserts one row after the other.

    written   how many were acknowledged
    failed    what ended it
    longest   s, that one has taken
    """

    def __init__(self, demo: Demo, where: str) -> None:
        self.where = where
        self.written = 0
        self.failed: psycopg2.Error | None = None
        self.longest = 0.0
        self._connection = demo.connect(where)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while not self._is_over.is_set():
            began = time.monotonic()
            try:
                ask(self._connection, f"insert into counted values ('{self.where}')")
            except psycopg2.Error as error:
                self.failed = error
                return
            self.written += 1
            self.longest = max(self.longest, time.monotonic() - began)

    def go_on(self) -> None:
        until = self.written + 10
        wait_until(lambda: self.failed or self.written > until, LONG_S, f"the client of {self.where} to go on")


def test_nothing_fails_in_a_switchover_by_whichever_pool_clients_have_come(demo):
    old = demo.primary()
    ask_once(demo, "drop table if exists counted; create table counted (who text)")
    with contextlib.ExitStack() as stack:
        # Two through haproxy: it sends each to the pool that has fewer.
        wheres = ("pool1", "pool2", "haproxy", "haproxy")
        writers = [stack.enter_context(Writer(demo, where)) for where in wheres]
        for writer in writers:
            writer.go_on()
        holding = [row["value"] for row in demo.console("pool switchover dry run") if row["item"] == "holds"]
        assert holding == ["the pool at pool2:7777"]
        steps = [row["step"] for row in demo.console("pool switchover")]
        assert steps == ["quiet", "stopped", "promoted", "comes back"]
        for writer in writers:
            writer.go_on()
    print("longest:", [f"{writer.where} {writer.longest:.2f} s" for writer in writers])
    assert [writer.failed for writer in writers] == [None] * len(writers)
    assert ask_once(demo, "select count(*) from counted", "pool2") == [(sum(writer.written for writer in writers),)]
    assert demo.primary() != old
    for pool in ("pool1", "pool2"):
        assert demo.roles(pool)[demo.primary()] == "primary"
    assert demo.roles()[old] == "standby"
    assert demo.ask_server(old, "select pg_is_in_recovery()") == "t"


def test_the_compose_file_and_the_scripts_have_no_errors(docker_compose_command, docker_compose_file):
    subprocess.run(
        [*shlex.split(docker_compose_command), "-f", docker_compose_file, "config", "-q"], cwd=PROJECT, check=True
    )
    for name in ("server.sh", "haproxy.health"):
        subprocess.run(["bash", "-n", PROJECT / "docker" / name], check=True)
