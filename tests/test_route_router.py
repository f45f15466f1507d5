"""The memo of the router never gives one text the verdict of another."""

from hypothesis import given
from hypothesis import strategies as st

from lib.route import Catalog, Router
from lib.route.classify import classify

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


def test_a_number_at_the_end_is_not_taken_for_a_part_of_a_name():
    router = Router(CATALOG)
    assert router.verdict(b"select * from t where a = 5") is router.verdict(b"select * from t where a = 6;")
    assert router.verdict(b"select f1") == classify(b"select f1", CATALOG)


def test_what_is_remembered_is_bounded():
    router = Router(CATALOG, max_entries=100)
    for number in range(1000):
        router.verdict(f"select a{number}x from t where b = {number}".encode())
    assert len(router._memo) <= 100
    assert len(router._stems) <= 100
