"""How long the gevent loop stood still because of what ran in it.

A green thread sleeps 2 ms at a time; what it oversleeps is a gap. A gap counts by what the loop's own thread did in it:
the CPU it used was surely its own doing, the time it was ready to run and got no CPU (where the kernel tells) and the
time in which a plain thread that sleeps just so overslept as well were the machine's. What remains was a blocking call.
"""

from __future__ import annotations

import threading
import time
from typing import Self

import gevent

SHORT_S = 0.04  # a shorter gap is the machine's when a plain thread stood still for most of it, too
SURE_S = 0.1  # a longer gap needs no CPU time to be ours; a shorter one may be a page that came from a busy disk
TICK_S = 0.002
SUSPECT_S = 0.008  # smaller gaps are not looked into


def _run_delay_s() -> float:
    """How long the calling thread has waited for a CPU in all; 0 where the kernel does not say."""
    try:
        with open("/proc/thread-self/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


class LoopAlarm:
    """A context manager around what is measured; afterwards `worst_ms` is the longest gap that was the loop's own."""

    def __init__(self) -> None:
        self.worst_ms = 0.0
        self._worst = ""
        self._gaps: list[tuple[float, float, float, float]] = []
        self._machine: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch_machine, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ticker = gevent.spawn(self._watch_loop)
        return self

    def __exit__(self, *_: object) -> None:
        self._ticker.kill()
        self._over.set()
        self._thread.join()
        for gap in self._gaps:
            self._judge(*gap)

    def explain(self) -> str:
        return self._worst

    def _watch_machine(self) -> None:
        last = time.monotonic()
        over = False
        while not over:
            over = self._over.wait(TICK_S)
            now = time.monotonic()
            if now - last > TICK_S * 2:
                self._machine.append((last + TICK_S, now))
            last = now

    def _watch_loop(self) -> None:
        # A read of schedstat per tick costs 10 µs; so the numbers of before a gap are there when it is over.
        last, cpu, delay = time.monotonic(), time.thread_time(), _run_delay_s()
        while True:
            gevent.sleep(TICK_S)
            now, cpu_now, delay_now = time.monotonic(), time.thread_time(), _run_delay_s()
            gap = now - last - TICK_S
            if gap > SUSPECT_S:
                # Judged at the end only: the plain thread may not have run yet, to say that it overslept, too.
                self._gaps.append((last + TICK_S, now, cpu_now - cpu, delay_now - delay))
            last, cpu, delay = now, cpu_now, delay_now

    def _judge(self, start: float, end: float, cpu_s: float, delay_s: float) -> None:
        stalled_s = sum(max(0.0, min(end, until) - max(start, since)) for since, until in self._machine)
        # A short gap without CPU time is a machine that was not run; what blocks without computing lasts longer.
        unexplained_s = end - start - max(stalled_s, delay_s) if end - start > SURE_S else 0.0
        blamed_s = max(cpu_s, unexplained_s)
        if end - start < SHORT_S and stalled_s > (end - start) / 2:
            return  # the plain thread stood still for most of it, too, and CPU time runs on while the machine does
        if blamed_s * 1000 > self.worst_ms:
            self.worst_ms = blamed_s * 1000
            self._worst = (
                f"{(end - start) * 1000:.1f} ms in all, CPU {cpu_s * 1000:.1f} ms, "
                f"waited for a CPU {delay_s * 1000:.1f} ms, the machine stalled {stalled_s * 1000:.1f} ms"
            )
