/*
 * cmd_tx.c: `lockstep tx list|show|wait|abort`: what became of transactions.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/cmd.h"
#include "client/listing.h"

#define ATTEMPTS 5u /* an unreachable coordinator is reported after about a second */
#define WAIT_DEFAULT_MS 60000u

static const char usage[] = "usage: lockstep tx list [--state STATE] [--limit N]\n"
                            "       lockstep tx show GTID\n"
                            "       lockstep tx wait GTID [--for applied|decided] [--timeout TIME]\n"
                            "       lockstep tx abort GTID\n\n";
static const char ending[] =
    "\nshow lists, for an administrator, what each prepared branch holds and which sessions wait behind it.\n"
    "Exit status of show, wait and abort: 0 committed, 4 aborted, 5 not known yet, 7 hazard;\n"
    "abort ends with 4 when the transaction is aborted now, and with 0 when it had committed.\n";

struct tx_options {
    struct cmd_session session;
    const char *state;
    enum lockstep_wait wait;
    uint32_t limit;
    enum cmd_format format;
};

static const struct listing_column columns[] = {{"GTID", "gtid"}, {"STATE", "state"}, {"PHASE", "phase"},
                                                {"APP", "app"},   {"AGE", "age_ms"},  {"OUTSTANDING", "outstanding"}};
static const struct listing_column branch_columns[] = {
    {"PARTICIPANT", "participant"}, {"STATE", "state"}, {"XID", "xid"}, {"GID", "gid"}};

static int list(const struct tx_options *options, struct lockstep *client, const char *gtid) {
    struct lockstep_result result;

    (void)gtid;
    if (lockstep_list(client, options->state, options->limit, &result) != LOCKSTEP_OK) {
        int exit_status = cmd_report("tx list", &result, options->format);
        lockstep_result_clear(&result);
        return exit_status;
    }
    int exit_status =
        listing_print("tx list", &result, "transactions", columns, sizeof columns / sizeof columns[0], options->format);
    lockstep_result_clear(&result);
    return exit_status;
}

static const struct listing_column session_columns[] = {
    {">PID", "pid"},    {"USER", "user"}, {"APPLICATION", "application"}, {"WAITS", "waits_ms"}, {"OPEN", "open_ms"},
    {"WANTS", "wants"}, {"ON", "on"},     {">DISTANCE", "distance"},      {"BEHIND", "behind"},
};

static json_int_t number(const json_t *object, const char *name) {
    return json_integer_value(json_object_get(object, name));
}

static void print_locks(const json_t *locks) {
    json_t *lock;
    size_t index;

    json_array_foreach(locks, index, lock) {
        const char *on = json_string_value(json_object_get(lock, "on"));
        (void)printf("%s%s on %s", index > 0 ? ", " : "  holds ", json_string_value(json_object_get(lock, "mode")),
                     on != NULL ? on : json_string_value(json_object_get(lock, "type")));
    }
    if (json_array_size(locks) > 0) (void)printf(", and the rows it has written\n");
}

/* One prepared branch: what it holds, who waits behind it, what may be done. */
static void print_blocking(const json_t *branch) {
    const json_t *blocking = json_object_get(branch, "blocking");
    const char *participant = json_string_value(json_object_get(branch, "participant"));
    const char *unknown = json_string_value(json_object_get(blocking, "unknown"));

    if (blocking == NULL) return;
    if (unknown != NULL) {
        (void)printf("\n%s: what it blocks cannot be said: %s\n", participant, unknown);
    } else if (!json_is_true(json_object_get(blocking, "prepared"))) {
        (void)printf("\n%s: not prepared there at this moment\n", participant);
    } else {
        (void)printf("\n%s: prepared since %s (%.1f s)\n", participant,
                     json_string_value(json_object_get(blocking, "since")), (double)number(blocking, "held_ms") / 1000);
        print_locks(json_object_get(blocking, "locks"));
        (void)printf("  holds vacuum back by %" JSON_INTEGER_FORMAT " transactions (age of its xid)\n"
                     "  %" JSON_INTEGER_FORMAT " of %" JSON_INTEGER_FORMAT " prepared transactions in use\n",
                     number(blocking, "xmin_age"), number(blocking, "slots_used"), number(blocking, "slots"));
        (void)printf("  %" JSON_INTEGER_FORMAT " sessions wait behind it\n", number(blocking, "waiting"));
    }
    (void)printf("  safe: %s\n", json_string_value(json_object_get(branch, "safe")));
    if (number(blocking, "waiting") > 0)
        listing_print_rows(json_object_get(blocking, "sessions"), session_columns,
                           sizeof session_columns / sizeof session_columns[0]);
}

static void print_transaction(const struct lockstep_result *result, const char *gtid) {
    json_t *body = cmd_body(result);
    const json_t *branches = json_object_get(body, "branches");

    (void)printf("%s  %s%s\n", result->gtid[0] != '\0' ? result->gtid : gtid, lockstep_outcome_text(result->outcome),
                 result->outcome != LOCKSTEP_COMMITTED ? ""
                 : result->applied                     ? ", applied"
                                                       : ", not applied everywhere yet");
    if (result->reason[0] != '\0')
        (void)printf("%s%s%s%s%s\n", result->participant, result->participant[0] != '\0' ? ": " : "", result->sqlstate,
                     result->sqlstate[0] != '\0' ? " " : "", result->reason);
    if (json_array_size(branches) > 0) {
        (void)fputc('\n', stdout);
        listing_print_rows(branches, branch_columns, sizeof branch_columns / sizeof branch_columns[0]);
    }
    const json_t *branch;
    size_t index;
    json_array_foreach(branches, index, branch) {
        print_blocking(branch);
    }
    json_decref(body);
}

/* An application may know what became of its transaction, and not who waits behind it. */
static int show(const struct tx_options *options, struct lockstep *client, const char *gtid) {
    struct lockstep_result result;

    if (lockstep_blocking(client, gtid, &result) == LOCKSTEP_DENIED && result.http_status == 403) {
        lockstep_result_clear(&result);
        (void)lockstep_get(client, gtid, LOCKSTEP_WAIT_APPLIED, 0, &result);
    }
    return cmd_show_one("tx show", &result, options->format, gtid, print_transaction);
}

static int wait_for(const struct tx_options *options, struct lockstep *client, const char *gtid) {
    struct lockstep_result result;
    uint32_t wait_ms = options->session.timeout_ms > 0 ? options->session.timeout_ms : WAIT_DEFAULT_MS;

    (void)lockstep_get(client, gtid, options->wait, wait_ms, &result);
    return cmd_show_one("tx wait", &result, options->format, gtid, print_transaction);
}

static int abort_one(const struct tx_options *options, struct lockstep *client, const char *gtid) {
    struct lockstep_result result;

    (void)lockstep_abort(client, gtid, &result);
    return cmd_show_one("tx abort", &result, options->format, gtid, print_transaction);
}

static const struct action {
    const char *name;
    bool wants_gtid;
    int (*run)(const struct tx_options *options, struct lockstep *client, const char *gtid);
} actions[] = {{"list", false, list}, {"show", true, show}, {"wait", true, wait_for}, {"abort", true, abort_one}};

static int run(const struct tx_options *options, const struct opt_operands *operands) {
    struct lockstep *client;

    if (operands->count == 0) return cmd_usage("tx", "list, show, wait or abort?");
    for (size_t i = 0; i < sizeof actions / sizeof actions[0]; i++) {
        const struct action *action = &actions[i];
        if (strcmp(action->name, operands->items[0]) != 0) continue;
        size_t wanted = action->wants_gtid ? 2 : 1;
        if (operands->count < wanted) return cmd_usage("tx", "%s: of which transaction? (a gtid)", action->name);
        if (operands->count > wanted)
            return cmd_usage("tx", "%s: what is `%s`?", action->name, operands->items[wanted]);
        int exit_status = cmd_open("tx", &options->session, ATTEMPTS, &client);
        if (exit_status != LS_EXIT_OK) return exit_status;
        exit_status = action->run(options, client, action->wants_gtid ? operands->items[1] : NULL);
        lockstep_close(client);
        return exit_status;
    }
    return cmd_usage("tx", "unknown action `%s`", operands->items[0]);
}

int cmd_tx(int argc, char **argv) {
    struct tx_options options = {.session = cmd_session_global};
    const char *wait_word = "applied";
    struct opt opts[CMD_SESSION_OPTS + 3] = {
        {"state", 's', OPT_TEXT, &options.state, "STATE", "list: only pending, committed, aborted or hazard", 0, 0},
        {"limit", 'n', OPT_U32, &options.limit, "N", "list: at most so many", 1, LOCKSTEP_LIST_MAX},
        {"for", 'f', OPT_TEXT, &wait_word, "WHAT", "wait: for applied (default) or decided", 0, 0},
    };
    struct opt_operands operands;
    struct ls_error err;

    cmd_session_opts(&options.session, opts + 3);
    if (opt_parse(opts, CMD_SESSION_OPTS + 3, argc, argv, false, &operands, &err) != LS_OK)
        return cmd_usage("tx", "%s", err.text);
    if (options.session.help) {
        (void)fputs(usage, stdout);
        opt_help(stdout, opts, CMD_SESSION_OPTS + 3);
        (void)fputs(ending, stdout);
        return LS_EXIT_OK;
    }
    if (!cmd_parse_format(options.session.format, &options.format))
        return cmd_usage("tx", "unknown output format `%s`", options.session.format);
    if (strcmp(wait_word, "decided") == 0)
        options.wait = LOCKSTEP_WAIT_DECIDED;
    else if (strcmp(wait_word, "applied") != 0)
        return cmd_usage("tx", "--for: `%s` is neither applied nor decided", wait_word);
    return run(&options, &operands);
}
