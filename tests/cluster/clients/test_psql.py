"""psql does through the pooler what it does with the primary itself, at a terminal, too."""

from __future__ import annotations

import re
from pathlib import Path

import pexpect
import pytest

from tests import roles
from tests.cluster.clients.tools import EACH_LOGIN, environment, new_role, run_client, words
from tests.cluster.conftest import Address
from tests.workplace import wait_until


@EACH_LOGIN
def test_psql_logs_in_and_asks(address, pg_bin, role):
    assert run_client(pg_bin / "psql", address, "-XAtc", "select current_user, 1 + 1", role=role) == f"{role.name}|2\n"


def test_psql_runs_a_script_with_a_transaction_an_error_and_copy(address, pg_bin, table):
    script = f"""
        begin; insert into {table} values (1, 'kept'); commit;
        begin; insert into {table} values (2, 'undone'); rollback;
        select 1 / 0;
        copy {table} from stdin;\n3\tcopied\n4\t\\N\n\\.
        copy {table} to stdout;
        \\d {table}
        \\echo :ROW_COUNT
    """
    printed = run_client(pg_bin / "psql", address, "-XAt", stdin=script.replace("        ", ""))
    assert "ERROR:  division by zero" in printed
    assert "1\tkept\n3\tcopied\n4\t\\N\n" in printed
    assert "id|integer" in printed
    assert words(address, table) == [(1, "kept"), (3, "copied"), (4, None)]


def test_psql_reads_a_large_result_in_pieces(address, pg_bin):
    script = "\\set FETCH_COUNT 1000\nselect repeat('x', 100) || n from generate_series(1, 20000) n;\n"
    printed = run_client(pg_bin / "psql", address, "-XAt", stdin=script)
    assert printed.count("\n") == 20000
    assert printed.endswith("x20000\n")


def test_psql_shows_what_is_there(address, pg_bin, table):
    described = run_client(pg_bin / "psql", address, "-X", "-c", f"\\d {table}", "-c", "\\dt", "-c", "\\du app_scram")
    assert '"driver_test_pkey" PRIMARY KEY, btree (id)' in described
    assert re.search(r"public \| driver_test +\| table", described), described
    assert re.search(r"\n app_scram ", described), described
    others = "\\d\n\\l\n\\dn\n\\df\n\\dx\n\\dT\n\\dp\n\\conninfo\n\\sf pg_catalog.now\n\\dconfig\n"
    assert "CREATE OR REPLACE FUNCTION" in run_client(pg_bin / "psql", address, "-Xv", "ON_ERROR_STOP=1", stdin=others)


def test_psql_copies_from_and_to_files(address, pg_bin, table, tmp_path):
    (tmp_path / "in").write_text("".join(f"{number}\tword {number}\n" for number in range(3000)))
    commands = [f"\\copy {table} from 'in'", f"\\copy (select * from {table} order by id) to 'out'"]
    printed = run_client(pg_bin / "psql", address, "-X", "-c", commands[0], "-c", commands[1], cwd=tmp_path)
    assert printed == "COPY 3000\nCOPY 3000\n"
    assert (tmp_path / "out").read_text() == (tmp_path / "in").read_text()


def test_psql_keeps_values_and_runs_what_a_query_says(address, pg_bin, table):
    script = f"""
        select 40 + 2 as answer, 'kept' as word \\gset
        insert into {table} values (:answer, :'word');
        select format('insert into {table} values (%s, %L)', n, 'made') from generate_series(1, 3) n \\gexec
        select $1::int + $2::int as sum \\bind 3 4 \\g
        select 1 as one \\; select 2 as two;
        select id, word from {table} \\gdesc
        \\set AUTOCOMMIT off
        delete from {table};
        rollback;
    """
    printed = run_client(pg_bin / "psql", address, "-XAtqv", "ON_ERROR_STOP=1", stdin=script.replace("        ", ""))
    assert printed == "7\n1\n2\nid|integer\nword|text\n"
    assert words(address, table) == [(1, "made"), (2, "made"), (3, "made"), (42, "kept")]


def test_psql_goes_on_after_errors_in_a_transaction_with_its_savepoints(address, pg_bin, table):
    script = f"""
        \\set ON_ERROR_ROLLBACK on
        begin;
        insert into {table} values (1, 'kept');
        insert into {table} values (1, 'twice');
        insert into {table} values (2, 'kept');
        commit;
    """
    printed = run_client(pg_bin / "psql", address, "-XAtq", stdin=script.replace("        ", ""))
    assert "duplicate key" in printed
    assert words(address, table) == [(1, "kept"), (2, "kept")]


class Terminal:
    """psql at a terminal, as somebody who types sees it."""

    def __init__(self, program: Path, address: Address, *args: str, role: roles.Role = roles.SCRAM) -> None:
        settings = {"TERM": "dumb", "INPUTRC": "/dev/null", "PSQL_HISTORY": "/dev/null", "PAGER": ""}
        self.child = pexpect.spawn(
            str(program), ["-X", "--set=PROMPT1=%/%R%x> ", *args], env={**environment(address, role), **settings},
            encoding="utf-8", timeout=20, dimensions=(50, 200),
        )  # fmt: skip

    def __enter__(self) -> pexpect.spawn:
        self.child.expect_exact("app=> ")
        return self.child

    def __exit__(self, *_: object) -> None:
        self.child.close(force=True)


def test_psql_completes_names_at_a_terminal(address, pg_bin, table):
    with Terminal(pg_bin / "psql", address) as terminal:
        terminal.send("select * from driver_te\t")
        terminal.expect_exact("driver_test ")
        terminal.send("where wo\t")
        terminal.expect_exact("word ")
        terminal.send("= 'nobody';\r")
        terminal.expect_exact("(0 rows)")
        terminal.expect_exact("app=> ")
        terminal.send("begin;\r")
        terminal.expect_exact("app=*> ")
        terminal.send(f"insert into {table} values (1, 'at a terminal');\r")
        terminal.expect_exact("app=*> ")
        terminal.send("commit;\r")
        terminal.expect_exact("app=> ")
        terminal.send("\\q\r")
        terminal.expect_exact(pexpect.EOF)
    assert words(address, table) == [(1, "at a terminal")]


def test_psql_watches_until_somebody_presses_ctrl_c(address, pg_bin):
    with Terminal(pg_bin / "psql", address) as terminal:
        terminal.send("select 'seen again' as it \\watch 0.05\r")
        for _ in range(3):
            terminal.expect_exact("(every 0.05s)")
            terminal.expect_exact("seen again")
        terminal.sendintr()
        terminal.expect_exact("app=> ")
        terminal.send("select pg_sleep(31);\r")
        asleep = "select 1 from pg_stat_activity where state = 'active' and query = 'select pg_sleep(31);'"
        wait_until(lambda: address.query(asleep), what="the statement to run")
        terminal.sendintr()
        terminal.expect_exact("canceling statement due to user request")
        terminal.expect_exact("app=> ")
        terminal.send("select 'alive';\r")
        terminal.expect_exact("alive")


def test_psql_changes_a_password_which_holds_at_the_next_login(address, pg_bin):
    role = new_role(address, "app_renewed")
    renewed = role._replace(password="second secret")
    with Terminal(pg_bin / "psql", address, role=role) as terminal:
        terminal.send("\\password\r")
        for _ in range(2):
            terminal.expect("(?:password for user .*|again): ")
            terminal.waitnoecho()
            terminal.send("second secret\r")
        terminal.expect_exact("app=> ")
    assert run_client(pg_bin / "psql", address, "-XAtc", "select current_user", role=renewed) == "app_renewed\n"
    with pytest.raises(AssertionError, match="password authentication failed"):
        run_client(pg_bin / "psql", address, "-XAtc", "select current_user", role=role)
