"""The settings of the pool, and everything that is done with them: load, check, compare, show.

Pure, but for `load`, for which `lib.conffile` reads the file. The rows are in `lib.conf`, by groups; the same rows
load, check, show and document. All complaints come at once, and none shows a password. `Settings` are checked whole and
frozen: whoever uses one reads an attribute, and checks nothing again. Only a reload (`lib.reload`) changes those that
the pool runs with, in one place and all at once.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, NamedTuple

from lib import checks, conffile
from lib.addresses import Address
from lib.checks import Parameters, Wrong
from lib.conf.availability import Availability
from lib.conf.console import Console
from lib.conf.limits import Limits, Upkeep
from lib.conf.listening import Encryption, Listening
from lib.conf.logs import Logging
from lib.conf.monitor import Monitoring
from lib.conf.row import REQUIRED, Setting
from lib.conf.servers import Servers
from lib.conf.together import conflicts, doubts
from lib.conf.workers import Sessions, Workers
from lib.errors import ConfigError
from lib.modes import Condition, PoolMode

# The groups as the manual has them.
GROUPS = (Listening, Servers, Encryption, Workers, Limits, Sessions, Availability, Console, Monitoring, Logging, Upkeep)


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings(
    Listening, Servers, Encryption, Workers, Limits, Sessions, Availability, Console, Monitoring, Logging, Upkeep
):
    """Every setting in its normal form, what to warn of, and the file they came from."""

    path: str = ""
    warnings: tuple[str, ...] = ()

    def rows(self, redact: bool = True) -> Iterator[tuple[Setting, str, bool]]:
        """Each setting with its value as a Python conf file would give it, and whether that is not the default."""
        for name, row in TABLE.items():
            value = getattr(self, name)
            is_default = row.default is not REQUIRED and value == row.check(row.default, False)
            yield row, repr(_plain(value, redact)), not is_default

    def show(self, redact: bool = True) -> str:
        """The effective settings, a line each; `*` marks those that are not the default."""
        lines = []
        for row, value, is_changed in self.rows(redact):
            line = f"{'*' if is_changed else ' '} {row.name:<22} = {value} {row.unit}".rstrip()
            if is_changed:
                line += f"   ({_default(row)})"
            lines.append(line)
        return "\n".join(lines)

    def take_over(self, new: Settings, names: Iterable[str]) -> None:
        """Have the values of `new` for `names`, and what it warns of, from now on: for `lib.reload` alone."""
        for name in (*names, "warnings"):
            object.__setattr__(self, name, getattr(new, name))

    def __repr__(self) -> str:
        changed = " ".join(f"{row.name}={value}" for row, value, is_changed in self.rows() if is_changed)
        return f"<Settings {self.path} {changed}>"


TABLE: dict[str, Setting] = {
    each.name: Setting(each.name, *each.metadata["row"]) for group in GROUPS for each in fields(group)
}


# Older names that mean the same.
ALIASES = {"idle_cnn_timeout": "idle_timeout", "client_idle_timeout": "active_cnn_timeout"}


def _plain(value: object, redact: bool) -> object:
    """A normal form as what a Python conf file would hold."""
    if value is None:
        return ""
    if isinstance(value, PoolMode):
        return value.plain()
    if isinstance(value, Parameters):
        return value.redacted() if redact else dict(value)
    if isinstance(value, tuple):
        return tuple(value) if isinstance(value, (Address, Condition)) else [_plain(entry, redact) for entry in value]
    return value


def _default(row: Setting) -> str:
    return "required" if row.default is REQUIRED else f"default: {row.default!r}"


class Changes(NamedTuple):
    """Names of the settings that differ: those that a reload takes over, and those that need a restart."""

    reloadable: tuple[str, ...]
    restart: tuple[str, ...]


def changed(old: Settings, new: Settings) -> Changes:
    names = [name for name in TABLE if getattr(old, name) != getattr(new, name)]
    return Changes(
        tuple(name for name in names if TABLE[name].reloadable),
        tuple(name for name in names if not TABLE[name].reloadable),
    )


# --- checking --------------------------------------------------------------------------------------------------------


def make(given: Mapping[Any, object], path: str = "", text: bool = False, complaints: Iterable[str] = ()) -> Settings:
    """Settings from what a conf file gave.

    text        every value is a string or a list of strings (INI), so '10' is a number
    complaints  what is wrong with the file already
    raises      ConfigError with every complaint: the key, what was given, what is wanted
    """
    values: dict[str, Any] = {}
    twice = [(old, new) for old, new in ALIASES.items() if old in given and new in given]
    complaints = [*complaints, *(f"{old} is given beside {new}: wanted one of them" for old, new in twice)]
    given = {ALIASES.get(name, name): value for name, value in given.items()}
    complaints += [_unknown(name) for name in given if name not in TABLE]
    for name, row in TABLE.items():
        if name not in given:
            if row.default is REQUIRED:
                complaints.append(f"{name} is missing: wanted its {row.type}")
            continue
        misplaced = _misplaced(given[name]) if name not in ("pool_modes", "disable_conds_list") else []
        complaints += [f"{inner} is in {name}: wanted one level above" for inner in misplaced]
        try:
            values[name] = row.check(given[name], text)
        except Wrong as wrong:
            complaints += [f"{name}{each.where} is {each.given}: wanted {each.wanted}" for each in wrong.problems]
    complaints += conflicts(values)
    if complaints:
        raise ConfigError(complaints)
    return Settings(**values, path=path, warnings=tuple(doubts(values)))


def merged(old: Settings, new: Settings) -> Settings:
    """`old` with what a reload takes over from `new`.

    raises   ConfigError, when that does not go together with what needs a restart
    """
    return _with(old, {name: getattr(new, name) for name in changed(old, new).reloadable})


def with_value(settings: Settings, name: str, text: str) -> Settings:
    """`settings` with another value for one of them, as the console's SET gives it: as in an INI file, or, for lists
    and dicts, as in a Python one.

    raises   ConfigError
    """
    typed, name = name, ALIASES.get(name, name)
    if name not in TABLE:
        raise ConfigError([_unknown(name)])
    try:
        return _with(settings, {name: TABLE[name].check(_literal(text), True)})
    except Wrong as wrong:
        complaints = [f"{typed}{each.where} is {each.given}: wanted {each.wanted}" for each in wrong.problems]
        raise ConfigError(complaints) from None


def _literal(text: str) -> object:
    if text[:1] in ("[", "(", "{", "'", '"'):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            pass
    return text


def _with(settings: Settings, values: Mapping[str, Any]) -> Settings:
    whole = {name: getattr(settings, name) for name in TABLE} | dict(values)
    complaints = conflicts(whole)
    if complaints:
        raise ConfigError(complaints)
    return replace(settings, **values, warnings=tuple(doubts(whole)))


def load(path: str) -> Settings:
    """Read and check a conf file: INI when its name ends in .ini, else Python.

    raises   ConfigError (F0000) with every complaint
    """
    conf = conffile.read(path)
    return make(conf.given, path, conf.is_text, conf.complaints)


def _unknown(name: object) -> str:
    if not isinstance(name, str) or not name.isidentifier():
        return f"the key {checks.shown(name)} is not a setting"
    near = get_close_matches(name.lower(), TABLE, 1)
    return f"{name} is not a setting: " + (f"did you mean {near[0]}?" if near else "see docs/configuration.md")


def _misplaced(given: object) -> list[str]:
    """Names of settings inside connection parameters: lines that slipped below the header of an INI section."""
    if isinstance(given, (list, tuple)):
        return [name for entry in given for name in _misplaced(entry)]
    if not isinstance(given, Mapping):
        return []
    here = [name for name in given if name in TABLE and name not in checks.CLIENT_ONLY]
    return here + [name for entry in given.values() if isinstance(entry, Mapping) for name in _misplaced(entry)]
