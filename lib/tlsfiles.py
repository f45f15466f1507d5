"""Certificates, keys and authorities: read from their files, and again when the files change.

Green. New files that cannot be used are logged and change nothing: what was read last stays, and so do all connections,
for each was made with what there was then. A passphrase is never asked for, as nobody may be there to type it.
"""

from __future__ import annotations

import logging
import os
import ssl
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import gevent

from lib.auth import certificate
from lib.tls import ALPN

if TYPE_CHECKING:
    from lib.config import Settings

log = logging.getLogger(__name__)

Made = TypeVar("Made")
_TLS_1_2, _TLS_1_3, _ANY = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.MAXIMUM_SUPPORTED
_VERSIONS = {"secure": (_TLS_1_2, _ANY), "tlsv1.2": (_TLS_1_2, _TLS_1_2), "tlsv1.3": (_TLS_1_3, _TLS_1_3)}
_IN_LIBPQ = {"tlsv1.2": "TLSv1.2", "tlsv1.3": "TLSv1.3"}
SYSTEM = "system"  # in the place of a file: the authorities that this machine trusts
_LOOK_S = 1.0


class FilesUnusable(Exception):
    """A certificate, key or list of authorities cannot be read, or they do not fit together."""


class Identity(NamedTuple):
    """What frontends are shown: a context with our certificate in it, and what SCRAM-SHA-256-PLUS is bound to."""

    context: ssl.SSLContext
    binding: bytes | None


class Approach(NamedTuple):
    """How servers are spoken to: the words of server_tls_sslmode, and a context that goes with them."""

    mode: str
    context: ssl.SSLContext

    @property
    def ways(self) -> tuple[tuple[bool, bool], ...]:
        """What is tried, in this order: (whether TLS is asked for, whether it has to be)."""
        return _WAYS.get(self.mode, ((True, True),))


_PLAIN, _IF_THERE, _ENCRYPTED = (False, False), (True, False), (True, True)
_WAYS = {"disable": (_PLAIN,), "allow": (_PLAIN, _ENCRYPTED), "prefer": (_IF_THERE, _PLAIN)}


class Watched(Generic[Made]):
    """Something made from files, as they were when they last could be used.

    raises   FilesUnusable, when they cannot be used at the beginning
    """

    def __init__(self, what: str, files: tuple[str, ...], make: Callable[[], Made]) -> None:
        self._what = what
        self._files = tuple(name for name in files if name)
        self._make = make
        self._seen = self._stamps()
        self.made = _made(make)

    def __repr__(self) -> str:
        return f"<Watched {self._what}: {', '.join(self._files)}>"

    def look(self) -> None:
        """Read the files again when they have changed since they were read, or tried, last."""
        seen = self._stamps()
        if seen == self._seen:
            return
        self._seen = seen
        outcome = gevent.get_hub().threadpool.apply(_attempt, (self._make,))
        if isinstance(outcome, FilesUnusable):
            log.error("%s: the files have changed and cannot be used, so nothing changes: %s", self._what, outcome)
        else:
            self.made = outcome
            log.info("%s: the files have changed and are used from now on", self._what)

    def _stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(map(_stamp, self._files))


def watch(*watched: Watched | None) -> None:
    """Look again and again, for ever."""
    there = [each for each in watched if each is not None]
    while there:
        gevent.sleep(_LOOK_S)
        for each in there:
            each.look()


def _stamp(name: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(name)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _made(make: Callable[[], Made]) -> Made:
    try:
        return make()
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise FilesUnusable(str(error)) from None


def _attempt(make: Callable[[], Made]) -> Made | FilesUnusable:
    try:
        return _made(make)
    except FilesUnusable as error:
        return error


# --- for frontends ---------------------------------------------------------------------------------------------------


def for_frontends(settings: Settings) -> Watched[Identity] | None:
    """What TLS from frontends needs; None when it is not offered.

    raises   FilesUnusable
    """
    cert, key = settings.client_tls_cert_file, settings.client_tls_key_file
    if not cert or settings.client_tls_sslmode == "disable":
        return None
    files = (cert, key, settings.client_tls_ca_file, settings.client_tls_crl_file)
    return Watched("TLS from frontends", files, lambda: _identity(settings))


def _identity(settings: Settings) -> Identity:
    cert, authorities, mode = settings.client_tls_cert_file, settings.client_tls_ca_file, settings.client_tls_sslmode
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _restrict(context, "client", settings.client_tls_protocols, settings.client_tls_ciphers)
    context.num_tickets = 0
    _load_own(context, cert, settings.client_tls_key_file)
    if authorities:
        _load(context, authorities)
        _load_revoked(context, settings.client_tls_crl_file)
        # Without one of these modes it is up to the rule in pg_hba.conf whether there has to be a certificate.
        context.verify_mode = ssl.CERT_REQUIRED if mode.startswith("verify") else ssl.CERT_OPTIONAL
    with open(cert, encoding="ascii", errors="replace") as file:  # what stands between certificates may be anything
        text = file.read()
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    first = begin + text.partition(begin)[2].partition(end)[0] + end
    return Identity(context, certificate.binding(ssl.PEM_cert_to_DER_cert(first)))


# --- for servers -----------------------------------------------------------------------------------------------------


def for_servers(settings: Settings) -> Watched[Approach]:
    """What TLS to servers needs.

    raises   FilesUnusable
    """
    authorities = settings.server_tls_ca_file
    files = (
        settings.server_tls_cert_file, settings.server_tls_key_file, settings.server_tls_crl_file,
        authorities if authorities != SYSTEM else "",
    )  # fmt: skip
    return Watched("TLS to servers", files, lambda: _approach(settings))


def _approach(settings: Settings) -> Approach:
    mode, authorities = settings.server_tls_sslmode, settings.server_tls_ca_file
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _restrict(context, "server", settings.server_tls_protocols, settings.server_tls_ciphers)
    context.check_hostname = False  # lib.auth.certificate looks at that as libpq does
    # As libpq: who has authorities, and insists on TLS, wants the certificate checked.
    is_checked = mode.startswith("verify") or (mode == "require" and authorities)
    context.verify_mode = ssl.CERT_REQUIRED if is_checked else ssl.CERT_NONE
    if authorities == SYSTEM:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    elif authorities:
        _load(context, authorities)
    _load_revoked(context, settings.server_tls_crl_file)
    if settings.server_tls_cert_file:
        _load_own(context, settings.server_tls_cert_file, settings.server_tls_key_file)
    return Approach(mode, context)


def for_libpq(settings: Settings) -> dict[str, str]:
    """The same as connection parameters of libpq, for admin_cnn."""
    given = {
        "sslrootcert": settings.server_tls_ca_file, "sslcert": settings.server_tls_cert_file,
        "sslkey": settings.server_tls_key_file, "sslcrl": settings.server_tls_crl_file,
    }  # fmt: skip
    if settings.server_tls_protocols in _IN_LIBPQ:
        given["ssl_min_protocol_version"] = given["ssl_max_protocol_version"] = _IN_LIBPQ[settings.server_tls_protocols]
    return {"sslmode": settings.server_tls_sslmode} | {name: value for name, value in given.items() if value}


# --- both ------------------------------------------------------------------------------------------------------------


def _restrict(context: ssl.SSLContext, side: str, protocols: str, ciphers: str) -> None:
    context.minimum_version, context.maximum_version = _VERSIONS[protocols]
    if ciphers:
        try:
            context.set_ciphers(ciphers)
        except ssl.SSLError:
            raise FilesUnusable(f"{side}_tls_ciphers is {ciphers!r}: OpenSSL knows none of these") from None
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.set_alpn_protocols([ALPN])


def _load_own(context: ssl.SSLContext, cert: str, key: str) -> None:
    mode = os.stat(key).st_mode
    if mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
        log.warning("the private key %s can be read or written by others: give it mode 0600", key)
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except ssl.SSLError as error:
        raise FilesUnusable(f"{cert} and {key}: {_words(error)}") from None


def _no_passphrase() -> bytes:
    return b""


def _load_revoked(context: ssl.SSLContext, name: str) -> None:
    """As PostgreSQL and libpq: with lists there must be one of each authority in the chain."""
    if name:
        _load(context, name)
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_CHAIN


def _load(context: ssl.SSLContext, name: str) -> None:
    # Authorities, or lists of what they have revoked.
    try:
        context.load_verify_locations(name)
    except ssl.SSLError as error:
        raise FilesUnusable(f"{name}: {_words(error)}") from None


def _words(error: ssl.SSLError) -> str:
    return (error.reason or "cannot be read as PEM").lower().replace("_", " ")
