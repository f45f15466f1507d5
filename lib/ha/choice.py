"""Which standby takes the place of a primary that is gone, or why none may. Pure.

The answers of servers go in; a reason comes out, or None where there is nothing against it. The same reasons are what
the log, the console and the dry run of a switchover say.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lib.ha import syncnames
from lib.ha.syncnames import Rule

# A receiver in one of these has a connection to its sender; in the others it looks for one.
_CONNECTED = ("streaming", "waiting", "restarting")
WANTED_TIMEOUT_S = 2.0  # how long a receiver may hear nothing before it takes its sender for gone


class Receiver(NamedTuple):
    """What a standby says of its WAL receiver.

    host, port   of its sender, as it is connected to it
    silent_s     since when nothing has come
    """

    status: str
    host: str
    port: int
    silent_s: float

    @property
    def is_connected(self) -> bool:
        return self.status in _CONNECTED


@dataclass(frozen=True)
class Answer:
    """What a server has said of itself.

    number        of its pool
    name          as the log calls it
    address       where the pool connects to
    timeline      the highest that it has WAL of
    received, replayed   a standby's; 0 where it says nothing
    written       a primary's end of WAL
    receiver      None when it has none
    receiver_timeout_s   0: never
    application_name     what it is known by to a primary
    conninfo, slot       how it follows
    sync                 its synchronous_standby_names
    followers            a primary's: application_names of those that stream from it
    can_rewind           whether pg_rewind could be used on it: wal_log_hints, or checksums
    functions            those of switchfunc.sql that it has
    """

    number: int
    name: str
    address: tuple[str, int]
    version: int = 0
    in_recovery: bool = True
    system: str = ""
    timeline: int = 0
    received: int = 0
    replayed: int = 0
    written: int = 0
    receiver: Receiver | None = None
    receiver_timeout_s: float = 60.0
    application_name: str = ""
    conninfo: str = ""
    slot: str = ""
    sync: str = ""
    followers: tuple[str, ...] = ()
    can_rewind: bool = False
    functions: frozenset[str] = field(default_factory=frozenset)

    @property
    def has(self) -> int:
        """How far its WAL goes. After a restart what was received can be less than what was replayed."""
        return max(self.received, self.replayed, self.written)


class Known(NamedTuple):
    """What was known of the primary while it answered.

    written   the end of its WAL when it was asked last
    sync      its synchronous_standby_names
    members   application_names of the standbys that it had
    """

    system: str = ""
    timeline: int = 0
    written: int = 0
    sync: str = ""
    members: tuple[str, ...] = ()


def witness(standbys: Sequence[Answer], asked: int, others: Collection[tuple[str, int]]) -> str | None:
    """Why the primary is not proven to be gone, or None.

    standbys   those that have answered; `asked` is how many there are
    others     addresses of servers that are not the primary, from which one may be fed
    """
    if not standbys:
        return "no standby can be asked whether the primary is gone" if asked else "there is no standby"
    for each in standbys:
        receiver = each.receiver
        if receiver is None or not receiver.is_connected or (receiver.host, receiver.port) in others:
            continue
        heard = f"it heard from it {receiver.silent_s:.1f} s ago"
        if each.receiver_timeout_s <= 0:
            return f"{each.name} still follows a server ({heard}), and its wal_receiver_timeout is 0: it always will"
        limit = f", and its wal_receiver_timeout is {each.receiver_timeout_s:g} s"
        return f"{each.name} still follows a server: {heard}{limit if receiver.silent_s > 1 else ''}"
    return None


def may_be_promoted(each: Answer, known: Known) -> str | None:
    """Why this server may not be the new primary, or None."""
    if known.system and each.system != known.system:
        return f"{each.name} is a server of another cluster (its system identifier is {each.system})"
    if not each.in_recovery:
        return f"{each.name} is no standby"
    if each.timeline < known.timeline:
        return f"{each.name} is on timeline {each.timeline}, and the primary was on {known.timeline}"
    if not each.has:
        return f"{each.name} has no WAL"
    return None


def is_promoted(each: Answer, known: Known) -> bool:
    """Whether somebody has made it the primary already."""
    return not each.in_recovery and each.system == known.system and each.timeline > known.timeline


class Choice(NamedTuple):
    """The one to be promoted, whether it is a synchronous standby, and what of the primary's WAL it may lack."""

    chosen: Answer
    is_sync: bool
    missing: int
    others: tuple[Answer, ...]
    against: tuple[str, ...]


def choose(answers: Sequence[Answer], known: Known, order: Sequence[int] = ()) -> Choice | str:
    """The standby with the newest WAL: timeline first, then the greater of received and replayed; among equals a
    synchronous one, then the one that stands first in the conf file.

    order     numbers of the pools, in the order of the conf file; default: as they are counted
    returns   a Choice, or why there is none
    """
    rule = syncnames.parse(known.sync)
    refused = {each.number: may_be_promoted(each, known) for each in answers}
    fit = [each for each in answers if refused[each.number] is None]
    against = tuple(reason for reason in refused.values() if reason)
    if not fit:
        return "; ".join(against) or "no standby answers"
    lacking = _members_lacking(fit, known, rule)
    if lacking:
        return lacking
    places = {number: place for place, number in enumerate(order)}

    def rank(each: Answer) -> tuple[int, int, bool, int]:
        is_sync = bool(rule.names) and rule.has(each.application_name)
        return each.timeline, each.has, is_sync, -places.get(each.number, each.number)

    best = max(fit, key=rank)
    missing = max(0, known.written - best.has)
    others = tuple(each for each in answers if each is not best)
    return Choice(best, rank(best)[2], missing, others, against)


def _members_lacking(fit: Sequence[Answer], known: Known, rule: Rule) -> str | None:
    needed = syncnames.needed_answers(rule, known.members)
    members = [each for each in fit if rule.has(each.application_name)]
    if rule.names and len(members) < needed:
        return (
            f"the primary waited for {rule.render()} at commit: {needed} of these must answer, so that none of its "
            f"commits is missed, and {len(members)} do"
        )
    return None
