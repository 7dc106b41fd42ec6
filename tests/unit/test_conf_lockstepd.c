/*
 * test_conf_lockstepd.c: the configuration of lockstepd. What the table alone cannot say (sizes that depend on each
 * other, words, the socket's default), and that a reload takes over what may change and names what may not.
 */
#include "tests/unit/unit.h"

#include "coordinator/conf.h"
#include "lockstep/limits.h"

static struct ls_error err;

#define REQUIRED "name: shop\ndata: /var/lib/lockstep\ntls:\n  ca: ca.crt\n  certificate: c.crt\n  key: c.key\n"

static enum ls_status parse(const char *text, struct coordinator_conf *conf) {
    return coordinator_conf_parse(text, strlen(text), "f.yaml", conf, &err);
}

static void defaults_are_those_of_limits_h(void **state) {
    struct coordinator_conf conf;
    (void)state;
    assert_ok(parse(REQUIRED, &conf));
    assert_string_equal(conf.name, "shop");
    assert_string_equal(conf.api_listen, "127.0.0.1:7443");
    assert_string_equal(conf.agents_listen, "127.0.0.1:7444");
    assert_string_equal(conf.api_socket, "/var/lib/lockstep/lockstepd.sock");
    assert_int_equal(conf.body_max, LS_DEFAULT_BODY_MAX);
    assert_int_equal(conf.statements_max, LS_DEFAULT_STATEMENTS_MAX);
    assert_int_equal(conf.participants_max, LS_DEFAULT_PARTICIPANTS_PER_TXN_MAX);
    assert_int_equal(conf.result_rows_max, LS_DEFAULT_RESULT_ROWS_MAX);
    assert_int_equal(conf.result_bytes_max, LS_DEFAULT_RESULT_BYTES_MAX);
    assert_int_equal(conf.deadline_ms, LS_DEFAULT_DEADLINE_MS);
    assert_int_equal(conf.lock_timeout_ms, LS_DEFAULT_LOCK_TIMEOUT_MS);
    assert_int_equal(conf.apply_wait_ms, LS_DEFAULT_APPLY_WAIT_MS);
    assert_int_equal(conf.http_idle_ms, LS_DEFAULT_HTTP_IDLE_S * 1000);
    assert_int_equal(conf.connections_max, LS_DEFAULT_CONNECTIONS_MAX);
    assert_int_equal(conf.waiting_max, LS_DEFAULT_WAITING_MAX);
    assert_int_equal(conf.in_flight_max, LS_DEFAULT_IN_FLIGHT_MAX);
    assert_int_equal(conf.keys_max, LS_DEFAULT_KEYS_MAX);
    assert_int_equal(conf.finished_max, LS_DEFAULT_FINISHED_MAX);
    assert_int_equal(conf.resend_ms, LS_DEFAULT_RESEND_MS);
    assert_int_equal(conf.segment_bytes, LS_DEFAULT_SEGMENT_BYTES);
    assert_int_equal(conf.log_bytes_max, LS_DEFAULT_LOG_BYTES_MAX);
    assert_int_equal(conf.retention_ms, (uint64_t)LS_DEFAULT_RETENTION_S * 1000);
    assert_int_equal(conf.diag_level, DIAG_INFO);
    assert_int_equal(conf.diag_format, DIAG_TEXT);
    assert_false(conf.faults);
    assert_null(coordinator_conf_tls(&conf).crl);
    coordinator_conf_free(&conf);
}

static void every_key_can_be_set(void **state) {
    struct coordinator_conf conf;
    (void)state;
    assert_ok(parse(REQUIRED
                    "  crl: c.crl\n"
                    "api: {listen: '[::1]:0', socket: /run/l.sock}\n"
                    "agents: {listen: '0.0.0.0:1', connections: 5}\n"
                    "limits: {body: 2MiB, statements: 2, participants: 3, result_rows: 4, result_bytes: 5KiB,\n"
                    "  deadline: 1min, lock_timeout: 6ms, apply_wait: 7s, http_idle: 8s, connections: 9,\n"
                    "  waiting: 10, in_flight: 11, keys: 12, finished: 13, resend: 14s}\n"
                    "log: {segment_size: 64KiB, max_size: 1MiB, retention: 2h, spares: 3}\n"
                    "drain_time: 15s\n"
                    "diag: {level: debug, format: json}\n"
                    "faults: enabled\n",
                    &conf));
    assert_string_equal(conf.api_socket, "/run/l.sock");
    assert_string_equal(coordinator_conf_tls(&conf).crl, "c.crl");
    assert_int_equal(conf.agents_connections, 5);
    assert_int_equal(conf.body_max, 2 << 20);
    assert_int_equal(conf.result_bytes_max, 5 << 10);
    assert_int_equal(conf.deadline_ms, 60000);
    assert_int_equal(conf.drain_ms, 15000);
    assert_int_equal(conf.spares, 3);
    assert_int_equal(conf.diag_level, DIAG_DEBUG);
    assert_int_equal(conf.diag_format, DIAG_JSON);
    assert_true(conf.faults);
    coordinator_conf_free(&conf);
}

static void mistakes_name_file_and_key(void **state) {
    static const struct {
        const char *text, *part;
    } mistakes[] = {
        {"", "name"},
        {"name: shop\n", "data"},
        {REQUIRED "  klucz: x\n", "f.yaml:7: tls.klucz"},
        {REQUIRED "limits: {deadline: 30}\n", "f.yaml:7: limits.deadline"},
        {REQUIRED "limits: {deadline: 5ms}\n", "limits.deadline"},
        {REQUIRED "limits: {participants: 65}\n", "limits.participants"},
        {REQUIRED "limits: {lock_timeout: 0s}\n", "limits.lock_timeout"},
        {REQUIRED "api: {listen: localhost}\n", "api.listen"},
        {REQUIRED "diag: {level: loud}\n", "diag.level"},
        {REQUIRED "diag: {format: xml}\n", "diag.format"},
        {REQUIRED "faults: true\n", "faults"},
        {REQUIRED "log: {segment_size: 16MiB, max_size: 63MiB}\n", "log.max_size: must be at least four times"},
        {REQUIRED "log: {spares: 1}\n", "log.spares"},
        {"name: this-is-a-name-of-19\ndata: d\ntls: {ca: a, certificate: b, key: c}\n", "name"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof mistakes / sizeof mistakes[0]; i++) {
        struct coordinator_conf conf;
        assert_int_equal(parse(mistakes[i].text, &conf), LS_ERR_CONFIG);
        if (strstr(err.text, mistakes[i].part) == NULL || strstr(err.text, "f.yaml") == NULL) {
            fail_msg("mistake %zu: \"%s\" does not name \"%s\"", i, err.text, mistakes[i].part);
        }
    }
}

static void no_password_is_shown(void **state) {
    static const char *const mistakes[] = {"calls: {services: {pay: \"https://user:hunter2@host/\"}}\n",
                                           "calls: {services: {pay: \"ftp://user:hunter2@host/\"}}\n",
                                           "alerts: {webhook: \"https://user:hunter2@host/\"}\n"};
    (void)state;
    for (size_t i = 0; i < sizeof mistakes / sizeof mistakes[0]; i++) {
        char text[512];
        struct coordinator_conf conf;
        (void)snprintf(text, sizeof text, "%s%s", REQUIRED, mistakes[i]);
        assert_int_equal(parse(text, &conf), LS_ERR_CONFIG);
        assert_null(strstr(err.text, "hunter2"));
        assert_non_null(strstr(err.text, i < 2 ? "f.yaml:7: calls.services: pay" : "alerts.webhook"));
    }
}

static void a_socket_path_that_no_socket_can_have_is_refused(void **state) {
    char text[512], data[101];
    struct coordinator_conf conf;
    (void)state;
    memset(data, 'd', sizeof data - 1);
    data[sizeof data - 1] = '\0';
    (void)snprintf(text, sizeof text, "name: s\ndata: /%s\ntls: {ca: a, certificate: b, key: c}\n", data);
    assert_int_equal(parse(text, &conf), LS_ERR_CONFIG);
    assert_non_null(strstr(err.text, "api.socket"));
}

static void reload_takes_limits_and_certificates_only(void **state) {
    struct coordinator_conf conf, next;
    (void)state;
    assert_ok(parse(REQUIRED, &conf));
    assert_ok(parse("name: shop\ndata: /var/lib/lockstep\ntls: {ca: new.crt, certificate: n.crt, key: n.key}\n"
                    "limits: {deadline: 1s, connections: 3, body: 1KiB}\n",
                    &next));
    assert_null(coordinator_conf_take(&conf, &next));
    coordinator_conf_free(&next);
    assert_string_equal(conf.tls_ca, "new.crt");
    assert_int_equal(conf.deadline_ms, 1000);
    assert_int_equal(conf.connections_max, 3);
    assert_int_equal(conf.body_max, 1024);

    assert_ok(parse(REQUIRED "log: {retention: 1h}\nlimits: {deadline: 2s}\n", &next));
    assert_string_equal(coordinator_conf_take(&conf, &next), "log.retention");
    coordinator_conf_free(&next);
    assert_int_equal(conf.retention_ms, (uint64_t)LS_DEFAULT_RETENTION_S * 1000);
    assert_int_equal(conf.deadline_ms, 2000);
    coordinator_conf_free(&conf);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_those_of_limits_h),
        cmocka_unit_test(every_key_can_be_set),
        cmocka_unit_test(mistakes_name_file_and_key),
        cmocka_unit_test(no_password_is_shown),
        cmocka_unit_test(a_socket_path_that_no_socket_can_have_is_refused),
        cmocka_unit_test(reload_takes_limits_and_certificates_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
