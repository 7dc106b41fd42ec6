/*
 * test_conf.c: configuration. A value that is read as something else than what is written (5s as 5, 010 as 8) would be
 * believed silently; every mistake must name file, line and key.
 */
#include "tests/unit/unit.h"

#include <unistd.h>

#include "common/conf.h"

static struct ls_error err;

struct target {
    char *name, *text, *address;
    bool flag;
    uint32_t count;
    uint64_t large, size, wait;
    struct conf_map apps;
    struct conf_list hosts;
    char *inner;
};

#define AT(field) offsetof(struct target, field)
static const struct conf_key keys[] = {
    {"name", CONF_NAME, AT(name), "shop", false, 0, 8, "a name"},
    {"text", CONF_STRING, AT(text), NULL, false, 2, 5, "a text"},
    {"listen.address", CONF_PORT_ADDRESS, AT(address), "127.0.0.1:0", false, 0, 0, "where"},
    {"listen.flag", CONF_BOOL, AT(flag), "false", false, 0, 0, "whether"},
    {"log.count", CONF_U32, AT(count), "7", false, 1, 0, "how many"},
    {"log.large", CONF_U64, AT(large), "7", false, 0, 0, "how many more"},
    {"log.segment_size", CONF_BYTES, AT(size), "16MiB", false, 64 << 10, 1 << 30, "how large"},
    {"log.wait-time", CONF_MS, AT(wait), "30s", false, 10, 3600000, "how long"},
    {"apps", CONF_MAP, AT(apps), NULL, false, 0, 0, "who"},
    {"hosts", CONF_LIST, AT(hosts), "a,b", false, 0, 0, "from where"},
    {"deep.er.still", CONF_STRING, AT(inner), NULL, false, 0, 0, "three levels"},
};
#define KEYS (sizeof keys / sizeof *keys)

static enum ls_status parse(const char *text, struct target *target) {
    memset(target, 0xa5, sizeof *target); /* nothing of the caller's is relied on */
    return conf_parse(text, strlen(text), "f.yaml", keys, KEYS, target, &err);
}

static void defaults(void **state) {
    static const char *const empty[] = {
        "", "\n", "# nothing\n", "---\n", "log:\nlisten:\n", "log: # all commented out\n#  count: 5\n"};
    struct target t;
    (void)state;
    for (size_t i = 0; i < sizeof empty / sizeof *empty; i++) {
        assert_ok(parse(empty[i], &t));
        assert_string_equal(t.name, "shop");
        assert_null(t.text);
        assert_string_equal(t.address, "127.0.0.1:0");
        assert_false(t.flag);
        assert_int_equal(t.count, 7);
        assert_int_equal(t.size, 16 << 20);
        assert_int_equal(t.wait, 30000);
        assert_int_equal(t.apps.count, 0);
        assert_int_equal(t.hosts.count, 2);
        assert_string_equal(t.hosts.items[1], "b");
        conf_free(keys, KEYS, &t);
        assert_null(t.name);
        conf_free(keys, KEYS, &t); /* twice is fine */
    }
}

static void everything(void **state) {
    struct target t;
    (void)state;
    assert_ok(parse("name: a_-Z9\n"
                    "text: 'null'\n"
                    "listen:\n  address: \"[::1]:65535\"\n  flag: true\n"
                    "log: {count: 4294967295, large: 18446744073709551615, segment_size: 1GiB, wait-time: 1h}\n"
                    "apps:\n  checkout:\n    role: app_role\n    pool: 3\n  plain: value\n"
                    "hosts: [x, 'y z', 0]\n"
                    "deep:\n  er:\n    still: '\xc3\xa9'\n",
                    &t));
    assert_string_equal(t.name, "a_-Z9");
    assert_string_equal(t.text, "null");
    assert_string_equal(t.address, "[::1]:65535");
    assert_true(t.flag);
    assert_int_equal(t.count, UINT32_MAX);
    assert_true(t.large == UINT64_MAX);
    assert_int_equal(t.size, 1 << 30);
    assert_int_equal(t.wait, 3600000);
    assert_int_equal(t.apps.count, 3);
    assert_string_equal(t.apps.pairs[0].key, "checkout.role");
    assert_string_equal(t.apps.pairs[0].value, "app_role");
    assert_int_equal(t.apps.pairs[0].line, 9);
    assert_string_equal(t.apps.pairs[1].key, "checkout.pool");
    assert_string_equal(t.apps.pairs[2].key, "plain");
    assert_int_equal(t.hosts.count, 3);
    assert_string_equal(t.hosts.items[1], "y z");
    assert_string_equal(t.inner, "\xc3\xa9");
    conf_free(keys, KEYS, &t);
}

static void edges(void **state) {
    static const struct {
        const char *text;
        uint64_t size, wait;
    } rows[] = {{"log: {segment_size: 65536, wait-time: 10ms}", 65536, 10},
                {"log: {segment_size: 64KiB, wait-time: 1s}", 65536, 1000},
                {"log: {segment_size: 1024MiB, wait-time: 60min}", 1 << 30, 3600000},
                {"log: {segment_size: 1073741824, wait-time: 3600s}", 1 << 30, 3600000}};
    struct target t;
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_ok(parse(rows[i].text, &t));
        assert_int_equal(t.size, rows[i].size);
        assert_int_equal(t.wait, rows[i].wait);
        conf_free(keys, KEYS, &t);
    }
}

static void mistakes(void **state) {
    static const struct {
        const char *text, *why;
    } rows[] = {
        {"nmae: x", "f.yaml:1: nmae: unknown key"},
        {"\nlog:\n  cuont: 5", "f.yaml:3: log.cuont: unknown key"},
        {"name: {a: b}", "f.yaml:1: name: must be a single value"},
        {"name: [a]", "f.yaml:1: name: must be a single value"},
        {"log: 5", "f.yaml:1: log: must be a mapping"},
        {"log: [a]", "f.yaml:1: log: must be a mapping"},
        {"log: ''", "f.yaml:1: log: must be a mapping"},
        {"just text", "f.yaml:1: top level: must be a mapping"},
        {"- a", "f.yaml:1: top level: must be a mapping"},
        {"name: a\nname: b", "f.yaml:2: top level: repeated key: `name`"},
        {"log:\n  count: 1\n  count: 2", "f.yaml:3: log: repeated key: `count`"},
        {"log:\n  count: 1\nlog:\n  large: 2", "f.yaml:3: top level: repeated key: `log`"},
        {"name:", "f.yaml:1: name: has no value"},
        {"name: ~", "f.yaml:1: name: has no value"},
        {"name: NULL", "f.yaml:1: name: has no value"},
        {"name: ''", "f.yaml:1: name: must be 1 to 8 letters, digits, '_' or '-': ``"},
        {"name: a.b", "f.yaml:1: name: must be 1 to 8 letters, digits, '_' or '-': `a.b`"},
        {"name: abcdefghi", "f.yaml:1: name: must be 1 to 8 letters, digits, '_' or '-': `abcdefghi`"},
        {"text: a", "f.yaml:1: text: is too short: `a`"},
        {"text: abcdef", "f.yaml:1: text: is too long: `abcdef`"},
        {"text: \"a\\0b\"", "f.yaml:1: text: holds a NUL byte"},
        {"listen: {flag: yes}", "f.yaml:1: listen.flag: must be true or false: `yes`"},
        {"listen: {flag: True}", "f.yaml:1: listen.flag: must be true or false: `True`"},
        {"listen: {flag: 1}", "f.yaml:1: listen.flag: must be true or false: `1`"},
        {"listen: {address: host}", "f.yaml:1: listen.address: must be host:port: `host`"},
        {"listen: {address: 'host:65536'}", "f.yaml:1: listen.address: must be host:port: `host:65536`"},
        {"log: {count: 0}", "f.yaml:1: log.count: must be at least 1: `0`"},
        {"log: {count: 010}", "f.yaml:1: log.count: must be a number: `010`"},
        {"log: {count: 0x10}", "f.yaml:1: log.count: must be a number: `0x10`"},
        {"log: {count: -1}", "f.yaml:1: log.count: must be a number: `-1`"},
        {"log: {count: +1}", "f.yaml:1: log.count: must be a number: `+1`"},
        {"log: {count: 1.0}", "f.yaml:1: log.count: must be a number: `1.0`"},
        {"log: {count: 5s}", "f.yaml:1: log.count: must be a number: `5s`"},
        {"log: {count: 1e3}", "f.yaml:1: log.count: must be a number: `1e3`"},
        {"log: {count: ' 1'}", "f.yaml:1: log.count: must be a number: ` 1`"},
        {"log: {count: 4294967296}", "f.yaml:1: log.count: must be a number: `4294967296`"},
        {"log: {large: 18446744073709551616}", "f.yaml:1: log.large: must be a number: `18446744073709551616`"},
        {"log: {segment_size: 65535}", "f.yaml:1: log.segment_size: must be 65536 to 1073741824 bytes: `65535`"},
        {"log: {segment_size: 1073741825}",
         "f.yaml:1: log.segment_size: must be 65536 to 1073741824 bytes: `1073741825`"},
        {"log: {segment_size: 16MB}",
         "f.yaml:1: log.segment_size: must be a number of bytes, with KiB, MiB or GiB if wanted: `16MB`"},
        {"log: {segment_size: 16 MiB}",
         "f.yaml:1: log.segment_size: must be a number of bytes, with KiB, MiB or GiB if wanted: `16 MiB`"},
        {"log: {segment_size: 18014398509481985KiB}", "f.yaml:1: log.segment_size: must be a number of bytes, with "
                                                      "KiB, MiB or GiB if wanted: `18014398509481985KiB`"},
        {"log: {wait-time: 30}", "f.yaml:1: log.wait-time: must be a number with ms, s, min or h: `30`"},
        {"log: {wait-time: 9ms}", "f.yaml:1: log.wait-time: must be 10 to 3600000 ms: `9ms`"},
        {"log: {wait-time: 61min}", "f.yaml:1: log.wait-time: must be 10 to 3600000 ms: `61min`"},
        {"log: {wait-time: 1m}", "f.yaml:1: log.wait-time: must be a number with ms, s, min or h: `1m`"},
        {"hosts: a", "f.yaml:1: hosts: must be a list"},
        {"hosts: [a, [b]]", "f.yaml:1: hosts: must be a single value"},
        {"hosts:\n- a\n- ''", "f.yaml:3: hosts: has an entry that is empty or not UTF-8: ``"},
        {"apps: [a]", "f.yaml:1: apps: must be a mapping"},
        {"apps: x", "f.yaml:1: apps: must be a mapping"},
        {"apps: {a: {b: {c: d}}}", "f.yaml:1: apps: must be a single value"},
        {"apps:\n  a: {b: c}\n  a: {b: d}", "f.yaml:3: apps: repeated key: `a.b`"},
        {"apps: {a b: c}", "f.yaml:1: apps: key must be letters, digits, '_', '-' or '/': `a b`"},
        {"apps: {? [x] : c}", "f.yaml:1: apps: must be a single value"},
        {"a.b: c", "f.yaml:1: top level: key must be letters, digits, '_', '-' or '/': `a.b`"},
        {"name: &x a\ntext: *x", "f.yaml:1: text: anchors and aliases are not supported"},
        {"apps: &x\n  a: *x", "f.yaml:1: apps: anchors and aliases are not supported"},
        {"name: !!int 5", "f.yaml:1: name: tags are not supported"},
        {"name: !mine x", "f.yaml:1: name: tags are not supported"},
        {"name: a\n---\nname: b", "f.yaml:3: top level: a second document"},
        {"name: [a", "f.yaml:2: not YAML: did not find expected ',' or ']'"},
        {"name: a\n\tb: c", "f.yaml:2: not YAML: found a tab character that violates indentation"},
        {"name: \xff", "f.yaml:1: not YAML: invalid leading UTF-8 octet"},
        {"*x", "f.yaml:1: not YAML: found undefined alias"},
    };
    struct target t, zero;
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        err.text[0] = '\0';
        enum ls_status status = parse(rows[i].text, &t);
        if (status != LS_ERR_CONFIG || strcmp(err.text, rows[i].why) != 0)
            fail_msg("%s\n  gave: %s\n  not:  %s", rows[i].text, err.text, rows[i].why);
        /* nothing to free, nothing left over */
        memset(&zero, 0, sizeof zero);
        assert_null(t.name);
        assert_null(t.address);
        assert_memory_equal(&t.apps, &zero.apps, sizeof t.apps);
        assert_memory_equal(&t.hosts, &zero.hosts, sizeof t.hosts);
    }
}

static void required(void **state) {
    static const struct conf_key one[] = {{"name", CONF_NAME, AT(name), NULL, true, 0, 8, "a name"}};
    struct target t;
    (void)state;
    assert_fails(conf_parse("", 0, "f.yaml", one, 1, &t, &err), LS_ERR_CONFIG, "f.yaml: name: is required");
    assert_ok(conf_parse("name: x", 7, "f.yaml", one, 1, &t, &err));
    conf_free(one, 1, &t);
}

/* A file on disk, and the environment above it. */
static void file_and_environment(void **state) {
    char file[] = "/tmp/lockstep-conf-XXXXXX";
    int fd = mkstemp(file);
    struct target t;
    char wanted[200];
    (void)state;
    assert_true(fd >= 0);
    assert_true(dprintf(fd, "name: fromfile\nlog:\n  count: 5\nhosts: [x]\napps: {a: b}\n") > 0);
    close(fd);
    assert_int_equal(setenv("LOCKSTEP_LOG_COUNT", "6", 1), 0);
    assert_int_equal(setenv("LOCKSTEP_LOG_WAIT_TIME", "11ms", 1), 0);
    assert_int_equal(setenv("LOCKSTEP_HOSTS", "p,q,r", 1), 0);
    assert_int_equal(setenv("LOCKSTEP_APPS", "checkout.role=x,pay.role=y=z", 1), 0);
    assert_ok(conf_load(file, keys, KEYS, &t, &err));
    assert_string_equal(t.name, "fromfile");
    assert_int_equal(t.count, 6);
    assert_int_equal(t.wait, 11);
    assert_int_equal(t.hosts.count, 3);
    assert_string_equal(t.hosts.items[2], "r");
    assert_int_equal(t.apps.count, 2);
    assert_string_equal(t.apps.pairs[1].key, "pay.role");
    assert_string_equal(t.apps.pairs[1].value, "y=z");
    conf_free(keys, KEYS, &t);
    assert_int_equal(setenv("LOCKSTEP_APPS", "checkout", 1), 0);
    assert_fails(conf_load(file, keys, KEYS, &t, &err), LS_ERR_CONFIG,
                 "LOCKSTEP_APPS: apps: must be a list of name=value, with commas between: `checkout`");
    assert_int_equal(unsetenv("LOCKSTEP_APPS"), 0);
    assert_int_equal(setenv("LOCKSTEP_LOG_COUNT", "six", 1), 0);
    assert_fails(conf_load(file, keys, KEYS, &t, &err), LS_ERR_CONFIG,
                 "LOCKSTEP_LOG_COUNT: log.count: must be a number: `six`");
    assert_int_equal(setenv("LOCKSTEP_LOG_COUNT", "", 1), 0);
    assert_fails(conf_load(NULL, keys, KEYS, &t, &err), LS_ERR_CONFIG,
                 "LOCKSTEP_LOG_COUNT: log.count: must be a number: ``");
    assert_int_equal(unsetenv("LOCKSTEP_LOG_COUNT"), 0);
    assert_int_equal(unsetenv("LOCKSTEP_LOG_WAIT_TIME"), 0);
    assert_int_equal(unsetenv("LOCKSTEP_HOSTS"), 0);
    assert_ok(conf_load(NULL, keys, KEYS, &t, &err));
    conf_free(keys, KEYS, &t);
    (void)unlink(file);
    (void)snprintf(wanted, sizeof wanted, "%s: cannot be opened: No such file or directory", file);
    assert_fails(conf_load(file, keys, KEYS, &t, &err), LS_ERR_CONFIG, wanted);
    assert_fails(conf_load("/tmp", keys, KEYS, &t, &err), LS_ERR_CONFIG, "/tmp: cannot be read: Is a directory");
}

/* The edges of size: entries of a list, bytes of a file, depth. */
static void large(void **state) {
    struct target t;
    char *text = malloc((1 << 20) + 16);
    (void)state;
    assert_non_null(text);
    for (int over = 0; over <= 1; over++) {
        size_t at = (size_t)sprintf(text, "hosts: [");
        for (int i = 0; i < 1000 + over; i++) at += (size_t)sprintf(text + at, "h%d,", i);
        (void)sprintf(text + at, "]");
        if (over) {
            assert_fails(parse(text, &t), LS_ERR_CONFIG, "f.yaml:1: hosts: has too many entries");
        } else {
            assert_ok(parse(text, &t));
            assert_int_equal(t.hosts.count, 1000);
            conf_free(keys, KEYS, &t);
        }
    }
    for (int over = 0; over <= 1; over++) {
        memset(text, '#', (1 << 20) + 1);
        text[(1 << 20) + over] = '\0';
        if (over) {
            assert_fails(parse(text, &t), LS_ERR_CONFIG, "f.yaml: larger than 1048576 bytes");
        } else {
            assert_ok(parse(text, &t));
            conf_free(keys, KEYS, &t);
        }
    }
    free(text);
}

/* The sample with its comment signs taken off is a file that loads and says the defaults. */
static void sample(void **state) {
    char *text = NULL;
    size_t length = 0;
    struct target t;
    FILE *out = open_memstream(&text, &length);
    (void)state;
    conf_print_sample(out, keys, KEYS);
    assert_int_equal(fclose(out), 0);
    assert_ok(parse(text, &t)); /* as it is: nothing but comments and empty sections */
    conf_free(keys, KEYS, &t);
    assert_non_null(strstr(text, "\nlog:\n  # how many\n  #count: 7\n"));
    assert_non_null(strstr(text, "  # how long\n  #wait-time: 30s\n"));
    assert_non_null(strstr(text, "# from where\n#hosts: [a,b]\n"));
    unsigned options = 0;
    for (char *line = text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        char *sign = line + strspn(line, " ");
        if (*sign != '#' || sign[1] == ' ') continue;
        options++;
        if (end[-1] == ':') continue;          /* no default: stays a comment */
        memmove(sign, sign + 1, strlen(sign)); /* its NUL too */
        end--;
    }
    assert_int_equal(options, KEYS);
    assert_ok(parse(text, &t));
    assert_string_equal(t.name, "shop");
    assert_int_equal(t.size, 16 << 20);
    assert_int_equal(t.wait, 30000);
    assert_int_equal(t.hosts.count, 2);
    conf_free(keys, KEYS, &t);
    free(text);
}

static void mutations(void **state) {
    static const char good[] =
        "name: a_-Z9\ntext: 'null'\nlisten:\n  address: \"[::1]:65535\"\n  flag: true\nlog: {count: 42, segment_size: "
        "1GiB, wait-time: 1h}\n"
        "apps:\n  checkout:\n    role: &r app_role\nhosts: [x, 'y z', 0]\ndeep:\n  er:\n    still: x\n";
    static const char bytes[] = "\n \t:-#{}[],&*!|>'\"%@`?~\\0a\xff\xc3";
    uint64_t seed = 99;
    unsigned taken = 0;
    struct target t;
    (void)state;
    for (int i = 0; i < 20000; i++) {
        char text[sizeof good];
        memcpy(text, good, sizeof good);
        size_t length = sizeof good - 1;
        for (uint64_t n = 1 + unit_random(&seed) % 3; n > 0; n--)
            text[unit_random(&seed) % length] = bytes[unit_random(&seed) % (sizeof bytes - 1)];
        if (unit_random(&seed) % 4 == 0) length = unit_random(&seed) % length;
        err.text[0] = '\0';
        enum ls_status status = conf_parse(text, length, "f.yaml", keys, KEYS, &t, &err);
        if (status == LS_OK) {
            taken++;
            conf_free(keys, KEYS, &t);
        } else {
            assert_int_equal(status, LS_ERR_CONFIG);
            assert_int_equal(strncmp(err.text, "f.yaml", 6), 0);
        }
    }
    assert_true(taken > 100);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults), cmocka_unit_test(everything), cmocka_unit_test(edges),
        cmocka_unit_test(mistakes), cmocka_unit_test(required),   cmocka_unit_test(file_and_environment),
        cmocka_unit_test(large),    cmocka_unit_test(sample),     cmocka_unit_test(mutations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
