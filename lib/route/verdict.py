"""What the pool knows of a text before it runs: the class of design section 5 and the flags that follow from it.

Pure data. The class says how the text may be dispatched; the flags say what must be done afterwards, and they are right
inside a transaction block too, where the caller collects them until the transaction ends.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Kind(enum.IntEnum):
    """The classes of statements, the graver one later: a statement that is several of them is the gravest."""

    SHAREABLE = 0  # reads, quickly forgotten: may have riders, may be run again
    WRITE = 1  # statement-level, but nothing rides behind it
    TRANSACTION = 2  # begins, ends or presupposes a transaction
    SETTING = 3  # changes settings of the session, which are then the frontend's
    SESSION = 4  # leaves something else in the session
    OPAQUE = 5  # could do anything
    REFUSED = 6  # would answer with what another frontend's session did


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a refused statement is told: the material of errors.StatementRefused."""

    sqlstate: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one text is and leaves behind."""

    kind: Kind
    standby: bool = False  # begins with exactly /*s*/
    clean: bool = False  # the worker must be cleaned (DISCARD ALL) before anybody else has it
    holds: bool = False  # leaves session state that must stay with the frontend
    follows: bool = False  # may leave some that can be asked for: what it is decides who has the worker then
    spoils: bool = False  # DISCARD ALL does not undo it: the worker must be closed before anybody else has it
    session: bool = False  # some of that state is more than settings: what session_features = 'reject' refuses
    sets: frozenset[str] = frozenset()  # settings given a value for the session, in lower case; "*": unknown ones
    resets: frozenset[str] = frozenset()  # names given to RESET or SET ... TO DEFAULT; "*": all but who one is
    local_sets: frozenset[str] = frozenset()  # custom settings (with a dot) that were SET LOCAL; "*": in the text
    local_resets: frozenset[str] = frozenset()  # names given to SET LOCAL ... TO DEFAULT
    releases: bool = False  # may take away session state that holds a worker: UNLISTEN, CLOSE, DROP ...
    discards: bool = False  # exactly one DISCARD ALL
    deallocates: frozenset[str] = frozenset()  # names, as SQL reads them, of prepared statements; "*": all
    frees: frozenset[str] = frozenset()  # databases that nobody may be connected to while it runs
    ends: bool = False  # exactly one COMMIT, END, ROLLBACK or ABORT: leaves a failed transaction
    transaction: bool = False  # begins a transaction block or lives in one: what transactions = 'reject' refuses
    ddl: bool = False  # may change the catalog: the scan is refreshed after it
    currval: bool = False  # the refusal holds only outside a transaction and for a frontend that holds no worker
    reason: str = ""  # one clause, for `explain route`
    refusal: Refusal | None = None  # set when kind is REFUSED

    @property
    def may_commit(self) -> bool:
        """Whether it may end the transaction that it runs in, so that what was done before it may stay."""
        return self.ends or self.transaction or self.kind in (Kind.TRANSACTION, Kind.OPAQUE)
