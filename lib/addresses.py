"""Addresses in settings: of servers and of listeners, in all the forms in which they may be given. Pure."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, NamedTuple

from lib.checks import Check, Problem, Wrong, each_of, shown


class Address(NamedTuple):
    """Where a server or we listen. A host beginning with '/' is a Unix socket's directory; '' is every interface."""

    host: str
    port: int

    @property
    def is_unix(self) -> bool:
        return self.host.startswith("/")

    @property
    def unix_path(self) -> str:
        """The socket's file, as PostgreSQL names it (runtime-config-connection.html#GUC-UNIX-SOCKET-DIRECTORIES)."""
        return f"{self.host.removesuffix('/')}/.s.PGSQL.{self.port}"

    @property
    def is_loopback(self) -> bool:
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    def meets(self, other: Address) -> bool:
        """Whether both name the same listener, as far as can be told without asking a name server."""
        if self.port != other.port:
            return False
        return (
            self.host == other.host
            or (self.host == "" and other.is_loopback)
            or (other.host == "" and self.is_loopback)
            or {self.host, other.host} == {"localhost", "127.0.0.1"}
        )

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host and not self.is_unix else self.host or "*"
        return f"{host}:{self.port}"


def address(everywhere: bool = False) -> Check:
    """(host, port), or the string 'host:port'. `everywhere` allows '' and '*', which listen on all interfaces.

    returns  Address; an IPv6 host in its short form and without brackets, '*' as ''
    """

    def check(given: object, text: bool) -> Address:
        host, port = _split(given)
        if text and isinstance(port, str) and re.fullmatch(r"[0-9]{1,5}", port):
            port = int(port)
        problem = _host_problem(host, everywhere)
        if problem is None and (not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535):
            problem = "a port from 1 to 65535"
        if problem is not None or not isinstance(host, str) or not isinstance(port, int):
            raise Wrong(Problem("", shown(given), problem or ADDRESS))
        found = Address(_normal_host(host), port)
        if found.is_unix and len(found.unix_path.encode()) > 107:
            raise Wrong(Problem("", shown(given), "a directory whose socket path has at most 107 bytes"))
        return found

    return check


def http_address(given: object, text: bool) -> Address | None:
    """An address on TCP, or a port, which is on this machine's own address; '' is none."""
    if given == "":
        return None
    value = given
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,5}", value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = ("127.0.0.1", value)
    try:
        found: Address = address(everywhere=True)(value, text)
        if found.is_unix:
            raise Wrong
    except Wrong:
        wanted = "(host, port), as ('127.0.0.1', 9127), a port alone, or '' for none"
        raise Wrong(Problem("", shown(given), wanted)) from None
    return found


ADDRESS = "(host, port), as ('10.0.0.1', 5432)"


def _split(given: object) -> tuple[object, object]:
    """Host and port as they were given; the port of a string that has one is a number already."""
    if isinstance(given, str) and ":" in given:
        host, _, port = given.rpartition(":")
        if ":" in host and "/" not in host and not host.startswith("["):
            raise Wrong(Problem("", shown(given), "brackets around an IPv6 address, as '[::1]:5432'"))
        return host, int(port) if re.fullmatch(r"[0-9]{1,5}", port) else port
    if isinstance(given, (list, tuple)) and len(given) == 2:
        return given[0], given[1]
    raise Wrong(Problem("", shown(given), ADDRESS))


def _bare(host: str) -> str:
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _host_problem(host: object, everywhere: bool) -> str | None:
    """What is wanted instead of this host, or None."""
    if not isinstance(host, str):
        return ADDRESS
    if host in ("", "*"):
        return None if everywhere else "the host of a server ('' and '*' are for listen only)"
    if host.startswith("/"):
        return None if host.isprintable() else "the directory of a Unix socket"
    bare = _bare(host)
    if ":" in bare or host != bare or re.fullmatch(r"[0-9]+(\.[0-9]+){3}", bare):
        try:
            ipaddress.ip_address(bare)
        except ValueError:
            return "a valid IP address"
        return None
    if not re.fullmatch(r"[\w.-]+", bare):
        return "a host name, an IP address, or the directory of a Unix socket"
    return None


def _normal_host(host: str) -> str:
    bare = _bare(host)
    if bare == "*":
        return ""
    if bare.startswith("/"):
        return bare.rstrip("/") or "/"
    return str(ipaddress.ip_address(bare)) if ":" in bare else bare.lower()


def addresses(everywhere: bool = False) -> Check:
    """One address, or a list of them; returns a tuple of Address. A list of a host and a port is one address."""
    one = address(everywhere)

    def check(given: object, text: bool) -> tuple[Any, ...]:
        if isinstance(given, str) and given == "" and not everywhere:
            return ()
        if isinstance(given, (list, tuple)) and not _is_pair(given):
            if not given and everywhere:
                raise Wrong(Problem("", shown(given), ADDRESS))
            return each_of(one, [(f"[{index}]", entry) for index, entry in enumerate(given)], text)
        return (one(given, text),)

    return check


def _is_pair(given: list[object] | tuple[object, ...]) -> bool:
    """Whether ('host', 5432) is meant rather than ['host:5432', 'host:5433']."""
    if len(given) != 2 or not isinstance(given[0], str) or isinstance(given[1], (list, tuple)):
        return False
    return not (isinstance(given[1], str) and ":" in given[1])
