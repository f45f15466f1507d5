"""What a Prometheus server scrapes, made with prometheus_client out of a Status.

Green only in that it lets others have their turn between two metrics: a slow scraper keeps nobody from his answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from lib.monitor.status import RosterStatus, Status
from lib.turns import give_way

__all__ = ["CONTENT_TYPE_LATEST", "families", "text"]

PREFIX = "pgstmtpool_"
_HEAD_LINES = 2  # HELP and TYPE
_ROSTER = ("pool", "database", "user", "mode")


class _Single(Collector):
    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family


def text(found: Iterable[Metric]) -> bytes:
    """The families in the text format of Prometheus."""
    parts = []
    before = ""
    for family in found:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Single(family))
        lines = generate_latest(registry)
        # What a family is stands in front of its first part only.
        parts.append(lines if family.name != before else lines.split(b"\n", _HEAD_LINES)[_HEAD_LINES])
        before = family.name
        give_way()
    return b"".join(parts)


def families(status: Status, answered: int) -> Iterator[Metric]:
    """Everything that is known of the pool; so many statements were answered."""
    yield InfoMetricFamily(PREFIX + "build", "what is running", value={"version": status.version})
    yield _gauge("start_time_seconds", "when the pool was started, since 1970", status.started_at)
    yield _gauge("ready", "whether statements can be run", float(not status.not_ready))
    switches = CounterMetricFamily(PREFIX + "switches", "how often another server has become the primary")
    switches.add_metric((), status.switches)
    yield switches
    ha = GaugeMetricFamily(PREFIX + "ha_state", "what failover thinks of the primary", labels=("state",))
    ha.add_metric((status.ha,), 1.0)
    yield ha
    queries = CounterMetricFamily(PREFIX + "queries", "statements that were answered")
    queries.add_metric((), answered)
    yield queries
    yield from _of_frontends(status)
    yield from _of_pools(status)
    yield from _of_rosters(status)


def _of_frontends(status: Status) -> Iterator[Metric]:
    frontends = GaugeMetricFamily(PREFIX + "frontends", "clients that are logged in", labels=("state",))
    for state in ("idle", "waiting", "running", "in transaction", "in the pseudo database"):
        frontends.add_metric((state,), status.frontends[state])
    yield frontends
    logins = CounterMetricFamily(PREFIX + "logins", "logins, let in or refused with a SQLSTATE", labels=("outcome",))
    for outcome in sorted({"ok", *status.logins}):
        logins.add_metric((outcome,), status.logins[outcome])
    yield logins


def _of_pools(status: Status) -> Iterator[Metric]:
    up = GaugeMetricFamily(PREFIX + "server_up", "whether a server is used", labels=("pool", "address", "role"))
    lag = GaugeMetricFamily(PREFIX + "server_lag_seconds", "how far a standby is behind", labels=("pool", "address"))
    failures = GaugeMetricFamily(
        PREFIX + "server_failures", "attempts to start a worker that failed, since the last one that did not",
        labels=("pool", "address"),
    )  # fmt: skip
    for pool in status.pools:
        number = str(pool.number)
        up.add_metric((number, pool.address, pool.role), float(pool.state == "up"))
        failures.add_metric((number, pool.address), pool.failures)
        if pool.behind_s is not None:
            lag.add_metric((number, pool.address), pool.behind_s)
    yield from (up, lag, failures)


def _of_rosters(status: Status) -> Iterator[Metric]:
    workers = GaugeMetricFamily(PREFIX + "workers", "server connections", labels=(*_ROSTER, "state"))
    waiting = GaugeMetricFamily(PREFIX + "waiting", "statements that wait for a worker", labels=_ROSTER)
    oldest = GaugeMetricFamily(PREFIX + "oldest_wait_seconds", "for how long the first of them waits", labels=_ROSTER)
    for labels, each in _merged(status):
        for state, count in (*each.workers.items(), ("starting", each.starting)):
            workers.add_metric((*labels, state), count)
        waiting.add_metric(labels, each.waiting)
        oldest.add_metric(labels, each.oldest_s)
    yield from (workers, waiting, oldest)


def _merged(status: Status) -> Iterable[tuple[tuple[str, ...], RosterStatus]]:
    # Logins that differ in their startup packet only are one to whoever looks from outside.
    found: dict[tuple[str, ...], RosterStatus] = {}
    for each in status.rosters:
        labels = (str(each.pool), each.database, each.user, each.kind)
        known = found.get(labels)
        found[labels] = each if known is None else known._replace(
            workers=known.workers + each.workers, starting=known.starting + each.starting,
            waiting=known.waiting + each.waiting, oldest_s=max(known.oldest_s, each.oldest_s),
        )  # fmt: skip
    return found.items()


def _gauge(name: str, help: str, value: float) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, help)
    family.add_metric((), value)
    return family
