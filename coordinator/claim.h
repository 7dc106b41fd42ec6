/*
 * claim.h: what every opener of the decision log does before acting on it: a new epoch, and copies of what nothing
 * proves to be on the disk, both durable (hazards D2). Used by the daemon's start and by accept.c.
 */
#ifndef LOCKSTEP_CLAIM_H
#define LOCKSTEP_CLAIM_H

#include <stdint.h>

#include "coordinator/dlog/dlog.h"
#include "lockstep/status.h"

/* Appends LogEpoch (last epoch + 1) and dlog_relog(), and writes until everything is durable. The writer thread must
 * not run yet. */
enum ls_status claim_log(struct dlog *log, const char *coordinator, uint64_t unix_ms, uint32_t *ret_epoch,
                         struct ls_error *err) LS_MUST_CHECK;
/* dlog_write() until nothing is dirty. */
enum ls_status claim_write_all(struct dlog *log, struct ls_error *err) LS_MUST_CHECK;
/* Milliseconds of the wall clock: for display, and for what a restart leaves of a saga's deadline. */
uint64_t claim_unix_ms(void);

#endif
