-- Functions with which pgstmtpool changes and restarts a server: docs/ha.md says which setup needs them.
--
-- Run this file as a superuser, on the primary, in the database that admin_cnn connects to (postgres, if it names none):
--
--     psql -X -v ON_ERROR_STOP=1 -d postgres -f switchfunc.sql
--
-- The order of calls is: pgstmtpool_change_recovery on each standby, which says what slot it will use; that slot is made
-- on the new primary; then pgstmtpool_restart on each standby. Directories and values may contain blanks, quotes,
-- backslashes and whatever a shell would run: nothing of them ever goes through one. Only superusers may call these
-- functions, for they run as the user of the operating system that PostgreSQL runs as. They need Linux (/proc).

begin;

create extension if not exists plpython3u;

-- Have this server follow another one from its next start on.
--
-- conninfo   for primary_conninfo, whole
-- slot       for primary_slot_name; null keeps what is there, '' is none
-- trigger    for trigger_file, where there is none yet (PostgreSQL 11 and older)
-- returns    the slot that it will use, or ''
create or replace function public.pgstmtpool_change_recovery(
    conninfo text, slot text default null, trigger text default null
) returns text
language plpython3u volatile as $pgstmtpool$
import os
import re


def show(name):
    return plpy.execute("select pg_catalog.current_setting(%s, true) as value" % plpy.quote_literal(name))[0]["value"]


def quoted(value):
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def unquoted(value):
    return re.sub(r"''|\\(.)", lambda found: found[1] or "'", value)


data = show("data_directory")
has_signal = int(show("server_version_num")) >= 120000
path = os.path.join(data, "postgresql.auto.conf" if has_signal else "recovery.conf")
try:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        lines = file.read().splitlines()
except FileNotFoundError:
    lines = []

kept, was = [], show("primary_slot_name") or ""
for line in lines:
    found = re.match(r"\s*(\w+)\s*=?\s*'((?:[^'\\]|''|\\.)*)'", line)
    name = found[1].lower() if found else ""
    if name == "primary_slot_name":
        was = unquoted(found[2])
    if name in ("primary_conninfo", "primary_slot_name"):
        continue
    if not has_signal and name in ("standby_mode", "recovery_target_timeline"):
        continue
    kept.append(line)
uses = was if slot is None else slot
kept.append("primary_conninfo = " + quoted(conninfo))
kept.append("primary_slot_name = " + quoted(uses))
if not has_signal:
    kept += ["standby_mode = 'on'", "recovery_target_timeline = 'latest'"]
    if trigger and not any(re.match(r"\s*trigger_file\b", line) for line in kept):
        kept.append("trigger_file = " + quoted(trigger))

with open(path + ".new", "w", encoding="utf-8", errors="surrogateescape") as file:
    os.fchmod(file.fileno(), 0o600)
    file.write("\n".join(kept) + "\n")
    file.flush()
    os.fsync(file.fileno())
os.replace(path + ".new", path)
if has_signal:
    with open(os.path.join(data, "standby.signal"), "a") as file:
        os.fsync(file.fileno())
directory = os.open(data, os.O_RDONLY)
os.fsync(directory)
os.close(directory)
return uses
$pgstmtpool$;

-- Take back what pgstmtpool_change_recovery has done on a primary that was not restarted: it stays one.
create or replace function public.pgstmtpool_stay_primary() returns void
language plpython3u volatile as $pgstmtpool$
import os

data = plpy.execute("select pg_catalog.current_setting('data_directory') as value")[0]["value"]
for name in ("standby.signal", "recovery.conf"):
    try:
        os.unlink(os.path.join(data, name))
    except FileNotFoundError:
        pass
$pgstmtpool$;

-- Restart this server, a moment after this function has returned: a fast shutdown, and the same command line again.
create or replace function public.pgstmtpool_restart() returns void
language plpython3u volatile as $pgstmtpool$
import os
import subprocess

SCRIPT = r"""
postmaster=$1
shift
sleep 0.1
kill -INT "$postmaster"
while kill -0 "$postmaster" 2>/dev/null && ! grep -q '^State:[[:space:]]*Z' "/proc/$postmaster/status"; do
    sleep 0.02
done
exec "$@"
"""
postmaster = os.getppid()
with open("/proc/%d/cmdline" % postmaster, "rb") as file:
    words = file.read().split(b"\0")[:-1]
words[0] = os.readlink(b"/proc/%d/exe" % postmaster)
settings = plpy.execute(
    "select pg_catalog.current_setting('data_directory') as data, pg_catalog.current_setting('logging_collector') as log"
)[0]
# The collector's pipe ends with the server that is stopped, and another one is made.
output = subprocess.DEVNULL if settings["log"] == "on" else None
subprocess.Popen(
    [b"/bin/sh", b"-c", SCRIPT.encode(), b"sh", b"%d" % postmaster, *words], cwd=settings["data"],
    start_new_session=True, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
)
$pgstmtpool$;

-- Make a standby of a primary that has been replaced: stop it, rewind it, have it follow, start it.
--
-- source     a connection string without a password, to the new primary, as a superuser, for pg_rewind
-- password   for that, or ''
-- conninfo, slot, trigger   as for pgstmtpool_change_recovery
--
-- The conf files in the data directory stay as they are (pg_rewind alone would replace them by the source's). What is
-- done is in pgstmtpool_rejoin.log in the data directory; when pg_rewind fails the server stays down.
create or replace function public.pgstmtpool_rejoin(
    source text, password text, conninfo text, slot text, trigger text default null
) returns void
language plpython3u volatile as $pgstmtpool$
import os
import subprocess

SCRIPT = r"""
postmaster=$1 data=$2 rewind=$3 source=$4 signal=$5
shift 5
# Not in the data directory, of which pg_rewind removes what the source does not have.
kept=$(TMPDIR=/tmp mktemp -d) || exit 1
# pg_rewind hands the directory's name to a shell, between double quotes, before 12 always and before 15 after a crash.
ln -s "$data" "$kept/data" || exit 1
exec 3>&1 4>&2 >"$kept/log" 2>&1
ended() {
    cp "$kept/log" "$data/pgstmtpool_rejoin.log"
    rm -rf "$kept"
}
trap ended EXIT
sleep 0.1
kill -INT "$postmaster"
while kill -0 "$postmaster" 2>/dev/null && ! grep -q '^State:[[:space:]]*Z' "/proc/$postmaster/status"; do
    sleep 0.02
done
cp -p "$data"/*.conf "$kept/" || exit 1
"$rewind" --target-pgdata="$kept/data" --source-server="$source" || { cp -p "$kept"/*.conf "$data/"; exit 1; }
cp -p "$kept"/*.conf "$data/"
if [ "$signal" = standby.signal ]; then
    printf '%s' "$PGSTMTPOOL_LINES" >>"$data/postgresql.auto.conf"
    : >"$data/standby.signal"
else
    printf '%s' "$PGSTMTPOOL_LINES" >"$data/recovery.conf"
fi
unset PGPASSWORD PGSTMTPOOL_LINES
trap - EXIT
ended
exec "$@" >&3 2>&4 3>&- 4>&-
"""


def quoted(value):
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


settings = plpy.execute(
    "select pg_catalog.current_setting('data_directory') as data, pg_catalog.current_setting('logging_collector') as log,"
    " pg_catalog.current_setting('server_version_num')::int as version"
)[0]
postmaster = os.getppid()
with open("/proc/%d/cmdline" % postmaster, "rb") as file:
    words = file.read().split(b"\0")[:-1]
words[0] = os.readlink(b"/proc/%d/exe" % postmaster)
rewind = os.path.join(os.path.dirname(words[0]), b"pg_rewind")
if not os.path.exists(rewind):
    plpy.error("there is no pg_rewind beside %s" % os.fsdecode(words[0]))
if settings["version"] < 150000 and any(each in words[0] for each in (b'"', b"$", b"`", b"\\")):
    # Its own directory, too, and there is no way round that.
    plpy.error("pg_rewind would have a shell run what is in the name of %s" % os.fsdecode(words[0]))
has_signal = settings["version"] >= 120000
lines = "primary_conninfo = %s\nprimary_slot_name = %s\n" % (quoted(conninfo), quoted(slot))
if not has_signal:
    lines += "standby_mode = 'on'\nrecovery_target_timeline = 'latest'\n"
    if trigger:
        lines += "trigger_file = %s\n" % quoted(trigger)
output = subprocess.DEVNULL if settings["log"] == "on" else None
subprocess.Popen(
    [
        b"/bin/sh", b"-c", SCRIPT.encode(), b"sh", b"%d" % postmaster, os.fsencode(settings["data"]), rewind,
        os.fsencode(source), b"standby.signal" if has_signal else b"recovery.conf", *words,
    ],
    cwd=settings["data"], start_new_session=True, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
    # Not as arguments, which everybody on that machine can see.
    env={**os.environ, "PGSTMTPOOL_LINES": lines, **({"PGPASSWORD": password} if password else {})},
)
$pgstmtpool$;

revoke execute on function public.pgstmtpool_change_recovery(text, text, text) from public;
revoke execute on function public.pgstmtpool_stay_primary() from public;
revoke execute on function public.pgstmtpool_restart() from public;
revoke execute on function public.pgstmtpool_rejoin(text, text, text, text, text) from public;

commit;
