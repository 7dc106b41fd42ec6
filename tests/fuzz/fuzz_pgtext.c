/*
 * fuzz_pgtext.c: numbers as PostgreSQL writes them, on which proofs rest. One per line: an unsigned number, an LSN, the
 * name of a WAL file, two transaction ids; the rest is a timeline history.
 */
#include "tests/fuzz/fuzz.h"

#include <errno.h>
#include <inttypes.h>

#include "participant/pg/xid.h"

static uint64_t number(const char *text) {
    uint64_t value = UINT64_MAX;
    bool taken = pg_parse_u64(text, &value);
    errno = 0;
    char *end;
    unsigned long long expected = strtoull(text, &end, 10);
    bool plain = text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0;
    REQUIRE(taken == plain && (!taken || value == expected));
    return value;
}

static void lsn(const char *text) {
    uint64_t value, again;
    char printed[24];
    if (!pg_parse_lsn(text, &value)) return;
    snprintf(printed, sizeof printed, "%" PRIX64 "/%" PRIX64, value >> 32, value & UINT32_MAX);
    REQUIRE(pg_parse_lsn(printed, &again) && again == value);
    REQUIRE(strlen(text) <= 17 && strlen(text) >= strlen(printed));
}

static void walfile(const char *text) {
    uint32_t timeline;
    char printed[12];
    if (!pg_parse_walfile(text, &timeline)) return;
    snprintf(printed, sizeof printed, "%08" PRIX32, timeline);
    REQUIRE(timeline != 0 && strlen(text) == 24 && strncmp(text, printed, 8) == 0);
}

static void full(uint32_t xid, uint64_t xmax) {
    uint64_t value = pg_full_xid(xid, xmax);
    if (value == 0) return;
    uint64_t distance = value > xmax ? value - xmax : xmax - value;
    REQUIRE((uint32_t)value == xid);
    REQUIRE(distance <= (uint64_t)1 << 31 || xmax > UINT64_MAX - ((uint64_t)1 << 32));
}

static void history(const char *text) {
    struct agent_switch list[AGENT_HISTORY_MAX];
    uint32_t count = UINT32_MAX;
    if (!pg_parse_history(text, list, AGENT_HISTORY_MAX, &count)) return;
    REQUIRE(count <= AGENT_HISTORY_MAX);
    for (uint32_t i = 0; i < count; i++) REQUIRE(list[i].timeline > (i == 0 ? 0 : list[i - 1].timeline));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *lines[5];
    for (int i = 0; i < 5; i++) lines[i] = fuzz_line(&data, &size);
    char *rest = fuzz_text(data, size);
    (void)number(lines[0]);
    lsn(lines[1]);
    walfile(lines[2]);
    full((uint32_t)number(lines[3]), number(lines[4]));
    history(rest);
    for (int i = 0; i < 5; i++) free(lines[i]);
    free(rest);
    return 0;
}
