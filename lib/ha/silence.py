"""The other pools hold while this one switches over, so that nothing of their clients is under way on the old primary.

Green. Each is asked again and again: that keeps its lease, and tells whether it is quiet. One that has answered that it
is stays so until the lease ends that it was asked for then. A pool that cannot hold is a reason against the switchover,
or is left out where that is wanted: its clients see then what those of a failover see.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Iterable
from math import inf

import gevent

from lib.addresses import Address
from lib.errors import PoolError
from lib.ha.holding import LEASE_S
from lib.ha.peers import Peers, words_of

log = logging.getLogger(__name__)

_RENEW_S = 1.0
_LOOK_S = 0.02
_SPARE_S = 2.0  # how much of a lease must be left when the old primary is told to stop
_TOLD_S = 60.0  # how long pools are kept quiet that cannot be told of the new primary
_SEEN = "its clients' statements fail that are under way (08007, 57P01), and others wait until it is told"


class _Peer:
    """What one of them has said.

    quiet_until   its lease, as long as it is quiet
    error         why it does not hold
    """

    def __init__(self) -> None:
        self.quiet_until = -inf
        self.error = ""


class Silence:
    """The pools that hold for one switchover.

    asked      those that hold, or are to
    left_out   those that do not, and why
    """

    def __init__(self, peers: Peers, addresses: Iterable[Address]) -> None:
        self._peers = peers
        self.asked = {address: _Peer() for address in addresses}
        self._threads: dict[Address, gevent.Greenlet] = {}
        self.left_out: dict[Address, str] = {}
        self.name = f"{''.join(c if c.isalnum() else '-' for c in os.uname().nodename)}-{secrets.token_hex(4)}"

    def __repr__(self) -> str:
        return f"<Silence {self.name} pools={len(self.asked)} noisy={len(self.noisy(time.monotonic()))}>"

    def refusals(self) -> dict[Address, str]:
        """Those that would not hold, and why. Nobody is held for that."""
        found = {each: gevent.spawn(self._peers.refusal, each, self.name) for each in self.asked}
        gevent.joinall(list(found.values()))
        return {address: thread.get() for address, thread in found.items() if thread.get()}

    def leave_out(self, address: Address, why: str) -> str:
        """It is not asked any more. Returns that it does not hold, and what its clients see of a switch."""
        self.left_out[address] = reason = f"the pool at {address} does not hold: {why}; {_SEEN}"
        self.asked.pop(address, None)
        thread = self._threads.pop(address, None)
        if thread is not None:
            thread.kill(block=False)
        return reason

    def begin(self) -> None:
        """Have all hold from now on."""
        for address, peer in self.asked.items():
            self._threads[address] = gevent.spawn(self._keep, address, peer)

    def _keep(self, address: Address, peer: _Peer) -> None:
        while True:
            asked_at = time.monotonic()
            try:
                is_quiet = self._peers.hold(address, self.name)
            except PoolError as error:
                peer.error = words_of(error)
                gevent.sleep(_RENEW_S)
                continue
            peer.error = ""
            peer.quiet_until = asked_at + LEASE_S if is_quiet else -inf
            if is_quiet:
                gevent.sleep(_RENEW_S)

    def failed(self) -> dict[Address, str]:
        """Those that do not hold, and why."""
        return {address: peer.error for address, peer in self.asked.items() if peer.error}

    def noisy(self, now: float) -> list[Address]:
        """Those that are not known to be quiet for some time yet."""
        return [address for address, peer in self.asked.items() if peer.quiet_until - now < _SPARE_S]

    def end(self) -> None:
        """Nothing is switched: they go on."""
        self._stop()
        gevent.joinall([gevent.spawn(self._release, address) for address in self.asked])

    def end_when_told(self) -> None:
        """Another server is the primary: a pool holds no more when it was told so, and until then it is kept quiet."""
        gevent.spawn(self._end_when_told)

    def _end_when_told(self) -> None:
        self.wait_until_told(_TOLD_S)
        self._stop()

    def wait_until_told(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and any(address in self._peers.untold for address in self.asked):
            gevent.sleep(_LOOK_S)

    def _stop(self) -> None:
        for thread in self._threads.values():
            thread.kill()
        self._threads.clear()

    def _release(self, address: Address) -> None:
        try:
            self._peers.release(address, self.name)
        except PoolError as error:
            log.info("the pool at %s goes on by itself within %g s: %s", address, LEASE_S, error)
