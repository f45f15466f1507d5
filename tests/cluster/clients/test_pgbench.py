"""pgbench does through the pooler what it does with the primary itself, in all its modes."""

from __future__ import annotations

import re

import pytest

from tests.cluster.clients.tools import run_client
from tests.cluster.conftest import Address


@pytest.fixture(scope="session")
def pgbench_tables(cluster, pg_bin) -> None:
    """pgbench's tables in scale 1, made on the primary itself."""
    own = Address(cluster.primary.host, cluster.primary.port, cluster.primary)
    run_client(pg_bin / "pgbench", own, "-i", "-s", "1", "-q")


def transactions_done(printed: str) -> int:
    assert "number of failed transactions: 0" in printed, printed
    return int(re.search(r"number of transactions actually processed: (\d+)/\d+", printed)[1])


MODES = pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])


@MODES
def test_pgbench_selects(address, pg_bin, pgbench_tables, mode):
    printed = run_client(pg_bin / "pgbench", address, "-n", "-S", "-M", mode, "-c", "8", "-t", "100")
    assert transactions_done(printed) == 800


@MODES
def test_pgbench_runs_tpc_b_and_every_transaction_counts_once(address, pg_bin, pgbench_tables, mode):
    address.query("truncate pgbench_history")
    printed = run_client(pg_bin / "pgbench", address, "-n", "-M", mode, "-c", "6", "-t", "50")
    assert transactions_done(printed) == 300
    sums = """
        select (select count(*) from pgbench_history), (select sum(abalance) from pgbench_accounts),
               (select sum(tbalance) from pgbench_tellers), (select sum(bbalance) from pgbench_branches)
    """
    ((count, accounts, tellers, branches),) = address.query(sums)
    assert count == 300
    assert accounts == tellers == branches


def test_pgbench_connects_anew_for_each_transaction(address, pg_bin, pgbench_tables):
    printed = run_client(pg_bin / "pgbench", address, "-n", "-S", "-C", "-c", "4", "-t", "10")
    assert transactions_done(printed) == 40


@pytest.mark.parametrize("mode", ["extended", "prepared"])
def test_pgbench_runs_pipelines_in_transactions_and_outside_of_them(address, pg_bin, pgbench_tables, mode, tmp_path):
    address.query("truncate pgbench_history")
    script = """
        \\set aid random(1, 100000)
        \\startpipeline
        select abalance from pgbench_accounts where aid = :aid;
        begin;
        insert into pgbench_history (tid, bid, aid, delta, mtime) values (1, 1, :aid, 1, current_timestamp);
        select 1;
        commit;
        select :aid + 1;
        \\endpipeline
        begin;
        \\startpipeline
        insert into pgbench_history (tid, bid, aid, delta, mtime) values (1, 1, :aid, 2, current_timestamp);
        insert into pgbench_history (tid, bid, aid, delta, mtime) values (1, 1, :aid, 2, current_timestamp);
        \\endpipeline
        commit;
    """
    (tmp_path / "pipelines.sql").write_text(script)
    options = ["-n", "-M", mode, "-c", "6", "-t", "30", "-f", tmp_path / "pipelines.sql"]
    assert transactions_done(run_client(pg_bin / "pgbench", address, *options)) == 180
    assert address.query("select delta, count(*) from pgbench_history group by 1 order by 1") == [(1, 180), (2, 360)]


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
def test_pgbench_uses_what_a_query_has_answered(address, pg_bin, pgbench_tables, mode, tmp_path):
    script = """
        select 20 + 1 as half \\gset
        select 1 / (2 * :half - 42 + 1) as one \\gset my_
        \\if :my_one != 1
            select 1 / 0;
        \\endif
    """
    (tmp_path / "gset.sql").write_text(script)
    options = ["-n", "-M", mode, "-c", "4", "-t", "20", "-f", tmp_path / "gset.sql"]
    assert transactions_done(run_client(pg_bin / "pgbench", address, *options)) == 80
