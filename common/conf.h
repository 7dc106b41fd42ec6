/*
 * conf.h: configuration from a YAML file: libyaml's document tree and a table-driven walker, so that every error has
 * file, line and key. Each program has one table of keys. An environment variable overrides each key: LOCKSTEP_<KEY
 * WITH _ FOR . AND -, UPPER CASE>.
 */
#ifndef LOCKSTEP_CONF_H
#define LOCKSTEP_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "lockstep/status.h"

enum conf_type {
    CONF_STRING, /* char *; heap, owned by the target struct */
    CONF_NAME,   /* char *: letters, digits, '_', '-', at most max bytes */
    CONF_BOOL,   /* bool: true or false, nothing else */
    CONF_U32,    /* uint32_t, decimal digits, min..max */
    CONF_U64,
    CONF_BYTES,        /* uint64_t: digits with optional KiB, MiB, GiB */
    CONF_MS,           /* uint64_t milliseconds: digits with ms, s, min or h; the unit is required */
    CONF_PORT_ADDRESS, /* char *: host:port, port 0..65535 */
    CONF_MAP,          /* struct conf_map: free keys with string or map values (apps:, roles:) */
    CONF_LIST          /* struct conf_list of strings */
};

struct conf_pair {
    char *key;
    char *value;
    unsigned line;
};
/* A map one or two levels deep is flattened: `apps: {checkout: {role: x}}` gives "checkout.role" -> "x". */
struct conf_map {
    struct conf_pair *pairs;
    size_t count;
};
struct conf_list {
    char **items;
    size_t count;
};

struct conf_key {
    const char *path; /* "log.segment_size" */
    enum conf_type type;
    size_t offset;            /* in the target struct */
    const char *default_text; /* parsed like a value; NULL: zero or NULL */
    bool required;
    uint64_t min, max; /* numbers, bytes, ms; length bound for strings (max 0: none) */
    const char *help;  /* one line, for --help-config */
};

/* Defaults, then the file, then the environment. Unknown key, repeated key, wrong type, out of range: LS_ERR_CONFIG
 * with "file:line: key: what is wrong with `value`". `file` NULL: defaults and environment only. */
enum ls_status conf_load(const char *file, const struct conf_key *keys, size_t count, void *target,
                         struct ls_error *err) LS_MUST_CHECK;
/* Parses from memory (tests, fuzzing); `name` stands for the file in errors; no environment. */
enum ls_status conf_parse(const char *text, size_t length, const char *name, const struct conf_key *keys, size_t count,
                          void *target, struct ls_error *err) LS_MUST_CHECK;
/* Frees every string, map and list of the target. */
void conf_free(const struct conf_key *keys, size_t count, void *target);
/* A sample file with every key commented out, its default and its help. */
void conf_print_sample(FILE *out, const struct conf_key *keys, size_t count);

#endif
