/*
 * cmd_participants.c: `lockstep participants`: the databases a coordinator knows, and an operator's word that an
 * earlier decision log of it is lost for good. The latter works on the data directory of a coordinator that does not
 * run, since a coordinator whose log an agent refuses does not stay up (design 2.9).
 */
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/cmd.h"
#include "client/listing.h"
#include "coordinator/accept.h"

#define ATTEMPTS 5u
#define WHO_MAX 128

static const char usage[] =
    "usage: lockstep participants [list]\n"
    "       lockstep participants accept NAME --incarnation X --reason TEXT --data FOLDER\n\n"
    "list    the participants that ever joined, and whether their agents are there.\n"
    "accept  offline: the agent of NAME refuses this coordinator because it has seen a log of incarnation X, and that\n"
    "        log is lost for good. It will serve the present log from now on. Branches of the lost incarnation stay\n"
    "        prepared until a human ends them: nobody presumes how they were decided. Who, when and why are "
    "recorded.\n\n";
static const char ending[] = "\nNever accept because it helps to start: first look for the newest log. Whatever it had "
                             "decided is unknown here.\n";

struct participants_options {
    struct cmd_session session;
    const char *incarnation, *reason, *data;
    enum cmd_format format;
};

static const struct listing_column columns[] = {
    {"NAME", "name"},        {">NUMBER", "number"},      {"STATE", "state"},           {">CREDITS", "credits"},
    {">USED", "used"},       {">OPEN", "open_branches"}, {"SERVER", "server_version"}, {"DATABASE", "database"},
    {"SYSTEM", "system_id"}, {">TIMELINE", "timeline"}};

static int list(const struct participants_options *options) {
    struct lockstep *client;
    struct lockstep_result result;

    int exit_status = cmd_open("participants", &options->session, ATTEMPTS, &client);
    if (exit_status != LS_EXIT_OK) return exit_status;
    if (lockstep_participants(client, &result) != LOCKSTEP_OK)
        exit_status = cmd_report("participants", &result, options->format);
    else
        exit_status = listing_print("participants", &result, "participants", columns,
                                    sizeof columns / sizeof columns[0], options->format);
    lockstep_result_clear(&result);
    lockstep_close(client);
    return exit_status;
}

static int exit_of_accept(enum ls_status status) {
    if (status == LS_ERR_INVALID) return LS_EXIT_USAGE;
    if (status == LS_ERR_IO || status == LS_ERR_CORRUPT) return LS_EXIT_IO;
    return LS_EXIT_ERROR;
}

static int accept_one(const struct participants_options *options, const char *name) {
    char who[WHO_MAX];
    struct ls_error err;
    const struct passwd *account = getpwuid(getuid());

    if (options->incarnation == NULL)
        return cmd_usage("participants", "accept: --incarnation of the lost log is needed");
    if (options->reason == NULL || options->reason[0] == '\0')
        return cmd_usage("participants", "accept: --reason is needed, it is recorded");
    if (options->data == NULL)
        return cmd_usage("participants", "accept: --data, the data directory of the coordinator, is needed");
    (void)snprintf(who, sizeof who, "%s (uid %lu)", account != NULL ? account->pw_name : "?", (unsigned long)getuid());
    const struct accept_request request = {.data_dir = options->data,
                                           .participant = name,
                                           .incarnation = options->incarnation,
                                           .who = who,
                                           .reason = options->reason};
    enum ls_status status = accept_lost_log(&request, &err);
    if (status != LS_OK) return cmd_fail("participants", exit_of_accept(status), "%s", err.text);
    (void)printf("%s will serve this log although it has seen incarnation %s\n", name, options->incarnation);
    return LS_EXIT_OK;
}

static int run(const struct participants_options *options, const struct opt_operands *operands) {
    const char *action = operands->count > 0 ? operands->items[0] : "list";
    bool accept = strcmp(action, "accept") == 0;
    size_t wanted = accept ? 2 : 1;

    if (!accept && strcmp(action, "list") != 0) return cmd_usage("participants", "unknown action `%s`", action);
    if (operands->count > wanted) return cmd_usage("participants", "what is `%s`?", operands->items[wanted]);
    if (accept && operands->count < wanted) return cmd_usage("participants", "accept: which participant?");
    if (!accept && (options->incarnation != NULL || options->reason != NULL || options->data != NULL))
        return cmd_usage("participants", "--incarnation, --reason and --data belong to accept");
    return accept ? accept_one(options, operands->items[1]) : list(options);
}

int cmd_participants(int argc, char **argv) {
    struct participants_options options = {.session = cmd_session_global};
    struct opt opts[CMD_SESSION_OPTS + 3] = {
        {"incarnation", 0, OPT_TEXT, &options.incarnation, "X", "accept: of the lost log", 0, 0},
        {"reason", 0, OPT_TEXT, &options.reason, "TEXT", "accept: for the record", 0, 0},
        {"data", 0, OPT_TEXT, &options.data, "FOLDER", "accept: data directory of the coordinator, which must not run",
         0, 0},
    };
    struct opt_operands operands;
    struct ls_error err;

    cmd_session_opts(&options.session, opts + 3);
    if (opt_parse(opts, CMD_SESSION_OPTS + 3, argc, argv, false, &operands, &err) != LS_OK)
        return cmd_usage("participants", "%s", err.text);
    if (options.session.help) {
        (void)fputs(usage, stdout);
        opt_help(stdout, opts, CMD_SESSION_OPTS + 3);
        (void)fputs(ending, stdout);
        return LS_EXIT_OK;
    }
    if (!cmd_parse_format(options.session.format, &options.format))
        return cmd_usage("participants", "unknown output format `%s`", options.session.format);
    return run(&options, &operands);
}
