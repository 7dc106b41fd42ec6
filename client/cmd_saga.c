/*
 * cmd_saga.c: `lockstep saga list|show|wait|cancel` and `lockstep dlq list|show|retry|skip|compensate|refuse`.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/cmd.h"
#include "client/listing.h"

#define ATTEMPTS 5u /* an unreachable coordinator is reported after about a second */
#define WAIT_DEFAULT_MS 60000u
#define EVENT_LETTERS_MAX 500u /* of choreographed sagas in one list, too */
#define CHOREOGRAPHED "choreographed"

static const char saga_usage[] = "usage: lockstep saga list [--state STATE] [--limit N]\n"
                                 "       lockstep saga show SAGA\n"
                                 "       lockstep saga wait SAGA [--timeout TIME]\n"
                                 "       lockstep saga cancel SAGA\n\n";
static const char dlq_usage[] =
    "usage: lockstep dlq list [--limit N]\n"
    "       lockstep dlq show SAGA|LETTER\n"
    "       lockstep dlq retry|skip|compensate|refuse SAGA|LETTER [--reason TEXT]\n\n"
    "Sagas that used up the attempts of a step wait here for a decision.\n"
    "  retry        try again where it got stuck, with all attempts\n"
    "  skip         the stuck step counts as done (or as undone): its work is yours to do\n"
    "  compensate   undo what was done; not behind the point of no return\n"
    "  refuse       the pivot, a call that does not answer, has not happened: undo (skip: it "
    "has)\n\n"
    "A LETTER is an event that a handler has refused for good, or that nobody wants; retry "
    "offers it again, skip passes\n"
    "over it, compensate does, too, and emits TYPE.failed, so that those before it "
    "can undo their part. Each keeps\n"
    "the order of its key.\n\n";
static const char ending[] =
    "\nExit status of show, wait and cancel: 0 completed, 4 compensated, 5 on its way or stuck;\n"
    "cancel ends with 4 when it is compensated now. retry, skip, compensate and refuse: 0 when it is done.\n";

struct saga_options {
    struct cmd_session session;
    const char *state, *reason;
    uint32_t limit;
    enum cmd_format format;
};

static const struct listing_column saga_columns[] = {
    {"SAGA", "saga"}, {"STATE", "state"}, {"APP", "app"}, {"STEP", "step"}, {"REASON", "reason"}};
static const struct listing_column flow_list_columns[] = {
    {"CHOREOGRAPHED", "flow"},    {"STATE", "state"},     {"BEGAN AT", "began_at"}, {"EVENTS", "events"},
    {"ON ITS WAY", "on_its_way"}, {"WAITING", "waiting"}, {"LATER", "later"},       {"DEAD", "dead"}};
static const struct listing_column letter_columns[] = {
    {"SAGA", "saga"},    {"STUCK IN", "stuck_in"},      {"CLASS", "error_class"},
    {"STEP", "step"},    {"FAILED", "failed_attempts"}, {"SQLSTATE", "sqlstate"},
    {"REASON", "reason"}};
static const struct listing_column event_letter_columns[] = {
    {"DEAD LETTER", "id"}, {"TYPE", "type"},       {"KEY", "key"},           {"VERSION", "version"},
    {"BEHIND", "behind"},  {"FAILED", "attempts"}, {"SQLSTATE", "sqlstate"}, {"REASON", "reason"}};
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

/* Who could not be asked, on stderr. */
static void print_missing(const struct lockstep_result *result) {
    json_t *body = cmd_body(result), *entry;
    size_t index;

    json_array_foreach(json_object_get(body, "missing"), index, entry) {
        const char *name = json_string_value(json_object_get(entry, "participant"));
        const char *reason = json_string_value(json_object_get(entry, "reason"));
        (void)fprintf(stderr, "lockstep: participant %s: %s\n", name != NULL ? name : "?",
                      reason != NULL ? reason : "");
    }
    json_decref(body);
}

/* Those that the coordinator drives, and, where people look, the choreographed ones as a second list. */
static int list_sagas(const struct saga_options *options, struct lockstep *client, const char *saga) {
    struct lockstep_result result;
    bool flows_only = options->state != NULL && strcmp(options->state, CHOREOGRAPHED) == 0;

    (void)saga;
    if (!flows_only) {
        (void)lockstep_sagas(client, options->state, options->limit, &result);
        int exit_status =
            finish("saga list", options, &result, "sagas", saga_columns, sizeof saga_columns / sizeof saga_columns[0]);
        if (exit_status != LS_EXIT_OK || options->state != NULL || options->format != CMD_TABLE) return exit_status;
    }
    uint32_t limit = options->limit > EVENT_LETTERS_MAX ? EVENT_LETTERS_MAX : options->limit;
    if (lockstep_flows(client, limit, &result) == LOCKSTEP_DENIED && !flows_only) { /* an application may not */
        lockstep_result_clear(&result);
        return LS_EXIT_OK;
    }
    if (!flows_only) (void)fputc('\n', stdout);
    print_missing(&result);
    return finish("saga list", options, &result, "flows", flow_list_columns,
                  sizeof flow_list_columns / sizeof flow_list_columns[0]);
}

/* For programs: one document, the events' letters beside the sagas'. */
static void print_letters(const struct lockstep_result *sagas, const struct lockstep_result *events) {
    json_t *all = cmd_body(sagas), *body = cmd_body(events);

    (void)json_object_set(all, "dead_events", json_object_get(body, "dead_letters"));
    (void)json_object_set(all, "missing", json_object_get(body, "missing"));
    cmd_print_json(all);
    json_decref(body);
    json_decref(all);
}

/* Sagas, and the events of choreography, of which every agent is asked; an application may not. */
static int list_letters(const struct saga_options *options, struct lockstep *client, const char *saga) {
    uint32_t limit = options->limit > EVENT_LETTERS_MAX ? EVENT_LETTERS_MAX : options->limit;
    struct lockstep_result sagas, events;

    (void)saga;
    (void)lockstep_dead_letters(client, options->limit, &sagas);
    enum lockstep_status status =
        sagas.status == LOCKSTEP_OK ? lockstep_event_letters(client, NULL, limit, &events) : LOCKSTEP_DENIED;
    if (status == LOCKSTEP_OK && options->format != CMD_TABLE) {
        print_letters(&sagas, &events);
        lockstep_result_clear(&sagas);
        lockstep_result_clear(&events);
        return LS_EXIT_OK;
    }
    bool asked = sagas.status == LOCKSTEP_OK;
    int exit_status = finish("dlq list", options, &sagas, "dead_letters", letter_columns,
                             sizeof letter_columns / sizeof letter_columns[0]);
    if (status == LOCKSTEP_DENIED) {
        if (asked) lockstep_result_clear(&events);
        return exit_status;
    }
    if (options->format == CMD_TABLE) (void)fputc('\n', stdout);
    print_missing(&events);
    return finish("dlq list", options, &events, "dead_letters", event_letter_columns,
                  sizeof event_letter_columns / sizeof event_letter_columns[0]);
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
        const char *service = json_string_value(json_object_get(entry, "call"));
        if (service != NULL) (void)json_object_set_new(entry, "on", json_sprintf("call %s", service));
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

static void print_json_of(const char *heading, const json_t *value) {
    char *text = json_is_null(value) ? NULL : json_dumps(value, JSON_INDENT(2) | JSON_ENCODE_ANY);

    if (text != NULL) (void)printf("\n%s: %s\n", heading, text);
    free(text);
}

/* With what was to be done: whoever decides about it must know. */
static void print_stuck(const struct lockstep_result *result, const char *saga) {
    json_t *body = cmd_body(result);

    print_saga(result, saga);
    print_json_of("payload", json_object_get(body, "document"));
    json_decref(body);
}

/* ---- choreography */

static const struct listing_column flow_columns[] = {
    {"AT", "at"},       {"PARTICIPANT", "participant"}, {"WHAT", "what"}, {"KEY", "key"},      {"VERSION", "version"},
    {"STATE", "state"}, {"ATTEMPTS", "attempts"},       {"FROM", "from"}, {"REASON", "reason"}};

static json_t *text_or_null(const json_t *object, const char *name) {
    const char *text = json_string_value(json_object_get(object, name));

    return text != NULL ? json_string(text) : json_null();
}

/* An event, a delivery or an event of later as a row of the path. */
static json_t *flow_row(const json_t *entry, const char *participant, const char *list) {
    bool event = strcmp(list, "events") == 0, later = strcmp(list, "later") == 0;
    const char *type = json_string_value(json_object_get(entry, "type"));
    const char *handler = json_string_value(json_object_get(entry, "handler"));
    const json_t *last = json_object_get(entry, "last");
    json_t *row = json_object();

    (void)json_object_set_new(row, "at", text_or_null(entry, later ? "due" : "at"));
    (void)json_object_set_new(row, "participant", json_string(participant));
    (void)json_object_set_new(
        row, "what",
        event || later ? json_sprintf("%s %s", later ? "later" : "emits", type != NULL ? type : "?")
                       : json_sprintf("  %s: %s", type != NULL ? type : "?", handler != NULL ? handler : "?"));
    (void)json_object_set_new(row, "key", text_or_null(entry, "key"));
    if (!later) (void)json_object_set(row, "version", json_object_get(entry, "version"));
    if (event) {
        bool unwanted = json_is_true(json_object_get(entry, "unwanted"));
        (void)json_object_set_new(row, "from", text_or_null(entry, "cause"));
        (void)json_object_set_new(row, "state", json_string(unwanted ? "unwanted" : ""));
    } else if (!later) {
        const char *source = json_string_value(json_object_get(entry, "source"));
        (void)json_object_set_new(row, "from",
                                  json_sprintf("%s/%" JSON_INTEGER_FORMAT, source != NULL ? source : "?",
                                               json_integer_value(json_object_get(entry, "position"))));
        (void)json_object_set_new(row, "state", text_or_null(entry, "state"));
        (void)json_object_set(row, "attempts", json_object_get(entry, "attempts"));
        (void)json_object_set_new(row, "reason", text_or_null(last, "reason"));
    }
    return row;
}

static int by_time(const void *a, const void *b) {
    const json_t *const *x = a, *const *y = b;
    const char *at = json_string_value(json_object_get(*x, "at")),
               *other = json_string_value(json_object_get(*y, "at"));

    return strcmp(at != NULL ? at : "", other != NULL ? other : "");
}

/* Rows in order of their times, which are those of several servers: the column FROM says what follows from what. */
static json_t *sorted(json_t *rows) {
    size_t count = json_array_size(rows);
    json_t **list = calloc(count + 1, sizeof *list), *out = json_array();

    if (list == NULL || out == NULL) abort();
    for (size_t i = 0; i < count; i++) list[i] = json_array_get(rows, i);
    qsort(list, count, sizeof *list, by_time);
    for (size_t i = 0; i < count; i++) (void)json_array_append(out, list[i]);
    free(list);
    json_decref(rows);
    return out;
}

static void print_flow(const struct lockstep_result *result, const char *saga) {
    static const char *const lists[] = {"events", "deliveries", "later"};
    json_t *body = cmd_body(result), *part, *entry, *rows = json_array();
    size_t index, n;

    json_array_foreach(json_object_get(body, "participants"), index, part) {
        const char *name = json_string_value(json_object_get(part, "participant"));
        for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
            json_array_foreach(json_object_get(json_object_get(part, "seen"), lists[i]), n, entry)(void)
                json_array_append_new(rows, flow_row(entry, name != NULL ? name : "?", lists[i]));
    }
    rows = sorted(rows);
    (void)printf("%s  choreographed\n\n", saga);
    listing_print_rows(rows, flow_columns, sizeof flow_columns / sizeof flow_columns[0]);
    print_missing(result);
    json_decref(rows);
    json_decref(body);
}

static void print_letter(const struct lockstep_result *result, const char *id) {
    json_t *body = cmd_body(result), *list = json_object_get(body, "dead_letters"), *letter = json_array_get(list, 0);

    if (letter == NULL) {
        (void)printf("%s is not a dead letter\n", id);
    } else {
        listing_print_rows(list, event_letter_columns, sizeof event_letter_columns / sizeof event_letter_columns[0]);
        print_json_of("payload", json_object_get(letter, "payload"));
        print_json_of("history", json_object_get(letter, "history"));
    }
    json_decref(body);
}

static int show_letter(const struct saga_options *options, struct lockstep *client, const char *id) {
    struct lockstep_result result;

    (void)lockstep_event_letters(client, id, 1, &result);
    return cmd_show_one("dlq show", &result, options->format, id, print_letter);
}

static void print_act(const struct lockstep_result *result, const char *id) {
    json_t *body = cmd_body(result);
    const char *act = json_string_value(json_object_get(body, "act"));

    (void)printf("%s: %s\n", id, act != NULL ? act : "?");
    json_decref(body);
}

/* What its steps have emitted, and what became of it, where somebody looks who may. */
static void show_events_of(struct lockstep *client, const char *saga) {
    struct lockstep_result flow;

    if (lockstep_flow(client, saga, &flow) == LOCKSTEP_OK) {
        (void)fputc('\n', stdout);
        print_flow(&flow, saga);
    }
    lockstep_result_clear(&flow);
}

static int show(const struct saga_options *options, struct lockstep *client, const char *saga) {
    struct lockstep_result result;
    bool hidden = false;

    if (strchr(saga, '/') != NULL) return show_letter(options, client, saga);
    (void)lockstep_saga(client, saga, 0, &result);
    if (result.http_status == 404) { /* not one that the coordinator drives */
        struct lockstep_result flow;
        if (lockstep_flow(client, saga, &flow) == LOCKSTEP_OK) {
            lockstep_result_clear(&result);
            return cmd_show_one("saga show", &flow, options->format, saga, print_flow);
        }
        hidden = flow.status == LOCKSTEP_DENIED;
        lockstep_result_clear(&flow);
    }
    int exit_status = cmd_show_one("saga show", &result, options->format, saga, print_saga);
    if (hidden) (void)fprintf(stderr, "lockstep saga show: a choreographed one is shown to an administrator\n");
    if (options->format == CMD_TABLE && exit_status != LS_EXIT_ERROR) show_events_of(client, saga);
    return exit_status;
}

static int show_stuck(const struct saga_options *options, struct lockstep *client, const char *saga) {
    struct lockstep_result result;

    if (strchr(saga, '/') != NULL) return show_letter(options, client, saga);
    (void)lockstep_saga(client, saga, 0, &result);
    int exit_status = cmd_show_one("dlq show", &result, options->format, saga, print_stuck);
    if (options->format == CMD_TABLE && exit_status != LS_EXIT_ERROR) show_events_of(client, saga);
    return exit_status;
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

    if (strchr(saga, '/') != NULL) { /* of choreography: participant/source/position/handler, participant/position */
        if (what == LOCKSTEP_ACT_REFUSE) return cmd_usage("dlq", "refuse: an event is retried, skipped or compensated");
        (void)lockstep_event_letter(client, saga, what, options->reason, &result);
        return cmd_show_one("dlq", &result, options->format, saga, print_act);
    }
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
static int refuse(const struct saga_options *options, struct lockstep *client, const char *saga) {
    return act(options, client, saga, LOCKSTEP_ACT_REFUSE);
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
static const struct action dlq_actions[] = {
    {"list", false, list_letters},    {"show", true, show_stuck}, {"retry", true, retry}, {"skip", true, skip},
    {"compensate", true, compensate}, {"refuse", true, refuse},   {NULL, false, NULL}};

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
         "saga list: only begun, running, passed, compensating, stuck, completed, compensated or choreographed", 0, 0},
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
