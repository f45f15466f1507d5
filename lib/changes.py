"""What is made of the settings, and made again when a reload has changed them.

Green. All other settings are read where they are used, and need nothing. What can fail is tried before anything
changes: an admin_cnn logs in, certificates are read, addresses are bound.
"""

from __future__ import annotations

import logging
import resource
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING

from lib import net, tlsfiles
from lib.admin import Admin
from lib.conf.listening import Encryption
from lib.errors import ConfigError, PoolError, ServerUnreachable

if TYPE_CHECKING:
    from lib.addresses import Address
    from lib.config import Settings
    from lib.process import Process

log = logging.getLogger(__name__)

_OTHER_FILES = 500  # beside those of frontends: workers, listeners, the log


def as_admin(settings: Settings) -> dict[str, str]:
    """How the pool itself logs in."""
    return {**tlsfiles.for_libpq(settings), **settings.admin_cnn}


def raise_file_limit(settings: Settings) -> None:
    """Have as many files open as max_client_conn needs, or say that it cannot be."""
    wanted = settings.max_client_conn + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else max(soft, wanted)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < wanted:
        log.warning("only %d files may be open (ulimit -n), which is too few for max_client_conn", most)


class Changes:
    """Hears of changes for a process."""

    def __init__(self, process: Process, reloaded: Callable[[], None]) -> None:
        self._process = process
        self._settings = process.settings
        self._slaver = process.settings.slaver
        self._tls: tuple[tlsfiles.Watched | None, tlsfiles.Watched] | None = None  # read, not used yet
        settings, cluster, arrivals = process.settings, process.cluster, process.arrivals
        on_change = process.reload.on_change
        on_change("", reloaded)
        on_change("max_client_conn", lambda: raise_file_limit(settings))
        on_change("admin_cnn", self._become_admin, self._try_admin)
        on_change("conn_params", lambda: process.secrets.configure(settings.conn_params))
        on_change("hba_interval", lambda: setattr(process.directory, "refresh_s", settings.hba_interval))
        logs, web, listeners = process.logs, process.web, process.listeners
        on_change("log_to log_format log_level", logs.settings_changed, logs.try_settings, logs.give_up)
        on_change("active_cnn_timeout disable_conds_list conn_params proxy_networks", arrivals.settings_changed)
        on_change(
            "client_buffer riders rider_depth rider_limit max_workers pool_mode pool_modes", cluster.settings_changed
        )
        on_change("slaver", self._change_standbys, self._try_standbys)
        on_change(
            "read_your_writes read_your_writes_timeout query_wait_timeout max_lag lag_check_interval",
            cluster.freshness_changed,
        )
        on_change(" ".join(each.name for each in fields(Encryption)), self._change_tls, self._try_tls)
        on_change("http_listen", web.settings_changed, web.try_address, web.give_up)
        on_change("listen unix_socket_mode", listeners.settings_changed, listeners.try_addresses, listeners.give_up)

    # --- admin_cnn ---------------------------------------------------------------------------------------------------

    def _try_admin(self, new: Settings) -> None:
        """Whether the primary lets the new admin_cnn in; when it cannot be asked, that is seen later."""
        candidate = Admin(as_admin(new), threads=1)
        try:
            candidate.query(self._process.cluster.primary.address, None, "select 1")
        except ServerUnreachable as error:
            log.warning("the new admin_cnn could not be tried: %s", error)
        except PoolError as error:
            raise ConfigError([f"admin_cnn is not let in by the primary: {error.detail or error.message}"]) from None
        finally:
            candidate.close()

    def _become_admin(self) -> None:
        who = as_admin(self._settings)
        for admin in (self._process.admin, self._process.observer):
            admin.become(who)
        self._process.ha.become(who)

    # --- servers -----------------------------------------------------------------------------------------------------

    def _try_standbys(self, new: Settings) -> None:
        primary = self._process.cluster.primary.address
        if primary in self._slaver and primary not in new.slaver:
            shown = net.show_address(primary)
            raise ConfigError([f"slaver lacks {shown}, which is the primary now: wanted it, or another primary before"])

    def _change_standbys(self) -> None:
        """Those that are new are used from now on, and those that are no more finish what they do."""
        before, self._slaver = self._slaver, self._settings.slaver
        cluster = self._process.cluster
        for address in before:
            if address not in self._slaver:
                self._remove_standby(address)
        there = {pool.address for pool in (*cluster.pools, *cluster.former)}
        for address in self._slaver:
            if address not in there:
                log.info("%r is a standby from now on", cluster.add_standby(address))

    def _remove_standby(self, address: Address) -> None:
        cluster = self._process.cluster
        for pool in [each for each in (*cluster.standbys, *cluster.former) if each.address == address]:
            cluster.remove_standby(pool)
            log.info("%r is no standby any more", pool)
        for admin in (self._process.admin, self._process.observer):
            admin.forget(address)

    # --- TLS ---------------------------------------------------------------------------------------------------------

    def _try_tls(self, new: Settings) -> None:
        try:
            self._tls = tlsfiles.for_frontends(new), tlsfiles.for_servers(new)
        except tlsfiles.FilesUnusable as error:
            raise ConfigError([f"TLS: {error}"]) from None

    def _change_tls(self) -> None:
        """For connections from now on."""
        assert self._tls is not None
        identity, approach = self._tls
        self._process.use_tls(identity, approach)
        self._process.directory.sslmode = self._settings.server_tls_sslmode
        self._become_admin()
