"""What is read from a real primary: its rules with their quotes, its roles, and when they are read again."""

from __future__ import annotations

import os
import time

import gevent
import pytest
from gevent.server import StreamServer
from gevent.socket import create_connection

from lib.admin import Admin
from lib.auth import hba, matching
from lib.auth.hba import Peer
from lib.auth.hbatext import Word
from lib.directory import Directory, Known
from tests.cluster.auth_roles import ADMIN
from tests.cluster.minipool import in_thread
from tests.servers import Server
from tests.workplace import PATIENCE_S

VERSIONS = [pytest.param(15, marks=pytest.mark.needs_debian), 16, 18]


@pytest.fixture
def directory(restored):
    admin = Admin(ADMIN)
    yield Directory(admin, lambda: (restored.host, restored.port), access_ttl_s=0.0)
    admin.close()


def rules_of(directory):
    return [rule.method for rule in directory.rules(directory.access("a_scram", "postgres").loaded).rules.rules]


def test_a_reload_of_the_server_is_a_reload_here(restored, directory):
    assert len(rules_of(directory)) > 10
    restored.set_hba(["host all all 127.0.0.1/32 trust"])
    restored.reload()
    assert rules_of(directory) == ["trust"] * 3


def test_a_file_that_was_edited_and_not_reloaded_does_not_hold_yet(restored, directory):
    before = rules_of(directory)
    restored.set_hba(["host all all all reject"])
    later = time.time() + 5
    os.utime(restored.data / "pg_hba.conf", (later, later))
    directory.expire()
    assert rules_of(directory) == before


def test_a_file_with_an_error_keeps_the_rules_that_were_there(restored, directory):
    before = rules_of(directory)
    restored.set_hba(["host all all 127.0.0.1/32 no_such_method"])
    restored.reload()
    assert rules_of(directory) == before
    restored.set_hba(["host all all 127.0.0.1/32 trust"])
    restored.reload()
    assert rules_of(directory) == ["trust"] * 3


TRICKY = [
    'host "all" all 127.0.0.1/32 trust', 'host all, "a,b",c  "+staff",+staff all md5',
    'host "say ""hi""" al"l" ::1/128 md5 # and so on', "host sameuser,samerole \\", "  all 10.0.0.0 \\",
    "  255.0.0.255 \\", " scram-sha-256", 'host @lists/names all samenet md5', 'host x /^a,"/b c" .example.com reject',
    'host all all "all" md5', "include more.conf", "host last last samehost trust",
]  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
def test_quotes_are_found_in_every_corner_of_the_file(version):
    lines = [line for line in TRICKY if version != 15 or "include" not in line]
    server = Server("tricky", version=version, hba=lines)
    (server.data / "lists").mkdir(mode=0o755)
    server.write("lists/names", 'all "all"\n# comment\n"sameuser", plain\n')
    server.write("more.conf", 'host "replication" all all md5\n')
    with server:
        admin = Admin(ADMIN)
        directory = Directory(admin, lambda: (server.unix_dir, server.port))
        rules = directory.rules().rules.rules
        found = [(_shown(rule.databases), _shown(rule.users), str(rule.address)) for rule in rules]
        expected = [
            ("all", "postgres", "None"), ("replication", "replicator", "127.0.0.1"), ('"all"', "all", "127.0.0.1"),
            ('all "a,b" c', '"+staff" +staff', "all"), ('say "hi"', "all", "::1"),
            ("sameuser samerole", "all", "10.0.0.0"), ('all "all" "sameuser" plain', "all", "samenet"),
            ("x", "/^a /b c", ".example.com"),
            ("all", "all", '"all"'), ('"replication"', "all", "all"), ("last", "last", "samehost"),
        ]  # fmt: skip
        if version == 15:
            del expected[-2]
        assert found == expected
        admin.close()


def _shown(words):
    return " ".join(map(str, words))


def test_the_text_of_a_file_comes_as_it_is_from_a_server_of_version_10_too(restored, directory):
    path = str(restored.data / "pg_hba.conf")
    restored.set_hba(['host all all all md5 # "quoted", \\back\\slash\t\ttabs', "", "", "# ä"])
    text = (restored.data / "pg_hba.conf").read_text()
    address = (restored.host, restored.port)
    assert directory._text(address, path, 160000) == text
    assert directory._text(address, path, 100000).splitlines() == text.splitlines()
    assert directory._text(address, path + ".no", 160000) is None


def test_regular_expressions_that_are_tried_mean_the_same_on_the_server(own_server):
    atoms = ["a", "b.", "[ab]", "[^a]", r"\d", r"\w", r"\.", "(a|b)", "(?:ab)", "[[:alpha:]]", "x?", "a*?", "a{2}", "^"]
    atoms.append("$")
    names = ["", "a", "ab", "abc", "a.b", "aab", "b1", "1", "_x", "a{2}", "ä", "B"]
    patterns = [f"{one}{two}" for one in atoms for two in atoms]
    asked = "select p, n, n ~ p collate \"C\" from unnest(%s::text[]) p, unnest(%s::text[]) n"
    tried = [p for p in patterns if matching.regex(p) is not None]
    assert len(tried) > 150
    valid = [p for p in tried if in_thread(own_server.query, "select '' ~ %s", [p]) in ([(True,)], [(False,)])]
    for pattern, name, matches in own_server.query(asked, [valid, names]):
        ours = matching.role(Word("/" + pattern), name, set(), 160000)
        assert ours is None or ours is matches, (pattern, name)


def test_memberships_count_directly_and_not(own_server, directory):
    own_server.query("create role top; create role middle; create role low login")
    own_server.query("grant top to middle; grant middle to low")
    assert directory.access("low", "postgres").roles == {"low", "middle", "top"}
    assert directory.access("no_such_role", "postgres").roles == frozenset()


def test_a_name_that_no_server_can_hold_is_nobodys(directory):
    assert not directory.access("\udcff", "postgres").role_exists
    assert not directory.access("x" * 100, "y" * 100).role_exists


def test_a_name_that_the_server_would_cut_off_is_nobodys(own_server, directory):
    """PostgreSQL up to 16 compares its rules with the first 63 bytes; ours must not find another rule for it."""
    own_server.query(f"create role {'r' * 63} login")
    assert directory.access("r" * 63, "postgres").role_exists
    assert not directory.access("r" * 64, "postgres").role_exists
    assert not directory.access("r" * 63, "p" * 64).role_exists


def test_logins_at_the_same_time_share_one_look_up(restored):
    admin = Admin(ADMIN)
    directory = Directory(admin, lambda: (restored.host, restored.port), access_ttl_s=5.0)
    asked = []
    query = admin.query
    admin.query = lambda *args, **named: asked.append(args) or query(*args, **named)
    asking = [gevent.spawn(directory.access, "a_scram", "postgres") for _ in range(200)]
    found = gevent.joinall(asking, timeout=PATIENCE_S)
    assert len(found) == 200 and all(each.value.role_exists for each in found) and len(asked) == 1
    directory.access("a_scram", "postgres")
    assert len(asked) == 1
    admin.close()


def test_one_who_gives_up_does_not_leave_the_others_waiting(restored):
    admin = Admin(ADMIN)
    directory = Directory(admin, lambda: (restored.host, restored.port), access_ttl_s=5.0)
    first = gevent.spawn(directory.access, "a_scram", "postgres")
    gevent.sleep(0)
    others = [gevent.spawn(directory.access, "a_scram", "postgres") for _ in range(3)]
    gevent.sleep(0)
    first.kill()
    gevent.joinall(others, timeout=PATIENCE_S)
    assert all(each.value.role_exists for each in others)
    admin.close()


def test_a_role_that_changes_or_goes_has_another_fingerprint(restored, directory):
    restored.query("create role passing login; create role staying login")
    before = directory.fingerprints(["passing", "staying", "never"])
    assert set(before) == {"passing", "staying"} and directory.fingerprints([]) == {}
    restored.query("alter role passing password 'new'")
    after = directory.fingerprints(["passing", "staying"])
    assert after["staying"] == before["staying"] and after["passing"] != before["passing"]
    restored.query("drop role passing; drop role staying")
    assert directory.fingerprints(["passing"]) == {}


class Proxy(StreamServer):
    """Passes bytes on to a server, as a tunnel or a load balancer on the server's machine does."""

    def __init__(self, server):
        super().__init__(("127.0.0.1", 0))
        self.server = server

    def handle(self, sock, _address):
        other = create_connection((self.server.host, self.server.port))

        def pass_on(source, target):
            while data := source.recv(65536):
                target.sendall(data)

        gevent.joinall([gevent.spawn(pass_on, sock, other), gevent.spawn(pass_on, other, sock)], count=1)
        sock.close()
        other.close()


def test_a_server_behind_a_tunnel_is_not_taken_for_one_on_this_machine(own_server):
    """It says that we come from 127.0.0.1; its `local` rules are not for this machine's users all the same."""
    proxy = Proxy(own_server)
    proxy.start()
    admin = Admin(ADMIN)
    known = Directory(admin, lambda: ("127.0.0.1", proxy.server_port)).rules()
    assert known.own_address == "127.0.0.1" and not known.is_direct and not known.is_local
    assert known.seen(Peer("unix", None, 0)) == Peer("inet", "127.0.0.1")
    admin.close()
    proxy.stop(timeout=0.1)


@pytest.mark.parametrize(
    ("own_address", "peer", "seen"),
    [
        ("10.0.0.7", Peer("unix", None, 0), Peer("inet", "10.0.0.7")),
        ("10.0.0.7", Peer.at("127.0.0.1"), Peer("inet", "10.0.0.7")),
        ("10.0.0.7", Peer.at("::1", tls=True), Peer("inet", "10.0.0.7", None, True)),
        ("10.0.0.7", Peer.at("10.9.9.9"), Peer.at("10.9.9.9")),
        ("10.0.0.5", Peer("unix", None, 0), Peer("unix", None, 0)),
        (None, Peer("unix", None, 0), Peer("unix", None, 0)),
        ("127.0.0.1", Peer("unix", None, 0), Peer("unix", None, 0)),
    ],
)
def test_a_local_frontend_is_local_to_a_server_on_the_same_machine_only(own_address, peer, seen):
    rules = hba.Rules((), 160000, frozenset(["10.0.0.5"]))
    assert Known(rules, (), own_address, "md5", b"", "").seen(peer) == seen


def test_the_server_names_the_pools_own_address(own_server):
    admin = Admin(ADMIN)
    by_tcp = Directory(admin, lambda: (own_server.host, own_server.port)).rules()
    by_unix = Directory(admin, lambda: (own_server.unix_dir, own_server.port)).rules()
    assert by_tcp.own_address == "127.0.0.1" and by_unix.own_address is None
    assert by_tcp.is_local and by_unix.is_local and by_tcp.is_direct and by_unix.is_direct
    assert by_tcp.mock_nonce == by_unix.mock_nonce
    assert hba.find(by_tcp.rules, Peer.at("127.0.0.1"), "postgres", "postgres", ()).method == "trust"
    admin.close()
