#!/bin/bash
# One server of the demo: makes its data directory when that is empty, and is there as long as a postmaster is.
#
# What it is, primary or standby, is in its data directory from then on, and the pools change that. One that was the
# primary and finds that the others have gone on without it is read-only, until `pool rejoin` has made a standby of it.
#
#   SERVERS   names of all servers; the first one makes the cluster
set -uo pipefail
umask 077

me=$(hostname)
read -r -a servers <<<"$SERVERS"
login="user=replicator dbname=postgres passfile=/secrets/pgpass connect_timeout=2"

say() { echo "$me: $*"; }

others() {
    local each
    for each in "${servers[@]}"; do
        [ "$each" = "$me" ] || echo "$each"
    done
}

# --- the first start -------------------------------------------------------------------------------------------------

make_secret() {  # make_secret NAME: a password that nobody has to know
    head -c 24 /dev/urandom | base64 | tr '+/' '-_' >"/secrets/$1"
}

make_cluster() {
    say "makes the cluster"
    make_secret pool
    make_secret replicator
    echo "*:*:*:replicator:$(cat /secrets/replicator)" >/secrets/pgpass
    initdb --pgdata="$PGDATA.new" --username=postgres --auth=peer --encoding=UTF8 --locale=C.UTF-8 >/dev/null || exit 1
    echo "include '/demo/server.conf'
include_if_exists 'stale'  # see server.sh" >>"$PGDATA.new/postgresql.conf"
    pg_ctl --pgdata="$PGDATA.new" --options="-c listen_addresses=''" --wait --silent start || exit 1
    psql -XAtq -v ON_ERROR_STOP=1 -d postgres \
        -v pool="$(cat /secrets/pool)" -v replicator="$(cat /secrets/replicator)" <<<"
        create role pool login superuser password :'pool';
        create role replicator login replication password :'replicator';
        create role demo login password 'demo';
        create database demo owner demo;
        \i /demo/switchfunc.sql
        \c demo
        set role demo;
        \i /demo/demo.sql" >/dev/null || exit 1
    pg_ctl --pgdata="$PGDATA.new" --mode=fast --wait --silent stop || exit 1
    chmod 644 /secrets/pool  # for the pools, who run as somebody else
}

copy_from() {  # copy_from SERVER: become a standby of the primary
    say "becomes a standby of $1"
    psql -XAtq "host=$1 $login" -c "select pg_create_physical_replication_slot('$me', true)
        where not exists (select from pg_replication_slots where slot_name = '$me')" >/dev/null &&
        pg_basebackup --dbname="host=$1 $login" --pgdata="$PGDATA.new" --slot="$me" --checkpoint=fast || return 1
    rm -f "$PGDATA.new/stale"
    echo "primary_conninfo = 'host=$1 $login'
primary_slot_name = '$me'" >>"$PGDATA.new/postgresql.auto.conf"
    : >"$PGDATA.new/standby.signal"
}

is_primary() {
    [ "$(psql -XAtq "host=$1 $login" -c "select not pg_is_in_recovery() and
        current_setting('default_transaction_read_only') = 'off'" 2>/dev/null)" = t ]
}

begin() {
    until make_directory; do
        sleep 0.5
    done
    mv "$PGDATA.new" "$PGDATA"
}

make_directory() {
    local each
    rm -rf "$PGDATA.new"
    for each in $(others); do
        is_primary "$each" && copy_from "$each" && return
    done
    [ "$me" = "${servers[0]}" ] && make_cluster
}

# --- every start -----------------------------------------------------------------------------------------------------

own_timeline() {  # in decimal
    local newest
    newest=$(cd "$PGDATA/pg_wal" && ls -- *.history 2>/dev/null | sort | tail -n 1)
    pg_controldata "$PGDATA" | awk -v newest=$((16#0${newest%.history})) '
        /^Latest checkpoint.s TimeLineID/ { print ($NF > newest) ? $NF : newest }'
}

timeline_of() { psql -XAt "host=$1 $login replication=database" -c IDENTIFY_SYSTEM 2>/dev/null | cut -d"|" -f2; }

# A primary that was killed does not know whether another server has taken its place; the others do.
look_around() {
    local each own theirs
    rm -f "$PGDATA/stale"
    [ -e "$PGDATA/standby.signal" ] && return
    own=$(own_timeline)
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        for each in $(others); do
            theirs=$(timeline_of "$each")
            [ -n "$theirs" ] || continue
            if [ "$theirs" -gt "$own" ]; then
                say "$each is on timeline $theirs, and this server on $own: it is read-only, until it rejoins"
                echo "default_transaction_read_only = on" >"$PGDATA/stale"  # pg_rewind removes it
            fi
            return
        done
        sleep 1
    done
    say "nobody else answers"
}

# A function of switchfunc.sql may restart the server: the container is there as long as anybody works on that.
is_at_work() {
    local exe
    kill -0 "$server" 2>/dev/null && return
    for exe in /proc/[0-9]*/exe; do
        case $(readlink "$exe") in
            */postgres | */pg_rewind | */dash) return 0 ;;
        esac
    done
    return 1
}

stop() {
    local pid
    is_stopping=yes
    read -r pid 2>/dev/null <"$PGDATA/postmaster.pid" && kill -INT "$pid"
}

is_stopping=
trap stop TERM INT
if [ -d "$PGDATA" ]; then
    look_around
else
    begin
fi
[ -z "$is_stopping" ] || exit 0
rm -f "$PGDATA/postmaster.pid"  # of a container that was killed; nobody else has this directory
postgres -c cluster_name="$me" &
server=$!
while is_at_work; do
    sleep 0.5 &
    wait $!
done
say "the server has ended"
