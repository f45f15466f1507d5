"""pg_hba.conf: which rule the server would apply to a connection that came straight from this frontend.

Pure. Rules come from the view pg_hba_file_rules, their quotes from the text of the file. The first rule that matches
decides, as in PostgreSQL. Where it cannot be known here whether a rule matches (samenet, a regular expression that
only the server can evaluate), both outcomes are worked out and the stricter one is taken: never weaker than PostgreSQL.

source: auth-pg-hba-conf.html, view-pg-hba-file-rules.html
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal, NamedTuple

from lib.auth import matching
from lib.auth.certificate import Names
from lib.auth.hbatext import NeedsText, Word, expand, fields, line_at
from lib.errors import RulesUnusable

Family = Literal["unix", "inet", "inet6"]
Resolved = tuple[str, Collection[str]]
Resolve = Callable[[str], Resolved | None]

# From weak to strict, for the cases in which a rule can only be guessed at; what is not here counts as _SERVER_ASKS.
_STRICTNESS = {"trust": 0, "ident": 1, "peer": 1, "password": 2, "md5": 3, "scram-sha-256": 5, "cert": 6, "reject": 9}
_SERVER_ASKS = 4
CLIENT_NAMES = 140000  # clientname=DN
_KEYWORDS = frozenset(["all", "sameuser", "samerole", "samegroup", "replication"])


class Peer(NamedTuple):
    """The other end of a frontend's connection.

    family    unix, inet or inet6
    address   numeric, None for a Unix socket
    uid       of the process at the other end of a Unix socket, else None
    tls       whether the connection is encrypted
    certificate  names of the client certificate that was shown and found valid
    """

    family: Family
    address: str | None = None
    uid: int | None = None
    tls: bool = False
    certificate: Names | None = None

    @classmethod
    def at(
        cls, address: str | None, uid: int | None = None, tls: bool = False, certificate: Names | None = None
    ) -> Peer:
        """From an address as the socket gives it; an IPv4 address in IPv6 clothes is IPv4, as the server sees it.

        address   numeric; None for a Unix socket; "" when the socket is gone already, which raises EOFError
        """
        if address is None:
            return cls("unix", None, uid, tls, certificate)
        if not address:
            raise EOFError("the frontend is gone")
        ip = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        return cls("inet" if ip.version == 4 else "inet6", str(ip), uid, tls, certificate)

    @property
    def is_loopback(self) -> bool:
        return self.address is not None and ipaddress.ip_address(self.address).is_loopback


class Rule(NamedTuple):
    """One line of pg_hba.conf.

    line      number in its file
    type      local, host, hostssl, hostnossl, hostgssenc, hostnogssenc
    address   numeric address, host name, .suffix; a Word that is unquoted all, samehost or samenet; None for local
    netmask   numeric, or None where the address is no number
    options   name to value, as map and ldapserver; clientname, too, which the view does not show
    """

    line: int
    type: str
    databases: tuple[Word, ...]
    users: tuple[Word, ...]
    address: Word | None
    netmask: str | None
    method: str
    options: Mapping[str, str]
    file: str = ""

    def __repr__(self) -> str:
        users, databases = (",".join(map(str, words)) for words in (self.users, self.databases))
        where = f" {self.address}" if self.address else ""
        return f"<Rule line {self.line}: {self.type} {databases} {users}{where} {self.method}>"


class Rules(NamedTuple):
    """All rules, in order, of a server of this version (server_version_num).

    server_addresses   numeric addresses that are known to be the server's own, for samehost
    """

    rules: tuple[Rule, ...]
    version: int
    server_addresses: frozenset[str] = frozenset()


def parse(rows: Iterable[Mapping[str, Any]], texts: Mapping[str, str | None], version: int) -> tuple[Rule, ...]:
    """Build the rules from the rows of pg_hba_file_rules.

    rows     mappings with the view's column names, in its order; file_name must be there (before 16: put it in)
    texts    text of each file by its name, for the quotes
    raises   NeedsText for a file that is missing in texts; RulesUnusable when the server found an error in a line, or
             when the file changed between the view and the text. Keep the rules that were there before.
    """
    rules: list[Rule] = []
    for row in rows:
        # "hostssl record cannot match because SSL is disabled" comes with a rule: the server logs it and uses the file.
        if row.get("error") and row["auth_method"] is None:
            raise RulesUnusable(f"line {row['line_number']} of {row['file_name']}: {row['error']}")
        rules.append(_rule(row, texts, version))
    if not rules:
        raise RulesUnusable("pg_hba.conf has no entries")
    return tuple(rules)


def _rule(row: Mapping[str, Any], texts: Mapping[str, str | None], version: int) -> Rule:
    databases, users = row["database"] or [], row["user_name"] or []
    quoted = _Quotes(row, texts, version)
    options = dict(option.partition("=")[::2] for option in row["options"] or [])
    if options.get("clientcert") == "verify-full" and version >= CLIENT_NAMES:
        options |= quoted.client_name()
    address = None
    if row["address"] is not None:
        address = Word(row["address"], row["netmask"] is None and quoted.word(3, row["address"]))
    return Rule(
        row["line_number"], row["type"], quoted.words(1, databases), quoted.words(2, users), address, row["netmask"],
        row["auth_method"], options, row["file_name"],
    )  # fmt: skip


class _Quotes:
    """What the text says about the words of one row; read only where a word could be more than a name."""

    def __init__(self, row: Mapping[str, Any], texts: Mapping[str, str | None], version: int) -> None:
        self._row, self._texts, self._version = row, texts, version

    def _field(self, index: int) -> list[Word]:
        name, found = self._row["file_name"], self._fields()
        if len(found) <= index:
            raise self._changed()
        return expand(found[index], name, self._texts, self._version)

    def _fields(self) -> list[list[Word]]:
        name, number = self._row["file_name"], self._row["line_number"]
        if name not in self._texts:
            raise NeedsText(name)
        line = line_at(self._texts[name] or "", number, self._version)
        if not line:
            raise self._changed()
        return fields(line)

    def _changed(self) -> RulesUnusable:
        name, number = self._row["file_name"], self._row["line_number"]
        return RulesUnusable(f"{name} changed while it was read: line {number} is another one")

    def client_name(self) -> dict[str, str]:
        """The option clientname, which says what of a certificate is the user's name."""
        found = [word.text.partition("=") for field in self._fields()[4:] for word in field]
        return {name: value for name, _, value in found if name == "clientname"}

    def words(self, index: int, shown: list[str]) -> tuple[Word, ...]:
        if not any(word in _KEYWORDS or word.startswith("+") for word in shown):
            return tuple(Word(word) for word in shown)
        found = self._field(index)
        if [word.text for word in found] != shown:
            raise RulesUnusable(f"{self._row['file_name']} changed while it was read")
        return tuple(found)

    def word(self, index: int, shown: str) -> bool:
        if shown not in ("all", "samehost", "samenet"):
            return False
        found = self._field(index)
        if [word.text for word in found] != [shown]:
            raise RulesUnusable(f"{self._row['file_name']} changed while it was read")
        return found[0].quoted


def find(
    rules: Rules, peer: Peer, user: str, database: str, roles: Collection[str], resolve: Resolve = lambda address: None
) -> Rule | None:
    """The rule for this connection, or None when there is none (which is a rejection).

    roles     every role that the user is a member of, directly or not, itself included; empty for an unknown user
    resolve   numeric address -> (its name, the addresses of that name), None when it has no name; may block
    """
    lookup = _once(resolve)
    candidates: list[Rule | None] = []
    for rule in rules.rules:
        matched = _matches(rule, rules, peer, user, database, roles, lookup)
        if matched is False:
            continue
        candidates.append(rule)
        if matched:
            break
    else:
        candidates.append(None)
    return max(candidates, key=strictness)


def strictness(rule: Rule | None) -> int:
    """Greater is stricter; equal ones keep their order."""
    return 9 if rule is None else _STRICTNESS.get(rule.method, _SERVER_ASKS)


def _once(resolve: Resolve) -> Resolve:
    known: dict[str, Resolved | None] = {}

    def lookup(address: str) -> Resolved | None:
        if address not in known:
            known[address] = resolve(address)
        return known[address]

    return lookup


def _matches(
    rule: Rule, rules: Rules, peer: Peer, user: str, database: str, roles: Collection[str], resolve: Resolve
) -> bool | None:
    # A certain no comes first wherever it can: host names are looked up last, as the server does only when it must.
    if not _type_matches(rule.type, peer):
        return False
    version = rules.version
    databases = matching.any_of([matching.database(word, database, user, roles, version) for word in rule.databases])
    if databases is False:
        return False
    users = matching.any_of([matching.role(word, user, roles, version) for word in rule.users])
    if users is False:
        return False
    address = True if rule.type == "local" else _address_matches(rule, rules, peer, resolve)
    if address is False:
        return False
    return True if address and databases and users else None


def _type_matches(kind: str, peer: Peer) -> bool:
    if kind == "local" or peer.family == "unix":
        return kind == "local" and peer.family == "unix"
    return {"hostssl": peer.tls, "hostnossl": not peer.tls, "hostgssenc": False}.get(kind, True)


def _address_matches(rule: Rule, rules: Rules, peer: Peer, resolve: Resolve) -> bool | None:
    assert rule.address is not None and peer.address is not None
    if rule.netmask is not None:
        return _in_range(peer.address, rule.address.text, rule.netmask)
    if rule.address.is_keyword("all"):
        return True
    if rule.address.is_keyword("samehost") or rule.address.is_keyword("samenet"):
        # The server's other addresses and netmasks are known to nobody but the server.
        return True if peer.address in rules.server_addresses else None
    return _name_matches(rule.address.text, peer.address, resolve(peer.address))


def _in_range(peer: str, address: str, netmask: str) -> bool:
    ip, network, mask = (ipaddress.ip_address(text.partition("%")[0]) for text in (peer, address, netmask))
    # The mask may have holes, so this is not ipaddress's network.
    return ip.version == network.version == mask.version and int(ip) & int(mask) == int(network) & int(mask)


def _name_matches(pattern: str, address: str, resolved: Resolved | None) -> bool:
    if resolved is None:
        return False
    name, addresses = resolved[0].lower(), resolved[1]
    wanted = pattern.lower()
    if not (name.endswith(wanted) if wanted.startswith(".") else name == wanted):
        return False
    return ipaddress.ip_address(address) in [ipaddress.ip_address(each.partition("%")[0]) for each in addresses]
