"""Who is the primary: what the pool thinks of it, and commands that change it.

Green. What is done is `lib.ha`'s; here it is asked for, and told step by step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import gevent

from lib.addresses import Address, address
from lib.checks import Wrong
from lib.console.house import Caller, House, Row, reply
from lib.console.parsing import Request
from lib.errors import CannotBeDone, UnknownObject, ValueUnfit
from lib.ha.holding import CannotHold
from lib.ha.rejoin import rejoin
from lib.ha.switchover import Refused, Switchover

if TYPE_CHECKING:
    from lib.backend.pool import Pool
    from lib.ha.executor import Guardian

_PATIENCE_S = 1.0
_LOOK_S = 0.005
_LONGEST_NAME = 100
_HINT = '"ha list" shows who holds.'
_read = address()


def _guardian(house: House) -> Guardian:
    if house.ha is None:
        raise CannotBeDone("this process switches nothing")
    return house.ha


def _pool(house: House, number: int) -> Pool:
    pools = [*house.cluster.pools, *house.cluster.former]
    found = next((pool for pool in pools if pool.number == number), None)
    if found is None:
        raise UnknownObject(f"there is no pool {number}", hint='"pool list" shows all.')
    return found


@reply("ha list")
def _ha(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    ha = _guardian(house)
    known, file = ha.watch.known, ha.file.state
    left_out = [pool for pool in house.cluster.former if pool in ha.following.why]
    yield (
        house.settings.enable_ha, str(house.cluster.primary.address), ha.machine.state.value, ha.machine.failures,
        ha.machine.refusal or None, known.timeline or None, known.sync or None,
        ", ".join(map(str, file.former)) or None, ", ".join(map(str, file.pending)) or None,
        ", ".join(f"{peer}: {why}" for peer, why in ha.peers.untold.items()) or None, ha.switches,
        ha.last_switch or None, time.strftime("%F %T", time.localtime(ha.switched_at)) if ha.switched_at else None,
        ha.holding.shown(time.monotonic()) or None,
        "; ".join(f"{pool.address}: {ha.following.why[pool]}" for pool in left_out) or None,
    )  # fmt: skip


@reply("pool switchover dry run")
def _dry_run(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    yield from _switchover(house, caller, request).plan().rows()


@reply("pool switchover")
def _run(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    try:
        yield from _switchover(house, caller, request).run()
    except Refused as refused:
        raise CannotBeDone(str(refused), hint='"pool switchover dry run" says all that is against it.') from None


def _switchover(house: House, caller: Caller, request: Request) -> Switchover:
    number = request.values["pool_id"]
    to = _pool(house, number) if number is not None else None
    if to is house.cluster.primary:
        raise CannotBeDone(f"pool {to.number} is the primary already")
    return Switchover(_guardian(house), to, caller.check_wanted, request.values.get("force") is not None)


@reply("pool hold")
def _hold(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    """Answers when it is quiet, or after a second that it is not yet: who asks says again that he is there."""
    holding, name, began = _guardian(house).holding, _who(request), time.monotonic()
    try:
        holding.hold(name, began)
    except CannotHold as error:
        raise CannotBeDone(str(error)) from None
    try:
        while not holding.is_quiet and time.monotonic() - began < _PATIENCE_S:
            caller.check_wanted()
            gevent.sleep(_LOOK_S)
    except BaseException:  # as if nothing had been said
        holding.release(name)
        raise
    yield holding.is_quiet, max(0.0, holding.until.get(name, 0.0) - time.monotonic())


@reply("pool release")
def _release(house: House, caller: Caller, request: Request) -> None:
    holding = _guardian(house).holding
    if not holding.release(_who(request)):
        raise CannotBeDone("nothing is held" + (f" for {_who(request)}" if _who(request) else ""), hint=_HINT)


def _who(request: Request) -> str:
    """Holds have names, so that nobody releases another one's; an administrator's has none.

    raises   ValueUnfit
    """
    name: str = request.values["who"] or ""
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise ValueUnfit(f"a name of up to {_LONGEST_NAME} printable characters is wanted")
    return name


@reply("pool rejoin")
def _rejoin(house: House, caller: Caller, request: Request) -> Iterator[Row]:
    ha = _guardian(house)
    try:
        yield from rejoin(ha, _pool(house, request.values["pool_id"]), ha.as_admin)
    except Refused as refused:
        raise CannotBeDone(str(refused)) from None


@reply("pool changemaster")
def _change_master(house: House, caller: Caller, request: Request) -> None:
    text = request.values["pool_id|host:port"]
    try:
        where = Address(*_pool(house, int(text)).address) if text.isdigit() else _read(text, True)
    except Wrong as wrong:
        raise ValueUnfit(f"{text!r} is neither a pool's id nor an address", hint=wrong.problems[0].wanted) from None
    try:
        _guardian(house).adopt(where)
    except Refused as refused:
        raise CannotBeDone(str(refused)) from None
