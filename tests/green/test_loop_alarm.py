"""The alarm that all tests here have around them: what it takes for a blocked loop, and what for a busy machine."""

import hashlib
import subprocess
import sys
import time

import gevent
import pytest

from tests.loop_alarm import LoopAlarm

TRIES = 5  # the machine may do something else meanwhile, but not each time


def measured(block) -> float:
    """The worst gap in ms while a green thread runs block()."""
    with LoopAlarm() as alarm:
        gevent.sleep(0.01)
        gevent.spawn(block).join()
        gevent.sleep(0.01)
    return alarm.worst_ms


def spin(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


@pytest.mark.loop_gap_ms(1000)
def test_sleeping_in_the_thread_of_the_loop_is_noticed():
    assert any(measured(lambda: time.sleep(0.2)) > 150 for _ in range(TRIES))


@pytest.mark.loop_gap_ms(1000)
def test_computing_in_the_thread_of_the_loop_is_noticed():
    assert any(measured(lambda: spin(0.05)) > 40 for _ in range(TRIES))


@pytest.mark.loop_gap_ms(1000)
def test_c_code_that_keeps_other_threads_from_running_is_noticed_too():
    data = b"x" * 2000  # hashlib lets other threads run only above 2047 bytes

    def hash_for_a_while():
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            hashlib.sha256(data)

    assert any(measured(hash_for_a_while) > 40 for _ in range(TRIES))


def test_a_green_sleep_is_no_gap():
    assert any(measured(lambda: gevent.sleep(0.05)) < 10 for _ in range(TRIES))


def test_a_machine_with_too_much_to_do_is_not_taken_for_a_blocked_loop():
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(8)]
    try:
        assert any(measured(lambda: gevent.sleep(0.3)) < 20 for _ in range(TRIES))
    finally:
        for hog in hogs:
            hog.kill()
        for hog in hogs:
            hog.wait()
