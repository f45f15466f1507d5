"""The memo of the router never gives one text the verdict of another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.route import Catalog, Router
from lib.route.classify import classify
from lib.route.shape import shape

CATALOG = Catalog.from_rows([])

pieces = st.sampled_from(
    ["select ", "f", "f1", "t", "(", ")", "=", "<", ",", ";", " ", "-", "--", "/*", "*/", "'", '"', "$", "$1", "$$",
     "5", "12 ", "\n", "set x ", "commit", "insert into t values (", "where a ", "\\", "e'", "/*s*/", "listen a",
     ".", "x"]
)  # fmt: skip
texts = st.lists(pieces, max_size=12).map(lambda parts: "".join(parts).encode())
tails = st.text(alphabet="0123456789; ", max_size=6).map(str.encode)


@given(st.lists(st.tuples(texts, tails), min_size=1, max_size=6))
def test_a_remembered_text_has_the_verdict_that_it_would_have_alone(given_texts):
    router = Router(CATALOG)
    for text, tail in given_texts:
        for statement in (text + tail, text + b"=" + tail, text):
            assert router.verdict(statement) == classify(statement, CATALOG), statement


# What a digit could be part of, beside a number.
around_digits = st.sampled_from(
    ["1e5", "1e", "0x1F", "0b1", "1_000", "1.5", ".5", "5.", "$10", "$a1$", "E'", "e'1\\'", "U&'\\0061'", "u&", "n",
     "t2", "_", "'abc 12'", "'1'", "''", '"a 1"', "-- 5\n", "/* 7 */", "::", "[", "]", "@", "\r", "\xe9", "\x81",
     "x", "currval"]
).map(lambda piece: piece.encode("latin1"))  # fmt: skip
digits = st.text(alphabet="0123456789", min_size=1, max_size=4).map(str.encode)
mixed = st.lists(st.one_of(pieces.map(str.encode), around_digits, digits), max_size=14).map(b"".join)


@st.composite
def likenesses(draw):
    """A text, and some that a memo could take for it: with other digits, other endings, or a piece more."""
    text = draw(mixed)
    found = [text, shape(text)]
    for _ in range(draw(st.integers(1, 3))):
        other = bytes(draw(st.integers(48, 57)) if 48 <= byte <= 57 else byte for byte in text)
        at = draw(st.integers(0, len(other)))
        found += [other, other.rstrip(b"0123456789; ") + draw(tails), other[:at] + draw(digits) + other[at:]]
    return found


@given(st.lists(likenesses(), min_size=1, max_size=3), st.randoms())
def test_texts_that_are_alike_but_for_their_digits_have_each_their_own_verdict(families, chance):
    router = Router(CATALOG)
    statements = [statement for family in families for statement in family]
    chance.shuffle(statements)
    for statement in statements:
        assert router.known(statement).verdict == classify(shape(statement), CATALOG) == classify(statement, CATALOG)


# Each time the second means something else than the first.
LOOKALIKES = [
    ("select atan2(1, 2)", "select atan3(1, 2)"),
    ("select log10(1)", "select log11(1)"),
    ("select sha256(a) from t where b=1", "select sha257(a) from t where b=1"),
    ("select a -- =1", "select a -- =1\n; listen b"),
    ("select a from t where b =1", "select a from t where b =1; commit"),
    ("select a from t where b =1", "select a from t where b =1 for update"),
    ("select 1, 2", "select 1, lastval()"),
    ("select 1 /* 5 */", "select 1 /* 5"),
    ("select $1, 2", "select $1$, 2, set_config(a, b, false), $1$"),
    ("select '1', 2", "select '1', 2, '; listen b"),
]


@pytest.mark.parametrize("pair", LOOKALIKES, ids=[pair[1] for pair in LOOKALIKES])
def test_lookalikes_are_told_apart_whichever_comes_first(pair):
    for statements in (pair, pair[::-1]):
        router = Router(CATALOG)
        for statement in map(str.encode, statements):
            assert router.verdict(statement) == classify(statement, CATALOG)


def test_a_number_at_the_end_is_not_taken_for_a_part_of_a_name():
    router = Router(CATALOG)
    assert router.known(b"select * from t where a = 5") is router.known(b"select * from t where a = 16")
    assert router.verdict(b"select f1") == classify(b"select f1", CATALOG)


def test_what_is_remembered_is_bounded():
    router = Router(CATALOG, max_entries=100)
    for number in range(1000):
        router.verdict(f"select a{number}x from t where b = {number}".encode())
    assert len(router._memo) <= 100
    assert len(router._zeros) <= 100


def test_what_was_counted_outlives_a_new_catalog():
    router = Router(Catalog.unknown())
    for number in range(3):
        router.known(b"select %d" % number).calls += 1
    router.known(b"select 1").sample(0.5, 3)
    router.catalog = CATALOG
    assert [(shape, known.calls) for shape, known in router.shapes()] == [(b"select 0", 3)]
    known = router.known(b"select 7")
    known.calls += 1
    assert (known.calls, known.runs.count) == (4, 3)
    assert [(shape, known.calls) for shape, known in router.shapes()] == [(b"select 0", 4)]


def test_numbers_of_many_lengths_do_not_make_other_shapes_forgotten():
    router = Router(CATALOG, max_entries=20)
    known = router.known(b"select a from t where b = 1")
    for lengths in range(1000):
        numbers = ", ".join("1" * (1 + int(digit)) for digit in str(lengths))
        router.known(f"select b from t where a in ({numbers})".encode())
    assert len(router._zeros) <= 20
    assert router.known(b"select a from t where b = 22") is known


def test_the_age_of_a_router_tells_what_is_known_of_a_text_from_what_was_known_before():
    router, other = Router(CATALOG), Router(CATALOG)
    age, known = router.age, router.known(b"select f()")
    assert other.age != age
    assert router.known(b"select f()") is known
    router.catalog = CATALOG
    assert (router.age, router.known(b"select f()")) == (age, known)
    router.catalog = Catalog.unknown()
    assert router.age not in (age, other.age)
    assert router.known(b"select f()") is not known
