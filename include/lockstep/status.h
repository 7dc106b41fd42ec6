/*
 * status.h: what a fallible call of lockstep returns.
 *
 * Every status has a class, and the class says what the caller may do:
 *   LS_CLASS_OK        it happened
 *   LS_CLASS_RETRY     it did not happen; the same call may succeed later
 *   LS_CLASS_FINAL     it did not happen and will not; the text names the offending value
 *   LS_CLASS_IN_DOUBT  nobody knows yet whether it happened; only a proof settles it
 *   LS_CLASS_BUG       lockstep itself is wrong; the process stops
 * A function returns `enum ls_status` and, where a text helps, fills a `struct ls_error` (never touched on success).
 */
#ifndef LOCKSTEP_STATUS_H
#define LOCKSTEP_STATUS_H

#define LS_MUST_CHECK __attribute__((warn_unused_result))
#define LS_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

enum ls_class { LS_CLASS_OK = 0, LS_CLASS_RETRY, LS_CLASS_FINAL, LS_CLASS_IN_DOUBT, LS_CLASS_BUG };

/* name, class, text */
#define LS_STATUS_LIST(X)                                                    \
    X(LS_OK, LS_CLASS_OK, "ok")                                              \
    X(LS_ERR_NOMEM, LS_CLASS_RETRY, "out of memory")                         \
    X(LS_ERR_BUSY, LS_CLASS_RETRY, "busy")                                   \
    X(LS_ERR_UNREACHABLE, LS_CLASS_RETRY, "unreachable")                     \
    X(LS_ERR_TIMEOUT, LS_CLASS_RETRY, "timed out")                           \
    X(LS_ERR_FULL, LS_CLASS_RETRY, "no space")                               \
    X(LS_ERR_INVALID, LS_CLASS_FINAL, "invalid value")                       \
    X(LS_ERR_TOO_LARGE, LS_CLASS_FINAL, "too large")                         \
    X(LS_ERR_NOT_FOUND, LS_CLASS_FINAL, "not found")                         \
    X(LS_ERR_EXISTS, LS_CLASS_FINAL, "exists already")                       \
    X(LS_ERR_DENIED, LS_CLASS_FINAL, "not allowed")                          \
    X(LS_ERR_MISMATCH, LS_CLASS_FINAL, "does not match")                     \
    X(LS_ERR_CONFIG, LS_CLASS_FINAL, "configuration")                        \
    X(LS_ERR_PROTOCOL, LS_CLASS_FINAL, "protocol violated")                  \
    X(LS_ERR_CORRUPT, LS_CLASS_FINAL, "log is corrupt")                      \
    X(LS_ERR_FENCED, LS_CLASS_FINAL, "refused by a fence")                   \
    X(LS_ERR_ABORTED, LS_CLASS_FINAL, "aborted")                             \
    X(LS_ERR_IO, LS_CLASS_FINAL, "input/output error")                       \
    X(LS_ERR_UNKNOWN_OUTCOME, LS_CLASS_IN_DOUBT, "outcome not known yet")    \
    X(LS_ERR_HAZARD, LS_CLASS_IN_DOUBT, "a branch was broken from outside")  \
    X(LS_ERR_BUG, LS_CLASS_BUG, "internal error")

enum ls_status {
#define X(name, class_, text) name,
    LS_STATUS_LIST(X)
#undef X
        LS_STATUS_COUNT
};

#define LS_ERROR_TEXT_MAX 512
struct ls_error {
    enum ls_status status;
    char text[LS_ERROR_TEXT_MAX]; /* one line, no period, names the offending value */
};

/* The class of a status. */
enum ls_class ls_status_class(enum ls_status status);
/* A constant text for a status; never NULL. */
const char *ls_status_text(enum ls_status status);
/* The enumerator's own name ("LS_ERR_BUSY"), for logs and tests. */
const char *ls_status_name(enum ls_status status);
/* Fills `err` (which may be NULL) and returns `status`, so that `return ls_fail(...)` reads as one line. */
enum ls_status ls_fail(struct ls_error *err, enum ls_status status, const char *fmt, ...) LS_PRINTF(3, 4);
/* What static analyzers cannot see from the declaration: the result is the status that was passed, never LS_OK. */
#if defined(__clang_analyzer__) || defined(LS_ANALYZER)
#define ls_fail(err, status, ...) (ls_fail((err), (status), __VA_ARGS__), (status))
#endif

/* Exit statuses of the programs (design: section 4). */
enum ls_exit {
    LS_EXIT_OK = 0,
    LS_EXIT_ERROR = 1,
    LS_EXIT_USAGE = 2,
    LS_EXIT_UNREACHABLE = 3,
    LS_EXIT_ABORTED = 4,
    LS_EXIT_UNKNOWN = 5,
    LS_EXIT_ORPHANS = 6,
    LS_EXIT_HAZARD = 7,
    LS_EXIT_IO = 74,    /* a failed or doubtful fsync of the decision log (EX_IOERR) */
    LS_EXIT_CONFIG = 78 /* configuration, or a coordinator whose log an agent refuses (EX_CONFIG) */
};

#endif
