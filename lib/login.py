"""From a startup packet to a frontend that is known to be who it says: asked by the pool, or by the server through it.

Green. Deciding is lib/auth's; here the decision is carried out. The rule is the one for the frontend's own address. A
login is passed on to the server only if it would end the same there: the server's rule for the pool asks the same
question, and really asked it. In all other cases the pool asks, and starts the worker with what it learned.

source: client-authentication.html, protocol-flow.html#PROTOCOL-FLOW-START-UP
"""

from __future__ import annotations

import logging
import pwd
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import gevent

from lib.auth import access as access_rules
from lib.auth.access import Access, Challenge, Counts, Reject, RelayOnly, decide, refusal
from lib.auth.credential import Credential, Secrets
from lib.auth.exchange import OK, SASL, SASL_FINAL, Dialogue, Say, Work, challenge, code_of, respond
from lib.auth.hba import Peer, Resolved, Rule
from lib.auth.relay import Relay, without_binding
from lib.directory import RETRY_S, Directory, Known
from lib.errors import (
    AdminQueryFailed,
    CannotAuthenticate,
    CredentialUnfit,
    LoginTimeout,
    PoolError,
    ProtocolViolation,
    RulesUnusable,
    ServerRefused,
    ServerUnreachable,
)

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 65_540  # of a frontend that has not authenticated yet

Answer = Callable[..., bytes | None]


class FrontendStream(Protocol):
    """What is needed of the frontend's stream: whole messages in (EOFError at the end), bytes out."""

    def recv_message(self, max_bytes: int = ...) -> bytes: ...

    def write(self, data: bytes) -> None: ...

    @property
    def binding(self) -> bytes | None: ...  # what SCRAM-SHA-256-PLUS is bound to


class Request(Protocol):
    """What is needed of the startup packet."""

    @property
    def user(self) -> str: ...

    @property
    def database(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Admission:
    """A frontend that was let in.

    method    of its rule
    access    what the primary said about its role and database
    worker    what start_worker returned, when one was started
    no_worker why none could be started though one was wanted: the server is full or not there; wait for one
    """

    user: str
    database: str
    method: str
    access: Access
    worker: Any = None
    no_worker: PoolError | None = None


class _ServerAsksOtherwise(Exception):
    """The server's first message is not what its rule promised; the frontend has not seen it."""


class _FrontendFailed(Exception):
    """While a worker was being started the frontend, not the server, hung up, was late, or spoke nonsense.

    Not a PoolError, and no EOFError: whoever starts the worker must not hold it against the server.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(type(error).__name__)
        self.error = error


def admit(
    stream: FrontendStream, request: Request, peer: Peer, directory: Directory, needs_worker: Callable[[], bool],
    start_worker: Callable[[Answer], Any], *, secrets: Secrets, auth_timeout_s: float = 60.0,
    counts: Callable[[str, str], Counts] = lambda user, database: Counts(), is_virtual: bool = False,
) -> Admission:  # fmt: skip
    """Authenticate a frontend; AuthenticationOk and what follows it are left to the caller.

    needs_worker   whether this arrival calls for a new worker
    start_worker   connects to the primary with this user and database, calls answer(message) for each 'R' message, and
                   returns the worker, which belongs to the pool from then on, whatever happens here
    counts         frontends of a role and of a database, for the limits of the server
    is_virtual     the database is one of the pool's own: no server knows it, so it needs no worker
    raises         PoolError to be told to the frontend, which is then closed; ServerRefused is passed on verbatim;
                   EOFError when the frontend is gone
    """
    deadline = time.monotonic() + auth_timeout_s
    login = _Login(stream, request.user, request.database, directory, secrets, deadline)
    known, access = login.look_up()
    peer = known.seen(peer)
    rule = known.rule_for(peer, login.user, login.database, access.roles, _resolve)
    plan = decide(
        rule, access, peer, login.user, login.database, version=known.version, maps=known.maps,
        pool_rule=known.pool_rule(login.user, login.database, access.roles, _resolve), system_user=_name_of(peer.uid),
    )  # fmt: skip
    if isinstance(plan, Reject):
        raise plan.error
    assert rule is not None
    why_not = refusal(access, login.user, login.database, counts(login.user, login.database), is_virtual=is_virtual)
    wants_worker = not is_virtual and why_not is None and needs_worker()
    if isinstance(plan, RelayOnly):
        if is_virtual:
            raise CannotAuthenticate(f'authentication method "{rule.method}" cannot be used for this database')
        return login.by_server_alone(rule, access, start_worker, plan.objection or why_not)
    if isinstance(plan, Challenge):
        if plan.can_relay and wants_worker:
            admission = login.by_server(rule, access, start_worker)
            if admission is not None:
                return admission
        login.by_pool(plan.method, access, known)
        if plan.objection is not None:
            raise plan.objection
    if why_not is not None:
        raise why_not
    admission = Admission(login.user, login.database, rule.method, access)
    # Asked again: others may have started it while this one proved who it is.
    return login.with_worker(admission, start_worker) if wants_worker and needs_worker() else admission


def responder(user: str, credential: Credential | None) -> Answer:
    """An `answer` for a worker's start: logs in to a server with what the pool has of the role.

    raises   (when called) CredentialUnfit, when that is not what the server asks for
    """
    dialogue = respond(user, credential)
    next(dialogue)

    def answer(raw: bytes, binding: bytes | None = None) -> bytes | None:
        try:
            step = dialogue.send(raw if binding is None else (raw, binding))
            while isinstance(step, Work):
                step = dialogue.send(_in_thread(step))
        except StopIteration:
            return None
        return step

    return answer


class _Login:
    """One frontend on its way in."""

    def __init__(
        self, stream: FrontendStream, user: str, database: str, directory: Directory, secrets: Secrets, deadline: float
    ) -> None:
        self.stream, self.user, self.database = stream, user, database
        self.directory, self.secrets, self.deadline = directory, secrets, deadline

    def look_up(self) -> tuple[Known, Access]:
        """What the primary knows; waits for a primary that is down until the login's time is over."""
        while True:
            try:
                access = self.directory.access(self.user, self.database)
                return self.directory.rules(access.loaded), access
            except (ServerUnreachable, AdminQueryFailed, RulesUnusable):
                if time.monotonic() + RETRY_S > self.deadline:
                    raise ServerUnreachable(
                        "no server can authenticate this connection at the moment",
                        hint="Try again later; the log of the pool says why.",
                    ) from None
            gevent.sleep(RETRY_S)

    def read(self) -> bytes:
        """The frontend's next message."""
        late = LoginTimeout("canceling authentication due to timeout")
        with gevent.Timeout(max(0.001, self.deadline - time.monotonic()), late):
            return self.stream.recv_message(MAX_ANSWER_BYTES)

    # --- the pool asks ----------------------------------------------------------------------------------------------

    def by_pool(self, method: str, access: Access, known: Known) -> None:
        dialogue = challenge(
            method, self.user, access.usable_secret, known.mock_nonce, known.password_encryption, self.stream.binding
        )
        credential = self._drive(dialogue)
        self.secrets.remember(self.user, credential, access.secret, access.fingerprint)

    def _drive(self, dialogue: Dialogue) -> Credential:
        try:
            step = next(dialogue)
            while True:
                if isinstance(step, Work):
                    step = dialogue.send(_in_thread(step))
                elif isinstance(step, Say):
                    self.stream.write(step.message)
                    step = dialogue.send(None)
                else:
                    self.stream.write(step)
                    step = dialogue.send(self.read())
        except StopIteration as end:
            return end.value

    def with_worker(self, admission: Admission, start_worker: Callable[[Answer], Any]) -> Admission:
        """Start the worker that this arrival calls for, with what the pool has of the role."""
        credential = self.secrets.of(self.user, self.database, admission.access.secret)
        try:
            worker = start_worker(responder(self.user, credential))
        except (ServerRefused, ServerUnreachable) as error:
            if _is_passing(error):
                return self._without_worker(admission, error)
            if error.sqlstate in ("28P01", "28000"):
                log.error("the server refused the pool as user %r: %s", self.user, error)
                raise CredentialUnfit(
                    f'the pool cannot log in to the server as user "{self.user}"',
                    detail=f"The server says: {error.message}.",
                    hint="Give the password in conn_params, or give the pool a rule in pg_hba.conf that lets it in.",
                ) from None
            raise
        return self._with(admission, worker)

    @staticmethod
    def _with(admission: Admission, worker: Any) -> Admission:
        return Admission(admission.user, admission.database, admission.method, admission.access, worker)

    @staticmethod
    def _without_worker(admission: Admission, error: PoolError) -> Admission:
        return Admission(admission.user, admission.database, admission.method, admission.access, None, error)

    # --- the server asks --------------------------------------------------------------------------------------------

    def by_server(self, rule: Rule, access: Access, start_worker: Callable[[Answer], Any]) -> Admission | None:
        """Pass the dialogue on; None when the server did not come to ask, and the frontend has seen nothing of it."""
        relay = Relay(rule.method, access.usable_secret)
        admission = Admission(self.user, self.database, rule.method, access)
        try:
            worker = start_worker(self._relaying(relay))
        except _FrontendFailed as failed:
            raise failed.error from None
        except _ServerAsksOtherwise:
            log.warning("the server did not ask user %r by %s, as its pg_hba.conf says", self.user, rule.method)
            self.directory.expire()
            return None
        except (ServerRefused, ServerUnreachable) as error:
            if relay.asked is None:
                return None
            if not (_is_passing(error) and relay.has_counted):
                raise
            self._learn(relay, access)
            return self._without_worker(admission, error)
        if not relay.has_counted:
            return None
        self._learn(relay, access)
        return self._with(admission, worker)

    def by_server_alone(
        self, rule: Rule, access: Access, start_worker: Callable[[Answer], Any], why_not: PoolError | None
    ) -> Admission:
        """For a method that nobody but the server can check."""
        admission = self.by_server(rule, access, start_worker)
        if admission is None:
            raise CannotAuthenticate(
                f'the server could not be asked to authenticate user "{self.user}" by {rule.method}',
                hint="Give the pool's own address the same rule in pg_hba.conf as its clients.",
            )
        if why_not is not None:
            raise why_not
        return admission

    def _learn(self, relay: Relay, access: Access) -> None:
        belongs_to = access.secret if relay.method in access_rules.CHECKED_HERE else None
        self.secrets.remember(self.user, relay.credential(), belongs_to, access.fingerprint)

    def _relaying(self, relay: Relay) -> Answer:
        def answer(raw: bytes, binding: bytes | None = None) -> bytes | None:
            if relay.asked is None and not relay.fits(raw):
                raise _ServerAsksOtherwise
            relay.from_server(raw)
            code = code_of(raw)
            if code == OK:
                return None
            self.stream.write(raw if code != SASL else without_binding(raw))
            if code == SASL_FINAL or relay.is_last(code):
                return None
            try:
                reply = self.read()
                if reply[:1] != b"p":
                    raise ProtocolViolation(f"expected password response, got message type {reply[0]}")
            except (EOFError, PoolError) as error:
                raise _FrontendFailed(error) from None
            relay.from_frontend(reply)
            return reply

        return answer


def _is_passing(error: PoolError) -> bool:
    """Whether the server would have said yes at another time: it is not there, starting or stopping, or full."""
    return isinstance(error, ServerUnreachable) or error.sqlstate[:2] == "53" or error.sqlstate[:3] == "57P"


def _in_thread(work: Work) -> Any:
    return gevent.get_hub().threadpool.apply(work.function)


def _name_of(uid: int | None) -> str | None:
    if uid is None:
        return None
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _resolve(address: str) -> Resolved | None:
    """The name of an address and the addresses of that name, by gevent's resolver."""
    resolver = gevent.get_hub().resolver
    try:
        name = resolver.gethostbyaddr(address)[0]
        return name, {entry[4][0] for entry in resolver.getaddrinfo(name, None)}
    except OSError:
        return None
