"""The benchmark's maths and page, from measurements that are made up."""

from __future__ import annotations

import platform
import re
from functools import partial

import pytest

from bench import contenders, report, run, workloads
from bench.report import Measurement, Results
from bench.workloads import WORKLOADS, Sample, Workload

TITLES = {"pgbouncer": "PgBouncer", "pgstmtpool": "pgstmtpool"}
SIMPLE = WORKLOADS["simple-8"]
MEMORY = WORKLOADS["idle-memory"]


def rounds(workload: Workload, **values: list[float | None]) -> list[Measurement]:
    """Measurements of each contender's values, one per round; None is a round in which it failed."""
    return [
        Measurement(number, workload.name, contender, None if value is None else Sample(value), "it broke")
        for contender, each in values.items()
        for number, value in enumerate(each)
    ]


simple = partial(rounds, SIMPLE)


def test_ratio_is_the_median_of_ratios_within_rounds_and_not_the_ratio_of_medians() -> None:
    results = Results(simple(pgbouncer=[100, 200, 400], pgstmtpool=[90, 100, 390]))
    assert results.ratios("simple-8", "pgstmtpool") == pytest.approx([0.9, 0.5, 0.975])
    assert results.ratio("simple-8", "pgstmtpool") == pytest.approx(0.9)


def test_round_in_which_one_of_the_two_failed_has_no_ratio() -> None:
    results = Results(simple(pgbouncer=[100, None, 100], pgstmtpool=[50, 90, None]))
    assert results.ratios("simple-8", "pgstmtpool") == [0.5]


def test_median_of_cpu_leaves_out_samples_without_queries() -> None:
    samples = [Sample(1, 10.0), Sample(1, None), Sample(1, 30.0)]
    results = Results(Measurement(number, "simple-8", "pgbouncer", one) for number, one in enumerate(samples))
    assert results.cpu_us("simple-8", "pgbouncer") == 20.0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"pgbouncer": [100, 100, 100], "pgstmtpool": [75, 75, 10]}, "met"),
        ({"pgbouncer": [100, 100, 100], "pgstmtpool": [74, 74, 200]}, "**not met**"),
        ({"pgbouncer": [100, 100, 100], "pgstmtpool": [200, 200, None]}, "**not met** (failed)"),
        ({"pgbouncer": [100]}, "not measured"),
        ({"pgstmtpool": [100]}, "not measured"),
    ],
)
def test_verdict_on_a_ratio(values: dict[str, list[float | None]], expected: str) -> None:
    assert report.verdict(Results(simple(**values)), SIMPLE) == expected


@pytest.mark.parametrize(("kb", "expected"), [(25.0, "met"), (25.1, "**not met**")])
def test_verdict_on_a_value_that_must_not_be_passed(kb: float, expected: str) -> None:
    assert report.verdict(Results(rounds(MEMORY, pgstmtpool=[kb])), MEMORY) == expected


@pytest.mark.parametrize(
    ("value", "shown"),
    [(21_934.2, "21,900"), (999.6, "1,000"), (480.4, "480"), (12.34, "12.3"), (0.8449, "0.845"), (0, "0"), (None, "–")],
)
def test_figures_are_shown_to_three_places(value: float | None, shown: str) -> None:
    assert report.number(value) == shown


def test_tables_show_figure_ratio_spread_and_verdict() -> None:
    measured = simple(pgbouncer=[20_000, 22_000, 21_000], pgstmtpool=[18_000, 22_000, 10_500])
    tables = report.body(Results(measured), [SIMPLE], TITLES)
    assert "| pgbench -S -M simple, 8 clients | ≥ 0.75 × PgBouncer | 0.90 × (0.50-1.00) | met |" in tables
    assert "| pgbench -S -M simple, 8 clients | tps | 21,000 | 18,000 (0.90 ×) |" in tables
    assert "Failed" not in tables


def test_failure_is_shown_with_its_reason() -> None:
    tables = report.body(Results(simple(pgbouncer=[20_000], pgstmtpool=[None])), [SIMPLE], TITLES)
    assert "| tps | 20,000 | failed |" in tables
    assert "- pgstmtpool, pgbench -S -M simple, 8 clients: failed in 1 round(s), the last with: `it broke`" in tables


def test_run_without_the_pooler_has_no_targets() -> None:
    tables = report.body(Results(simple(pgbouncer=[20_000])), [SIMPLE], {"pgbouncer": "PgBouncer"})
    assert "Targets" not in tables


def test_page_begins_with_how_it_was_measured_and_shows_the_plot() -> None:
    page = report.page("the tables", ["2 cores"], "benchmarks.svg")
    assert page.index("- 2 cores\n") < page.index("![tps and ratios](benchmarks.svg)") < page.index("the tables")


def test_every_target_of_the_project_is_a_row_of_the_table() -> None:
    targets = {row.name: row.target for row in WORKLOADS.values() if row.target}
    least = {name: target.least_ratio for name, target in targets.items()}
    assert [least[f"simple-{clients}"] for clients in (1, 8, 64, 256)] == [0.75] * 4
    assert least["tpcb-32"] == 0.85
    assert [least[name] for name in ("select", "copy-out", "copy-in")] == [0.8] * 3
    assert targets["idle-memory"].most == 25


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
    assert "unknown: pgcat (there are direct, pgbouncer, pgpool, pgstmtpool)" in capsys.readouterr().err


def test_peer_that_is_not_installed_is_left_out_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    assert run.installed([contenders.CONTENDERS["pgbouncer"]]) == {}
    assert "PgBouncer is left out: pgbouncer is not installed: apt-get install pgbouncer" in capsys.readouterr().err


def test_another_pooler_is_given_as_a_command_with_its_addresses_filled_in() -> None:
    row = contenders.another("other=run --to {server_host}:{server_port} --on {port} {user} {database}")
    setup = contenders.Setup(workloads.Endpoint("127.0.0.1", 5432), 7777, contenders.PROJECT, "statement")
    assert row.command is not None
    assert row.command(setup) == ["run", "--to", "127.0.0.1:5432", "--on", "7777", "postgres", "bench"]
