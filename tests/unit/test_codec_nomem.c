/*
 * test_codec_nomem.c: every allocation fails once in what reads and writes bytes of others: frames, the log's payloads
 * (test_core_nomem has those), the document of a run, configurations, the registry. Allowed: LS_ERR_NOMEM with nothing
 * kept and nothing leaked, and the same call succeeds afterwards. If the code were wrong, a shortage of memory would be
 * called a protocol error or a bad document, a key of the configuration would silently keep its default, or memory
 * would leak.
 */
#include "tests/unit/nomem.h"

#include <sys/mman.h>

#include "common/frame.h"
#include "coordinator/api/document.h"
#include "coordinator/conf.h"
#include "coordinator/registry.h"
#include "coordinator/run.h"
#include "participant/conf.h"

static struct ls_error err;

/* Only one allocation fails: NOMEM is followed by success. */
#define twice(call)                                             \
    do {                                                        \
        nomem_begin();                                          \
        enum ls_status first_ = (call);                         \
        nomem_end();                                            \
        nomem_check(first_ == LS_OK || first_ == LS_ERR_NOMEM); \
        if (first_ != LS_OK) nomem_check((call) == LS_OK);      \
    } while (0)

/* ---------------------------------------------------------------- frames */

static void frame_life(void) {
    static char gtid[] = "shop.0a1b2c3d4e5f.3.17", gid[] = "lockstep:shop.0a1b2c3d4e5f.3.17:orders",
                owner[] = "app_role", sql[] = "select $1", text[] = "tea", app[] = "app/checkout", key[] = "k-1",
                incarnation[] = "0a1b2c3d4e5f";
    Lockstep__Fence fence = LOCKSTEP__FENCE__INIT;
    fence.incarnation = incarnation, fence.epoch = 3, fence.position = 4096, fence.chain = 9;
    Lockstep__Value value = LOCKSTEP__VALUE__INIT, *values[] = {&value};
    value.text = text;
    Lockstep__Statement statement = LOCKSTEP__STATEMENT__INIT, *statements[] = {&statement, &statement};
    statement.sql = sql, statement.n_args = 1, statement.args = values;
    Lockstep__Work work = LOCKSTEP__WORK__INIT;
    work.gtid = gtid, work.last = 1, work.n_statements = 2, work.statements = statements, work.app = app,
    work.key = key;
    work.deadline_ms = work.lock_timeout_ms = 1000;
    Lockstep__Vote vote = LOCKSTEP__VOTE__INIT;
    vote.gtid = gtid, vote.kind = LOCKSTEP__VOTE_KIND__YES, vote.gid = gid, vote.owner = owner;
    vote.has_xid = vote.has_lsn = vote.has_system_id = vote.has_timeline = 1,
    vote.xid = vote.lsn = vote.system_id = vote.timeline = 5;
    Lockstep__Frame frames[2];
    lockstep__frame__init(&frames[0]);
    frames[0].fence = &fence, frames[0].body_case = LOCKSTEP__FRAME__BODY_WORK, frames[0].work = &work;
    lockstep__frame__init(&frames[1]);
    frames[1].body_case = LOCKSTEP__FRAME__BODY_VOTE, frames[1].vote = &vote;
    for (int i = 0; i < 2; i++) {
        uint8_t bytes[1024];
        size_t size = frame_size(&frames[i]);
        nomem_check(size <= sizeof bytes);
        nomem_begin();
        nomem_check(frame_encode(&frames[i], bytes, size, &err) == LS_OK); /* writing needs no memory */
        nomem_end();
        Lockstep__Frame *back = NULL;
        twice(frame_decode(bytes, size, &back, &err));
        if (i == 0) {
            Lockstep__Work *taken = frame_take_work(back);
            nomem_check(strcmp(taken->statements[1]->args[0]->text, "tea") == 0);
            lockstep__work__free_unpacked(taken, NULL);
        }
        lockstep__frame__free_unpacked(back, NULL);
    }
}

/* -------------------------------------------------------------- document */

static uint32_t participant(void *context, const char *name) {
    (void)context;
    return strcmp(name, "orders") == 0 ? 1 : strcmp(name, "balance") == 0 ? 2 : 0;
}

static void document_life(void) {
    static const char text[] =
        "{ \"mode\": \"2pc\", \"isolation\": \"serializable\", \"deadline\": \"10s\", \"steps\": ["
        "{ \"name\": \"first\", \"on\": \"orders\", \"do\": {\"sql\": \"insert into orders values($1,$2,$3) returning "
        "id\", \"args\": [17,\"tea\",{\"json\":[1,{\"a\":2}]}]},"
        "  \"undo\": {\"sql\": \"delete from orders where id=$1\", \"args\": [17]} },"
        "{ \"name\": \"second\", \"on\": \"balance\", \"after\": [\"first\"], \"do\": {\"sql\": \"update balance set "
        "amount=amount-$1\", \"args\": [30], \"expect_rows\": 1} } ] }";
    static const struct document_limits limits = {
        .statements = 4, .participants = 2, .deadline_ms = 30000, .lock_timeout_ms = 5000, .participant = participant};
    struct document_error error = {.code = ""};
    struct document *document = NULL;
    nomem_begin();
    enum ls_status status = document_parse(text, sizeof text - 1, &limits, &document, &error);
    nomem_end();
    if (status != LS_OK) {
        nomem_check(status == LS_ERR_NOMEM && strcmp(error.code, "no_memory") == 0);
        nomem_check(document_parse(text, sizeof text - 1, &limits, &document, &error) == LS_OK);
    }
    nomem_check(document->step_count == 2 && document->participant_count == 2 && document->specs[1].after_count == 1);
    nomem_begin();
    struct run *run = run_new(document, "key", 1);
    if (run == NULL) run = run_new(document, "key", 1);
    nomem_end();
    nomem_check(run != NULL);
    static char json[] = "[{\"id\": 17, \"sku\": {\"a\": [1]}}]";
    Lockstep__StepResult result = LOCKSTEP__STEP_RESULT__INIT, *results[] = {&result};
    result.step = 0, result.rows_affected = 1, result.rows_json = json;
    Lockstep__Vote vote = LOCKSTEP__VOTE__INIT;
    vote.n_results = 1, vote.results = results;
    nomem_begin();
    status = run_take_results(run, &vote, 1, 10, 1000, &err);
    nomem_end();
    nomem_check(status == LS_OK || status == LS_ERR_NOMEM); /* the host aborts the transaction */
    static char column[] = "sku";
    struct document_arg arg = {
        .kind = DOCUMENT_ARG_REF, .ref_step = 0, .ref_kind = DOCUMENT_REF_CELL, .ref_row = 0, .text = column};
    const char *value;
    char *owned = NULL;
    if (status == LS_OK) {
        nomem_begin();
        status = run_resolve(run, &arg, &value, &owned, &err);
        nomem_end();
        nomem_check(status == LS_OK || status == LS_ERR_NOMEM);
        if (status != LS_OK) nomem_check(run_resolve(run, &arg, &value, &owned, &err) == LS_OK);
        nomem_check(strcmp(value, "{\"a\":[1]}") == 0);
        free(owned);
    }
    run_drop(run);
}

/* --------------------------------------------------------- configuration */

static void conf_life(void) {
    static const char coordinator_text[] =
        "name: shop\ndata: /var/lib/lockstep\ntls:\n  ca: ca.crt\n  certificate: c.crt\n  key: c.key\n  crl: c.crl\n"
        "limits: {body: 2MiB, statements: 2, waiting: 10}\nlog: {spares: 3, retention: 2h}\n";
    struct coordinator_conf conf;
    twice(coordinator_conf_parse(coordinator_text, sizeof coordinator_text - 1, "f.yaml", &conf, &err));
    nomem_check(conf.body_max == 2u << 20 && conf.spares == 3 &&
                strcmp(conf.api_socket, "/var/lib/lockstep/lockstepd.sock") == 0);
    coordinator_conf_free(&conf);
}

static char agent_file[32];

static void agent_conf_life(void) {
    struct agent_conf agent;
    nomem_begin();
    enum ls_status status = agent_conf_load(agent_file, &agent, &err);
    nomem_end();
    if (status != LS_OK) {
        nomem_check(status == LS_ERR_NOMEM && err.status == LS_ERR_NOMEM); /* not: what is in the file is wrong */
        nomem_check(agent_conf_load(agent_file, &agent, &err) == LS_OK);
    }
    nomem_check(agent.roles.count == 2 && agent.database_role_count == 2);
    nomem_check(strcmp(agent_conf_role(&agent, "app/checkout"), "rw") == 0 &&
                strcmp(agent_conf_functions(&agent, "app/report"), "f, g") == 0);
    agent_conf_free(&agent);
}

/* -------------------------------------------------------------- registry */

static void registry_life(void) {
    nomem_begin();
    struct registry *registry = registry_new();
    if (registry == NULL) registry = registry_new();
    struct apps *apps = apps_new();
    if (apps == NULL) apps = apps_new();
    nomem_end();
    nomem_check(registry != NULL && apps != NULL);
    struct registry_participant *participant = NULL, *again = NULL;
    twice(registry_accept(registry, "stock ffffffffffff"));
    twice(registry_add(registry, 1, "orders", &participant, &err));
    twice(registry_add(registry, 2, "stock", &participant, &err));
    nomem_check(registry_highest(registry) == 2 && registry_next_number(registry) == 3);
    nomem_check(strcmp(registry_by_number(registry, 2)->accepted_incarnation, "ffffffffffff") == 0);
    nomem_check(registry_add(registry, 2, "stock", &again, &err) == LS_OK && again == participant);
    twice(registry_sight(again, 1, 7, 100, 0));
    nomem_check(again->sighting_count == 1 && registry_sighting(again, 1, 7)->lsn == 100);
    for (uint32_t n = 1; n <= 40; n++) {
        char name[32];
        snprintf(name, sizeof name, "app/%u", n);
        nomem_begin();
        uint32_t number = apps_number(apps, name);
        if (number == 0) number = apps_number(apps, name);
        nomem_end();
        nomem_check(number == n && strcmp(apps_identity(apps, number), name) == 0);
    }
    registry_free(registry);
    apps_free(apps);
}

/* ------------------------------------------------------------------ runs */

static void each(const char *what, void (*life)(void)) {
    nomem_library_leaks = strstr(what, "configuration") != NULL;
    uint64_t stopped;
    nomem_each(what, life, &stopped);
    assert_int_equal(stopped, 0); /* all of these can say no */
}

static void test_frames(void **state) {
    (void)state;
    each("frames", frame_life);
}
static void test_document(void **state) {
    (void)state;
    each("document", document_life);
}
static void test_coordinator_conf(void **state) {
    (void)state;
    each("configuration of lockstepd", conf_life);
}
static void test_agent_conf(void **state) {
    (void)state;
    static const char text[] =
        "name: orders\ncoordinator: {name: shop}\ntls: {ca: a, certificate: b, key: c}\n"
        "database: {conninfo: \"host=/tmp user=agent\"}\n"
        "roles: {\"app/checkout\": rw, \"app/report\": ro}\nfunctions: {\"app/report\": \"f, g\"}\n";
    int fd = memfd_create("conf", 0); /* nothing stays behind, however this ends */
    assert_true(fd >= 0 && write(fd, text, sizeof text - 1) == (ssize_t)(sizeof text - 1));
    snprintf(agent_file, sizeof agent_file, "/proc/self/fd/%d", fd);
    each("configuration of lockstep-agent", agent_conf_life);
    close(fd);
}
static void test_registry(void **state) {
    (void)state;
    each("registry", registry_life);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frames),     cmocka_unit_test(test_document), cmocka_unit_test(test_coordinator_conf),
        cmocka_unit_test(test_agent_conf), cmocka_unit_test(test_registry),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
