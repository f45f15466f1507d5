"""What frontends were told of what they wrote, and whether the server agrees.

Pure. Every row has an id that is never used again; a hot row is a counter that many add one to.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

LIMIT = 20  # how many complaints of a kind are kept


@dataclass
class Books:
    """What one process of frontends has to say; `add` makes one of several.

    acked      ids that were acknowledged
    unknown    ids whose statement was answered with 08007, or by nothing as its frontend had gone
    refused    ids whose statement or transaction ended with another error, or was rolled back
    added      by hot row: how many additions were acknowledged
    doubtful   by hot row: of how many it is unknown whether they took effect
    counts     everything else that is counted
    wrong      answers that were none of the right ones
    leaked     what was shown of another's session
    """

    acked: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    added: Counter[str] = field(default_factory=Counter)
    doubtful: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)

    def add(self, other: Books) -> None:
        for each in fields(self):
            mine, others = getattr(self, each.name), getattr(other, each.name)
            mine.extend(others) if isinstance(mine, list) else mine.update(others)

    def as_json(self) -> dict[str, Any]:
        return {
            each.name: sorted(value) if isinstance(value, set) else value
            for each in fields(self) for value in [getattr(self, each.name)]
        }  # fmt: skip

    @classmethod
    def of_json(cls, given: dict[str, Any]) -> Books:
        return cls(**{each.name: each.default_factory(given[each.name]) for each in fields(cls)})  # type: ignore

    @property
    def is_spoilt(self) -> bool:
        """Whether there is so much wrong that going on tells nothing more."""
        return len(self.wrong) + len(self.leaked) >= LIMIT

    def complaints(self, committed: set[str], hot: dict[str, int]) -> list[str]:
        """What does not hold, in sentences.

        committed   ids that are in the table
        hot         what the hot rows have counted to
        """
        found = [f"wrong: {each}" for each in self.wrong] + [f"leaked: {each}" for each in self.leaked]
        for ids, what in [
            (self.acked - committed, "acknowledged, but not there"),
            (self.refused & committed, "refused or rolled back, but there"),
            (committed - self.acked - self.unknown - self.refused, "there, but never told of"),
        ]:
            if ids:
                found.append(f"{len(ids)} rows are {what}: {sorted(ids)[:LIMIT]}")
        for row, counted in hot.items():
            least, most = self.added[row], self.added[row] + self.doubtful[row]
            if not least <= counted <= most:
                found.append(f"hot row {row} has counted to {counted}, and between {least} and {most} was told")
        return found
