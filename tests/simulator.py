"""A pool without sockets or clocks: discrete events drive the real roster, workers, riders and learning.

Pure: no I/O, no real clock, and the same seed gives the same figures. What decides in lib/ is not imitated but run: a
real Cluster with its Roster, Workers (each in a greenlet), Waiting, Known and Router. What is imitated is around it:

- the machine (tests/simulated_machine.py): cores with a run queue as Linux has it (the one that has run least is next,
  slices of 3 ms, who wakes up may take the place of one that has run much longer), on which the pool and every backend
  that is busy compete;
- backends: a statement takes a processor, and may wait for a lock or for anything else;
- the pool's process: turns of its loop, in which every statement, answer and system call has its price;
- clients: each sends its next statement when it was answered and has thought. They cost the machine nothing.

`simulate` replays a load (tests/simulated_loads.py) and returns its scores.
"""

from __future__ import annotations

import sys
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest import mock

from greenlet import getcurrent, greenlet

from lib import config
from lib.backend import cluster, dialogue, riders
from lib.backend.unit import SIMPLE, Unit
from lib.route import Router
from lib.route.catalog import Catalog
from tests.simulated_machine import Machine, Process, Simulation, Task

STATEMENT_S = 6e-6  # read, looked up, dispatched
ANSWER_S = 6e-6  # passed on, with the send to the client
SEND_S = RECV_S = 6e-6  # to and from a backend
NEW_SHAPE_S = 100e-6  # a text of which nothing is known is classified
SWEEP_S = 20e-6
WAKE_S = 8e-6  # a backend comes out of its recv and reads what is there
NETWORK_S = 20e-6  # one way, between client and pool
LOGIN_S = 0.003  # until a new backend is there
SWEPT_EVERY_S, CROWDED_EVERY_S = 0.25, 0.01  # as lib/process.py has them

_ANSWER = b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I"


# --- what is asked for -----------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Statement:
    """What a client sends.

    name     under which it is scored
    cpu_s    of a core
    wait_s   asleep after that (an fsync, pg_sleep), the lock still held
    lock     the row that it locks, or None
    """

    name: str
    text: bytes
    cpu_s: float
    wait_s: float = 0.0
    lock: object = None


@dataclass(frozen=True)
class Load:
    """What is replayed.

    clients   how many
    next      (simulated client's number, now, random) -> (Statement, seconds that it thinks before it)
    groups    the clients are in so many groups, in turn
    settings  that differ from the conf file's defaults
    """

    clients: int
    next: Callable[[int, float, Random], tuple[Statement, float]]
    seconds: float = 0.3
    warm_up_s: float = 0.1
    cores: int = 2
    groups: int = 1
    settings: dict[str, Any] = field(default_factory=dict)


class Message(bytes):
    """The bytes of a statement, and what the imitated backend is to do about it."""

    statement: Statement


@dataclass
class Scores:
    """What came of a load: latencies by the statements' names, in order of time, as (moment sent, seconds)."""

    seconds: float
    latencies: dict[str, list[tuple[float, float]]]
    oldest: dict[str, float]  # how long what is not answered at the end has waited, at most
    workers: int
    most_waiting: int
    shapes: int
    moved: int  # riders that were given to another worker
    rode: int  # statements that were sent behind others

    def tps(self, *names: str) -> float:
        return sum(len(self.latencies[name]) for name in names or self.latencies) / self.seconds

    def quantile(self, part: float, *names: str) -> float:
        found = sorted(each[1] for name in names or self.latencies for each in self.latencies[name])
        return found[min(len(found) - 1, int(part * len(found)))] if found else float("inf")

    def longest(self, *names: str) -> float:
        """The worst latency, of what is not answered yet too."""
        return max(
            max(max((each[1] for each in self.latencies[name]), default=0.0), self.oldest.get(name, 0.0))
            for name in names or {*self.latencies, *self.oldest}
        )


# --- the pool's surroundings -----------------------------------------------------------------------------------------


class Backend:
    """A server process, and the pool's stream to it."""

    def __init__(self, process: Process, locks: dict[object, deque[Backend]]) -> None:
        self.process = process
        self.machine = process.machine
        self.is_closed = False
        self.pending = 0
        self.wakes_at = 1
        self.reader: greenlet | None = None
        self._task = Task()
        self._locks = locks
        self._outbox: list[bytes] = []
        self._arrived: deque[bytes] = deque()  # at the server
        self._answers: list[bytes] = []  # at the pool
        self._is_told = False  # the pool's loop has an event for them
        self._runs: bytes | None = None

    # What the pool sees.

    def recv(self, at_once: Callable[[bytes], bytes | None]) -> bytes:
        self.reader = getcurrent()
        while (left := at_once(self.process.main.switch())) is None:
            pass
        return left

    def is_readable(self) -> bool:
        return bool(self._answers)

    def wake_at(self, size: int) -> None:
        """Simulated answers have no size: whoever waits for them is woken for each."""

    def write(self, data: bytes) -> None:
        self.process.owed_s += SEND_S
        self._arrive([data])

    def write_later(self, data: bytes) -> None:
        if not self._outbox:
            self.process.run_callback(SEND_S, self._flush)
        self._outbox.append(data)

    def close(self) -> None:
        self.is_closed = True

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        self._arrive(outbox)

    def _read(self) -> None:
        self._is_told = False
        answers, self._answers = self._answers, []
        if self.reader is not None and not self.is_closed:
            self.reader.switch(b"".join(answers))

    # What the server does.

    def _arrive(self, messages: list[bytes]) -> None:
        self._arrived.extend(messages)
        if self._runs is None and not self.is_closed:
            self._begin(WAKE_S)

    def _begin(self, seconds: float) -> None:
        self._runs = self._arrived.popleft()
        statement = getattr(self._runs, "statement", _TUNING)
        holders = self._locks[statement.lock] if statement.lock is not None else None
        if holders is not None:
            holders.append(self)
            if len(holders) > 1:
                return  # who has it goes on with us
        self.machine.run(self._task, seconds + statement.cpu_s, self._ran)

    def _ran(self) -> None:
        wait_s = getattr(self._runs, "statement", _TUNING).wait_s
        if wait_s:
            self.machine.simulation.after(wait_s, lambda: self.machine.run(self._task, WAKE_S, self._answer))
        else:
            self._answer()

    def _answer(self) -> None:
        lock = getattr(self._runs, "statement", _TUNING).lock
        if lock is not None:
            holders = self._locks[lock]
            holders.popleft()
            if holders:
                holders[0]._have_lock()
        self._runs = None
        self._answers.append(_ANSWER)
        if not self._is_told:
            self._is_told = True
            self.process.event(RECV_S, self._read)
        if self._arrived:
            self._begin(0.0)

    def _have_lock(self) -> None:
        self.machine.run(self._task, WAKE_S + getattr(self._runs, "statement", _TUNING).cpu_s, self._ran)


_TUNING = Statement("tuning", b"", 20e-6)


class Client:
    """A closed loop, and as much of a Frontend as workers ask for."""

    is_gone = is_closed = may_use_standbys = False
    unnamed = worker = None
    pending = 0
    status = b"I"

    def __init__(self, number: int, group: Any, world: World) -> None:
        self.number = number
        self.group = group
        self.world = world
        self.router = world.router
        self.stream = self
        self.statement = _TUNING
        self.unit: Unit | None = None
        self.sent_at = 0.0
        group.frontends.add(self)

    def tell_parameters(self, changed: object) -> None:
        """It does not care."""

    def think(self) -> None:
        world = self.world
        self.statement, think_s = world.load.next(self.number, world.simulation.now, world.random)
        world.simulation.after(think_s, self._send)

    def _send(self) -> None:
        self.sent_at = self.world.simulation.now
        self.unit = Unit.__new__(Unit)
        self.world.simulation.after(NETWORK_S, lambda: self.world.process.event(STATEMENT_S, self._arrived))

    def _arrived(self) -> None:
        world, statement = self.world, self.statement
        known = world.known(statement.text)
        data = Message(b"Q\0\0\0\x05\0")
        data.statement = statement
        assert self.unit is not None
        self.unit.__init__(self, data, SIMPLE, known.verdict)  # type: ignore[misc]
        if known.rides:
            self.unit.known = known
        world.roster.cluster.dispatch(self.unit)

    def write(self, data: bytes) -> None:
        """Its answer, which counts when it is whole."""

    def unit_done(self, unit: Unit, status: bytes) -> None:
        assert unit is self.unit, "an answer to something else"
        self.unit = None
        process = self.world.process
        process.owed_s += ANSWER_S
        self.world.simulation.after(process.owed_s + NETWORK_S, self._answered)

    def read_done(self, unit: Unit) -> None:
        self.unit_done(unit, b"I")

    def backend_lost(self, *_: object, **__: object) -> None:
        raise AssertionError("no backend is lost here")

    def _answered(self) -> None:
        self.world.answered(self)
        self.think()


class World:
    """One run of a load."""

    def __init__(self, load: Load, rides: bool, seed: int, shapes: int) -> None:
        self.load = load
        self.random = Random(seed)
        self.simulation = Simulation()
        self.machine = Machine(self.simulation, load.cores)
        self.process = Process(self.machine)
        self.router = Router(Catalog(), shapes)
        settings = {"master": ("server", 5432), "admin_cnn": {"user": "admin"}, "riders": rides, **load.settings}
        self.cluster = cluster.Cluster(config.make(settings), lambda _: lambda _: None, lambda *_: [])
        login = self.cluster.login("user", "database", ())
        login.frontends = load.clients
        self.roster = self.cluster.primary.roster(login)
        groups = [self.cluster.group(login, (("work_mem", str(64 + each)),)) for each in range(load.groups)]
        self.clients = [Client(number, groups[number % load.groups], self) for number in range(load.clients)]
        self.latencies: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.most_waiting = self.most_shapes = self.moved = self.rode = 0
        self._locks: dict[object, deque[Backend]] = defaultdict(deque)
        self._swept_at = 0.0

    def known(self, text: bytes) -> Any:
        shapes = len(self.router._memo)
        known = self.router.known(text)
        if len(self.router._memo) != shapes:
            self.process.owed_s += NEW_SHAPE_S
        self.most_shapes = max(self.most_shapes, len(self.router._memo))
        return known

    def answered(self, client: Client) -> None:
        if self.simulation.now >= self.load.warm_up_s:
            self.latencies[client.statement.name].append((client.sent_at, self.simulation.now - client.sent_at))

    def open_backend(self, *_: object) -> dialogue.Backend:
        self.process.sleep(LOGIN_S)
        return dialogue.Backend(Backend(self.process, self._locks), {}, (0, b""))  # type: ignore[arg-type]

    def _tick(self) -> None:
        now = self.simulation.now
        self.most_waiting = max(self.most_waiting, len(self.roster.waiting))
        if self.cluster.is_watched or now - self._swept_at >= SWEPT_EVERY_S:
            self._swept_at = now
            self.process.event(SWEEP_S, lambda: self.cluster.sweep(self.simulation.now))
        self.simulation.after(CROWDED_EVERY_S, self._tick)

    def run(self) -> Scores:
        load, until = self.load, self.load.warm_up_s + self.load.seconds
        self.roster.ensure()
        for client in self.clients:
            self.simulation.after(self.random.uniform(0.0, 0.005), client.think)
        self.simulation.after(CROWDED_EVERY_S, self._tick)
        self.simulation.run(until)
        oldest: dict[str, float] = {}
        for client in self.clients:
            if client.unit is not None:
                name = client.statement.name
                oldest[name] = max(oldest.get(name, 0.0), until - client.sent_at)
        return Scores(
            load.seconds, self.latencies, oldest, len(self.roster.workers), self.most_waiting,
            self.most_shapes, self.moved, self.rode,
        )  # fmt: skip


def simulate(
    load: Load,
    rides: bool = True,
    seed: int = 1,
    shapes: int = 10_000,
    on_ride: Callable[[Unit, float], None] | None = None,
) -> Scores:
    """Replay `load`.

    rides    with riders, or one statement at a time per backend
    shapes   how many the router remembers
    on_ride  called with each unit that is sent behind others, and when
    """
    world = World(load, rides, seed, shapes)
    turns = SimpleNamespace(start=lambda: None, stop=lambda: None, had_to_wait=world.process.had_to_wait)
    world.cluster.turns = turns  # type: ignore[assignment]
    move_riders, ride = riders.Riders.move_riders, riders.Riders.ride

    def counted_move(self: riders.Riders) -> None:
        world.moved += sum(isinstance(each, Unit) for each in list(self.in_flight)[1:])
        move_riders(self)

    def counted_ride(self: riders.Riders, unit: Unit) -> None:
        world.rode += 1
        if on_ride is not None:
            on_ride(unit, world.simulation.now)
        ride(self, unit)

    with ExitStack() as patches:
        for module in [module for name, module in sys.modules.items() if name.startswith("lib.backend.")]:
            for name, imitation in _surroundings(world).items():
                if hasattr(module, name):  # each looks at the clock, spawns, or opens a backend through these
                    patches.enter_context(mock.patch.object(module, name, imitation))
        patches.enter_context(mock.patch.object(riders.Riders, "move_riders", counted_move))
        patches.enter_context(mock.patch.object(riders.Riders, "ride", counted_ride))
        return world.run()


def _surroundings(world: World) -> dict[str, object]:
    """What modules of lib.backend know by these names, as it is here."""

    def monotonic() -> float:
        return world.simulation.now

    return {
        "time": SimpleNamespace(monotonic=monotonic),
        "monotonic": monotonic,
        "gevent": SimpleNamespace(spawn=world.process.spawn, spawn_later=world.process.spawn_later),
        "open_backend": world.open_backend,
    }
