/*
 * cmd_pki.c: `lockstep pki init|issue|show|revoke`. The work is in pki.c.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/cmd.h"
#include "client/pki.h"
#include "client/table.h"

static const char usage[] =
    "usage: lockstep pki init                     make a certificate authority\n"
    "       lockstep pki issue ROLE NAME          make a key and a certificate of lockstep://ROLE/NAME\n"
    "       lockstep pki show                     list the certificates of the folder\n"
    "       lockstep pki revoke ROLE NAME         put a certificate on the revocation list (crl.pem)\n\n"
    "ROLE is coordinator, agent, app, admin or monitor and decides what the holder may do. NAME is the name of the\n"
    "coordinator, participant, application or person: letters, digits, _ and -.\n\n";
static const char ending[] =
    "\nNothing is overwritten. Keys are readable by their owner only: copy each to where its program runs, and keep\n"
    "ca.key somewhere else. Programs read crl.pem again on SIGHUP (`tls.crl`).\n";

struct pki_options {
    const char *dir, *format;
    struct opt_list hosts;
    uint32_t days;
    bool help;
    enum cmd_format output;
};

static int exit_of(enum ls_status status) {
    return status == LS_ERR_INVALID ? LS_EXIT_USAGE : LS_EXIT_ERROR;
}

static int say_files(const struct pki_options *options, const char *certificate, const char *key) {
    if (options->output == CMD_TABLE) {
        (void)printf("%s\n%s\n", certificate, key);
        return LS_EXIT_OK;
    }
    json_t *object = json_pack("{s:s, s:s}", "certificate", certificate, "key", key);
    cmd_print_json(object);
    json_decref(object);
    return LS_EXIT_OK;
}

static int init(const struct pki_options *options, char **names) {
    struct ls_error err;
    char certificate[PKI_PATH_MAX + 8], key[PKI_PATH_MAX + 8];

    (void)names;
    enum ls_status status = pki_init(options->dir, options->days > 0 ? options->days : PKI_DAYS_CA, &err);
    if (status != LS_OK) return cmd_fail("pki init", exit_of(status), "%s", err.text);
    (void)snprintf(certificate, sizeof certificate, "%s/ca.crt", options->dir);
    (void)snprintf(key, sizeof key, "%s/ca.key", options->dir);
    return say_files(options, certificate, key);
}

static int issue(const struct pki_options *options, char **names) {
    struct pki_request request = {.role = names[0],
                                  .name = names[1],
                                  .hosts = options->hosts.items,
                                  .host_count = options->hosts.count,
                                  .days = options->days > 0 ? options->days : PKI_DAYS_LEAF};
    char certificate[PKI_PATH_MAX], key[PKI_PATH_MAX];
    struct ls_error err;

    enum ls_status status = pki_issue(options->dir, &request, certificate, key, &err);
    if (status != LS_OK) return cmd_fail("pki issue", exit_of(status), "%s", err.text);
    return say_files(options, certificate, key);
}

static int revoke_one(const struct pki_options *options, char **names) {
    char serial[PKI_SERIAL_TEXT_MAX];
    struct ls_error err;

    enum ls_status status = pki_revoke(options->dir, names[0], names[1], serial, &err);
    if (status != LS_OK) return cmd_fail("pki revoke", exit_of(status), "%s", err.text);
    if (options->output == CMD_JSON) {
        json_t *object = json_pack("{s:s}", "serial", serial);
        cmd_print_json(object);
        json_decref(object);
    } else {
        (void)printf("revoked %s\n", serial);
    }
    return LS_EXIT_OK;
}

struct shown {
    struct table *table;
    json_t *array;
};

static void show_entry(void *context, const struct pki_entry *entry) {
    const struct shown *shown = context;
    const char *role = entry->authority                        ? "authority"
                       : entry->identity.role != TLS_ROLE_NONE ? tls_role_name(entry->identity.role)
                                                               : "?";
    const char *cells[] = {
        role,         entry->identity.name, pki_state_text(entry->state), entry->not_after, entry->serial,
        entry->hosts, entry->file};

    cmd_table_add(shown->table, cells);
    json_t *object = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "role", role, "name", entry->identity.name,
                               "state", pki_state_text(entry->state), "not_after", entry->not_after, "serial",
                               entry->serial, "hosts", entry->hosts, "file", entry->file);
    (void)json_array_append_new(shown->array, object); /* cannot happen but for memory, and then the list is short */
}

static int show(const struct pki_options *options, char **names) {
    static const char *const headings[] = {"ROLE", "NAME", "STATE", "UNTIL", "SERIAL", "HOSTS", "FILE", NULL};
    struct shown shown = {cmd_table_new(headings), json_array()};
    struct ls_error err;
    int exit_status = LS_EXIT_OK;

    (void)names;
    enum ls_status status = pki_list(options->dir, show_entry, &shown, &err);
    if (status != LS_OK)
        exit_status = cmd_fail("pki show", exit_of(status), "%s", err.text);
    else if (options->output == CMD_JSON)
        cmd_print_json(shown.array);
    else
        cmd_table_print(shown.table, stdout);
    cmd_table_free(shown.table);
    json_decref(shown.array);
    return exit_status;
}

static const struct action {
    const char *name;
    size_t operands;
    int (*run)(const struct pki_options *options, char **names);
} actions[] = {{"init", 0, init}, {"issue", 2, issue}, {"show", 0, show}, {"revoke", 2, revoke_one}};

static int run(const struct pki_options *options, const struct opt_operands *operands) {
    if (operands->count == 0) return cmd_usage("pki", "init, issue, show or revoke?");
    for (size_t i = 0; i < sizeof actions / sizeof actions[0]; i++) {
        const struct action *action = &actions[i];
        if (strcmp(action->name, operands->items[0]) != 0) continue;
        if (operands->count < 1 + action->operands)
            return cmd_usage("pki", "%s: ROLE and NAME are needed", action->name);
        if (operands->count > 1 + action->operands)
            return cmd_usage("pki", "%s: what is `%s`?", action->name, operands->items[1 + action->operands]);
        return action->run(options, operands->items + 1);
    }
    return cmd_usage("pki", "unknown action `%s`", operands->items[0]);
}

int cmd_pki(int argc, char **argv) {
    struct pki_options options = {.dir = getenv("LOCKSTEP_PKI"), .format = cmd_session_global.format};
    const struct opt opts[] = {
        {"dir", 'd', OPT_TEXT, &options.dir, "FOLDER", "where the authority lives ($LOCKSTEP_PKI, else pki)", 0, 0},
        {"host", 0, OPT_LIST, &options.hosts, "HOST", "issue: name or address the server is reached by (repeatable)", 0,
         0},
        {"days", 0, OPT_U32, &options.days, "N", "life time (authority 3650, certificates 825)", 1, PKI_DAYS_MAX},
        {"output", 'o', OPT_TEXT, &options.format, "FORMAT", "table or json", 0, 0},
        {"help", 'h', OPT_FLAG, &options.help, NULL, "this text", 0, 0},
    };
    struct opt_operands operands;
    struct ls_error err;

    if (opt_parse(opts, sizeof opts / sizeof opts[0], argc, argv, false, &operands, &err) != LS_OK)
        return cmd_usage("pki", "%s", err.text);
    if (options.help || cmd_session_global.help) {
        (void)fputs(usage, stdout);
        opt_help(stdout, opts, sizeof opts / sizeof opts[0]);
        (void)fputs(ending, stdout);
        return LS_EXIT_OK;
    }
    if (!cmd_parse_format(options.format, &options.output))
        return cmd_usage("pki", "unknown output format `%s`", options.format);
    if (options.dir == NULL || options.dir[0] == '\0') options.dir = "pki";
    return run(&options, &operands);
}
