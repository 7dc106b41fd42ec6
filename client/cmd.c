/*
 * cmd.c: what the verbs share: settings, formats, exit statuses. See cmd.h.
 */
#include "client/cmd.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/conf.h"

#define SYSTEM_CONFIG "/etc/lockstep/lockstep.yaml"

struct cmd_session cmd_session_global;

static void say(const char *verb, const char *format, va_list args) __attribute__((format(printf, 2, 0)));

static void say(const char *verb, const char *format, va_list args) {
    (void)fprintf(stderr, "lockstep%s%s: ", verb != NULL ? " " : "", verb != NULL ? verb : "");
    (void)vfprintf(stderr, format, args);
    (void)fputc('\n', stderr);
}

int cmd_fail(const char *verb, int exit_status, const char *format, ...) {
    va_list args;

    va_start(args, format);
    say(verb, format, args);
    va_end(args);
    return exit_status;
}

int cmd_usage(const char *verb, const char *format, ...) {
    va_list args;

    va_start(args, format);
    say(verb, format, args);
    va_end(args);
    (void)fprintf(stderr, "Try `lockstep%s%s --help`.\n", verb != NULL ? " " : "", verb != NULL ? verb : "");
    return LS_EXIT_USAGE;
}

/* --------------------------------------------------------------------- output */

bool cmd_parse_format(const char *word, enum cmd_format *ret_format) {
    if (word == NULL || strcmp(word, "table") == 0)
        *ret_format = CMD_TABLE;
    else if (strcmp(word, "json") == 0)
        *ret_format = CMD_JSON;
    else
        return false;
    return true;
}

void cmd_print_json(const json_t *value) {
    (void)json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
    (void)fputc('\n', stdout);
}

/* ------------------------------------------------------------------- settings */

struct settings {
    char *url, *ca, *certificate, *key, *crl, *coordinator;
};
#define AT(field) offsetof(struct settings, field)
static const struct conf_key setting_keys[] = {
    {"url", CONF_STRING, AT(url), NULL, false, 0, LOCKSTEP_URL_MAX, "the coordinator: https://host:port or unix:/path"},
    {"coordinator", CONF_NAME, AT(coordinator), NULL, false, 0, LOCKSTEP_PARTICIPANT_MAX,
     "refuse a coordinator of another name"},
    {"tls.ca", CONF_STRING, AT(ca), NULL, false, 0, 0, "certificate authority (PEM)"},
    {"tls.certificate", CONF_STRING, AT(certificate), NULL, false, 0, 0, "our certificate (PEM)"},
    {"tls.key", CONF_STRING, AT(key), NULL, false, 0, 0, "its private key (PEM)"},
    {"tls.crl", CONF_STRING, AT(crl), NULL, false, 0, 0, "revocation list (PEM)"},
};
#define SETTING_COUNT (sizeof setting_keys / sizeof setting_keys[0])

void cmd_session_opts(struct cmd_session *session, struct opt opts[CMD_SESSION_OPTS]) {
    const struct opt table[CMD_SESSION_OPTS] = {
        {"url", 'u', OPT_TEXT, &session->url, "URL", "https://host:port or unix:/path ($LOCKSTEP_URL)", 0, 0},
        {"ca", 0, OPT_TEXT, &session->ca, "FILE", "certificate authority ($LOCKSTEP_TLS_CA)", 0, 0},
        {"cert", 0, OPT_TEXT, &session->certificate, "FILE", "our certificate ($LOCKSTEP_TLS_CERTIFICATE)", 0, 0},
        {"cert-key", 0, OPT_TEXT, &session->key, "FILE", "its private key ($LOCKSTEP_TLS_KEY)", 0, 0},
        {"crl", 0, OPT_TEXT, &session->crl, "FILE", "revocation list ($LOCKSTEP_TLS_CRL)", 0, 0},
        {"coordinator", 0, OPT_TEXT, &session->coordinator, "NAME",
         "refuse a coordinator of another name ($LOCKSTEP_COORDINATOR)", 0, 0},
        {"config", 'c', OPT_TEXT, &session->config, "FILE", "settings ($LOCKSTEP_CONFIG, else " SYSTEM_CONFIG ")", 0,
         0},
        {"timeout", 't', OPT_MS, &session->timeout_ms, "TIME", "for the whole call, 500ms to 24h (60s)", 1,
         LOCKSTEP_TIMEOUT_MS_MAX},
        {"output", 'o', OPT_TEXT, &session->format, "FORMAT", "table or json", 0, 0},
        {"help", 'h', OPT_FLAG, &session->help, NULL, "this text", 0, 0},
    };

    memcpy(opts, table, sizeof table);
}

static const char *first(const char *given, const char *otherwise) {
    if (given != NULL) return given;
    return otherwise != NULL && otherwise[0] != '\0' ? otherwise : NULL;
}

static const char *config_file(const struct cmd_session *session) {
    const char *file = first(session->config, getenv("LOCKSTEP_CONFIG"));

    if (file == NULL && access(SYSTEM_CONFIG, R_OK) == 0) file = SYSTEM_CONFIG;
    return file;
}

int cmd_open(const char *verb, const struct cmd_session *session, uint32_t attempts_max, struct lockstep **ret_client) {
    struct settings settings = {0};
    struct lockstep_options options;
    struct ls_error err;
    char text[LOCKSTEP_TEXT_MAX];

    if (conf_load(config_file(session), setting_keys, SETTING_COUNT, &settings, &err) != LS_OK)
        return cmd_fail(verb, LS_EXIT_CONFIG, "%s", err.text);
    lockstep_options_init(&options);
    options.url = first(session->url, settings.url);
    options.ca_file = first(session->ca, settings.ca);
    options.cert_file = first(session->certificate, settings.certificate);
    options.key_file = first(session->key, settings.key);
    options.crl_file = first(session->crl, settings.crl);
    options.coordinator = first(session->coordinator, settings.coordinator);
    if (session->timeout_ms > 0) options.timeout_ms = session->timeout_ms;
    if (attempts_max > 0) options.attempts_max = attempts_max;

    enum lockstep_status status = LOCKSTEP_INVALID;
    if (options.url == NULL)
        (void)snprintf(text, sizeof text,
                       "where is the coordinator? give --url, set LOCKSTEP_URL, or write `url:` into %s",
                       SYSTEM_CONFIG);
    else
        status = lockstep_open(&options, ret_client, text);
    conf_free(setting_keys, SETTING_COUNT, &settings);
    if (status == LOCKSTEP_OK) return LS_EXIT_OK;
    return cmd_fail(verb, status == LOCKSTEP_INVALID ? LS_EXIT_CONFIG : LS_EXIT_ERROR, "%s", text);
}

/* -------------------------------------------------------------------- results */

static int exit_of_outcome(enum lockstep_outcome outcome) {
    switch (outcome) {
    case LOCKSTEP_ABORTED:
        return LS_EXIT_ABORTED;
    case LOCKSTEP_PENDING:
        return LS_EXIT_UNKNOWN;
    case LOCKSTEP_HAZARD:
        return LS_EXIT_HAZARD;
    case LOCKSTEP_COMMITTED:
    case LOCKSTEP_NO_OUTCOME:
        return LS_EXIT_OK;
    }
    return LS_EXIT_ERROR;
}

int cmd_exit_of(const struct lockstep_result *result) {
    switch (result->status) {
    case LOCKSTEP_OK:
        return exit_of_outcome(result->outcome);
    case LOCKSTEP_UNREACHABLE:
        return LS_EXIT_UNREACHABLE;
    case LOCKSTEP_UNKNOWN:
        return LS_EXIT_UNKNOWN;
    case LOCKSTEP_INVALID:
        return LS_EXIT_USAGE;
    case LOCKSTEP_NOMEM:
    case LOCKSTEP_BUSY:
    case LOCKSTEP_REFUSED:
    case LOCKSTEP_DENIED:
    case LOCKSTEP_PROTOCOL:
        return LS_EXIT_ERROR;
    }
    return LS_EXIT_ERROR;
}

json_t *cmd_body(const struct lockstep_result *result) {
    json_error_t error;

    return result->body != NULL ? json_loadb(result->body, result->body_length, JSON_DECODE_ANY, &error) : NULL;
}

int cmd_report(const char *verb, const struct lockstep_result *result, enum cmd_format format) {
    if (format == CMD_JSON) {
        json_t *body = cmd_body(result);
        json_t *object =
            json_pack("{s:s, s:s, s:s, s:i, s:o*}", "status", lockstep_status_text(result->status), "reason",
                      result->reason, "gtid", result->gtid, "http_status", result->http_status, "answer", body);
        if (object != NULL) cmd_print_json(object);
        json_decref(object);
    }
    bool same = strcmp(result->reason, lockstep_status_text(result->status)) == 0;
    return cmd_fail(verb, cmd_exit_of(result), "%s%s%s%s%s", lockstep_status_text(result->status), same ? "" : ": ",
                    same ? "" : result->reason, result->gtid[0] != '\0' ? ", transaction " : "", result->gtid);
}

int cmd_show_one(const char *verb, struct lockstep_result *result, enum cmd_format format, const char *name,
                 void (*print)(const struct lockstep_result *result, const char *name)) {
    int exit_status = cmd_exit_of(result);

    if (result->status != LOCKSTEP_OK) {
        exit_status = cmd_report(verb, result, format);
    } else if (format == CMD_JSON) {
        json_t *body = cmd_body(result);
        cmd_print_json(body);
        json_decref(body);
    } else {
        print(result, name);
    }
    lockstep_result_clear(result);
    return exit_status;
}
