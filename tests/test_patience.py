"""For how long a frontend has done the same, as somebody sees it who looks now and then."""

from lib.patience import Doing, Enough, Limits, Seen

LIMITS = Limits(running_s=1.0, in_transaction_s=2.0)
STATEMENT, OTHER = object(), object()


def looks(*steps, limits=LIMITS):
    """What is due after each step (what it does, mark, when)."""
    seen = Seen()
    return [seen.look(doing, mark, now, limits) for doing, mark, now in steps]


def test_a_statement_is_canceled_when_it_has_been_seen_for_longer_than_the_limit():
    running = [(Doing.RUNNING, STATEMENT, now) for now in (0.0, 1.0, 1.1)]
    assert looks(*running) == [None, None, Enough.CANCEL]


def test_a_statement_that_does_not_end_is_canceled_again_after_as_long():
    running = [(Doing.RUNNING, STATEMENT, now) for now in (0.0, 1.1, 1.2, 2.05, 2.2)]
    assert looks(*running) == [None, Enough.CANCEL, None, None, Enough.CANCEL]


def test_another_statement_has_all_of_the_time():
    steps = [(Doing.RUNNING, STATEMENT, 0.0), (Doing.RUNNING, OTHER, 0.9), (Doing.RUNNING, OTHER, 1.8)]
    assert looks(*steps) == [None] * 3


def test_waiting_for_a_worker_is_no_running():
    assert looks(*((Doing.WAITING, STATEMENT, now) for now in (0.0, 50.0))) == [None, None]
    steps = [(Doing.WAITING, STATEMENT, 0.0), (Doing.RUNNING, STATEMENT, 50.0), (Doing.RUNNING, STATEMENT, 50.9)]
    assert looks(*steps) == [None] * 3


def test_an_idle_transaction_is_ended_and_one_in_which_something_has_run_is_not():
    idle = [(Doing.IN_TRANSACTION, (b"T", 7), now) for now in (0.0, 2.0, 2.1)]
    assert looks(*idle) == [None, None, Enough.END]
    assert looks(*idle[:2], (Doing.IN_TRANSACTION, (b"T", 8), 2.1)) == [None] * 3


def test_no_limit_is_none():
    steps = [(doing, 1, now) for doing in Doing for now in (0.0, 1e6)]
    assert looks(*steps, limits=Limits()) == [None] * len(steps)


def test_looks_are_ten_in_the_shortest_limit_and_one_a_second_at_least():
    assert Limits().interval_s == 0
    assert Limits(running_s=300).interval_s == 1.0
    assert Limits(running_s=300, in_transaction_s=2).interval_s == 0.2
    assert Limits(in_transaction_s=0.1).interval_s == 0.05
