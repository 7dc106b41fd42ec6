/*
 * tls.h: mutual TLS 1.3 on every TCP hop; the certificate's URI says who the peer is.
 *
 *   lockstep://coordinator/<name>  lockstep://agent/<participant>  lockstep://app/<name>  lockstep://admin/<name>
 * lockstep://monitor/<name>
 */
#ifndef LOCKSTEP_TLS_H
#define LOCKSTEP_TLS_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <time.h>

#include "lockstep/limits.h"
#include "lockstep/status.h"

enum tls_role {
    TLS_ROLE_NONE = 0,
    TLS_ROLE_COORDINATOR,
    TLS_ROLE_AGENT,
    TLS_ROLE_APP,
    TLS_ROLE_ADMIN,
    TLS_ROLE_MONITOR
};

struct tls_identity {
    enum tls_role role;
    char name[LS_IDENTITY_MAX + 1]; /* without the role: "checkout" */
    char serial[64];                /* hex, for the audit */
};

struct tls_files {
    const char *ca, *certificate, *key, *crl; /* crl may be NULL */
};

/* The key file must not be readable by others (0600, or 0640 when root owns it). LS_ERR_CONFIG names file and reason.
 * Server and client contexts: TLS 1.3 only, peer certificate required, tickets off, no compression. */
enum ls_status tls_server_context(const struct tls_files *files, SSL_CTX **ret_context,
                                  struct ls_error *err) LS_MUST_CHECK;
enum ls_status tls_client_context(const struct tls_files *files, SSL_CTX **ret_context,
                                  struct ls_error *err) LS_MUST_CHECK;

/* Can those of these files that are named be used by somebody else (libcurl)? LS_ERR_CONFIG names file and reason. */
enum ls_status tls_check_files(const struct tls_files *files, struct ls_error *err) LS_MUST_CHECK;

/*
 * The peer's identity after the handshake. Contexts accept any certificate during the handshake, so that the refusal
 * can be said in words: this call checks chain and URI. LS_ERR_DENIED with a text for none, untrusted, expired,
 * revoked, no or several lockstep URIs, bad role or name.
 */
enum ls_status tls_peer_identity(const SSL *ssl, struct tls_identity *ret_identity, struct ls_error *err) LS_MUST_CHECK;
/* The same from a certificate whose chain has been checked. */
enum ls_status tls_certificate_identity(const X509 *certificate, struct tls_identity *ret_identity,
                                        struct ls_error *err) LS_MUST_CHECK;
/* Parses "lockstep://app/checkout". Pure. */
enum ls_status tls_parse_uri(const char *uri, size_t length, struct tls_identity *ret_identity,
                             struct ls_error *err) LS_MUST_CHECK;
const char *tls_role_name(enum tls_role role);
/* Is the context's own certificate the one of `role` and `name`? LS_ERR_CONFIG says whose it is instead: everybody
 * would refuse it, one by one and with less to say. */
enum ls_status tls_check_own(const SSL_CTX *context, const struct tls_files *files, enum tls_role role,
                             const char *name, struct ls_error *err) LS_MUST_CHECK;
/* When the context's own certificate ends (for a metric and a warning). */
time_t tls_certificate_end(const SSL_CTX *context);

#endif
