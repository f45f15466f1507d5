"""The text of docs/configuration.md, made from the table of settings. Pure."""

from __future__ import annotations

import textwrap

from lib.conf.row import REQUIRED
from lib.config import TABLE

INTRODUCTION = """\
# Configuration

<!-- Made from the rows in lib/conf/ by docs/generate.py: change them there. -->

`pgstmtpool.py [conf_file]` reads `pgstmtpool.conf.py` beside the script when no file is named. `pgstmtpool.py --check
[conf_file]` says everything that is wrong with a file (exit code 2), or prints the effective settings without
passwords, a `*` before those that are not the default (exit code 0).

Only `admin_cnn` and `master` are required. The file is Python, run with the rights of the pool, and leaves a dict named
`all`; an encoding other than UTF-8 is declared in its first line (`# -*- coding: gbk -*-`):

```python
all = {
    'listen': ('127.0.0.1', 7777),
    'admin_cnn': {'user': 'postgres', 'password': '...'},
    'master': ('10.0.0.1', 5432),
    'slaver': [('10.0.0.2', 5432), ('10.0.0.3', 5432)],
    'conn_params': [{'user': 'app', 'database': 'shop'}],
}
```

A file whose name ends in `.ini` holds the same names. Lists are separated by commas, a value that holds a comma or a
`#` (a password, say) needs quotes, and the sections come last:

```ini
listen = 127.0.0.1:7777
master = 10.0.0.1:5432
slaver = 10.0.0.2:5432, [fd00::3]:5432

[admin_cnn]
user = postgres
password = "..."

[conn_params]
[[shop]]
user = app
database = shop
```

An address is `(host, port)` or `'host:port'`. A host that begins with `/` is the directory of a Unix socket, as in
`('/var/run/postgresql', 5432)`.

The file is read again by SIGHUP. What is wrong with it is logged, and then nothing changes; else all changes at once,
but for the settings that are marked *needs a restart* below: those are named. No connection ends by it and no statement
is lost.
"""


def documentation() -> str:
    """The text of docs/configuration.md."""
    parts = [INTRODUCTION]
    group = ""
    for row in TABLE.values():
        if row.group != group:
            group = row.group
            parts.append(f"## {group}\n")
        unit = f" ({row.unit})" if row.unit else ""
        default = "required" if row.default is REQUIRED else f"default `{row.default!r}`"
        restart = "" if row.reloadable else ", needs a restart"
        parts.append(f"### `{row.name}`\n\n*{row.type}{unit}, {default}{restart}*\n")
        parts.append(textwrap.fill(f"{row.help} {row.trade}", 119) + "\n")
    return "\n".join(parts)
