"""What the primary knows about who may come in: its rules, its roles and its databases, kept for as long as is safe.

Green. A login needs one query; logins at the same time for the same role and database share one. The rules are read
again when the server has read its own files again, so a reload there is a reload here; files that were edited and not
reloaded yet are left alone, as the server does. When the primary cannot be asked, what is known stays.

source: view-pg-hba-file-rules.html, view-pg-ident-file-mappings.html, functions-admin.html#FUNCTIONS-ADMIN-GENFILE
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

from gevent.event import AsyncResult
from gevent.lock import RLock

from lib.admin import Address, Admin
from lib.auth import hba, ident
from lib.auth.access import ACCESS_SQL, FINGERPRINT, Access, read
from lib.auth.hba import Peer, Rule, Rules
from lib.auth.hbatext import NeedsText
from lib.errors import AdminQueryFailed, PoolError, RulesUnusable
from lib.wire.messages import decode, encode

log = logging.getLogger(__name__)

MAX_FILES = 100
MAX_NAME_BYTES = 63  # NAMEDATALEN - 1
RETRY_S = 0.2  # the soonest that a primary which could not be asked is asked again
MAX_ENTRIES = 10_000
MAPS_VIEW = 150000  # pg_ident_file_mappings
READ_ANYWHERE = 110000  # pg_read_file() takes every path of a superuser

# What sessions begin with by ALTER ROLE and ALTER DATABASE ... SET, in a form that can be compared.
_DEFAULTS = """(
    select pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat_ws('|', setdatabase, setrole, setconfig), '/'
                                                order by setdatabase, setrole))
      from pg_catalog.pg_db_role_setting
)"""
_DEFAULTS_SQL = f"select coalesce({_DEFAULTS}, '')"
_RULES_SQL = f"""
select pg_catalog.json_build_object(
    'version', pg_catalog.current_setting('server_version_num')::int,
    'hba_file', pg_catalog.current_setting('hba_file'),
    'ident_file', pg_catalog.current_setting('ident_file'),
    'password_encryption', pg_catalog.current_setting('password_encryption'),
    'ssl', pg_catalog.current_setting('ssl') = 'on',
    'own_address', pg_catalog.host(pg_catalog.inet_client_addr()),
    'server_address', pg_catalog.host(pg_catalog.inet_server_addr()),
    'system', (select system_identifier::text from pg_catalog.pg_control_system()),
    'salt', (select rolpassword from pg_catalog.pg_authid where rolname = session_user),
    'loaded', pg_catalog.pg_conf_load_time()::text,
    'defaults', coalesce({_DEFAULTS}, ''),
    'rows', (select coalesce(pg_catalog.json_agg(r), '[]'::json) from pg_catalog.pg_hba_file_rules() r)
)::text
"""
_MAPS_SQL = "select coalesce(pg_catalog.json_agg(r), '[]'::json)::text from pg_catalog.pg_ident_file_mappings() r"
_READ_SQL = "select pg_catalog.pg_read_binary_file(%s, 0, 10000000, true)"
# PostgreSQL 10 reads files outside of the data directory with COPY only.
_COPY_SQL = """
create temporary table pgstmtpool_text (number serial, line text) on commit drop;
copy pgstmtpool_text (line) from %s with (format csv, delimiter E'\\x01', quote E'\\x02');
select coalesce(string_agg(coalesce(line, ''), E'\\n' order by number), '') from pgstmtpool_text
"""
_EDITED_SQL = """
select coalesce(bool_or((pg_catalog.pg_stat_file(name, true)).modification > pg_catalog.pg_conf_load_time()), false)
  from pg_catalog.unnest(%s::text[]) name
"""
_FINGERPRINTS_SQL = f"select rolname, {FINGERPRINT} from pg_catalog.pg_authid where rolname = any(%s)"


class Known(NamedTuple):
    """What the primary's files say.

    own_address   the pool's address as the primary sees it; None on a Unix socket
    mock_nonce    a secret of this cluster, the same for all pools in front of it
    loaded        when the server read its files, as text; only ever compared
    is_direct     no proxy, tunnel or address translation is between the pool and the primary
    by_tls        the pool's own connections to the primary are encrypted
    """

    rules: Rules
    maps: tuple[ident.UserMap, ...]
    own_address: str | None
    password_encryption: str
    mock_nonce: bytes
    loaded: str
    is_direct: bool = True
    by_tls: bool = False

    def __repr__(self) -> str:
        seen_as = self.own_address or "local"
        return f"<Known {len(self.rules.rules)} rules, {len(self.maps)} maps, this pool is {seen_as}>"

    @property
    def version(self) -> int:
        return self.rules.version

    @property
    def is_local(self) -> bool:
        """Whether the primary runs on this machine, with nothing between it and us."""
        own = Peer.at(self.own_address)
        if own.family == "unix":
            return True
        return self.is_direct and (own.is_loopback or own.address in self.rules.server_addresses)

    def seen(self, peer: Peer) -> Peer:
        """The frontend as the primary would see it if it came straight.

        One on this machine's loopback or Unix socket would reach a primary on another machine over the network, from
        the address that the pool itself has there. It is no local connection of that other machine.
        """
        if self.is_local or not (peer.family == "unix" or peer.is_loopback):
            return peer
        return Peer.at(self.own_address, None, peer.tls, peer.certificate)

    def rule_for(
        self, peer: Peer, user: str, database: str, roles: Collection[str], resolve: hba.Resolve
    ) -> Rule | None:
        return hba.find(self.rules, peer, user, database, roles, resolve)

    def pool_rule(self, user: str, database: str, roles: Collection[str], resolve: hba.Resolve) -> Rule | None:
        """The rule that the primary applies to the pool's own connections."""
        return hba.find(self.rules, Peer.at(self.own_address, None, self.by_tls), user, database, roles, resolve)


class Directory:
    """The primary's rules and roles.

    primary        tells the address of the primary as it is now
    access_ttl_s   how long what was found out about a role and a database holds
    refresh_s      how often the rules are read again even if the server did not reload
    sslmode        how workers connect to the primary
    first_seen     role -> its fingerprint when somebody first asked for it after the last look at roles that met it
    first_defaults as `defaults` would have told before anybody was let in; None until then
    """

    def __init__(
        self, admin: Admin, primary: Callable[[], Address], *, access_ttl_s: float = 1.0, refresh_s: float = 60.0,
        sslmode: str = "disable",
    ) -> None:  # fmt: skip
        self._admin = admin
        self._primary = primary
        self._access_ttl_s = access_ttl_s
        self.refresh_s = refresh_s
        self.sslmode = sslmode
        self._known: Known | None = None
        self._known_at = 0.0
        self._tried_for: str | None = None
        self._complaint = ""  # what was logged last about the rules
        self._reading = RLock()
        self._outdated_at = float("-inf")
        self._access: OrderedDict[tuple[str, str], tuple[Access, float]] = OrderedDict()
        self._failure: PoolError | None = None  # of the last look-up, which others need not repeat at once
        self._failed_at = 0.0
        self._asking: dict[tuple[str, str], AsyncResult] = {}
        self.first_seen: OrderedDict[str, str] = OrderedDict()
        self.first_defaults: str | None = None

    @property
    def is_known(self) -> bool:
        """Whether the primary has told its rules once."""
        return self._known is not None

    def __repr__(self) -> str:
        rules = len(self._known.rules.rules) if self._known else "no"
        return f"<Directory {rules} rules, {len(self._access)} roles and databases>"

    # --- rules ------------------------------------------------------------------------------------------------------

    def rules(self, loaded: str | None = None) -> Known:
        """The rules, read from the primary when they may have changed.

        loaded   Access.loaded of a query just made: the rules are read again if the server reloaded meanwhile
        raises   ServerUnreachable, AdminQueryFailed, RulesUnusable: only while nothing is known
        """
        if self._is_current(loaded):
            assert self._known is not None
            return self._known
        with self._reading:
            if not self._is_current(loaded):
                self._refresh(loaded)
        assert self._known is not None
        return self._known

    def _is_current(self, loaded: str | None) -> bool:
        if self._known is None or time.monotonic() - self._known_at > self.refresh_s:
            return False
        return not loaded or loaded in (self._known.loaded, self._tried_for)

    def _refresh(self, loaded: str | None) -> None:
        try:
            self._known = self._read(self._primary())
            self._tried_for = None
            self._complaint = ""
        except PoolError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.error(
                    "the rules of the primary %s: %s", "stay as they were" if self._known else "are unknown", error
                )
            if self._known is None:
                raise
            self._tried_for = loaded
        self._known_at = time.monotonic()

    def expire(self) -> None:
        """Have everything read again at the next login; what is known is kept in case it cannot be."""
        self._known_at = float("-inf")
        for key, (access, _) in list(self._access.items()):
            self._access[key] = (access, float("-inf"))

    def _read(self, address: Address) -> Known:
        found = json.loads(self._ask(address, _RULES_SQL)[0][0])
        if self.first_defaults is None:
            self.first_defaults = found["defaults"]
        version, hba_file, ident_file = found["version"], found["hba_file"], found["ident_file"]
        rows = [{"file_name": hba_file, **row} for row in found["rows"]]
        texts: dict[str, str | None] = {}
        files = sorted({row["file_name"] for row in rows} | {hba_file, ident_file})
        if self._known is not None and self._were_edited(address, files, version):
            raise RulesUnusable("a file was changed and the server has not been told to reload it")
        rules = self._with_texts(address, texts, version, lambda: hba.parse(rows, texts, version))
        map_rows = self._map_rows(address, ident_file, version, texts)
        try:
            maps = self._with_texts(address, texts, version, lambda: ident.parse(map_rows, texts, version))
        except RulesUnusable as error:
            log.warning("pg_ident.conf is not used: %s", error)
            maps = self._known.maps if self._known else ()
        own, server = found["own_address"], found["server_address"]
        servers = frozenset(address for address in (server,) if address)
        is_direct = self._admin.is_direct(address)
        if own is None or (is_direct and Peer.at(own).is_loopback):
            servers |= {"127.0.0.1", "::1"}
        nonce = hashlib.sha256(encode(f"mock {found['system']} {found['salt']}")).digest()
        return Known(
            Rules(rules, version, servers), maps, own, found["password_encryption"], nonce, found["loaded"], is_direct,
            own is not None and found["ssl"] and self.sslmode not in ("disable", "allow"),
        )  # fmt: skip

    def _were_edited(self, address: Address, files: list[str], version: int) -> bool:
        try:
            return bool(self._ask(address, _EDITED_SQL, [files])[0][0])
        except AdminQueryFailed:
            if version >= READ_ANYWHERE:
                raise
            return False  # PostgreSQL 10 tells nothing of files outside of its data directory

    def _map_rows(
        self, address: Address, ident_file: str, version: int, texts: dict[str, str | None]
    ) -> Iterable[dict[str, Any]]:
        if version >= MAPS_VIEW:
            rows = json.loads(self._ask(address, _MAPS_SQL)[0][0])
            return [{"file_name": ident_file, **row} for row in rows]
        texts[ident_file] = self._text(address, ident_file, version)
        return ident.rows_of_text(texts[ident_file] or "", ident_file, version)

    def _with_texts(
        self, address: Address, texts: dict[str, str | None], version: int, parse: Callable[[], Any]
    ) -> Any:
        for _ in range(MAX_FILES):
            try:
                return parse()
            except NeedsText as needed:
                texts[needed.name] = self._text(address, needed.name, version)
        raise RulesUnusable(f"more than {MAX_FILES} files are included")

    def _text(self, address: Address, name: str, version: int) -> str | None:
        if version >= READ_ANYWHERE:
            raw = self._ask(address, _READ_SQL, [name])[0][0]
            return None if raw is None else decode(bytes(raw))
        return self._ask(address, _COPY_SQL, [name])[0][0]

    def _ask(self, address: Address, sql: str, args: Any = None) -> list[tuple[Any, ...]]:
        return self._admin.query(address, None, sql, args)

    # --- roles and databases ------------------------------------------------------------------------------------------

    def access(self, user: str, database: str) -> Access:
        """What the primary knows about this role and this database, at most access_ttl_s old if it can be asked.

        raises   ServerUnreachable, AdminQueryFailed: only when nothing is known
        """
        found = self._asked((user, database))
        # Of what was kept, too: no look may have seen the role since it had workers last.
        if found.fingerprint is not None:
            self.first_seen.setdefault(user, found.fingerprint)
            while len(self.first_seen) > MAX_ENTRIES:
                self.first_seen.popitem(last=False)
        return found

    def _asked(self, key: tuple[str, str]) -> Access:
        while True:
            kept = self._access.get(key)
            if kept and kept[1] > max(self._outdated_at, time.monotonic() - self._access_ttl_s):
                return kept[0]
            asking = self._asking.get(key)
            if asking is None:
                return self._lead(key, kept[0] if kept else None)
            outcome = asking.get()
            if isinstance(outcome, PoolError):
                raise outcome
            if outcome is not None:
                return outcome

    def last_access(self, user: str, database: str) -> Access | None:
        """What the primary said last of this role and this database, without asking it."""
        kept = self._access.get((user, database))
        return kept[0] if kept is not None else None

    def outdate(self) -> None:
        """A role or a database may have been changed just now: the next login asks for it again."""
        self._outdated_at = time.monotonic()

    def _lead(self, key: tuple[str, str], kept: Access | None) -> Access:
        # The first asks for all who come meanwhile. They get None, and one of them asks again, if this one is killed.
        asking = self._asking[key] = AsyncResult()
        outcome: Access | PoolError | None = None
        began = time.monotonic()
        try:
            outcome = self._look_up(*key)
            self._keep(key, outcome, began)
        except PoolError as error:
            outcome = error
            if kept is not None:
                outcome = kept
                self._keep(key, kept, time.monotonic())
        finally:
            del self._asking[key]
            asking.set(outcome)
        if isinstance(outcome, PoolError):
            raise outcome
        return outcome

    def _look_up(self, user: str, database: str) -> Access:
        # The server would cut a longer name off, and compare its rules with what is left; here it is nobody's.
        if max(len(encode(user)), len(encode(database))) > MAX_NAME_BYTES:
            return Access()
        if self._failure is not None and time.monotonic() - self._failed_at < RETRY_S:
            raise self._failure
        try:
            access = read(self._ask(self._primary(), ACCESS_SQL, [user, database])[0][0])
        except PoolError as error:
            if error.sqlstate[:2] == "22":  # a name that the server's encoding cannot even hold
                return Access()
            if self._failure is None:
                log.error("the primary cannot be asked who may log in: %s (%s)", error, error.detail)
            self._failure, self._failed_at = error, time.monotonic()
            raise
        if self._failure is not None:
            log.info("the primary can be asked again who may log in")
            self._failure = None
        return access

    def _keep(self, key: tuple[str, str], access: Access, at: float) -> None:
        self._access[key] = (access, at)
        self._access.move_to_end(key)
        while len(self._access) > MAX_ENTRIES:
            self._access.popitem(last=False)

    def looked_at(self, users: Iterable[str]) -> None:
        """What these roles are was seen meanwhile by somebody who keeps it."""
        for user in users:
            self.first_seen.pop(user, None)

    def defaults(self) -> str:
        """A text that changes when ALTER ROLE or ALTER DATABASE has changed what sessions begin with.

        raises   ServerUnreachable, AdminQueryFailed
        """
        return str(self._ask(self._primary(), _DEFAULTS_SQL)[0][0])

    def fingerprints(self, users: Collection[str]) -> dict[str, str]:
        """A text per role that changes when its password, its right to log in or its identity does; dropped: absent.

        raises   ServerUnreachable, AdminQueryFailed
        """
        rows = self._ask(self._primary(), _FINGERPRINTS_SQL, [list(users)]) if users else []
        return {str(name): str(fingerprint) for name, fingerprint in rows}
