/*
 * accept.h: an operator's word that a log was lost for good, for `lockstep participants accept`.
 *
 * An agent that has seen a decision log of another incarnation refuses the coordinator (78). When that log is gone, the
 * new one is told so, participant by participant: an audit record, durable before the daemon starts again, and from
 * then on Welcome carries the lost incarnation to that participant. Branches of the lost incarnation are never answered
 * by presumption; they stay prepared until a human ends them.
 */
#ifndef LOCKSTEP_ACCEPT_H
#define LOCKSTEP_ACCEPT_H

#include "lockstep/status.h"

struct accept_request {
    const char *data_dir; /* of the coordinator, which must not be running */
    const char *participant;
    const char *incarnation; /* the lost one */
    const char *who;         /* operator, for the audit */
    const char *reason;
};

/*
 * Takes the data directory's lock, opens the log as a start does, appends the record and makes it durable.
 * LS_ERR_EXISTS: the daemon is running. LS_ERR_INVALID: a name, incarnation or reason that cannot be. LS_ERR_MISMATCH:
 * the incarnation is the present one; a restored copy of a log cannot be accepted, since it would hand out again the
 * names that its lost future has used. LS_ERR_CORRUPT, LS_ERR_IO and LS_ERR_FULL as from the log.
 */
enum ls_status accept_lost_log(const struct accept_request *request, struct ls_error *err) LS_MUST_CHECK;

#endif
