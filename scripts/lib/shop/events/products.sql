-- The shop, choreographed: participant "products" follows up an order, and gives back what others refuse.
create function shop_take(e jsonb) returns void language plpgsql as $$
declare p jsonb := e->'payload';
begin
    update product set stock = stock - (p->>'quantity')::int where sku = p->>'sku' and stock >= (p->>'quantity')::int;
    if found then
        insert into taken values ((p->>'id')::bigint, p->>'sku', (p->>'quantity')::int);
        perform lockstep.emit('stock.taken', e->>'key', p);
    else
        perform lockstep.emit('stock.refused', e->>'key', p);
    end if;
end $$;
create function shop_return(e jsonb) returns void language sql as $$
    with t as (delete from taken where order_id = (e->'payload'->>'id')::bigint returning sku, quantity)
    update product p set stock = p.stock + t.quantity from t where p.sku = t.sku $$;
set session authorization checkout;
select lockstep.on('order.created', 'public.shop_take');
select lockstep.on(type, 'public.shop_return') from unnest(array['money.refused', 'coupon.refused']) type;
reset session authorization;
