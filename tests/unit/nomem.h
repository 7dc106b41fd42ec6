/*
 * nomem.h: lets the n-th allocation of a program fail, and counts what is never freed. Defines functions: included by
 * the one file of a test_*nomem.
 *
 * In an ordinary build it takes the place of malloc itself, so that allocations inside protobuf-c, jansson, libyaml and
 * the C library fail, too. Sanitizers own malloc: there the linker (--wrap, see Makefile) leads the calls of our own
 * code here, and leaks are theirs to find.
 *
 * What a short life of the code under test does is a function; nomem_each() runs it again and again, each time with
 * another allocation failing, in a child process of its own, because some answer with abort(): the engine and the
 * agent's core must not act on a half-made step (they die, and recovery reads the log). abort() is taken over, too, so
 * that this answer is told from a failed assertion.
 */
#ifndef LOCKSTEP_TESTS_NOMEM_H
#define LOCKSTEP_TESTS_NOMEM_H

#include "tests/unit/unit.h"

#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/dlog_disk.h"

static uint64_t nomem_fail_at, nomem_count; /* 0: none fails */
static int64_t nomem_live;
static bool nomem_on;
/* Set for what goes through a library that forgets memory when memory is short (libyaml 0.2.5 does; the program ends
 * then). Leaks of our own are left to LeakSanitizer: under it only our own allocations fail. */
static bool nomem_library_leaks;

static bool nomem_fails(void) {
    if (!nomem_on || ++nomem_count != nomem_fail_at) return false;
    errno = ENOMEM;
    return true;
}

#if TEST_STEP == 1u
#define NOMEM_NAME(name) name
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *memory, size_t size);
extern void __libc_free(void *memory);
#define NOMEM_REAL(name) __libc_##name
#else
#define NOMEM_NAME(name) __wrap_##name
#define NOMEM_REAL(name) __real_##name
extern void *__real_malloc(size_t size);
extern void *__real_calloc(size_t count, size_t size);
extern void *__real_realloc(void *memory, size_t size);
extern void __real_free(void *memory);
extern char *__real_strdup(const char *text);

char *__wrap_strdup(const char *text) {
    return nomem_fails() ? NULL : __real_strdup(text);
}
#endif

void *NOMEM_NAME(malloc)(size_t size) {
    void *memory = nomem_fails() ? NULL : NOMEM_REAL(malloc)(size);
    nomem_live += memory != NULL;
    return memory;
}
void *NOMEM_NAME(calloc)(size_t count, size_t size) {
    void *memory = nomem_fails() ? NULL : NOMEM_REAL(calloc)(count, size);
    nomem_live += memory != NULL;
    return memory;
}
void *NOMEM_NAME(realloc)(void *old, size_t size) {
    void *memory = nomem_fails() ? NULL : NOMEM_REAL(realloc)(old, size);
    nomem_live += memory != NULL && old == NULL;
    return memory;
}
void NOMEM_NAME(free)(void *memory) {
    nomem_live -= memory != NULL;
    NOMEM_REAL(free)(memory);
}

enum { NOMEM_DONE = 0, NOMEM_WRONG = 1, NOMEM_STOPPED = 3 };

extern void __gcov_dump(void) __attribute__((weak)); /* what a child has run counts for `make coverage`, too */

_Noreturn void NOMEM_NAME(abort)(void) {
    if (__gcov_dump != NULL) __gcov_dump();
    _exit(NOMEM_STOPPED);
}

#define nomem_check(condition)                                                                   \
    do {                                                                                         \
        if (!(condition)) {                                                                      \
            nomem_on = false;                                                                    \
            fprintf(stderr, "%s:%d: allocation %llu failed: not true: %s\n", __FILE__, __LINE__, \
                    (unsigned long long)nomem_fail_at, #condition);                              \
            _exit(NOMEM_WRONG);                                                                  \
        }                                                                                        \
    } while (0)

/* Only what the code under test allocates between these two counts. */
static inline void nomem_begin(void) {
    nomem_on = true;
}
static inline void nomem_end(void) {
    nomem_on = false;
}
static inline void nomem_switch(bool begins) {
    nomem_on = begins;
}

/* Blocks more than `before`. Under sanitizers LeakSanitizer looks when the child ends: there libraries' blocks are not
 * seen. */
static inline int64_t nomem_leaked(int64_t before) {
    return TEST_STEP == 1u ? nomem_live - before : 0;
}

/* One life in which allocation `at` fails; returns what became of it, in *ret_count how many allocations it reached. */
static inline int nomem_one(void (*life)(void), uint64_t at, uint64_t *ret_count) {
    int channel[2];
    assert_int_equal(pipe(channel), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        life(); /* once without a failure: what libraries allocate once and keep is no leak */
        nomem_count = 0;
        nomem_fail_at = at;
        int64_t before = nomem_live;
        life();
        nomem_check(nomem_leaked(before) == 0 || (nomem_library_leaks && at > 0));
        nomem_check(write(channel[1], &nomem_count, sizeof nomem_count) == sizeof nomem_count);
        exit(NOMEM_DONE); /* with LeakSanitizer's look, where there is one */
    }
    close(channel[1]);
    if (read(channel[0], ret_count, sizeof *ret_count) != sizeof *ret_count) *ret_count = at;
    close(channel[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!WIFEXITED(status))
        fail_msg("allocation %llu failed: killed by signal %d", (unsigned long long)at, WTERMSIG(status));
    return WEXITSTATUS(status);
}

/* Under sanitizers everything takes longer: only every so manieth fails then, all with DLOG_ALL=1. */
static inline uint64_t nomem_step(void) {
    uint64_t step = TEST_STEP;
    return getenv("DLOG_ALL") != NULL ? 1 : step;
}

/* Every allocation of the life fails once. *ret_stopped: how many of them ended in abort(). */
static inline void nomem_each(const char *what, void (*life)(void), uint64_t *ret_stopped) {
    uint64_t count, reached, stopped = 0;
    assert_int_equal(nomem_one(life, 0, &count), NOMEM_DONE);
    assert_true(count > 0);
    for (uint64_t at = 1; at <= count; at += nomem_step()) {
        int end = nomem_one(life, at, &reached);
        if (end != NOMEM_DONE && end != NOMEM_STOPPED)
            fail_msg("%s: allocation %llu of %llu", what, (unsigned long long)at, (unsigned long long)count);
        stopped += end == NOMEM_STOPPED;
    }
    printf("%s: %llu allocations, %llu of them end in a stop\n", what, (unsigned long long)count,
           (unsigned long long)stopped);
    *ret_stopped = stopped;
}

#endif
