/*
 * test_cmd_log.c: `lockstep log verify|dump|stat` on a log on disk: what a DBA and the tests on real servers rely on.
 * Wrong code would call a damaged log valid, hide a decision, or print something that is not JSON.
 */
#include "tests/unit/unit.h"

#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/cmd.h"
#include "tests/unit/dlog_disk.h"

static struct ls_error err;

struct fixture {
    char dir[64];
};

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    snprintf(f->dir, sizeof f->dir, "/tmp/test_cmd_log.XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    struct dlog_options options = {.dir = f->dir,
                                   .coordinator = "shop",
                                   .incarnation = TEST_INCARNATION,
                                   .segment_bytes = 64u << 10,
                                   .bytes_max = 1u << 30,
                                   .retention_ms = 3600000,
                                   .spares = 2,
                                   .io = dlog_io_posix()};
    struct dlog *log;
    uint32_t epoch;
    uint8_t payload[TEST_PAYLOAD];
    uint64_t position, end;
    assert_ok(test_start(&options, &log, &epoch, &err));
    assert_ok(dlog_append(log, DLOG_PARTICIPANT, payload, test_participant(1, "orders", payload), &position, &end));
    for (uint64_t s = 1; s <= 9; s++) {
        assert_ok(dlog_append_commit(log, epoch, s, payload, test_commit(epoch, s, 2, payload), &position, &end));
    }
    assert_ok(dlog_write(log, &err));
    for (uint64_t s = 1; s <= 5; s++) {
        assert_ok(dlog_append_end(log, epoch, s, &end));
    }
    assert_ok(dlog_append(log, DLOG_HAZARD, payload, test_hazard(epoch, 9, 1, payload), &position, &end));
    assert_ok(dlog_append(log, DLOG_AUDIT, payload, test_audit("orders \033[2J", payload), &position, &end));
    assert_ok(dlog_write(log, &err));
    assert_ok(dlog_mark(log, 4000, &end));
    assert_ok(dlog_write(log, &err));
    dlog_close(log);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    char path[512];
    snprintf(path, sizeof path, "%s/log", f->dir);
    DIR *dir = opendir(path);
    const struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        char file[1024];
        snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
        unlink(file);
    }
    closedir(dir);
    rmdir(path);
    assert_int_equal(rmdir(f->dir), 0);
    free(f);
    return 0;
}

/* Runs the verb; its standard output comes back, heap. */
static char *run(int wanted, const char *action, const char *dir, const char *format) {
    char *argv[] = {strdup("log"), strdup(action), strdup(dir), strdup("-o"), strdup(format), NULL};
    FILE *out = tmpfile();
    fflush(stdout);
    int saved = dup(STDOUT_FILENO);
    dup2(fileno(out), STDOUT_FILENO);
    int status = cmd_log(5, argv);
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    for (int i = 0; i < 5; i++) {
        free(argv[i]); /* opt_parse reorders, it does not replace */
    }
    long size = lseek(fileno(out), 0, SEEK_END);
    char *text = calloc(1, (size_t)size + 1);
    assert_int_equal(pread(fileno(out), text, (size_t)size, 0), size);
    fclose(out);
    assert_int_equal(status, wanted);
    return text;
}

static json_int_t number(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

static void test_dump(void **state) {
    struct fixture *f = *state;
    char *text = run(LS_EXIT_OK, "dump", f->dir, "json");
    int commits = 0, ends = 0, lines = 0;
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n")) != NULL && *line != '\0'; lines++) {
        json_t *record = json_loads(line, 0, NULL);
        assert_non_null(record);
        const char *type = json_string_value(json_object_get(record, "type"));
        assert_int_equal(number(record, "record"), lines + 1);
        if (strcmp(type, "commit") == 0) {
            commits++;
            assert_int_equal(number(record, "epoch"), 1);
            assert_int_equal(number(record, "sequence"), commits);
            char gtid[LS_GTID_MAX + 1];
            snprintf(gtid, sizeof gtid, "shop." TEST_INCARNATION ".1.%d", commits);
            assert_string_equal(json_string_value(json_object_get(record, "gtid")), gtid);
            const json_t *branch = json_array_get(json_object_get(record, "branches"), 1);
            assert_int_equal(number(branch, "xid"), 1000 + commits);
            assert_string_equal(json_string_value(json_object_get(branch, "system_id")), "7123456789012345678");
            assert_non_null(strstr(json_string_value(json_object_get(branch, "gid")), gtid));
        }
        ends += strcmp(type, "end") == 0;
        json_decref(record);
    }
    free(text);
    assert_int_equal(commits, 9);
    assert_int_equal(ends, 5);
    assert_int_equal(lines, 1 + 1 + 1 + 9 + 5 + 2 +
                                1); /* epoch, mark of the relog, participant, ..., hazard and audit, mark */
    text = run(LS_EXIT_OK, "dump", f->dir, "table");
    assert_null(strchr(text, '\033')); /* what an operator wrote does not drive the terminal */
    assert_non_null(strstr(text, "gtid=shop." TEST_INCARNATION ".1.9"));
    free(text);
}

static void test_stat(void **state) {
    struct fixture *f = *state;
    char *text = run(LS_EXIT_OK, "stat", f->dir, "json");
    json_t *stat = json_loads(text, 0, NULL);
    assert_non_null(stat);
    assert_string_equal(json_string_value(json_object_get(stat, "verdict")), "valid");
    assert_int_equal(number(stat, "decisions"), 9);
    assert_int_equal(number(stat, "open_decisions"), 4);
    assert_int_equal(number(stat, "running_ms"), 4000);
    assert_int_equal(number(stat, "segments"), 1);
    json_decref(stat);
    free(text);
    text = run(LS_EXIT_OK, "stat", f->dir, "table");
    assert_non_null(strstr(text, "decisions kept  9, of them open 4"));
    free(text);
}

static void test_verify(void **state) {
    struct fixture *f = *state;
    char *text = run(LS_EXIT_OK, "verify", f->dir, "json"), path[256];
    json_t *report = json_loads(text, 0, NULL);
    uint64_t end = (uint64_t)number(report, "end_position");
    json_decref(report);
    free(text);
    snprintf(path, sizeof path, "%s/log/0000000000000001.seg", f->dir);
    int file = open(path, O_RDWR);
    assert_int_equal(pwrite(file, "x", 1, (off_t)end + 5), 1); /* the first segment: position = offset */
    text = run(LS_EXIT_OK, "verify", f->dir, "table");
    assert_non_null(strstr(text, "verdict      torn tail"));
    free(text);
    assert_int_equal(pwrite(file, "", 1, (off_t)end + 5), 1);
    assert_int_equal(pwrite(file, "x", 1, 4096 + 70), 1);
    text = run(LS_EXIT_ERROR, "verify", f->dir, "table");
    assert_non_null(strstr(text, "verdict      corrupt"));
    assert_non_null(strstr(text, "0000000000000001.seg, position 4096"));
    free(text);
    text = run(LS_EXIT_ERROR, "dump", f->dir, "json"); /* shows what can be read */
    free(text);
    close(file);
    free(run(LS_EXIT_ERROR, "verify", "/nonexistent", "table"));
    free(run(LS_EXIT_USAGE, "mend", f->dir, "table"));
    free(run(LS_EXIT_USAGE, "verify", f->dir, "xml"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_dump, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stat, setup, teardown),
        cmocka_unit_test_setup_teardown(test_verify, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
