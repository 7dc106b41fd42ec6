/* conf.c: see conf.h. */
#include "coordinator/conf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/web.h"
#include "lockstep/ids.h"
#include "lockstep/limits.h"

#define AT(field) offsetof(struct coordinator_conf, field)
#define PATH_BYTES_MAX 4095
#define SOCKET_PATH_MAX 107 /* sun_path */
#define MIB ((uint64_t)1 << 20)

const struct conf_key coordinator_conf_keys[] = {
    {"name", CONF_NAME, AT(name), NULL, true, 1, LS_COORDINATOR_MAX,
     "name of this coordinator: part of every transaction's id, and what the agents and certificates call it"},
    {"data", CONF_STRING, AT(data), NULL, true, 1, PATH_BYTES_MAX,
     "data directory: decision log, lock, ports file; mode 0700, one daemon at a time"},
    {"api.listen", CONF_PORT_ADDRESS, AT(api_listen), "127.0.0.1:7443", false, 0, 0,
     "HTTPS listener of the API; port 0: any, see the ports file"},
    {"api.socket", CONF_STRING, AT(api_socket), NULL, false, 0, SOCKET_PATH_MAX,
     "Unix socket of the API for the local administrator; default: lockstepd.sock in the data directory"},
    {"agents.listen", CONF_PORT_ADDRESS, AT(agents_listen), "127.0.0.1:7444", false, 0, 0,
     "listener that the agents dial"},
    {"agents.connections", CONF_U32, AT(agents_connections), "1024", false, 1, 65536,
     "links held at once; more are closed at once"},
    {"tls.ca", CONF_STRING, AT(tls_ca), NULL, true, 1, PATH_BYTES_MAX,
     "PEM file: certificate authorities of clients and agents; read again on SIGHUP"},
    {"tls.certificate", CONF_STRING, AT(tls_certificate), NULL, true, 1, PATH_BYTES_MAX,
     "PEM file: our certificate with URI lockstep://coordinator/NAME; read again on SIGHUP"},
    {"tls.key", CONF_STRING, AT(tls_key), NULL, true, 1, PATH_BYTES_MAX, "PEM file: its key; read again on SIGHUP"},
    {"tls.crl", CONF_STRING, AT(tls_crl), NULL, false, 0, PATH_BYTES_MAX,
     "PEM file: revoked certificates; read again on SIGHUP"},
    {"limits.body", CONF_BYTES, AT(body_max), "1MiB", false, 1024, 64 * MIB, "largest request body (reload)"},
    {"limits.statements", CONF_U32, AT(statements_max), "1000", false, 1, 10000, "steps of one transaction (reload)"},
    {"limits.participants", CONF_U32, AT(participants_max), "64", false, 1, LS_PARTICIPANTS_PER_TXN_CEILING,
     "participants of one transaction (reload)"},
    {"limits.result_rows", CONF_U32, AT(result_rows_max), "1000", false, 0, 1000000,
     "rows that one transaction may return (reload)"},
    {"limits.result_bytes", CONF_BYTES, AT(result_bytes_max), "1MiB", false, 0, 64 * MIB,
     "bytes of rows that one transaction may return (reload)"},
    {"limits.deadline", CONF_MS, AT(deadline_ms), "30s", false, LS_DEADLINE_MS_MIN, LS_DEADLINE_MS_MAX,
     "deadline of a transaction that names none; cannot be switched off (reload)"},
    {"limits.lock_timeout", CONF_MS, AT(lock_timeout_ms), "5s", false, LS_LOCK_TIMEOUT_MS_MIN, LS_LOCK_TIMEOUT_MS_MAX,
     "lock_timeout of the branches of a transaction that names none; cannot be switched off (reload)"},
    {"limits.apply_wait", CONF_MS, AT(apply_wait_ms), "5s", false, 0, LS_DEADLINE_MS_MAX,
     "how long after the decision wait=applied waits before it answers applied: false (reload)"},
    {"limits.http_idle", CONF_MS, AT(http_idle_ms), "60s", false, 100, LS_DEADLINE_MS_MAX,
     "time an HTTP client has, from its connection or last answer, to send a whole request, and to take an answer "
     "(reload)"},
    {"limits.connections", CONF_U32, AT(connections_max), "1024", false, 1, 65536,
     "HTTP connections held at once, per listener (reload)"},
    {"limits.waiting", CONF_U32, AT(waiting_max), "1024", false, 1, 1000000,
     "transactions queued for a free branch at their participants; more are 429"},
    {"limits.in_flight", CONF_U32, AT(in_flight_max), "16384", false, 1, 1000000,
     "transactions admitted and unfinished"},
    {"limits.keys", CONF_U32, AT(keys_max), "1000000", false, 1, 100000000,
     "Idempotency-Keys remembered; more are 429 until the window moves"},
    {"limits.finished", CONF_U32, AT(finished_max), "65536", false, 1, 10000000, "outcomes remembered in memory"},
    {"limits.sagas", CONF_U32, AT(sagas_max), "10000", false, 1, 1000000,
     "sagas open at once, dead letters included; more are 429 (reload)"},
    {"limits.saga_body", CONF_BYTES, AT(saga_body_max), "32KiB", false, 1024, LS_SAGA_BODY_CEILING,
     "largest document of a saga: it stands in the log as a whole (reload)"},
    {"limits.saga_deadline", CONF_MS, AT(saga_deadline_ms), "10min", false, LS_DEADLINE_MS_MIN, LS_SAGA_DEADLINE_MS_MAX,
     "time a saga that names none has up to its point of no return (reload)"},
    {"limits.call_answer", CONF_BYTES, AT(call_answer_max), "64KiB", false, 1024, 16 * MIB,
     "largest answer of a service that a step calls (reload)"},
    {"limits.calls", CONF_U32, AT(calls_max), "1024", false, 1, 65536,
     "calls of sagas on their way to services at once; more wait, first come first served (reload)"},
    {"limits.presume_wait", CONF_MS, AT(presume_wait_ms), "10s", false, 0, LS_DEADLINE_MS_MAX,
     "after a start, before abort is presumed without every participant having joined"},
    {"limits.resend", CONF_MS, AT(resend_ms), "5s", false, 10, LS_DEADLINE_MS_MAX,
     "open decisions are sent again this often"},
    {"calls.services", CONF_MAP, AT(services), NULL, false, 0, 0,
     "HTTP services that steps of sagas may call, name to base URL, such as payments: https://pay.example/v1; nothing "
     "else is ever called "
     "(reload)"},
    {"calls.ca", CONF_STRING, AT(calls_ca), NULL, false, 0, PATH_BYTES_MAX,
     "PEM file: certificate authorities of the services; default: the system's (reload)"},
    {"calls.certificate", CONF_STRING, AT(calls_certificate), NULL, false, 0, PATH_BYTES_MAX,
     "PEM file: certificate shown to services that ask for one; default: none (reload)"},
    {"calls.key", CONF_STRING, AT(calls_key), NULL, false, 0, PATH_BYTES_MAX, "PEM file: its key (reload)"},
    {"calls.connections", CONF_U32, AT(calls_connections), "64", false, 1, 1024,
     "connections to one service at once; more calls wait, and their time begins when they leave"},
    {"alerts.webhook", CONF_STRING, AT(alerts_webhook), NULL, false, 0, PATH_BYTES_MAX,
     "http or https address that alerts are posted to, as a Slack-style receiver takes them; default: none (reload)"},
    {"alerts.secret_file", CONF_STRING, AT(alerts_secret), NULL, false, 0, PATH_BYTES_MAX,
     "file (0600) with one line of at least 16 bytes: alerts are signed with HMAC-SHA256; default: not signed "
     "(reload)"},
    {"alerts.ca", CONF_STRING, AT(alerts_ca), NULL, false, 0, PATH_BYTES_MAX,
     "PEM file: certificate authorities of the receiver; default: the system's (reload)"},
    {"alerts.window", CONF_MS, AT(alerts_window_ms), "5min", false, 100, LS_DEADLINE_MS_MAX,
     "one alert per cause leaves in this time; what comes besides is counted in the next (reload)"},
    {"alerts.in_doubt", CONF_MS, AT(alerts_in_doubt_ms), "1min", false, 100, LS_DEADLINE_MS_MAX,
     "a transaction in doubt for longer is an alert (reload)"},
    {"alerts.timeout", CONF_MS, AT(alerts_timeout_ms), "10s", false, 10, 600000,
     "of one delivery of an alert (reload)"},
    {"log.segment_size", CONF_BYTES, AT(segment_bytes), "16MiB", false, LS_SEGMENT_BYTES_MIN, LS_SEGMENT_BYTES_MAX,
     "size of new segments of the decision log"},
    {"log.max_size", CONF_BYTES, AT(log_bytes_max), "4GiB", false, (uint64_t)4 * LS_SEGMENT_BYTES_MIN, UINT64_MAX,
     "size at which finished decisions leave the log"},
    {"log.retention", CONF_MS, AT(retention_ms), "24h", false, 1000, UINT64_MAX,
     "running time for which finished decisions are kept"},
    {"log.spares", CONF_U32, AT(spares), "2", false, 2, 64, "preallocated free segments kept ready"},
    {"drain_time", CONF_MS, AT(drain_ms), "10s", false, 0, LS_DEADLINE_MS_MAX,
     "how long a stopping daemon waits for its transactions (reload)"},
    {"diag.level", CONF_STRING, AT(diag_level_word), "info", false, 1, 16, "debug, info, warn or error"},
    {"diag.format", CONF_STRING, AT(diag_format_word), "text", false, 1, 16, "text or json"},
    {"faults", CONF_STRING, AT(faults_word), "disabled", false, 1, 16,
     "enabled: obey LOCKSTEP_FAIL (for tests only); disabled: refuse to start with it"},
};
const size_t coordinator_conf_key_count = sizeof coordinator_conf_keys / sizeof coordinator_conf_keys[0];

/* The sample shows these numbers, limits.h has their names: they must not drift apart. */
_Static_assert(LS_DEFAULT_BODY_MAX == 1048576 && LS_DEFAULT_RESULT_BYTES_MAX == 1048576,
               "limits.body, limits.result_bytes");
_Static_assert(LS_DEFAULT_STATEMENTS_MAX == 1000 && LS_DEFAULT_RESULT_ROWS_MAX == 1000,
               "limits.statements, limits.result_rows");
_Static_assert(LS_DEFAULT_PARTICIPANTS_PER_TXN_MAX == 64, "limits.participants");
_Static_assert(LS_DEFAULT_DEADLINE_MS == 30000 && LS_DEFAULT_LOCK_TIMEOUT_MS == 5000 &&
                   LS_DEFAULT_APPLY_WAIT_MS == 5000,
               "times");
_Static_assert(LS_DEFAULT_HTTP_IDLE_S == 60 && LS_DEFAULT_CONNECTIONS_MAX == 1024 && LS_DEFAULT_RESEND_MS == 5000,
               "http");
_Static_assert(LS_DEFAULT_CALL_ANSWER_MAX == 64 << 10 && LS_DEFAULT_CALL_CONNECTIONS == 64 &&
                   LS_DEFAULT_CALLS_MAX == 1024,
               "calls");
_Static_assert(LS_DEFAULT_ALERT_WINDOW_MS == 300000 && LS_DEFAULT_ALERT_IN_DOUBT_MS == 60000 &&
                   LS_DEFAULT_ALERT_TIMEOUT_MS == 10000,
               "alerts");
_Static_assert(LS_DEFAULT_WAITING_MAX == 1024 && LS_DEFAULT_IN_FLIGHT_MAX == 16384, "admission");
_Static_assert(LS_DEFAULT_KEYS_MAX == 1000000 && LS_DEFAULT_FINISHED_MAX == 65536, "memory");
_Static_assert(LS_DEFAULT_SEGMENT_BYTES == 16 << 20 && LS_DEFAULT_RETENTION_S == 86400, "log");
_Static_assert(LS_DEFAULT_LOG_BYTES_MAX == (uint64_t)4 << 30, "log.max_size");

const char *coordinator_conf_service(const struct coordinator_conf *conf, const char *name) {
    for (size_t i = 0; i < conf->services.count; i++) {
        if (strcmp(conf->services.pairs[i].key, name) == 0) {
            return conf->services.pairs[i].value;
        }
    }
    return NULL;
}

static bool is_set(const char *text) {
    return text != NULL && text[0] != '\0';
}

static enum ls_status check_calls(const struct coordinator_conf *conf, const char *file, struct ls_error *err) {
    for (size_t i = 0; i < conf->services.count; i++) {
        const struct conf_pair *pair = &conf->services.pairs[i];
        if (!ls_name_valid(pair->key, LS_PARTICIPANT_MAX)) {
            return ls_fail(err, LS_ERR_CONFIG, "%s:%u: calls.services: `%.64s` is not a name", file, pair->line,
                           pair->key);
        }
        if (!web_url_valid(pair->value, false)) {
            return ls_fail(
                err, LS_ERR_CONFIG, /* it may hold a password: not shown */
                "%s:%u: calls.services: %s: expected http:// or https://, a host and perhaps a path; no user, "
                "password or query",
                file, pair->line, pair->key);
        }
    }
    if (is_set(conf->alerts_webhook) &&
        !web_url_valid(conf->alerts_webhook, true)) { /* it may hold a secret: not shown */
        return ls_fail(err, LS_ERR_CONFIG,
                       "%s: alerts.webhook: expected the address of a receiver, http:// or https://", file);
    }
    return is_set(conf->calls_certificate) == is_set(conf->calls_key)
               ? LS_OK
               : ls_fail(err, LS_ERR_CONFIG, "%s: calls.certificate and calls.key belong together", file);
}

static enum ls_status check(struct coordinator_conf *conf, const char *file, struct ls_error *err) {
    if (!diag_parse_level(conf->diag_level_word, &conf->diag_level)) {
        return ls_fail(err, LS_ERR_CONFIG, "%s: diag.level: expected debug, info, warn or error, found `%s`", file,
                       conf->diag_level_word);
    }
    if (!diag_parse_format(conf->diag_format_word, &conf->diag_format)) {
        return ls_fail(err, LS_ERR_CONFIG, "%s: diag.format: expected text or json, found `%s`", file,
                       conf->diag_format_word);
    }
    conf->faults = strcmp(conf->faults_word, "enabled") == 0;
    if (!conf->faults && strcmp(conf->faults_word, "disabled") != 0) {
        return ls_fail(err, LS_ERR_CONFIG, "%s: faults: expected enabled or disabled, found `%s`", file,
                       conf->faults_word);
    }
    /* A transaction that waits for credits and one that is admitted both sit in memory; keys are found in the log, so
     * the log must hold a few segments before any can leave it. */
    if (conf->log_bytes_max < 4 * conf->segment_bytes) {
        return ls_fail(err, LS_ERR_CONFIG, "%s: log.max_size: must be at least four times log.segment_size", file);
    }
    enum ls_status status = check_calls(conf, file, err);
    if (status != LS_OK) {
        return status;
    }
    if (!is_set(conf->api_socket)) {
        free(conf->api_socket);
        size_t size = strlen(conf->data) + sizeof "/lockstepd.sock";
        conf->api_socket = malloc(size);
        if (conf->api_socket == NULL) {
            return ls_fail(err, LS_ERR_NOMEM, "out of memory");
        }
        (void)snprintf(conf->api_socket, size, "%s/lockstepd.sock", conf->data);
        if (size - 1 > SOCKET_PATH_MAX) {
            return ls_fail(err, LS_ERR_CONFIG,
                           "%s: api.socket: `%s` is longer than %d bytes: set api.socket to a shorter path", file,
                           conf->api_socket, SOCKET_PATH_MAX);
        }
    }
    return LS_OK;
}

static enum ls_status finish(struct coordinator_conf *conf, const char *name, struct coordinator_conf *ret_conf,
                             struct ls_error *err) {
    enum ls_status status = check(conf, name, err);
    if (status != LS_OK) {
        coordinator_conf_free(conf);
        return status;
    }
    *ret_conf = *conf;
    return LS_OK;
}

enum ls_status coordinator_conf_load(const char *file, struct coordinator_conf *ret_conf, struct ls_error *err) {
    struct coordinator_conf conf = {0};
    enum ls_status status = conf_load(file, coordinator_conf_keys, coordinator_conf_key_count, &conf, err);
    return status == LS_OK ? finish(&conf, file == NULL ? "environment" : file, ret_conf, err) : status;
}

enum ls_status coordinator_conf_parse(const char *text, size_t length, const char *name,
                                      struct coordinator_conf *ret_conf, struct ls_error *err) {
    struct coordinator_conf conf = {0};
    enum ls_status status =
        conf_parse(text, length, name, coordinator_conf_keys, coordinator_conf_key_count, &conf, err);
    return status == LS_OK ? finish(&conf, name, ret_conf, err) : status;
}

void coordinator_conf_free(struct coordinator_conf *conf) {
    conf_free(coordinator_conf_keys, coordinator_conf_key_count, conf);
}

struct tls_files coordinator_conf_tls(const struct coordinator_conf *conf) {
    return (struct tls_files){
        .ca = conf->tls_ca,
        .certificate = conf->tls_certificate,
        .key = conf->tls_key,
        .crl = conf->tls_crl != NULL && conf->tls_crl[0] != '\0' ? conf->tls_crl : NULL,
    };
}

static enum ls_status check_files(const struct coordinator_conf *conf, struct ls_error *err) {
    struct tls_files calls = {.ca = is_set(conf->calls_ca) ? conf->calls_ca : NULL,
                              .certificate = is_set(conf->calls_certificate) ? conf->calls_certificate : NULL,
                              .key = is_set(conf->calls_key) ? conf->calls_key : NULL};
    struct tls_files alerts = {.ca = is_set(conf->alerts_ca) ? conf->alerts_ca : NULL};
    struct ls_error why;
    const char *where = "calls";
    enum ls_status status = tls_check_files(&calls, &why);
    if (status == LS_OK) {
        where = "alerts";
        status = tls_check_files(&alerts, &why);
    }
    return status == LS_OK ? LS_OK : ls_fail(err, status, "%s: %s", where, why.text);
}

enum ls_status coordinator_conf_load_tls(const struct coordinator_conf *conf, SSL_CTX **ret_tls, struct ls_error *err) {
    struct tls_files files = coordinator_conf_tls(conf);
    enum ls_status status = check_files(conf, err);
    status = status == LS_OK ? tls_server_context(&files, ret_tls, err) : status;
    if (status == LS_OK) {
        status = tls_check_own(*ret_tls, &files, TLS_ROLE_COORDINATOR, conf->name, err);
        if (status != LS_OK) {
            SSL_CTX_free(*ret_tls);
            *ret_tls = NULL;
        }
    }
    return status;
}

static bool same_text(const char *a, const char *b) {
    return strcmp(a == NULL ? "" : a, b == NULL ? "" : b) == 0;
}

static void swap_text(char **a, char **b) {
    char *c = *a;
    *a = *b;
    *b = c;
}

const char *coordinator_conf_take(struct coordinator_conf *conf, struct coordinator_conf *next) {
    swap_text(&conf->tls_ca, &next->tls_ca);
    swap_text(&conf->tls_certificate, &next->tls_certificate);
    swap_text(&conf->tls_key, &next->tls_key);
    swap_text(&conf->tls_crl, &next->tls_crl);
    swap_text(&conf->calls_ca, &next->calls_ca);
    swap_text(&conf->calls_certificate, &next->calls_certificate);
    swap_text(&conf->calls_key, &next->calls_key);
    struct conf_map services = conf->services;
    conf->services = next->services;
    next->services = services;
    conf->call_answer_max = next->call_answer_max;
    conf->calls_max = next->calls_max;
    swap_text(&conf->alerts_webhook, &next->alerts_webhook);
    swap_text(&conf->alerts_secret, &next->alerts_secret);
    swap_text(&conf->alerts_ca, &next->alerts_ca);
    conf->alerts_window_ms = next->alerts_window_ms;
    conf->alerts_in_doubt_ms = next->alerts_in_doubt_ms;
    conf->alerts_timeout_ms = next->alerts_timeout_ms;
    conf->body_max = next->body_max;
    conf->statements_max = next->statements_max;
    conf->participants_max = next->participants_max;
    conf->result_rows_max = next->result_rows_max;
    conf->result_bytes_max = next->result_bytes_max;
    conf->deadline_ms = next->deadline_ms;
    conf->lock_timeout_ms = next->lock_timeout_ms;
    conf->apply_wait_ms = next->apply_wait_ms;
    conf->http_idle_ms = next->http_idle_ms;
    conf->connections_max = next->connections_max;
    conf->drain_ms = next->drain_ms;
    conf->sagas_max = next->sagas_max;
    conf->saga_body_max = next->saga_body_max;
    conf->saga_deadline_ms = next->saga_deadline_ms;
    const struct {
        const char *key;
        bool same;
    } fixed[] = {
        {"name", same_text(conf->name, next->name)},
        {"data", same_text(conf->data, next->data)},
        {"api.listen", same_text(conf->api_listen, next->api_listen)},
        {"api.socket", same_text(conf->api_socket, next->api_socket)},
        {"agents.listen", same_text(conf->agents_listen, next->agents_listen)},
        {"agents.connections", conf->agents_connections == next->agents_connections},
        {"limits.waiting", conf->waiting_max == next->waiting_max},
        {"limits.in_flight", conf->in_flight_max == next->in_flight_max},
        {"limits.keys", conf->keys_max == next->keys_max},
        {"limits.finished", conf->finished_max == next->finished_max},
        {"calls.connections", conf->calls_connections == next->calls_connections},
        {"limits.presume_wait", conf->presume_wait_ms == next->presume_wait_ms},
        {"limits.resend", conf->resend_ms == next->resend_ms},
        {"log.segment_size", conf->segment_bytes == next->segment_bytes},
        {"log.max_size", conf->log_bytes_max == next->log_bytes_max},
        {"log.retention", conf->retention_ms == next->retention_ms},
        {"log.spares", conf->spares == next->spares},
        {"diag.level", same_text(conf->diag_level_word, next->diag_level_word)},
        {"diag.format", same_text(conf->diag_format_word, next->diag_format_word)},
        {"faults", same_text(conf->faults_word, next->faults_word)},
    };
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++) {
        if (!fixed[i].same) {
            return fixed[i].key;
        }
    }
    return NULL;
}
