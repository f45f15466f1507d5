"""The picture of a run: tps by clients, and the ratios to PgBouncer of everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.report import Results, is_cpu
from bench.workloads import BASE, CLIENTS, Figure, Workload

COLOURS = {"direct": "#8c8c8c", "pgbouncer": "#2f6fab", "pgpool": "#d08a2e", "pgstmtpool": "#b3263c"}
WIDEST = 3.0  # of a bar; a ratio of 600 would leave no room for the others

Bar = tuple[Workload, Figure]


def draw(results: Results, workloads: Sequence[Workload], titles: Mapping[str, str], path: Path) -> None:
    """Write the plot as SVG. matplotlib is imported here: only a run that writes needs it."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rc("font", size=9)
    matplotlib.rc("axes.spines", top=False, right=False)
    matplotlib.rc("svg", fonttype="none", hashsalt="bench")  # text stays text; the same figures give the same file
    import matplotlib.pyplot as plt

    figure, ((simple, extended), (more, less)) = plt.subplots(
        2, 2, figsize=(12, 8.5), layout="constrained", height_ratios=(3, 5)
    )
    for axes, mode in ((simple, "simple"), (extended, "extended")):
        for name, title in titles.items():
            values = [results.value(f"{mode}-{clients}", "tps", name) for clients in CLIENTS]
            points = [float("nan") if value is None else value / 1000 for value in values]
            axes.plot(range(len(CLIENTS)), points, marker="o", color=COLOURS.get(name), label=title)
        axes.set_xticks(range(len(CLIENTS)), [str(clients) for clients in CLIENTS])
        axes.set(title=f"pgbench -S -M {mode}", xlabel="clients", ylabel="thousand tps", ylim=(0, None))
    simple.legend(frameon=False)

    shown = [name for name in titles if name != BASE]
    height = 0.8 / max(len(shown), 1)
    for axes, rows in ((more, more_is_better(workloads)), (less, less_is_better(workloads))):
        better = "more is better" if axes is more else "less is better"
        for index, name in enumerate(shown):
            ratios = [results.ratio(workload.name, one.name, name) or 0 for workload, one in rows]
            places = [row + index * height for row in range(len(rows))]
            axes.barh(places, [min(ratio, WIDEST) for ratio in ratios], height, color=COLOURS.get(name))
        names = [f"{workload.name}, {one.name}" for workload, one in rows]
        axes.set_yticks([row + 0.4 - height / 2 for row in range(len(names))], names)
        axes.invert_yaxis()
        axes.axvline(1, color=COLOURS[BASE], linewidth=1)
        axes.set(title=f"ratio to PgBouncer, {better}, cut at {WIDEST:g}", xlim=(0, WIDEST))
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)


def more_is_better(workloads: Sequence[Workload]) -> list[Bar]:
    """The first figure of each workload that is not in the curves."""
    curves = {f"{mode}-{clients}" for mode in ("simple", "extended") for clients in CLIENTS}
    firsts = [(one, one.figures[0]) for one in workloads if one.name not in curves and not one.among]
    return [(workload, first) for workload, first in firsts if not first.less_is_better]


def less_is_better(workloads: Sequence[Workload]) -> list[Bar]:
    """The latencies and memory, and the CPU where it has a target."""
    every = [(workload, one) for workload in workloads for one in workload.figures]
    wanted = [(workload, one) for workload, one in every if one.less_is_better and one.has_ratio]
    return [(workload, one) for workload, one in wanted if one.target or not is_cpu(one)]
