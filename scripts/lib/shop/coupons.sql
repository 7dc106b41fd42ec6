-- The shop, participant "coupons", a second database in the cluster of "balance". Every twentieth coupon is good for two orders.
create table coupon(
    code text primary key,
    initial int not null,
    uses_left int not null check (uses_left >= 0)
);
insert into coupon select 'k' || n, u, u from generate_series(0, 499) n, lateral (select case when n % 20 = 11 then 2 else 1000000 end) v(u);
create table used(order_id bigint primary key, code text not null references coupon);
grant select, update on coupon to checkout;
grant select, insert, delete on used to checkout;
