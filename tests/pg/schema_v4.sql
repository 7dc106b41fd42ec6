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
create index if not exists outcome_order on lockstep.outcome (participant, pg_catalog.split_part(gtid, '.', 2),
  (pg_catalog.split_part(gtid, '.', 3)::int8), (pg_catalog.split_part(pg_catalog.split_part(gtid, '.', 4), '-', 1)::int8));

-- Up to which transaction outcome rows may be gone. Nothing at or below it can ever commit again, with or without its tombstone.
create table if not exists lockstep.horizon (
  participant text primary key,
  incarnation text not null,
  epoch       int8 not null,
  sequence    int8 not null
);

create or replace function lockstep.schema_version() returns int4 language sql immutable as 'select 4';

create or replace function lockstep.beyond_horizon(participant text, gtid text) returns bool
language sql volatile security definer set search_path = pg_catalog, pg_temp as $lockstep$
  select exists (select from lockstep.horizon h where h.participant = beyond_horizon.participant and h.incarnation = split_part(gtid, '.', 2)
    and (split_part(gtid, '.', 3)::int8, split_part(split_part(gtid, '.', 4), '-', 1)::int8) <= (h.epoch, h.sequence))
$lockstep$;
revoke all on function lockstep.beyond_horizon(text, text) from public;

create or replace function lockstep.horizon_store(participant text, incarnation text, epoch int8, sequence int8) returns void
language sql security definer set search_path = pg_catalog, pg_temp as $lockstep$
  insert into lockstep.horizon as h (participant, incarnation, epoch, sequence) values (participant, incarnation, epoch, sequence)
    on conflict on constraint horizon_pkey do update
    set incarnation = excluded.incarnation, epoch = excluded.epoch, sequence = excluded.sequence
    where h.incarnation <> excluded.incarnation or (h.epoch, h.sequence) < (excluded.epoch, excluded.sequence)
$lockstep$;
revoke all on function lockstep.horizon_store(text, text, int8, int8) from public;

-- Deletes a batch of what lies at or below the horizon, which must have been committed before. How many were deleted.
create or replace function lockstep.outcome_prune(participant text, rows_max int4) returns int8
language sql security definer set search_path = pg_catalog, pg_temp as $lockstep$
  with gone as (delete from lockstep.outcome where gtid = any(array(
      select o.gtid from lockstep.horizon h join lockstep.outcome o on o.participant = h.participant
        and split_part(o.gtid, '.', 2) = h.incarnation
        and (split_part(o.gtid, '.', 3)::int8, split_part(split_part(o.gtid, '.', 4), '-', 1)::int8) <= (h.epoch, h.sequence)
      where h.participant = outcome_prune.participant limit rows_max)) returning 1)
  select count(*) from gone
$lockstep$;
revoke all on function lockstep.outcome_prune(text, int4) from public;

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
  -- Behind the insert: if a tombstone was pruned from under it, the horizon was committed before that, and this statement sees it.
  if lockstep.beyond_horizon(which, outcome_insert.gtid) then
    raise exception 'lockstep: transaction % is older than what is remembered of its like', outcome_insert.gtid using errcode = 'LS003';
  end if;
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

set local role lockstep;
-- One row for each step of a saga that was ever asked for here. Kept until the coordinator says that the saga has ended.
create table if not exists lockstep.barrier (
  saga    text collate "C" not null check (pg_catalog.octet_length(saga) between 1 and 64),
  step    text collate "C" not null check (pg_catalog.octet_length(step) between 1 and 64),
  service bool not null,
  state   text not null check (state in ('done', 'undone', 'cancelled')),
  result  jsonb,
  app     text,
  role    name not null default session_user,
  xid     xid8 not null default pg_catalog.pg_current_xact_id(),
  at      timestamptz not null default pg_catalog.clock_timestamp(),
  primary key (saga, step, service)
);
comment on column lockstep.barrier.service is 'asked for by a service through barrier(), not by the agent';
comment on column lockstep.barrier.app is 'whose step it is: the identity that the coordinator named; null for services, whose role counts';
comment on column lockstep.barrier.xid is 'the transaction that set the state: only it may keep a result';

-- Answers 'run' (the caller does the step in this very transaction) or what the row says already: 'done', 'undone', 'cancelled'.
create or replace function lockstep.barrier_step(service bool, app text, saga text, step text, op text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $lockstep$
declare
  b record;
begin
  if saga is null or octet_length(saga) not between 1 and 64 or step is null or octet_length(step) not between 1 and 64 then
    raise exception 'lockstep: saga and step have 1 to 64 bytes' using errcode = '22023';
  end if;
  if op is null or op not in ('do', 'undo', 'cancel') then
    raise exception 'lockstep: op is do, undo or cancel' using errcode = '22023';
  end if;
  loop
    -- Whoever comes second waits here until the first has ended, whichever way.
    insert into lockstep.barrier as r (saga, step, service, state, app)
      values (barrier_step.saga, barrier_step.step, barrier_step.service, case op when 'do' then 'done' else 'cancelled' end,
              barrier_step.app)
      on conflict do nothing;
    if found then
      return case op when 'do' then 'run' else 'cancelled' end;
    end if;
    if op = 'undo' then
      update lockstep.barrier r set state = 'undone', xid = pg_current_xact_id(), at = clock_timestamp()
        where r.saga = barrier_step.saga and r.step = barrier_step.step and r.service = barrier_step.service and r.state = 'done'
          and r.app is not distinct from barrier_step.app and (r.role = session_user or not r.service);
      if found then
        return 'run';
      end if;
    end if;
    select r.state, r.app, r.role into b from lockstep.barrier r
      where r.saga = barrier_step.saga and r.step = barrier_step.step and r.service = barrier_step.service;
    if not found then
      continue; -- pruned in between
    end if;
    if b.app is distinct from app or (service and b.role <> session_user) then
      raise exception 'lockstep: step % of saga % is another application''s', step, saga using errcode = '42501';
    end if;
    if op <> 'undo' or b.state <> 'done' then
      return b.state;
    end if;
  end loop;
end
$lockstep$;
revoke all on function lockstep.barrier_step(bool, text, text, text, text) from public;

create or replace function lockstep.barrier_write(service bool, saga text, step text, result jsonb, bytes_max int4) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $lockstep$
begin
  if octet_length(result::text) > least(bytes_max, 65536) then
    raise exception 'lockstep: the result of a step has % bytes, at most % are kept', octet_length(result::text), least(bytes_max, 65536)
      using errcode = '54000';
  end if;
  update lockstep.barrier r set result = barrier_write.result
    where r.saga = barrier_write.saga and r.step = barrier_write.step and r.service = barrier_write.service and r.state = 'done'
      and r.xid = pg_current_xact_id() and (r.role = session_user or not r.service);
  if not found then
    raise exception 'lockstep: this transaction has not done step % of saga %', step, saga using errcode = '55000';
  end if;
end
$lockstep$;
revoke all on function lockstep.barrier_write(bool, text, text, jsonb, int4) from public;

-- For services. In the transaction of the step, first: 'run' means go on; anything else means that it was answered before.
create or replace function lockstep.barrier(saga text, step text, op text) returns text
language sql security definer set search_path = pg_catalog, pg_temp as $lockstep$
  select lockstep.barrier_step(true, null, saga, step, op)
$lockstep$;
revoke all on function lockstep.barrier(text, text, text) from public;

-- Keeps the result of a step done in this transaction, so that a duplicate can give the same answer. At most 64 KiB.
create or replace function lockstep.barrier_keep(saga text, step text, result jsonb) returns void
language sql security definer set search_path = pg_catalog, pg_temp as $lockstep$
  select lockstep.barrier_write(true, saga, step, result, 65536)
$lockstep$;
revoke all on function lockstep.barrier_keep(text, text, jsonb) from public;

create or replace function lockstep.barrier_result(saga text, step text) returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp as $lockstep$
  select r.result from lockstep.barrier r where r.saga = barrier_result.saga and r.step = barrier_result.step and r.service
    and r.role = session_user
$lockstep$;
revoke all on function lockstep.barrier_result(text, text) from public;

-- For the agent. `look` only reads. LS001: the row had an answer already; LS002: nothing is there to undo. Both end the transaction.
create or replace function lockstep.saga_attempt(secret bytea, app text, saga text, step text, op text)
returns table (state text, at int4, touched int8, rows text)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $lockstep$
#variable_conflict use_column
declare
  answer text;
begin
  if not exists (select from lockstep.life l where l.secret_digest = sha256(secret)) then
    raise exception 'lockstep: only the agent may do this' using errcode = '42501';
  end if;
  if op <> 'look' then
    answer := lockstep.barrier_step(false, saga_attempt.app, saga_attempt.saga, saga_attempt.step, op);
    if answer = 'run' then
      return query select answer, null::int4, null::int8, null::text;
      return;
    end if;
    if op = 'undo' and answer = 'cancelled' and exists (select from lockstep.barrier r where r.saga = saga_attempt.saga
        and r.step = saga_attempt.step and not r.service and r.xid = pg_current_xact_id()) then
      raise exception 'lockstep: nothing was done that could be undone' using errcode = 'LS002';
    end if;
    if op <> 'cancel' then
      raise exception 'lockstep: the step is % already', answer using errcode = 'LS001';
    end if;
  end if;
  return query select r.state, e.at, e.touched, e.rows::text from lockstep.barrier r
    left join lateral jsonb_to_recordset(case r.state when 'done' then r.result end) as e(at int4, touched int8, rows jsonb) on true
    where r.saga = saga_attempt.saga and r.step = saga_attempt.step and not r.service;
end
$lockstep$;
revoke all on function lockstep.saga_attempt(bytea, text, text, text, text) from public;

create or replace function lockstep.saga_keep(secret bytea, saga text, step text, result jsonb, bytes_max int4) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $lockstep$
begin
  if not exists (select from lockstep.life l where l.secret_digest = sha256(secret)) then
    raise exception 'lockstep: only the agent may do this' using errcode = '42501';
  end if;
  perform lockstep.barrier_write(false, saga, step, result, bytes_max);
end
$lockstep$;
revoke all on function lockstep.saga_keep(bytea, text, text, jsonb, int4) from public;

-- For pruning, which is the agent's, on the coordinator's word.
create or replace function lockstep.barrier_kept(after text, rows_max int4) returns setof text
language sql stable security definer set search_path = pg_catalog, pg_temp as $lockstep$
  select distinct r.saga from lockstep.barrier r where r.saga > after collate "C" order by 1 limit rows_max
$lockstep$;
revoke all on function lockstep.barrier_kept(text, int4) from public;
create or replace function lockstep.barrier_forget(sagas text[]) returns void
language sql security definer set search_path = pg_catalog, pg_temp as $lockstep$
  delete from lockstep.barrier r where r.saga = any(sagas)
$lockstep$;
revoke all on function lockstep.barrier_forget(text[]) from public;
reset role;

set local role lockstep;
-- The event store: what was emitted or appended, for ever or until retention. `id` is in the order of writing, and gaps in it mean nothing;
-- `position` is given by the relay once the event is visible: readers page by it and miss nothing.
create table if not exists lockstep.event (
  id        int8 generated always as identity primary key,
  position  int8 unique,
  type      text collate "C" not null check (type ~ '^[A-Za-z0-9_.-]{1,64}$'),
  key       text collate "C" not null check (pg_catalog.octet_length(key) between 1 and 200),
  version   int8 not null,
  payload   jsonb not null,
  saga      text not null check (pg_catalog.octet_length(saga) between 1 and 64),
  cause     text check (pg_catalog.octet_length(cause) <= 128),
  role      name not null default session_user,
  at        timestamptz not null default pg_catalog.clock_timestamp(),
  unique (key, version)
);
create index if not exists event_new on lockstep.event (id) where position is null;
create index if not exists event_saga on lockstep.event (saga);
comment on column lockstep.event.cause is 'participant and position of the event whose handler wrote this one';

-- The last version of each key. Its row is locked until the writer commits: a key has no gaps, and is visible in order.
create table if not exists lockstep.stream (
  key     text collate "C" primary key,
  version int8 not null
) with (fillfactor = 70);

create table if not exists lockstep.snapshot (
  key     text collate "C" primary key,
  version int8 not null,
  state   jsonb not null,
  at      timestamptz not null default pg_catalog.clock_timestamp()
);

-- Up to which position events were given out; one row, locked by the relay while it gives out more.
create table if not exists lockstep.relay (one bool primary key default true check (one), position int8 not null);
insert into lockstep.relay (position) values (0) on conflict do nothing;

-- Who gets what: participants that subscribe to a type, from which position on, and how far each has acknowledged.
create table if not exists lockstep.route (
  type        text collate "C" not null,
  participant text collate "C" not null,
  primary key (type, participant)
);
alter table lockstep.route add column if not exists start int8 not null default 0;
-- Where the agents of participants listen, as the coordinator has last said it: events flow without it, also after a restart.
create table if not exists lockstep.peer (
  participant text collate "C" primary key,
  address     text not null,
  at          timestamptz not null default pg_catalog.clock_timestamp()
);
-- Events that are written when their time has come, unless the saga has set them aside: how a choreographed saga keeps its deadline.
create table if not exists lockstep.later (
  id      int8 generated always as identity primary key,
  type    text collate "C" not null,
  key     text collate "C" not null,
  payload jsonb not null,
  saga    text not null,
  cause   text,
  role    name not null,
  due     timestamptz not null
);
create index if not exists later_due on lockstep.later (due);
create table if not exists lockstep.forward (
  participant text collate "C" primary key,
  position    int8 not null,
  at          timestamptz not null default pg_catalog.clock_timestamp()
);
-- Types after which nothing more is expected to happen.
create table if not exists lockstep.terminal (type text collate "C" primary key);

-- Functions of this database that want events of a type, wherever they come from.
create table if not exists lockstep.subscription (
  type    text collate "C" not null check (type ~ '^[A-Za-z0-9_.-]{1,64}$'),
  handler text not null,
  role    name not null default session_user,
  at      timestamptz not null default pg_catalog.clock_timestamp(),
  primary key (type, handler)
);

-- What has arrived for each handler. done: its effect is in the same transaction as this was. waiting: to be tried again, or behind such a one of
-- its key. dead: a human must look. skipped: one has.
create table if not exists lockstep.inbox (
  source   text collate "C" not null,
  position int8 not null,
  handler  text not null,
  type     text not null,
  key      text collate "C" not null,
  version  int8 not null,
  saga     text not null,
  payload  jsonb,
  state    text not null check (state in ('done', 'waiting', 'dead', 'skipped')),
  attempts int4 not null default 0,
  history  jsonb not null default '[]',
  retry_at timestamptz,
  at       timestamptz not null default pg_catalog.clock_timestamp(),
  primary key (source, position, handler)
);
create index if not exists inbox_open on lockstep.inbox (source, key, handler, version) where state in ('waiting', 'dead');
create index if not exists inbox_retry on lockstep.inbox (retry_at) where state = 'waiting';
create index if not exists inbox_saga on lockstep.inbox (saga);

-- Events that nobody wanted.
create table if not exists lockstep.letter (
  position int8 primary key references lockstep.event (position),
  reason   text not null,
  at       timestamptz not null default pg_catalog.clock_timestamp()
);

-- The next version of a key, which nobody else can have before this transaction has ended. `expected` null: whatever it is.
create or replace function lockstep.event_write(expected int8, type text, key text, payload jsonb) returns int8
language plpgsql set search_path = pg_catalog, pg_temp as $lockstep$
declare
  found_version int8;
begin
  if type is null or type !~ '^[A-Za-z0-9_.-]{1,64}$' or type like 'lockstep.%' then
    raise exception 'lockstep: a type has 1 to 64 letters, digits, "_", "." and "-"; "lockstep." is taken' using errcode = '22023';
  end if;
  if key is null or octet_length(key) not between 1 and 200 then
    raise exception 'lockstep: a key has 1 to 200 bytes' using errcode = '22023';
  end if;
  if payload is null or octet_length(payload::text) > 262144 then
    raise exception 'lockstep: a payload is JSON of at most 256 KiB' using errcode = '22023';
  end if;
  insert into lockstep.stream as s (key, version) values (event_write.key, 1)
    on conflict on constraint stream_pkey do update set version = s.version + 1 returning s.version into found_version;
  if expected <> found_version - 1 then
    raise exception 'lockstep: % is at version %, not %', key, found_version - 1, expected using errcode = 'LS004';
  end if;
  if coalesce(current_setting('lockstep.saga', true), '') = '' then -- what one transaction writes belongs together
    perform set_config('lockstep.saga', gen_random_uuid()::text, true);
  end if;
  insert into lockstep.event (type, key, version, payload, saga, cause)
    values (event_write.type, event_write.key, found_version, event_write.payload,
            current_setting('lockstep.saga'),
            nullif(current_setting('lockstep.cause', true), ''));
  return found_version;
end
$lockstep$;
revoke all on function lockstep.event_write(int8, text, text, jsonb) from public;

-- Writes an event in the caller's transaction: it is sent if and only if that commits. Returns the key's new version.
create or replace function lockstep.emit(type text, key text, payload jsonb) returns int8
language sql security definer set search_path = pg_catalog, pg_temp as $lockstep$
  select lockstep.event_write(null, type, key, payload)
$lockstep$;
revoke all on function lockstep.emit(text, text, jsonb) from public;

-- The same, refused with LS004 unless the key is at `expected_version` (0: new).
create or replace function lockstep.append(key text, expected_version int8, type text, payload jsonb) returns int8
language plpgsql security definer set search_path = pg_catalog, pg_temp as $lockstep$
begin
  if expected_version is null or expected_version < 0 then
    raise exception 'lockstep: which version of % is expected?', key using errcode = '22023';
  end if;
  return lockstep.event_write(expected_version, type, key, payload);
end
$lockstep$;
revoke all on function lockstep.append(text, int8, text, jsonb) from public;

-- The latest state of a key as its newest snapshot, if any, and the events behind it.
create or replace function lockstep.load(key text) returns table (version int8, type text, payload jsonb, at timestamptz)
language sql stable security definer set search_path = pg_catalog, pg_temp as $lockstep$
  select s.version, 'lockstep.snapshot', s.state, s.at from lockstep.snapshot s where s.key = load.key
  union all
  (select e.version, e.type, e.payload, e.at from lockstep.event e where e.key = load.key
    and e.version > coalesce((select s.version from lockstep.snapshot s where s.key = load.key), 0) order by e.version)
$lockstep$;
revoke all on function lockstep.load(text) from public;

-- A state that somebody has computed from the events up to `version`. An older one than there is changes nothing.
create or replace function lockstep.keep_snapshot(key text, version int8, state jsonb) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $lockstep$
begin
  if not exists (select from lockstep.stream s where s.key = keep_snapshot.key and s.version >= keep_snapshot.version) or version < 1 then
    raise exception 'lockstep: % has no version %', key, version using errcode = '22023';
  end if;
  insert into lockstep.snapshot as s (key, version, state) values (keep_snapshot.key, keep_snapshot.version, keep_snapshot.state)
    on conflict on constraint snapshot_pkey do update set version = excluded.version, state = excluded.state, at = clock_timestamp()
    where s.version < excluded.version;
end
$lockstep$;
revoke all on function lockstep.keep_snapshot(text, int8, jsonb) from public;

-- Subscribes function(jsonb): it is called with each event of the type, as the role that subscribes, in one transaction with its inbox was.
create or replace function lockstep.on(type text, handler regproc) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $lockstep$
declare
  f record;
begin
  select p.oid, format('%I.%I', n.nspname, p.proname) as name, p.prokind into f from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where p.oid = handler and p.pronargs = 1 and p.proargtypes[0] = 'jsonb'::regtype;
  if not found or f.prokind <> 'f' then
    raise exception 'lockstep: a handler is a function that takes one jsonb' using errcode = '42883';
  end if;
  if not has_function_privilege(session_user, f.oid, 'execute') then
    raise exception 'lockstep: % may not call %', session_user, f.name using errcode = '42501';
  end if;
  insert into lockstep.subscription as s (type, handler) values (type, f.name) on conflict do nothing;
  if not found and not exists (select from lockstep.subscription s where s.type = "on".type and s.handler = f.name and s.role = session_user) then
    raise exception 'lockstep: % is subscribed by another role', f.name using errcode = '42501';
  end if;
end
$lockstep$;
revoke all on function lockstep.on(text, regproc) from public;

create or replace function lockstep.off(type text, handler text) returns bool
language plpgsql security definer set search_path = pg_catalog, pg_temp as $lockstep$
begin
  delete from lockstep.subscription s where s.type = off.type and s.handler = off.handler and s.role = session_user;
  return found;
end
$lockstep$;
revoke all on function lockstep.off(text, text) from public;

-- Says that nobody needs to listen to a type: its events are no dead letters.
create or replace function lockstep.declare_terminal(type text) returns void
language sql security definer set search_path = pg_catalog, pg_temp as $lockstep$
  insert into lockstep.terminal (type) values (type) on conflict do nothing
$lockstep$;
revoke all on function lockstep.declare_terminal(text) from public;

-- ---- for the agent

-- Gives positions to events that have become visible. One at a time: whoever comes second waits for the first one's commit, so a position that can
-- be seen has none missing below it. It waits for no writer: what is not committed, or only prepared, is not seen, and gets its position later.
create or replace function lockstep.relay_claim(rows_max int4) returns int8
language plpgsql security definer set search_path = pg_catalog, pg_temp as $lockstep$
declare
  last int8;
  given int8;
begin
  if not exists (select from lockstep.event e where e.position is null) then
    return 0; -- looked at many times a second: no lock, no write
  end if;
  select r.position into last from lockstep.relay r for update;
  with fresh as (select e.id, row_number() over (order by e.id) as n from
      (select x.id from lockstep.event x where x.position is null order by x.id limit rows_max) e)
  update lockstep.event e set position = last + f.n from fresh f where e.id = f.id;
  get diagnostics given = row_count;
  update lockstep.relay set position = last + given;
  -- Nobody wants it, and it is not the end of anything: somebody was forgotten, or has left.
  insert into lockstep.letter (position, reason) select e.position, 'nobody subscribes to ' || e.type from lockstep.event e
    where e.position > last and e.position <= last + given
      and not exists (select from lockstep.route r where r.type = e.type) and not exists (select from lockstep.terminal t where t.type = e.type);
  return given;
end
$lockstep$;
revoke all on function lockstep.relay_claim(int4) from public;

-- Events behind a position, of types that `participant` wants (null: all), and how far was looked.
create or replace function lockstep.relay_read(participant text, after int8, rows_max int4)
returns table ("position" int8, type text, key text, version int8, payload jsonb, saga text, cause text, at timestamptz)
language sql stable security definer set search_path = pg_catalog, pg_temp as $lockstep$
  select e.position, e.type, e.key, e.version, e.payload, e.saga, e.cause, e.at from lockstep.event e
    where e.position > after and (relay_read.participant is null or exists
      (select from lockstep.route r where r.type = e.type and r.participant = relay_read.participant and r.start < e.position))
    order by e.position limit rows_max
$lockstep$;
revoke all on function lockstep.relay_read(text, int8, int4) from public;

create or replace function lockstep.relay_acknowledge(participant text, "position" int8) returns void
language sql security definer set search_path = pg_catalog, pg_temp as $lockstep$
  insert into lockstep.forward as f (participant, position) values (relay_acknowledge.participant, relay_acknowledge."position")
    on conflict on constraint forward_pkey do update set position = excluded.position, at = clock_timestamp() where f.position < excluded.position
$lockstep$;
revoke all on function lockstep.relay_acknowledge(text, int8) from public;

-- On a worker session, in the handler's transaction, first: 'run', 'duplicate', or 'queued' behind an event of the key that is not through.
create or replace function lockstep.inbox_take(secret bytea, source text, "position" int8, handler text, type text, key text, version int8, saga text,
                                               payload jsonb) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $lockstep$
declare
  was lockstep.inbox;
begin
  if not exists (select from lockstep.life l where l.secret_digest = sha256(secret)) then
    raise exception 'lockstep: only the agent may do this' using errcode = '42501';
  end if;
  insert into lockstep.inbox as i (source, position, handler, type, key, version, saga, state)
    values (inbox_take.source, inbox_take.position, inbox_take.handler, inbox_take.type, inbox_take.key, inbox_take.version, inbox_take.saga, 'done')
    on conflict do nothing;
  if not found then
    select i.* into was from lockstep.inbox i where i.source = inbox_take.source and i.position = inbox_take.position
      and i.handler = inbox_take.handler for update;
    if was.state <> 'waiting' or exists (select from lockstep.inbox i where i.source = was.source and i.key = was.key and i.handler = was.handler
        and i.state in ('waiting', 'dead') and i.version < was.version) then
      return case was.state when 'waiting' then 'queued' else 'duplicate' end;
    end if;
    update lockstep.inbox i set state = 'done', payload = null, retry_at = null, at = clock_timestamp()
      where i.source = was.source and i.position = was.position and i.handler = was.handler;
  elsif exists (select from lockstep.inbox i where i.source = inbox_take.source and i.key = inbox_take.key and i.handler = inbox_take.handler
      and i.state in ('waiting', 'dead')) then
    update lockstep.inbox i set state = 'waiting', payload = inbox_take.payload, retry_at = clock_timestamp()
      where i.source = inbox_take.source and i.position = inbox_take.position and i.handler = inbox_take.handler;
    return 'queued';
  end if;
  perform set_config('lockstep.saga', inbox_take.saga, true), set_config('lockstep.cause', inbox_take.source || '/' || inbox_take.position, true);
  return 'run';
end
$lockstep$;
revoke all on function lockstep.inbox_take(bytea, text, int8, text, text, text, int8, text, jsonb) from public;

-- The handler has failed and its transaction is rolled back: kept for another try, or, after `attempts_max`, for a human. Its key waits behind it.
create or replace function lockstep.inbox_park(secret bytea, source text, "position" int8, handler text, type text, key text, version int8, saga text,
                                               payload jsonb, sqlstate text, reason text, attempts_max int4, wait_ms int4) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $lockstep$
declare
  answer text;
begin
  if not exists (select from lockstep.life l where l.secret_digest = sha256(secret)) then
    raise exception 'lockstep: only the agent may do this' using errcode = '42501';
  end if;
  insert into lockstep.inbox as i (source, position, handler, type, key, version, saga, payload, state, attempts, history, retry_at)
    values (inbox_park.source, inbox_park.position, inbox_park.handler, inbox_park.type, inbox_park.key, inbox_park.version, inbox_park.saga,
            inbox_park.payload, case when attempts_max <= 1 then 'dead' else 'waiting' end, 1,
            jsonb_build_array(jsonb_build_object('at', clock_timestamp(), 'sqlstate', sqlstate, 'reason', left(reason, 512))),
            clock_timestamp() + wait_ms * interval '1 ms')
    on conflict on constraint inbox_pkey do update set attempts = i.attempts + 1,
      state = case when i.attempts + 1 >= attempts_max then 'dead' else 'waiting' end,
      history = case when jsonb_array_length(i.history) < 50 then i.history else i.history - 1 end || excluded.history,
      payload = excluded.payload, retry_at = excluded.retry_at, at = clock_timestamp()
    where i.state = 'waiting'
    returning i.state into answer;
  return answer; -- null: it is through, or a human has been there
end
$lockstep$;
revoke all on function lockstep.inbox_park(bytea, text, int8, text, text, text, int8, text, jsonb, text, text, int4, int4) from public;

-- The first event of each key that is to be tried again now.
create or replace function lockstep.inbox_due(rows_max int4)
returns table (source text, "position" int8, handler text, role name, type text, key text, version int8, saga text, payload jsonb, attempts int4)
language sql stable security definer set search_path = pg_catalog, pg_temp as $lockstep$
  select i.source, i.position, i.handler, s.role, i.type, i.key, i.version, i.saga, i.payload, i.attempts
    from lockstep.inbox i join lockstep.subscription s on s.type = i.type and s.handler = i.handler
    where i.state = 'waiting' and i.retry_at <= clock_timestamp() and not exists (select from lockstep.inbox b where b.source = i.source
      and b.key = i.key and b.handler = i.handler and b.state in ('waiting', 'dead') and b.version < i.version)
    order by i.retry_at limit rows_max
$lockstep$;
revoke all on function lockstep.inbox_due(int4) from public;

-- A human's word about a dead letter: 'retry' (attempts begin again), 'skip'. False: there is none.
create or replace function lockstep.inbox_act(source text, "position" int8, handler text, act text, who text) returns bool
language plpgsql security definer set search_path = pg_catalog, pg_temp as $lockstep$
begin
  if act is null or act not in ('retry', 'skip') then
    raise exception 'lockstep: retry or skip' using errcode = '22023';
  end if;
  update lockstep.inbox i set state = case act when 'retry' then 'waiting' else 'skipped' end, attempts = 0, retry_at = clock_timestamp(),
      history = i.history || jsonb_build_array(jsonb_build_object('at', clock_timestamp(), 'act', act, 'who', left(who, 128))), at = clock_timestamp()
    where i.source = inbox_act.source and i.position = inbox_act.position and i.handler = inbox_act.handler and i.state = 'dead';
  return found;
end
$lockstep$;
revoke all on function lockstep.inbox_act(text, int8, text, text, text) from public;

-- What this database wants: announced to the coordinator, which tells all the others.
create or replace function lockstep.subscriptions() returns table (type text, handler text, role name)
language sql stable security definer set search_path = pg_catalog, pg_temp as $lockstep$
  select s.type, s.handler, s.role from lockstep.subscription s order by 1, 2
$lockstep$;
revoke all on function lockstep.subscriptions() from public;
reset role;

set local role lockstep;
drop function if exists lockstep.routes_store(text[], text[]);
create index if not exists event_at on lockstep.event (at) where position is not null;
create index if not exists inbox_at on lockstep.inbox (at) where state in ('done', 'skipped');

-- What one participant wants, in its own words. From now on: what was given a position before is not sent to it, unless nobody wanted it: letters
-- of a type that is wanted after all get a position anew, in their order.
create or replace function lockstep.route_store(participant text, address text, types text[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $lockstep$
declare
  last int8;
  wanted text[];
  letters int8[];
begin
  select r.position into last from lockstep.relay r for update; -- no position is given out meanwhile
  insert into lockstep.peer as p (participant, address) values (route_store.participant, route_store.address)
    on conflict on constraint peer_pkey do update set address = excluded.address, at = clock_timestamp() where p.address <> excluded.address;
  delete from lockstep.route r where r.participant = route_store.participant and r.type <> all (types);
  with new as (insert into lockstep.route as r (type, participant, start) select distinct t, route_store.participant, last from unnest(types) t
    on conflict do nothing returning r.type)
  select array_agg(n.type) into wanted from new n;
  insert into lockstep.forward (participant, position) values (route_store.participant, last) on conflict do nothing;
  if wanted is null then
    return;
  end if;
  with gone as (delete from lockstep.letter l using lockstep.event e where e.position = l.position and e.type = any (wanted) returning l.position)
  select array_agg(g.position) into letters from gone g;
  update lockstep.event e set position = null where e.position = any (letters);
end
$lockstep$;
revoke all on function lockstep.route_store(text, text, text[]) from public;

-- Every participant that is known, how far it has acknowledged (null: it wants nothing), and where its agent listens.
create or replace function lockstep.relay_routes() returns table (participant text, address text, "position" int8)
language sql stable security definer set search_path = pg_catalog, pg_temp as $lockstep$
  select p.participant, p.address, (select f.position from lockstep.forward f where f.participant = p.participant
      and exists (select from lockstep.route r where r.participant = p.participant))
    from lockstep.peer p order by 1
$lockstep$;
revoke all on function lockstep.relay_routes() from public;

-- One page for a participant, of at most rows_max events and about bytes_max bytes, always at least one event if there is one. `looked`: positions
-- up to there were looked at; `total`: events found, of which the first ones are given. One row without a position when there is none.
create or replace function lockstep.relay_page(participant text, after int8, rows_max int4, bytes_max int4)
returns table (looked int8, total int8, "position" int8, type text, key text, version int8, payload text, saga text, cause text)
language sql stable security definer set search_path = pg_catalog, pg_temp as $lockstep$
  select (select r.position from lockstep.relay r), coalesce(p.total, 0), p.position, p.type, p.key, p.version, p.payload, p.saga, p.cause
    from (select) one left join (select e.position, e.type, e.key, e.version, e.payload::text as payload, e.saga, e.cause, count(*) over () as total,
      sum(octet_length(e.payload::text)) over (order by e.position) - octet_length(e.payload::text) as ahead
      from lockstep.relay_read(relay_page.participant, after, rows_max) e) p on p.ahead < bytes_max order by p.position
$lockstep$;
revoke all on function lockstep.relay_page(text, int8, int4, int4) from public;

-- Writes the event when `wait` has passed, in the same saga; nothing is written if the caller's transaction does not commit.
create or replace function lockstep.emit_later(type text, key text, payload jsonb, wait interval) returns int8
language plpgsql security definer set search_path = pg_catalog, pg_temp as $lockstep$
declare
  number int8;
begin
  if type is null or type !~ '^[A-Za-z0-9_.-]{1,64}$' or type like 'lockstep.%' or key is null or octet_length(key) not between 1 and 200
      or payload is null or octet_length(payload::text) > 262144 or wait is null then
    raise exception 'lockstep: type, key or payload out of bounds, or no time' using errcode = '22023';
  end if;
  if coalesce(current_setting('lockstep.saga', true), '') = '' then
    perform set_config('lockstep.saga', gen_random_uuid()::text, true);
  end if;
  insert into lockstep.later (type, key, payload, saga, cause, role, due) values (emit_later.type, emit_later.key, emit_later.payload,
      current_setting('lockstep.saga'), nullif(current_setting('lockstep.cause', true), ''), session_user, clock_timestamp() + wait)
    returning id into number;
  return number;
end
$lockstep$;
revoke all on function lockstep.emit_later(text, text, jsonb, interval) from public;

-- What has become due. Each by itself: a key whose writer does not end (a prepared transaction, say) holds up its own only.
create or replace function lockstep.relay_later(rows_max int4) returns int8
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '100ms' as $lockstep$
declare
  l lockstep.later;
  written int8 := 0;
begin
  for l in select x.* from lockstep.later x where x.due <= clock_timestamp() order by x.due limit rows_max for update skip locked loop
    begin
      perform set_config('lockstep.saga', l.saga, true), set_config('lockstep.cause', coalesce(l.cause, ''), true);
      perform lockstep.event_write(null, l.type, l.key, l.payload);
      update lockstep.event e set role = l.role where e.key = l.key and e.version = (select s.version from lockstep.stream s where s.key = l.key);
      delete from lockstep.later x where x.id = l.id;
      written := written + 1;
    exception when lock_not_available then
      update lockstep.later x set due = clock_timestamp() + interval '1 second' where x.id = l.id;
    end;
  end loop;
  return written;
end
$lockstep$;
revoke all on function lockstep.relay_later(int4) from public;

-- For the agent's metrics. behind: events that the slowest subscriber wants and has not acknowledged (10000: or more). behind_ms: the age of the oldest event that somebody wants and has not acknowledged.
create or replace function lockstep.relay_state() returns table (unclaimed int8, behind int8, behind_ms int8, waiting int8, dead int8, unwanted int8)
language sql stable security definer set search_path = pg_catalog, pg_temp as $lockstep$
  with slow as (select f.participant, f.position from lockstep.forward f where exists (select from lockstep.route r where r.participant = f.participant)),
  oldest as (select min(x.at) as at from slow s cross join lateral (select e.at from lockstep.event e join lockstep.route r on r.type = e.type
      and r.participant = s.participant and r.start < e.position where e.position > s.position order by e.position limit 1) x)
  select (select count(*) from (select from lockstep.event e where e.position is null limit 10000) n),
    coalesce((select max(w.n) from slow s cross join lateral (select count(*) as n from (select from lockstep.event e join lockstep.route r
      on r.type = e.type and r.participant = s.participant and r.start < e.position where e.position > s.position limit 10000) x) w), 0),
    coalesce((select (extract(epoch from clock_timestamp() - o.at) * 1000)::int8 from oldest o), 0),
    (select count(*) from lockstep.inbox i where i.state = 'waiting'), (select count(*) from lockstep.inbox i where i.state = 'dead'),
    (select count(*) from lockstep.letter)
$lockstep$;
revoke all on function lockstep.relay_state() from public;

-- ---- what people ask about. JSON as text; `who` null: everything, else only what that database role has written.
create or replace function lockstep.show_events(who text, type text, key text, after int8, rows_max int4, bytes_max int4) returns text
language sql stable security definer set search_path = pg_catalog, pg_temp as $lockstep$
  with found as materialized (select e.* from lockstep.event e where e.position > after and (show_events.type is null or e.type = show_events.type)
      and (show_events.key is null or e.key = show_events.key) and (who is null or e.role = who) order by e.position limit rows_max),
  sized as (select f.*, sum(octet_length(f.payload::text)) over (order by f.position) - octet_length(f.payload::text) as ahead from found f),
  given as (select * from sized where ahead < bytes_max)
  select json_build_object('events', coalesce((select json_agg(json_build_object('offset', g.position, 'type', g.type, 'key', g.key, 'version', g.version,
      'saga', g.saga, 'cause', g.cause, 'at', g.at, 'payload', g.payload) order by g.position) from given g), '[]'),
    'next', case when (select count(*) from given) = rows_max or (select count(*) from given) < (select count(*) from found)
      then (select max(g.position) from given g)
      else greatest(after, (select r.position from lockstep.relay r)) end)::text
$lockstep$;
revoke all on function lockstep.show_events(text, text, text, int8, int4, int4) from public;

-- One saga as this participant has seen it: what it has emitted, and what its handlers made of what has come. The newest 500 of each.
create or replace function lockstep.show_flow(saga text) returns text
language sql stable security definer set search_path = pg_catalog, pg_temp as $lockstep$
  select json_build_object(
    'events', coalesce((select json_agg(json_build_object('position', e.position, 'type', e.type, 'key', e.key, 'version', e.version, 'cause', e.cause,
      'at', e.at, 'unwanted', exists (select from lockstep.letter l where l.position = e.position),
      'payload', case when octet_length(e.payload::text) <= 256 then e.payload end) order by e.id)
      from (select x.* from lockstep.event x where x.saga = show_flow.saga order by x.id desc limit 500) e), '[]'),
    'deliveries', coalesce((select json_agg(json_build_object('source', i.source, 'position', i.position, 'handler', i.handler, 'type', i.type,
      'key', i.key, 'version', i.version, 'state', i.state, 'attempts', i.attempts, 'at', i.at, 'last', i.history -> -1) order by i.at)
      from (select x.* from lockstep.inbox x where x.saga = show_flow.saga order by x.at desc limit 500) i), '[]'),
    'later', coalesce((select json_agg(json_build_object('type', l.type, 'key', l.key, 'due', l.due) order by l.due)
      from (select x.* from lockstep.later x where x.saga = show_flow.saga order by x.due limit 500) l), '[]'))::text
$lockstep$;
revoke all on function lockstep.show_flow(text) from public;

-- Dead letters, oldest first. `id` within this participant: source/position/handler, or the position of an event that nobody wanted.
create or replace function lockstep.show_letters(only_id text, rows_max int4) returns text
language sql stable security definer set search_path = pg_catalog, pg_temp as $lockstep$
  with dead as (select i.source || '/' || i.position || '/' || i.handler as id, i.type, i.key, i.version, i.saga, i.handler, i.attempts,
      i.history -> -1 ->> 'sqlstate' as sqlstate, i.history -> -1 ->> 'reason' as reason, i.at, i.payload, i.history,
      (select count(*) from lockstep.inbox b where b.source = i.source and b.key = i.key and b.handler = i.handler and b.state = 'waiting') as behind
      from lockstep.inbox i where i.state = 'dead'
    union all select e.position::text, e.type, e.key, e.version, e.saga, null, 0, null, l.reason, l.at, e.payload, '[]', 0
      from lockstep.letter l join lockstep.event e on e.position = l.position)
  select coalesce(json_agg(json_build_object('id', d.id, 'type', d.type, 'key', d.key, 'version', d.version, 'saga', d.saga, 'handler', d.handler,
    'attempts', d.attempts, 'sqlstate', d.sqlstate, 'reason', d.reason, 'at', d.at, 'behind', d.behind,
    'payload', case when only_id is not null then d.payload end, 'history', case when only_id is not null then d.history end) order by d.at, d.id), '[]')::text
    from (select x.* from dead x where only_id is null or x.id = only_id order by x.at, x.id limit rows_max) d
$lockstep$;
revoke all on function lockstep.show_letters(text, int4) from public;

-- A human's word about one of them. retry of an event that nobody wanted: it gets a position anew, and so do those of its key before it.
create or replace function lockstep.letter_act(id text, act text, who text) returns bool
language plpgsql security definer set search_path = pg_catalog, pg_temp as $lockstep$
declare
  e lockstep.event;
  letters int8[];
begin
  if act is null or act not in ('retry', 'skip') then
    raise exception 'lockstep: retry or skip' using errcode = '22023';
  end if;
  if id ~ '^[^/]+/[0-9]{1,18}/.+$' then
    return lockstep.inbox_act(split_part(id, '/', 1), split_part(id, '/', 2)::int8, substr(id, length(split_part(id, '/', 1)) + length(split_part(id, '/', 2)) + 3), act, who);
  end if;
  if id !~ '^[0-9]{1,18}$' then
    return false;
  end if;
  perform from lockstep.relay r for update;
  select x.* into e from lockstep.event x join lockstep.letter l on l.position = x.position where x.position = letter_act.id::int8;
  if not found then
    return false;
  end if;
  with gone as (delete from lockstep.letter l using lockstep.event x where x.position = l.position and x.key = e.key
    and (x.version = e.version or (act = 'retry' and x.version < e.version)) returning l.position)
  select array_agg(g.position) into letters from gone g;
  if act = 'retry' then
    update lockstep.event x set position = null where x.position = any (letters);
  end if;
  return true;
end
$lockstep$;
revoke all on function lockstep.letter_act(text, text, text) from public;

-- ---- what may go, in batches. Of the inbox: what is through and will never be sent again, since the source has stored our acknowledgement.
create or replace function lockstep.inbox_prune(source text, stored int8, keep_s int8, rows_max int4) returns int8
language sql security definer set search_path = pg_catalog, pg_temp as $lockstep$
  with gone as (delete from lockstep.inbox i where (i.source, i.position, i.handler) in (select x.source, x.position, x.handler from lockstep.inbox x
    where x.state in ('done', 'skipped') and x.source = inbox_prune.source and x.position <= stored
    and x.at < clock_timestamp() - keep_s * interval '1 second' order by x.at limit rows_max) returning 1)
  select count(*) from gone
$lockstep$;
revoke all on function lockstep.inbox_prune(text, int8, int8, int4) from public;

-- Of the events: what everybody who wants it has acknowledged. Dead letters stay, and so do the newest event of a key and what no snapshot covers of a
-- key that has one.
create or replace function lockstep.event_prune(keep_s int8, rows_max int4) returns int8
language sql security definer set search_path = pg_catalog, pg_temp as $lockstep$
  with gone as (delete from lockstep.event e where e.id in (select x.id from lockstep.event x
    where x.position is not null and x.at < clock_timestamp() - keep_s * interval '1 second'
    and not exists (select from lockstep.letter l where l.position = x.position)
    and not exists (select from lockstep.route r left join lockstep.forward f on f.participant = r.participant
      where r.type = x.type and r.start < x.position and coalesce(f.position, 0) < x.position)
    and not exists (select from lockstep.stream s where s.key = x.key and s.version = x.version)
    and not exists (select from lockstep.snapshot s where s.key = x.key and s.version < x.version)
    order by x.at limit rows_max) returning 1)
  select count(*) from gone
$lockstep$;
revoke all on function lockstep.event_prune(int8, int4) from public;
reset role;

grant usage on schema lockstep to "lockstep_agent";
grant select, insert, update, delete on lockstep.fence, lockstep.life, lockstep.outcome to "lockstep_agent";
grant execute on function lockstep.beyond_horizon(text, text), lockstep.horizon_store(text, text, int8, int8),
  lockstep.outcome_prune(text, int4), lockstep.barrier_kept(text, int4), lockstep.barrier_forget(text[]),
  lockstep.relay_claim(int4), lockstep.relay_read(text, int8, int4), lockstep.relay_acknowledge(text, int8),
  lockstep.relay_page(text, int8, int4, int4), lockstep.relay_routes(), lockstep.relay_later(int4), lockstep.relay_state(),
  lockstep.route_store(text, text, text[]), lockstep.inbox_due(int4), lockstep.inbox_act(text, int8, text, text, text),
  lockstep.show_events(text, text, text, int8, int4, int4), lockstep.show_flow(text), lockstep.show_letters(text, int4),
  lockstep.letter_act(text, text, text), lockstep.inbox_prune(text, int8, int8, int4), lockstep.event_prune(int8, int4),
  lockstep.subscriptions() to "lockstep_agent";
grant execute on function lockstep.fence_ahead(text, text, text, int8, int8, int8) to "lockstep_agent";
grant execute on function lockstep.schema_version() to "lockstep_agent";
grant execute on function lockstep.timeline_history() to "lockstep_agent";

grant "checkout" to "lockstep_agent";
grant usage on schema lockstep to "checkout";
grant execute on function lockstep.fence_ahead(text, text, text, int8, int8, int8) to "checkout";
grant execute on function lockstep.outcome_insert(bytea, text, text, text, bytea) to "checkout";
grant execute on function lockstep.saga_attempt(bytea, text, text, text, text), lockstep.saga_keep(bytea, text, text, jsonb, int4),
  lockstep.barrier(text, text, text), lockstep.barrier_keep(text, text, jsonb), lockstep.barrier_result(text, text),
  lockstep.emit(text, text, jsonb), lockstep.emit_later(text, text, jsonb, interval), lockstep.append(text, int8, text, jsonb), lockstep.load(text), lockstep.keep_snapshot(text, int8, jsonb),
  lockstep.on(text, regproc), lockstep.off(text, text), lockstep.declare_terminal(text),
  lockstep.inbox_take(bytea, text, int8, text, text, text, int8, text, jsonb),
  lockstep.inbox_park(bytea, text, int8, text, text, text, int8, text, jsonb, text, text, int4, int4) to "checkout";
commit;
