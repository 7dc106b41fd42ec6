/*
 * pki.c: see pki.h. OpenSSL's C API; no certificate is taken apart or put together by hand.
 *
 * What it must never do: overwrite a key, leave a key that others can read, sign a name whose URI reads back as another
 * one. Failure modes: a crash between key and certificate leaves a key without certificate, and the next `issue` says
 * so and stops; a crash in `revoke` leaves the list complete and the files in place, and the next `revoke` moves them.
 */
#include "client/pki.h"

#include <arpa/inet.h>
#include <assert.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lockstep/ids.h"

#define CLOCK_SKEW_S 300L /* certificates begin a little in the past: clocks differ */
#define SAN_TEXT_MAX 8192
#define SERIAL_BITS 127
#define DAY_S 86400L

static const char *const default_hosts[] = {"localhost", "127.0.0.1", "::1"};

/* ---------------------------------------------------------------------- files */

static enum ls_status make_path(char path[PKI_PATH_MAX], struct ls_error *err, const char *dir, const char *name,
                                const char *suffix) {
    int length = snprintf(path, PKI_PATH_MAX, "%s/%s%s", dir, name, suffix);

    if (length < 0 || length >= PKI_PATH_MAX) return ls_fail(err, LS_ERR_INVALID, "the path of `%s` is too long", name);
    return LS_OK;
}

/* The last OpenSSL error as text, and an empty error queue. */
static const char *openssl_reason(void) {
    unsigned long code = ERR_peek_last_error();
    const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;

    ERR_clear_error();
    return reason != NULL ? reason : "no reason given";
}

static enum ls_status sync_directory(const char *dir, struct ls_error *err) {
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0) return ls_fail(err, LS_ERR_IO, "%s: %s", dir, strerror(errno));
    int failed = fsync(fd), saved = errno;
    (void)close(fd);
    return failed == 0 ? LS_OK : ls_fail(err, LS_ERR_IO, "%s: %s", dir, strerror(saved));
}

/* Creates `path`; never replaces it. Contents from a memory BIO. On failure nothing of it is left. */
static enum ls_status write_new(const char *path, mode_t mode, BIO *contents, struct ls_error *err) {
    char *data;
    long length = BIO_get_mem_data(contents, &data);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);

    if (fd < 0 && errno == EEXIST) return ls_fail(err, LS_ERR_EXISTS, "%s exists already and is not overwritten", path);
    if (fd < 0) return ls_fail(err, LS_ERR_IO, "%s: %s", path, strerror(errno));
    errno = 0;
    bool written = fchmod(fd, mode) == 0 && write(fd, data, (size_t)length) == length && fsync(fd) == 0;
    int saved = errno != 0 ? errno : ENOSPC; /* a short write sets none */
    if (close(fd) == 0 && written) return LS_OK;
    (void)unlink(path);
    return ls_fail(err, LS_ERR_IO, "%s: %s", path, strerror(saved));
}

static enum ls_status write_key(const char *path, EVP_PKEY *key, struct ls_error *err) {
    BIO *memory = BIO_new(BIO_s_secmem());
    enum ls_status status = LS_ERR_NOMEM;

    if (memory != NULL && PEM_write_bio_PrivateKey(memory, key, NULL, NULL, 0, NULL, NULL) == 1)
        status = write_new(path, 0600, memory, err);
    else
        (void)ls_fail(err, LS_ERR_NOMEM, "cannot encode a key: %s", openssl_reason());
    BIO_free(memory);
    return status;
}

static enum ls_status write_certificate(const char *path, X509 *certificate, struct ls_error *err) {
    BIO *memory = BIO_new(BIO_s_mem());
    enum ls_status status = LS_ERR_NOMEM;

    if (memory != NULL && PEM_write_bio_X509(memory, certificate) == 1)
        status = write_new(path, 0644, memory, err);
    else
        (void)ls_fail(err, LS_ERR_NOMEM, "cannot encode a certificate: %s", openssl_reason());
    BIO_free(memory);
    return status;
}

/* Replaces the revocation list, whole or not at all. */
static enum ls_status write_crl(const char *dir, X509_CRL *crl, struct ls_error *err) {
    char path[PKI_PATH_MAX], next[PKI_PATH_MAX];
    BIO *memory = BIO_new(BIO_s_mem());
    enum ls_status status = make_path(path, err, dir, "crl", ".pem");

    if (status == LS_OK) status = make_path(next, err, dir, "crl", ".pem.next");
    if (status == LS_OK && (memory == NULL || PEM_write_bio_X509_CRL(memory, crl) != 1))
        status = ls_fail(err, LS_ERR_NOMEM, "cannot encode the revocation list: %s", openssl_reason());
    if (status == LS_OK) {
        (void)unlink(next); /* left by a crash; nobody reads it */
        status = write_new(next, 0644, memory, err);
    }
    if (status == LS_OK && rename(next, path) != 0) status = ls_fail(err, LS_ERR_IO, "%s: %s", path, strerror(errno));
    BIO_free(memory);
    return status == LS_OK ? sync_directory(dir, err) : status;
}

static BIO *open_read(const char *path, struct ls_error *err) {
    BIO *file = BIO_new_file(path, "r");

    if (file == NULL) {
        (void)ls_fail(err, errno == ENOENT ? LS_ERR_NOT_FOUND : LS_ERR_IO, "%s: %s", path, strerror(errno));
        ERR_clear_error();
    }
    return file;
}

static X509 *read_certificate(const char *path, struct ls_error *err) {
    BIO *file = open_read(path, err);
    X509 *certificate = file != NULL ? PEM_read_bio_X509(file, NULL, NULL, NULL) : NULL;

    if (file != NULL && certificate == NULL)
        (void)ls_fail(err, LS_ERR_INVALID, "%s is no certificate: %s", path, openssl_reason());
    BIO_free(file);
    return certificate;
}

static EVP_PKEY *read_key(const char *path, struct ls_error *err) {
    BIO *file = open_read(path, err);
    EVP_PKEY *key = file != NULL ? PEM_read_bio_PrivateKey(file, NULL, NULL, NULL) : NULL;

    if (file != NULL && key == NULL)
        (void)ls_fail(err, LS_ERR_INVALID, "%s is no private key: %s", path, openssl_reason());
    BIO_free(file);
    return key;
}

/* ------------------------------------------------------------------ authority */

struct authority {
    X509 *certificate;
    EVP_PKEY *key;
    X509_CRL *crl; /* only what pki_revoke and pki_list need */
};

static void authority_free(struct authority *authority) {
    X509_free(authority->certificate);
    EVP_PKEY_free(authority->key);
    X509_CRL_free(authority->crl);
    *authority = (struct authority){0};
}

static enum ls_status read_crl(const char *dir, X509_CRL **ret_crl, struct ls_error *err) {
    char path[PKI_PATH_MAX];
    enum ls_status status = make_path(path, err, dir, "crl", ".pem");
    if (status != LS_OK) return status;
    BIO *file = open_read(path, err);
    if (file == NULL) return LS_ERR_IO;
    *ret_crl = PEM_read_bio_X509_CRL(file, NULL, NULL, NULL);
    BIO_free(file);
    return *ret_crl != NULL ? LS_OK
                            : ls_fail(err, LS_ERR_INVALID, "%s is no revocation list: %s", path, openssl_reason());
}

static enum ls_status authority_open(const char *dir, bool with_key, struct authority *ret_authority,
                                     struct ls_error *err) {
    struct authority authority = {0};
    char path[PKI_PATH_MAX];
    enum ls_status status = make_path(path, err, dir, "ca", ".crt");

    if (status != LS_OK) return status;
    if (access(path, F_OK) != 0)
        return ls_fail(err, LS_ERR_NOT_FOUND, "no certificate authority in %s (lockstep pki init makes one)", dir);
    authority.certificate = read_certificate(path, err);
    if (authority.certificate == NULL) return LS_ERR_IO;
    if (with_key) {
        status = make_path(path, err, dir, "ca", ".key");
        authority.key = status == LS_OK ? read_key(path, err) : NULL;
        if (authority.key == NULL || X509_check_private_key(authority.certificate, authority.key) != 1) {
            if (authority.key != NULL) (void)ls_fail(err, LS_ERR_MISMATCH, "%s does not belong to ca.crt", path);
            ERR_clear_error();
            authority_free(&authority);
            return LS_ERR_MISMATCH;
        }
    }
    status = read_crl(dir, &authority.crl, err);
    if (status != LS_OK) {
        authority_free(&authority);
        return status;
    }
    *ret_authority = authority;
    return LS_OK;
}

/* --------------------------------------------------------------- certificates */

static bool add_extension(X509 *certificate, X509 *issuer, int nid, const char *value) {
    X509V3_CTX context;

    X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    bool added = extension != NULL && X509_add_ext(certificate, extension, -1) == 1;
    X509_EXTENSION_free(extension);
    return added;
}

static bool set_serial(X509 *certificate) {
    BIGNUM *number = BN_new();
    /* the top bit is set: never zero, never negative in DER, at most 16 bytes */
    bool done = number != NULL && BN_rand(number, SERIAL_BITS, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) == 1 &&
                BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate)) != NULL;

    BN_free(number);
    return done;
}

static bool set_subject(X509 *certificate, const char *unit, const char *name) {
    X509_NAME *subject = X509_get_subject_name(certificate);

    return X509_NAME_add_entry_by_txt(subject, "O", MBSTRING_UTF8, (const unsigned char *)"lockstep", -1, -1, 0) == 1 &&
           X509_NAME_add_entry_by_txt(subject, "OU", MBSTRING_UTF8, (const unsigned char *)unit, -1, -1, 0) == 1 &&
           X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)name, -1, -1, 0) == 1;
}

/* A certificate for `key` without extensions and signature. NULL on failure. */
static X509 *begin_certificate(EVP_PKEY *key, uint32_t days, const char *unit, const char *name) {
    X509 *certificate = X509_new();

    if (certificate != NULL && X509_set_version(certificate, X509_VERSION_3) == 1 && set_serial(certificate) &&
        X509_gmtime_adj(X509_getm_notBefore(certificate), -CLOCK_SKEW_S) != NULL &&
        X509_time_adj_ex(X509_getm_notAfter(certificate), (int)days, 0, NULL) != NULL &&
        set_subject(certificate, unit, name) && X509_set_pubkey(certificate, key) == 1)
        return certificate;
    X509_free(certificate);
    return NULL;
}

static X509 *make_authority(EVP_PKEY *key, uint32_t days) {
    X509 *certificate = begin_certificate(key, days, "pki", "lockstep certificate authority");

    if (certificate == NULL) return NULL;
    if (X509_set_issuer_name(certificate, X509_get_subject_name(certificate)) == 1 &&
        add_extension(certificate, certificate, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
        add_extension(certificate, certificate, NID_key_usage, "critical,keyCertSign,cRLSign") &&
        add_extension(certificate, certificate, NID_subject_key_identifier, "hash") &&
        add_extension(certificate, certificate, NID_authority_key_identifier, "keyid:always") &&
        /* a URI's host is our role: a stolen key of this authority makes no URI of another kind */
        add_extension(certificate, certificate, NID_name_constraints,
                      "critical,permitted;URI:coordinator,permitted;URI:agent,permitted;URI:app,permitted;URI:admin,"
                      "permitted;URI:monitor") &&
        X509_sign(certificate, key, EVP_sha256()) > 0)
        return certificate;
    X509_free(certificate);
    return NULL;
}

static bool dns_name_valid(const char *host) {
    size_t length = strlen(host);

    if (length == 0 || length > 253 || host[0] == '.' || host[0] == '-') return false;
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)host[i]) && host[i] != '-' && host[i] != '.' && host[i] != '_') return false;
    return strstr(host, "..") == NULL;
}

static bool ip_address_valid(const char *host) {
    unsigned char buffer[16];

    return inet_pton(AF_INET, host, buffer) == 1 || inet_pton(AF_INET6, host, buffer) == 1;
}

/* "URI:lockstep://app/checkout,DNS:localhost,IP:::1". Only alphabets without comma and colon get in, so nothing can be
 * smuggled. */
static enum ls_status build_names(const struct pki_request *request, char names[SAN_TEXT_MAX], struct ls_error *err) {
    size_t used = (size_t)snprintf(names, SAN_TEXT_MAX, "URI:lockstep://%s/%s", request->role, request->name);

    for (size_t i = 0; i < request->host_count; i++) {
        const char *host = request->hosts[i];
        bool address = ip_address_valid(host);
        if (!address && !dns_name_valid(host))
            return ls_fail(err, LS_ERR_INVALID, "`%s` is neither a host name nor an IP address", host);
        used += (size_t)snprintf(names + used, SAN_TEXT_MAX - used, ",%s:%s", address ? "IP" : "DNS", host);
        if (used >= SAN_TEXT_MAX) return ls_fail(err, LS_ERR_TOO_LARGE, "too many host names");
    }
    return LS_OK;
}

/* Role and name are valid exactly when the programs will read them back from the URI as they were given. */
static enum ls_status check_identity(const char *role, const char *name, struct tls_identity *ret_identity,
                                     struct ls_error *err) {
    char uri[LS_IDENTITY_MAX + 64];
    struct ls_error why = {0};
    int length = snprintf(uri, sizeof uri, "lockstep://%s/%s", role, name);

    if (length < 0 || (size_t)length >= sizeof uri || !ls_name_valid(role, 32) ||
        !ls_name_valid(name, LS_PARTICIPANT_MAX))
        return ls_fail(err, LS_ERR_INVALID, "`%s` `%s`: names are letters, digits, _ and -, at most %d", role, name,
                       LS_PARTICIPANT_MAX);
    if (tls_parse_uri(uri, (size_t)length, ret_identity, &why) != LS_OK)
        return ls_fail(err, LS_ERR_INVALID, "%s", why.text);
    assert(strcmp(tls_role_name(ret_identity->role), role) == 0 && strcmp(ret_identity->name, name) == 0);
    return LS_OK;
}

static const char *key_purposes(enum tls_role role) {
    switch (role) {
    case TLS_ROLE_COORDINATOR:
        return "serverAuth";
    case TLS_ROLE_AGENT:
        return "clientAuth,serverAuth"; /* dials the coordinator, listens for its peers */
    case TLS_ROLE_APP:
    case TLS_ROLE_ADMIN:
    case TLS_ROLE_MONITOR:
        return "clientAuth";
    case TLS_ROLE_NONE:
        break;
    }
    abort();
}

static X509 *make_leaf(const struct authority *authority, EVP_PKEY *key, const struct pki_request *request,
                       const struct tls_identity *identity, const char *names) {
    X509 *certificate = begin_certificate(key, request->days, request->role, request->name);
    X509 *issuer = authority->certificate;

    if (certificate == NULL) return NULL;
    if (X509_set_issuer_name(certificate, X509_get_subject_name(issuer)) == 1 &&
        add_extension(certificate, issuer, NID_basic_constraints, "critical,CA:FALSE") &&
        add_extension(certificate, issuer, NID_key_usage, "critical,digitalSignature") &&
        add_extension(certificate, issuer, NID_ext_key_usage, key_purposes(identity->role)) &&
        add_extension(certificate, issuer, NID_subject_key_identifier, "hash") &&
        add_extension(certificate, issuer, NID_authority_key_identifier, "keyid:always") &&
        add_extension(certificate, issuer, NID_subject_alt_name, names) &&
        X509_sign(certificate, authority->key, EVP_sha256()) > 0)
        return certificate;
    X509_free(certificate);
    return NULL;
}

/* ------------------------------------------------------------ revocation list */

/* A list with one entry more than `previous` (which may be NULL), valid as long as the authority itself. */
static X509_CRL *make_crl(const struct authority *authority, X509_CRL *previous, const ASN1_INTEGER *revoke) {
    X509_CRL *crl = previous != NULL ? X509_CRL_dup(previous) : X509_CRL_new();
    ASN1_TIME *now = X509_gmtime_adj(NULL, 0), *begin = X509_gmtime_adj(NULL, -CLOCK_SKEW_S);
    X509_REVOKED *entry = NULL;
    ASN1_INTEGER *number = NULL;
    bool made = crl != NULL && now != NULL && begin != NULL && X509_CRL_set_version(crl, X509_CRL_VERSION_2) == 1 &&
                X509_CRL_set_issuer_name(crl, X509_get_subject_name(authority->certificate)) == 1 &&
                X509_CRL_set1_lastUpdate(crl, begin) == 1 &&
                X509_CRL_set1_nextUpdate(crl, X509_get0_notAfter(authority->certificate)) == 1;

    if (made && previous != NULL) number = X509_CRL_get_ext_d2i(previous, NID_crl_number, NULL, NULL);
    int64_t count = 0;
    made = made && (number == NULL || ASN1_INTEGER_get_int64(&count, number) == 1);
    if (made && number == NULL) number = ASN1_INTEGER_new();
    made = made && number != NULL && ASN1_INTEGER_set_int64(number, count + 1) == 1 &&
           X509_CRL_add1_ext_i2d(crl, NID_crl_number, number, 0, X509V3_ADD_REPLACE) == 1;
    if (made && revoke != NULL) {
        entry = X509_REVOKED_new();
        made = entry != NULL && X509_REVOKED_set_serialNumber(entry, (ASN1_INTEGER *)(uintptr_t)revoke) == 1 &&
               X509_REVOKED_set_revocationDate(entry, now) == 1 && X509_CRL_add0_revoked(crl, entry) == 1;
        if (made) entry = NULL; /* the list owns it */
    }
    made = made && X509_CRL_sort(crl) == 1 && X509_CRL_sign(crl, authority->key, EVP_sha256()) > 0;
    X509_REVOKED_free(entry);
    ASN1_INTEGER_free(number);
    ASN1_TIME_free(now);
    ASN1_TIME_free(begin);
    if (made) return crl;
    X509_CRL_free(crl);
    return NULL;
}

/* -------------------------------------------------------------------- actions */

static enum ls_status make_directory(const char *dir, struct ls_error *err) {
    if (mkdir(dir, 0700) == 0 || errno == EEXIST) return LS_OK;
    return ls_fail(err, LS_ERR_IO, "%s: %s", dir, strerror(errno));
}

enum ls_status pki_init(const char *dir, uint32_t days, struct ls_error *err) {
    char certificate_path[PKI_PATH_MAX], key_path[PKI_PATH_MAX];
    struct authority authority = {0};
    enum ls_status status = make_path(certificate_path, err, dir, "ca", ".crt");

    if (status == LS_OK) status = make_path(key_path, err, dir, "ca", ".key");
    if (status == LS_OK && (access(certificate_path, F_OK) == 0 || access(key_path, F_OK) == 0))
        status = ls_fail(err, LS_ERR_EXISTS, "%s holds a certificate authority already", dir);
    if (status == LS_OK) status = make_directory(dir, err);
    if (status != LS_OK) return status;

    authority.key = EVP_EC_gen("P-256");
    if (authority.key != NULL) authority.certificate = make_authority(authority.key, days);
    if (authority.certificate != NULL) authority.crl = make_crl(&authority, NULL, NULL);
    if (authority.crl == NULL) {
        status = ls_fail(err, LS_ERR_NOMEM, "cannot make an authority: %s", openssl_reason());
    } else {
        /* The certificate comes last: a folder with ca.crt is complete. */
        status = write_key(key_path, authority.key, err);
        if (status == LS_OK) status = write_crl(dir, authority.crl, err);
        if (status == LS_OK) status = write_certificate(certificate_path, authority.certificate, err);
        if (status == LS_OK) status = sync_directory(dir, err);
    }
    authority_free(&authority);
    return status;
}

static enum ls_status issue(const char *dir, const struct authority *authority, const struct pki_request *request,
                            const struct tls_identity *identity, char certificate_path[PKI_PATH_MAX],
                            char key_path[PKI_PATH_MAX], struct ls_error *err) {
    char base[LS_IDENTITY_MAX + 64], names[SAN_TEXT_MAX];
    enum ls_status status = build_names(request, names, err);

    (void)snprintf(base, sizeof base, "%s-%s", request->role, request->name);
    if (status == LS_OK) status = make_path(certificate_path, err, dir, base, ".crt");
    if (status == LS_OK) status = make_path(key_path, err, dir, base, ".key");
    if (status == LS_OK && access(certificate_path, F_OK) == 0)
        status = ls_fail(err, LS_ERR_EXISTS, "%s exists already and is not overwritten", certificate_path);
    if (status != LS_OK) return status;

    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = key != NULL ? make_leaf(authority, key, request, identity, names) : NULL;
    if (certificate == NULL) {
        status = ls_fail(err, LS_ERR_NOMEM, "cannot make a certificate: %s", openssl_reason());
    } else {
        status = write_key(key_path, key, err);
        if (status == LS_OK) {
            status = write_certificate(certificate_path, certificate, err);
            if (status != LS_OK) (void)unlink(key_path); /* ours, made a line above */
        }
        if (status == LS_OK) status = sync_directory(dir, err);
    }
    X509_free(certificate);
    EVP_PKEY_free(key);
    return status;
}

enum ls_status pki_issue(const char *dir, const struct pki_request *request, char ret_certificate[PKI_PATH_MAX],
                         char ret_key[PKI_PATH_MAX], struct ls_error *err) {
    struct pki_request full = *request;
    struct tls_identity identity;
    struct authority authority;
    char certificate_path[PKI_PATH_MAX], key_path[PKI_PATH_MAX];

    enum ls_status status = check_identity(request->role, request->name, &identity, err);
    if (status != LS_OK) return status;
    bool server = identity.role == TLS_ROLE_COORDINATOR || identity.role == TLS_ROLE_AGENT;
    if (request->days == 0 || request->days > PKI_DAYS_MAX)
        return ls_fail(err, LS_ERR_INVALID, "%u days: 1 to %u are allowed", request->days, PKI_DAYS_MAX);
    if (!server && request->host_count > 0)
        return ls_fail(err, LS_ERR_INVALID, "a certificate of role `%s` is for no server: it has no hosts",
                       request->role);
    if (server && request->host_count == 0) {
        full.hosts = default_hosts;
        full.host_count = sizeof default_hosts / sizeof default_hosts[0];
    }
    status = authority_open(dir, true, &authority, err);
    if (status != LS_OK) return status;
    status = issue(dir, &authority, &full, &identity, certificate_path, key_path, err);
    authority_free(&authority);
    if (status != LS_OK) return status;
    memcpy(ret_certificate, certificate_path, PKI_PATH_MAX);
    memcpy(ret_key, key_path, PKI_PATH_MAX);
    return LS_OK;
}

static enum ls_status serial_text(const X509 *certificate, char text[PKI_SERIAL_TEXT_MAX]) {
    BIGNUM *number = ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate), NULL);
    char *hex = number != NULL ? BN_bn2hex(number) : NULL;
    enum ls_status status = hex != NULL && strlen(hex) < PKI_SERIAL_TEXT_MAX ? LS_OK : LS_ERR_INVALID;

    if (status == LS_OK) (void)snprintf(text, PKI_SERIAL_TEXT_MAX, "%s", hex);
    OPENSSL_free(hex);
    BN_free(number);
    return status;
}

static enum ls_status move_revoked(const char *dir, const char *from, const char *serial, const char *suffix,
                                   struct ls_error *err) {
    char folder[PKI_PATH_MAX], to[PKI_PATH_MAX];
    enum ls_status status = make_path(folder, err, dir, "revoked", "");

    if (status == LS_OK) status = make_directory(folder, err);
    if (status == LS_OK) status = make_path(to, err, folder, serial, suffix);
    if (status != LS_OK) return status;
    if (rename(from, to) != 0 && errno != ENOENT) return ls_fail(err, LS_ERR_IO, "%s: %s", to, strerror(errno));
    return LS_OK;
}

static enum ls_status revoke_pair(const char *dir, const struct authority *authority, const char *certificate_path,
                                  const char *key_path, char serial[PKI_SERIAL_TEXT_MAX], struct ls_error *err) {
    X509 *certificate = read_certificate(certificate_path, err);
    X509_REVOKED *entry = NULL;
    enum ls_status status = LS_OK;

    if (certificate == NULL) return LS_ERR_NOT_FOUND;
    if (serial_text(certificate, serial) != LS_OK) {
        X509_free(certificate);
        return ls_fail(err, LS_ERR_INVALID, "%s: a serial number of more than 20 bytes", certificate_path);
    }
    if (X509_CRL_get0_by_cert(authority->crl, &entry, certificate) == 0) {
        X509_CRL *next = make_crl(authority, authority->crl, X509_get0_serialNumber(certificate));
        status = next != NULL ? write_crl(dir, next, err)
                              : ls_fail(err, LS_ERR_NOMEM, "cannot make the revocation list: %s", openssl_reason());
        X509_CRL_free(next);
    }
    X509_free(certificate);
    /* The list is durable from here on; the key goes first, so that a pair without key is never taken for a usable one.
     */
    if (status == LS_OK) status = move_revoked(dir, key_path, serial, ".key", err);
    if (status == LS_OK) status = move_revoked(dir, certificate_path, serial, ".crt", err);
    return status == LS_OK ? sync_directory(dir, err) : status;
}

enum ls_status pki_revoke(const char *dir, const char *role, const char *name, char ret_serial[PKI_SERIAL_TEXT_MAX],
                          struct ls_error *err) {
    char base[LS_IDENTITY_MAX + 64], certificate_path[PKI_PATH_MAX], key_path[PKI_PATH_MAX],
        serial[PKI_SERIAL_TEXT_MAX];
    struct tls_identity identity;
    struct authority authority;

    enum ls_status status = check_identity(role, name, &identity, err);
    if (status != LS_OK) return status;
    (void)snprintf(base, sizeof base, "%s-%s", role, name);
    status = make_path(certificate_path, err, dir, base, ".crt");
    if (status == LS_OK) status = make_path(key_path, err, dir, base, ".key");
    if (status == LS_OK) status = authority_open(dir, true, &authority, err);
    if (status != LS_OK) return status;
    if (access(certificate_path, F_OK) != 0)
        status = ls_fail(err, LS_ERR_NOT_FOUND, "no certificate of %s `%s` in %s", role, name, dir);
    else
        status = revoke_pair(dir, &authority, certificate_path, key_path, serial, err);
    authority_free(&authority);
    if (status == LS_OK) memcpy(ret_serial, serial, sizeof serial);
    return status;
}

/* -------------------------------------------------------------------- listing */

static void append_host(char hosts[PKI_HOST_TEXT_MAX], const char *text) {
    size_t used = strlen(hosts);

    (void)snprintf(hosts + used, PKI_HOST_TEXT_MAX - used, "%s%s", used > 0 ? " " : "", text); /* a long list is cut */
}

static void read_names(const X509 *certificate, struct pki_entry *entry) {
    GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    int identities = 0;

    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        char address[INET6_ADDRSTRLEN];
        int type;
        const ASN1_STRING *value = GENERAL_NAME_get0_value(name, &type);
        const char *data =
            type == GEN_DNS || type == GEN_URI || type == GEN_IPADD ? (const char *)ASN1_STRING_get0_data(value) : NULL;
        if (type == GEN_URI && tls_parse_uri(data, (size_t)ASN1_STRING_length(value), &entry->identity, NULL) == LS_OK)
            identities++;
        else if (type == GEN_DNS)
            append_host(entry->hosts, data);
        else if (type == GEN_IPADD &&
                 inet_ntop(ASN1_STRING_length(value) == 4 ? AF_INET : AF_INET6, data, address, sizeof address) != NULL)
            append_host(entry->hosts, address);
    }
    if (identities != 1) entry->identity = (struct tls_identity){0};
    GENERAL_NAMES_free(names);
}

static enum pki_state check_state(const struct authority *authority, X509 *certificate) {
    X509_REVOKED *entry = NULL;

    EVP_PKEY *key = X509_get0_pubkey(authority->certificate);
    if (X509_verify(certificate, key) != 1) {
        ERR_clear_error();
        return PKI_UNTRUSTED;
    }
    if (X509_CRL_get0_by_cert(authority->crl, &entry, certificate) != 0) return PKI_REVOKED;
    if (X509_cmp_current_time(X509_get0_notBefore(certificate)) > 0) return PKI_NOT_YET;
    return X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0 ? PKI_EXPIRED : PKI_VALID;
}

static enum ls_status describe(const struct authority *authority, const char *dir, const char *file,
                               struct pki_entry *entry, struct ls_error *err) {
    struct tm expires;

    *entry = (struct pki_entry){0};
    enum ls_status status = make_path(entry->file, err, dir, file, "");
    if (status != LS_OK) return status;
    X509 *certificate = read_certificate(entry->file, err);
    if (certificate == NULL) return LS_ERR_INVALID;
    entry->authority = X509_check_ca(certificate) > 0;
    read_names(certificate, entry);
    entry->state = check_state(authority, certificate);
    if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &expires) == 1)
        (void)strftime(entry->not_after, sizeof entry->not_after, "%Y-%m-%d", &expires);
    status = serial_text(certificate, entry->serial);
    if (status != LS_OK)
        status = ls_fail(err, LS_ERR_INVALID, "%s: a serial number of more than 20 bytes", entry->file);
    X509_free(certificate);
    return status;
}

static int is_certificate(const struct dirent *entry) {
    size_t length = strlen(entry->d_name);

    return length > 4 && strcmp(entry->d_name + length - 4, ".crt") == 0;
}

static enum ls_status list_directory(const struct authority *authority, const char *dir,
                                     void (*visit)(void *context, const struct pki_entry *entry), void *context,
                                     struct ls_error *err) {
    struct dirent **names;
    enum ls_status status = LS_OK;
    int count = scandir(dir, &names, is_certificate, alphasort);

    if (count < 0) return errno == ENOENT ? LS_OK : ls_fail(err, LS_ERR_IO, "%s: %s", dir, strerror(errno));
    for (int i = 0; i < count; i++) {
        struct pki_entry entry;
        if (status == LS_OK) status = describe(authority, dir, names[i]->d_name, &entry, err);
        if (status == LS_OK) visit(context, &entry);
        free(names[i]);
    }
    free(names);
    return status;
}

enum ls_status pki_list(const char *dir, void (*visit)(void *context, const struct pki_entry *entry), void *context,
                        struct ls_error *err) {
    struct authority authority;
    char revoked[PKI_PATH_MAX];
    enum ls_status status = authority_open(dir, false, &authority, err);

    if (status != LS_OK) return status;
    status = list_directory(&authority, dir, visit, context, err);
    if (status == LS_OK) status = make_path(revoked, err, dir, "revoked", "");
    if (status == LS_OK) status = list_directory(&authority, revoked, visit, context, err);
    authority_free(&authority);
    return status;
}

const char *pki_state_text(enum pki_state state) {
    switch (state) {
    case PKI_VALID:
        return "valid";
    case PKI_EXPIRED:
        return "expired";
    case PKI_NOT_YET:
        return "not yet valid";
    case PKI_REVOKED:
        return "revoked";
    case PKI_UNTRUSTED:
        return "of another authority";
    }
    return "unknown";
}
