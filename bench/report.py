"""From measurements to ratios, verdicts and the page. Pure: no I/O, no clock.

The machine is noisy, so a ratio is taken within a round, where the contenders ran one after the other, and the median
of the rounds' ratios is what counts. A workload that failed in any round has not met its target, however fast the
others were.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import floor, log10
from statistics import median

from bench.workloads import Sample, Workload

BASE = "pgbouncer"
SUBJECT = "pgstmtpool"

INTRODUCTION = """\
Direct, PgBouncer, pgpool-II and pgstmtpool in one run on the same PostgreSQL; `make bench` makes this page. Every
figure is the median of the rounds. A ratio is taken to PgBouncer **in the same round**, where the contenders ran one
after the other (in another order each round), and then the median of the rounds' ratios is given.

- Everything is on one machine and loopback, with trust authentication on both legs. Durability of the server is off, so
  that TPC-B measures the poolers and not the disk.
- PgBouncer is in statement mode, for TPC-B in transaction mode, with its `default_pool_size` of 20; pgpool-II is in raw
  mode with a child for each client. Logging of connections is off. Everything else is each one's default.
- pgbench runs in one thread. Large SELECT and COPY are read and written by a bare socket that does not look at rows,
  since psql spends more on a row than the poolers do. MB are millions of bytes.
- CPU is the user and system time of the pooler's processes, divided by pgbench's transactions: one query each, and
  seven in TPC-B.
- Memory per idle client is the growth of the pooler's resident memory over idle clients that have each run one query:
  2,000 of them, or 200 where each has a process of its own (direct, pgpool-II; pgpool-II's children are there before
  the clients come, so their own memory is not in its figure).
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

    def samples(self, workload: str, contender: str) -> dict[int, Sample]:
        """The samples by round."""
        return {
            one.round: one.sample
            for one in self.measurements
            if (one.workload, one.contender) == (workload, contender) and one.sample
        }

    def failures(self, workload: str, contender: str) -> list[str]:
        wanted = (workload, contender)
        return [one.failure for one in self.measurements if (one.workload, one.contender) == wanted and not one.sample]

    def value(self, workload: str, contender: str) -> float | None:
        values = [sample.value for sample in self.samples(workload, contender).values()]
        return median(values) if values else None

    def cpu_us(self, workload: str, contender: str) -> float | None:
        """Median CPU time of the pooler per query, in µs."""
        values = [one.cpu_us for one in self.samples(workload, contender).values() if one.cpu_us is not None]
        return median(values) if values else None

    def ratios(self, workload: str, contender: str, base: str = BASE) -> list[float]:
        """The contender's value ÷ the base's, for each round that has both, in the order of the rounds."""
        own, others = self.samples(workload, contender), self.samples(workload, base)
        both = [number for number in sorted(own) if number in others and others[number].value > 0]
        return [own[number].value / others[number].value for number in both]

    def ratio(self, workload: str, contender: str, base: str = BASE) -> float | None:
        ratios = self.ratios(workload, contender, base)
        return median(ratios) if ratios else None


def verdict(results: Results, workload: Workload) -> str:
    """met, not met, or not measured: what the project's target for this workload has come to."""
    target = workload.target
    assert target is not None
    if results.failures(workload.name, SUBJECT):
        return "**not met** (failed)"
    if target.least_ratio is not None:
        ratio = results.ratio(workload.name, SUBJECT)
        is_met = None if ratio is None else ratio >= target.least_ratio
    else:
        value = results.value(workload.name, SUBJECT)
        is_met = None if value is None or target.most is None else value <= target.most
    if is_met is None:
        return "not measured"
    return "met" if is_met else "**not met**"


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
    """A Markdown table: words to the left in the first column, figures to the right in the others; "" without rows."""
    if not rows:
        return ""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def targets(results: Results, workloads: Sequence[Workload]) -> str:
    """The table of the project's targets and whether they are met."""
    rows = []
    for workload in workloads:
        if workload.target is None:
            continue
        if workload.target.least_ratio is not None:
            wanted = f"≥ {workload.target.least_ratio:.2f} × PgBouncer"
            reached = spread(results.ratios(workload.name, SUBJECT))
        else:
            wanted = f"≤ {workload.target.most:g} {workload.unit}"
            reached = f"{number(results.value(workload.name, SUBJECT))} {workload.unit}"
        rows.append([workload.title, wanted, reached, verdict(results, workload)])
    return table(["workload", "target", "pgstmtpool (least-most of the rounds)", ""], rows)


def figures(results: Results, workloads: Sequence[Workload], titles: Mapping[str, str]) -> str:
    """The table of absolute figures, with the ratio to PgBouncer beside each."""

    def cell(workload: Workload, contender: str) -> str:
        value = results.value(workload.name, contender)
        if value is None:
            return "failed" if results.failures(workload.name, contender) else "–"
        ratio = results.ratio(workload.name, contender)
        return number(value) if contender == BASE or ratio is None else f"{number(value)} ({times(ratio)})"

    rows = [[one.title, one.unit, *(cell(one, contender) for contender in titles)] for one in workloads]
    return table(["workload", "unit", *titles.values()], rows)


def cpu(results: Results, workloads: Sequence[Workload], titles: Mapping[str, str]) -> str:
    """The table of CPU time per query of those that are poolers."""
    us = {(one.title, name): results.cpu_us(one.name, name) for one in workloads for name in titles}
    poolers = [name for name in titles if any(us[one.title, name] for one in workloads)]
    counted = [one.title for one in workloads if any(us[one.title, name] for name in poolers)]
    rows = [[title, *(number(us[title, name]) for name in poolers)] for title in counted]
    return table(["CPU of the pooler, µs per transaction", *(titles[name] for name in poolers)], rows)


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
    sections = {
        "Targets": targets(results, workloads) if SUBJECT in titles else "",
        "Figures": figures(results, workloads, titles),
        "CPU": cpu(results, workloads, titles),
        "Failed": failures(results, workloads, titles),
    }
    return "\n".join(f"## {title}\n\n{text}" for title, text in sections.items() if text)


def page(tables: str, facts: Sequence[str], image: str) -> str:
    """docs/benchmarks.md. facts: lines on the machine, the versions and the run; image: the plot, relative to docs/."""
    lines = "".join(f"- {fact}\n" for fact in facts)
    return f"# Benchmarks\n\n{INTRODUCTION}\nThis run:\n\n{lines}\n![tps and ratios]({image})\n\n{tables}"
