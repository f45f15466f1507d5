"""Byte for byte what PostgreSQL itself says: each dialogue is held with the primary, then with the pooler."""

from __future__ import annotations

import socket
import struct
import threading

import pytest

from tests import roles
from tests.cluster import wire
from tests.cluster.wire import (
    COPY_DONE,
    FLUSH,
    PROTOCOL_3_2,
    SYNC,
    Message,
    Wire,
    bind,
    call,
    close,
    copy_data,
    copy_fail,
    describe,
    execute,
    message,
    once,
    parse,
    query,
)
from tests.workplace import wait_until

LONG = "x" * 200_000  # more than a unit that is gathered may have


@pytest.fixture(scope="module", autouse=True)
def log_without_traceback(pooler):
    begin = len(pooler.log)
    yield
    assert "Traceback" not in pooler.log[begin:]


@pytest.fixture
def table(cluster):
    """An empty table `wire_t`; the pooler hears of it only by the catalog's counters."""
    cluster.primary.query("drop table if exists wire_t", dbname=roles.DATABASE)
    cluster.primary.query("create table wire_t (id int primary key, word text)", dbname=roles.DATABASE)
    cluster.primary.query("grant all on wire_t to public", dbname=roles.DATABASE)
    return "wire_t"


def unit(sql: str, *values: str | None, rows: int = 0) -> bytes:
    """Like `once`, with a limit of rows."""
    return parse(sql) + bind(*values) + execute(rows=rows) + SYNC


# A dialogue is steps; a step is what to send, and the types of messages to wait for, one after the other.
def lines(start: int, stop: int) -> str:
    return "".join(f"{n}\t{n}\n" for n in range(start, stop))


DIALOGUES: dict[str, list[tuple[bytes, str]]] = {
    # --- simple
    "one_statement": [(query("select 1 as a, null as b, 'ü' as c"), "Z")],
    "no_rows": [(query("select 1 where false"), "Z"), (query("values (1), (2)"), "Z")],
    "several_statements": [(query("select 1; ; select 2, 3; values (4)"), "Z")],
    "empty_texts": [(query(""), "Z"), (query(";"), "Z"), (query(" -- nothing\n/* at /* all */ */"), "Z")],
    "error_in_the_middle": [
        (query("insert into wire_t values (1, 'a'); select 1 / 0; select 2"), "Z"),
        (query("select count(*) from wire_t"), "Z"),
    ],
    "errors_with_all_their_fields": [
        (query("selekt 1"), "Z"),
        (query("select nothing from nowhere"), "Z"),
        (query("insert into wire_t values (1, 'a'); insert into wire_t values (1, 'b')"), "Z"),
        (query("do $$begin raise exception 'e' using errcode = 'U0001', detail = 'd', hint = 'h'; end$$"), "Z"),
        (query("select 'unterminated"), "Z"),
        (query("select length(sum(1))"), "Z"),
    ],
    "notices_and_warnings": [
        (query("drop table if exists not_there"), "Z"),
        (query("do $$begin raise notice 'n'; raise warning 'w' using detail = 'd'; raise info 'i'; end$$"), "Z"),
        (query("commit"), "Z"),
        (query("select 1; rollback; select 2"), "Z"),
    ],
    "transaction": [
        (query("begin"), "Z"),
        (query("insert into wire_t values (1, 'kept')"), "Z"),
        (query("savepoint s; insert into wire_t values (1, 'twice')"), "Z"),
        (query("select 1"), "Z"),
        (query("rollback to s"), "Z"),
        (query("begin"), "Z"),
        (query("commit and chain"), "Z"),
        (query("select * from wire_t"), "Z"),
        (query("rollback"), "Z"),
        (query("rollback"), "Z"),
    ],
    "failed_transaction": [
        (query("begin; select 1 / 0"), "Z"),
        (query("select 1"), "Z"),
        (query("commit"), "Z"),
        (query("select 1"), "Z"),
    ],
    "transaction_in_one_text": [
        (query("begin; insert into wire_t values (1, 'a'); commit; select * from wire_t"), "Z"),
        (query("begin; select 1; begin"), "Z"),
        (query("end; select 1"), "Z"),
    ],
    "cursor": [
        (query("begin; declare c cursor for select generate_series(1, 5)"), "Z"),
        (query("fetch 2 from c"), "Z"),
        (query("move c; fetch all from c"), "Z"),
        (query("close c; commit"), "Z"),
        (query("fetch c"), "Z"),
        (query("begin; declare h cursor with hold for select generate_series(1, 3); commit"), "Z"),
        (query("fetch 2 from h"), "Z"),
        (query("fetch 2 from h; close h"), "Z"),
    ],
    "prepared_in_sql": [
        (query("prepare p(int) as select $1 + 1"), "Z"),
        (query("execute p(41)"), "Z"),
        (query("deallocate p"), "Z"),
        (query("execute p(41)"), "Z"),
    ],
    "settings_that_are_reported": [
        (query("set datestyle to german"), "Z"),
        (query("select date '2001-02-03'"), "Z"),
        (query("begin; set local timezone to 'Asia/Tokyo'; set application_name to 'inside'"), "Z"),
        (query("select timestamptz '2001-02-03 00:00+00'"), "Z"),
        (query("rollback"), "Z"),
        (query("select timestamptz '2001-02-03 00:00+00', current_setting('application_name')"), "Z"),
        (once("set client_encoding to latin1"), "Z"),
        (query("discard all"), "Z"),
        (query("select date '2001-02-03', current_setting('client_encoding')"), "Z"),
    ],
    "notification_to_oneself": [
        (query("listen mine"), "Z"),
        (query("begin; notify mine, 'payload'"), "Z"),
        (query("commit"), "Z"),
        (query("unlisten *"), "Z"),
        (query("notify mine"), "Z"),
    ],
    "long_texts": [
        (query(f"select length('{LONG}')"), "Z"),
        (query(f"select '{LONG}'"), "Z"),
        (query(f"selekt '{LONG}'"), "Z"),
        (query("select 1"), "Z"),
    ],
    # --- extended
    "extended": [(once("select $1::int + 1, $2::text", "41", None), "Z")],
    "extended_without_describe": [(unit("values (1), (2)"), "Z"), (unit("select 1 where false"), "Z")],
    "extended_with_types": [
        (parse("select $1, $2", types=(23, 25)) + describe("S") + bind("1", "a") + execute() + SYNC, "Z"),
    ],
    "binary_results": [
        (parse("select 258, 'ab'") + message(b"B", struct.pack("!xxHHHH", 0, 0, 1, 1)) + execute() + SYNC, "Z"),
    ],
    "extended_empty": [(once(""), "Z"), (once("-- nothing"), "Z")],
    "extended_write": [
        (once("insert into wire_t values ($1, $2) returning id", "1", "a"), "Z"),
        (once("table wire_t"), "Z"),
    ],
    "extended_errors": [
        (once("selekt"), "Z"),
        (once("select 1 / $1::int", "0"), "Z"),
        (once("select $1::int", "one"), "Z"),
        (once("select $1::int", "1", "2"), "Z"),
        (once("select 1; select 2"), "Z"),
        (bind(name="nobody") + SYNC, "Z"),
        (describe("S", "nobody") + SYNC, "Z"),
        (describe("P", "nobody") + SYNC, "Z"),
        (execute("nobody") + SYNC, "Z"),
        (close("S", "nobody") + close("P", "nobody") + SYNC, "Z"),
    ],
    "rest_of_a_unit_is_skipped_after_an_error": [
        (parse("select 1") + parse("selekt", "b") + parse("select 2", "c") + bind(name="c") + execute() + SYNC, "Z"),
        (bind(name="c") + SYNC, "Z"),
    ],
    "several_statements_in_one_unit": [
        (
            parse("insert into wire_t values (1, 'a')")
            + bind()
            + execute()
            + parse("insert into wire_t values (2, 'b')")
            + bind()
            + execute()
            + parse("select count(*) from wire_t")
            + bind()
            + describe()
            + execute()
            + SYNC,
            "Z",
        ),
        (
            parse("insert into wire_t values (3, 'c')")
            + bind()
            + execute()
            + parse("insert into wire_t values (1, 'd')")
            + bind()
            + execute()
            + SYNC,
            "Z",
        ),
        (query("select * from wire_t order by id"), "Z"),
    ],
    "syncs_alone": [(SYNC, "Z"), (SYNC + SYNC + SYNC, "ZZZ"), (FLUSH + SYNC, "Z")],
    "flush": [
        (parse("select $1::int", "f") + describe("S", "f") + FLUSH, "T"),
        (bind("7", name="f") + execute() + FLUSH, "C"),
        (bind("8", name="f") + FLUSH, "2"),
        (execute() + SYNC, "Z"),
        (FLUSH + query("select 1"), "Z"),
    ],
    "flush_after_an_error": [
        (parse("selekt") + FLUSH, "E"),
        (bind() + execute() + FLUSH + SYNC, "Z"),
        (once("select 1"), "Z"),
    ],
    "flush_in_a_transaction": [
        (query("begin"), "Z"),
        (parse("insert into wire_t values (5, 'e')") + bind() + execute() + FLUSH, "C"),
        (SYNC, "Z"),
        (parse("select 1 / 0") + bind() + execute() + FLUSH, "E"),
        (SYNC, "Z"),
        (once("commit"), "Z"),
        (query("table wire_t"), "Z"),
    ],
    "portal_with_a_limit_of_rows": [
        (parse("select generate_series(1, 5)") + bind() + execute(rows=2) + execute(rows=2) + execute() + SYNC, "Z"),
        (unit("select generate_series(1, 5)", rows=2), "Z"),
        (execute(rows=2) + SYNC, "Z"),
        (once("begin"), "Z"),
        (parse("select generate_series(1, 5)", "s") + bind(name="s", portal="p") + execute("p", 2) + SYNC, "Z"),
        (execute("p", 2) + SYNC, "Z"),
        (describe("P", "p") + execute("p", 2) + close("P", "p") + SYNC, "Z"),
        (execute("p") + SYNC, "Z"),
        (once("rollback"), "Z"),
    ],
    "named_statement": [
        (parse("select $1::int * 2", "twice") + describe("S", "twice") + SYNC, "Z"),
        (bind("21", name="twice") + describe() + execute() + SYNC, "Z"),
        (parse("select 1", "twice") + SYNC, "Z"),
        (query("select 'between'"), "Z"),
        (bind("4", name="twice") + execute() + bind("5", name="twice") + execute() + SYNC, "Z"),
        (close("S", "twice") + SYNC, "Z"),
        (bind("21", name="twice") + SYNC, "Z"),
        (parse("select 'again'", "twice") + bind(name="twice") + execute() + SYNC, "Z"),
    ],
    "unnamed_statement_beyond_its_unit": [
        (parse("select $1::int * 3") + SYNC, "Z"),
        (bind("2") + execute() + SYNC, "Z"),
        (describe("S") + bind("3") + execute() + SYNC, "Z"),
        (parse("selekt") + SYNC, "Z"),
        (bind("4") + execute() + SYNC, "Z"),
        (parse("select 5") + SYNC, "Z"),
        (query("select 1"), "Z"),
        (bind() + execute() + SYNC, "Z"),
        (parse("select 6") + SYNC, "Z"),
        (close("S") + SYNC, "Z"),
        (bind() + execute() + SYNC, "Z"),
    ],
    "query_inside_an_unsynced_unit": [
        (parse("select 1") + bind() + execute() + query("select 2") + SYNC, "ZZ"),
        (parse("selekt") + query("select 2") + SYNC, "Z"),
        (parse("select 3", "n") + query("select 4; select 1 / 0") + bind(name="n") + execute() + SYNC, "ZZ"),
        (query("select 5"), "Z"),
    ],
    "extended_transaction": [
        (once("begin"), "Z"),
        (once("select 1 / 0"), "Z"),
        (once("select 1"), "Z"),
        (once("commit"), "Z"),
        (once("begin") + once("insert into wire_t values (9, 'i')") + once("commit") + once("table wire_t"), "ZZZZ"),
    ],
    "long_extended": [
        (once("select length($1)", LONG), "Z"),
        (once(f"select length('{LONG}')"), "Z"),
        (parse(f"select '{LONG}' || $1", "long") + SYNC, "Z"),
        (bind("y", name="long") + execute() + SYNC, "Z"),
        (once(f"selekt '{LONG}'"), "Z"),
        (parse("select 1") + bind() + execute() + parse(f"select '{LONG}'") + bind() + execute() + SYNC, "Z"),
        (once("select 1"), "Z"),
    ],
    # --- FunctionCall
    "function_call": [
        (call(177, "20", "22"), "Z"),  # int4pl
        (call(1344, "16.0"), "Z"),  # sqrt
        (call(1344, "-1"), "Z"),
        (call(4_000_000_000), "Z"),
        (call(177, "1"), "Z"),
        (query("begin") + call(154, "7", "0") + query("select 1") + query("rollback"), "ZZZZ"),  # int4div
    ],
    # --- COPY
    "copy_out": [
        (query("copy (select generate_series(1, 3), 'a') to stdout"), "Z"),
        (unit("copy (select generate_series(1, 3)) to stdout"), "Z"),
        (query("copy (select 1) to stdout; select 2; copy (select 3) to stdout (format csv, header)"), "Z"),
        (query("copy (select 1 / (3 - generate_series(1, 3))) to stdout"), "Z"),
    ],
    "copy_in": [
        (query("copy wire_t from stdin"), "G"),
        (copy_data("1\ta\n") + copy_data("2\t") + copy_data("b\n3\t\\N\n") + COPY_DONE, "Z"),
        (query("table wire_t"), "Z"),
        (query("copy wire_t from stdin") + COPY_DONE, "Z"),
    ],
    "copy_in_without_waiting": [
        (
            query("copy wire_t from stdin")
            + copy_data("1\ta\n")
            + COPY_DONE
            + query("table wire_t")
            + once("select 1"),
            "ZZZ",
        ),
    ],
    "copy_in_that_the_frontend_gives_up": [
        (query("copy wire_t from stdin") + copy_data("1\ta\n") + copy_fail("no more"), "Z"),
        (query("table wire_t"), "Z"),
    ],
    "copy_in_with_bad_data": [
        (query("copy wire_t from stdin"), "G"),
        (copy_data("one\ta\n"), "Z"),
        (copy_data("2\tb\n") + COPY_DONE + query("table wire_t"), "Z"),
        (query("copy wire_t from stdin"), "G"),
        (copy_data("1\ta\n1\tb\n") + COPY_DONE, "Z"),
        (query("copy not_there from stdin") + copy_data("2\tb\n") + COPY_DONE + query("table wire_t"), "ZZ"),
    ],
    "copy_in_among_other_statements": [
        (query("select 1; copy wire_t from stdin; select 2; copy wire_t from stdin; select 3"), "G"),
        (copy_data("1\ta\n") + COPY_DONE, "G"),
        (copy_data("2\tb\n") + COPY_DONE, "Z"),
        (query("begin; copy wire_t from stdin"), "G"),
        (copy_data("3\tc\n") + COPY_DONE, "Z"),
        (query("rollback"), "Z"),
        (query("table wire_t"), "Z"),
    ],
    "copy_in_by_the_extended_protocol": [
        (parse("copy wire_t from stdin") + bind() + execute() + SYNC, "G"),
        (copy_data("1\ta\n") + FLUSH + SYNC + copy_data("2\tb\n") + COPY_DONE + SYNC, "Z"),
        (parse("copy wire_t from stdin") + bind() + execute() + FLUSH, "G"),
        (copy_data("3\tc\n") + COPY_DONE + SYNC, "Z"),
        (parse("copy wire_t from stdin") + bind() + execute() + SYNC, "G"),
        (copy_data("4\td\n") + copy_fail("why not") + SYNC, "Z"),
        (parse("copy wire_t from stdin") + bind() + execute() + FLUSH, "G"),
        (copy_data("five\te\n"), "E"),
        (copy_data("6\tf\n") + COPY_DONE + SYNC, "Z"),
        (once("table wire_t"), "Z"),
    ],
    "copy_messages_without_copy": [
        (copy_data("1\ta\n") + COPY_DONE + copy_fail("nothing") + query("select 1"), "Z"),
        (parse("select 2") + bind() + copy_data("x") + execute() + COPY_DONE + SYNC, "Z"),
        (query("select 3"), "Z"),
    ],
    "copy_of_much": [
        (query("copy wire_t from stdin") + b"".join(copy_data(f"{n}\t0\n") for n in range(20_000)) + COPY_DONE, "Z"),
        (query("copy wire_t from stdin") + copy_data(lines(20_000, 60_000)) + COPY_DONE, "Z"),
        (query("select count(*), sum(id) from wire_t"), "Z"),
        (query("copy wire_t to stdout"), "Z"),
    ],
}


def hold(connection: Wire, dialogue: list[tuple[bytes, str]]) -> list[Message]:
    """What was heard, without what no two connections have in common: the pid in a NotificationResponse."""
    heard = []
    for sent, tags in dialogue:
        connection.send(sent)
        for tag in tags:
            heard += connection.until(tag)
    return [Message("A", each.body[4:]) if each.tag == "A" else each for each in heard]


@pytest.mark.parametrize("name", DIALOGUES)
def test_the_pooler_says_byte_for_byte_what_the_server_says(cluster, pooler, table, name):
    with Wire(cluster.primary) as direct:
        expected = hold(direct, DIALOGUES[name])
    cluster.primary.query(f"truncate {table}", dbname=roles.DATABASE)
    with Wire(pooler) as pooled:
        assert hold(pooled, DIALOGUES[name]) == expected
        assert pooled.rows("rollback; select 'still here'") == [["still here"]]


def test_a_pipeline_of_a_thousand_units_is_answered_in_order(cluster, pooler, table):
    units = [
        [
            query(f"select {number}"),
            once("select $1::int", str(number)),
            once("insert into wire_t values ($1, 'x') returning id", str(number)),
            query(f"select count(*) from wire_t where id < {number}"),
            query(f"select {number} / 0"),
            SYNC,
            parse(f"select {number}, $1") + SYNC,
            bind("later") + execute() + SYNC,
        ][number % 8]
        for number in range(1000)
    ]
    dialogue = [(b"".join(units), "Z" * 1000)]
    with Wire(cluster.primary) as direct:
        expected = hold(direct, dialogue)
    cluster.primary.query(f"truncate {table}", dbname=roles.DATABASE)
    with Wire(pooler) as pooled:
        # Sent from another thread: a server that is not read stops reading, and so may the pooler.
        sender = threading.Thread(target=pooled.send, args=(dialogue[0][0],))
        sender.start()
        heard = hold(pooled, [(b"", "Z" * 1000)])
        sender.join()
    assert heard == expected


def test_every_dialogue_is_the_same_when_it_arrives_byte_by_byte(cluster, pooler, table):
    names = "extended copy_in_by_the_extended_protocol query_inside_an_unsynced_unit flush function_call"
    for name in names.split():
        heard = []
        for where in (cluster.primary, pooler):
            cluster.primary.query(f"truncate {table}", dbname=roles.DATABASE)
            with Wire(where) as connection:
                connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                answers = []
                for sent, tags in DIALOGUES[name]:
                    for at in range(len(sent)):
                        connection.send(sent[at : at + 1])
                    answers += hold(connection, [(b"", tags)])
                heard.append(answers)
        assert heard[0] == heard[1], name


VIOLATIONS = {
    "unknown_type": message(b"z"),
    "length_below_four": b"Q\0\0\0\3",
    "describe_that_is_too_long": describe("S", "x" * 10_001),
    "announced_gigabyte_and_more": b"Q\x7f\xff\xff\xff",
    "password_message_after_login": message(b"p", b"secret\0"),
    "query_among_copy_data": query("copy wire_t from stdin") + copy_data("1\ta\n") + query("select 1"),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_of_the_protocol_ends_the_connection_as_the_server_would(cluster, pooler, table, name):
    ends = []
    for where in (cluster.primary, pooler):
        with Wire(where) as connection:
            connection.send(VIOLATIONS[name])
            heard = [each for each in connection.until_closed() if each.tag == "E"]
            ends.append([{letter: each.fields[letter] for letter in "SVC"} for each in heard[-1:]])
    # To some the server has nothing to say; that the pooler says why is no harm.
    assert ends[1] == ends[0] or (not ends[0] and ends[1] == [{"S": "FATAL", "V": "FATAL", "C": "08P01"}])
    with Wire(pooler) as other:
        assert other.value("select 1") == "1"


# --- startup --------------------------------------------------------------------------------------------------------


def negotiated(pooler, version: int, **parameters: str) -> tuple[int, list[bytes]]:
    """The version and the options in NegotiateProtocolVersion, after which the connection must work."""
    with Wire(pooler, version=version, **parameters) as connection:
        first = connection.greeting[0]
        assert connection.value("select 1") == "1"
    assert first.tag == "v"
    spoken, count = struct.unpack_from("!II", first.body)
    options = first.body[8:].split(b"\0")[:-1]
    assert len(options) == count
    return spoken, options


def test_a_newer_protocol_is_negotiated_down_to_the_newest_that_is_spoken(pooler):
    assert negotiated(pooler, 3 << 16 | 9999) == (PROTOCOL_3_2, [])
    assert negotiated(pooler, 3 << 16 | 3, **{"_pq_.new": "on", "_pq_.newer": "1"}) == (
        PROTOCOL_3_2, [b"_pq_.new", b"_pq_.newer"],
    )  # fmt: skip


def test_unknown_protocol_options_are_named_in_the_version_that_was_asked_for(pooler):
    assert negotiated(pooler, PROTOCOL_3_2, **{"_pq_.new": "on"}) == (PROTOCOL_3_2, [b"_pq_.new"])
    assert negotiated(pooler, wire.PROTOCOL_3_0, **{"_pq_.new": "on"}) == (wire.PROTOCOL_3_0, [b"_pq_.new"])


@pytest.mark.parametrize(("version", "size"), [(wire.PROTOCOL_3_0, 4), (PROTOCOL_3_2, 32), (3 << 16 | 9999, 32)])
def test_a_cancel_key_is_as_long_as_the_protocol_has_it_and_works(cluster, pooler, version, size):
    with Wire(pooler, version=version) as connection:
        assert len(connection.key[1]) == size
        connection.send(query("select pg_sleep(100), 'cancel me'"))
        running = "select count(*) from pg_stat_activity where state = 'active' and query like '%cancel me%'"
        wait_until(lambda: cluster.primary.query(running)[0][0] > 1, what="the statement to run")
        connection.cancel()
        answer = connection.until_ready()
        assert [each.fields["C"] for each in answer if each.tag == "E"] == ["57014"]
        assert connection.value("select 1") == "1"


def test_a_wrong_cancel_key_cancels_nothing(cluster, pooler):
    with Wire(pooler) as connection:
        connection.send(query("select pg_sleep(0.3), 'spare me'"))
        right = connection.key
        for key in ((right[0], b"\0\0\0\0"), (right[0] + 1, right[1]), (right[0], b""), (right[0], right[1] + b"x")):
            connection.key = key
            connection.cancel()
        assert [each.tag for each in connection.until_ready()] == ["T", "D", "C", "Z"]


@pytest.mark.parametrize("codes", [(5679,), (5680,), (5680, 5679), (5679, 5680)])
def test_encryption_is_declined_and_the_login_goes_on(pooler, codes):
    with Wire(pooler, login=False) as connection:
        for code in codes:
            connection.send(struct.pack("!II", 8, 1234 << 16 | code))
            assert connection.read(1) == b"N"
        connection.send(wire.startup(wire.PROTOCOL_3_0, {"user": roles.TRUST.name, "database": roles.DATABASE}))
        assert connection.until_ready()[-1].tag == "Z"


def test_what_comes_behind_an_encryption_request_is_refused(pooler):
    with Wire(pooler, login=False) as connection:
        startup = wire.startup(wire.PROTOCOL_3_0, {"user": roles.TRUST.name, "database": roles.DATABASE})
        connection.send(struct.pack("!II", 8, 1234 << 16 | 5679) + startup)
        last = connection.read(1)
        if last == b"N":
            last = connection.read(1)
        assert last == b"E"


@pytest.mark.parametrize("value", ["true", "database", "on", "1"])
def test_replication_connections_are_refused_with_a_hint(pooler, value):
    fields = wire.refusal(pooler, replication=value)
    assert fields["C"] == "0A000"
    assert "replication" in fields["M"]
    assert "directly" in fields["H"]


def test_replication_that_is_off_is_no_replication(pooler):
    with Wire(pooler, replication="off") as connection:
        assert connection.value("select 1") == "1"


BAD_STARTUPS = {
    "length_below_eight": struct.pack("!I", 7) + b"xxx",
    "too_long": struct.pack("!II", 10_001, wire.PROTOCOL_3_0) + b"x" * 9993,
    "protocol_2": wire.startup(2 << 16, {"user": "x"}),
    "protocol_4": wire.startup(4 << 16, {"user": "x"}),
    "no_user": wire.startup(wire.PROTOCOL_3_0, {"database": "app"}),
    "no_end": struct.pack("!II", 14, wire.PROTOCOL_3_0) + b"user\0x",
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD_STARTUPS)
def test_a_bad_startup_packet_is_refused_as_the_server_would(cluster, pooler, name):
    ends = []
    for where in (cluster.primary, pooler):
        with Wire(where, login=False) as connection:
            connection.send(BAD_STARTUPS[name])
            try:
                heard = connection.until_closed()
            except TimeoutError:
                heard = []
            # The server says nothing to a length that cannot be one; saying why is no harm.
            ends.append([{letter: each.fields.get(letter) for letter in "SVC"} for each in heard])
    assert ends[0] in (ends[1], [])


def test_the_greeting_reports_what_the_server_would(cluster, pooler):
    parameters = {"application_name": "greeting", "options": "-c datestyle=sql,dmy -c timezone=Asia/Tokyo"}
    with Wire(cluster.primary, **parameters) as direct, Wire(pooler, **parameters) as pooled:
        assert pooled.parameters == direct.parameters
        assert [each.tag for each in pooled.greeting if each.tag != "S"] == ["R", "K", "Z"]


def test_frontends_that_come_and_go_at_any_byte_leave_no_worker_behind(cluster, pooler, table):
    whole = wire.startup(wire.PROTOCOL_3_0, {"user": roles.TRUST.name, "database": roles.DATABASE}) + once("select 1")
    for size in range(0, len(whole), 3):
        with Wire(pooler, login=False) as connection:
            connection.send(whole[:size])
    stuck = "select count(*) from pg_stat_activity where usename = %s and state <> 'idle'"
    wait_until(lambda: cluster.primary.query(stuck, [roles.TRUST.name]) == [(0,)], what="all to be idle")
    with Wire(pooler) as connection:
        assert connection.value("select 1") == "1"


@pytest.mark.parametrize("make", [query, once], ids=["simple", "extended"])
def test_a_copy_whose_frontend_vanished_before_it_began_is_given_up(cluster, pooler, table, make):
    """The backend waited for CopyData of a frontend that was gone, for ever, and held its locks."""
    locker = cluster.primary.connect(dbname=roles.DATABASE)
    with locker, locker.cursor() as cursor:
        cursor.execute("lock table wire_t")
        waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like 'copy wire_t%'"
        with Wire(pooler) as vanishing:
            vanishing.send(make("copy wire_t from stdin"))
            wait_until(lambda: cluster.primary.query(waiting) == [(1,)], what="the COPY to wait")
    locker.close()
    copying = "select count(*) from pg_stat_activity where state = 'active' and query like 'copy wire_t%'"
    wait_until(lambda: cluster.primary.query(copying) == [(0,)], what="the COPY to end")
