"""Fake servers, and a pool in front of them that must have nothing of anybody left when a test is over."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.green.fake_server import FakeServer
from tests.green.small_pool import SmallPool


@pytest.fixture(scope="module", autouse=True)
def no_collections() -> Iterator[None]:
    """Looking at all that pytest has made takes long enough to be taken for a blocked loop."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def start() -> Iterator[Callable[..., SmallPool]]:
    """start(standbys=0, **settings): a pool with its servers."""
    started: list[SmallPool] = []

    def start(standbys: int = 0, **settings: Any) -> SmallPool:
        pool = SmallPool(*(FakeServer() for _ in range(1 + standbys)), **settings)
        started.append(pool)
        return pool

    yield start
    try:
        for pool in started:
            pool.settle()
    finally:
        for pool in started:
            pool.close()


@pytest.fixture
def pool(start: Callable[..., SmallPool]) -> SmallPool:
    """One worker and no more: who comes next gets what the one before had."""
    return start(max_workers=0, worker_per_fe_cnt=1000)
