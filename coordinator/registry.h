/*
 * registry.h: the host's side of the registry: participants that ever joined, by number and name, and the identities of
 * applications.
 *
 * A participant's number is given once and never to another: it is part of gtids and of log records. What is here comes
 * from the log (coordinator/core/recover.h) or was made durable in it before it got here (coordinator/agents.c).
 */
#ifndef LOCKSTEP_REGISTRY_H
#define LOCKSTEP_REGISTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lockstep/limits.h"
#include "lockstep/status.h"

/* A decided branch that was seen prepared on a later timeline than that of its vote: its record there lies at or before
 * `lsn`, whatever the vote's own position, an upper bound, says (docs/protocol.md, Proof). */
struct registry_sighting {
    uint32_t epoch;
    uint64_t sequence, lsn;
    uint64_t end; /* it is durable when the log is, up to here; REGISTRY_NOT_LOGGED: not appended yet */
};
#define REGISTRY_NOT_LOGGED UINT64_MAX

struct registry_participant {
    uint32_t number;
    char name[LS_PARTICIPANT_MAX + 1];
    /* the history that this log last proved its decisions on; 0: never seen */
    uint64_t system_id;
    uint32_t timeline;
    /* the epoch in which the history last changed, 0: never. Branches of this epoch and earlier ones may rise from the
     * dead. */
    uint32_t changed_epoch;
    char accepted_incarnation[LS_INCARNATION_LEN + 1]; /* "" or what an operator accepted (coordinator/accept.h) */
    struct registry_sighting *sightings;               /* oldest first */
    uint32_t sighting_count;
    /* of the newest link, for display; "" while none was seen in this life */
    char server_version[32], database[64];
};

struct registry;

struct registry *registry_new(void); /* NULL when memory is short */
void registry_free(struct registry *registry);

/* Adds, or finds, a participant. LS_ERR_FULL: LS_PARTICIPANT_NUMBER_MAX. LS_ERR_MISMATCH: the number or the name is
 * another's. */
enum ls_status registry_add(struct registry *registry, uint32_t number, const char *name,
                            struct registry_participant **ret_participant, struct ls_error *err) LS_MUST_CHECK;
/* "<participant> <incarnation>" (recovery_accept_subject): taken over by the participant, now or when it joins. */
enum ls_status registry_accept(struct registry *registry, const char *subject) LS_MUST_CHECK;
/* Remembers a sighting, instead of an earlier one of the branch. At most LS_SIGHTINGS_MAX: the oldest gives way.
 * LS_ERR_NOMEM. */
enum ls_status registry_sight(struct registry_participant *participant, uint32_t epoch, uint64_t sequence, uint64_t lsn,
                              uint64_t end) LS_MUST_CHECK;
/* NULL when there is none. */
const struct registry_sighting *registry_sighting(const struct registry_participant *participant, uint32_t epoch,
                                                  uint64_t sequence);
/* What was not logged yet was appended up to `end`; 0: it could not be, and is forgotten. */
void registry_sightings_logged(struct registry_participant *participant, uint64_t end);
/* Is there any that was not logged yet? */
bool registry_sightings_new(const struct registry_participant *participant);
/* NULL when there is none. */
struct registry_participant *registry_by_number(const struct registry *registry, uint32_t number);
struct registry_participant *registry_by_name(const struct registry *registry, const char *name);
/* The next free number, 0 when all are taken. */
uint32_t registry_next_number(const struct registry *registry);
uint32_t registry_highest(const struct registry *registry);

/* Identities ("app/checkout"): a number for each, from 1; 0 is nobody. */
#define REGISTRY_APPS_MAX 65536u
struct apps;
struct apps *apps_new(void);
void apps_free(struct apps *apps);
/* 0 for "" and when REGISTRY_APPS_MAX identities are known already or memory is short. */
uint32_t apps_number(struct apps *apps, const char *identity);
/* "" for 0. */
const char *apps_identity(const struct apps *apps, uint32_t number);

#endif
