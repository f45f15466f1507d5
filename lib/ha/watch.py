"""Looks at all servers all the time: probes the primary, and asks every server what it is and how far.

Green. What is found is told to the machine, which decides what it means; nothing is changed here. A server that is
frozen keeps nobody else waiting: each question has a green thread, and one at a time is on its way to a server.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

import gevent
from gevent.event import Event

from lib.admin import Admin
from lib.errors import PoolError, ServerUnreachable
from lib.ha import choice, survey
from lib.ha.choice import Answer, Known
from lib.ha.machine import Action, Machine, State
from lib.ha.probe import probe

if TYPE_CHECKING:
    from lib.backend.cluster import Cluster
    from lib.backend.pool import Pool
    from lib.config import Settings

log = logging.getLogger(__name__)

PATIENCE_S = 1.0  # how long a server may take to answer
_DOUBT_S = 0.1  # how often the primary is tried, and the standbys asked, while it is in doubt
_LOOK_S = 1.0  # how often servers are asked while all is well
_GIVE_UP_S = 10.0  # when a probe that has no answer ends; until then a late answer is one, too
_MOST_PROBES = 20
_GAP_S = 0.02  # between two probes, however many have lost their backend
_FRESH_S = 2.0  # how old what a standby has said may be
_SAY_AGAIN_S = 5.0
PAUSED = "all is paused, and whoever has done that may be restarting it: it is waited for until resume"


class Seen(NamedTuple):
    """What a server has answered when it was asked last, or why not."""

    answer: Answer | None
    error: str
    asked_at: float
    at: float


class Watch:
    """What is seen of the servers.

    known     of the primary, while it answered
    seen      of every server, by its pool
    on_look   called after every look around
    act       does what the machine says
    """

    def __init__(self, settings: Settings, cluster: Cluster, as_admin: Mapping[str, Any], machine: Machine) -> None:
        threads = 2 * len(cluster.pools) + 4
        limits = {"connect_timeout_s": PATIENCE_S, "statement_timeout_s": PATIENCE_S}
        self.admin = Admin(as_admin, threads=threads, **limits)
        self.walsender = Admin({**as_admin, "replication": "database"}, threads=threads, **limits)
        self.settings = settings
        self.cluster = cluster
        self.machine = machine
        self.known = Known()
        self.seen: dict[Pool, Seen] = {}
        self.act: Callable[[list[Action]], None] = lambda actions: None
        self.on_look: Callable[[], None] = lambda: None
        self.on_known: Callable[[], None] = lambda: None
        self._startup = {name: settings.admin_cnn[name] for name in ("user", "database") if name in settings.admin_cnn}
        self._startup.setdefault("database", "postgres")
        self._wake = Event()
        self._asking: dict[Pool, float] = {}
        self._probes: dict[int, float] = {}  # number -> when it was begun
        self._probed = 0
        self._answered_at = self._probed_at = -inf
        self._said, self._said_at = "", -inf

    def __repr__(self) -> str:
        return f"<Watch {self.machine!r} probes={len(self._probes)} asking={len(self._asking)}>"

    def become(self, as_admin: Mapping[str, Any]) -> None:
        """Log in with these from now on."""
        self.admin.become(as_admin)
        self.walsender.become({**as_admin, "replication": "database"})

    def doubt(self) -> None:
        """Something was lost that was connected to the primary: see at once whether it is there."""
        if self.machine.is_trusted:
            self._wake.set()

    def run(self) -> None:
        while True:
            try:
                self._look_around(time.monotonic())
            except Exception:  # whatever it is, the primary is still to be watched
                log.exception("the servers could not all be looked at")
            self._wake.wait(self.settings.ha_check_interval if self.machine.is_trusted else _DOUBT_S)
            self._wake.clear()

    def _look_around(self, now: float) -> None:
        self._probe_if_due(now)
        self._ask_if_due(now)
        self.act(self.machine.look(now))
        self._complain(now)
        self.on_look()

    def begin_anew(self) -> None:
        """Another server is the primary."""
        self.seen.clear()
        self._probes.clear()

    # --- the primary -------------------------------------------------------------------------------------------------

    def _probe_if_due(self, now: float) -> None:
        if self.machine.state in (State.PROMOTING, State.FOLLOWING):
            self._probes.clear()
            return
        waited_s = now - min((since for since in self._probes.values() if since > self._answered_at), default=now)
        if waited_s > PATIENCE_S:
            self._failed(f"it has not answered for {waited_s:.1f} s", now)
        if now - self._probed_at >= _GAP_S and len(self._probes) < _MOST_PROBES:
            self._probed += 1
            self._probed_at = self._probes[self._probed] = now
            gevent.spawn(self._probe, self._probed, self.cluster.primary)

    def _probe(self, number: int, primary: Pool) -> None:
        try:
            serves = probe(primary.address, self._startup, _GIVE_UP_S, self.cluster.approach)
        except ServerUnreachable as error:
            now = time.monotonic()
            since = self._probes.pop(number, -inf)
            if since > now - PATIENCE_S:  # else that has been counted already
                self._failed(str(error.message), now)
            return
        except BaseException:
            self._probes.pop(number, None)
            raise
        if self._probes.pop(number, None) is not None and primary is self.cluster.primary:
            now = self._answered_at = time.monotonic()
            if serves:
                self.act(self.machine.answered(now))
            else:
                self._say("the primary answers that it cannot serve yet", now)
                self.act(self.machine.starting(now))

    def _failed(self, why: str, now: float) -> None:
        if self.machine.is_trusted:
            log.warning("%s does not answer, and nothing is sent to it meanwhile: %s", self._primary, why)
        self.act(self.machine.failed(now))

    def _complain(self, now: float) -> None:
        machine = self.machine
        if machine.failures >= machine.after_fail_cnt and machine.state is State.DOUBTING and machine.refusal:
            failed_for = f"{machine.failures} times in {now - machine.failing_since:.1f} s"
            self._say(f"the primary has not answered {failed_for}, and is not replaced: {machine.refusal}", now)

    @property
    def _primary(self) -> str:
        return self.cluster.primary.describe()

    def _say(self, text: str, now: float) -> None:
        if now - self._said_at > _SAY_AGAIN_S:
            self._said_at = now
            log.warning("%s", text)

    # --- all servers -------------------------------------------------------------------------------------------------

    def _ask_if_due(self, now: float) -> None:
        is_trusted = self.machine.is_trusted
        for pool in [*self.cluster.pools, *self.cluster.former]:
            is_witness = pool in self.cluster.standbys and not is_trusted
            seen = self.seen.get(pool)
            if pool in self._asking or (pool is self.cluster.primary and not is_trusted):
                continue
            if seen is None or now - seen.asked_at >= (_DOUBT_S if is_witness else _LOOK_S) * 0.95:
                self._asking[pool] = now
                gevent.spawn(self._ask, pool, now)

    def _ask(self, pool: Pool, asked_at: float) -> None:
        primary = self.cluster.primary
        try:
            answer: Answer | None = survey.ask(self.admin, pool.number, pool.address)
            error = ""
        except PoolError as failure:
            answer, error = None, f"{failure} {failure.detail or ''}".strip()
        finally:
            self._asking.pop(pool, None)
        now = time.monotonic()
        was = self.seen.get(pool)
        if error and self.machine.is_trusted and (was is None or not was.error):
            log.warning("%s cannot be asked what it is: %s", pool.describe(), error)
        self.seen[pool] = Seen(answer, error, asked_at, now)
        if primary is not self.cluster.primary:
            self.seen.pop(pool, None)  # it may be something else by now
            return
        if pool is primary:
            if answer is not None:
                self.learn(answer)
        elif self.machine.state is State.DOUBTING:
            self.act(self.machine.witnessed(self.witness(now), now))

    def learn(self, answer: Answer) -> None:
        """What the primary says of itself."""
        if answer.in_recovery:
            self._say(f"{self._primary} is in recovery: it is no primary", time.monotonic())
            return
        members = set(answer.followers)
        if "*" in answer.sync:
            members |= set(self.known.members)  # who is not there now may have been at a commit
        known = Known(answer.system, answer.timeline, answer.written, answer.sync, tuple(sorted(members)))
        is_news = known._replace(written=0) != self.known._replace(written=0)
        self.known = known
        if is_news:
            self.on_known()

    def witness(self, now: float) -> str | None:
        """Why the primary is not proven to be gone, or is to be waited for; None when it is."""
        if self.cluster.pause.is_whole:
            return PAUSED
        if not self.known.system:
            return "this pool has never seen the primary, and does not know what it would replace"
        answers = []
        for pool in self.cluster.standbys:
            seen = self.seen.get(pool)
            if seen is not None and seen.asked_at >= self.machine.failing_since and now - seen.at < _FRESH_S:
                if seen.answer is not None:
                    answers.append(seen.answer)
            elif now - self._asking.get(pool, now) < PATIENCE_S:
                return f"{pool.describe()} has not said yet whether it hears the primary"
        others = {pool.address for pool in (*self.cluster.standbys, *self.cluster.former)}
        return choice.witness(answers, len(self.cluster.standbys), others)

    def ask(self, pool: Pool) -> Answer:
        """Ask one server now.

        raises   PoolError
        """
        return survey.ask(self.admin, pool.number, pool.address, lane="now")

    def ask_all(self, pools: list[Pool], timeout_s: float) -> list[Answer]:
        """Ask servers at the same time, and for their timelines; those that answer in time."""

        def ask(pool: Pool) -> Answer:
            answer = survey.ask(self.admin, pool.number, pool.address, lane="choice")
            timeline = survey.timeline_of(self.walsender, pool.address)
            return replace(answer, timeline=max(timeline, answer.timeline))

        threads = [gevent.spawn(_quietly, ask, pool) for pool in pools]
        gevent.joinall(threads, timeout=timeout_s)
        for pool in pools:
            self.walsender.forget(pool.address)  # it would look like a standby that is about to come
        return [thread.value for thread in threads if thread.value is not None]


def _quietly(ask: Callable[[Pool], Answer], pool: Pool) -> Answer | None:
    try:
        return ask(pool)
    except PoolError as error:
        log.info("%s could not be asked how far it is: %s", pool.describe(), error)
        return None
