/* relay_internal.h: what the files of relay.h share. */
#ifndef SIM_RELAY_INTERNAL_H
#define SIM_RELAY_INTERNAL_H

#include "participant/core/relay.h"
#include "participant/page.h"
#include "tests/sim/relay.h"

#define RELAY_KEYS_MAX 16u
#define RELAY_FLOWS_MAX 40u
#define RELAY_STEPS_MAX 5u
#define RELAY_CHANGES_MAX 16u /* of one handler or application */
#define RELAY_TX_MAX 64u
#define RELAY_REQUESTS_MAX 256u
#define RELAY_NO_ROW UINT32_MAX

/* What an event says to the participant that its type names. */
/* FAILED: a human has said that its GO will not happen; to the place before it. */
enum flow_kind {
    FLOW_GO,
    FLOW_CANCEL,
    FLOW_UNDO,
    FLOW_DONE,
    FLOW_OVERDUE,
    FLOW_FAILED,
    FLOW_ENDED,
    FLOW_NOTE,
    FLOW_KINDS
};
#define RELAY_TYPES (FLOW_KINDS * SIM_PARTICIPANTS_MAX)
_Static_assert(RELAY_TYPES <= 32, "types are bits");
#define RELAY_TYPE(kind, participant) ((uint8_t)((kind)*SIM_PARTICIPANTS_MAX + (participant)))

/* main has all, or only what goes forward; back the rest then; audit looks on. */
enum flow_handler { HANDLER_MAIN, HANDLER_BACK, HANDLER_AUDIT, HANDLERS };

/* State of a saga's step in the application's own table. Step 0 is the saga's own row. */
enum flow_state { FLOW_NONE, FLOW_DOING, FLOW_CANCELLED, FLOW_UNDONE, FLOW_COMPLETED, FLOW_CANCELLING };

/* What an event is, wherever it stands. */
struct relay_what {
    uint32_t book; /* the checkers' number of it, carried in its payload */
    uint16_t flow;
    uint8_t type, key, step;
    int64_t version;
};

struct relay_row {
    bool there, letter;
    int64_t position; /* 0: null */
    struct relay_what what;
};

struct relay_late {
    bool there;
    uint8_t type, key;
    uint16_t flow;
    uint64_t due_us;
};

enum inbox_state { INBOX_NOTHING, INBOX_DONE, INBOX_WAITING, INBOX_DEAD, INBOX_SKIPPED };
struct relay_inbox {
    enum inbox_state state;
    uint32_t attempts;
    uint64_t retry_us, at_us;
    size_t record; /* of the WAL, that has written it */
    struct relay_what what;
};
struct inbox_list {
    struct relay_inbox *rows; /* position - 1 */
    uint32_t count;
};
struct inbox_at {
    uint8_t source, handler;
    int64_t position;
};

enum change_kind {
    CHANGE_EVENT,    /* id: what */
    CHANGE_STREAM,   /* key: version */
    CHANGE_APP,      /* flow, step: state */
    CHANGE_LATER,    /* id: late */
    CHANGE_INBOX,    /* at: inbox; is: skipped, and those before it hear so */
    CHANGE_POSITION, /* event id: position */
    CHANGE_LAST,     /* position given out */
    CHANGE_LETTER,   /* event id */
    CHANGE_ROUTE,    /* type, participant: from which position on, -1: no longer */
    CHANGE_PEER,
    CHANGE_FORWARD,  /* participant: position */
    CHANGE_SUBSCRIBE, /* handler: types */
    CHANGE_LIFE       /* lockstep.life: of the agent */
};
struct change {
    enum change_kind kind;
    uint32_t id; /* event, participant, key, flow */
    uint8_t type, step, state;
    bool is;
    int64_t number;
    struct inbox_at at;
    union {
        struct relay_what what;
        struct relay_inbox inbox;
        struct relay_late late;
    };
};

enum record_kind { RECORD_COMMIT, RECORD_PREPARE, RECORD_COMMIT_PREPARED, RECORD_ROLLBACK_PREPARED };
struct record {
    enum record_kind kind;
    uint32_t first, count; /* changes */
    uint32_t prepared;     /* number of the prepared transaction */
    uint32_t keys;
};

enum tx_step { TX_TAKE, TX_SEND, TX_HANDLE, TX_COMMIT, TX_BEGIN, TX_END };

/* A transaction that is open: of an application, of a delivery, or prepared. */
struct relay_tx {
    bool used;
    uint32_t prepared; /* 0: it is not */
    uint32_t db, slot;
    uint64_t life; /* of the agent, 0: an application's */
    uint64_t turn;
    enum tx_step step;
    bool waiting;
    uint64_t waits_until_us;
    uint32_t keys; /* rows of lockstep.stream that it has locked */
    uint32_t row;  /* of the application, RELAY_NO_ROW: none */
    bool has_inbox;
    struct inbox_at inbox;
    struct change changes[RELAY_CHANGES_MAX];
    uint32_t count;
    bool async; /* synchronous_commit = off */
    uint16_t flow;
    int request; /* that waits for it, -1: nobody does any more */
    struct relay_what what;
    enum relay_handled result;
};

struct relay_db {
    bool up;
    uint64_t boot;
    /* tables, as committed */
    struct relay_row *events; /* id - 1 */
    uint32_t next_event;      /* the sequence: ids are given before anything is committed */
    uint32_t event_count, event_capacity, unclaimed, unclaimed_from;
    uint32_t *by_position; /* position - 1: id, 0: given up again */
    uint32_t position_capacity;
    int64_t last;
    int64_t stream[RELAY_KEYS_MAX];
    int64_t route[RELAY_TYPES][SIM_PARTICIPANTS_MAX]; /* start, -1: none */
    bool peer[SIM_PARTICIPANTS_MAX], has_forward[SIM_PARTICIPANTS_MAX];
    int64_t forward[SIM_PARTICIPANTS_MAX];
    struct relay_late late[2 * RELAY_FLOWS_MAX];
    uint32_t late_count;
    uint32_t subscriptions[HANDLERS];
    struct inbox_list inbox[SIM_PARTICIPANTS_MAX][HANDLERS];
    struct inbox_at *open; /* waiting and dead */
    uint32_t open_count, open_capacity;
    uint8_t app[RELAY_FLOWS_MAX][RELAY_STEPS_MAX];
    uint64_t life; /* whose calls are obeyed */
    /* what is not committed, and the WAL */
    struct relay_tx tx[RELAY_TX_MAX];
    uint32_t prepared_count;
    struct change *changes;
    uint32_t change_count, change_capacity;
    struct record *records;
    size_t record_count, record_capacity, flushed;
    size_t set_up; /* records that no standby lacks: what people have subscribed */
};

enum request_kind {
    REQUEST_CLAIM,
    REQUEST_READ,
    REQUEST_STORE,
    REQUEST_HANDLE,
    REQUEST_PARK,
    REQUEST_DUE,
    REQUEST_SUBSCRIPTIONS,
    REQUEST_ROUTE_STORE,
    REQUEST_ROUTES,
    REQUEST_LATER,
    REQUEST_PRUNE
};
/* One statement, or one delivery, of a relay's host. */
struct relay_request {
    bool used, sent, away, answering; /* away: nobody waits for it any more; answering: it has acted */
    enum request_kind kind;
    uint32_t participant, slot;
    uint64_t life, boot, serial, op, since_us;
    bool lost;
    uint32_t peer, limit, handler, wait_ms, attempts_max, types;
    int64_t position;
    struct relay_what what;
    uint32_t attempts;
    /* answers */
    uint64_t given;
    struct page *page;
    bool more;
    int64_t upto;
    int64_t positions[SIM_PARTICIPANTS_MAX];
    bool peers[SIM_PARTICIPANTS_MAX];
    uint32_t subscriptions[HANDLERS];
    enum relay_handled handled;
    enum relay_parked parked;
};

struct relay_book;
struct relay_checks;
struct relay_flow;
struct relay_agent;

struct sim_relay {
    struct relay_db dbs[SIM_PARTICIPANTS_MAX];
    struct relay_request requests[RELAY_REQUESTS_MAX];
    uint64_t next_serial, next_turn;
    struct relay_agent *agents; /* 2 * SIM_PARTICIPANTS_MAX, as in agent_host.c */
    struct relay_flow *flows;
    uint32_t flow_count;
    uint32_t wants[SIM_PARTICIPANTS_MAX][HANDLERS]; /* types, once subscribed */
    struct relay_book *books;
    uint32_t book_count, book_capacity, first_open;
    struct relay_checks *checks;
    uint64_t lived[SIM_PARTICIPANTS_MAX][2]; /* agents that have had the lock */
    bool lost[SIM_PARTICIPANTS_MAX]; /* its server has lost what it had said was durable */
};

/* ---- relay_db.c */
void relay_dbs_start(struct world *world);
void relay_dbs_stop(struct world *world);
/* Commits these changes at once. */
void db_commit(struct world *world, uint32_t db, const struct change *changes, uint32_t count, bool flush);
bool db_has_row(const struct relay_db *db, const struct inbox_at *at);
/* NULL: there is none */
struct relay_inbox *db_inbox(struct relay_db *db, uint32_t source, uint32_t handler, int64_t position);
bool db_is_durable(const struct relay_db *db, const struct relay_inbox *row);
struct relay_request *request_new(struct world *world, enum request_kind kind, uint32_t participant, uint64_t life,
                                  uint64_t op);
void request_send(struct world *world, struct relay_request *request);
/* Backends of other lives of the participant are ended. */
void relay_end_backends(struct world *world, uint32_t participant, uint64_t life);
struct relay_tx *tx_new(struct world *world, uint32_t db);
void tx_after(struct world *world, struct relay_tx *tx, enum tx_step step, uint64_t delay_us);
void tx_change(struct relay_tx *tx, struct change change);
bool db_key_is_locked(const struct relay_db *db, uint32_t key, const struct relay_tx *but);
bool db_row_is_locked(const struct relay_db *db, uint32_t row, const struct relay_tx *but);
bool db_inbox_is_locked(const struct relay_db *db, const struct inbox_at *at, const struct relay_tx *but);

/* ---- relay_sql.c: what the functions of lockstep's schema do, as far as the relay sees it */
uint32_t sql_claim(struct world *world, uint32_t db, uint32_t rows_max);
void sql_page(struct world *world, uint32_t db, struct relay_request *request);
void sql_acknowledge(struct world *world, uint32_t db, uint32_t participant, int64_t position);
void sql_due(struct world *world, uint32_t db, struct relay_request *request);
enum sql_taken { TAKEN_RUN, TAKEN_DUPLICATE, TAKEN_QUEUED };
enum sql_taken sql_take(struct world *world, struct relay_tx *tx);
enum relay_parked sql_park(struct world *world, uint32_t db, const struct relay_request *request);
/* A human's word about the row; false: it is no dead letter, or its key is locked. */
enum letter_act { LETTER_RETRY, LETTER_SKIP, LETTER_COMPENSATE };
bool sql_inbox_act(struct world *world, uint32_t db, const struct inbox_at *at, enum letter_act act);
bool sql_letter_act(struct world *world, uint32_t db, uint32_t event, bool retry);
void sql_route_store(struct world *world, uint32_t db, uint32_t participant, uint32_t types);
void sql_later(struct world *world, uint32_t db);
void sql_prune(struct world *world, uint32_t db, uint32_t source, int64_t stored);
/* lockstep.emit(), in a transaction that has locked the key. */
void sql_emit(struct world *world, struct relay_tx *tx, uint8_t type, uint16_t flow, uint8_t step);

/* ---- relay_agent.c */
void relay_agents_start(struct world *world);
void relay_agents_stop(struct world *world);
void relay_host_gone(struct world *world, uint32_t participant, uint64_t life);
const char *relay_agents_unfinished(struct world *world);
void relay_answer(struct world *world, struct relay_request *request);

/* ---- relay_flow.c */
void relay_flows_start(struct world *world);
void relay_flows_stop(struct world *world);
const char *relay_flows_unfinished(struct world *world);
/* An application's transaction goes on. */
void flow_step(struct world *world, struct relay_tx *tx);
enum handler_ran { HANDLER_RAN, HANDLER_WAITS, HANDLER_FAILED };
enum handler_ran flow_handle(struct world *world, struct relay_tx *tx);
uint8_t flow_key(const struct world *world, uint16_t flow);
uint32_t flow_steps(const struct world *world, uint16_t flow);
uint32_t flow_place(const struct world *world, uint16_t flow, uint32_t step);
/* Who subscribes to TYPE.failed of this GO. */
uint8_t flow_failed_type(const struct world *world, const struct relay_what *what);
void flow_mend(struct world *world, const struct relay_what *what);
uint32_t relay_kind_of(uint8_t type);
uint32_t relay_named_by(uint8_t type);
const char *relay_type_name(uint8_t type);
uint8_t relay_type_number(const char *name);

/* ---- check_relay.c */
void check_relay_start(struct world *world);
void check_relay_stop(struct world *world);
uint32_t check_relay_emitted(struct world *world, uint32_t db, const struct relay_what *what);
/* This change is committed, for the first time: not when it is replayed. */
void check_relay_committed(struct world *world, uint32_t db, const struct change *change);
/* It never was, or, was_committed, it was not flushed when its server crashed. */
void check_relay_undone(struct world *world, uint32_t db, const struct change *change, bool was_committed);
void check_relay_lost(struct world *world, uint32_t db);
void check_relay_reported(struct world *world, uint32_t db);
void check_relay_delivered(struct world *world, uint32_t db, uint32_t source, int64_t position,
                           const struct relay_what *what);
void check_relay_claimed(struct world *world, uint32_t db, uint32_t given, uint32_t most);
void check_relay_acts(struct world *world, uint32_t db, uint32_t handler, const struct relay_what *what);
void check_relay_acknowledges(struct world *world, uint32_t db, uint32_t source, int64_t upto);
void check_relay_stores(struct world *world, uint32_t db, uint32_t subscriber, int64_t upto);
/* It is to wait behind another one of its key. */
void check_relay_queued(struct world *world, uint32_t db, uint32_t handler, const struct relay_what *what);
void check_relay_parks(struct world *world, uint32_t db, const struct relay_request *request, uint64_t bound_ms);
void check_relay_attempts(struct world *world, uint32_t db, const struct inbox_at *at);
const char *check_relay_unfinished(struct world *world);
void check_relay_end(struct world *world);

#endif
