"""The queries that look for what could change a session: SCAN_SQL for the whole catalog, CHANGED_SQL for "look again?".

Pure text; both run on PostgreSQL 10 and newer. SCAN_SQL answers rows (kind, oid, name, info, refs, body); refs is a
list with commas. A function in refs is an oid when it is the user's and a name when it is built in, so that the lists
of harmless.py apply.

    function  oid, name, info language/volatility/extension, refs what its stored trees call, body its source
    trigger   the same for functions that only a trigger can call
    relation  oid, name, info the letter of pg_class.relkind, and the handler of a foreign table
    runs      oid of a relation, info read|write (when), refs functions that are run
    config    oid of a function, body the custom settings that it is declared with, as SET commands
    uses      oid of a relation or function, info read|write, refs relations that are used then, those of the user by
              their oids, and pg_settings and pg_prepared_statements by name
    operator  name, refs its function
    hidden    name a clause that says what it is, refs functions that a text need not show
    login     there is a trigger on login

source: catalogs.html, monitoring-stats.html#MONITORING-PG-STAT-ALL-TABLES-VIEW
"""

from __future__ import annotations

# Stored trees are text: every node that calls a function names its oid, or that of an operator. The builtin part of the
# catalog (oid below 16384) is known by its names and not scanned. JIT, where there is one, would cost a hundred times
# what the scan costs, so it is turned off first: two statements, of which the second answers.
SCAN_SQL = r"""
select pg_catalog.set_config('jit', 'off', false) from pg_catalog.pg_settings where name = 'jit';
with tree(kind, oid, info, name, node) as (
    select 'runs', r.ev_class, case when r.ev_type = '1' then 'read' else 'write' end, null, r.ev_action::text
      from pg_catalog.pg_rewrite r where r.ev_class >= 16384
    union all
    select 'runs', r.ev_class, 'write', null, r.ev_qual::text
      from pg_catalog.pg_rewrite r where r.ev_class >= 16384
    union all
    select 'runs', p.polrelid, 'read', null, concat(p.polqual::text, p.polwithcheck::text) from pg_catalog.pg_policy p
    union all
    -- a virtual generated column is computed when it is read
    select 'runs', d.adrelid, case when to_jsonb(a) ->> 'attgenerated' = 'v' then 'read' else 'write' end, null,
           d.adbin::text
      from pg_catalog.pg_attrdef d
      join pg_catalog.pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
     where d.adrelid >= 16384
    union all
    -- what is planned is computed as far as it is constant
    select 'runs', s.stxrelid, 'write', null, to_jsonb(s) ->> 'stxexprs' from pg_catalog.pg_statistic_ext s
     where to_jsonb(s) ->> 'stxexprs' is not null
    union all
    select 'runs', c.conrelid, 'write', null, c.conbin::text
      from pg_catalog.pg_constraint c where c.conrelid >= 16384 and c.conbin is not null
    union all
    select 'runs', i.indrelid, 'write', null, concat(i.indexprs::text, i.indpred::text)
      from pg_catalog.pg_index i where i.indrelid >= 16384 and (i.indexprs is not null or i.indpred is not null)
    union all
    select 'runs', p.partrelid, 'write', null, p.partexprs::text
      from pg_catalog.pg_partitioned_table p where p.partexprs is not null
    union all
    select 'runs', t.tgrelid, 'write', null, t.tgqual::text from pg_catalog.pg_trigger t where t.tgqual is not null
    union all
    select 'hidden', c.contypid, null, 'has a domain check', c.conbin::text
      from pg_catalog.pg_constraint c where c.contypid >= 16384 and c.conbin is not null
    union all
    select 'hidden', t.oid, null, 'has a domain default', t.typdefaultbin::text
      from pg_catalog.pg_type t where t.oid >= 16384 and t.typdefaultbin is not null
    union all
    select 'function', p.oid, null, null, concat(p.proargdefaults::text, to_jsonb(p) ->> 'prosqlbody')
      from pg_catalog.pg_proc p
     where p.oid >= 16384 and (p.proargdefaults is not null or to_jsonb(p) ->> 'prosqlbody' is not null)
), call(kind, oid, info, name, func) as (
    select t.kind, t.oid, t.info, t.name, m[1]::oid
      from tree t, regexp_matches(t.node, ':(?:funcid|opfuncid|aggfnoid|winfnoid|elemfuncid|tsmhandler) (\d+)', 'g') m
    union all
    select t.kind, t.oid, t.info, t.name, o.oprcode::oid
      from tree t, regexp_matches(t.node, ':opno (\d+)', 'g') m
      join pg_catalog.pg_operator o on o.oid = m[1]::oid
    union all
    select t.kind, t.oid, t.info, t.name, o.oprcode::oid
      from tree t, regexp_matches(t.node, ':opnos \(o ([\d ]+)\)', 'g') m,
           regexp_split_to_table(m[1], ' +') n
      join pg_catalog.pg_operator o on o.oid = n::oid
    union all
    -- what locks rows or writes them counts as nextval does
    select t.kind, t.oid, t.info, t.name, 'pg_catalog.nextval(regclass)'::regprocedure::oid
      from tree t where t.node ~ ':hasForUpdate true|:commandType [2-9]'
    union all
    select 'runs', t.tgrelid, 'write', null, t.tgfoid::oid
      from pg_catalog.pg_trigger t where not t.tgisinternal or t.tgfoid >= 16384
    union all
    select 'runs', c.conrelid, 'write', null, o.oprcode::oid
      from pg_catalog.pg_constraint c, unnest(c.conexclop) x
      join pg_catalog.pg_operator o on o.oid = x where c.conrelid >= 16384
    union all
    select 'function', a.aggfnoid::oid, null, null, f
      from pg_catalog.pg_aggregate a,
           unnest(array[a.aggtransfn::oid, a.aggfinalfn::oid, a.aggcombinefn::oid, a.aggserialfn::oid,
                        a.aggdeserialfn::oid, a.aggmtransfn::oid, a.aggminvtransfn::oid, a.aggmfinalfn::oid]) f
     where a.aggfnoid::oid >= 16384
    union all
    select 'hidden', c.oid, null, 'has a cast', c.castfunc::oid
      from pg_catalog.pg_cast c where c.oid >= 16384 and c.castfunc <> 0
    union all
    select 'hidden', r.rngtypid, null, 'has a range type', f
      from pg_catalog.pg_range r, unnest(array[r.rngcanonical::oid, r.rngsubdiff::oid]) f
     where r.rngtypid >= 16384
    union all
    select 'hidden', a.oid, null, 'has an operator class', a.amproc::oid
      from pg_catalog.pg_amproc a where a.oid >= 16384
    union all
    select 'hidden', a.oid, null, 'has an operator class', o.oprcode::oid
      from pg_catalog.pg_amop a join pg_catalog.pg_operator o on o.oid = a.amopopr where a.oid >= 16384
    union all
    -- in C, where immutable or stable is believed
    select 'hidden', t.oid, null, 'has a type', p.oid
      from pg_catalog.pg_type t,
           unnest(array[t.typinput::oid, t.typoutput::oid, t.typreceive::oid, t.typsend::oid, t.typmodin::oid]) f
      join pg_catalog.pg_proc p on p.oid = f
     where t.oid >= 16384 and t.typtype = 'b' and f >= 16384 and p.provolatile = 'v'
    union all
    select 'hidden', t.oid, null, 'has a text search template', f
      from pg_catalog.pg_ts_template t, unnest(array[t.tmplinit::oid, t.tmpllexize::oid]) f where t.oid >= 16384
    union all
    select 'hidden', t.oid, null, 'has a text search parser', f
      from pg_catalog.pg_ts_parser t,
           unnest(array[t.prsstart::oid, t.prstoken::oid, t.prsend::oid, t.prsheadline::oid, t.prslextype::oid]) f
     where t.oid >= 16384
    union all
    -- tables and indexes of an access method that is not built in
    select 'runs', c.oid, 'read', null, m.amhandler::oid
      from pg_catalog.pg_class c join pg_catalog.pg_am m on m.oid = c.relam
     where m.oid >= 16384 and c.relkind in ('r', 'm', 'p')
    union all
    select 'runs', i.indrelid, 'read', null, m.amhandler::oid
      from pg_catalog.pg_class c join pg_catalog.pg_am m on m.oid = c.relam
      join pg_catalog.pg_index i on i.indexrelid = c.oid
     where m.oid >= 16384
    union all
    select 'operator', o.oid, null, o.oprname, o.oprcode::oid
      from pg_catalog.pg_operator o where o.oid >= 16384 and o.oprcode <> 0
), called(kind, oid, info, name, refs) as (
    select c.kind, c.oid, c.info, c.name,
           string_agg(distinct case when p.oid >= 16384 then p.oid::text
                                    when n.nspname = 'information_schema' then n.nspname || '.' || p.proname
                                    else p.proname::text end, ',')
      from call c join pg_catalog.pg_proc p on p.oid = c.func join pg_catalog.pg_namespace n on n.oid = p.pronamespace
     group by 1, 2, 3, 4
)
select c.kind, c.oid, c.name::text, c.info, c.refs, null::text as body from called c where c.kind <> 'function'
union all
select case when p.prorettype in ('trigger'::regtype, 'event_trigger'::regtype) then 'trigger' else 'function' end,
       p.oid, p.proname, concat(l.lanname, '/', p.provolatile, '/', e.extname), c.refs,
       case when l.lanname <> 'c' then p.prosrc end
  from pg_catalog.pg_proc p
  join pg_catalog.pg_language l on l.oid = p.prolang
  left join called c on c.kind = 'function' and c.oid = p.oid
  left join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
  left join pg_catalog.pg_extension e on e.oid = d.refobjid
 where p.oid >= 16384
union all
select 'config', p.oid, null, null, null, string_agg('set ' || split_part(c, '=', 1) || ' = 0', ';')
  from pg_catalog.pg_proc p, unnest(p.proconfig) c
 where p.oid >= 16384 and split_part(c, '=', 1) like '%.%'
 group by p.oid
union all
select 'relation', c.oid, c.relname, concat(c.relkind, ' ', h.proname), null, null
  from pg_catalog.pg_class c
  left join pg_catalog.pg_foreign_table t on t.ftrelid = c.oid
  left join pg_catalog.pg_foreign_server s on s.oid = t.ftserver
  left join pg_catalog.pg_foreign_data_wrapper w on w.oid = s.srvfdw
  left join pg_catalog.pg_proc h on h.oid = w.fdwhandler
 where c.oid >= 16384 and c.relkind in ('r', 'p', 'v', 'm', 'f')
union all
select 'uses', u.oid, null, u.info, string_agg(distinct u.used, ','), null
  from (select r.ev_class as oid, case when r.ev_type = '1' then 'read' else 'write' end as info,
               case d.refobjid when 'pg_catalog.pg_settings'::regclass then 'pg_settings'
                               when 'pg_catalog.pg_prepared_statements'::regclass then 'pg_prepared_statements'
                               else d.refobjid::text end as used
          from pg_catalog.pg_rewrite r
          join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = r.oid
           and d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid <> r.ev_class
         where r.ev_class >= 16384 and (d.refobjid >= 16384 or d.refobjid in ('pg_catalog.pg_settings'::regclass,
                                                                            'pg_catalog.pg_prepared_statements'::regclass))
        union all
        select p.polrelid, 'read', d.refobjid::text
          from pg_catalog.pg_policy p
          join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_policy'::regclass and d.objid = p.oid
           and d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid <> p.polrelid
        union all
        select d.objid, 'write', d.refobjid::text
          from pg_catalog.pg_depend d
         where d.classid = 'pg_catalog.pg_proc'::regclass and d.refclassid = 'pg_catalog.pg_class'::regclass
           and d.objid >= 16384 and d.refobjid >= 16384
        union all
        -- triggers, checks and policies of a child are run by a statement that names the parent, and in 11 and 12
        -- the triggers of a parent are copied to the child as internal ones
        select i.inhparent, 'read', i.inhrelid::text from pg_catalog.pg_inherits i
        union all
        select i.inhrelid, 'read', i.inhparent::text from pg_catalog.pg_inherits i
        union all
        select c.confrelid, 'write', c.conrelid::text
          from pg_catalog.pg_constraint c
         where c.contype = 'f' and (c.confdeltype in ('c', 'n', 'd') or c.confupdtype in ('c', 'n', 'd'))) u
 group by u.oid, u.info
union all
select 'login', e.oid, e.evtname, null, null, null from pg_catalog.pg_event_trigger e where e.evtevent = 'login'
"""

# Counters move with every committed or aborted change, within a second or two; temporary tables move them too.
CHANGED_SQL = """
select relname::text, n_tup_ins + n_tup_upd + n_tup_del
  from pg_catalog.pg_stat_sys_tables
 where schemaname = 'pg_catalog'
   and relname in ('pg_aggregate', 'pg_am', 'pg_amop', 'pg_amproc', 'pg_attrdef', 'pg_cast', 'pg_class',
                   'pg_constraint', 'pg_event_trigger', 'pg_extension', 'pg_foreign_data_wrapper', 'pg_foreign_table',
                   'pg_index', 'pg_inherits', 'pg_operator', 'pg_partitioned_table', 'pg_policy', 'pg_proc',
                   'pg_range', 'pg_rewrite', 'pg_statistic_ext', 'pg_trigger', 'pg_ts_parser', 'pg_ts_template',
                   'pg_type')
 order by relname
"""
