"""Frontends that write and read all the time, and keep the books: what was acknowledged, what was declared unknown."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self

from tests.cluster.rawclient import Answer, Raw
from tests.workplace import wait_until

UNKNOWN = "08007"


class Load:
    """One thread for each frontend: an INSERT of an id that is never used again, a read, and so on.

    table    has a primary key, so that a statement that was run twice is found out
    prefix   of all ids, where several loads write to it
    begun            ids that were sent, or are about to be
    acked, unknown   ids, as soon as their answers were read: some time after these were given
    wrong    every answer that was none of the right ones
    """

    def __init__(self, frontends: list[Raw], table: str, prefix: str = "") -> None:
        self.begun: set[str] = set()
        self.acked: set[str] = set()
        self.unknown: set[str] = set()
        self.wrong: list[str] = []
        self._table = table
        self._prefix = prefix
        self._is_over = threading.Event()
        self._done = [0] * len(frontends)
        self._threads = [threading.Thread(target=self._run, args=each) for each in enumerate(frontends)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.go_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def go_on(self, rounds: int = 3, timeout_s: float = 30.0) -> None:
        """Wait until every frontend has done so many rounds more."""
        until = [done + rounds for done in self._done]
        wait_until(
            lambda: self.wrong or all(done >= wanted for done, wanted in zip(self._done, until, strict=True)),
            timeout_s, "all frontends to go on",
        )  # fmt: skip
        assert not self.wrong, f"wrong answers: {self.wrong}"

    def _run(self, number: int, frontend: Raw) -> None:
        while not self._is_over.is_set() and not self.wrong:
            name = f"{self._prefix}{number}-{self._done[number]}"
            self.begun.add(name)
            self._try(name, "write", lambda name=name: frontend.query(f"insert into {self._table} values ('{name}')"))
            self._try(name, "read", lambda name=name: frontend.query(f"select '{name}'"))
            self._done[number] += 1

    def _try(self, name: str, what: str, run: Callable[[], Answer]) -> None:
        try:
            answer = run()
        except OSError as error:
            self.wrong.append(f"{what} {name}: {error!r}")
            return
        is_whole = answer.status == "I"
        if is_whole and what == "write" and answer.commands == ["INSERT 0 1"]:
            self.acked.add(name)
        elif is_whole and what == "write" and answer.code == UNKNOWN and is_honest(answer.error):
            self.unknown.add(name)
        elif not (is_whole and what == "read" and answer.rows == [(name,)]):
            self.wrong.append(f"{what} {name}: {answer}")

    def check(self, committed: set[str]) -> None:
        """What is in the table is what was acknowledged, and of the rest only what was declared unknown."""
        assert not self.wrong, f"wrong answers: {self.wrong}"
        assert committed >= self.acked, f"acknowledged but not there: {self.acked - committed}"
        assert committed <= self.acked | self.unknown, f"there but never told: {committed - self.acked - self.unknown}"


def is_honest(error: dict[str, str]) -> bool:
    """Whether an error is one that the frontend outlives, and says what to do."""
    return error["S"] == error["V"] == "ERROR" and bool(error.get("H"))
