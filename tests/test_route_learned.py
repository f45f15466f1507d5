"""A shape that was found to leave something is followed from then on; others are asked after ever more rarely."""

from lib.route.learned import Learned
from lib.route.verdict import Kind, Verdict

DO = b"do $$ begin execute 'set a.b = 1'; end $$"
OPAQUE = Verdict(Kind.OPAQUE, clean=True, reason="runs what its text does not show")


def test_a_shape_is_followed_from_the_run_on_that_was_found_to_have_left_something():
    learned = Learned()
    assert learned.is_due(DO)
    assert learned.apply(DO, OPAQUE) is OPAQUE
    assert learned.left(DO, ["setting a.b"])
    verdict = learned.apply(DO, OPAQUE)
    assert (verdict.kind, verdict.clean, verdict.follows) == (Kind.OPAQUE, True, True)
    assert not (verdict.holds or verdict.session or verdict.spoils)
    assert verdict.reason == "was found to leave setting a.b in its session"
    assert learned.apply(b"do $$ begin end $$", OPAQUE) is OPAQUE


def test_it_is_told_once_and_not_asked_again():
    learned = Learned()
    assert learned.left(DO, ["setting a.b"])
    assert not learned.left(DO, ["setting a.b"])
    assert not learned.is_due(DO)


def test_what_leaves_nothing_is_asked_after_runs_that_become_rare():
    learned = Learned()
    assert [n for n in range(1, 100) if learned.is_due(DO)] == [1, 2, 3, 4, 8, 16, 32, 64]
    assert not learned.left(DO, [])
    learned.changed()
    assert learned.is_due(DO)


def test_what_is_more_than_settings_is_of_the_session_and_what_outlasts_cleaning_spoils():
    learned = Learned()
    learned.left(DO, ["a temporary object", "setting a.b"])
    assert learned.apply(DO, OPAQUE).session
    assert not learned.apply(DO, OPAQUE).spoils
    learned.left(b"slot", ["a temporary replication slot"])
    assert learned.apply(b"slot", OPAQUE).spoils and learned.apply(b"slot", OPAQUE).holds


def test_other_classes_are_left_alone():
    learned = Learned()
    learned.left(DO, ["setting a.b"])
    read = Verdict(Kind.SHAREABLE)
    assert learned.apply(DO, read) is read


def test_memory_is_bounded_and_what_leaves_something_is_forgotten_last():
    learned = Learned(max_shapes=3)
    learned.left(DO, ["setting a.b"])
    for n in range(10):
        learned.is_due(b"%d" % n)
    assert repr(learned) == "<Learned 1 shapes leave something, 2 nothing>"
    for n in range(10):
        learned.left(b"%d" % n, ["a cursor"])
    assert repr(learned) == "<Learned 3 shapes leave something, 0 nothing>"
    assert learned.apply(b"9", OPAQUE).follows


def test_a_reason_names_the_first_few():
    learned = Learned()
    learned.left(DO, [f"setting s{n}" for n in range(5)])
    assert learned.apply(DO, OPAQUE).reason == (
        "was found to leave setting s0, setting s1, setting s2 and 2 more in its session"
    )
