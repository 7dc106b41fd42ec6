-- The shop, choreographed: participant "balance" pays for what was taken, and gives back what the coupon refuses.
create function shop_pay(e jsonb) returns void language plpgsql as $$
declare p jsonb := e->'payload';
begin
    update account set amount = amount - (p->>'amount')::bigint where owner = p->>'customer' and amount >= (p->>'amount')::bigint;
    if found then
        insert into payment values ((p->>'id')::bigint, p->>'customer', (p->>'amount')::bigint);
        perform lockstep.emit('money.taken', e->>'key', p);
    else
        perform lockstep.emit('money.refused', e->>'key', p);
    end if;
end $$;
create function shop_refund(e jsonb) returns void language sql as $$
    with t as (delete from payment where order_id = (e->'payload'->>'id')::bigint returning owner, amount)
    update account a set amount = a.amount + t.amount from t where a.owner = t.owner $$;
set session authorization checkout;
select lockstep.on('stock.taken', 'public.shop_pay');
select lockstep.on('coupon.refused', 'public.shop_refund');
reset session authorization;
