"""What a value may be, what is said when it is something else, and that no password is ever shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.addresses import Address
from lib.config import TABLE, make
from lib.errors import ConfigError

NEEDED = {"admin_cnn": {"user": "postgres"}, "master": ("10.0.0.1", 5432)}


def settings(**given):
    return make({**NEEDED, **given})


def complaints(**given):
    with pytest.raises(ConfigError) as caught:
        make({**NEEDED, **given})
    return caught.value.complaints


def complaint(**given):
    """The one complaint that these values cause."""
    (only,) = complaints(**given)
    return only


# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (("db1", 5432), ("db1", 5432)),
        (["db1", 5432], ("db1", 5432)),
        ("db1:5432", ("db1", 5432)),
        (("DB1.Example.com", 5432), ("db1.example.com", 5432)),
        (("::1", 5432), ("::1", 5432)),
        (("[::1]", 5432), ("::1", 5432)),
        ("[0:0:0:0:0:0:0:1]:5432", ("::1", 5432)),
        (("fe80::1%eth0", 5432), ("fe80::1%eth0", 5432)),
        (("/var/run/postgresql/", 5432), ("/var/run/postgresql", 5432)),
        ("/tmp:5432", ("/tmp", 5432)),
        (("数据库", 5432), ("数据库", 5432)),
        (("db1", 1), ("db1", 1)),
        (("db1", 65535), ("db1", 65535)),
    ],
)
def test_master_takes_host_and_port_in_any_common_form(given, wanted):
    assert settings(master=given).master == wanted


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("db1", "(host, port)"),
        (5432, "(host, port)"),
        (("db1",), "(host, port)"),
        (("db1", 5432, 1), "(host, port)"),
        ((5432, "db1"), "(host, port)"),
        (None, "(host, port)"),
        (("db1", 0), "a port from 1 to 65535"),
        (("db1", 65536), "a port from 1 to 65535"),
        (("db1", "5432"), "a port from 1 to 65535"),
        (("db1", True), "a port from 1 to 65535"),
        (("db1", 5432.0), "a port from 1 to 65535"),
        ("db1:", "a port from 1 to 65535"),
        ("db1:https", "a port from 1 to 65535"),
        (("", 5432), "for listen only"),
        (("*", 5432), "for listen only"),
        (("10.0.0.256", 5432), "a valid IP address"),
        (("1::2::3", 5432), "a valid IP address"),
        (("[db1]", 5432), "a valid IP address"),
        ("::1:5432", "brackets around an IPv6 address"),
        (("db 1", 5432), "a host name"),
        (("db1,db2", 5432), "a host name"),
        (("db1\n", 5432), "a host name"),
        (("postgres://db1", 5432), "a valid IP address"),
        (("/tmp/\0", 5432), "the directory of a Unix socket"),
        (("/" + 100 * "x", 5432), "at most 107 bytes"),
    ],
)
def test_what_is_no_address_is_refused(given, wanted):
    said = complaint(master=given)
    assert said.startswith("master is ")
    assert wanted in said


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (("127.0.0.1", 7777), [("127.0.0.1", 7777)]),
        ([("127.0.0.1", 7777)], [("127.0.0.1", 7777)]),
        ([("127.0.0.1", 7777), ("/tmp", 7777)], [("127.0.0.1", 7777), ("/tmp", 7777)]),
        ([("127.0.0.1", 7777), "[::1]:7777"], [("127.0.0.1", 7777), ("::1", 7777)]),
        (["db1:7777", "db2:7777"], [("db1", 7777), ("db2", 7777)]),
        (("", 7777), [("", 7777)]),
        (("*", 7777), [("", 7777)]),
        ("*:7777", [("", 7777)]),
        (":7777", [("", 7777)]),
    ],
)
def test_listen_is_one_address_or_a_list_of_them(given, wanted):
    assert settings(listen=given).listen == tuple(wanted)


def test_every_wrong_entry_of_a_list_is_told_with_its_place():
    said = complaints(slaver=[("db1", 5432), ("db2", 0), "db3"], worker_min_cnt=[1, 0, "x"])
    assert [each.partition(" is ")[0] for each in said] == [
        "slaver[1]",
        "slaver[2]",
        "worker_min_cnt[1]",
        "worker_min_cnt[2]",
    ]


def test_an_empty_listen_is_refused_and_an_empty_slaver_is_not():
    assert complaint(listen=[]) == "listen is []: wanted (host, port), as ('10.0.0.1', 5432)"
    assert settings(slaver=[]).slaver == ()


def test_a_unix_address_knows_the_file_of_its_socket():
    assert Address("/tmp", 5432).unix_path == "/tmp/.s.PGSQL.5432"
    assert Address("/", 5432).unix_path == "/.s.PGSQL.5432"
    assert Address("/tmp", 5432).is_unix
    assert not Address("tmp", 5432).is_unix


@pytest.mark.parametrize(
    ("address", "text"),
    [(("db1", 1), "db1:1"), (("::1", 1), "[::1]:1"), (("", 1), "*:1"), (("/tmp", 1), "/tmp:1")],
)
def test_an_address_reads_as_it_could_be_given(address, text):
    assert str(Address(*address)) == text


# --- numbers, words --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [True, False, 1.0, "10", None, [10], -1, 2**31, pytest.param(10**5000, id="huge")])
def test_what_is_no_whole_number_in_range_is_refused(given):
    assert "max_workers is" in complaint(max_workers=given)


@pytest.mark.parametrize(
    "given", [True, "10", None, -1, -0.5, float("nan"), float("inf"), pytest.param(10**5000, id="huge")]
)
def test_what_is_no_number_of_seconds_is_refused(given):
    assert "wanted a number of seconds" in complaint(query_wait_timeout=given)


def test_zero_is_allowed_where_it_means_never_and_nowhere_else():
    accepted = set()
    for name, row in TABLE.items():
        if row.type in ("integer", "number"):
            try:
                settings(**{name: 0})
                accepted.add(name)
            except ConfigError as error:
                assert error.complaints[0].startswith(f"{name} is 0: wanted ")
    assert accepted == {
        "max_user_client_connections",
        "max_db_client_connections",
        "max_user_connections",
        "max_db_connections",
        "query_wait_notify",
        "query_timeout",
        "log_min_duration",
        "idle_in_transaction_timeout",
        "read_your_writes_timeout",
        "ha_recovery_wait",
        "max_lag",
        "max_workers",
        "idle_timeout",
        "active_cnn_timeout",
        "server_lifetime",
        "query_wait_timeout",
        "grow_after",
        "shutdown_timeout",
    }


@pytest.mark.parametrize("given", [0, 1, "True", None])
def test_only_true_and_false_are_booleans_in_a_python_file(given):
    assert complaint(enable_ha=given).endswith("wanted True or False")


def test_words_are_taken_in_any_case_and_others_are_refused_with_the_list():
    assert settings(log_level="DEBUG", transactions="Reject").log_level == "debug"
    assert complaint(log_level="loud") == "log_level is 'loud': wanted one of 'debug', 'info', 'warning', 'error'"
    assert complaint(session_features=True).endswith("wanted one of 'allow', 'reject'")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("secure", "secure"), ("TLSv1.3", "tlsv1.3"), ("tlsv1.2, tlsv1.3", "secure"), (["tlsv1.2"], "tlsv1.2"),
        ("default", "secure"),
    ],
)  # fmt: skip
def test_versions_of_tls_are_named_as_in_pgbouncer(given, wanted):
    assert settings(client_tls_protocols=given).client_tls_protocols == wanted


@pytest.mark.parametrize("given", ["", "tlsv1.1", "legacy", [], 1.2, ["tlsv1.2", 3]])
def test_other_versions_of_tls_are_refused(given):
    assert complaint(client_tls_protocols=given).endswith("wanted 'tlsv1.2', 'tlsv1.3', or 'secure' for both")


def test_ciphers_are_a_text_and_pgbouncers_words_for_those_of_openssl_mean_so():
    assert settings(server_tls_ciphers=" HIGH:!aNULL ").server_tls_ciphers == "HIGH:!aNULL"
    assert settings(server_tls_ciphers="Fast").server_tls_ciphers == ""
    assert "in OpenSSL's words" in complaint(server_tls_ciphers=["HIGH"])


def test_a_socket_mode_that_forgot_its_octal_prefix_is_refused():
    assert settings(unix_socket_mode=0o770).unix_socket_mode == 0o770
    assert "permission bits from 0o000 to 0o777" in complaint(unix_socket_mode=777)


@pytest.mark.parametrize("given", ["", " trigger", "tri\0gger", None, 9])
def test_what_is_no_file_name_is_refused(given):
    assert "wanted the name of a file" in complaint(trigger_file=given)


# --- connection parameters -------------------------------------------------------------------------------------------


def test_parameters_become_strings_and_dbname_is_the_database():
    found = settings(admin_cnn={"user": "postgres", "dbname": "shop", "extra_float_digits": 3, "jit": False}).admin_cnn
    assert found == {"user": "postgres", "database": "shop", "extra_float_digits": "3", "jit": "off"}


def test_a_startup_packet_gets_neither_the_password_nor_what_only_libpq_knows():
    found = settings(admin_cnn={"user": "u", "password": "p", "sslmode": "require", "search_path": "a,b"}).admin_cnn
    assert found.startup == {"user": "u", "search_path": "a,b"}
    assert found.password == "p"
    assert settings().admin_cnn.password is None


@pytest.mark.parametrize("name", ["host", "hostaddr", "port", "service"])
def test_connection_parameters_with_host_or_port_are_refused(name):
    assert f"admin_cnn['{name}'] is given: wanted no host" in complaint(admin_cnn={"user": "postgres", name: "x"})
    assert f"conn_params[0]['{name}'] is given: wanted no host" in complaint(conn_params=[{"user": "a", name: "x"}])


@pytest.mark.parametrize("name", ["passwd", "passwrod", "pasword", "pwd", "pw", "Password", "PASS"])
def test_a_misspelt_password_is_refused_because_the_server_would_log_it_as_a_setting(name):
    said = complaint(admin_cnn={"user": "postgres", name: "hunter2"})
    assert said.startswith(f"admin_cnn['{name}'] is given: wanted 'password'")


def test_admin_cnn_needs_a_user_and_conn_params_does_not():
    said = complaint(admin_cnn={"database": "shop"})
    assert said == "admin_cnn['user'] is missing: wanted a superuser, as 'postgres'"
    assert settings(slaver=["db2:1"], conn_params=[{"database": "shop"}]).conn_params == ({"database": "shop"},)
    assert complaint(conn_params=[{}]) == "conn_params[0] is empty: wanted at least a user"


def test_conn_params_refuses_what_no_frontend_sends():
    assert "wanted only what a frontend sends" in complaint(conn_params=[{"user": "a", "sslmode": "require"}])


@pytest.mark.parametrize("value", [None, ["a"], b"a", {"a": "b"}, "a\0b", "\udc80", pytest.param(10**5000, id="huge")])
def test_a_parameter_that_is_no_string_is_refused_without_showing_it(value):
    assert complaint(admin_cnn={"user": "postgres", "password": value}).startswith("admin_cnn['password'] is of type ")


def test_a_replication_connection_is_refused():
    assert "wanted no replication" in complaint(admin_cnn={"user": "postgres", "replication": "database"})


def test_a_setting_that_slipped_into_connection_parameters_is_found():
    assert complaint(admin_cnn={"user": "postgres", "max_workers": "5"}) == (
        "max_workers is in admin_cnn: wanted one level above"
    )
    assert settings(admin_cnn={"user": "postgres", "connect_timeout": 5}).connect_timeout == 15


# --- anything at all -------------------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=4)
junk = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(scalars, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(list(TABLE)) | scalars, junk, max_size=5), st.booleans())
def test_any_junk_gives_complaints_and_nothing_else(given, text):
    try:
        found = make({**NEEDED, **given}, text=text)
    except ConfigError as error:
        assert error.complaints
        assert all("\n" not in each for each in error.complaints)
    else:
        assert found.show()
        hash(found)


@given(
    st.sampled_from(["admin_cnn", "conn_params", "slaver", "master", "listen", "lo_oid", "log_level", "zzz"]),
    st.sampled_from(
        [
            {"user": "u", "password": "hunter2"},
            {"user": "u", "passwrod": "hunter2"},
            {"password": ["hunter2"]},
            [{"password": b"hunter2"}],
            [{"user": "u", "port": 1, "password": "hunter2"}],
            "user=u password=hunter2",
            "postgres://u:hunter2@db1:5432/x",
            ["postgres://u:hunter2@db1:5432/x"],
            ({"password": "hunter2"}, 5432),
            b"hunter2",
            {"hunter2"},
        ]
    ),
    st.booleans(),
)
def test_no_complaint_and_no_repr_ever_shows_a_password(name, value, text):
    try:
        said = repr(make({**NEEDED, name: value}, text=text))
    except ConfigError as error:
        said = str(error)
    assert "hunter2" not in said
