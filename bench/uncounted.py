"""Run a pgstmtpool that counts nothing, to see what counting costs: the product has no setting for that.

    python bench/uncounted.py CHECKOUT/pgstmtpool.py CONF_FILE

Its modules are compiled from their own source without the statements that count: calls of the functions named in CALLS,
additions to the attributes named in COUNTERS, and an `if` that nothing is left of. What else they do is as it was:
`processed` stays, which dispatch looks at. A module of MODULES in which nothing is found is an error: what counts there
has another name now, and this file has to be told.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

CALLS = {"_count", "_count_block", "_count_held", "_count_lone", "_waited", "sample", "saw"}
COUNTERS = {"calls", "received", "sent"}
MODULES = {
    f"lib.{name}"
    for name in ("backend.lease", "backend.riders", "backend.roster", "backend.worker", "backend.relay", "net")
}


class Uncounting(ast.NodeTransformer):
    """Leaves out what counts. found: how many statements that were"""

    def __init__(self) -> None:
        self.found = 0

    def visit_Expr(self, node: ast.Expr) -> ast.stmt | None:
        called = node.value.func if isinstance(node.value, ast.Call) else None
        return self._left_out() if isinstance(called, ast.Attribute) and called.attr in CALLS else node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt | None:
        is_error = "tally.errors[" in ast.unparse(node.target)
        is_counter = isinstance(node.target, ast.Attribute) and node.target.attr in COUNTERS
        return self._left_out() if is_error or is_counter else node

    def visit_If(self, node: ast.If) -> ast.stmt | None:
        before = self.found
        self.generic_visit(node)
        return None if self.found > before and is_empty(node.body) and not node.orelse else node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        return node if node.name in CALLS else self.generic_visit(node)  # what nobody calls may stay as it is

    def generic_visit(self, node: ast.AST) -> Any:
        super().generic_visit(node)
        if getattr(node, "body", None) == []:
            node.body = [ast.Pass()]  # type: ignore[attr-defined]
        return node

    def _left_out(self) -> None:
        self.found += 1


def is_empty(body: Sequence[ast.stmt]) -> bool:
    return all(isinstance(each, ast.Pass) for each in body)


def uncounted(name: str, source: str, path: str) -> CodeType:
    """The module without what counts in it.

    raises   ValueError when there is nothing that counts
    """
    uncounting = Uncounting()
    tree = ast.fix_missing_locations(uncounting.visit(ast.parse(source)))
    if not uncounting.found:
        raise ValueError(f"nothing in {name} counts under a name that bench/uncounted.py knows")
    return compile(tree, path, "exec")


class Loader(importlib.machinery.SourceFileLoader):
    """Compiles always, and leaves no file behind."""

    def get_code(self, fullname: str) -> CodeType:
        return uncounted(fullname, Path(self.path).read_text(), str(self.path))


class Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that count."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(fullname, path) if fullname in MODULES else None
        if spec is None or spec.origin is None:
            return None
        return importlib.util.spec_from_file_location(fullname, spec.origin, loader=Loader(fullname, spec.origin))


def main(program: str, *arguments: str) -> None:
    sys.meta_path.insert(0, Finder())
    sys.argv = [program, *arguments]
    sys.path[0] = str(Path(program).resolve().parent)
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
