"""Programs in other languages than Python, each with its driver as it comes: how one is run, and what it needs.

A Program is run as `command work TABLE` or `command idle NUMBER`; the programs themselves say what these do. What is
not installed fails the test with the name of Debian's package. npm's are fetched into .cache/ of the project.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.cluster.clients.tools import PROGRAMS
from tests.workplace import NotThere, workplace

NPM_PACKAGES = ["pg@8.23.1", "postgres@3.4.9"]
NPM_CACHE = Path(__file__).resolve().parents[3] / ".cache" / "npm-clients"
JDBC_JAR = Path("/usr/share/java/postgresql.jar")


class Program(NamedTuple):
    """The words before work or idle, and variables of the environment."""

    command: tuple[str, ...]
    variables: dict[str, str]


def tool(name: str, package: str) -> str:
    """The path of an executable. raises NotThere, with Debian's package that has it"""
    path = shutil.which(name)
    if path is None:
        raise NotThere(f"{name} is not installed: apt-get install {package}")
    return path


@functools.cache
def jdbc(name: str = "Jdbc") -> Program:
    """The program of this class."""
    javac, java = tool("javac", "openjdk-17-jdk-headless"), tool("java", "openjdk-17-jdk-headless")
    if not JDBC_JAR.exists():
        raise NotThere("pgjdbc is not installed: apt-get install libpostgresql-jdbc-java")
    classes = workplace().new_dir("jdbc")
    subprocess.run([javac, "-cp", JDBC_JAR, "-d", classes, PROGRAMS / f"{name}.java"], check=True, timeout=60)
    return Program((java, "-XX:TieredStopAtLevel=1", "-Xmx64m", "-cp", f"{classes}:{JDBC_JAR}", name), {})


def _loads(command: list[str], package: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise NotThere(f"the driver is not installed: apt-get install {package} ({done.stderr or done.stdout})")


@functools.cache
def pdo() -> Program:
    php = tool("php", "php-cli")
    _loads([php, "-r", "exit(extension_loaded('pdo_pgsql') ? 0 : 1);"], "php-pgsql")
    return Program((php, "-d", "display_errors=stderr", str(PROGRAMS / "pdo.php")), {})


@functools.cache
def dbd_pg() -> Program:
    perl = tool("perl", "perl")
    _loads([perl, "-MDBD::Pg", "-e1"], "libdbd-pg-perl")
    return Program((perl, str(PROGRAMS / "dbd_pg.pl")), {})


def _node(program: str) -> Program:
    node = tool("node", "nodejs")
    return Program((node, str(PROGRAMS / program)), {"NODE_PATH": str(_npm_modules())})


@functools.cache
def _npm_modules() -> Path:
    """The node_modules directory with NPM_PACKAGES in it, which are fetched when they are not there yet."""
    there = NPM_CACHE / "-".join(package.replace("@", "-") for package in NPM_PACKAGES)
    if not there.exists():
        npm = tool("npm", "npm")
        NPM_CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=NPM_CACHE) as name:
            (Path(name) / "package.json").write_text("{}")
            done = subprocess.run(
                [npm, "install", "--silent", "--no-audit", "--no-fund", *NPM_PACKAGES], cwd=name, text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=100, check=False,
            )  # fmt: skip
            if done.returncode or not (Path(name) / "node_modules" / "pg").exists():
                raise NotThere(f"npm install {' '.join(NPM_PACKAGES)} ended with {done.returncode}:\n{done.stdout}")
            try:
                os.rename(Path(name) / "node_modules", there)  # at once, as another run may be fetching it, too
            except OSError:
                if not there.exists():
                    raise
    return there


def node_postgres() -> Program:
    return _node("node_pg.js")


def postgres_js() -> Program:
    return _node("postgres_js.js")
