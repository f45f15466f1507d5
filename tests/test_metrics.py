"""What is counted: histograms, and tallies that are there when they are asked for."""

from collections import Counter

import pytest

from lib.metrics import BOUNDS, TABLE, Counts, Histogram, Key, Tallies, Tally
from lib.monitor.counters import counted_families
from lib.monitor.exporter import text


def test_what_takes_as_long_as_a_bound_is_counted_below_it():
    histogram = Histogram()
    for seconds in (0.0, 0.0001, 0.00011, 60.0, 61.0):
        histogram.add(seconds)
    assert histogram.counts[:2] == [2, 1]
    assert histogram.counts[-2:] == [1, 1]
    assert histogram.count == 5


def test_many_at_a_time_are_added_at_once():
    histogram = Histogram()
    histogram.add(0.001, 30)
    assert (histogram.count, histogram.total) == (30, pytest.approx(0.03))


def test_quantile_is_between_the_bounds_of_what_was_counted():
    histogram = Histogram()
    histogram.add(0.0007, 98)
    histogram.add(3.0, 2)
    assert 0.0005 <= histogram.quantile(0.5) <= 0.001
    assert 2.5 <= histogram.quantile(0.99) <= 5.0
    assert Histogram().quantile(0.5) is None


def test_quantile_of_what_is_beyond_all_bounds_is_the_last_bound():
    histogram = Histogram()
    histogram.add(1000.0)
    assert histogram.quantile(0.99) == BOUNDS[-1]


def test_tally_that_is_asked_for_is_there_and_stays():
    tallies = Tallies()
    tallies[Key(1, "shop", "app")].processed += 1
    assert tallies[Key(1, "shop", "app")].processed == 1
    assert list(tallies) == [Key(1, "shop", "app")]


def test_every_row_of_the_table_has_a_name_of_its_own():
    assert len({each.name for each in TABLE}) == len(TABLE)
    assert {each.kind for each in TABLE} <= {"counter", "histogram"}
    assert {each.field for each in TABLE if each.kind == "counter"} <= set(Counts._fields)
    assert {each.field for each in TABLE if each.kind == "histogram"} == {"run", "wait"}


def test_prometheus_is_told_what_was_counted():
    tally = Tally()
    tally.shared.run.add(0.0002, 3)
    tally.alone.wait.add(0.5)
    tally.errors["42P01"] += 2
    here = Counts(5, 4, 1.5, 0.0006, 0.5, 0, 0, tally.errors, tally.routes)
    nowhere = Counts(0, 0, 0.0, 0.0, 0.0, 10, 20, Counter({"53300": 1}))
    counts = {Key(1, "shop", "app"): here, Key(0, "shop", "app"): nowhere}
    found = text(counted_families(counts)).decode()
    who = 'database="shop",pool="1",user="app"'
    for line in (
        f"pgstmtpool_transactions_total{{{who}}} 4.0",
        'pgstmtpool_run_seconds_bucket{database="shop",le="0.0001",pool="1",route="shared",user="app"} 0.0',
        'pgstmtpool_run_seconds_bucket{database="shop",le="+Inf",pool="1",route="shared",user="app"} 3.0',
        'pgstmtpool_run_seconds_count{database="shop",pool="1",route="shared",user="app"} 3.0',
        'pgstmtpool_wait_seconds_count{database="shop",pool="1",route="alone",user="app"} 1.0',
        'pgstmtpool_received_bytes_total{database="shop",pool="0",user="app"} 10.0',
        'pgstmtpool_errors_total{database="shop",pool="1",sqlstate="42P01",user="app"} 2.0',
        'pgstmtpool_errors_total{database="shop",pool="0",sqlstate="53300",user="app"} 1.0',
    ):
        assert line in found.splitlines(), found
    assert 'transactions_total{database="shop",pool="0"' not in found


def test_what_is_only_noted_is_counted_before_anybody_is_told():
    histogram = Histogram()
    histogram.add(0.001)
    histogram.noted += [0.001, 5.0]
    assert (histogram.count, histogram.total) == (3, pytest.approx(5.002))
    histogram.noted.append(1.0)
    histogram.catch_up()
    assert (histogram.count, histogram.noted) == (4, [])
