"""Lines of the log that repeat themselves: a few are said, the rest is counted."""

from lib.summing import ALIKE, SAME, WHILE_S, Summing


def test_the_same_line_is_said_a_few_times_and_then_summed_up():
    summing = Summing()
    said = [summing.may_say(0.1 * index, "%s failed", 20, "a failed") for index in range(20)]
    assert said == [True] * SAME + [False] * (20 - SAME)
    assert summing.due(WHILE_S - 1) == []
    (total,) = summing.due(WHILE_S)
    assert str(total) == f"a failed ({20 - SAME} more like this within 10 s)"
    assert summing.may_say(WHILE_S, "%s failed", 20, "a failed")


def test_lines_that_differ_in_what_they_name_are_summed_up_by_their_kind():
    summing = Summing()
    levels = [20] * 60 + [30] + [20] * 100
    said = [summing.may_say(0.0, "%s failed", levels[at], f"{at} failed") for at in range(ALIKE + 30)]
    assert said == [True] * ALIKE + [False] * 30
    (total,) = summing.due(WHILE_S)
    assert (total.level, total.times, total.text) == (30, 30, f"{ALIKE + 29} failed")


def test_one_kind_does_not_silence_another():
    summing = Summing()
    for index in range(ALIKE * 2):
        summing.may_say(0.0, "%s failed", 20, f"{index} failed")
    assert summing.may_say(0.0, "%s is back", 20, "1 is back")


def test_nothing_is_kept_of_what_was_said_long_ago():
    summing = Summing()
    for index in range(1000):
        summing.may_say(0.0, f"{index}", 20, "x")
    assert summing.due(WHILE_S) == []
    assert repr(summing) == "<Summing kinds=0>"
