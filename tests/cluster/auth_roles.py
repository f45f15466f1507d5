"""The roles, databases and rules that tests of logins use: every method, and every reason not to be let in."""

from __future__ import annotations

from tests.servers import Server

ADMIN = {"user": "postgres"}

ROLES = {
    "a_scram": ("scram-sha-256", "p\u00e4ss \u2168", "scram-sha-256"),
    "a_md5": ("md5", "md5 secret", "md5"),
    "a_mixed": ("scram-sha-256", "mixed secret", "md5"),
    "a_password": ("scram-sha-256", "clear secret", "password"),
    "a_expired": ("scram-sha-256", "secret", "scram-sha-256"),
    "a_nologin": ("scram-sha-256", "secret", "scram-sha-256"),
    "a_nopassword": (None, None, "scram-sha-256"),
    "a_limited": ("scram-sha-256", "secret", "scram-sha-256"),
    "a_trust": (None, None, "trust"),
    "a_rejected": ("scram-sha-256", "secret", "reject"),
    "a_member": ("scram-sha-256", "secret", None),
    "a_asked_by_ident": (None, None, "ident"),
}
ASKED = ("a_scram", "a_md5", "a_mixed", "a_password")  # those that come in with their password


def hba_lines(own: str = "{method}") -> list[str]:
    """A rule per role, for clients from elsewhere and (own: with {method}, or another one) for this machine."""
    lines = ["host all postgres 127.0.0.1/32 trust"]
    for name, (_, _, method) in ROLES.items():
        if method:
            lines.append(f"host all {name} 127.0.0.1/32 {own.format(method=method)}")
            lines.append(f"host all {name} 10.0.0.0/8 {method}")
    lines += ['host "all" all 127.0.0.1/32 trust', "host all +staff 127.0.0.1/32 scram-sha-256"]
    nobodies = {"nobody": "scram-sha-256", "nobody_md5": "md5", "nobody_password": "password", "nobody_trust": "trust"}
    return lines + [f"host all {name} 127.0.0.1/32 {method}" for name, method in nobodies.items()]


def create_roles(server: Server) -> None:
    for name, (stored_as, password, _) in ROLES.items():
        server.query(f"set password_encryption = '{stored_as or 'md5'}'; create role {name} login")
        if password:
            server.query(f"set password_encryption = '{stored_as}'; alter role {name} password '{password}'")
    server.query("alter role a_expired valid until '2001-01-01'; alter role a_nologin nologin")
    server.query("alter role a_limited connection limit 0; create role staff; grant staff to a_member")
    for name in ("closed", "private", "small"):
        server.query(f"create database {name}")
    server.query("alter database closed allow_connections off; alter database small connection limit 0")
    server.query("revoke connect on database private from public")
