"""The text of pg_hba.conf and pg_ident.conf as words, each knowing whether it was quoted.

Pure. The views of the server (pg_hba_file_rules, pg_ident_file_mappings) show the words without their quotes, though a
quoted word is a name and never a keyword. So the text is read here, as hba.c reads it, and only for that. A text that
is needed and was not given is asked for by `NeedsText`; nothing is ever guessed.

source: auth-pg-hba-conf.html, auth-username-maps.html; behaviour of next_token() in hba.c
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import NamedTuple

MAX_DEPTH = 10  # of @files in @files, as the server's own limit
CONTINUED_LINES = 140000  # a backslash at the end of a line continues it since PostgreSQL 14


class Word(NamedTuple):
    """A name or keyword; `quoted` when a double quote came before its first character."""

    text: str
    quoted: bool = False

    def __str__(self) -> str:
        return f'"{self.text}"' if self.quoted else self.text

    def is_keyword(self, keyword: str) -> bool:
        return not self.quoted and self.text == keyword


class NeedsText(Exception):
    """The text of one more file is needed: read `name` and try again with it (or with None if it is not there)."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class _Token(NamedTuple):
    text: str
    quoted: bool
    comma: bool  # a comma followed at once, so that the next token belongs to the same field


def _tokens(line: str) -> Iterator[_Token]:
    position, end = 0, len(line)
    while position < end:
        while position < end and line[position] in " \t\r,":
            position += 1
        text, initial_quote, in_quote, was_quote, saw_quote, comma = "", False, False, False, False, False
        while position < end:
            char = line[position]
            if not in_quote and char in " \t\r":
                break
            if not in_quote and char == "#":
                position = end
                break
            if not in_quote and char == ",":
                comma = True
                break
            if char != '"' or was_quote:
                text += char
            was_quote = not was_quote if in_quote and char == '"' else False
            if char == '"':
                in_quote = not in_quote
                saw_quote = True
                initial_quote = initial_quote or not text
            position += 1
        if not saw_quote and not text:
            return
        yield _Token(text, initial_quote, comma)


def fields(line: str) -> list[list[Word]]:
    """Split one line into fields of comma-separated words; an unquoted word that begins with @ stays as it is."""
    found: list[list[Word]] = []
    joined = False
    for token in _tokens(line):
        word = Word(token.text, token.quoted)
        if joined:
            found[-1].append(word)
        else:
            found.append([word])
        joined = token.comma
    return found


def lines(text: str, version: int) -> Iterator[tuple[int, str]]:
    """Every line that is not empty or a comment, with the number of its first line, continuations joined.

    version   server_version_num
    """
    raw = text.split("\n")
    index = 0
    while index < len(raw):
        first = index + 1
        line = raw[index].rstrip("\r\n")
        kept = 0
        while version >= CONTINUED_LINES and len(line) > kept and line.endswith("\\") and index + 1 < len(raw):
            index += 1
            kept = len(line) - 1
            line = line[:-1] + raw[index].rstrip("\r\n")
        index += 1
        if fields(line):
            yield first, line


def line_at(text: str, number: int, version: int) -> str | None:
    return dict(lines(text, version)).get(number)


def expand(
    field: list[Word], file_name: str, texts: Mapping[str, str | None], version: int, depth: int = 0
) -> list[Word]:
    """Put the words of @files in the place of their names.

    texts    what was read so far, by absolute name; None for a file that does not exist
    raises   NeedsText when a file is named that is not in texts
    """
    words: list[Word] = []
    for word in field:
        if word.quoted or len(word.text) < 2 or not word.text.startswith("@"):
            words.append(word)
            continue
        name = posixpath.normpath(posixpath.join(posixpath.dirname(file_name), word.text[1:]))
        if name not in texts:
            raise NeedsText(name)
        text = texts[name]
        if text is None or depth >= MAX_DEPTH:
            continue
        for _, line in lines(text, version):
            for inner in fields(line):
                words += expand(inner, name, texts, version, depth + 1)
    return words
