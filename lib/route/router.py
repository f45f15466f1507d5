"""What is known of a text, remembered by its shape.

Pure. The memo is bounded in entries and in bytes; when it is full it is emptied, which costs each shape one look.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lib.route.catalog import Catalog
from lib.route.classify import classify
from lib.route.known import Known
from lib.route.learned import Learned
from lib.route.shape import shape
from lib.route.verdict import Kind, Verdict

MAX_REMEMBERED = 4096  # bytes; of a longer shape nothing is kept
MAX_BYTES = 8 << 20  # bytes of shapes kept in all
_BEFORE_NUMBER = frozenset((b"=", b"<", b">", b",", b"("))
_LITERAL = re.compile(rb"[0-9']")  # a stem with another literal in it would hardly be met again
# Every digit a 0. Where no name has a digit in it, two texts that are then equal have one shape.
_ZEROS = bytes.maketrans(b"123456789", b"000000000")
# What may stand before a digit that is part of a name, a string or a parameter becomes an x.
_NAMES = bytes.maketrans(
    b"123456789" + b"abcdefghijklmnopqrstuvwyzABCDEFGHIJKLMNOPQRSTUVWXYZ_$\\'\"" + bytes(range(128, 256)),
    b"000000000" + b"x" * (56 + 128),
)


class Router:
    """Gives what is known of the texts of one database.

    catalog      what the scan of the database found; setting a new one forgets all that is known
    max_entries  how many shapes are remembered
    """

    def __init__(self, catalog: Catalog, max_entries: int = 5000) -> None:
        self._catalog = catalog
        self._max_entries = max_entries
        self._learned = Learned()
        self._scanned = catalog
        self._memo: dict[bytes, Known] = {}  # by shape
        self._stems: dict[bytes, Known] = {}  # by the text before a number at its end
        self._zeros: dict[bytes, Known] = {}  # by the text with each digit a 0
        self._bytes = 0

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
        """Count a run of `text`: True when it is opaque and its backend should be asked what it has left."""
        verdict = self.verdict(text)
        may_ask = verdict.kind is Kind.OPAQUE and not verdict.holds and not self._catalog.is_unknown
        return may_ask and self._learned.is_due(shape(text))

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
        found = self._memo.get(text)  # what has no literals is its own shape
        if found is not None:
            return found
        # The number at the end of a look-up ("... where id = 42;") is taken off without a regular expression. Behind an
        # operator or a comma only a number begins with a digit, and blanks and semicolons behind it add no statement.
        stem = text.rstrip(b"; ").rstrip(b"0123456789")
        found = self._stems.get(stem)
        if found is not None:
            return found
        zeros = b""
        if b"x0" not in text.translate(_NAMES) and b'"' not in text:
            zeros = text.translate(_ZEROS)
            found = self._zeros.get(zeros)
            if found is not None:
                return found
        found = self._look_up(text)
        if stem.rstrip(b" ")[-1:] in _BEFORE_NUMBER and not _LITERAL.search(stem):
            self._remember(self._stems, stem, found)
        elif zeros and b"'" not in zeros:
            self._remember(self._zeros, zeros, found)
        return found

    def _look_up(self, text: bytes) -> Known:
        key = shape(text)
        found = self._memo.get(key)
        if found is None:
            verdict = classify(key, self._catalog)  # the shape says the same, and is shorter
            lower = key.lower()  # the name of a setting may be in a string, which a shape has no more
            names_setting = b"set_config" in lower or (b"set" in lower and b"." in lower)
            found = Known(self._learned.apply(key, verdict), names_setting)
            self._remember(self._memo, key, found)
        return found

    def _remember(self, memo: dict[bytes, Known], key: bytes, found: Known) -> None:
        if len(key) <= MAX_REMEMBERED:
            if len(memo) >= self._max_entries or self._bytes >= MAX_BYTES:
                self._forget()
            memo[key] = found
            self._bytes += len(key)

    def _forget(self) -> None:
        self._memo.clear()
        self._stems.clear()
        self._zeros.clear()
        self._bytes = 0
