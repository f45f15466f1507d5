"""pg_hba.conf as PostgreSQL's hba.c reads and applies it, and never weaker where it cannot be known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.auth import hba, hbatext, matching
from lib.auth.hba import Peer, Rule, Rules, find
from lib.auth.hbatext import NeedsText, Word
from lib.errors import RulesUnusable

V10, V13, V15, V16, V18 = 100023, 130014, 150010, 160004, 180001
FILE = "/data/pg_hba.conf"


def words(*texts):
    return tuple(Word(text) for text in texts)


def rule(method="trust", *, type="host", databases=("all",), users=("all",), address="all", netmask=None):
    where = None if type == "local" else Word(address)
    return Rule(1, type, words(*databases), words(*users), where, netmask, method, {}, FILE)


def cidr(address, netmask, method="trust", **more):
    return rule(method, address=address, netmask=netmask, **more)


def method_for(rules, address="10.1.2.3", user="bob", database="shop", roles=("bob",), version=V16, **more):
    peer = more.pop("peer", None) or Peer.at(address)
    servers = frozenset(more.pop("servers", ()))
    found = find(Rules(tuple(rules), version, servers), peer, user, database, frozenset(roles), **more)
    return found.method if found else None


def row(line, kind="host", database=("all",), user=("all",), address="all", netmask=None, method="md5", **more):
    return {
        "line_number": line, "type": kind, "database": list(database), "user_name": list(user), "address": address,
        "netmask": netmask, "auth_method": method, "options": None, "error": None, "file_name": FILE, **more,
    }  # fmt: skip


# --- the text -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("local all all trust", [["local"], ["all"], ["all"], ["trust"]]),
        ("host\ta,b ,c  d", [["host"], ["a", "b"], ["c"], ["d"]]),
        ("host a, b c", [["host"], ["a", "b"], ["c"]]),
        ("host all # all trust", [["host"], ["all"]]),
        ("# nothing", []),
        ("   \t ", []),
        ('host "a b,c#d" e', [["host"], ["a b,c#d"], ["e"]]),
        ('host "say ""x""" e', [["host"], ['say "x"'], ["e"]]),
        ('host "" e', [["host"], [""], ["e"]]),
        ("host all#comment", [["host"], ["all"]]),
        ("host never\"ends here", [["host"], ["neverends here"]]),
        ("host all trust\r", [["host"], ["all"], ["trust"]]),
    ],
)
def test_a_line_is_split_into_fields_as_the_server_splits_it(line, expected):
    assert [[word.text for word in field] for field in hbatext.fields(line)] == expected


@pytest.mark.parametrize(
    ("text", "quoted"), [('"all"', True), ("all", False), ('al"l"', False), ('"al"l', True), ('""all', True)]
)
def test_a_word_is_quoted_when_the_quote_comes_before_its_first_character(text, quoted):
    assert hbatext.fields(text) == [[Word("all", quoted)]]


def test_a_backslash_continues_a_line_since_14_and_the_first_line_gives_the_number():
    text = "# one\nhost all \\\n  all \\\n trust\nlocal all all peer\n"
    assert list(hbatext.lines(text, V16)) == [(2, "host all   all  trust"), (5, "local all all peer")]
    assert [number for number, _ in hbatext.lines(text, V13)] == [2, 3, 4, 5]


def test_a_backslash_on_the_last_line_continues_nothing():
    assert [number for number, _ in hbatext.lines("local all all trust \\", V16)] == [1]


def test_words_of_an_included_file_take_the_place_of_its_name_with_their_quotes():
    texts = {"/data/more": 'x, "all"\n# comment\n@deeper', "/data/deeper": "all"}
    field = hbatext.fields("a,@more,b")[0]
    expanded = hbatext.expand(field, FILE, texts, V16)
    assert expanded == [Word("a"), Word("x"), Word("all", True), Word("all"), Word("b")]


def test_a_text_that_is_missing_is_asked_for():
    with pytest.raises(NeedsText) as needs:
        hbatext.expand(hbatext.fields("@lists/more")[0], FILE, {}, V16)
    assert needs.value.name == "/data/lists/more"


def test_files_that_include_each_other_end():
    assert hbatext.expand(hbatext.fields("@a")[0], FILE, {"/data/a": "@a x"}, V16)[-1] == Word("x")


@given(st.text())
def test_no_line_breaks_the_tokenizer(line):
    hbatext.fields(line)


# --- rows of the view -----------------------------------------------------------------------------------------------


def test_a_quoted_keyword_is_a_name():
    rows = [row(1, database=["all"], user=["all"])]
    parsed = hba.parse(rows, {FILE: 'host "all" all all md5\n'}, V16)
    assert parsed[0].databases == (Word("all", True),) and parsed[0].users == (Word("all"),)
    assert method_for(parsed) is None
    assert method_for(parsed, database="all") == "md5"


def test_a_quoted_plus_is_part_of_the_name():
    parsed = hba.parse([row(1, user=["+staff"])], {FILE: 'host all "+staff" all md5'}, V16)
    assert method_for(parsed, roles=("bob", "staff")) is None
    assert method_for(parsed, user="+staff") == "md5"


def test_a_quoted_all_as_address_is_a_host_name():
    parsed = hba.parse([row(1)], {FILE: 'host all all "all" md5'}, V16)
    assert method_for(parsed) is None
    assert method_for(parsed, resolve=lambda address: ("all", [address])) == "md5"


def test_the_text_is_needed_only_where_a_word_could_be_a_keyword():
    plain = row(1, database=["shop"], user=["bob"], address="10.0.0.0", netmask="255.0.0.0")
    assert hba.parse([plain], {}, V16)[0].method == "md5"
    with pytest.raises(NeedsText):
        hba.parse([row(1)], {}, V16)


def test_a_file_with_an_error_keeps_the_rules_that_were_there_before():
    bad = {**row(2), "error": 'invalid authentication method "foo"', "auth_method": None, "type": None}
    with pytest.raises(RulesUnusable, match="line 2"):
        hba.parse([row(1, database=["a"], user=["b"], address="c"), bad], {FILE: ""}, V16)


def test_a_warning_about_a_rule_that_cannot_match_is_no_error():
    warned = row(1, "hostssl", error="hostssl record cannot match because SSL is disabled")
    assert hba.parse([warned], {FILE: "hostssl all all all md5"}, V16)[0].type == "hostssl"


def test_a_file_without_entries_is_unusable():
    with pytest.raises(RulesUnusable):
        hba.parse([], {}, V16)


@pytest.mark.parametrize("text", ["", "host other all all md5", "host all"])
def test_a_text_that_does_not_belong_to_the_rows_is_noticed(text):
    with pytest.raises(RulesUnusable, match="changed"):
        hba.parse([row(1)], {FILE: text}, V16)


def test_options_become_a_mapping():
    parsed = hba.parse([row(1, "local", ["a"], ["b"], None, options=["map=m", "x=y=z"])], {}, V16)
    assert parsed[0].options == {"map": "m", "x": "y=z"}


# --- who is meant ---------------------------------------------------------------------------------------------------


def test_the_first_match_decides():
    rules = [rule("reject", users=["mallory"]), rule("md5"), rule("trust")]
    assert method_for(rules) == "md5"
    assert method_for(rules, user="mallory") == "reject"


def test_nothing_that_matches_is_no_rule():
    assert method_for([rule(users=["alice"])]) is None


def test_local_is_for_unix_sockets_and_host_is_not():
    rules = [rule("peer", type="local"), rule("md5")]
    assert method_for(rules, peer=Peer("unix", uid=1)) == "peer"
    assert method_for(rules) == "md5"
    assert method_for([rule("md5")], peer=Peer("unix", uid=1)) is None


@pytest.mark.parametrize(
    ("kind", "tls", "matches"),
    [
        ("host", False, True), ("hostssl", False, False), ("hostnossl", False, True), ("hostgssenc", False, False),
        ("hostnogssenc", False, True), ("host", True, True), ("hostssl", True, True), ("hostnossl", True, False),
    ],
)  # fmt: skip
def test_the_kind_of_connection_is_checked(kind, tls, matches):
    found = method_for([rule("md5", type=kind)], peer=Peer.at("10.1.2.3", tls=tls))
    assert found == ("md5" if matches else None)


@pytest.mark.parametrize(
    ("word", "database", "user", "roles", "matches"),
    [
        ("all", "shop", "bob", {"bob"}, True),
        ("shop", "shop", "bob", {"bob"}, True),
        ("Shop", "shop", "bob", {"bob"}, False),
        ("sameuser", "bob", "bob", {"bob"}, True),
        ("sameuser", "shop", "bob", {"bob"}, False),
        ("samerole", "staff", "bob", {"bob", "staff"}, True),
        ("samegroup", "staff", "bob", {"bob", "staff"}, True),
        ("samerole", "bob", "bob", {"bob"}, True),
        ("samerole", "staff", "bob", {"bob"}, False),
        ("replication", "replication", "bob", {"bob"}, False),
        ("/^sh.p$", "shop", "bob", {"bob"}, True),
        ("/^sh.p$", "workshop", "bob", {"bob"}, False),
    ],
)
def test_a_database_word_means_what_the_manual_says(word, database, user, roles, matches):
    assert matching.database(Word(word), database, user, roles, V16) is matches


@pytest.mark.parametrize(
    ("word", "roles", "matches"),
    [("all", {"bob"}, True), ("bob", {"bob"}, True), ("alice", {"bob"}, False), ("+staff", {"bob", "staff"}, True),
     ("+bob", {"bob"}, True), ("+staff", {"bob"}, False), ("+staff", set(), False), ("/^b", {"bob"}, True),
     ("/^c", {"bob"}, False)],
)  # fmt: skip
def test_a_user_word_means_what_the_manual_says(word, roles, matches):
    assert matching.role(Word(word), "bob", roles, V16) is matches


def test_a_slash_is_only_a_character_before_16():
    assert matching.role(Word("/^b"), "bob", {"bob"}, V15) is False
    assert matching.role(Word("/^b"), "/^b", set(), V15) is True


def test_a_quoted_regular_expression_is_one_all_the_same():
    assert matching.role(Word("/^b", True), "bob", {"bob"}, V16) is True


def test_quoted_keywords_are_names():
    for keyword in ("all", "sameuser", "samerole", "samegroup", "replication"):
        assert matching.database(Word(keyword, True), "bob", "bob", {"bob"}, V16) is False
        assert matching.database(Word(keyword, True), keyword, "bob", {"bob"}, V16) is True


@pytest.mark.parametrize(
    "pattern",
    [r"\mbob", r"\yb", r"b\b", "(?i)BOB", "***=bob", "[[=a=]]", "[[.a.]]", "a++", r"(.)\1", "[", "a{,3}", "(?<=a)b",
     "\\"],
)  # fmt: skip
def test_a_regular_expression_that_may_mean_something_else_here_is_not_tried(pattern):
    assert matching.role(Word("/" + pattern), "bob", {"bob"}, V16) is None


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [(r"^\d+$", "123", True), ("^[[:alpha:]_]+$", "a_b", True), ("^[[:digit:]]+$", "a", False),
     (r"^a\.b$", "a.b", True), (r"^a\.b$", "axb", False), ("^(?:a|b){2}$", "ab", True), (r"^\w+$", "é", False)],
)  # fmt: skip
def test_a_regular_expression_that_means_the_same_is_tried(pattern, name, matches):
    assert matching.role(Word("/" + pattern), name, set(), V16) is matches


# --- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "netmask", "peer", "matches"),
    [
        ("10.1.0.0", "255.255.0.0", "10.1.2.3", True),
        ("10.2.0.0", "255.255.0.0", "10.1.2.3", False),
        ("10.1.99.99", "255.255.0.0", "10.1.2.3", True),
        ("10.0.0.3", "255.0.0.255", "10.1.2.3", True),
        ("10.0.0.4", "255.0.0.255", "10.1.2.3", False),
        ("0.0.0.0", "0.0.0.0", "10.1.2.3", True),
        ("0.0.0.0", "0.0.0.0", "fe80::1", False),
        ("::", "::", "10.1.2.3", False),
        ("::", "::", "fe80::1%eth0", True),
        ("2001:db8::", "ffff:ffff::", "2001:db8::5", True),
        ("10.1.2.3", "255.255.255.255", "::ffff:10.1.2.3", True),
        ("::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::1", True),
    ],
)
def test_an_address_is_compared_under_the_mask(address, netmask, peer, matches):
    assert method_for([cidr(address, netmask)], peer) == ("trust" if matches else None)


@pytest.mark.parametrize(
    ("pattern", "resolved", "matches"),
    [
        ("app.example.com", ("app.example.com", ["10.1.2.3"]), True),
        ("APP.example.com", ("app.EXAMPLE.com", ["10.9.9.9", "10.1.2.3"]), True),
        (".example.com", ("app.example.com", ["10.1.2.3"]), True),
        (".example.com", ("example.com", ["10.1.2.3"]), False),
        ("example.com", ("app.example.com", ["10.1.2.3"]), False),
        ("app.example.com", ("app.example.com", ["10.9.9.9"]), False),
        ("app.example.com", ("app.example.com", []), False),
        ("app.example.com", None, False),
    ],
)
def test_a_host_name_needs_a_reverse_lookup_that_the_forward_one_confirms(pattern, resolved, matches):
    found = method_for([rule("md5", address=pattern)], resolve=lambda address: resolved)
    assert found == ("md5" if matches else None)


def test_an_address_is_looked_up_once_and_only_when_a_rule_needs_it():
    asked = []

    def resolve(address):
        asked.append(address)

    method_for([rule("md5", address="a.example", users=["alice"]), rule("md5")], resolve=resolve)
    assert asked == []
    method_for([rule(address="a.example"), rule(address="b.example"), rule("md5")], resolve=resolve)
    assert asked == ["10.1.2.3"]


def test_samehost_matches_an_address_that_is_known_to_be_the_servers():
    rules = [rule("trust", address="samehost"), rule("md5")]
    assert method_for(rules, "10.0.0.5", servers=["10.0.0.5"]) == "trust"


@pytest.mark.parametrize("keyword", ["samehost", "samenet"])
def test_samehost_and_samenet_are_never_weaker_than_on_the_server(keyword):
    # Whether they match is the server's secret, so the stricter of both outcomes is taken.
    assert method_for([rule("trust", address=keyword), rule("md5")]) == "md5"
    assert method_for([rule("scram-sha-256", address=keyword), rule("trust")]) == "scram-sha-256"
    assert method_for([rule("trust", address=keyword)]) is None
    assert method_for([rule("reject", address=keyword), rule("md5")]) == "reject"


def test_a_regular_expression_that_cannot_be_tried_is_never_weaker_than_on_the_server():
    unknown = r"/\ybob\y"
    assert method_for([rule("trust", users=[unknown]), rule("md5")]) == "md5"
    assert method_for([rule("reject", users=[unknown]), rule("trust")]) == "reject"
    assert method_for([rule("trust", users=[unknown, "bob"]), rule("md5")]) == "trust"


METHODS = ["trust", "password", "md5", "scram-sha-256", "ldap", "reject"]
RULES = st.builds(
    rule, st.sampled_from(METHODS), address=st.sampled_from(["all", "samenet", "samehost"]),
    users=st.lists(st.sampled_from(["all", "bob", "alice", r"/\ybob\y"]), min_size=1, max_size=2),
)  # fmt: skip


@given(st.lists(RULES, max_size=5), st.data())
def test_whatever_the_server_knows_better_its_answer_is_never_stricter(rules, data):
    """Every way in which the server could settle what is unknown here ends in a rule that is no stricter than ours."""
    ours = find(Rules(tuple(rules), V16), Peer.at("10.1.2.3"), "bob", "shop", {"bob"})
    theirs = None
    for each in rules:
        address = each.address.text == "all" or data.draw(st.booleans())
        names = [word.text for word in each.users]
        user = "all" in names or "bob" in names or any(name[0] == "/" and data.draw(st.booleans()) for name in names)
        if address and user:
            theirs = each
            break
    assert hba.strictness(ours) >= hba.strictness(theirs)


# --- peers ----------------------------------------------------------------------------------------------------------


def test_an_ipv4_address_in_ipv6_clothes_is_ipv4():
    assert Peer.at("::ffff:127.0.0.1") == Peer("inet", "127.0.0.1")
    assert Peer.at("fe80::1%eth0") == Peer("inet6", "fe80::1")
    assert Peer.at(None, 1000) == Peer("unix", None, 1000)


def test_a_socket_that_is_gone_is_not_taken_for_a_local_one():
    with pytest.raises(EOFError):
        Peer.at("")


def test_a_rule_shows_itself_as_in_the_file():
    shown = repr(Rule(7, "host", (Word("all", True),), words("bob", "+staff"), Word("samenet"), None, "md5", {}))
    assert shown == '<Rule line 7: host "all" bob,+staff samenet md5>'


# --- clientname ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hostssl a b all cert clientname=DN map=m", {"clientname": "DN"}),
        ("hostssl a b 10.0.0.0 255.0.0.0 cert map=m clientname=CN", {"clientname": "CN"}),
        ('hostssl a b all cert "clientname=DN"', {"clientname": "DN"}),
        ("hostssl a b all cert # clientname=DN", {}),
        ("hostssl clientname=DN b all cert", {}),
    ],
)
def test_what_the_view_does_not_show_of_a_certificate_is_read_from_the_file(text, expected):
    shown = row(1, "hostssl", ["a"], ["b"], "10.0.0.0", netmask="255.0.0.0", method="cert",
                options=["clientcert=verify-full"])  # fmt: skip
    (parsed,) = hba.parse([shown], {FILE: text + "\n"}, V16)
    assert parsed.options == {"clientcert": "verify-full", **expected}
    with pytest.raises(NeedsText):
        hba.parse([shown], {}, V16)
