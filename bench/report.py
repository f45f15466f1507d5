"""From measurements to ratios, verdicts and the page. Pure: no I/O, no clock.

The machine is noisy, so a ratio is taken within a round, where the contenders ran one after the other, and the median
of the rounds' ratios is what counts. A workload that failed in any round has met none of its targets, however fast
the others were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import floor, log10
from statistics import median

from bench.pgbench import CPU, Sample
from bench.workloads import BASE, SUBJECT, Figure, Target, Workload

INTRODUCTION = """\
Direct, PgBouncer, pgpool-II and pgstmtpool in one run on the same PostgreSQL; `make bench` makes this page. Every
figure is the median of the rounds. A ratio is taken to PgBouncer **in the same round**, where the contenders ran one
after the other (in another order each round), and then the median of the rounds' ratios is given. With tps and MB/s
more is better, with latencies, CPU and memory less.

- Everything is on one machine and loopback, with trust authentication on both legs. Durability of the server is off, so
  that TPC-B measures the poolers and not the disk.
- PgBouncer is in statement mode, for the loads with TPC-B in transaction mode, with its `default_pool_size` of 20;
  pgpool-II is in raw mode with a child for each client. Logging of connections is off. Everything else is each one's
  default.
- pgbench runs in one thread. Where one load runs beside another, there are two pgbench processes that log every
  transaction; tps and latencies are taken from these logs, over the time in which both were at work. p50, p99 and p99.9
  are the latencies that so many per cent of the transactions did not pass.
- Large SELECT and COPY are read and written by a bare socket that does not look at rows, since psql spends more on a
  row than the poolers do. MB are millions of bytes.
- CPU is the user and system time of the pooler's processes, divided by pgbench's transactions: one query each, and
  seven in TPC-B.
- Memory per idle client is measured with 2,000 of them, or with 200 where each has a process of its own (direct,
  pgpool-II; pgpool-II's children are there before the clients come, so their own memory is not in its figure).
"""


@dataclass(frozen=True)
class Measurement:
    """What one contender did in one workload of one round: a sample, or the reason why there is none."""

    round: int
    workload: str
    contender: str
    sample: Sample | None
    failure: str = ""


class Results:
    """All measurements of a run, and the questions that the report asks of them."""

    def __init__(self, measurements: Iterable[Measurement]) -> None:
        self.measurements = list(measurements)

    def values(self, workload: str, figure: str, contender: str) -> dict[int, float]:
        """What was measured of a figure, by round."""
        return {
            one.round: one.sample[figure]
            for one in self.measurements
            if (one.workload, one.contender) == (workload, contender) and one.sample and figure in one.sample
        }

    def failures(self, workload: str, contender: str) -> list[str]:
        wanted = (workload, contender)
        own = (one for one in self.measurements if (one.workload, one.contender) == wanted)
        return [one.failure for one in own if one.sample is None]

    def value(self, workload: str, figure: str, contender: str) -> float | None:
        values = self.values(workload, figure, contender)
        return median(values.values()) if values else None

    def ratios(self, workload: str, figure: str, contender: str, base: str = BASE) -> list[float]:
        """The contender's value ÷ the base's, for each round that has both, in the order of the rounds."""
        own, others = self.values(workload, figure, contender), self.values(workload, figure, base)
        both = [number for number in sorted(own) if others.get(number, 0) > 0]
        return [own[number] / others[number] for number in both]

    def ratio(self, workload: str, figure: str, contender: str, base: str = BASE) -> float | None:
        ratios = self.ratios(workload, figure, contender, base)
        return median(ratios) if ratios else None


def verdict(results: Results, workload: Workload, figure: Figure) -> str:
    """met, not met, or not measured: what the project's target for this figure has come to."""
    assert figure.target is not None
    if results.failures(workload.name, SUBJECT):
        return "**not met** (failed)"
    is_met = meets(
        figure.target,
        results.value(workload.name, figure.name, SUBJECT),
        results.ratio(workload.name, figure.name, SUBJECT, figure.target.base),
    )
    if is_met is None:
        return "not measured"
    return "met" if is_met else "**not met**"


def meets(target: Target, value: float | None, ratio: float | None) -> bool | None:
    """Whether the target is met; None when what it is about was not measured."""
    if target.most is not None:
        return None if value is None else value <= target.most
    if ratio is None:
        return None
    return (target.least_ratio is None or ratio >= target.least_ratio) and (
        target.most_ratio is None or ratio <= target.most_ratio
    )


def wanted(figure: Figure, titles: Mapping[str, str]) -> str:
    """The figure's target in words."""
    target = figure.target
    assert target is not None
    if target.least_ratio is not None:
        return f"≥ {target.least_ratio:.2f} × {titles.get(target.base, target.base)}"
    if target.most_ratio is not None:
        return f"≤ {target.most_ratio:.2f} × {titles.get(target.base, target.base)}"
    return f"≤ {target.most:,g} {figure.unit}"


def number(value: float | None) -> str:
    """Three figures, as more would only be noise: 21,900 · 480 · 12.3 · 0.84; a dash for what was not measured."""
    if value is None:
        return "–"
    behind_point = 2 - floor(log10(abs(value))) if value else 0
    return f"{round(value, behind_point):,.{max(behind_point, 0)}f}"


def times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f} ×"


def spread(ratios: Sequence[float]) -> str:
    """The median of the ratios and how far the rounds were apart."""
    if not ratios:
        return "–"
    return times(median(ratios)) + (f" ({min(ratios):.2f}-{max(ratios):.2f})" if len(ratios) > 1 else "")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: words to the left in the first two columns, figures to the right in the others; or ""."""
    if not rows:
        return ""
    lines = [head, ["---", "---", *["--:"] * (len(head) - 2)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def targets(results: Results, workloads: Sequence[Workload], titles: Mapping[str, str]) -> str:
    """The table of the project's targets and whether they are met."""
    rows = []
    for workload in workloads:
        for figure in workload.figures:
            if figure.target is None:
                continue
            if figure.target.most is not None:
                reached = f"{number(results.value(workload.name, figure.name, SUBJECT))} {figure.unit}"
            else:
                reached = spread(results.ratios(workload.name, figure.name, SUBJECT, figure.target.base))
            outcome = verdict(results, workload, figure)
            rows.append([workload.title, figure.name, wanted(figure, titles), reached, outcome])
    return table(["workload", "figure", "target", "pgstmtpool (least-most of the rounds)", ""], rows)


def figures(
    results: Results, workloads: Sequence[Workload], titles: Mapping[str, str], chosen: Callable[[Figure], bool]
) -> str:
    """The table of the chosen figures, with the ratio to PgBouncer beside each; contenders that have none are left out.

    titles   the contenders' titles by their names
    """
    those = [(workload, figure) for workload in workloads for figure in workload.figures if chosen(figure)]
    shown = {
        name: title
        for name, title in titles.items()
        if any(
            results.values(workload.name, figure.name, name) or results.failures(workload.name, name)
            for workload, figure in those
        )
    }

    def cell(workload: Workload, figure: Figure, contender: str) -> str:
        value = results.value(workload.name, figure.name, contender)
        if value is None:
            return "failed" if results.failures(workload.name, contender) else "–"
        base = workload.base
        ratio = results.ratio(workload.name, figure.name, contender, base) if figure.has_ratio else None
        return number(value) if contender == base or ratio is None else f"{number(value)} ({times(ratio)})"

    rows = [
        [workload.title, figure.title, *(cell(workload, figure, contender) for contender in shown)]
        for workload, figure in those
    ]
    return table(["workload", "figure", *shown.values()], rows)


def is_cpu(figure: Figure) -> bool:
    return figure.name == CPU


def is_no_cpu(figure: Figure) -> bool:
    return figure.name != CPU


def descriptions(workloads: Sequence[Workload]) -> str:
    """What each workload is."""
    return "".join(f"- **{one.title}**: {one.what}\n" for one in workloads)


def failures(results: Results, workloads: Sequence[Workload], titles: Mapping[str, str]) -> str:
    """A list of what could not be measured and why; empty when nothing failed."""
    lines = []
    for workload in workloads:
        for contender, title in titles.items():
            reasons = results.failures(workload.name, contender)
            if reasons:
                last = reasons[-1][:300].replace("`", "'")
                lines.append(
                    f"- {title}, {workload.title}: failed in {len(reasons)} round(s), the last with: `{last}`\n"
                )
    return "".join(lines)


def body(results: Results, workloads: Sequence[Workload], titles: Mapping[str, str]) -> str:
    """The tables, as they are printed and as they stand in the page."""
    compared = [one for one in workloads if not one.among]
    own = [one for one in workloads if one.among]
    sections = {
        "Targets": targets(results, workloads, titles) if SUBJECT in titles else "",
        "Figures": figures(results, compared, titles, is_no_cpu),
        "CPU of the pooler per transaction": figures(results, compared, titles, is_cpu),
        "Compared with others": figures(results, own, titles, lambda figure: True),
        "Failed": failures(results, workloads, titles),
    }
    return "\n".join(f"## {title}\n\n{text}" for title, text in sections.items() if text)


def page(workloads: Sequence[Workload], tables: str, facts: Sequence[str], image: str) -> str:
    """docs/benchmarks.md. facts: lines on the machine, the versions and the run; image: the plot, relative to docs/."""
    lines = "".join(f"- {fact}\n" for fact in facts)
    return (
        f"# Benchmarks\n\n{INTRODUCTION}\nThis run:\n\n{lines}\n![tps and ratios]({image})\n\n"
        f"## Workloads\n\n{descriptions(workloads)}\n{tables}"
    )
