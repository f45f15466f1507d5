"""PROXY headers: whom they speak for, and nothing but a refusal for what is none."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.errors import ProtocolViolation
from lib.wire import proxy
from lib.wire.proxy import Origin

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V4 = socket.inet_aton("10.1.2.3") + socket.inet_aton("10.0.0.1") + struct.pack("!HH", 40000, 7777)
V6 = socket.inet_pton(socket.AF_INET6, "fd00::7") + bytes(16) + struct.pack("!HH", 40001, 7777)
TLV = b"\x05\x00\x03abc"  # a unique id


def binary(addresses: bytes = V4, family: int = 0x11, command: int = 0x21) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(addresses)) + addresses


@pytest.mark.parametrize(
    ("header", "origin"),
    [
        (b"PROXY TCP4 10.1.2.3 10.0.0.1 40000 7777\r\n", Origin("10.1.2.3", 40000)),
        (b"PROXY TCP6 fd00::7 fd00::1 40001 7777\r\n", Origin("fd00::7", 40001)),
        (b"PROXY UNKNOWN\r\n", Origin()),
        (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", Origin()),
        (binary(), Origin("10.1.2.3", 40000)),
        (binary(V4 + TLV), Origin("10.1.2.3", 40000)),
        (binary(V6, 0x21), Origin("fd00::7", 40001)),
        (binary(b"/tmp/client".ljust(108, b"\0") + bytes(108), 0x31), Origin()),
        (binary(b"", 0x00), Origin()),
        (binary(b"", 0x00, 0x20), Origin(is_itself=True)),
        (binary(V4 + TLV, 0x11, 0x20), Origin(is_itself=True)),
    ],
)
def test_whom_a_proxy_speaks_for(header, origin):
    assert proxy.might_be(header[:4])
    assert proxy.is_binary(header) is not proxy.is_line(header)
    if proxy.is_binary(header):
        assert proxy.rest_of(header[:16]) == len(header) - 16
    assert proxy.read(header) == origin


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 10.1.2.3 10.0.0.1 40000\r\n", b"PROXY TCP4 10.1.2.300 10.0.0.1 40000 7777\r\n",
        b"PROXY TCP4 fd00::7 fd00::1 40000 7777\r\n", b"PROXY TCP4 10.1.2.3 10.0.0.1 99999 7777\r\n",
        b"PROXY TCP4 10.1.2.3 10.0.0.1 40000 7777\n", b"PROXY UDP4 10.1.2.3 10.0.0.1 40000 7777\r\n",
        b"PROXY \r\n", b"PROXY TCP4 \xff\xff \xff 1 1\r\n", binary(V4[:7]), binary(V6[:20], 0x21),
        binary(V4, 0x11, 0x31), binary(V4, 0x11, 0x22), binary()[:-1], binary(b"x" * 20, 0x31),
    ],
)  # fmt: skip
def test_what_is_no_header_is_refused(header):
    with pytest.raises(ProtocolViolation, match="malformed PROXY header"):
        proxy.read(header)


def test_a_header_that_is_too_long_is_refused_before_it_has_come():
    assert proxy.rest_of(binary(bytes(4000))[:16]) == 4000
    with pytest.raises(ProtocolViolation, match="malformed PROXY header"):
        proxy.rest_of(binary(bytes(4081))[:16])


@pytest.mark.parametrize("length", [8, 9, 296, 10_000])
def test_no_startup_packet_is_taken_for_a_header(length):
    assert not proxy.might_be(struct.pack("!I", length))


@given(st.binary(max_size=80), st.sampled_from([b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21"]))
def test_nothing_but_a_refusal_comes_of_strange_bytes(data, beginning):
    for header in (beginning + data, beginning + data + b"\r\n"):
        try:
            assert isinstance(proxy.read(header), Origin)
        except ProtocolViolation:
            pass
