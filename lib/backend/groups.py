"""Who may share what: a login's frontends share backends, a group's frontends share a worker without tuning it.

Green only in that a group tells its frontends. `Cluster` makes both, one object for each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.backend import tuning

if TYPE_CHECKING:
    from lib.frontend import Frontend


class Login:
    """What a backend is started with. One object per login, so that it is its own key.

    packet      settings that only a startup packet can set
    frontends   how many are there now
    """

    __slots__ = ("__weakref__", "database", "frontends", "packet", "user")

    def __init__(self, user: str, database: str, packet: tuning.Pairs) -> None:
        self.user = user
        self.database = database
        self.packet = packet
        self.frontends = 0

    def __repr__(self) -> str:
        return f"<Login {self.user}@{self.database} frontends={self.frontends}>"

    @property
    def startup(self) -> dict[str, str]:
        return {"user": self.user, "database": self.database, **dict(self.packet)}


class Group:
    """The frontends of one login with the same settings; a worker is tuned to one group at a time.

    settings       in canonical order
    parse_settings those that matter when a statement is parsed
    placeholders   names of custom settings among them, and of those that its frontends have set themselves
    parameters     what the server reports of a worker tuned to it (ParameterStatus); empty until one was
    frontends      who is told when that changes
    """

    __slots__ = ("__weakref__", "frontends", "login", "parameters", "parse_settings", "placeholders", "settings")

    def __init__(self, login: Login, settings: tuning.Pairs, customs: frozenset[str] = frozenset()) -> None:
        self.login = login
        self.settings = settings
        self.parse_settings = tuning.parse_settings(settings)
        self.placeholders = tuning.placeholders(settings) | customs
        self.parameters: dict[str, str] = {}
        self.frontends: set[Frontend] = set()

    def __repr__(self) -> str:
        return f"<Group {self.login!r} settings={len(self.settings)} frontends={len(self.frontends)}>"

    def restore(self, resets: frozenset[str], local: bool = False) -> str:
        """SQL that brings back what a RESET of these names ('*': all) has taken away, or a SET LOCAL ... TO DEFAULT;
        empty when nothing has."""
        return tuning.restore(self.settings, resets, local)

    def learn(self, parameters: dict[str, str]) -> None:
        """A worker tuned to the group reports these values; frontends that were told others are told now."""
        if not self.parameters:
            self.parameters = dict(parameters)
            return
        if parameters == self.parameters:
            return
        changed = {name: value for name, value in parameters.items() if self.parameters.get(name) != value}
        self.parameters.update(changed)
        for frontend in list(self.frontends):
            if frontend.worker is None:  # else its own worker tells it, and what it has SET itself stays
                frontend.tell_parameters(changed)
