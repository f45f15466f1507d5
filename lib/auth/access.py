"""What a role may do, told by one query, and what follows from it and from the rule: decided here, done elsewhere.

Pure. PostgreSQL authenticates first and looks at the role and the database afterwards, so nobody learns here what
exists before it is known who asks: decide() speaks of the rule only, and refusal() is for who has authenticated.

source: client-authentication.html, catalog-pg-authid.html, catalog-pg-database.html; order and words of InitPostgres()
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import NamedTuple

from lib.auth import ident, scram
from lib.auth.hba import Peer, Rule
from lib.errors import (
    AuthenticationFailed,
    CannotAuthenticate,
    ConnectDenied,
    DatabaseClosed,
    NotAuthorized,
    PoolError,
    TooManyFrontends,
    UnknownDatabase,
)

SPEAKS_OF_ENCRYPTION = 140000  # "no encryption" was "SSL off" before
CHECKED_HERE = ("password", "md5", "scram-sha-256")
CHECKED_BY_SERVER = ("ldap", "pam", "radius", "gss", "bsd", "oauth")

# Of pg_authid: another text when the role's password, its right to log in or its identity is another.
FINGERPRINT = (
    "pg_catalog.md5(pg_catalog.concat_ws('|', oid, rolpassword, rolcanlogin, rolvaliduntil < pg_catalog.now()))"
)

# One row with one text column of JSON. Parameters: user, database. `loaded` tells when the server read its own files.
ACCESS_SQL = f"""
with recursive me as (
    select oid, rolname, rolpassword, rolcanlogin, rolsuper, rolconnlimit, {FINGERPRINT} as fingerprint,
           coalesce(rolvaliduntil < pg_catalog.clock_timestamp(), false) as expired
      from pg_catalog.pg_authid where rolname = %s::pg_catalog.name
), member (oid) as (
    select oid from me
    union
    select m.roleid from pg_catalog.pg_auth_members m join member on m.member = member.oid
)
select pg_catalog.json_build_object(
    'role_exists', me.oid is not null,
    'secret', me.rolpassword,
    'fingerprint', me.fingerprint,
    'expired', coalesce(me.expired, false),
    'can_login', coalesce(me.rolcanlogin, false),
    'superuser', coalesce(me.rolsuper, false),
    'role_limit', coalesce(me.rolconnlimit, -1),
    'roles', (select coalesce(pg_catalog.json_agg(a.rolname), '[]'::json)
                from member join pg_catalog.pg_authid a on a.oid = member.oid),
    'database_exists', d.oid is not null,
    'allows_connections', coalesce(d.datallowconn, false),
    'database_limit', coalesce(d.datconnlimit, -1),
    'may_connect', coalesce(pg_catalog.has_database_privilege(me.oid, d.oid, 'CONNECT'), false),
    'loaded', pg_catalog.pg_conf_load_time()::text
)::text
from (select 1) as always
left join me on true
left join pg_catalog.pg_database d on d.datname = %s::pg_catalog.name
"""


@dataclass(frozen=True, slots=True)
class Access:
    """What the server knows about a role and a database.

    secret           rolpassword, None when there is none (or no role)
    fingerprint      see FINGERPRINT; None when there is no role
    expired          VALID UNTIL is past
    roles            every role that it is a member of, directly or not, itself included
    role_limit       rolconnlimit, -1 for none
    database_limit   datconnlimit, -1 for none, -2 for a database whose DROP was interrupted
    loaded           when the server last read its configuration files, as text; only ever compared
    """

    secret: str | None = field(default=None, repr=False)
    fingerprint: str | None = field(default=None, repr=False)
    expired: bool = False
    role_exists: bool = False
    can_login: bool = False
    superuser: bool = False
    role_limit: int = -1
    roles: frozenset[str] = frozenset()
    database_exists: bool = False
    allows_connections: bool = False
    database_limit: int = -1
    may_connect: bool = False
    loaded: str = ""

    @property
    def usable_secret(self) -> str | None:
        """What passwords are checked against: nothing, for an unknown role, one without password, an expired one."""
        return None if self.expired else self.secret


def read(row: str) -> Access:
    """From the one column of ACCESS_SQL."""
    fields = json.loads(row)
    return Access(**{**fields, "roles": frozenset(fields["roles"])})


class Reject(NamedTuple):
    """Not without a login: the frontend is told the error and closed."""

    error: PoolError


class Trust(NamedTuple):
    """No question is asked."""


class Challenge(NamedTuple):
    """The frontend proves that it knows the password; `can_relay` when the server might as well ask itself.

    objection   it is not let in all the same, as its certificate is somebody else's
    """

    method: str
    can_relay: bool
    objection: PoolError | None = None


class RelayOnly(NamedTuple):
    """Only the server can check this, so each login is passed on to it. `objection` as above."""

    method: str
    objection: PoolError | None = None


Plan = Reject | Trust | Challenge | RelayOnly


def decide(
    rule: Rule | None, access: Access, peer: Peer, user: str, database: str, *, version: int,
    pool_rule: Rule | None = None, system_user: str | None = None, maps: tuple[ident.UserMap, ...] = (),
) -> Plan:  # fmt: skip
    """What a frontend has to do to be let in.

    rule          the one for the frontend's own address; None for none
    pool_rule     the one that the server itself will apply to the pool's address
    version       server_version_num
    system_user   name of the operating system's user at the other end of a Unix socket
    maps          pg_ident.conf, for peer and cert
    source        ClientAuthentication() and CheckCertAuth() of auth.c for the order of the checks
    """
    if rule is None or rule.method == "reject":
        return Reject(_no_entry(rule, peer, user, database, version))
    if _wants_certificate(rule) and peer.certificate is None:
        return Reject(
            NotAuthorized(
                "connection requires a valid client certificate",
                hint="The pool asks for one when its client_tls_ca_file says whom to believe.",
            )
        )
    objection = None if _is_owner(rule, peer, user, access, maps, version) else _not_the_owner(rule, user)
    if rule.method in ("trust", "cert"):
        return Trust() if objection is None else Reject(objection)
    if rule.method == "peer" or (rule.method == "ident" and rule.type == "local"):
        name = rule.options.get("map")
        if system_user and ident.allows(maps, name, system_user, user, access.roles, version):
            return Trust()
        return Reject(NotAuthorized(f'Peer authentication failed for user "{user}"'))
    if rule.method in CHECKED_HERE:
        can_relay = objection is None and _may_relay(rule, pool_rule, access, peer)
        return Challenge(rule.method, can_relay, objection)
    if rule.method in CHECKED_BY_SERVER and _same_question(rule, pool_rule):
        return RelayOnly(rule.method, objection)
    return Reject(_cannot_check(rule, peer, user, database))


def _no_entry(rule: Rule | None, peer: Peer, user: str, database: str, version: int) -> PoolError:
    host = peer.address or "[local]"
    words = ("no encryption", "SSL encryption") if version >= SPEAKS_OF_ENCRYPTION else ("SSL off", "SSL on")
    encryption = words[peer.tls]
    start = "no pg_hba.conf entry for" if rule is None else "pg_hba.conf rejects connection for"
    return NotAuthorized(f'{start} host "{host}", user "{user}", database "{database}", {encryption}')


def _wants_certificate(rule: Rule) -> bool:
    return rule.method == "cert" or rule.options.get("clientcert", "no-verify") not in ("no-verify", "0", "false")


def _is_owner(
    rule: Rule, peer: Peer, user: str, access: Access, maps: tuple[ident.UserMap, ...], version: int
) -> bool:
    """Whether the certificate is this user's, if the rule cares."""
    if rule.method != "cert" and rule.options.get("clientcert") != "verify-full":
        return True
    assert peer.certificate is not None
    common_name, distinguished_name = peer.certificate
    name = distinguished_name if rule.options.get("clientname") == "DN" else common_name
    return bool(name) and ident.allows(maps, rule.options.get("map"), name or "", user, access.roles, version)


def _not_the_owner(rule: Rule, user: str) -> PoolError:
    if rule.method in CHECKED_HERE:
        return AuthenticationFailed(f'password authentication failed for user "{user}"')
    words = {"trust": '"trust"', "cert": "certificate", "gss": "GSSAPI"}.get(rule.method, rule.method.upper())
    return NotAuthorized(f'{words} authentication failed for user "{user}"')


def _may_relay(rule: Rule, pool_rule: Rule | None, access: Access, peer: Peer) -> bool:
    # SCRAM is bound to TLS, and the frontend's is not the server's: the pool could not keep what it promises.
    if peer.tls and not (rule.method == "password" or (rule.method == "md5" and scram.is_md5(access.secret))):
        return False
    # Who is bound to fail is told so here: the server's own mock salt is another one than ours, and would show it.
    return access.usable_secret is not None and _same_question(rule, pool_rule)


def _same_question(rule: Rule, pool_rule: Rule | None) -> bool:
    return pool_rule is not None and _question(pool_rule) == _question(rule)


def _question(rule: Rule) -> tuple[str, dict[str, str]]:
    # What a rule wants of a certificate is looked at by whoever the certificate is shown to.
    kept = {name: value for name, value in rule.options.items() if name not in ("clientcert", "clientname")}
    return rule.method, kept


def _cannot_check(rule: Rule, peer: Peer, user: str, database: str) -> PoolError:
    who = f'user "{user}", database "{database}" from {peer.address or "here"}'
    if rule.method in CHECKED_BY_SERVER:
        hint = "Give the pool's own address the same rule in pg_hba.conf: then logins are passed on to the server."
    elif rule.method == "ident":
        hint = "A server asks the machine that it sees, which is the pool's: use a password method in pg_hba.conf."
    else:
        hint = "Use a password method in pg_hba.conf for connections that come through the pool."
    message = f'authentication method "{rule.method}" cannot be used through the pool'
    return CannotAuthenticate(message, detail=f"Line {rule.line} of pg_hba.conf applies to {who}.", hint=hint)


class Counts(NamedTuple):
    """How many frontends there are already, without the one that is being let in."""

    role: int = 0
    database: int = 0


NOBODY_ELSE = Counts()


def refusal(
    access: Access, user: str, database: str, counts: Counts = NOBODY_ELSE, *, is_virtual: bool = False
) -> PoolError | None:
    """Why somebody who has authenticated is not let in all the same, or None. Checks in PostgreSQL's order.

    counts       frontends, for the limits of role and database, which do not hold for superusers
    is_virtual   the database is one of the pool's own, which no server knows
    """
    if not access.role_exists:
        return NotAuthorized(f'role "{user}" does not exist')
    if not access.can_login:
        return NotAuthorized(f'role "{user}" is not permitted to log in')
    if 0 <= access.role_limit <= counts.role and not access.superuser:
        return TooManyFrontends(f'too many connections for role "{user}"')
    if is_virtual:
        return None
    if not access.database_exists:
        return UnknownDatabase(f'database "{database}" does not exist')
    if access.database_limit == -2:
        return DatabaseClosed(
            f'cannot connect to invalid database "{database}"', hint="Use DROP DATABASE to drop invalid databases."
        )
    if not access.allows_connections:
        return DatabaseClosed(f'database "{database}" is not currently accepting connections')
    if not access.may_connect and not access.superuser:
        return ConnectDenied(
            f'permission denied for database "{database}"', detail="User does not have CONNECT privilege."
        )
    if 0 <= access.database_limit <= counts.database and not access.superuser:
        return TooManyFrontends(f'too many connections for database "{database}"')
    return None
