/*
 * cmd.h: the verbs of the `lockstep` command and what they share. Each verb takes argv from its own name on and returns
 * an enum ls_exit.
 */
#ifndef CLIENT_CMD_H
#define CLIENT_CMD_H

#include <jansson.h>
#include <stdbool.h>

#include "client/opt.h"
#include "lockstep/lockstep.h"
#include "lockstep/status.h"

int cmd_run(int argc, char **argv);
int cmd_tx(int argc, char **argv);
int cmd_saga(int argc, char **argv);
int cmd_dlq(int argc, char **argv);
int cmd_events(int argc, char **argv);
int cmd_participants(int argc, char **argv);
int cmd_log(int argc, char **argv);
int cmd_init_participant(int argc, char **argv);
int cmd_pki(int argc, char **argv);
int cmd_lab(int argc, char **argv);
int cmd_top(int argc, char **argv);

/* ---- saying what went wrong ---- */

/* "lockstep VERB: text" on stderr; returns `exit_status`. */
int cmd_fail(const char *verb, int exit_status, const char *format, ...) LS_PRINTF(3, 4);
/* The same for a wrong command line, with a pointer to --help; returns LS_EXIT_USAGE. */
int cmd_usage(const char *verb, const char *format, ...) LS_PRINTF(2, 3);

/* ---- output ---- */

enum cmd_format { CMD_TABLE, CMD_JSON };
/* `word` NULL: table. false: unknown word. */
bool cmd_parse_format(const char *word, enum cmd_format *ret_format);
/* Prints a JSON value and a line feed to stdout. */
void cmd_print_json(const json_t *value);

/* ---- where the coordinator is: command line, then environment, then file ---- */

struct cmd_session {
    const char *config, *url, *ca, *certificate, *key, *crl, *coordinator, *format;
    uint32_t timeout_ms;
    bool help;
};
/* The session's options, to stand in a verb's table; the count is CMD_SESSION_OPTS. */
#define CMD_SESSION_OPTS 10
void cmd_session_opts(struct cmd_session *session, struct opt opts[CMD_SESSION_OPTS]);
/* What was given before the verb. Verbs begin with a copy of it. */
extern struct cmd_session cmd_session_global;
/* Makes a client; `attempts_max` 0: the library's default. On failure says why and returns the exit status. */
int cmd_open(const char *verb, const struct cmd_session *session, uint32_t attempts_max, struct lockstep **ret_client);

/* ---- results ---- */

/* The exit status of a result: outcome and status together. */
int cmd_exit_of(const struct lockstep_result *result);
/* The body as JSON, or NULL. The caller decrefs. */
json_t *cmd_body(const struct lockstep_result *result);
/* Says a call's failure on stderr (and, with -o json, as an object on stdout); returns the exit status. */
int cmd_report(const char *verb, const struct lockstep_result *result, enum cmd_format format);
/* Prints what the coordinator said of one thing, for people by `print`; consumes the result, returns the exit status.
 */
int cmd_show_one(const char *verb, struct lockstep_result *result, enum cmd_format format, const char *name,
                 void (*print)(const struct lockstep_result *result, const char *name));

#endif
