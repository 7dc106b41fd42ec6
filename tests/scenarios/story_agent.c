/*
 * story_agent.c: an agent for stories: the agent's core as it ships, a server of a few lists, and a coordinator that
 * says what the story says.
 *
 * What an agent asks its server at start (lock, clean-up, identity, fence, scan), proofs, stops and rollbacks are
 * answered at once from the lists; runs, finishes that go wrong, and every word of the coordinator are the story's.
 */
#include <assert.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "participant/core/agent.h"
#include "tests/scenarios/story.h"
#include "tests/scenarios/words.h"

#define TALES_MAX 16
#define OPS_MAX 64
#define SYSTEM_ID 7001
#define PING_US 1000000
/* effects that are no request to the server */
#define CASES_ELSEWHERE    \
    case AEF_STOP:         \
    case AEF_REPORT:       \
    case AEF_DRAINED:      \
    case AEF_DIAL:         \
    case AEF_CLOSE:        \
    case AEF_SEND_HELLO:   \
    case AEF_SEND_READY:   \
    case AEF_SEND_REFUSE:  \
    case AEF_SEND_PONG:    \
    case AEF_SEND_CREDIT:  \
    case AEF_SEND_VOTE:    \
    case AEF_SEND_DONE:    \
    case AEF_SEND_INQUIRY: \
    case AEF_SEND_KEPT:    \
    case AEF_FREE_WORK:    \
    case AEF_FORGET
#define COORDINATOR "story"
#define INCARNATION "00000000abcd"

enum fate { NOTHING, PREPARED, COMMITTED, ABORTED };

/* A transaction by the name it has in the story, and what the server knows of it. */
struct agent_tale {
    char name[16], gtid[LS_GTID_MAX + 1], gid[LS_GID_MAX + 1];
    uint64_t xid, lsn;
    uint64_t stranger_xid; /* another transaction that is prepared under the gid; 0: none */
    enum fate fate;
};

struct op {
    enum agent_effect_kind kind;
    uint64_t op;
    char gtid[LS_GTID_MAX + 1], gid[LS_GID_MAX + 1];
    uint64_t xid;
    bool commit;
};

struct agent_story {
    struct agent *agent;
    struct agent_effects effects;
    struct agent_config config;
    uint64_t now_us, link, lsn, inquiry_token, epoch, position;
    struct agent_fence stored;
    bool has_stored, no_coordinator, no_server;
    uint32_t timeline;
    struct agent_switch history[1];
    struct agent_tale tales[TALES_MAX];
    size_t tale_count;
    struct op ops[OPS_MAX];
    size_t op_count;
    struct agent_answer_item asked[TALES_MAX * 2];
    char asked_gid[TALES_MAX * 2][LS_GID_MAX + 1];
    uint32_t asked_count;
    const char *kept_sagas[TALES_MAX]; /* with barrier rows */
    uint32_t kept_count, version;
    uint64_t kept_token;
    char lose[16];    /* what happens to the next finish: "", or "before", "after" it acted its answer is lost ... */
    char sqlstate[6]; /* ... or is this error */
    struct story_words *words;
    bool dead;
};

static void step(struct agent_story *s, struct agent_event *event);

static struct agent_tale *tale_by_name(struct agent_story *s, const char *name) {
    for (size_t i = 0; i < s->tale_count; i++)
        if (strcmp(s->tales[i].name, name) == 0) return &s->tales[i];
    return NULL;
}

static struct agent_tale *tale_by_gid(struct agent_story *s, const char *gid) {
    for (size_t i = 0; i < s->tale_count; i++)
        if (strcmp(s->tales[i].gid, gid) == 0) return &s->tales[i];
    return NULL;
}

/* A name in a story is a transaction of epoch 1; its number is its sequence; "g3-1" is one participant's. */
static struct agent_tale *tale(struct agent_story *s, const char *name) {
    struct agent_tale *found = tale_by_name(s, name);
    if (found != NULL) return found;
    if (s->tale_count == TALES_MAX || name[0] != 'g') return NULL;
    found = &s->tales[s->tale_count++];
    *found = (struct agent_tale){.xid = 700 + strtoull(name + 1, NULL, 10), .lsn = 1500};
    (void)snprintf(found->name, sizeof found->name, "%s", name);
    struct ls_gtid gtid = {
        .coordinator = COORDINATOR, .incarnation = INCARNATION, .epoch = 1, .sequence = strtoull(name + 1, NULL, 10)};
    gtid.participant = strchr(name, '-') != NULL ? 1 : 0;
    ls_gtid_format(&gtid, found->gtid);
    ls_gid_format(LS_GID_READABLE, found->gtid, s->config.participant, found->gid);
    words_rename(s->words, found->gtid, found->name);
    return found;
}

/* ----------------------------------------------------------------- the server */

static struct agent_server server_now(const struct agent_story *s) {
    return (struct agent_server){
        .system_id = SYSTEM_ID, .timeline = s->timeline, .insert_lsn = s->lsn, .flush_lsn = s->lsn};
}

static void answer_scan(struct agent_story *s, struct agent_event *event, struct agent_prepared *rows) {
    event->kind = AEV_DB_SCAN;
    event->scan.ok = true;
    event->scan.server = server_now(s);
    event->scan.rows = rows;
    for (size_t i = 0; i < s->tale_count; i++) {
        const struct agent_tale *t = &s->tales[i];
        uint64_t xid = t->stranger_xid != 0 ? t->stranger_xid : t->fate == PREPARED ? t->xid : 0;
        if (xid != 0)
            rows[event->scan.count++] =
                (struct agent_prepared){.gid = t->gid, .xid = xid, .owner = "shop", .age_ms = 5};
    }
}

static void answer_proof(struct agent_story *s, const struct op *op, struct agent_event *event) {
    const struct agent_tale *t = tale_by_gid(s, op->gid);
    struct agent_proof_seen *seen = &event->prove.seen;
    event->kind = AEV_DB_PROVE;
    event->prove.ok = true;
    seen->server = server_now(s);
    seen->history = s->history;
    seen->history_count = s->timeline > 1 ? 1 : 0;
    if (t == NULL) return;
    seen->listed = t->stranger_xid != 0 || t->fate == PREPARED;
    seen->listed_xid = t->stranger_xid != 0 ? t->stranger_xid : t->xid;
    seen->listed_owner = "shop";
    if (op->xid != t->xid) return;
    seen->status = t->fate == PREPARED    ? AGENT_XACT_IN_PROGRESS
                   : t->fate == COMMITTED ? AGENT_XACT_COMMITTED
                   : t->fate == ABORTED   ? AGENT_XACT_ABORTED
                                          : AGENT_XACT_FUTURE;
}

static void answer_finish(struct agent_story *s, const struct op *op, struct agent_event *event) {
    struct agent_tale *t = tale_by_gid(s, op->gid);
    struct agent_answer *answer = &event->finish.answer;
    event->kind = AEV_DB_FINISH;
    bool before = strcmp(s->lose, "before") == 0;
    answer->lost = s->lose[0] != '\0' && s->sqlstate[0] == '\0';
    answer->sqlstate = s->lose[0] != '\0' && s->sqlstate[0] != '\0' ? s->sqlstate : NULL;
    s->lose[0] = '\0';
    if (before) return;
    if (t == NULL || (t->fate != PREPARED && t->stranger_xid == 0)) {
        answer->sqlstate = "42704";
        answer->message = "prepared transaction does not exist";
    } else if (t->stranger_xid != 0) {
        assert(!op->commit); /* nobody commits a stranger */
        t->stranger_xid = 0;
    } else {
        t->fate = op->commit ? COMMITTED : ABORTED;
        s->lsn += 100;
    }
}

/* What needs no story: answered at once. False: it is the story's to answer. */
static bool answer(struct agent_story *s, const struct op *op) {
    struct agent_event event = {.op = op->op};
    struct agent_prepared rows[TALES_MAX];
    if (s->no_server && op->kind != AEF_DB_RUN) return false;
    switch (op->kind) {
    case AEF_DB_LOCK:
        event.kind = AEV_DB_LOCK;
        break; /* AGENT_LOCK_TAKEN */
    case AEF_DB_CLEAN:
        event.kind = AEV_DB_CLEAN;
        event.clean.ok = true;
        break;
    case AEF_DB_IDENTITY:
        event.kind = AEV_DB_IDENTITY;
        event.identity.ok = true;
        event.identity.server = server_now(s);
        event.identity.history = s->history;
        event.identity.history_count = s->timeline > 1 ? 1 : 0;
        event.identity.max_prepared = 64;
        event.identity.has_fence = s->has_stored;
        event.identity.fence = s->stored;
        break;
    case AEF_DB_FENCE:
        event.kind = AEV_DB_FENCE;
        event.fence_stored.ok = true;
        break;
    case AEF_DB_SCAN:
        answer_scan(s, &event, rows);
        break;
    case AEF_DB_PROVE:
        answer_proof(s, op, &event);
        break;
    case AEF_DB_FINISH:
        answer_finish(s, op, &event);
        break;
    case AEF_DB_ROLLBACK:
        event.kind = AEV_DB_ROLLBACK;
        break; /* AGENT_SESSION_IDLE */
    case AEF_DB_STOP:
        event.kind = AEV_DB_STOP;
        event.stop.gone = true;
        break;
    case AEF_DB_KEPT:
        event.kind = AEV_DB_KEPT;
        event.kept.ok = true;
        event.kept.sagas = s->kept_sagas;
        event.kept.count = s->kept_count;
        break;
    case AEF_DB_FORGET:
        event.kind = AEV_DB_FORGET;
        event.forgotten.ok = true;
        break;
    case AEF_DB_RUN:
    case AEF_DB_COMMIT1:
    case AEF_DB_RELEASE:
    case AEF_DB_READ_KEY:
    case AEF_DB_SETTLE:
    CASES_ELSEWHERE:
        return false;
    }
    step(s, &event);
    return true;
}

static void answer_all(struct agent_story *s) {
    for (size_t i = 0; i < s->op_count && !s->dead;) {
        struct op op = s->ops[i];
        memmove(&s->ops[i], &s->ops[i + 1], (s->op_count - i - 1) * sizeof s->ops[0]);
        s->op_count--;
        if (answer(s, &op)) {
            i = 0; /* the answer may have asked for more */
            continue;
        }
        memmove(&s->ops[i + 1], &s->ops[i], (s->op_count - i) * sizeof s->ops[0]);
        s->ops[i] = op;
        s->op_count++;
        i++;
    }
}

/* ----------------------------------------------------------------- the step */

static void with_fence(const struct agent_story *s, struct agent_event *event) {
    event->link = s->link;
    event->has_fence = true;
    event->fence = (struct agent_fence){
        .incarnation = INCARNATION, .epoch = (uint32_t)s->epoch, .position = s->position, .chain = s->position * 7};
}

static void welcome(struct agent_story *s, const struct agent_effect *e) {
    struct agent_event event = {.kind = AEV_WELCOME};
    with_fence(s, &event);
    event.welcome.version = s->version;
    event.welcome.number = 1;
    event.welcome.coordinator = COORDINATOR;
    event.welcome.has_chain_at = e->hello.has_fence && e->hello.fence.position <= s->position;
    event.welcome.chain_at = e->hello.fence.position * 7;
    step(s, &event);
}

static const char *op_word(enum agent_effect_kind kind) {
    switch (kind) {
    case AEF_DB_LOCK:
        return "lock";
    case AEF_DB_CLEAN:
        return "end the backends of earlier lives";
    case AEF_DB_IDENTITY:
        return "identity";
    case AEF_DB_SCAN:
        return "scan";
    case AEF_DB_KEPT:
        return "list sagas with barrier rows";
    case AEF_DB_FORGET:
        return "prune";
    case AEF_DB_RUN:
        return "run";
    case AEF_DB_COMMIT1:
        return "COMMIT";
    case AEF_DB_ROLLBACK:
        return "ROLLBACK";
    case AEF_DB_STOP:
        return "end the backend of";
    case AEF_DB_FINISH:
        return "finish";
    case AEF_DB_PROVE:
        return "prove";
    case AEF_DB_READ_KEY:
        return "read key of";
    case AEF_DB_SETTLE:
        return "settle";
    case AEF_DB_FENCE:
    case AEF_DB_RELEASE:
    CASES_ELSEWHERE:
        break;
    }
    return "?";
}

static void ask_server(struct agent_story *s, const struct agent_effect *e) {
    assert(s->op_count < OPS_MAX);
    struct op *op = &s->ops[s->op_count++];
    *op = (struct op){.kind = e->kind, .op = e->op};
    (void)snprintf(op->gtid, sizeof op->gtid, "%s", e->gtid != NULL ? e->gtid : "");
    if (e->kind == AEF_DB_FENCE) {
        s->stored = e->fence.fence;
        s->has_stored = true;
        return; /* of no interest to the story */
    }
    if (e->kind == AEF_DB_FINISH) {
        (void)snprintf(op->gid, sizeof op->gid, "%s", e->finish.gid);
        op->xid = e->finish.xid;
        op->commit = e->finish.commit;
        words_say(s->words, "db %s PREPARED %s xid %llu", op->commit ? "COMMIT" : "ROLLBACK", op->gtid,
                  (unsigned long long)op->xid);
        return;
    }
    if (e->kind == AEF_DB_PROVE) {
        (void)snprintf(op->gid, sizeof op->gid, "%s", e->prove.gid);
        op->xid = e->prove.xid;
    }
    if (e->kind == AEF_DB_FORGET) {
        s->kept_count = 0;
        if (e->forget.has_horizon)
            words_say(s->words, "db prune %u sagas, and outcome rows up to %u.%llu", (unsigned)e->forget.count,
                      (unsigned)e->forget.epoch, (unsigned long long)e->forget.sequence);
        else
            words_say(s->words, "db %s %u sagas", e->forget.prune ? "prune" : "let go of", (unsigned)e->forget.count);
        return;
    }
    words_say(s->words, "db %s%s%s%s", op_word(e->kind), op->gtid[0] != '\0' ? " " : "", op->gtid,
              e->kind == AEF_DB_RUN ? (e->run.last ? e->run.one_phase ? " (last)" : " and PREPARE" : "") : "");
}

static void say_vote(struct agent_story *s, const struct agent_effect *e) {
    static const char *const votes[] = {"yes", "no", "read-only", "continue", "committed", "exists", "broken"};
    static const char *const barriers[] = {", its row says done", ", its row says undone", ", its row says cancelled"};
    words_say(s->words, "vote %s %s%s%s%s%s%s%s", e->gtid, votes[e->vote.kind], e->vote.sqlstate != NULL ? " " : "",
              e->vote.sqlstate != NULL ? e->vote.sqlstate : "", e->vote.reason != NULL ? ": " : "",
              e->vote.reason != NULL ? e->vote.reason : "", e->vote.has_barrier ? barriers[e->vote.barrier] : "",
              e->vote.has_barrier && e->vote.with_results ? ", with results" : "");
}

static void keep_inquiry(struct agent_story *s, const struct agent_effect *e) {
    s->inquiry_token = e->inquiry.token;
    s->asked_count = e->inquiry.count;
    for (uint32_t i = 0; i < e->inquiry.count; i++) {
        (void)snprintf(s->asked_gid[i], sizeof s->asked_gid[i], "%s", e->inquiry.items[i].gid);
        s->asked[i] = (struct agent_answer_item){.gid = s->asked_gid[i], .xid = e->inquiry.items[i].xid};
        const struct agent_tale *t = tale_by_gid(s, e->inquiry.items[i].gid);
        words_say(s->words, "ask about %s xid %llu", t != NULL ? t->name : "?",
                  (unsigned long long)e->inquiry.items[i].xid);
    }
}

/* True: a Hello that is to be welcomed when the step is over. */
static bool carry_out(struct agent_story *s, const struct agent_effect *e) {
    static const char *const ends[] = {"committed", "aborted", "hazard"};
    switch (e->kind) {
    case AEF_STOP:
        words_say(s->words, "stop %d: %s", e->stop.exit_status, e->text);
        s->dead = true;
        return false;
    case AEF_REPORT:
        words_say(s->words, "%s: %s", e->report.alarm ? "alarm" : "report", e->text);
        return false;
    case AEF_DRAINED:
        words_say(s->words, "drained");
        return false;
    case AEF_DIAL:
        words_say(s->words, "dial");
        return false;
    case AEF_CLOSE:
        words_say(s->words, "close the link%s%s", e->text != NULL ? ": " : "", e->text != NULL ? e->text : "");
        return false;
    case AEF_SEND_HELLO:
        words_say(s->words, "Hello");
        return true;
    case AEF_SEND_READY:
        words_say(s->words, "Ready");
        return false;
    case AEF_SEND_REFUSE:
        words_say(s->words, "Refuse: %s", e->refuse.reason);
        return false;
    case AEF_SEND_VOTE:
        say_vote(s, e);
        return false;
    case AEF_SEND_DONE:
        words_say(s->words, "done %s %s%s%s%s", e->gtid, ends[e->done.kind],
                  e->done.stranger ? " (a stranger was rolled back)" : "", e->done.reason != NULL ? ": " : "",
                  e->done.reason != NULL ? e->done.reason : "");
        return false;
    case AEF_SEND_INQUIRY:
        keep_inquiry(s, e);
        return false;
    case AEF_SEND_KEPT:
        s->kept_token = e->kept.token;
        words_say(s->words, "ask which of %u sagas have ended", (unsigned)e->kept.count);
        return false;
    case AEF_SEND_PONG:
    case AEF_SEND_CREDIT:
    case AEF_FREE_WORK:
    case AEF_FORGET:
    case AEF_DB_RELEASE:
        return false;
    case AEF_DB_LOCK:
    case AEF_DB_CLEAN:
    case AEF_DB_IDENTITY:
    case AEF_DB_FENCE:
    case AEF_DB_SCAN:
    case AEF_DB_KEPT:
    case AEF_DB_FORGET:
    case AEF_DB_RUN:
    case AEF_DB_COMMIT1:
    case AEF_DB_ROLLBACK:
    case AEF_DB_STOP:
    case AEF_DB_FINISH:
    case AEF_DB_PROVE:
    case AEF_DB_READ_KEY:
    case AEF_DB_SETTLE:
        ask_server(s, e);
        return false;
    }
    assert(!"effect kind");
    return false;
}

static void step(struct agent_story *s, struct agent_event *event) {
    event->now_us = s->now_us;
    agent_step(s->agent, event, &s->effects);
    agent_check(s->agent);
    bool dialled = false, greeted = false;
    struct agent_effect hello = {0};
    for (size_t i = 0; i < s->effects.count; i++) {
        dialled = dialled || s->effects.list[i].kind == AEF_DIAL;
        if (carry_out(s, &s->effects.list[i])) {
            greeted = true;
            hello = s->effects.list[i];
        }
    }
    if (greeted) welcome(s, &hello);
    if (dialled && !s->no_coordinator) {
        struct agent_event up = {.kind = AEV_LINK_UP, .link = ++s->link};
        step(s, &up);
    }
}

/* ---------------------------------------------------------------- commands */

static struct op *waiting(struct agent_story *s, enum agent_effect_kind kind, const char *gtid) {
    for (size_t i = 0; i < s->op_count; i++)
        if (s->ops[i].kind == kind && strcmp(s->ops[i].gtid, gtid) == 0) return &s->ops[i];
    return NULL;
}

static uint64_t take_op(struct agent_story *s, struct op *op) {
    uint64_t number = op->op;
    size_t i = (size_t)(op - s->ops);
    memmove(&s->ops[i], &s->ops[i + 1], (s->op_count - i - 1) * sizeof s->ops[0]);
    s->op_count--;
    return number;
}

/* work g1 [more]: statements and PREPARE; more: others follow */
static bool do_work(struct agent_story *s, char *words[], size_t count) {
    struct agent_tale *t = count >= 2 ? tale(s, words[1]) : NULL;
    if (t == NULL) return words_complain(s->words, "work on what?");
    struct agent_event event = {.kind = AEV_WORK};
    with_fence(s, &event);
    event.work.gtid = t->gtid;
    event.work.part = (uint32_t)words_number(words, count, "part", 0);
    event.work.last = count < 3 || strcmp(words[2], "more") != 0;
    event.work.one_phase = strchr(t->name, '-') != NULL;
    event.work.lock_timeout_ms = 5000;
    event.work.deadline_ms = 30000;
    event.work.work = t;
    step(s, &event);
    return true;
}

/* ran g1 ... [barrier=done|undone|cancelled]: what the row of a saga's step says
 * ran g1 answered|prepared|open|read-only|tag-rollback|warning|broken|lost|"lost prepared"|failed [sqlstate=x] */
static bool do_ran(struct agent_story *s, char *words[], size_t count) {
    struct agent_tale *t = count >= 3 ? tale(s, words[1]) : NULL;
    struct op *op = t != NULL ? waiting(s, AEF_DB_RUN, t->gtid) : NULL;
    if (op == NULL) return words_complain(s->words, "nothing runs for %s", count >= 2 ? words[1] : "?");
    struct agent_event event = {.kind = AEV_DB_RUN, .op = take_op(s, op)};
    struct agent_run *run = &event.run;
    const char *how = words[2];
    bool warning = strcmp(how, "warning") == 0;
    run->session = AGENT_SESSION_IDLE;
    run->guard = AGENT_GUARD_OK;
    run->identity = (struct agent_identity){
        .system_id = SYSTEM_ID, .timeline = s->timeline, .xid = t->xid, .lsn = t->lsn = s->lsn += 100};
    run->owner = "shop";
    if (strcmp(how, "prepared") == 0 || warning) {
        run->prepare_tag = "PREPARE TRANSACTION";
        run->prepare_warning = warning;
        t->fate = PREPARED;
    } else if (strcmp(how, "open") == 0) {
        run->session = AGENT_SESSION_OPEN;
        run->guard = strchr(t->name, '-') != NULL ? AGENT_GUARD_OK : AGENT_GUARD_NONE;
    } else if (strcmp(how, "read-only") == 0) {
        run->guard = AGENT_GUARD_READ_ONLY;
        run->failed = AGENT_ITEM_GUARD;
        run->sqlstate = "22012";
    } else if (strcmp(how, "tag-rollback") == 0) {
        run->prepare_tag = "ROLLBACK";
        t->fate = ABORTED;
    } else if (strcmp(how, "broken") == 0) {
        run->guard = AGENT_GUARD_MARKER_LOST;
        run->failed = AGENT_ITEM_GUARD;
    } else if (strcmp(how, "failed") == 0) {
        run->guard = AGENT_GUARD_NONE;
        run->failed = AGENT_ITEM_STATEMENT;
        run->sqlstate = words_option(words, count, "sqlstate");
        run->message = "the server says why";
        t->fate = ABORTED;
    } else if (strcmp(how, "answered") == 0) {
        run->guard = AGENT_GUARD_NONE;
        run->failed = AGENT_ITEM_BARRIER;
        run->sqlstate = "LS001";
        run->message = "the step has an answer already";
    } else { /* lost: what the server did is not known here */
        bool prepared = strcmp(how, "lost prepared") == 0;
        *run = (struct agent_run){.session = AGENT_SESSION_LOST};
        t->fate = prepared ? PREPARED : ABORTED;
    }
    const char *barrier = words_option(words, count, "barrier");
    run->has_barrier = barrier != NULL;
    if (barrier != NULL)
        run->barrier = strcmp(barrier, "done") == 0     ? AGENT_BARRIER_DONE
                       : strcmp(barrier, "undone") == 0 ? AGENT_BARRIER_UNDONE
                                                        : AGENT_BARRIER_CANCELLED;
    step(s, &event);
    return true;
}

/* decide g1 commit|abort [xid=n] [lsn=n] */
static bool do_decide(struct agent_story *s, char *words[], size_t count) {
    struct agent_tale *t = count >= 3 ? tale(s, words[1]) : NULL;
    if (t == NULL) return words_complain(s->words, "decide NAME commit|abort");
    struct agent_event event = {.kind = AEV_DECIDE};
    with_fence(s, &event);
    event.decide.gtid = t->gtid;
    event.decide.commit = strcmp(words[2], "commit") == 0;
    event.decide.one_phase = strchr(t->name, '-') != NULL;
    if (event.decide.commit) {
        event.decide.gid = t->gid;
        event.decide.owner = "shop";
        event.decide.identity = (struct agent_identity){.system_id = SYSTEM_ID,
                                                        .timeline = 1,
                                                        .xid = words_number(words, count, "xid", t->xid),
                                                        .lsn = words_number(words, count, "lsn", t->lsn)};
    }
    step(s, &event);
    return true;
}

/* answer commit|abort|pending|stranger|human: to everything that was asked */
static bool do_answer(struct agent_story *s, char *words[], size_t count) {
    static const char *const names[] = {"pending", "commit", "abort", "stranger", "foreign", "human"};
    if (count < 2 || s->asked_count == 0) return words_complain(s->words, "nothing was asked");
    struct agent_event event = {.kind = AEV_ANSWER};
    with_fence(s, &event);
    for (uint32_t i = 0; i < s->asked_count; i++) {
        const char *word = words[i + 1 < count ? i + 1 : count - 1];
        size_t verdict = 0;
        while (verdict < 6 && strcmp(names[verdict], word) != 0) verdict++;
        if (verdict == 6) return words_complain(s->words, "what verdict is %s?", word);
        s->asked[i].verdict = (enum agent_verdict)verdict;
    }
    event.answer.token = s->inquiry_token;
    event.answer.items = s->asked;
    event.answer.count = s->asked_count;
    s->asked_count = 0;
    step(s, &event);
    return true;
}

/* committed1 g1-1 ok|lost|failed: what COMMIT of a one-participant transaction said; settled g1-1
 * committed|aborted|busy */
static bool do_one_phase(struct agent_story *s, char *words[], size_t count) {
    struct agent_tale *t = count >= 3 ? tale(s, words[1]) : NULL;
    bool commit = strcmp(words[0], "committed1") == 0;
    struct op *op = t != NULL ? waiting(s, commit ? AEF_DB_COMMIT1 : AEF_DB_SETTLE, t->gtid) : NULL;
    if (op == NULL) return words_complain(s->words, "nothing of that kind is waited for");
    struct agent_event event = {.kind = commit ? AEV_DB_COMMIT1 : AEV_DB_SETTLE, .op = take_op(s, op)};
    if (commit) {
        event.commit1.answer.lost = strcmp(words[2], "lost") == 0;
        event.commit1.session = event.commit1.answer.lost ? AGENT_SESSION_LOST : AGENT_SESSION_IDLE;
        if (strcmp(words[2], "failed") == 0) event.commit1.answer.sqlstate = "40001";
    } else {
        event.settled.result = strcmp(words[2], "committed") == 0 ? AGENT_SETTLE_COMMITTED
                               : strcmp(words[2], "aborted") == 0 ? AGENT_SETTLE_ABORTED
                                                                  : AGENT_SETTLE_BUSY;
    }
    step(s, &event);
    return true;
}

/* keep g1 g2: the database has barrier rows of these sagas; forget g1 [up-to=n]: the coordinator's answer to which have
 * ended */
static bool do_kept(struct agent_story *s, char *words[], size_t count) {
    char *sagas[TALES_MAX];
    uint32_t n = 0;
    bool keep = strcmp(words[0], "keep") == 0;
    for (size_t i = 1; i < count && n < TALES_MAX && words[i][0] == 'g'; i++) {
        struct agent_tale *t = tale(s, words[i]);
        if (t == NULL) return words_complain(s->words, "which saga is %s?", words[i]);
        sagas[n++] = t->gtid;
    }
    if (keep) {
        s->kept_count = n;
        for (uint32_t i = 0; i < n; i++) s->kept_sagas[i] = sagas[i];
        return true;
    }
    struct agent_event event = {.kind = AEV_FORGET};
    with_fence(s, &event);
    event.forget.has_token = s->kept_token != 0;
    event.forget.token = s->kept_token;
    event.forget.sagas = sagas;
    event.forget.count = n;
    event.forget.sequence = words_number(words, count, "up-to", 0);
    event.forget.has_horizon = event.forget.sequence != 0;
    event.forget.epoch = 1;
    step(s, &event);
    return true;
}

/* server has g1 | server committed g1 | server rolled-back g1 | server stranger g1 xid=n | server failover lsn=n */
static bool do_server(struct agent_story *s, char *words[], size_t count) {
    if (count >= 2 && strcmp(words[1], "failover") == 0) {
        s->history[0] =
            (struct agent_switch){.timeline = s->timeline, .lsn = words_number(words, count, "lsn", s->lsn)};
        s->timeline++;
        return true;
    }
    struct agent_tale *t = count >= 3 ? tale(s, words[2]) : NULL;
    if (t == NULL) return words_complain(s->words, "server WHAT NAME");
    if (strcmp(words[1], "stranger") == 0) {
        t->stranger_xid = words_number(words, count, "xid", 999);
    } else {
        t->fate = strcmp(words[1], "has") == 0         ? PREPARED
                  : strcmp(words[1], "committed") == 0 ? COMMITTED
                  : strcmp(words[1], "lost") == 0      ? NOTHING
                                                       : ABORTED;
    }
    return true;
}

static void new_agent(struct agent_story *s) {
    s->agent = agent_new(&s->config);
    assert(s->agent != NULL);
}

static bool do_simple(struct agent_story *s, char *words[], size_t count) {
    struct agent_event event = {0};
    if (strcmp(words[0], "start") == 0) {
        event.kind = AEV_START;
    } else if (strcmp(words[0], "down") == 0) {
        event.kind = AEV_LINK_DOWN;
        event.link = s->link;
    } else if (strcmp(words[0], "control-lost") == 0) {
        event.kind = AEV_CONTROL_LOST;
    } else if (strcmp(words[0], "lose") == 0 && count >= 2) {
        (void)snprintf(s->lose, sizeof s->lose, "%s", words[1]);
        s->sqlstate[0] = '\0';
        return true;
    } else if (strcmp(words[0], "refuse") == 0 && count >= 2) {
        (void)snprintf(s->lose, sizeof s->lose, "%s", count > 2 ? words[2] : "before");
        (void)snprintf(s->sqlstate, sizeof s->sqlstate, "%s", words[1]);
        return true;
    } else if (strcmp(words[0], "coordinator") == 0 && count >= 2) {
        s->no_coordinator = strcmp(words[1], "away") == 0;
        s->epoch = words_number(words, count, "epoch", s->epoch);
        s->position = words_number(words, count, "position", s->position);
        s->version = (uint32_t)words_number(words, count, "version", s->version);
        return true;
    } else if (strcmp(words[0], "crash") == 0) {
        agent_free(s->agent);
        s->op_count = 0;
        s->asked_count = 0;
        s->dead = false;
        words_say(s->words, "crash");
        new_agent(s);
        return true;
    } else {
        return words_complain(s->words, "unknown command %s", words[0]);
    }
    step(s, &event);
    return true;
}

static bool do_wait(struct agent_story *s, char *words[], size_t count) {
    if (count != 2) return words_complain(s->words, "how long?");
    uint64_t until = s->now_us + words_duration(words[1]), ping_us = s->now_us + PING_US;
    while (!s->dead) {
        uint64_t timer_us = agent_next_timer(s->agent), due = timer_us < ping_us ? timer_us : ping_us;
        if (due > until) break;
        s->now_us = due > s->now_us ? due : s->now_us;
        struct agent_event tick = {.kind = AEV_TICK}, ping = {.kind = AEV_PING};
        if (due == timer_us) step(s, &tick);
        answer_all(s);
        /* a coordinator that is there pings, or the link would be called dead */
        with_fence(s, &ping);
        if (!s->dead) step(s, &ping);
        ping_us = s->now_us + PING_US;
    }
    s->now_us = until;
    return true;
}

bool agent_story_command(struct agent_story *s, char *words[], size_t count) {
    bool good;
    if (strcmp(words[0], "work") == 0) {
        good = do_work(s, words, count);
    } else if (strcmp(words[0], "ran") == 0) {
        good = do_ran(s, words, count);
    } else if (strcmp(words[0], "decide") == 0) {
        good = do_decide(s, words, count);
    } else if (strcmp(words[0], "answer") == 0) {
        good = do_answer(s, words, count);
    } else if (strcmp(words[0], "committed1") == 0 || strcmp(words[0], "settled") == 0) {
        good = do_one_phase(s, words, count);
    } else if (strcmp(words[0], "server") == 0) {
        good = do_server(s, words, count);
    } else if (strcmp(words[0], "keep") == 0 || strcmp(words[0], "forget") == 0) {
        good = do_kept(s, words, count);
    } else if (strcmp(words[0], "wait") == 0) {
        good = do_wait(s, words, count);
    } else {
        good = do_simple(s, words, count);
    }
    if (good) answer_all(s);
    return good;
}

struct agent_story *agent_story_new(struct story_words *words) {
    struct agent_story *s = calloc(1, sizeof *s);
    assert(s != NULL);
    s->words = words;
    agent_config_defaults(&s->config);
    (void)snprintf(s->config.participant, sizeof s->config.participant, "A");
    (void)snprintf(s->config.coordinator, sizeof s->config.coordinator, COORDINATOR);
    s->config.seed = 1;
    s->now_us = 1000000;
    s->lsn = 2000;
    s->timeline = s->epoch = 1;
    s->position = 4096;
    new_agent(s);
    return s;
}

void agent_story_free(struct agent_story *s) {
    if (s == NULL) return;
    agent_free(s->agent);
    agent_effects_free(&s->effects);
    free(s);
}
