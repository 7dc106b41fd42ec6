-- The shop, choreographed: participant "coupons" has the last word.
create function shop_use(e jsonb) returns void language plpgsql as $$
declare p jsonb := e->'payload';
begin
    update coupon set uses_left = uses_left - 1 where code = p->>'coupon' and uses_left >= 1;
    if found then
        insert into used values ((p->>'id')::bigint, p->>'coupon');
        perform lockstep.emit('coupon.used', e->>'key', p);
    else
        perform lockstep.emit('coupon.refused', e->>'key', p);
    end if;
end $$;
set session authorization checkout;
select lockstep.on('money.taken', 'public.shop_use');
reset session authorization;
