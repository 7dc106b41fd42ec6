/*
 * conf.h: the agent's configuration: its keys, what they become, which database role an application runs as.
 */
#ifndef LOCKSTEP_AGENT_CONF_H
#define LOCKSTEP_AGENT_CONF_H

#include <stdbool.h>
#include <stdint.h>

#include "common/conf.h"
#include "common/diag.h"
#include "common/tls.h"
#include "participant/core/agent.h"
#include "participant/pg/pg.h"

struct agent_conf {
    char *name;
    char *coordinator_name, *coordinator_address;
    char *tls_ca, *tls_certificate, *tls_key, *tls_crl;
    char *conninfo;
    uint64_t connect_ms;
    struct conf_map roles;     /* app identity or "*" -> database role */
    struct conf_map functions; /* app identity -> names of functions, comma-separated */
    uint32_t workers, finishers, statements, finished, prepared_share;
    uint64_t sweep_ms, grace_ms, lock_wait_ms, settle_lock_ms, drain_ms;
    char *gid_form_word;
    char *peers_listen, *peers_address;
    uint32_t relay_sessions, relay_attempts;
    uint64_t handler_ms, keep_inbox_ms, keep_events_ms;
    char *metrics_socket;
    char *level_word, *format_word, *faults_word;
    /* made of the words */
    enum ls_gid_form gid_form;
    enum diag_level level;
    enum diag_format format;
    bool faults;
    struct pg_target target;
    const char **database_roles; /* each once */
    size_t database_role_count;
};

extern const struct conf_key agent_conf_keys[];
extern const size_t agent_conf_key_count;

/* LS_ERR_CONFIG names file, line and key. On success the caller frees. */
enum ls_status agent_conf_load(const char *file, struct agent_conf *ret_conf, struct ls_error *err) LS_MUST_CHECK;
/* The same from memory, without the environment; `name` stands for the file in errors. */
enum ls_status agent_conf_parse(const char *text, size_t length, const char *name, struct agent_conf *ret_conf,
                                struct ls_error *err) LS_MUST_CHECK;
void agent_conf_free(struct agent_conf *conf);
/* As a client of the coordinator and of peers, as a server of peers, with its own certificate. LS_ERR_CONFIG names the
 * file that cannot be used; then there is neither. */
enum ls_status agent_conf_load_tls(const struct agent_conf *conf, SSL_CTX **ret_client, SSL_CTX **ret_server,
                                   struct ls_error *err) LS_MUST_CHECK;
/* The core's share of it; `seed` is the host's. */
void agent_conf_core(const struct agent_conf *conf, uint64_t seed, struct agent_config *ret_core);

/* The database role of an application ("app/checkout"); NULL: it has none here. */
const char *agent_conf_role(const struct agent_conf *conf, const char *app);
/* The only functions that it may call, comma-separated; NULL: any SQL that its role may run. */
const char *agent_conf_functions(const struct agent_conf *conf, const char *app);

#endif
