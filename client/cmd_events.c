/*
 * cmd_events.c: `lockstep events PARTICIPANT`.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/cmd.h"
#include "client/listing.h"
#include "common/text.h"

#define ATTEMPTS 5u /* an unreachable coordinator is reported after about a second */
#define LIMIT_MAX 1000u
#define SHOWN_MAX 80u /* bytes of a payload in the column */

static const char usage[] =
    "usage: lockstep events PARTICIPANT [--type TYPE] [--key KEY] [--offset N] [--limit N]\n\n"
    "Events in a stable order; `--offset` goes on behind one, and who goes on misses nothing.\n\n";

static const struct listing_column columns[] = {{"OFFSET", "offset"}, {"AT", "at"},           {"TYPE", "type"},
                                                {"KEY", "key"},       {"VERSION", "version"}, {"SAGA", "saga"},
                                                {"CAUSE", "cause"},   {"PAYLOAD", "shown"}};

/* The payload as text, for a column. */
static void add_payloads(json_t *events) {
    json_t *event;
    size_t index;

    json_array_foreach(events, index, event) {
        char *text = json_dumps(json_object_get(event, "payload"), JSON_COMPACT | JSON_ENCODE_ANY);
        if (text != NULL)
            (void)json_object_set_new(event, "shown",
                                      json_sprintf("%.*s%s", (int)text_cut(text, strlen(text), SHOWN_MAX), text,
                                                   strlen(text) > SHOWN_MAX ? "..." : ""));
        free(text);
    }
}

static void print_events(const struct lockstep_result *result, const char *participant) {
    json_t *body = cmd_body(result);

    (void)participant;
    add_payloads(json_object_get(body, "events"));
    listing_print_rows(json_object_get(body, "events"), columns, sizeof columns / sizeof columns[0]);
    (void)printf("\nnext: --offset %" JSON_INTEGER_FORMAT "\n", json_integer_value(json_object_get(body, "next")));
    json_decref(body);
}

int cmd_events(int argc, char **argv) {
    struct cmd_session session = cmd_session_global;
    const char *type = NULL, *key = NULL, *offset_text = "0";
    uint32_t limit = 100;
    struct opt opts[CMD_SESSION_OPTS + 4] = {
        {"type", 0, OPT_TEXT, &type, "TYPE", "only this type", 0, 0},
        {"key", 'k', OPT_TEXT, &key, "KEY", "only this key", 0, 0},
        {"offset", 0, OPT_TEXT, &offset_text, "N", "behind this one (0)", 0, 0},
        {"limit", 'n', OPT_U32, &limit, "N", "at most so many (100)", 1, LIMIT_MAX},
    };
    struct opt_operands operands;
    struct lockstep_result result;
    struct lockstep *client;
    enum cmd_format format;
    struct ls_error err;
    char *end;

    cmd_session_opts(&session, opts + 4);
    if (opt_parse(opts, CMD_SESSION_OPTS + 4, argc, argv, false, &operands, &err) != LS_OK)
        return cmd_usage("events", "%s", err.text);
    if (session.help) {
        (void)fputs(usage, stdout);
        opt_help(stdout, opts, CMD_SESSION_OPTS + 4);
        return LS_EXIT_OK;
    }
    if (!cmd_parse_format(session.format, &format))
        return cmd_usage("events", "unknown output format `%s`", session.format);
    if (operands.count != 1) return cmd_usage("events", "of which participant?");
    unsigned long long offset = strtoull(offset_text, &end, 10);
    if (offset_text[0] < '0' || offset_text[0] > '9' || *end != '\0')
        return cmd_usage("events", "--offset: not a number: `%s`", offset_text);
    int exit_status = cmd_open("events", &session, ATTEMPTS, &client);
    if (exit_status != LS_EXIT_OK) return exit_status;
    (void)lockstep_events(client, operands.items[0], type, key, offset, limit, &result);
    exit_status = cmd_show_one("events", &result, format, operands.items[0], print_events);
    lockstep_close(client);
    return exit_status;
}
