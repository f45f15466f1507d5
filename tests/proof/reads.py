"""What the frontends of the proof run read, in every way in which something can be read."""

from __future__ import annotations

import struct
import time
from collections import Counter

from tests.cluster import fuzz, wire
from tests.cluster.wire import FLUSH, SYNC, Message, bind, describe, execute, once, parse, query
from tests.proof.schema import FACTS
from tests.proof.session import Session, Unknown, Wrong

FAILING = [
    ("select 1 / 0", "22012"), ("select from where", "42601"), ("table leaks.not_there", "42P01"),
    ("select 'x'::int", "22P02"),
]
PHASE_S = 4.0  # so long whoever changes the catalog or sessions does so, and so long he rests


def is_calm() -> bool:
    """Whether it is a time in which nobody changes the catalog, so that the pool knows what is harmless.

    Else it hardly ever would: whatever may have changed the catalog has it scanned again, and nothing rides meanwhile.
    """
    return time.monotonic() % (2 * PHASE_S) < PHASE_S


class Reader(fuzz.Frontend):
    """The steps that read."""

    session: Session
    counts: Counter[str]

    # --- what is asked ----------------------------------------------------------------------------------------------

    def word(self) -> str:
        self.done += 1
        return f"{self.number}/{self.lives}/{self.done}"

    def either(self, sql: str) -> bytes:
        return query(sql) if self.random.random() < 0.5 else once(sql)

    def answer(self, *parts: bytes) -> list[list[str | None]]:
        """Rows of one unit that must not fail, and say nothing that its frontend has not asked for."""
        found = self.session.ask(*parts)
        strange = [each for each in found if each.tag in "EANS"]
        if strange:
            raise Wrong(f"{strange}")
        return [each.values for each in found if each.tag == "D"]

    def told(self, found: list[Message]) -> str:
        """The SQLSTATE of an answer, or its command tag."""
        for each in found:
            if each.tag == "E":
                return each.fields["C"]
            if each.tag == "C":
                return each.body[:-1].decode()
        return ""

    # --- reads ------------------------------------------------------------------------------------------------------

    def read(self) -> None:
        word = self.word()
        self.expect(self.answer(self.either(f"select '{word}'")), [[word]], "answer")

    def read_by_parameter(self) -> None:
        word = self.word()
        self.expect(self.answer(once("select $1", word)), [[word]], "answer")

    def read_a_row(self) -> None:
        number = self.random.randrange(1, FACTS)
        rows = self.answer(self.either(f"select id, note from leaks.facts where id = {number}"))
        self.expect(rows, [[str(number), f"fact {number}"]], "row")

    def read_a_view(self) -> None:
        number = self.random.randrange(1, FACTS)
        rows = self.answer(self.either(f"with v as (table leaks.harmless_view) select note from v where id = {number}"))
        self.expect(rows, [[f"FACT {number}"]], "row")

    def who_am_i(self) -> None:
        model = self.model
        row = self.answer(self.either(
            "select current_user, session_user, current_setting('search_path'), current_setting('application_name'), "
            "current_setting('leaks.tenant', true), name, current_setting('work_mem') from whose"
        ))[0]  # fmt: skip
        user = model.role or wire.roles.TRUST.name
        whose = model.schema.replace("leaks_", "schema ")
        expected = [user, wire.roles.TRUST.name, model.schema, model.name, model.tenant, whose, "4MB"]
        self.expect_state(row, expected, "state")

    def read_wide(self) -> None:
        rows, width = self.random.choice([(50, 100), (300, 300), (10, 10_000), (3000, 50)])
        word = self.word()
        found = self.answer(
            self.either(f"select '{word}', n, repeat(chr(97 + n % 26), {width}) from generate_series(1, {rows}) n")
        )
        expected = [[word, str(n), chr(97 + n % 26) * width] for n in range(1, rows + 1)]
        if found != expected:
            raise Wrong(f"{len(found)} rows of {word} are not the {rows} that were asked for")

    def fail(self) -> None:
        text, code = self.random.choice(FAILING if is_calm() else [*FAILING, ("selekt", "42601")])
        found = self.session.ask(self.either(text))
        self.expect((self.told(found), found[-1].body), (code, b"I"), "error")

    def fail_in_the_middle(self) -> None:
        """What stands behind an error up to the Sync does not run."""
        word = self.word()
        head = parse(f"select '{word}'") + bind() + execute()
        found = self.session.ask(head, parse("select 1 / (1 - $1::int)"), bind("1"), execute(), once("select 'never'"))
        self.expect([each.values for each in found if each.tag == "D"], [[word]], "rows before the error")
        self.expect([each.fields["C"] for each in found if each.tag == "E"], ["22012"], "error")

    def notice(self) -> None:
        found = self.session.ask(self.either("select to_tsquery('english', 'the')"))
        self.expect([each.tag for each in found if each.tag in "NED"], ["N", "D"], "notice and row")

    def pipeline(self) -> None:
        words = [self.word() for _ in range(self.random.randrange(2, 9))]
        ways = [self.random.randrange(4) for _ in words]
        units = {0: "select 1 / 0", 1: "select '{}'", 2: "select '{}'", 3: "select '{}'"}
        self.session.send(*(self.either(units[way].format(word)) for way, word in zip(ways, words, strict=True)))
        for way, word in zip(ways, words, strict=True):
            try:
                found = self.session.until_ready()
            except Unknown:
                self.counts["reads that are unknown"] += 1
                continue
            rows = [each.values for each in found if each.tag == "D"]
            self.expect((rows, "E" in [each.tag for each in found]), ([[word]] if way else [], way == 0), "pipeline")

    def page(self) -> None:
        word = self.word()
        sql = f"select '{word}', n from generate_series(1, 5) n"
        rows = self.answer(parse(sql), bind(), execute(rows=2), execute(rows=2), execute(), SYNC)
        self.expect(rows, [[word, str(n)] for n in range(1, 6)], "pages")

    def binary(self) -> None:
        number = self.random.randrange(1 << 30)
        plain = wire.message(b"B", b"\0\0" + struct.pack("!HHHH", 0, 0, 1, 1))
        found = self.session.ask(parse(f"select {number}"), plain, execute(), SYNC)
        rows = [each.body for each in found if each.tag == "D"]
        self.expect(rows, [struct.pack("!HiI", 1, 4, number)], "binary")

    def only_describe(self) -> None:
        found = self.session.ask(parse("select 1 as one, 'x'::text as two"), describe("S"), SYNC)
        self.expect("".join(each.tag for each in found), "1tTZ", "description")

    def nothing(self) -> None:
        self.expect("".join(each.tag for each in self.session.ask(query(""))), "IZ", "nothing")

    def stream(self) -> None:
        word = self.word()
        self.session.send(parse("select $1::text"), describe("S"), FLUSH)
        self.has_begun(self.session.until("TE"))
        self.expect(self.answer(bind(word), execute(), SYNC), [[word]], "streamed")

    def has_begun(self, found: list[Message]) -> None:
        if found[-1:] and found[-1].tag == "E":  # its backend was lost, and it is ready for more behind a Sync
            self.session.send(SYNC)
            found += self.session.until("Z")
            self.session.judge(found)
        super().has_begun(found)

    def parse_and_run_later(self) -> None:
        """The unnamed statement is the frontend's own, whatever others have run on the backend meanwhile."""
        word = self.word()
        self.expect("".join(each.tag for each in self.session.ask(parse(f"select '{word}'"), SYNC)), "1Z", "Parse")
        for _ in range(self.random.randrange(1, 4)):
            self.expect(self.answer(bind(), execute(), SYNC), [[word]], "unnamed statement")

    def slow(self) -> None:
        """The shape is quick most of the time; that other statements stand behind it is what it is for."""
        rows = self.random.choice([1, 10, 100, 1000, 200_000])
        sql = f"select count(*) from (select generate_series(1, {rows})) x{self.random.randrange(30)}"
        self.expect(self.answer(self.either(sql)), [[str(rows)]], "count")

    def read_locked(self) -> None:
        shape = int(time.monotonic()) // 4  # after one was caught waiting, another is soon known to be quick
        sql = f"select note as n{shape} from leaks.locked where id = 1"
        self.expect(self.answer(self.either(sql)), [["locked"]], "row of a table that is locked at times")

    def look_at_everything(self) -> None:
        self.check()
