"""What a pooler costs, read from /proc: the CPU time and the memory of a process and all its children.

Linux only. source: proc(5): stat, smaps_rollup; Documentation/scheduler/sched-stats of the kernel: schedstat
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[psutil.Process]:
    """The process and its descendants; empty when it is gone."""
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_s(pid: int) -> float:
    """User and system time of the family so far, in seconds; of children that were waited for, too."""
    return sum(own_cpu_s(Path(f"/proc/{member.pid}")) for member in family(pid))


def own_cpu_s(proc: Path) -> float:
    """The same of one process alone.

    stat counts whole ticks of 10 ms and misses most of what 300 processes did that ran for 5 ms each; schedstat counts
    nanoseconds and misses threads that have ended. The greater one is nearer to the truth.
    """
    try:
        fields = (proc / "stat").read_text().rpartition(")")[2].split()  # the name may hold spaces and brackets
        threads = [(task / "schedstat").read_text().split()[0] for task in (proc / "task").iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    own_ticks, children_ticks = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    return max(own_ticks * TICK_S, sum(map(int, threads)) / 1e9) + children_ticks * TICK_S


def memory_kb(pid: int) -> float:
    """Resident memory of the family in KB.

    A page shared by n processes counts 1/n in each (Pss), so that forks are not counted twice. Of a pooler that is one
    process, the difference of two readings is that of its RSS.
    """
    total = 0
    for member in family(pid):
        try:
            total += member.memory_full_info().pss
        except psutil.NoSuchProcess:
            pass
    return total / 1024


def own_memory_kb(pid: int) -> float:
    """Resident memory of the family in KB without what is mapped from files or shared memory.

    Pages that forks share count in each. For readings in the middle of a measurement: far cheaper than memory_kb, which
    makes the kernel walk over all the pages.
    """
    total = 0
    for member in family(pid):
        try:
            memory = member.memory_info()
        except psutil.NoSuchProcess:
            continue
        total += memory.rss - memory.shared
    return total / 1024


def settled_memory_kb(pid: int, timeout_s: float = 10.0) -> float:
    """memory_kb once two readings in a row agree within 0.5 %."""
    deadline = time.monotonic() + timeout_s
    last = memory_kb(pid)
    while True:
        time.sleep(0.3)
        reading = memory_kb(pid)
        if abs(reading - last) <= 0.005 * last or time.monotonic() > deadline:
            return reading
        last = reading
