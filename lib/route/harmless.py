"""What calling a built-in function by name does to the session, as far as a pool must care.

Pure. HARMLESS is an allow list (harmless_names.py), EFFECT says of the others what they leave behind, and a name in
neither counts as opaque. Names are bytes, as PostgreSQL folds them: lower case, without a schema.

source: functions-admin.html, functions-sequence.html, functions-info.html
"""

from __future__ import annotations

import enum

from lib.route.harmless_names import HARMLESS

__all__ = ["EFFECT", "HARMLESS", "Effect"]


class Effect(enum.IntEnum):
    """What a call leaves behind."""

    WRITES = 1  # writes, locks or waits, and is over when its transaction is: nothing may ride behind it
    READS_SESSION = 2  # answers with what this session did before: currval, lastval
    SETS = 3  # changes a setting of the session
    HOLDS = 4  # leaves a lock in the session
    SPOILS = 5  # leaves what DISCARD ALL does not undo: a temporary slot, a seed, a running backup
    OPAQUE = 6  # runs SQL from a string, reads or writes the server's files, or controls the server
    RELEASES = 7  # gives back what HOLDS has left


_WRITES = b"""
    nextval setval txid_current pg_current_xact_id pg_export_snapshot pg_notify pg_logical_emit_message
    pg_sleep pg_sleep_for pg_sleep_until
    pg_advisory_xact_lock pg_advisory_xact_lock_shared pg_try_advisory_xact_lock pg_try_advisory_xact_lock_shared
    lo_close lo_creat lo_create lo_from_bytea lo_get lo_lseek lo_lseek64 lo_open lo_put lo_tell lo_tell64
    lo_truncate lo_truncate64 lo_unlink loread lowrite
    pg_cancel_backend pg_terminate_backend
"""

_HOLDS = b"""
    pg_advisory_lock pg_advisory_lock_shared pg_try_advisory_lock pg_try_advisory_lock_shared
"""

_RELEASES = b"pg_advisory_unlock pg_advisory_unlock_shared pg_advisory_unlock_all"

_SPOILS = b"""
    setseed
    pg_create_logical_replication_slot pg_create_physical_replication_slot
    pg_copy_logical_replication_slot pg_copy_physical_replication_slot
    pg_replication_origin_session_setup pg_replication_origin_session_reset
    pg_replication_origin_session_is_setup pg_replication_origin_session_progress
    pg_replication_origin_xact_setup pg_replication_origin_xact_reset
    pg_backup_start pg_backup_stop pg_start_backup pg_stop_backup
"""

# The rest of pg_proc, named so that a call in attribute notation, ('select ...').ts_stat, is seen as one.
_OPAQUE = b"""
    amvalidate binary_upgrade_add_sub_rel_state binary_upgrade_create_empty_extension
    binary_upgrade_logical_slot_has_caught_up binary_upgrade_replorigin_advance binary_upgrade_set_missing_value
    binary_upgrade_set_next_array_pg_type_oid binary_upgrade_set_next_attribute_versions
    binary_upgrade_set_next_heap_pg_class_oid binary_upgrade_set_next_heap_relfilenode
    binary_upgrade_set_next_index_pg_class_oid binary_upgrade_set_next_index_relfilenode
    binary_upgrade_set_next_multirange_array_pg_type_oid binary_upgrade_set_next_multirange_pg_type_oid
    binary_upgrade_set_next_pg_authid_oid binary_upgrade_set_next_pg_enum_oid
    binary_upgrade_set_next_pg_tablespace_oid binary_upgrade_set_next_pg_type_oid
    binary_upgrade_set_next_toast_pg_class_oid binary_upgrade_set_next_toast_pg_type_oid
    binary_upgrade_set_next_toast_relfilenode
    binary_upgrade_set_record_init_privs brin_desummarize_range brin_summarize_new_values brin_summarize_range
    currtid currtid2 cursor_to_xml cursor_to_xmlschema database_to_xml database_to_xml_and_xmlschema
    database_to_xmlschema gin_clean_pending_list lo_export lo_import pg_available_wal_summaries
    pg_clear_attribute_stats pg_clear_relation_stats pg_create_restore_point pg_current_logfile
    pg_drop_replication_slot pg_event_trigger_ddl_commands pg_event_trigger_dropped_objects
    pg_event_trigger_table_rewrite_oid pg_event_trigger_table_rewrite_reason pg_extension_config_dump
    pg_get_shmem_allocations_numa pg_hba_file_rules pg_ident_file_mappings pg_import_system_collations
    pg_log_backend_memory_contexts pg_log_standby_snapshot pg_logical_slot_get_binary_changes
    pg_logical_slot_get_changes pg_logical_slot_peek_binary_changes pg_logical_slot_peek_changes
    pg_ls_archive_statusdir pg_ls_dir pg_ls_logdir pg_ls_logicalmapdir pg_ls_logicalsnapdir pg_ls_replslotdir
    pg_ls_summariesdir pg_ls_tmpdir pg_ls_waldir pg_nextoid pg_prepared_statement pg_promote pg_read_binary_file
    pg_read_file pg_read_file_old pg_reload_conf pg_replication_origin_advance pg_replication_origin_create
    pg_replication_origin_drop pg_replication_origin_progress pg_replication_slot_advance
    pg_restore_attribute_stats pg_restore_relation_stats pg_rotate_logfile pg_rotate_logfile_old
    pg_show_all_file_settings pg_stat_clear_snapshot pg_stat_file pg_stat_force_next_flush pg_stat_have_stats
    pg_stat_reset pg_stat_reset_backend_stats pg_stat_reset_replication_slot pg_stat_reset_shared
    pg_stat_reset_single_function_counters pg_stat_reset_single_table_counters pg_stat_reset_slru
    pg_stat_reset_subscription_stats pg_stop_making_pinned_objects pg_switch_wal pg_sync_replication_slots
    pg_wal_replay_pause pg_wal_replay_resume pg_wal_summary_contents query_to_xml query_to_xml_and_xmlschema
    query_to_xmlschema schema_to_xml schema_to_xml_and_xmlschema schema_to_xmlschema table_to_xml
    table_to_xml_and_xmlschema table_to_xmlschema ts_rewrite ts_stat
"""

EFFECT: dict[bytes, Effect] = {
    **dict.fromkeys(_OPAQUE.split(), Effect.OPAQUE),
    **dict.fromkeys(_WRITES.split(), Effect.WRITES),
    **dict.fromkeys(_HOLDS.split(), Effect.HOLDS),
    **dict.fromkeys(_RELEASES.split(), Effect.RELEASES),
    **dict.fromkeys(_SPOILS.split(), Effect.SPOILS),
    b"currval": Effect.READS_SESSION,
    b"lastval": Effect.READS_SESSION,
    b"set_config": Effect.SETS,
}
