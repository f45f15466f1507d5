"""What the page is told of the last minutes, and what a browser may do with it."""

import re

from lib.monitor import page
from lib.monitor.history import KEPT, History, Totals


def test_a_sample_is_what_was_counted_between_two_looks():
    history = History()
    history.add(100.0, Totals(50, 40, 0.4), 0, 0)
    history.add(102.0, Totals(250, 140, 0.9), 3, 2)
    (sample,) = history.samples
    assert (sample.queries, sample.run_ms, sample.waiting, sample.busy) == (100.0, 5.0, 3, 2)
    assert history.columns == {"at": [102.0], "queries": [100.0], "run_ms": [5.0], "waiting": [3], "busy": [2]}


def test_only_the_last_minutes_are_kept_and_a_clock_that_is_set_back_makes_no_sample():
    history = History()
    for at in [*range(KEPT + 50), 7]:
        history.add(float(at), Totals(at), 0, 0)
    assert len(history.samples) == KEPT
    assert history.samples[-1].at == KEPT + 49


def test_nothing_is_known_before_the_second_look():
    assert History().columns == {"at": [], "queries": [], "run_ms": [], "waiting": [], "busy": []}


def test_the_page_loads_nothing_from_anywhere_and_runs_nothing_but_its_own_script():
    text = page.HTML.decode()
    assert re.findall(r"(?:src|href)=(?!.data:,)|url\(|@import|import\(", text) == []
    assert "http" not in text
    assert "innerHTML" not in text
    assert "'unsafe" not in page.POLICY
    assert page.POLICY.startswith("default-src 'none'; script-src 'sha256-")
