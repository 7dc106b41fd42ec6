/*
 * flows.c: GET /v1/flows: the newest choreographed sagas. Nobody holds their state: each participant says what it has
 * of them, and what is open there; here it is put together by their names.
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "coordinator/api/internal.h"

static json_int_t number(const json_t *flow, const char *name) {
    return json_integer_value(json_object_get(flow, name));
}

static void add(json_t *flow, const json_t *part, const char *name) {
    (void)json_object_set_new(flow, name, json_integer(number(flow, name) + number(part, name)));
}

void flows_add(json_t *flows, const char *participant, const json_t *list) {
    static const char *const counts[] = {"events", "on_its_way", "waiting", "later", "dead"};
    const json_t *part;
    size_t index;
    json_array_foreach(list, index, part) {
        const char *name = json_string_value(json_object_get(part, "flow"));
        json_t *flow = json_object_get(flows, name == NULL ? "" : name);
        if (flow == NULL && name != NULL) {
            flow = json_pack("{s:s, s:n}", "flow", name, "began_at");
            (void)json_object_set_new(flows, name, flow);
        }
        for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
            add(flow, part, counts[i]);
        }
        json_int_t first = number(part, "first_unix_ms"), known = number(flow, "first_unix_ms");
        if (first > 0 && (known == 0 || first < known)) {
            (void)json_object_set_new(flow, "first_unix_ms", json_integer(first));
            (void)json_object_set_new(flow, "began_at", json_string(participant));
        }
        if (number(part, "last_unix_ms") > number(flow, "last_unix_ms")) {
            (void)json_object_set_new(flow, "last_unix_ms", json_integer(number(part, "last_unix_ms")));
        }
    }
}

static int newest_first(const void *a, const void *b) {
    json_int_t x = number(*(json_t *const *)a, "last_unix_ms"), y = number(*(json_t *const *)b, "last_unix_ms");
    return x < y ? 1 : x > y ? -1 : 0;
}

/* stuck: a human must look; running: something of it is on its way, waits for another try or for its time. */
static const char *state_of(const json_t *flow) {
    if (number(flow, "dead") > 0) {
        return "stuck";
    }
    return number(flow, "on_its_way") + number(flow, "waiting") + number(flow, "later") > 0 ? "running" : "ended";
}

void flows_write(struct out *out, json_t *flows, uint32_t limit) {
    size_t count = 0;
    json_t **sorted = memory_new(json_object_size(flows) * sizeof *sorted), *flow;
    const char *name;
    json_object_foreach(flows, name, flow) {
        sorted[count++] = flow;
    }
    qsort(sorted, count, sizeof *sorted, newest_first);
    for (size_t i = 0; i < count && i < limit; i++) {
        (void)json_object_set_new(sorted[i], "state", json_string(state_of(sorted[i])));
        char *text = json_dumps(sorted[i], JSON_COMPACT);
        if (text != NULL) {
            out_json(out, NULL, text, strlen(text));
        }
        free(text);
    }
    free(sorted);
}
