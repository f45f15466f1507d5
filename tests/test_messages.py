"""Messages built and read: against samples built by hand, there and back again, and from bytes that mean nothing."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lib.errors import (
    ConfigError,
    NoUserName,
    NoWorkerInTime,
    OutcomeUnknown,
    PoolError,
    ProtocolViolation,
    ResultChanged,
    UnsupportedProtocol,
)
from lib.wire import messages
from tests import wire_samples as samples
from tests.wire_samples import BACKEND, FRONTEND

PACKET = b"\0\3\0\0user\0app\0database\0shop\0application_name\0psql\0\0"
words = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1, max_size=20)
names = words.filter(lambda name: name not in ("user", "database") and not name.startswith("_pq_."))


# --- built -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("built", "sample"),
    [
        (messages.SYNC, FRONTEND["Sync"]),
        (messages.TERMINATE, FRONTEND["Terminate"]),
        (messages.CLOSE_UNNAMED, samples.close()),
        (messages.query("select 1"), FRONTEND["Query"]),
        (messages.AUTHENTICATION_OK, BACKEND["AuthenticationOk"]),
        (messages.READY[b"I"], BACKEND["ReadyForQuery"]),
        (messages.READY[b"T"], BACKEND["ReadyForQuery in a transaction"]),
        (messages.READY[b"E"], BACKEND["ReadyForQuery in a failed transaction"]),
        (messages.EMPTY_QUERY_RESPONSE, BACKEND["EmptyQueryResponse"]),
        (messages.PARSE_COMPLETE, BACKEND["ParseComplete"]),
        (messages.BIND_COMPLETE, BACKEND["BindComplete"]),
        (messages.CLOSE_COMPLETE, BACKEND["CloseComplete"]),
        (messages.NO_DATA, BACKEND["NoData"]),
        (messages.PARAMETER_DESCRIPTION_NONE, samples.built("t", samples.i16(0))),
        (messages.parameter_status("application_name", "psql"), BACKEND["ParameterStatus"]),
        (messages.backend_key_data(4711, struct.pack("!I", 815)), BACKEND["BackendKeyData"]),
        (messages.backend_key_data(4711, bytes(range(32))), BACKEND["BackendKeyData of 3.2"]),
        (messages.command_complete(b"SELECT 1"), BACKEND["CommandComplete"]),
        (messages.negotiate_protocol_version(196610, ["_pq_.unheard_of"]), BACKEND["NegotiateProtocolVersion"]),
        (messages.cancel_request(4711, b"\0\0\3\x2f"), samples.i32(16, 80877102, 4711, 815)),
    ],
)
def test_what_is_built_is_what_the_documentation_says(built, sample):
    assert built == sample


def test_text_that_is_not_utf8_comes_back_as_it_was():
    assert messages.encode(messages.decode(b"Z\xfcrich")) == b"Z\xfcrich"


# --- errors ----------------------------------------------------------------------------------------------------------


def every_error() -> list[type[PoolError]]:
    found = [PoolError]
    for known in found:
        found += known.__subclasses__()
    return [each for each in found if each.__init__ is PoolError.__init__]


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_is_told_with_its_own_code_and_severity(kind):
    raw = messages.error_response(kind("something is wrong", detail="It is so.", hint="Do otherwise."))
    assert raw[:1] == b"E"
    assert struct.unpack_from("!I", raw, 1)[0] == len(raw) - 1
    assert raw.endswith(b"\0\0")
    assert messages.error_fields(raw) == {
        "S": kind.severity, "V": kind.severity, "C": kind.sqlstate, "M": "something is wrong", "D": "It is so.",
        "H": "Do otherwise.", **({"R": kind.routine} if kind.routine else {}),
    }  # fmt: skip
    assert len(kind.sqlstate) == 5


def test_an_error_without_detail_and_hint_has_no_empty_fields():
    assert set(messages.error_fields(messages.error_response(OutcomeUnknown("gone")))) == set("SVCM")


def test_changed_result_comes_from_the_routine_that_drivers_know_it_by():
    fields = messages.error_fields(messages.error_response(ResultChanged("cached plan must not change result type")))
    assert fields["R"] == "RevalidateCachedQuery"


def test_an_error_that_ends_the_connection_is_fatal_whatever_its_class_says():
    fields = messages.error_fields(messages.error_response(NoWorkerInTime("none"), "FATAL"))
    assert (fields["S"], fields["V"], fields["C"]) == ("FATAL", "FATAL", "53300")


def test_complaints_about_a_conf_file_are_one_message():
    assert ConfigError(["one", "two"]).message == "one; two"


def test_a_servers_error_gets_another_severity_and_keeps_all_else():
    raw = samples.complaint("FATAL", "53300", "sorry, too many clients already")
    changed = messages.with_severity(raw, "ERROR")
    assert messages.error_fields(changed) == {**messages.error_fields(raw), "S": "ERROR", "V": "ERROR"}
    assert struct.unpack_from("!I", changed, 1)[0] == len(changed) - 1
    assert changed.endswith(b"\0\0")


def test_the_severity_that_is_not_translated_counts():
    assert messages.severity({"S": "WARNUNG", "V": "WARNING"}) == "WARNING"
    assert messages.severity({"S": "FATAL"}) == "FATAL"
    assert messages.severity({}) == ""


@given(st.binary(max_size=100))
def test_the_fields_of_any_error_can_be_read(body):
    messages.error_fields(messages.message(b"E", body))
    messages.with_severity(messages.message(b"E", body), "ERROR")


# --- read ------------------------------------------------------------------------------------------------------------


def test_what_a_server_tells_at_login_is_read():
    assert messages.read_parameter_status(BACKEND["ParameterStatus"]) == ("application_name", "psql")
    assert messages.read_backend_key_data(BACKEND["BackendKeyData"]) == (4711, struct.pack("!I", 815))
    assert messages.read_backend_key_data(BACKEND["BackendKeyData of 3.2"]) == (4711, bytes(range(32)))


def test_a_startup_packet_is_read():
    startup = messages.read_startup(PACKET)
    assert startup == messages.Startup(196608, "app", "shop", (("application_name", "psql"),), [])


def test_the_database_is_the_users_own_unless_one_is_named():
    for packet in (b"\0\3\0\0user\0app\0\0", b"\0\3\0\0user\0app\0database\0\0\0"):
        startup = messages.read_startup(packet)
        assert isinstance(startup, messages.Startup)
        assert startup.database == "app"


@pytest.mark.parametrize("packet", [b"\0\3\0\0\0", b"\0\3\0\0user\0\0\0", b"\0\3\0\0database\0shop\0\0"])
def test_a_startup_packet_without_a_user_is_refused(packet):
    with pytest.raises(NoUserName):
        messages.read_startup(packet)


def test_requests_for_encryption_and_cancelling_are_told_apart():
    assert messages.read_startup(struct.pack("!I", 80877103)) == messages.SSL_CODE
    assert messages.read_startup(struct.pack("!I", 80877104)) == messages.GSSENC_CODE
    assert messages.read_startup(messages.cancel_request(4711, b"four")[4:]) == messages.Cancel(4711, b"four")
    assert messages.read_startup(messages.cancel_request(1, bytes(32))[4:]) == messages.Cancel(1, bytes(32))


@pytest.mark.parametrize("packet", [struct.pack("!I", 80877102), struct.pack("!II", 80877102, 4711)])
def test_a_cancel_request_without_a_key_is_a_violation(packet):
    with pytest.raises(ProtocolViolation):
        messages.read_startup(packet)


@pytest.mark.parametrize("version", [(0, 0), (2, 0), (4, 0), (1234, 5677), (1234, 5681), (65535, 65535)])
def test_other_major_versions_are_refused(version):
    with pytest.raises(UnsupportedProtocol, match=f"{version[0]}.{version[1]}"):
        messages.read_startup(struct.pack("!HH", *version) + PACKET[4:])


@pytest.mark.parametrize("minor", [0, 1, 2, 3, 9999])
def test_every_minor_version_of_3_is_read(minor):
    startup = messages.read_startup(struct.pack("!HH", 3, minor) + PACKET[4:])
    assert isinstance(startup, messages.Startup)
    assert startup.version == 3 << 16 | minor


def test_protocol_options_are_no_settings():
    startup = messages.read_startup(b"\0\3\0\2user\0app\0_pq_.unheard_of\0on\0role\0r\0\0")
    assert isinstance(startup, messages.Startup)
    assert startup.options == ["_pq_.unheard_of"]
    assert startup.parameters == (("role", "r"),)


@pytest.mark.parametrize("size", range(5, len(PACKET)))
def test_a_startup_packet_that_is_cut_is_refused(size):
    with pytest.raises(PoolError):
        messages.read_startup(PACKET[:size])


@pytest.mark.parametrize("tail", [b"\0", b"x", b"x\0", b"\0\0"])
def test_bytes_behind_the_end_of_a_startup_packet_are_a_violation(tail):
    with pytest.raises(ProtocolViolation):
        messages.read_startup(PACKET + tail)


@pytest.mark.parametrize("value", ["true", "on", "yes", "1", "database", "T"])
def test_a_walsender_is_recognised(value):
    assert messages.Startup(196608, "u", "d", (("replication", value),)).replication


@pytest.mark.parametrize("value", ["false", "OFF", "no", "0", "f", ""])
def test_no_replication_is_no_walsender(value):
    assert not messages.Startup(196608, "u", "d", (("replication", value),)).replication
    assert not messages.Startup(196608, "u", "d", ()).replication


@given(words, words, st.dictionaries(names, words.map(lambda word: word[:-1]), max_size=6))
def test_startup_packets_come_back_as_they_were(user, database, parameters):
    packet = messages.startup_packet({"user": user, "database": database, **parameters})
    assert struct.unpack_from("!I", packet)[0] == len(packet)
    startup = messages.read_startup(packet[4:])
    assert startup == messages.Startup(messages.PROTOCOL_3_0, user, database, tuple(parameters.items()), [])


@given(st.binary(max_size=100))
@example(b"\0\3\0\0\0\0")
@example(b"\0\3\0\0user\0")
@example(b"\0\3\0\0")
def test_any_first_packet_is_read_or_refused(packet):
    for data in (packet, b"\0\3\0\0" + packet):
        try:
            messages.read_startup(data)
        except (ProtocolViolation, UnsupportedProtocol, NoUserName):
            pass
