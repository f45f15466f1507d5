"""The samples of docs/console.md: every command is typed into psql again, and answers as it is written there."""

from __future__ import annotations

import re

from lib.console.manual import read_samples
from tests import console_samples


def test_psql_shows_of_every_command_what_the_manual_shows():
    documented = read_samples(console_samples.SAMPLES.read_text(encoding="utf-8"))
    seen = console_samples.seen()
    assert set(seen) | set(console_samples.BY_HAND) == set(documented)
    assert {words: form(text) for words, text in seen.items()} == {words: form(documented[words]) for words in seen}


def form(sample: str) -> list[str]:
    """What is typed, without numbers, and the columns, or the tag, that it is answered with."""
    lines = sample.splitlines()
    typed = next(index for index, line in enumerate(lines) if re.match(r"pseudo=# \w", line))
    answer = lines[typed + 1 :]
    if answer[0].startswith("-[ RECORD"):
        columns = [line.split("|")[0].strip() for line in answer if "|" in line]
        columns = columns[: columns.index(columns[0], 1)] if columns[0] in columns[1:] else columns
    else:
        columns = [each.strip() for each in answer[0].split("|")]
    return [re.sub(r"[0-9.:]+", "0", lines[typed]), *columns]
