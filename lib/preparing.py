"""The prepared statements of a frontend: what its units name, on whichever backend they run.

Green only by what it points to: no I/O here. Statements belong to the frontend. A unit that names one is made ready for
any backend before it is dispatched (`resolve`), and what came about of it is noted when it was answered (`note`).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

from lib.backend.unit import EXTENDED, SIMPLE, Unit
from lib.route import parsing
from lib.route.combine import EARLIER, combine
from lib.route.verdict import Kind, Verdict
from lib.wire import messages
from lib.wire.framing import frontend_header
from lib.wire.prepared import KEPT, Prepared, Resolver, Statement, Unnamed, Watch, body_of

if TYPE_CHECKING:
    from lib.backend.worker import Worker
    from lib.frontend import Frontend

_ALL = "*"
_SEES_ALL = b"pg_prepared_statement"
_NAMES_STATEMENTS = re.compile(rb"\b(?:deallocate|execute|prepare)\b|pg_prepared_statement")
_BIND_TAG, _EXECUTE_TAG = b"BE"
# What libpq and most drivers send behind a Bind: Describe of the unnamed portal or nothing, Execute of all rows, Sync.
_EXECUTE = b"E\0\0\0\x09\0\0\0\0\0"
_EXECUTES = b"E\0\0\0"
_USUAL_ENDS = frozenset(describe + _EXECUTE + messages.SYNC for describe in (b"", b"D\0\0\0\x06P\0"))
_int32 = struct.Struct("!I").pack


class PreparedStatements:
    """What one frontend has prepared.

    unnamed   the Parse of its unnamed statement, or what that is on backends when somebody has asked
    """

    __slots__ = ("_frontend", "_named", "_replaced", "unnamed")

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend
        self._named: dict[bytes, Prepared] = {}
        self._replaced: dict[Prepared, Statement] = {}  # what those are that another stands for on the worker it holds
        self.unnamed: Unnamed | None = None

    def __repr__(self) -> str:
        return f"<PreparedStatements {len(self._named)}{' and an unnamed one' if self.unnamed else ''}>"

    # --- before a unit -----------------------------------------------------------------------------------------------

    def usual(self, data: bytes, length: int) -> Unit | None:
        """The unit in `data` when that is what nearly all are: one statement of an earlier unit is run in full.

        length   of the Bind that it begins with
        """
        if data[length + 1 :] not in _USUAL_ENDS or data[5]:
            return None
        name_end = data.find(b"\0", 6, length)
        prepared = self._named.get(data[6:name_end])
        if prepared is None:
            return None
        if self._replaced:
            self._put_back()
        frontend, statement = self._frontend, prepared.statement
        router = frontend.router
        known = statement.known
        if statement.known_since != router.age:
            known, statement.known_since = router.known(statement.text), router.age
            statement.known = known
        name = statement.name
        size = length - name_end + 6 + len(name)
        unit = Unit(frontend, b"B%b\0%b%b" % (_int32(size), name, data[name_end:]), EXTENDED, known.verdict)
        unit.uses = (prepared,)
        unit.known, unit.marks = known, known.marks
        if data[length + 1] == _EXECUTE_TAG:
            unit.is_strict = True
        elif not prepared.told:
            unit.watch = self._watch_portal(prepared)
        return unit

    @staticmethod
    def _watch_portal(prepared: Prepared) -> Watch:
        """For the answer of a unit that binds it and asks for the columns of that first of all, and for no others."""
        row = prepared.row
        return Watch((prepared,), messages.BIND_COMPLETE + row) if row else Watch((prepared,))

    def resolver(self) -> Resolver:
        resolver = Resolver(self._find, self._make)
        if self.unnamed is KEPT:
            resolver.keep_unnamed()
        worker = self._frontend.worker
        resolver.has_own = worker is not None and worker.session
        return resolver

    def _find(self, name: bytes) -> Prepared | None:
        if name:
            prepared = self._named.get(name)
        else:
            if isinstance(self.unnamed, bytes):
                self.unnamed = self._make(body_of(self.unnamed), b"")
            prepared = self.unnamed
        worker = self._worker
        if worker is None:
            self._put_back()
        elif prepared is not None and prepared.statement not in worker.statements:
            self._see_to_it(prepared, worker)
        return prepared

    def _see_to_it(self, prepared: Prepared, worker: Worker) -> None:
        """Its statement is not on the worker. Where something else is set there than it is parsed with, another stands
        for it as long as nothing of that changes: nobody else is to have that, nor this frontend afterwards, when the
        server would not take it for what it is then."""
        statement = prepared.statement = self._replaced.pop(prepared, prepared.statement)
        if statement.settings is None or statement in worker.statements:
            return
        is_as_parsed = self._frontend.group.parse_settings == statement.settings
        if not (is_as_parsed and self._parses_as_tuned(worker)):
            self._replaced[prepared] = statement
            prepared.statement = self._private(body_of(statement.parse))

    def _put_back(self) -> None:
        for prepared, statement in self._replaced.items():
            prepared.statement = statement
        self._replaced.clear()

    def resolve(self, unit: Unit) -> None:
        """Make a whole unit that names statements one that any backend can be sent."""
        resolver = self.resolver()
        unit.data = resolver.take_all(unit.data)
        unit.names = False
        self.take_over(unit, resolver)
        texts = resolver.texts
        unit.verdict = self.verdict(texts, resolver.is_unsure)
        described = resolver.described
        if len(texts) == 1 and not (resolver.is_unsure or resolver.effects or resolver.first):
            known = self._frontend.router.known(texts[0])
            unit.known, unit.marks = known, known.marks
        if resolver.effects:
            unit.watch = Watch(described)
        elif len(described) == 1 and described[0] is not None and _begins_usually(unit.data):
            unit.watch = None if described[0].told else self._watch_portal(described[0])
        elif any(each is not None and not each.told for each in described):
            unit.watch = Watch(described)

    def known_answer(self, unit: Unit) -> bytes:
        """The answer to a unit that only has a statement prepared, which some backend has done before, with nothing
        changed since that matters; else b"". (What it is now, if the unit asks for that, too, a backend has to say.)

        Given where the unit would have to wait for a worker: pgbench waits for such an answer while other clients of it
        are in transactions, and so for ever for one of their workers. Otherwise a backend says what is so now.
        """
        frontend = self._frontend
        if frontend.worker is not None or not frontend.cluster.would_wait(frontend.group.login):
            return b""
        if len(unit.makes) != 1 or unit.uses or unit.first:
            return b""
        statement = unit.makes[0].statement
        if statement.is_good and unit.data == statement.parse + messages.SYNC:
            return messages.PARSE_COMPLETE
        return b""

    def verdict(self, texts: Iterable[bytes], is_unsure: bool) -> Verdict:
        """What units of these texts are; what the frontend does not have is only there on a worker that it holds."""
        router = self._frontend.router
        verdicts = [router.verdict(text) for text in texts]
        if is_unsure or not verdicts:
            worker = self._frontend.worker
            verdicts.append(EARLIER if worker is not None and worker.session else _NOTHING)
        found = verdicts[0]
        for verdict in verdicts[1:]:
            found = combine(found, verdict)
        return found

    def take_over(self, unit: Unit, resolver: Resolver) -> None:
        """What the resolver has found so far is the unit's."""
        unit.uses, unit.makes, unit.effects, unit.first = (
            resolver.uses, resolver.makes, resolver.effects, resolver.first
        )  # fmt: skip
        unit.parse_unnamed, unit.drops_unnamed = resolver.parse_unnamed, resolver.drops_unnamed
        unit.has_several, unit.is_strict = resolver.has_several, resolver.is_strict

    @property
    def _worker(self) -> Worker | None:
        """The one that the next message goes to, where that is known."""
        unit = self._frontend.streaming.unit
        return self._frontend.worker or (unit.worker if unit is not None else None)  # type: ignore[return-value]

    def _make(self, body: bytes, given: bytes, unit: Resolver | None = None) -> Prepared:
        frontend = self._frontend
        group, worker = frontend.group, self._worker
        others = (*unit.uses, *unit.makes) if unit is not None else ()
        if not self._parses_as_tuned(worker) or not (unit is None or all(map(self._is_kept, unit.runs))):
            return Prepared(self._private(body), given)
        key = (group.login.database, frontend.router.epoch)
        statement = frontend.cluster.statements.statement(body, group.parse_settings, key)
        if any(statement is other.statement for other in others):
            statement = frontend.cluster.statements.private(body, group.parse_settings)
        return Prepared(statement, given)

    @staticmethod
    def _parses_as_tuned(worker: Worker | None) -> bool:
        # In a transaction the catalog may be another, too, as long as it is not over.
        return worker is None or (worker.is_as_tuned and not worker.ddl)

    def _is_kept(self, text: bytes | None) -> bool:
        """Whether what is parsed behind that which runs `text` is parsed as without it."""
        if text is None:
            return False
        verdict = self._frontend.router.verdict(text)
        return parsing.is_kept(verdict, (text,)) and not verdict.ddl

    def _private(self, body: bytes) -> Statement:
        return self._frontend.cluster.statements.private(body)

    def show(self, unit: Unit) -> None:
        """Have those statements that SQL of `unit` may name exist for it under their own names."""
        if not self._named:
            return
        text = b" ".join(unit.texts).lower()
        if not _NAMES_STATEMENTS.search(text):
            return
        sees_all, runs = _SEES_ALL in text, b"execute" in text
        if (sees_all or runs) and self._frontend.status == b"E":
            return  # nothing can be parsed there; and what ends the transaction must not be refused for that
        first = list(unit.first)
        shown = []
        for name, prepared in self._named.items():
            if sees_all or name.lower().replace(b'"', b'""') in text:
                body = body_of(prepared.statement.parse) if sees_all or runs else b"\0\0\0"
                shown.append(messages.decode(name))
                first += (messages.message(b"C", b"S" + name + b"\0"), messages.message(b"P", name + b"\0" + body))
        unit.first = first
        unit.shows = shown if b"deallocate" in text else ()
        if unit.watch is None:
            unit.watch = Watch(())

    # --- after it ----------------------------------------------------------------------------------------------------

    def note(self, unit: Unit) -> None:
        """The unit was answered, by a backend or by the pool."""
        self.unnamed = None if unit.kind is SIMPLE else unit.unnamed_after(self.unnamed)
        if unit.verdict.deallocates and (unit.kind is SIMPLE or _EXECUTES in unit.data):
            # It is not undone with what else a text has done that fails later.
            was_done = unit.watch is not None and unit.watch.deallocated
            if was_done or not unit.failed:
                self._forget(unit.verdict.deallocates)
        elif unit.shows and not unit.failed and unit.verdict.kind >= Kind.OPAQUE:
            self._forget(unit.shows)  # what deallocates unseen
        if unit.effects:
            done = unit.watch.done if unit.watch is not None else 0
            for effect in islice(unit.effects, done if unit.failed else None):
                if effect is not None:
                    name, prepared = effect
                    if prepared is None:
                        self._named.pop(name, None)
                    else:
                        self._named[name] = prepared

    def _forget(self, names: Iterable[str]) -> None:
        # SQL has deallocated them.
        for name in names:
            if name == _ALL:
                self._named.clear()
            else:
                self._named.pop(messages.encode(name), None)


def _begins_usually(unit: bytes) -> bool:
    """Whether it binds a portal, and asks for the columns of that then."""
    tag, end = frontend_header(unit, 0)
    portal = unit[5 : unit.find(b"\0", 5) + 1]
    return tag == _BIND_TAG and unit.startswith(b"D", end) and unit.startswith(b"P" + portal, end + 5)


_NOTHING = Verdict(Kind.WRITE, reason="names no statement that there is")
