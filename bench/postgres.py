"""The one PostgreSQL that everything is measured on: Debian's 15, or the embedded 16 where that is not installed.

A primary with trust authentication on loopback and durability off: the disk of the machine would otherwise be most of
what TPC-B measures, and hide what the poolers add.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from bench.client import DATABASE, USER, Endpoint
from tests.servers import NotThere, Server, bin_dir
from tests.workplace import run

HOST = Server.host
HBA = ["host all all 127.0.0.1/32 trust"]
MAX_CONNECTIONS = 600
SETTINGS = {
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "full_page_writes": "off",
    "autovacuum": "off",  # would come and go in the middle of one contender's turn
}


@functools.cache
def version() -> int:
    """The major version that is measured on. Raises NotThere when there is none."""
    try:
        bin_dir(15)
    except NotThere:
        bin_dir(16)
        return 16
    return 15


def program(name: str) -> Path:
    """The path of one of PostgreSQL's programs, pgbench among them."""
    return bin_dir(version()) / name


def find_pooler(name: str, package: str) -> str:
    """The path of another project's program. Raises NotThere with what to install."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
    if found is None:
        raise NotThere(f"{name} is not installed: apt-get install {package}")
    return found


@contextlib.contextmanager
def primary(scale: int) -> Iterator[Server]:
    """A running PostgreSQL with pgbench's tables of this scale (100,000 accounts each), gone at the end."""
    with Server("bench", version=version(), max_connections=MAX_CONNECTIONS, hba=HBA, conf=SETTINGS) as server:
        server.query(f"create database {DATABASE}")
        at = endpoint(server)
        where = ["-h", at.host, "-p", str(at.port), "-U", USER]
        run(program("pgbench"), *where, "-iq", "-s", str(scale), DATABASE, timeout_s=600)
        server.query("create unlogged table copied (line text)", dbname=DATABASE)
        server.query("create table hot (id int primary key, n int)", dbname=DATABASE)
        yield server


def endpoint(server: Server) -> Endpoint:
    return Endpoint(server.host, server.port)
