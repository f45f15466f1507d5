"""Where a primary has left the timelines before its own, and who has gone another way."""

import pytest

from lib.backend import freshness
from lib.ha import history

TEXT = """\
# a comment
1\t0/3000148\tno recovery target specified

2\tA/50000D8\tno recovery target specified

nonsense
3\tx/y\tunreadable
"""


def test_a_history_file_is_read_as_the_server_reads_it():
    assert history.parse(TEXT) == {1: 0x3000148, 2: 0xA050000D8}
    assert history.parse("") == {}
    assert history.file_name(26) == "pg_wal/0000001A.history"


@pytest.mark.parametrize("text", ["0/0", "0/3000148", "A/50000D8", "FFFFFFFF/FFFFFFFF"])
def test_positions_are_shown_as_they_are_read(text):
    assert freshness.shown(history.lsn(text)) == text


@pytest.mark.parametrize("timeline, replayed", [(1, 0x3000148), (1, 0x20), (2, 0xA050000D8), (3, 1 << 60), (0, 9)])
def test_who_has_replayed_no_more_of_a_timeline_than_the_primary_can_follow_it(timeline, replayed):
    assert history.beyond(timeline, replayed, history.parse(TEXT)) is None


def test_who_has_replayed_more_can_not_and_is_told_where_they_parted():
    assert history.beyond(1, 0x3000149, history.parse(TEXT)) == (
        "it has replayed timeline 1 up to 0/3000149, and the primary has left that at 0/3000148: "
        "it has WAL of another primary, and can never follow this one"
    )
