/*
 * cmd_run.c: `lockstep run`: a document from a file or stdin, its outcome to stdout and into the exit status.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/cmd.h"
#include "client/table.h"

/* Without a key an unreachable coordinator is reported after about a second; with one the caller asked for persistence.
 */
#define ATTEMPTS_WITHOUT_KEY 5u

static const char usage[] =
    "usage: lockstep run FILE|- [options]\n\n"
    "Runs the transaction or saga that the JSON document FILE describes (- is standard input).\n\n";
static const char ending[] =
    "\nExit status: 0 committed (a saga: completed, or with --wait decided begun), 4 aborted (compensated), 5 outcome "
    "not\n"
    "known (a saga: stuck, or still on its way), 7 hazard, 3 unreachable, 1 refused.\n"
    "With --key the command may be repeated, after exit 5 too: a transaction of that key commits at most once.\n";

/* All there is to read; heap, NUL behind it. NULL with errno. */
static char *read_stream(FILE *file, size_t *ret_length) {
    char *text = NULL;
    size_t length = 0, size = 0;

    for (;;) {
        if (length == size) {
            size = size > 0 ? size * 2 : 65536;
            char *grown = size <= LOCKSTEP_DOCUMENT_MAX ? realloc(text, size + 1) : NULL;
            if (grown == NULL) errno = size > LOCKSTEP_DOCUMENT_MAX ? EFBIG : ENOMEM;
            if (grown == NULL) break;
            text = grown;
        }
        size_t got = fread(text + length, 1, size - length, file);
        length += got;
        if (got > 0) continue;
        if (ferror(file)) break;
        text[length] = '\0';
        *ret_length = length;
        return text;
    }
    free(text); /* keeps errno */
    return NULL;
}

/* The whole file, or standard input for "-". */
static char *read_whole(const char *name, size_t *ret_length) {
    if (strcmp(name, "-") == 0) return read_stream(stdin, ret_length);
    FILE *file = fopen(name, "re");
    if (file == NULL) return NULL;
    char *text = read_stream(file, ret_length);
    int saved = errno;
    (void)fclose(file);
    errno = saved;
    return text;
}

static void print_cell_text(const json_t *value, char *text, size_t size) {
    if (json_is_string(value)) {
        (void)snprintf(text, size, "%s", json_string_value(value));
        return;
    }
    char *dump = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    (void)snprintf(text, size, "%s", dump != NULL ? dump : "");
    free(dump);
}

/* The rows one step returned: an array of objects. */
static void print_rows(size_t step, const json_t *rows) {
    const char *headings[TABLE_COLUMNS_MAX + 1] = {NULL}, *cells[TABLE_COLUMNS_MAX];
    char texts[TABLE_COLUMNS_MAX][128];
    const char *key;
    json_t *row, *value;
    size_t index, columns = 0;

    json_object_foreach(json_array_get(rows, 0), key, value) if (columns < TABLE_COLUMNS_MAX) headings[columns++] = key;
    if (columns == 0) return;
    struct table *table = cmd_table_new(headings);
    json_array_foreach(rows, index, row) {
        for (size_t i = 0; i < columns; i++) {
            print_cell_text(json_object_get(row, headings[i]), texts[i], sizeof texts[i]);
            cells[i] = texts[i];
        }
        cmd_table_add(table, cells);
    }
    (void)printf("\nstep %zu\n", step);
    cmd_table_print(table, stdout);
    cmd_table_free(table);
}

static void print_outcome(const struct lockstep_result *result) {
    json_t *body = cmd_body(result), *entry;
    size_t index;

    const char *saga_state =
        json_object_get(body, "saga") == NULL ? NULL : json_string_value(json_object_get(body, "state"));
    (void)printf("%s%s  %s\n", saga_state != NULL ? saga_state : lockstep_outcome_text(result->outcome),
                 result->outcome == LOCKSTEP_COMMITTED && !result->applied ? ", not applied everywhere yet" : "",
                 result->gtid);
    if (result->reason[0] != '\0')
        (void)printf("%s%s%s%s%s\n", result->participant, result->participant[0] != '\0' ? ": " : "", result->sqlstate,
                     result->sqlstate[0] != '\0' ? " " : "", result->reason);
    json_array_foreach(json_object_get(body, "results"), index, entry) {
        const json_t *step = json_object_get(entry, "step"), *rows = json_object_get(entry, "rows");
        if (json_array_size(rows) > 0)
            print_rows(json_is_integer(step) ? (size_t)json_integer_value(step) : index, rows);
    }
    json_decref(body);
}

/* A saga that has begun and is on its way. */
static bool is_saga(const struct lockstep_result *result) {
    json_t *body = cmd_body(result);
    bool saga = json_object_get(body, "saga") != NULL && result->outcome == LOCKSTEP_PENDING;

    json_decref(body);
    return saga;
}

static int run(const struct cmd_session *session, const char *file, const struct lockstep_run_options *options,
               enum cmd_format format) {
    struct lockstep *client;
    struct lockstep_result result;
    size_t length;

    int exit_status = cmd_open("run", session, options->key == NULL ? ATTEMPTS_WITHOUT_KEY : 0, &client);
    if (exit_status != LS_EXIT_OK) return exit_status;
    char *document = read_whole(file, &length);
    if (document == NULL) {
        lockstep_close(client);
        return cmd_fail("run", LS_EXIT_ERROR, "%s: %s", file, strerror(errno));
    }
    if (length == 0) {
        exit_status = cmd_fail("run", LS_EXIT_ERROR, "%s is empty", file);
    } else if (lockstep_run(client, document, length, options, &result) != LOCKSTEP_OK) {
        exit_status = cmd_report("run", &result, format);
        lockstep_result_clear(&result);
    } else {
        json_t *body = format == CMD_JSON ? cmd_body(&result) : NULL;
        if (body != NULL)
            cmd_print_json(body);
        else
            print_outcome(&result);
        json_decref(body);
        exit_status = options->wait == LOCKSTEP_WAIT_DECIDED && is_saga(&result) ? LS_EXIT_OK : cmd_exit_of(&result);
        lockstep_result_clear(&result);
    }
    free(document);
    lockstep_close(client);
    return exit_status;
}

int cmd_run(int argc, char **argv) {
    struct cmd_session session = cmd_session_global;
    struct lockstep_run_options options;
    const char *wait = NULL;
    struct opt opts[CMD_SESSION_OPTS + 2] = {
        {"key", 'k', OPT_TEXT, &options.key, "KEY", "idempotency key: repeat until the outcome is known", 0, 0},
        {"wait", 'w', OPT_TEXT, &wait, "WHAT",
         "applied (everywhere; default), decided (durable) or end (of a saga; the default)", 0, 0},
    };
    struct opt_operands operands;
    struct ls_error err;
    enum cmd_format format;

    cmd_session_opts(&session, opts + 2);
    lockstep_run_options_init(&options);
    if (opt_parse(opts, CMD_SESSION_OPTS + 2, argc, argv, false, &operands, &err) != LS_OK)
        return cmd_usage("run", "%s", err.text);
    if (session.help) {
        (void)fputs(usage, stdout);
        opt_help(stdout, opts, CMD_SESSION_OPTS + 2);
        (void)fputs(ending, stdout);
        return LS_EXIT_OK;
    }
    if (operands.count == 0) return cmd_usage("run", "no document given");
    if (operands.count > 1) return cmd_usage("run", "one document at a time: what is `%s`?", operands.items[1]);
    if (!cmd_parse_format(session.format, &format))
        return cmd_usage("run", "unknown output format `%s`", session.format);
    if (wait != NULL && strcmp(wait, "decided") == 0)
        options.wait = LOCKSTEP_WAIT_DECIDED;
    else if (wait != NULL && strcmp(wait, "applied") != 0 && strcmp(wait, "end") != 0)
        return cmd_usage("run", "--wait: `%s` is neither applied, decided nor end", wait);
    if (options.key != NULL &&
        (options.key[0] == '\0' || strlen(options.key) > LOCKSTEP_KEY_MAX || strpbrk(options.key, " \t\r\n") != NULL))
        return cmd_usage("run", "--key: `%s` must be 1 to %d printable characters without blanks", options.key,
                         LOCKSTEP_KEY_MAX);
    return run(&session, operands.items[0], &options, format);
}
