/*
 * failpoint.h: named crash points in the shipped code.
 *
 * Each name stands in common/failpoints.def with one sentence: what is true there. They do nothing unless the
 * configuration says `faults: enabled` and LOCKSTEP_FAIL=name=action[@count][,...] is set (with LOCKSTEP_FAIL set and
 * faults not enabled the program refuses to start, 78). Actions: kill (SIGKILL to itself), stop (SIGSTOP), error (the
 * call site fails), delay:MS.
 * @count: act at the count-th passing (default 1), once.
 */
#ifndef LOCKSTEP_FAILPOINT_H
#define LOCKSTEP_FAILPOINT_H

#include <stdbool.h>
#include <stdio.h>

#include "lockstep/status.h"

enum failpoint {
#define FAILPOINT(id, program, what) FP_##id,
#include "common/failpoints.def"
#undef FAILPOINT
    FP_COUNT
};

/* Reads LOCKSTEP_FAIL. LS_ERR_CONFIG: unknown name or action, or set while `enabled` is false. */
enum ls_status failpoint_setup(bool enabled, struct ls_error *err) LS_MUST_CHECK;
/* Passes the point; true: the call site must fail here. */
bool failpoint_hit(enum failpoint point);
/* All names with their sentence, of one program or (NULL) of all: for `lockstepd --list-failpoints`, `lockstep-agent
 * --list-failpoints`. */
void failpoint_list(FILE *out, const char *program);

#endif
