/*
 * main.c: the `lockstep` command. One table of verbs; everything else is in
 * cmd_*.c.
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "client/cmd.h"

static const struct verb {
  const char *name, *what;
  int (*run)(int argc, char **argv);
} verbs[] = {
    {"run", "run a transaction described by a JSON document", cmd_run},
    {"tx", "list, show, wait for or abort transactions", cmd_tx},
    {"saga", "list, show or cancel sagas", cmd_saga},
    {"dlq", "stuck sagas and dead events: list, show, retry, skip", cmd_dlq},
    {"events", "list the events of a participant", cmd_events},
    {"participants",
     "list the databases, or accept a coordinator whose log was lost",
     cmd_participants},
    {"log", "verify, dump or measure a decision log, offline", cmd_log},
    {"init-participant", "what a database needs, printed or applied",
     cmd_init_participant},
    {"pki", "certificates: make an authority, issue, show, revoke", cmd_pki},
    {"top", "what the coordinator does at this moment, on the screen", cmd_top},
    {"lab", "the failure laboratory: faults on real servers, measured", cmd_lab},
};
#define VERB_COUNT (sizeof verbs / sizeof verbs[0])

static void print_help(const struct opt *opts) {
  (void)printf(
      "usage: lockstep [options] COMMAND [options]\n\n"
      "One transaction on several PostgreSQL databases, or on none.\n\n");
  for (size_t i = 0; i < VERB_COUNT; i++)
    (void)printf("  %-18s %s\n", verbs[i].name, verbs[i].what);
  (void)printf("\nOptions of the commands that talk to a coordinator:\n");
  opt_help(stdout, opts, CMD_SESSION_OPTS);
  (void)printf(
      "      --version                this program's version\n\n"
      "Exit status: 0 ok, 1 error, 2 usage, 3 unreachable, 4 aborted, 5 "
      "outcome unknown, 6 orphans found,\n"
      "7 hazard, 78 configuration. `lockstep COMMAND --help` says more.\n");
}

/* Everything that was printed must have arrived: a full disk is no success. */
static int finish(int exit_status) {
  if (fflush(stdout) == 0 && !ferror(stdout))
    return exit_status;
  return cmd_fail(NULL, exit_status == LS_EXIT_OK ? LS_EXIT_ERROR : exit_status,
                  "cannot write the output");
}

int main(int argc, char **argv) {
  struct opt opts[CMD_SESSION_OPTS + 1];
  struct opt_operands operands;
  struct ls_error err;
  bool version = false;

  (void)umask(0077);
  cmd_session_opts(&cmd_session_global, opts);
  opts[CMD_SESSION_OPTS] =
      (struct opt){"version", 'V', OPT_FLAG, &version, NULL, "", 0, 0};
  if (opt_parse(opts, CMD_SESSION_OPTS + 1, argc, argv, true, &operands,
                &err) != LS_OK)
    return cmd_usage(NULL, "%s", err.text);
  if (version) {
    (void)printf("lockstep %s\n", LOCKSTEP_VERSION);
    return finish(LS_EXIT_OK);
  }
  if (cmd_session_global.help ||
      (operands.count > 0 && strcmp(operands.items[0], "help") == 0)) {
    print_help(opts);
    return finish(LS_EXIT_OK);
  }
  if (operands.count == 0)
    return cmd_usage(NULL, "no command given");
  for (size_t i = 0; i < VERB_COUNT; i++)
    if (strcmp(verbs[i].name, operands.items[0]) == 0)
      return finish(verbs[i].run((int)operands.count, operands.items));
  return cmd_usage(NULL, "unknown command `%s`", operands.items[0]);
}
