"""Reading a conf file: what it says, not yet whether that makes sense.

`_bytes_of` is the only function that touches a file. A `*.ini` file is read with ConfigObj, where every value is a
string or a list of strings; anything else is Python, is run, and leaves a dict named `all`. What goes wrong is told
with the line number, and without the text of a line that could hold a password.
"""

from __future__ import annotations

import ast
import io
import tokenize
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lib.checks import SECRET
from lib.errors import ConfigError


class Conf(NamedTuple):
    """What a conf file gives, whether all of it is text (INI), and what is suspicious about how it was written."""

    given: Mapping[Any, object]
    is_text: bool
    complaints: list[str]


def read(path: str) -> Conf:
    """Read a conf file.

    raises   ConfigError (F0000) when it cannot be read, is not well-formed, or raised an exception
    """
    text = _decode(_bytes_of(path))
    return _from_ini(text) if path.lower().endswith(".ini") else _from_python(text, path)


def _bytes_of(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise ConfigError([f"the conf file cannot be read: {reason}"]) from None


def _decode(source: bytes) -> str:
    """The text, in the encoding that its first two lines declare as Python does (PEP 263), else in UTF-8."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
        return source.decode(encoding)
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
        hint = "declare the encoding in the first line, as # -*- coding: gbk -*-"
        raise ConfigError([f"line {line}: not valid {error.encoding}: {hint}"]) from None
    except (SyntaxError, LookupError) as error:
        raise ConfigError([f"line 1 or 2: {error.args[0]}"]) from None


def _from_python(text: str, path: str) -> Conf:
    names: dict[str, Any] = {"__name__": "pgstmtpool_conf", "__file__": path}
    if "\0" in text:  # which a SyntaxError says with a line, or a ValueError without, as Python's release has it
        raise ConfigError([f"line {text[:text.index(chr(0))].count(chr(10)) + 1}: a null byte"])
    try:
        tree = ast.parse(text, path)
        twice = [f"line {key.lineno}: {key.value!r} is given a second time" for key in _repeated_keys(tree)]
        exec(compile(tree, path, "exec"), names)
    except (Exception, SystemExit) as error:
        raise ConfigError([_told(error, text, path)]) from None
    if "all" not in names:
        raise ConfigError([f"line {max(len(text.splitlines()), 1)}: the file ends without a dict named `all`"])
    if not isinstance(names["all"], dict):
        raise ConfigError([f"`all` is of type {type(names['all']).__name__}: wanted a dict"])
    return Conf(names["all"], False, twice)


def _repeated_keys(tree: ast.Module) -> Iterator[ast.Constant]:
    """Keys that a dict has already: Python takes the last one without a word, and another line seems to do nothing."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            keys = [key for key in node.keys if isinstance(key, ast.Constant)]
            yield from (key for index, key in enumerate(keys) if key.value in [each.value for each in keys[:index]])


# Their messages name a token, a key, a file or a module, while that of a NameError can be a password without quotes.
TELLS_NO_VALUE = (SyntaxError, KeyError, OSError, ImportError)


def _told(error: BaseException, text: str, path: str) -> str:
    """An exception in a Python conf file, as a complaint."""
    line, message = 0, str(error)
    for frame, number in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename == path:
            line = number
    if isinstance(error, SyntaxError) and not line:
        line, message = error.lineno or 1, error.msg
    around = "\n".join(text.splitlines()[max(line - 2, 0) : line])
    if SECRET.search(around) and not isinstance(error, TELLS_NO_VALUE):
        message = "(not shown, as the line could hold a password)"
    return f"line {line}: {type(error).__name__}: {' '.join(message.split())[:200]}"


def _from_ini(text: str) -> Conf:
    # Imported here, so that nobody who uses a Python file needs it.
    from configobj import ConfigObj, ConfigObjError, DuplicateError, NestingError

    # Not their own messages: those show the line.
    words = {DuplicateError: "this name or section was there before", NestingError: "the brackets do not nest"}
    other = "neither name = value nor [section], or a quote is open"
    try:
        parsed = ConfigObj(text.splitlines(), interpolation=False, list_values=True)
    except ConfigObjError as error:
        errors = getattr(error, "errors", [error])
        raise ConfigError([f"line {each.line_number}: {words.get(type(each), other)}" for each in errors]) from None
    cut = [f"{name} holds a #, which begins a comment: wanted quotes around it" for name in _cut_secrets(parsed)]
    return Conf(parsed.dict(), True, cut)


def _cut_secrets(section: Any) -> Iterator[str]:
    """Names of passwords with a '#' outside quotes: only the part before it would be used, and nobody would see why."""
    yield from (name for name in section.scalars if SECRET.search(name) and section.inline_comments.get(name))
    for name in section.sections:
        yield from _cut_secrets(section[name])
