/*
 * sql.h: every statement that the agent sends of its own accord, in one place. All names and operators are qualified with pg_catalog: a branch
 * may have changed search_path. Words such as CASE, COALESCE, EXISTS, IS NULL are grammar and safe; IN and IS DISTINCT FROM are not (they
 * look "=" up), so they do not occur.
 */
#ifndef LOCKSTEP_PG_SQL_H
#define LOCKSTEP_PG_SQL_H

/* ---- every login. The system identifier and the backend cannot change under a session, so they are read once. */
enum login_column {
    LOGIN_PID,
    LOGIN_STARTED,
    LOGIN_VERSION,
    LOGIN_IN_RECOVERY,
    LOGIN_APPLICATION_NAME,
    LOGIN_CHECK_INTERVAL,
    LOGIN_USER,
    LOGIN_SYSTEM_ID,
    LOGIN_ENCODING,
    LOGIN_MAX_PREPARED,
    LOGIN_SYNC_FLOOR,
    LOGIN_DATABASE,
    LOGIN_SUPERUSER,
    LOGIN_CONNECTIONS
};
/* Never below the participant's setting, never below on. */
#define SQL_SYNC_FLOOR                                                                                                        \
    "case when pg_catalog.current_setting('synchronous_commit') operator(pg_catalog.=) 'remote_apply' then 'remote_apply' else 'on' end"
#define SQL_LOGIN                                                                                                             \
    "select pg_catalog.pg_backend_pid(),"                                                                                     \
    " (select extract(epoch from a.backend_start)::pg_catalog.text from pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) a),"    \
    " pg_catalog.current_setting('server_version_num'), pg_catalog.pg_is_in_recovery(),"                                      \
    " pg_catalog.current_setting('application_name'), pg_catalog.current_setting('client_connection_check_interval', true),"  \
    " current_user, (select s.system_identifier from pg_catalog.pg_control_system() s),"                                      \
    " pg_catalog.current_setting('server_encoding'), pg_catalog.current_setting('max_prepared_transactions'),"                \
    " " SQL_SYNC_FLOOR ", pg_catalog.current_database(), pg_catalog.current_setting('is_superuser'),"      \
    " pg_catalog.current_setting('max_connections')::pg_catalog.int4"                                                         \
    " operator(pg_catalog.-) pg_catalog.current_setting('superuser_reserved_connections')::pg_catalog.int4"
/* Finishers and the agent's own sessions keep it for life. */
/* Finishers take few locks, but somebody may hold one on our own tables or on a catalog: whatever waits is told so, and tried again. */
#define SQL_LOCK_TIMEOUT "select pg_catalog.set_config('lock_timeout', '5000', false)"
#define SQL_RAISE_SYNC "select pg_catalog.set_config('synchronous_commit', " SQL_SYNC_FLOOR ", false)"

/* ---- a branch, on a worker; prepared once per session */
#define SQL_RESET "reset all"
#define SQL_BEGIN_READ_COMMITTED "begin isolation level read committed"
#define SQL_BEGIN_REPEATABLE_READ "begin isolation level repeatable read"
#define SQL_BEGIN_SERIALIZABLE "begin isolation level serializable"
/* Ahead of what a session prepares for later, in the same implicit transaction. */
#define SQL_PARSE_SOON "select pg_catalog.set_config('lock_timeout', '10', true)"
/* $1 gtid, $2 lock_timeout, $3 statement_timeout, $4 idle timeout (ms). The last bounds what a frozen agent holds open. */
#define SQL_TIMEOUTS(l, s, i)                                                                                                 \
    "pg_catalog.set_config('lock_timeout', " l ", true), pg_catalog.set_config('statement_timeout', " s ", true),"            \
    " pg_catalog.set_config('idle_in_transaction_session_timeout', " i ", true)"
#define SQL_MARK "select pg_catalog.set_config('lockstep.gtid', $1, true), " SQL_TIMEOUTS("$2", "$3", "$4")
/* Later parts must not set the marker again: it would hide that it was lost. */
#define SQL_AGAIN "select " SQL_TIMEOUTS("$1", "$2", "$3")
/* $1 secret, $2 gtid, $3 app, $4 key, $5 hash */
#define SQL_OUTCOME_INSERT "select lockstep.outcome_insert($1, $2, $3, $4, $5)"
#define SQL_CONSTRAINTS "set constraints all immediate"
/*
 * The guard: $1 gtid, $2 the floor of synchronous_commit. It fails, and by that skips PREPARE, with a word that says why. Which locks are held
 * is asked only of a transaction without an xid: writers do not pay for pg_locks. pg_current_xact_id() assigns an xid to a reader that must
 * be prepared all the same, so that the decision has something to be bound to. What the branch may have turned off is turned on again.
 */
#define GUARD_MARKER "lockstep: marker lost"
#define GUARD_OWNER "lockstep: foreign owner"
#define GUARD_READ_ONLY "lockstep: read-only"
#define SQL_GUARD_OF(read_only)                                                                                              \
    "select (case"                                                                                                            \
    " when coalesce(pg_catalog.current_setting('lockstep.gtid', true), '') operator(pg_catalog.<>) $1::pg_catalog.text"       \
    " then '" GUARD_MARKER "'"                                                                                                \
    " when current_user operator(pg_catalog.<>) session_user then '" GUARD_OWNER "'" read_only                                \
    " else pg_catalog.pg_current_xact_id()::pg_catalog.text end)::pg_catalog.int8, current_user,"                             \
    " pg_catalog.set_config('synchronous_commit', case when pg_catalog.current_setting('synchronous_commit')"                 \
    " operator(pg_catalog.=) 'remote_apply' then 'remote_apply' else $2::pg_catalog.text end, true),"                         \
    " pg_catalog.set_config('client_min_messages', 'warning', true)"
#define SQL_GUARD                                                                                                             \
    SQL_GUARD_OF(" when pg_catalog.pg_current_xact_id_if_assigned() is null"                                                  \
                 " and pg_catalog.current_setting('transaction_isolation') operator(pg_catalog.<>) 'serializable'"            \
                 " and not exists (select from pg_catalog.pg_locks l where l.pid operator(pg_catalog.=) pg_catalog.pg_backend_pid()"  \
                 " and (l.locktype operator(pg_catalog.=) 'advisory' or (l.mode operator(pg_catalog.<>) 'AccessShareLock'"    \
                 " and l.locktype operator(pg_catalog.<>) 'virtualxid')))"                                                    \
                 " then '" GUARD_READ_ONLY "'")
/* Of a branch with an INSERT, UPDATE, DELETE or MERGE: its table's lock would be found. Not to ask saves the server half of the guard. */
#define SQL_GUARD_WRITER SQL_GUARD_OF("")
/* Behind PREPARE: an upper bound of its end that no crash takes back (the insert position covers what others have not flushed yet, and an
 * honest crash would look like lost WAL), and the timeline. Session advisory locks survive PREPARE: they are dropped here. */
enum lsn_column { LSN_LSN, LSN_WALFILE };
#define SQL_LSN                                                                                                               \
    "select pg_catalog.pg_current_wal_flush_lsn(), pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()),"      \
    " pg_catalog.pg_advisory_unlock_all()"
/* What a transaction that was committed here may leave behind. (After PREPARE the server itself has refused temporary tables, LISTEN and held
 * cursors.) Prepared statements stay: DISCARD ALL would drop ours. */
#define SQL_UNLOCK "select pg_catalog.pg_advisory_unlock_all()"
#define SQL_UNLISTEN "unlisten *"
#define SQL_CLOSE "close all"
#define SQL_DISCARD_TEMP "discard temp"

/* ---- the control session */
#define SQL_TRY_LOCK "select pg_catalog.pg_try_advisory_lock($1::pg_catalog.int8)"
/* Who holds it: $1 the key. */
#define SQL_LOCK_HOLDER                                                                                                       \
    "select l.pid, a.application_name from pg_catalog.pg_locks l left join pg_catalog.pg_stat_activity a"                     \
    " on a.pid operator(pg_catalog.=) l.pid where l.locktype operator(pg_catalog.=) 'advisory' and l.granted"                 \
    " and l.database operator(pg_catalog.=) (select d.oid from pg_catalog.pg_database d where d.datname operator(pg_catalog.=) pg_catalog.current_database())" \
    " and ((l.classid::pg_catalog.int8 operator(pg_catalog.<<) 32) operator(pg_catalog.|) l.objid::pg_catalog.int8) operator(pg_catalog.=) $1::pg_catalog.int8"
/* Whose life it is, before it becomes ours. */
#define SQL_LIFE_LAST "select l.nonce from lockstep.life l where l.participant operator(pg_catalog.=) $1"
#define SQL_LIFE                                                                                                              \
    "insert into lockstep.life (participant, agent, nonce, secret_digest) values ($1, session_user, $2, pg_catalog.sha256($3::pg_catalog.bytea))"  \
    " on conflict (participant) do update set agent = excluded.agent, nonce = excluded.nonce,"                                \
    " secret_digest = excluded.secret_digest, started_at = pg_catalog.clock_timestamp()"
/* Ends backends of earlier lives: $1 prefix of their application_name, $2 our own. No row: they are gone. Anybody may take such a name; only roles
 * that we may act as have worked for us, and others' sessions we could not end. */
#define SQL_CLEAN                                                                                                             \
    "select a.pid, pg_catalog.pg_terminate_backend(a.pid) from pg_catalog.pg_stat_activity a"                                 \
    " where a.datname operator(pg_catalog.=) pg_catalog.current_database()"                                                   \
    " and pg_catalog.starts_with(a.application_name, $1) and a.application_name operator(pg_catalog.<>) $2"                   \
    " and pg_catalog.pg_has_role(a.usesysid, 'usage')"                                                                        \
    " and exists (select from pg_catalog.pg_roles r where r.oid operator(pg_catalog.=) a.usesysid and not r.rolsuper)"
/* Ends one backend: $1 pid, $2 backend_start. No row: it is gone. */
#define SQL_STOP                                                                                                              \
    "select pg_catalog.pg_terminate_backend(a.pid) from pg_catalog.pg_stat_get_activity($1::pg_catalog.int4) a"               \
    " where extract(epoch from a.backend_start)::pg_catalog.text operator(pg_catalog.=) $2::pg_catalog.text"

/* ---- checks at start; each row is something that is missing: what, and the statement that mends it. $1 the app roles as an array. */
/* One row: is the schema there, may this role use it, its name. */
#define SQL_CHECK_SCHEMA                                                                                                      \
    "select n.oid is not null, n.oid is not null and pg_catalog.has_schema_privilege(n.oid, 'usage'),"                        \
    " 'GRANT USAGE ON SCHEMA lockstep TO ' || pg_catalog.quote_ident(session_user) || '; or run lockstep init-participant again'" \
    " from (select) one left join pg_catalog.pg_namespace n on n.nspname operator(pg_catalog.=) 'lockstep'"
#define SQL_CHECK_VERSION "select lockstep.schema_version()"
/* Null in a schema of an earlier version, which is told by its number. */
#define SQL_FENCE_FUNCTION "pg_catalog.to_regprocedure('lockstep.fence_ahead(text, text, text, int8, int8, int8)')"
#define SQL_MAY_CALL(role, function) \
    "coalesce(pg_catalog.has_function_privilege(" role "pg_catalog.to_regprocedure('lockstep." function "'), 'execute'), false)"
#define SQL_CHECK_RIGHTS                                                                                                      \
    "with role as (select r.name, (select p.oid from pg_catalog.pg_roles p where p.rolname operator(pg_catalog.=) r.name::pg_catalog.name) as oid" \
    " from pg_catalog.unnest($1::pg_catalog.text[]) r(name)),"                                                                \
    " me as (select pg_catalog.quote_ident(session_user) as name)"                                                            \
    " select 'database role ' || pg_catalog.quote_ident(r.name) || ' does not exist', 'CREATE ROLE ' || pg_catalog.quote_ident(r.name) || ' LOGIN'" \
    " from role r where r.oid is null"                                                                                        \
    " union all select me.name || ' is no member of ' || pg_catalog.quote_ident(r.name),"                                     \
    " 'GRANT ' || pg_catalog.quote_ident(r.name) || ' TO ' || me.name"                                                        \
    " from role r, me where r.oid is not null and not pg_catalog.pg_has_role(r.oid, 'usage')"                                 \
    " union all select pg_catalog.quote_ident(r.name) || ' may not log in', 'ALTER ROLE ' || pg_catalog.quote_ident(r.name) || ' LOGIN'" \
    " from role r join pg_catalog.pg_roles p on p.oid operator(pg_catalog.=) r.oid where not p.rolcanlogin"                   \
    " union all select pg_catalog.quote_ident(r.name) || ' is a superuser, nothing would bound its branches',"                \
    " 'ALTER ROLE ' || pg_catalog.quote_ident(r.name) || ' NOSUPERUSER'"                                                      \
    " from role r join pg_catalog.pg_roles p on p.oid operator(pg_catalog.=) r.oid where p.rolsuper"                          \
    " union all select me.name || ' is the agent''s own role: what runs as it may do what only the agent may',"              \
    " 'give the applications database roles of their own in `roles`'"                                                         \
    " from role r, me where r.name operator(pg_catalog.=) session_user::pg_catalog.text"                                      \
    " union all select pg_catalog.quote_ident(r.name) || ' has no rights in schema lockstep',"                                \
    " 'run lockstep init-participant with --app-role ' || pg_catalog.quote_ident(r.name) || ' again, it GRANTs them'"                                     \
    " from role r where r.oid is not null and not (pg_catalog.has_schema_privilege(r.oid, 'lockstep', 'usage')"               \
    " and pg_catalog.has_function_privilege(r.oid, 'lockstep.outcome_insert(bytea, text, text, text, bytea)', 'execute')"     \
    " and pg_catalog.has_function_privilege(r.oid, " SQL_FENCE_FUNCTION ", 'execute')" \
    " and " SQL_MAY_CALL("r.oid, ", "saga_attempt(bytea, text, text, text, text)")                                            \
    " and " SQL_MAY_CALL("r.oid, ", "saga_keep(bytea, text, text, jsonb, int4)")                                              \
    " and " SQL_MAY_CALL("r.oid, ", "barrier(text, text, text)")                                                              \
    " and " SQL_MAY_CALL("r.oid, ", "barrier_keep(text, text, jsonb)")                                                        \
    " and " SQL_MAY_CALL("r.oid, ", "barrier_result(text, text)")                                                             \
    " and " SQL_MAY_CALL("r.oid, ", "emit(text, text, jsonb)") " and " SQL_MAY_CALL("r.oid, ", "append(text, int8, text, jsonb)") \
    " and " SQL_MAY_CALL("r.oid, ", "inbox_take(bytea, text, int8, text, text, text, int8, text, jsonb)")                     \
    " and " SQL_MAY_CALL("r.oid, ", "inbox_park(bytea, text, int8, text, text, text, int8, text, jsonb, text, text, int4, int4)") ")" \
    " union all select me.name || ' has no rights on the tables of schema lockstep',"                                         \
    " 'run lockstep init-participant with --agent-role ' || me.name || ' again, it GRANTs them' from me where not"                                        \
    " (pg_catalog.has_table_privilege('lockstep.fence', 'insert') and pg_catalog.has_table_privilege('lockstep.life', 'insert')" \
    " and pg_catalog.has_table_privilege('lockstep.outcome', 'insert') and pg_catalog.has_table_privilege('lockstep.outcome', 'select')" \
    " and pg_catalog.has_function_privilege(" SQL_FENCE_FUNCTION ", 'execute')"                                                     \
    " and " SQL_MAY_CALL("", "beyond_horizon(text, text)") " and " SQL_MAY_CALL("", "horizon_store(text, text, int8, int8)")    \
    " and " SQL_MAY_CALL("", "outcome_prune(text, int4)") " and " SQL_MAY_CALL("", "barrier_kept(text, int4)")                  \
    " and " SQL_MAY_CALL("", "barrier_forget(text[])") " and " SQL_MAY_CALL("", "relay_claim(int4, int8)")                            \
    " and " SQL_MAY_CALL("", "relay_page(text, int8, int8, int4, int4)") " and " SQL_MAY_CALL("", "relay_acknowledge(text, int8)")          \
    " and " SQL_MAY_CALL("", "route_store(text, text, text[])") " and " SQL_MAY_CALL("", "inbox_due(int4)")                        \
    " and pg_catalog.has_function_privilege('lockstep.timeline_history()', 'execute'))"

/* ---- the agent's own sessions */
enum identity_column {
    IDENTITY_SYSTEM_ID,
    IDENTITY_WALFILE,
    IDENTITY_LSN,
    IDENTITY_FLUSH_LSN,
    IDENTITY_MAX_PREPARED,
    IDENTITY_HISTORY,
    IDENTITY_FENCE_INCARNATION,
    IDENTITY_FENCE_EPOCH,
    IDENTITY_FENCE_POSITION,
    IDENTITY_FENCE_CHAIN
};
#define SQL_SERVER                                                                                                            \
    "(select s.system_identifier from pg_catalog.pg_control_system() s),"                                                     \
    " pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), pg_catalog.pg_current_wal_insert_lsn(),"            \
    " pg_catalog.pg_current_wal_flush_lsn()"
/* $1 participant, $2 coordinator */
#define SQL_IDENTITY                                                                                                          \
    "select " SQL_SERVER ", pg_catalog.current_setting('max_prepared_transactions'), lockstep.timeline_history(),"            \
    " f.incarnation, f.epoch, f.log_position, f.chain from (select) one left join lockstep.fence f"                           \
    " on f.participant operator(pg_catalog.=) $1 and f.coordinator operator(pg_catalog.=) $2"

/* $1 participant, $2 coordinator, $3 incarnation, $4 epoch, $5 position, $6 chain */
#define SQL_FENCE_DURABLE                                                                                                     \
    "insert into lockstep.fence (participant, coordinator, agent, incarnation, epoch, log_position, chain)"                   \
    " values ($1, $2, session_user, $3, $4, $5, $6)"                                                                          \
    " on conflict (participant, coordinator) do update set agent = excluded.agent, incarnation = excluded.incarnation,"       \
    " epoch = excluded.epoch, log_position = excluded.log_position, chain = excluded.chain"
/* Ahead of COMMIT PREPARED in the same pipeline, not synced by itself: the commit that follows flushes it. Finishers work side by side, so it
 * never goes back. A changed incarnation or epoch is stored durably before anything else is done. Decided branches hold locks of their own: they
 * do not wait for whoever has locked the fence. */
#define SQL_FENCE_AHEAD                                                                                                       \
    "select pg_catalog.set_config('synchronous_commit', 'off', true), pg_catalog.set_config('lock_timeout', '250', true),"    \
    " lockstep.fence_ahead($1, $2, $3, $4::pg_catalog.int8, $5::pg_catalog.int8, $6::pg_catalog.int8)"

/* One view of one gid: listed before its status is asked, in one statement. $1 gid, $2 xid or null. */
enum proof_column {
    PROOF_LISTED_XID,
    PROOF_LISTED_OWNER,
    PROOF_STATUS,
    PROOF_SYSTEM_ID,
    PROOF_WALFILE,
    PROOF_LSN,
    PROOF_FLUSH_LSN,
    PROOF_XMAX,
    PROOF_HISTORY
};
#define SQL_XMAX "pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())"
#define SQL_LISTED                                                                                                            \
    "with listed as materialized (select p.transaction, p.owner, p.gid, p.prepared from pg_catalog.pg_prepared_xacts p"       \
    " where p.database operator(pg_catalog.=) pg_catalog.current_database() and p.gid operator(pg_catalog.=) $1)"
#define SQL_PROVE                                                                                                             \
    SQL_LISTED " select (select l.transaction from listed l), (select l.owner from listed l),"                                \
    " case when (select pg_catalog.count(*) from listed) operator(pg_catalog.>=) 0"                                           \
    " then pg_catalog.pg_xact_status($2::pg_catalog.xid8) end, " SQL_SERVER ", " SQL_XMAX ", lockstep.timeline_history()"

/* Own gids: $1 after, $2 limit, $3 and $4 the two forms' first bytes, $5 and $6 their ends. The first row is the server's. */
enum scan_column { SCAN_GID, SCAN_XID, SCAN_OWNER, SCAN_AGE_MS, SCAN_SYSTEM_ID, SCAN_WALFILE, SCAN_LSN, SCAN_FLUSH_LSN, SCAN_XMAX, SCAN_OURS };
/* The server's columns are read once and behind the list: pg_current_snapshot() costs the whole list of what is prepared, for each row. And
 * pg_prepared_xact() is what the view pg_prepared_xacts reads: the view looks through all roles and databases for each of its rows. */
#define SQL_SERVER_COLUMNS SQL_SERVER ", " SQL_XMAX
#define SQL_SCAN                                                                                                              \
    "with listed as materialized (select x.gid, x.transaction, x.ownerid, x.prepared from pg_catalog.pg_prepared_xact() x"    \
    " where x.dbid operator(pg_catalog.=) (select d.oid from pg_catalog.pg_database d"                                        \
    " where d.datname operator(pg_catalog.=) pg_catalog.current_database()) and x.gid collate \"C\" operator(pg_catalog.>) $1::pg_catalog.text" \
    " and ((pg_catalog.starts_with(x.gid, $3) and pg_catalog.right(x.gid, pg_catalog.length($5)) operator(pg_catalog.=) $5::pg_catalog.text)"    \
    " or (pg_catalog.starts_with(x.gid, $4) and pg_catalog.right(x.gid, pg_catalog.length($6)) operator(pg_catalog.=) $6::pg_catalog.text))"     \
    " order by x.gid collate \"C\" limit $2::pg_catalog.int4),"                                                               \
    " server as materialized (select " SQL_SERVER_COLUMNS " from (select pg_catalog.count(*) from listed) after)"             \
    " select p.gid, p.transaction, r.rolname,"                                                                                \
    " greatest(extract(epoch from (pg_catalog.clock_timestamp() operator(pg_catalog.-) p.prepared)) operator(pg_catalog.*) 1000, 0)::pg_catalog.int8,"  \
    " server.*, coalesce(pg_catalog.pg_has_role(r.rolname, 'usage'), false) from server left join (listed p"                  \
    " left join pg_catalog.pg_roles r on r.oid operator(pg_catalog.=) p.ownerid) on true"                                     \
    " order by p.gid collate \"C\""

/* $1 participant, $2 app, $3 key */
#define SQL_READ_KEY                                                                                                          \
    "select gtid, pg_catalog.encode(document_hash, 'hex') from lockstep.outcome where participant operator(pg_catalog.=) $1"  \
    " and app operator(pg_catalog.=) $2 and key operator(pg_catalog.=) $3 and state operator(pg_catalog.=) 'committed'"
/* $1 gtid, $2 participant. A tombstone that is there already is written again: its first commit may not have reached the standby. The read is a statement of its own: its snapshot must be younger than the wait. */
#define SQL_TOMBSTONE                                                                                                         \
    "insert into lockstep.outcome as o (gtid, participant, state) values ($1, $2, 'aborted')"                                 \
    " on conflict (gtid) do update set at = excluded.at where o.state operator(pg_catalog.=) 'aborted'"
#define SQL_READ_OUTCOME "select state, app, lockstep.beyond_horizon($2, $1) from lockstep.outcome where gtid operator(pg_catalog.=) $1"

/* ---- a saga's step. Not prepared by name: whoever replaced them would be given the secret. $1 secret, $2 app, $3 saga, $4 step, $5 op */
enum attempt_column { ATTEMPT_STATE, ATTEMPT_AT, ATTEMPT_TOUCHED, ATTEMPT_ROWS };
#define SQL_ATTEMPT "select state, at, touched, rows from lockstep.saga_attempt($1, $2, $3, $4, $5)"
/* $1 secret, $2 saga, $3 step, $4 result, $5 bytes */
#define SQL_KEEP "select lockstep.saga_keep($1, $2, $3, $4, $5)"

/* ---- what is kept for others' sake. Nothing is lost with a deletion that a crash takes back: it is asked about again; and no deletion is in the
 * WAL ahead of its horizon. So nobody waits for the disk. */
#define SQL_NO_WAIT "pg_catalog.set_config('synchronous_commit', 'off', true)"
#define SQL_KEPT "select lockstep.barrier_kept($1, $2)"
#define SQL_FORGET_SAGAS "select lockstep.barrier_forget($1), " SQL_NO_WAIT
#define SQL_STORE_HORIZON "select lockstep.horizon_store($1, $2, $3, $4), " SQL_NO_WAIT
#define SQL_PRUNE "select lockstep.outcome_prune($1, $2), " SQL_NO_WAIT

/* ---- choreography: the relay's own */
/* holder, position */
#define SQL_RELAY_TAKE "select holder, position from lockstep.relay_take($1)"
/* given, position */
#define SQL_RELAY_CLAIM "select given, position from lockstep.relay_claim($1, $2)"
enum page_column { PAGE_LOOKED, PAGE_TOTAL, PAGE_POSITION, PAGE_TYPE, PAGE_KEY, PAGE_VERSION, PAGE_PAYLOAD, PAGE_SAGA };
#define SQL_RELAY_PAGE "select looked, total, position, type, key, version, payload, saga from lockstep.relay_page($1, $2, $3, $4, $5)"
#define SQL_RELAY_STORE "select lockstep.relay_acknowledge($1, $2)"
enum due_column { DUE_SOURCE, DUE_POSITION, DUE_HANDLER, DUE_TYPE, DUE_KEY, DUE_VERSION, DUE_SAGA, DUE_PAYLOAD, DUE_ATTEMPTS };
#define SQL_RELAY_DUE "select source, position, handler, type, key, version, saga, payload, attempts from lockstep.inbox_due($1)"
/* participant, address, position */
#define SQL_RELAY_ROUTES "select participant, address, position from lockstep.relay_routes()"
#define SQL_ROUTE_STORE "select lockstep.route_store($1, $2, $3)"
/* type, handler, role */
#define SQL_SUBSCRIPTIONS "select type, handler, role from lockstep.subscriptions()"
/* written, failed, reason, more */
#define SQL_RELAY_LATER "select written, failed, reason, more from lockstep.relay_later($1)"
#define SQL_RELAY_STATE "select unclaimed, behind, behind_ms, waiting, dead, unwanted from lockstep.relay_state()"
#define SQL_SHOW_EVENTS "select lockstep.show_events($1, $2, $3, $4, $5, $6)"
#define SQL_SHOW_FLOW "select lockstep.show_flow($1)"
#define SQL_SHOW_FLOWS "select lockstep.show_flows($1)"
#define SQL_SHOW_LETTERS "select lockstep.show_letters($1, $2)"
#define SQL_LETTER_ACT "select lockstep.letter_act($1, $2, $3)"
#define SQL_SHOW_BLOCKING "select lockstep.show_blocking($1, $2)"
#define SQL_INBOX_PRUNE "select lockstep.inbox_prune($1, $2, $3, $4)"
/* gone, looked */
#define SQL_EVENT_PRUNE "select gone, looked from lockstep.event_prune($1, $2, $3)"
/* One delivery, on a worker. Not prepared by name: whoever replaced them would be given the secret. */
#define SQL_INBOX_TAKE "select lockstep.inbox_take($1, $2, $3, $4, $5, $6, $7, $8, $9)"
#define SQL_INBOX_PARK "select lockstep.inbox_park($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"
/* %s: the handler, as the database has quoted it. $1 source, $2 position, $3 type, $4 key, $5 version, $6 saga, $7 payload */
#define SQL_HANDLE                                                                                                            \
    "select %s(pg_catalog.jsonb_build_object('source', $1::pg_catalog.text, 'position', $2::pg_catalog.int8, 'type', $3::pg_catalog.text,"    \
    " 'key', $4::pg_catalog.text, 'version', $5::pg_catalog.int8, 'saga', $6::pg_catalog.text, 'payload', $7::pg_catalog.jsonb))"
/* What the handler may have turned off is turned on again: an acknowledgement says that this is on the disk. $1 the floor */
#define SQL_SYNC_AGAIN                                                                                                        \
    "select pg_catalog.set_config('synchronous_commit', case when pg_catalog.current_setting('synchronous_commit')"           \
    " operator(pg_catalog.=) 'remote_apply' then 'remote_apply' else $1::pg_catalog.text end, true)"

#endif
