"""What SHOW STATS averages: from an older moment up to now, as PgBouncer does."""

from lib.console.averages import PERIOD_S, Averages

# transactions, queries, bytes received and sent, microseconds in transactions and in queries and of waiting
TEN_S = {"app": (100, 200, 1000, 2000, 500_000, 400_000, 30_000)}


def test_first_period_is_averaged_from_the_start():
    averages = Averages(now=100.0)
    assert averages.of(TEN_S, 109.0) == {"app": (10, 20, 100, 200, 5000, 2000, 3000)}


def test_what_was_counted_in_the_first_moment_is_not_multiplied():
    assert Averages(now=100.0).of(TEN_S, 100.0)["app"][:2] == (100, 200)


def test_later_it_is_the_last_one_to_two_periods():
    averages = Averages(now=0.0)
    averages.note({"app": (0,) * 7}, PERIOD_S)
    averages.note(TEN_S, 2 * PERIOD_S)
    now = {"app": (100 + 1200, 200, 1000, 2000, 500_000, 400_000, 30_000)}
    assert averages.of(now, 3 * PERIOD_S)["app"][0] == 11  # 1300 in 120 s, since the end of the first
    averages.note(now, 3 * PERIOD_S)
    assert averages.of(now, 3 * PERIOD_S)["app"] == (20, 0, 0, 0, 0, 0, 0)
    averages.note(now, 4 * PERIOD_S)
    assert averages.of(now, 5 * PERIOD_S)["app"] == (0,) * 7


def test_database_that_has_come_meanwhile_is_averaged_over_the_same_time():
    averages = Averages(now=0.0)
    averages.note({}, PERIOD_S)
    averages.note({}, 2 * PERIOD_S)
    assert averages.of({"new": (60, 0, 0, 0, 0, 0, 0)}, 2 * PERIOD_S)["new"][0] == 1
