/*
 * test_pg_conf.c: the agent's configuration: connection strings, roles of applications, functions that they are confined to. If "only these
 * functions" could be talked around, a confined application would have all of its role's rights.
 */
#include "tests/unit/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "participant/conf.h"
#include "participant/functions.h"

static struct ls_error err;

static void functions(void **state)
{
    (void)state;
    static const char allowed[] = "pay.reserve, cancel";
    static const char *const good[] = {"select pay.reserve($1)", "SELECT pay.reserve($1, $2)", "select cancel()", "call cancel($1)",
                                       "  select\n* from pay.reserve( $1 ,$23 ) ; ", "select * from cancel()", "select PAY.Reserve($1)"};
    static const char *const bad[] = {"select pay.reserve(1)",
                                      "select pay.reserve($1) + 1",
                                      "select pay.reserve($1), other()",
                                      "select pay.reserve(other())",
                                      "select pay.reserve($1) from t",
                                      "select pay.reserves($1)",
                                      "select reserve($1)",
                                      "select pay.reserve",
                                      "select pay.reserve($1",
                                      "select pay.reserve($1,)",
                                      "select pay.reserve($)",
                                      "select pay . reserve($1)",
                                      "select \"pay\".reserve($1)",
                                      "select pay.reserve($1); select other()",
                                      "select pay.reserve($1) -- x",
                                      "select pay.reserve/**/($1)",
                                      "select from pay.reserve($1)",
                                      "select * pay.reserve($1)",
                                      "update t set a=1",
                                      "selectpay.reserve($1)",
                                      "select",
                                      "",
                                      "call",
                                      "(select pay.reserve($1))",
                                      "select cancel($1) where other()"};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        if (!functions_allowed(good[i], allowed))
            fail_msg("should be allowed: %s", good[i]);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        if (functions_allowed(bad[i], allowed))
            fail_msg("should be refused: %s", bad[i]);
}

static void function_lists(void **state)
{
    (void)state;
    static const char *const good[] = {"a", "a.b", " a , b.c ", "a$1", "_x"};
    static const char *const bad[] = {"", ",", "a,", ",a", "a b", "a.b.c", "a.", ".a", "1a", "\"a\"", "a()", "a;b"};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_true(functions_list_valid(good[i]));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        if (functions_list_valid(bad[i]))
            fail_msg("should be refused: %s", bad[i]);
}

static void targets(void **state)
{
    (void)state;
    struct pg_target target;
    assert_int_equal(pg_target_parse("host=/tmp dbname=x user=agent options='-c a=b'", &target, &err), LS_OK);
    assert_string_equal(target.user, "agent");
    assert_string_equal(target.database, "x");
    assert_string_equal(target.options, "-c a=b");
    assert_null(target.hosts);
    pg_target_free(&target);
    assert_int_equal(pg_target_parse("postgresql://agent@db.example:5433/x?sslmode=verify-full", &target, &err), LS_OK);
    assert_string_equal(target.hosts, "db.example");
    pg_target_free(&target);
    static const char *const literal[] = {"host=127.0.0.1 user=a", "host=::1 user=a", "host=db hostaddr=10.0.0.1 user=a", "user=a"};
    for (size_t i = 0; i < sizeof(literal) / sizeof(literal[0]); i++) {
        assert_int_equal(pg_target_parse(literal[i], &target, &err), LS_OK);
        assert_null(target.hosts);
        pg_target_free(&target);
    }
    static const struct {
        const char *conninfo, *word;
    } bad[] = {{"host=/tmp", "user"},
               {"user=a password=secret", "passfile"},
               {"user=a application_name=x", "application_name"},
               {"user=a replication=database", "replication"},
               {"user=a client_encoding=LATIN1", "client_encoding"},
               {"user=a gssencmode=require", "gssencmode"},
               {"user=a nonsense=1", "nonsense"},
               {"user", "="},
               {"service=there_is_none", "service"}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (pg_target_parse(bad[i].conninfo, &target, &err) != LS_ERR_CONFIG)
            fail_msg("should be refused: %s", bad[i].conninfo);
        assert_non_null(strstr(err.text, bad[i].word));
        assert_null(strstr(err.text, "secret"));
    }
}

static void services(void **state)
{
    (void)state;
    char path[] = "/tmp/lockstep-service-XXXXXX";
    static const char text[] = "[orders]\nhost=db.example\nport=6000\ndbname=o\nuser=agent\n[secret]\nuser=agent\npassword=x\n";
    struct pg_target target;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    setenv("PGSERVICEFILE", path, 1);
    assert_int_equal(pg_target_parse("service=orders dbname=other", &target, &err), LS_OK);
    assert_string_equal(target.user, "agent");
    assert_string_equal(target.database, "other"); /* the string comes first */
    assert_string_equal(target.hosts, "db.example");
    bool port = false;
    for (size_t i = 0; i < target.count; i++) {
        assert_string_not_equal(target.keywords[i], "service"); /* libpq would resolve the name by itself */
        port |= strcmp(target.keywords[i], "port") == 0 && strcmp(target.values[i], "6000") == 0;
    }
    assert_true(port);
    pg_target_free(&target);
    assert_int_equal(pg_target_parse("service=secret", &target, &err), LS_ERR_CONFIG);
    unsetenv("PGSERVICEFILE");
    unlink(path);
}

static enum ls_status load(const char *more, struct agent_conf *conf)
{
    char path[] = "/tmp/lockstep-agent-XXXXXX";
    int fd = mkstemp(path);
    FILE *file = fdopen(fd, "w");
    assert_non_null(file);
    fprintf(file, "name: orders\ncoordinator: {name: shop}\ntls: {ca: a, certificate: b, key: c}\n"
                  "database: {conninfo: \"host=/tmp user=agent\"}\n%s", more);
    fclose(file);
    enum ls_status status = agent_conf_load(path, conf, &err);
    unlink(path);
    return status;
}

static void roles(void **state)
{
    (void)state;
    struct agent_conf conf;
    assert_int_equal(load("roles: {\"app/checkout\": rw, \"app/report\": ro, \"app/other\": rw}\nfunctions: {\"app/report\": \"f, g\"}\n", &conf), LS_OK);
    assert_string_equal(agent_conf_role(&conf, "app/checkout"), "rw");
    assert_string_equal(agent_conf_role(&conf, "app/report"), "ro");
    assert_null(agent_conf_role(&conf, "app/check"));
    assert_null(agent_conf_role(&conf, "app/nobody"));
    assert_string_equal(agent_conf_functions(&conf, "app/report"), "f, g");
    assert_null(agent_conf_functions(&conf, "app/checkout"));
    assert_int_equal(conf.database_role_count, 2);
    agent_conf_free(&conf);
    assert_int_equal(load("roles: {\"app/checkout\": rw, \"*\": common}\n", &conf), LS_OK);
    assert_string_equal(agent_conf_role(&conf, "app/checkout"), "rw");
    assert_string_equal(agent_conf_role(&conf, "app/nobody"), "common");
    agent_conf_free(&conf);
}

static void refused(void **state)
{
    (void)state;
    static const struct {
        const char *more, *word;
    } bad[] = {{"", "roles"},
               {"roles: {}\n", "roles"},
               {"roles: {checkout: rw}\n", "checkout"},
               {"roles: {\"agent/x\": rw}\n", "agent/x"},
               {"roles: {\"app/x\": \"\"}\n", "roles"},
               {"roles: {\"*\": r}\nfunctions: {\"app/x\": \"a b\"}\n", "a b"},
               {"roles: {\"*\": r}\ngid_form: jdbc\n", "gid_form"},
               {"roles: {\"*\": r}\nfaults: maybe\n", "faults"},
               {"roles: {\"*\": r}\nlog: {level: loud}\n", "loud"},
               {"roles: {\"*\": r}\npool: {workers: 0}\n", "workers"},
               {"roles: {\"*\": r}\nlimits: {finished: 1023}\n", "finished"},
               {"roles: {\"*\": r}\nprepared: {share: 101}\n", "share"},
               {"roles: {\"*\": r}\nnonsense: 1\n", "nonsense"}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct agent_conf conf;
        assert_int_equal(load(bad[i].more, &conf), LS_ERR_CONFIG);
        if (strstr(err.text, bad[i].word) == NULL)
            fail_msg("%s: %s", bad[i].more, err.text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(functions), cmocka_unit_test(function_lists), cmocka_unit_test(targets),
                                       cmocka_unit_test(services),  cmocka_unit_test(roles),          cmocka_unit_test(refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
