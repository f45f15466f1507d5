"""Which standby takes the place of a primary, and the reasons why none may."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.ha import choice, syncnames
from lib.ha.choice import Answer, Choice, Known, Receiver

SYSTEM = "7001"
KNOWN = Known(SYSTEM, 1, 1000)


def standby(number: int, **values) -> Answer:
    own = {
        "name": f"server db{number}:5432", "address": (f"db{number}", 5432), "version": 160000, "system": SYSTEM,
        "timeline": 1, "received": 1000, "replayed": 1000, "receiver_timeout_s": 2.0,
        "application_name": f"standby{number}",
    }  # fmt: skip
    return Answer(number, **{**own, **values})


def hears(host: str = "db1", port: int = 5432, status: str = "streaming", silent_s: float = 0.4) -> Receiver:
    return Receiver(status, host, port, silent_s)


# --- proof -----------------------------------------------------------------------------------------------------------


def test_a_standby_that_still_follows_the_primary_is_a_reason():
    reason = choice.witness([standby(2), standby(3, receiver=hears())], 2, ())
    assert reason == "server db3:5432 still follows a server: it heard from it 0.4 s ago"


def test_a_receiver_that_would_never_notice_is_a_reason_that_says_so():
    reason = choice.witness([standby(2, receiver=hears(silent_s=20), receiver_timeout_s=0)], 1, ())
    assert reason is not None
    assert "its wal_receiver_timeout is 0: it always will" in reason


def test_a_long_timeout_is_told():
    reason = choice.witness([standby(2, receiver=hears(silent_s=12), receiver_timeout_s=60)], 1, ())
    assert reason is not None
    assert reason.endswith("12.0 s ago, and its wal_receiver_timeout is 60 s")


def test_nobody_is_promoted_when_no_standby_can_be_asked():
    assert choice.witness([], 2, ()) == "no standby can be asked whether the primary is gone"
    assert choice.witness([], 0, ()) == "there is no standby"


def test_a_standby_that_follows_another_standby_says_nothing_of_the_primary():
    cascaded = standby(3, receiver=hears("db2"))
    assert choice.witness([standby(2), cascaded], 2, {("db2", 5432), ("db3", 5432)}) is None


@pytest.mark.parametrize("status", ["starting", "stopped", "stopping"])
def test_a_receiver_that_looks_for_its_sender_does_not_hear_it(status):
    assert choice.witness([standby(2, receiver=hears(status=status))], 1, ()) is None


# --- choice ----------------------------------------------------------------------------------------------------------


def chosen(*answers: Answer, known: Known = KNOWN) -> Choice:
    found = choice.choose(answers, known)
    assert isinstance(found, Choice), found
    return found


def test_the_one_that_has_received_most_is_chosen_even_if_it_has_replayed_less():
    found = chosen(standby(2, received=900, replayed=900), standby(3, received=990, replayed=100))
    assert (found.chosen.number, found.missing) == (3, 10)
    assert [each.number for each in found.others] == [2]


def test_after_a_restart_what_was_replayed_counts():
    assert chosen(standby(2, received=900, replayed=900), standby(3, received=0, replayed=950)).chosen.number == 3


def test_a_newer_timeline_counts_more_than_more_wal():
    assert chosen(standby(2, received=5000), standby(3, timeline=2, received=900)).chosen.number == 3


def test_among_equals_the_order_of_the_conf_file_decides():
    assert chosen(standby(3), standby(2)).chosen.number == 2
    found = choice.choose([standby(2), standby(3)], KNOWN, order=[3, 2])
    assert isinstance(found, Choice)
    assert found.chosen.number == 3


def test_among_equals_a_synchronous_one_is_preferred():
    found = chosen(standby(2), standby(3), known=KNOWN._replace(sync="standby3"))
    assert (found.chosen.number, found.is_sync) == (3, True)


def test_nothing_is_said_to_be_missing_when_it_has_more_than_the_primary_was_seen_with():
    assert chosen(standby(2, received=2000)).missing == 0


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"system": "7002"}, "server db2:5432 is a server of another cluster (its system identifier is 7002)"),
        ({"in_recovery": False}, "server db2:5432 is no standby"),
        ({"timeline": 0}, "server db2:5432 is on timeline 0, and the primary was on 1"),
        ({"received": 0, "replayed": 0}, "server db2:5432 has no WAL"),
    ],
)
def test_who_may_not_be_promoted_and_why(values, reason):
    assert choice.choose([standby(2, **values)], KNOWN) == reason
    found = chosen(standby(2, **values), standby(3, received=1))
    assert (found.chosen.number, found.against) == (3, (reason,))


def test_nobody_to_choose_from_is_a_reason():
    assert choice.choose([], KNOWN) == "no standby answers"


def test_of_any_1_of_3_all_must_answer_or_a_commit_could_be_missed():
    known = KNOWN._replace(sync="ANY 1 (standby2, standby3, standby4)")
    found = choice.choose([standby(2), standby(3)], known)
    assert isinstance(found, str)
    assert found.endswith("3 of these must answer, so that none of its commits is missed, and 2 do")
    assert chosen(standby(2), standby(3), standby(4, received=1001), known=known).chosen.number == 4


def test_of_any_2_of_3_two_are_enough():
    known = KNOWN._replace(sync="ANY 2 (standby2, standby3, standby4)")
    assert chosen(standby(2), standby(4), known=known).chosen.number == 2
    assert isinstance(choice.choose([standby(2)], known), str)


def test_a_rule_for_all_counts_those_that_the_primary_was_seen_with():
    known = KNOWN._replace(sync="*", members=("standby2", "standby3"))
    assert isinstance(choice.choose([standby(2)], known), str)
    assert chosen(standby(2), standby(3), known=known).chosen.number == 2


def test_one_that_was_promoted_by_somebody_else_is_recognised():
    assert choice.is_promoted(standby(2, in_recovery=False, timeline=2), KNOWN)
    assert not choice.is_promoted(standby(2, in_recovery=False, timeline=1), KNOWN)
    assert not choice.is_promoted(standby(2, in_recovery=False, timeline=2, system="7002"), KNOWN)


@given(
    st.integers(1, 5).flatmap(
        lambda n: st.tuples(
            st.just(n), st.integers(1, n), st.lists(st.sets(st.integers(1, n)), max_size=20),
            st.sets(st.integers(1, n)),
        )
    )
)  # fmt: skip
def test_no_commit_that_enough_members_have_acknowledged_is_ever_lost(drawn):
    """n members, of which any k acknowledge each commit; whoever is chosen of those that answer has them all."""
    members, number, commits, answering = drawn
    reached = dict.fromkeys(range(1, members + 1), 1)
    acknowledged = 1
    for lsn, having in enumerate(commits, 2):
        for member in having:
            reached[member] = lsn
        if len(having) >= number:
            acknowledged = lsn
    rule = f"ANY {number} ({', '.join(f'standby{each}' for each in reached)})"
    answers = [standby(each, received=reached[each], replayed=0) for each in answering]
    found = choice.choose(answers, KNOWN._replace(sync=rule))
    if isinstance(found, Choice):
        assert found.chosen.has >= acknowledged
    else:
        assert len(answering) < members - number + 1


# --- synchronous_standby_names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", ("FIRST", 0, ())),
        ("a", ("FIRST", 1, ("a",))),
        ("a, b", ("FIRST", 1, ("a", "b"))),
        ("*", ("FIRST", 1, ("*",))),
        ("2 (a, b, c)", ("FIRST", 2, ("a", "b", "c"))),
        ("first 2 (a,b)", ("FIRST", 2, ("a", "b"))),
        ('ANY 1 ("two words", "say ""hi""", b)', ("ANY", 1, ("two words", 'say "hi"', "b"))),
        ('any, "first"', ("FIRST", 1, ("any", "first"))),
        ("what is ((this", ("FIRST", 1, ("*",))),
    ],
)
def test_synchronous_standby_names_are_read_as_the_server_does(text, rule):
    assert tuple(syncnames.parse(text)) == rule


@given(st.lists(st.text(min_size=1).filter(lambda name: "\0" not in name and name != "*"), min_size=1, max_size=4))
def test_a_rule_that_is_written_is_read_as_the_same(names):
    rule = syncnames.Rule("ANY", 1, tuple(names))
    assert syncnames.parse(rule.render()) == rule


def test_names_are_compared_without_case():
    assert syncnames.parse("Standby2").has("standby2")


def test_a_new_primary_waits_for_no_more_than_there_are():
    rule = syncnames.parse("ANY 2 (a, b, c)")
    assert syncnames.satisfiable(rule, ["a", "c"]) == rule
    assert syncnames.satisfiable(rule, ["a"]).render() == 'ANY 1 ("a", "b", "c")'
    assert syncnames.satisfiable(rule, ["d"]).render() == ""
    assert syncnames.satisfiable(syncnames.parse("*"), ["a"]).render() == "FIRST 1 (*)"
    assert syncnames.satisfiable(syncnames.parse(""), []).render() == ""


def test_what_a_server_has_is_the_most_that_it_says():
    assert replace(standby(2), received=1, replayed=3, written=2).has == 3
