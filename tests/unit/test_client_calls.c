/*
 * Hazard: a client that repeats a run which may have committed, or that calls a lost answer "aborted".
 * Method: a scripted HTTP server on a Unix socket that answers, breaks the connection after the whole request, stalls,
 * or is not there. Wrong code would show as: two requests where there may be one, a status other than unknown, or a
 * blocked dispatch.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "lockstep/lockstep.h"

#define STEPS_MAX 16
#define COMMITTED "{\"gtid\":\"shop.0a1b2c3d4e5f.1.7\",\"state\":\"committed\",\"applied\":true}"
#define PENDING "{\"gtid\":\"shop.0a1b2c3d4e5f.1.7\",\"state\":\"pending\"}"
#define ABORTED                                                                                                    \
    "{\"gtid\":\"shop.0a1b2c3d4e5f.1.7\",\"state\":\"aborted\",\"sqlstate\":\"23505\",\"participant\":\"orders\"," \
    "\"reason\":\"twice\"}"

enum act { ACT_ANSWER, ACT_BREAK, ACT_STALL };
struct step {
    enum act act;
    int http;
    const char *body;
};

struct server {
    char dir[64], path[96];
    int listener;
    pthread_t thread;
    pthread_mutex_t mutex;
    struct step steps[STEPS_MAX];
    int next, requests;
    int fds[STEPS_MAX];
    char seen[STEPS_MAX][4096];
};

static struct server *server_of(void **state) {
    return *state;
}

/* Reads one request with its body; false: the client closed. */
static bool read_request(int fd, char *text, size_t size) {
    size_t length = 0, want = 0;

    while (want == 0 || length < want) {
        ssize_t got = read(fd, text + length, size - 1 - length);
        if (got <= 0) return false;
        length += (size_t)got;
        text[length] = '\0';
        char *end = strstr(text, "\r\n\r\n");
        if (end == NULL) continue;
        char *header = strcasestr(text, "content-length:");
        want = (size_t)(end + 4 - text) + (header != NULL && header < end ? strtoul(header + 15, NULL, 10) : 0);
    }
    return true;
}

static void serve(struct server *server, int fd) {
    char text[4096], answer[4096];

    while (read_request(fd, text, sizeof text)) {
        pthread_mutex_lock(&server->mutex);
        struct step step = server->next < STEPS_MAX ? server->steps[server->next] : (struct step){.act = ACT_BREAK};
        if (server->next < STEPS_MAX) memcpy(server->seen[server->next], text, sizeof text);
        server->next++;
        server->requests++;
        pthread_mutex_unlock(&server->mutex);
        if (step.act == ACT_BREAK) return;
        if (step.act == ACT_STALL) {
            while (read(fd, text, 1) > 0) continue; /* until the client gives up */
            return;
        }
        int length = snprintf(answer, sizeof answer,
                              "HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                              step.http, strlen(step.body), step.body);
        if (write(fd, answer, (size_t)length) != length) return;
    }
}

static int requests_so_far(struct server *server) {
    pthread_mutex_lock(&server->mutex);
    int requests = server->requests;
    pthread_mutex_unlock(&server->mutex);
    return requests;
}

struct connection {
    struct server *server;
    int fd;
};

static void *connection_main(void *argument) {
    struct connection *connection = argument;

    serve(connection->server, connection->fd);
    shutdown(connection->fd, SHUT_RDWR);
    free(connection);
    return NULL;
}

static void *server_main(void *argument) {
    struct server *server = argument;
    pthread_t threads[STEPS_MAX];
    int count = 0;

    for (int fd; count < STEPS_MAX && (fd = accept(server->listener, NULL, NULL)) >= 0;) {
        struct connection *connection = malloc(sizeof *connection);
        *connection = (struct connection){server, fd};
        server->fds[count] = fd;
        pthread_create(&threads[count++], NULL, connection_main, connection);
    }
    for (int i = 0; i < count; i++) {
        shutdown(server->fds[i], SHUT_RDWR); /* also when a test failed and left its client open */
        pthread_join(threads[i], NULL);
        close(server->fds[i]);
    }
    return NULL;
}

static int setup(void **state) {
    struct server *server = calloc(1, sizeof *server);
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    strcpy(server->dir, "/tmp/lockstep-unit.XXXXXX");
    if (mkdtemp(server->dir) == NULL) return -1;
    snprintf(server->path, sizeof server->path, "%s/socket", server->dir);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", server->path);
    pthread_mutex_init(&server->mutex, NULL);
    server->listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(server->listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(server->listener, 16) != 0)
        return -1;
    *state = server;
    return pthread_create(&server->thread, NULL, server_main, server);
}

static int teardown(void **state) {
    struct server *server = *state;

    shutdown(server->listener, SHUT_RDWR); /* accept returns */
    pthread_join(server->thread, NULL);
    close(server->listener);
    unlink(server->path);
    rmdir(server->dir);
    pthread_mutex_destroy(&server->mutex);
    free(server);
    return 0;
}

static struct lockstep *open_client(const char *path, uint32_t timeout_ms) {
    struct lockstep_options options;
    struct lockstep *client = NULL;
    char url[128], text[LOCKSTEP_TEXT_MAX];

    lockstep_options_init(&options);
    snprintf(url, sizeof url, "unix:%s", path);
    options.url = url;
    options.timeout_ms = timeout_ms;
    options.backoff_ms = 1;
    options.backoff_ms_max = 4;
    options.attempts_max = 8;
    assert_int_equal(lockstep_open(&options, &client, text), LOCKSTEP_OK);
    return client;
}

static enum lockstep_status run(struct lockstep *client, const char *key, struct lockstep_result *result) {
    struct lockstep_run_options options;

    lockstep_run_options_init(&options);
    options.key = key;
    return lockstep_run(client, "{\"mode\":\"2pc\"}", 14, &options, result);
}

static void test_committed(void **state) {
    struct server *server = server_of(state);
    struct lockstep_result result;

    server->steps[0] = (struct step){ACT_ANSWER, 200, COMMITTED};
    struct lockstep *client = open_client(server->path, 30000);
    assert_int_equal(run(client, "order-1", &result), LOCKSTEP_OK);
    assert_int_equal(result.outcome, LOCKSTEP_COMMITTED);
    assert_true(result.applied);
    assert_string_equal(result.gtid, "shop.0a1b2c3d4e5f.1.7");
    assert_int_equal(result.http_status, 200);
    assert_string_equal(result.body, COMMITTED);
    assert_non_null(strstr(server->seen[0], "POST /v1/run?wait=applied HTTP/1.1\r\n"));
    assert_non_null(strstr(server->seen[0], "Idempotency-Key: order-1\r\n"));
    assert_non_null(strstr(server->seen[0], "\r\n\r\n{\"mode\":\"2pc\"}"));
    lockstep_result_clear(&result);
    lockstep_close(client);
}

static void test_aborted_says_why(void **state) {
    struct server *server = server_of(state);
    struct lockstep_result result;

    server->steps[0] = (struct step){ACT_ANSWER, 409, ABORTED};
    struct lockstep *client = open_client(server->path, 30000);
    assert_int_equal(run(client, NULL, &result), LOCKSTEP_OK);
    assert_int_equal(result.outcome, LOCKSTEP_ABORTED);
    assert_string_equal(result.sqlstate, "23505");
    assert_string_equal(result.participant, "orders");
    assert_string_equal(result.reason, "twice");
    lockstep_result_clear(&result);
    lockstep_close(client);
}

/* Without a key a run that was sent is sent once, also on a connection that had served before (where libcurl would
 * repeat it). */
static void test_lost_without_key_is_unknown(void **state) {
    struct server *server = server_of(state);
    struct lockstep_result result;

    server->steps[0] = (struct step){ACT_ANSWER, 200, COMMITTED};
    server->steps[1] = (struct step){ACT_BREAK, 0, NULL};
    server->steps[2] = (struct step){ACT_ANSWER, 200, COMMITTED};
    struct lockstep *client = open_client(server->path, 30000);
    assert_int_equal(run(client, NULL, &result), LOCKSTEP_OK);
    lockstep_result_clear(&result);
    assert_int_equal(run(client, NULL, &result), LOCKSTEP_UNKNOWN);
    assert_int_equal(result.outcome, LOCKSTEP_NO_OUTCOME);
    assert_true(result.reason[0] != '\0');
    assert_int_equal(requests_so_far(server), 2);
    lockstep_result_clear(&result);
    lockstep_close(client);
}

static void test_lost_with_key_is_repeated(void **state) {
    struct server *server = server_of(state);
    struct lockstep_result result;

    server->steps[0] = (struct step){ACT_BREAK, 0, NULL};
    server->steps[1] = (struct step){ACT_ANSWER, 500, "{\"error\":\"oops\"}"};
    server->steps[2] = (struct step){ACT_ANSWER, 503, "{\"error\":\"offline\",\"begun\":false}"};
    server->steps[3] = (struct step){ACT_ANSWER, 200, COMMITTED};
    struct lockstep *client = open_client(server->path, 30000);
    assert_int_equal(run(client, "k", &result), LOCKSTEP_OK);
    assert_int_equal(result.outcome, LOCKSTEP_COMMITTED);
    assert_int_equal(requests_so_far(server), 4);
    for (int i = 0; i < 4; i++) assert_non_null(strstr(server->seen[i], "Idempotency-Key: k\r\n"));
    lockstep_result_clear(&result);
    lockstep_close(client);
}

/* What the second try is refused for says nothing about the first. */
static void test_refusal_after_loss_stays_unknown(void **state) {
    struct server *server = server_of(state);
    struct lockstep_result result;

    server->steps[0] = (struct step){ACT_BREAK, 0, NULL};
    server->steps[1] = (struct step){ACT_ANSWER, 403, "{\"error\":\"no\"}"};
    struct lockstep *client = open_client(server->path, 30000);
    assert_int_equal(run(client, "k", &result), LOCKSTEP_UNKNOWN);
    assert_int_equal(result.http_status, 403);
    lockstep_result_clear(&result);
    lockstep_close(client);
}

/* "Nothing begun" may be repeated without a key; a 503 that does not say so may not. */
static void test_busy_is_repeated_without_key(void **state) {
    struct server *server = server_of(state);
    struct lockstep_result result;

    server->steps[0] = (struct step){ACT_ANSWER, 429, "{\"begun\":false}"};
    server->steps[1] = (struct step){ACT_ANSWER, 503, "{\"begun\":false}"};
    server->steps[2] = (struct step){ACT_ANSWER, 503, "{}"};
    server->steps[3] = (struct step){ACT_ANSWER, 200, COMMITTED};
    struct lockstep *client = open_client(server->path, 30000);
    assert_int_equal(run(client, NULL, &result), LOCKSTEP_UNKNOWN);
    assert_int_equal(requests_so_far(server), 3);
    lockstep_result_clear(&result);
    lockstep_close(client);
}

static void test_busy_runs_out_of_attempts(void **state) {
    struct server *server = server_of(state);
    struct lockstep_result result;

    for (int i = 0; i < STEPS_MAX; i++) server->steps[i] = (struct step){ACT_ANSWER, 429, "{\"error\":\"full\"}"};
    struct lockstep *client = open_client(server->path, 30000);
    assert_int_equal(run(client, "k", &result), LOCKSTEP_BUSY);
    assert_int_equal(result.attempts, 8);
    assert_int_equal(requests_so_far(server), 8);
    assert_string_equal(result.reason, "full");
    lockstep_result_clear(&result);
    lockstep_close(client);
}

static void test_pending_is_followed(void **state) {
    struct server *server = server_of(state);
    struct lockstep_result result;

    server->steps[0] = (struct step){ACT_ANSWER, 202, PENDING};
    server->steps[1] = (struct step){ACT_ANSWER, 202, PENDING};
    server->steps[2] = (struct step){ACT_ANSWER, 409, ABORTED};
    struct lockstep *client = open_client(server->path, 30000);
    assert_int_equal(run(client, NULL, &result), LOCKSTEP_OK);
    assert_int_equal(result.outcome, LOCKSTEP_ABORTED);
    assert_non_null(strstr(server->seen[1], "GET /v1/tx/shop.0a1b2c3d4e5f.1.7?for=applied&timeout="));
    assert_int_equal(requests_so_far(server), 3);
    lockstep_result_clear(&result);
    lockstep_close(client);
}

/* 202, and then the coordinator no longer knows the gtid: that is not "refused", the run may have committed. */
static void test_pending_then_not_found_is_unknown(void **state) {
    struct server *server = server_of(state);
    struct lockstep_result result;

    server->steps[0] = (struct step){ACT_ANSWER, 202, PENDING};
    server->steps[1] = (struct step){ACT_ANSWER, 404, "{\"error\":\"no such transaction\"}"};
    struct lockstep *client = open_client(server->path, 30000);
    assert_int_equal(run(client, NULL, &result), LOCKSTEP_UNKNOWN);
    assert_string_equal(result.gtid, "shop.0a1b2c3d4e5f.1.7");
    lockstep_result_clear(&result);
    lockstep_close(client);
}

static void test_stalled_run_ends_in_time(void **state) {
    struct server *server = server_of(state);
    struct lockstep_result result;

    server->steps[0] = (struct step){ACT_STALL, 0, NULL};
    struct lockstep *client = open_client(server->path, 2000);
    assert_int_equal(run(client, "k", &result), LOCKSTEP_UNKNOWN);
    assert_int_equal(requests_so_far(server), 1);
    lockstep_result_clear(&result);
    lockstep_close(client);
}

static void test_unreachable(void **state) {
    struct lockstep_result result;

    (void)state;
    struct lockstep *client = open_client("/tmp/lockstep-unit-nobody-is-here", 30000);
    assert_int_equal(run(client, NULL, &result), LOCKSTEP_UNREACHABLE);
    assert_int_equal(result.attempts, 8);
    assert_null(result.body);
    lockstep_result_clear(&result);
    lockstep_close(client);
}

static void test_garbage_is_never_an_outcome(void **state) {
    static const struct step garbage[] = {{ACT_ANSWER, 200, "committed"},
                                          {ACT_ANSWER, 200, "{\"state\":\"aborted\"}"},
                                          {ACT_ANSWER, 409, "{\"state\":\"committed\"}"},
                                          {ACT_ANSWER, 204, "{\"state\":\"committed\"}"},
                                          {ACT_ANSWER, 302, "{}"}};
    struct server *server = server_of(state);
    struct lockstep_result result;

    memcpy(server->steps, garbage, sizeof garbage);
    struct lockstep *client = open_client(server->path, 30000);
    for (size_t i = 0; i < sizeof garbage / sizeof garbage[0]; i++) {
        assert_int_equal(run(client, NULL, &result), LOCKSTEP_UNKNOWN);
        assert_int_equal(result.outcome, LOCKSTEP_NO_OUTCOME);
        lockstep_result_clear(&result);
    }
    lockstep_close(client);
}

static void test_other_calls(void **state) {
    struct server *server = server_of(state);
    struct lockstep_result result;

    server->steps[0] = (struct step){ACT_ANSWER, 202, PENDING};
    server->steps[1] = (struct step){ACT_ANSWER, 200, "{\"transactions\":[]}"};
    server->steps[2] = (struct step){ACT_ANSWER, 200, "{\"participants\":[]}"};
    server->steps[3] = (struct step){ACT_ANSWER, 200, COMMITTED};
    server->steps[4] = (struct step){ACT_ANSWER, 404, "{\"error\":\"none\"}"};
    struct lockstep *client = open_client(server->path, 30000);
    assert_int_equal(lockstep_get(client, "a.b.1.2", LOCKSTEP_WAIT_DECIDED, 1500, &result), LOCKSTEP_OK);
    assert_int_equal(result.outcome, LOCKSTEP_PENDING);
    lockstep_result_clear(&result);
    assert_int_equal(lockstep_list(client, "pending", 5, &result), LOCKSTEP_OK);
    lockstep_result_clear(&result);
    assert_int_equal(lockstep_participants(client, &result), LOCKSTEP_OK);
    lockstep_result_clear(&result);
    assert_int_equal(lockstep_abort(client, "a.b.1.2", &result), LOCKSTEP_OK);
    assert_int_equal(result.outcome, LOCKSTEP_COMMITTED);
    lockstep_result_clear(&result);
    assert_int_equal(lockstep_get(client, "a.b.1.2", LOCKSTEP_WAIT_APPLIED, 0, &result), LOCKSTEP_REFUSED);
    lockstep_result_clear(&result);
    assert_non_null(strstr(server->seen[0], "GET /v1/tx/a.b.1.2?for=decided&timeout=1500ms "));
    assert_non_null(strstr(server->seen[1], "GET /v1/tx?state=pending&limit=5 "));
    assert_non_null(strstr(server->seen[2], "GET /v1/participants "));
    assert_non_null(strstr(server->seen[3], "POST /v1/tx/a.b.1.2/abort "));
    assert_non_null(strstr(server->seen[4], "GET /v1/tx/a.b.1.2 "));
    assert_int_equal(lockstep_get(client, "../admin", LOCKSTEP_WAIT_APPLIED, 0, &result), LOCKSTEP_INVALID);
    lockstep_close(client);
}

/* ------------------------------------------------------------- asynchronous */

struct tally {
    int done, committed;
    struct lockstep *client;
    int start_more;
};

static void on_done(void *context, struct lockstep_result *result) {
    struct tally *tally = context;

    tally->done++;
    if (result->outcome == LOCKSTEP_COMMITTED) tally->committed++;
    if (tally->start_more > 0) {
        tally->start_more--;
        assert_int_equal(lockstep_run_start(tally->client, "{}", 2, NULL, on_done, tally, NULL), LOCKSTEP_OK);
    }
}

static double seconds(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void test_one_descriptor_drives_all(void **state) {
    struct server *server = server_of(state);
    struct tally tally = {0};

    for (int i = 0; i < STEPS_MAX; i++) server->steps[i] = (struct step){ACT_ANSWER, 200, COMMITTED};
    tally.client = open_client(server->path, 30000);
    tally.start_more = 4;
    for (int i = 0; i < 8; i++)
        assert_int_equal(lockstep_run_start(tally.client, "{}", 2, NULL, on_done, &tally, NULL), LOCKSTEP_OK);
    assert_int_equal(tally.done, 0);
    struct pollfd descriptor = {.fd = lockstep_fd(tally.client), .events = POLLIN};
    size_t left = 8;
    for (double begin = seconds(); left > 0 && seconds() - begin < 5;) {
        assert_int_equal(poll(&descriptor, 1, 30000), 1);
        left = lockstep_dispatch(tally.client);
    }
    assert_int_equal(left, 0);
    assert_int_equal(tally.done, 12);
    assert_int_equal(tally.committed, 12);
    lockstep_close(tally.client);
}

static void on_done_slowly(void *context, struct lockstep_result *result) {
    struct tally *tally = context;

    if (tally->done == 0) usleep(500000);
    on_done(context, result);
}

/* One call's time runs out while another's completion works: that end is no answer on a socket, and must wake us all
 * the same. */
static void test_an_end_behind_a_completion_is_told(void **state) {
    struct server *server = server_of(state);
    struct tally tally = {0};
    size_t left = 2;

    server->steps[0] = (struct step){ACT_ANSWER, 200, COMMITTED};
    for (int i = 1; i < STEPS_MAX; i++) server->steps[i] = (struct step){ACT_STALL, 0, NULL};
    tally.client = open_client(server->path, 300);
    for (int i = 0; i < 2; i++)
        assert_int_equal(lockstep_run_start(tally.client, "{}", 2, NULL, on_done_slowly, &tally, NULL), LOCKSTEP_OK);
    struct pollfd descriptor = {.fd = lockstep_fd(tally.client), .events = POLLIN};
    while (left > 0) {
        assert_int_equal(poll(&descriptor, 1, 10000), 1);
        left = lockstep_dispatch(tally.client);
    }
    assert_int_equal(tally.done, 2);
    assert_int_equal(tally.committed, 1);
    lockstep_close(tally.client);
}

static void test_dispatch_never_blocks(void **state) {
    struct server *server = server_of(state);
    struct tally tally = {0};

    server->steps[0] = (struct step){ACT_STALL, 0, NULL};
    tally.client = open_client(server->path, 30000);
    assert_int_equal(lockstep_run_start(tally.client, "{}", 2, NULL, on_done, &tally, NULL), LOCKSTEP_OK);
    double begin = seconds();
    for (int i = 0; i < 20; i++) assert_int_equal(lockstep_dispatch(tally.client), 1);
    assert_true(seconds() - begin < 1.0);
    lockstep_close(tally.client); /* under way: dropped, not called */
    assert_int_equal(tally.done, 0);
}

static void test_cancel(void **state) {
    struct server *server = server_of(state);
    struct tally tally = {0};
    struct lockstep_call *call;

    server->steps[0] = (struct step){ACT_STALL, 0, NULL};
    server->steps[1] = (struct step){ACT_ANSWER, 200, COMMITTED};
    tally.client = open_client(server->path, 30000);
    assert_int_equal(lockstep_run_start(tally.client, "{}", 2, NULL, on_done, &tally, &call), LOCKSTEP_OK);
    (void)lockstep_dispatch(tally.client);
    lockstep_cancel(call);
    assert_int_equal(lockstep_dispatch(tally.client), 0);
    assert_int_equal(lockstep_run_start(tally.client, "{}", 2, NULL, on_done, &tally, &call), LOCKSTEP_OK);
    lockstep_cancel(call); /* before it was sent */
    assert_int_equal(lockstep_dispatch(tally.client), 0);
    assert_int_equal(tally.done, 0);
    lockstep_close(tally.client);
}

static void test_bounds(void **state) {
    struct tally tally = {0};
    struct lockstep_run_options options;
    char long_key[LOCKSTEP_KEY_MAX + 2];

    (void)state;
    memset(long_key, 'k', sizeof long_key);
    long_key[LOCKSTEP_KEY_MAX + 1] = '\0';
    tally.client = open_client("/tmp/lockstep-unit-nobody-is-here", 30000);
    lockstep_run_options_init(&options);
    options.key = long_key;
    assert_int_equal(lockstep_run_start(tally.client, "{}", 2, &options, on_done, &tally, NULL), LOCKSTEP_INVALID);
    long_key[LOCKSTEP_KEY_MAX] = '\0';
    assert_int_equal(lockstep_run_start(tally.client, "{}", 2, &options, on_done, &tally, NULL), LOCKSTEP_OK);
    options.key = "two words";
    assert_int_equal(lockstep_run_start(tally.client, "{}", 2, &options, on_done, &tally, NULL), LOCKSTEP_INVALID);
    options.key = "line\r\nX-Header: 1";
    assert_int_equal(lockstep_run_start(tally.client, "{}", 2, &options, on_done, &tally, NULL), LOCKSTEP_INVALID);
    assert_int_equal(lockstep_run_start(tally.client, "", 0, NULL, on_done, &tally, NULL), LOCKSTEP_INVALID);
    for (unsigned i = 1; i < LOCKSTEP_CALLS_MAX; i++)
        assert_int_equal(lockstep_run_start(tally.client, "{}", 2, NULL, on_done, &tally, NULL), LOCKSTEP_OK);
    assert_int_equal(lockstep_run_start(tally.client, "{}", 2, NULL, on_done, &tally, NULL), LOCKSTEP_BUSY);
    lockstep_close(tally.client);
}

int main(void) {
#define WITH_SERVER(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {WITH_SERVER(test_committed),
                                       WITH_SERVER(test_aborted_says_why),
                                       WITH_SERVER(test_lost_without_key_is_unknown),
                                       WITH_SERVER(test_lost_with_key_is_repeated),
                                       WITH_SERVER(test_refusal_after_loss_stays_unknown),
                                       WITH_SERVER(test_busy_is_repeated_without_key),
                                       WITH_SERVER(test_busy_runs_out_of_attempts),
                                       WITH_SERVER(test_pending_is_followed),
                                       WITH_SERVER(test_pending_then_not_found_is_unknown),
                                       WITH_SERVER(test_stalled_run_ends_in_time),
                                       cmocka_unit_test(test_unreachable),
                                       WITH_SERVER(test_garbage_is_never_an_outcome),
                                       WITH_SERVER(test_other_calls),
                                       WITH_SERVER(test_one_descriptor_drives_all),
                                       WITH_SERVER(test_an_end_behind_a_completion_is_told),
                                       WITH_SERVER(test_dispatch_never_blocks),
                                       WITH_SERVER(test_cancel),
                                       cmocka_unit_test(test_bounds)};

    return cmocka_run_group_tests_name("client_calls", tests, NULL, NULL);
}
