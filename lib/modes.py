"""How a frontend is pooled: in which mode, on which kind of server, and for how long it may be idle.

Pure. The conf file's rules (`pool_mode`, `pool_modes`, `disable_conds_list`) are checked here and looked up here. A
name that ends in `@ro` asks for a standby; the suffix is ours, and no server and no rule of pg_hba.conf ever sees it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from lib.checks import Problem, Wrong, choice, shown, sub_sections, whole

if TYPE_CHECKING:
    from lib.config import Settings

STATEMENT, TRANSACTION, SESSION = "statement", "transaction", "session"
READ_ONLY_SUFFIX = "@ro"
READ_ONLY_SETTING = ("default_transaction_read_only", "on")

check_mode = choice(STATEMENT, TRANSACTION, SESSION)
_check_limit = whole(0, 100_000)
_KEYS = ("user", "database", "pool_mode", "max_workers")
_OTHER_KEYS = {"dbname": "database", "mode": "pool_mode", "pool_size": "max_workers"}


@dataclass(frozen=True, slots=True)
class PoolMode:
    """One rule of `pool_modes`: None for a user, a database or a limit that it does not name."""

    pool_mode: str
    user: str | None = None
    database: str | None = None
    max_workers: int | None = None

    def plain(self) -> dict[str, object]:
        """As a conf file would give it."""
        return {name: value for name in _KEYS if (value := getattr(self, name)) is not None}

    def matches(self, user: str, database: str) -> bool:
        return self.user in (None, user) and self.database in (None, database)


class Condition(NamedTuple):
    """A parameter of the startup packet and the value that it must have."""

    name: str
    value: str


# --- checking --------------------------------------------------------------------------------------------------------


def check_pool_modes(given: object, text: bool) -> tuple[PoolMode, ...]:
    """A list of dicts; in an INI file a section of sub-sections, whose names only label them."""
    wanted = "a [pool_modes] section with [[name]] sub-sections" if text else "a list of dicts"
    return sub_sections(_pool_mode, given, text, wanted)


def check_conditions(given: object, text: bool) -> tuple[tuple[Condition, ...], ...]:
    """A list of lists of (name, value); in an INI file a section of sub-sections of name = value."""
    wanted = "a [disable_conds_list] section with [[name]] sub-sections" if text else "a list of lists of (name, value)"
    return sub_sections(_conditions, given, text, wanted)


def _pool_mode(given: object, text: bool) -> PoolMode:
    if not isinstance(given, Mapping):
        wanted = "a dict, as {'user': 'app', 'pool_mode': 'session'}"
        raise Wrong(Problem("", f"of type {type(given).__name__}", wanted))
    values: dict[str, Any] = {}
    problems = []
    for name, value in given.items():
        if name not in _KEYS:
            known = _OTHER_KEYS.get(name) if isinstance(name, str) else None
            meant = f"{known!r}" if known else f"only {', '.join(map(repr, _KEYS))}"
            problems.append(Problem(f"[{shown(name)}]", "given", meant))
            continue
        try:
            values[name] = _check_value(name, value, text)
        except Wrong as wrong:
            problems += [Problem(f"[{name!r}]{each.where}", each.given, each.wanted) for each in wrong.problems]
    if "pool_mode" not in given:
        problems.append(Problem("['pool_mode']", "missing", "'statement', 'transaction' or 'session'"))
    if problems:
        raise Wrong(*problems)
    return PoolMode(**values)


def _check_value(name: str, value: object, text: bool) -> Any:
    if name == "pool_mode":
        return check_mode(value, text)
    if name == "max_workers":
        return _check_limit(value, text)
    if isinstance(value, str) and value:
        if value.endswith(READ_ONLY_SUFFIX):
            raise Wrong(Problem("", shown(value), "the name without @ro, which a client may add to it"))
        return value
    raise Wrong(Problem("", shown(value), f"the name of a {name}"))


def _conditions(given: object, text: bool) -> tuple[Condition, ...]:
    pairs: object = list(given.items()) if isinstance(given, Mapping) else given
    wanted = "a list of (name, value), as [('user', 'report')]"
    if not isinstance(pairs, (list, tuple)) or not pairs:
        raise Wrong(Problem("", "empty" if pairs in ([], ()) else f"of type {type(given).__name__}", wanted))
    found, problems = [], []
    for index, pair in enumerate(pairs):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(isinstance(each, str) for each in pair):
            problems.append(Problem(f"[{index}]", shown(pair), "(name, value), two strings"))
        else:
            found.append(Condition("database" if pair[0] == "dbname" else pair[0], pair[1]))
    if problems:
        raise Wrong(*problems)
    return tuple(found)


# --- looking up ------------------------------------------------------------------------------------------------------


class Mode(NamedTuple):
    """How frontends of a user and database are pooled."""

    pool_mode: str
    max_workers: int


def mode_of(settings: Settings, user: str, database: str) -> Mode:
    """By the first rule that matches, and by what holds for all where there is none, or it does not say."""
    rule = next((rule for rule in settings.pool_modes if rule.matches(user, database)), PoolMode(settings.pool_mode))
    return Mode(rule.pool_mode, settings.max_workers if rule.max_workers is None else rule.max_workers)


def without_suffix(name: str) -> tuple[str, bool]:
    """A name as servers know it, and whether it asked for a standby."""
    if name.endswith(READ_ONLY_SUFFIX) and name != READ_ONLY_SUFFIX:
        return name.removesuffix(READ_ONLY_SUFFIX), True
    return name, False


def read_only(parameters: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Startup parameters of a frontend that asked for a standby: it does not write on the primary either, where that
    has to stand in for one. What the frontend says itself is left as it is."""
    given = tuple(parameters)
    if any(name.lower() == READ_ONLY_SETTING[0] for name, _ in given):
        return given
    return (*given, READ_ONLY_SETTING)


def meets(conditions: Iterable[Iterable[Condition]], given: Mapping[str, Collection[str]]) -> bool:
    """Whether all conditions of one of the lists are met.

    given   what may stand for each parameter: a name that ended in @ro with it and without
    """
    return any(all(each.value in given.get(each.name, ()) for each in one) for one in conditions)


class Silence:
    """For how long a frontend has been idle, as somebody sees it who looks now and then.

    heard   it has sent something since the last look
    """

    __slots__ = ("_since", "heard")

    def __init__(self, now: float) -> None:
        self.heard = False
        self._since = now

    def __repr__(self) -> str:
        return f"<Silence since {self._since:.1f}{' heard' if self.heard else ''}>"

    def look(self, now: float, is_busy: bool) -> float:
        """Seconds that it has been idle for. What happened between two looks counts until the later one."""
        if is_busy or self.heard:
            self.heard = False
            self._since = now
        return now - self._since
