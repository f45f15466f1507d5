"""Frontends that feel at home: prepared statements, transactions, locks, temporary tables and settings, all at once.

Each knows what its session is (`model`) and what each of its statements must answer therefore (`statements`), and
accepts nothing else, on whichever worker it may run. All of them use the same few names for statements of their own.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.cluster.fuzz import Leak
from tests.cluster.wire import FLUSH, SYNC, bind, close, execute, once, parse, query
from tests.proof.preparer import Preparer
from tests.proof.session import Lost, Over, Session, Told, Unknown, Wrong
from tests.proof.tenant import CHANNEL, IN_FAILED_TRANSACTION

STEPS = 60  # in one life, at most
HOLDS_EVERY = 8  # so many lives have one among them that uses what a session has to be held for
PLAIN_EVERY = 3  # and so many one that begins with nothing of its own, and sets nothing, so that its statements ride


class Resident(Preparer):
    """One frontend, life after life, until the books say that all is done, or spoilt.

    rows   what was inserted: in the transaction, and since each savepoint in it
    """

    rows: list[list[str]]

    # --- lives -------------------------------------------------------------------------------------------------------

    def run_all(self) -> None:
        while not self.is_over() and not self.books.is_spoilt:
            try:
                self.live()
            except Over:
                self._book(self.books.unknown)
            except Told as told:
                self.books.wrong.append(f"{self}: {type(told).__name__}, which cannot be here: {told}")
            except AssertionError as error:
                kind = self.books.leaked if isinstance(error, Leak) else self.books.wrong
                kind.append(f"{self}: {error}")
            except Exception as error:
                self.books.wrong.append(f"{self}: {error!r}")

    def live(self) -> None:
        self.lives += 1
        self.counts["sessions"] += 1
        is_plain = (self.number + self.lives) % PLAIN_EVERY == 0
        self.move_in(is_plain)
        self.rows = []
        steps = list(PLAIN) if is_plain else [*PLAIN, *SETTING]
        steps += SESSION if self.chance.randrange(HOLDS_EVERY) == 0 else []
        self.story.append(f"START {self.model.start}")
        with Session(self.where, self.counts, holds=False, **self.model.start) as self.session:
            self.step(Resident.look)
            for _ in range(self.chance.randrange(1, STEPS)):
                if self.is_over() or self.books.is_spoilt:
                    break
                self.step(self.chance.choice(steps))
            if self.chance.random() < 0.4:
                self.vanish()
            else:
                self.session.send(b"X\0\0\0\4")

    def step(self, step: Callable[[Resident], None]) -> None:
        self.story.append(step.__name__)
        try:
            step(self)
        except Unknown:
            self.counts["statements that are unknown"] += 1
            self.insist(self.find_out)
        if self.doubtful:
            self.insist(self.forget_doubtful)

    def insist(self, act: Callable[[], None]) -> None:
        while True:
            try:
                return act()
            except Unknown:
                self.counts["statements that are unknown"] += 1

    def vanish(self) -> None:
        self.counts["vanished"] += 1
        last = self.chance.choice([
            once("select pg_sleep(0.01)"), query("begin; set local work_mem to '5MB'"),
            query("set search_path to home_3"), parse("select 'left'", "s1") + SYNC, parse("select 'left'") + FLUSH,
            query("set role home_role_2"), bind(name="s1") + execute() + SYNC,
            query("begin; select pg_advisory_xact_lock(5, 5 + pg_backend_pid())"),
        ])  # fmt: skip
        self.session.send(last[: self.chance.randrange(len(last) + 1)])

    # --- transactions ------------------------------------------------------------------------------------------------

    def transaction(self) -> None:
        self.rows = []
        at_end = False
        try:
            self.run(*self.chance.choice([("begin", "BEGIN"), ("start transaction", "START TRANSACTION")]), self.begin)
            for _ in range(self.chance.randrange(1, 9)):
                step = self.chance.choice(INNER)
                self.story.append(f"  {step.__name__}")
                step(self)
            at_end = True
            self.end(self.chance.choice(["commit", "commit", "rollback"]))
        except Unknown:
            if not self.model.is_in_transaction:
                raise  # BEGIN itself
            if not at_end:
                raise Wrong("what cannot have been committed was declared unknown") from None
            self._book(self.books.unknown)
            raise
        except Lost:
            self.counts["transactions that were lost"] += 1
            self._book(self.books.refused)
            self.model.failed = True
            self.intent = self.model.rollback
            self.statements.pop("", None)
            self.expect(self.ask(query(self.chance.choice(["rollback", "commit"]))), "ROLLBACK", "end of what is lost")

    def begin(self) -> None:
        self.model.begin()
        self.rows = [[]]

    def end(self, how: str) -> None:
        commits = how == "commit" and not self.model.failed
        if not commits:
            self._book(self.books.refused)
        self.intent = self.model.commit if commits else self.model.rollback
        self.expect(self.either(how), "COMMIT" if commits else "ROLLBACK", how)
        if commits:
            self._book(self.books.acked)
        self.rows = []

    def _book(self, where: set[str]) -> None:
        ids = [row for rows in self.rows for row in rows]
        self.books.unknown.difference_update(ids)
        self.books.refused.difference_update(ids)
        where.update(ids)

    def savepoint(self) -> None:
        def intent() -> None:
            self.model.savepoint()
            self.rows.append([])

        self.run("savepoint s", "SAVEPOINT", intent)

    def rollback_to(self) -> None:
        if len(self.rows) > 1:
            self.intent = self.model.rollback_to
            self.expect(self.either("rollback to s"), "ROLLBACK", "rollback to")
            self.books.unknown.difference_update(self.rows[-1])
            self.books.refused.update(self.rows[-1])
            self.rows[-1] = []

    def release(self) -> None:
        if len(self.rows) > 1 and not self.model.failed:
            self.run("release s", "RELEASE", self.model.release)
            inner = self.rows.pop()
            self.rows[-1] += inner

    def insert(self) -> None:
        row = self.word()
        if not self.model.is_in_transaction:
            self.rows = [[]]
        is_failed = self.model.failed
        self.rows[-1].append(row)
        self.books.unknown.add(row)
        self.run(f"insert into home.books values ('{row}')", "INSERT 0 1")
        if not self.model.is_in_transaction:
            self._book(self.books.acked)
            self.rows = []
        elif is_failed:
            self.rows[-1].remove(row)
            self.books.unknown.discard(row)
            self.books.refused.add(row)

    def fail(self) -> None:
        found = self.either("select 1 / 0")
        self.expect(found, IN_FAILED_TRANSACTION if self.model.failed else "22012", "error")

    def portal(self) -> None:
        """A portal lives across units, as long as its transaction."""
        if self.model.failed:
            return
        word = self.word()
        self.doubtful.add("p")
        text = f"select '{word}' || n from generate_series(1, 5) n"
        self.expect(self.ask(parse(text, "p"), bind(name="p", portal="p"), SYNC), [], "portal")
        self.expect(self.ask(execute("p", 2), SYNC), [[f"{word}1"], [f"{word}2"]], "two rows")
        self.use()
        if not self.model.failed:
            found = self.ask(execute("p"), close("P", "p"), close("S", "p"), SYNC)
            self.expect(found, [[f"{word}{n}"] for n in (3, 4, 5)], "the other rows")
        else:
            self.expect(self.ask(close("S", "p"), SYNC), [], "Close")
        self.doubtful.discard("p")

    # --- what a session is held for ----------------------------------------------------------------------------------

    def lock(self) -> None:
        # Not the keys of its last session, whose end the server may still have before it.
        key = self.number * 1_000_000 + self.lives * 10 + self.chance.randrange(3)
        self.may_be_held = True
        if key in self.locks:
            self.run(f"select pg_advisory_unlock({key})", "t")
            self.locks.discard(key)
        else:
            self.run(f"select pg_try_advisory_lock({key})", "t")
            self.locks.add(key)

    def listen(self) -> None:
        self.may_be_held = self.listens = True
        try:
            self.run(f"listen {CHANNEL}", "LISTEN")
        except Unknown:
            self.listens = False
            raise

    def unlisten(self) -> None:
        self.run("unlisten *", "UNLISTEN")
        self.listens = False

    def notify(self) -> None:
        word = self.word()
        found = self.either(f"select pg_notify('{CHANNEL}', '{word}')")
        self.expect(found, [[""]], "notify")
        heard = any(each.tag == "A" and word.encode() in each.body for each in found)
        if heard is not self.listens:
            raise Wrong(f"notified of its own: {heard}, listens: {self.listens}")

    def temporary(self) -> None:
        self.may_be_held = True
        if not self.has_temporary:
            self.statements.pop("", None)
            text = f"create temp table mine as select '{self.number}' as whose; grant all on mine to public"
            self.expect(self.ask(query(text)), "GRANT", text)
            self.has_temporary = True
        elif self.chance.random() < 0.3 and self.model["role"] == "none":
            self.run("drop table mine", "DROP TABLE")
            self.has_temporary = False
        else:
            self.expect(self.either("select whose from mine"), [[str(self.number)]], "temporary table")


STATEMENTS = [
    *[Resident.prepare] * 6, *[Resident.use] * 12, *[Resident.use_many] * 4, *[Resident.use_several_in_one_unit] * 3,
    Resident.use_wrongly, *[Resident.close] * 2, Resident.fail, *[Resident.look] * 3, *[Resident.insert] * 2,
]  # fmt: skip
PLAIN = [*STATEMENTS, Resident.deallocate_all, Resident.use_what_changes, *[Resident.transaction] * 2]
SETTING = [
    *[Resident.set] * 6, *[Resident.set_several] * 2, Resident.set_nonsense, Resident.reset_all, Resident.discard_all,
    *[Resident.transaction] * 3,
]  # fmt: skip
INNER = [
    *STATEMENTS, *[Resident.set] * 6, Resident.set_several, Resident.set_nonsense, Resident.reset_all, Resident.portal,
    *[Resident.savepoint] * 4, *[Resident.rollback_to] * 6, *[Resident.release] * 2,
]  # fmt: skip
SESSION = [
    *[Resident.lock] * 4, *[Resident.listen] * 2, Resident.unlisten, *[Resident.notify] * 3, *[Resident.temporary] * 4,
]  # fmt: skip
