"""A process of frontends: green threads, so that one process keeps a hundred of them busy.

Reads what to do as JSON from its argument, prints how many statements it has done twice a second, and when it has done
its part, or too much was wrong, the books, as JSON, on the last line.
"""

from gevent import monkey

monkey.patch_all()

# ruff: noqa: E402
import json
import sys

import gevent

from tests.proof.books import Books
from tests.proof.frontends import Frontend
from tests.proof.residents import Resident

KINDS = {"riders": Frontend, "home": Resident}


def main() -> None:
    plan = json.loads(sys.argv[1])
    books = Books()
    where = (plan["host"], plan["port"])

    def done() -> bool:
        return books.counts["statements"] >= plan["statements"]

    kind = KINDS[plan["load"]]
    frontends = [kind(where, number, plan["seed"], books, done) for number in plan["frontends"]]
    running = [gevent.spawn(each.run_all) for each in frontends]
    while not all(each.dead for each in running):
        gevent.joinall(running, timeout=0.5)
        busy = [repr(each) for each, green in zip(frontends, running, strict=True) if not green.dead]
        print(json.dumps({"statements": books.counts["statements"], "stuck": busy[:5]}), flush=True)
    print(json.dumps(books.as_json()), flush=True)


if __name__ == "__main__":
    main()
