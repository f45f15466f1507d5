"""From an accepted connection to a frontend that is served: limits, login, greeting.

Green. The first packets are `lib.door`'s. Who a frontend is and whether it may come in is decided in `lib.login`; here
it is counted, grouped, told its parameters and its cancel key, and forgotten when it is gone. A CancelRequest is
answered here too, for it comes on a connection of its own.

source: protocol-flow.html#PROTOCOL-FLOW-START-UP, protocol-flow.html#PROTOCOL-FLOW-CANCELING-REQUESTS
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets as random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gevent.event import AsyncResult

from lib import __version__, login, modes, net
from lib.auth.credential import Secrets
from lib.auth.hba import Peer
from lib.backend import tuning
from lib.backend.cluster import Cluster
from lib.backend.dialogue import Answer
from lib.backend.groups import Group, Login
from lib.backend.unit import Visit
from lib.backend.worker import Worker
from lib.console.access import ALIAS, PSEUDO, privileges, reported
from lib.console.commands import Privilege
from lib.console.pseudodb import PseudoFrontend
from lib.directory import Directory
from lib.door import Caller, Door
from lib.errors import (
    ConnectDenied,
    PoolError,
    ReplicationRefused,
    ServerRefused,
    ShuttingDown,
    TooManyFrontends,
)
from lib.frontend import Frontend
from lib.metrics import Key
from lib.presence import Headcount, Presence, logged, meant
from lib.sessions import Placement, SessionFrontend
from lib.tls import HandshakeFailed
from lib.wire import messages

if TYPE_CHECKING:
    from lib.config import Settings
    from lib.console.house import House
    from lib.tlsfiles import Identity, Watched

log = logging.getLogger(__name__)

_RESERVED = 3  # for the pseudo database, beyond max_client_conn


class Arrivals:
    """Everybody who is here or on the way in.

    frontends   those that were let in, by the pid that they were told
    presences   the same, and what is known of them
    connected   connections with a startup packet, those that are still logging in included
    """

    def __init__(
        self, settings: Settings, cluster: Cluster, directory: Directory, secrets: Secrets,
        identity: Watched[Identity] | None = None,
    ) -> None:  # fmt: skip
        self.settings = settings
        self.door = Door(settings, identity)
        self.cluster = cluster
        self.directory = directory
        self.secrets = secrets
        self.frontends: dict[int, Frontend | SessionFrontend | PseudoFrontend] = {}
        self.presences: dict[int, Presence] = {}
        self.house: House | None = None  # what the pseudo database shows; there is none without
        self.connected = 0
        self.is_stopping = False
        self.logins: Counter[str] = Counter()  # since the start: "ok", and those refused by SQLSTATE
        self._headcount = Headcount(settings)

    def __repr__(self) -> str:
        return f"<Arrivals frontends={len(self.frontends)} connected={self.connected}>"

    @property
    def clients(self) -> int:
        """How many are connected to anything but the pseudo database."""
        return sum(not isinstance(each, PseudoFrontend) for each in self.frontends.values())

    def handle(self, stream: net.Stream) -> None:
        """One connection, from its first byte to its last."""
        caller = Caller(stream)
        try:
            first = self.door.receive(caller)
            if isinstance(first, messages.Cancel):
                self._cancel(first)
            else:
                self._serve(caller, first)
        except HandshakeFailed as error:
            log.info("could not accept a TLS connection from %s: %s", caller, error)
        except ServerRefused as error:
            self.logins[error.sqlstate] += 1
            self._log_refused(caller, error)
            caller.stream.write(messages.with_severity(error.raw, "FATAL"))
        except PoolError as error:
            self.logins[error.sqlstate] += 1
            self._log_refused(caller, error)
            caller.stream.write(messages.error_response(error, "FATAL"))
        except EOFError:
            pass
        finally:
            caller.stream.close()

    def _log_refused(self, caller: Caller, error: PoolError) -> None:
        who = f" as {caller.asked.user}@{caller.asked.database}" if caller.asked is not None else ""
        log.info("%s: login failed%s: %s", caller, who, error)

    # --- login -------------------------------------------------------------------------------------------------------

    def _serve(self, caller: Caller, startup: messages.Startup) -> None:
        caller.asked = startup
        if self.is_stopping:
            raise ShuttingDown("the pool is shutting down")
        is_pseudo = startup.database == PSEUDO and self.house is not None
        if self.connected >= self.settings.max_client_conn + (_RESERVED if is_pseudo else 0):
            raise TooManyFrontends(
                "sorry, too many clients already", hint="The pool's max_client_conn is reached: raise it, or use fewer."
            )
        if startup.replication:
            raise ReplicationRefused(
                "replication connections are not supported by the pool", hint="Connect to the server directly."
            )
        self.connected += 1
        try:
            if startup.version > messages.PROTOCOL_3_2 or startup.options:
                spoken = min(startup.version, messages.PROTOCOL_3_2)
                caller.stream.write(messages.negotiate_protocol_version(spoken, startup.options))
            self._let_in(caller, startup)
        finally:
            self.connected -= 1

    def _let_in(self, caller: Caller, startup: messages.Startup) -> None:
        asked = startup
        startup, is_read_only = meant(asked)
        if startup.database == ALIAS and not self._exists(startup):
            startup = replace(startup, database=PSEUDO)
        if startup.database == PSEUDO and self.house is not None:
            self._serve_pseudo(caller, startup, self.house)
            return
        mode = modes.mode_of(self.settings, startup.user, startup.database)
        serve = self._serve_session if mode.pool_mode == modes.SESSION else self._serve_statements
        serve(caller, startup, is_read_only, asked)

    def _exists(self, startup: messages.Startup) -> bool:
        """Whether the primary has the database, as far as that is known."""
        try:
            return self.directory.access(startup.user, startup.database).database_exists
        except PoolError:
            return False

    def _silence(self, asked: messages.Startup) -> modes.Silence | None:
        """What tells how long the frontend has been idle, where that matters. As it has `asked` is how its names were
        written, with @ro perhaps."""
        if not self.settings.active_cnn_timeout:
            return None
        startup, _ = meant(asked)
        given = {name: (value,) for name, value in asked.parameters}
        names = {"user": (asked.user, startup.user), "database": (asked.database, startup.database)}
        is_spared = modes.meets(self.settings.disable_conds_list, {**given, **names})
        return None if is_spared else modes.Silence(time.monotonic())

    def _admit(
        self, caller: Caller, startup: messages.Startup, needs_worker: Callable[[], bool],
        start_worker: Callable[[Answer], Any], is_virtual: bool = False,
    ) -> login.Admission:  # fmt: skip
        """Have the frontend prove who it is."""
        stream = caller.stream
        peer = Peer.at(caller.host, caller.uid, stream.is_encrypted, stream.certificate)
        return login.admit(
            stream, startup, peer, self.directory, needs_worker, start_worker, secrets=self.secrets,
            auth_timeout_s=self.settings.auth_timeout,
            counts=self._headcount.of, is_virtual=is_virtual,
        )  # fmt: skip

    def _serve_statements(
        self, caller: Caller, startup: messages.Startup, is_read_only: bool, asked: messages.Startup
    ) -> None:
        packet, settings = tuning.split(startup.parameters)
        shown = {}
        if not self.settings.track_application_name:
            shown = {"application_name": dict(settings).get("application_name", "")}
            settings = tuple(pair for pair in settings if pair[0] not in shown)
        who = self.cluster.login(startup.user, startup.database, packet)
        self._admit(
            caller, startup, lambda: self._needs_worker(who), lambda answer: self._start_worker(who, answer)
        )
        group = self.cluster.group(who, settings)
        who.frontends += 1
        try:
            with self._headcount.one_more(startup.user, startup.database):
                self._learn_parameters(group)
                may_use_standbys = self._may_use_standbys(startup)
                if may_use_standbys and (self.settings.conn_params or is_read_only):
                    self.cluster.start_standby_workers(who)
                key = self._new_key(startup.version)
                frontend = Frontend(caller.stream, self.cluster, group, key, str(caller), may_use_standbys)
                frontend.is_read_only = is_read_only
                frontend.asked = asked
                frontend.silence = self._silence(asked)
                self._greet(frontend, shown, caller, startup)
        finally:
            who.frontends -= 1

    def _serve_session(
        self, caller: Caller, startup: messages.Startup, is_read_only: bool, asked: messages.Startup
    ) -> None:
        place = Placement(self.cluster, startup.user, startup.database, startup.parameters)
        if is_read_only and self._may_use_standbys(startup):
            place.choose_standby()
        admission = self._admit(caller, startup, place.needs_new, place.start)
        with self._headcount.one_more(startup.user, startup.database):
            lease = place.take(admission.worker, lambda: not caller.stream.has_ended())
            key = self._new_key(startup.version, lease.key[0])
            frontend = SessionFrontend(caller.stream, self.cluster, lease, key, str(caller))
            frontend.asked = asked
            frontend.silence = self._silence(asked)
            self._serve_until_gone(frontend, frontend.greeting, caller, startup)

    def _serve_pseudo(self, caller: Caller, startup: messages.Startup, house: House) -> None:
        """Authenticated as for any database, though no server knows this one."""
        access = self._admit(caller, startup, lambda: False, lambda answer: None, is_virtual=True).access
        user, settings, directory = startup.user, self.settings, self.directory

        def rights() -> frozenset[Privilege]:
            return privileges(directory.last_access(user, PSEUDO) or access, user, settings)

        if not rights():
            raise ConnectDenied(
                f'permission denied for database "{PSEUDO}"',
                detail="It is for superusers, members of pg_monitor, pseudo_admin_users and pseudo_stats_users.",
            )
        told = reported(
            directory.rules().version, __version__, user,
            dict(startup.parameters).get("application_name", ""),
        )  # fmt: skip
        key = self._new_key(startup.version)
        frontend = PseudoFrontend(caller.stream, house, user, rights, key, str(caller), told)
        self._serve_until_gone(frontend, frontend.greeting, caller, startup)

    def look_at_rights(self) -> None:
        """Ask what those who are in the pseudo database may do now; as long as nobody can be asked, they may do what
        they could."""
        present = list(self.presences.values())
        for user in {each.startup.user for each in present if isinstance(each.frontend, PseudoFrontend)}:
            with suppress(PoolError):
                self.directory.access(user, PSEUDO)

    def _greet(
        self, frontend: Frontend, shown: dict[str, str], caller: Caller, startup: messages.Startup
    ) -> None:
        """Tell the frontend that it is in, and serve it.

        shown   parameters of its own, beside those of its group
        """
        group = frontend.group
        greeting = [messages.parameter_status(name, value) for name, value in {**group.parameters, **shown}.items()]
        greeting += (messages.backend_key_data(*frontend.key), messages.READY[b"I"])
        group.frontends.add(frontend)
        try:
            self._serve_until_gone(frontend, b"".join(greeting), caller, startup)
        finally:
            frontend.group.frontends.discard(frontend)

    def _serve_until_gone(
        self, frontend: Frontend | SessionFrontend | PseudoFrontend, greeting: bytes, caller: Caller,
        startup: messages.Startup,
    ) -> None:  # fmt: skip
        pid = frontend.key[0]
        self.frontends[pid] = frontend
        self.logins["ok"] += 1
        mode = modes.mode_of(self.settings, startup.user, startup.database)
        self.presences[pid] = Presence(
            frontend, startup, caller.host or "[local]", caller.port, time.time(),
            PSEUDO if isinstance(frontend, PseudoFrontend) else mode.pool_mode,
        )  # fmt: skip
        try:
            with logged(self.presences[pid], caller, self.settings):
                if self.is_stopping:
                    frontend.end(ShuttingDown("the pool is shutting down"))
                else:
                    frontend.stream.write(messages.AUTHENTICATION_OK + greeting)
                frontend.serve()
        finally:
            del self.frontends[pid], self.presences[pid]
            tally = self.cluster.tallies[Key(0, startup.database, startup.user)]
            tally.received += frontend.stream.received
            tally.sent += frontend.stream.sent

    def _needs_worker(self, who: Login) -> bool:
        """Whether one frontend more calls for one worker more, by the specification's formula."""
        if self.cluster.pause.holds(who.database):
            return False
        roster = self.cluster.primary.roster(who)
        who.frontends += 1
        try:
            return roster.shared < roster.needed and self.cluster.primary.has_room(who.user, who.database)
        finally:
            who.frontends -= 1

    def _start_worker(self, who: Login, answer: Answer) -> Worker:
        roster = self.cluster.primary.roster(who)
        roster.starting += 1
        roster.relayed += 1
        try:
            backend = roster.open_backend(answer)
        finally:
            roster.starting -= 1
            roster.relayed -= 1
        return roster.adopt(backend)

    def _learn_parameters(self, group: Group) -> None:
        """See that what the server reports for the group's settings is known: a bad setting is refused at login."""
        if group.parameters:
            return
        found: AsyncResult = AsyncResult()
        visit = Visit(group, lambda: found.set(None), found.set)
        self.cluster.dispatch(visit)
        try:
            raw = found.get()
        finally:
            visit.is_wanted = False
        if raw is not None:
            raise ServerRefused(messages.error_fields(raw), raw)

    def _may_use_standbys(self, startup: messages.Startup) -> bool:
        """By conn_params where that is given, else everybody."""
        if not self.settings.conn_params:
            return True
        given = {**dict(startup.parameters), "user": startup.user, "database": startup.database}
        for entry in self.settings.conn_params:
            wanted = {"database" if name == "dbname" else name: value for name, value in entry.items()}
            wanted.pop("password", None)
            if all(given.get(name) == value for name, value in wanted.items()):
                return True
        return False

    def _new_key(self, version: int, pid: int = 0) -> tuple[int, bytes]:
        """A pid that no frontend has, this one if possible, and a secret: four bytes, thirty-two since protocol 3.2."""
        while not pid or pid in self.frontends:
            pid = random.randbelow(0x7FFFFFFE) + 1
        return pid, os.urandom(4 if version < messages.PROTOCOL_3_2 else 32)

    # --- limits, cancel, and the end ---------------------------------------------------------------------------------

    def _cancel(self, request: messages.Cancel) -> None:
        frontend = self.frontends.get(request.pid)
        if frontend is None or not hmac.compare_digest(frontend.key[1], request.secret):
            log.warning("a cancel request with a key that nobody has")
        else:
            frontend.cancel()

    def look(self, now: float) -> None:
        """Disconnect who has been idle for longer than active_cnn_timeout."""
        for frontend in list(self.frontends.values()):
            frontend.look(now)

    def settings_changed(self) -> None:
        """A reload: what was decided when frontends came in is decided again, for those that are here."""
        self.door.settings_changed()
        for frontend in self.frontends.values():
            if isinstance(frontend, PseudoFrontend) or frontend.asked is None:
                continue
            silence = self._silence(frontend.asked)
            if (silence is None) != (frontend.silence is None):
                frontend.watch_silence(silence)
            if isinstance(frontend, Frontend):
                frontend.may_use_standbys = self._may_use_standbys(meant(frontend.asked)[0])

    def stop(self) -> None:
        """Nobody comes in any more, and everybody goes as soon as the statement in flight has answered."""
        self.is_stopping = True
        for frontend in list(self.frontends.values()):
            frontend.stop()
