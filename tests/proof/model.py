"""What the settings of one session are, had it a server of its own: with transactions, savepoints and SET LOCAL.

Pure. Values are as SHOW gives them.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from typing import NamedTuple

SCHEMAS = ("home_1", "home_2", "home_3", "home_4")
ROLES = ("none", "home_role_1", "home_role_2")
TENANT = "home.tenant"
# So many frontends have one among them that never knows it, and one that does not from the start. A worker that knows
# it is of no use for those who do not: with more of them the pool would do little else than start workers.
UNKNOWING_EVERY = 20


class Setting(NamedTuple):
    """A setting, and the values that it is given: as they are shown.

    reported   the name in ParameterStatus, where the server reports it
    """

    name: str
    values: tuple[str, ...]
    default: str
    reported: str = ""


SETTINGS = {
    each.name: each
    for each in (
        Setting("search_path", SCHEMAS, "home_1"),  # as ALTER DATABASE has it
        Setting("role", ROLES, "none"),
        Setting("DateStyle", ("ISO, MDY", "ISO, DMY", "German, DMY", "SQL, MDY", "SQL, DMY"), "ISO, MDY", "DateStyle"),
        Setting("TimeZone", ("Asia/Tokyo", "UTC", "Asia/Kolkata"), "UTC", "TimeZone"),
        Setting("IntervalStyle", ("postgres", "iso_8601", "postgres_verbose"), "postgres", "IntervalStyle"),
        Setting("application_name", ("one", "two", "it's \"three\""), "", "application_name"),
        Setting("client_encoding", ("UTF8", "LATIN1"), "UTF8", "client_encoding"),
        Setting("work_mem", ("3MB", "4MB", "5MB"), "4MB"),
        Setting("extra_float_digits", ("-5", "0", "1"), "1"),
        Setting("statement_timeout", ("5min", "10min"), "0"),
        Setting(TENANT, ("tenant 1", "tenant 2", "tenant 3"), ""),
    )
}


class Values:
    """The values of all settings: what they are for the session, and for the transaction where that is another."""

    def __init__(self, session: dict[str, str]) -> None:
        self.session = session
        self.local: dict[str, str] = {}

    def copy(self) -> Values:
        other = Values(dict(self.session))
        other.local = dict(self.local)
        return other

    def __getitem__(self, name: str) -> str:
        return self.local.get(name, self.session[name])


class Model:
    """A session's settings.

    start     its startup parameters
    settable  names of what it may set
    initial   what RESET goes back to
    frames    values at BEGIN, and at each savepoint since; empty outside of a transaction
    failed    it is in a transaction that has failed
    changes   how often any of them may have changed
    """

    def __init__(self, chance: random.Random, number: int, *, is_plain: bool) -> None:
        names = [] if is_plain else chance.sample(list(SETTINGS), chance.randrange(0, 6))
        self.start = {name: chance.choice(SETTINGS[name].values) for name in names}
        self.settable = [name for name in SETTINGS if name != TENANT or number % UNKNOWING_EVERY]
        if (number % UNKNOWING_EVERY) > 1:
            self.start[TENANT] = SETTINGS[TENANT].values[0] if is_plain else chance.choice(SETTINGS[TENANT].values)
        else:
            self.start.pop(TENANT, None)
        if not is_plain and "application_name" in names:
            self.start["application_name"] = f"resident {number}"
        self.initial = {name: self.start.get(name, setting.default) for name, setting in SETTINGS.items()}
        self.knows_tenant = TENANT in self.start
        self.changes = 0
        self.values = Values(dict(self.initial))
        self.frames: list[Values] = []
        self.failed = False

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    @property
    def is_in_transaction(self) -> bool:
        return bool(self.frames)

    @property
    def tenants(self) -> set[str | None]:
        """What current_setting(…, true) may say of the custom setting.

        When it was set once and is not now, that is '' on a connection of one's own; through a pooler it may be as if
        it had never been set.
        """
        return {self[TENANT], *([] if self[TENANT] else [None])} if self.knows_tenant else {None}

    def reported(self) -> dict[str, str]:
        """ParameterStatus values, as far as they are known here."""
        return {setting.reported: self[name] for name, setting in SETTINGS.items() if setting.reported}

    @property
    def values(self) -> Values:
        """Whoever asks for all of them may change them."""
        self.changes += 1
        return self._values

    @values.setter
    def values(self, values: Values) -> None:
        self.changes += 1
        self._values = values

    # --- what is done ------------------------------------------------------------------------------------------------

    def know(self, names: Collection[str]) -> None:
        """A custom setting may be known from now on."""
        self.knows_tenant = self.knows_tenant or TENANT in names

    def set(self, name: str, value: str) -> None:
        self.know([name])
        self.values.local.pop(name, None)
        self.values.session[name] = value

    def set_local(self, name: str, value: str) -> None:
        self.know([name])
        if self.frames:
            self.values.local[name] = value

    def reset(self, name: str) -> None:
        self.know([name])
        self._reset([name])

    def _reset(self, names: Iterable[str]) -> None:
        for name in names:
            self.values.local.pop(name, None)
            self.values.session[name] = self.initial[name]

    def reset_all(self) -> None:
        self._reset(set(SETTINGS) - {"role"})

    def discard_all(self) -> None:
        self._reset(SETTINGS)

    # --- transactions ------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self.frames = [self.values.copy()]

    def savepoint(self) -> None:
        self.frames.append(self.values.copy())

    def rollback_to(self) -> None:
        """To the last savepoint, which stays."""
        self.values = self.frames[-1].copy()
        self.failed = False

    def release(self) -> None:
        self.frames.pop()

    def fail(self) -> None:
        """A statement has failed: what was set is undone at once, up to the last savepoint."""
        if self.frames:
            self.values = self.frames[-1].copy()
            self.failed = True

    def commit(self) -> None:
        """COMMIT, which is a ROLLBACK where the transaction has failed."""
        if self.failed:
            self.rollback()
        else:
            self.values.local.clear()
            self.frames = []

    def rollback(self) -> None:
        if self.frames:
            self.values = self.frames[0].copy()
        self.frames = []
        self.failed = False
