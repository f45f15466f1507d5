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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gevent.event import AsyncResult

from lib import login, modes, net
from lib.auth.access import Counts
from lib.auth.credential import Secrets
from lib.auth.hba import Peer
from lib.backend import tuning
from lib.backend.cluster import Cluster, Group, Login
from lib.backend.dialogue import Answer
from lib.backend.unit import Visit
from lib.backend.worker import Worker
from lib.directory import Directory
from lib.door import Caller, Door
from lib.errors import (
    PoolError,
    ReplicationRefused,
    ServerRefused,
    ShuttingDown,
    TooManyFrontends,
)
from lib.frontend import Frontend
from lib.sessions import Placement, SessionFrontend
from lib.tls import HandshakeFailed
from lib.wire import messages

if TYPE_CHECKING:
    from lib.config import Settings
    from lib.tlsfiles import Identity, Watched

log = logging.getLogger(__name__)


class Arrivals:
    """Everybody who is here or on the way in.

    frontends   those that were let in, by the pid that they were told
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
        self.frontends: dict[int, Frontend | SessionFrontend] = {}
        self.connected = 0
        self.is_stopping = False
        self._by_role: Counter[str] = Counter()
        self._by_database: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Arrivals frontends={len(self.frontends)} connected={self.connected}>"

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
            log.info("login failed: %s", error)
            caller.stream.write(messages.with_severity(error.raw, "FATAL"))
        except PoolError as error:
            log.info("login failed: %s", error)
            caller.stream.write(messages.error_response(error, "FATAL"))
        except EOFError:
            pass
        finally:
            caller.stream.close()

    # --- login -------------------------------------------------------------------------------------------------------

    def _serve(self, caller: Caller, startup: messages.Startup) -> None:
        if self.is_stopping:
            raise ShuttingDown("the pool is shutting down")
        if self.connected >= self.settings.max_client_conn:
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
        asked, settings = startup, self.settings
        user, user_reads = modes.without_suffix(startup.user)
        database, database_reads = modes.without_suffix(startup.database)
        is_read_only = user_reads or database_reads
        parameters = modes.read_only(startup.parameters) if is_read_only else startup.parameters
        startup = replace(startup, user=user, database=database, parameters=parameters)
        rule = modes.mode_of(settings.pool_mode, settings.pool_modes, user, database)
        serve = self._serve_session if rule.pool_mode == modes.SESSION else self._serve_statements
        serve(caller, startup, is_read_only, self._silence(asked, startup))

    def _silence(self, asked: messages.Startup, startup: messages.Startup) -> modes.Silence | None:
        """What tells how long the frontend has been idle, where that matters. As it has `asked` is how its names were
        written, with @ro perhaps."""
        if not self.settings.active_cnn_timeout:
            return None
        given = {name: (value,) for name, value in asked.parameters}
        names = {"user": (asked.user, startup.user), "database": (asked.database, startup.database)}
        is_spared = modes.meets(self.settings.disable_conds_list, {**given, **names})
        return None if is_spared else modes.Silence(time.monotonic())

    def _admit(
        self, caller: Caller, startup: messages.Startup, needs_worker: Callable[[], bool],
        start_worker: Callable[[Answer], Any],
    ) -> login.Admission:  # fmt: skip
        """Have the frontend prove who it is."""
        stream = caller.stream
        peer = Peer.at(caller.host, caller.uid, stream.is_encrypted, stream.certificate)
        return login.admit(
            stream, startup, peer, self.directory, needs_worker, start_worker, secrets=self.secrets,
            auth_timeout_s=self.settings.auth_timeout,
            counts=lambda user, database: Counts(self._by_role[user], self._by_database[database]),
        )  # fmt: skip

    @contextmanager
    def _counted(self, startup: messages.Startup) -> Iterator[None]:
        self._by_role[startup.user] += 1
        self._by_database[startup.database] += 1
        try:
            yield
        finally:
            self._by_role[startup.user] -= 1
            self._by_database[startup.database] -= 1

    def _serve_statements(
        self, caller: Caller, startup: messages.Startup, is_read_only: bool, silence: modes.Silence | None
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
            with self._counted(startup):
                self._learn_parameters(group)
                may_use_standbys = self._may_use_standbys(startup)
                if may_use_standbys and (self.settings.conn_params or is_read_only):
                    self.cluster.start_standby_workers(who)
                key = self._new_key(startup.version)
                frontend = Frontend(caller.stream, self.cluster, group, key, str(caller), may_use_standbys)
                frontend.is_read_only = is_read_only
                frontend.silence = silence
                self._greet(frontend, shown)
        finally:
            who.frontends -= 1

    def _serve_session(
        self, caller: Caller, startup: messages.Startup, is_read_only: bool, silence: modes.Silence | None
    ) -> None:
        place = Placement(self.cluster, startup.user, startup.database, startup.parameters)
        if is_read_only and self._may_use_standbys(startup):
            place.choose_standby()
        admission = self._admit(caller, startup, place.needs_new, place.start)
        with self._counted(startup):
            lease = place.take(admission.worker, lambda: not caller.stream.has_ended())
            key = self._new_key(startup.version, lease.key[0])
            frontend = SessionFrontend(caller.stream, self.cluster, lease, key, str(caller))
            frontend.silence = silence
            self._serve_until_gone(frontend, frontend.greeting)

    def _greet(self, frontend: Frontend, shown: dict[str, str]) -> None:
        """Tell the frontend that it is in, and serve it.

        shown   parameters of its own, beside those of its group
        """
        group = frontend.group
        greeting = [messages.parameter_status(name, value) for name, value in {**group.parameters, **shown}.items()]
        greeting += (messages.backend_key_data(*frontend.key), messages.READY[b"I"])
        group.frontends.add(frontend)
        try:
            self._serve_until_gone(frontend, b"".join(greeting))
        finally:
            frontend.group.frontends.discard(frontend)

    def _serve_until_gone(self, frontend: Frontend | SessionFrontend, greeting: bytes) -> None:
        self.frontends[frontend.key[0]] = frontend
        log.debug("%r is in", frontend)
        try:
            if self.is_stopping:
                frontend.end(ShuttingDown("the pool is shutting down"))
            else:
                frontend.stream.write(messages.AUTHENTICATION_OK + greeting)
            frontend.serve()
        finally:
            del self.frontends[frontend.key[0]]
            log.debug("%r has left", frontend)

    def _needs_worker(self, who: Login) -> bool:
        """Whether one frontend more calls for one worker more, by the specification's formula."""
        roster = self.cluster.primary.roster(who)
        who.frontends += 1
        try:
            return roster.shared < roster.needed
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

    def stop(self) -> None:
        """Nobody comes in any more, and everybody goes as soon as the statement in flight has answered."""
        self.is_stopping = True
        for frontend in list(self.frontends.values()):
            frontend.stop()
