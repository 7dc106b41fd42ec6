-- The shop, participant "orders". lockstep-bench order-flow writes here; scripts/lib/audit.py reads.
create table orders(
    id bigint primary key,
    customer text not null,
    sku text not null,
    quantity int not null check (quantity > 0),
    amount bigint not null check (amount > 0), -- cents
    coupon text not null,
    state text not null default 'complete' check (state in ('pending', 'complete')), -- pending: choreographed, and others are still at it
    created timestamptz not null default now()
);
grant select, insert, update, delete on orders to checkout;
