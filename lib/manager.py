"""What the service manager is told, by the protocol of sd_notify(3): a datagram to the socket that it has named.

Green: a manager that does not read is not waited for.
"""

from __future__ import annotations

import logging
import os
import socket
import time

import gevent

log = logging.getLogger(__name__)


def tell(state: str) -> None:
    """Tell the service manager, where there is one that wants to know, by the protocol of sd_notify(3).

    state   assignments, one a line: READY=1, STOPPING=1, RELOADING=1, WATCHDOG=1, STATUS=...
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.sendto(state.encode(), "\0" + path[1:] if path[0] == "@" else path)
        except OSError as error:
            log.warning("the service manager could not be told %s: %s", state.partition("\n")[0], error)


def reloading() -> str:
    """What is told when a reload begins; READY=1 ends it."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"


def say_alive() -> None:
    """Tell a manager that has a watchdog, as long as the pool runs: the loop that says so is the one that serves."""
    limit_us = int(os.environ.get("WATCHDOG_USEC") or 0)
    while limit_us:
        tell("WATCHDOG=1")
        gevent.sleep(limit_us / 3e6)
