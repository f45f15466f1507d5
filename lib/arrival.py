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
from collections import Counter
from typing import TYPE_CHECKING

from gevent.event import AsyncResult

from lib import login, net
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
        self.frontends: dict[int, Frontend] = {}
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
        packet, settings = tuning.split(startup.parameters)
        stream = caller.stream
        who = self.cluster.login(startup.user, startup.database, packet)
        login.admit(
            stream,
            startup,
            Peer.at(caller.host, caller.uid, stream.is_encrypted),
            self.directory,
            lambda: self._needs_worker(who),
            lambda answer: self._start_worker(who, answer),
            secrets=self.secrets,
            auth_timeout_s=self.settings.auth_timeout,
            counts=lambda user, database: Counts(self._by_role[user], self._by_database[database]),
        )
        group = self.cluster.group(who, settings)
        self._by_role[who.user] += 1
        self._by_database[who.database] += 1
        who.frontends += 1
        try:
            self._learn_parameters(group)
            key = self._new_key(startup.version)
            frontend = Frontend(stream, self.cluster, group, key, str(caller), self._may_use_standbys(startup))
            self._greet(frontend)
        finally:
            who.frontends -= 1
            self._by_role[who.user] -= 1
            self._by_database[who.database] -= 1

    def _greet(self, frontend: Frontend) -> None:
        """Tell the frontend that it is in, and serve it."""
        if self.is_stopping:
            raise ShuttingDown("the pool is shutting down")
        group = frontend.group
        greeting = [messages.AUTHENTICATION_OK]
        greeting += (messages.parameter_status(name, value) for name, value in group.parameters.items())
        greeting += (messages.backend_key_data(*frontend.key), messages.READY[b"I"])
        frontend.stream.write(b"".join(greeting))
        log.debug("%r is in", frontend)
        self.frontends[frontend.key[0]] = frontend
        group.frontends.add(frontend)
        try:
            frontend.serve()
        finally:
            frontend.group.frontends.discard(frontend)
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
                packet, _ = tuning.split(startup.parameters)
                self.cluster.start_standby_workers(self.cluster.login(startup.user, startup.database, packet))
                return True
        return False

    def _new_key(self, version: int) -> tuple[int, bytes]:
        """A pid that no frontend has, and a secret: four bytes, and thirty-two since protocol 3.2."""
        while True:
            pid = random.randbelow(0x7FFFFFFE) + 1
            if pid not in self.frontends:
                return pid, os.urandom(4 if version < messages.PROTOCOL_3_2 else 32)

    # --- cancel, and the end -----------------------------------------------------------------------------------------

    def _cancel(self, request: messages.Cancel) -> None:
        frontend = self.frontends.get(request.pid)
        if frontend is None or not hmac.compare_digest(frontend.key[1], request.secret):
            log.warning("a cancel request with a key that nobody has")
        else:
            frontend.cancel()

    def stop(self) -> None:
        """Nobody comes in any more, and everybody goes as soon as the statement in flight has answered."""
        self.is_stopping = True
        for frontend in list(self.frontends.values()):
            frontend.stop()
