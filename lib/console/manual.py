"""The text of docs/console.md, made from the table of commands and from what was seen in psql. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from lib.console.access import PSEUDO
from lib.console.commands import TABLE, Command, Privilege

INTRODUCTION = f"""\
# The pseudo database

<!-- Made from lib/console/commands.py and docs/console.samples by docs/generate.py: change them there. The samples are
     typed into psql by python -m tests.console_samples. -->

`psql -d {PSEUDO}` on the pool's own address shows who is connected, what they do, which servers and workers there are,
and steers all of it. No server is asked for that, so that it answers when all of them are down. Any driver can be used,
by the simple or the extended protocol, and `\\watch` works.

**Who may.** You log in as to any database: with the roles and passwords of the primary, by the rules of its
`pg_hba.conf`, which may name `{PSEUDO}`. Superusers and `pseudo_admin_users` may *operate*, which is everything;
members of `pg_monitor` and `pseudo_stats_users` may *watch*; others are not let in. That is looked
at before each command: what a reload, or `ALTER ROLE`, `REVOKE` and `DROP ROLE` through the pool have changed counts at
once, and what was changed past the pool within [`hba_interval`](configuration.md#hba_interval). Three connections are
kept for this beyond `max_client_conn`.

**Listings** take conditions, an order and a limit: `fe list where state = waiting and wait > 0.1 order by wait desc
limit 10`. There are `=`, `<>`, `<`, `<=`, `>`, `>=`, `like`, `ilike`, `in (...)`, `is null`, `not`, `and` and `or`; a
value with blanks is quoted. Words are known in any case, several commands are separated by semicolons, and `$1` stands
where an argument or a value may stand.

**Nothing secret** is shown: no passwords, no statements with their values, and of settings of applications (those with
a dot in their name) only that they are there.

**Several administrators** may work at the same time: of what changes servers, workers or settings one thing is done
after the other. No command takes a statement away from a client, but for those that say so (`fe kill`, `fe cancel`,
`kill`, `shutdown`). In a transaction block nothing can be changed, as no `ROLLBACK` could undo it: drivers that begin
one by themselves have to be told not to (`autocommit`). What drivers send by themselves (`SET`, `BEGIN`, `SELECT 1` and
the like) is answered, and has no effect. Errors are in [errors.md](errors.md#in-the-pseudo-database).

PgBouncer's commands have its column names, so that its exporters and dashboards can read this pool. For those that
cannot be told another name of the database, `pgbouncer` means `{PSEUDO}`, too, where the primary has no database of
that name; Debian's `prometheus-pgbouncer-exporter` is run in the tests. All statements are counted; of those that ride
behind others ([pooling.md](pooling.md#riders)) one in eight is timed, for the others.
"""

_NOTES = {
    "fe list": "`wait` is how many seconds the statement has waited for a worker, `idle` for how many "
    "seconds the client has sent nothing (not known of Unix sockets), `class` what the statement is (see "
    "[pooling.md](pooling.md#what-may-share-a-worker)), `route` and the ids behind it where it runs, or which worker "
    "the client holds. `received` and `sent` are bytes, `unread` those that wait for the client to read them. `id` is "
    "the pid that the client was told, as `pg_backend_pid()` would be.",
    "pool list": "`lag` is in seconds and known where `max_lag` is set, `lag_bytes` where servers are asked how far "
    "they are. `busy` workers run something or are held, `queue` is how many statements wait. `state` is `up`, "
    "`behind` (further than `max_lag`), `down`, `held` (a primary in doubt: nothing is sent to it for the moment), "
    "`left out` (it was the primary, or follows none, and is no standby), or `leaving` (removed, and finishing what it "
    "does).",
    "pool show": "`idle` is for how many seconds, `last_run` how many seconds the last statement took whose time was "
    "taken, `settings` what the worker is tuned to, `frontend_id` who has it.",
    "pool add": "The server must answer, be in recovery and have the primary's system identifier. It is used at once, "
    "and its reads see what was written before ([pooling.md](pooling.md#reading-your-writes)). Write it into `slaver`, "
    "too.",
    "pool remove": "Of the primary it is refused.",
    "pool switchover": "The `peers` hold meanwhile, so that nothing fails there either. One that cannot hold is a "
    "reason against it; `force` leaves it out, and then statements of its clients fail that are under way. Canceled "
    "(Ctrl-C) while it waits for transactions, it has not changed anything.",
    "pool hold": "A pool that switches over says this to the others, which have their statements wait (reads on "
    "standbys go on) and let end what is under way, transactions too. It answers when nothing is under way any more, "
    "`quiet`, or after a second that something is. A hold is over 5 s after it was asked for last, with `pool "
    "release`, or with `pool changemaster`, when statements go on with the new primary. Who has a hold is told apart "
    "by the name, and nobody ends one of another name; by hand there is no need of one. `ha list` shows all.",
    "pool new_worker": "Parameters as in a connection string, with blanks or commas between them: `user=app, "
    "database=shop, password='...'`. Without `password` what an earlier login has left is used. It goes again by "
    "`idle_timeout`, if the formula has fewer.",
    "pause": "For a restart of the server, or its move. It returns when nothing runs any more; transactions and "
    "sessions that hold a worker are waited for. Canceled (Ctrl-C), it has not paused anything. What comes meanwhile "
    "waits, without a limit in time, until `resume`. As long as all is paused this pool promotes no standby, however "
    "long the primary is away.",
    "shutdown": "At once means that statements in flight may finish, for as long as `shutdown_timeout`; "
    "`wait_for_servers` lets them finish however long they take, `wait_for_clients` waits until all clients have left.",
    "show clients": "`request_time` is when the client has sent something last, and null where it came on a Unix "
    "socket, as `local_addr` is.",
    "show servers": "`request_time` is when the server was sent something last; it and `local_addr` are null on Unix "
    "sockets.",
    "show stats": "Times are in microseconds; averages go from one to two minutes ago up to now, and from "
    "the start as long as there is less. `total_requests` is an "
    "older name of `total_query_count`.",
    "top": "`total_ms` is `calls` times `mean_ms`. Times are from being sent to a server until being answered; "
    "`wait_ms` is what all of them have waited for a worker, and `rows` what some of them had in the mean. In place "
    "of values a shape has `0` and `''`; where one could be hidden in a comment or behind a backslash it ends in "
    "`...`. Not in session mode.",
    "set": "Values are written as in a conf file of the INI kind. What needs a restart is refused.",
    "explain route": "`in` names one of the databases that are in use; where there is only one it may be left out.",
}


def documentation(samples: Mapping[str, str]) -> str:
    """The text of docs/console.md.

    samples   by the words of commands: what was seen in psql, with what was typed
    """
    parts = [INTRODUCTION, "## Commands\n\n| command | may | what it does |\n|---|---|---|"]
    parts += [_line(each) for each in TABLE]
    parts += [_section(each, samples) for each in TABLE]
    return "\n".join(parts).rstrip() + "\n"


def _line(command: Command) -> str:
    name = f"[`{_escaped(command.usage)}`](#{_anchor(command.words)})"
    return f"| {name} | {command.privilege.value} | {command.help} |"


def _escaped(usage: str) -> str:
    return usage.replace("|", "\\|")


def _anchor(words: str) -> str:
    return words.replace(" ", "-")


def _section(command: Command, samples: Mapping[str, str]) -> str:
    lines = [f"\n## {command.words}\n", f"`{command.usage}`", ""]
    also = f" Also: {', '.join(f'`{each}`' for each in command.also)}." if command.also else ""
    may = "whoever may operate" if command.privilege is Privilege.OPERATE else "whoever may watch"
    lines.append(f"{command.help[0].upper()}{command.help[1:]}. For {may}.{also}")
    note = _NOTES.get(command.words)
    if note:
        lines += ["", note]
    if command.words in samples:
        lines += ["", "```console", samples[command.words].rstrip("\n"), "```"]
    return "\n".join(lines)


def read_samples(text: str) -> dict[str, str]:
    """What docs/console.samples holds: `=== words` before each of them."""
    parts = text.split("=== ")[1:]
    return {head.strip(): body.rstrip("\n") for head, _, body in (part.partition("\n") for part in parts)}
