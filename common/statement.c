/*
 * statement.c: the list of words that may begin a statement (design 2.6). Whatever is not in it is refused: a word that
 * a later PostgreSQL learns must be thought about before it may stand in a branch.
 *
 * What this check cannot see (a function that calls set_config('role', ...), for instance) is found by the agent's
 * marker and guards. A second statement behind a semicolon is refused by the server: the extended protocol takes one
 * statement at a time.
 */
#include "common/statement.h"

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

enum rule {
    ALLOWED,
    CHANGES, /* allowed, and takes a lock on its table that writers take */
    ALLOWED_BEFORE, /* only when one of the words in `next` follows (WORK and TRANSACTION between them are skipped) */
    REFUSED
};

static const struct word {
    const char *word;
    enum rule rule;
    const char *next; /* ALLOWED_BEFORE: that word */
    const char *why;  /* REFUSED, or ALLOWED_BEFORE something else */
} words[] = {
    {"select", ALLOWED, 0, 0},
    {"insert", CHANGES, 0, 0},
    {"update", CHANGES, 0, 0},
    {"delete", CHANGES, 0, 0},
    {"merge", CHANGES, 0, 0},
    {"with", ALLOWED, 0, 0},
    {"values", ALLOWED, 0, 0},
    {"table", ALLOWED, 0, 0},
    {"call", ALLOWED, 0, 0}, /* inside a transaction block a procedure cannot commit */
    {"do", ALLOWED, 0, 0},   /* nor can this */
    {"lock", ALLOWED, 0, 0},
    {"explain", ALLOWED, 0, 0},
    {"show", ALLOWED, 0, 0},
    {"notify", ALLOWED, 0, 0}, /* cannot be prepared: a vote NO; fine with one participant */
    {"savepoint", ALLOWED, 0, 0},
    {"release", ALLOWED, 0, 0},
    {"rollback", ALLOWED_BEFORE, "to", "it would end the transaction"},
    {"set", ALLOWED_BEFORE, "constraints", "settings belong to the session; use select set_config(name, value, true)"},
    /* definitions: transactional in PostgreSQL */
    {"create", ALLOWED, 0, 0},
    {"alter", ALLOWED, 0, 0},
    {"drop", ALLOWED, 0, 0},
    {"truncate", ALLOWED, 0, 0},
    {"comment", ALLOWED, 0, 0},
    {"grant", ALLOWED, 0, 0},
    {"revoke", ALLOWED, 0, 0},
    {"refresh", ALLOWED, 0, 0},
    /* known and refused, with the reason */
    {"begin", REFUSED, 0, "the transaction is begun by lockstep"},
    {"start", REFUSED, 0, "the transaction is begun by lockstep"},
    {"commit", REFUSED, 0, "it would end the transaction"},
    {"end", REFUSED, 0, "it would end the transaction"},
    {"abort", REFUSED, 0, "it would end the transaction"},
    {"prepare", REFUSED, 0, "it would end the transaction or outlive it in the session"},
    {"execute", REFUSED, 0, "prepared statements belong to the session"},
    {"deallocate", REFUSED, 0, "prepared statements belong to the session"},
    {"reset", REFUSED, 0, "settings belong to the session"},
    {"discard", REFUSED, 0, "it would discard the session's state"},
    {"copy", REFUSED, 0, "it needs a protocol of its own"},
    {"listen", REFUSED, 0, "it belongs to the session"},
    {"unlisten", REFUSED, 0, "it belongs to the session"},
    {"declare", REFUSED, 0, "cursors belong to the session"},
    {"fetch", REFUSED, 0, "cursors belong to the session"},
    {"move", REFUSED, 0, "cursors belong to the session"},
    {"close", REFUSED, 0, "cursors belong to the session"},
    {"load", REFUSED, 0, "it changes the server process"},
    {"vacuum", REFUSED, 0, "it cannot run inside a transaction"},
    {"checkpoint", REFUSED, 0, "it is no part of a transaction"},
};

struct scan {
    const char *at, *end;
    bool parentheses; /* may be skipped: "(select ...) union ..." */
};

/* Skips white space and comments (which nest in PostgreSQL). False for a comment that does not end. */
static bool skip_blank(struct scan *scan) {
    while (scan->at < scan->end) {
        size_t left = (size_t)(scan->end - scan->at);
        if (strchr(" \t\n\r\f\v", *scan->at) || (scan->parentheses && *scan->at == '(')) {
            scan->at++;
        } else if (left >= 2 && memcmp(scan->at, "--", 2) == 0) {
            while (scan->at < scan->end && *scan->at != '\n' && *scan->at != '\r') scan->at++;
        } else if (left >= 2 && memcmp(scan->at, "/*", 2) == 0) {
            size_t depth = 0;
            do {
                left = (size_t)(scan->end - scan->at);
                if (left < 2) return false;
                if (memcmp(scan->at, "/*", 2) == 0) {
                    depth++;
                    scan->at += 2;
                } else if (memcmp(scan->at, "*/", 2) == 0) {
                    depth--;
                    scan->at += 2;
                } else {
                    scan->at++;
                }
            } while (depth > 0);
        } else {
            return true;
        }
    }
    return true;
}

/* The identifier at the scan's position, as the server's lexer would take it; empty for anything else. */
static size_t take_word(struct scan *scan, const char **ret_word) {
    const char *begin = scan->at;
    while (scan->at < scan->end) {
        char c = *scan->at;
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || ((uint8_t)c & 0x80) != 0;
        bool later = (c >= '0' && c <= '9') || c == '$';
        if (!letter && !(later && scan->at > begin)) break;
        scan->at++;
    }
    *ret_word = begin;
    return (size_t)(scan->at - begin);
}

static bool word_is(const char *word, size_t length, const char *expected) {
    return strlen(expected) == length && strncasecmp(word, expected, length) == 0;
}

/* True when `next` follows, with WORK or TRANSACTION between allowed: ROLLBACK WORK TO SAVEPOINT a. */
static bool followed_by(struct scan *scan, const char *next) {
    const char *word;
    scan->parentheses = false;
    for (int i = 0; i < 2; i++) {
        if (!skip_blank(scan)) return false;
        size_t length = take_word(scan, &word);
        if (word_is(word, length, next)) return true;
        if (!word_is(word, length, "work") && !word_is(word, length, "transaction")) return false;
    }
    return false;
}

/* Enough of a word to be recognised in an error text. */
#define SHOWN_MAX 32

enum ls_status statement_check(const char *sql, size_t length, struct ls_error *err) {
    struct scan scan = {.at = sql, .end = sql + length, .parentheses = true};
    const char *word;
    if (memchr(sql, '\0', length)) return ls_fail(err, LS_ERR_INVALID, "statement holds a NUL byte");
    if (!skip_blank(&scan)) return ls_fail(err, LS_ERR_INVALID, "statement has a comment that does not end");
    if (scan.at == scan.end) return ls_fail(err, LS_ERR_INVALID, "statement is empty");
    size_t n = take_word(&scan, &word);
    if (n == 0) return ls_fail(err, LS_ERR_INVALID, "statement does not begin with a word");
    int shown = (int)(n < SHOWN_MAX ? n : SHOWN_MAX);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        const struct word *w = &words[i];
        if (!word_is(word, n, w->word)) continue;
        if (w->rule == ALLOWED || w->rule == CHANGES) return LS_OK;
        if (w->rule == ALLOWED_BEFORE && followed_by(&scan, w->next)) return LS_OK;
        return ls_fail(err, LS_ERR_INVALID, "statement begins with `%.*s`, which may not stand in a transaction: %s",
                       shown, word, w->why);
    }
    return ls_fail(err, LS_ERR_INVALID, "statement begins with `%.*s`, which is not one of the words allowed", shown,
                   word);
}

bool statement_changes_rows(const char *sql, size_t length) {
    struct scan scan = {.at = sql, .end = sql + length, .parentheses = false};
    const char *word;
    if (!skip_blank(&scan)) return false;
    size_t n = take_word(&scan, &word);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (words[i].rule == CHANGES && word_is(word, n, words[i].word)) return true;
    return false;
}
