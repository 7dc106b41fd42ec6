/*
 * transfer.h: what the subjects of `lockstep-bench transfer` share. A subject runs the same transaction, one UPDATE of
 * a random row in each database, with so many clients for so many seconds, in its own way.
 */
#ifndef BENCH_TRANSFER_H
#define BENCH_TRANSFER_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

#include "bench/bench.h"
#include "client/opt.h"

#define TRANSFER_NAME "transfer"
#define TRANSFER_DATABASES_MAX 8u
#define TRANSFER_UPDATE "update bench set amount = amount + $1 where id = $2"

struct transfer {
    struct opt_list databases, participants; /* the same order */
    const char *socket, *log_folder;
    uint32_t rows, hot_percent, seconds, warm_up_s, finishers;
    uint32_t seed;
};

/* What one run of one subject came to. */
struct transfer_run {
    uint32_t clients;
    uint64_t begin_us, end_us; /* what is counted: committed between these */
    uint64_t committed, aborted, syncs;
    struct bench_samples latencies;
};

/* Each returns an enum ls_exit, having said on stderr what went wrong. Nothing of it goes on when it returns. */
int transfer_none(const struct transfer *transfer, struct transfer_run *run);
int transfer_bare(const struct transfer *transfer, struct transfer_run *run);
int transfer_limit(const struct transfer *transfer, struct transfer_run *run);
int transfer_2pc(const struct transfer *transfer, struct transfer_run *run);
int transfer_2pc_decided(const struct transfer *transfer, struct transfer_run *run);

/* The row of the next transaction in one database: 1 .. rows; `hot_percent` of them are row 1. */
uint32_t transfer_row(const struct transfer *transfer, struct bench_random *random);
/* Sets the window that counts, warm-up first; call when the load begins. */
void transfer_begin(const struct transfer *transfer, struct transfer_run *run);
/* One transaction that began at `since_us` has committed now. */
void transfer_committed(struct transfer_run *run, uint64_t since_us, uint64_t now_us);
/* A session with the statement "update" prepared, in pipeline mode. NULL: said on stderr. */
PGconn *transfer_connect(const char *conninfo);

#endif
