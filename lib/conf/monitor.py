"""Rows: metrics, health and the page, over HTTP. Pure."""

# ruff: noqa: RUF009 (a row is a dataclasses.field, which is made once)

from __future__ import annotations

from dataclasses import dataclass

from lib import addresses
from lib.addresses import Address
from lib.conf.row import row

MONITOR = "Monitoring"


@dataclass(frozen=True, kw_only=True, repr=False)
class Monitoring:
    """Where the pool tells how it is."""

    http_listen: Address | None = row(
        MONITOR, "address, or a port", "", "", True, addresses.http_address,
        "Where the pool answers HTTP: `/metrics` for Prometheus, `/healthz`, `/readyz`, and `/`, a page that shows "
        "what is going on. A port alone, as `9127`, is on 127.0.0.1; `''` is nowhere.",
        "Whoever can connect there sees names of users and databases and the addresses of clients who wait, and is "
        "asked for no password: on another address than this machine's own let only those through who may.",
    )
