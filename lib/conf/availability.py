"""Rows: what to do when the primary is gone. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from lib import addresses, checks
from lib.addresses import Address
from lib.checks import Problem, Wrong, shown
from lib.conf.row import row

HA = "High availability"


def _command(given: object, text: bool) -> str:
    if isinstance(given, str) and "\0" not in given:
        return given
    raise Wrong(Problem("", shown(given), "a command, as 'ssh $PGST_HOST restart-postgresql'"))


@dataclass(frozen=True, kw_only=True, repr=False)
class Availability:
    """When and how a standby is promoted."""

    enable_ha: bool = row(
        HA, "boolean", "", False, False, checks.boolean,
        "Whether this pool promotes a standby when the primary is gone: [ha.md](ha.md). Of several pools in front of "
        "the same servers only one may do so.",
        "Without it statements for the primary wait until it is back, `query_wait_timeout` long.",
    )
    ha_after_fail_cnt: int = row(
        HA, "integer", "failures", 10, True, checks.whole(1, 1_000_000),
        "A standby is promoted after so many connections to the primary in a row have failed (while it is in doubt it "
        "is tried every tenth of a second), and when no standby that can be asked hears it any more. Any answer of the "
        "primary, an error too, begins anew.",
        "Fewer are faster; more are surer that it is not only restarting.",
    )
    ha_check_interval: float = row(
        HA, "number", "seconds", 0.5, True, checks.seconds(0.05, 60),
        "How often the primary is tried while all is well. Each try is a connection that ends before it logs in.",
        "Shorter finds a primary that is frozen or cut off sooner; one that has ended is noticed at once.",
    )
    ha_recovery_wait: float = row(
        HA, "number", "seconds", 60, True, checks.seconds(0),
        "How long a primary that answers that it starts up, shuts down or recovers from a crash is waited for, before "
        "that counts as failures, too.",
        "Longer lets a large one recover after a crash of one of its backends; meanwhile statements wait.",
    )
    ha_promote_timeout: float = row(
        HA, "number", "seconds", 60, True, checks.seconds(1, 86400),
        "How long a standby that was told to be the primary may take, while it answers that it still is a standby.",
        "Longer lets one replay much WAL; after it another one is chosen.",
    )
    ha_tune_standbys: bool = row(
        HA, "boolean", "", False, False, checks.boolean,
        "Whether the pool sets `wal_receiver_timeout` on the standbys to 2 s where it is longer (by `ALTER SYSTEM`). "
        "So long it takes them to find out that a primary is frozen or cut off, and for so long nobody is promoted.",
        "`False` leaves your servers' settings alone: the log says when one is too long.",
    )
    ha_state_file: str = row(
        HA, "file name", "", "", False, checks.optional_file_name,
        "Where the pool keeps who is the primary after a switch. `''` is beside the conf file, with its name and "
        "`.state` in the place of `.py` or `.ini`. It wins over `master` in the conf file.",
        "Its directory must be writable for the pool, or nothing is promoted; it must survive a restart.",
    )
    ha_restart_command: str = row(
        HA, "command", "", "", True, _command,
        "What restarts a server, for setups without the functions of `switchfunc.sql`: a command for `/bin/sh` on the "
        "pool's machine, with `PGST_HOST` and `PGST_PORT` in its environment: `'ssh $PGST_HOST sudo systemctl restart "
        "postgresql'`. It is run for planned switchovers, and on PostgreSQL 12 for standbys that change their primary.",
        "It has to stop the server cleanly (`-m fast`), or a switchover may leave an old primary that has diverged.",
    )
    peers: tuple[Address, ...] = row(
        HA, "list of addresses", "", [], True, addresses.addresses(),
        "Other pools in front of the same servers: `[(host, port), ...]`. After a switch each of them is told who is "
        "the primary (`pool changemaster` in its pseudo database, as the user of `admin_cnn`), until it has answered, "
        "and before a planned one each has its statements wait (`pool hold`). "
        "A pool without `enable_ha` asks them at its start.",
        "Without it, other pools go on with the old primary, and what they write there fails or waits.",
    )
    lo_oid: int = row(
        HA, "integer", "", 9999, True, checks.whole(1, 2**32 - 1),
        "The large object in the primary from which the trigger file on a standby is made (PostgreSQL 11 and older). "
        "It is made at the start when it is not there.",
        "Any number that no application uses for a large object of its own.",
    )
    trigger_file: str = row(
        HA, "file name", "", "trigger", True, checks.file_name,
        "The `trigger_file` in the `recovery.conf` of the standbys (PostgreSQL 11 and older).",
        "It has to be the same on all of them; newer servers are promoted without it.",
    )
