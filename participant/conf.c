/* conf.c: see conf.h. */
#include "participant/conf.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lockstep/limits.h"
#include "participant/functions.h"

#define AT(field) offsetof(struct agent_conf, field)
#define PATH_BYTES_MAX 4095
#define SOCKET_PATH_MAX 107 /* sun_path */

const struct conf_key agent_conf_keys[] = {
    {"name", CONF_NAME, AT(name), NULL, true, 1, LS_PARTICIPANT_MAX, "name of this participant: what documents and the certificate call it"},
    {"coordinator.name", CONF_NAME, AT(coordinator_name), NULL, true, 1, LS_COORDINATOR_MAX,
     "name of the coordinator, checked against its certificate's URI lockstep://coordinator/NAME"},
    {"coordinator.address", CONF_PORT_ADDRESS, AT(coordinator_address), "127.0.0.1:7444", false, 0, 0, "its listener for agents"},
    {"tls.ca", CONF_STRING, AT(tls_ca), NULL, true, 1, PATH_BYTES_MAX, "PEM file: certificate authorities of the coordinator; read again on SIGHUP"},
    {"tls.certificate", CONF_STRING, AT(tls_certificate), NULL, true, 1, PATH_BYTES_MAX,
     "PEM file: our certificate with URI lockstep://agent/NAME; read again on SIGHUP"},
    {"tls.key", CONF_STRING, AT(tls_key), NULL, true, 1, PATH_BYTES_MAX, "PEM file: its key; read again on SIGHUP"},
    {"tls.crl", CONF_STRING, AT(tls_crl), NULL, false, 0, PATH_BYTES_MAX, "PEM file: revoked certificates; read again on SIGHUP"},
    {"database.conninfo", CONF_STRING, AT(conninfo), NULL, true, 1, PATH_BYTES_MAX,
     "libpq connection string or service=NAME; user is the agent's own role, no superuser; passwords belong into a passfile"},
    {"database.connect_timeout", CONF_MS, AT(connect_ms), "5s", false, 100, 60000, "bound of one attempt to connect"},
    {"roles", CONF_MAP, AT(roles), NULL, true, 0, 0,
     "application identity to database role, for example app/checkout: checkout_rw; \"*\" is for all others"},
    {"functions", CONF_MAP, AT(functions), NULL, false, 0, 0,
     "applications that may only call these functions, for example app/checkout: pay.reserve, pay.cancel"},
    {"pool.workers", CONF_U32, AT(workers), "64", false, 1, 10000, "worker sessions of all roles together: branches that run at once"},
    {"pool.finishers", CONF_U32, AT(finishers), "8", false, 2, 64, "sessions per role for COMMIT PREPARED and ROLLBACK PREPARED"},
    {"pool.statements", CONF_U32, AT(statements), "64", false, 0, LS_STATEMENTS_MAX,
     "INSERT, UPDATE and DELETE of apps that a worker session keeps prepared; 0: each is sent as it is"},
    {"limits.finished", CONF_U32, AT(finished), "65536", false, 1024, 10000000,
     "ended branches remembered, so that work that comes twice never runs twice; 80 bytes each"},
    {"prepared.share", CONF_U32, AT(prepared_share), "100", false, 1, 100,
     "percent of max_prepared_transactions that this agent may fill; it is per cluster, not per database"},
    {"sweep.interval", CONF_MS, AT(sweep_ms), "10s", false, 100, 3600000, "how often prepared transactions are listed and asked about"},
    {"grace", CONF_MS, AT(grace_ms), "1s", false, 10, 60000, "time beyond a branch's deadline before its backend is ended"},
    {"lock_wait", CONF_MS, AT(lock_wait_ms), "10s", false, 0, 3600000,
     "how long another session may hold this agent's advisory lock before the agent gives up"},
    {"settle_lock_timeout", CONF_MS, AT(settle_lock_ms), "1s", false, 1, 60000,
     "how long settling a one-participant transaction waits for its outcome row before it tries again"},
    {"drain_time", CONF_MS, AT(drain_ms), "10s", false, 0, LS_DEADLINE_MS_MAX, "how long a stopping agent waits for its running branches"},
    {"gid_form", CONF_STRING, AT(gid_form_word), "asked", false, 1, 16, "asked: what the transaction asks for; xa: always XA ids"},
    {"peers.listen", CONF_PORT_ADDRESS, AT(peers_listen), "127.0.0.1:0", false, 0, 0,
     "listener for the agents of other participants, which send events here; a fixed port lets them find this agent again while the coordinator is away"},
    {"peers.address", CONF_PORT_ADDRESS, AT(peers_address), NULL, false, 0, 0, "where others find it, if not where it listens"},
    {"relay.sessions", CONF_U32, AT(relay_sessions), "4", false, 1, 64, "handlers of events that run at once, besides pool.workers"},
    {"relay.attempts", CONF_U32, AT(relay_attempts), "10", false, 1, 1000, "of a handler with one event, with growing pauses; then it is a dead letter"},
    {"relay.handler_timeout", CONF_MS, AT(handler_ms), "30s", false, 10, LS_DEADLINE_MS_MAX, "statement_timeout of a handler"},
    {"relay.keep_inbox", CONF_MS, AT(keep_inbox_ms), "168h", false, 1000, UINT64_MAX,
     "how long what has arrived and is through is kept, at least; and for as long as it may be sent again"},
    {"relay.keep_events", CONF_MS, AT(keep_events_ms), "0s", false, 0, UINT64_MAX,
     "how long own events are kept when everybody has acknowledged them; 0s: for ever"},
    {"metrics.socket", CONF_STRING, AT(metrics_socket), NULL, false, 0, SOCKET_PATH_MAX, "Unix socket that answers GET /metrics; default: none"},
    {"log.level", CONF_STRING, AT(level_word), "info", false, 1, 16, "debug, info, warn or error"},
    {"log.format", CONF_STRING, AT(format_word), "text", false, 1, 16, "text or json"},
    {"faults", CONF_STRING, AT(faults_word), "disabled", false, 1, 16, "enabled: obey LOCKSTEP_FAIL (for tests only); disabled: refuse to start with it"},
};
const size_t agent_conf_key_count = sizeof(agent_conf_keys) / sizeof(agent_conf_keys[0]);

_Static_assert(LS_DEFAULT_WORKERS_MAX == 64 && LS_DEFAULT_FINISHERS == 8 && LS_DEFAULT_STATEMENTS == 64 && AGENT_DEFAULT_FINISHED_MAX == 65536 && LS_DEFAULT_SWEEP_S == 10 && LS_DEFAULT_PREPARED_SHARE == 100 &&
                   LS_DEFAULT_RELAY_SESSIONS == 4 && LS_DEFAULT_RELAY_ATTEMPTS == 10 && LS_DEFAULT_HANDLER_MS == 30000 &&
                   LS_DEFAULT_RELAY_KEEP_INBOX_S == 168 * 3600 && LS_DEFAULT_RELAY_KEEP_EVENTS_S == 0,
               "the sample shows these numbers, limits.h has their names");

static enum ls_status check_words(struct agent_conf *conf, const char *file, struct ls_error *err)
{
    if (!diag_parse_level(conf->level_word, &conf->level))
        return ls_fail(err, LS_ERR_CONFIG, "%s: log.level: expected debug, info, warn or error, found `%s`", file, conf->level_word);
    if (!diag_parse_format(conf->format_word, &conf->format))
        return ls_fail(err, LS_ERR_CONFIG, "%s: log.format: expected text or json, found `%s`", file, conf->format_word);
    conf->faults = strcmp(conf->faults_word, "enabled") == 0;
    if (!conf->faults && strcmp(conf->faults_word, "disabled") != 0)
        return ls_fail(err, LS_ERR_CONFIG, "%s: faults: expected enabled or disabled, found `%s`", file, conf->faults_word);
    conf->gid_form = strcmp(conf->gid_form_word, "xa") == 0 ? LS_GID_XA : LS_GID_READABLE;
    if (conf->gid_form == LS_GID_READABLE && strcmp(conf->gid_form_word, "asked") != 0)
        return ls_fail(err, LS_ERR_CONFIG, "%s: gid_form: expected asked or xa, found `%s`", file, conf->gid_form_word);
    return LS_OK;
}

static enum ls_status check_identity(const char *file, const struct conf_pair *pair, const char *key, struct ls_error *err)
{
    if (strcmp(pair->key, "*") == 0)
        return LS_OK;
    const char *name = strchr(pair->key, '/');
    if (name == NULL || !ls_name_valid(name + 1, LS_IDENTITY_MAX) ||
        (strncmp(pair->key, "app/", 4) != 0 && strncmp(pair->key, "admin/", 6) != 0))
        return ls_fail(err, LS_ERR_CONFIG, "%s:%u: %s: expected app/NAME, admin/NAME or *, found `%s`", file, pair->line, key, pair->key);
    return LS_OK;
}

static enum ls_status check_maps(struct agent_conf *conf, const char *file, struct ls_error *err)
{
    enum ls_status status = LS_OK;
    if (conf->roles.count == 0)
        return ls_fail(err, LS_ERR_CONFIG, "%s: roles: no application may run anything here", file);
    conf->database_roles = calloc(conf->roles.count, sizeof(*conf->database_roles));
    if (conf->database_roles == NULL)
        return ls_fail(err, LS_ERR_NOMEM, "out of memory");
    for (size_t i = 0; status == LS_OK && i < conf->roles.count; i++) {
        const struct conf_pair *pair = &conf->roles.pairs[i];
        size_t length = strlen(pair->value), known = 0;
        if (length == 0 || length > LS_ROLE_MAX)
            return ls_fail(err, LS_ERR_CONFIG, "%s:%u: roles: not the name of a database role: `%s`", file, pair->line, pair->value);
        status = check_identity(file, pair, "roles", err);
        for (; known < conf->database_role_count; known++) {
            assert(conf->database_roles[known] != NULL);
            if (strcmp(conf->database_roles[known], pair->value) == 0)
                break;
        }
        if (known == conf->database_role_count)
            conf->database_roles[conf->database_role_count++] = pair->value;
    }
    for (size_t i = 0; status == LS_OK && i < conf->functions.count; i++) {
        const struct conf_pair *pair = &conf->functions.pairs[i];
        status = check_identity(file, pair, "functions", err);
        if (status == LS_OK && !functions_list_valid(pair->value))
            return ls_fail(err, LS_ERR_CONFIG, "%s:%u: functions: expected names with commas between them, found `%s`", file, pair->line,
                           pair->value);
    }
    return status;
}

/* What the table of keys alone cannot say. */
static enum ls_status finish(struct agent_conf *conf, const char *name, struct agent_conf *ret_conf, struct ls_error *err)
{
    enum ls_status status = check_words(conf, name, err);
    if (status == LS_OK)
        status = check_maps(conf, name, err);
    struct ls_error inner;
    enum ls_status target = status == LS_OK ? pg_target_parse(conf->conninfo, &conf->target, &inner) : LS_OK;
    if (target != LS_OK)
        status = ls_fail(err, target, "%s: database.conninfo: %s", name, inner.text); /* no memory is not what is wrong with the file */
    if (status != LS_OK) {
        agent_conf_free(conf);
        return status;
    }
    *ret_conf = *conf;
    return LS_OK;
}

enum ls_status agent_conf_load(const char *file, struct agent_conf *ret_conf, struct ls_error *err)
{
    struct agent_conf conf = {0};
    enum ls_status status = conf_load(file, agent_conf_keys, agent_conf_key_count, &conf, err);
    return status == LS_OK ? finish(&conf, file != NULL ? file : "environment", ret_conf, err) : status;
}

enum ls_status agent_conf_parse(const char *text, size_t length, const char *name, struct agent_conf *ret_conf, struct ls_error *err)
{
    struct agent_conf conf = {0};
    enum ls_status status = conf_parse(text, length, name, agent_conf_keys, agent_conf_key_count, &conf, err);
    return status == LS_OK ? finish(&conf, name, ret_conf, err) : status;
}

void agent_conf_free(struct agent_conf *conf)
{
    pg_target_free(&conf->target);
    free(conf->database_roles);
    conf->database_roles = NULL;
    conf_free(agent_conf_keys, agent_conf_key_count, conf);
}

static struct tls_files tls_files_of(const struct agent_conf *conf)
{
    bool crl = conf->tls_crl != NULL && conf->tls_crl[0] != '\0';
    return (struct tls_files){conf->tls_ca, conf->tls_certificate, conf->tls_key, crl ? conf->tls_crl : NULL};
}

enum ls_status agent_conf_load_tls(const struct agent_conf *conf, SSL_CTX **ret_client, SSL_CTX **ret_server,
                                   struct ls_error *err)
{
    struct tls_files files = tls_files_of(conf);
    *ret_client = *ret_server = NULL;
    enum ls_status status = tls_client_context(&files, ret_client, err);
    if (status == LS_OK)
        status = tls_server_context(&files, ret_server, err);
    if (status == LS_OK)
        status = tls_check_own(*ret_client, &files, TLS_ROLE_AGENT, conf->name, err);
    if (status != LS_OK) {
        SSL_CTX_free(*ret_client);
        SSL_CTX_free(*ret_server);
        *ret_client = *ret_server = NULL;
    }
    return status;
}

void agent_conf_core(const struct agent_conf *conf, uint64_t seed, struct agent_config *ret_core)
{
    agent_config_defaults(ret_core);
    snprintf(ret_core->participant, sizeof(ret_core->participant), "%s", conf->name);
    snprintf(ret_core->coordinator, sizeof(ret_core->coordinator), "%s", conf->coordinator_name);
    ret_core->workers_max = conf->workers;
    ret_core->finished_max = conf->finished;
    ret_core->prepared_share = conf->prepared_share;
    ret_core->sweep_us = conf->sweep_ms * 1000;
    ret_core->grace_us = conf->grace_ms * 1000;
    ret_core->lock_wait_us = conf->lock_wait_ms * 1000;
    ret_core->seed = seed;
}

static const char *lookup(const struct conf_map *map, const char *app)
{
    const char *others = NULL;
    for (size_t i = 0; i < map->count; i++) {
        if (strcmp(map->pairs[i].key, app) == 0)
            return map->pairs[i].value;
        if (strcmp(map->pairs[i].key, "*") == 0)
            others = map->pairs[i].value;
    }
    return others;
}

const char *agent_conf_role(const struct agent_conf *conf, const char *app)
{
    return lookup(&conf->roles, app);
}

const char *agent_conf_functions(const struct agent_conf *conf, const char *app)
{
    return lookup(&conf->functions, app);
}
