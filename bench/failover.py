"""How long the pause is when the primary dies, and what is lost: python -m bench.failover [--write]

A primary with two standbys (one of them synchronous), the pool with default settings, 32 clients that write and 32 that
read from standbys, each as fast as its answers come, with a few milliseconds in between. The primary and all its
processes are killed with SIGKILL, or it is switched over as planned. Afterwards the books are compared with the table,
on the new primary and on the old one, which is started again by itself.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tests.cluster.house import SYNC, TABLE, House, frontend, kept, open_house
from tests.cluster.rawclient import Raw
from tests.cluster.test_ha_planned import console
from tests.pooler import Pooler
from tests.servers import Server
from tests.workplace import wait_until

DOCS = Path(__file__).resolve().parent.parent / "docs"
WRITERS = READERS = 32
THINK_S = 0.003
BEFORE_S, AFTER_S = 1.0, 1.5
KILL, PLANNED = "kill -9", "planned"
HEAD = (
    "| PostgreSQL | what | runs | pause, median / worst (s) | acknowledged writes lost | statements that failed: in "
    "flight / other | `/*s*/` reads that failed | clients disconnected | rows only on the old primary |\n"
    "|---|---|---|---|---|---|---|---|---|\n"
)


class Done(NamedTuple):
    """One statement: of a writer, or of a reader; `error` is '' when it succeeded."""

    writes: bool
    name: str
    began: float
    ended: float
    error: str


class Run(NamedTuple):
    """What came of one run.

    pause_s     from the moment of the kill (or from the command) to the first write that the new primary acknowledged;
                for a planned one the longest that a write took
    """

    pause_s: float
    lost: int
    in_flight: int
    failed: int
    reads_failed: int
    disconnected: int
    strays: int
    moment: float
    log: list[Done]


class Crowd:
    """Clients in threads, and their books."""

    def __init__(self, pooler: Pooler) -> None:
        self.log: list[Done] = []
        self.disconnected = 0
        self._is_over = threading.Event()
        self._raws = [frontend(pooler) for _ in range(WRITERS + READERS)]
        self._threads = [threading.Thread(target=self._run, args=each) for each in enumerate(self._raws)]

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread, raw in zip(self._threads, self._raws, strict=True):
            thread.join()
            raw.close()

    def _run(self, number: int, raw: Raw) -> None:
        writes, count = number < WRITERS, 0
        while not self._is_over.wait(THINK_S):
            count += 1
            name = f"{number}-{count}"
            text = f"insert into {TABLE} values ('{name}')" if writes else f"/*s*/ select '{name}'"
            began = time.monotonic()
            try:
                answer = raw.query(text)
                error = answer.code or ("" if answer.status else "closed")
            except OSError as failure:
                error = repr(failure)
            self.log.append(Done(writes, name, began, time.monotonic(), error))
            if error and error[0].isalpha():
                self.disconnected += 1
                return


def kill(house: House, pooler: Pooler) -> tuple[float, float]:
    """When it began, and when all of its processes were dead."""
    moment = time.monotonic()
    house.first.kill9()
    dead = time.monotonic()
    pooler.wait_said("was promoted in")
    return moment, dead


def plan(house: House, pooler: Pooler) -> tuple[float, float]:
    with console(pooler) as admin:
        moment = time.monotonic()
        answer = admin.query("pool switchover")
        assert not answer.errors, answer.error
    return moment, moment


def one_run(version: int, what: str) -> Run:
    with open_house(version, conf=SYNC) as house:
        conf = {"ha_restart_command": house.cluster.restart_command(), "log_level": "info"}
        with Pooler({**house.conf, **conf, "log_level": "debug"}, cluster=house.cluster) as pooler:
            with frontend(pooler) as first:
                reads = "/*s*/ select pg_is_in_recovery()"
                wait_until(lambda: first.query(reads).rows == [("t",)], 30, "a standby to answer")
            pooler.wait_said("catalog of app scanned")
            time.sleep(BEFORE_S)
            with Crowd(pooler) as crowd:
                time.sleep(BEFORE_S)
                moment, dead = (kill if what == KILL else plan)(house, pooler)
                new = house.wait_promoted()
                time.sleep(AFTER_S)
        return judged(crowd, (moment, dead), what, new, house.first)


def judged(crowd: Crowd, when: tuple[float, float], what: str, new: Server, old: Server) -> Run:
    log, (moment, dead) = crowd.log, when
    there = kept(new)
    acked = {done.name for done in log if done.writes and not done.error}
    unknown = {done.name for done in log if done.writes and done.error}
    bad = [done for done in log if done.error and done.writes]
    in_flight = [done for done in bad if done.began < dead]
    if what == KILL:
        old.start()
        strays = kept(old) - there - unknown
        good = [done for done in log if done.writes and not done.error]
        waited = [done.ended for done in good if done.began > dead + 0.05 or done.ended - done.began > 0.5]
        pause_s = min(waited) - moment
    else:
        old.adopt()
        strays = set()
        pause_s = max(done.ended - done.began for done in log if done.writes)
    return Run(
        pause_s, len(acked - there), len(in_flight), len(bad) - len(in_flight),
        sum(1 for done in log if done.error and not done.writes), crowd.disconnected, len(strays), moment, log,
    )  # fmt: skip


def row(version: int, what: str, runs: list[Run]) -> str:
    pauses = [run.pause_s for run in runs]
    failed = f"{sum(run.in_flight for run in runs)} / {sum(run.failed for run in runs)}"
    cells = [
        str(version), what, str(len(runs)), f"{statistics.median(pauses):.2f} / {max(pauses):.2f}",
        str(sum(run.lost for run in runs)), failed, str(sum(run.reads_failed for run in runs)),
        str(sum(run.disconnected for run in runs)), str(sum(run.strays for run in runs)),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |\n"


def draw(runs: dict[str, Run], path: Path) -> None:
    """Writes per 100 ms, one run of each kind."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rc("font", size=9)
    matplotlib.rc("axes.spines", top=False, right=False)
    matplotlib.rc("svg", fonttype="none", hashsalt="bench")
    import matplotlib.pyplot as plt

    figure, places = plt.subplots(len(runs), 1, figsize=(9, 2.6 * len(runs)), layout="constrained", squeeze=False)
    for axes, (title, run) in zip(places[:, 0], runs.items(), strict=True):
        for writes, colour, label in ((True, "#b3263c", "writes"), (False, "#8c8c8c", "reads of standbys")):
            ends = [done.ended - run.moment for done in run.log if done.writes is writes and not done.error]
            bins = [0.1 * each for each in range(-10, 40)]
            counts = [sum(1 for each in ends if low <= each < low + 0.1) for low in bins]
            axes.step(bins, counts, where="post", color=colour, label=label)
        axes.set(title=title, xlabel="seconds", ylabel="per 100 ms", ylim=(0, None))
        axes.axvline(0, color="#000000", linewidth=0.5)
    places[0, 0].legend(frameon=False)
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)


def page(rows: Iterable[str], date: str) -> str:
    return (
        "# How long the pause is\n\n"
        "<!-- Made by `python -m bench.failover --write`. -->\n\n"
        f"{(__doc__ or '').partition(chr(10) * 2)[2]}\n"
        "With `kill -9` the pause is from the kill to the first write that the new primary has acknowledged; with a "
        "planned\nswitchover it is the longest that any write took. Statements in flight are those that were on their "
        "way when the\nprimary was killed: nobody can know whether they were committed, and their clients are told so "
        "(08007). Others that\nfailed were sent in the moment between the death of its last process and the pool's "
        "hearing of it, and were told the\nsame.\n\n"
        f"{date}, {platform.processor() or platform.machine()}, 2 cores for all servers, the pool and the clients "
        "together.\n\n" + HEAD + "".join(rows) + "\n![writes per 100 ms](failover.svg)\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, nargs="+", default=[13, 15, 17, 18])
    parser.add_argument("--runs", type=int, default=10, help="of each version, killed")
    parser.add_argument("--planned", type=int, default=3, help="of each version, as planned")
    parser.add_argument("--write", action="store_true", help="docs/failover.md and docs/failover.svg")
    given = parser.parse_args()
    rows, shown = [], {}
    for version in given.versions:
        for what, count in ((KILL, given.runs), (PLANNED, given.planned)):
            runs = []
            for _ in range(count):
                run = one_run(version, what)
                print(f"{version} {what}: {run[:7]}", flush=True)
                runs.append(run)
            if runs:
                rows.append(row(version, what, runs))
                shown[f"PostgreSQL {version}, {what}"] = sorted(runs, key=lambda run: run.pause_s)[len(runs) // 2]
    print(HEAD + "".join(rows))
    if given.write:
        (DOCS / "failover.md").write_text(page(rows, time.strftime("%F")))
        last = {title: run for title, run in shown.items() if title.startswith(f"PostgreSQL {given.versions[-1]}")}
        draw(last, DOCS / "failover.svg")


if __name__ == "__main__":
    main()
