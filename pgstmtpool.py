#!/usr/bin/env python3
"""The command line: read and check the conf file, then run the pool.

Nothing but that happens here. `lib.process` is imported only when the pool is run, so that --check, --help and
--version work where gevent is not installed.
"""

from __future__ import annotations

import argparse
import io
import signal
import sys
from pathlib import Path

from lib import __version__
from lib.config import load
from lib.errors import ConfigError

CONF_FILE = Path(__file__).resolve().with_name("pgstmtpool.conf.py")


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 2 when the conf file or the command line is wrong, else what the pool returns."""
    parser = argparse.ArgumentParser(
        prog="pgstmtpool.py",
        description="A statement-level connection pool for PostgreSQL.",
        epilog="docs/configuration.md describes every setting.",
    )
    parser.add_argument(
        "conf_file",
        nargs="?",
        default=str(CONF_FILE),
        help="Python with a dict named all, or INI if its name ends in .ini"
        " (default: pgstmtpool.conf.py beside this script)",
    )
    parser.add_argument("--check", action="store_true", help="say what is wrong with the file, or print the settings")
    parser.add_argument("--version", action="version", version=f"pgstmtpool {__version__}")
    options = parser.parse_args(arguments)
    try:
        settings = load(options.conf_file)
    except ConfigError as error:
        for complaint in error.complaints:
            print(f"{options.conf_file}: {complaint}", file=sys.stderr)
        return 2
    if options.check:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever reads only the first lines has seen enough
        for warning in settings.warnings:
            print(f"{options.conf_file}: warning: {warning}", file=sys.stderr)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # names that the terminal's encoding lacks
        print(settings.show())
        return 0
    from lib.process import run

    return run(settings)


if __name__ == "__main__":
    sys.exit(main())
