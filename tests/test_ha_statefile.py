"""What a pool keeps of who is the primary: whole or not at all, whatever happens while it is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lib.addresses import Address
from lib.ha.statefile import State, StateFile, StateFileUnusable

STATE = State(
    primary=Address("db2", 5432), target=Address("fd00::3", 5433), former=(Address("db1", 5432),),
    pending=(Address("/var/run", 5432), Address("db4", 1)), timeline=7, system="7001", written=123456789,
    sync='ANY 1 ("two words", b)', members=("two words", "b, c", 'say "hi"'),
)  # fmt: skip


def saved(path: Path, state: State = STATE) -> StateFile:
    file = StateFile(str(path))
    file.change(**{name: getattr(state, name) for name in state.__dataclass_fields__})
    assert file.save() == ""
    return file


def test_what_was_saved_is_read(tmp_path):
    saved(tmp_path / "pool.state")
    assert StateFile(str(tmp_path / "pool.state")).read() == STATE


def test_an_empty_state_is_read_as_one(tmp_path):
    saved(tmp_path / "pool.state", State())
    assert StateFile(str(tmp_path / "pool.state")).read() == State()


def test_no_file_is_no_state(tmp_path):
    assert StateFile(str(tmp_path / "pool.state")).read() == State()
    assert StateFile("").read() == State()


def test_the_file_tells_who_reads_it_what_to_do(tmp_path):
    saved(tmp_path / "pool.state")
    text = (tmp_path / "pool.state").read_text()
    assert "To have the conf file hold again" in text
    assert "primary = db2:5432" in text


def test_what_is_no_state_is_refused_instead_of_being_taken_for_none(tmp_path):
    for text in ("primary = nonsense", "timeline = x", "[", "\0\0\0"):
        (tmp_path / "pool.state").write_text(text)
        with pytest.raises(StateFileUnusable):
            StateFile(str(tmp_path / "pool.state")).read()


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "pool.state").mkdir()
    with pytest.raises(StateFileUnusable, match="cannot be read"):
        StateFile(str(tmp_path / "pool.state")).read()


def test_a_state_that_cannot_be_written_is_told_and_the_old_one_stays(tmp_path, monkeypatch):
    file = saved(tmp_path / "pool.state")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        file.change(target=None)
        assert file.save().endswith("cannot be written: No space left on device")
        assert StateFile(file.path).read() == STATE
    assert file.save() == ""
    assert StateFile(file.path).read().target is None


def test_there_is_room_for_the_next_state_when_the_disk_is_full(tmp_path):
    """The room for it was taken with the last one, so nothing new has to be had of the disk."""
    file = saved(tmp_path / "pool.state")
    assert os.path.getsize(file.path + ".new") == os.path.getsize(file.path) == 8192


def test_it_is_renamed_into_place_only_when_it_is_on_the_disk(tmp_path, monkeypatch):
    order = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("rename"), rename(*names))[1])
    saved(tmp_path / "pool.state")
    assert order[:3] == ["fsync", "rename", "fsync"]


def test_nothing_is_written_when_nothing_has_changed(tmp_path):
    file = saved(tmp_path / "pool.state")
    before = os.stat(file.path).st_ino
    assert file.save() == ""
    assert os.stat(file.path).st_ino == before
