/* world.c: see world.h. */
#include "tests/sim/world.h"

#include <assert.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "tests/sim/agent_host.h"
#include "tests/sim/check.h"
#include "tests/sim/client.h"
#include "tests/sim/coord_host.h"
#include "tests/sim/disk.h"
#include "tests/sim/net.h"
#include "tests/sim/pg.h"
#include "tests/sim/relay.h"

/* How long the healed world may take: the longest deadline, the longest lock wait of a chain of branches, sweeps and
 * backoffs. */
#define HEAL_LIMIT_US (240 * SECOND)
#define HEAL_LOOK_US (50 * MS)
/* How long it takes at least: a sweep must have passed, what the last fault did may not have been noticed before. */
#define HEAL_AT_LEAST_US(world) (world_sweep_us(world) + SECOND)
/* And then nobody does anything: links hold. */
#define IDLE_US (LS_PEER_DEAD_MS * MS + 2 * SECOND)

/* Leaves out every kind of fault with this chance in 10. */
static void calm(struct sim_options *options, struct rng *r, uint64_t chance) {
    uint64_t *const faults[] = {
        &options->coord_crash_ms,  &options->coord_cut_pm,    &options->agent_crash_ms,  &options->agent_cut_pm,
        &options->server_crash_ms, &options->all_crash_pm,    &options->failover_ms,     &options->reset_ms,
        &options->partition_ms,    &options->double_pm,       &options->disk_read_pm,    &options->drain_ms,
        &options->twin_ms,         &options->rot_pm,          &options->clone_ms,        &options->clock_pm,
        &options->silence_ms,      &options->late_pm,         &options->pause_ms,        &options->outside_ms,
        &options->stranger_ms,     &options->lost_ms,         &options->disk_cut_pm,     &options->disk_fail_pm,
        &options->disk_full_pm,    &options->session_drop_pm, &options->prepare_fail_pm, &options->break_pm,
        &options->fail_pm,         &options->defer_pm,        &options->cancel_pm,       &options->impatient_pm,
        &options->retention_ms};
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        if (rng_below(r, 10) < chance) {
            *faults[i] = 0;
        }
    }
}

/* In every third world most kinds of faults are left out, so that the others meet each other undisturbed (swarm
 * testing: Groce and others, 2012). */
static void focus(struct sim_options *options, struct rng *r) {
    if (rng_below(r, 3) == 0) {
        calm(options, r, 7);
    }
}

/* In every fortieth world nothing else goes wrong than that a copy of the log, taken right before a decision, takes the
 * coordinator's place while COMMIT is on its way: one branch is committed, another asks the copy. */
static void log_goes_back(struct sim_options *options, struct rng *r) {
    if (rng_below(r, 40) != 0) {
        return;
    }
    calm(options, r, 10);
    options->clone_ms = rng_between(r, 300, 2000);
    options->clone_early_pm = options->clone_instead_pm = 1000;
    options->participants = rng_between(r, 3, 4);
    options->net_us = rng_between(r, 1000, 8000);
    options->disk_us = options->finish_us = options->statement_us = rng_between(r, 50, 300);
    options->single_pm = options->read_pm = 0;
}

/* In every twentieth world servers lose history again and again while the coordinator keeps asking and agents live on:
 * whoever trusts memory or a timeline too much is rarely seen elsewhere. */
static void lose_history(struct sim_options *options, struct rng *r) {
    if (rng_below(r, 20) != 0) {
        return;
    }
    options->failover_ms = rng_between(r, 1000, 4000);
    options->lossy_pm = 900;
    options->together_pm = 700;
    options->coord_crash_ms = rng_between(r, 1000, 4000);
    options->agent_crash_ms = options->agent_cut_pm = options->outside_ms = 0;
    options->net_us = rng_between(r, 20, 500);
    options->restart_ms = rng_between(r, 50, 300);
}

/* In every twentieth world everything is a saga, and nothing else fails than what its attempts depend on: zombies of
 * all lives, answers that are lost, duplicates, restarts in a row. */
static void sagas_only(struct sim_options *options, struct rng *r) {
    if (rng_below(r, 20) != 0) {
        return;
    }
    calm(options, r, 10);
    options->saga_pm = 1000;
    options->coord_crash_ms = rng_between(r, 200, 3000);
    options->coord_cut_pm = rng_between(r, 0, 10);
    options->disk_cut_pm = rng_between(r, 0, 60);
    options->restart_ms = rng_between(r, 5, 200);
    options->reset_ms = rng_below(r, 2) == 0 ? rng_between(r, 200, 5000) : 0;
    options->agent_crash_ms = rng_below(r, 2) == 0 ? rng_between(r, 200, 5000) : 0;
    options->session_drop_pm = rng_between(r, 0, 60);
    options->stall_pm = rng_between(r, 0, 100);
    options->fail_pm = rng_between(r, 0, 300);
    options->cancel_pm = rng_between(r, 0, 300);
    options->impatient_pm = rng_between(r, 0, 300);
    options->double_pm = rng_between(r, 0, 60);
    options->saga_deadline_ms = rng_between(r, 100, 3000);
    options->attempts = rng_between(r, 1, 3);
    options->operate_ms = rng_between(r, 50, 1000);
    options->deadline_ms = rng_between(r, 200, 3000);
    options->lock_timeout_ms = rng_between(r, 50, 1000);
    options->read_pm = 0;
}

/* In every twelfth world everything is choreographed: hardly any transactions, and what relays depend on fails. */
static void choreographed(struct sim_options *options, struct rng *r) {
    if (rng_below(r, 12) != 0) {
        return;
    }
    calm(options, r, 10);
    options->clients = options->transactions = 1;
    options->flows = rng_between(r, 5, 40);
    options->chaos_ms = rng_between(r, 1000, 10000);
    options->reset_ms = rng_below(r, 2) == 0 ? rng_between(r, 200, 3000) : 0;
    options->late_pm = rng_between(r, 0, 1000);
    options->silence_ms = rng_below(r, 4) == 0 ? rng_between(r, 2000, 8000) : 0;
    options->double_pm = rng_between(r, 0, 60);
    options->agent_crash_ms = rng_below(r, 2) == 0 ? rng_between(r, 200, 5000) : 0;
    options->agent_cut_pm = rng_between(r, 0, 10);
    options->server_crash_ms = rng_below(r, 2) == 0 ? rng_between(r, 500, 6000) : 0;
    options->failover_ms = rng_below(r, 4) == 0 ? rng_between(r, 500, 6000) : 0;
    options->lossy_pm = rng_below(r, 2) == 0 ? options->lossy_pm : 0;
    options->session_drop_pm = rng_between(r, 0, 60);
    options->pause_ms = rng_below(r, 4) == 0 ? rng_between(r, 1000, 8000) : 0;
    if (rng_below(r, 3) == 0) { /* two agents that take it from each other, and new subscriptions */
        options->twin_ms = rng_between(r, 200, 2000);
        options->relay_late_ms = rng_between(r, 500, 6000);
    }
    options->restart_ms = rng_between(r, 5, 500);
    options->operate_ms = rng_between(r, 50, 2000);
}

/* In every twentieth world votes come late, so that they bear positions far behind their PREPARE, and servers fail over
 * to a point between the two, while coordinator and agents die: what is prepared there lies, by its position, behind
 * the end of its timeline. */
static void votes_come_late(struct sim_options *options, struct rng *r) {
    if (rng_below(r, 20) != 0) {
        return;
    }
    calm(options, r, 10);
    options->clients = 3;
    options->transactions = rng_between(r, 8, 16);
    options->think_us = rng_between(r, 1000, 20000);
    options->participants = rng_between(r, 2, 3);
    options->shared_cluster = rng_below(r, 2);
    options->rows = rng_between(r, 30, 60);
    options->single_pm = options->read_pm = options->saga_pm = options->flows = options->after_pm = 0;
    options->position_us = rng_between(r, 1000, 100000);
    options->stall_pm = 0;
    options->failover_ms = rng_between(r, 300, 2000);
    options->lossy_pm = rng_between(r, 500, 1000);
    options->together_pm = rng_below(r, 2) == 0 ? rng_between(r, 0, 500) : 0;
    options->coord_crash_ms = rng_below(r, 4) != 0 ? rng_between(r, 200, 2000) : 0;
    options->agent_crash_ms = rng_below(r, 2) == 0 ? rng_between(r, 200, 2000) : 0;
    options->reset_ms = rng_below(r, 3) == 0 ? rng_between(r, 200, 3000) : 0;
    options->restart_ms = rng_between(r, 5, 200);
    options->net_us = rng_between(r, 20, 2000);
    options->disk_us = rng_between(r, 20, 5000);
    options->finish_us = options->statement_us = rng_between(r, 50, 2000);
    options->chaos_ms = rng_between(r, 2000, 8000);
}

void sim_options_draw(struct sim_options *options, uint64_t seed) {
    struct rng rng, *r = &rng;
    rng_seed(r, seed ^ UINT64_C(0x6f7074696f6e73));
#define BETWEEN(min, max) rng_between(r, min, max)
#define O(chance, value) (rng_below(r, 100) < (chance) ? (uint64_t)(value) : 0)
#define X(name, what, how) options->name = (uint64_t)(how);
    SIM_OPTIONS(X)
#undef X
#undef O
#undef BETWEEN
    focus(options, r);
    lose_history(options, r);
    log_goes_back(options, r);
    sagas_only(options, r);
    choreographed(options, r);
    votes_come_late(options, r);
    if (options->clone_ms !=
        0) { /* who presumes without having heard everybody may be a stale copy: a limit, not a bug */
        options->presume_wait_ms = 600000;
        options->lost_ms = 0; /* one of the two is enough for an operator */
    }
}

const char *sim_option_at(struct sim_options *options, size_t index, uint64_t **ret_value, const char **ret_what) {
    static const struct {
        const char *name, *what;
        size_t offset;
    } table[] = {
#define X(name, what, how) {#name, what, offsetof(struct sim_options, name)},
        SIM_OPTIONS(X)
#undef X
    };
    if (index >= sizeof table / sizeof table[0]) return NULL;
    *ret_value = (uint64_t *)(void *)((char *)options + table[index].offset);
    *ret_what = table[index].what;
    return table[index].name;
}

bool sim_option_set(struct sim_options *options, const char *name, uint64_t value) {
    uint64_t *slot;
    const char *what, *found;
    for (size_t i = 0; (found = sim_option_at(options, i, &slot, &what)) != NULL; i++) {
        if (strcmp(found, name) == 0) {
            *slot = value;
            return true;
        }
    }
    return false;
}

void sim_options_print(FILE *out, struct sim_options *options) {
    uint64_t *slot;
    const char *what, *name;
    for (size_t i = 0; (name = sim_option_at(options, i, &slot, &what)) != NULL; i++)
        fprintf(out, "  %-18s %8llu  %s\n", name, (unsigned long long)*slot, what);
}

/* ------------------------------------------------------------------ events */

static bool event_before(const struct world_event *a, const struct world_event *b) {
    return a->at_us < b->at_us || (a->at_us == b->at_us && a->order < b->order);
}

void world_after(struct world *world, uint64_t delay_us, world_call call, uint64_t a, uint64_t b) {
    if (world->heap_count == world->heap_capacity) {
        world->heap_capacity = world->heap_capacity != 0 ? world->heap_capacity * 2 : 256;
        world->heap = realloc(world->heap, world->heap_capacity * sizeof *world->heap);
        assert(world->heap != NULL);
    }
    struct world_event event = {world->now_us + delay_us, world->order++, call, a, b, world->who};
    size_t at = world->heap_count++;
    while (at > 0 && event_before(&event, &world->heap[(at - 1) / 2])) {
        world->heap[at] = world->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    world->heap[at] = event;
}

uint32_t world_as(struct world *world, uint32_t who) {
    uint32_t was = world->who;
    world->who = who;
    world->coord = world->coords[who];
    world->disk = world->disks[who];
    return was;
}

static struct world_event heap_pop(struct world *world) {
    assert(world->heap_count > 0);
    struct world_event first = world->heap[0];
    struct world_event last = world->heap[--world->heap_count];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= world->heap_count) break;
        if (child + 1 < world->heap_count && event_before(&world->heap[child + 1], &world->heap[child])) child++;
        if (!event_before(&world->heap[child], &last)) break;
        world->heap[at] = world->heap[child];
        at = child;
    }
    world->heap[at] = last;
    return first;
}

/* ------------------------------------------------------------------- trace */

void world_trace(struct world *world, const char *actor, const char *word, const char *fmt, ...) {
    char *line = world->trace[world->trace_lines++ % SIM_TRACE_LINES];
    int length = snprintf(line, SIM_TRACE_BYTES, "%9llu.%03llu %-6s %-10s ", (unsigned long long)(world->now_us / 1000),
                          (unsigned long long)(world->now_us % 1000), actor, word);
    va_list args;
    va_start(args, fmt);
    int more = vsnprintf(line + length, SIM_TRACE_BYTES - (size_t)length, fmt, args);
    va_end(args);
    length += more;
    if (length > (int)SIM_TRACE_BYTES - 1) length = (int)SIM_TRACE_BYTES - 1;
    world->trace_hash = XXH3_64bits_withSeed(line, (size_t)length, world->trace_hash);
    if (world->verbose) puts(line);
}

void world_print_tail(const struct world *world, FILE *out) {
    uint64_t count = world->trace_lines < SIM_TRACE_LINES ? world->trace_lines : SIM_TRACE_LINES;
    for (uint64_t i = world->trace_lines - count; i < world->trace_lines; i++)
        fprintf(out, "%s\n", world->trace[i % SIM_TRACE_LINES]);
}

static _Noreturn __attribute__((format(printf, 3, 0))) void end_seed(struct world *world, enum sim_result result,
                                                                     const char *fmt, va_list args) {
    vsnprintf(world->why, sizeof world->why, fmt, args);
    world->result = result;
    longjmp(world->escape, 1);
}

void world_wrong(struct world *world, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    end_seed(world, SIM_WRONG, fmt, args);
}

void world_stuck(struct world *world, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    end_seed(world, SIM_STUCK, fmt, args);
}

uint64_t world_pause_length(struct world *world) {
    return rng_delay(&world->rng, rng_below(&world->rng, 4) == 0 ? 8 * SECOND : 300 * MS);
}

uint64_t world_sweep_us(const struct world *world) {
    return world->options.slow_sweep != 0 ? 10 * SECOND : 2 * SECOND;
}

bool world_fault(struct world *world, uint64_t permille) {
    return !world->healed && rng_permille(&world->rng, permille);
}

void world_power_failure(struct world *world) {
    world_trace(world, "world", "power", "everything goes down");
    pg_crash_all(world);
    coord_crash_all(world);
    agents_crash_all(world);
}

/* --------------------------------------------------------------------- run */

static void run_until(struct world *world, uint64_t until_us) {
    while (world->heap_count > 0 && world->heap[0].at_us <= until_us) {
        struct world_event event = heap_pop(world);
        assert(event.at_us >= world->now_us);
        world->now_us = event.at_us;
        world->steps++;
        (void)world_as(world, event.who);
        event.call(world, event.a, event.b);
    }
    world->now_us = until_us;
    (void)world_as(world, 0);
}

/* What still keeps the world from being finished; false: nothing. */
static bool unfinished(struct world *world, char *why, size_t size) {
    const char *reasons[] = {clients_unfinished(world), coord_unfinished(world), agents_unfinished(world),
                             pg_unfinished(world), relay_unfinished(world)};
    int length = 0;
    for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++) {
        if (reasons[i] != NULL && (size_t)length < size) {
            length += snprintf(why + length, size - (size_t)length, "%s%s", length > 0 ? "; " : "", reasons[i]);
        }
    }
    return length > 0;
}

static void finish(struct world *world, uint64_t limit) {
    char why[400];
    while (unfinished(world, why, sizeof why)) {
        if (world->now_us > limit)
            world_stuck(world, "not finished %llu s after the last fault: %s",
                        (unsigned long long)(HEAL_LIMIT_US / SECOND), why);
        run_until(world, world->now_us + HEAL_LOOK_US);
    }
}

static void live(struct world *world) {
    check_start(world);
    disk_start(world);
    net_start(world);
    pg_start(world);
    relay_start(world);
    coord_start(world);
    agents_start(world);
    clients_start(world);

    run_until(world, world->options.chaos_ms * MS);
    world->healed = true;
    world_trace(world, "world", "heal", "faults are off");
    net_heal(world);
    disk_heal(world);
    coord_heal(world);
    agents_heal(world);
    uint64_t limit = world->now_us + HEAL_LIMIT_US;
    run_until(world, world->now_us + HEAL_AT_LEAST_US(world));
    finish(world, limit);
    world->idle = true;
    run_until(world, world->now_us + IDLE_US);
    /* A look that somebody was to have, or a handler's next attempt, may have come just now. */
    finish(world, limit + IDLE_US);
    check_end(world);
    relay_end(world);
}

enum sim_result world_run(struct world *world, uint64_t seed, const struct sim_options *options, bool verbose) {
    world_clear(world);
    world->options = *options;
    world->seed = seed;
    world->verbose = verbose;
    world->trace_hash = seed;
    rng_seed(&world->rng, seed);
    if (world->trace == NULL) world->trace = calloc(SIM_TRACE_LINES, SIM_TRACE_BYTES);
    assert(world->trace != NULL);
    if (setjmp(world->escape) == 0) live(world);
    return world->result;
}

void world_clear(struct world *world) {
    clients_stop(world);
    agents_stop(world);
    coord_stop(world);
    pg_stop(world);
    relay_stop(world);
    net_stop(world);
    disk_stop(world);
    check_stop(world);
    struct world_event *heap = world->heap;
    size_t capacity = world->heap_capacity;
    char(*trace)[SIM_TRACE_BYTES] = world->trace;
    memset(world, 0, sizeof *world);
    world->heap = heap;
    world->heap_capacity = capacity;
    world->trace = trace;
}

void world_free(struct world *world) {
    world_clear(world);
    free(world->heap);
    free(world->trace);
    world->heap = NULL;
    world->trace = NULL;
    world->heap_capacity = 0;
}
