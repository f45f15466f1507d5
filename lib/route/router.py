"""What is known of a text, remembered by its shape.

Pure. The memos are bounded in entries and in bytes; when one is full it is emptied, which costs each shape one look.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count

from lib.route.catalog import Catalog
from lib.route.classify import classify
from lib.route.combine import combine
from lib.route.known import Known
from lib.route.learned import Learned
from lib.route.shape import shape
from lib.route.verdict import Kind, Verdict

MAX_REMEMBERED = 4096  # bytes; of a longer shape nothing is kept
MAX_BYTES = 8 << 20  # bytes of shapes kept in all
_SEES_STATEMENTS = b"pg_prepared_statement"
_SEES = Verdict(Kind.SESSION, clean=True, reason="sees the prepared statements of its session")
# Every digit a 0. Where no name has a digit in it, two texts that are then equal have one shape.
_ZEROS = bytes.maketrans(b"123456789", b"000000000")
# What may stand before a digit that is part of a name, a string or a parameter becomes an x.
_NAMES = bytes.maketrans(
    b"123456789" + b"abcdefghijklmnopqrstuvwyzABCDEFGHIJKLMNOPQRSTUVWXYZ_$\\'\"" + bytes(range(128, 256)),
    b"000000000" + b"x" * (56 + 128),
)
_ages = count()


class Router:
    """Gives what is known of the texts of one database.

    catalog      what the scan of the database found; setting a new one forgets all that is known
    max_entries  how many shapes are remembered
    age          changes whenever what is known of a text may be another object; no two routers have the same
    epoch        raised whenever the catalog may have changed: what was parsed before may be something else now
    """

    def __init__(self, catalog: Catalog, max_entries: int = 5000) -> None:
        self._catalog = catalog
        self._max_entries = max_entries
        self._learned = Learned()
        self._scanned = catalog
        self._memo: dict[bytes, Known] = {}  # by shape
        self._zeros: dict[bytes, Known] = {}  # by the text with each digit a 0
        self._past: dict[bytes, Known] = {}  # what was counted before all was forgotten
        self._bytes = self._zero_bytes = 0
        self.epoch = 0
        self.age = next(_ages)

    def __repr__(self) -> str:
        return f"<Router {len(self._memo)} shapes, {self._catalog!r}>"

    @property
    def catalog(self) -> Catalog:
        return self._catalog

    @catalog.setter
    def catalog(self, catalog: Catalog) -> None:
        if catalog != self._catalog:
            self._forget()
        if catalog != self._scanned and not catalog.is_unknown:
            self._learned.changed()
            self._scanned = catalog
        self._catalog = catalog

    def verdict(self, text: bytes) -> Verdict:
        """Say what `text` (as in Query or Parse, without the trailing NUL) is and leaves behind."""
        return self.known(text).verdict

    def asks_after(self, text: bytes) -> bool:
        """Count a run of `text`: True when it is opaque and its backend should be asked now what it has left."""
        verdict = self.verdict(text)
        may_ask = verdict.kind is Kind.OPAQUE and not (verdict.holds or verdict.follows or self._catalog.is_unknown)
        return may_ask and self._learned.is_due(shape(text))

    def is_in_doubt(self, text: bytes) -> bool:
        """Whether nothing is known of `text` but what an earlier scan said, if there was one: that it is opaque."""
        before = classify(shape(text), self._scanned) if self._catalog.is_unknown else None
        return before is not None and (before.kind is Kind.OPAQUE or before.follows)

    def left(self, text: bytes, traces: Sequence[str]) -> bool:
        """A run of `text` was found to have left `traces` (of backend.traces) in its session: True when that is new."""
        key = shape(text)
        if not self._learned.left(key, traces):
            return False
        known = self._memo.get(key)
        if known is not None:
            known.verdict = self._learned.apply(key, known.verdict)
        return True

    def known(self, text: bytes) -> Known:
        """The verdict of `text`, and what its shape has cost so far."""
        zeros = text.translate(_ZEROS)
        found = self._zeros.get(zeros)
        if found is not None:
            return found
        found = self._look_up(text)
        if b"x0" not in zeros.translate(_NAMES) and b'"' not in zeros and b"'" not in zeros:
            # One shape may have very many of these, which are forgotten by themselves.
            if len(self._zeros) >= self._max_entries or self._zero_bytes >= MAX_BYTES:
                self._forget_zeros()
            if len(zeros) <= MAX_REMEMBERED:
                self._zeros[zeros] = found
                self._zero_bytes += len(zeros)
        return found

    def shapes(self) -> Iterable[tuple[bytes, Known]]:
        """Every shape of which something may have been counted."""
        return {**self._past, **self._memo}.items()

    def _look_up(self, text: bytes) -> Known:
        found = self._memo.get(text)  # what has no literals is its own shape
        if found is not None:
            return found
        key = shape(text)
        found = self._memo.get(key)
        if found is None:
            verdict = classify(key, self._catalog)  # the shape says the same, and is shorter
            lower = key.lower()  # the name of a setting may be in a string, which a shape has no more
            names_setting = b"set_config" in lower or (b"set" in lower and b"." in lower)
            if _SEES_STATEMENTS in lower:
                verdict = combine(verdict, _SEES)
            found = Known(self._learned.apply(key, verdict), names_setting, b"set" in lower or b'&"' in lower)
            if key in self._past:
                found.count_on(self._past.pop(key))
            if len(key) <= MAX_REMEMBERED:
                if len(self._memo) >= self._max_entries or self._bytes >= MAX_BYTES:
                    self._forget()
                self._memo[key] = found
                self._bytes += len(key)
        return found

    def _forget(self) -> None:
        # What was counted of a shape is no less true when its verdict may be another one.
        is_much = len(self._past) + len(self._memo) > self._max_entries
        self._past = dict(self._memo) if is_much else {**self._past, **self._memo}
        self._memo.clear()
        self.age = next(_ages)
        self._bytes = 0
        self._forget_zeros()

    def _forget_zeros(self) -> None:
        self._zeros.clear()
        self._zero_bytes = 0
