/*
 * target.c: where the database is, and what every connection of ours says at its start.
 *
 * Session settings are given as startup options, not with SET: RESET ALL must not undo them. libpq would resolve a host name while blocking
 * the loop, so names are resolved before and go in as hostaddr; the name stays in `host` for the check of the server's certificate.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/text.h"
#include "participant/pg/driver.h"
#include "participant/pg/sql.h"
#include "participant/pg/xid.h"

#define CHECK_INTERVAL_MS "1000"

/* ---- reading the connection string */

static enum ls_status add(struct pg_target *target, const char *keyword, const char *value, struct ls_error *err)
{
    if (target->count == PG_TARGET_MAX)
        return ls_fail(err, LS_ERR_CONFIG, "connection string: too many keywords");
    char *k = strdup(keyword), *v = strdup(value);
    if (k == NULL || v == NULL) {
        free(k);
        free(v);
        return ls_fail(err, LS_ERR_NOMEM, "no memory for the connection string");
    }
    target->keywords[target->count] = k;
    target->values[target->count++] = v;
    return LS_OK;
}

/* Digits and dots, or anything with a colon: an address needs no look-up. Neither does a socket directory. */
static bool needs_lookup(const char *host, size_t length)
{
    if (length == 0 || host[0] == '/' || host[0] == '@' || memchr(host, ':', length) != NULL)
        return false;
    return strspn(host, "0123456789.") < length;
}

static bool any_needs_lookup(const char *hosts)
{
    for (const char *at = hosts;; at++) {
        size_t length = strcspn(at, ",");
        if (needs_lookup(at, length))
            return true;
        at += length;
        if (*at == '\0')
            return false;
    }
}

static char **slot_for(struct pg_target *target, const char *keyword)
{
    if (strcmp(keyword, "user") == 0)
        return &target->user;
    if (strcmp(keyword, "options") == 0)
        return &target->options;
    return NULL;
}

static enum ls_status take(struct pg_target *target, const char *keyword, const char *value, struct ls_error *err)
{
    static const char *const ours[] = {"application_name", "fallback_application_name", "replication", "gssencmode"};
    if (strcmp(keyword, "password") == 0 || strcmp(keyword, "sslpassword") == 0)
        return ls_fail(err, LS_ERR_CONFIG, "connection string: no %s here, use passfile", keyword);
    for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
        if (strcmp(keyword, ours[i]) == 0)
            return ls_fail(err, LS_ERR_CONFIG, "connection string: %s is set by lockstep itself", keyword);
    if (strcmp(keyword, "client_encoding") == 0) {
        if (strcasecmp(value, "UTF8") != 0 && strcasecmp(value, "UTF-8") != 0)
            return ls_fail(err, LS_ERR_CONFIG, "connection string: client_encoding must be UTF8");
        return LS_OK;
    }
    char **slot = slot_for(target, keyword);
    if (slot == NULL) {
        if (strcmp(keyword, "dbname") == 0 && (target->database = strdup(value)) == NULL)
            return ls_fail(err, LS_ERR_NOMEM, "no memory for the connection string");
        return add(target, keyword, value, err);
    }
    if ((*slot = strdup(value)) == NULL)
        return ls_fail(err, LS_ERR_NOMEM, "no memory for the connection string");
    return LS_OK;
}

static const char *given(const PQconninfoOption *options, const char *keyword)
{
    for (; options->keyword != NULL; options++)
        if (strcmp(options->keyword, keyword) == 0)
            return options->val;
    return NULL;
}

/*
 * What the service file says where the string is silent. libpq reads it for us when PGSERVICE names it, together with the environment and what is
 * compiled in; what is there without a service too is not the service's word.
 */
static enum ls_status service_options(const char *service, PQconninfoOption **ret_options, struct ls_error *err)
{
    PQconninfoOption *plain = PQconndefaults();
    if (plain == NULL)
        return ls_fail(err, LS_ERR_NOMEM, "no memory for the connection string");
    (void)setenv("PGSERVICE", service, 1);
    PQconninfoOption *options = PQconndefaults();
    (void)unsetenv("PGSERVICE");
    bool found = false;
    for (PQconninfoOption *option = options; option != NULL && option->keyword != NULL; option++) {
        const char *default_value = given(plain, option->keyword);
        bool same = option->val == NULL || (default_value != NULL && strcmp(default_value, option->val) == 0);
        found |= !same && strcmp(option->keyword, "service") != 0;
        if (same && option->val != NULL && strcmp(option->keyword, "user") != 0)
            option->val[0] = '\0';
    }
    PQconninfoFree(plain);
    if (!found) {
        PQconninfoFree(options);
        return ls_fail(err, LS_ERR_CONFIG, "connection string: service `%s` is not in the service file", service);
    }
    *ret_options = options;
    return LS_OK;
}

static enum ls_status take_all(struct pg_target *target, const PQconninfoOption *options, const PQconninfoOption *service,
                               struct ls_error *err)
{
    enum ls_status status = LS_OK;
    for (const PQconninfoOption *option = options; status == LS_OK && option->keyword != NULL; option++) {
        const char *value = option->val;
        if (strcmp(option->keyword, "service") == 0)
            continue;
        if (value == NULL && service != NULL)
            value = given(service, option->keyword);
        if (value != NULL && value[0] != '\0')
            status = take(target, option->keyword, value, err);
    }
    return status;
}

enum ls_status pg_target_parse(const char *conninfo, struct pg_target *ret_target, struct ls_error *err)
{
    struct pg_target target = {0};
    char *message = NULL;
    PQconninfoOption *options = PQconninfoParse(conninfo, &message);
    if (options == NULL) {
        char line[LS_ERROR_TEXT_MAX];
        text_copy_line(line, sizeof(line), message != NULL ? message : "");
        PQfreemem(message);
        if (line[0] == '\0' || strncmp(line, "out of memory", 13) == 0)
            return ls_fail(err, LS_ERR_NOMEM, "no memory for the connection string");
        return ls_fail(err, LS_ERR_CONFIG, "connection string: %s", line);
    }
    const char *service_name = given(options, "service");
    PQconninfoOption *service = NULL;
    enum ls_status status = service_name != NULL ? service_options(service_name, &service, err) : LS_OK;
    if (status == LS_OK)
        status = take_all(&target, options, service, err);
    PQconninfoFree(options);
    PQconninfoFree(service);
    if (status == LS_OK && target.user == NULL)
        status = ls_fail(err, LS_ERR_CONFIG, "connection string: user is missing (the agent's own database role)");
    if (status == LS_OK && strlen(target.user) > LS_ROLE_MAX)
        status = ls_fail(err, LS_ERR_CONFIG, "connection string: user is longer than %d bytes", LS_ROLE_MAX);
    const char *hosts = NULL;
    bool has_address = false, has_attributes = false;
    for (size_t i = 0; status == LS_OK && i < target.count; i++) {
        if (strcmp(target.keywords[i], "host") == 0)
            hosts = target.values[i];
        has_address |= strcmp(target.keywords[i], "hostaddr") == 0;
        has_attributes |= strcmp(target.keywords[i], "target_session_attrs") == 0;
    }
    /* Of several servers only the primary will do; a single one that is a standby is refused with a sentence. */
    if (status == LS_OK && hosts != NULL && strchr(hosts, ',') != NULL && !has_attributes)
        status = add(&target, "target_session_attrs", "read-write", err);
    if (status == LS_OK && hosts != NULL && !has_address && any_needs_lookup(hosts) && (target.hosts = strdup(hosts)) == NULL)
        status = ls_fail(err, LS_ERR_NOMEM, "no memory for the connection string");
    if (status != LS_OK) {
        pg_target_free(&target);
        return status;
    }
    *ret_target = target;
    return LS_OK;
}

void pg_target_free(struct pg_target *target)
{
    for (size_t i = 0; i < target->count; i++) {
        free(target->keywords[i]);
        free(target->values[i]);
    }
    free(target->hosts);
    free(target->user);
    free(target->options);
    free(target->database);
    memset(target, 0, sizeof(*target));
}

/* ---- connecting */

/* A database whose machine is gone must be noticed within half a minute, not after the system's two hours. Unix sockets ignore these; what the
 * connection string says comes first. */
static const struct {
    const char *keyword, *value;
} dead_peer[] = {{"keepalives_idle", "10"}, {"keepalives_interval", "5"}, {"keepalives_count", "3"}, {"tcp_user_timeout", "25000"}};
enum { DEAD_PEER = sizeof(dead_peer) / sizeof(dead_peer[0]) };

/* lockstep/<participant>/<nonce>; a participant that leaves no room for the nonce is cut and gets its hash behind the cut. */
void pg_fill_application_name(const char *participant, const char *nonce, char prefix[PG_APPLICATION_NAME_MAX + 1],
                              char name[PG_APPLICATION_NAME_MAX + 1])
{
    const size_t room = PG_APPLICATION_NAME_MAX - strlen("lockstep/") - 1 - PG_NONCE_DIGITS;
    size_t length = strlen(participant);
    if (length <= room) {
        snprintf(prefix, PG_APPLICATION_NAME_MAX + 1, "lockstep/%s/", participant);
    } else {
        uint64_t hash = XXH64(participant, length, 0);
        snprintf(prefix, PG_APPLICATION_NAME_MAX + 1, "lockstep/%.*s~%016" PRIx64 "/", (int)(room - 17), participant, hash);
    }
    assert(strlen(prefix) + PG_NONCE_DIGITS <= PG_APPLICATION_NAME_MAX);
    snprintf(name, PG_APPLICATION_NAME_MAX + 1, "%.*s%s", PG_APPLICATION_NAME_MAX - PG_NONCE_DIGITS, prefix, nonce);
}

/*
 * client_connection_check_interval lets a backend notice soon that its agent is gone (hazards 1.5); idle_session_timeout would end idle
 * workers for no reason. The agent's own sessions run in the mode they need whatever their role's defaults say; a finish has no
 * statement_timeout, since that would cut its wait for the standby.
 */
static void fill_options(const struct pg *pg, enum pg_purpose purpose, char *out, size_t size)
{
    const char *more = purpose == PG_PURPOSE_WORKER ? ""
                                                    : " -c default_transaction_isolation=read\\ committed -c default_transaction_read_only=off"
                                                      " -c client_min_messages=warning -c statement_timeout=0 -c lock_timeout=0"
                                                      " -c search_path=pg_catalog -c jit=off"; /* estimates of small tables are wild */
    snprintf(out, size, "%s%s-c client_connection_check_interval=" CHECK_INTERVAL_MS " -c idle_session_timeout=0%s",
             pg->target->options != NULL ? pg->target->options : "", pg->target->options != NULL ? " " : "", more);
}

enum ls_status pg_connect(struct pg *pg, enum pg_purpose purpose, const char *user, const struct conn_callbacks *callbacks,
                          void *context, struct conn **ret_conn, struct ls_error *err)
{
    enum { EXTRA = 8 + DEAD_PEER };
    const char *keywords[PG_TARGET_MAX + EXTRA], *values[PG_TARGET_MAX + EXTRA];
    char options[1024];
    size_t n = 0;
    for (; n < DEAD_PEER; n++) { /* of a keyword that stands twice libpq takes the last */
        keywords[n] = dead_peer[n].keyword;
        values[n] = dead_peer[n].value;
    }
    for (size_t i = 0; i < pg->target->count; i++, n++) {
        keywords[n] = pg->target->keywords[i];
        values[n] = pg->target->values[i];
    }
    fill_options(pg, purpose, options, sizeof(options));
    const struct {
        const char *keyword, *value;
    } extra[] = {{"user", user},
                 {"options", options},
                 {"application_name", pg->application_name},
                 {"client_encoding", "UTF8"},
                 {"gssencmode", "disable"},
                 {"hostaddr", pg->hostaddr}};
    for (size_t i = 0; i < sizeof(extra) / sizeof(extra[0]); i++) {
        if (extra[i].value == NULL)
            continue;
        keywords[n] = extra[i].keyword;
        values[n++] = extra[i].value;
    }
    keywords[n] = NULL;
    values[n] = NULL;
    pg->stats.connects++;
    return conn_open(pg->base, keywords, values, pg->connect_ms, callbacks, context, ret_conn, err);
}

bool pg_read_login(const struct conn_item *item, struct login *ret_login)
{
    struct login login = {0};
    const char *pid = conn_value(item, 0, LOGIN_PID), *started = conn_value(item, 0, LOGIN_STARTED);
    const char *user = conn_value(item, 0, LOGIN_USER), *floor = conn_value(item, 0, LOGIN_SYNC_FLOOR);
    if (pid == NULL || started == NULL || user == NULL || floor == NULL || strlen(pid) >= sizeof(login.pid) ||
        strlen(started) >= sizeof(login.started) || strlen(user) >= sizeof(login.user) || strlen(floor) >= sizeof(login.sync_floor) ||
        !pg_parse_u64(conn_value(item, 0, LOGIN_SYSTEM_ID), &login.system_id))
        return false;
    memcpy(login.pid, pid, strlen(pid) + 1);
    memcpy(login.started, started, strlen(started) + 1);
    memcpy(login.user, user, strlen(user) + 1);
    memcpy(login.sync_floor, floor, strlen(floor) + 1);
    *ret_login = login;
    return true;
}

bool pg_is_own_session(const struct login *login, const struct conn *conn)
{
    uint64_t pid;
    return pg_parse_u64(login->pid, &pid) && pid == (uint64_t)conn_backend_pid(conn);
}
