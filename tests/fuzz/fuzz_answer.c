/*
 * fuzz_answer.c: a coordinator's answer as the client library reads it. Two bytes choose call and HTTP status, the rest
 * is the body. The one rule that must not break: no run is called aborted, or not begun, unless the answer says so in
 * so many words.
 */
#include "tests/fuzz/fuzz.h"

#include "client/lockstep_internal.h"

static void printable(const char *text, size_t max) {
    REQUIRE(strlen(text) < max);
    for (; *text != '\0'; text++) REQUIRE((unsigned char)*text >= 0x20 && *text != 0x7f);
}

static void read_answer(enum lockstep_op op, int http_status, const char *body, size_t size) {
    struct lockstep_result result = {0};
    enum lockstep_judgement judgement = lockstep_answer_read(op, http_status, body, size, &result);
    printable(result.gtid, sizeof result.gtid);
    printable(result.sqlstate, sizeof result.sqlstate);
    printable(result.participant, sizeof result.participant);
    printable(result.reason, sizeof result.reason);
    if (op == LOCKSTEP_OP_RUN) {
        bool aborted = result.outcome == LOCKSTEP_ABORTED, committed = result.outcome == LOCKSTEP_COMMITTED;
        REQUIRE(!aborted || (http_status == 409 && memmem(body, size, "state", 5) != NULL));
        REQUIRE(!committed || (http_status == 200 && memmem(body, size, "state", 5) != NULL));
        REQUIRE(http_status < 500 || (judgement != LOCKSTEP_SETTLED && judgement != LOCKSTEP_FOLLOW));
        REQUIRE(http_status < 500 || judgement != LOCKSTEP_TRY_LATER || memmem(body, size, "begun", 5) != NULL);
        REQUIRE(judgement != LOCKSTEP_AMBIGUOUS || result.status == LOCKSTEP_UNKNOWN);
    }
    if (result.status != LOCKSTEP_OK) REQUIRE(result.reason[0] != '\0');
}

static void read_url(const char *text) {
    struct lockstep_url url;
    char error[LOCKSTEP_TEXT_MAX] = "";
    if (lockstep_url_parse(text, &url, error) == LOCKSTEP_OK) {
        REQUIRE(url.local ? url.path[0] == '/' : strncmp(url.base, "https://", 8) == 0);
        REQUIRE(strlen(url.base) < sizeof url.base && url.base[strlen(url.base) - 1] != '/');
    } else {
        REQUIRE(error[0] != '\0');
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const int statuses[] = {200, 202, 400, 401, 403, 404, 408, 409, 413, 415,
                                   422, 429, 500, 502, 503, 504, 100, 302, 599, 0};
    if (size < 2) return 0;
    enum lockstep_op op = (enum lockstep_op)(data[0] % (LOCKSTEP_OP_ABORT + 1));
    int http_status = statuses[data[1] % (sizeof statuses / sizeof *statuses)];
    char *text = fuzz_text(data + 2, size - 2);
    read_answer(op, http_status, text, size - 2);
    read_url(text);
    (void)lockstep_key_valid(text);
    (void)lockstep_gtid_plausible(text);
    free(text);
    return 0;
}
