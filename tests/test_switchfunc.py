"""What pgstmtpool_rejoin of switchfunc.sql has a shell do. On real servers it is tested in tests/cluster."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

TEXT = (Path(__file__).resolve().parent.parent / "switchfunc.sql").read_text()
# As pg_rewind before 12 does it, with initdb, and before 15 with postgres.
REWIND = """\
#!/bin/sh
for word in "$@"; do case $word in --target-pgdata=*) data=${word#*=};; esac; done
/bin/sh -c "ls -d \\"$data\\"" || exit 1
echo "of the source" >"$data/postgresql.conf"
[ ! -e "$data/fails" ]
"""
NAMES = ["plain", "two  blanks", "it's", '"quoted"', "back\\slash", "`touch ran`", "$(touch ran)", "$HOME", "-n", "*"]


def rejoin_script() -> str:
    body = TEXT[TEXT.index("function public.pgstmtpool_rejoin(") :]
    (script,) = re.findall(r'SCRIPT = r"""\n(.*?)"""', body, re.DOTALL)
    return script


def rejoined(data: Path, where: Path, signal: str = "standby.signal") -> subprocess.CompletedProcess:
    """Run it, with a program in the place of the server that says that it was started."""
    rewind = where / "pg_rewind"
    rewind.write_text(REWIND)
    rewind.chmod(0o755)
    gone = subprocess.Popen(["true"])
    gone.wait()
    words = [str(gone.pid), str(data), str(rewind), "host=source", signal, "/bin/echo", "started"]
    return subprocess.run(
        ["/bin/sh", "-c", rejoin_script(), "sh", *words], cwd=data, text=True, capture_output=True, check=False,
        env={"PATH": "/usr/bin:/bin", "PGSTMTPOOL_LINES": "primary_conninfo = 'x'\n"},
    )  # fmt: skip


@pytest.fixture(params=NAMES)
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    path.mkdir()
    (path / "postgresql.conf").write_text("ours\n")
    (path / "postgresql.auto.conf").write_text("")
    return path


def test_no_shell_runs_what_is_in_the_name_of_a_data_directory(data, tmp_path):
    """pg_rewind before 12 has a shell run initdb with that name between double quotes, where backticks and $(...) are
    commands: they were run as the user of the server."""
    done = rejoined(data, tmp_path)
    assert done.stdout == "started\n", (done, (data / "pgstmtpool_rejoin.log").read_text())
    assert not list(tmp_path.rglob("ran"))
    assert (data / "postgresql.conf").read_text() == "ours\n"
    assert (data / "postgresql.auto.conf").read_text() == "primary_conninfo = 'x'\n"
    assert (data / "standby.signal").exists()


def test_before_12_it_is_recovery_conf(data, tmp_path):
    assert rejoined(data, tmp_path, "recovery.conf").stdout == "started\n"
    assert (data / "recovery.conf").read_text() == "primary_conninfo = 'x'\n"
    assert not (data / "standby.signal").exists()


def test_a_server_that_could_not_be_rewound_stays_down_and_keeps_its_conf_files(data, tmp_path):
    (data / "fails").touch()
    done = rejoined(data, tmp_path)
    assert done.stdout == ""
    assert (data / "postgresql.conf").read_text() == "ours\n"
    assert not (data / "standby.signal").exists()
