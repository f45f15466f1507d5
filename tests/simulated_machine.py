"""The machine that the simulator's pool and server run on: a clock, cores with a run queue, and the pool's loop.

Pure: no I/O, no real clock.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count

from greenlet import getcurrent, greenlet

SLICE_S = 0.003
GRANULARITY_S = 0.001  # how much longer one must have run before another that wakes up takes its place
SWITCH_S = 3e-6  # from one process to another on a core
TURN_S = 6e-6  # a turn of the pool's loop, epoll_wait included


class Simulation:
    """What happens when: a heap of (moment, number, what)."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), what))

    def run(self, until: float) -> None:
        events = self._events
        while events and events[0][0] <= until:
            self.now, _, what = heapq.heappop(events)
            what()


# --- the machine -----------------------------------------------------------------------------------------------------


class Task:
    """A process: `left` is what it still needs of a core before `then` is called.

    ran_s   what it has run so far, as the run queue counts it
    """

    __slots__ = ("is_on_core", "left", "ran_s", "since", "slice_ends", "then", "token")

    def __init__(self) -> None:
        self.ran_s = self.left = self.since = self.slice_ends = 0.0
        self.then: Callable[[], None] | None = None
        self.is_on_core = False
        self.token = 0


class Machine:
    """Cores, and a queue of the tasks that want one."""

    def __init__(self, simulation: Simulation, cores: int) -> None:
        self.simulation = simulation
        self.free = cores
        self._running: list[Task] = []
        self._queue: list[tuple[float, int, Task]] = []
        self._numbers = count()
        self._least_s = 0.0  # what the task has run that has run least

    def run(self, task: Task, seconds: float, then: Callable[[], None]) -> None:
        """Call `then` when `task` has run for `seconds`; it goes on at once when it has a core already."""
        task.left += seconds
        task.then = then
        if task.is_on_core:
            return
        task.ran_s = max(task.ran_s, self._least_s - SLICE_S / 2)
        if self.free:
            self._start(task)
            return
        now = self.simulation.now
        computing = [each for each in self._running if each.then]
        victim = max(computing, key=lambda each: each.ran_s - each.since, default=None)
        if victim is not None and victim.ran_s + now - victim.since - task.ran_s > GRANULARITY_S:
            self._account(victim)
            self._stop(victim)
            self._enqueue(victim)
            self._start(task)
        else:
            self._enqueue(task)

    def _enqueue(self, task: Task) -> None:
        heapq.heappush(self._queue, (task.ran_s, next(self._numbers), task))

    def _start(self, task: Task) -> None:
        self.free -= 1
        self._running.append(task)
        task.is_on_core = True
        task.left += SWITCH_S
        task.since = self.simulation.now
        task.slice_ends = task.since + SLICE_S
        self._go_on(task)

    def _go_on(self, task: Task) -> None:
        task.token += 1
        lasts = min(task.left, task.slice_ends - self.simulation.now)
        self.simulation.after(lasts, partial(self._fire, task, task.token))

    def _stop(self, task: Task) -> None:
        self.free += 1
        self._running.remove(task)
        task.is_on_core = False
        task.token += 1

    def _account(self, task: Task) -> None:
        now = self.simulation.now
        task.ran_s += now - task.since
        task.left -= now - task.since
        task.since = now

    def _fire(self, task: Task, token: int) -> None:
        if token != task.token:
            return  # it has lost its core since
        self._account(task)
        if task.left < 1e-9:
            then, task.then, task.left = task.then, None, 0.0
            assert then is not None
            then()
        queue, now = self._queue, self.simulation.now
        if queue:
            self._least_s = max(self._least_s, min(task.ran_s, queue[0][0]))
            ahead_s = task.ran_s - queue[0][0]
            if not task.then or ahead_s > GRANULARITY_S or (ahead_s > 0 and now >= task.slice_ends - 1e-9):
                self._stop(task)
                if task.then:
                    self._enqueue(task)
                self._start(heapq.heappop(queue)[2])
                return
        else:
            self._least_s = max(self._least_s, min(each.ran_s for each in self._running))
        if not task.then:
            self._stop(task)
            return
        if now >= task.slice_ends - 1e-9:
            task.slice_ends = now + SLICE_S
        self._go_on(task)


class Process:
    """The pool's process: in a turn of its loop it does all that was there when the turn began, then the callbacks."""

    def __init__(self, machine: Machine) -> None:
        self.task = Task()
        self.machine = machine
        self.simulation = machine.simulation
        self.main = getcurrent()
        self.owed_s = 0.0  # for what was done in the middle of something
        self._inbox: deque[tuple[float, Callable[[], object]]] = deque()
        self._turn: deque[tuple[float, Callable[[], object]]] = deque()
        self._callbacks: deque[tuple[float, Callable[[], object]]] = deque()
        self._is_awake = False
        self._had_to_wait = self._was_asleep = True

    def had_to_wait(self) -> bool:
        """Whether the loop was waiting when what it now deals with arrived."""
        return self._had_to_wait

    def event(self, seconds: float, what: Callable[[], object]) -> None:
        """`what` is there for the loop to find, and takes so long."""
        self._inbox.append((seconds, what))
        if not self._is_awake:
            self._is_awake = self._was_asleep = True
            self.machine.run(self.task, 0.0, self._step)

    def run_callback(self, seconds: float, what: Callable[[], object]) -> None:
        self._callbacks.append((seconds, what))

    def _step(self) -> None:
        turn = self._turn
        seconds, self.owed_s = self.owed_s, 0.0
        if not turn:
            turn, self._turn = self._turn, self._callbacks or self._inbox
            if self._turn is self._inbox:
                self._inbox = turn
                seconds += TURN_S
                self._had_to_wait, self._was_asleep = self._was_asleep, False
            else:
                self._callbacks = turn
            turn = self._turn
        if turn:
            first = turn.popleft()
            self.machine.run(self.task, seconds + first[0], partial(self._act, first[1]))
        elif seconds > 2 * TURN_S:
            self.machine.run(self.task, seconds, self._step)
        else:
            self._is_awake = False

    def _act(self, what: Callable[[], object]) -> None:
        what()
        self._step()

    def spawn(self, run: Callable[..., object], *args: object) -> None:
        self.event(0.0, lambda: greenlet(run, self.main).switch(*args))

    def spawn_later(self, seconds: float, run: Callable[..., object], *args: object) -> None:
        self.simulation.after(seconds, lambda: self.spawn(run, *args))

    def sleep(self, seconds: float) -> None:
        me = getcurrent()
        self.simulation.after(seconds, lambda: self.event(0.0, me.switch))
        self.main.switch()
