"""A frontend that prepares statements under the same few names as all others, and uses them as drivers do."""

from __future__ import annotations

from tests.cluster.wire import SYNC, Message, bind, bind_as, close, describe, execute, parse
from tests.proof.session import Unknown, Wrong
from tests.proof.statements import INT4, INT8, RESULT_CHANGED, TYPED, make
from tests.proof.tenant import IN_FAILED_TRANSACTION, Tenant

NAMES = ("s1", "s2", "s3", "s4", "")
SIZES = {INT4: 4, INT8: 8}  # in binary
NOT_THERE, TAKEN, WRONG_COUNT = "26000", "42P05", "08P01"


class Preparer(Tenant):
    """What a resident does with prepared statements.

    doubtful   names of which it is unknown whether they are taken
    told       the types of a statement's columns as they were told last
    changing   the types that were described of a table that is altered all the time
    """

    doubtful: set[str]
    told: dict[str, tuple[int, ...] | None]
    changing: tuple[int, ...]

    def move_in(self, is_plain: bool) -> None:
        super().move_in(is_plain)
        self.doubtful, self.told, self.changing = set(), {}, ()

    def forget_doubtful(self) -> None:
        for name in self.doubtful:
            self.statements.pop(name, None)
        self.changing = () if "c" in self.doubtful else self.changing
        self.expect(self.ask(*(close("S", name) for name in self.doubtful), SYNC), [], "Close")
        self.doubtful.clear()

    def prepare(self) -> None:
        """Under a name that is taken: first it is closed, or it is not, and that is an error."""
        name = self.chance.choice(NAMES)
        statement = make(self.model, self.chance, self.word())
        parts = [parse(statement.text, name, statement.types)]
        if is_described := self.chance.random() < 0.5:
            parts.append(describe("S", name))
        is_closed = name in self.statements and self.chance.random() < 0.8
        if is_closed:
            parts.insert(0, close("S", name))
        if runs := self.chance.random() < 0.3:
            values = statement.values()
            parts += [bind(*values, name=name), execute()]
        failed = self.model.failed
        is_taken = bool(name) and name in self.statements and not is_closed and not failed
        if not is_taken:
            self.doubtful.add(name)
        found = self.ask(*parts, SYNC)
        self.doubtful.discard(name)
        if is_closed or (failed and not name):
            self.statements.pop(name, None)
        if failed or is_taken:
            return self.expect(found, IN_FAILED_TRANSACTION if failed else TAKEN, "Parse")
        self.statements[name] = statement
        self.told[name] = self.described(found) if is_described else None
        if is_described and statement.columns not in ((), self.told[name]):
            raise Wrong(f"{statement.text!r} was described as {self.told[name]}")
        return self.expect(found, statement.answer(self.model, values) if runs else [], f"Parse {statement.text!r}")

    @staticmethod
    def described(found: list[Message]) -> tuple[int, ...] | None:
        """The types of a result's columns, when they were described."""
        for each in found:
            if each.tag == "T":
                return each.columns
        return None

    def use(self) -> None:
        if not self.statements:
            return self.prepare()
        name = self.chance.choice(list(self.statements))
        statement = self.statements[name]
        values = statement.values()
        parts = [bind(*values, name=name), execute()]
        if is_described := self.chance.random() < 0.5:
            parts.insert(1, describe())
        if self.chance.random() < 0.2:
            parts.insert(0, describe("S", name))
        found = self.ask(*parts, SYNC)
        expected = IN_FAILED_TRANSACTION if self.model.failed else self.answer(name, values, is_described)
        if types := self.described(found):
            self.told[name] = types
            if isinstance(expected, list) and statement.columns not in ((), types):
                raise Wrong(f"{statement.text!r} was described as {types}")
        return self.expect(found, expected, f"{name}: {statement.text!r}")

    def answer(self, name: str, values: tuple[str | None, ...], is_described: bool = False) -> object:
        """What a statement must answer to somebody who was told its columns, or not."""
        statement = self.statements[name]
        expected = statement.answer(self.model, values)
        if statement.varies and self.told[name] not in (None, TYPED[self.model["search_path"]]):
            if isinstance(expected, list):
                # It was told others meanwhile, with the answer of a portal that it had described.
                return {RESULT_CHANGED, *map(tuple, expected)}
            return expected if is_described else RESULT_CHANGED
        return expected

    def use_many(self) -> None:
        """Pipelined, each a unit of its own."""
        if self.model.is_in_transaction or not self.statements:
            return self.use()
        uses = []
        for name in self.chance.choices(list(self.statements), k=self.chance.randrange(2, 8)):
            values = self.statements[name].values()
            uses.append((name, values, self.answer(name, values)))
        self.send(*(bind(*values, name=name) + execute() + SYNC for name, values, _ in uses))
        is_unknown = False
        texts = {name: statement.text for name, statement in self.statements.items()}
        for name, _, expected in uses:
            try:
                self.expect(self.hear(), expected, f"{name}: {texts[name]!r} in a pipeline")
            except Unknown:
                is_unknown = True
        if is_unknown:
            raise Unknown
        return None

    def use_several_in_one_unit(self) -> None:
        names = [name for name in self.statements if isinstance(self.answer(name, ()), list)]
        if not names or self.model.failed:
            return self.use()
        uses = [(name, self.statements[name].values()) for name in self.chance.choices(names, k=3)]
        found = self.ask(*(bind(*values, name=name) + execute() for name, values in uses), SYNC)
        rows = [row for name, values in uses for row in self.answer(name, values)]  # type: ignore[attr-defined]
        return self.expect(found, rows, "several in one unit")

    def use_wrongly(self) -> None:
        name = self.chance.choice(NAMES)
        if name not in self.statements:
            parts, code = [close("S", name), bind(name=name), execute()], NOT_THERE
        elif self.model.failed:
            parts, code = [bind(*self.statements[name].values(), name=name), execute()], IN_FAILED_TRANSACTION
        else:
            parts, code = [bind(*self.statements[name].values(), "more", name=name), execute()], WRONG_COUNT
        self.expect(self.ask(*parts, SYNC), code, f"wrong use of {name!r}")

    def close(self) -> None:
        name = self.chance.choice(NAMES)
        self.doubtful.add(name)
        if name and name in self.statements and self.chance.random() < 0.5 and not self.model.failed:
            self.run(f"deallocate {name}", "DEALLOCATE")
        else:
            self.expect(self.ask(close("S", name), SYNC), [], "Close")
        self.doubtful.discard(name)
        self.statements.pop(name, None)

    def deallocate_all(self) -> None:
        self.doubtful |= {*NAMES, "c"}
        self.run("deallocate all", "DEALLOCATE ALL")
        self.doubtful.clear()
        self.changing = ()
        self.statements.clear()

    def discard_all(self) -> None:
        self.doubtful |= {*NAMES, "c"}
        self.run("discard all", "DISCARD ALL", self.model.discard_all)
        self.doubtful.clear()
        self.changing = ()
        self.statements.clear()
        self.locks.clear()
        self.listens = self.has_temporary = False

    def use_what_changes(self) -> None:
        """A table that others alter: never other types than were described, though it may be an error."""
        if not self.changing or self.chance.random() < 0.3:
            self.doubtful.add("c")
            self.changing = ()
            found = self.ask(close("S", "c"), parse("select * from home.changing", "c"), describe("S", "c"), SYNC)
            self.expect(found, [], "Parse of what changes")
            self.doubtful.discard("c")
            self.changing = self.described(found) or ()
        found = self.ask(bind_as([], [], [1], "c"), execute(), SYNC)
        codes = [each.fields["C"] for each in found if each.tag == "E"]
        sizes = [SIZES[each] for each in self.changing]
        rows = [[len(value or b"") for value in each.raw] for each in found if each.tag == "D"]
        if codes != [RESULT_CHANGED] and (codes or rows != [sizes]):
            raise Wrong(f"described as {self.changing}, and answered with {rows} {codes}")
        self.counts["times a result had changed"] += len(codes)
        self.settle(found)
