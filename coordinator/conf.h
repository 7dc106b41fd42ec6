/*
 * conf.h: the configuration of lockstepd. The table of keys in conf.c is the only list of them; conf/lockstepd.yaml is
 * printed from it
 * (`lockstepd --help-config`).
 */
#ifndef LOCKSTEP_COORDINATOR_CONF_H
#define LOCKSTEP_COORDINATOR_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/conf.h"
#include "common/diag.h"
#include "common/tls.h"
#include "lockstep/status.h"

struct coordinator_conf {
    char *name, *data;
    char *api_listen, *api_socket;
    char *agents_listen;
    uint32_t agents_connections;
    char *tls_ca, *tls_certificate, *tls_key, *tls_crl;
    /* limits: those marked (r) are read again on SIGHUP */
    uint64_t body_max;         /* (r) */
    uint32_t statements_max;   /* (r) */
    uint32_t participants_max; /* (r) per transaction */
    uint32_t result_rows_max;  /* (r) */
    uint64_t result_bytes_max; /* (r) */
    uint64_t deadline_ms;      /* (r) */
    uint64_t lock_timeout_ms;  /* (r) */
    uint64_t apply_wait_ms;    /* (r) */
    uint64_t http_idle_ms;     /* (r) */
    uint32_t connections_max;  /* (r) */
    uint32_t sagas_max;
    uint64_t saga_body_max, saga_deadline_ms;
    uint64_t call_answer_max;                       /* (r) */
    uint32_t calls_max;                             /* (r) */
    struct conf_map services;                       /* (r) name to base URL */
    char *calls_ca, *calls_certificate, *calls_key; /* (r) */
    uint32_t calls_connections;
    char *alerts_webhook, *alerts_ca, *alerts_secret;                 /* (r) */
    uint64_t alerts_window_ms, alerts_in_doubt_ms, alerts_timeout_ms; /* (r) */
    uint32_t waiting_max, in_flight_max, keys_max, finished_max;
    uint64_t resend_ms, presume_wait_ms;
    uint64_t segment_bytes, log_bytes_max, retention_ms;
    uint32_t spares;
    uint64_t drain_ms; /* (r) */
    char *diag_level_word, *diag_format_word, *faults_word;
    /* derived by coordinator_conf_load */
    enum diag_level diag_level;
    enum diag_format diag_format;
    bool faults;
};

extern const struct conf_key coordinator_conf_keys[];
extern const size_t coordinator_conf_key_count;

/* Loads and checks what the table alone cannot say. LS_ERR_CONFIG names file, line and key where there is one. */
enum ls_status coordinator_conf_load(const char *file, struct coordinator_conf *ret_conf,
                                     struct ls_error *err) LS_MUST_CHECK;
/* The same from memory, without the environment; `name` stands for the file in errors. */
enum ls_status coordinator_conf_parse(const char *text, size_t length, const char *name,
                                      struct coordinator_conf *ret_conf, struct ls_error *err) LS_MUST_CHECK;
void coordinator_conf_free(struct coordinator_conf *conf);
/* Takes over from `next` what may change while running ((r) above and the tls files); leaves the old values in `next`.
 * Returns the name of a key that differs and needs a restart, or NULL. */
const char *coordinator_conf_take(struct coordinator_conf *conf, struct coordinator_conf *next);
/* Where a service is; NULL: it is not configured. */
const char *coordinator_conf_service(const struct coordinator_conf *conf, const char *name);
struct tls_files coordinator_conf_tls(const struct coordinator_conf *conf);
/* The context of its listeners, with its own certificate. The files of the TLS that services and receivers of alerts
 * are called with are looked at, too. LS_ERR_CONFIG names the one that cannot be used. */
enum ls_status coordinator_conf_load_tls(const struct coordinator_conf *conf, SSL_CTX **ret_tls,
                                         struct ls_error *err) LS_MUST_CHECK;

#endif
