"""Conf files of both kinds, well-formed or not: which settings they give, or which line is told."""

import pytest

from lib.config import changed, load, make
from lib.errors import ConfigError

NEEDED_INI = "master = 10.0.0.1:5432\n"
ADMIN_INI = "[admin_cnn]\nuser = postgres\n"


def conf(tmp_path, text, name="conf.py", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return str(path)


def ini(tmp_path, top=""):
    return load(conf(tmp_path, NEEDED_INI + top + "\n" + ADMIN_INI, "conf.ini"))


def refused(path):
    with pytest.raises(ConfigError) as caught:
        load(path)
    return caught.value.complaints


# --- a Python conf file ----------------------------------------------------------------------------------------------


def test_a_python_file_is_run_and_its_all_is_taken(tmp_path):
    path = conf(tmp_path, "h = '10.0.0.1'\nall = {'master': (h, 5432), 'admin_cnn': dict(user='postgres')}\n")
    found = load(path)
    assert found.master == ("10.0.0.1", 5432)
    assert found.path == path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk", "gb18030", "latin-1"])
def test_a_python_file_may_declare_its_encoding(tmp_path, encoding):
    name = "Müller" if encoding == "latin-1" else "管理员"
    declared = encoding.removesuffix("-sig")
    text = f"# -*- coding: {declared} -*-\nall = {{'master': ('db1', 1), 'admin_cnn': {{'user': '{name}'}}}}\n"
    assert load(conf(tmp_path, text, encoding=encoding)).admin_cnn["user"] == name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n\nall = {'master': ('db1', 1\n", "line 3: SyntaxError: "),
        ("all = {\n 'lo_oid': 1\n 'listen': 2}\n", "line 2: SyntaxError: "),
        ("x = 1\n  all = {}\n", "line 2: IndentationError: "),
        ("import os\n\nall = {\n 'master': os.environ['NO_SUCH_VARIABLE'],\n}", "line 4: KeyError: 'NO_SUCH_VARIABLE'"),
        ("def f():\n  return 1 / 0\nall = {'lo_oid': f()}\n", "line 2: ZeroDivisionError: division by zero"),
        ("import no_such_module\n", "line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("import json\njson.loads('{')\n", "line 2: JSONDecodeError: Expecting property name"),
        ("\nraise SystemExit(3)\n", "line 2: SystemExit: 3"),
        ("x = 1\ny = 2\n", "line 2: the file ends without a dict named `all`"),
        ("", "line 1: the file ends without a dict named `all`"),
        ("all = [1]\n", "`all` is of type list: wanted a dict"),
        ("x = 1\0\n", "line 1: "),
        ("# -*- coding: klingon -*-\n", "line 1 or 2: unknown encoding: klingon"),
        ("# -*- coding: rot13 -*-\n", "line 1 or 2: 'rot13' is not a text encoding"),
    ],
)
def test_a_python_file_that_fails_is_told_with_the_line(tmp_path, text, said):
    (found,) = refused(conf(tmp_path, text))
    assert found.startswith(said)


def test_a_file_that_is_not_in_its_encoding_is_told_with_the_line_and_the_remedy(tmp_path):
    (said,) = refused(conf(tmp_path, "x = 1\n\n\n# 管理员\nall = {}\n", encoding="gbk"))
    assert said.startswith("line 4: not valid utf-8: declare the encoding")


def test_a_key_given_twice_is_told_because_python_would_take_the_last_one_without_a_word(tmp_path):
    text = "all = {\n 'lo_oid': 1,\n 'admin_cnn': {\n 'user': 'a',\n 'user': 'b'},\n 'lo_oid': 2,\n}\n"
    assert refused(conf(tmp_path, text)) == [
        "line 6: 'lo_oid' is given a second time",
        "line 5: 'user' is given a second time",
        "master is missing: wanted its address",
    ]


def test_an_unquoted_password_is_not_repeated_by_the_error_that_it_causes(tmp_path):
    (said,) = refused(conf(tmp_path, "all = {'admin_cnn': {\n  'password': hunter2,\n}}\n"))
    assert said == "line 2: NameError: (not shown, as the line could hold a password)"


def test_a_file_that_cannot_be_read_is_a_complaint(tmp_path):
    assert refused(str(tmp_path / "none.py")) == ["the conf file cannot be read: No such file or directory"]
    assert refused(str(tmp_path)) == ["the conf file cannot be read: Is a directory"]
    assert refused("a\0b") == ["the conf file cannot be read: not a path"]


# --- an INI conf file ------------------------------------------------------------------------------------------------

INI = """\
# -*- coding: utf-8 -*-
listen = 127.0.0.1:7777, [::1]:7777, /tmp:7777
master = 10.0.0.1:5432
slaver = 10.0.0.2:5432, 10.0.0.3:5432
enable_ha = yes
worker_min_cnt = 1, 1, 2
max_workers = 10
grow_after = .5
idle_timeout = 60
unix_socket_mode = 0770
trigger_file = promote

[admin_cnn]
user = 管理员
password = "a, #b %(c)s $d"

[conn_params]
[[shop]]
user = app
database = shop
[[rest]]
user = web
"""


def test_an_ini_file_gives_the_same_settings_as_a_python_file(tmp_path):
    found = load(conf(tmp_path, INI, "conf.ini"))
    same = make(
        {
            "listen": [("127.0.0.1", 7777), ("::1", 7777), ("/tmp", 7777)],
            "master": ("10.0.0.1", 5432),
            "slaver": [("10.0.0.2", 5432), ("10.0.0.3", 5432)],
            "enable_ha": True,
            "worker_min_cnt": [1, 1, 2],
            "max_workers": 10,
            "grow_after": 0.5,
            "idle_timeout": 60,
            "unix_socket_mode": 0o770,
            "trigger_file": "promote",
            "admin_cnn": {"user": "管理员", "password": "a, #b %(c)s $d"},
            "conn_params": [{"user": "app", "database": "shop"}, {"user": "web"}],
        }
    )
    assert changed(found, same) == ((), ())


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("slaver = ", ()),
        ("slaver = ,", ()),
        ("slaver = db2:5432", (("db2", 5432),)),
        ("slaver = db2:5432,", (("db2", 5432),)),
        ("slaver = db2, 5432", (("db2", 5432),)),
        ("worker_min_cnt = ", ()),
        ("worker_min_cnt = 3", (3,)),
        ("listen = *:7777", (("", 7777),)),
        ("unix_socket_mode = 0o700", 0o700),
        ("enable_ha = 1", True),
        ("enable_ha = Off", False),
        ("shutdown_timeout = 1.5", 1.5),
    ],
)
def test_ini_values_are_read_in_their_natural_form(tmp_path, line, wanted):
    assert getattr(ini(tmp_path, line), line.partition(" ")[0]) == wanted


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("max_workers = ten", "max_workers is 'ten': wanted a whole number"),
        ("max_workers = ", "max_workers is '': wanted a whole number"),
        ("max_workers = 1_0", "max_workers is '1_0': wanted a whole number"),
        ("max_workers = ١", "max_workers is '١': wanted a whole number"),
        ("max_workers = 1, 2", "max_workers is ['1', '2']: wanted a whole number"),
        ("grow_after = 1e9", "grow_after is '1e9': wanted a number of seconds"),
        ("grow_after = nan", "grow_after is 'nan': wanted a number of seconds"),
        ("enable_ha = maybe", "enable_ha is 'maybe': wanted yes or no"),
        ("unix_socket_mode = 0888", "unix_socket_mode is '0888': wanted permission bits"),
        ("listen = ", "listen is '': wanted (host, port)"),
        ("slaver = db2, db3", "slaver is ['db2', 'db3']: wanted a port"),
        ("conn_params = a", "conn_params is of type str: wanted a [conn_params] section"),
        ("[lo_oid]\nx = 1", "lo_oid is {'x': '1'}: wanted a whole number"),
    ],
)
def test_what_an_ini_file_gets_wrong_is_told(tmp_path, line, said):
    (found,) = refused(conf(tmp_path, NEEDED_INI + line + "\n" + ADMIN_INI, "conf.ini"))
    assert found.startswith(said)


def test_lines_that_are_no_ini_are_told_by_number_and_not_shown(tmp_path):
    text = "master = db1:1\n[admin_cnn]\nuser = u\npassword hunter2\nuser = v\nx = 'hunter2\n[[[a]]]\n"
    assert refused(conf(tmp_path, text, "conf.ini")) == [
        "line 4: neither name = value nor [section], or a quote is open",
        "line 5: this name or section was there before",
        "line 6: neither name = value nor [section], or a quote is open",
        "line 7: the brackets do not nest",
    ]


def test_a_password_that_an_ini_comment_would_cut_short_is_refused(tmp_path):
    path = conf(tmp_path, NEEDED_INI + ADMIN_INI + "password = abc#def\n", "conf.ini")
    assert refused(path) == ["password holds a #, which begins a comment: wanted quotes around it"]


def test_a_password_that_an_ini_comma_would_make_a_list_is_refused(tmp_path):
    (said,) = refused(conf(tmp_path, NEEDED_INI + ADMIN_INI + "password = abc,def\n", "conf.ini"))
    assert said.startswith("admin_cnn['password'] is of type list: wanted one string")
    assert said.endswith("(in an INI file, one that holds a comma needs quotes)")


def test_a_setting_below_an_ini_section_is_found(tmp_path):
    (said,) = refused(conf(tmp_path, NEEDED_INI + ADMIN_INI + "max_workers = 5\n", "conf.ini"))
    assert said == "max_workers is in admin_cnn: wanted one level above"
