"""The functions of switchfunc.sql on servers that have no PL/Python: their own bodies, run beside the server.

In each function's place is one in PL/pgSQL that has COPY TO PROGRAM run the body, as the server's user and in its data
directory, with a `plpy` that asks the server by a connection of its own. What the body does to files and processes is
real.
"""

from __future__ import annotations

import re

from tests.pooler import PROJECT
from tests.servers import Server
from tests.workplace import bin_dir, give, workplace

FUNCTION = re.compile(
    r"create or replace function public\.(\w+)\((.*?)\) returns (\w+)\s+language plpython3u volatile as"
    r" \$pgstmtpool\$\n(.*?)\$pgstmtpool\$;", re.DOTALL,
)  # fmt: skip

PROGRAM = '''
import json, os, subprocess, sys, textwrap


class plpy:
    @staticmethod
    def execute(sql):
        lines = open("postmaster.pid").read().splitlines()
        where = ["-h", lines[4], "-p", lines[3], "-U", "postgres", "-d", "postgres"]
        ask = "select coalesce(json_agg(asked), '[]') from (%s) asked" % sql
        return json.loads(subprocess.check_output([PSQL, "-XAtq", *where, "-c", ask]))

    @staticmethod
    def quote_literal(text):
        return "'" + text.replace("'", "''") + "'"

    @staticmethod
    def error(text):
        raise SystemExit(text)


arguments = json.loads(bytes.fromhex(sys.stdin.readline().strip()))
postmaster = int(open("postmaster.pid").readline())
os.getppid = lambda: postmaster
names = {"plpy": plpy}
exec("def body(" + ", ".join(arguments) + "):\\n" + textwrap.indent(BODIES[sys.argv[1]], "    "), names)
answer = names["body"](**arguments)
with open("standin.answer", "w") as file:
    file.write(answer or "")
'''


def install(server: Server) -> None:
    """Make them on a primary; its standbys have them, too."""
    bodies, answer = {}, "pg_read_file('standin.answer')"
    path = workplace().new_path("standin.py")
    for name, arguments, returns, body in FUNCTION.findall((PROJECT / "switchfunc.sql").read_text()):
        bodies[name] = body
        names = [each.split()[0] for each in arguments.split(",") if each.strip()]
        pairs = ", ".join(f"'{each}', {each}" for each in names)
        server.query(f"""
            create function public.{name}({arguments.strip()}) returns {returns} language plpgsql as $standin$
            begin
                execute format(
                    'copy (select %L) to program %L',
                    encode(convert_to(json_build_object({pairs})::text, 'UTF8'), 'hex'), 'env python3 {path} {name}'
                );
                return {answer if returns == "text" else ""};
            end
            $standin$""")
    assert len(bodies) == 4
    path.write_text(f"BODIES = {bodies!r}\nPSQL = {str(bin_dir(16) / 'psql')!r}\n{PROGRAM}")
    path.chmod(0o644)
    give(path)
