"""What a backend tells of a prepared statement: its parameters and columns, in a form that can be compared.

Pure.

source: protocol-message-formats.html
"""

from __future__ import annotations

from functools import lru_cache

from lib.wire.framing import frontend_header
from lib.wire.messages import decode

_BIND, _ROW = b"BT"


def parameters_of(told: bytes) -> bytes:
    """The ParameterDescription in what `description` has made."""
    return told[: 1 + int.from_bytes(told[1:5], "big")]


def row_of(told: bytes) -> bytes:
    """The columns in what `description` has made."""
    return told[len(parameters_of(told)) :]


def description(parameters: bytes, row: bytes) -> bytes:
    """ParameterDescription and RowDescription (or NoData) in a form in which two are equal when a frontend takes them
    for the same: names, types and type modifiers, but not which table a column is of."""
    parts = [parameters]
    if row[0] == _ROW:
        position = 7
        for _ in range(int.from_bytes(row[5:7], "big")):
            name_end = row.index(b"\0", position) + 1
            parts += (row[position:name_end], row[name_end + 6 : name_end + 16])  # between are table and column
            position = name_end + 18
    return b"".join(parts)


@lru_cache(2000)
def columns(row: bytes) -> bytes:
    """A RowDescription or NoData alone, in that form."""
    return description(b"", row)


def miscounted(unit: bytes, name: bytes, given: bytes, parameters: bytes) -> str:
    """What the server says before all else when a Bind of a statement has another number of parameters than that.

    unit        whole, as it is sent
    name        of the statement there, and `given` the name that its frontend knows
    parameters  its ParameterDescription
    returns     "" when none has
    """
    wanted = int.from_bytes(parameters[5:7], "big")
    position = 0
    while position < len(unit):
        tag, end = frontend_header(unit, position)
        if tag == _BIND:
            name_at = unit.find(b"\0", position + 5) + 1
            name_end = unit.find(b"\0", name_at)
            formats_end = name_end + 3 + 2 * int.from_bytes(unit[name_end + 1 : name_end + 3], "big")
            count = int.from_bytes(unit[formats_end : formats_end + 2], "big")
            if unit[name_at:name_end] == name and count != wanted:
                shown = decode(given)
                return f'bind message supplies {count} parameters, but prepared statement "{shown}" requires {wanted}'
        position = end
    return ""
