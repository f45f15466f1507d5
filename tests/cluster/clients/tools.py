"""What the tests of clients share: running a program against an address, and looking at what it has left."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests import roles
from tests.cluster.conftest import Address

EACH_LOGIN = pytest.mark.parametrize("role", roles.LOGINS, ids=lambda role: role.method)
PROGRAMS = Path(__file__).parent / "programs"


def words(address: Address, table: str) -> list[tuple[int, str]]:
    """What is committed in the table, as the primary itself sees it."""
    return address.query(f"select id, word from {table} order by id")


def new_role(address: Address, name: str) -> roles.Role:
    """A role that may log in with its password, made anew."""
    role = roles.Role(name, "scram-sha-256", f"{name}'s secret")
    address.query(f"drop role if exists {name}")
    address.query(f"create role {name} login in role {roles.MEMBERS} password '{name}''s secret'")
    return role


def environment(address: Address, role: roles.Role = roles.SCRAM) -> dict[str, str]:
    """The environment of a program that is to connect to the address as libpq's variables say."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C", **address.environment(role)}


def run_client(
    program: Path | str, address: Address, *args: str | Path, role: roles.Role = roles.SCRAM, stdin: str = "",
    cwd: Path | None = None, **variables: str,
) -> str:  # fmt: skip
    """What a program printed; it must end with exit code 0.

    variables   of its environment, beside those that say where to connect
    """
    done = subprocess.run(
        [program, *args], env={**environment(address, role), **variables}, input=stdin, text=True, cwd=cwd,
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@contextlib.contextmanager
def idling(address: Address, command: Sequence[str], number: int, role: roles.Role, **variables: str) -> Iterator[None]:
    """While inside, so many connections of a client have done the usual things and are idle.

    command   of a program that is told `idle NUMBER` then, says "idle" when it is so, and ends with its standard input
    """
    with tempfile.TemporaryFile("w+") as errors, subprocess.Popen(
        [*command, "idle", str(number)], env={**environment(address, role), **variables}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
    ) as child:  # fmt: skip
        assert child.stdin and child.stdout
        said = child.stdout.readline()
        try:
            if said == "idle\n":
                yield
        finally:
            child.stdin.close()
            child.wait(30)
        errors.seek(0)
        assert (said, child.returncode) == ("idle\n", 0), said + errors.read()
