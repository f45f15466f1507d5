"""Settings that change while the pool runs: SIGHUP and RELOAD read the conf file again, SET changes one of them.

Green. All is checked before anything changes, so that a file that is wrong changes nothing, and what is wrong with it
is told to whoever has asked. Then the values change all at once, and who has made something of them makes it again.
What needs a restart is named, and stays as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import gevent
from gevent.lock import BoundedSemaphore

from lib import config
from lib.config import Settings
from lib.errors import ConfigError

log = logging.getLogger(__name__)

Check = Callable[[Settings], None]
Act = Callable[[], None]


class _Concerned(NamedTuple):
    names: frozenset[str]
    take: Act
    check: Check | None
    give_up: Act | None


class Outcome(NamedTuple):
    """What a reload has done.

    changed    names of the settings that have other values now
    restart    names of those that would, but need a restart
    warnings   what is allowed, but hardly meant
    """

    changed: tuple[str, ...]
    restart: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        said = f"changed: {', '.join(self.changed)}" if self.changed else "nothing has changed"
        return said + (f"; needs a restart: {', '.join(self.restart)}" if self.restart else "")


class Reload:
    """Changes the settings that the pool runs with."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._concerned: list[_Concerned] = []
        self._turn = BoundedSemaphore(1)

    def on_change(self, names: str, take: Act, check: Check | None = None, give_up: Act | None = None) -> None:
        """Have `take` called when one of these settings has changed.

        names     separated by blanks; "" is any
        take      must not fail
        check     is called before anything changes, with the new settings, and may raise ConfigError
        give_up   is called after it when nothing changes after all, as it or another check has failed
        """
        self._concerned.append(_Concerned(frozenset(names.split()), take, check, give_up))

    def reload(self) -> Outcome:
        """Read the conf file again.

        raises   ConfigError with every complaint; then nothing has changed
        """
        with self._turn:
            # A conf file is a program, and its directory may be on a network: not in the loop.
            found = gevent.get_hub().threadpool.apply(_attempt, (self.settings.path,))
            if isinstance(found, ConfigError):
                raise found
            outcome = self._take_over(found)
        log.info("the conf file was reloaded: %s", outcome)
        for warning in outcome.warnings:
            log.warning("%s", warning)
        return outcome

    def set(self, name: str, text: str) -> Outcome:
        """Change one setting, until the next reload says otherwise.

        raises   ConfigError; then nothing has changed
        """
        with self._turn:
            wanted = config.with_value(self.settings, name, text)
            if restart := config.changed(self.settings, wanted).restart:
                raise ConfigError([f"{restart[0]} needs a restart: change it in the conf file"])
            return self._take_over(wanted)

    def _take_over(self, wanted: Settings) -> Outcome:
        changes = config.changed(self.settings, wanted)
        new = config.merged(self.settings, wanted)
        names = set(changes.reloadable)
        concerned = [each for each in self._concerned if names and (not each.names or each.names & names)]
        try:
            for each in concerned:
                if each.check is not None:
                    each.check(new)
        except ConfigError:
            for each in concerned:
                if each.give_up is not None:
                    each.give_up()
            raise
        self.settings.take_over(new, changes.reloadable)
        for each in concerned:
            try:
                each.take()
            except Exception:  # the others have to hear of it all the same
                log.exception("a change of settings could not be taken over everywhere")
        return Outcome(*changes, new.warnings)


def _attempt(path: str) -> Settings | ConfigError:
    # gevent prints the traceback of whatever a thread raises.
    try:
        return config.load(path) if path else ConfigError(["the pool was started without a conf file"])
    except ConfigError as error:
        return error
