"""What a pool must not forget: who is the primary since the last switch, and what was under way.

Plain: a small file of ConfigObj's, written whole, synced and renamed into place before anything that it says is told to
anybody. A pool that is killed at any moment so finds either the old or the new state, and never half of one. So that it
can be written when the disk is full, the room for the next state is taken with the last one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from configobj import ConfigObj, ConfigObjError

from lib.addresses import Address, address
from lib.checks import Wrong

_ROOM_BYTES = 8192
_HEAD = [
    "# Who is the primary, as this pool has found or made it: it wins over the conf file. Written by pgstmtpool.",
    "# To have the conf file hold again: stop the pool, be sure that `master` is the primary, and remove this file.",
]


class StateFileUnusable(Exception):
    """It could not be read; the message says why."""


@dataclass(frozen=True)
class State:
    """What is kept.

    primary   None: as the conf file says
    target    the standby that is being promoted in the place of `primary`
    former    servers that were the primary and have not come back as standbys
    pending   standbys that still have to be told who the primary is
    timeline, system, written, sync, members   as in choice.Known
    """

    primary: Address | None = None
    target: Address | None = None
    former: tuple[Address, ...] = ()
    pending: tuple[Address, ...] = ()
    timeline: int = 0
    system: str = ""
    written: int = 0
    sync: str = ""
    members: tuple[str, ...] = ()


class StateFile:
    """The file and what is in it.

    path   '' for none: then nothing is kept
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.state = State()
        self._saved: State | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<StateFile {self.path or '-'} {self.state.primary or '-'}>"

    @property
    def _spare(self) -> str:
        return self.path + ".new"

    def read(self) -> State:
        """What was kept; an empty state when there is no file.

        raises   StateFileUnusable
        """
        try:
            source = Path(self.path).read_bytes() if self.path else b""
        except FileNotFoundError:
            return self.state
        except OSError as error:
            raise StateFileUnusable(f"{self.path} cannot be read: {error.strerror}") from None
        try:
            found = ConfigObj(BytesIO(source.rstrip(b"\n ") + b"\n"), encoding="utf-8", interpolation=False)
            self.state = _state(found)
        except (ConfigObjError, Wrong, ValueError) as error:
            said = error.problems[0].wanted if isinstance(error, Wrong) else error
            raise StateFileUnusable(f"{self.path} is not what this pool has written: {said}") from None
        return self.state

    def change(self, **values: Any) -> None:
        """What is to be kept now; `save` writes it."""
        self.state = replace(self.state, **values)

    def save(self) -> str:
        """Write the state, in any thread: why that could not be done, or nothing. Called again it tries again."""
        with self._lock:
            state = self.state
            if not self.path or state == self._saved:
                return ""
            try:
                self._write(_lines(state))
            except OSError as error:
                return f"{self.path} cannot be written: {error.strerror}"
            self._saved = state
            return ""

    def _write(self, lines: list[bytes]) -> None:
        text = b"\n".join(lines) + b"\n"
        with open(self._spare, "r+b" if os.path.exists(self._spare) else "w+b") as file:
            file.write(text.ljust(_ROOM_BYTES, b"\n"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(self._spare, self.path)
        directory = os.open(os.path.dirname(os.path.abspath(self.path)), os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        try:
            with open(self._spare, "wb") as file:
                file.write(b"\n" * _ROOM_BYTES)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            pass  # what had to be kept is; the next change will tell


def _lines(state: State) -> list[bytes]:
    conf = ConfigObj(encoding="utf-8", interpolation=False)
    conf.initial_comment = _HEAD
    for each in fields(State):
        value = getattr(state, each.name)
        if isinstance(value, Address):
            conf[each.name] = str(value)
        elif isinstance(value, tuple) and not isinstance(value, str):
            conf[each.name] = [str(entry) for entry in value]
        elif value is not None:
            conf[each.name] = str(value)
    return list(conf.write())


_address = address()


def _state(found: Mapping[str, Any]) -> State:
    def addresses(name: str) -> tuple[Address, ...]:
        return tuple(_address(each, True) for each in _list(found.get(name)))

    def one(name: str) -> Address | None:
        return _address(found[name], True) if found.get(name) else None

    return State(
        primary=one("primary"), target=one("target"), former=addresses("former"), pending=addresses("pending"),
        timeline=int(found.get("timeline", 0)), system=found.get("system", ""), written=int(found.get("written", 0)),
        sync=found.get("sync", ""), members=tuple(_list(found.get("members"))),
    )  # fmt: skip


def _list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) and value else list(value or ())
