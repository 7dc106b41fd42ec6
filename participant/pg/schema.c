/*
 * schema.c: the text of the schema. See schema.h for rights; comments inside the SQL stay in the database and serve the DBA.
 */
#include "participant/pg/schema.h"

#include <assert.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/text.h"
#include "lockstep/limits.h"

#define QUOTED_MAX (2 * LS_ROLE_MAX + 3)

static const char roles_sql[] =
    "do $lockstep$\n"
    "begin\n"
    "  if not exists (select from pg_catalog.pg_roles where rolname = 'lockstep') then\n"
    "    create role lockstep nologin;\n"
    "  end if;\n"
    "  if not exists (select from pg_catalog.pg_roles where rolname = %s) then\n"
    "    create role %s login;\n"
    "  end if;\n"
    "end\n"
    "$lockstep$;\n"
    "\n"
    "create schema if not exists lockstep authorization lockstep;\n"
    "revoke all on schema lockstep from public;\n"
    "set local role lockstep;\n";

static const char tables_sql[] =
    "\n"
    "-- Where the coordinator's log stood when it was last heard: an agent serves no coordinator whose log does not contain it.\n"
    "create table if not exists lockstep.fence (\n"
    "  participant text not null,\n"
    "  coordinator text not null,\n"
    "  agent       name not null default session_user,\n"
    "  incarnation text not null,\n"
    "  epoch       int8 not null,\n"
    "  log_position int8 not null,\n"
    "  chain       int8 not null,\n"
    "  primary key (participant, coordinator)\n"
    ") with (fillfactor = 20, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);\n"
    "\n"
    "drop view if exists lockstep.fence_own;\n"
    "\n"
    "-- The present life of each agent. Its secret lets outcome_insert() tell the agent's own call from one in an application's SQL.\n"
    "create table if not exists lockstep.life (\n"
    "  participant   text primary key,\n"
    "  agent         name not null default session_user,\n"
    "  nonce         text not null,\n"
    "  secret_digest bytea not null,\n"
    "  started_at    timestamptz not null default pg_catalog.clock_timestamp()\n"
    ");\n"
    "\n"
    "-- How one-participant transactions ended. The row is the first thing such a transaction writes; 'aborted' rows are tombstones, written\n"
    "-- before anybody is told that it aborted, so that a backend that wakes up later cannot commit it.\n"
    "create table if not exists lockstep.outcome (\n"
    "  gtid          text primary key check (pg_catalog.octet_length(gtid) <= 64),\n"
    "  participant   text not null,\n"
    "  app           text,\n"
    "  key           text,\n"
    "  document_hash bytea,\n"
    "  state         text not null check (state in ('committed', 'aborted')),\n"
    "  at            timestamptz not null default pg_catalog.clock_timestamp()\n"
    ");\n"
    "create unique index if not exists outcome_key on lockstep.outcome (participant, app, key)\n"
    "  where key is not null and state = 'committed';\n"
    "create index if not exists outcome_order on lockstep.outcome (participant, pg_catalog.split_part(gtid, '.', 2),\n"
    "  (pg_catalog.split_part(gtid, '.', 3)::int8), (pg_catalog.split_part(pg_catalog.split_part(gtid, '.', 4), '-', 1)::int8));\n"
    "\n"
    "-- Up to which transaction outcome rows may be gone. Nothing at or below it can ever commit again, with or without its tombstone.\n"
    "create table if not exists lockstep.horizon (\n"
    "  participant text primary key,\n"
    "  incarnation text not null,\n"
    "  epoch       int8 not null,\n"
    "  sequence    int8 not null\n"
    ");\n";

static const char functions_sql[] =
    "\n"
    "create or replace function lockstep.schema_version() returns int4 language sql immutable as 'select %s';\n"
    "\n"
    "-- plpgsql, not sql, wherever a function runs often: it keeps its plans, a function in sql is parsed and planned in each call.\n"
    "create or replace function lockstep.beyond_horizon(participant text, gtid text) returns bool\n"
    "language plpgsql security definer set search_path = pg_catalog, pg_temp as $lockstep$\n"
    "begin\n"
    "  return exists (select from lockstep.horizon h where h.participant = beyond_horizon.participant and h.incarnation = split_part(gtid, '.', 2)\n"
    "    and (split_part(gtid, '.', 3)::int8, split_part(split_part(gtid, '.', 4), '-', 1)::int8) <= (h.epoch, h.sequence));\n"
    "end\n"
    "$lockstep$;\n"
    "revoke all on function lockstep.beyond_horizon(text, text) from public;\n"
    "\n"
    "create or replace function lockstep.horizon_store(participant text, incarnation text, epoch int8, sequence int8) returns void\n"
    "language sql security definer set search_path = pg_catalog, pg_temp as $lockstep$\n"
    "  insert into lockstep.horizon as h (participant, incarnation, epoch, sequence) values (participant, incarnation, epoch, sequence)\n"
    "    on conflict on constraint horizon_pkey do update\n"
    "    set incarnation = excluded.incarnation, epoch = excluded.epoch, sequence = excluded.sequence\n"
    "    where h.incarnation <> excluded.incarnation or (h.epoch, h.sequence) < (excluded.epoch, excluded.sequence)\n"
    "$lockstep$;\n"
    "revoke all on function lockstep.horizon_store(text, text, int8, int8) from public;\n"
    "\n"
    "-- Deletes a batch of what lies at or below the horizon, which must have been committed before. How many were deleted.\n"
    "create or replace function lockstep.outcome_prune(participant text, rows_max int4) returns int8\n"
    "language sql security definer set search_path = pg_catalog, pg_temp as $lockstep$\n"
    "  with gone as (delete from lockstep.outcome where gtid = any(array(\n"
    "      select o.gtid from lockstep.horizon h join lockstep.outcome o on o.participant = h.participant\n"
    "        and split_part(o.gtid, '.', 2) = h.incarnation\n"
    "        and (split_part(o.gtid, '.', 3)::int8, split_part(split_part(o.gtid, '.', 4), '-', 1)::int8) <= (h.epoch, h.sequence)\n"
    "      where h.participant = outcome_prune.participant limit rows_max)) returning 1)\n"
    "  select count(*) from gone\n"
    "$lockstep$;\n"
    "revoke all on function lockstep.outcome_prune(text, int4) from public;\n"
    "\n"
    "create or replace function lockstep.outcome_insert(secret bytea, gtid text, app text, key text, document_hash bytea) returns void\n"
    "language plpgsql security definer set search_path = pg_catalog, pg_temp as $lockstep$\n"
    "#variable_conflict use_column\n"
    "declare\n"
    "  which text;\n"
    "begin\n"
    "  select l.participant into which from lockstep.life l where l.secret_digest = sha256(secret);\n"
    "  if which is null then\n"
    "    raise exception 'lockstep: only the agent may do this' using errcode = '42501';\n"
    "  end if;\n"
    "  insert into lockstep.outcome (gtid, participant, app, key, document_hash, state)\n"
    "    values (outcome_insert.gtid, which, outcome_insert.app, outcome_insert.key, outcome_insert.document_hash, 'committed');\n"
    "  -- Behind the insert: if a tombstone was pruned from under it, the horizon was committed before that, and this statement sees it.\n"
    "  if lockstep.beyond_horizon(which, outcome_insert.gtid) then\n"
    "    raise exception 'lockstep: transaction %% is older than what is remembered of its like', outcome_insert.gtid using errcode = 'LS003';\n"
    "  end if;\n"
    "end\n"
    "$lockstep$;\n"
    "revoke all on function lockstep.outcome_insert(bytea, text, text, text, bytea) from public;\n"
    "\n"
    "-- Moves the fence on for finishers, who run under SET ROLE: only a session that the agent logged in has rows here. A function and no right\n"
    "-- on a table or view, for who may update one may lock it too, and a branch that keeps such a lock could never be finished. Every name and\n"
    "-- operator is qualified instead of a search_path of its own: to set and reset one costs as much as a fifth of the whole, with every commit.\n"
    "create or replace function lockstep.fence_ahead(participant text, coordinator text, incarnation text, epoch int8, log_position int8,\n"
    "                                                chain int8) returns void\n"
    "language plpgsql security definer as $lockstep$\n"
    "begin\n"
    "  update lockstep.fence f set log_position = fence_ahead.log_position, chain = fence_ahead.chain\n"
    "    where f.participant operator(pg_catalog.=) fence_ahead.participant and f.coordinator operator(pg_catalog.=) fence_ahead.coordinator\n"
    "      and f.agent operator(pg_catalog.=) session_user and f.incarnation operator(pg_catalog.=) fence_ahead.incarnation\n"
    "      and f.epoch operator(pg_catalog.=) fence_ahead.epoch and f.log_position operator(pg_catalog.<) fence_ahead.log_position;\n"
    "end\n"
    "$lockstep$;\n"
    "revoke all on function lockstep.fence_ahead(text, text, text, int8, int8, int8) from public;\n"
    "reset role;\n"
    "\n"
    "-- Where the older timelines of this server ended. Reading the file needs a superuser's rights; this function reads nothing else.\n"
    "create or replace function lockstep.timeline_history() returns text\n"
    "language plpgsql security definer set search_path = pg_catalog, pg_temp as $lockstep$\n"
    "declare\n"
    "  timeline text := substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8);\n"
    "begin\n"
    "  if timeline = '00000001' then\n"
    "    return '';\n"
    "  end if;\n"
    "  return pg_read_file('pg_wal/' || timeline || '.history');\n"
    "end\n"
    "$lockstep$;\n"
    "revoke all on function lockstep.timeline_history() from public;\n";

static const char agent_sql[] =
    "\n"
    "grant usage on schema lockstep to %s;\n"
    "grant select, insert, update, delete on lockstep.fence, lockstep.life, lockstep.outcome to %s;\n"
    "grant execute on function lockstep.beyond_horizon(text, text), lockstep.horizon_store(text, text, int8, int8),\n"
    "  lockstep.outcome_prune(text, int4), lockstep.barrier_kept(text, int4), lockstep.barrier_forget(text[]),\n"
    "  lockstep.relay_take(text), lockstep.relay_claim(int4, int8), lockstep.relay_read(text, int8, int4), lockstep.relay_acknowledge(text, int8),\n"
    "  lockstep.relay_page(text, int8, int8, int4, int4), lockstep.relay_routes(), lockstep.relay_later(int4), lockstep.relay_state(),\n"
    "  lockstep.route_store(text, text, text[]), lockstep.inbox_due(int4), lockstep.inbox_act(text, int8, text, text, text),\n"
    "  lockstep.show_events(text, text, text, int8, int4, int4), lockstep.show_flow(text), lockstep.show_flows(int4),\n"
    "  lockstep.show_letters(text, int4),\n"
    "  lockstep.letter_act(text, text, text), lockstep.inbox_prune(text, int8, int8, int4), lockstep.event_prune(int8, int8, int4),\n"
    "  lockstep.subscriptions(), lockstep.show_blocking(text, int4) to %s;\n"
    "grant execute on function lockstep.fence_ahead(text, text, text, int8, int8, int8) to %s;\n"
    "grant execute on function lockstep.schema_version() to %s;\n"
    "grant execute on function lockstep.timeline_history() to %s;\n";

static const char app_sql[] =
    "\n"
    "grant %s to %s;\n"
    "grant usage on schema lockstep to %s;\n"
    "grant execute on function lockstep.fence_ahead(text, text, text, int8, int8, int8) to %s;\n"
    "grant execute on function lockstep.outcome_insert(bytea, text, text, text, bytea) to %s;\n"
    "grant execute on function lockstep.saga_attempt(bytea, text, text, text, text), lockstep.saga_keep(bytea, text, text, jsonb, int4),\n"
    "  lockstep.barrier(text, text, text), lockstep.barrier_keep(text, text, jsonb), lockstep.barrier_result(text, text),\n"
    "  lockstep.emit(text, text, jsonb), lockstep.emit_later(text, text, jsonb, interval), lockstep.append(text, int8, text, jsonb), lockstep.load(text), lockstep.keep_snapshot(text, int8, jsonb),\n"
    "  lockstep.on(text, regproc), lockstep.off(text, text), lockstep.declare_terminal(text),\n"
    "  lockstep.inbox_take(bytea, text, int8, text, text, text, int8, text, jsonb),\n"
    "  lockstep.inbox_park(bytea, text, int8, text, text, text, int8, text, jsonb, text, text, int4, int4) to %s;\n";

int pg_quote(char quote, const char *text, char *out, size_t size)
{
    size_t n = 0;
    if (size < 3)
        return 0;
    out[n++] = quote;
    for (; *text != '\0'; text++) {
        size_t need = *text == quote ? 2 : 1;
        if (n + need + 2 > size)
            return 0;
        if (need == 2)
            out[n++] = quote;
        out[n++] = *text;
    }
    out[n++] = quote;
    out[n] = '\0';
    return 1;
}

static enum ls_status quote_role(const char *role, char out[QUOTED_MAX], struct ls_error *err)
{
    size_t length = strlen(role);
    if (length == 0 || length > LS_ROLE_MAX || !text_utf8_valid(role, length))
        return ls_fail(err, LS_ERR_INVALID, "not the name of a role: `%s`", role);
    if (!pg_quote('"', role, out, QUOTED_MAX))
        return ls_fail(err, LS_ERR_INVALID, "not the name of a role: `%s`", role);
    return LS_OK;
}

enum ls_status pg_schema_sql(const char *agent_role, const char *const *app_roles, size_t app_role_count, char **ret_sql,
                             struct ls_error *err)
{
    char agent[QUOTED_MAX], literal[QUOTED_MAX], app[QUOTED_MAX];
    enum ls_status status = quote_role(agent_role, agent, err);
    if (status != LS_OK)
        return status;
    /* Backslashes mean nothing in a literal: the script sets standard_conforming_strings itself. */
    if (!pg_quote('\'', agent_role, literal, sizeof(literal)))
        return ls_fail(err, LS_ERR_INVALID, "not the name of a role: `%s`", agent_role);

    char *sql = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&sql, &length);
    if (out == NULL)
        return ls_fail(err, LS_ERR_NOMEM, "no memory for the schema");
    fputs("-- lockstep: what a database needs before lockstep-agent can serve it. Run by a superuser; running it again changes nothing.\n"
          "begin;\n"
          "set local standard_conforming_strings = on;\n"
          "set local client_min_messages = warning;\n"
          "set local search_path = pg_catalog;\n\n",
          out);
    fprintf(out, roles_sql, literal, agent);
    fputs(tables_sql, out);
    fprintf(out, functions_sql, PG_SCHEMA_VERSION_TEXT);
    fputs(pg_schema_barrier, out);
    fputs(pg_schema_events, out);
    fputs(pg_schema_relay, out);
    fputs(pg_schema_blocking, out);
    fprintf(out, agent_sql, agent, agent, agent, agent, agent, agent);
    for (size_t i = 0; status == LS_OK && i < app_role_count; i++) {
        status = quote_role(app_roles[i], app, err);
        if (status == LS_OK)
            fprintf(out, app_sql, app, agent, app, app, app, app);
    }
    fputs("commit;\n", out);
    bool failed = ferror(out) != 0;
    if (fclose(out) != 0 || failed) {
        free(sql);
        return ls_fail(err, LS_ERR_NOMEM, "no memory for the schema");
    }
    if (status != LS_OK) {
        free(sql);
        return status;
    }
    *ret_sql = sql;
    return LS_OK;
}
