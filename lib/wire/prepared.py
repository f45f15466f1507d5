"""Prepared statements that belong to a frontend and run on any backend: their names, and what is told of them.

Pure. A frontend's named statement has another name on the backends, the same for everybody whose text, types and
settings are the same, so that a backend parses it once. `Resolver` follows the names through one unit and says what
the backend must have before it; `Watch` follows its answer and says what of it came about.

source: protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable
from typing import Any
from weakref import WeakValueDictionary

from lib.wire.described import columns, description, row_of
from lib.wire.framing import frontend_header
from lib.wire.messages import CLOSE_UNNAMED, message
from lib.wire.units import text_of

PREFIX = b"pgstmtpool_"  # of names on backends; a frontend's own name with it is never looked up there
_NAME_BYTES = 63  # the server tells names apart by so many (NAMEDATALEN)
_PARSE, _BIND, _DESCRIBE, _CLOSE = b"PBDC"
_PARSED, _CLOSED, _PARAMETERS, _ROW, _NO_ROW, _COMPLETE = b"13tTnC"


class Statement:
    """A prepared statement as backends have it.

    name    what they know it by
    parse   the Parse that makes it
    text    of the statement
    settings  what was set when it was parsed, as far as that matters, as pairs; None when nobody knows
    is_good   a backend has parsed it
    row       the RowDescription or NoData that somebody was told of a portal of it last, to be kept once for all
    known     what was known of its text, when that was looked up last, and known_since when that was (`Router.age`)
    """

    __slots__ = ("__weakref__", "is_good", "known", "known_since", "name", "parse", "row", "settings", "text")

    def __init__(self, name: bytes, body: bytes, settings: Any = None) -> None:
        self.name = name
        self.settings = settings
        self.is_good = False
        self.row = b""
        self.known: Any = None
        self.known_since = -1
        self.parse = message(b"P", name + b"\0" + body)
        self.text = text_of(self.parse)

    def __repr__(self) -> str:
        return f"<Statement {self.name.decode()} of {len(self.text)} bytes>"

    def resolve(self, parameters: bytes) -> None:
        """A ParameterDescription says what types its parameters have, and that they stay."""
        self.parse = message(b"P", self.name + b"\0" + self.text + b"\0" + parameters[5:])

    @property
    def close(self) -> bytes:
        return message(b"C", b"S" + self.name + b"\0")

    @property
    def describe(self) -> bytes:
        return message(b"D", b"S" + self.name + b"\0")


class Prepared:
    """A statement of one frontend.

    given  the name that the frontend gave it
    told   what the frontend was told of its parameters and columns, in a form that can be compared; b"" if nothing.
           From then on it takes the answers for that, and must not be given others
    row    the RowDescription or NoData that it was told of a portal last; b"" if none
    """

    __slots__ = ("given", "row", "statement", "told")

    def __init__(self, statement: Statement, given: bytes = b"") -> None:
        self.statement = statement
        self.given = given
        self.told = b""
        self.row = b""

    def differs(self, told: bytes, is_strict: bool) -> bool:
        """Whether a backend that has told this takes the statement for something else than its frontend does.

        is_strict   the frontend does not ask again what the columns are
        """
        if self.told:
            return told != self.told
        return is_strict and self.row != b"" and (not told or row_of(told) != columns(self.row))

    def __repr__(self) -> str:
        return f"<Prepared {self.statement.name.decode()}{' told' if self.told else ''}>"


class Registry:
    """All statements that are in use, each once."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[Hashable, Hashable, bytes], Statement] = WeakValueDictionary()
        self._made = 0

    def __repr__(self) -> str:
        return f"<Registry {len(self._known)} statements, {self._made} made>"

    def statement(self, body: bytes, settings: Any, key: Hashable) -> Statement:
        """The statement of a Parse message.

        body       the message from the text on: text, and types of its parameters
        settings   as far as they matter to Parse
        key        whatever else must be alike for two frontends to have the same: database, version of the catalog
        """
        found = self._known.get((key, settings, body))
        if found is None:
            found = self._known[key, settings, body] = self.private(body, settings)
        return found

    def private(self, body: bytes, settings: Any = None) -> Statement:
        """A statement of one frontend alone, as a rule because nobody knows what was set when it was parsed."""
        self._made += 1
        return Statement(PREFIX + b"%d" % self._made, body, settings)


_DEALLOCATES = re.compile(rb'\s*deallocate\s+(?:prepare\s+)?("[^"]+"|[\w$\x80-\xff]+)', re.I)

# Stands for an unnamed statement that only its frontend's worker has; cannot be read.
KEPT = message(b"P", b'\0"\0\0\0')
Unnamed = bytes | Prepared  # of a frontend: the Parse that made it, until somebody asks what it is on backends


def body_of(parse: bytes) -> bytes:
    return parse[parse.index(b"\0", 5) + 1 :]


class Resolver:
    """The names of one unit, message by message.

    texts           of all statements that are parsed or run, each once; of what only the server knows nothing
    uses            statements of earlier units, which the backend must have before
    makes           named statements that the unit parses
    effects         for each Parse and Close, in order: the name, and what is behind it afterwards
    described       whose description the unit asks for, in order, be it by a portal; of None nobody wants to know
    is_strict       it runs statements without asking what columns they have
    first           messages to be sent in front, one answer each, which the frontend must not see
    parse_unnamed   what the unnamed statement is after it
    drops_unnamed   there is none after it
    has_several     it parses more than one
    runs            texts that it has run so far, which may change what the next statement is parsed with; None for one
                    that nobody knows
    has_own         the backend may have statements of the frontend that SQL has prepared
    is_unsure       it names a statement that this frontend does not have
    """

    def __init__(
        self, find: Callable[[bytes], Prepared | None], make: Callable[[bytes, bytes, Resolver], Prepared]
    ) -> None:
        """What the frontend has by a name, and what it is to have by a Parse with this body and name."""
        self._before = find
        self._make = make
        self._here: dict[bytes, Prepared | None] = {}
        self._is_doomed = False  # what is behind it here is not run, whatever it names
        self._own_unnamed: bytes | None = None  # parsed here, and so on the backend as it is
        self._is_kept = False
        self._noted: set[bytes] = set()
        self._closed: set[bytes] = set()
        self.texts: list[bytes] = []
        self.uses: list[Prepared] = []
        self.makes: list[Prepared] = []
        self.effects: list[tuple[bytes, Prepared | None] | None] = []
        self.described: list[Prepared | None] = []
        self._portals: dict[bytes, Prepared | None] = {}  # that it has bound
        self._unasked: set[bytes] = set()  # those of them of which the columns were not asked for
        self._is_strict = False
        self.first: list[bytes] = []
        self.parse_unnamed: Unnamed | None = None
        self.drops_unnamed = False
        self.runs: list[bytes | None] = []
        self.has_several = self.has_own = False
        self.is_unsure = False

    def keep_unnamed(self) -> None:
        """The backend of this unit has the unnamed statement of an earlier one, and nobody else knows it."""
        self._is_kept = True

    def take_all(self, unit: bytes) -> bytes:
        """The messages of a whole unit as backends get them."""
        parts = []
        position = 0
        while position < len(unit):
            end = frontend_header(unit, position)[1]
            parts.append(self.take(unit[position:end]))
            position = end
        return b"".join(parts)

    def take(self, raw: bytes) -> bytes:
        """One whole message as backends get it."""
        tag = raw[0]
        if tag == _BIND:
            portal_end = raw.find(b"\0", 5) + 1
            name_end = raw.find(b"\0", portal_end)
            if not portal_end or name_end < 0:
                return raw  # nonsense, of which the server says so
            given = raw[portal_end:name_end]
            name = self._name(given)
            self._runs(given)
            self._binds(raw[5:portal_end], None if name is None else self._find(given))
            return raw if name is None else message(b"B", raw[5:portal_end] + name + raw[name_end:])
        if tag == _PARSE:
            return self._parse(raw)
        if raw[5:6] != b"S":
            if tag == _CLOSE:
                self.effects.append(None)
            elif tag == _DESCRIBE:
                self._unasked.discard(raw[6:])
                self.described.append(self._portals.get(raw[6:]))
            return raw
        if tag == _DESCRIBE:
            return self._describe(raw)
        if tag == _CLOSE:
            self._close(raw[6:-1])
        return raw  # no backend has it by that name, and closing what is not there is no error

    def _binds(self, portal: bytes, prepared: Prepared | None) -> None:
        # In the place of another, if it was bound before: what that has run was run without being described.
        self._is_strict = self._is_strict or portal in self._unasked
        self._unasked.discard(portal)
        if prepared is not None:
            self._unasked.add(portal)
        self._portals[portal] = prepared

    def take_cut(self, raw: bytes, size: int) -> tuple[bytes, int]:
        """The beginning of a Bind of so many bytes of which the rest is still to come.

        returns  (sent, taken): what backends get for how many bytes of it
        """
        portal_end = raw.find(b"\0", 5) + 1
        name_end = raw.find(b"\0", portal_end)
        if not portal_end or name_end < 0:
            return b"", 0
        given = raw[portal_end:name_end]
        name = self._name(given)
        self._runs(given)
        self._binds(raw[5:portal_end], None if name is None else self._find(given))
        if name is None:
            return b"", 0
        length = size - 1 + len(name) - len(given)
        return b"B" + length.to_bytes(4, "big") + raw[5:portal_end] + name, name_end

    def keep_cut(self, raw: bytes) -> None:
        """A Parse of which the rest is still to come, and that is not kept: only its backend knows the statement."""
        self.effects.append(None)
        if raw[5:6] == b"\0":
            self._own_unnamed = self.parse_unnamed = KEPT
            self.drops_unnamed = False

    def _find(self, name: bytes) -> Prepared | None:
        name = name[:_NAME_BYTES]
        if name not in self._here:
            self._here[name] = self._before(name)
        return self._here[name]

    def _name(self, given: bytes) -> bytes | None:
        """What backends know the statement by; None where that is the name given."""
        if not given and (self._own_unnamed is not None or self._is_kept):
            return None
        found = self._find(given)
        if found is None:
            self.is_unsure = True
            if not given:
                self.first.append(CLOSE_UNNAMED)  # or it would be somebody else's
            return given + b"?" if given.startswith(PREFIX) else None
        if found not in self.makes and found not in self.uses and not self._is_doomed:
            if any(made.statement is found.statement for made in self.makes):
                # The same by another name, which is parsed in this unit: that must not be in front of it, too.
                found.statement = self._make(body_of(found.statement.parse), given, self).statement
            self.uses.append(found)
        self._note(found.statement.text)
        return found.statement.name

    def _text(self, given: bytes) -> bytes | None:
        """What a Bind of that statement runs."""
        if not given and self._own_unnamed is not None:
            return text_of(self._own_unnamed)
        found = None if not given and self._is_kept else self._find(given)
        return None if found is None else found.statement.text

    def _runs(self, given: bytes) -> None:
        text = self._text(given)
        self.runs.append(text)
        if text is not None and (found := _DEALLOCATES.match(text)) is not None:
            # What is behind it in the unit may take the name again.
            name = found[1]
            if name.lower() == b"all":
                self._here = {b"": self._here.get(b"")}
                self._before = lambda _: None
            else:
                self._here[name[1:-1] if name.startswith(b'"') else name.lower()] = None

    def _note(self, text: bytes) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self.texts.append(text)

    def _parse(self, raw: bytes) -> bytes:
        name_end = raw.find(b"\0", 5)
        name, body = raw[5:name_end][:_NAME_BYTES], raw[name_end + 1 :]
        if name_end < 0 or b"\0" not in body:
            self.effects.append(None)
            return raw
        self._note(text_of(raw))
        if not name:
            self.has_several = self._own_unnamed is not None
            self._own_unnamed = self.parse_unnamed = raw
            self.drops_unnamed = self._is_kept = False
            self.effects.append(None)
            return raw
        if self._find(name) is not None:
            # It exists already, and the server says so, because it is made to exist there.
            self.first += [message(b"C", b"S" + name + b"\0"), message(b"P", name + b"\0\0\0\0")]
            self.effects.append(None)
            self._is_doomed = True
            return raw
        if self.has_own and name not in self._closed:  # then this is refused by the server
            self.first += [message(b"P", name + b"\0\0\0\0"), message(b"C", b"S" + name + b"\0")]
        elif not name.isascii():  # backends get another name, and could not say that this one is no text
            self.first.append(message(b"C", b"S" + name + b"\0"))
        made = self._here[name] = self._make(body, name, self)
        self.makes.append(made)
        self.effects.append((name, made))
        return made.statement.parse

    def _describe(self, raw: bytes) -> bytes:
        name = raw[6:-1]
        if not name and self._own_unnamed is not None:
            if self._own_unnamed is KEPT:
                self.described.append(None)
                return raw
            if not isinstance(self.parse_unnamed, Prepared):
                self.parse_unnamed = self._make(body_of(self._own_unnamed), b"", self)
            self.described.append(self.parse_unnamed)
            return raw
        known_as = self._name(name)
        found = self._find(name)
        self.described.append(found)
        return raw if known_as is None else message(b"D", b"S" + known_as + b"\0")

    def _close(self, name: bytes) -> None:
        if not name:
            self.drop_unnamed()
        self._here[name[:_NAME_BYTES]] = None
        self._closed.add(name[:_NAME_BYTES])
        self.effects.append((name[:_NAME_BYTES], None) if name else None)

    @property
    def is_strict(self) -> bool:
        return self._is_strict or bool(self._unasked)

    def drop_unnamed(self) -> None:
        """The unnamed statement was closed, or a Query inside the unit has destroyed it."""
        self._own_unnamed = self.parse_unnamed = self._here[b""] = None
        self.drops_unnamed = True
        self._is_kept = False


_NEVER = b"\0"  # no message begins so


class Watch:
    """The answer of a unit that names statements, message by message.

    usual        what it begins with when it tells nothing that is new, so that it need not be looked at
    done         how many of its Parse and Close messages were done
    deallocated  a DEALLOCATE was
    """

    __slots__ = ("_described", "_parameters", "deallocated", "done", "usual")

    def __init__(self, described: Iterable[Prepared | None], usual: bytes = _NEVER) -> None:
        self._described = iter(described)
        self.usual = usual
        self._parameters = b""
        self.done = 0
        self.deallocated = False

    def received(self, tag: int, raw: bytes) -> None:
        """A message of the answer, whole; nothing that the pool keeps for itself."""
        if tag in (_PARSED, _CLOSED):
            self.done += 1
        elif tag == _COMPLETE:
            self.deallocated = self.deallocated or raw.startswith(b"DEALLOCATE", 5)
        elif tag == _PARAMETERS:
            self._parameters = raw
        elif tag in (_ROW, _NO_ROW):
            prepared = next(self._described, None)
            if prepared is not None and not self._parameters:
                if raw != prepared.statement.row:
                    prepared.statement.row = raw
                prepared.row = prepared.statement.row
            elif prepared is not None:
                prepared.told = description(self._parameters, raw)
                prepared.statement.resolve(self._parameters)
            self._parameters = b""
