/*
 * out.h: writes JSON text into one growing buffer, commas and escapes included. Pure but for memory.
 *
 * A failed allocation is sticky (`failed`) and looked at once, when the text is used.
 */
#ifndef LOCKSTEP_API_OUT_H
#define LOCKSTEP_API_OUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct out {
    char *data;
    size_t length, capacity;
    bool comma; /* something stands before in this object or array */
    bool failed;
};

/* Empties the text, keeps the memory. */
void out_reset(struct out *out);
void out_free(struct out *out);
/* `key` is NULL inside arrays and for the outermost value; it is written as it is (constants only). */
void out_open(struct out *out, const char *key, char bracket);
void out_close(struct out *out, char bracket);
/* value NULL: null. Bytes that are not UTF-8 become '?'. */
void out_string(struct out *out, const char *key, const char *value);
void out_u64(struct out *out, const char *key, uint64_t value);
void out_bool(struct out *out, const char *key, bool value);
/* JSON text as it is. */
void out_json(struct out *out, const char *key, const char *json, size_t length);

#endif
