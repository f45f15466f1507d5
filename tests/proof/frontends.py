"""What the frontends of the proof run do. Every step knows the one right answer, or the few, and accepts no other.

A life is one session. In a tame one nothing is done that a session could hold, so that the pool must never close it,
whatever happens to backends; all tame lives are in a few groups, whose statements ride. A wild one is one of the leak
fuzz: settings, temporary tables, locks, channels, prepared statements.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.cluster import fuzz, wire
from tests.cluster.wire import SYNC, Message, bind, execute, once, parse, query
from tests.proof.books import Books
from tests.proof.reads import Reader, is_calm
from tests.proof.schema import HOT
from tests.proof.session import CANCELED, Lost, Session, Told, Unknown, Wrong

# What tame lives begin with; most are in the first group. All know the custom setting: a worker that knows it is of no
# use for those who do not, so that too many of both kinds would have the pool do little else than start workers.
STARTS = [fuzz.Start("leaks_1", "proof", "tenant 1")] * 6 + [
    fuzz.Start("leaks_2", "proof", "tenant 1"), fuzz.Start("leaks_1", "proof", "tenant 2"),
    fuzz.Start("leaks_3", "proof three", "tenant 2", "leaks_role"),
]  # fmt: skip
LEAKY = [
    "select leaks.leaky_set()", "select leaks.leaky_tenant()", "select leaks.leaky_lock()", "select leaks.leaky_temp()",
    "select leaks.leaky_listen()", "insert into leaks.triggered values (1, 'x')", "call leaks.leaky_call()",
    "table leaks.leaky_view", "do $$begin set search_path to leaks_3; set leaks.tenant to 'stolen'; end$$",
    "update pg_settings set setting = 'leaks_3' where name = 'search_path'", "create temp table left_behind (n int)",
    "listen leaks_heard", "select pg_advisory_lock(4711)", "set application_name to 'stolen'", "set role leaks_role",
    "begin; set local search_path to leaks_3", "prepare p as select 1", "load 'auto_explain'",
]  # fmt: skip
TAME_STEPS = 400
WILD_EVERY = 10  # so many frontends have one among them whose lives are wild
UNSET_EVERY = 40  # and so many one in whose lives the custom setting may not be known


class Frontend(Reader):
    """One frontend, life after life, until the books say that all is done, or spoilt.

    is_over      asked before every step
    patience_s   before a cancel; all learn it together
    """

    patience_s = 0.02

    def __init__(self, where: object, number: int, seed: int, books: Books, is_over: Callable[[], bool]) -> None:
        super().__init__(where, number, seed, steps=0)
        self.books = books
        self.counts = books.counts
        self.is_over = is_over
        self.is_wild = number % WILD_EVERY == WILD_EVERY - 1
        self.model = fuzz.Model(number, self.random)
        self.knows_tenant = number % UNSET_EVERY != UNSET_EVERY - 1

    # --- lives ------------------------------------------------------------------------------------------------------

    def run_all(self) -> None:
        while not self.is_over() and not self.books.is_spoilt:
            if self.is_wild and is_calm():
                time.sleep(0.1)
                continue
            try:
                self.live() if self.is_wild else self.live_tamely()
            except Told:
                if not self.is_wild:
                    self.books.wrong.append(f"{self}: what was told ended a session that holds nothing")
            except AssertionError as error:
                kind = self.books.leaked if isinstance(error, fuzz.Leak) else self.books.wrong
                kind.append(f"{self}: {error}")
            except Exception as error:
                self.books.wrong.append(f"{self}: {error!r}")

    def __repr__(self) -> str:
        return f"frontend {self.number} {self.model.initial} after {list(self.story)[-4:]}"

    def connect(self) -> Session:
        self.counts["sessions"] += 1
        if self.knows_tenant and "leaks.tenant" not in self.model.start:
            self.model.tenant = "tenant 0"
            self.model.begin()
        return Session(self.where, self.counts, holds=self.is_wild, **self.model.start)

    def live_tamely(self) -> None:
        self.lives += 1
        self.model = fuzz.Model(self.number, self.random, self.random.choice(STARTS))
        self.story.append(f"START {self.model.start}")
        with self.connect() as self.session:
            steps = self.random.choices(*STEPS, k=self.random.randrange(1, TAME_STEPS))
            for step in steps:
                if self.is_over() or self.books.is_spoilt:
                    break
                self.done += 1
                self.story.append(step.__name__)
                try:
                    step(self)
                except Unknown:
                    self.counts["reads that are unknown"] += 1
            if self.random.random() < 0.3:
                self.vanish_with_a_row()
            else:
                self.say_goodbye()

    # --- writes -----------------------------------------------------------------------------------------------------

    def insert(self) -> None:
        self.write_rows(1, lambda ids: self.either(f"insert into leaks.books values ('{ids[0]}')"))

    def insert_by_parameter(self) -> None:
        self.write_rows(1, lambda ids: once("insert into leaks.books values ($1, 'p')", ids[0]))

    def insert_several(self) -> None:
        """One unit is one transaction: all of it, or nothing."""
        def build(ids: list[str]) -> bytes:
            head, last = [parse("insert into leaks.books values ($1)") + bind(each) + execute() for each in ids]
            return head + last + SYNC

        self.write_rows(2, build)

    def commit_and_wait(self) -> None:
        """What was committed may lose its backend before it is answered: it is unknown then, and never run again."""
        texts = ["begin; insert into leaks.books values ('{}'); commit; select 1 from pg_sleep(0.05)"]
        if not is_calm():
            texts.append("call leaks.commit_and_wait('{}')")
        text = self.random.choice(texts)
        row = self.word()
        self.books.unknown.add(row)
        told = self.told(self.session.ask(query(text.format(row))))
        self.expect(told, "CALL" if text.startswith("call") else "BEGIN", "answer")
        self._book(self.books.acked, [row])

    def insert_and_look(self) -> None:
        (row,) = ids = self.write_rows(1, lambda ids: self.either(f"insert into leaks.books values ('{ids[0]}')"))
        if ids[0] in self.books.acked:
            rows = self.answer(self.either(f"select id from leaks.books where id = '{row}'"))
            self.expect(rows, [[row]], "own row")

    def write_rows(self, count: int, build: Callable[[list[str]], bytes], may_cancel: bool = False) -> list[str]:
        ids = [self.word() for _ in range(count)]
        self.books.unknown.update(ids)
        self.session.send(build(ids))
        try:
            told = self.told(self.canceled() if may_cancel else self.session.until_ready())
        except Unknown:
            return ids
        if told == "INSERT 0 1":
            self._book(self.books.acked, ids)
        elif told == CANCELED and may_cancel:
            self._book(self.books.refused, ids)
        else:
            raise Wrong(f"an INSERT was answered with {told}")
        return ids

    def _book(self, where: set[str], ids: list[str]) -> None:
        self.books.unknown.difference_update(ids)
        self.books.refused.difference_update(ids)
        where.update(ids)

    def add_to_a_hot_row(self) -> None:
        row = self.random.choice(HOT)
        try:
            self.answer(self.either(f"update leaks.hot set n = n + 1 where id = '{row}'"))
            self.books.added[row] += 1
        except Unknown:
            self.books.doubtful[row] += 1

    def copy(self) -> None:
        ids = [self.word() for _ in range(3)]
        self.session.send(query("copy leaks.books (id) from stdin"))
        self.session.judge(self.session.until("GZ"))
        self.books.unknown.update(ids)
        self.session.send(*(wire.copy_data(f"{each}\n") for each in ids), wire.COPY_DONE)
        self.expect(self.told(self.session.until_ready()), "COPY 3", "COPY")
        self._book(self.books.acked, ids)

    def transaction(self) -> None:
        ids = [self.word() for _ in range(2)]
        ending = self.random.choice(["commit", "commit", "rollback", "fail"])
        end, at = "commit" if ending == "commit" else "rollback", "begin"
        self.books.refused.update(ids)
        try:
            self.answer(query("begin"))
            at = "inside"
            for row in ids:
                self.answer(self.either(f"insert into leaks.books values ('{row}')"))
            if ending == "fail":
                self.expect(self.told(self.session.ask(self.either("select 1 / 0"))), "22012", "error")
                self.expect(self.told(self.session.ask(self.either("select 1"))), "25P02", "failed transaction")
            at = "end"
            found = self.session.ask(self.either(end))
            self.expect((self.told(found), found[-1].body), (end.upper(), b"I"), "end")
        except Unknown:
            if at == "inside":
                raise Wrong("a transaction that cannot have been committed was declared unknown") from None
            if (at, end) == ("end", "commit"):
                self._book(self.books.unknown, ids)
        except Lost:
            self.counts["transactions that were lost"] += 1
            found = self.session.ask(query(self.random.choice(["rollback", "commit"])))
            self.expect((self.told(found), found[-1].body), ("ROLLBACK", b"I"), "end of a transaction that is lost")
        else:
            if end == "commit":
                self._book(self.books.acked, ids)

    # --- cancels ----------------------------------------------------------------------------------------------------

    def canceled(self) -> list[Message]:
        """The answer of what is in flight, and is canceled when it is about to end, be that in time or not."""
        self.session.may_cancel = True
        time.sleep(self.patience_s)
        self.cancel_what_is_there()
        try:
            found = self.session.until_ready()
        finally:
            self.session.may_cancel = False
        was_early = self.told(found) == CANCELED
        Frontend.patience_s = min(0.2, max(0.0, self.patience_s + (0.002 if was_early else -0.002)))
        return found

    def cancel_what_is_there(self) -> None:
        self.counts["cancels sent"] += 1
        self.session.cancel()

    def cancel_a_read(self) -> None:
        """The shape is another now and then, so that it is known to be quick, and others ride behind the slow ones."""
        rows = 1 if self.random.random() < 0.93 else 120_000
        shape = f"c{int(time.monotonic() * 2)}"
        self.session.send(self.either(f"select count(*) as {shape} from (select generate_series(1, {rows})) x"))
        found = self.canceled() if rows > 1 or self.random.random() < 0.1 else self.session.until_ready()
        if self.told(found) != CANCELED:
            self.expect([each.values for each in found if each.tag == "D"], [[str(rows)]], "count")

    def cancel_pipelined_reads(self) -> None:
        """Whichever of one's own it meets."""
        words = [self.word() for _ in range(3)]
        self.session.send(*(self.either(f"select '{word}'") for word in words))
        self.session.may_cancel = True
        self.cancel_what_is_there()
        try:
            for word in words:
                try:
                    found = self.session.until_ready()
                except Unknown:
                    self.counts["reads that are unknown"] += 1
                    continue
                if self.told(found) != CANCELED:
                    self.expect([each.values for each in found if each.tag == "D"], [[word]], "answer")
        finally:
            self.session.may_cancel = False

    def cancel_an_insert(self) -> None:
        self.write_rows(1, lambda ids: self.either(f"insert into leaks.books values ('{ids[0]}')"), may_cancel=True)

    def cancel_nothing(self) -> None:
        """What comes next is not canceled instead."""
        self.cancel_what_is_there()
        self.read()

    # --- what others may not notice ---------------------------------------------------------------------------------

    def do(self) -> None:
        self.expect(self.told(self.session.ask(self.either("do $$begin perform 1; end$$"))), "DO", "DO")

    def let_somebody_leak(self) -> None:
        """Somebody of the same group does to the session what can be done, and leaves."""
        if is_calm():
            return self.who_am_i()
        thief = Session(self.where, self.counts, holds=True, **self.model.start)
        try:
            thief.ask(query(self.random.choice(LEAKY)))
            if self.random.random() < 0.5:
                thief.ask(query("select 1"))
                thief.send(wire.TERMINATE)
        except Told:
            pass
        finally:
            thief.sock.close()
        return None

    def vanish_with_a_row(self) -> None:
        row = self.word()
        self.books.unknown.add(row)
        self.counts["vanished"] += 1
        part = self.either(f"insert into leaks.books values ('{row}')")
        self.session.send(part[: self.random.choice([len(part), self.random.randrange(len(part))])])


WEIGHTS = {
    Frontend.read: 300, Frontend.read_by_parameter: 120, Frontend.read_a_row: 250, Frontend.read_a_view: 40,
    Frontend.who_am_i: 60, Frontend.read_wide: 8, Frontend.fail: 30, Frontend.fail_in_the_middle: 10,
    Frontend.notice: 10, Frontend.pipeline: 20, Frontend.page: 10, Frontend.binary: 10, Frontend.only_describe: 5,
    Frontend.nothing: 5, Frontend.stream: 5, Frontend.slow: 10, Frontend.read_locked: 20,
    Frontend.look_at_everything: 4, Frontend.read_with_functions: 20, Frontend.insert: 40,
    Frontend.insert_by_parameter: 30, Frontend.insert_several: 10, Frontend.insert_and_look: 10,
    Frontend.add_to_a_hot_row: 15, Frontend.copy: 3, Frontend.transaction: 12, Frontend.commit_and_wait: 5,
    Frontend.parse_and_run_later: 8, Frontend.cancel_a_read: 60, Frontend.cancel_pipelined_reads: 3,
    Frontend.cancel_an_insert: 3, Frontend.cancel_nothing: 3, Frontend.do: 3, Frontend.let_somebody_leak: 3,
}  # fmt: skip
STEPS = list(WEIGHTS), list(WEIGHTS.values())
