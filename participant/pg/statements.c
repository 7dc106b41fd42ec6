/* statements.c: see statements.h. */
#include "participant/pg/statements.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"

void statements_init(struct statements *statements, uint32_t most)
{
    *statements = (struct statements){.most = most};
    if (most > 0)
        statements->list = memory_new(most * sizeof(*statements->list));
}

void statements_free(struct statements *statements)
{
    for (uint32_t i = 0; i < statements->count; i++)
        free(statements->list[i].sql);
    free(statements->list);
}

static struct statement *find(struct statements *statements, const char *sql)
{
    for (uint32_t i = 0; i < statements->count; i++)
        if (strcmp(statements->list[i].sql, sql) == 0)
            return &statements->list[i];
    return NULL;
}

const char *statements_name(struct statements *statements, const char *sql)
{
    struct statement *statement = find(statements, sql);
    if (statement == NULL || statement->state != STATEMENT_PREPARED)
        return NULL;
    statement->used = ++statements->clock;
    return statement->name;
}

/* FNV-1a. Two texts of one digest: one of them is not prepared, no more. */
static uint64_t digest(const char *sql)
{
    uint64_t value = 14695981039346656037u;
    for (; *sql != '\0'; sql++)
        value = (value ^ (unsigned char)*sql) * 1099511628211u;
    return value;
}

static void refuse(struct statements_refused *refused, const char *sql)
{
    refused->digests[refused->next++ % STATEMENTS_REFUSED] = digest(sql);
}

static bool is_refused(const struct statements_refused *refused, const char *sql)
{
    uint64_t value = digest(sql);
    for (uint32_t i = 0; i < STATEMENTS_REFUSED; i++)
        if (refused->digests[i] == value)
            return true;
    return false;
}

/* What was seen once goes before what is prepared: a stream of texts that never come again leaves those alone. */
static struct statement *oldest(struct statements *statements)
{
    struct statement *found = &statements->list[0];
    for (uint32_t i = 1; i < statements->count; i++) {
        struct statement *at = &statements->list[i];
        if (at->state != found->state ? at->state < found->state : at->used < found->used)
            found = at;
    }
    return found;
}

static struct statement *make_room(struct statements *statements)
{
    if (statements->count < statements->most)
        return &statements->list[statements->count++];
    struct statement *statement = oldest(statements);
    if (statement->state == STATEMENT_PREPARED) {
        if (statements->evicted[0] != '\0')
            return NULL; /* one at a time: the session deallocates it first */
        memcpy(statements->evicted, statement->name, sizeof(statements->evicted));
    }
    free(statement->sql);
    return statement;
}

static bool is_changing(const char *tag)
{
    static const char *const tags[] = {"INSERT ", "UPDATE ", "DELETE ", "MERGE "};
    for (size_t i = 0; i < sizeof(tags) / sizeof(tags[0]); i++)
        if (strncmp(tag, tags[i], strlen(tags[i])) == 0)
            return true;
    return false;
}

void statements_note(struct statements *statements, const struct statements_refused *refused, const char *sql, const char *tag)
{
    if (statements->most == 0 || !is_changing(tag) || strlen(sql) > STATEMENT_BYTES_MAX)
        return;
    struct statement *statement = find(statements, sql);
    if (statement == NULL) {
        if ((statement = make_room(statements)) == NULL)
            return;
        *statement = (struct statement){.sql = memory_copy(sql), .state = STATEMENT_SEEN};
    } else if (statement->state == STATEMENT_SEEN && !is_refused(refused, sql)) {
        statement->state = STATEMENT_WANTED;
        snprintf(statement->name, sizeof(statement->name), "ls_%" PRIu32, ++statements->named);
    }
    statement->used = ++statements->clock;
}

bool statements_blame(struct statements *statements, struct statements_refused *refused, const char *sql, const char *sqlstate)
{
    /* Feature not supported (the cached plan's result), data (a value beyond the parameter's type), and syntax or access rule (no such operator,
     * statement, column). */
    static const char *const classes[] = {"0A", "22", "42", "26"};
    struct statement *statement = find(statements, sql);
    if (statement == NULL || statement->state != STATEMENT_PREPARED)
        return false;
    for (size_t i = 0; i < sizeof(classes) / sizeof(classes[0]); i++) {
        if (strncmp(sqlstate, classes[i], 2) == 0) {
            refuse(refused, sql);
            return true;
        }
    }
    return false;
}

uint32_t statements_wanted(const struct statements *statements)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < statements->count; i++)
        count += statements->list[i].state == STATEMENT_WANTED;
    return count;
}

void statements_prepared(struct statements *statements, struct statements_refused *refused, uint32_t done, bool for_good)
{
    for (uint32_t i = 0; i < statements->count; i++) {
        struct statement *statement = &statements->list[i];
        if (statement->state != STATEMENT_WANTED)
            continue;
        if (done-- > 0) {
            statement->state = STATEMENT_PREPARED;
            continue;
        }
        statement->state = STATEMENT_SEEN;
        if (for_good)
            refuse(refused, statement->sql);
        return;
    }
}
