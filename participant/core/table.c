/*
 * table.c: where branches are kept, found by name, by operation and by time; and the ring of names that have ended.
 *
 * Everything here is bounded: branches by credits (Work) and by recovered_max (decisions, verdicts), ended names by
 * finished_max. A name dropped from the ring raises the floor: whatever lies at or below it is never run, so that a
 * duplicate of any age cannot prepare the same gid a second time (design 2.7).
 *
 * An operation's number carries the slot of its branch in the low bits, so that an answer finds it without a search; a
 * slot that was given to another branch meanwhile does not match the number and the answer is ignored.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "participant/core/agent_internal.h"

#define SLOTS_MAX (SLOT_MASK - 1u)

static uint32_t hash_gtid(const struct ls_gtid *id) {
    uint64_t h = id->sequence * UINT64_C(0x9e3779b97f4a7c15) ^ ((uint64_t)id->epoch << 32 | id->participant);
    for (const char *c = id->incarnation; *c != '\0'; c++)
        h = (h ^ (uint64_t)(unsigned char)*c) * UINT64_C(0x100000001b3);
    h ^= h >> 29;
    return (uint32_t)(h ^ h >> 32);
}

static uint32_t power_of_two(uint64_t at_least) {
    uint32_t size = 64;
    while (size < at_least && size < (1u << 30)) size *= 2;
    return size;
}

bool table_new(struct agent *a) {
    a->hash_size = power_of_two((uint64_t)a->config.workers_max * 4 + a->config.recovered_max);
    a->ended_hash_size = power_of_two(a->config.finished_max);
    a->hash = calloc(a->hash_size, sizeof(struct agent_branch *));
    a->ended = calloc(a->config.finished_max, sizeof(struct ended));
    a->ended_hash = calloc(a->ended_hash_size, sizeof(uint32_t));
    return a->hash != NULL && a->ended != NULL && a->ended_hash != NULL;
}

void table_bury(struct agent *a) {
    while (a->dead != NULL) {
        struct agent_branch *b = a->dead;
        a->dead = b->hash_next;
        free(b);
    }
}

void table_free(struct agent *a) {
    table_bury(a);
    for (uint32_t i = 0; i < a->slot_used; i++) free(a->slots[i]);
    free(a->slots);
    free(a->free_slots);
    free(a->heap);
    free(a->hash);
    free(a->ended);
    free(a->ended_hash);
}

/* One more slot for branch, free list and heap alike, so that later moves cannot fail. */
static bool grow_slots(struct agent *a) {
    uint32_t count = a->slot_count == 0 ? 64 : a->slot_count * 2;
    if (count > SLOTS_MAX) count = SLOTS_MAX;
    if (count <= a->slot_count) return false;
    struct agent_branch **slots = realloc(a->slots, count * sizeof(struct agent_branch *));
    if (slots == NULL) return false;
    a->slots = slots;
    uint32_t *free_slots = realloc(a->free_slots, count * sizeof(uint32_t));
    if (free_slots == NULL) return false;
    a->free_slots = free_slots;
    struct agent_branch **heap = realloc(a->heap, count * sizeof(struct agent_branch *));
    if (heap == NULL) return false;
    a->heap = heap;
    a->slot_count = count;
    return true;
}

struct agent_branch *table_add(struct agent *a, const struct ls_gtid *id, bool recovered) {
    assert(table_find(a, id) == NULL);
    if (recovered && a->recovered_count >= a->config.recovered_max) return NULL;
    if (a->free_count == 0 && a->slot_used == a->slot_count && !grow_slots(a)) return NULL;
    struct agent_branch *b = calloc(1, sizeof(*b));
    if (b == NULL) return NULL;
    uint32_t slot = a->free_count > 0 ? a->free_slots[--a->free_count] : a->slot_used++;
    a->slots[slot] = b;
    b->state = AGB_NEW;
    b->number = agent_new_op(a, slot);
    b->id = *id;
    ls_gtid_format(id, b->gtid);
    b->one_phase = id->participant != 0;
    b->timer_us = AGENT_NEVER;
    b->deadline_us = AGENT_NEVER;
    b->heap_index = UINT32_MAX;
    b->recovered = recovered;
    uint32_t h = hash_gtid(id) & (a->hash_size - 1);
    b->hash_next = a->hash[h];
    a->hash[h] = b;
    b->order_prev = a->order_last;
    *(a->order_last == NULL ? &a->order_first : &a->order_last->order_next) = b;
    a->order_last = b;
    a->branch_count++;
    a->recovered_count += recovered ? 1u : 0u;
    return b;
}

void table_remove(struct agent *a, struct agent_branch *b) {
    assert(b->state == AGB_ENDED);
    table_set_timer(a, b, AGENT_NEVER);
    table_count(a, b);
    assert(!b->counts_worker && !b->counts_slot);
    struct agent_branch **at = &a->hash[hash_gtid(&b->id) & (a->hash_size - 1)];
    while (*at != b) at = &(*at)->hash_next;
    *at = b->hash_next;
    *(b->order_prev == NULL ? &a->order_first : &b->order_prev->order_next) = b->order_next;
    *(b->order_next == NULL ? &a->order_last : &b->order_next->order_prev) = b->order_prev;
    uint32_t slot = (uint32_t)(b->number & SLOT_MASK);
    assert(a->slots[slot] == b);
    a->slots[slot] = NULL;
    a->free_slots[a->free_count++] = slot;
    assert(a->branch_count > 0 && a->recovered_count >= (b->recovered ? 1u : 0u));
    a->branch_count--;
    a->recovered_count -= b->recovered ? 1u : 0u;
    b->hash_next = a->dead;
    a->dead = b;
}

struct agent_branch *table_find(const struct agent *a, const struct ls_gtid *id) {
    struct agent_branch *b = a->hash[hash_gtid(id) & (a->hash_size - 1)];
    while (b != NULL && !ls_gtid_equal(&b->id, id)) b = b->hash_next;
    return b;
}

struct agent_branch *table_find_op(const struct agent *a, uint64_t op) {
    uint32_t slot = (uint32_t)(op & SLOT_MASK);
    if (op == 0 || slot >= a->slot_used || a->slots[slot] == NULL) return NULL;
    struct agent_branch *b = a->slots[slot];
    return b->op == op || b->stop_op == op ? b : NULL;
}

/*
 * What the coordinator no longer counts as its own but is still here takes a worker or a slot away from what may be
 * granted. What came on the present link and is expected to end at once is not counted before it has failed to: it
 * would only make the number flutter.
 */
static bool lingers(const struct agent *a, const struct agent_branch *b) {
    bool passing = b->link != 0 && b->link == a->link && !b->retried && b->state != AGB_STOPPING;
    return !b->holds_credit && !passing;
}

void table_count(struct agent *a, struct agent_branch *b) {
    bool worker = lingers(a, b) && agent_branch_uses_worker(b);
    bool slot = lingers(a, b) && agent_branch_uses_slot(b);
    assert(a->lingering_workers >= (b->counts_worker ? 1u : 0u) && a->lingering_slots >= (b->counts_slot ? 1u : 0u));
    a->lingering_workers += (worker ? 1u : 0u) - (b->counts_worker ? 1u : 0u);
    a->lingering_slots += (slot ? 1u : 0u) - (b->counts_slot ? 1u : 0u);
    b->counts_worker = worker;
    b->counts_slot = slot;
}

/* ------------------------------------------------------------------- timers: a binary heap of those that have one */

static void heap_put(struct agent *a, uint32_t index, struct agent_branch *b) {
    a->heap[index] = b;
    b->heap_index = index;
}

static void heap_up(struct agent *a, uint32_t index) {
    struct agent_branch *b = a->heap[index];
    while (index > 0 && a->heap[(index - 1) / 2]->timer_us > b->timer_us) {
        heap_put(a, index, a->heap[(index - 1) / 2]);
        index = (index - 1) / 2;
    }
    heap_put(a, index, b);
}

static void heap_down(struct agent *a, uint32_t index) {
    struct agent_branch *b = a->heap[index];
    for (;;) {
        uint32_t child = 2 * index + 1;
        if (child >= a->heap_count) break;
        if (child + 1 < a->heap_count && a->heap[child + 1]->timer_us < a->heap[child]->timer_us) child++;
        if (a->heap[child]->timer_us >= b->timer_us) break;
        heap_put(a, index, a->heap[child]);
        index = child;
    }
    heap_put(a, index, b);
}

void table_set_timer(struct agent *a, struct agent_branch *b, uint64_t at_us) {
    b->timer_us = at_us;
    if (at_us == AGENT_NEVER) {
        if (b->heap_index == UINT32_MAX) return;
        uint32_t hole = b->heap_index;
        b->heap_index = UINT32_MAX;
        struct agent_branch *last = a->heap[--a->heap_count];
        if (last != b) {
            heap_put(a, hole, last);
            heap_up(a, hole);
            heap_down(a, last->heap_index);
        }
        return;
    }
    if (b->heap_index == UINT32_MAX) {
        assert(a->heap_count < a->slot_count);
        heap_put(a, a->heap_count++, b);
    }
    heap_up(a, b->heap_index);
    heap_down(a, b->heap_index);
}

struct agent_branch *table_first_timer(const struct agent *a) {
    return a->heap_count == 0 ? NULL : a->heap[0];
}

/* -------------------------------------------------------------------- ended */

static int compare_age(const struct ls_gtid *x, const struct ls_gtid *y) {
    if (x->epoch != y->epoch) return x->epoch < y->epoch ? -1 : 1;
    if (x->sequence != y->sequence) return x->sequence < y->sequence ? -1 : 1;
    return 0;
}

static void drop_ended(struct agent *a, uint32_t index) {
    struct ended *old = &a->ended[index];
    uint32_t *at = &a->ended_hash[hash_gtid(&old->id) & (a->ended_hash_size - 1)];
    while (*at != index + 1) {
        assert(*at != 0);
        at = &a->ended[*at - 1].next;
    }
    *at = old->next;
    /* Another incarnation's names cannot come back: Work must name the link's. */
    if (strcmp(old->id.incarnation, a->fence.incarnation) == 0 &&
        (strcmp(a->floor.incarnation, a->fence.incarnation) != 0 || compare_age(&a->floor, &old->id) < 0))
        a->floor = old->id;
}

void table_remember(struct agent *a, const struct ls_gtid *id, enum ended_kind kind, uint64_t xid) {
    struct ended *known = NULL;
    for (uint32_t i = a->ended_hash[hash_gtid(id) & (a->ended_hash_size - 1)]; i != 0 && known == NULL;
         i = a->ended[i - 1].next)
        if (ls_gtid_equal(&a->ended[i - 1].id, id)) known = &a->ended[i - 1];
    if (known != NULL) {
        known->kind = kind;
        known->xid = xid;
        known->history = a->history_serial;
        return;
    }
    uint32_t index = a->ended_next;
    if (a->ended_count == a->config.finished_max)
        drop_ended(a, index);
    else
        a->ended_count++;
    a->ended_next = (index + 1) % a->config.finished_max;
    uint32_t *head = &a->ended_hash[hash_gtid(id) & (a->ended_hash_size - 1)];
    a->ended[index] = (struct ended){.id = *id, .xid = xid, .kind = kind, .history = a->history_serial, .next = *head};
    *head = index + 1;
}

const struct ended *table_ended(const struct agent *a, const struct ls_gtid *id) {
    for (uint32_t i = a->ended_hash[hash_gtid(id) & (a->ended_hash_size - 1)]; i != 0; i = a->ended[i - 1].next)
        if (ls_gtid_equal(&a->ended[i - 1].id, id)) return &a->ended[i - 1];
    return NULL;
}

bool table_below_floor(const struct agent *a, const struct ls_gtid *id) {
    return strcmp(a->floor.incarnation, id->incarnation) == 0 && compare_age(id, &a->floor) <= 0;
}

/* ------------------------------------------------------------------- checks */

void table_check(const struct agent *a) {
    uint32_t count = 0, recovered = 0, timers = 0, workers = 0, slots = 0;
    const struct agent_branch *previous = NULL;
    for (const struct agent_branch *b = a->order_first; b != NULL; previous = b, b = b->order_next) {
        assert(b->order_prev == previous);
        assert(table_find(a, &b->id) == b);
        assert(a->slots[b->number & SLOT_MASK] == b);
        assert((b->timer_us == AGENT_NEVER) == (b->heap_index == UINT32_MAX));
        assert(b->heap_index == UINT32_MAX || a->heap[b->heap_index] == b);
        assert(b->counts_worker == (lingers(a, b) && agent_branch_uses_worker(b)));
        assert(b->counts_slot == (lingers(a, b) && agent_branch_uses_slot(b)));
        workers += b->counts_worker ? 1u : 0u;
        slots += b->counts_slot ? 1u : 0u;
        count++;
        recovered += b->recovered ? 1u : 0u;
        timers += b->timer_us != AGENT_NEVER ? 1u : 0u;
    }
    assert(a->order_last == previous);
    assert(count == a->branch_count && recovered == a->recovered_count && timers == a->heap_count);
    assert(workers == a->lingering_workers && slots == a->lingering_slots);
    assert(a->slot_used - a->free_count == count);
    for (uint32_t i = 1; i < a->heap_count; i++) assert(a->heap[(i - 1) / 2]->timer_us <= a->heap[i]->timer_us);
    assert(a->ended_count <= a->config.finished_max);
}
