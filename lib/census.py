"""Roles that are changed or dropped, and defaults that are set anew: what workers were given holds no more.

Green. A worker has what its role and its database had when it logged in. What that was is known before it comes: of a
role from the question that comes before its first login (`Directory.first_seen`), of the defaults from when the rules
were read for the first time, without which nobody is let in. So no change after that is missed, however soon it comes.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lib.auth.credential import Secrets
    from lib.backend.cluster import Cluster
    from lib.directory import Directory

log = logging.getLogger(__name__)


class Census:
    """What the last look at the primary's roles and defaults has found."""

    def __init__(self, cluster: Cluster, directory: Directory, secrets: Secrets) -> None:
        self._cluster = cluster
        self._directory = directory
        self._secrets = secrets
        self._roles: dict[str, str | None] = {}
        self._defaults: str | None = None

    def __repr__(self) -> str:
        return f"<Census of {len(self._roles)} roles>"

    def look(self) -> None:
        """A changed or dropped role loses its workers, and what it proved before that; all workers are replaced when
        the defaults have changed.

        raises   ServerUnreachable, AdminQueryFailed: then nothing has been looked at
        """
        users = {user for pool in self._cluster.pools for user, _ in pool.users_and_databases()}
        before = {user: self._role_before(user) for user in users}
        defaults_before = self._defaults or self._directory.first_defaults
        found, defaults = self._directory.fingerprints(users), self._directory.defaults()
        for user in users:
            now = found.get(user)
            # One of whom nothing was known, and who is gone, was dropped.
            if now != (before[user] or now or ""):
                log.info("a role was changed or dropped: its workers are retired")
                self._cluster.retire_workers(user)
            self._secrets.keep(user, now)
        self._roles = {user: found.get(user) for user in users}
        self._directory.looked_at(users)
        if defaults_before is not None and defaults != defaults_before:
            log.info("ALTER ROLE or ALTER DATABASE has changed settings: all workers are replaced")
            self._cluster.retire_workers()
        self._defaults = defaults

    def _role_before(self, user: str) -> str | None:
        if user in self._roles:
            return self._roles[user]
        return self._directory.first_seen.get(user)
