/*
 * test_tls.c: who may be on the other side. Each certificate that must be refused is shown in a real handshake, and the
 * refusal must come in words; contexts that would be weaker than promised (key for everybody, TLS 1.2) are not made.
 */
#include "tests/unit/unit.h"

#include <sys/stat.h>

#include "common/tls.h"
#include "tests/unit/certs.h"

static struct ls_error err;
static struct certs_ca *ca, *other_ca;

static int make_cas(void **state) {
    (void)state;
    ca = certs_ca_new();
    other_ca = certs_ca_new();
    return 0;
}

static int free_cas(void **state) {
    (void)state;
    certs_ca_free(ca);
    certs_ca_free(other_ca);
    return 0;
}

static void uris(void **state) {
    static const struct {
        const char *uri, *why;
    } bad[] = {
        {"", "URI `` is not lockstep://role/name"},
        {"https://app/x", "URI `https://app/x` is not lockstep://role/name"},
        {"LOCKSTEP://app/x", "URI `LOCKSTEP://app/x` is not lockstep://role/name"},
        {"lockstep://app", "URI `lockstep://app` is not lockstep://role/name"},
        {"lockstep://", "URI `lockstep://` is not lockstep://role/name"},
        {"lockstep:///x", "`` is no role"},
        {"lockstep://none/x", "`none` is no role"},
        {"lockstep://Admin/x", "`Admin` is no role"},
        {"lockstep://root/x", "`root` is no role"},
        {"lockstep://app/", "`` is no name for the role app (1 to 124 letters, digits, '_' or '-')"},
        {"lockstep://app/x/y", "`x/y` is no name for the role app (1 to 124 letters, digits, '_' or '-')"},
        {"lockstep://app/x?y", "`x?y` is no name for the role app (1 to 124 letters, digits, '_' or '-')"},
        {"lockstep://app/x y", "`x y` is no name for the role app (1 to 124 letters, digits, '_' or '-')"},
        {"lockstep://app/x%41", "`x%41` is no name for the role app (1 to 124 letters, digits, '_' or '-')"},
        {"lockstep://coordinator/abcdefghijklmnopqrs",
         "`abcdefghijklmnopqrs` is no name for the role coordinator (1 to 18 letters, digits, '_' or '-')"},
    };
    static const struct {
        const char *uri;
        enum tls_role role;
        const char *name;
    } good[] = {{"lockstep://app/checkout", TLS_ROLE_APP, "checkout"},
                {"lockstep://admin/a_-Z9", TLS_ROLE_ADMIN, "a_-Z9"},
                {"lockstep://monitor/m", TLS_ROLE_MONITOR, "m"},
                {"lockstep://agent/orders", TLS_ROLE_AGENT, "orders"},
                {"lockstep://coordinator/abcdefghijklmnopqr", TLS_ROLE_COORDINATOR, "abcdefghijklmnopqr"}};
    struct tls_identity identity;
    char large[300];
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_ok(tls_parse_uri(good[i].uri, strlen(good[i].uri), &identity, &err));
        assert_int_equal(identity.role, good[i].role);
        assert_string_equal(identity.name, good[i].name);
        assert_int_equal(strncmp(good[i].uri + 11, tls_role_name(identity.role), strlen(tls_role_name(identity.role))),
                         0);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_fails(tls_parse_uri(bad[i].uri, strlen(bad[i].uri), &identity, &err), LS_ERR_DENIED, bad[i].why);
    }
    assert_string_equal(identity.name, "abcdefghijklmnopqr"); /* untouched */
    assert_fails(tls_parse_uri("lockstep://app/a\0b", 18, &identity, &err), LS_ERR_DENIED, "URI holds a NUL byte");
    /* "role/name" is an identity of at most LS_IDENTITY_MAX */
    memset(large, 'n', sizeof large);
    memcpy(large, "lockstep://app/", 15);
    assert_ok(tls_parse_uri(large, 11 + LS_IDENTITY_MAX, &identity, &err));
    assert_int_equal(strlen(identity.name), 124);
    assert_int_equal(tls_parse_uri(large, 12 + LS_IDENTITY_MAX, &identity, &err), LS_ERR_DENIED);
    assert_fails(tls_parse_uri(large, 13 + LS_IDENTITY_MAX, &identity, &err), LS_ERR_DENIED,
                 "URI of 141 bytes is too long");
    memcpy(large, "lockstep://agent/", 17);
    assert_ok(tls_parse_uri(large, 17 + LS_PARTICIPANT_MAX, &identity, &err));
    assert_int_equal(tls_parse_uri(large, 18 + LS_PARTICIPANT_MAX, &identity, &err), LS_ERR_DENIED);
}

/* Both ends of a handshake in memory. */
struct pair {
    SSL_CTX *server_context, *client_context;
    SSL *server, *client;
};

static void pair_open(struct pair *pair, const struct tls_files *server, const struct tls_files *client) {
    BIO *a, *b;
    memset(pair, 0, sizeof *pair);
    assert_ok(tls_server_context(server, &pair->server_context, &err));
    assert_ok(tls_client_context(client, &pair->client_context, &err));
    assert_int_equal(BIO_new_bio_pair(&a, 0, &b, 0), 1);
    pair->server = SSL_new(pair->server_context);
    pair->client = SSL_new(pair->client_context);
    SSL_set_bio(pair->server, a, a);
    SSL_set_bio(pair->client, b, b);
    SSL_set_accept_state(pair->server);
    SSL_set_connect_state(pair->client);
    for (int i = 0; i < 20; i++) {
        (void)SSL_do_handshake(pair->client);
        (void)SSL_do_handshake(pair->server);
    }
    assert_true(SSL_is_init_finished(pair->server));
    assert_true(SSL_is_init_finished(pair->client));
    assert_string_equal(SSL_get_version(pair->server), "TLSv1.3");
}

static void pair_close(struct pair *pair) {
    SSL_free(pair->server);
    SSL_free(pair->client);
    SSL_CTX_free(pair->server_context);
    SSL_CTX_free(pair->client_context);
}

static void good_peers(void **state) {
    struct certs_files server, client;
    struct tls_identity identity;
    struct pair pair;
    (void)state;
    certs_issue_uri(ca, "shop", "lockstep://coordinator/shop", &server);
    certs_issue_uri(ca, "orders", "lockstep://agent/orders", &client);
    pair_open(&pair, &server.files, &client.files);
    assert_ok(tls_peer_identity(pair.server, &identity, &err));
    assert_int_equal(identity.role, TLS_ROLE_AGENT);
    assert_string_equal(identity.name, "orders");
    assert_string_equal(identity.serial, "1267"); /* 4711 */
    assert_ok(tls_peer_identity(pair.client, &identity, &err));
    assert_int_equal(identity.role, TLS_ROLE_COORDINATOR);
    assert_string_equal(identity.name, "shop");
    time_t end = tls_certificate_end(pair.server_context);
    assert_true(end > time(NULL) + 3000 && end < time(NULL) + 4000);
    assert_false(SSL_session_reused(pair.client));
    pair_close(&pair);

    /* other names beside the one of ours do no harm */
    struct certs_spec spec = {.uris = {"https://shop.example/", "lockstep://app/checkout"}};
    certs_issue(ca, "checkout", &spec, &client);
    pair_open(&pair, &server.files, &client.files);
    assert_ok(tls_peer_identity(pair.server, &identity, &err));
    assert_string_equal(identity.name, "checkout");
    pair_close(&pair);
}

/* One client certificate, one refusal, said by the server; and the same certificate on the server's side, said by the
 * client. */
static void expect_refused(const struct certs_files *bad, const struct certs_files *good, const char *why) {
    struct tls_identity identity = {.role = TLS_ROLE_MONITOR};
    struct pair pair;
    pair_open(&pair, &good->files, &bad->files);
    assert_fails(tls_peer_identity(pair.server, &identity, &err), LS_ERR_DENIED, why);
    assert_int_equal(identity.role, TLS_ROLE_MONITOR);
    pair_close(&pair);
    pair_open(&pair, &bad->files, &good->files);
    assert_fails(tls_peer_identity(pair.client, &identity, &err), LS_ERR_DENIED, why);
    pair_close(&pair);
}

static void bad_peers(void **state) {
    struct certs_files good, bad;
    struct tls_identity identity;
    struct pair pair;
    (void)state;
    certs_issue_uri(ca, "good", "lockstep://coordinator/shop", &good);

    struct certs_spec expired = {.uris = {"lockstep://agent/orders"}, .begins_s = -7200, .ends_s = -60};
    certs_issue(ca, "expired", &expired, &bad);
    expect_refused(&bad, &good, "certificate refused: certificate has expired");
    struct certs_spec later = {.uris = {"lockstep://agent/orders"}, .begins_s = 3600, .ends_s = 7200};
    certs_issue(ca, "later", &later, &bad);
    expect_refused(&bad, &good, "certificate refused: certificate is not yet valid");
    struct certs_spec none = {.uris = {NULL}};
    certs_issue(ca, "none", &none, &bad);
    expect_refused(&bad, &good, "certificate has no lockstep:// URI");
    certs_issue_uri(ca, "https", "https://agent/orders", &bad);
    expect_refused(&bad, &good, "certificate has no lockstep:// URI");
    struct certs_spec two = {.uris = {"lockstep://agent/orders", "lockstep://admin/me"}};
    certs_issue(ca, "two", &two, &bad);
    expect_refused(&bad, &good, "certificate has several lockstep:// URIs");
    certs_issue_uri(ca, "role", "lockstep://king/me", &bad);
    expect_refused(&bad, &good, "`king` is no role");

    /* of another CA of the same name; what it trusts itself is ours */
    certs_issue_uri(other_ca, "stranger", "lockstep://admin/me", &bad);
    bad.files.ca = good.ca;
    pair_open(&pair, &good.files, &bad.files);
    assert_fails(tls_peer_identity(pair.server, &identity, &err), LS_ERR_DENIED,
                 "certificate refused: certificate signature failure");
    pair_close(&pair);
}

static void no_certificate(void **state) {
    struct certs_files server, client;
    struct tls_identity identity;
    struct pair pair;
    (void)state;
    certs_issue_uri(ca, "server", "lockstep://coordinator/shop", &server);
    certs_issue_uri(ca, "client", "lockstep://app/x", &client);
    assert_ok(tls_server_context(&server.files, &pair.server_context, &err));
    pair.client_context = SSL_CTX_new(TLS_client_method());
    BIO *a, *b;
    assert_int_equal(BIO_new_bio_pair(&a, 0, &b, 0), 1);
    pair.server = SSL_new(pair.server_context);
    pair.client = SSL_new(pair.client_context);
    SSL_set_bio(pair.server, a, a);
    SSL_set_bio(pair.client, b, b);
    SSL_set_accept_state(pair.server);
    SSL_set_connect_state(pair.client);
    for (int i = 0; i < 20; i++) {
        (void)SSL_do_handshake(pair.client);
        (void)SSL_do_handshake(pair.server);
    }
    assert_true(SSL_is_init_finished(pair.server));
    assert_fails(tls_peer_identity(pair.server, &identity, &err), LS_ERR_DENIED, "no certificate was shown");
    SSL_free(pair.server);
    SSL_free(pair.client);

    /* TLS 1.2 is no TLS here */
    assert_int_equal(SSL_CTX_set_max_proto_version(pair.client_context, TLS1_2_VERSION), 1);
    assert_int_equal(BIO_new_bio_pair(&a, 0, &b, 0), 1);
    pair.server = SSL_new(pair.server_context);
    pair.client = SSL_new(pair.client_context);
    SSL_set_bio(pair.server, a, a);
    SSL_set_bio(pair.client, b, b);
    SSL_set_accept_state(pair.server);
    SSL_set_connect_state(pair.client);
    for (int i = 0; i < 20; i++) {
        (void)SSL_do_handshake(pair.client);
        (void)SSL_do_handshake(pair.server);
    }
    assert_false(SSL_is_init_finished(pair.server));
    assert_false(SSL_is_init_finished(pair.client));
    pair_close(&pair);
}

static void revocation(void **state) {
    struct certs_files server, client;
    struct tls_identity identity;
    struct pair pair;
    (void)state;
    struct certs_spec spec = {.uris = {"lockstep://app/x"}, .serial = 99};
    certs_issue_uri(ca, "crl-server", "lockstep://coordinator/shop", &server);
    certs_issue(ca, "crl-client", &spec, &client);
    certs_crl(ca, 98, &server);
    pair_open(&pair, &server.files, &client.files);
    assert_ok(tls_peer_identity(pair.server, &identity, &err));
    assert_string_equal(identity.serial, "63");
    pair_close(&pair);
    certs_crl(ca, 99, &server);
    pair_open(&pair, &server.files, &client.files);
    assert_fails(tls_peer_identity(pair.server, &identity, &err), LS_ERR_DENIED,
                 "certificate refused: certificate revoked");
    pair_close(&pair);
}

static void bad_files(void **state) {
    struct certs_files files, second;
    SSL_CTX *context = NULL;
    char wanted[600];
    (void)state;
    certs_issue_uri(ca, "files", "lockstep://app/x", &files);
    certs_issue_uri(ca, "files2", "lockstep://app/y", &second);
    struct tls_files bad = files.files;
    bad.ca = NULL;
    assert_fails(tls_server_context(&bad, &context, &err), LS_ERR_CONFIG, "TLS needs a CA, a certificate and a key");
    bad.ca = "/nowhere/ca.pem";
    assert_fails(tls_server_context(&bad, &context, &err), LS_ERR_CONFIG,
                 "CA /nowhere/ca.pem: No such file or directory");
    bad = files.files;
    bad.certificate = "/nowhere/c.pem";
    assert_fails(tls_client_context(&bad, &context, &err), LS_ERR_CONFIG,
                 "certificate /nowhere/c.pem: No such file or directory");
    bad = files.files;
    bad.certificate = files.key;
    (void)snprintf(wanted, sizeof wanted, "certificate %s: no start line", files.key);
    assert_fails(tls_client_context(&bad, &context, &err), LS_ERR_CONFIG, wanted);
    bad = files.files;
    bad.key = "/nowhere/k.pem";
    assert_fails(tls_client_context(&bad, &context, &err), LS_ERR_CONFIG,
                 "private key /nowhere/k.pem: No such file or directory");
    bad.key = "/tmp";
    assert_fails(tls_client_context(&bad, &context, &err), LS_ERR_CONFIG, "private key /tmp: not a file");
    bad = files.files;
    bad.key = second.key;
    assert_int_equal(tls_client_context(&bad, &context, &err), LS_ERR_CONFIG);
    assert_non_null(strstr(err.text, "key values mismatch"));
    bad = files.files;
    bad.crl = "/nowhere/crl.pem";
    assert_fails(tls_server_context(&bad, &context, &err), LS_ERR_CONFIG,
                 "revocation list /nowhere/crl.pem: No such file or directory");
    static const int modes[] = {0604, 0620, 0602, 0666};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        assert_int_equal(chmod(files.key, (mode_t)modes[i]), 0);
        (void)snprintf(wanted, sizeof wanted, "private key %s: others may read it (chmod 0600)", files.key);
        assert_fails(tls_client_context(&files.files, &context, &err), LS_ERR_CONFIG, wanted);
    }
    assert_int_equal(chmod(files.key, 0400), 0);
    assert_null(context);
    assert_ok(tls_client_context(&files.files, &context, &err));
    SSL_CTX_free(context);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(uris),       cmocka_unit_test(good_peers),
                                       cmocka_unit_test(bad_peers),  cmocka_unit_test(no_certificate),
                                       cmocka_unit_test(revocation), cmocka_unit_test(bad_files)};
    return cmocka_run_group_tests(tests, make_cas, free_cas);
}
