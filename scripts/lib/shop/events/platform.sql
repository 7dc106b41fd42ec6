-- The shop: participant "platform", the data platform. It hears of each order once, whatever form the order had. The primary key would see a second time.
create table published(order_id bigint primary key, at timestamptz not null default now());
grant select, insert on published to checkout;
create function shop_publish(e jsonb) returns void language sql as $$
    insert into published(order_id) values ((e->'payload'->>'id')::bigint) $$;
set session authorization checkout;
select lockstep.on('order.placed', 'public.shop_publish');
reset session authorization;
