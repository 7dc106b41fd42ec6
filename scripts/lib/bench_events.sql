-- The work of lockstep-bench as a flow of events (subject `choreographed`): the first database begins, the others follow one after the other, and who cannot
-- pay lets all before him take back theirs. @ME@ is the number of this database, from 1. The table `bench` is made by lockstep-bench.
create table bench_flow(tx bigint primary key, state text not null);
grant select, insert, update, delete on bench_flow to checkout;
create function bench_move(number bigint, which int, change bigint, load text) returns boolean language plpgsql as $$
begin
    update bench set amount = amount + change, moves = moves + 1, tx = number, payload = coalesce(nullif(load, ''), payload) where id = which and amount + change >= 0;
    return found;
end $$;
create function bench_begin(number bigint, which int, changes bigint[], load text) returns void language plpgsql as $$
begin
    if not bench_move(number, which, changes[1], load) then return; end if;
    insert into bench_flow values (number, 'pending');
    perform lockstep.emit('bench.2', number::text, jsonb_build_object('tx', number, 'row', which, 'changes', changes, 'load', load));
end $$;
create function bench_do(e jsonb) returns void language plpgsql as $$
declare p jsonb := e->'payload';
begin
    if not bench_move((p->>'tx')::bigint, (p->>'row')::int, (p->'changes'->>(@ME@ - 1))::bigint, p->>'load') then
        perform lockstep.emit('bench.undo', e->>'key', p || jsonb_build_object('failed', @ME@));
    elsif @ME@ < jsonb_array_length(p->'changes') then
        perform lockstep.emit('bench.' || @ME@ + 1, e->>'key', p);
    else
        perform lockstep.emit('bench.done', e->>'key', p - 'load');
    end if;
end $$;
create function bench_undo(e jsonb) returns void language plpgsql as $$
declare p jsonb := e->'payload';
begin
    if @ME@ < (p->>'failed')::int then
        update bench set amount = amount - (p->'changes'->>(@ME@ - 1))::bigint, moves = moves - 1, tx = 0 where id = (p->>'row')::int;
    end if;
    delete from bench_flow where tx = (p->>'tx')::bigint;
end $$;
create function bench_done(e jsonb) returns void language sql as $$
    update bench_flow set state = 'complete' where tx = (e->'payload'->>'tx')::bigint $$;
set session authorization checkout;
select lockstep.on('bench.undo', 'public.bench_undo');
select lockstep.on('bench.' || @ME@, 'public.bench_do') where @ME@ > 1;
select lockstep.on('bench.done', 'public.bench_done') where @ME@ = 1;
reset session authorization;
