-- lockstep: what a database needs before lockstep-agent can serve it. Run by a superuser; running it again changes nothing.
begin;
set local standard_conforming_strings = on;
set local client_min_messages = warning;
set local search_path = pg_catalog;

do $lockstep$
begin
  if not exists (select from pg_catalog.pg_roles where rolname = 'lockstep') then
    create role lockstep nologin;
  end if;
  if not exists (select from pg_catalog.pg_roles where rolname = 'lockstep_agent') then
    create role "lockstep_agent" login;
  end if;
end
$lockstep$;

create schema if not exists lockstep authorization lockstep;
revoke all on schema lockstep from public;
set local role lockstep;

-- Where the coordinator's log stood when it was last heard: an agent serves no coordinator whose log does not contain it.
create table if not exists lockstep.fence (
  participant text not null,
  coordinator text not null,
  agent       name not null default session_user,
  incarnation text not null,
  epoch       int8 not null,
  log_position int8 not null,
  chain       int8 not null,
  primary key (participant, coordinator)
) with (fillfactor = 20, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);

drop view if exists lockstep.fence_own;

-- The present life of each agent. Its secret lets outcome_insert() tell the agent's own call from one in an application's SQL.
create table if not exists lockstep.life (
  participant   text primary key,
  agent         name not null default session_user,
  nonce         text not null,
  secret_digest bytea not null,
  started_at    timestamptz not null default pg_catalog.clock_timestamp()
);

-- How one-participant transactions ended. The row is the first thing such a transaction writes; 'aborted' rows are tombstones, written
-- before anybody is told that it aborted, so that a backend that wakes up later cannot commit it.
create table if not exists lockstep.outcome (
  gtid          text primary key check (pg_catalog.octet_length(gtid) <= 64),
  participant   text not null,
  app           text,
  key           text,
  document_hash bytea,
  state         text not null check (state in ('committed', 'aborted')),
  at            timestamptz not null default pg_catalog.clock_timestamp()
);
create unique index if not exists outcome_key on lockstep.outcome (participant, app, key)
  where key is not null and state = 'committed';

create or replace function lockstep.schema_version() returns int4 language sql immutable as 'select 2';

create or replace function lockstep.outcome_insert(secret bytea, gtid text, app text, key text, document_hash bytea) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $lockstep$
#variable_conflict use_column
declare
  which text;
begin
  select l.participant into which from lockstep.life l where l.secret_digest = sha256(secret);
  if which is null then
    raise exception 'lockstep: only the agent may do this' using errcode = '42501';
  end if;
  insert into lockstep.outcome (gtid, participant, app, key, document_hash, state)
    values (outcome_insert.gtid, which, outcome_insert.app, outcome_insert.key, outcome_insert.document_hash, 'committed');
end
$lockstep$;
revoke all on function lockstep.outcome_insert(bytea, text, text, text, bytea) from public;

-- Moves the fence on for finishers, who run under SET ROLE: only a session that the agent logged in has rows here. A function and no right
-- on a table or view, for who may update one may lock it too, and a branch that keeps such a lock could never be finished.
create or replace function lockstep.fence_ahead(participant text, coordinator text, incarnation text, epoch int8, log_position int8,
                                                chain int8) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $lockstep$
begin
  update lockstep.fence f set log_position = fence_ahead.log_position, chain = fence_ahead.chain
    where f.participant = fence_ahead.participant and f.coordinator = fence_ahead.coordinator and f.agent = session_user
      and f.incarnation = fence_ahead.incarnation and f.epoch = fence_ahead.epoch and f.log_position < fence_ahead.log_position;
end
$lockstep$;
revoke all on function lockstep.fence_ahead(text, text, text, int8, int8, int8) from public;
reset role;

-- Where the older timelines of this server ended. Reading the file needs a superuser's rights; this function reads nothing else.
create or replace function lockstep.timeline_history() returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $lockstep$
declare
  timeline text := substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8);
begin
  if timeline = '00000001' then
    return '';
  end if;
  return pg_read_file('pg_wal/' || timeline || '.history');
end
$lockstep$;
revoke all on function lockstep.timeline_history() from public;

grant usage on schema lockstep to "lockstep_agent";
grant select, insert, update, delete on lockstep.fence, lockstep.life, lockstep.outcome to "lockstep_agent";
grant execute on function lockstep.fence_ahead(text, text, text, int8, int8, int8) to "lockstep_agent";
grant execute on function lockstep.schema_version() to "lockstep_agent";
grant execute on function lockstep.timeline_history() to "lockstep_agent";

grant "checkout" to "lockstep_agent";
grant usage on schema lockstep to "checkout";
grant execute on function lockstep.fence_ahead(text, text, text, int8, int8, int8) to "checkout";
grant execute on function lockstep.outcome_insert(bytea, text, text, text, bytea) to "checkout";
commit;
