"""Growth is asked for when somebody had to wait most of the time, however short each of them waited."""

from lib.backend.crowd import Crowd


def looked(crowd: Crowd, *waited: bool, began: float = 0.0) -> float:
    """Look every 10 ms; in the n-th of these somebody had to wait for a moment, or nobody."""
    for number, had_to in enumerate(waited):
        if had_to:
            crowd.waits(began + number * 0.01)
        crowd.look(False, began + (number + 1) * 0.01)
    return round(crowd.seconds, 3)


def test_short_waits_with_breaks_between_them_add_up():
    """The queue of 16 clients with short statements on 13 workers is empty again and again; nothing grew any more."""
    assert looked(Crowd(), True, True, True) == 0.03


def test_time_in_which_nobody_had_to_wait_is_taken_off_again():
    assert looked(Crowd(), True, False) == 0.0
    assert looked(Crowd(), True, True, True, False) == 0.02


def test_a_wait_that_goes_on_counts_from_its_beginning_only():
    crowd = Crowd()
    crowd.look(False, 0.0)
    crowd.waits(0.24)
    assert crowd.look(True, 0.25)
    assert crowd.look(True, 0.26)
    assert round(crowd.seconds, 3) == 0.02


def test_it_begins_anew_when_a_worker_is_on_its_way():
    crowd = Crowd()
    looked(crowd, True, True)
    crowd.eased()
    assert crowd.seconds == 0.0
    assert not crowd.look(False, 0.03)


def test_its_repr_says_for_how_long():
    crowd = Crowd()
    looked(crowd, True, True)
    assert repr(crowd) == "<Crowd 20 ms>"
