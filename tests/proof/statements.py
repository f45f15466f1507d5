"""The statements that the residents of the proof run prepare, each with the one right answer.

Their texts are those of many frontends, and their names as well; what they answer depends on who asks, on the settings
that he has now, and on those that he had when he prepared them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from tests import roles
from tests.proof.model import Model

INT4, INT8, TEXT = 23, 20, 25
NAMES_OF_TYPES = {INT4: "integer", INT8: "bigint", TEXT: "text"}
RESULT_CHANGED = "0A000"
# By schema: the types of home_N.typed, whose columns are id and word.
TYPED = {"home_1": (INT4, TEXT), "home_2": (INT8, TEXT), "home_3": (INT4, TEXT), "home_4": (INT4, 1043)}


class Prepared(NamedTuple):
    """A statement as one frontend has prepared it.

    text, types   as in Parse
    values        of its parameters, made anew for each use
    answer        the rows that it must give, or the SQLSTATE it must fail with, or a set of single rows and SQLSTATEs
                  of which any will do
    columns       the types of its result, where they are known
    varies        its columns are of other types in other schemas
    """

    text: str
    values: Callable[[], tuple[str | None, ...]]
    answer: Callable[[Model, tuple[str | None, ...]], object]
    types: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()
    varies: bool = False


Maker = Callable[[Model, random.Random, str], Prepared]


def number() -> tuple[str]:
    return (str(random.randrange(1, 1_000_000)),)


def who(model: Model, chance: random.Random, word: str) -> Prepared:
    text = (
        "select $1::text, current_user, session_user, current_setting('search_path'), current_setting('work_mem'), "
        "current_setting('application_name'), current_setting('home.tenant', true), "
        "current_setting('statement_timeout')"
    )

    def answer(now: Model, values: tuple[str | None, ...]) -> object:
        user = roles.TRUST.name if now["role"] == "none" else now["role"]
        row = (*values, user, roles.TRUST.name, now["search_path"], now["work_mem"], now["application_name"])
        return {(*row, tenant, now["statement_timeout"]) for tenant in now.tenants}

    return Prepared(text, number, answer)


def own_word(model: Model, chance: random.Random, word: str) -> Prepared:
    """A text that nobody else has."""
    return Prepared(f"select '{word}', $1::int", number, lambda now, values: [[word, *values]], columns=(TEXT, INT4))


def whose(model: Model, chance: random.Random, word: str) -> Prepared:
    return Prepared(
        "select name, $1 from whose", number, lambda now, values: [[now["search_path"], *values]], (TEXT,), (TEXT, TEXT)
    )


def typed(model: Model, chance: random.Random, word: str) -> Prepared:
    """Other columns in other schemas: who prepared it in one and runs it in another is told so by an error.

    A server does that always; a pooler need not, where nobody has been told other columns.
    """
    columns = TYPED[model["search_path"]]

    def answer(now: Model, values: tuple[str | None, ...]) -> object:
        row = "1", f"in {now['search_path']}"
        return [[*row]] if TYPED[now["search_path"]] == columns else {RESULT_CHANGED, row}

    return Prepared("select id, word from typed where id = $1", lambda: ("1",), answer, (), columns, varies=True)


def kind_of(model: Model, chance: random.Random, word: str) -> Prepared:
    oid = chance.choice(list(NAMES_OF_TYPES))
    def answer(now: Model, values: tuple[str | None, ...]) -> object:
        return [[NAMES_OF_TYPES[oid], *values]]

    return Prepared("select pg_typeof($1)::text, $1", number, answer, (oid,), (TEXT, oid))


def literal(model: Model, chance: random.Random, word: str) -> Prepared:
    """A literal is read when the statement is prepared, and again whenever something has invalidated its plan."""
    days = {"MDY": "2001-02-03", "DMY": "2001-03-02"}
    then, changes = model["DateStyle"][-3:], model.changes

    def answer(now: Model, values: tuple[str | None, ...]) -> object:
        return {(day, *values) for day in ([days[then]] if now.changes == changes else days.values())}

    return Prepared("select to_char('02/03/2001'::date, 'YYYY-MM-DD'), $1::text", number, answer)


def guarded(model: Model, chance: random.Random, word: str) -> Prepared:
    def answer(now: Model, values: tuple[str | None, ...]) -> object:
        return [[f"for {roles.TRUST.name if now['role'] == 'none' else now['role']}", *values]]

    return Prepared("select note, $1::int from home.guarded", number, answer, columns=(TEXT, INT4))


# By DateStyle: how a moment is shown, with the zone as it is at the end.
MOMENTS = {"ISO": "2001-02-03 {time}{offset}", "German": "03.02.2001 {time} {zone}", "MDY": "02/03/2001 {time} {zone}",
           "DMY": "03/02/2001 {time} {zone}"}  # fmt: skip
ZONES = {"Asia/Tokyo": ("13:05:06", "+09", "JST"), "UTC": ("04:05:06", "+00", "UTC"),
         "Asia/Kolkata": ("09:35:06", "+05:30", "IST")}  # fmt: skip
SPANS = {"postgres": "1 day 02:00:00", "iso_8601": "P1DT2H", "postgres_verbose": "@ 1 day 2 hours"}
THIRDS = {"-5": "0.3333333333", "0": "0.333333333333333", "1": "0.3333333333333333"}


def shown(model: Model, chance: random.Random, word: str) -> Prepared:
    """What is shown follows the settings of whoever asks, when he asks."""
    text = "select $1::timestamptz, $2::interval, 1::float8 / 3"

    def answer(now: Model, values: tuple[str | None, ...]) -> object:
        style, order = now["DateStyle"].split(", ")
        time, offset, zone = ZONES[now["TimeZone"]]
        moment = MOMENTS[order if style == "SQL" else style].format(time=time, offset=offset, zone=zone)
        return [[moment, SPANS[now["IntervalStyle"]], THIRDS[now["extra_float_digits"]]]]

    return Prepared(text, lambda: ("2001-02-03 04:05:06+00", "P1DT2H"), answer, columns=(1184, 1186, 701))


def failing(model: Model, chance: random.Random, word: str) -> Prepared:
    return Prepared("select 1 / $1::int", lambda: ("0",), lambda now, values: "22012", columns=(INT4,))


MAKERS: dict[Maker, int] = {
    who: 6, own_word: 4, whose: 4, typed: 3, kind_of: 3, literal: 2, guarded: 3, shown: 4, failing: 1,
}  # fmt: skip


def make(model: Model, chance: random.Random, word: str) -> Prepared:
    (maker,) = chance.choices(list(MAKERS), list(MAKERS.values()))
    return maker(model, chance, word)
