/*
 * work.h: what a transaction of the comparison does: in each of several databases one statement, and what would undo
 * it. Every subject commits the same work in its own way.
 *
 *   transfer     2 databases: account i pays here and receives there; what account i has everywhere stays the same
 *   n-way        2 to 8 databases: the first pays all others, or all others pay the first
 *   read-mostly  2 databases: nine of ten only read both
 *   order-flow   the 4 databases of the shop (scripts/lib/shop): order, stock, money, coupon
 *
 * All but the last use the table `bench` that work_prepare() makes.
 */
#ifndef BENCH_WORK_H
#define BENCH_WORK_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bench/bench.h"

#define WORK_DATABASES_MAX 8u
#define WORK_VALUES_MAX 6u
#define WORK_TEXT_MAX 512u
#define WORK_PAYLOAD_MAX 65536u
#define WORK_BALANCE 1000000u /* of each account in each database, unless said otherwise */

/* SQL of one kind; sessions have it prepared under its name. */
struct work_statement {
    const char *name, *sql, *undo; /* undo NULL: it only reads */
};

struct work_values {
    const char *items[WORK_VALUES_MAX]; /* into the work's own text, or to constants */
    uint32_t count, quoted;             /* quoted: a bit for each that is a string in JSON */
};

struct work_part {
    uint32_t database;
    const char *name; /* of the step */
    const struct work_statement *statement;
    struct work_values values, undo;
};

/* Points into itself: not to be copied. */
struct work {
    uint64_t number; /* unique in these databases */
    uint32_t part_count;
    struct work_part parts[WORK_DATABASES_MAX];
    char text[WORK_TEXT_MAX];
    size_t used;
};

struct workload;
struct workload_kind {
    const char *name, *what;
    uint32_t databases_min, databases_max;
    uint32_t reads_percent;
    bool shop;
};

struct workload {
    const struct workload_kind *kind;
    uint32_t databases; /* that take part */
    uint32_t rows, hot_percent, refused_percent, balance;
    const char *payload; /* "": none */
};

const struct workload_kind *workload_find(const char *name);
const struct workload_kind *workload_at(size_t index); /* NULL behind the last */

/* The next transaction. Numbers grow by one over the whole program. */
void work_draw(const struct workload *workload, struct bench_random *random, struct work *work);
/* The number of the newest one. */
uint64_t work_last_number(void);
/* An order of the shop: skus 0..199, customers 0..999, coupons 0..499; the amount in cents. */
void work_order(struct work *work, uint64_t id, uint32_t sku, uint32_t customer, uint32_t coupon, uint32_t quantity,
                uint32_t amount);
uint32_t work_price(uint32_t sku);

/* Prepares on a session what the workload says to the database of that index. False: see PQerrorMessage(). */
bool work_prepare_session(const struct workload *workload, PGconn *session, uint32_t database);
/* Makes the table `bench` anew; nothing for the shop. An enum ls_exit, the reason on stderr. */
int work_prepare_tables(const char *name, const struct workload *workload, const char *conninfo);
/* A session, or NULL and the reason on stderr. */
PGconn *work_connect(const char *name, const char *conninfo);

#endif
