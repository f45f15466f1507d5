"""A frontend that changes its settings in every way, and is told and shown each time what they must be."""

from __future__ import annotations

import collections
import random
import re
from collections.abc import Callable

from tests import roles
from tests.cluster.fuzz import Leak
from tests.cluster.wire import Message, once, query
from tests.proof.books import Books
from tests.proof.model import SETTINGS, TENANT, Model, Values
from tests.proof.session import Session, Wrong
from tests.proof.statements import Prepared

CHANNEL = "home_news"
SETS = re.compile(rb"\b(?:re)?set\b|set_config|discard", re.I)
IN_FAILED_TRANSACTION = "25P02"
LOOK = f"""
    select current_user, session_user, {", ".join(f"current_setting('{name}', true)" for name in SETTINGS)},
           (select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'),
           (select count(*) from pg_class where relnamespace = pg_my_temp_schema() and relkind = 'r'),
           (select count(*) from pg_listening_channels()), (select count(*) from pg_cursors where is_holdable)
"""


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


class Tenant:
    """What a resident has, how it asks, and its settings.

    intent       what the unit in flight does to the model when it succeeds
    statements   what it has prepared, by name
    locks, listens, has_temporary, may_be_held   what its session has to be held for
    settles      units whose backend is asked what they have set, or may have been when it is lost: nobody else knows
    """

    session: Session

    def __init__(self, where: object, number: int, seed: int, books: Books, is_over: Callable[[], bool]) -> None:
        self.where = where
        self.number = number
        self.chance = random.Random(seed * 1000 + number)
        self.books = books
        self.counts = books.counts
        self.is_over = is_over
        self.story: collections.deque[str] = collections.deque(maxlen=12)
        self.lives = 0
        self.words = 0
        self.move_in(is_plain=True)

    def __repr__(self) -> str:
        return f"resident {self.number} {self.model.start} after {list(self.story)}"

    def move_in(self, is_plain: bool) -> None:
        self.model = Model(self.chance, self.number, is_plain=is_plain)
        self.intent: Callable[[], None] | None = None
        self.statements: dict[str, Prepared] = {}
        self.locks: set[int] = set()
        self.listens = self.has_temporary = self.may_be_held = False
        self.settles = 0

    # --- asking ------------------------------------------------------------------------------------------------------

    def word(self) -> str:
        self.words += 1
        return f"h{self.number}/{self.lives}/{self.words}"

    def send(self, *parts: bytes) -> None:
        if any(SETS.search(part[5:]) for part in parts):  # the length of a Query could be taken for a letter
            self.settles = 2
        holds = self.locks or self.listens or self.has_temporary or self.may_be_held or self.settles
        self.session.holds = bool(holds)
        self.session.send(*parts)

    def hear(self) -> list[Message]:
        found = self.session.until_ready()
        if found[-1].body == b"I" and self.settles:
            self.settles -= 1
        for each in found:
            if each.tag == "A" and not (self.listens and each.body[4:].startswith(CHANNEL.encode() + b"\0")):
                raise Leak(f"notified of {each.body!r}")
        return found

    def ask(self, *parts: bytes) -> list[Message]:
        self.send(*parts)
        return self.hear()

    def either(self, sql: str) -> list[Message]:
        """A text, by the simple or the extended protocol; both take the unnamed statement away."""
        self.statements.pop("", None)
        return self.ask(query(sql) if self.chance.random() < 0.5 else once(sql))

    def expect(self, found: list[Message], expected: object, what: str) -> None:
        """The answer of a unit: rows, a command tag, a SQLSTATE, or a set of single rows and SQLSTATEs, any of which.

        When it is right, the model has what was done; a failure is the transaction's, too.
        """
        codes = [each.fields["C"] for each in found if each.tag == "E"]
        rows = [each.values for each in found if each.tag == "D"]
        tags = [each.body[:-1].decode() for each in found if each.tag == "C"]
        if isinstance(expected, str):
            is_right = expected in ([*codes] if codes else [*tags, *(row[0] for row in rows)])
        elif isinstance(expected, set):
            is_right = (codes or [tuple(row) for row in rows])[0] in expected if len(codes + rows) == 1 else False
        else:
            is_right = not codes and rows == expected
        if not is_right:
            errors = [each.fields for each in found if each.tag == "E"]
            raise Wrong(f"{what}: {rows} {tags} {errors} instead of {expected}")
        if codes:
            self.model.fail()
        elif self.intent is not None:
            self.intent()
        self.intent = None
        self.settle(found)

    def settle(self, found: list[Message]) -> None:
        """What every answer must show: the transaction status, and the settings that were reported."""
        model = self.model
        status = b"I" if not model.is_in_transaction else b"E" if model.failed else b"T"
        if found[-1].body != status:
            raise Wrong(f"status {found[-1].body!r} instead of {status!r}: {found[-3:]}")
        for name, value in model.reported().items():
            told = self.session.parameters.get(name)
            if told != value:
                if model.is_in_transaction:  # where its backend is lost already, nothing could be restored any more
                    self.ask(query("select 1"))
                raise Wrong(f"was told that {name} is {told!r} and not that it is {value!r}")

    def run(self, sql: str, tag: str, intent: Callable[[], None] | None = None) -> None:
        """A text that must succeed, unless the transaction has failed."""
        self.intent = intent
        found = self.either(sql)
        self.expect(found, IN_FAILED_TRANSACTION if self.model.failed else tag, sql)

    # --- settings ----------------------------------------------------------------------------------------------------

    def look(self) -> None:
        model = self.model
        found = self.either(LOOK)
        if model.failed:
            return self.expect(found, IN_FAILED_TRANSACTION, "look")
        user = roles.TRUST.name if model["role"] == "none" else model["role"]
        counts = [len(self.locks), int(self.has_temporary), int(self.listens), 0]
        values = [model.tenants if name == TENANT else {model[name]} for name in SETTINGS]
        expected = [{user}, {roles.TRUST.name}, *values, *({str(count)} for count in counts)]
        rows = [each.values for each in found if each.tag == "D"]
        for row in rows:
            differ = [pair for pair in zip(row, expected, strict=True) if pair[0] not in pair[1]]
            if differ:
                raise Leak(f"the session has (what it has, what it should have) {differ}")
        return self.expect(found, rows, "look") if rows else self.expect(found, [expected], "look")

    def set(self) -> None:
        model = self.model
        name = self.chance.choice(model.settable)
        value = self.chance.choice(SETTINGS[name].values)
        ways = [
            (f"set {name} to {quoted(value)}", "SET", lambda: model.set(name, value)),
            (f"SET SESSION {name} = {quoted(value)}", "SET", lambda: model.set(name, value)),
            (f"select set_config('{name}', {quoted(value)}, false)", "SELECT 1", lambda: model.set(name, value)),
            (f"set local {name} to {quoted(value)}", "SET", lambda: model.set_local(name, value)),
            (f"reset {name}", "RESET", lambda: model.reset(name)),
        ]  # fmt: skip
        self.run(*self.chance.choice(ways))

    def set_several(self) -> None:
        """In one text, that is one transaction where it is none yet: all of it, or nothing."""
        names = self.chance.sample(self.model.settable, 2)
        pairs = [(name, self.chance.choice(SETTINGS[name].values)) for name in names]
        texts = [f"set {name} to {quoted(value)}" for name, value in pairs]
        fails = self.chance.random() < 0.5

        def intent() -> None:
            for name, value in pairs:
                self.model.set(name, value)

        self.intent = intent
        self.statements.pop("", None)
        found = self.ask(query("; ".join([*texts, "select 1 / 0" if fails else "select 'both'"])))
        if fails and not self.model.failed:
            self.model.know(names)
        self.expect(found, IN_FAILED_TRANSACTION if self.model.failed else "22012" if fails else "both", "several")

    def set_nonsense(self) -> None:
        texts = {
            "set datestyle to nonsense": "22023", "set home_nothing to 1": "42704", "set role nobody_there": "22023",
            "set work_mem to much": "22023", "set shared_buffers to '1GB'": "55P02",
        }  # fmt: skip
        sql, code = self.chance.choice(list(texts.items()))
        found = self.either(sql)
        self.expect(found, IN_FAILED_TRANSACTION if self.model.failed else code, sql)

    def reset_all(self) -> None:
        self.run("reset all", "RESET", self.model.reset_all)

    def find_out(self) -> None:
        """Nobody knows whether what was set counts: all of it does, or nothing."""
        model = self.model
        self.statements.pop("", None)
        # First of all, as this may be unknown, too, and is asked again then: with what was meant still to come.
        found = self.ask(query(f"select {', '.join(f'current_setting({quoted(name)}, true)' for name in SETTINGS)}"))
        before, is_known = (model.frames or [model.values])[0].copy(), model.knows_tenant
        if self.intent is not None:
            self.intent()
        after = model.values.copy()
        self.intent = None
        model.frames, model.failed = [], False
        (row,) = (each.values for each in found if each.tag == "D")
        actual = {name: value or "" for name, value in zip(SETTINGS, row, strict=True)}
        both = [{name: each[name] for name in SETTINGS} for each in (before, after)]
        if actual not in both:
            raise Leak(f"after what is unknown the settings are {actual} and none of {both}")
        model.values = Values(actual)
        model.knows_tenant = is_known or row[list(SETTINGS).index(TENANT)] is not None
        self.settle(found)
