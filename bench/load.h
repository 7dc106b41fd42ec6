/*
 * load.h: one run: so many clients for so many seconds through one subject. What is common to all subjects: when the
 * next transaction begins, what is counted, and an event loop (epoll and a timer) for those that need one.
 *
 * Closed loop: a client begins its next transaction when it has thought for a while after its last. Open loop: begins
 * are scheduled beforehand, whatever the clients do; a free client takes the next one, and latency counts from the
 * scheduled time, also when nobody was free then (no coordinated omission).
 */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "bench/bench.h"
#include "bench/decision_file.h"
#include "bench/work.h"

#define LOAD_NAME "compare"
#define LOAD_CAUSES_MAX 16u
#define LOAD_CAUSE_TEXT 48u
#define LOAD_CLIENTS_MAX 1024u

/* What the user asked for, the same for all runs. */
struct load_options {
    const char *name; /* of the subcommand, for complaints */
    const char *const *databases, *const *participants;
    const char *socket, *log_folder;
    uint32_t seconds, warm_up_ms, finishers, seed, think_ms, lock_timeout_ms, rate;
    bool in_order; /* one database after the other, so that nobody waits in a circle */
};

struct load_cause {
    char text[LOAD_CAUSE_TEXT]; /* an SQLSTATE or some words */
    uint64_t count;
};

struct load_numbers {
    uint64_t *items;
    size_t count, capacity;
};

struct load {
    const struct load_options *options;
    const struct workload *workload;
    uint32_t clients;
    uint64_t begin_us, end_us, give_up_us; /* counted: what ends between the first two */

    /* Changed by all threads of a run. */
    pthread_mutex_t mutex;
    uint64_t committed, aborted;    /* inside begin .. end */
    uint64_t half;                  /* some of its parts committed and others not, for ever */
    uint64_t unserved;              /* open loop: nobody was free for them until we gave up */
    struct bench_samples latencies; /* until the client knows the outcome */
    struct bench_samples visible;   /* until all effects can be seen */
    struct load_cause causes[LOAD_CAUSES_MAX];
    uint32_t cause_count;
    struct load_numbers undone; /* aborted, whatever could be seen of them in between */
    double schedule_us;
    struct bench_random random;

    atomic_uint_fast64_t all_committed; /* from the first to the last */
    atomic_uint_fast64_t done;          /* for the progress line */
    atomic_uint_fast64_t trips;         /* round trips to databases that we made ourselves */
    struct decision_file *log;          /* of the yardsticks, else NULL */
    bool daemons;                       /* the work goes through lockstep's: what they write and say is its cost */
    atomic_bool broken, started;        /* started: begin_us and so on are set */
};

/* Set by SIGINT and SIGTERM: what is under way is ended, nothing new begins. */
extern volatile sig_atomic_t load_interrupted;

void load_open(struct load *load);
void load_close(struct load *load);
/* The load begins now; warm-up first. */
void load_begin(struct load *load);

/* When the next transaction of a client that is free now should begin: now, soon, or (open loop) some time ago. False:
 * there is no next one. */
bool load_next(struct load *load, uint64_t now_us, uint64_t *ret_begin_us);

/* How a transaction that should have begun at `since_us` has ended. `known_us`: when its client knew; `visible_us`:
 * when all effects could be seen, 0 if that is not known. */
void load_committed(struct load *load, uint64_t since_us, uint64_t known_us, uint64_t visible_us);
/* One of which only that is known: it counts as committed. */
void load_visible(struct load *load, uint64_t since_us, uint64_t visible_us);
void load_aborted(struct load *load, const struct work *work, const char *cause);
void load_half(struct load *load, const struct work *work, const char *cause);

/* ---- the event loop */

struct load_source {
    void (*ready)(void *context);
    void *context;
};

struct load_client {
    uint64_t since_us, begun_us;
    bool waiting; /* for since_us */
    uint32_t number;
    struct work work;
};

struct load_loop {
    struct load *load;
    struct load_client *clients; /* load->clients of them */
    void (*begin)(void *context, struct load_client *client);
    void *context;
    struct bench_random random;
    int epoll, timer;
    uint32_t active;
};

/* `clients` zeroed, its elements numbered here. */
int load_loop_open(struct load_loop *loop);
void load_loop_close(struct load_loop *loop);
/* Watches for input; false: said on stderr. */
bool load_loop_watch(struct load_loop *loop, int fd, struct load_source *source);
/* The client is free: its next transaction, now or later. */
void load_loop_free(struct load_loop *loop, struct load_client *client);
/* Until no client has anything left to do. */
int load_loop_run(struct load_loop *loop);

#endif
