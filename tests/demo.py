"""`make demo`: an embedded primary and two standbys with the pooler in front of them, until Ctrl-C.

Needs neither root nor Docker nor an installed PostgreSQL. Everything lives in one temporary directory and is gone
afterwards, also when this program is killed (`workplace`).
"""

from __future__ import annotations

import secrets
import shlex
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import psycopg2

from tests.servers import Cluster, NotThere, Pooler, Server, bin_dir, free_port, wait_until

PORT = 7777
USER = DATABASE = PASSWORD = "demo"

TABLE = """
create table city (name text primary key, country text, people int);
insert into city values
    ('Tokyo', 'Japan', 37400068), ('Delhi', 'India', 28514000), ('Shanghai', 'China', 25582000),
    ('São Paulo', 'Brazil', 21650000), ('Mexico City', 'Mexico', 21581000), ('Cairo', 'Egypt', 20076000);
"""


def say(text: str = "") -> None:
    print(text, flush=True)


def pooler_port() -> int:
    """PORT, or a free one with a word about it when PORT is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PORT))
        except OSError as error:
            port = free_port()
            say(f"Port {PORT} cannot be used here ({error.strerror}), so the pooler takes {port}.")
            return port
    return PORT


def load(primary: Server, admin_password: str) -> None:
    """Make the pooler's superuser, the demo user and the table."""
    primary.query(f"create role admin superuser login password '{admin_password}'")
    primary.query(f"create role {USER} login password '{PASSWORD}'")
    primary.query(f"create database {DATABASE} owner {USER}")
    primary.query(TABLE, dbname=DATABASE, user=USER)


def try_it(pooler: Pooler) -> None:
    """Ask through the pooler until a standby answers: what begins with /*s*/ starts workers there for what follows."""
    connection = pooler.connect(user=USER, password=PASSWORD, dbname=DATABASE)
    connection.autocommit = True
    with connection.cursor() as cursor:

        def is_answered_by_a_standby() -> bool:
            cursor.execute("/*s*/ select pg_is_in_recovery()")
            return bool(cursor.fetchone()[0])

        wait_until(is_answered_by_a_standby, what="a standby to answer through the pooler")
    connection.close()


def psql_program() -> str:
    """The psql of the PATH, else the wheel's, by the shortest path that works from here."""
    if shutil.which("psql"):
        return "psql"
    path = bin_dir(16) / "psql"
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


def greet(cluster: Cluster, pooler: Pooler) -> None:
    where = f"PGPASSWORD={PASSWORD} {psql_program()} -h {pooler.host} -p {pooler.port} -U {USER} {DATABASE}"
    question = "select name, people, pg_is_in_recovery() as on_standby from city order by people desc limit 3"
    standbys = " and ".join(f"{standby.host}:{standby.port}" for standby in cluster.standbys)
    say(f"""
The pooler listens on {pooler.host}:{pooler.port}.
Behind it: the primary {cluster.primary.host}:{cluster.primary.port}, the standbys {standbys}.
Its conf file is {pooler.conf_path},
its log          {pooler.log_path}.

Try, in another terminal:

  on the primary:    {where} -c "{question}"
  on a standby:      {where} -c "/*s*/ {question}"
  a whole session:   {where}
  the pool itself:   {where.removesuffix(DATABASE)}pseudo -c "pool list" -c "fe list" -c "cmd"
  the page:          http://127.0.0.1:{pooler.conf["http_listen"]}/
  kill the primary:  kill -9 {cluster.primary.pid}
  switch over:       {where.removesuffix(DATABASE)}pseudo -c "pool switchover"

(While a standby has no worker for you, the primary answers for it and one is started: ask twice.)

Ctrl-C ends everything.""")


def serve(asked_to_stop: threading.Event) -> int:
    """Start everything, stay until asked_to_stop or until the pooler ends by itself; the exit code."""
    began = time.monotonic()
    say("Starting a primary and two standbys ...")
    with Cluster(standbys=2, max_connections=100) as cluster:
        admin_password = secrets.token_urlsafe(16)
        load(cluster.primary, admin_password)
        cluster.wait_caught_up()
        if asked_to_stop.is_set():
            return 0
        say("Starting the pooler ...")
        admin_cnn = {"user": "admin", "password": admin_password, "database": "postgres"}
        conf = {"listen": ("127.0.0.1", pooler_port()), "admin_cnn": admin_cnn}
        conf["enable_ha"] = True
        conf["ha_restart_command"] = cluster.restart_command()
        conf["pseudo_admin_users"] = [USER]
        conf["http_listen"] = free_port()
        conf["read_your_writes_timeout"] = 5  # so that a standby is shown at work on a busy machine, too
        with Pooler(conf, cluster=cluster) as pooler:
            try_it(pooler)
            greet(cluster, pooler)
            say(f"(All of it took {time.monotonic() - began:.1f} s to start.)")
            while not asked_to_stop.wait(0.2):
                if not pooler.is_running:
                    say(f"\nThe pooler has ended. The end of its log:\n{pooler.log[-3000:]}")
                    return 1
            say("\nStopping ...")
    say("Everything is stopped, and its files are removed.")
    return 0


def main() -> int:
    asked_to_stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: asked_to_stop.set())
    try:
        return serve(asked_to_stop)
    except (NotThere, AssertionError, psycopg2.Error) as error:
        say(f"\nThe demo cannot go on: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
