/*
 * cmd_saga.c: `lockstep saga list|show|wait|cancel` and `lockstep dlq list|show|retry|skip|compensate`.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/cmd.h"
#include "client/listing.h"

#define ATTEMPTS 5u /* an unreachable coordinator is reported after about a second */
#define WAIT_DEFAULT_MS 60000u

static const char saga_usage[] = "usage: lockstep saga list [--state STATE] [--limit N]\n"
                                 "       lockstep saga show SAGA\n"
                                 "       lockstep saga wait SAGA [--timeout TIME]\n"
                                 "       lockstep saga cancel SAGA\n\n";
static const char dlq_usage[] = "usage: lockstep dlq list [--limit N]\n"
                                "       lockstep dlq show SAGA\n"
                                "       lockstep dlq retry|skip|compensate SAGA [--reason TEXT]\n\n"
                                "Sagas that used up the attempts of a step wait here for a decision.\n"
                                "  retry        try again where it got stuck, with all attempts\n"
                                "  skip         the stuck step counts as done (or as undone): its work is yours to do\n"
                                "  compensate   undo what was done; not behind the point of no return\n\n";
static const char ending[] =
    "\nExit status of show, wait and cancel: 0 completed, 4 compensated, 5 on its way or stuck;\n"
    "cancel ends with 4 when it is compensated now. retry, skip and compensate: 0 when it is done.\n";

struct saga_options {
    struct cmd_session session;
    const char *state, *reason;
    uint32_t limit;
    enum cmd_format format;
};

static const struct listing_column saga_columns[] = {
    {"SAGA", "saga"}, {"STATE", "state"}, {"APP", "app"}, {"STEP", "step"}, {"REASON", "reason"}};
static const struct listing_column letter_columns[] = {
    {"SAGA", "saga"},    {"STUCK IN", "stuck_in"},      {"CLASS", "error_class"},
    {"STEP", "step"},    {"FAILED", "failed_attempts"}, {"SQLSTATE", "sqlstate"},
    {"REASON", "reason"}};
static const struct listing_column step_columns[] = {
    {"STEP", "step"},   {"NAME", "name"},         {"ON", "on"},          {"KIND", "kind"},
    {"STATE", "state"}, {"ATTEMPTS", "attempts"}, {"NOW", "on_its_way"}, {"SKIPPED", "skipped"},
    {"BEGUN", "first"}, {"SETTLED", "settled"}};
static const struct listing_column failure_columns[] = {{"STEP", "step"},         {"OP", "op"},
                                                        {"ATTEMPT", "attempt"},   {"AT", "at"},
                                                        {"SQLSTATE", "sqlstate"}, {"REASON", "reason"}};

static int finish(const char *verb, const struct saga_options *options, struct lockstep_result *result,
                  const char *array, const struct listing_column *columns, size_t count) {
    int exit_status = result->status != LOCKSTEP_OK
                          ? cmd_report(verb, result, options->format)
                          : listing_print(verb, result, array, columns, count, options->format);
    lockstep_result_clear(result);
    return exit_status;
}

static int list_sagas(const struct saga_options *options, struct lockstep *client, const char *saga) {
    struct lockstep_result result;

    (void)saga;
    (void)lockstep_sagas(client, options->state, options->limit, &result);
    return finish("saga list", options, &result, "sagas", saga_columns, sizeof saga_columns / sizeof saga_columns[0]);
}

static int list_letters(const struct saga_options *options, struct lockstep *client, const char *saga) {
    struct lockstep_result result;

    (void)saga;
    (void)lockstep_dead_letters(client, options->limit, &result);
    return finish("dlq list", options, &result, "dead_letters", letter_columns,
                  sizeof letter_columns / sizeof letter_columns[0]);
}

/* Puts a readable time of day beside a time in milliseconds, for a column of its own. */
static void add_time(json_t *object, const char *from, const char *to) {
    const json_t *value = json_object_get(object, from);
    struct tm parts;
    char text[40];

    if (!json_is_integer(value)) return;
    time_t seconds = (time_t)(json_integer_value(value) / 1000);
    if (localtime_r(&seconds, &parts) == NULL) return;
    size_t used = strftime(text, sizeof text, "%H:%M:%S", &parts);
    (void)snprintf(text + used, sizeof text - used, ".%03d", (int)(json_integer_value(value) % 1000));
    (void)json_object_set_new(object, to, json_string(text));
}

static void print_saga(const struct lockstep_result *result, const char *saga) {
    json_t *body = cmd_body(result), *entry;
    const json_t *steps = json_object_get(body, "steps"), *failures = json_object_get(body, "failures");
    const char *state = json_string_value(json_object_get(body, "state"));
    const char *stuck_in = json_string_value(json_object_get(body, "stuck_in"));
    size_t index;

    (void)printf("%s  %s%s%s\n", result->gtid[0] != '\0' ? result->gtid : saga, state != NULL ? state : "?",
                 stuck_in != NULL ? " in " : "", stuck_in != NULL ? stuck_in : "");
    if (result->reason[0] != '\0')
        (void)printf("%s%s%s\n", result->sqlstate, result->sqlstate[0] != '\0' ? " " : "", result->reason);
    json_array_foreach(steps, index, entry) {
        add_time(entry, "first_unix_ms", "first");
        add_time(entry, "settled_unix_ms", "settled");
    }
    json_array_foreach(failures, index, entry) {
        add_time(entry, "unix_ms", "at");
    }
    if (json_array_size(steps) > 0) {
        (void)fputc('\n', stdout);
        listing_print_rows(steps, step_columns, sizeof step_columns / sizeof step_columns[0]);
    }
    if (json_array_size(failures) > 0) {
        (void)printf("\nfailed attempts: %" JSON_INTEGER_FORMAT ", the newest:\n",
                     json_integer_value(json_object_get(body, "failed_attempts")));
        listing_print_rows(failures, failure_columns, sizeof failure_columns / sizeof failure_columns[0]);
    }
    json_decref(body);
}

static int show(const struct saga_options *options, struct lockstep *client, const char *saga) {
    struct lockstep_result result;

    (void)lockstep_saga(client, saga, 0, &result);
    return cmd_show_one("saga show", &result, options->format, saga, print_saga);
}

static int wait_for(const struct saga_options *options, struct lockstep *client, const char *saga) {
    struct lockstep_result result;
    uint32_t wait_ms = options->session.timeout_ms > 0 ? options->session.timeout_ms : WAIT_DEFAULT_MS;

    if (wait_ms > LOCKSTEP_SAGA_WAIT_MS_MAX) wait_ms = LOCKSTEP_SAGA_WAIT_MS_MAX;
    (void)lockstep_saga(client, saga, wait_ms, &result);
    return cmd_show_one("saga wait", &result, options->format, saga, print_saga);
}

static int cancel(const struct saga_options *options, struct lockstep *client, const char *saga) {
    struct lockstep_result result;

    (void)lockstep_saga_cancel(client, saga, &result);
    return cmd_show_one("saga cancel", &result, options->format, saga, print_saga);
}

/* That it is on its way again is success. */
static int act(const struct saga_options *options, struct lockstep *client, const char *saga, enum lockstep_act what) {
    struct lockstep_result result;

    bool good = lockstep_dead_letter(client, saga, what, options->reason, &result) == LOCKSTEP_OK;
    int exit_status = cmd_show_one("dlq", &result, options->format, saga, print_saga);
    return good ? LS_EXIT_OK : exit_status;
}
static int retry(const struct saga_options *options, struct lockstep *client, const char *saga) {
    return act(options, client, saga, LOCKSTEP_ACT_RETRY);
}
static int skip(const struct saga_options *options, struct lockstep *client, const char *saga) {
    return act(options, client, saga, LOCKSTEP_ACT_SKIP);
}
static int compensate(const struct saga_options *options, struct lockstep *client, const char *saga) {
    return act(options, client, saga, LOCKSTEP_ACT_COMPENSATE);
}

struct action {
    const char *name;
    bool wants_saga;
    int (*run)(const struct saga_options *options, struct lockstep *client, const char *saga);
};
static const struct action saga_actions[] = {{"list", false, list_sagas},
                                             {"show", true, show},
                                             {"wait", true, wait_for},
                                             {"cancel", true, cancel},
                                             {NULL, false, NULL}};
static const struct action dlq_actions[] = {{"list", false, list_letters},    {"show", true, show},
                                            {"retry", true, retry},           {"skip", true, skip},
                                            {"compensate", true, compensate}, {NULL, false, NULL}};

static int run(const char *verb, const struct action *actions, const struct saga_options *options,
               const struct opt_operands *operands) {
    struct lockstep *client;

    if (operands->count == 0) return cmd_usage(verb, "what? %s, %s ...", actions[0].name, actions[1].name);
    for (const struct action *action = actions; action->name != NULL; action++) {
        if (strcmp(action->name, operands->items[0]) != 0) continue;
        size_t wanted = action->wants_saga ? 2 : 1;
        if (operands->count < wanted) return cmd_usage(verb, "%s: of which saga?", action->name);
        if (operands->count > wanted)
            return cmd_usage(verb, "%s: what is `%s`?", action->name, operands->items[wanted]);
        int exit_status = cmd_open(verb, &options->session, ATTEMPTS, &client);
        if (exit_status != LS_EXIT_OK) return exit_status;
        exit_status = action->run(options, client, action->wants_saga ? operands->items[1] : NULL);
        lockstep_close(client);
        return exit_status;
    }
    return cmd_usage(verb, "unknown action `%s`", operands->items[0]);
}

static int main_of(const char *verb, const char *usage, const struct action *actions, int argc, char **argv) {
    struct saga_options options = {.session = cmd_session_global};
    struct opt opts[CMD_SESSION_OPTS + 3] = {
        {"state", 's', OPT_TEXT, &options.state, "STATE",
         "saga list: only begun, running, passed, compensating, stuck, completed or compensated", 0, 0},
        {"limit", 'n', OPT_U32, &options.limit, "N", "list: at most so many", 1, LOCKSTEP_LIST_MAX},
        {"reason", 'r', OPT_TEXT, &options.reason, "TEXT", "retry, skip, compensate: why, for the audit record", 0, 0},
    };
    struct opt_operands operands;
    struct ls_error err;

    cmd_session_opts(&options.session, opts + 3);
    if (opt_parse(opts, CMD_SESSION_OPTS + 3, argc, argv, false, &operands, &err) != LS_OK)
        return cmd_usage(verb, "%s", err.text);
    if (options.session.help) {
        (void)fputs(usage, stdout);
        opt_help(stdout, opts, CMD_SESSION_OPTS + 3);
        (void)fputs(ending, stdout);
        return LS_EXIT_OK;
    }
    if (!cmd_parse_format(options.session.format, &options.format))
        return cmd_usage(verb, "unknown output format `%s`", options.session.format);
    return run(verb, actions, &options, &operands);
}

int cmd_saga(int argc, char **argv) {
    return main_of("saga", saga_usage, saga_actions, argc, argv);
}
int cmd_dlq(int argc, char **argv) {
    return main_of("dlq", dlq_usage, dlq_actions, argc, argv);
}
