-- The shop, participant "balance". Every tenth customer is poor.
create table account(
    owner text primary key,
    initial bigint not null,
    amount bigint not null check (amount >= 0) -- cents
);
insert into account select 'c' || n, a, a from generate_series(0, 999) n, lateral (select case when n % 10 = 3 then 1500 else 1000000000 end) v(a);
create table payment(order_id bigint primary key, owner text not null references account, amount bigint not null);
grant select, update on account to checkout;
grant select, insert, delete on payment to checkout;
