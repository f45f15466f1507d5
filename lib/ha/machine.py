"""Whether the primary is gone: what was seen of it goes in, what to do comes out. Pure.

WATCHING   it answers
WAITING    it answers that it cannot serve yet: it starts, stops, or recovers from a crash
DOUBTING   it does not answer; failures are counted, and the standbys are asked whether they still hear it
CHOOSING   it is gone: nothing was changed yet, and any answer of it still ends this
PROMOTING  a standby was told to be the primary: there is no way back, whoever answers
FOLLOWING  another server is the primary; the other standbys are told

Any answer is a sign of life. Nothing is decided by the failures alone: for some time before it all standbys that can be
asked must have been without it, too (`choice.witness`).
"""

from __future__ import annotations

from enum import Enum
from math import inf


class State(Enum):
    WATCHING = "watching"
    WAITING = "waiting"
    DOUBTING = "doubting"
    CHOOSING = "choosing"
    PROMOTING = "promoting"
    FOLLOWING = "following"


class Event(Enum):
    """What can be seen, or has come of what was done."""

    ANSWERED = "the primary answers"
    STARTING = "it answers that it starts, stops or recovers"
    FAILED = "it does not answer"
    PLANNED = "it is to be replaced, and nothing is under way on it"
    PROVEN = "it is gone"
    REFUSED = "no standby may take its place, or could be promoted"
    CHOSEN = "a standby is told to"
    PROMOTED = "it is the primary"
    DONE = "the others follow"


class Action(Enum):
    HOLD = "send nothing more to the primary"
    RELEASE = "the primary is trusted again"
    SWITCH = "choose a standby and promote it"


W, S, D, C, P, F = State
NEXT: dict[State, dict[Event, State]] = {
    W: {Event.ANSWERED: W, Event.STARTING: S, Event.FAILED: D, Event.PLANNED: P},
    S: {Event.ANSWERED: W, Event.STARTING: S, Event.FAILED: D},
    D: {Event.ANSWERED: W, Event.STARTING: S, Event.FAILED: D, Event.PROVEN: C},
    C: {Event.ANSWERED: W, Event.STARTING: S, Event.FAILED: C, Event.REFUSED: D, Event.CHOSEN: P},
    P: {Event.PROMOTED: F, Event.REFUSED: D},  # whatever the old primary says now comes too late
    F: {Event.DONE: W},
}
_SETTLED_S = 0.5  # how long the standbys must have been without the primary
_ASK_AGAIN_S = 1.0  # after no standby could be chosen


class Machine:
    """What is thought of the primary.

    after_fail_cnt   failures in a row that it takes
    recovery_wait_s  how long a server that is starting up is waited for
    is_allowed       this pool is one that may promote
    refusal          why nothing is done, when the primary has failed often enough
    no_way_back      a standby was told to be the primary, and nobody knows what has become of that: until it is known
                     no answer makes the old one trusted
    """

    def __init__(self, after_fail_cnt: int, recovery_wait_s: float, is_allowed: bool) -> None:
        self.after_fail_cnt = after_fail_cnt
        self.recovery_wait_s = recovery_wait_s
        self.is_allowed = is_allowed
        self.state = State.WATCHING
        self.failures = 0
        self.failing_since = inf
        self.starting_since = inf
        self.refusal: str | None = None
        self.no_way_back = False
        self._gone_since = inf  # as the standbys say
        self._not_before = -inf

    def __repr__(self) -> str:
        return f"<Machine {self.state.name} failures={self.failures}/{self.after_fail_cnt} {self.refusal or ''}>"

    @property
    def is_trusted(self) -> bool:
        """Whether statements may be sent to the primary."""
        return self.state is State.WATCHING

    def answered(self, now: float) -> list[Action]:
        """It has said anything but that it cannot serve."""
        return self._happened(Event.ANSWERED, now)

    def starting(self, now: float) -> list[Action]:
        """It has said that it starts up, shuts down or recovers: waited for, but not for ever."""
        self.starting_since = min(self.starting_since, now)
        if now - self.starting_since > self.recovery_wait_s:
            return self.failed(now)
        return self._happened(Event.STARTING, now)

    def failed(self, now: float) -> list[Action]:
        """A connection to it has failed, or is not answered in time."""
        return self._happened(Event.FAILED, now)

    def witnessed(self, refusal: str | None, now: float) -> list[Action]:
        """The standbys were asked: why the primary is not proven to be gone, or None."""
        self.refusal = refusal
        self._gone_since = inf if refusal else min(self._gone_since, now)
        return self.look(now)

    def look(self, now: float) -> list[Action]:
        """See whether it is time."""
        if self.state is not State.DOUBTING or self.failures < self.after_fail_cnt or now < self._not_before:
            return []
        if not self.is_allowed or now - self._gone_since < _SETTLED_S:
            return []
        return self._happened(Event.PROVEN, now)

    def begin_anew(self) -> None:
        """Somebody else has said who the primary is."""
        self.state = State.WATCHING
        self.starting_since, self.no_way_back = inf, False
        self._forget_failures()

    def _forget_failures(self) -> None:
        self.failures, self.failing_since, self._gone_since, self.refusal = 0, inf, inf, None

    def begin_in_the_middle(self, now: float) -> list[Action]:
        """This pool was killed when it was about to promote a standby."""
        actions = self.failed(now)
        self.no_way_back = True
        return actions

    def happened(self, event: Event, now: float) -> list[Action]:
        """What has become of a switch: CHOSEN, PROMOTED, DONE, or REFUSED."""
        if event is Event.REFUSED:
            self._not_before = now + _ASK_AGAIN_S
        return self._happened(event, now)

    def _happened(self, event: Event, now: float) -> list[Action]:
        was = self.state
        if self.no_way_back and event in (Event.ANSWERED, Event.STARTING):
            event = Event.FAILED
        if event is Event.CHOSEN and was is State.CHOOSING:
            self.no_way_back = True
        elif event is Event.PROMOTED:
            self.no_way_back = False
        self.state = NEXT[was].get(event, was)
        if event is Event.FAILED and self.state in (State.DOUBTING, State.CHOOSING):
            self.failures += 1
            self.failing_since = min(self.failing_since, now)
        if self.state in (State.WATCHING, State.WAITING):
            self._forget_failures()
        if self.state is State.WATCHING:
            self.starting_since = inf
        actions = []
        if was is State.WATCHING and self.state is not State.WATCHING:
            actions.append(Action.HOLD)
        elif was in (State.WAITING, State.DOUBTING, State.CHOOSING) and self.state is State.WATCHING:
            actions.append(Action.RELEASE)
        if was is State.DOUBTING and self.state is State.CHOOSING:
            actions.append(Action.SWITCH)
        return actions
