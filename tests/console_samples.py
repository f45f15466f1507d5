"""Type every command of the pseudo database into psql and write down what comes: python -m tests.console_samples

For docs/console.samples. With real servers, a pooler and a few clients, so that there is something to be seen.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from lib.console.commands import TABLE, Command, Privilege
from lib.console.manual import read_samples
from tests import roles
from tests.cluster.rawclient import Raw
from tests.servers import Cluster, Pooler, bin_dir, wait_until
from tests.wire_samples import query

SAMPLES = Path(__file__).resolve().parent.parent / "docs" / "console.samples"
EXPANDED = 7  # columns from which on a row is shown in lines
LINES = 30  # of a sample

# What is typed where the words alone are not enough, or would show too much.
TYPED = {
    "cmd": "cmd where privilege = operate and command like 'pool%'",
    "fe list": "fe list where state = waiting order by wait desc limit 10",
    "pool show": "pool show 1 where state = held",
    "explain route": "explain route in app /*s*/ select count(*) from city",
    "pool add": "pool add {standby}",
    "pool remove": "pool remove 3",
    "pool new_worker": "pool new_worker 1 user=app_trust,database=other",
    "pool remove_worker": "pool remove_worker 1 1",
    "fe cancel": "fe cancel {waiting}",
    "fe kill": "fe kill {waiting}",
    "pause": "pause other",
    "resume": "resume other",
    "reconnect": "reconnect app",
    "kill": "kill other",
    "set": "set max_workers = 30",
    "show clients": "show clients where state = waiting",
    "show servers": "show servers limit 1",
    "show config": "show config where key like 'max%'",
}
# Typed into psql by hand, once, on servers that can be restarted, and of which one was lost before.
BY_HAND = ("ha list", "pool switchover dry run", "pool switchover", "pool rejoin", "pool changemaster")
LAST = ("fe cancel", "kill", "fe kill", "shutdown")


def _when(command: Command) -> tuple[bool, int]:
    """First what only looks, last what ends something."""
    changes = command.privilege is Privilege.OPERATE
    return changes, LAST.index(command.words) if command.words in LAST else -1


def typed(command: Command, where: dict[str, object]) -> str:
    return TYPED.get(command.words, command.words).format(**where)


def main() -> None:
    before = read_samples(SAMPLES.read_text(encoding="utf-8"))
    found = seen() | {words: before[words] for words in BY_HAND}
    text = "".join(f"=== {each.words}\n{found[each.words]}\n" for each in TABLE)
    SAMPLES.write_text(tidy(text), encoding="utf-8")


def seen() -> dict[str, str]:
    """What psql shows of every command but those that are typed by hand, by their words."""
    with (
        Cluster(standbys=2, hba=roles.hba_lines()) as cluster,
        Pooler(
            {
                "admin_cnn": {**roles.ADMIN.login, "database": "postgres"}, "max_workers": 1,
                "slaver": [(cluster.standbys[0].host, cluster.standbys[0].port)],
            },
            cluster=cluster,
        ) as pooler,
    ):  # fmt: skip
        roles.create(cluster.primary)
        cluster.wait_caught_up()
        with (
            Raw(pooler.host, pooler.port) as holder,
            Raw(pooler.host, pooler.port, application_name="shop") as waiting,
            Raw(pooler.host, pooler.port, database=roles.OTHER_DATABASE) as other,
        ):
            other.query("select 1")
            holder.query("begin")
            waiting.send(query("update nothing set a = 1"))
            wait_until(lambda: "1 row" in psql(pooler, TYPED["fe list"], expanded=False), what="the frontend to wait")
            where = {"waiting": waiting.key[0], "standby": f"{cluster.standbys[1].host}:{cluster.standbys[1].port}"}
            ordered = sorted((each for each in TABLE if each.words not in BY_HAND), key=_when)
            return {each.words: sample(pooler, typed(each, where), each) for each in ordered}


def sample(pooler: Pooler, text: str, command: Command) -> str:
    expanded = len(command.columns) > EXPANDED
    lines = psql(pooler, text, expanded).rstrip().splitlines()
    if len(lines) > LINES:
        lines = [*lines[: LINES - 2], "..."]
    prompt = "pseudo=# \\x\nExpanded display is on.\n" if expanded else ""
    return "\n".join([f"{prompt}pseudo=# {text};", *lines])


def psql(pooler: Pooler, text: str, expanded: bool) -> str:
    env = {
        **os.environ, "PGHOST": pooler.host, "PGPORT": str(pooler.port), "PGDATABASE": "pseudo",
        "PGUSER": roles.ADMIN.name, "PGPASSWORD": str(roles.ADMIN.password),
    }  # fmt: skip
    done = subprocess.run(
        [bin_dir(16) / "psql", "-X", *(["-x"] if expanded else []), "-c", text], env=env, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{text}: {done.stderr}")
    return done.stdout


def tidy(text: str) -> str:
    """Without what says where the tests were run."""
    return "".join(line.rstrip() + "\n" for line in re.sub(r"\S*/pgst-\S+", "/run/postgresql", text).splitlines())


if __name__ == "__main__":
    main()
