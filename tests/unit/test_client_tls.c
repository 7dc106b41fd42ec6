/*
 * Hazard: a client that talks to somebody who is not the coordinator: another host, another authority, an agent with a
 * good certificate, an old protocol version, a revoked certificate. Method: a TLS server with certificates made by
 * client/pki.c. Wrong code would show as a request that arrives at the wrong server.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/ssl.h>

#include "client/pki.h"
#include "lockstep/lockstep.h"

#define COMMITTED "{\"gtid\":\"shop.0a1b2c3d4e5f.1.7\",\"state\":\"committed\",\"applied\":true}"

struct server {
    SSL_CTX *context;
    int listener, port, requests;
    pthread_t thread;
};

static char dir[64], other_dir[64];

static char *path(const char *folder, const char *name) {
    static char text[8][128];
    static int next;

    next = (next + 1) % 8;
    snprintf(text[next], sizeof text[next], "%s/%s", folder, name);
    return text[next];
}

static void serve(struct server *server, int fd) {
    static const char answer[] =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 67\r\n\r\n" COMMITTED;
    char request[4096];
    SSL *ssl = SSL_new(server->context);

    _Static_assert(sizeof COMMITTED - 1 == 67, "Content-Length");
    SSL_set_fd(ssl, fd);
    if (SSL_accept(ssl) == 1) {
        int length = 0, got;
        while (length < (int)sizeof request - 1 &&
               (got = SSL_read(ssl, request + length, (int)sizeof request - 1 - length)) > 0) {
            length += got;
            request[length] = '\0';
            if (strstr(request, "\r\n\r\n{}") == NULL) continue;
            server->requests++;
            (void)SSL_write(ssl, answer, (int)sizeof answer - 1);
            (void)SSL_shutdown(ssl);
            break;
        }
    }
    SSL_free(ssl);
}

static void *server_main(void *argument) {
    struct server *server = argument;

    for (int fd; (fd = accept(server->listener, NULL, NULL)) >= 0; close(fd)) serve(server, fd);
    return NULL;
}

/* A server that shows the certificate `name` of `folder`. */
static void start_server(struct server *server, const char *folder, const char *name, int version_max) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    char certificate[96], key[96];

    memset(server, 0, sizeof *server);
    snprintf(certificate, sizeof certificate, "%s.crt", name);
    snprintf(key, sizeof key, "%s.key", name);
    server->context = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_max_proto_version(server->context, version_max);
    assert_int_equal(SSL_CTX_use_certificate_file(server->context, path(folder, certificate), SSL_FILETYPE_PEM), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey_file(server->context, path(folder, key), SSL_FILETYPE_PEM), 1);
    assert_int_equal(SSL_CTX_load_verify_locations(server->context, path(dir, "ca.crt"), NULL), 1);
    SSL_CTX_set_verify(server->context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    server->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(server->listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(server->listener, 8), 0);
    assert_int_equal(getsockname(server->listener, (struct sockaddr *)&address, &size), 0);
    server->port = ntohs(address.sin_port);
    assert_int_equal(pthread_create(&server->thread, NULL, server_main, server), 0);
}

static void stop_server(struct server *server) {
    shutdown(server->listener, SHUT_RDWR);
    pthread_join(server->thread, NULL);
    close(server->listener);
    SSL_CTX_free(server->context);
}

struct expectation {
    const char *folder, *certificate; /* the server's */
    int version;
    const char *host, *coordinator, *crl; /* the client's */
    enum lockstep_status status;
};

static void check(const struct expectation *expected) {
    struct server server;
    struct lockstep_options options;
    struct lockstep_result result;
    struct lockstep *client;
    char url[64], text[LOCKSTEP_TEXT_MAX];

    start_server(&server, expected->folder, expected->certificate, expected->version);
    lockstep_options_init(&options);
    snprintf(url, sizeof url, "https://%s:%d", expected->host, server.port);
    options.url = url;
    options.ca_file = path(dir, "ca.crt");
    options.cert_file = path(dir, "app-checkout.crt");
    options.key_file = path(dir, "app-checkout.key");
    options.crl_file = expected->crl;
    options.coordinator = expected->coordinator;
    options.attempts_max = 2;
    options.timeout_ms = 30000;
    assert_int_equal(lockstep_open(&options, &client, text), LOCKSTEP_OK);
    enum lockstep_status status = lockstep_run(client, "{}", 2, NULL, &result);
    lockstep_close(client);
    stop_server(&server);
    if (status != expected->status) fail_msg("%s: %s", lockstep_status_text(status), result.reason);
    assert_int_equal(server.requests, expected->status == LOCKSTEP_OK ? 1 : 0);
    if (status != LOCKSTEP_OK) assert_true(result.reason[0] != '\0');
    lockstep_result_clear(&result);
}

static void test_the_coordinator(void **state) {
    (void)state;
    check(&(struct expectation){dir, "coordinator-shop", TLS1_3_VERSION, "127.0.0.1", NULL, NULL, LOCKSTEP_OK});
    check(&(struct expectation){dir, "coordinator-shop", TLS1_3_VERSION, "127.0.0.1", "shop", NULL, LOCKSTEP_OK});
    check(&(struct expectation){dir, "coordinator-shop", TLS1_3_VERSION, "localhost", "shop", path(dir, "crl.pem"),
                                LOCKSTEP_OK});
}

static void test_somebody_else(void **state) {
    (void)state;
    /* a good certificate for this host, but of an agent */
    check(&(struct expectation){dir, "agent-orders", TLS1_3_VERSION, "127.0.0.1", NULL, NULL, LOCKSTEP_UNREACHABLE});
    /* another coordinator of the same authority */
    check(&(struct expectation){dir, "coordinator-shop", TLS1_3_VERSION, "127.0.0.1", "bank", NULL,
                                LOCKSTEP_UNREACHABLE});
    /* the right name, another authority */
    check(&(struct expectation){other_dir, "coordinator-shop", TLS1_3_VERSION, "127.0.0.1", NULL, NULL,
                                LOCKSTEP_UNREACHABLE});
    /* the right coordinator under another host name */
    check(&(struct expectation){dir, "coordinator-far", TLS1_3_VERSION, "127.0.0.1", NULL, NULL, LOCKSTEP_UNREACHABLE});
    /* an old protocol version */
    check(
        &(struct expectation){dir, "coordinator-shop", TLS1_2_VERSION, "127.0.0.1", NULL, NULL, LOCKSTEP_UNREACHABLE});
}

static void test_revoked(void **state) {
    char serial[PKI_SERIAL_TEXT_MAX], certificate[64];
    struct ls_error err;

    (void)state;
    assert_int_equal(pki_revoke(dir, "coordinator", "old", serial, &err), LS_OK);
    snprintf(certificate, sizeof certificate, "revoked/%s", serial);
    check(&(struct expectation){dir, certificate, TLS1_3_VERSION, "127.0.0.1", NULL, path(dir, "crl.pem"),
                                LOCKSTEP_UNREACHABLE});
}

static void test_files_are_needed(void **state) {
    struct lockstep_options options;
    struct lockstep *client = NULL;
    char text[LOCKSTEP_TEXT_MAX];

    (void)state;
    lockstep_options_init(&options);
    options.url = "https://127.0.0.1:1";
    assert_int_equal(lockstep_open(&options, &client, text), LOCKSTEP_INVALID);
    options.ca_file = path(dir, "ca.crt");
    options.cert_file = path(dir, "nothing.crt");
    options.key_file = path(dir, "app-checkout.key");
    assert_int_equal(lockstep_open(&options, &client, text), LOCKSTEP_INVALID);
    assert_non_null(strstr(text, "nothing.crt"));
    assert_null(client);
}

static enum ls_status issue(const char *folder, const char *role, const char *name, const char *host) {
    struct pki_request request = {role, name, &host, host != NULL ? 1 : 0, 30};
    char certificate[PKI_PATH_MAX], key[PKI_PATH_MAX];
    struct ls_error err;

    return pki_issue(folder, &request, certificate, key, &err);
}

static int setup(void **state) {
    struct ls_error err;

    (void)state;
    signal(SIGPIPE, SIG_IGN); /* of the server's side: clients hang up on it */
    strcpy(dir, "/tmp/lockstep-unit.XXXXXX");
    strcpy(other_dir, "/tmp/lockstep-unit.XXXXXX");
    if (mkdtemp(dir) == NULL || mkdtemp(other_dir) == NULL) return -1;
    bool made = pki_init(dir, 30, &err) == LS_OK && pki_init(other_dir, 30, &err) == LS_OK &&
                issue(dir, "coordinator", "shop", NULL) == LS_OK &&
                issue(dir, "coordinator", "far", "far.example") == LS_OK &&
                issue(dir, "coordinator", "old", NULL) == LS_OK && issue(dir, "agent", "orders", NULL) == LS_OK &&
                issue(dir, "app", "checkout", NULL) == LS_OK && issue(other_dir, "coordinator", "shop", NULL) == LS_OK;
    return made ? 0 : -1;
}

static int teardown(void **state) {
    char command[256];

    (void)state;
    snprintf(command, sizeof command, "rm -rf -- '%s' '%s'", dir, other_dir);
    return system(command);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_the_coordinator), cmocka_unit_test(test_somebody_else),
                                       cmocka_unit_test(test_revoked), cmocka_unit_test(test_files_are_needed)};

    return cmocka_run_group_tests_name("client_tls", tests, setup, teardown);
}
