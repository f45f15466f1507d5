-- The names of the built-in functions that change nothing, wait for nothing and run no text as SQL: the allow list of
-- lib/route/harmless_names.py. A name is left out as soon as one of its overloads is not such a function. What is declared
-- immutable or stable is taken, but for those excepted below; what is volatile only when it was looked at and listed.
--
-- To make the list anew, run this on every release and write the union into the module:
--   for port in ...; do psql -XAtq -p $port -f lib/route/harmless.sql; done | LC_ALL=C sort -u | fmt -w 116
select p.proname
  from pg_catalog.pg_proc p
 where p.pronamespace = 'pg_catalog'::regnamespace and p.oid < 16384
 group by p.proname
having bool_and(
         -- declared immutable or stable, and true to it
         (p.provolatile in ('i', 's')
          and p.proname !~ '^pg_event_trigger_|^(table|schema|database|query|cursor)_to_xml|^ts_stat$|^ts_rewrite$'
          and p.proname !~ '^fmgr_.*_validator$'
          and p.proname not in ('txid_current', 'pg_current_xact_id', 'pg_prepared_statement')
          and p.prorettype not in ('language_handler'::regtype, 'fdw_handler'::regtype, 'tsm_handler'::regtype,
                                   'index_am_handler'::regtype))
         -- volatile because what they read moves on, or drawn by lot
         or p.proname ~ '^(pg_stat_get_|pg_control_|pg_last_|pg_current_wal_|pg_is_|pg_get_wal_|pg_xact_commit_timestamp)'
         or p.proname in (
            'bernoulli', 'system',  -- what TABLESAMPLE names; they take an internal, so no text can call them
            'array_sample', 'array_shuffle', 'clock_timestamp', 'current_query', 'gen_random_uuid',
            'pg_blocking_pids', 'pg_collation_actual_version', 'pg_database_collation_actual_version', 'pg_database_size',
            'pg_get_aios', 'pg_get_backend_memory_contexts', 'pg_get_loaded_modules', 'pg_get_multixact_members',
            'pg_get_sequence_data', 'pg_get_shmem_allocations', 'pg_get_wait_events', 'pg_indexes_size',
            'pg_isolation_test_session_is_blocked', 'pg_jit_available', 'pg_lock_status', 'pg_notification_queue_usage',
            'pg_partition_ancestors', 'pg_partition_tree', 'pg_prepared_xact', 'pg_relation_size',
            'pg_safe_snapshot_blocking_pids', 'pg_sequence_last_value', 'pg_show_replication_origin_status',
            'pg_table_size', 'pg_tablespace_size', 'pg_total_relation_size', 'pg_xact_status', 'random', 'random_normal',
            'timeofday', 'timezone', 'txid_status', 'uuidv4', 'uuidv7')
         -- trigger functions: no text can call them, and a table that has one is none the worse
         or p.prorettype = 'trigger'::regtype)
 order by 1;
