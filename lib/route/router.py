"""The verdict of a text, remembered by its shape.

Pure. The memo is bounded in entries and in bytes; when it is full it is emptied, which costs each shape one look.
"""

from __future__ import annotations

import re

from lib.route.catalog import Catalog
from lib.route.classify import classify
from lib.route.shape import shape
from lib.route.verdict import Verdict

MAX_REMEMBERED = 4096  # bytes; the verdict of a longer shape is not kept
MAX_BYTES = 8 << 20  # bytes of shapes kept in all
_BEFORE_NUMBER = frozenset((b"=", b"<", b">", b",", b"("))
_LITERAL = re.compile(rb"[0-9']")  # a stem with another literal in it would hardly be met again


class Router:
    """Gives verdicts for the texts of one database.

    catalog      what the scan of the database found; setting a new one forgets all verdicts
    max_entries  how many shapes are remembered
    """

    def __init__(self, catalog: Catalog, max_entries: int = 10000) -> None:
        self._catalog = catalog
        self._max_entries = max_entries
        self._memo: dict[bytes, Verdict] = {}  # by shape
        self._stems: dict[bytes, Verdict] = {}  # by the text before a number at its end
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
        self._catalog = catalog

    def verdict(self, text: bytes) -> Verdict:
        """Say what `text` (as in Query or Parse, without the trailing NUL) is and leaves behind."""
        known = self._memo.get(text)  # what has no literals is its own shape
        if known is not None:
            return known
        # The number at the end of a look-up ("... where id = 42;") is taken off without a regular expression. Behind
        # an operator or a comma only a number begins with a digit, and digits, blanks and semicolons add no statement.
        stem = text.rstrip(b"0123456789; ")
        known = self._stems.get(stem)
        if known is not None:
            return known
        verdict = self._look_up(text)
        if stem[-1:] in _BEFORE_NUMBER and not _LITERAL.search(stem):
            self._remember(self._stems, stem, verdict)
        return verdict

    def _look_up(self, text: bytes) -> Verdict:
        key = shape(text)
        known = self._memo.get(key)
        if known is not None:
            return known
        verdict = classify(key, self._catalog)  # the shape says the same, and is shorter
        self._remember(self._memo, key, verdict)
        return verdict

    def _remember(self, memo: dict[bytes, Verdict], key: bytes, verdict: Verdict) -> None:
        if len(key) <= MAX_REMEMBERED:
            if len(memo) >= self._max_entries or self._bytes >= MAX_BYTES:
                self._forget()
            memo[key] = verdict
            self._bytes += len(key)

    def _forget(self) -> None:
        self._memo.clear()
        self._stems.clear()
        self._bytes = 0
