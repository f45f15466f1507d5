"""The roles and databases that cluster tests log in with: one role per authentication method.

The same methods hold on the Unix socket and on TCP. As the pooler's own address is 127.0.0.1 here, the trust role is
what the specification warns of, and what a test has to prove harmless.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tests.workplace import wait_until

if TYPE_CHECKING:
    from tests.servers import Server


class Role(NamedTuple):
    """A role, the pg_hba method it logs in with, and how its password is stored."""

    name: str
    method: str
    password: str | None = None
    stored_as: str = "scram-sha-256"
    options: str = ""

    @property
    def login(self) -> dict[str, str]:
        """What a driver needs to log in: user, and password when there is one."""
        return {"user": self.name} | ({"password": self.password} if self.password else {})


ADMIN = Role("admin", "scram-sha-256", "admin's secret", options="superuser")
SCRAM = Role("app_scram", "scram-sha-256", "scram secret")
MD5 = Role("app_md5", "md5", "md5 secret", stored_as="md5")
PASSWORD = Role("app_password", "password", "clear secret")
TRUST = Role("app_trust", "trust")
REJECTED = Role("app_rejected", "reject", "rejected secret")

LOGINS = [SCRAM, MD5, PASSWORD, TRUST]
MEMBERS = "members"  # a role whose members, which tests make for themselves, log in with scram-sha-256
ROLES = [ADMIN, *LOGINS, REJECTED]

DATABASE = "app"  # where everybody may create things
OTHER_DATABASE = "other"
CLOSED_DATABASE = "closed"  # pg_hba lets only admin in


def hba_lines() -> list[str]:
    """pg_hba.conf: a rule per role on the Unix socket, 127.0.0.1 and ::1; one database that is closed to all."""
    lines = []
    nets = ("127.0.0.1/32", "::1/128")
    places = ["local {db} {user} {method}", *(f"host {{db}} {{user}} {net} {{method}}" for net in nets)]
    rules = [("all", ADMIN.name, ADMIN.method), (CLOSED_DATABASE, "all", "reject")]
    rules += [("all", role.name, role.method) for role in ROLES[1:]]
    rules += [("all", f"+{MEMBERS}", "scram-sha-256")]
    for db, user, method in rules:
        lines += [place.format(db=db, user=user, method=method) for place in places]
    return lines


def create(server: Server) -> None:
    """Make the roles and the databases on a primary."""
    statements = [f"create role {MEMBERS}"]
    for role in ROLES:
        statements.append(f"set password_encryption = '{role.stored_as}'")
        password = "" if role.password is None else "password '{}'".format(role.password.replace("'", "''"))
        statements.append(f"create role {role.name} login {role.options} {password}")
    statements += [f"create database {name}" for name in (DATABASE, OTHER_DATABASE, CLOSED_DATABASE)]
    connection = server.connect()
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
    finally:
        connection.close()
    for name in (DATABASE, OTHER_DATABASE):
        server.query("grant all on schema public to public", dbname=name)


def end_backends(server: Server, role: Role, but_pid: int = 0) -> None:
    """Terminate all backends of the role but one, and wait until they are gone."""
    where = "from pg_stat_activity where usename = %s and pid <> %s"
    ended = server.query(f"select pid, pg_terminate_backend(pid) {where}", [role.name, but_pid])
    left = "select 1 from pg_stat_activity where pid = any (%s)"
    wait_until(lambda: not server.query(left, [[pid for pid, _ in ended]]), what="the backends to end")
