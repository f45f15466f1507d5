"""Reading a conf file: what it says, not yet whether that makes sense.

`_bytes_of` is the only function that touches a file. A `*.ini` file is read with ConfigObj, where every value is a
string or a list of strings; anything else is Python, is run, and leaves a dict named `all`. What goes wrong is told
with the line number, and without the text of a line that could hold a password.
"""

from __future__ import annotations

import io
import tokenize
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lib.checks import SECRET
from lib.errors import ConfigError


def read(path: str) -> tuple[Mapping[Any, object], bool]:
    """What the conf file gives, and whether all of it is text (INI).

    raises   ConfigError (F0000) when it cannot be read, is not well-formed, or raised an exception
    """
    text = _decode(_bytes_of(path))
    if path.lower().endswith(".ini"):
        return _from_ini(text), True
    return _from_python(text, path), False


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


def _from_python(text: str, path: str) -> Mapping[Any, object]:
    names: dict[str, Any] = {"__name__": "pgstmtpool_conf", "__file__": path}
    try:
        exec(compile(text, path, "exec"), names)
    except (Exception, SystemExit) as error:
        raise ConfigError([_told(error, text, path)]) from None
    if "all" not in names:
        raise ConfigError([f"line {max(len(text.splitlines()), 1)}: the file ends without a dict named `all`"])
    if not isinstance(names["all"], dict):
        raise ConfigError([f"`all` is of type {type(names['all']).__name__}: wanted a dict"])
    return names["all"]


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


def _from_ini(text: str) -> Mapping[Any, object]:
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
    cut = list(_cut_secrets(parsed))
    if cut:
        raise ConfigError([f"{name} holds a #, which begins a comment: wanted quotes around its value" for name in cut])
    return parsed.dict()


def _cut_secrets(section: Any) -> Iterator[str]:
    """Names of passwords with a '#' outside quotes: only the part before it would be used, and nobody would see why."""
    yield from (name for name in section.scalars if SECRET.search(name) and section.inline_comments.get(name))
    for name in section.sections:
        yield from _cut_secrets(section[name])
