"""Standbys that are told before a promotion: what they say after that can still end it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from lib.errors import ServerUnreachable
from lib.ha import acts
from lib.ha.choice import Answer, Choice, Receiver
from lib.ha.following import Following

PRIMARY, CHOSEN, OTHER = ("10.0.0.1", 5432), ("10.0.0.2", 5432), ("10.0.0.3", 5432)


def standby(number: int, address: tuple[str, int], received: int = 100) -> Answer:
    return Answer(number, f"server {address[0]}", address, version=160000, received=received)


FOUND = Choice(standby(2, CHOSEN), False, 0, (standby(3, OTHER),), ())


@pytest.fixture
def followed(monkeypatch):
    """What was told to whom, instead of telling it."""
    found = []

    def follow(admin, answer, to, slot, command):
        found.append((answer.number, tuple(to)))
        return False

    monkeypatch.setattr(acts, "follow", follow)
    return found


class _Pool(NamedTuple):
    answer: Answer

    @property
    def number(self) -> int:
        return self.answer.number

    def describe(self) -> str:
        return self.answer.name


def following(*later: Answer | None) -> Following:
    """Of servers that say this after they were told."""

    def ask(pool: _Pool) -> Answer:
        answer = next((each for each in later if each.number == pool.number), None)
        if answer is None:
            raise ServerUnreachable("it is gone")
        return answer

    ha = SimpleNamespace(
        is_news=lambda *_: True, admin=None, settings=SimpleNamespace(ha_restart_command=""), pool_of=_Pool,
        not_the_primary=lambda: {CHOSEN, OTHER}, watch=SimpleNamespace(ask=ask),
    )  # fmt: skip
    return Following(ha)


@pytest.mark.parametrize("fed_by", [CHOSEN, None])
def test_nothing_is_against_a_promotion_when_nobody_hears_the_primary(followed, fed_by):
    receiver = Receiver("streaming", *fed_by, 0.0) if fed_by else None
    told = following(standby(2, CHOSEN), replace(standby(3, OTHER), receiver=receiver))
    assert told.before(FOUND) is None
    assert followed == [(3, CHOSEN)]


def test_a_standby_that_has_got_more_meanwhile_ends_it(followed):
    """The old primary is back, and has fed it before it followed the chosen one, which is behind it now."""
    told = following(standby(2, CHOSEN), standby(3, OTHER, received=101))
    assert told.before(FOUND) == "server 10.0.0.3 has got more WAL meanwhile than server 10.0.0.2 has"


@pytest.mark.parametrize("who", [2, 3])
def test_a_standby_that_hears_the_primary_again_ends_it(followed, who):
    receiver = Receiver("streaming", *PRIMARY, 0.0)
    answers = [standby(2, CHOSEN), standby(3, OTHER)]
    told = following(*(replace(each, receiver=receiver) if each.number == who else each for each in answers))
    assert "still follows a server" in told.before(FOUND)


def test_a_chosen_one_that_does_not_answer_any_more_is_left_to_the_promotion(followed):
    """Which finds out what that means; the others may be chosen then."""
    assert following(standby(3, OTHER)).before(FOUND) is None
