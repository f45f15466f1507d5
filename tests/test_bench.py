"""The benchmark's maths and page, from measurements that are made up."""

from __future__ import annotations

import ast
import platform
import re
from pathlib import Path

import pytest

from bench import contenders, pgbench, plot, report, run, uncounted, workloads
from bench.client import Endpoint
from bench.pgbench import CPU, Transaction
from bench.report import Measurement, Results
from bench.workloads import WORKLOADS, Figure, Target, Workload
from tests.certificates import Pair
from tests.servers import ServerFailed

TITLES = {"pgbouncer": "PgBouncer", "pgstmtpool": "pgstmtpool"}
SIMPLE = WORKLOADS["simple-8"]
MIXED = WORKLOADS["mixed"]
MEMORY = WORKLOADS["idle-memory"]


def rounds(workload: Workload, figure: str, **values: list[float | None]) -> list[Measurement]:
    """Measurements of each contender's values of a figure, one per round; None is a round in which it failed."""
    return [
        Measurement(number, workload.name, contender, None if value is None else {figure: value}, "it broke")
        for contender, each in values.items()
        for number, value in enumerate(each)
    ]


def simple(**values: list[float | None]) -> list[Measurement]:
    return rounds(SIMPLE, "tps", **values)


def figure_of(workload: Workload, name: str) -> Figure:
    (found,) = (one for one in workload.figures if one.name == name)
    return found


def test_ratio_is_the_median_of_ratios_within_rounds_and_not_the_ratio_of_medians() -> None:
    results = Results(simple(pgbouncer=[100, 200, 400], pgstmtpool=[90, 100, 390]))
    assert results.ratios("simple-8", "tps", "pgstmtpool") == pytest.approx([0.9, 0.5, 0.975])
    assert results.ratio("simple-8", "tps", "pgstmtpool") == pytest.approx(0.9)


def test_round_in_which_one_of_the_two_failed_has_no_ratio() -> None:
    results = Results(simple(pgbouncer=[100, None, 100], pgstmtpool=[50, 90, None]))
    assert results.ratios("simple-8", "tps", "pgstmtpool") == [0.5]


def test_median_of_a_figure_leaves_out_samples_without_it() -> None:
    samples = [{"tps": 1.0, CPU: 10.0}, {"tps": 1.0}, {"tps": 1.0, CPU: 30.0}]
    results = Results(Measurement(number, "simple-8", "pgbouncer", one) for number, one in enumerate(samples))
    assert results.value("simple-8", CPU, "pgbouncer") == 20.0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"pgbouncer": [100, 100, 100], "pgstmtpool": [90, 90, 10]}, "met"),
        ({"pgbouncer": [100, 100, 100], "pgstmtpool": [89, 89, 200]}, "**not met**"),
        ({"pgbouncer": [100, 100, 100], "pgstmtpool": [200, 200, None]}, "**not met** (failed)"),
        ({"pgbouncer": [100]}, "not measured"),
        ({"pgstmtpool": [100]}, "not measured"),
    ],
)
def test_verdict_on_a_ratio(values: dict[str, list[float | None]], expected: str) -> None:
    assert report.verdict(Results(simple(**values)), SIMPLE, figure_of(SIMPLE, "tps")) == expected


@pytest.mark.parametrize(("ms", "expected"), [(5.0, "met"), (5.1, "**not met**")])
def test_verdict_on_a_ratio_that_must_not_be_passed(ms: float, expected: str) -> None:
    measured = rounds(MIXED, "p99", pgbouncer=[5.0], pgstmtpool=[ms])
    assert report.verdict(Results(measured), MIXED, figure_of(MIXED, "p99")) == expected


@pytest.mark.parametrize(("kb", "expected"), [(25.0, "met"), (25.1, "**not met**")])
def test_verdict_on_a_value_that_must_not_be_passed(kb: float, expected: str) -> None:
    results = Results(rounds(MEMORY, "memory", pgstmtpool=[kb]))
    assert report.verdict(results, MEMORY, figure_of(MEMORY, "memory")) == expected


def test_figures_of_one_workload_have_their_own_verdicts() -> None:
    measured = [
        Measurement(0, "mixed", "pgbouncer", {"tps": 100.0, "p99": 5.0}),
        Measurement(0, "mixed", "pgstmtpool", {"tps": 160.0, "p99": 6.0}),
    ]
    tables = report.body(Results(measured), [MIXED], TITLES)
    assert "| mixed load | tps | ≥ 1.50 × PgBouncer | 1.60 × | met |" in tables
    assert "| mixed load | p99 | ≤ 1.00 × PgBouncer | 1.20 × | **not met** |" in tables
    assert "| mixed load | p99, ms | 5.00 | 6.00 (1.20 ×) |" in tables


@pytest.mark.parametrize(
    ("value", "shown"),
    [(21_934.2, "21,900"), (999.6, "1,000"), (480.4, "480"), (12.34, "12.3"), (0.8449, "0.845"), (0, "0"), (None, "–")],
)
def test_figures_are_shown_to_three_places(value: float | None, shown: str) -> None:
    assert report.number(value) == shown


def test_tables_show_figure_ratio_spread_and_verdict() -> None:
    measured = simple(pgbouncer=[20_000, 22_000, 21_000], pgstmtpool=[18_000, 22_000, 10_500])
    tables = report.body(Results(measured), [SIMPLE], TITLES)
    assert "| pgbench -S -M simple, 8 clients | tps | ≥ 0.90 × PgBouncer | 0.90 × (0.50-1.00) | met |" in tables
    assert "| pgbench -S -M simple, 8 clients | tps | 21,000 | 18,000 (0.90 ×) |" in tables
    assert "Failed" not in tables


def test_failure_is_shown_with_its_reason() -> None:
    tables = report.body(Results(simple(pgbouncer=[20_000], pgstmtpool=[None])), [SIMPLE], TITLES)
    assert "| tps | 20,000 | failed |" in tables
    assert "- pgstmtpool, pgbench -S -M simple, 8 clients: failed in 1 round(s), the last with: `it broke`" in tables


def test_cpu_has_a_table_of_its_own_with_the_contenders_that_are_poolers() -> None:
    measured = [
        Measurement(0, "simple-8", "direct", {"tps": 200.0}),
        Measurement(0, "simple-8", "pgbouncer", {"tps": 100.0, CPU: 20.0}),
        Measurement(0, "simple-8", "pgstmtpool", {"tps": 100.0, CPU: 15.0}),
    ]
    tables = report.body(Results(measured), [SIMPLE], {"direct": "direct", **TITLES})
    assert "| pgbench -S -M simple, 8 clients | CPU, µs | 20.0 | 15.0 (0.75 ×) |" in tables


def test_growth_of_memory_is_not_divided_by_that_of_pgbouncer() -> None:
    workload = WORKLOADS["literals"]
    measured = rounds(workload, "growth", pgbouncer=[4.0], pgstmtpool=[40.0])
    tables = report.body(Results(measured), [workload], TITLES)
    assert f"| {workload.title} | growth, KB | 4.00 | 40.0 |" in tables
    assert f"| {workload.title} | growth | ≤ 2,000 KB | 40.0 KB | met |" in tables


def test_run_without_the_pooler_has_no_targets() -> None:
    tables = report.body(Results(simple(pgbouncer=[20_000])), [SIMPLE], {"pgbouncer": "PgBouncer"})
    assert "Targets" not in tables


def test_page_begins_with_how_it_was_measured_and_shows_the_plot() -> None:
    page = report.page([MIXED], "the tables", ["2 cores"], "benchmarks.svg")
    assert page.index("- 2 cores\n") < page.index("![tps and ratios](benchmarks.svg)") < page.index("the tables")


def test_plot_names_every_workload_that_is_a_ratio(tmp_path: Path) -> None:
    plot.draw(Results(simple(pgbouncer=[100], pgstmtpool=[90])), list(WORKLOADS.values()), TITLES, tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text()
    for name in ("mixed, tps", "locks, p99", "mixed, p99.9", "simple-64, CPU", "tpcb-32, tps", "idle-memory, memory"):
        assert f">{name}<" in drawn


def test_page_says_what_each_workload_is() -> None:
    page = report.page(list(WORKLOADS.values()), "the tables", [], "benchmarks.svg")
    assert all(f"- **{one.title}**: {one.what}\n" in page for one in WORKLOADS.values())


def test_every_target_of_the_project_is_a_figure_of_the_table() -> None:
    targets = {
        f"{workload.name} {figure.name}": figure.target
        for workload in WORKLOADS.values()
        for figure in workload.figures
        if figure.target
    }
    flat = Target(most=workloads.FLAT_KB)
    assert targets == {
        "simple-1 tps": Target(least_ratio=0.9),
        "simple-8 tps": Target(least_ratio=0.9),
        "simple-64 tps": Target(least_ratio=1.6),
        "simple-64 CPU": Target(most_ratio=0.75),
        "simple-256 tps": Target(least_ratio=1.6),
        "extended-64 tps": Target(least_ratio=1.4),
        "tls-64 tps": Target(least_ratio=1.2),
        "mixed tps": Target(least_ratio=1.5),
        "mixed p99": Target(most_ratio=1.0),
        "locks p99": Target(most_ratio=1.2),
        "prepared-64 tps": Target(least_ratio=1.6, base="pgbouncer-prepared"),
        "settings-64 loss": Target(most=5),
        "settings-64 loss beside others": Target(most=5),
        "counting tps": Target(least_ratio=0.97, base="uncounted"),
        "counting CPU": Target(most_ratio=1.03, base="uncounted"),
        "listing fe list, slowest": Target(most=50),
        "listing loss": Target(most=3),
        "listing more CPU": Target(most=3),
        "sleep tps": Target(least_ratio=0.8),
        "tpcb-32 tps": Target(least_ratio=0.9),
        "shapes tps": Target(least_ratio=0.9),
        "shapes growth": flat,
        "literals tps": Target(least_ratio=0.9),
        "literals growth": flat,
        "select MB/s": Target(least_ratio=0.8),
        "copy-out MB/s": Target(least_ratio=0.8),
        "copy-in MB/s": Target(least_ratio=0.8),
        "idle-memory memory": Target(most=25),
    }


def test_loads_with_transactions_and_prepared_statements_are_measured_in_transaction_mode() -> None:
    assert {name for name, row in WORKLOADS.items() if row.pool_mode != "statement"} == {
        "tpcb-32", "read-mostly", "prepared-64",
    }  # fmt: skip


@pytest.mark.parametrize("lag", ["", " 120"])  # the schedule lag of a limited rate
def test_log_of_pgbench_is_read_as_begin_and_end(lag: str) -> None:
    (one,) = pgbench.parse_log(f"3 17 2500 0 1700000000 500000{lag}\n")
    assert one.ended == pytest.approx(1700000000.5, rel=0, abs=1e-6)
    assert one.ended - one.began == pytest.approx(0.0025, rel=0, abs=1e-6)


@pytest.mark.parametrize("word", ["failed", "skipped", "serialization"])
def test_transaction_that_pgbench_could_not_finish_fails_the_measurement(word: str) -> None:
    with pytest.raises(ServerFailed, match=word):
        pgbench.parse_log(f"3 17 {word} 0 1700000000 500000\n")


def every(step_s: float, took_s: float, first: float, last: float) -> list[Transaction]:
    """Transactions that begin at `first` and every step_s after it, until `last`."""
    count = round((last - first) / step_s) + 1
    return [Transaction(first + number * step_s, first + number * step_s + took_s) for number in range(count)]


def test_figures_are_of_the_time_in_which_both_loads_were_at_work() -> None:
    fast = [*every(0.01, 0.001, first=0.0, last=0.99), *every(0.01, 0.005, first=1.0, last=6.0)]
    slow = every(0.1, 0.05, first=1.0, last=5.0)
    figures = pgbench.beside(fast, slow, "tps of the slow")
    assert figures["tps"] == pytest.approx(100, rel=0.01)
    assert figures["tps of the slow"] == pytest.approx(10, rel=0.03)
    assert [figures[name] for name in ("p50", "p99", "p99.9")] == pytest.approx([5, 5, 5])


def test_transaction_that_was_stuck_until_after_the_end_counts_among_the_latencies() -> None:
    fast = [*every(0.01, 0.001, first=1.0, last=5.0), Transaction(4.0, 9.0)]
    figures = pgbench.beside(fast, every(0.1, 0.05, first=1.0, last=5.0), "tps of the slow")
    assert figures["p99.9"] == pytest.approx(5000)
    assert figures["tps"] == pytest.approx(100, rel=0.01)


@pytest.mark.parametrize(
    ("ours", "others"),
    [([], every(1, 0.1, 0, 5)), (every(1, 0.1, 0, 5), []), (every(1, 0.1, 0, 5), every(1, 0.1, 6, 9))],
)
def test_loads_that_were_not_at_work_together_have_no_figures(
    ours: list[Transaction], others: list[Transaction]
) -> None:
    with pytest.raises(ServerFailed):
        pgbench.beside(ours, others, "others")


@pytest.mark.parametrize(("percent", "expected"), [(50, 500), (99, 990), (99.9, 999), (100, 1000), (0, 1)])
def test_percentile_is_a_value_that_occurred(percent: float, expected: int) -> None:
    assert pgbench.percentile(range(1, 1001), percent) == expected


def test_percentile_of_one_value_is_that_value() -> None:
    assert pgbench.percentile([7.0], 99.9) == 7.0


def test_copy_messages_hold_whole_lines_and_all_the_bytes() -> None:
    messages = workloads.copy_messages()
    assert all(message[:1] == b"d" and message.endswith(b"\n") for message in messages)
    assert sum(len(message) - 5 for message in messages) == workloads.COPY_MB * 1_000_000
    assert all(int.from_bytes(message[1:5]) == len(message) - 1 for message in messages)


@pytest.mark.parametrize(
    ("configure_arguments", "cflags", "said"),
    [
        ("'--enable-optimizations' '--with-lto'", "-O3 -Wall", "built with profile-guided optimisation"),
        ("", "-O2 -fprofile-use -fprofile-correction", "built with profile-guided optimisation"),
        ("'--prefix=/opt/python' '--enable-shared'", "-O3 -Wall", "whose build settings name no profile-guided"),
    ],
)
def test_page_says_whether_python_was_built_with_optimisations(
    configure_arguments: str, cflags: str, said: str
) -> None:
    assert contenders.optimisation(configure_arguments, cflags).startswith(said)


def test_facts_tell_the_cores_and_the_python_and_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "server_version", lambda: "15.7")
    machine, versions, python, _ = run.facts(run.options([]), {contenders.CONTENDERS["pgstmtpool"]: "abc1234"})
    assert re.match(r"\d+ cores for ", machine)
    assert versions == "PostgreSQL 15.7; pgstmtpool abc1234"
    assert python.startswith(f"pgstmtpool was run by {platform.python_implementation()} {platform.python_version()}, ")
    assert "/" not in python


def test_unknown_names_on_the_command_line_are_told_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run.options(["--contenders", "direct,pgcat"])
    assert stopped.value.code == 2
    known = "direct, pgbouncer, pgpool, pgstmtpool, pgbouncer-prepared, uncounted"
    assert f"unknown: pgcat (there are {known})" in capsys.readouterr().err


def test_peer_that_is_not_installed_is_left_out_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    assert run.installed([contenders.CONTENDERS["pgbouncer"]]) == {}
    assert "PgBouncer is left out: pgbouncer is not installed: apt-get install pgbouncer" in capsys.readouterr().err


PAIR = Pair(Path("server.crt"), Path("server.key"))


def test_another_pooler_is_given_as_a_command_with_its_addresses_filled_in() -> None:
    row = contenders.another("other=run --to {server_host}:{server_port} --on {port} {user} {database}")
    setup = contenders.Setup(Endpoint("127.0.0.1", 5432), 7777, contenders.PROJECT, "statement", PAIR)
    assert row.command is not None
    assert row.command(setup) == ["run", "--to", "127.0.0.1:5432", "--on", "7777", "postgres", "bench"]


@pytest.mark.parametrize("text", ["other", "=x", "other=", f"other={contenders.PROJECT} riders=no!"])
def test_another_contender_that_cannot_be_understood_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"other|=x"):
        contenders.another(text)


def test_another_checkout_is_run_like_this_one_and_with_settings_of_its_own(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "pgstmtpool.py").touch()
    row = contenders.another(f"alone={checkout} riders=False rider_depth=8")
    setup = contenders.Setup(Endpoint("127.0.0.1", 5432), 7777, tmp_path, "statement", PAIR)
    assert row.command is not None
    _, program, conf = row.command(setup)
    assert (row.name, program) == ("alone", str(checkout / "pgstmtpool.py"))
    made: dict[str, dict[str, object]] = {}
    exec(Path(conf).read_text(), made)
    assert made["all"]["riders"] is False
    assert made["all"]["rider_depth"] == 8
    assert made["all"]["master"] == ("127.0.0.1", 5432)


def test_contenders_without_targets_are_measured_in_the_first_round_only_and_each_other_one_is_once_the_first() -> None:
    ready = run.options([]).contenders
    turns = [[one.name for one in run.in_turn(number, ready, False)] for number in range(3)]
    assert turns == [
        ["direct", "pgbouncer", "pgpool", "pgstmtpool"],
        ["pgstmtpool", "pgbouncer"],
        ["pgbouncer", "pgstmtpool"],
    ]
    assert [one.name for one in run.in_turn(1, ready, True)] == ["pgbouncer", "pgpool", "pgstmtpool", "direct"]


def test_page_says_who_was_measured_in_the_first_round_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "server_version", lambda: "15.7")
    versions = dict.fromkeys(contenders.CONTENDERS.values(), "1")
    assert "3 round(s) (direct and pgpool-II only in the first), 2.5 s" in run.facts(run.options([]), versions)[-1]
    assert "3 round(s), 2.5 s" in run.facts(run.options(["--every-round"]), versions)[-1]


def test_workload_for_a_few_contenders_has_them_all_and_no_others() -> None:
    """Whoever is to be compared with ourselves need not be asked for."""
    rows = contenders.CONTENDERS
    asked = [rows["pgbouncer"], rows["pgstmtpool"]]
    ready = [*asked, rows["uncounted"]]
    assert run.those_for(WORKLOADS["counting"], ready, asked) == [rows["pgstmtpool"], rows["uncounted"]]
    assert run.those_for(WORKLOADS["counting"], ready, asked[:1]) == []
    assert run.those_for(SIMPLE, ready, asked) == asked
    assert rows["uncounted"] not in run.options([]).contenders


def test_those_that_are_to_be_compared_with_are_needed_where_their_workload_is_asked_for() -> None:
    chosen = run.options(["--contenders", "pgstmtpool", "--workloads", "simple-8,prepared-64"])
    assert [one.name for one in run.needed(chosen)] == ["pgstmtpool", "pgbouncer-prepared"]
    chosen = run.options(["--contenders", "pgbouncer", "--workloads", "simple-8,prepared-64"])
    assert [one.name for one in run.needed(chosen)] == ["pgbouncer"]


@pytest.mark.parametrize(
    ("version", "does"), [("1.20.1", False), ("1.21.0", True), ("1.24.1", True), ("2.0", True), ("unknown", False)]
)
def test_prepared_statements_are_measured_against_a_pgbouncer_that_follows_them(version: str, does: bool) -> None:
    assert contenders.follows_prepared(version) is does


def test_pgbouncer_of_another_system_is_run_with_its_own_libraries(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PGBOUNCER_ROOT", str(tmp_path))
    for name in ("lib64/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu/libc.so.6", "usr/sbin/pgbouncer"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(contenders, "first_line", lambda command: f"PgBouncer 1.24.1 {command[-1]}")
    setup = contenders.Setup(Endpoint("127.0.0.1", 5432), 7777, tmp_path, "transaction", PAIR)
    row = contenders.CONTENDERS["pgbouncer-prepared"]
    assert row.command is not None
    loader, _, libraries, program, conf = row.command(setup)
    assert (loader, libraries, program) == (
        str(tmp_path / "lib64/ld-linux-x86-64.so.2"), str(tmp_path / "usr/lib/x86_64-linux-gnu"),
        str(tmp_path / "usr/sbin/pgbouncer"),
    )  # fmt: skip
    assert "max_prepared_statements = 200\n" in Path(conf).read_text()


def test_where_no_pgbouncer_follows_prepared_statements_it_is_said_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PGBOUNCER_ROOT", str(tmp_path))
    assert run.installed([contenders.CONTENDERS["pgbouncer-prepared"]]) == {}
    assert "debootstrap --include=pgbouncer trixie DIRECTORY, and PGBOUNCER_ROOT=" in capsys.readouterr().err


def test_what_counting_costs_is_a_ratio_to_the_pooler_that_counts_nothing() -> None:
    counting = WORKLOADS["counting"]
    measured = rounds(counting, "tps", uncounted=[100, 100], pgstmtpool=[98, 98])
    tables = report.body(Results(measured), [counting], {**TITLES, "uncounted": "uncounted"})
    assert f"| {counting.title} | tps | ≥ 0.97 × uncounted | 0.98 × (0.98-0.98) | met |" in tables
    assert f"| {counting.title} | tps | 98.0 (0.98 ×) | 100 |" in tables[tables.index("Compared with others") :]


@pytest.mark.parametrize("name", sorted(uncounted.MODULES))
def test_what_counts_is_found_in_each_module_that_counts(name: str) -> None:
    path = contenders.PROJECT / f"{name.replace('.', '/')}.py"
    assert uncounted.uncounted(name, path.read_text(), str(path)).co_filename == str(path)


def test_statements_that_count_are_left_out_and_nothing_else() -> None:
    source = """\
def answered(self):
    self.processed += 1
    self.sent += 1
    if self.is_counted:
        self._count_held()
    if self.is_done:
        self.known.sample(1.0)
    else:
        self.go_on()
    tally.errors[code] += 1
    return self.processed
"""
    uncounting = uncounted.Uncounting()
    left = ast.unparse(uncounting.visit(ast.parse(source)))
    assert uncounting.found == 4
    assert left == """\
def answered(self):
    self.processed += 1
    if self.is_done:
        pass
    else:
        self.go_on()
    return self.processed"""


def test_module_that_counts_under_other_names_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing in a counts"):
        uncounted.uncounted("a", "b = 1\n", "a.py")
