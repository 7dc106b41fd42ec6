/*
 * fuzz_conf.c: configuration files of both daemons. The first byte says whose. What is taken lies inside the bounds of
 * its key; what is refused says where.
 */
#include "tests/fuzz/fuzz.h"

#include "coordinator/conf.h"
#include "lockstep/ids.h"
#include "participant/conf.h"

static void check_numbers(const struct conf_key *keys, size_t count, const void *target) {
    for (size_t i = 0; i < count; i++) {
        const char *at = (const char *)target + keys[i].offset;
        uint64_t value;
        uint32_t small;
        if (keys[i].type == CONF_U32) {
            memcpy(&small, at, sizeof small);
            value = small;
        } else if (keys[i].type == CONF_U64 || keys[i].type == CONF_BYTES || keys[i].type == CONF_MS) {
            memcpy(&value, at, sizeof value);
        } else {
            continue;
        }
        REQUIRE(value >= keys[i].min && value <= keys[i].max);
    }
}

static void refused(enum ls_status status, const struct ls_error *err) {
    fuzz_refused(status, err);
    REQUIRE(status == LS_ERR_CONFIG && strncmp(err->text, "fuzz:", 5) == 0);
}

static void coordinator(const char *text, size_t size) {
    struct coordinator_conf conf;
    struct ls_error err = {0};
    enum ls_status status = coordinator_conf_parse(text, size, "fuzz", &conf, &err);
    if (status != LS_OK) {
        refused(status, &err);
        return;
    }
    check_numbers(coordinator_conf_keys, coordinator_conf_key_count, &conf);
    REQUIRE(ls_name_valid(conf.name, LS_COORDINATOR_MAX) && conf.data[0] != '\0' && conf.api_socket[0] != '\0');
    coordinator_conf_free(&conf);
}

static void agent(const char *text, size_t size) {
    struct agent_conf conf;
    struct ls_error err = {0};
    enum ls_status status = agent_conf_parse(text, size, "fuzz", &conf, &err);
    if (status != LS_OK) {
        refused(status, &err);
        return;
    }
    check_numbers(agent_conf_keys, agent_conf_key_count, &conf);
    REQUIRE(ls_name_valid(conf.name, LS_PARTICIPANT_MAX) && conf.target.user != NULL);
    REQUIRE(conf.database_role_count >= 1 && conf.database_role_count <= conf.roles.count);
    for (size_t i = 0; i < conf.roles.count; i++)
        REQUIRE(agent_conf_role(&conf, conf.roles.pairs[i].key) == conf.roles.pairs[i].value);
    agent_conf_free(&conf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    char *text = fuzz_text(data + 1, size - 1);
    (data[0] % 2 == 0 ? coordinator : agent)(text, size - 1);
    free(text);
    return 0;
}
