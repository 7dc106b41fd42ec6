/*
 * limits.h: every bound of lockstep, with its name, default and unit.
 *
 * Two kinds stand here. Fixed bounds (names ending in _MAX without a default) are part of a format: changing
 * one changes the wire or the log. Defaults (LS_DEFAULT_*) can be configured; the key that does so is named
 * beside each. docs/limits.md lists what happens at each edge and the test that goes there.
 */
#ifndef LOCKSTEP_LIMITS_H
#define LOCKSTEP_LIMITS_H

#include <stdint.h>

/* ---- names (bytes, without the terminating NUL) ---- */
#define LS_GTID_MAX 64        /* "<coordinator>.<incarnation>.<epoch>.<sequence>[-<participant number>]" */
#define LS_COORDINATOR_MAX 18 /* so that the longest gtid is exactly LS_GTID_MAX, see the assert below */
#define LS_INCARNATION_LEN 12 /* lower-case hex digits: 48 random bits drawn when the log is created */
#define LS_EPOCH_DIGITS 10    /* uint32 */
#define LS_SEQUENCE_DIGITS 16 /* sequence <= LS_SEQUENCE_MAX */
#define LS_SEQUENCE_MAX ((uint64_t)9999999999999999)
#define LS_NUMBER_DIGITS 4 /* participant number of a one-participant gtid */
#define LS_PARTICIPANT_NUMBER_MAX 9999
#define LS_PARTICIPANT_MAX 64 /* participant name */
#define LS_IDENTITY_MAX 128   /* certificate identity, "app/checkout" */
#define LS_ROLE_MAX 63        /* PostgreSQL identifier */
#define LS_GID_MAX 199        /* PostgreSQL: GIDSIZE 200 with its NUL */
#define LS_KEY_MAX 255        /* Idempotency-Key */
#define LS_SQLSTATE_LEN 5
#define LS_STEP_MAX LS_PARTICIPANT_MAX /* name of a saga's step */
#define LS_STEP_RESULT_MAX (64u << 10) /* bytes of result that a barrier row keeps */
#define LS_KEPT_PAGE_MAX 1000u         /* sagas in one Kept or Forget */
#define LS_REASON_MAX 512              /* human text travelling with a vote or an outcome; longer is cut */

_Static_assert(LS_COORDINATOR_MAX + 1 + LS_INCARNATION_LEN + 1 + LS_EPOCH_DIGITS + 1 + LS_SEQUENCE_DIGITS + 1 +
                       LS_NUMBER_DIGITS ==
                   LS_GTID_MAX,
               "the longest gtid must fit its bound exactly");
/* "lockstep:" gtid ":" participant, and the XA form: decimal format id, two base64 parts, two underscores */
_Static_assert(9 + LS_GTID_MAX + 1 + LS_PARTICIPANT_MAX <= LS_GID_MAX, "readable gid must fit");
_Static_assert(10 + 1 + (LS_GTID_MAX + 2) / 3 * 4 + 1 + (LS_PARTICIPANT_MAX + 2) / 3 * 4 <= LS_GID_MAX,
               "XA gid must fit");

/* ---- wire ---- */
#define LS_PROTOCOL_VERSION 3u
#define LS_PROTOCOL_VERSION_MIN 1u   /* N-1, and the one before, which costs nothing yet */
#define LS_PROTOCOL_VERSION_SAGA 2u  /* with less: no Work.saga, no Kept, no Forget */
#define LS_PROTOCOL_VERSION_EVENT 3u /* with less: no Route, no Ask, no Tell; agents do not greet each other */
#define LS_FRAME_MAX (1u << 20)      /* bytes of one frame's payload, also the default HTTP body bound */
#define LS_PING_INTERVAL_MS 1000u
#define LS_PEER_DEAD_MS 5000u
#define LS_LINK_ANSWER_MS 10000u /* waited for Hello, Welcome, Greet, an inquiry's answer: twice LS_PEER_DEAD_MS */

/* ---- listeners: a connection that cannot be accepted (no descriptor, no memory) waits in the backlog ---- */
#define LS_ACCEPT_REST_MS 250u  /* the listener tries again after this */
#define LS_ACCEPT_LOG_MS 60000u /* one line per listener and this */

/* ---- documents and transactions (configurable under `limits:` unless said otherwise) ---- */
#define LS_DEFAULT_BODY_MAX (1u << 20)          /* limits.body, bytes */
#define LS_DEFAULT_STATEMENTS_MAX 1000u         /* limits.statements, per transaction */
#define LS_DEFAULT_PARTICIPANTS_PER_TXN_MAX 64u /* limits.participants, per transaction */
#define LS_PARTICIPANTS_PER_TXN_CEILING 64u     /* the configuration may lower, not raise it */
#define LS_DEFAULT_RESULT_ROWS_MAX 1000u        /* limits.result_rows, per transaction */
#define LS_DEFAULT_RESULT_BYTES_MAX (1u << 20)  /* limits.result_bytes, per transaction */
#define LS_DEFAULT_WAITING_MAX 1024u            /* limits.waiting, requests queued for credits */
#define LS_DEFAULT_IN_FLIGHT_MAX 16384u         /* limits.in_flight, transactions admitted and unfinished */
#define LS_DEFAULT_KEYS_MAX 1000000u            /* limits.keys, Idempotency-Keys remembered */
#define LS_DEFAULT_FINISHED_MAX 65536u          /* limits.finished, outcomes remembered in memory for GET */
#define LS_DEFAULT_CONNECTIONS_MAX 1024u        /* limits.connections, HTTP connections */
#define LS_DEFAULT_HTTP_IDLE_S 60u    /* limits.http_idle, seconds from accept or last answer to a whole request */
#define LS_DEFAULT_DEADLINE_MS 30000u /* limits.deadline */
#define LS_DEADLINE_MS_MIN 10u
#define LS_DEADLINE_MS_MAX 3600000u          /* a deadline cannot be switched off */
#define LS_DEFAULT_SAGA_BODY_MAX (32u << 10) /* limits.saga_body, bytes: a saga's document stands in the log */
#define LS_SAGA_BODY_CEILING (56u << 10)
#define LS_DEFAULT_SAGAS_MAX 10000u         /* limits.sagas, open ones, dead letters included */
#define LS_DEFAULT_SAGA_DEADLINE_MS 600000u /* "deadline" of a saga's document: to the point of no return */
#define LS_SAGA_DEADLINE_MS_MAX ((uint64_t)30 * 86400000)
#define LS_SAGA_ATTEMPTS_MAX 1000u
#define LS_DEFAULT_CALL_ANSWER_MAX (64u << 10) /* limits.call_answer, bytes of a service's answer */
#define LS_DEFAULT_CALLS_MAX 1024u             /* limits.calls, of sagas at services at once */
#define LS_DEFAULT_CALL_CONNECTIONS 64u        /* calls.connections, to one service at once */
#define LS_DEFAULT_ALERT_WINDOW_MS 300000u     /* alerts.window: one alert per cause in it */
#define LS_DEFAULT_ALERT_IN_DOUBT_MS 60000u    /* alerts.in_doubt: in doubt for longer is an alert */
#define LS_DEFAULT_ALERT_TIMEOUT_MS 10000u     /* alerts.timeout: of one delivery */
#define LS_ALERT_QUEUE_MAX 64u                 /* alerts that wait for their receiver */
#define LS_ALERT_REFUSALS_MAX 5u               /* after so many 4xx one is dropped */
#define LS_DEFAULT_LOCK_TIMEOUT_MS 5000u       /* limits.lock_timeout */
#define LS_LOCK_TIMEOUT_MS_MIN 1u
#define LS_LOCK_TIMEOUT_MS_MAX 3600000u /* cannot be switched off either */
#define LS_DEFAULT_APPLY_WAIT_MS 5000u  /* limits.apply_wait: wait=applied answers applied:false after it */
#define LS_DEFAULT_PRESUME_WAIT_MS \
    10000u                         /* limits.presume_wait: after a start, before abort is presumed without everybody */
#define LS_DEFAULT_RESEND_MS 5000u /* limits.resend: open decisions are sent again this often */

/* ---- decision log (configurable under `log:`) ---- */
#define LS_DEFAULT_SEGMENT_BYTES (16u << 20) /* log.segment_size */
#define LS_SEGMENT_BYTES_MIN (64u << 10)
#define LS_SEGMENT_BYTES_MAX (1u << 30)
#define LS_DEFAULT_RETENTION_S 86400u                /* log.retention, seconds of recorded running time */
#define LS_DEFAULT_LOG_BYTES_MAX ((uint64_t)4 << 30) /* log.max_size */
#define LS_SIGHTINGS_MAX 1000u                       /* of one participant, in its record; the oldest give way */
#define LS_LOG_RECORD_MAX (64u << 10)                /* bytes of one record, header included */
#define LS_MARK_IDLE_MS 1000u                        /* a durable mark follows within this of idleness */

/* ---- agent (configurable in its own file) ---- */
#define LS_DEFAULT_WORKERS_MAX 64u /* pool.workers */
#define LS_DEFAULT_FINISHERS 8u    /* pool.finishers, per role */
#define LS_DEFAULT_STATEMENTS 64u  /* pool.statements, prepared per worker session */
#define LS_STATEMENTS_MAX 1024u
#define LS_DEFAULT_SWEEP_S 10u         /* sweep.interval */
#define LS_DEFAULT_PREPARED_SHARE 100u /* prepared.share, percent of max_prepared_transactions */
/* events (docs/choreography.md) */
#define LS_EVENT_TYPE_MAX 64u
#define LS_EVENT_KEY_MAX 200u
#define LS_EVENT_PAYLOAD_MAX (256u << 10)
#define LS_EVENT_PAGE_BYTES (512u << 10) /* of payload in one page, not counting the event that passes it */
#define LS_EVENT_PAGE_MAX 100u           /* events in one page */
#define LS_PEERS_MAX 64u                 /* participants that send to one another */
#define LS_SUBSCRIPTIONS_MAX 256u        /* of one participant */
#define LS_BLOCKING_LISTED_MAX 200u      /* sessions behind one prepared branch in one answer */
#define LS_FLOWS_LISTED_MAX 500u         /* choreographed sagas in one answer */
#define LS_LETTERS_LISTED_MAX 500u       /* dead letters of one participant in one answer */
#define LS_DEFAULT_RELAY_SESSIONS 4u     /* relay.sessions: handlers that run at once, besides pool.workers */
#define LS_DEFAULT_RELAY_ATTEMPTS 10u    /* relay.attempts: of a handler with one event, then a dead letter */
#define LS_RETRY_MS_MIN 100u             /* the first pause before a step, a compensation or a handler is tried again */
#define LS_RETRY_MS_MAX 30000u           /* and the longest */
#define LS_DEFAULT_HANDLER_MS 30000u     /* relay.handler_timeout */
#define LS_DEFAULT_RELAY_KEEP_INBOX_S 604800u /* relay.keep_inbox, 7 days */
#define LS_DEFAULT_RELAY_KEEP_EVENTS_S 0u     /* relay.keep_events, 0: for ever */

#define LS_DIAL_BACKOFF_MS_MIN 100u
#define LS_DIAL_BACKOFF_MS_MAX 5000u

#endif
