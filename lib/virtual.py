"""A transaction whose backend is gone: the rest of it must not run as if each statement were one of its own.

Pure. The frontend is told once that its transaction was lost; from then on it is in a failed one, as far as it can see,
until it ends it, which answers ROLLBACK as a server does. A transaction that the pool has rolled back because one of
its statements was refused goes on in the same way.

source: protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY, tutorial-transactions.html
"""

from __future__ import annotations

from enum import Enum

from lib.errors import InFailedTransaction, PoolError, TransactionLost
from lib.wire import messages
from lib.wire.framing import frontend_header


class Virtual(Enum):
    """What a frontend knows of it."""

    NONE = 0  # there is none
    LOST = 1  # nothing yet
    FAILED = 2  # it was told, and has to end it


def refusal(state: Virtual) -> PoolError:
    """What a statement is answered with."""
    if state is Virtual.LOST:
        return TransactionLost(
            "the server connection of this transaction was lost",
            detail="The transaction was rolled back.",
            hint="Roll back and repeat the transaction.",
        )
    return InFailedTransaction(
        "current transaction is aborted, commands ignored until end of transaction block",
        detail="The transaction was rolled back.",
    )


def rolled_back(unit: bytes) -> tuple[bytes, bytes]:
    """What a server answers to a unit that ends a failed transaction, message by message.

    unit      a Query, or messages of the extended protocol up to Sync
    returns   (answer, status): the transaction is over when COMMIT or ROLLBACK was executed, and not when it was parsed
    """
    done = messages.command_complete(b"ROLLBACK")
    status = b"E"
    answers = {
        ord("Q"): done,
        ord("P"): messages.PARSE_COMPLETE,
        ord("B"): messages.BIND_COMPLETE,
        ord("C"): messages.CLOSE_COMPLETE,
        ord("E"): done,
        ord("S"): b"",
    }
    parts = []
    position = 0
    while position < len(unit):
        tag, end = frontend_header(unit, position)
        if tag == ord("D"):
            is_statement = unit[position + 5] == ord("S")
            parts.append((messages.PARAMETER_DESCRIPTION_NONE if is_statement else b"") + messages.NO_DATA)
        else:
            parts.append(answers[tag])
            if tag in b"QE":
                status = b"I"
        position = end
    return b"".join(parts) + messages.READY[status], status
