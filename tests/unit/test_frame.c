/*
 * test_frame.c: the wire. A frame that is taken must be usable without looking again; everything else must be refused
 * with words, whatever the bytes. Truncations, single flipped bytes and random mutations of good frames go through the
 * decoder.
 */
#include "tests/unit/unit.h"

#include "common/frame.h"

static struct ls_error err;

#define GTID "shop.0a1b2c3d4e5f.3.17"
#define GID "lockstep:shop.0a1b2c3d4e5f.3.17:orders"
static char gtid_text[] = GTID, gid_text[] = GID, owner_text[] = "app_role";

/* Encodes into fresh memory of exactly the size. */
static uint8_t *encode(const Lockstep__Frame *frame, size_t *ret_size) {
    size_t size = frame_size(frame);
    uint8_t *data = malloc(size);
    assert_non_null(data);
    assert_ok(frame_encode(frame, data, size, &err));
    *ret_size = size;
    return data;
}

/* Encodes, decodes, and says what the decoder said. */
static enum ls_status through(const Lockstep__Frame *frame) {
    size_t size;
    uint8_t *data = encode(frame, &size);
    Lockstep__Frame *back = NULL;
    enum ls_status status = frame_decode(data, size, &back, &err);
    if (status == LS_OK) {
        assert_non_null(back);
        assert_int_equal(back->body_case, frame->body_case);
        lockstep__frame__free_unpacked(back, NULL);
    } else {
        assert_null(back);
    }
    free(data);
    return status;
}

/* One of each kind, all fields set, in static memory; and Work once more, as a saga's step (which has no key). */
enum { KINDS = 24, SAGA_WORK = KINDS, FRAMES };
static void all_kinds(Lockstep__Frame frames[FRAMES]) {
    static Lockstep__Fence fence;
    static Lockstep__Hello hello;
    static Lockstep__TimelineSwitch turn, *turns[1];
    static Lockstep__Welcome welcome;
    static Lockstep__Ping ping;
    static Lockstep__Pong pong;
    static Lockstep__Work work;
    static Lockstep__Statement statement, *statements[1];
    static Lockstep__Value value, null, *values[2];
    static Lockstep__Vote vote;
    static Lockstep__StepResult result, *results[1];
    static Lockstep__Decide decide, *decides[1];
    static Lockstep__Done done;
    static Lockstep__Inquiry inquiry;
    static Lockstep__InquiryItem item, *items[1];
    static Lockstep__Answer answer;
    static Lockstep__AnswerItem answered, *answers[1];
    static Lockstep__Settle settle;
    static Lockstep__Credit credit;
    static Lockstep__Refuse refuse;
    static Lockstep__Error error;
    static Lockstep__Prove prove;
    static Lockstep__Ready ready;
    static Lockstep__SagaStep saga;
    static Lockstep__Work attempt;
    static Lockstep__Kept kept;
    static Lockstep__Forget forget;
    static Lockstep__Route route;
    static Lockstep__Ask ask;
    static Lockstep__Tell tell;
    static Lockstep__Greet greet;
    static Lockstep__Event event, *event_list[1];
    static Lockstep__Events events;
    static Lockstep__Stored stored;
    static char type_text[] = "order.created", address[] = "127.0.0.1:7445", letter[] = "orders/7/public.pack";
    static char *types[1] = {type_text};
    static char *sagas[2] = {gtid_text, gtid_text};
    static uint8_t hash[16] = {1, 2, 3};
    static char incarnation[] = "0a1b2c3d4e5f", orders[] = "orders", shop[] = "shop", app[] = "app/checkout",
                sql[] = "select $1", key[] = "k-1", reason[] = "because", state[] = "23505", json[] = "[{\"a\":1}]";

    lockstep__fence__init(&fence);
    fence.incarnation = incarnation, fence.epoch = 3, fence.position = 4096, fence.chain = 0x1122334455667788;
    lockstep__timeline_switch__init(&turn);
    turn.timeline = 1, turn.lsn = 77, turns[0] = &turn;
    lockstep__hello__init(&hello);
    hello.version = 1, hello.version_min = 1, hello.participant = orders, hello.coordinator = shop, hello.nonce = key,
    hello.system_id = 9, hello.timeline = 2, hello.insert_lsn = 5, hello.credits = 10, hello.n_history = 1,
    hello.history = turns, hello.server_version = state, hello.database = orders;
    lockstep__welcome__init(&welcome);
    welcome.version = 1, welcome.coordinator = shop, welcome.number = 1, welcome.has_chain_at = 1, welcome.chain_at = 5,
    welcome.accepted_incarnation = incarnation;
    lockstep__ping__init(&ping);
    lockstep__pong__init(&pong);
    lockstep__value__init(&value);
    value.text = orders;
    lockstep__value__init(&null);
    values[0] = &value, values[1] = &null;
    lockstep__statement__init(&statement);
    statement.step = 1, statement.sql = sql, statement.n_args = 2, statement.args = values,
    statement.has_expect_rows = 1, statement.expect_rows = 1;
    statements[0] = &statement;
    lockstep__work__init(&work);
    work.gtid = gtid_text, work.part = 0, work.last = 1, work.has_one_phase = 1, work.app = app, work.has_isolation = 1,
    work.isolation = LOCKSTEP__ISOLATION__SERIALIZABLE, work.lock_timeout_ms = 5000, work.deadline_ms = 30000,
    work.n_statements = 1, work.statements = statements, work.key = key, work.has_document_hash = 1,
    work.document_hash = (ProtobufCBinaryData){16, hash}, work.has_rows_max = 1, work.has_bytes_max = 1;
    lockstep__saga_step__init(&saga);
    saga.saga = gtid_text, saga.step = orders, saga.has_result_max = 1, saga.result_max = LS_STEP_RESULT_MAX;
    attempt = work;
    attempt.one_phase = 1, attempt.key = NULL, attempt.has_document_hash = 0, attempt.saga = &saga;
    lockstep__step_result__init(&result);
    result.rows_json = json, results[0] = &result;
    lockstep__vote__init(&vote);
    vote.gtid = gtid_text, vote.kind = LOCKSTEP__VOTE_KIND__YES, vote.has_part = 1, vote.n_results = 1,
    vote.results = results, vote.gid = gid_text, vote.has_xid = 1, vote.xid = 750, vote.has_lsn = 1, vote.lsn = 99,
    vote.has_system_id = 1, vote.has_timeline = 1, vote.timeline = 1, vote.owner = owner_text, vote.sqlstate = state,
    vote.reason = reason, vote.has_step = 1, vote.has_retryable = 1, vote.existing_gtid = gtid_text,
    vote.has_existing_hash = 1, vote.existing_hash = (ProtobufCBinaryData){16, hash}, vote.has_barrier = 1,
    vote.barrier = LOCKSTEP__BARRIER_STATE__BARRIER_CANCELLED;
    lockstep__decide__init(&decide);
    decide.gtid = gtid_text, decide.commit = 1, decide.gid = gid_text, decide.has_xid = 1, decide.xid = 750,
    decide.has_system_id = 1, decide.has_timeline = 1, decide.timeline = 1, decide.has_lsn = 1, decide.lsn = 99,
    decide.owner = owner_text, decide.has_one_phase = 1;
    decides[0] = &decide;
    lockstep__done__init(&done);
    done.gtid = gtid_text, done.kind = LOCKSTEP__DONE_KIND__DONE_HAZARD, done.reason = reason, done.has_stranger = 1;
    lockstep__inquiry_item__init(&item);
    item.gid = gid_text, item.xid = 1, item.owner = owner_text, items[0] = &item;
    lockstep__inquiry__init(&inquiry);
    inquiry.n_items = 1, inquiry.items = items;
    lockstep__answer_item__init(&answered);
    answered.gid = gid_text, answered.xid = 1, answered.reason = reason, answers[0] = &answered;
    lockstep__answer__init(&answer);
    answer.n_items = 1, answer.items = answers;
    lockstep__settle__init(&settle);
    settle.gtid = gtid_text;
    lockstep__credit__init(&credit);
    lockstep__refuse__init(&refuse);
    refuse.reason = reason, refuse.remembered = &fence;
    lockstep__error__init(&error);
    error.text = reason;
    lockstep__prove__init(&prove);
    prove.n_items = 1, prove.items = decides;
    lockstep__ready__init(&ready);
    lockstep__kept__init(&kept);
    kept.n_sagas = 2, kept.sagas = sagas;
    lockstep__forget__init(&forget);
    forget.has_token = 1, forget.n_sagas = 2, forget.sagas = sagas, forget.has_outcome_epoch = 1,
    forget.outcome_epoch = 3, forget.has_outcome_sequence = 1, forget.outcome_sequence = 17;

    lockstep__route__init(&route);
    route.participant = orders, route.address = address, route.n_types = 1, route.types = types;
    lockstep__ask__init(&ask);
    ask.who = app, ask.kind = LOCKSTEP__ASK_KIND__ASK_RETRY, ask.type = type_text, ask.key = key, ask.saga = gtid_text,
    ask.letter = letter, ask.gid = gid_text, ask.has_offset = 1, ask.offset = 9, ask.has_limit = 1, ask.limit = 10;
    lockstep__tell__init(&tell);
    tell.json = json, tell.sqlstate = state, tell.reason = reason;
    lockstep__greet__init(&greet);
    greet.version = greet.version_min = 3, greet.participant = orders;
    lockstep__event__init(&event);
    event.position = 7, event.type = type_text, event.key = key, event.version = 2, event.payload = json,
    event.saga = gtid_text, event_list[0] = &event;
    lockstep__events__init(&events);
    events.upto = 9, events.stored = 3, events.n_events = 1, events.events = event_list;
    lockstep__stored__init(&stored);
    stored.upto = 9;

    for (int i = 0; i < FRAMES; i++) {
        lockstep__frame__init(&frames[i]);
        frames[i].fence = &fence;
    }
    int n = 0;
#define BODY(case_, field) frames[n].body_case = LOCKSTEP__FRAME__BODY_##case_, frames[n++].field = &field
    BODY(HELLO, hello), BODY(WELCOME, welcome), BODY(PING, ping), BODY(PONG, pong), BODY(WORK, work), BODY(VOTE, vote),
        BODY(DECIDE, decide), BODY(DONE, done);
    BODY(INQUIRY, inquiry), BODY(ANSWER, answer), BODY(SETTLE, settle), BODY(CREDIT, credit), BODY(REFUSE, refuse),
        BODY(ERROR, error), BODY(PROVE, prove), BODY(READY, ready), BODY(KEPT, kept), BODY(FORGET, forget);
    BODY(ROUTE, route), BODY(ASK, ask), BODY(TELL, tell), BODY(GREET, greet), BODY(EVENTS, events),
        BODY(STORED, stored);
    assert_int_equal(n, KINDS);
    frames[SAGA_WORK].body_case = LOCKSTEP__FRAME__BODY_WORK, frames[SAGA_WORK].work = &attempt;
}

static void round_trip(void **state) {
    Lockstep__Frame frames[FRAMES];
    (void)state;
    all_kinds(frames);
    for (int i = 0; i < FRAMES; i++) {
        size_t size, again_size;
        Lockstep__Frame *back;
        uint8_t *data = encode(&frames[i], &size);
        assert_ok(frame_decode(data, size, &back, &err));
        uint8_t *again = encode(back, &again_size);
        assert_int_equal(again_size, size);
        assert_memory_equal(again, data, size);
        lockstep__frame__free_unpacked(back, NULL);
        free(data);
        free(again);
    }
}

/* The schema grows: whoever adds a body must add it to all_kinds(). */
static void kinds_complete(void **state) {
    (void)state;
    assert_int_equal(lockstep__frame__descriptor.n_fields, KINDS + 1); /* the fence */
}

static void peek(void **state) {
    size_t need = 77;
    const uint8_t largest[] = {0x00, 0x10, 0x00, 0x00}, larger[] = {0x00, 0x10, 0x00, 0x01},
                  huge[] = {0xff, 0xff, 0xff, 0xff}, none[] = {0, 0, 0, 0};
    (void)state;
    for (size_t i = 0; i < FRAME_HEADER; i++) {
        need = 77;
        assert_ok(frame_peek(huge, i, &need, &err));
        assert_int_equal(need, 0);
    }
    assert_ok(frame_peek(largest, 4, &need, &err));
    assert_int_equal(need, FRAME_HEADER + LS_FRAME_MAX);
    assert_fails(frame_peek(larger, 4, &need, &err), LS_ERR_TOO_LARGE, "frame of 1048577 bytes, the limit is 1048576");
    assert_fails(frame_peek(huge, 4, &need, &err), LS_ERR_TOO_LARGE, "frame of 4294967295 bytes, the limit is 1048576");
    assert_int_equal(need, FRAME_HEADER + LS_FRAME_MAX); /* untouched */
    assert_ok(frame_peek(none, 4, &need, &err));
    assert_int_equal(need, FRAME_HEADER);
    Lockstep__Frame *frame;
    assert_fails(frame_decode(none, 4, &frame, &err), LS_ERR_PROTOCOL, "frame has no body of a kind known here");
    assert_fails(frame_decode(none, 3, &frame, &err), LS_ERR_PROTOCOL, "frame of 3 bytes where its header says 0");
    assert_fails(frame_decode(largest, 4, &frame, &err), LS_ERR_PROTOCOL,
                 "frame of 4 bytes where its header says 1048580");
}

/* A frame of exactly the limit, and one more. */
static void size_edge(void **state) {
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    Lockstep__Error error = LOCKSTEP__ERROR__INIT;
    char *text = malloc(LS_FRAME_MAX + 1);
    (void)state;
    assert_non_null(text);
    memset(text, 'x', LS_FRAME_MAX);
    text[LS_FRAME_MAX] = '\0';
    frame.body_case = LOCKSTEP__FRAME__BODY_ERROR;
    frame.error = &error;
    error.text = text;
    size_t over = frame_size(&frame) - FRAME_HEADER - LS_FRAME_MAX;
    text[LS_FRAME_MAX - over] = '\0';
    assert_int_equal(frame_size(&frame), FRAME_HEADER + LS_FRAME_MAX);
    assert_int_equal(through(&frame), LS_OK);
    text[LS_FRAME_MAX - over] = 'x';
    text[LS_FRAME_MAX - over + 1] = '\0';
    size_t size = frame_size(&frame);
    assert_int_equal(size, FRAME_HEADER + LS_FRAME_MAX + 1);
    uint8_t *data = malloc(size);
    assert_non_null(data);
    assert_fails(frame_encode(&frame, data, size, &err), LS_ERR_TOO_LARGE,
                 "frame of 1048577 bytes, the limit is 1048576");
    free(data);
    free(text);
}

#define assert_refused(wanted)                              \
    do {                                                    \
        assert_int_equal(through(&frame), LS_ERR_PROTOCOL); \
        assert_string_equal(err.text, wanted);              \
    } while (0)

/* Sets one string field wrong, expects the words, puts it back. */
#define assert_wrong(place, value, wanted) \
    do {                                   \
        char copy_[300] = value;           \
        char *before_ = place;             \
        place = copy_;                     \
        assert_refused(wanted);            \
        place = before_;                   \
    } while (0)

static char long_name[LS_KEY_MAX + 2], limit_name[LS_KEY_MAX + 2];
static char *name_of(char *out, size_t length) {
    memset(out, 'n', length);
    out[length] = '\0';
    return out;
}

#define assert_length(place, max, wanted)         \
    do {                                          \
        char *before_ = place;                    \
        place = name_of(limit_name, max);         \
        assert_int_equal(through(&frame), LS_OK); \
        place = name_of(long_name, (max) + 1);    \
        assert_refused(wanted);                   \
        place = before_;                          \
    } while (0)

static void bad_names(void **state) {
    Lockstep__Frame frames[FRAMES], frame;
    (void)state;
    all_kinds(frames);
    frame = frames[0];
    assert_wrong(frame.fence->incarnation, "0a1b2c3d4e5", "Fence.incarnation is no incarnation");
    assert_wrong(frame.fence->incarnation, "0A1b2c3d4e5f", "Fence.incarnation is no incarnation");
    assert_wrong(frame.hello->participant, "", "Hello.participant is no participant name");
    assert_wrong(frame.hello->participant, "a.b", "Hello.participant is no participant name");
    assert_wrong(frame.hello->participant, "\xff", "Hello.participant is not UTF-8");
    assert_wrong(frame.hello->nonce, "", "Hello.nonce is empty");
    assert_length(frame.hello->participant, LS_PARTICIPANT_MAX, "Hello.participant is no participant name");
    assert_length(frame.hello->coordinator, LS_COORDINATOR_MAX, "Hello.coordinator is no coordinator name");
    assert_length(frame.hello->database, 128, "Hello.database is too long");
    frame.fence->epoch = 0;
    assert_refused("Fence.epoch is 0");
    frame.fence->epoch = 3;
    frame.hello->version_min = 2;
    assert_refused("Hello.version_min is above version");
    frame.hello->version_min = 1;

    frame = frames[1];
    frame.welcome->number = 0;
    assert_refused("Welcome.number is out of range");
    frame.welcome->number = LS_PARTICIPANT_NUMBER_MAX;
    assert_int_equal(through(&frame), LS_OK);
    frame.welcome->number = LS_PARTICIPANT_NUMBER_MAX + 1;
    assert_refused("Welcome.number is out of range");
    frame.welcome->number = 1;

    frame = frames[4];
    assert_wrong(frame.work->gtid, "shop.0a1b2c3d4e5f.3.017", "Work.gtid is no gtid");
    assert_wrong(frame.work->app, "", "Work.app is no identity");
    assert_length(frame.work->app, LS_IDENTITY_MAX, "Work.app is no identity");
    assert_wrong(frame.work->key, "", "Work.key is empty or too long");
    assert_length(frame.work->key, LS_KEY_MAX, "Work.key is empty or too long");
    assert_wrong(frame.work->statements[0]->sql, "select '\xc3'", "Statement.sql is not UTF-8");
    assert_wrong(frame.work->statements[0]->args[0]->text, "\xed\xa0\x80", "Value.text is not UTF-8");
    frame.work->document_hash.len = 15;
    assert_refused("Work.document_hash is not 16 bytes long");
    frame.work->document_hash.len = 16;
    frame.work->lock_timeout_ms = 0;
    assert_refused("Work.lock_timeout_ms is out of range");
    frame.work->lock_timeout_ms = LS_LOCK_TIMEOUT_MS_MAX + 1;
    assert_refused("Work.lock_timeout_ms is out of range");
    frame.work->lock_timeout_ms = LS_LOCK_TIMEOUT_MS_MAX;
    assert_int_equal(through(&frame), LS_OK);
    frame.work->deadline_ms = LS_DEADLINE_MS_MAX + 1;
    assert_refused("Work.deadline_ms is out of range");
    frame.work->deadline_ms = LS_DEADLINE_MS_MAX;
    assert_int_equal(through(&frame), LS_OK);
    frame.work->isolation = (Lockstep__Isolation)3;
    assert_refused("Work.isolation has the unknown value 3");
    frame.work->isolation = LOCKSTEP__ISOLATION__READ_COMMITTED;
}

static void bad_questions(void **state) {
    Lockstep__Frame frames[FRAMES], frame;
    int i = 0;
    (void)state;
    all_kinds(frames);
    while (frames[i].body_case != LOCKSTEP__FRAME__BODY_ASK) i++;
    frame = frames[i];
    assert_wrong(frame.ask->gid, "citus_0_1", "Ask.gid is no gid of lockstep");
    assert_wrong(frame.ask->type, "a type", "Ask.type is no type of events");
}

/* A vote YES and a COMMIT are bound to one transaction of one server, or they are nothing. */
static void bad_votes(void **state) {
    Lockstep__Frame frames[FRAMES], frame;
    (void)state;
    all_kinds(frames);
    frame = frames[5];
    assert_wrong(frame.vote->gid, "lockstep:" GTID ":", "Vote.gid is no gid of lockstep");
    assert_wrong(frame.vote->gid, "citus_0_1", "Vote.gid is no gid of lockstep");
    assert_length(frame.vote->owner, LS_ROLE_MAX, "Vote.owner is no role name");
    assert_wrong(frame.vote->sqlstate, "2350", "Vote.sqlstate is no SQLSTATE");
    assert_wrong(frame.vote->sqlstate, "2350a", "Vote.sqlstate is no SQLSTATE");
    assert_wrong(frame.vote->existing_gtid, "x", "Vote.existing_gtid is no gtid");
    assert_wrong(frame.vote->reason, "\xff", "Vote.reason is not UTF-8");
    frame.vote->has_xid = 0;
    assert_refused("Vote.xid is missing in a vote YES");
    frame.vote->has_xid = 1, frame.vote->xid = 0;
    assert_refused("Vote.xid is missing in a vote YES");
    frame.vote->xid = 750, frame.vote->has_lsn = 0;
    assert_refused("Vote.lsn is missing in a vote YES");
    frame.vote->has_lsn = 1, frame.vote->has_system_id = 0;
    assert_refused("Vote.system_id is missing in a vote YES");
    frame.vote->has_system_id = 1, frame.vote->has_timeline = 0;
    assert_refused("Vote.timeline is missing in a vote YES");
    frame.vote->has_timeline = 1, frame.vote->gid = NULL;
    assert_refused("Vote.gid is missing in a vote YES");
    frame.vote->gid = gid_text, frame.vote->owner = NULL;
    assert_refused("Vote.owner is missing in a vote YES");
    frame.vote->kind = LOCKSTEP__VOTE_KIND__NO, frame.vote->gid = NULL, frame.vote->has_xid = 0;
    assert_int_equal(through(&frame), LS_OK);
    frame.vote->kind = LOCKSTEP__VOTE_KIND__EXISTS, frame.vote->existing_gtid = NULL;
    assert_refused("Vote.existing_gtid is missing in a vote EXISTS");
    frame.vote->kind = (Lockstep__VoteKind)7;
    assert_refused("Vote.kind has the unknown value 7");

    frame = frames[6];
    frame.decide->has_xid = 0;
    assert_refused("Decide.xid is missing in a COMMIT");
    frame.decide->commit = 0;
    assert_int_equal(through(&frame), LS_OK);
    frame = frames[14]; /* Prove holds the same item */
    assert_refused("Prove.items hold something that was not committed");
    frame.prove->items[0]->commit = 1, frame.prove->items[0]->has_xid = 1, frame.prove->items[0]->owner = NULL;
    assert_refused("Decide.owner is missing in a COMMIT");

    frame = frames[8];
    assert_wrong(frame.inquiry->items[0]->gid, "x", "InquiryItem.gid is no gid of lockstep");
    frame.inquiry->items[0]->xid = 0;
    assert_refused("InquiryItem.xid is 0");
    frame = frames[9];
    frame.answer->items[0]->verdict = (Lockstep__Verdict)7;
    assert_refused("AnswerItem.verdict has the unknown value 7");
}

/* One attempt at a saga's step is one message and one transaction, or it is nothing. */
static void bad_sagas(void **state) {
    Lockstep__Frame frames[FRAMES], frame;
    (void)state;
    all_kinds(frames);
    frame = frames[SAGA_WORK];
    assert_int_equal(through(&frame), LS_OK);
    Lockstep__Work *work = frame.work;
    assert_wrong(work->saga->saga, "x", "SagaStep.saga is no gtid");
    assert_wrong(work->saga->step, "", "SagaStep.step is no step name");
    assert_wrong(work->saga->step, "a.b", "SagaStep.step is no step name");
    assert_length(work->saga->step, LS_STEP_MAX, "SagaStep.step is no step name");
    work->saga->result_max = LS_STEP_RESULT_MAX + 1;
    assert_refused("SagaStep.result_max is out of range");
    work->saga->result_max = LS_STEP_RESULT_MAX;
    work->saga->op = (Lockstep__SagaOp)3;
    assert_refused("SagaStep.op has the unknown value 3");
    work->saga->op = LOCKSTEP__SAGA_OP__SAGA_CANCEL;
    assert_refused("Work.statements come with SAGA_CANCEL");
    work->n_statements = 0;
    assert_int_equal(through(&frame), LS_OK);
    work->one_phase = 0;
    assert_refused("Work.saga is not one attempt in one message");
    work->one_phase = 1, work->part = 1;
    assert_refused("Work.saga is not one attempt in one message");
    work->part = 0, work->last = 0;
    assert_refused("Work.saga is not one attempt in one message");
    work->last = 1, work->key = name_of(limit_name, 1);
    assert_refused("Work.saga comes with an Idempotency-Key");

    frame = frames[5];
    frame.vote->barrier = (Lockstep__BarrierState)3;
    assert_refused("Vote.barrier has the unknown value 3");
    frame = frames[16];
    assert_wrong(frame.kept->sagas[1], "x", "Kept.sagas is no gtid");
    assert_wrong(frame.kept->sagas[1], "\xff", "Kept.sagas is not UTF-8");
    frame = frames[17];
    assert_wrong(frame.forget->sagas[1], "x", "Forget.sagas is no gtid");
    frame.forget->outcome_epoch = 0;
    assert_refused("Forget.outcome_epoch is 0");
    frame.forget->outcome_epoch = 3, frame.forget->outcome_sequence = LS_SEQUENCE_MAX + 1;
    assert_refused("Forget.outcome_sequence is out of range");
    frame.forget->has_outcome_sequence = 0;
    assert_refused("Forget.outcome_sequence comes without its other half");
}

/* Bytes that protobuf-c takes and we do not. */
static void not_canonical(void **state) {
    static const struct {
        const char *what;
        uint8_t bytes[32];
        size_t length;
        const char *why;
    } rows[] = {
        {"ping", {0x22, 0x02, 0x08, 0x05}, 4, NULL},
        {"varint of two bytes for 5",
         {0x22, 0x03, 0x08, 0x85, 0x00},
         5,
         "frame is not in canonical form, or a string in it holds a NUL byte"},
        {"token twice",
         {0x22, 0x04, 0x08, 0x05, 0x08, 0x05},
         6,
         "frame is not in canonical form, or a string in it holds a NUL byte"},
        {"NUL in a string",
         {0x7a, 0x05, 0x0a, 0x03, 'a', 0x00, 'b'},
         7,
         "frame is not in canonical form, or a string in it holds a NUL byte"},
        {"ping, then pong",
         {0x22, 0x02, 0x08, 0x05, 0x2a, 0x02, 0x08, 0x05},
         8,
         "frame is not in canonical form, or a string in it holds a NUL byte"},
        {"required field missing", {0x22, 0x00}, 2, "frame is no message of this protocol"},
        {"wrong wire type", {0x22, 0x05, 0x0d, 1, 2, 3, 4}, 7, "frame is no message of this protocol"},
        {"length beyond the end", {0x22, 0x7f, 0x08, 0x05}, 4, "frame is no message of this protocol"},
        {"endless varint",
         {0x22, 0x0b, 0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
         13,
         "frame is no message of this protocol"},
        {"body of a later version", {0xfa, 0x0f, 0x02, 0x08, 0x05}, 5, "frame has no body of a kind known here"},
        {"field of a later version in a ping", {0x22, 0x04, 0x08, 0x05, 0x70, 0x01}, 6, NULL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint8_t data[64] = {0, 0, 0, (uint8_t)rows[i].length};
        memcpy(data + FRAME_HEADER, rows[i].bytes, rows[i].length);
        Lockstep__Frame *frame = NULL;
        enum ls_status status = frame_decode(data, FRAME_HEADER + rows[i].length, &frame, &err);
        if ((status == LS_OK) != (rows[i].why == NULL))
            fail_msg("%s: %s", rows[i].what, status == LS_OK ? "taken" : err.text);
        if (rows[i].why) assert_string_equal(err.text, rows[i].why);
        if (frame) lockstep__frame__free_unpacked(frame, NULL);
    }
}

/* Decodes a copy of exactly that size, the header made to fit; what is taken must survive a round trip. */
static bool decode_garbage(const uint8_t *payload, size_t length) {
    uint8_t *data = malloc(FRAME_HEADER + length);
    Lockstep__Frame *frame = NULL;
    assert_non_null(data);
    data[0] = 0, data[1] = (uint8_t)(length >> 16), data[2] = (uint8_t)(length >> 8), data[3] = (uint8_t)length;
    memcpy(data + FRAME_HEADER, payload, length);
    err.text[0] = '\0';
    enum ls_status status = frame_decode(data, FRAME_HEADER + length, &frame, &err);
    if (status == LS_OK) {
        size_t size;
        uint8_t *again = encode(frame, &size);
        assert_int_equal(size, FRAME_HEADER + length);
        free(again);
        lockstep__frame__free_unpacked(frame, NULL);
    } else {
        assert_int_equal(status, LS_ERR_PROTOCOL);
        assert_true(err.text[0] != '\0');
        assert_null(frame);
    }
    free(data);
    return status == LS_OK;
}

static void truncations_and_flips(void **state) {
    Lockstep__Frame frames[FRAMES];
    (void)state;
    all_kinds(frames);
    for (int i = 0; i < FRAMES; i++) {
        size_t size;
        uint8_t *data = encode(&frames[i], &size);
        for (size_t length = 0; length < size - FRAME_HEADER; length++)
            (void)decode_garbage(data + FRAME_HEADER, length);
        for (size_t at = FRAME_HEADER; at < size; at++) {
            for (int bit = 0; bit < 8; bit++) {
                data[at] ^= (uint8_t)(1 << bit);
                (void)decode_garbage(data + FRAME_HEADER, size - FRAME_HEADER);
                data[at] ^= (uint8_t)(1 << bit);
            }
        }
        free(data);
    }
}

static void mutations(void **state) {
    Lockstep__Frame frames[FRAMES];
    uint64_t seed = 4242;
    unsigned taken = 0;
    (void)state;
    all_kinds(frames);
    for (int round = 0; round < 40000; round++) {
        uint8_t mutant[2048];
        size_t size;
        uint8_t *data = encode(&frames[round % FRAMES], &size);
        size_t length = size - FRAME_HEADER;
        assert_true(length < sizeof mutant - 64);
        memcpy(mutant, data + FRAME_HEADER, length);
        free(data);
        for (uint64_t n = 1 + unit_random(&seed) % 4; n > 0 && length > 0; n--) {
            size_t at = unit_random(&seed) % length;
            switch (unit_random(&seed) % 4) {
            case 0:
                mutant[at] = (uint8_t)unit_random(&seed);
                break;
            case 1: /* leave one byte out */
                memmove(mutant + at, mutant + at + 1, length - at - 1);
                length--;
                break;
            case 2: /* put one in */
                memmove(mutant + at + 1, mutant + at, length - at);
                mutant[at] = (uint8_t)unit_random(&seed);
                length++;
                break;
            default: /* a number made extreme */
                mutant[at] = unit_random(&seed) & 1 ? 0xff : 0x00;
            }
        }
        taken += decode_garbage(mutant, length);
    }
    assert_true(taken > 100); /* the mutations are not all hopeless */
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(round_trip),    cmocka_unit_test(kinds_complete),
                                       cmocka_unit_test(peek),          cmocka_unit_test(size_edge),
                                       cmocka_unit_test(bad_names),     cmocka_unit_test(bad_questions),
                                       cmocka_unit_test(bad_votes),     cmocka_unit_test(bad_sagas),
                                       cmocka_unit_test(not_canonical), cmocka_unit_test(truncations_and_flips),
                                       cmocka_unit_test(mutations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
