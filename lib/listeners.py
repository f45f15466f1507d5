"""Where the pool listens, and how that changes while it runs.

Green. New addresses are bound before old ones are given up, so that one that cannot be bound changes nothing.
Connections stay, wherever they came in.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lib import listening, net
from lib.errors import ConfigError

if TYPE_CHECKING:
    from lib.addresses import Address
    from lib.config import Settings

log = logging.getLogger(__name__)


class Listeners:
    """The listening sockets, by their addresses in `listen`."""

    def __init__(self, settings: Settings, handle: Callable[[net.Stream], None]) -> None:
        self._settings = settings
        self._handle = handle
        self._open: dict[Address, list[listening.Listener]] = {}
        self._bound: dict[Address, list[Any]] = {}  # sockets that nobody is taken in from yet

    def __repr__(self) -> str:
        return f"<Listeners {', '.join(map(str, self._open))}>"

    def open(self) -> None:
        """Listen wherever the settings say.

        raises   OSError, naming the address; then nothing is listened on
        """
        self._bind(self._settings)
        self._begin()

    def try_addresses(self, new: Settings) -> None:
        """Bind what `new` adds.

        raises   ConfigError
        """
        try:
            self._bind(new)
        except OSError as error:
            raise ConfigError([f"listen: {error.strerror}"]) from None

    def give_up(self) -> None:
        """Nothing changes after all."""
        for sockets in self._bound.values():
            for sock in sockets:
                listening.stop_listening(sock)
        self._bound.clear()

    def settings_changed(self) -> None:
        """Begin with the new addresses, and end with those that are no more."""
        for address in [each for each in self._open if each not in self._settings.listen]:
            log.info("not listening on %s any more", net.show_address(address))
            for listener in self._open.pop(address):
                listener.close()
        for address in self._open:
            if address.is_unix:
                os.chmod(address.unix_path, self._settings.unix_socket_mode)
        self._begin()

    def close(self) -> None:
        for listeners in self._open.values():
            for listener in listeners:
                listener.close()
        self._open.clear()

    def _bind(self, settings: Settings) -> None:
        address = None
        try:
            for address in settings.listen:
                if address not in self._open:
                    self._bound[address] = listening.listen(address, settings.unix_socket_mode)
        except OSError as error:
            self.give_up()
            shown = net.show_address(address) if address is not None else ""
            raise OSError(error.errno, f"{shown}: {error.strerror}") from None

    def _begin(self) -> None:
        for address, sockets in self._bound.items():
            self._open[address] = [listening.Listener(sock, self._handle) for sock in sockets]
            log.info("listening on %s", net.show_address(address))
        self._bound.clear()
