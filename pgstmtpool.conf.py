# The conf file of pgstmtpool: Python that leaves a dict named `all`.
#
# Only admin_cnn and master are required. What is commented out shows its default.
# docs/configuration.md says more about each setting; `python pgstmtpool.py --check` checks this file.
# It may hold passwords: let only the user who runs the pool read it.

all = {
    # --- Servers ---------------------------------------------------------------------------------------------------

    # How the pool itself connects to the primary: a superuser, as it reads password hashes and pg_hba rules. Without
    # host and port. A 'password' is needed unless the server trusts the pool; please do not let it trust the pool: a
    # login through the pool would then prove nothing.
    'admin_cnn': {
        'user': 'postgres',
        'database': 'postgres',
        # 'password': '...',
    },

    # The primary: (host, port). A host that begins with '/' is the directory of a Unix socket.
    'master': ('127.0.0.1', 5432),

    # The standbys: [(host, port), ...]. Statements that begin with /*s*/ go to them in turn.
    # 'slaver': [],

    # Only frontends whose startup parameters match one of these get workers on standbys; empty means all of them.
    # For example [{'user': 'app', 'database': 'shop'}]; without host and port. With a 'password', which all workers of
    # that user log in with, the pool need not have seen one at a login.
    # 'conn_params': [],

    # Whose writes /*s*/ reads are sure to see: those of their own 'frontend', of 'all' frontends of their database, or
    # 'off'. Such a read waits up to read_your_writes_timeout seconds for a standby (0: not at all), then the primary
    # answers it.
    # 'read_your_writes': 'frontend',
    # 'read_your_writes_timeout': 0.1,

    # Standbys that are more than max_lag seconds behind the primary are left out (0: no limit); all servers are asked
    # every lag_check_interval seconds then.
    # 'max_lag': 0,
    # 'lag_check_interval': 1,

    # --- Listening -------------------------------------------------------------------------------------------------

    # Where frontends connect: (host, port) or a list of them. '' or '*' is every interface, IPv4 and IPv6;
    # a directory, as in ('/tmp', 7777), makes the Unix socket /tmp/.s.PGSQL.7777 with these permission bits.
    # 'listen': ('127.0.0.1', 7777),
    # 'unix_socket_mode': 0o777,

    # How many frontends may be connected at once. The hard limit of open files (ulimit -Hn) must be higher.
    # 'max_client_conn': 10000,

    # The same for the frontends of one user, and of one database (0: no limit).
    # 'max_user_client_connections': 0,
    # 'max_db_client_connections': 0,

    # Networks of proxies that say by the PROXY protocol whom they speak for (haproxy's send-proxy), as '10.0.0.5/32'.
    # 'proxy_networks': [],

    # How many bytes of an answer may wait for a frontend that does not read it before its worker stops reading, too.
    # 'client_buffer': 1048576,

    # --- TLS, as docs/tls.md describes it --------------------------------------------------------------------------

    # The certificate that frontends are shown, and its private key; the files are read again when they change. Then
    # frontends may use TLS ('prefer'), or must: 'require', or 'verify-full' (with a certificate of the authorities in
    # client_tls_ca_file).
    # 'client_tls_sslmode': 'prefer',
    # 'client_tls_cert_file': '',
    # 'client_tls_key_file': '',
    # 'client_tls_ca_file': '',

    # How the pool connects to servers, as libpq's sslmode; the authorities that their certificates are checked against
    # ('verify-ca', 'verify-full'), and what the pool shows to servers that want a certificate.
    # 'server_tls_sslmode': 'prefer',
    # 'server_tls_ca_file': '',
    # 'server_tls_cert_file': '',
    # 'server_tls_key_file': '',

    # Lists of revoked certificates, versions of TLS ('tlsv1.2', 'tlsv1.3', 'secure': both), and ciphers of TLS 1.2 in
    # OpenSSL's words ('': its own), for either side.
    # 'client_tls_crl_file': '',
    # 'client_tls_protocols': 'secure',
    # 'client_tls_ciphers': '',
    # 'server_tls_crl_file': '',
    # 'server_tls_protocols': 'secure',
    # 'server_tls_ciphers': '',

    # --- Workers ---------------------------------------------------------------------------------------------------

    # How many workers (connections to a server) the frontends of a user and database have: the n-th number of
    # worker_min_cnt is for n frontends; beyond its end there is one worker for each worker_per_fe_cnt frontends.
    # 'worker_min_cnt': [],
    # 'worker_per_fe_cnt': 10,

    # When statements have had to wait for grow_after seconds in all because all workers are busy, one more is
    # started, up to max_workers for a user and database on a server (0: never more than the two settings above say).
    # Workers that a frontend holds for its session do not count.
    # 'max_workers': 20,
    # 'grow_after': 0.02,

    # How many workers one user, and one database, may have on a server in all (0: no limit).
    # 'max_user_connections': 0,
    # 'max_db_connections': 0,

    # How many prepared statements a worker keeps.
    # 'max_prepared_statements': 200,

    # Reads that are known to be harmless ride behind one another: a worker is sent up to rider_depth of them before it
    # has answered the first, if they take a server less than rider_limit seconds. False: one statement at a time.
    # 'riders': True,
    # 'rider_depth': 128,
    # 'rider_limit': 0.001,

    # Seconds after which a surplus worker that is idle is closed (idle_cnn_timeout is another name for it), and after
    # which an idle one is too old (0: never).
    # 'idle_timeout': 600,
    # 'server_lifetime': 3600,

    # --- Limits, in seconds ----------------------------------------------------------------------------------------

    # How long a statement waits for a worker (0: for ever). It should be longer than a restart of the server takes.
    # 'query_wait_timeout': 120,

    # After how long it is told by a NOTICE that it waits (0: never).
    # 'query_wait_notify': 5,

    # How long a statement may run before it is canceled, and how long a transaction may be open and idle before the
    # frontend is disconnected (0: for ever).
    # 'query_timeout': 0,
    # 'idle_in_transaction_timeout': 0,

    # How long a frontend may be idle before it is disconnected (0: for ever; also called client_idle_timeout),
    # and who may be idle all the same: lists of startup parameters and values, all of one list: [[('user', 'report'),
    # ('database', 'shop')], ...].
    # 'active_cnn_timeout': 0,
    # 'disable_conds_list': [],

    # How long a server may take for each step of a worker's login, and the wait between attempts to start a worker
    # when statements wait and there is none.
    # 'connect_timeout': 15,
    # 'login_retry': 0.2,

    # How long a frontend may take to log in.
    # 'auth_timeout': 60,

    # How long statements in flight may go on when the pool is stopped.
    # 'shutdown_timeout': 30,

    # --- Sessions --------------------------------------------------------------------------------------------------

    # For how long a frontend has a worker: 'statement'; 'transaction' (the same without riders); or 'session', from
    # login to disconnect, at most max_workers of a user and database at a time. And other modes for some, the first
    # rule that matches: [{'user': 'report', 'database': 'shop', 'pool_mode': 'session', 'max_workers': 5}, ...].
    # 'pool_mode': 'statement',
    # 'pool_modes': [],

    # A transaction holds a worker until it ends; LISTEN, temporary tables and the like hold one until the frontend
    # disconnects, or until nothing of them is left. 'reject' refuses them.
    # 'transactions': 'allow',
    # 'session_features': 'allow',

    # Whether a frontend is told by a NOTICE that it holds a worker for its session now.
    # 'pin_notice': False,

    # Whether a worker has the application_name of the frontend that it serves.
    # 'track_application_name': True,

    # --- High availability (docs/ha.md) ----------------------------------------------------------------------------

    # Whether this pool promotes a standby after so many failed connections to the primary in a row, when no standby
    # hears it any more. Of several pools in front of the same servers, only one may.
    # 'enable_ha': False,
    # 'ha_after_fail_cnt': 10,

    # Seconds between looks at a primary that is well; how long one that is starting up or recovering is waited for;
    # and how long a standby may take to become the primary.
    # 'ha_check_interval': 0.5,
    # 'ha_recovery_wait': 60,
    # 'ha_promote_timeout': 60,

    # Whether the pool sets a wal_receiver_timeout of 2 s on the standbys, so that they notice a frozen primary.
    # 'ha_tune_standbys': False,

    # Where it is kept who is the primary after a switch; '' is beside this file. It wins over `master`.
    # 'ha_state_file': '',

    # What restarts the server $PGST_HOST:$PGST_PORT, for planned switchovers without switchfunc.sql.
    # 'ha_restart_command': '',

    # Other pools in front of the same servers, who are told of a switch: [('10.0.0.6', 7777)].
    # 'peers': [],

    # For PostgreSQL 11 and older: the large object in the primary from which the trigger file is made on a standby,
    # and the trigger_file in the recovery.conf of the standbys.
    # 'lo_oid': 9999,
    # 'trigger_file': 'trigger',

    # --- Pseudo database (psql -d pseudo) ----------------------------------------------------------------------------

    # Names of roles: who may run all commands there, beside superusers; and who may look, beside those and members of
    # pg_monitor.
    # 'pseudo_admin_users': [],
    # 'pseudo_stats_users': [],

    # --- Monitoring ------------------------------------------------------------------------------------------------

    # Where /metrics, /healthz, /readyz and a page are served over HTTP: (host, port), or a port on 127.0.0.1.
    # 'http_listen': '',

    # --- Log -------------------------------------------------------------------------------------------------------

    # Where it goes ('stderr', 'syslog' or the whole path of a file), how ('text' or 'json'), and the least important
    # messages in it: 'debug', 'info', 'warning' or 'error'.
    # 'log_to': 'stderr',
    # 'log_format': 'text',
    # 'log_level': 'info',

    # Whether logins and ends of connections are logged, and after how many seconds statements are (0: never).
    # 'log_connections': False,
    # 'log_disconnections': False,
    # 'log_min_duration': 0,

    # --- Upkeep ----------------------------------------------------------------------------------------------------

    # Seconds between attempts to reach a standby that has failed; between looks whether a catalog has changed (for
    # functions, triggers and views that change sessions); and between looks at roles and the rules of pg_hba.conf.
    # 'standby_check_interval': 2,
    # 'catalog_interval': 5,
    # 'hba_interval': 10,
}
