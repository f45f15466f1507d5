"""What a statement is, and what it leaves behind: the Router, and the parts that it is made of.

Pure. lex (tokens) -> statements (first words) and calls (names called) -> classify (a Verdict, with what the catalog
scan knows) -> Router (memoised by shape). harmless and harmless_names are the lists of built-in functions, body reads
the bodies of the user's functions for the catalog.
"""

from __future__ import annotations

from lib.route.catalog import CHANGED_SQL, SCAN_SQL, Catalog
from lib.route.router import Router
from lib.route.shape import shape
from lib.route.verdict import Kind, Refusal, Verdict

__all__ = ["CHANGED_SQL", "SCAN_SQL", "Catalog", "Kind", "Refusal", "Router", "Verdict", "shape"]
