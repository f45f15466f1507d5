"""Other pools in front of the same servers: told of a new primary, and asked when this one starts.

Green. Told through their pseudo database, as admin_cnn, again and again until each has answered. A pool that was down
meanwhile asks the one that may promote, and so does one whose primary is gone. Before a planned switch they are asked
to hold (`lib.ha.silence`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import gevent

from lib.addresses import Address, address
from lib.admin import Admin
from lib.checks import Wrong
from lib.errors import PoolError

log = logging.getLogger(__name__)

PSEUDO = "pseudo"
_AGAIN_S = 0.5
_KEEP_S = 10.0
_ANSWER_S = 5.0
_HOLD_S = 2.0  # a pool answers a hold within a second, quiet or not
_HOLD_LANE = "hold"
_NOT_HELD, _NO_COMMAND = "55000", "42601"
_THREADS = 32
_read = address()


class Peers:
    """The other pools.

    untold   those that have not answered yet, and why
    """

    def __init__(self, as_admin: Mapping[str, Any]) -> None:
        self._admin = Admin(as_admin, connect_timeout_s=2.0, statement_timeout_s=_ANSWER_S, threads=_THREADS)
        self.untold: dict[Address, str] = {}
        self._keeping: dict[Address, gevent.Greenlet] = {}
        self._telling: dict[Address, gevent.Greenlet] = {}

    def __repr__(self) -> str:
        return f"<Peers untold={len(self.untold)}>"

    def become(self, as_admin: Mapping[str, Any]) -> None:
        """Log in with these from now on."""
        self._admin.become(as_admin)

    def tell(self, peers: Iterable[Address], primary: Address) -> None:
        """Have each of them write to `primary`; what they are being told of an earlier one is forgotten."""
        for peer in peers:
            if peer in self._telling:
                self._telling[peer].kill(block=False)
            self.untold[peer] = "not asked yet"
            self._telling[peer] = gevent.spawn(self._tell, peer, primary)

    def _tell(self, peer: Address, primary: Address) -> None:
        said = ""
        while True:
            try:
                self._admin.query(peer, PSEUDO, f"pool changemaster {primary}")
            except PoolError as error:
                self.untold[peer] = words_of(error)
                if self.untold[peer] != said:
                    said = self.untold[peer]
                    log.warning("the pool at %s could not be told of the new primary, trying on: %s", peer, said)
            else:
                log.info("the pool at %s was told of the new primary %s", peer, primary)
                self.untold.pop(peer, None)
                return
            gevent.sleep(_AGAIN_S)

    def refusal(self, peer: Address, name: str) -> str:
        """Why a pool would not hold, or nothing: it has no hold of this name, and says so to those who may release."""
        try:
            self._admin.query(peer, PSEUDO, f"pool release {name}", timeout_s=_HOLD_S, lane=_HOLD_LANE)
        except PoolError as error:
            if error.sqlstate == _NO_COMMAND:
                return "it is an older one, and has no \"pool hold\""
            return "" if error.sqlstate == _NOT_HELD else words_of(error)
        return ""

    def hold(self, peer: Address, name: str) -> bool:
        """Have a pool hold, or hold on; whether it is quiet.

        raises   PoolError
        """
        rows = self._admin.query(peer, PSEUDO, f"pool hold {name}", timeout_s=_HOLD_S, lane=_HOLD_LANE)
        return bool(rows[0][0])

    def release(self, peer: Address, name: str) -> None:
        """raises   PoolError"""
        self._admin.query(peer, PSEUDO, f"pool release {name}", timeout_s=_HOLD_S, lane=_HOLD_LANE)

    def keep(self, peers: Iterable[Address]) -> None:
        """Stay logged in to them: when the primary is gone, nobody can be asked who we are."""
        for peer in peers:
            if peer not in self._keeping:
                self._keeping[peer] = gevent.spawn(self._keep, peer)

    def _keep(self, peer: Address) -> None:
        try:
            self._admin.query(peer, PSEUDO, "ha list")
        except PoolError as error:
            log.debug("the pool at %s does not answer: %s", peer, error)
        finally:
            gevent.sleep(_KEEP_S)
            del self._keeping[peer]

    def ask(self, peers: Iterable[Address]) -> Address | None:
        """The primary of the first peer that may promote and answers."""
        for peer in peers:
            try:
                rows = self._admin.query(peer, PSEUDO, "ha list")
                enabled, primary = rows[0][:2]
                if enabled:
                    return _read(primary, True)
            except (PoolError, Wrong, IndexError) as error:
                log.info("the pool at %s could not be asked who is the primary: %s", peer, error)
        return None


def words_of(error: PoolError) -> str:
    """The words of an error, without its code."""
    return f"{error.message}: {error.detail}" if error.detail else str(error.message)
