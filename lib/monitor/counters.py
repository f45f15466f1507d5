"""What is counted, as families of Prometheus: the rows of `lib.metrics`.

Pure. Bytes, and errors of the pool's own, belong to no server: their pool is 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from lib.metrics import BOUNDS, ROUTES, TABLE, Counts, Histogram, Key
from lib.metrics import Metric as Row

PREFIX = "pgstmtpool_"
_AT_A_TIME = 10  # keys of which a family is made in one go: some 200 lines of a histogram


def counted_families(counts: Mapping[Key, Counts]) -> Iterator[Metric]:
    """A family for each row of the table; one of many users comes in several parts, one after the other."""
    for row in TABLE:
        for part in _parts(counts):
            yield _histogram(row, part) if row.kind == "histogram" else _counter(row, part)


def _parts(counts: Mapping[Key, Counts]) -> Iterator[Mapping[Key, Counts]]:
    items = list(counts.items())
    for first in range(0, max(len(items), 1), _AT_A_TIME):
        yield dict(items[first : first + _AT_A_TIME])


def _labels(key: Key) -> tuple[str, str, str]:
    return str(key.pool), key.database, key.user


def _counter(row: Row, counts: Mapping[Key, Counts]) -> Metric:
    family = CounterMetricFamily(PREFIX + row.name.removesuffix("_total"), row.help, labels=row.labels)
    for key, each in counts.items():
        if row.field == "errors":
            for sqlstate, times in sorted(each.errors.items()):
                family.add_metric((*_labels(key), sqlstate), times)
        elif (key.pool == 0) == (row.field in ("received", "sent")):
            family.add_metric(_labels(key), getattr(each, row.field))
    return family


def _histogram(row: Row, counts: Mapping[Key, Counts]) -> Metric:
    family = HistogramMetricFamily(PREFIX + row.name, row.help, labels=row.labels)
    for key, each in counts.items():
        for route, times in zip(ROUTES, each.routes, strict=False):
            histogram: Histogram = getattr(times, row.field)
            if histogram.count:
                bounds = (*map(str, BOUNDS), "+Inf")
                buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
                family.add_metric((*_labels(key), route), buckets, histogram.total)
    return family
