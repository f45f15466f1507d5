"""What the catalog of one database says about names that a text may mention: which could change a session.

Pure. SCAN_SQL is run by others as superuser, on PostgreSQL 10 and newer; from_rows judges its rows. Functions are
judged by their bodies, expressions by the functions in their stored trees, relations by everything that using them may
run: rules, policies, triggers, defaults, checks, indexes, cascades, partitions. What no text shows (casts, domains,
operator classes) makes every text suspect. In doubt: suspect.

source: catalogs.html, sql-createrule.html, ddl-rowsecurity.html, trigger-definition.html
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lib.route.body import Body, Does, does_with, read_body
from lib.route.harmless import EFFECT, HARMLESS, Effect
from lib.route.scan import CHANGED_SQL, SCAN_SQL

__all__ = ["CHANGED_SQL", "SCAN_SQL", "Catalog"]

# Functions in C of these extensions leave nothing in the session, except those named. A function that is declared
# immutable is believed to be so, in every extension.
HARMLESS_EXTENSIONS: dict[str, frozenset[str]] = {
    name: frozenset(but.split())
    for name, but in {
        "autoinc": "",
        "bloom": "",
        "btree_gin": "",
        "btree_gist": "",
        "citext": "",
        "cube": "",
        "dict_int": "",
        "dict_xsyn": "",
        "earthdistance": "",
        "fuzzystrmatch": "",
        "hstore": "",
        "insert_username": "",
        "intagg": "",
        "intarray": "",
        "isn": "isn_weak",
        "lo": "",
        "ltree": "",
        "moddatetime": "",
        "pg_buffercache": "pg_buffercache_evict pg_buffercache_evict_relation pg_buffercache_evict_all",
        "pg_freespacemap": "",
        "pg_stat_statements": "pg_stat_statements_reset",
        "pg_trgm": "set_limit",
        "pg_visibility": "pg_truncate_visibility_map",
        "pgcrypto": "",
        "pgrowlocks": "",
        "pgstattuple": "",
        "plpgsql": "plpgsql_inline_handler",
        "postgis": "",
        "refint": "",
        "seg": "",
        "tcn": "",
        "tsm_system_rows": "",
        "tsm_system_time": "",
        "unaccent": "",
        "uuid-ossp": "",
        "vector": "",
        "zhparser": "",
    }.items()
}
# Foreign tables of these wrappers wait for another server or a file, and leave nothing in the session.
HARMLESS_WRAPPERS = frozenset({"postgres_fdw_handler", "file_fdw_handler"})
# Of those that are excepted above, these change the session for sure.
_EXTENSION_DOES = {"isn_weak": Does.SET | Does.SPOIL, "set_limit": Does.SET}
# Their functions leave connections or variables in the session that DISCARD ALL does not know.
_KEEPING_EXTENSIONS = frozenset({"dblink", "http", "orafce", "pg_variables"})
# Views of the server's own whose use is not harmless: one sets what it is told to by UPDATE, and the other shows what
# the pool has prepared in the session for others.
_VIEW_DOES = {"pg_settings": Does.SET, "pg_prepared_statements": Does.ANYTHING}
# Operators that the grammar itself uses (BETWEEN, IN, LIKE, SIMILAR TO, USING): no text need show them.
_HIDDEN_OPERATORS = frozenset({"=", "<>", "<", "<=", ">", ">=", "~~", "!~~", "~~*", "!~~*", "~", "!~"})

_NOT_SCANNED = "runs in a database that has not been scanned"
# What draws from a sequence there is nothing to a read.
_ONLY_WHEN_WRITING = "has a domain default"

# What counts as soon as a relation is mentioned, be it only read.
_FOR_EVERY_USE = Does.SUSPECT | Does.SPOIL | Does.HIDE

Row = Sequence[object]


@dataclass(frozen=True, slots=True)
class Catalog:
    """What a scan found. Names are bytes as folded, without schema."""

    functions: frozenset[bytes] = frozenset()  # suspect functions
    relations: frozenset[bytes] = frozenset()  # suspect relations
    operators: frozenset[bytes] = frozenset()  # operators with suspect functions
    harmless: frozenset[bytes] = frozenset()  # the user's functions that leave nothing in the session
    holders: frozenset[bytes] = frozenset()  # those of the suspect that are seen to change the session
    hiders: frozenset[bytes] = frozenset()  # those of the holders that set what nobody can ask for afterwards
    # Functions of which all that is left are these custom settings; they are among the holders, too.
    setters: Mapping[bytes, frozenset[str]] = field(default_factory=dict)
    spoilers: frozenset[bytes] = frozenset()  # those of the suspect that leave what DISCARD ALL does not undo
    definers: frozenset[bytes] = frozenset()  # those of the suspect that may change the catalog too
    writers: frozenset[bytes] = frozenset()  # functions and relations that write or wait though a SELECT names them
    writing_operators: frozenset[bytes] = frozenset()  # operators whose functions write or wait
    writes_all: str = ""  # a clause that says what it is that no text need show and that writes or waits
    reasons: tuple[tuple[str, str], ...] = ()  # (what is suspect, a clause that says why), sorted, for the log
    suspect_all: bool = False  # something suspect that no text need show
    suspect_reason: str = ""  # a clause that says what
    login_triggers: bool = False  # a new backend runs a trigger, and DISCARD ALL does not run it again
    suspects: frozenset[bytes] = field(init=False, repr=False)  # functions and relations
    wide: bool = field(init=False, repr=False)  # some suspect name is not ASCII

    def __post_init__(self) -> None:
        suspects = self.functions | self.relations
        object.__setattr__(self, "suspects", suspects)
        object.__setattr__(self, "wide", not all(name.isascii() for name in suspects | self.writers))

    def summary(self, most: int = 5) -> str:
        """What a DBA is told of it, in one line: how much is suspect, and why the first `most` are; "" for nothing."""
        if self.suspect_all:
            return f"every statement {self.suspect_reason}"
        if not self.reasons:
            return ""
        counts = [
            f"{len(names)} {what}"
            for what, names in (
                ("functions", self.functions),
                ("tables and views", self.relations),
                ("operators", self.operators),
            )
            if names
        ]
        first = [f"{name} ({why})" for name, why in self.reasons[:most]]
        more = len(self.reasons) - len(first)
        named = ", ".join(first) + (f" and {more} more" if more > 0 else "")
        return f"{', '.join(counts)} may change the session: {named}"

    def __repr__(self) -> str:
        if self.suspect_all:
            return f"<Catalog all suspect: it {self.suspect_reason}>"
        return (
            f"<Catalog {len(self.functions)} functions, {len(self.relations)} relations, "
            f"{len(self.operators)} operators suspect>"
        )

    @classmethod
    def unknown(cls) -> Catalog:
        """The catalog of a database that was not scanned yet: everything is suspect."""
        return cls(suspect_all=True, suspect_reason=_NOT_SCANNED)

    @property
    def is_unknown(self) -> bool:
        return self.suspect_reason == _NOT_SCANNED

    @classmethod
    def from_rows(cls, rows: Iterable[Row]) -> Catalog:
        """Judge what SCAN_SQL answered.

        rows  (kind, oid, name, info, refs, body) as scan.py describes them
        """
        return _Scan(rows).judge()


def _builtin_does(name: str) -> Does:
    effect = EFFECT.get(name.encode())
    if effect is not None:
        # A stored tree does not show which setting it is.
        return does_with(effect) | (Does.HIDE if effect == Effect.SETS else Does.READ)
    # Functions of information_schema only read; scan.py marks them.
    is_harmless = name.encode() in HARMLESS or name.startswith("information_schema.")
    return Does.READ if is_harmless else Does.ANYTHING


class _Scan:
    """The rows of one scan, sorted, and the judgement that is made of them."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.function_name: dict[str, bytes] = {}
        self.trigger_name: dict[str, bytes] = {}
        self.function_does: dict[str, Does] = {}
        self.body: dict[str, Body] = {}
        self.why: dict[str, str] = {}  # what makes a function or relation suspect
        self.relation_name: dict[str, bytes] = {}
        self.read_does: dict[str, Does] = {}  # what reading the relation may run
        self.use_does: dict[str, Does] = {}  # what reading or writing it may run
        self.refs: dict[str, list[str]] = defaultdict(list)  # function -> functions in its stored trees
        self.runs: list[tuple[str, bool, list[str]]] = []  # relation, when read, functions
        self.uses: list[tuple[str, str, bool]] = []  # relation or function, relation that it uses, when read
        self.operators: list[tuple[str, list[str]]] = []
        self.hidden: list[tuple[str, list[str]]] = []
        self.config: list[str] = []  # functions that are declared with custom settings
        self.login_triggers = False
        for row in rows:
            self._sort(row)
        for oid in self.config:
            self.function_does[oid] |= Does.NAME
            self.why.setdefault(oid, "is declared with a custom setting")

    def _sort(self, row: Row) -> None:
        kind, oid, name, info, refs_text, source = ("" if value is None else str(value) for value in row)
        refs = refs_text.split(",") if refs_text else []
        if kind in ("function", "trigger"):
            # no text can call a trigger function
            (self.function_name if kind == "function" else self.trigger_name)[oid] = name.encode()
            self.refs[oid] += refs
            self._sort_function(oid, name, info, source)
        elif kind == "relation":
            self.relation_name[oid] = name.encode()
            does = Does.READ
            if info.startswith("f"):
                does = Does.WRITE if info[2:] in HARMLESS_WRAPPERS else Does.ANYTHING
                self.why[oid] = "is a foreign table of a wrapper that is not known"
            self.read_does[oid] = self.use_does[oid] = does
        elif kind == "runs":
            self.runs.append((oid, info == "read", refs))
        elif kind == "uses":
            self.uses.extend((oid, ref, info == "read") for ref in refs)
        elif kind == "operator":
            self.operators.append((name, refs))
        elif kind == "hidden":
            self.hidden.append((name, refs))
        elif kind == "config":
            self.config.append(oid)
        elif kind == "login":
            self.login_triggers = True

    def _sort_function(self, oid: str, name: str, info: str, source: str) -> None:
        language, volatility, extension = info.split("/", 2)
        if language in ("c", "internal"):
            excepted = name in HARMLESS_EXTENSIONS.get(extension, ())
            aggregate = language == "internal" and source == "aggregate_dummy"
            immutable = language == "c" and volatility == "i"
            does = Does.ANYTHING
            if excepted:
                does = _EXTENSION_DOES.get(name, does)
            elif aggregate or immutable or extension in HARMLESS_EXTENSIONS:
                does = Does.READ
            elif extension in _KEEPING_EXTENSIONS:
                does = Does.ANYTHING | Does.SET | Does.SPOIL
            self.function_does[oid] = does
            if does:
                self.why[oid] = f"is written in C, of the extension {extension}" if extension else "is written in C"
            return
        body = read_body(language, source)
        self.body[oid] = body
        self.function_does[oid] = body.does
        if body.why:
            self.why[oid] = body.why

    def judge(self) -> Catalog:
        while self._judge_functions() | self._judge_relations():
            pass
        functions = self._functions_do()
        relations: dict[bytes, Does] = {}
        writers = {name for name, does in functions.items() if does == Does.WRITE}
        for oid, name in self.relation_name.items():
            relations[name] = relations.get(name, Does.READ) | self.use_does[oid]
            if self.read_does[oid] == Does.WRITE:
                writers.add(name)
        named = [*functions.items(), *relations.items()]
        operators = {name for name, refs in self.operators if self._refs_do(refs) & Does.SUSPECT}
        writing_operators = {name for name, refs in self.operators if self._refs_do(refs) == Does.WRITE}
        hidden = [what for what, refs in self.hidden if self._refs_do(refs) & Does.SUSPECT]
        hidden += [f"has an operator {name}" for name in sorted(operators & _HIDDEN_OPERATORS)]
        hidden_writes = [
            what for what, refs in self.hidden if self._refs_do(refs) == Does.WRITE and what != _ONLY_WHEN_WRITING
        ]
        hidden_writes += [f"has an operator {name}" for name in sorted(writing_operators & _HIDDEN_OPERATORS)]
        reasons = {
            (name.decode("utf-8", "replace"), self.why.get(oid, "runs something suspect"))
            for oid, name in [*self.function_name.items(), *self.relation_name.items()]
            if (self.function_does.get(oid, Does.READ) | self.use_does.get(oid, Does.READ)) & Does.SUSPECT
        }
        reasons |= {(name, "runs a function that may") for name in operators}
        return Catalog(
            functions=frozenset(name for name, does in functions.items() if does & Does.SUSPECT),
            relations=frozenset(name for name, does in relations.items() if does & Does.SUSPECT),
            operators=frozenset(name.encode() for name in operators),
            harmless=frozenset(name for name, does in functions.items() if not does & Does.SUSPECT and name.isascii()),
            holders=frozenset(name for name, does in named if does & Does.SET),
            hiders=frozenset(name for name, does in named if does & Does.HIDE),
            setters={} if hidden else self._setters(functions, relations),
            spoilers=frozenset(name for name, does in named if does & Does.SPOIL),
            definers=frozenset(name for name, does in named if does & Does.ANYTHING),
            writers=frozenset(writers),
            writing_operators=frozenset(name.encode() for name in writing_operators),
            writes_all=f"runs in a database that {min(hidden_writes)} which may write or wait" if hidden_writes else "",
            reasons=tuple(sorted(reasons)),
            suspect_all=bool(hidden),
            suspect_reason=f"runs in a database that {min(hidden)} which may change the session" if hidden else "",
            login_triggers=self.login_triggers,
        )

    def _setters(self, functions: dict[bytes, Does], relations: dict[bytes, Does]) -> dict[bytes, frozenset[str]]:
        """Functions that set custom settings by names that are known, and neither call nor mention what is suspect."""
        suspects = {name for name, does in [*functions.items(), *relations.items()] if does & Does.SUSPECT}
        signs = {name.encode() for name, refs in self.operators if self._refs_do(refs) & Does.SUSPECT}
        found: dict[bytes, frozenset[str]] = {}
        others = set(relations)
        for oid, name in self.function_name.items():
            does = self.function_does[oid] & (Does.SUSPECT | Does.HIDE | Does.SPOIL)
            body = self.body.get(oid)
            is_plain = (
                does == Does.SET and body is not None and bool(body.sets)
                and body.names.isdisjoint(suspects) and not self._refs_do(self.refs[oid]) & Does.SUSPECT
                and not any(sign in operator for sign in signs for operator in body.operators)
            )  # fmt: skip
            if is_plain and body is not None and name.isascii():
                found[name] = found.get(name, frozenset()) | body.sets
            elif does:
                others.add(name)  # another function of that name, perhaps
        return {name: names for name, names in found.items() if name not in others}

    def _functions_do(self) -> dict[bytes, Does]:
        """What the user's functions of each name do, all taken together."""
        by_name: dict[bytes, Does] = {}
        for oid, name in self.function_name.items():
            by_name[name] = by_name.get(name, Does.READ) | self.function_does[oid]
        return by_name

    def _refs_do(self, refs: Iterable[str]) -> Does:
        """What functions do, given as oids, or as names when they are built in."""
        does = Does.READ
        for ref in refs:
            known = self.function_does.get(ref)
            does |= (Does.ANYTHING if ref.isdigit() else _builtin_does(ref)) if known is None else known
        return does

    def _judge_functions(self) -> bool:
        """Add to functions what they call and mention: True when that changed one."""
        functions = self._functions_do()
        mentioned = {name: does for name, does in functions.items() if does}
        for oid, name in self.relation_name.items():
            does = self.read_does[oid] | (self.use_does[oid] & _FOR_EVERY_USE)
            if does:
                mentioned[name] = mentioned.get(name, Does.READ) | does
        signs = {name.encode(): does for name, refs in self.operators if (does := self._refs_do(refs))}
        wide = not all(name.isascii() for name in mentioned)
        changed = False
        for oid, does in self.function_does.items():
            new = does | self._refs_do(self.refs[oid])
            why = "" if not self.refs[oid] or not new & Does.SUSPECT else self._why_of(self.refs[oid])
            body = self.body.get(oid)
            if body is not None:
                if not body.names.isdisjoint(mentioned):
                    for name in sorted(body.names & mentioned.keys()):
                        new |= mentioned[name]
                        if mentioned[name] & Does.SUSPECT:
                            why = why or f"names {name.decode('utf-8', 'replace')}"
                for sign, effect in signs.items():
                    if any(sign in operator for operator in body.operators):
                        new |= effect
                unknown = sorted(name for name in body.calls if name not in functions)
                if unknown or (wide and not all(name.isascii() for name in body.names)):
                    new |= Does.ANYTHING
                    why = why or f"calls {unknown[0].decode('utf-8', 'replace')}()" if unknown else why
            if new != does:
                self.function_does[oid] = new
                if new & Does.SUSPECT and why:
                    self.why.setdefault(oid, why)
                changed = True
        return changed

    def _why_of(self, refs: Iterable[str]) -> str:
        """Which of these functions is suspect."""
        for ref in refs:
            if self._refs_do([ref]) & Does.SUSPECT:
                name = self.function_name.get(ref) or self.trigger_name.get(ref, ref.encode())
                return f"runs {name.decode('utf-8', 'replace')}()"
        return ""

    def _judge_relations(self) -> bool:
        """Add to relations what they run and use: True when that changed one, or a function."""
        changed = False
        for oid, when_read, refs in self.runs:
            does = self._refs_do(refs)
            if does & Does.SUSPECT:
                self.why.setdefault(oid, self._why_of(refs))
            changed |= self._add(oid, does, when_read)
        for user, used, when_read in self.uses:
            does = self.use_does.get(used) or _VIEW_DOES.get(used, Does.READ)
            if when_read:
                does = (does & _FOR_EVERY_USE) | self.read_does.get(used, Does.READ)
            if does & Does.SUSPECT:
                name = self.relation_name.get(used, used.encode()).decode("utf-8", "replace")
                self.why.setdefault(user, f"uses {name}")
            changed |= self._add(user, does, when_read)
        return changed

    def _add(self, oid: str, does: Does, when_read: bool) -> bool:
        tables = [self.use_does, self.read_does] if when_read else [self.use_does]
        if oid in self.function_does:
            tables = [self.function_does]
        changed = False
        for table in tables:
            if oid in table and table[oid] | does != table[oid]:
                table[oid] |= does
                changed = True
        return changed
