/*
 * tls.c: contexts, and who the peer is. The handshake itself accepts any certificate, so that a refusal can be said in
 * words instead of a reset connection; tls_peer_identity() is the gate, and nothing may be read from a peer as meant
 * before it has said LS_OK.
 *
 * The first verification error is kept in the SSL object: later checks of the chain may overwrite what
 * SSL_get_verify_result() reports once a callback has let an error pass.
 */
#include "common/tls.h"

#include <assert.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/text.h"
#include "lockstep/ids.h"

#define URI_PREFIX "lockstep://"
#define URI_PREFIX_LEN (sizeof URI_PREFIX - 1)

static const struct {
    const char *name;
    size_t name_max; /* of what follows the role */
} roles[] = {[TLS_ROLE_NONE] = {"none", 0},
             [TLS_ROLE_COORDINATOR] = {"coordinator", LS_COORDINATOR_MAX},
             [TLS_ROLE_AGENT] = {"agent", LS_PARTICIPANT_MAX},
             [TLS_ROLE_APP] = {"app", LS_IDENTITY_MAX - sizeof "app"},
             [TLS_ROLE_ADMIN] = {"admin", LS_IDENTITY_MAX - sizeof "admin"},
             [TLS_ROLE_MONITOR] = {"monitor", LS_IDENTITY_MAX - sizeof "monitor"}};
#define ROLES (sizeof roles / sizeof *roles)

const char *tls_role_name(enum tls_role role) {
    assert((unsigned)role < ROLES);
    return roles[role].name;
}

enum ls_status tls_parse_uri(const char *uri, size_t length, struct tls_identity *ret_identity, struct ls_error *err) {
    char text[URI_PREFIX_LEN + LS_IDENTITY_MAX + 2];
    if (length >= sizeof text) return ls_fail(err, LS_ERR_DENIED, "URI of %zu bytes is too long", length);
    if (memchr(uri, '\0', length)) return ls_fail(err, LS_ERR_DENIED, "URI holds a NUL byte");
    memcpy(text, uri, length);
    text[length] = '\0';
    if (strncmp(text, URI_PREFIX, URI_PREFIX_LEN) != 0)
        return ls_fail(err, LS_ERR_DENIED, "URI `%s` is not lockstep://role/name", text);
    char *role = text + URI_PREFIX_LEN, *slash = strchr(role, '/');
    if (!slash) return ls_fail(err, LS_ERR_DENIED, "URI `%s` is not lockstep://role/name", text);
    *slash = '\0';
    for (unsigned i = TLS_ROLE_COORDINATOR; i < ROLES; i++) {
        if (strcmp(roles[i].name, role) != 0) continue;
        if (!ls_name_valid(slash + 1, roles[i].name_max)) {
            return ls_fail(err, LS_ERR_DENIED, "`%s` is no name for the role %s (1 to %zu letters, digits, '_' or '-')",
                           slash + 1, role, roles[i].name_max);
        }
        struct tls_identity identity = {.role = (enum tls_role)i};
        memcpy(identity.name, slash + 1, strlen(slash + 1) + 1);
        *ret_identity = identity;
        return LS_OK;
    }
    return ls_fail(err, LS_ERR_DENIED, "`%s` is no role", role);
}

/* ------------------------------------------------------------------ contexts */

static int first_error_index = -1;
static pthread_once_t first_error_once = PTHREAD_ONCE_INIT;

static void make_first_error_index(void) {
    first_error_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
}

static int remember_first_error(int ok, X509_STORE_CTX *store) {
    if (!ok) {
        SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
        if (!SSL_get_ex_data(ssl, first_error_index)) {
            (void)SSL_set_ex_data(ssl, first_error_index, (void *)(intptr_t)X509_STORE_CTX_get_error(store));
        }
    }
    return 1;
}

/* OpenSSL's own reason, or that of the system call behind it. */
static enum ls_status failed(struct ls_error *err, const char *what, const char *file) {
    unsigned long code = ERR_peek_error(); /* the first; OpenSSL's layers above a system error only say "system lib" */
    const char *reason = ERR_SYSTEM_ERROR(code) ? strerror(ERR_GET_REASON(code)) : ERR_reason_error_string(code);
    enum ls_status status =
        ls_fail(err, LS_ERR_CONFIG, "%s%s%s: %s", what, *file ? " " : "", file, reason ? reason : "failed");
    ERR_clear_error();
    return status;
}

/* As PostgreSQL wants it of its own key: nobody else may read it. */
static enum ls_status check_key_file(const char *file, struct ls_error *err) {
    struct stat info;
    if (stat(file, &info) != 0) return ls_fail(err, LS_ERR_CONFIG, "private key %s: %s", file, strerror(errno));
    mode_t forbidden = info.st_uid == 0 ? 0037 : 0077;
    if (!S_ISREG(info.st_mode)) return ls_fail(err, LS_ERR_CONFIG, "private key %s: not a file", file);
    if (info.st_mode & forbidden)
        return ls_fail(err, LS_ERR_CONFIG, "private key %s: others may read it (chmod 0600)", file);
    return LS_OK;
}

/* A key with a pass phrase must not make a daemon ask for it on a terminal. */
/* NOLINTNEXTLINE(readability-non-const-parameter): OpenSSL's type of such a function */
static int no_pass_phrase(char *buffer, int size, int writing, void *context) {
    (void)buffer, (void)size, (void)writing, (void)context;
    return 0;
}

static enum ls_status load_crl(SSL_CTX *context, const char *file, struct ls_error *err) {
    X509_STORE *store = SSL_CTX_get_cert_store(context);
    X509_LOOKUP *lookup = X509_STORE_add_lookup(store, X509_LOOKUP_file());
    if (!lookup || X509_load_crl_file(lookup, file, X509_FILETYPE_PEM) < 1) return failed(err, "revocation list", file);
    (void)X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK);
    return LS_OK;
}

static enum ls_status load_pair(SSL_CTX *context, const struct tls_files *files, struct ls_error *err) {
    if (SSL_CTX_use_certificate_chain_file(context, files->certificate) != 1)
        return failed(err, "certificate", files->certificate);
    enum ls_status status = check_key_file(files->key, err);
    if (status != LS_OK) return status;
    SSL_CTX_set_default_passwd_cb(context, no_pass_phrase);
    if (SSL_CTX_use_PrivateKey_file(context, files->key, SSL_FILETYPE_PEM) != 1)
        return failed(err, "private key", files->key);
    if (SSL_CTX_check_private_key(context) != 1)
        return failed(err, "private key does not belong to the certificate:", files->key);
    return LS_OK;
}

static enum ls_status load_named_files(SSL_CTX *context, const struct tls_files *files, struct ls_error *err) {
    if (files->ca && SSL_CTX_load_verify_file(context, files->ca) != 1) return failed(err, "CA", files->ca);
    enum ls_status status = files->certificate && files->key ? load_pair(context, files, err) : LS_OK;
    return status == LS_OK && files->crl ? load_crl(context, files->crl, err) : status;
}

static enum ls_status load_files(SSL_CTX *context, const struct tls_files *files, struct ls_error *err) {
    return files->ca && files->certificate && files->key
               ? load_named_files(context, files, err)
               : ls_fail(err, LS_ERR_CONFIG, "TLS needs a CA, a certificate and a key");
}

enum ls_status tls_check_files(const struct tls_files *files, struct ls_error *err) {
    ERR_clear_error();
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    enum ls_status status = context ? load_named_files(context, files, err) : failed(err, "TLS context", "");
    SSL_CTX_free(context);
    return status;
}

static enum ls_status new_context(const SSL_METHOD *method, const struct tls_files *files, SSL_CTX **ret_context,
                                  struct ls_error *err) {
    (void)pthread_once(&first_error_once, make_first_error_index);
    ERR_clear_error();
    SSL_CTX *context = SSL_CTX_new(method);
    if (!context || first_error_index < 0) {
        SSL_CTX_free(context);
        return failed(err, "TLS context", "");
    }
    enum ls_status status = LS_OK;
    if (SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) != 1 || SSL_CTX_set_num_tickets(context, 0) != 1) {
        status = failed(err, "TLS 1.3", "");
    }
    /* A peer that ends its connection without close_notify (evhttp's clients do) is a closed connection, not an error.
     */
    (void)SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION |
                                           SSL_OP_IGNORE_UNEXPECTED_EOF);
    (void)SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, remember_first_error);
    if (status == LS_OK) status = load_files(context, files, err);
    if (status != LS_OK) {
        SSL_CTX_free(context);
        return status;
    }
    *ret_context = context;
    return LS_OK;
}

enum ls_status tls_server_context(const struct tls_files *files, SSL_CTX **ret_context, struct ls_error *err) {
    SSL_CTX *context;
    enum ls_status status = new_context(TLS_server_method(), files, &context, err);
    if (status != LS_OK) return status;
    STACK_OF(X509_NAME) *names =
        SSL_load_client_CA_file(files->ca); /* which CA a client's certificate should come from */
    if (!names) {
        SSL_CTX_free(context);
        return failed(err, "CA", files->ca);
    }
    SSL_CTX_set_client_CA_list(context, names);
    *ret_context = context;
    return LS_OK;
}

enum ls_status tls_client_context(const struct tls_files *files, SSL_CTX **ret_context, struct ls_error *err) {
    return new_context(TLS_client_method(), files, ret_context, err);
}

time_t tls_certificate_end(const SSL_CTX *context) {
    struct tm end;
    X509 *certificate = SSL_CTX_get0_certificate(context);
    if (!certificate || ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &end) != 1) return 0;
    return timegm(&end);
}

/* ------------------------------------------------------------------ the peer */

/* The one lockstep URI among the alternative names. */
static enum ls_status read_uri(const X509 *certificate, struct tls_identity *ret_identity, struct ls_error *err) {
    GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    enum ls_status status = ls_fail(err, LS_ERR_DENIED, "certificate has no lockstep:// URI");
    unsigned found = 0;
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) { /* -1 for NULL */
        int kind;
        const ASN1_STRING *uri = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, i), &kind);
        if (kind != GEN_URI) continue;
        const char *text = (const char *)ASN1_STRING_get0_data(uri);
        size_t length = (size_t)ASN1_STRING_length(uri);
        if (length < URI_PREFIX_LEN || strncasecmp(text, URI_PREFIX, URI_PREFIX_LEN) != 0) continue;
        if (++found > 1) {
            status = ls_fail(err, LS_ERR_DENIED, "certificate has several lockstep:// URIs");
            break;
        }
        status = tls_parse_uri(text, length, ret_identity, err);
        if (status != LS_OK) break;
    }
    GENERAL_NAMES_free(names);
    return status;
}

static enum ls_status read_serial(const X509 *certificate, char *out, size_t size, struct ls_error *err) {
    BIGNUM *number = ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate), NULL);
    char *hex = number ? BN_bn2hex(number) : NULL;
    enum ls_status status = LS_OK;
    if (!hex || strlen(hex) >= size) {
        status = ls_fail(err, LS_ERR_DENIED, "certificate's serial number is too long");
    } else {
        memcpy(out, hex, strlen(hex) + 1);
    }
    OPENSSL_free(hex);
    BN_free(number);
    return status;
}

enum ls_status tls_certificate_identity(const X509 *certificate, struct tls_identity *ret_identity,
                                        struct ls_error *err) {
    struct tls_identity identity = {0};
    enum ls_status status = read_uri(certificate, &identity, err);
    if (status == LS_OK) status = read_serial(certificate, identity.serial, sizeof identity.serial, err);
    if (status == LS_OK) *ret_identity = identity;
    return status;
}

enum ls_status tls_check_own(const SSL_CTX *context, const struct tls_files *files, enum tls_role role,
                             const char *name, struct ls_error *err) {
    struct tls_identity own;
    struct ls_error why;
    if (tls_certificate_identity(SSL_CTX_get0_certificate(context), &own, &why) != LS_OK)
        return ls_fail(err, LS_ERR_CONFIG, "%s: %s; it must be that of %s/%s", files->certificate, why.text,
                       tls_role_name(role), name);
    if (own.role != role || strcmp(own.name, name) != 0)
        return ls_fail(err, LS_ERR_CONFIG, "%s: the certificate is that of %s/%s, it must be that of %s/%s",
                       files->certificate, tls_role_name(own.role), own.name, tls_role_name(role), name);
    return LS_OK;
}

enum ls_status tls_peer_identity(const SSL *ssl, struct tls_identity *ret_identity, struct ls_error *err) {
    X509 *certificate = SSL_get0_peer_certificate(ssl);
    if (!certificate) return ls_fail(err, LS_ERR_DENIED, "no certificate was shown");
    long result = (long)(intptr_t)SSL_get_ex_data(ssl, first_error_index);
    if (result == X509_V_OK) result = SSL_get_verify_result(ssl);
    if (result != X509_V_OK)
        return ls_fail(err, LS_ERR_DENIED, "certificate refused: %s", X509_verify_cert_error_string(result));
    return tls_certificate_identity(certificate, ret_identity, err);
}
