"""Every way in which the pool itself says no: one class per meaning, born with its SQLSTATE.

Pure. An error that a server sent is passed on verbatim and is not in this file, except as `ServerRefused`, which
carries one that came while a worker was being started. Message in lower case without a full stop; detail and hint are
sentences. FATAL means that the pool closes the frontend after telling it.

source: errcodes-appendix.html, protocol-error-fields.html
"""

from __future__ import annotations


class PoolError(Exception):
    """An error that a frontend is told as an ErrorResponse.

    message   lower case, no full stop, nothing secret
    detail    a sentence, or None
    hint      a sentence that says what to do, or None
    routine   of PostgreSQL's sources, where drivers know an error by it (field R)
    """

    sqlstate = "XX000"
    severity = "ERROR"
    routine = ""

    def __init_subclass__(
        cls, sqlstate: str | None = None, severity: str | None = None, routine: str = "", **rest: object
    ) -> None:
        super().__init_subclass__(**rest)
        cls.routine = routine
        if sqlstate is not None:
            cls.sqlstate = sqlstate
        if severity is not None:
            cls.severity = severity

    def __init__(self, message: str, *, detail: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.severity} {self.sqlstate}: {self.message}"


class ConfigError(PoolError, sqlstate="F0000"):
    """The conf file cannot be used. `complaints` holds every reason, one line each."""

    def __init__(self, complaints: list[str]) -> None:
        super().__init__("; ".join(complaints))
        self.complaints = complaints


# --- before a frontend is let in: FATAL, then closed ---------------------------------------------------------------


class ProtocolViolation(PoolError, sqlstate="08P01", severity="FATAL"):
    """A frontend (or a server) sent bytes that the protocol does not allow there."""


class UnsupportedProtocol(PoolError, sqlstate="0A000", severity="FATAL"):
    """A startup packet asked for a protocol version that we do not speak."""


class ReplicationRefused(PoolError, sqlstate="0A000", severity="FATAL"):
    """A walsender connection cannot be lent for one statement at a time."""


class NoUserName(PoolError, sqlstate="28000", severity="FATAL"):
    """A startup packet without a user."""


class NotAuthorized(PoolError, sqlstate="28000", severity="FATAL"):
    """pg_hba has no rule for this frontend, or one that rejects it, or the role may not log in."""


class AuthenticationFailed(PoolError, sqlstate="28P01", severity="FATAL"):
    """A wrong password, or none. The message never says which part was wrong."""


class CannotAuthenticate(PoolError, sqlstate="28000", severity="FATAL"):
    """The rule asks for a method that can be checked neither here nor by passing the dialogue on to the server."""


class CredentialUnfit(PoolError, sqlstate="28000", severity="FATAL"):
    """What the pool has of a role cannot answer what a server asks for, or the server could not prove who it is."""


class RulesUnusable(PoolError, sqlstate="F0000", severity="FATAL"):
    """pg_hba.conf or pg_ident.conf has an error, or changed while it was read; what was known before is kept."""


class UnknownDatabase(PoolError, sqlstate="3D000", severity="FATAL"):
    """The database does not exist, or is not accepting connections (55000 from the server itself)."""


class DatabaseClosed(PoolError, sqlstate="55000", severity="FATAL"):
    """The database has datallowconn off."""


class ConnectDenied(PoolError, sqlstate="42501", severity="FATAL"):
    """The role has no CONNECT privilege on the database."""


class TooManyFrontends(PoolError, sqlstate="53300", severity="FATAL"):
    """max_client_conn or another limit of the pool, or a connection limit of the role or the database, is reached."""


class LoginTimeout(PoolError, sqlstate="08006", severity="FATAL"):
    """A frontend did not finish logging in within auth_timeout."""


class ShuttingDown(PoolError, sqlstate="57P01", severity="FATAL"):
    """The pool is being stopped."""


class BackendLost(PoolError, sqlstate="57P01", severity="FATAL"):
    """The backend that held this frontend's session state is gone, and the state with it."""


class IdleTooLong(PoolError, sqlstate="57P05", severity="FATAL"):
    """A frontend was idle for longer than active_cnn_timeout."""


class IdleInTransactionTooLong(PoolError, sqlstate="25P03", severity="FATAL"):
    """A frontend had a transaction open and was idle for longer than idle_in_transaction_timeout."""


class KilledByAdministrator(PoolError, sqlstate="57P01", severity="FATAL"):
    """A frontend was disconnected from the pseudo database."""


class ServerRefused(PoolError, severity="FATAL"):
    """A server answered a worker's startup packet with an ErrorResponse.

    fields   dict of the ErrorResponse's fields by their one-letter code (protocol-error-fields.html)
    raw      the whole message, to be passed on verbatim
    """

    def __init__(self, fields: dict[str, str], raw: bytes) -> None:
        super().__init__(
            fields.get("M", "the server refused the connection"), detail=fields.get("D"), hint=fields.get("H")
        )
        self.sqlstate = fields.get("C", "08004")
        self.fields = fields
        self.raw = raw


class ServerUnreachable(PoolError, sqlstate="08006", severity="FATAL"):
    """No connection to the server could be made, or it broke off while a worker was being started."""


class AdminQueryFailed(PoolError, severity="FATAL"):
    """A server answered the pool's own query, or its admin connection, with an error; the sqlstate is the server's."""

    def __init__(self, message: str, *, sqlstate: str = "XX000", detail: str | None = None) -> None:
        super().__init__(message, detail=detail)
        self.sqlstate = sqlstate


# --- afterwards: ERROR, and the frontend stays ----------------------------------------------------------------------


class OutcomeUnknown(PoolError, sqlstate="08007"):
    """The backend died with this statement in flight: nobody can know whether it took effect."""


class TransactionLost(PoolError, sqlstate="08006"):
    """The backend died while the frontend's transaction was open and idle; it was rolled back."""


class InFailedTransaction(PoolError, sqlstate="25P02"):
    """The transaction's backend is gone; only COMMIT or ROLLBACK end the virtual failed transaction."""


class ResultChanged(PoolError, sqlstate="0A000", routine="RevalidateCachedQuery"):
    """A prepared statement is not what its frontend was told it is: the catalog was changed.

    asyncpg and pgjdbc prepare it again by themselves, if it comes from this routine.
    """


class NoWorkerInTime(PoolError, sqlstate="53300"):
    """Every worker for this group stayed busy, or none could be started, for longer than query_wait_timeout."""


class StatementCancelled(PoolError, sqlstate="57014"):
    """A CancelRequest met the statement while it was still waiting for a worker."""


class FeatureRefused(PoolError, sqlstate="0A000"):
    """transactions or session_features is 'reject', or the statement can never be pooled."""


class StatementRefused(PoolError):
    """A statement that could only answer with another frontend's state; the sqlstate is given with it."""

    def __init__(self, message: str, *, sqlstate: str, detail: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.sqlstate = sqlstate


# --- the pseudo database: ERROR, and the frontend stays --------------------------------------------------------------


class CommandInvalid(PoolError, sqlstate="42601"):
    """Not a command of the pseudo database, or one with arguments that it does not take."""


class NoStatements(PoolError, sqlstate="0A000"):
    """A statement of SQL, which the pseudo database does not run."""


class PrivilegeMissing(PoolError, sqlstate="42501"):
    """The user may not run this command, or none at all."""


class UnknownObject(PoolError, sqlstate="42704"):
    """There is no pool, worker, frontend, database or setting of that name or number."""


class UnknownColumn(PoolError, sqlstate="42703"):
    """A listing has no such column."""


class ValueUnfit(PoolError, sqlstate="22023"):
    """An argument that is read, but cannot be meant."""


class ObjectExists(PoolError, sqlstate="42710"):
    """There is a pool of that address already."""


class CannotBeDone(PoolError, sqlstate="55000"):
    """A command that the state of things does not allow."""


class SettingsRefused(PoolError, sqlstate="F0000"):
    """A conf file that was to be read again is wrong; nothing has changed."""


class InTransactionBlock(PoolError, sqlstate="25001"):
    """A command that changes something, which no ROLLBACK could undo."""


class CommandFailed(PoolError, sqlstate="XX000"):
    """A command met something that it should not have; the log says what."""


class UnknownStatement(PoolError, sqlstate="26000"):
    """A prepared statement of the pseudo database that is not there."""


class UnknownPortal(PoolError, sqlstate="34000"):
    """A portal of the pseudo database that is not there."""
