/* work.c: see work.h. */
#include "bench/work.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "lockstep/status.h"

#define AMOUNT_MAX 5u
#define QUANTITY_MAX 3u
#define IMPOSSIBLE "-1000000000000" /* nobody has that much */

static const struct workload_kind kinds[] = {
    {"transfer", "account i pays in one database and receives in the other", 2, 2, 0, false},
    {"n-way", "the first database pays all others, or all others pay it", 2, WORK_DATABASES_MAX, 0, false},
    {"read-mostly", "transfer, but nine of ten only read both", 2, 2, 90, false},
    {"order-flow", "the shop: order, stock, money, coupon", 4, 4, 0, true},
};

const struct workload_kind *workload_at(size_t index) {
    return index < sizeof kinds / sizeof kinds[0] ? &kinds[index] : NULL;
}

const struct workload_kind *workload_find(const char *name) {
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(kinds[i].name, name) == 0) return &kinds[i];
    return NULL;
}

/* ----------------------------------------------------------------- statements */

/* `tx` tells a reader whose money it sees; what was undone is nobody's. An undo asks nothing: it may go below 0. */
#define MOVE "update bench set amount = amount + $1, moves = moves + 1, tx = $3"
#define ENOUGH " where id = $2 and amount + $1 >= 0"
#define MOVE_BACK "update bench set amount = amount - $1, moves = moves - 1, tx = 0 where id = $2"
static const struct work_statement move = {"move", MOVE ENOUGH, MOVE_BACK};
static const struct work_statement move_payload = {"move_payload", MOVE ", payload = $4" ENOUGH, MOVE_BACK};
static const struct work_statement look = {"look", "select amount from bench where id = $1", NULL};

/* Each `undo` gives back what its order has taken, as its row says, and does nothing when there is none. */
static const struct work_statement shop_statements[] = {
    {"order", "insert into orders(id, customer, sku, quantity, amount, coupon) values ($1, $2, $3, $4, $5, $6)",
     "delete from orders where id = $1"},
    {"stock",
     "with t as (update product set stock = stock - $1 where sku = $2 and stock >= $1 returning sku) insert into "
     "taken(order_id, sku, quantity) select $3, sku, $1 from t",
     "with t as (delete from taken where order_id = $1 returning sku, quantity) update product p set stock = p.stock "
     "+ t.quantity from t where p.sku = t.sku"},
    {"money",
     "with t as (update account set amount = amount - $1 where owner = $2 and amount >= $1 returning owner) insert "
     "into payment(order_id, owner, amount) select $3, owner, $1 from t",
     "with t as (delete from payment where order_id = $1 returning owner, amount) update account a set amount = "
     "a.amount + t.amount from t where a.owner = t.owner"},
    {"coupon",
     "with t as (update coupon set uses_left = uses_left - 1 where code = $1 and uses_left >= 1 returning code) "
     "insert into used(order_id, code) select $2, code from t",
     "with t as (delete from used where order_id = $1 returning code) update coupon c set uses_left = c.uses_left + 1 "
     "from t where c.code = t.code"},
};

/* --------------------------------------------------------------------- values */

/* A word of the work's own. */
static const char *word(struct work *work, const char *format, ...) __attribute__((format(printf, 2, 3)));
static const char *word(struct work *work, const char *format, ...) {
    char *at = work->text + work->used;
    va_list args;

    va_start(args, format);
    int length = vsnprintf(at, sizeof work->text - work->used, format, args);
    va_end(args);
    assert(length >= 0 && (size_t)length < sizeof work->text - work->used);
    work->used += (size_t)length + 1;
    return at;
}

static void add(struct work_values *values, const char *text, bool quoted) {
    assert(values->count < WORK_VALUES_MAX);
    if (quoted) values->quoted |= 1u << values->count;
    values->items[values->count++] = text;
}

static struct work_part *add_part(struct work *work, uint32_t database, const char *name,
                                  const struct work_statement *statement) {
    struct work_part *part = &work->parts[work->part_count++];

    *part = (struct work_part){.database = database, .name = name, .statement = statement};
    return part;
}

static atomic_uint_fast64_t next;

uint64_t work_last_number(void) {
    return atomic_load(&next) - 1;
}

static uint64_t next_number(void) {
    uint_fast64_t number = atomic_load(&next);

    if (number == 0) { /* no two programs on the same tables share a number: microseconds since 1970 */
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        uint_fast64_t first = (uint_fast64_t)now.tv_sec * 1000000u + (uint_fast64_t)now.tv_nsec / 1000u;
        (void)atomic_compare_exchange_strong(&next, &number, first);
    }
    return atomic_fetch_add(&next, 1);
}

/* ------------------------------------------------------------------ the table */

static const char *const step_names[WORK_DATABASES_MAX] = {"p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8"};

static uint32_t draw_row(const struct workload *workload, struct bench_random *random) {
    if (workload->hot_percent > 0 && bench_random_below(random, 100) < workload->hot_percent) return 1;
    return 1 + bench_random_below(random, workload->rows);
}

static void draw_reads(struct work *work, const struct workload *workload, const char *row) {
    for (uint32_t d = 0; d < workload->databases; d++)
        add(&add_part(work, d, step_names[d], &look)->values, row, false);
}

static void draw_moves(struct work *work, const struct workload *workload, struct bench_random *random,
                       const char *row) {
    int64_t amount = 1 + bench_random_below(random, AMOUNT_MAX), others = workload->databases - 1;
    bool refused = workload->refused_percent > 0 && bench_random_below(random, 100) < workload->refused_percent;
    const char *number = word(work, "%" PRIu64, work->number);

    if (bench_random_below(random, 2) == 1) amount = -amount;
    for (uint32_t d = 0; d < workload->databases; d++) {
        struct work_part *part = add_part(work, d, step_names[d], workload->payload[0] != '\0' ? &move_payload : &move);
        const char *change =
            refused && d == others ? IMPOSSIBLE : word(work, "%" PRId64, d == 0 ? -amount * others : amount);
        add(&part->values, change, false);
        add(&part->values, row, false);
        add(&part->values, number, false);
        if (workload->payload[0] != '\0') add(&part->values, workload->payload, true);
        add(&part->undo, change, false);
        add(&part->undo, row, false);
    }
}

/* ------------------------------------------------------------------- the shop */

uint32_t work_price(uint32_t sku) {
    return 100 + sku * 37 % 900;
}

void work_order(struct work *work, uint64_t id, uint32_t sku, uint32_t customer, uint32_t coupon, uint32_t quantity,
                uint32_t amount) {
    work->number = id;
    work->part_count = 0;
    work->used = 0;
    const char *number = word(work, "%" PRIu64, id), *owner = word(work, "c%" PRIu32, customer);
    const char *sku_word = word(work, "s%" PRIu32, sku), *code = word(work, "k%" PRIu32, coupon);
    const char *pieces = word(work, "%" PRIu32, quantity), *cents = word(work, "%" PRIu32, amount);

    for (uint32_t d = 0; d < 4; d++)
        add(&add_part(work, d, shop_statements[d].name, &shop_statements[d])->undo, number, false);
    struct work_values *order = &work->parts[0].values, *stock = &work->parts[1].values;
    struct work_values *money = &work->parts[2].values, *use = &work->parts[3].values;
    add(order, number, false);
    add(order, owner, true);
    add(order, sku_word, true);
    add(order, pieces, false);
    add(order, cents, false);
    add(order, code, true);
    add(stock, pieces, false);
    add(stock, sku_word, true);
    add(stock, number, false);
    add(money, cents, false);
    add(money, owner, true);
    add(money, number, false);
    add(use, code, true);
    add(use, number, false);
}

static void draw_order(const struct workload *workload, struct bench_random *random, struct work *work) {
    bool hot = workload->hot_percent > 0 && bench_random_below(random, 100) < workload->hot_percent;
    uint32_t sku = hot ? 0 : bench_random_below(random, 200), customer = hot ? 0 : bench_random_below(random, 1000);
    uint32_t coupon = hot ? 0 : bench_random_below(random, 500);
    uint32_t quantity = 1 + bench_random_below(random, QUANTITY_MAX);

    work_order(work, work->number, sku, customer, coupon, quantity, work_price(sku) * quantity);
}

void work_draw(const struct workload *workload, struct bench_random *random, struct work *work) {
    work->number = next_number();
    work->part_count = 0;
    work->used = 0;
    if (workload->kind->shop) {
        draw_order(workload, random, work);
        return;
    }
    const char *row = word(work, "%" PRIu32, draw_row(workload, random));
    if (bench_random_below(random, 100) < workload->kind->reads_percent) {
        draw_reads(work, workload, row);
    } else {
        draw_moves(work, workload, random, row);
    }
}

/* ------------------------------------------------------------------- sessions */

static bool prepare_one(PGconn *session, const struct work_statement *statement) {
    PGresult *result = PQprepare(session, statement->name, statement->sql, 0, NULL);
    bool ok = PQresultStatus(result) == PGRES_COMMAND_OK;

    PQclear(result);
    return ok;
}

bool work_prepare_session(const struct workload *workload, PGconn *session, uint32_t database) {
    if (workload->kind->shop) return prepare_one(session, &shop_statements[database]);
    return prepare_one(session, workload->payload[0] != '\0' ? &move_payload : &move) &&
           (workload->kind->reads_percent == 0 || prepare_one(session, &look));
}

PGconn *work_connect(const char *name, const char *conninfo) {
    PGconn *session = PQconnectdb(conninfo);

    if (PQstatus(session) == CONNECTION_OK) return session;
    (void)bench_fail(name, LS_EXIT_UNREACHABLE, "%s", PQerrorMessage(session));
    PQfinish(session);
    return NULL;
}

static bool execute(const char *name, PGconn *session, const char *sql) {
    PGresult *result = PQexec(session, sql);
    bool ok = PQresultStatus(result) == PGRES_COMMAND_OK || PQresultStatus(result) == PGRES_TUPLES_OK;

    if (!ok) (void)bench_fail(name, LS_EXIT_ERROR, "%s", PQerrorMessage(session));
    PQclear(result);
    return ok;
}

int work_prepare_tables(const char *name, const struct workload *workload, const char *conninfo) {
    char sql[512];

    if (workload->kind->shop) return LS_EXIT_OK;
    PGconn *session = work_connect(name, conninfo);
    if (session == NULL) return LS_EXIT_UNREACHABLE;
    (void)snprintf(sql, sizeof sql,
                   "set client_min_messages = warning; drop table if exists bench;"
                   " create table bench(id int primary key, amount bigint not null, moves int not null default 0,"
                   " tx bigint not null default 0,"
                   " payload text);"
                   " insert into bench select g, %" PRIu32 " from generate_series(1, %" PRIu32 ") g;"
                   " grant all on bench to public;",
                   workload->balance, workload->rows);
    bool ok = execute(name, session, sql) && execute(name, session, "vacuum analyze bench") &&
              execute(name, session, "checkpoint");
    PQfinish(session);
    return ok ? LS_EXIT_OK : LS_EXIT_ERROR;
}
