"""For how long every worker has been busy while somebody waited: what `grow_after` is compared with.

Pure: time is an argument. It is looked at now and then. With many short statements nobody waits for long, and there are
moments in which nobody waits at all, and yet the server has workers too few: so the time between two looks counts when
somebody had to wait in it, and is taken off again when nobody had to.
"""

from __future__ import annotations

from math import inf


class Crowd:
    """seconds   how long it has been crowded, all in all"""

    __slots__ = ("_looked_at", "_since", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self._looked_at = -inf
        self._since = inf  # the first who had to wait since the last look

    def __repr__(self) -> str:
        return f"<Crowd {self.seconds * 1000:.0f} ms>"

    def waits(self, now: float) -> None:
        """Somebody has to wait, because every worker is busy."""
        self._since = min(self._since, now)

    def look(self, goes_on: bool, now: float) -> bool:
        """Take the time since the last look into account: whether it was crowded in it.

        goes_on   somebody waits at this moment
        """
        since = max(self._looked_at, self._since)
        is_crowded = goes_on or since <= now
        if is_crowded:
            self.seconds += now - since if since <= now else 0.0
        else:
            self.seconds = max(0.0, self.seconds - (now - self._looked_at))
        self._looked_at = now
        self._since = now if goes_on else inf
        return is_crowded

    def eased(self) -> None:
        """A worker more is on its way."""
        self.seconds = 0.0
