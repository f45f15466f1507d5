"""Standbys that are further behind than max_lag are left out, and those that only look so are not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.standbys import LOGIN, delay, not_let_in, open_farm, paused, pooled, port, ports, questions
from tests.cluster.wire import Wire
from tests.servers import Cluster, Pooler, Server
from tests.workplace import wait_until

LAG = {"max_lag": 1, "lag_check_interval": 0.05}


@pytest.fixture(scope="module")
def farm() -> Iterator[Cluster]:
    with open_farm() as farm:
        yield farm


def write(farm: Cluster) -> None:
    """Not through the pool, so that only the lag says anything of it."""
    farm.primary.query("insert into things values (1)", dbname="app")


def used(reader: Wire) -> set[int]:
    return {port(reader) for _ in range(4)}


def used_while_written(farm: Cluster, reader: Wire) -> set[int]:
    write(farm)
    return used(reader)


def said(pooler: Pooler, standby: Server, what: str) -> int:
    return pooler.log.count(f"standby 127.0.0.1:{standby.port} {what}")


def test_a_standby_that_is_too_far_behind_is_left_out_until_it_has_caught_up(farm):
    late, other = farm.standbys
    with pooled(farm, **LAG) as pooler, Wire(pooler, **LOGIN) as reader:
        with paused(late):
            wait_until(lambda: used_while_written(farm, reader) == {other.port}, what="the late one to be left out")
            for _ in range(10):
                assert late.port not in used_while_written(farm, reader)
            with paused(other):
                wait_until(lambda: used_while_written(farm, reader) == {farm.primary.port}, what="both to be left out")
        wait_until(lambda: used(reader) == ports(farm), what="both to be used again")
        assert said(pooler, late, "is left out: it is ") == said(pooler, late, "is used again: it has caught up") == 1


def test_no_standby_gets_old_while_nobody_writes(farm):
    with pooled(farm, **LAG) as pooler, Wire(pooler, **LOGIN) as reader:
        looks = 4 * int(LAG["max_lag"] / LAG["lag_check_interval"])
        until = [count + looks for count in questions(farm)]
        wait_until(
            lambda: all(count >= wanted for count, wanted in zip(questions(farm), until, strict=True)),
            timeout_s=30, what=f"{looks} looks at each server",
        )  # fmt: skip
        assert used(reader) == ports(farm)
        assert "left out" not in pooler.log


def test_a_standby_that_comes_back_with_much_to_catch_up_is_not_used_until_it_has(farm):
    away, other = farm.standbys
    with pooled(farm, **LAG) as pooler, Wire(pooler, **LOGIN) as reader:
        away.configure(recovery_min_apply_delay="1h")
        away.stop("fast")
        wait_until(lambda: used_while_written(farm, reader) == {other.port}, what="it to be missed")
        away.start()
        try:
            count = "select count(*) from pg_stat_activity where usename = 'app'"
            wait_until(lambda: used(reader) == {other.port} and away.query(count)[0][0], what="its workers")
            wait_until(lambda: said(pooler, away, "is left out: it is "), what="the log to say so")
            for _ in range(20):
                assert away.port not in used_while_written(farm, reader)
        finally:
            delay(away, "0")
        wait_until(lambda: used(reader) == ports(farm), what="it to be used again")


def test_standbys_that_cannot_be_asked_are_left_out_and_the_log_says_why(farm):
    with pooled(farm, **LAG) as pooler, Wire(pooler, **LOGIN) as reader:
        with not_let_in(*farm.standbys):
            for standby in farm.standbys:
                standby.query("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'observer'")
            wait_until(lambda: used(reader) == {farm.primary.port}, what="both to be left out")
            for standby in farm.standbys:
                assert said(pooler, standby, "is left out: it could not be asked how far it is: ") == 1
        wait_until(lambda: used(reader) == ports(farm), what="both to be used again")


def test_a_primary_that_is_away_makes_no_standby_old(farm):
    with pooled(farm, **LAG) as pooler, Wire(pooler, **LOGIN) as reader:
        farm.primary.stop("fast")
        try:
            before = questions(farm)
            wait_until(
                lambda: all(now > then + 20 for now, then in zip(questions(farm)[1:], before[1:], strict=True)),
                what="20 looks at each standby",
            )
            assert used(reader) == ports(farm)
        finally:
            farm.primary.start()
            farm.wait_streaming()
