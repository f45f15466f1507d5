"""make proof: run it, say how it went, and end with exit code 0 only when all of it held."""

from __future__ import annotations

import argparse
import functools
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from tests import roles
from tests.cluster.wire import Wire
from tests.pooler import PROJECT
from tests.proof.books import Books
from tests.proof.disturbance import Disturbance
from tests.proof.schema import HOME, SCHEMA
from tests.servers import Pooler, Server
from tests.workplace import TookTooLong, wait_until

LOADS = {"riders": SCHEMA, "home": HOME}
PROCESSES = 2
STALLED_TURNS = 1200  # of PAUSE_S each without a single answer (not a time, as all of it may be stopped for a while)
PAUSE_S = 0.05
SHOWN = 20
SERVER = {"timezone": "UTC"}
CLEAN = ["4MB", None, "0", "0", "0", "0"]
ACTIVITY = "select pid, state, wait_event, now() - state_change, query from pg_stat_activity where usename = %s"
STATE = """
    select current_setting('work_mem'), current_setting('leaks.tenant', true),
           (select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'),
           (select count(*) from pg_class where relnamespace = pg_my_temp_schema() and relkind = 'r'),
           (select count(*) from pg_listening_channels()), (select count(*) from pg_prepared_statements)
"""


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make proof", description="PROOF_ARGS='--statements 100000 --riders off'")
    parser.add_argument("--load", choices=[*LOADS, "both"], default="both", help="what the frontends do")
    parser.add_argument("--directly", action="store_true", help="no pooler: shows that the load itself is right")
    parser.add_argument("--statements", type=int, default=1_000_000)
    parser.add_argument("--frontends", type=int, default=200)
    parser.add_argument("--riders", choices=["on", "off"], default="on")
    parser.add_argument("--version", type=int, default=16, help="of PostgreSQL: 13 to 18")
    parser.add_argument("--seed", type=int, default=random.randrange(1, 1_000_000))
    parser.add_argument("--kill-every", type=float, default=0.1, metavar="S", help="seconds; 0: terminate no backend")
    parser.add_argument("--crash-every", type=float, default=20.0, metavar="S", help="seconds; 0: the server stays up")
    return parser.parse_args()


class Clients:
    """One process of frontends, and a thread that hears how far it is."""

    def __init__(self, where: Pooler | Server, frontends: list[int], chosen: argparse.Namespace) -> None:
        plan = {
            "host": where.host, "port": where.port, "load": chosen.load, "frontends": frontends, "seed": chosen.seed,
            "statements": chosen.statements // PROCESSES,
        }  # fmt: skip
        self.statements = 0
        self.stuck: list[str] = []
        self.turns = 0  # since it was heard to have done more
        self.books: Books | None = None
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.proof.clients", json.dumps(plan)], cwd=PROJECT, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            told = json.loads(line)
            if "acked" in told:
                self.books = Books.of_json(told)
                self.statements = self.books.counts["statements"]
            else:
                if told["statements"] != self.statements:
                    self.turns = 0  # since it was heard to have done more
                self.statements, self.stuck = told["statements"], told["stuck"]

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def is_stalled(self) -> bool:
        """Asked once in a turn: whether it has not done anything for many of them."""
        self.turns += 1
        return self.turns > STALLED_TURNS and not self.is_done

    def end(self) -> Books:
        """Its books; of a process that had to be killed, that it had to be."""
        if not self.is_done:
            self.process.kill()
        self._thread.join()
        code = self.process.wait()
        if self.books is None:
            return Books(wrong=[f"a process of frontends ended with {code} before its frontends did: {self.stuck}"])
        return self.books


def run(chosen: argparse.Namespace, say: Callable[[str], None]) -> list[str]:
    """The whole run of one load; what did not hold."""
    with Server("proof", version=chosen.version, hba=roles.hba_lines(), max_connections=300, conf=SERVER) as server:
        roles.create(server)
        server.query(LOADS[chosen.load], dbname=roles.DATABASE)
        if chosen.directly:
            return _proof(server, server, chosen, say)
        conf = {
            "admin_cnn": {**roles.ADMIN.login, "database": "postgres"}, "master": (server.host, server.port),
            "riders": chosen.riders == "on", "login_retry": 0.05, "catalog_interval": 1.0, "idle_timeout": 5.0,
            "query_wait_timeout": 0,  # what stands still is found by us
        }  # fmt: skip
        with Pooler(conf, name="proof") as pooler:
            found = _proof(server, pooler, chosen, say)
            found += _what_is_left(server, pooler)
            say(f"{pooler.rss_bytes() >> 20:>10}  megabytes that the pooler takes")
        for trace in ("Traceback", "answered with status"):
            if trace in pooler.log:
                found.append(f"{trace!r} in the pooler's log: {pooler.log[pooler.log.index(trace) :][:3000]}")
        return found


def _proof(
    server: Server, where: Pooler | Server, chosen: argparse.Namespace, say: Callable[[str], None]
) -> list[str]:
    """The frontends do their part; what their books say against it."""
    disturbance = Disturbance(
        server, where, chosen.seed, chosen.load, kill_every_s=chosen.kill_every, crash_every_s=chosen.crash_every
    )
    began = time.monotonic()
    books = _run_clients(where, chosen, disturbance, say)
    took_s = time.monotonic() - began
    schema = "home" if chosen.load == "home" else "leaks"
    committed = {name for (name,) in server.query(f"select id from {schema}.books", dbname=roles.DATABASE)}
    hot = dict(server.query("select id, n from leaks.hot", dbname=roles.DATABASE)) if schema == "leaks" else {}
    found = books.complaints(committed, hot)
    found += [f"the disturbance failed: {disturbance.failure!r}"] if disturbance.failure else []
    _summary(books, committed, disturbance, took_s, say)
    return found


def _run_clients(
    where: Pooler | Server, chosen: argparse.Namespace, disturbance: Disturbance, say: Callable[[str], None]
) -> Books:
    parts = [list(range(first, chosen.frontends, PROCESSES)) for first in range(PROCESSES)]
    clients = [Clients(where, part, chosen) for part in parts]
    disturbance.start()
    began = last = time.monotonic()
    try:
        while not all(each.is_done for each in clients):
            if any(each.is_stalled() for each in clients):
                say(f"nothing goes on any more: {disturbance.server.query(ACTIVITY, [roles.TRUST.name])}")
                break
            time.sleep(PAUSE_S)
            if time.monotonic() - last > 10:
                last = time.monotonic()
                done = sum(each.statements for each in clients)
                say(f"{last - began:5.0f} s: {done} statements, {dict(disturbance.counts)}")
    finally:
        disturbance.is_over.set()
        disturbance.join()
        books = Books()
        for each in clients:
            books.add(each.end())
    return books


def _what_is_left(server: Server, pooler: Pooler) -> list[str]:
    """All shared workers answer at the same time, and what one finds in them is nobody's."""
    busy = (
        "select pid, state, query from pg_stat_activity "
        "where usename = %s and (state <> 'idle' or xact_start is not null)"
    )
    try:
        wait_until(lambda: not server.query(busy, [roles.TRUST.name]), 30, "all backends to be idle")
    except TookTooLong:
        return [f"still busy: {server.query(busy, [roles.TRUST.name])}"]
    frontends = [Wire(pooler) for _ in range(20)]
    found = []
    for each in frontends:
        each.rows("begin")
        state = each.rows(STATE)[0]
        if state != CLEAN:
            found.append(f"leaked: a worker was left with {state} instead of {CLEAN}")
    for each in frontends:
        each.sock.close()
    return found


def _summary(
    books: Books, committed: set[str], disturbance: Disturbance, took_s: float, say: Callable[[str], None]
) -> None:
    statements = books.counts.pop("statements", 0)  # none where all processes had to be killed
    rows = [
        ("statements answered and checked", statements),
        ("of them a second", round(statements / took_s)),
        ("wrong answers", len(books.wrong)),
        ("leaks", len(books.leaked)),
        ("rows committed", len(committed)),
        ("rows acknowledged", len(books.acked)),
        ("rows declared unknown", len(books.unknown)),
        ("of them committed", len(books.unknown & committed)),
        ("rows refused or rolled back", len(books.refused)),
        ("additions to hot rows acknowledged", sum(books.added.values())),
        ("additions to hot rows unknown", sum(books.doubtful.values())),
        *sorted((books.counts + disturbance.counts).items()),
    ]
    for name, value in rows:
        say(f"{value:>10}  {name}")


def main() -> int:
    chosen = options()
    say = functools.partial(print, flush=True)
    say(f"proof: {vars(chosen)}")
    found = []
    for load in [chosen.load] if chosen.load in LOADS else LOADS:
        found += run(argparse.Namespace(**{**vars(chosen), "load": load}), say)
    for each in found[:SHOWN]:
        say(f"DOES NOT HOLD: {each}")
    say("it holds" if not found else f"it does not hold; --seed {chosen.seed}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
