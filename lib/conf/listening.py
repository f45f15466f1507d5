"""Rows: where frontends connect, and TLS to both sides. Pure."""

# ruff: noqa: RUF009 (a row is a dataclasses.field, which is made once)

from __future__ import annotations

from dataclasses import dataclass

from lib import addresses, checks
from lib.addresses import Address
from lib.checks import FileMode
from lib.conf.row import row

NET = "Listening"
TLS = "TLS"
SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


@dataclass(frozen=True, kw_only=True, repr=False)
class Listening:
    """Where frontends connect."""

    listen: tuple[Address, ...] = row(
        NET, "address, or a list of them", "", ("127.0.0.1", 7777), True, addresses.addresses(everywhere=True),
        "Where frontends connect: `(host, port)`. `''` or `'*'` is every interface, IPv4 and IPv6; a host that begins "
        "with `/` is a directory, and the Unix socket in it is `.s.PGSQL.<port>`.",
        "A Unix socket costs less than TCP and lets peer authenticate; every interface lets the network knock.",
    )
    unix_socket_mode: FileMode = row(
        NET, "permission bits", "", FileMode(0o777), True, checks.file_mode,
        "Permission bits of the Unix sockets in `listen`, as PostgreSQL's `unix_socket_permissions`.",
        "Fewer bits keep local users out before anything is asked of them; only the write bits count.",
    )
    max_client_conn: int = row(
        NET, "integer", "frontends", 10000, True, checks.whole(1, 1_000_000),
        "How many frontends may be connected at once; the next one is refused with 53300.",
        "Each takes some memory and a file descriptor: the hard limit of open files (`ulimit -Hn`), up to which the "
        "pool raises its own, must be higher than this.",
    )
    max_user_client_connections: int = row(
        NET, "integer", "frontends", 0, True, checks.whole(0, 1_000_000),
        "How many frontends of one user may be connected at once; the next one is refused with 53300. 0 is no limit. "
        "The pseudo database does not count.",
        "It keeps one application from taking all that `max_client_conn` allows.",
    )
    max_db_client_connections: int = row(
        NET, "integer", "frontends", 0, True, checks.whole(0, 1_000_000),
        "The same for the frontends of one database.",
        "It keeps the users of one database from shutting out all others.",
    )
    client_buffer: int = row(
        NET, "integer", "bytes", 1048576, True, checks.whole(4096),
        "How much of an answer may wait for a frontend that does not read it before its worker stops reading, too.",
        "More lets slow readers give their worker back sooner; it is memory that each of them may take.",
    )
    proxy_networks: tuple[str, ...] = row(
        NET, "list of networks", "", [], True, checks.list_of(checks.network),
        "From where proxies connect that speak for others, by the PROXY protocol, version 1 or 2 (haproxy's "
        "`send-proxy` and `send-proxy-v2`): networks as `'10.0.0.0/8'`, or `'unix'` for the Unix sockets in `listen`. "
        "What comes from there must begin with such a header, and counts as coming from the address in it.",
        "Whoever can connect from there can pretend to be anybody: name the proxies, and not a network of clients.",
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class Encryption:
    """TLS to frontends and to servers."""

    client_tls_sslmode: str = row(
        TLS, "word", "", "prefer", True, checks.choice(*SSLMODES),
        "Whether frontends on TCP may or must use TLS, as in PgBouncer: `'disable'`; `'allow'` or `'prefer'`, which "
        "are the same: whoever asks for it; `'require'`: all; `'verify-ca'` or `'verify-full'`, which are the same: "
        "all, and with a certificate of `client_tls_ca_file`. Without `client_tls_cert_file` there is no TLS.",
        "`hostssl` and `hostnossl` rules of pg_hba.conf say the same for some frontends; this says it for all.",
    )
    client_tls_cert_file: str = row(
        TLS, "file name", "", "", True, checks.optional_file_name,
        "The certificate that frontends are shown (PEM), with those of intermediate authorities behind it. When the "
        "file changes it is read again within a second or two; connections that are there stay.",
        "One that cannot be used is logged, and the last one is shown on.",
    )
    client_tls_key_file: str = row(
        TLS, "file name", "", "", True, checks.optional_file_name,
        "Its private key (PEM, without a passphrase).",
        "Only the pool's user should be able to read it.",
    )
    client_tls_ca_file: str = row(
        TLS, "file name", "", "", True, checks.optional_file_name,
        "Certificates of the authorities (PEM) that certificates of frontends are checked against; with it, frontends "
        "are asked for one. `cert` rules and `clientcert` options of pg_hba.conf need it.",
        "A frontend whose certificate does not hold is refused, whatever the rules say; one without is not.",
    )
    client_tls_crl_file: str = row(
        TLS, "file name", "", "", True, checks.optional_file_name,
        "Lists of revoked certificates (PEM), as PostgreSQL's `ssl_crl_file`: one of each authority that a "
        "frontend's certificate depends on, or the certificate is refused. Read again when the file changes.",
        "With it a stolen certificate can be refused; a list that has expired refuses all.",
    )
    client_tls_protocols: str = row(
        TLS, "word", "", "secure", True, checks.tls_versions,
        "The versions of TLS that frontends may use: `'tlsv1.2'`, `'tlsv1.3'`, or `'secure'`, which is both (and may "
        "be written as `'tlsv1.2,tlsv1.3'`). Older ones there are not.",
        "`'tlsv1.3'` alone keeps out drivers that have an old TLS library.",
    )
    client_tls_ciphers: str = row(
        TLS, "list of ciphers", "", "", True, checks.ciphers,
        "The ciphers of TLS 1.2 that frontends may use, in OpenSSL's words, as `'HIGH:!aNULL'`; empty is OpenSSL's own "
        "list. Those of TLS 1.3 are all good and cannot be chosen here.",
        "A short list may keep out drivers that have none of them.",
    )
    server_tls_sslmode: str = row(
        TLS, "word", "", "prefer", True, checks.choice(*SSLMODES),
        "How workers, cancel requests and `admin_cnn` connect to servers on TCP, as libpq's `sslmode`: `'disable'`; "
        "`'allow'`: by TLS only if the server insists; `'prefer'`: by TLS if the server has it; `'require'`; "
        "`'verify-ca'`, and its certificate is one of `server_tls_ca_file`; `'verify-full'`, and it is for that host.",
        "Only the last two keep out who pretends to be the server. TLS costs time: `'disable'` does without where the "
        "network can be trusted.",
    )
    server_tls_ca_file: str = row(
        TLS, "file name", "", "", True, checks.optional_file_name,
        "Certificates of the authorities (PEM) that certificates of servers are checked against; `'system'` for those "
        "that this machine trusts, with `'verify-full'` only. With `'require'`, too, a server is then checked as by "
        "`'verify-ca'`.",
        "The files of this and the next two settings are read again when they change, for connections from then on.",
    )
    server_tls_cert_file: str = row(
        TLS, "file name", "", "", True, checks.optional_file_name,
        "The certificate that the pool shows to servers that ask for one (PEM).",
        "All workers show the same one, so `cert` rules for the pool's address need a user name map.",
    )
    server_tls_key_file: str = row(
        TLS, "file name", "", "", True, checks.optional_file_name,
        "Its private key (PEM, without a passphrase).",
        "Only the pool's user should be able to read it; libpq refuses one that others can read.",
    )
    server_tls_crl_file: str = row(
        TLS, "file name", "", "", True, checks.optional_file_name,
        "Lists of revoked certificates (PEM), as libpq's `sslcrl`, for certificates of servers that are checked: one "
        "of each authority that such a certificate depends on. Read again when the file changes.",
        "A list that has expired refuses every server.",
    )
    server_tls_protocols: str = row(
        TLS, "word", "", "secure", True, checks.tls_versions,
        "The versions of TLS that servers may use, as `client_tls_protocols`.",
        "`'tlsv1.3'` needs servers of PostgreSQL 12 or newer whose OpenSSL has it.",
    )
    server_tls_ciphers: str = row(
        TLS, "list of ciphers", "", "", True, checks.ciphers,
        "The ciphers of TLS 1.2 that workers and cancel requests offer to servers, as `client_tls_ciphers`. libpq has "
        "no such choice, so `admin_cnn` keeps to OpenSSL's own list.",
        "The server chooses among them; its `ssl_ciphers` says the same for all its clients.",
    )
