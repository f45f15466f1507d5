"""The table of settings, and all that is made of it: complaints, warnings, show, the manual, the command line."""

import ast
import os
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError
from itertools import groupby
from pathlib import Path

import pytest

from lib import __version__
from lib.addresses import Address
from lib.checks import Parameters
from lib.conf.manual import documentation
from lib.conf.row import REQUIRED
from lib.config import TABLE, changed, load, make, merged, with_value
from lib.errors import ConfigError
from lib.modes import PoolMode

HOME = Path(__file__).resolve().parent.parent
NEEDED = {"admin_cnn": {"user": "postgres"}, "master": ("10.0.0.1", 5432)}
SPECIFIED = """
    listen admin_cnn enable_ha ha_after_fail_cnt lo_oid trigger_file
    worker_min_cnt worker_per_fe_cnt master slaver conn_params
"""


def settings(**given):
    return make({**NEEDED, **given})


def complaints(given):
    with pytest.raises(ConfigError) as caught:
        make(given)
    return caught.value.complaints


def complaint(**given):
    """The one complaint that these values cause."""
    (only,) = complaints({**NEEDED, **given})
    return only


def conf(tmp_path, text, name="conf.py"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


# --- the table -------------------------------------------------------------------------------------------------------


def test_the_twelve_keys_of_the_specification_have_its_defaults():
    found = settings()
    assert found.listen == (("127.0.0.1", 7777),)
    assert found.admin_cnn == {"user": "postgres"}
    assert found.enable_ha is False
    assert (found.ha_after_fail_cnt, found.lo_oid, found.trigger_file) == (10, 9999, "trigger")
    assert (found.worker_min_cnt, found.worker_per_fe_cnt) == ((), 10)
    assert found.master == ("10.0.0.1", 5432)
    assert (found.slaver, found.conn_params) == ((), ())


def test_our_own_settings_have_the_agreed_defaults():
    found = settings()
    assert {name: getattr(found, name) for name in TABLE if name not in SPECIFIED.split()} == {
        "pseudo_admin_users": (),
        "pseudo_stats_users": (),
        "max_user_client_connections": 0,
        "max_db_client_connections": 0,
        "max_user_connections": 0,
        "max_db_connections": 0,
        "query_wait_notify": 5,
        "query_timeout": 0,
        "idle_in_transaction_timeout": 0,
        "http_listen": None,
        "max_workers": 20,
        "max_prepared_statements": 200,
        "grow_after": 0.02,
        "riders": True,
        "rider_depth": 128,
        "rider_limit": 0.001,
        "idle_timeout": 600,
        "server_lifetime": 3600,
        "max_client_conn": 10000,
        "proxy_networks": (),
        "client_tls_sslmode": "prefer",
        "client_tls_cert_file": "",
        "client_tls_key_file": "",
        "client_tls_ca_file": "",
        "client_tls_crl_file": "",
        "client_tls_protocols": "secure",
        "client_tls_ciphers": "",
        "server_tls_sslmode": "prefer",
        "server_tls_ca_file": "",
        "server_tls_cert_file": "",
        "server_tls_key_file": "",
        "server_tls_crl_file": "",
        "server_tls_protocols": "secure",
        "server_tls_ciphers": "",
        "query_wait_timeout": 120,
        "connect_timeout": 15,
        "auth_timeout": 60,
        "shutdown_timeout": 30,
        "pool_mode": "statement",
        "pool_modes": (),
        "active_cnn_timeout": 0,
        "disable_conds_list": (),
        "transactions": "allow",
        "session_features": "allow",
        "pin_notice": False,
        "track_application_name": True,
        "client_buffer": 1048576,
        "standby_check_interval": 2,
        "catalog_interval": 5,
        "hba_interval": 10,
        "login_retry": 0.2,
        "log_level": "info",
        "log_to": "stderr",
        "log_format": "text",
        "log_connections": False,
        "log_disconnections": False,
        "log_min_duration": 0,
        "read_your_writes": "frontend",
        "read_your_writes_timeout": 0.1,
        "max_lag": 0,
        "lag_check_interval": 1,
        "ha_check_interval": 0.5,
        "ha_recovery_wait": 60,
        "ha_promote_timeout": 60,
        "ha_tune_standbys": False,
        "ha_state_file": "",
        "ha_restart_command": "",
        "peers": (),
        "unix_socket_mode": 0o777,
    }


def test_only_admin_cnn_and_master_are_required():
    assert [row.name for row in TABLE.values() if row.default is REQUIRED] == ["admin_cnn", "master"]
    assert complaints({}) == [
        "admin_cnn is missing: wanted its connection parameters",
        "master is missing: wanted its address",
    ]


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
def test_every_row_says_what_the_setting_is_for_in_whole_sentences(row):
    assert row.type and row.group
    for text in (row.help, row.trade):
        assert text[0].isupper() or text[0] == "`", text
        assert text.endswith("."), text


def test_rows_of_a_group_stand_together():
    groups = [row.group for row in TABLE.values()]
    assert len(set(groups)) == len(list(groupby(groups)))


# --- unknown names, everything at once -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("max_worker", "max_workers"),
        ("slave", "slaver"),
        ("Listen", "listen"),
        ("conn_param", "conn_params"),
        ("admin_conn", "admin_cnn"),
        ("query_timeoutt", "query_timeout"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest_known_one(name, near):
    assert complaint(**{name: 1}) == f"{name} is not a setting: did you mean {near}?"


def test_an_unknown_name_with_nothing_near_points_to_the_manual():
    assert complaint(zzz=1) == "zzz is not a setting: see docs/configuration.md"
    assert complaints({**NEEDED, 7: 1}) == ["the key 7 is not a setting"]


def test_all_complaints_come_at_once():
    said = complaints(
        {
            "mastr": ("db1", 5432),
            "admin_cnn": {"host": "db1"},
            "listen": ("127.0.0.1", 0),
            "slaver": [("db2", 5432), ("db2", 5432)],
            "max_workers": "many",
            "enable_ha": "yes",
        }
    )
    assert [re.match(r"\w+", each.replace("db2:5432 is in both ", ""))[0] for each in said] == [
        "mastr",
        "listen",
        "admin_cnn",
        "admin_cnn",
        "master",
        "max_workers",
        "enable_ha",
        "slaver",
    ]


# --- settings that do not go together --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"slaver": [("db2", 1), ("db2", 1)]}, "db2:1 is in both slaver: wanted each server once"),
        ({"slaver": [("DB2", 1), ("db2", 1)]}, "db2:1 is in both slaver: wanted each server once"),
        ({"slaver": [("10.0.0.1", 5432)]}, "10.0.0.1:5432 is in master and slaver: wanted each server once"),
        ({"listen": ("10.0.0.1", 5432)}, "10.0.0.1:5432 is in listen and master"),
        ({"listen": ("*", 5432), "master": ("localhost", 5432)}, "localhost:5432 is in listen and master"),
        ({"listen": ("127.0.0.1", 5432), "master": ("localhost", 5432)}, "localhost:5432 is in listen and master"),
        ({"listen": ("/tmp", 5432), "master": ("/tmp/", 5432)}, "/tmp:5432 is in listen and master"),
        ({"slaver": [("127.0.0.1", 7777)]}, "127.0.0.1:7777 is in listen and slaver"),
        ({"listen": [("db1", 1), ("db1", 1)]}, "listen has db1:1 and db1:1: wanted each address once"),
        ({"listen": [("*", 1), ("10.0.0.9", 1)]}, "listen has *:1 and 10.0.0.9:1: wanted each address once"),
    ],
)
def test_one_address_in_two_places_is_refused(given, said):
    assert complaint(**given).startswith(said)


def test_the_same_port_on_other_addresses_is_no_conflict():
    found = settings(listen=[("*", 5432), ("/tmp", 5432)], slaver=[("10.0.0.2", 5432), ("/run", 5432)])
    assert found.warnings == ()


def test_what_is_hardly_meant_is_a_warning_only():
    assert settings(worker_min_cnt=[1, 1, 2, 2]).warnings == ()
    (said,) = settings(worker_min_cnt=[1, 3, 2]).warnings
    assert said.startswith("worker_min_cnt [1, 3, 2] does not grow")
    (said,) = settings(conn_params=[{"user": "a"}]).warnings
    assert said.startswith("conn_params is given, but slaver is empty")
    (said,) = settings(slaver=["db2:1"], conn_params=[{"user": "a"}, {"database": "b", "password": "hunter2"}]).warnings
    assert said == "conn_params has a password without a user: it is not used"


def test_high_availability_without_a_standby_is_a_warning():
    assert settings(enable_ha=True, slaver=["db2:1"]).warnings == ()
    (said,) = settings(enable_ha=True).warnings
    assert said.startswith("enable_ha is on, but slaver is empty")


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_show_marks_what_is_not_the_default_and_hides_passwords():
    text = settings(
        admin_cnn={"user": "postgres", "password": "hunter2", "passfile": "hunter3", "options": "-c my.secret=hunter4"},
        conn_params=[{"user": "a", "password": "hunter5"}],
        slaver=[("db2", 5432)],
        max_workers=5,
    ).show()
    lines = text.splitlines()
    assert len(lines) == len(TABLE)
    assert "* max_workers            = 5 workers   (default: 20)" in lines
    assert "  grow_after             = 0.02 seconds" in lines
    assert "  listen                 = [('127.0.0.1', 7777)]" in lines
    assert "  unix_socket_mode       = 0o777" in lines
    assert "* slaver                 = [('db2', 5432)]   (default: [])" in lines
    assert "* conn_params            = [{'user': 'a', 'password': '***'}]   (default: [])" in lines
    assert "hunter" not in text


def test_show_without_redaction_gives_what_a_conf_file_would_hold():
    given = {**NEEDED, "admin_cnn": {"user": "u", "password": "hunter2"}, "listen": [("*", 1), ("/tmp", 1)]}
    values = re.findall(r"^. (\w+) += (.*?)(?: [a-z]+)?(?:   \(.*)?$", make(given).show(redact=False), re.MULTILINE)
    again = make({name: ast.literal_eval(value) for name, value in values})
    assert changed(make(given), again) == ((), ())


def test_repr_says_what_is_special_and_hides_passwords():
    found = make({**NEEDED, "admin_cnn": {"user": "u", "password": "hunter2"}, "max_workers": 5}, path="x.conf.py")
    assert repr(found) == (
        "<Settings x.conf.py admin_cnn={'user': 'u', 'password': '***'} master=('10.0.0.1', 5432) max_workers=5>"
    )
    assert str(found.admin_cnn) == "{'user': 'u', 'password': '***'}"


def test_settings_and_their_parameters_are_frozen():
    found = settings()
    with pytest.raises(FrozenInstanceError):
        found.max_workers = 1
    with pytest.raises(TypeError):
        found.admin_cnn["user"] = "x"
    assert hash(found) == hash(settings())
    assert Parameters({"a": "b"}) == {"a": "b"}


def test_changes_are_parted_into_those_that_reload_and_those_that_need_a_restart():
    new = settings(max_workers=5, master=("db9", 5432), log_level="debug", track_application_name=False)
    assert changed(settings(), new) == (("max_workers", "log_level"), ("master", "track_application_name"))
    assert changed(new, new) == ((), ())


# --- a reload ---------------------------------------------------------------------------------------------------------


def test_a_reload_takes_over_what_needs_no_restart():
    old, new = settings(), settings(max_workers=5, master=("db9", 5432), active_cnn_timeout=3)
    found = merged(old, new)
    assert (found.max_workers, found.active_cnn_timeout, found.master) == (5, 3, old.master)
    old.take_over(found, changed(old, new).reloadable)
    assert changed(old, new) == ((), ("master",))


def test_what_is_new_must_go_together_with_what_needs_a_restart():
    old = settings(master=("127.0.0.1", 5432))
    with pytest.raises(ConfigError) as caught:
        merged(old, settings(master=("db9", 5433), listen=("127.0.0.1", 5432)))
    assert caught.value.complaints[0].startswith("127.0.0.1:5432 is in listen and master")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("max_workers", "5", 5),
        ("idle_cnn_timeout", "1.5", None),
        ("riders", "off", False),
        ("log_level", "'debug'", "debug"),
        ("worker_min_cnt", "[1, 2]", (1, 2)),
        ("proxy_networks", "10.0.0.0/8", ("10.0.0.0/8",)),
        ("listen", "127.0.0.1:7", (Address("127.0.0.1", 7),)),
        ("pool_modes", "[{'user': 'a', 'pool_mode': 'session'}]", (PoolMode("session", "a"),)),
    ],
)
def test_one_setting_is_changed_by_its_name_and_a_text(name, text, value):
    found = with_value(settings(), name, text)
    assert getattr(found, name) == value if value is not None else found.idle_timeout == 1.5
    assert len(sum(changed(settings(), found), ())) == 1


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("max_worker", "5", "max_worker is not a setting: did you mean max_workers?"),
        ("max_workers", "many", "max_workers is 'many': wanted a whole number from 0 to 100000"),
        ("listen", "10.0.0.1:5432", "10.0.0.1:5432 is in listen and master"),
        ("pool_modes", "[{'user'", "pool_modes is of type str"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_the_reason(name, text, said):
    with pytest.raises(ConfigError) as caught:
        with_value(settings(), name, text)
    assert caught.value.complaints[0].startswith(said)


# --- the manual, the sample, the command line ------------------------------------------------------------------------


def test_the_manual_is_what_the_table_gives():
    manual = (HOME / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert manual == documentation(), "run python docs/generate.py"


def test_the_examples_in_the_manual_load(tmp_path):
    manual = documentation()
    for language, name in (("python", "conf.py"), ("ini", "conf.ini")):
        example = re.search(rf"```{language}\n(.*?)```", manual, re.DOTALL)[1]
        assert load(conf(tmp_path, example, name)).master == ("10.0.0.1", 5432)


def test_the_sample_mentions_every_setting_with_its_default():
    sample = (HOME / "pgstmtpool.conf.py").read_text(encoding="utf-8")
    for row in TABLE.values():
        if row.default is REQUIRED:
            assert re.search(rf"^    '{row.name}': ", sample, re.MULTILINE)
        else:
            assert f"\n    # '{row.name}': {row.default!r},\n" in sample


def test_the_sample_loads_and_changes_only_what_is_required():
    found = load(str(HOME / "pgstmtpool.conf.py"))
    assert found.admin_cnn["user"] == "postgres"
    assert [row.name for row, _, is_changed in found.rows() if is_changed] == ["admin_cnn", "master"]
    assert found.warnings == ()


def test_the_sample_with_everything_uncommented_loads_as_well(tmp_path):
    sample = (HOME / "pgstmtpool.conf.py").read_text(encoding="utf-8")
    whole = re.sub(r"^    # ('\w+': .*,)$", r"    \1", sample, flags=re.MULTILINE)
    found = load(conf(tmp_path, whole))
    assert [row.name for row, _, is_changed in found.rows() if is_changed] == ["admin_cnn", "master"]
    assert whole.count("\n    '") == len(TABLE)


def command(*arguments, cwd=None, encoding="utf-8"):
    return subprocess.run(
        [sys.executable, str(HOME / "pgstmtpool.py"), *arguments],
        capture_output=True,
        encoding=encoding,
        cwd=cwd,
        timeout=30,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )


def test_check_without_a_file_takes_the_one_beside_the_script(tmp_path):
    done = command("--check", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == load(str(HOME / "pgstmtpool.conf.py")).show() + "\n"


def test_check_says_nothing_of_a_reader_who_has_seen_enough():
    checking = subprocess.Popen(
        [sys.executable, str(HOME / "pgstmtpool.py"), "--check"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    checking.stdout.close()
    assert checking.stderr.read() == b""
    checking.wait(30)


def test_check_prints_warnings_apart_and_no_password(tmp_path):
    text = "all = {'master': 'db1:1', 'admin_cnn': {'user': 'u', 'password': 'hunter2'}, 'enable_ha': True}\n"
    done = command("--check", conf(tmp_path, text))
    assert done.returncode == 0
    assert "warning: enable_ha is on, but slaver is empty" in done.stderr
    assert "***" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr


def test_check_prints_names_that_the_terminal_cannot_show(tmp_path):
    path = conf(tmp_path, "all = {'master': 'db1:1', 'admin_cnn': {'user': '管理员'}}\n")
    assert "'管理员'" in command("--check", path, encoding="gbk").stdout
    assert r"'\u7ba1\u7406\u5458'" in command("--check", path, encoding="ascii").stdout


@pytest.mark.parametrize("check", [["--check"], []], ids=["check", "run"])
def test_a_bad_file_ends_with_2_and_everything_that_is_wrong_with_it(tmp_path, check):
    path = conf(tmp_path, "all = {'mastr': 1, 'admin_cnn': {'user': 'u', 'port': 1}, 'listen': 'x', 'lo_oid': 0}\n")
    done = command(*check, path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"{path}: mastr is not a setting: did you mean master?",
        f"{path}: listen is 'x': wanted (host, port), as ('10.0.0.1', 5432)",
        f"{path}: admin_cnn['port'] is given: wanted no host, port or service (master and slaver say where)",
        f"{path}: master is missing: wanted its address",
        f"{path}: lo_oid is 0: wanted a whole number from 1 to 4294967295",
    ]


def test_version_and_help_need_no_file():
    assert command("--version").stdout == f"pgstmtpool {__version__}\n"
    assert command("--help").stdout.startswith("usage: pgstmtpool.py")
    assert command("--nonsense").returncode == 2


def test_checking_a_file_needs_no_gevent(tmp_path):
    """A machine that only edits and checks conf files has the standard library and nothing else."""
    code = (
        "import sys; sys.modules['gevent'] = sys.modules['configobj'] = None; import pgstmtpool; "
        "sys.exit(pgstmtpool.main(['--check']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HOME, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"client_tls_cert_file": "a.crt"}, "client_tls_cert_file is given without client_tls_key_file"),
        ({"client_tls_key_file": "a.key"}, "client_tls_key_file is given without client_tls_cert_file"),
        ({"client_tls_sslmode": "require"}, "client_tls_sslmode is 'require': wanted client_tls_cert_file, too"),
        (
            {"client_tls_sslmode": "verify-full", "client_tls_cert_file": "a.crt", "client_tls_key_file": "a.key"},
            "client_tls_sslmode is 'verify-full': wanted client_tls_ca_file, too",
        ),
        ({"server_tls_cert_file": "a.crt"}, "server_tls_cert_file is given without server_tls_key_file"),
        ({"server_tls_sslmode": "verify-ca"}, "server_tls_sslmode is 'verify-ca': wanted server_tls_ca_file, too"),
        (
            {"server_tls_sslmode": "verify-ca", "server_tls_ca_file": "system"},
            "server_tls_ca_file is 'system': wanted server_tls_sslmode 'verify-full'",
        ),
        ({"client_tls_sslmode": "sometimes"}, "wanted one of 'disable', 'allow', 'prefer'"),
        ({"server_tls_crl_file": "a.crl"}, "server_tls_crl_file is given without server_tls_ca_file"),
        ({"client_tls_protocols": "tlsv1.1"}, "wanted 'tlsv1.2', 'tlsv1.3', or 'secure' for both"),
    ],
    ids=[
        "no key", "no certificate", "nothing to show", "no authority", "no key for servers", "no authority for servers",
        "the system's authorities", "no such mode", "lists without authorities", "an old version",
    ],
)
def test_tls_settings_that_lack_something_are_refused(given, wanted):
    assert wanted in complaint(**given)
