/*
 * log_types.h: the kinds of records in the decision log. The values are on disk; payloads are the Log* messages of lockstep.proto.
 */
#ifndef LOCKSTEP_LOG_TYPES_H
#define LOCKSTEP_LOG_TYPES_H

enum dlog_type {
    DLOG_EPOCH = 1,       /* LogEpoch */
    DLOG_COMMIT = 2,      /* LogCommit: its being durable IS the commit */
    DLOG_END = 3,         /* LogEnd */
    DLOG_PARTICIPANT = 4, /* LogParticipant */
    DLOG_HAZARD = 5,      /* LogHazard */
    DLOG_MARK = 6,        /* LogMark */
    DLOG_AUDIT = 7,       /* LogAudit */
    DLOG_SAGA_BEGIN = 8,  /* LogSagaBegin */
    DLOG_SAGA_PHASE = 9,  /* LogSagaPhase: the newest one is the saga's state */
    DLOG_SAGA_END = 10,   /* LogSagaEnd: final, whatever is found of the saga before or behind it */
    DLOG_TYPE_LAST = DLOG_SAGA_END
};

#endif
