/*
 * recover.h: from the records of the decision log to what the engine and the host must know at start.
 *
 * Pure. Feed every record in log order to recovery_record(); then read the result. A decision is open when no end
 * follows it; a copy (relogged) of a decision is the same decision. What the log does not say is not guessed.
 */
#ifndef LOCKSTEP_RECOVER_H
#define LOCKSTEP_RECOVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "coordinator/core/engine.h"
#include "lockstep/log_types.h"
#include "lockstep/status.h"

/* See registry.h and LogSighting. */
struct recovery_sighting {
    uint32_t epoch;
    uint64_t sequence, lsn;
};

struct recovery_participant {
    uint32_t number;
    char name[LS_PARTICIPANT_MAX + 1];
    uint64_t system_id; /* 0: never seen */
    uint32_t timeline;
    uint32_t changed_epoch;                            /* 0: its history never changed */
    char accepted_incarnation[LS_INCARNATION_LEN + 1]; /* "" or the lost incarnation an operator accepted for it */
    struct recovery_sighting *sightings;               /* oldest first */
    size_t sighting_count;
};

struct recovery;

struct recovery *recovery_new(void); /* NULL when memory is short */
void recovery_free(struct recovery *recovery);

/* Folds one record in. LS_ERR_CORRUPT: the payload cannot be what its type says (err names it); LS_ERR_NOMEM. */
enum ls_status recovery_record(struct recovery *recovery, enum dlog_type type, uint64_t position,
                               const uint8_t *payload, size_t length, struct ls_error *err) LS_MUST_CHECK;

uint32_t recovery_last_epoch(const struct recovery *recovery);
uint64_t recovery_running_ms(const struct recovery *recovery);
size_t recovery_participant_count(const struct recovery *recovery);
const struct recovery_participant *recovery_participant(const struct recovery *recovery, size_t index);
size_t recovery_open_count(const struct recovery *recovery);
/* Acceptances as recovery_accept_subject() writes them, oldest first; also of participants that have not joined this
 * log yet. */
size_t recovery_acceptance_count(const struct recovery *recovery);
const char *recovery_acceptance(const struct recovery *recovery, size_t index);

/* The host's number for an application identity ("app/checkout", "" when the record has none). */
typedef uint32_t (*recovery_app)(void *context, const char *app);

/*
 * Hands everything to a new engine in the right order: EV_PARTICIPANT for each of the registry, EV_RECOVER_TXN for each
 * open decision and each hazard, EV_RECOVER_KEY for each key. `effects` is scratch; nothing comes out of these events
 * that needs carrying out.
 */
void recovery_apply(const struct recovery *recovery, struct engine *engine, recovery_app app, void *context,
                    uint64_t now_us, struct engine_effects *effects);

/* The text an accept leaves in LogAudit.subject: "<participant> <incarnation>". Buffer: LS_PARTICIPANT_MAX + 1 +
 * LS_INCARNATION_LEN + 1. */
void recovery_accept_subject(const char *participant, const char *incarnation, char *ret_subject);

#endif
