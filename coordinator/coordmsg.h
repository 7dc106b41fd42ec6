/*
 * coordmsg.h: frames of agents become events of the engine, its effects become frames and log records. Pure: the daemon
 * (agents.c, host.c) and the simulator run the same code. Everything built borrows the memory it was built from.
 */
#ifndef LOCKSTEP_COORDMSG_H
#define LOCKSTEP_COORDMSG_H

#include "coordinator/core/engine.h"
#include "coordinator/dlog/dlog.h"
#include "coordinator/registry.h"
#include "lockstep.pb-c.h"

/* ---- frames become events */

/* False: this Hello must be refused, `reason` says why. The certificate is the host's to judge. */
bool coordmsg_hello_is_for(const Lockstep__Hello *hello, const char *coordinator, char reason[LS_REASON_MAX + 1]);
/* An agent that was away for longer than the log's window remembers a position that the log no longer reaches. Nobody
 * can prove that it is the same log, and nobody can say that it is not: no reason to stop everything (78), and none to
 * serve it. False: that is so. */
bool coordmsg_within_window(const Lockstep__Fence *remembered, const char *incarnation, uint32_t epoch,
                            uint64_t oldest_position);
/* Our own checksum at the position that the agent remembers; the agent compares, not we. *ret_there false: there is
 * none. Not LS_OK: the log could not be read. That says nothing about what it holds: the agent must not be told "there
 * is none", it would take the log for a stale one. */
enum ls_status coordmsg_chain_at(const Lockstep__Fence *remembered, struct dlog *log, uint32_t epoch, bool *ret_there,
                                 uint64_t *ret_chain) LS_MUST_CHECK;
/* Is this another history than the one on which the log last proved its decisions? */
bool coordmsg_history_changed(const struct registry_participant *known, const Lockstep__Hello *hello);

/* Everything but what a Vote EXISTS says about the earlier transaction. */
void coordmsg_read_vote(const Lockstep__Vote *vote, uint32_t participant, uint64_t link, const struct ls_gtid *gtid,
                        struct engine_event *event);
/* Everything but the application. */
void coordmsg_read_done(const Lockstep__Done *done, uint32_t participant, uint64_t link, const struct ls_gtid *gtid,
                        struct engine_event *event);
/* Everything but what the log keeps of it. */
void coordmsg_read_inquiry(const Lockstep__InquiryItem *item, const struct registry_participant *participant,
                           uint64_t link, bool history_changed, const struct ls_gtid *gtid, struct engine_event *event);
/* What lives is answered from memory; of a hazard memory may hold the broken branch only. */
bool coordmsg_ask_log(const struct txn *txn);
enum kept_kind coordmsg_kept(enum dlog_found found);
/* The branches of a decision that was read back; their number. */
uint32_t coordmsg_branches(const Lockstep__LogCommit *record,
                           struct txn_branch_id ids[LS_PARTICIPANTS_PER_TXN_CEILING]);
Lockstep__Verdict coordmsg_verdict(enum verdict verdict);

/* The listed branch that the inquiry is about, in the decision as it was read back or as memory has it; NULL: none. */
const struct txn_branch_id *coordmsg_branch_asked(const struct txn *txn, const struct engine_event *event);
/* Bytes of the log that one sighting more needs: the participant's record with all of them. */
uint64_t coordmsg_sight_room(const struct registry_participant *participant);
/* The engine says COMMIT. Is the branch listed on a later timeline than that of its vote, though its position there
 * lies behind the switch? Then that must be durable before it is finished, or a later proof would call it lost: PENDING
 * until then. It is remembered as not logged yet, if `room` (bytes of the log) is enough for it: nothing decided is
 * held up by a full disk. */
enum verdict coordmsg_sight(const Lockstep__Hello *hello, const struct txn_branch_id *id,
                            const Lockstep__InquiryItem *item, const struct ls_gtid *gtid, uint64_t durable,
                            uint64_t room, struct registry_participant *participant);

/* ---- effects become frames */

/* EF_SEND_DECIDE. */
void coordmsg_build_decide(const struct engine_effect *effect, Lockstep__Decide *decide);
/* The position up to which the branch of this decision is known to lie: its vote's, or a durable sighting's. */
uint64_t coordmsg_lsn(const struct registry_participant *participant, uint32_t epoch, uint64_t sequence,
                      uint64_t voted_lsn, uint64_t durable);
/* COMMIT for one branch; the gtid is the caller's. Also an item of Prove. */
void coordmsg_build_commit(const struct txn_branch_id *id, Lockstep__Decide *decide);
/* Is the participant told about its branch anyway until it answers? A branch that was finished before the history
 * changed is not, even while its transaction is still open elsewhere. */
bool coordmsg_is_driven(const struct engine *engine, uint32_t participant, uint32_t epoch, uint64_t sequence);

/* ---- effects become log records: the payload's length */

#define COORDMSG_HAZARD_MAX (LS_REASON_MAX + 128)
#define COORDMSG_SIGHTING_MAX 32u
#define COORDMSG_PARTICIPANT_MAX (LS_PARTICIPANT_MAX + 64 + LS_SIGHTINGS_MAX * COORDMSG_SIGHTING_MAX)
_Static_assert(COORDMSG_PARTICIPANT_MAX + 64 <= LS_LOG_RECORD_MAX, "a participant's record fits");
size_t coordmsg_pack_decision(const struct txn *txn, const char *app, uint64_t unix_ms,
                              uint8_t payload[LS_LOG_RECORD_MAX]);
size_t coordmsg_pack_hazard(const struct engine_effect *effect, uint8_t payload[COORDMSG_HAZARD_MAX]);
size_t coordmsg_pack_participant(const struct registry_participant *participant,
                                 uint8_t payload[COORDMSG_PARTICIPANT_MAX]);

#endif
