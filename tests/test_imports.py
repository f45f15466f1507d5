"""The import table: which module of lib/ may import what. Imports run one way, and pure modules do no I/O.

A new module needs a row in LAYERS before anything else here passes. Modules of the table that do not exist are allowed.
Imports for type checkers only (`if TYPE_CHECKING`) are no imports at run time; only pure modules are held to them, too.
"""

import ast
import functools
import re
from pathlib import Path
from typing import NamedTuple

import pytest

LIB = Path(__file__).resolve().parent.parent / "lib"
MAIN = LIB.parent / "pgstmtpool.py"
README = LIB / "README.md"

# From the lowest to the highest. A module imports from its own layer and from those above its row here, never from
# below it. `package.*` is every module of a package, `package` its __init__.
LAYERS = {
    "pure": """
        lib errors checks addresses conffile conf conf.* config summing
        metrics monitor.history monitor.page modes patience
        route route.* wire wire.* auth auth.*
        backend backend.crowd backend.dispatch backend.freshness backend.lag backend.settings backend.statements
        backend.traces backend.tuning backend.waiting virtual
        ha ha.choice ha.conninfo ha.history ha.machine ha.syncnames
        console console.access console.averages console.commands console.courtesy console.encoding console.extended
        console.filtering console.manual console.parsing console.routes console.shown
    """,
    "net": "net connecting ends listening tls tlsfiles turns",
    "backend": """
        admin directory backend.groups backend.unit backend.dialogue backend.relay backend.parsed backend.riders
        backend.upkeep backend.settling backend.halting backend.worker backend.crew backend.staff backend.sizing
        backend.roster backend.lease backend.leases backend.pool backend.catalogs backend.leaving backend.pause
        backend.replay backend.cluster ha.statefile ha.probe ha.survey ha.acts
    """,
    "frontend": """
        logs manager reload listeners keeper census counting presence login preparing answering ending streaming
        frontend sessions door arrival ha.watch ha.following ha.switchover ha.target ha.tending ha.rejoin ha.peers
        ha.silence ha.holding ha.executor
        monitor monitor.counters monitor.status monitor.exporter monitor.web
        console.house console.listings console.operations console.pgbouncer console.pseudodb console.switching
    """,
    "process": "changes process",
    "supervisor": "supervisor",
    "main": "pgstmtpool",
}
PURE = "pure"

# What a pure module must not import: whatever reads a clock, waits, or touches anything outside of the process.
IMPURE_PACKAGES = """
    asyncio concurrent ctypes fcntl gevent greenlet http logging mmap multiprocessing os psycopg2 pwd queue random
    resource sched select selectors shutil signal socket socketserver ssl subprocess sys tempfile threading time urllib
"""
IMPURE_CALLS = {"open", "print", "input", "now", "today", "utcnow"}

# Modules that are alone in something; whoever else needs it goes through them.
ALONE = {
    "psycopg2": {"admin"},
    "socket": {"net", "connecting", "ends", "listening", "manager"},
    "ssl": {"tls", "tlsfiles"},
    "configobj": {"conffile", "ha.statefile"},
}
# conffile reads the conf file and is pure otherwise; so config can call it, and is loaded by one call.
MAY_OPEN_FILES = {"conffile"}


class Import(NamedTuple):
    """One import: the module's full dotted name, its line, and whether it is for type checkers only."""

    name: str
    line: int
    for_types: bool


def module_name(path: Path) -> str:
    """`backend.worker` for lib/backend/worker.py, `backend` for lib/backend/__init__.py, `lib` for lib/__init__.py."""
    if path == MAIN:
        return "pgstmtpool"
    parts = path.relative_to(LIB).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "lib"


@functools.cache
def modules() -> dict[str, ast.Module]:
    paths = [*LIB.rglob("*.py"), *([MAIN] if MAIN.exists() else [])]
    return {module_name(path): ast.parse(path.read_text(), str(path)) for path in sorted(paths)}


def imports_of(tree: ast.Module) -> list[Import]:
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno, id(node) in for_types) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            for alias in node.names:
                # `from lib.auth import scram` is a module, `from lib.errors import PoolError` is in one.
                name = f"{node.module}.{alias.name}"
                if name.startswith("lib.") and name.removeprefix("lib.") not in modules():
                    name = str(node.module)
                found.append(Import(name, node.lineno, id(node) in for_types))
    return found


def own_name(imported: str) -> str | None:
    """The name of an imported module of ours as in the table, or None for a foreign one."""
    if imported == "lib":
        return "lib"
    return imported.removeprefix("lib.") if imported.startswith("lib.") else None


def layer_of(name: str) -> str | None:
    for layer, names in LAYERS.items():
        if name in names.split():
            return layer
    package = name.rpartition(".")[0]
    return next((layer for layer, names in LAYERS.items() if f"{package}.*" in names.split()), None)


def rank_of(name: str) -> int:
    return list(LAYERS).index(str(layer_of(name)))


def test_every_module_has_a_row_in_the_table():
    assert [name for name in modules() if layer_of(name) is None] == []


def test_imports_run_from_high_to_low_only():
    wrong = [
        f"{name}:{each.line} imports {own}, which is higher ({layer_of(own)} > {layer_of(name)})"
        for name, tree in modules().items()
        for each in imports_of(tree)
        if layer_of(name) == PURE or not each.for_types
        if (own := own_name(each.name)) and rank_of(own) > rank_of(name)
    ]
    assert wrong == []


def test_everything_of_ours_that_is_imported_exists():
    wrong = [
        f"{name}:{each.line} imports {own}"
        for name, tree in modules().items()
        for each in imports_of(tree)
        if (own := own_name(each.name)) and own not in modules()
    ]
    assert wrong == []


def test_no_module_imports_itself_by_way_of_others():
    graph = {
        name: {own for each in imports_of(tree) if not each.for_types and (own := own_name(each.name))}
        for name, tree in modules().items()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, "a cycle: " + " imports ".join((*path[path.index(name) :], name))
        if name not in done:
            for imported in sorted(graph.get(name, ())):
                visit(imported, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_pure_modules_import_nothing_that_waits_reads_a_clock_or_does_io():
    wrong = [
        f"{name}:{each.line} imports {each.name}"
        for name, tree in modules().items()
        if layer_of(name) == PURE
        for each in imports_of(tree)
        if each.name.partition(".")[0] in IMPURE_PACKAGES.split()
    ]
    assert wrong == []


def called_name(call: ast.Call) -> str:
    """`open` for open(…), `now` for datetime.now(…), "" for what has no name."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def test_pure_modules_open_no_files_print_nothing_and_ask_for_no_date():
    wrong = [
        f"{name}:{node.lineno} calls {called_name(node)}()"
        for name, tree in modules().items()
        if layer_of(name) == PURE and name not in MAY_OPEN_FILES
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and called_name(node) in IMPURE_CALLS
    ]
    assert wrong == []


@pytest.mark.parametrize("package", ALONE)
def test_only_one_module_touches(package):
    wrong = [
        f"{name}:{each.line}"
        for name, tree in modules().items()
        if name not in ALONE[package]
        for each in imports_of(tree)
        if each.name.partition(".")[0] == package or each.name.startswith(f"gevent.{package}")
    ]
    assert wrong == []


def listed_in_the_map() -> str:
    """The tables and code blocks of lib/README.md, as one text."""
    blocks = re.findall(r"^```.*?^```|^\|.*?$", README.read_text(), re.DOTALL | re.MULTILINE)
    return "\n".join(blocks)


def test_the_map_names_every_module():
    listed = listed_in_the_map()
    names = [name for name in modules() if name not in ("lib", "pgstmtpool")]
    assert [name for name in names if not re.search(rf"\b{name.rpartition('.')[2]}\b", listed)] == []


def test_the_map_names_no_module_that_is_gone():
    files = {path.name for path in LIB.rglob("*.py")} | {MAIN.name, "pgstmtpool.conf.py"}
    assert [name for name in re.findall(r"\b[\w.]+\.py\b", listed_in_the_map()) if name not in files] == []
