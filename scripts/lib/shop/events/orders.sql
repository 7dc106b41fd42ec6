-- The shop, choreographed: participant "orders" begins the flow, hears how it ends, and publishes.
create table request(id bigint primary key); -- orders asked for, so that asking twice is harmless
grant select, insert on request to checkout;
create function shop_order(order_id bigint, customer text, sku text, quantity int, amount bigint, coupon text) returns boolean language plpgsql as $$
declare
    event jsonb := jsonb_build_object('id', order_id, 'customer', customer, 'sku', sku, 'quantity', quantity, 'amount', amount, 'coupon', coupon);
begin
    insert into request values (order_id) on conflict do nothing;
    if not found then return false; end if;
    insert into orders values (order_id, customer, sku, quantity, amount, coupon, 'pending');
    perform lockstep.emit('order.created', order_id::text, event);
    return true;
end $$;
create function shop_complete(e jsonb) returns void language plpgsql as $$
begin
    update orders set state = 'complete' where id = (e->'payload'->>'id')::bigint and state = 'pending';
    if found then perform lockstep.emit('order.placed', e->>'key', e->'payload'); end if;
end $$;
create function shop_withdraw(e jsonb) returns void language sql as $$
    delete from orders where id = (e->'payload'->>'id')::bigint and state = 'pending' $$;
set session authorization checkout;
select lockstep.on('coupon.used', 'public.shop_complete');
select lockstep.on(type, 'public.shop_withdraw') from unnest(array['stock.refused', 'money.refused', 'coupon.refused']) type;
reset session authorization;
