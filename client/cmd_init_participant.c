/*
 * cmd_init_participant.c: `lockstep init-participant`: prints, or with --apply runs, what a database needs before an
 * agent can serve it. The SQL itself is in participant/pg/schema.c.
 */
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/cmd.h"
#include "common/text.h"
#include "participant/pg/schema.h"

#define VERB "init-participant"
#define DEFAULT_AGENT_ROLE "lockstep_agent"

static const char usage[] =
    "usage: lockstep init-participant [--agent-role ROLE] [--app-role ROLE]...                    print the SQL\n"
    "       lockstep init-participant [--agent-role ROLE] [--app-role ROLE]... --apply CONNINFO   run it\n\n"
    "Makes the schema `lockstep` in one database, with the rights of the agent's role and of the roles that "
    "applications\n"
    "run as. A superuser of that database runs it; running it again changes nothing. The agent's role is made if it "
    "is\n"
    "missing (it may log in and has no password); application roles must be there.\n\n";
static const char ending[] =
    "\nCONNINFO is a libpq connection string, or service=NAME; passwords come from the passfile. The server also "
    "needs\n"
    "max_prepared_transactions > 0 (a restart), and pg_hba.conf must let these roles in from where the agent runs.\n";

struct init_options {
    const char *agent_role, *conninfo;
    struct opt_list app_roles;
    bool help;
};

/* A password on the command line is seen by every user of the machine. */
static bool has_password(const char *conninfo) {
    PQconninfoOption *options = PQconninfoParse(conninfo, NULL);
    bool found = false;
    for (const PQconninfoOption *option = options; option != NULL && option->keyword != NULL; option++)
        found |= option->val != NULL &&
                 (strcmp(option->keyword, "password") == 0 || strcmp(option->keyword, "sslpassword") == 0);
    PQconninfoFree(options);
    return found;
}

static void on_notice(void *context, const char *message) {
    (void)context;
    (void)fputs(message, stderr);
}

static int fail_with(const char *message) {
    char line[LS_ERROR_TEXT_MAX];
    text_copy_line(line, sizeof line, message);
    return cmd_fail(VERB, LS_EXIT_ERROR, "%s", line);
}

static int apply(const char *conninfo, const char *sql) {
    if (has_password(conninfo)) return cmd_usage(VERB, "no password in the connection string, use a passfile");
    const char *const keywords[] = {"dbname", "client_encoding", "application_name", NULL};
    const char *const values[] = {conninfo, "UTF8", "lockstep init-participant", NULL};
    PGconn *pg = PQconnectdbParams(keywords, values, 1);
    int exit_status = LS_EXIT_OK;
    if (PQstatus(pg) != CONNECTION_OK) {
        exit_status = fail_with(PQerrorMessage(pg));
    } else {
        (void)PQsetNoticeProcessor(pg, on_notice, NULL);
        PGresult *result = PQexec(pg, sql); /* one transaction: whole or not at all */
        if (PQresultStatus(result) != PGRES_COMMAND_OK) exit_status = fail_with(PQresultErrorMessage(result));
        PQclear(result);
    }
    if (exit_status == LS_EXIT_OK) (void)printf("schema lockstep is in place in database %s\n", PQdb(pg));
    PQfinish(pg);
    return exit_status;
}

int cmd_init_participant(int argc, char **argv) {
    struct init_options options = {.agent_role = DEFAULT_AGENT_ROLE};
    const struct opt opts[] = {
        {"agent-role", 0, OPT_TEXT, &options.agent_role, "ROLE",
         "database role that the agent logs in as (default: " DEFAULT_AGENT_ROLE ")", 0, 0},
        {"app-role", 0, OPT_LIST, &options.app_roles, "ROLE",
         "database role that applications run as; may be given several times", 0, 0},
        {"apply", 0, OPT_TEXT, &options.conninfo, "CONNINFO", "run it there instead of printing it", 0, 0},
        {"help", 'h', OPT_FLAG, &options.help, NULL, "this text", 0, 0},
    };
    enum { COUNT = sizeof opts / sizeof opts[0] };
    struct opt_operands operands;
    struct ls_error err;
    char *sql;

    if (opt_parse(opts, COUNT, argc, argv, false, &operands, &err) != LS_OK) return cmd_usage(VERB, "%s", err.text);
    if (options.help) {
        (void)fputs(usage, stdout);
        opt_help(stdout, opts, COUNT);
        (void)fputs(ending, stdout);
        return LS_EXIT_OK;
    }
    if (operands.count > 0) return cmd_usage(VERB, "unexpected argument `%s`", operands.items[0]);
    enum ls_status status =
        pg_schema_sql(options.agent_role, options.app_roles.items, options.app_roles.count, &sql, &err);
    if (status == LS_ERR_INVALID) return cmd_usage(VERB, "%s", err.text);
    if (status != LS_OK) return cmd_fail(VERB, LS_EXIT_ERROR, "%s", err.text);
    int exit_status = LS_EXIT_OK;
    if (options.conninfo != NULL)
        exit_status = apply(options.conninfo, sql);
    else if (fputs(sql, stdout) == EOF)
        exit_status = cmd_fail(VERB, LS_EXIT_ERROR, "cannot write");
    free(sql);
    return exit_status;
}
