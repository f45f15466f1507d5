"""Connection strings as libpq reads them: `primary_conninfo`, with another host in it. Pure.

source: libpq-connect.html#LIBPQ-CONNSTRING
"""

from __future__ import annotations

import re

_SCHEMES = ("postgresql://", "postgres://")
_WHERE = ("host", "hostaddr", "port", "service")


class NotAConninfo(ValueError):
    """A text that libpq would refuse, too. The message says where, and nothing of what is there."""


def parse(text: str) -> dict[str, str]:
    """Keywords and values, in their order.

    raises   NotAConninfo
    """
    return _parse_uri(text) if text.startswith(_SCHEMES) else _parse_pairs(text)


def render(pairs: dict[str, str]) -> str:
    """As keywords and values, every value quoted."""
    return " ".join(f"{name}={_quoted(value)}" for name, value in pairs.items())


def follow(text: str, host: str, port: int, application_name: str = "") -> str:
    """The same connection to another server.

    application_name   what the standby is known by, where the text does not say it
    raises             NotAConninfo
    """
    pairs = parse(text)
    rest = {name: value for name, value in pairs.items() if name not in _WHERE}
    if application_name:
        rest.setdefault("application_name", application_name)
    return render({"host": host, "port": str(port), **rest})


def without_name(text: str) -> str:
    """The same without an application_name: that of another standby.

    raises   NotAConninfo
    """
    return render({name: value for name, value in parse(text).items() if name != "application_name"})


def hosts(text: str) -> list[tuple[str, str]]:
    """(host, port) of every server that it names; 5432 where it does not say.

    raises   NotAConninfo
    """
    pairs = parse(text)
    names = (pairs.get("host") or pairs.get("hostaddr") or "").split(",")
    ports = pairs.get("port", "").split(",")
    if len(ports) == 1:
        ports *= len(names)
    return [(name, port or "5432") for name, port in zip(names, ports, strict=False)]


def _quoted(value: str) -> str:
    return "'" + re.sub(r"(['\\])", r"\\\1", value) + "'"


_PAIR = re.compile(r"\s*([^\s=]+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)(?:[^\s\\]|\\.)*)?)", re.DOTALL)


def _parse_pairs(text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    position, text = 0, text.rstrip()
    while position < len(text):
        found = _PAIR.match(text, position)
        if found is None:
            raise NotAConninfo(f"no keyword and value at character {position}")
        name, quoted, plain = found.groups()
        pairs[name] = re.sub(r"\\(.)", r"\1", quoted if quoted is not None else plain or "", flags=re.DOTALL)
        position = found.end()
    return pairs


def _parse_uri(text: str) -> dict[str, str]:
    rest = text.partition("://")[2]
    rest, _, query = rest.partition("?")
    pairs: dict[str, str] = {}
    authority, slash, database = rest.partition("/")
    if "@" in authority:
        login, _, authority = authority.rpartition("@")
        user, _, password = login.partition(":")
        pairs |= {name: _decoded(value) for name, value in (("user", user), ("password", password)) if value}
    if authority:
        split = [_host_and_port(each) for each in authority.split(",")]
        pairs["host"] = ",".join(_decoded(host) for host, _ in split)
        if any(port for _, port in split):
            pairs["port"] = ",".join(port for _, port in split)
    if slash and database:
        pairs["dbname"] = _decoded(database)
    for each in query.split("&") if query else ():
        name, equals, value = each.partition("=")
        if not equals:
            raise NotAConninfo("a parameter without a value")
        pairs[_decoded(name)] = _decoded(value)
    return pairs


def _host_and_port(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise NotAConninfo("an IPv6 address without its closing bracket")
        return host, rest.removeprefix(":")
    host, _, port = text.partition(":")
    return host, port


def _decoded(text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise NotAConninfo("a percent sign without two hexadecimal digits")
    parts = re.split(r"((?:%[0-9A-Fa-f]{2})+)", text)
    return "".join(
        bytes.fromhex(part.replace("%", "")).decode("utf-8", "surrogateescape") if number % 2 else part
        for number, part in enumerate(parts)
    )
