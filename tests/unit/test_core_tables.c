/*
 * test_core_tables.c: the engine's containers beyond their first sizes: Idempotency-Keys, deadlines, transactions,
 * outcomes. Method: thousands of random operations beside a plain array that does the same. If one were wrong, a key
 * would run twice or be refused for ever, a deadline would pass unseen, a transaction would not be found by its vote.
 */
#include "tests/unit/unit.h"

#include "coordinator/core/keys.h"
#include "coordinator/core/table.h"

static uint64_t below(uint64_t *random, uint64_t bound) {
    return (unit_random(random) >> 20) % bound;
}

/* ------------------------------------------------------------------ keys */

enum { KEYS = 6000 };
enum fate { ABSENT, TAKEN, DONE };
static struct {
    enum fate fate;
    uint64_t sequence, position;
} model[KEYS];

static void key_digest(uint64_t n, uint8_t digest[16]) {
    memset(digest, 0, 16);
    memcpy(digest, &n, sizeof n);
    digest[15] = (uint8_t)(n * 7);
}

static bool odd_is_open(const void *context, uint32_t epoch, uint64_t sequence) {
    (void)context;
    (void)epoch;
    return sequence % 50 == 1;
}

static void keys_are_kept_and_dropped_as_told(void **state) {
    (void)state;
    static const uint8_t document[16] = {1};
    struct key_table table;
    uint64_t random = 3, sequence = 0, position = 1000;
    uint32_t count = 0;
    assert_int_equal(key_table_init(&table, 5000), LS_OK);
    for (int round = 0; round < 60000; round++) {
        uint64_t n = below(&random, KEYS);
        uint8_t digest[16];
        key_digest(n, digest);
        const struct key_entry *entry = key_table_find(&table, digest);
        assert_int_equal(entry != NULL, model[n].fate != ABSENT);
        if (entry != NULL) assert_int_equal(entry->sequence, model[n].sequence);
        if (entry == NULL) {
            enum ls_status status = key_table_take(&table, digest, document, 3, ++sequence);
            assert_int_equal(status, count < 5000 ? LS_OK : LS_ERR_FULL);
            if (status != LS_OK) continue;
            model[n].fate = TAKEN;
            model[n].sequence = sequence;
            count++;
        } else if (model[n].fate == TAKEN && below(&random, 4) == 0) {
            key_table_give_back(&table, digest, 3, model[n].sequence + 1); /* another's: stays */
            assert_non_null(key_table_find(&table, digest));
            key_table_give_back(&table, digest, 3, model[n].sequence);
            model[n].fate = ABSENT;
            count--;
        } else if (model[n].fate == TAKEN) {
            key_table_done(&table, digest, position += 10);
            model[n].fate = DONE;
            model[n].position = position;
        } else if (below(&random, 10) == 0) {
            key_table_move(&table, digest, position += 10); /* its decision was copied */
            model[n].position = position;
        }
        if (round % 3000 == 2999) {
            uint64_t horizon = position - 5000;
            key_table_expire(&table, horizon, position, odd_is_open, NULL);
            for (int k = 0; k < KEYS; k++) {
                if (model[k].fate != DONE || model[k].position >= horizon) continue;
                if (odd_is_open(NULL, 3, model[k].sequence)) {
                    model[k].position = position; /* carried on */
                } else {
                    model[k].fate = ABSENT;
                    count--;
                }
            }
            assert_int_equal(table.count, count);
        }
    }
    assert_true(table.capacity > 1024);
    key_table_free(&table);
}

/* ------------------------------------------------------- transactions, deadlines */

enum { TXNS = 5000 };

static void deadlines_come_in_order(void **state) {
    (void)state;
    struct deadline_heap heap = {0};
    struct txn *txns = calloc(TXNS, sizeof *txns);
    uint64_t random = 5;
    uint32_t in_it = 0;
    for (int i = 0; i < TXNS; i++) {
        txns[i].heap_index = UINT32_MAX;
        txns[i].deadline_us = below(&random, 1000000);
        assert_int_equal(deadline_heap_reserve(&heap, heap.count + 1), LS_OK);
        deadline_heap_push(&heap, &txns[i]);
        in_it++;
        if (i % 3 == 0) { /* one that ended in time, anywhere in the heap; twice: fine */
            struct txn *gone = &txns[below(&random, (uint64_t)i + 1)];
            in_it -= gone->heap_index != UINT32_MAX;
            deadline_heap_remove(&heap, gone);
            deadline_heap_remove(&heap, gone);
        }
        assert_int_equal(heap.count, in_it);
    }
    uint64_t last = 0;
    while (heap.count > 0) {
        struct txn *first = heap.items[0];
        assert_true(first->deadline_us >= last);
        last = first->deadline_us;
        deadline_heap_remove(&heap, first);
    }
    deadline_heap_free(&heap);
    free(txns);
}

static void transactions_are_found_by_name(void **state) {
    (void)state;
    struct txn_table table;
    struct txn *txns = calloc(TXNS, sizeof *txns);
    assert_int_equal(txn_table_init(&table), LS_OK);
    for (int i = 0; i < TXNS; i++) {
        txns[i].epoch = 1 + (uint32_t)i % 3;
        txns[i].sequence = 1 + (uint64_t)i;
        txn_table_insert(&table, &txns[i]);
    }
    assert_true(table.bucket_count > 1024);
    for (int i = 0; i < TXNS; i += 2) txn_table_remove(&table, &txns[i]);
    for (int i = 0; i < TXNS; i++) {
        assert_ptr_equal(txn_table_find(&table, txns[i].epoch, txns[i].sequence), i % 2 == 0 ? NULL : &txns[i]);
        assert_null(txn_table_find(&table, txns[i].epoch + 1, txns[i].sequence));
    }
    assert_int_equal(table.count, TXNS / 2);
    txn_table_free(&table);
    free(txns);
}

static struct txn_cause *cause(const char *reason) {
    struct txn_cause *made = calloc(1, sizeof *made);
    snprintf(made->reason, sizeof made->reason, "%s", reason);
    return made;
}

static void the_last_outcomes_are_remembered(void **state) {
    (void)state;
    enum { CAPACITY = 16 };
    struct finished_table table;
    assert_int_equal(finished_table_init(&table, CAPACITY), LS_OK);
    for (uint64_t s = 1; s <= 100; s++) {
        struct txn_finished outcome = {.epoch = 1, .sequence = s, .outcome = OUTCOME_ABORTED, .cause = cause("no")};
        finished_table_put(&table, &outcome);
        for (uint64_t k = 1; k <= s; k++) {
            assert_int_equal(finished_table_find(&table, 1, k) != NULL, k + CAPACITY > s);
        }
    }
    /* an outcome that turns into a hazard replaces what was remembered */
    struct txn_finished hazard = {.epoch = 1, .sequence = 95, .outcome = OUTCOME_HAZARD, .cause = cause("by hand")};
    finished_table_put(&table, &hazard);
    assert_int_equal(finished_table_find(&table, 1, 95)->outcome, OUTCOME_HAZARD);
    assert_string_equal(finished_table_find(&table, 1, 95)->cause->reason, "by hand");
    assert_non_null(finished_table_find(&table, 1, 85)); /* nobody else was forgotten for it */
    finished_table_free(&table);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_are_kept_and_dropped_as_told),
        cmocka_unit_test(deadlines_come_in_order),
        cmocka_unit_test(transactions_are_found_by_name),
        cmocka_unit_test(the_last_outcomes_are_remembered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
