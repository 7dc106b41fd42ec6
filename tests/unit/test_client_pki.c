/*
 * Hazard: a certificate that says more than it should, a key that others can read or that is overwritten, a revocation
 * that does nothing. Method: certificates made by client/pki.c, judged by OpenSSL's own verification. Wrong code shows
 * as a verdict that differs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "client/pki.h"

struct folder {
    char dir[64];
};

static int setup(void **state) {
    struct folder *folder = calloc(1, sizeof *folder);
    struct ls_error err;

    strcpy(folder->dir, "/tmp/lockstep-unit.XXXXXX");
    if (mkdtemp(folder->dir) == NULL) return -1;
    *state = folder;
    return pki_init(folder->dir, PKI_DAYS_CA, &err) == LS_OK ? 0 : -1;
}

static int teardown(void **state) {
    struct folder *folder = *state;
    char command[128];

    snprintf(command, sizeof command, "rm -rf -- '%s'", folder->dir);
    free(folder);
    return system(command);
}

static const char *path(const struct folder *folder, const char *name) {
    static char text[4][256];
    static int next;

    next = (next + 1) % 4;
    snprintf(text[next], sizeof text[next], "%s/%s", folder->dir, name);
    return text[next];
}

static enum ls_status issue_days(const struct folder *folder, const char *role, const char *name,
                                 const char *const *hosts, size_t count, uint32_t days) {
    struct pki_request request = {role, name, hosts, count, days};
    char certificate[PKI_PATH_MAX], key[PKI_PATH_MAX];
    struct ls_error err;

    return pki_issue(folder->dir, &request, certificate, key, &err);
}

static enum ls_status issue(const struct folder *folder, const char *role, const char *name) {
    return issue_days(folder, role, name, NULL, 0, PKI_DAYS_LEAF);
}

static X509 *load(const char *file) {
    FILE *in = fopen(file, "r");
    assert_non_null(in);
    X509 *certificate = PEM_read_X509(in, NULL, NULL, NULL);
    fclose(in);
    assert_non_null(certificate);
    return certificate;
}

/* OpenSSL's verdict: X509_V_OK or why not. Revocation list included. */
static int verdict(const struct folder *folder, X509 *certificate, int purpose, const char *host) {
    X509_STORE *store = X509_STORE_new();
    X509_STORE_CTX *context = X509_STORE_CTX_new();
    X509_LOOKUP *lookup = X509_STORE_add_lookup(store, X509_LOOKUP_file());

    assert_int_equal(X509_load_cert_file(lookup, path(folder, "ca.crt"), X509_FILETYPE_PEM), 1);
    assert_int_equal(X509_load_crl_file(lookup, path(folder, "crl.pem"), X509_FILETYPE_PEM), 1);
    X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL | X509_V_FLAG_X509_STRICT);
    assert_int_equal(X509_STORE_CTX_init(context, store, certificate, NULL), 1);
    X509_STORE_CTX_set_purpose(context, purpose);
    if (host != NULL) {
        X509_VERIFY_PARAM *parameters = X509_STORE_CTX_get0_param(context);
        if (X509_VERIFY_PARAM_set1_ip_asc(parameters, host) != 1)
            assert_int_equal(X509_VERIFY_PARAM_set1_host(parameters, host, 0), 1);
    }
    (void)X509_verify_cert(context);
    int result = X509_STORE_CTX_get_error(context);
    X509_STORE_CTX_free(context);
    X509_STORE_free(store);
    return result;
}

static int verdict_of(const struct folder *folder, const char *name, int purpose, const char *host) {
    X509 *certificate = load(path(folder, name));
    int result = verdict(folder, certificate, purpose, host);

    X509_free(certificate);
    return result;
}

static void test_good_certificates_verify(void **state) {
    const struct folder *folder = *state;
    const char *hosts[] = {"db.example", "10.1.2.3", "fd00::1"};

    assert_int_equal(issue_days(folder, "coordinator", "shop", hosts, 3, 30), LS_OK);
    assert_int_equal(issue(folder, "agent", "orders"), LS_OK);
    assert_int_equal(issue(folder, "app", "checkout"), LS_OK);
    assert_int_equal(issue(folder, "admin", "kim"), LS_OK);
    assert_int_equal(issue(folder, "monitor", "prometheus"), LS_OK);
    assert_int_equal(verdict_of(folder, "coordinator-shop.crt", X509_PURPOSE_SSL_SERVER, "db.example"), X509_V_OK);
    assert_int_equal(verdict_of(folder, "coordinator-shop.crt", X509_PURPOSE_SSL_SERVER, "10.1.2.3"), X509_V_OK);
    assert_int_equal(verdict_of(folder, "coordinator-shop.crt", X509_PURPOSE_SSL_SERVER, "fd00::1"), X509_V_OK);
    assert_int_equal(verdict_of(folder, "coordinator-shop.crt", X509_PURPOSE_SSL_SERVER, "localhost"),
                     X509_V_ERR_HOSTNAME_MISMATCH);
    assert_int_equal(verdict_of(folder, "coordinator-shop.crt", X509_PURPOSE_SSL_CLIENT, NULL),
                     X509_V_ERR_INVALID_PURPOSE);
    assert_int_equal(verdict_of(folder, "agent-orders.crt", X509_PURPOSE_SSL_CLIENT, NULL), X509_V_OK);
    assert_int_equal(verdict_of(folder, "agent-orders.crt", X509_PURPOSE_SSL_SERVER, "127.0.0.1"), X509_V_OK);
    assert_int_equal(verdict_of(folder, "app-checkout.crt", X509_PURPOSE_SSL_CLIENT, NULL), X509_V_OK);
    assert_int_equal(verdict_of(folder, "app-checkout.crt", X509_PURPOSE_SSL_SERVER, NULL), X509_V_ERR_INVALID_PURPOSE);
    assert_int_equal(verdict_of(folder, "admin-kim.crt", X509_PURPOSE_SSL_CLIENT, NULL), X509_V_OK);
    assert_int_equal(verdict_of(folder, "monitor-prometheus.crt", X509_PURPOSE_SSL_CLIENT, NULL), X509_V_OK);
}

/* Even who holds ca.key cannot make a URI of another kind that our verification accepts. */
static void test_authority_is_constrained(void **state) {
    const struct folder *folder = *state;
    X509V3_CTX context;

    assert_int_equal(issue(folder, "app", "checkout"), LS_OK);
    X509 *certificate = load(path(folder, "app-checkout.crt")), *issuer = load(path(folder, "ca.crt"));
    FILE *in = fopen(path(folder, "ca.key"), "r");
    EVP_PKEY *key = PEM_read_PrivateKey(in, NULL, NULL, NULL);
    fclose(in);
    X509_EXTENSION *old = X509_delete_ext(certificate, X509_get_ext_by_NID(certificate, NID_subject_alt_name, -1));
    X509_EXTENSION_free(old);
    X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
    X509_EXTENSION *names = X509V3_EXT_conf_nid(NULL, &context, NID_subject_alt_name, "URI:https://bank.example/x");
    assert_int_equal(X509_add_ext(certificate, names, -1), 1);
    assert_true(X509_sign(certificate, key, EVP_sha256()) > 0);
    assert_int_equal(verdict(folder, certificate, X509_PURPOSE_SSL_CLIENT, NULL), X509_V_ERR_PERMITTED_VIOLATION);
    X509_EXTENSION_free(names);
    EVP_PKEY_free(key);
    X509_free(certificate);
    X509_free(issuer);
}

static void assert_mode(const char *file, mode_t mode) {
    struct stat status;

    assert_int_equal(stat(file, &status), 0);
    assert_int_equal(status.st_mode & 07777, mode);
}

static void test_modes(void **state) {
    const struct folder *folder = *state;

    mode_t before = umask(0);
    assert_int_equal(issue(folder, "agent", "orders"), LS_OK);
    umask(before);
    assert_mode(path(folder, "ca.key"), 0600);
    assert_mode(path(folder, "agent-orders.key"), 0600);
    assert_mode(path(folder, "agent-orders.crt"), 0644);
    assert_mode(path(folder, "crl.pem"), 0644);
}

static size_t read_bytes(const char *file, char *bytes, size_t size) {
    FILE *in = fopen(file, "r");
    assert_non_null(in);
    size_t length = fread(bytes, 1, size, in);
    fclose(in);
    return length;
}

static void test_nothing_is_overwritten(void **state) {
    const struct folder *folder = *state;
    char before[4096], after[4096];
    struct ls_error err;

    assert_int_equal(pki_init(folder->dir, PKI_DAYS_CA, &err), LS_ERR_EXISTS);
    assert_int_equal(issue(folder, "agent", "orders"), LS_OK);
    size_t length = read_bytes(path(folder, "agent-orders.key"), before, sizeof before);
    assert_int_equal(issue(folder, "agent", "orders"), LS_ERR_EXISTS);
    /* a key whose certificate was never written (crash): said, not replaced */
    assert_int_equal(unlink(path(folder, "agent-orders.crt")), 0);
    assert_int_equal(issue(folder, "agent", "orders"), LS_ERR_EXISTS);
    assert_int_equal(read_bytes(path(folder, "agent-orders.key"), after, sizeof after), length);
    assert_memory_equal(before, after, length);
    assert_int_equal(access(path(folder, "agent-orders.crt"), F_OK), -1);
    assert_int_equal(unlink(path(folder, "ca.crt")), 0);
    assert_int_equal(pki_init(folder->dir, PKI_DAYS_CA, &err), LS_ERR_EXISTS);
}

static void test_wrong_names_are_refused(void **state) {
    static const struct {
        const char *role, *name;
    } rows[] = {{"root", "x"},  {"", "x"},       {"app", ""},   {"app", "a/b"}, {"app", "a,DNS:evil"}, {"app", ".."},
                {"app", "a b"}, {"../app", "x"}, {"none", "x"}, {"App", "x"},   {"app", "\xc3\xa9"}};
    const struct folder *folder = *state;
    const char *bad_hosts[] = {"a,URI:lockstep://admin/x", "", "-a", "a..b", "a b", "300.1.1.1,IP:1.1.1.1"};
    char long_name[LS_PARTICIPANT_MAX + 2];

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_int_equal(issue(folder, rows[i].role, rows[i].name), LS_ERR_INVALID);
    for (size_t i = 0; i < sizeof bad_hosts / sizeof bad_hosts[0]; i++)
        assert_int_equal(issue_days(folder, "agent", "orders", &bad_hosts[i], 1, 1), LS_ERR_INVALID);
    memset(long_name, 'n', sizeof long_name);
    long_name[LS_PARTICIPANT_MAX + 1] = '\0';
    assert_int_equal(issue(folder, "agent", long_name), LS_ERR_INVALID);
    long_name[LS_PARTICIPANT_MAX] = '\0';
    assert_int_equal(issue(folder, "agent", long_name), LS_OK);
    const char *host = "db.example";
    assert_int_equal(issue_days(folder, "app", "checkout", &host, 1, 1), LS_ERR_INVALID);
    assert_int_equal(issue_days(folder, "app", "checkout", NULL, 0, 0), LS_ERR_INVALID);
    assert_int_equal(issue_days(folder, "app", "checkout", NULL, 0, PKI_DAYS_MAX + 1), LS_ERR_INVALID);
}

static void test_revoked_is_refused(void **state) {
    const struct folder *folder = *state;
    char serial[PKI_SERIAL_TEXT_MAX], file[128];
    struct ls_error err;

    assert_int_equal(issue(folder, "app", "checkout"), LS_OK);
    assert_int_equal(issue(folder, "app", "other"), LS_OK);
    X509 *old = load(path(folder, "app-checkout.crt"));
    assert_int_equal(pki_revoke(folder->dir, "app", "nobody", serial, &err), LS_ERR_NOT_FOUND);
    assert_int_equal(pki_revoke(folder->dir, "app", "checkout", serial, &err), LS_OK);
    assert_int_equal(verdict(folder, old, X509_PURPOSE_SSL_CLIENT, NULL), X509_V_ERR_CERT_REVOKED);
    assert_int_equal(verdict_of(folder, "app-other.crt", X509_PURPOSE_SSL_CLIENT, NULL), X509_V_OK);
    snprintf(file, sizeof file, "revoked/%s.crt", serial);
    assert_int_equal(access(path(folder, file), F_OK), 0);
    snprintf(file, sizeof file, "revoked/%s.key", serial);
    assert_int_equal(access(path(folder, file), F_OK), 0);
    /* the name is free again, and a second revocation keeps the first */
    assert_int_equal(issue(folder, "app", "checkout"), LS_OK);
    assert_int_equal(verdict_of(folder, "app-checkout.crt", X509_PURPOSE_SSL_CLIENT, NULL), X509_V_OK);
    assert_int_equal(pki_revoke(folder->dir, "app", "other", serial, &err), LS_OK);
    assert_int_equal(verdict(folder, old, X509_PURPOSE_SSL_CLIENT, NULL), X509_V_ERR_CERT_REVOKED);
    X509_free(old);
}

struct counted {
    int entries, by_state[PKI_UNTRUSTED + 1], authorities;
};

static void count_entry(void *context, const struct pki_entry *entry) {
    struct counted *counted = context;

    counted->entries++;
    counted->by_state[entry->state]++;
    if (entry->authority) counted->authorities++;
    if (entry->identity.role == TLS_ROLE_AGENT) {
        assert_string_equal(entry->identity.name, "orders");
        assert_string_equal(entry->hosts, "localhost 127.0.0.1 ::1");
    }
}

static void test_list(void **state) {
    const struct folder *folder = *state;
    struct counted counted = {0};
    char serial[PKI_SERIAL_TEXT_MAX];
    struct ls_error err;

    assert_int_equal(issue(folder, "agent", "orders"), LS_OK);
    assert_int_equal(issue(folder, "app", "checkout"), LS_OK);
    assert_int_equal(pki_revoke(folder->dir, "app", "checkout", serial, &err), LS_OK);
    assert_int_equal(pki_list(folder->dir, count_entry, &counted, &err), LS_OK);
    assert_int_equal(counted.entries, 3);
    assert_int_equal(counted.authorities, 1);
    assert_int_equal(counted.by_state[PKI_VALID], 2);
    assert_int_equal(counted.by_state[PKI_REVOKED], 1);
    assert_int_equal(pki_list("/tmp/lockstep-unit-nothing-here", count_entry, &counted, &err), LS_ERR_NOT_FOUND);
}

/* Another authority's key beside our certificate: no leaf is signed with it. */
static void test_foreign_authority_key(void **state) {
    const struct folder *folder = *state;
    void *other = NULL;

    assert_int_equal(setup(&other), 0);
    assert_int_equal(rename(path(other, "ca.key"), path(folder, "ca.key")), 0);
    assert_int_equal(issue(folder, "app", "checkout"), LS_ERR_MISMATCH);
    assert_int_equal(access(path(folder, "app-checkout.key"), F_OK), -1);
    teardown(&other);
}

int main(void) {
#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {IN_FOLDER(test_good_certificates_verify),
                                       IN_FOLDER(test_authority_is_constrained),
                                       IN_FOLDER(test_modes),
                                       IN_FOLDER(test_nothing_is_overwritten),
                                       IN_FOLDER(test_wrong_names_are_refused),
                                       IN_FOLDER(test_revoked_is_refused),
                                       IN_FOLDER(test_list),
                                       IN_FOLDER(test_foreign_authority_key)};

    return cmocka_run_group_tests_name("client_pki", tests, NULL, NULL);
}
