"""What a row of the table of settings is. Pure."""

from __future__ import annotations

from dataclasses import field
from typing import Any, NamedTuple

from lib.checks import Check

REQUIRED = object()


class Setting(NamedTuple):
    """One row.

    default      as a Python conf file would give it
    reloadable   whether a reload changes it in a running pool; else it needs a restart
    trade        what choosing it differently costs
    """

    name: str
    group: str
    type: str
    unit: str
    default: object
    reloadable: bool
    check: Check
    help: str
    trade: str


def row(
    group: str, type: str, unit: str, default: object, reloadable: bool, check: Check, help: str, trade: str
) -> Any:
    """The field of a dataclass for one row of the table, with its checked default."""
    columns = {"row": (group, type, unit, default, reloadable, check, help, trade)}
    return field(metadata=columns) if default is REQUIRED else field(default=check(default, False), metadata=columns)
