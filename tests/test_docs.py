"""The documents are held to the code: every error that a client can see has its row, and no link leads nowhere."""

import ast
import functools
import re
import unicodedata
from pathlib import Path

import pytest

from lib import config, errors
from lib.console import manual
from lib.console.commands import TABLE
from lib.console.manual import read_samples

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "lib").rglob("*.md"), *(ROOT / "docs").glob("*.md")])
SOURCES = [*sorted((ROOT / "lib").rglob("*.py")), ROOT / "pgstmtpool.py"]
ERRORS = ROOT / "docs" / "errors.md"

# Caught before a client could be told; they are in the log, and have their rows there.
NEVER_TOLD = {"ConfigError", "RulesUnusable", "AdminQueryFailed"}
ANY_SQLSTATE = errors.PoolError.sqlstate  # of a class whose errors bring their own

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


@functools.cache
def constructed() -> frozenset[str]:
    """Names of everything that is called in lib/, outside of errors.py."""
    calls = (
        node.func.id
        for path in SOURCES
        if path.name != "errors.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    )
    return frozenset(calls)


def raised_errors() -> list[type[errors.PoolError]]:
    """The classes of lib/errors.py that some code makes an error of."""
    classes = (each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception))
    return [cls for cls in classes if cls.__name__ in constructed()]


def rows(section: str) -> list[list[str]]:
    """The cells of the table in one section of errors.md: SQLSTATE, message, when, what to do, class."""
    text = ERRORS.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


TOLD = rows("At login") + rows("Afterwards") + rows("In the pseudo database")
LOGGED = rows("In the log only")


def named(table: list[list[str]]) -> set[str]:
    return {row[-1].strip("`") for row in table}


def test_every_error_that_a_client_can_see_is_in_the_table():
    assert {cls.__name__ for cls in raised_errors()} - NEVER_TOLD == named(TOLD)


def test_errors_that_no_client_sees_are_in_the_table_of_the_log():
    assert named(LOGGED) == NEVER_TOLD


@pytest.mark.parametrize("row", TOLD + LOGGED, ids=lambda row: row[-1].strip("`"))
def test_sqlstate_in_the_table_is_that_of_the_class(row):
    cls = getattr(errors, row[-1].strip("`"))
    assert cls.sqlstate in (row[0], ANY_SQLSTATE)


@pytest.mark.parametrize("row", rows("Afterwards"), ids=lambda row: row[-1].strip("`"))
def test_only_errors_that_end_the_connection_say_fatal(row):
    cls = getattr(errors, row[-1].strip("`"))
    assert ("`FATAL`" in row[2]) == (cls.severity == "FATAL")


@functools.cache
def source_text() -> str:
    # Literals that are broken over lines are one text, and {name} in an f-string is what a message leaves open.
    strings = (
        "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
        if isinstance(node, ast.JoinedStr)
        else node.value
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    )
    return "\n".join(str(string) for string in strings)


@pytest.mark.parametrize("row", TOLD + LOGGED, ids=lambda row: row[-1].strip("`"))
def test_messages_in_the_table_are_those_of_the_code(row):
    messages = re.findall(r"`([^`]+)`", row[1])
    missing = [part for message in messages for part in message.split("…") if part.strip() not in source_text()]
    assert missing == []


def slug(heading: str) -> str:
    """The anchor of a heading, as the usual Markdown renderers make it."""
    kept = (c for c in heading.lower() if c in " -_" or unicodedata.category(c)[0] in "LN")
    return "".join(kept).strip().replace(" ", "-")


def headings(path: Path) -> list[str]:
    return [slug(heading) for heading in re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)]


def dead_links(document: Path) -> list[str]:
    dead = []
    for target in LINK.findall(document.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        if not path.exists() or (anchor and anchor not in headings(path)):
            dead.append(target)
    return dead


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document):
    assert dead_links(document) == []


# --- the pseudo database ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.relative_to(ROOT).as_posix())
def test_methods_that_are_named_are_there(document):
    """Behind a class of ours, as in `Worker.go_on`."""
    source = "".join(each.read_text() for each in SOURCES)
    named = re.findall(r"`([A-Z]\w+)\.([a-z_]\w*)", document.read_text())
    ours = [(kind, name) for kind, name in named if re.search(rf"^class {kind}\b", source, re.MULTILINE)]
    missing = [f"{kind}.{name}" for kind, name in ours if not re.search(rf"\b(def|self\.|{kind}\.)\s*{name}\b", source)]
    assert missing == []


SAMPLES = read_samples((ROOT / "docs" / "console.samples").read_text())


def test_console_s_manual_is_made_from_the_table_of_commands():
    assert (ROOT / "docs" / "console.md").read_text() == manual.documentation(SAMPLES)


@pytest.mark.parametrize("command", TABLE, ids=lambda each: each.words)
def test_every_command_has_been_typed_into_psql_and_answered_with_its_columns(command):
    lines = SAMPLES[command.words].splitlines()
    (typed,) = [line for line in lines if line.startswith("pseudo=# ") and line != r"pseudo=# \x"]
    assert typed.split(None, 1)[1].startswith(command.words)
    if not command.columns:
        assert lines[1] == command.command_tag.decode()
    elif r"pseudo=# \x" in lines:
        shown = [line.split("|")[0].strip() for line in lines if "|" in line]
        assert shown[: len(command.columns)] == [each.name for each in command.columns]
    else:
        assert [each.strip() for each in lines[1].split("|")] == [each.name for each in command.columns]


def python_blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def test_conf_file_of_the_readme_is_one_that_the_pool_takes():
    names: dict = {}
    exec(python_blocks(ROOT / "README.md")[0], names)
    assert config.make(names["all"]).warnings == ()
