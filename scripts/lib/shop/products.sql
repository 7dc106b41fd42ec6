-- The shop, participant "products". Every tenth product is nearly sold out, so that some orders must fail.
create table product(
    sku text primary key,
    initial int not null,
    stock int not null check (stock >= 0)
);
insert into product select 's' || n, s, s from generate_series(0, 199) n, lateral (select case when n % 10 = 7 then 5 else 1000000 end) v(s);
create table taken(order_id bigint primary key, sku text not null references product, quantity int not null);
grant select, update on product to checkout;
grant select, insert, delete on taken to checkout;
