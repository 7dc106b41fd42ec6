/*
 * certs.c: small EC certificates by OpenSSL's functions, so that tests need no openssl command and no files in the
 * checkout.
 */
#include "tests/unit/certs.h"

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

struct certs_ca {
    char directory[64];
    char names[64][256]; /* files made */
    unsigned count;
    EVP_PKEY *key;
    X509 *certificate;
};

static void must(int good, const char *what) {
    if (good) return;
    ERR_print_errors_fp(stderr);
    (void)fprintf(stderr, "certs: %s\n", what);
    abort();
}

static void file_name(struct certs_ca *ca, const char *name, const char *tail, char out[256]) {
    (void)snprintf(out, 256, "%s/%s.%s", ca->directory, name, tail);
    must(ca->count < 64, "too many files");
    memcpy(ca->names[ca->count++], out, 256);
}

static X509 *make(EVP_PKEY *key, const char *common_name, long serial, int begins_s, int ends_s, X509 *issuer) {
    X509 *certificate = X509_new();
    X509_NAME *name = X509_NAME_new();
    must(certificate && name, "X509_new");
    must(X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *)common_name, -1, -1, 0), "name");
    must(X509_set_version(certificate, 2), "version");
    must(ASN1_INTEGER_set(X509_get_serialNumber(certificate), serial), "serial");
    must(X509_gmtime_adj(X509_getm_notBefore(certificate), begins_s) != NULL, "begins");
    must(X509_gmtime_adj(X509_getm_notAfter(certificate), ends_s) != NULL, "ends");
    must(X509_set_subject_name(certificate, name) && X509_set_pubkey(certificate, key), "subject");
    must(X509_set_issuer_name(certificate, issuer ? X509_get_subject_name(issuer) : name), "issuer");
    X509_NAME_free(name);
    return certificate;
}

static void extend(X509 *certificate, int nid, const char *value) {
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, nid, value);
    must(extension && X509_add_ext(certificate, extension, -1), value);
    X509_EXTENSION_free(extension);
}

struct certs_ca *certs_ca_new(void) {
    struct certs_ca *ca = calloc(1, sizeof *ca);
    must(ca != NULL, "calloc");
    (void)snprintf(ca->directory, sizeof ca->directory, "/tmp/lockstep-certs-XXXXXX");
    must(mkdtemp(ca->directory) != NULL, "mkdtemp");
    ca->key = EVP_EC_gen("P-256");
    must(ca->key != NULL, "key");
    ca->certificate = make(ca->key, "test CA", 1, -3600, 3600, NULL);
    extend(ca->certificate, NID_basic_constraints, "critical,CA:TRUE");
    extend(ca->certificate, NID_key_usage, "critical,keyCertSign,cRLSign");
    must(X509_sign(ca->certificate, ca->key, EVP_sha256()) > 0, "sign");
    return ca;
}

void certs_ca_free(struct certs_ca *ca) {
    for (unsigned i = 0; i < ca->count; i++) (void)unlink(ca->names[i]);
    (void)rmdir(ca->directory);
    EVP_PKEY_free(ca->key);
    X509_free(ca->certificate);
    free(ca);
}

static void write_certificate(const char *file, X509 *certificate) {
    FILE *out = fopen(file, "w");
    must(out && PEM_write_X509(out, certificate) && fclose(out) == 0, file);
}

void certs_issue(struct certs_ca *ca, const char *name, const struct certs_spec *spec, struct certs_files *ret_files) {
    EVP_PKEY *key = EVP_EC_gen("P-256");
    bool timed = spec->begins_s || spec->ends_s;
    must(key != NULL, "key");
    memset(ret_files, 0, sizeof *ret_files);
    file_name(ca, name, "ca.pem", ret_files->ca);
    file_name(ca, name, "pem", ret_files->certificate);
    file_name(ca, name, "key", ret_files->key);
    file_name(ca, name, "crl", ret_files->crl);
    X509 *certificate = make(key, name, spec->serial ? spec->serial : 4711, timed ? spec->begins_s : -3600,
                             timed ? spec->ends_s : 3600, ca->certificate);
    char names[1024] = "";
    for (size_t i = 0; i < 3 && spec->uris[i]; i++) {
        size_t at = strlen(names);
        (void)snprintf(names + at, sizeof names - at, "%sURI:%s", at ? "," : "", spec->uris[i]);
    }
    if (*names) extend(certificate, NID_subject_alt_name, names);
    must(X509_sign(certificate, ca->key, EVP_sha256()) > 0, "sign");
    write_certificate(ret_files->ca, ca->certificate);
    write_certificate(ret_files->certificate, certificate);
    FILE *out = fopen(ret_files->key, "w");
    must(out && PEM_write_PrivateKey(out, key, NULL, NULL, 0, NULL, NULL) && fclose(out) == 0, "write key");
    must(chmod(ret_files->key, 0600) == 0, "chmod");
    ret_files->files = (struct tls_files){ret_files->ca, ret_files->certificate, ret_files->key, NULL};
    X509_free(certificate);
    EVP_PKEY_free(key);
}

void certs_issue_uri(struct certs_ca *ca, const char *name, const char *uri, struct certs_files *ret_files) {
    struct certs_spec spec = {.uris = {uri}};
    certs_issue(ca, name, &spec, ret_files);
}

void certs_crl(struct certs_ca *ca, long serial, struct certs_files *files) {
    X509_CRL *crl = X509_CRL_new();
    ASN1_TIME *now = X509_gmtime_adj(NULL, -10), *next = X509_gmtime_adj(NULL, 3600);
    must(crl && now && next && X509_CRL_set_version(crl, 1) &&
             X509_CRL_set_issuer_name(crl, X509_get_subject_name(ca->certificate)),
         "crl");
    must(X509_CRL_set1_lastUpdate(crl, now) && X509_CRL_set1_nextUpdate(crl, next), "crl times");
    if (serial) {
        X509_REVOKED *revoked = X509_REVOKED_new();
        ASN1_INTEGER *number = ASN1_INTEGER_new();
        must(revoked && number && ASN1_INTEGER_set(number, serial) && X509_REVOKED_set_serialNumber(revoked, number),
             "revoked");
        must(X509_REVOKED_set_revocationDate(revoked, now) && X509_CRL_add0_revoked(crl, revoked), "revoked");
        ASN1_INTEGER_free(number);
    }
    must(X509_CRL_sign(crl, ca->key, EVP_sha256()) > 0, "sign crl");
    FILE *out = fopen(files->crl, "w");
    must(out && PEM_write_X509_CRL(out, crl) && fclose(out) == 0, "write crl");
    files->files.crl = files->crl;
    X509_CRL_free(crl);
    ASN1_TIME_free(now);
    ASN1_TIME_free(next);
}
