"""What a backend owes: transcripts of sequences that the protocol allows, as a real server answers them.

A transcript is what goes to the backend (`>`) and what comes from it (`<`), by type bytes, in the order of time. Its
last ReadyForQuery is the one with which the backend has answered all of it.

source: protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY, #PROTOCOL-FLOW-PIPELINING, #PROTOCOL-COPY
"""

from __future__ import annotations

import pytest

from lib.wire.session import Script

TRANSCRIPTS = {
    # --- simple query
    "a query": ">Q <TDDCZ",
    "a query that fails": ">Q <EZ",
    "a query that fails behind rows": ">Q <TDDEZ",
    "an empty query": ">Q <IZ",
    "several statements in a query": ">Q <CTDCNCZ",
    "a query with notices, parameters and notifications in its answer": ">Q <NSATDNCSAZ",
    "a function call": ">F <VZ",
    "a function call that fails": ">F <EZ",
    # --- extended query
    "a sync alone": ">S <Z",
    "a statement": ">PBDES <12TDDCZ",
    "a statement without a result": ">PBDES <12nCZ",
    "a statement that is described": ">PDS <1tTZ",
    "a statement without a result that is described": ">PDS <1tnZ",
    "an empty statement": ">PBES <12IZ",
    "a portal that is suspended and goes on": ">PBEES <12DsDCZ",
    "a close": ">CCS <33Z",
    "several statements": ">PBEPBEBES <12C12DC2DCZ",
    "an error in the middle": ">PBEPBES <12CEZ",
    "an error at the first message": ">PBDES <EZ",
    "an error behind rows": ">PBDES <12TDDEZ",
    "an error when the sync commits": ">PBES <12CEZ",
    "an error behind which the sync comes late": ">PBE <12E >S <Z",
    "an error behind which more comes": ">PBE <12E >PBECDHS <Z",
    "a function call is skipped behind an error": ">PB <E >FS <Z",
    "a query is skipped behind an error": ">PB <E >QS <Z",
    "a query that was sent is skipped behind an error": ">PBEQS <1EZ",
    # --- flush
    "a flush": ">PH <1 >BH <2 >EH <DC >S <Z",
    "nothing is owed for a flush": ">HS <Z",
    "a query in an unsynced unit": ">PBEQS <12DCTDCZZ",
    "a query in an unsynced unit that fails": ">PBEQS <12CEZZ",
    "two queries in an unsynced unit": ">PQQBES <1TDCZTDCZ2DCZ",
    "a function call in an unsynced unit": ">PBFES <12VZDCZ",
    # --- COPY
    "a copy from the client": ">Q <G >dddc <CZ",
    "a copy from the client that it fails": ">Q <G >ddf <EZ",
    "a copy that the server fails": ">Q <G >dd <EZ",
    "a copy that the server fails, and the client that does not know yet": ">Q <G >dd <E >ddc <Z",
    "a copy that eats flush and sync": ">Q <G >dHSdSHc <CZ",
    "a copy to the client": ">Q <HddcCZ",
    "a copy to the client that fails": ">Q <HddEZ",
    "two copies in a query": ">Q <G >dc <CG >dSc <CZ",
    "a copy between other statements": ">Q <TDCG >dc <CTDCZ",
    "an extended copy": ">PBE <12G >ddc <C >S <Z",
    "an extended copy whose first sync is eaten": ">PBES <12G >ddcS <CZ",
    "an extended copy that eats more than one sync": ">PBES <12G >SdSdcS <CZ",
    "an extended copy that the client fails": ">PBES <12G >dfS <EZ",
    "an extended copy that the server fails": ">PBES <12G >dd <E >dcS <Z",
    "an extended copy that the server fails before the client is done": ">PBE <12G >ddcS <EZ",
    "an extended copy to the client": ">PBDES <12nHddcCZ",
    "a statement behind an extended copy": ">PBE <12G >dcPBES <C12DCZ",
    "a copy with the data pipelined behind it": ">Qddc <GCZ",
    "an extended copy with the data pipelined behind it": ">PBEdcS <12GCZ",
    "an extended copy with a sync and the data pipelined behind it": ">PBESdcS <12GCZ",
    "a pipelined copy that fails before it begins": ">PBEdcS <12EZ",
    "a pipelined copy that fails before it begins, with two syncs": ">PBESdcS <1EZZ",
    "a pipelined copy that turns out to be none": ">Qdc <TDCZ",
    "an extended pipelined copy that turns out to be none": ">PBEdcS <12DCZ",
    "two copies in a query, of which the first was pipelined": ">Qdc <GCG >dSc <CZ",
    "two pipelined copies in a query": ">Qdcdc <GCGCZ",
    "a copy done without a copy": ">c >Q <CZ",
    "copy data without a copy": ">dQ <CZ",
    "a copy in both directions": ">Q <W >dc <CZ",
}


@pytest.mark.parametrize("transcript", TRANSCRIPTS.values(), ids=TRANSCRIPTS)
def test_the_last_ready_for_query_ends_the_script_and_no_earlier_one(transcript):
    script = Script()
    at_ready = []
    for part in transcript.split():
        for tag in part[1:].encode():
            if part[0] == ">":
                script.sent(tag)
                continue
            script.received(tag)
            if tag == ord("Z"):
                at_ready.append(script.is_done)
    assert at_ready == [False] * (len(at_ready) - 1) + [True]
    assert (script.owed, script.copying, script.skipping) == (type(script.owed)(), False, False)


@pytest.mark.parametrize("kind", [b"Q", b"E", b"F"])
def test_a_script_may_begin_with_what_was_sent_already(kind):
    script = Script(kind)
    assert not script.is_done
    assert bytes(script.owed) == kind


def test_copy_data_is_eaten_only_while_the_backend_copies():
    script = Script(b"Q")
    assert not script.copying
    script.received(ord("G"))
    assert script.copying
    script.sent(ord("S"))
    assert bytes(script.owed) == b"Q"
    script.sent(ord("c"))
    assert not script.copying


def test_the_end_of_a_copy_that_was_sent_before_it_began_ends_it():
    script = Script()
    for tag in b"Qddc":
        script.sent(tag)
    script.received(ord("G"))
    assert not script.copying


def test_an_error_skips_to_the_sync_that_was_sent_and_to_no_later_one():
    script = Script(b"PBESPBES")
    script.received(ord("E"))
    assert bytes(script.owed) == b"SPBES"
    assert not script.skipping


def test_the_end_of_a_copy_ends_one_copy_only():
    """A CopyDone pipelined behind a text with two copies stayed owed, and the second was taken to have ended."""
    script = Script()
    for tag in b"Qdc":
        script.sent(tag)
    for tag in b"GCG":
        script.received(tag)
    assert script.copying


def test_an_error_of_a_simple_query_skips_nothing():
    script = Script(b"QS")
    script.received(ord("E"))
    assert bytes(script.owed) == b"QS"
    assert not script.skipping


def test_its_repr_says_what_is_owed_and_why_nothing_else_counts():
    script = Script(b"PBE")
    assert repr(script) == "<Script owed='PBE'>"
    script.received(ord("E"))
    assert repr(script) == "<Script owed='' skipping>"


@pytest.mark.parametrize("tag", b"NAS")
def test_what_is_said_unasked_while_an_answer_of_the_pools_own_is_owed_ends_nothing(tag):
    """A NotificationResponse that came between a Flush and a hidden ParseComplete cost the frontend its session."""
    script = Script()
    for hidden in b"CP":
        script.sent_hidden(hidden)
    script.sent(ord("B"))
    for answer in b"31":
        assert not script.is_hidden(tag, b"")
        script.received(tag)
        assert script.is_hidden(answer, b"")
    script.received(ord("2"))
    assert script.is_done and script.hidden == 0
