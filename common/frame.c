/*
 * frame.c: frames on the wire, and the checks that protobuf-c leaves out.
 *
 * A decoded frame holds: exactly one known body; strings that are UTF-8 without NUL; names, gtids and gids of our
 * alphabets and bounds; hashes of their length; enum values that this version knows. It was written in the one
 * canonical way (shortest varints, nothing twice), which is found by comparing sizes, and which catches an embedded NUL
 * too. Whoever uses a frame may rely on all that.
 */
#include "common/frame.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/text.h"
#include "lockstep/ids.h"

#define HASH_LENGTH 16
#define SHORT_TEXT_MAX 128 /* texts for display: versions, database names, nonces */

static void put_u32(uint8_t *out, uint32_t value) {
    out[0] = (uint8_t)(value >> 24);
    out[1] = (uint8_t)(value >> 16);
    out[2] = (uint8_t)(value >> 8);
    out[3] = (uint8_t)value;
}

static uint32_t get_u32(const uint8_t *in) {
    return (uint32_t)in[0] << 24 | (uint32_t)in[1] << 16 | (uint32_t)in[2] << 8 | in[3];
}

size_t frame_size(const Lockstep__Frame *frame) {
    return FRAME_HEADER + lockstep__frame__get_packed_size(frame);
}

enum ls_status frame_encode(const Lockstep__Frame *frame, uint8_t *out, size_t size, struct ls_error *err) {
    assert(size >= FRAME_HEADER);
    size_t payload = size - FRAME_HEADER;
    if (payload > LS_FRAME_MAX)
        return ls_fail(err, LS_ERR_TOO_LARGE, "frame of %zu bytes, the limit is %u", payload, LS_FRAME_MAX);
    put_u32(out, (uint32_t)payload);
    size_t packed = lockstep__frame__pack(frame, out + FRAME_HEADER);
    assert(packed == payload);
    (void)packed;
    return LS_OK;
}

enum ls_status frame_peek(const uint8_t *data, size_t length, size_t *ret_need, struct ls_error *err) {
    if (length < FRAME_HEADER) {
        *ret_need = 0;
        return LS_OK;
    }
    uint32_t payload = get_u32(data);
    if (payload > LS_FRAME_MAX)
        return ls_fail(err, LS_ERR_TOO_LARGE, "frame of %u bytes, the limit is %u", payload, LS_FRAME_MAX);
    *ret_need = FRAME_HEADER + payload;
    return LS_OK;
}

/* ------------------------------------------------------------------ checks by type, from the generated descriptors */

static enum ls_status bad(struct ls_error *err, const char *message, const char *field, const char *what) {
    return ls_fail(err, LS_ERR_PROTOCOL, "%s.%s %s", message, field, what);
}

static enum ls_status check_types(const ProtobufCMessage *message, struct ls_error *err);

/* One value at `member`, of the type the descriptor says. */
static enum ls_status check_value(const ProtobufCFieldDescriptor *field, const void *member, const char *message,
                                  struct ls_error *err) {
    if (field->type == PROTOBUF_C_TYPE_STRING) {
        const char *text = *(const char *const *)member;
        if (text && !text_utf8_valid(text, strlen(text))) return bad(err, message, field->name, "is not UTF-8");
    } else if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
        const ProtobufCMessage *inner = *(const ProtobufCMessage *const *)member;
        if (inner) return check_types(inner, err);
    } else if (field->type == PROTOBUF_C_TYPE_ENUM) {
        int value = *(const int *)member;
        if (!protobuf_c_enum_descriptor_get_value(field->descriptor, value)) {
            return ls_fail(err, LS_ERR_PROTOCOL, "%s.%s has the unknown value %d", message, field->name, value);
        }
    }
    return LS_OK;
}

/* Recurses as deep as the schema is, which has no recursive types. */
static enum ls_status check_types(const ProtobufCMessage *message, struct ls_error *err) {
    const ProtobufCMessageDescriptor *type = message->descriptor;
    const char *base = (const char *)message;
    for (unsigned i = 0; i < type->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &type->fields[i];
        const void *member = base + field->offset;
        enum ls_status status = LS_OK;
        if (field->label == PROTOBUF_C_LABEL_REPEATED) {
            size_t count;
            memcpy(&count, base + field->quantifier_offset, sizeof count);
            if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
                void *const *items = *(void *const *const *)member;
                for (size_t j = 0; j < count && status == LS_OK; j++)
                    status = check_value(field, &items[j], type->short_name, err);
            } else if (field->type == PROTOBUF_C_TYPE_STRING) {
                char *const *items = *(char *const *const *)member;
                for (size_t j = 0; j < count && status == LS_OK; j++)
                    status = check_value(field, &items[j], type->short_name, err);
            } else {
                assert(count == 0 && "the schema repeats messages and strings only");
            }
        } else if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
            uint32_t chosen;
            memcpy(&chosen, base + field->quantifier_offset, sizeof chosen);
            if (chosen == field->id) status = check_value(field, member, type->short_name, err);
        } else {
            status = check_value(field, member, type->short_name, err);
        }
        if (status != LS_OK) return status;
    }
    return LS_OK;
}

/* ------------------------------------------------------------------ checks by meaning */

/* Each returns NULL or what is wrong; an absent optional field (NULL) is fine. */
static const char *wrong_gtid(const char *text) {
    struct ls_gtid gtid;
    return !text || ls_gtid_parse(text, &gtid) == LS_OK ? NULL : "is no gtid";
}

static const char *wrong_gid(const char *text) {
    enum ls_gid_form form;
    struct ls_gtid gtid;
    char participant[LS_PARTICIPANT_MAX + 1];
    return !text || ls_gid_parse(text, &form, &gtid, participant) == LS_OK ? NULL : "is no gid of lockstep";
}

static const char *wrong_participant(const char *text) {
    return !text || ls_name_valid(text, LS_PARTICIPANT_MAX) ? NULL : "is no participant name";
}

static const char *wrong_coordinator(const char *text) {
    return !text || ls_name_valid(text, LS_COORDINATOR_MAX) ? NULL : "is no coordinator name";
}

static const char *wrong_incarnation(const char *text) {
    return !text || (strlen(text) == LS_INCARNATION_LEN && strspn(text, "0123456789abcdef") == LS_INCARNATION_LEN)
               ? NULL
               : "is no incarnation";
}

static const char *wrong_role(const char *text) {
    return !text || (text[0] != '\0' && strlen(text) <= LS_ROLE_MAX) ? NULL : "is no role name";
}

static const char *wrong_app(const char *text) {
    return !text || (text[0] != '\0' && strlen(text) <= LS_IDENTITY_MAX) ? NULL : "is no identity";
}

static const char *wrong_key(const char *text) {
    return !text || (text[0] != '\0' && strlen(text) <= LS_KEY_MAX) ? NULL : "is empty or too long";
}

static const char *wrong_short(const char *text) {
    return !text || strlen(text) <= SHORT_TEXT_MAX ? NULL : "is too long";
}

static const char *wrong_sqlstate(const char *text) {
    return !text || (strlen(text) == LS_SQLSTATE_LEN &&
                     strspn(text, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == LS_SQLSTATE_LEN)
               ? NULL
               : "is no SQLSTATE";
}

static const char *wrong_hash(bool has, const ProtobufCBinaryData *hash) {
    return !has || hash->len == HASH_LENGTH ? NULL : "is not 16 bytes long";
}

/* `what` is NULL when the value is good. */
#define CHECK(message, field, what)                              \
    do {                                                         \
        const char *wrong_ = (what);                             \
        if (wrong_) return bad(err, (message), (field), wrong_); \
    } while (0)

static enum ls_status check_fence(const Lockstep__Fence *fence, struct ls_error *err) {
    if (!fence) return LS_OK;
    CHECK("Fence", "incarnation", wrong_incarnation(fence->incarnation));
    CHECK("Fence", "epoch", fence->epoch == 0 ? "is 0" : NULL);
    return LS_OK;
}

static enum ls_status check_hello(const Lockstep__Hello *hello, struct ls_error *err) {
    CHECK("Hello", "participant", wrong_participant(hello->participant));
    CHECK("Hello", "coordinator", wrong_coordinator(hello->coordinator));
    CHECK("Hello", "nonce", hello->nonce[0] ? wrong_short(hello->nonce) : "is empty");
    CHECK("Hello", "server_version", wrong_short(hello->server_version));
    CHECK("Hello", "database", wrong_short(hello->database));
    CHECK("Hello", "version_min", hello->version_min > hello->version ? "is above version" : NULL);
    return LS_OK;
}

static enum ls_status check_welcome(const Lockstep__Welcome *welcome, struct ls_error *err) {
    CHECK("Welcome", "coordinator", wrong_coordinator(welcome->coordinator));
    CHECK("Welcome", "number",
          welcome->number == 0 || welcome->number > LS_PARTICIPANT_NUMBER_MAX ? "is out of range" : NULL);
    CHECK("Welcome", "accepted_incarnation", wrong_incarnation(welcome->accepted_incarnation));
    return LS_OK;
}

/* One attempt is one message: what decides its race, the barrier row, is written in the transaction it begins. */
static enum ls_status check_saga(const Lockstep__Work *work, struct ls_error *err) {
    const Lockstep__SagaStep *saga = work->saga;
    if (!saga) return LS_OK;
    CHECK("SagaStep", "saga", wrong_gtid(saga->saga));
    CHECK("SagaStep", "step", ls_name_valid(saga->step, LS_STEP_MAX) ? NULL : "is no step name");
    CHECK("SagaStep", "result_max", saga->result_max > LS_STEP_RESULT_MAX ? "is out of range" : NULL);
    CHECK("Work", "saga",
          work->one_phase && work->part == 0 && work->last ? NULL : "is not one attempt in one message");
    CHECK("Work", "saga", work->key ? "comes with an Idempotency-Key" : NULL);
    CHECK("Work", "statements",
          saga->op == LOCKSTEP__SAGA_OP__SAGA_CANCEL && work->n_statements > 0 ? "come with SAGA_CANCEL" : NULL);
    return LS_OK;
}

static enum ls_status check_work(const Lockstep__Work *work, struct ls_error *err) {
    CHECK("Work", "gtid", wrong_gtid(work->gtid));
    CHECK("Work", "app", wrong_app(work->app));
    CHECK("Work", "key", wrong_key(work->key));
    CHECK("Work", "document_hash", wrong_hash(work->has_document_hash, &work->document_hash));
    CHECK("Work", "lock_timeout_ms",
          work->lock_timeout_ms < LS_LOCK_TIMEOUT_MS_MIN || work->lock_timeout_ms > LS_LOCK_TIMEOUT_MS_MAX
              ? "is out of range"
              : NULL);
    CHECK("Work", "deadline_ms", work->deadline_ms > LS_DEADLINE_MS_MAX ? "is out of range" : NULL);
    return check_saga(work, err);
}

static enum ls_status check_vote(const Lockstep__Vote *vote, struct ls_error *err) {
    CHECK("Vote", "gtid", wrong_gtid(vote->gtid));
    CHECK("Vote", "gid", wrong_gid(vote->gid));
    CHECK("Vote", "owner", wrong_role(vote->owner));
    CHECK("Vote", "sqlstate", wrong_sqlstate(vote->sqlstate));
    CHECK("Vote", "existing_gtid", wrong_gtid(vote->existing_gtid));
    CHECK("Vote", "existing_hash", wrong_hash(vote->has_existing_hash, &vote->existing_hash));
    if (vote->kind == LOCKSTEP__VOTE_KIND__YES) {
        CHECK("Vote", "gid", vote->gid ? NULL : "is missing in a vote YES");
        CHECK("Vote", "owner", vote->owner ? NULL : "is missing in a vote YES");
        CHECK("Vote", "xid", vote->has_xid && vote->xid ? NULL : "is missing in a vote YES");
        CHECK("Vote", "lsn", vote->has_lsn && vote->lsn ? NULL : "is missing in a vote YES");
        CHECK("Vote", "system_id", vote->has_system_id ? NULL : "is missing in a vote YES");
        CHECK("Vote", "timeline", vote->has_timeline && vote->timeline ? NULL : "is missing in a vote YES");
    }
    if (vote->kind == LOCKSTEP__VOTE_KIND__EXISTS) {
        CHECK("Vote", "existing_gtid", vote->existing_gtid ? NULL : "is missing in a vote EXISTS");
    }
    return LS_OK;
}

static enum ls_status check_decide(const Lockstep__Decide *decide, struct ls_error *err) {
    CHECK("Decide", "gtid", wrong_gtid(decide->gtid));
    CHECK("Decide", "gid", wrong_gid(decide->gid));
    CHECK("Decide", "owner", wrong_role(decide->owner));
    if (decide->commit) {
        /* A COMMIT that is bound to nothing would be bound to a name (design 2.7). */
        CHECK("Decide", "gid", decide->gid ? NULL : "is missing in a COMMIT");
        CHECK("Decide", "owner", decide->owner ? NULL : "is missing in a COMMIT");
        CHECK("Decide", "xid", decide->has_xid && decide->xid ? NULL : "is missing in a COMMIT");
        CHECK("Decide", "lsn", decide->has_lsn && decide->lsn ? NULL : "is missing in a COMMIT");
        CHECK("Decide", "system_id", decide->has_system_id ? NULL : "is missing in a COMMIT");
        CHECK("Decide", "timeline", decide->has_timeline && decide->timeline ? NULL : "is missing in a COMMIT");
    }
    return LS_OK;
}

static enum ls_status check_inquiry(const Lockstep__Inquiry *inquiry, struct ls_error *err) {
    for (size_t i = 0; i < inquiry->n_items; i++) {
        CHECK("InquiryItem", "gid", wrong_gid(inquiry->items[i]->gid));
        CHECK("InquiryItem", "owner", wrong_role(inquiry->items[i]->owner));
        CHECK("InquiryItem", "xid", inquiry->items[i]->xid ? NULL : "is 0");
    }
    return LS_OK;
}

static enum ls_status check_answer(const Lockstep__Answer *answer, struct ls_error *err) {
    for (size_t i = 0; i < answer->n_items; i++) {
        CHECK("AnswerItem", "gid", wrong_gid(answer->items[i]->gid));
        CHECK("AnswerItem", "xid", answer->items[i]->xid ? NULL : "is 0");
    }
    return LS_OK;
}

static enum ls_status check_prove(const Lockstep__Prove *prove, struct ls_error *err) {
    for (size_t i = 0; i < prove->n_items; i++) {
        enum ls_status status = check_decide(prove->items[i], err);
        if (status != LS_OK) return status;
        CHECK("Prove", "items", prove->items[i]->commit ? NULL : "hold something that was not committed");
    }
    return LS_OK;
}

static enum ls_status check_sagas(const char *message, char *const *sagas, size_t count, struct ls_error *err) {
    for (size_t i = 0; i < count; i++) CHECK(message, "sagas", wrong_gtid(sagas[i]));
    return LS_OK;
}

static enum ls_status check_forget(const Lockstep__Forget *forget, struct ls_error *err) {
    CHECK("Forget", "outcome_sequence",
          forget->has_outcome_epoch != forget->has_outcome_sequence ? "comes without its other half" : NULL);
    CHECK("Forget", "outcome_epoch", forget->has_outcome_epoch && forget->outcome_epoch == 0 ? "is 0" : NULL);
    CHECK("Forget", "outcome_sequence", forget->outcome_sequence > LS_SEQUENCE_MAX ? "is out of range" : NULL);
    return check_sagas("Forget", forget->sagas, forget->n_sagas, err);
}

static const char *wrong_type(const char *text) {
    bool good =
        !text || (text[0] != '\0' && strlen(text) <= LS_EVENT_TYPE_MAX &&
                  text[strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")] == '\0');
    return good ? NULL : "is no type of events";
}

static const char *wrong_event_key(const char *text) {
    return !text || (text[0] != '\0' && strlen(text) <= LS_EVENT_KEY_MAX) ? NULL : "is empty or too long";
}

static const char *wrong_saga(const char *text) {
    return !text || (text[0] != '\0' && strlen(text) <= LS_GTID_MAX) ? NULL : "is empty or too long";
}

static const char *wrong_position(uint64_t position) {
    return position > INT64_MAX ? "is out of range" : NULL;
}

static enum ls_status check_route(const Lockstep__Route *route, struct ls_error *err) {
    CHECK("Route", "participant", wrong_participant(route->participant));
    CHECK("Route", "address", wrong_short(route->address));
    CHECK("Route", "types", route->n_types > LS_SUBSCRIPTIONS_MAX ? "are too many" : NULL);
    for (size_t i = 0; i < route->n_types; i++) CHECK("Route", "types", wrong_type(route->types[i]));
    return LS_OK;
}

static enum ls_status check_ask(const Lockstep__Ask *ask, struct ls_error *err) {
    CHECK("Ask", "who", wrong_app(ask->who));
    CHECK("Ask", "type", wrong_type(ask->type));
    CHECK("Ask", "key", wrong_event_key(ask->key));
    CHECK("Ask", "saga", wrong_saga(ask->saga));
    CHECK("Ask", "letter", ask->letter && strlen(ask->letter) > LS_REASON_MAX ? "is too long" : NULL);
    CHECK("Ask", "offset", wrong_position(ask->offset));
    CHECK("Ask", "gid", wrong_gid(ask->gid));
    return LS_OK;
}

static enum ls_status check_events(const Lockstep__Events *events, struct ls_error *err) {
    uint64_t last = 0;
    CHECK("Events", "upto", wrong_position(events->upto));
    CHECK("Events", "stored", events->stored > events->upto ? "is above upto" : NULL);
    CHECK("Events", "events", events->n_events > LS_EVENT_PAGE_MAX ? "are too many" : NULL);
    for (size_t i = 0; i < events->n_events; i++) {
        const Lockstep__Event *event = events->events[i];
        CHECK("Event", "position",
              event->position <= last || event->position > events->upto ? "is out of order" : NULL);
        last = event->position;
        CHECK("Event", "type", wrong_type(event->type));
        CHECK("Event", "key", wrong_event_key(event->key));
        CHECK("Event", "version", event->version > INT64_MAX ? "is out of range" : NULL);
        CHECK("Event", "saga", wrong_saga(event->saga));
    }
    return LS_OK;
}

static enum ls_status check_body(const Lockstep__Frame *frame, struct ls_error *err) {
    switch (frame->body_case) {
    case LOCKSTEP__FRAME__BODY_HELLO:
        return check_hello(frame->hello, err);
    case LOCKSTEP__FRAME__BODY_WELCOME:
        return check_welcome(frame->welcome, err);
    case LOCKSTEP__FRAME__BODY_WORK:
        return check_work(frame->work, err);
    case LOCKSTEP__FRAME__BODY_VOTE:
        return check_vote(frame->vote, err);
    case LOCKSTEP__FRAME__BODY_DECIDE:
        return check_decide(frame->decide, err);
    case LOCKSTEP__FRAME__BODY_DONE:
        CHECK("Done", "gtid", wrong_gtid(frame->done->gtid));
        return LS_OK;
    case LOCKSTEP__FRAME__BODY_INQUIRY:
        return check_inquiry(frame->inquiry, err);
    case LOCKSTEP__FRAME__BODY_ANSWER:
        return check_answer(frame->answer, err);
    case LOCKSTEP__FRAME__BODY_SETTLE:
        CHECK("Settle", "gtid", wrong_gtid(frame->settle->gtid));
        return LS_OK;
    case LOCKSTEP__FRAME__BODY_PROVE:
        return check_prove(frame->prove, err);
    case LOCKSTEP__FRAME__BODY_REFUSE:
        return check_fence(frame->refuse->remembered, err);
    case LOCKSTEP__FRAME__BODY_KEPT:
        return check_sagas("Kept", frame->kept->sagas, frame->kept->n_sagas, err);
    case LOCKSTEP__FRAME__BODY_FORGET:
        return check_forget(frame->forget, err);
    case LOCKSTEP__FRAME__BODY_ROUTE:
        return check_route(frame->route, err);
    case LOCKSTEP__FRAME__BODY_ASK:
        return check_ask(frame->ask, err);
    case LOCKSTEP__FRAME__BODY_TELL:
        CHECK("Tell", "sqlstate", wrong_sqlstate(frame->tell->sqlstate));
        return LS_OK;
    case LOCKSTEP__FRAME__BODY_GREET:
        CHECK("Greet", "participant", wrong_participant(frame->greet->participant));
        CHECK("Greet", "version_min", frame->greet->version_min > frame->greet->version ? "is above version" : NULL);
        return LS_OK;
    case LOCKSTEP__FRAME__BODY_EVENTS:
        return check_events(frame->events, err);
    case LOCKSTEP__FRAME__BODY_STORED:
        CHECK("Stored", "upto", wrong_position(frame->stored->upto));
        return LS_OK;
    case LOCKSTEP__FRAME__BODY_PING:
    case LOCKSTEP__FRAME__BODY_PONG:
    case LOCKSTEP__FRAME__BODY_CREDIT:
    case LOCKSTEP__FRAME__BODY_ERROR:
    case LOCKSTEP__FRAME__BODY_READY:
        return LS_OK;
    case LOCKSTEP__FRAME__BODY__NOT_SET:
    case _LOCKSTEP__FRAME__BODY__CASE_IS_INT_SIZE:
        break;
    }
    return ls_fail(err, LS_ERR_PROTOCOL, "frame has no body of a kind known here");
}

static void *frame_alloc(void *context, size_t size) {
    struct frame_memory *memory = context;
    void *block = malloc(size);
    if (!block && size > 0) memory->exhausted = true;
    return block;
}

static void frame_free(void *context, void *block) {
    (void)context;
    free(block);
}

void frame_memory_init(struct frame_memory *memory) {
    *memory = (struct frame_memory){.allocator = {.alloc = frame_alloc, .free = frame_free, .allocator_data = memory},
                                    .exhausted = false};
}

enum ls_status frame_decode(const uint8_t *data, size_t length, Lockstep__Frame **ret_frame, struct ls_error *err) {
    size_t need = 0;
    enum ls_status status = frame_peek(data, length, &need, err);
    if (status != LS_OK) return status;
    if (need == 0 || need != length) {
        return ls_fail(err, LS_ERR_PROTOCOL, "frame of %zu bytes where its header says %zu", length, need);
    }
    struct frame_memory memory;
    frame_memory_init(&memory);
    Lockstep__Frame *frame = lockstep__frame__unpack(&memory.allocator, length - FRAME_HEADER, data + FRAME_HEADER);
    if (!frame && memory.exhausted) return ls_fail(err, LS_ERR_NOMEM, "out of memory for a frame");
    if (!frame) return ls_fail(err, LS_ERR_PROTOCOL, "frame is no message of this protocol");
    if (lockstep__frame__get_packed_size(frame) != length - FRAME_HEADER) {
        status = ls_fail(err, LS_ERR_PROTOCOL, "frame is not in canonical form, or a string in it holds a NUL byte");
    }
    if (status == LS_OK) status = check_types(&frame->base, err);
    if (status == LS_OK) status = check_fence(frame->fence, err);
    if (status == LS_OK) status = check_body(frame, err);
    if (status != LS_OK) {
        lockstep__frame__free_unpacked(frame, NULL);
        return status;
    }
    *ret_frame = frame;
    return LS_OK;
}

Lockstep__Work *frame_take_work(const Lockstep__Frame *frame) {
    Lockstep__Frame *own = (Lockstep__Frame *)(uintptr_t)frame; /* every decoded frame is heap memory of its own */
    assert(own->body_case == LOCKSTEP__FRAME__BODY_WORK);
    Lockstep__Work *work = own->work;
    own->work = NULL;
    own->body_case = LOCKSTEP__FRAME__BODY__NOT_SET;
    return work;
}
