/*
 * reader.h: somebody who reads all databases of the work while it is done, as an application would, and counts what
 * should not be seen.
 *
 *   torn      an account (an order) of which one database shows another state than the others: their sum is not what it
 *             always is, or the order is in some and not in all
 *   dirty     the money (the order) of a transaction that was undone afterwards
 *   negative  an account below zero
 *
 * The queries leave for all databases at once. There is no snapshot over several databases, so that even atomic commits
 * can be seen half (design: atomic is not isolated); how often is what is counted here.
 */
#ifndef BENCH_READER_H
#define BENCH_READER_H

#include <stdbool.h>
#include <stdint.h>

#include "bench/load.h"

struct reader_result {
    uint64_t seen; /* accounts or orders that were looked at in all databases */
    uint64_t torn, dirty, negative;
};

struct reader;
/* Waits until nothing of earlier runs is under way, remembers what accounts hold, and reads every `period_ms` while the
 * load is counted. NULL: the reason on stderr. */
struct reader *reader_start(struct load *load, uint32_t period_ms);
void reader_stop(struct reader *reader, struct reader_result *ret_result);

#endif
