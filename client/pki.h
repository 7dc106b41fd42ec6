/*
 * pki.h: a certificate authority in a folder, for `lockstep pki`.
 *
 *   ca.crt ca.key            the authority: EC P-256, ten years, signs nothing but leaves; may name only lockstep://
 * URIs of our roles crl.pem                  its revocation list (made empty by init), for `tls.crl` <role>-<name>.crt
 * .key   one pair per identity; the certificate's URI lockstep://<role>/<name> decides what its holder may do
 *   revoked/<serial>.crt     certificates taken back
 *
 * Keys are 0600 and written before the certificate that needs them. Nothing is ever overwritten.
 */
#ifndef CLIENT_PKI_H
#define CLIENT_PKI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/tls.h"
#include "lockstep/status.h"

#define PKI_DAYS_CA 3650u
#define PKI_DAYS_LEAF 825u
#define PKI_DAYS_MAX 36500u
#define PKI_HOSTS_MAX 32
#define PKI_PATH_MAX 1024
#define PKI_HOST_TEXT_MAX 512
#define PKI_SERIAL_TEXT_MAX 48 /* hex of at most 20 bytes */

/* Makes the folder (0700) where needed, authority and empty revocation list. LS_ERR_EXISTS: there is one already. */
enum ls_status pki_init(const char *dir, uint32_t days, struct ls_error *err) LS_MUST_CHECK;

struct pki_request {
    const char *role; /* coordinator, agent, app, admin, monitor */
    const char *name;
    const char *const *hosts; /* DNS names and IP addresses a server is reached by */
    size_t host_count;        /* 0: localhost, 127.0.0.1, ::1 for coordinators and agents; apps have none */
    uint32_t days;
};
/* Issues a pair; the paths come back. LS_ERR_INVALID: role, name or host; LS_ERR_EXISTS: there is one of that name. */
enum ls_status pki_issue(const char *dir, const struct pki_request *request, char ret_certificate[PKI_PATH_MAX],
                         char ret_key[PKI_PATH_MAX], struct ls_error *err) LS_MUST_CHECK;

/* Puts the certificate of role and name on the revocation list and its files into revoked/. LS_ERR_NOT_FOUND: no such
 * pair. Repeated after a crash it finishes what it had begun. */
enum ls_status pki_revoke(const char *dir, const char *role, const char *name, char ret_serial[PKI_SERIAL_TEXT_MAX],
                          struct ls_error *err) LS_MUST_CHECK;

enum pki_state { PKI_VALID, PKI_EXPIRED, PKI_NOT_YET, PKI_REVOKED, PKI_UNTRUSTED };
struct pki_entry {
    char file[PKI_PATH_MAX];
    bool authority;
    struct tls_identity identity; /* role TLS_ROLE_NONE: no lockstep URI, or several */
    char hosts[PKI_HOST_TEXT_MAX];
    char serial[PKI_SERIAL_TEXT_MAX];
    char not_after[32]; /* 2026-01-31 */
    enum pki_state state;
};
/* Visits the certificates of the folder in order of file name, revoked ones last. */
enum ls_status pki_list(const char *dir, void (*visit)(void *context, const struct pki_entry *entry), void *context,
                        struct ls_error *err) LS_MUST_CHECK;
const char *pki_state_text(enum pki_state state);

#endif
