"""What is known of each database's catalog: scanned, kept until it changes, and the router that goes by it.

Green. A scan runs in a green thread of its own and is judged in the threadpool; until then everything is suspect.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import gevent

from lib.backend import dialogue, tuning
from lib.errors import PoolError
from lib.route import Catalog, Router
from lib.route.catalog import CHANGED_SQL, SCAN_SQL
from lib.wire.messages import decode, encode

log = logging.getLogger(__name__)

MAX_CUSTOMS = 50  # names of custom settings that a group, or four times that a database, is remembered to know
RESCAN_S = 60.0


def _read_catalog(rows: list[tuple]) -> tuple[Catalog, frozenset[str]]:
    bodies = (tuning.customs(encode(body)) for *_, body in rows if body)
    return Catalog.from_rows(rows), frozenset[str]().union(*bodies)


class DatabaseCatalog:
    """The catalog scan of one database, and the router that goes by it."""

    def __init__(self, database: str, query: Callable[[str], list[tuple]], renew: Callable[[], None]) -> None:
        self.database = database
        self._renew = renew
        self.router = Router(Catalog.unknown())
        self._query = query
        self.customs: set[str] = set()
        self._version: object = None  # of the last scan
        self._seen: object = None
        self._found: Catalog | None = None  # by that
        self._scanning = False
        self._again = False
        self._told = ""
        self._scanned_at = 0.0

    def learn(self, customs: Iterable[str]) -> None:
        self.customs.update(islice(customs, max(0, 4 * MAX_CUSTOMS - len(self.customs))))

    def changed(self) -> None:
        self.router.catalog = Catalog.unknown()
        self.router.epoch += 1
        self._again = True
        if not self._scanning:
            self._scanning = True
            gevent.spawn(self._scan)

    def look(self) -> None:
        """See whether the catalog was changed past the pool; the counters of 13 and 14 may lose a change, so now and
        then scan it anyhow."""
        if time.monotonic() - self._scanned_at > RESCAN_S:
            self._version = None
        if not self._scanning:
            self._scanning = True
            gevent.spawn(self._scan)

    def left(self, texts: Iterable[bytes], traces: Sequence[str]) -> None:
        """Statements were found to have left `traces` in their session: the next ones like them are asked after."""
        for text in texts:
            if self.router.left(text, traces):
                start = decode(text.partition(b"'")[0].partition(b"$")[0][:100])  # what is quoted may be secret
                log.info(
                    "a statement in %s left %s in its session; it is asked after that each time from now on: %s …",
                    self.database, ", ".join(traces[:5]), start.strip(),
                )  # fmt: skip

    def _tell(self, catalog: Catalog) -> None:
        """Say in the log, once, what keeps statements from sharing a worker and why."""
        summary = catalog.summary()
        if summary != self._told:
            self._told = summary
            log.info("catalog of %s: %s", self.database, summary or "nothing in it may change the session any more")

    def _scan(self) -> None:
        try:
            version = self._query(CHANGED_SQL)
            if version != self._seen:
                self._seen = version
                self.router.epoch += 1
            while self._again or version != self._version:
                self._again = False
                started = time.monotonic()
                # In a thread: a large schema takes a while to think about, and the loop must go on.
                rows = self._query(SCAN_SQL)
                catalog, customs = gevent.get_hub().threadpool.apply(_read_catalog, (rows,))
                self.learn(customs)
                if not self._again:
                    # By the last scan and not by what holds now, which is nothing when DDL has gone through the pool.
                    if self._found not in (catalog, None):
                        self._renew()
                    self._found = self.router.catalog = catalog
                    self._tell(catalog)
                    log.debug("catalog of %s scanned in %.3f s: %r", self.database, time.monotonic() - started, catalog)
                # As it was before the scan: what changes meanwhile is seen at the next look.
                self._version = version
                self._scanned_at = started
        except PoolError as error:
            # What is not known is opaque: slower, and right. But a server that is down does not change its catalog, and
            # reads that were harmless can be run again when it is back.
            if not dialogue.is_transient(error):
                self.router.catalog = Catalog.unknown()
            self._version = None
            log.warning("the catalog of %s could not be scanned: %s", self.database, error)
        finally:
            self._scanning = False
