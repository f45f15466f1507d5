"""The picture of a run: tps by clients, and the ratios to PgBouncer of everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.report import BASE, Results
from bench.workloads import CLIENTS, Workload

COLOURS = {"direct": "#8c8c8c", "pgbouncer": "#2f6fab", "pgpool": "#d08a2e", "pgstmtpool": "#b3263c"}


def draw(results: Results, workloads: Sequence[Workload], titles: Mapping[str, str], path: Path) -> None:
    """Write the plot as SVG. matplotlib is imported here: only a run that writes needs it."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rc("font", size=9)
    matplotlib.rc("axes.spines", top=False, right=False)
    matplotlib.rc("svg", fonttype="none", hashsalt="bench")  # text stays text; the same figures give the same file
    import matplotlib.pyplot as plt

    figure, (simple, extended, others) = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    for axes, mode in ((simple, "simple"), (extended, "extended")):
        for name, title in titles.items():
            values = [results.value(f"{mode}-{clients}", name) for clients in CLIENTS]
            points = [float("nan") if value is None else value / 1000 for value in values]
            axes.plot(range(len(CLIENTS)), points, marker="o", color=COLOURS.get(name), label=title)
        axes.set_xticks(range(len(CLIENTS)), [str(clients) for clients in CLIENTS])
        axes.set(title=f"pgbench -S -M {mode}", xlabel="clients", ylabel="thousand tps", ylim=(0, None))
    simple.legend(frameon=False)

    streams = [one for one in workloads if one.unit != "tps" or one.name.startswith("tpcb")]
    shown = [name for name in titles if name != BASE]
    height = 0.8 / max(len(shown), 1)
    for index, name in enumerate(shown):
        ratios = [results.ratio(one.name, name) or 0 for one in streams if not one.less_is_better]
        others.barh([row + index * height for row in range(len(ratios))], ratios, height, color=COLOURS.get(name))
    names = [one.name for one in streams if not one.less_is_better]
    others.set_yticks([row + 0.4 - height / 2 for row in range(len(names))], names)
    others.invert_yaxis()
    others.axvline(1, color=COLOURS[BASE], linewidth=1)
    others.set(title="ratio to PgBouncer (more is better)")
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)
