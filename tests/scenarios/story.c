/* story.c: see story.h. */
#include "tests/scenarios/story.h"

#include <assert.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/core/engine.h"
#include "coordinator/core/recover.h"
#include "lockstep.pb-c.h"
#include "tests/scenarios/words.h"

#define NAMES_MAX 64
#define RECORDS_MAX 256
#define PARTICIPANTS_MAX 8
#define SYSTEM_ID 7000
#define XID 700 /* of the branch at participant n: 700 + n, unless the story says otherwise */
#define COORDINATOR "story"
#define INCARNATION "00000000abcd"

/* A transaction by the name it has in the story. */
struct tale {
    char name[16];
    uint32_t epoch;
    uint64_t sequence;
    char gtid[LS_GTID_MAX + 1];
    uint32_t only;
    char state[24]; /* as last seen, "" before it was accepted */
};

struct record {
    enum dlog_type type;
    uint8_t bytes[2048];
    size_t length;
    uint64_t ticket;
};

struct person {
    char name[16];
    uint64_t link;
    uint32_t timeline;
};

struct story {
    struct engine *engine;
    struct engine_effects effects;
    struct engine_config config;
    uint64_t now_us, room;
    struct person people[PARTICIPANTS_MAX]; /* registry number - 1 */
    size_t people_count;
    struct tale tales[NAMES_MAX];
    size_t tale_count;
    struct record records[RECORDS_MAX];
    size_t record_count, durable_count;
    uint64_t next_link;
    bool log_full, dead;
    const struct tale *running; /* whose EV_RUN this is */
    struct story_words *words;
    struct agent_story *agent; /* the story is about an agent */
};

/* ------------------------------------------------------------------- words */

#define say(s, ...) words_say((s)->words, __VA_ARGS__)
#define complain(s, ...) words_complain((s)->words, __VA_ARGS__)

static struct tale *tale_by_name(struct story *s, const char *name) {
    for (size_t i = 0; i < s->tale_count; i++)
        if (strcmp(s->tales[i].name, name) == 0) return &s->tales[i];
    return NULL;
}

static struct tale *tale_of(struct story *s, uint32_t epoch, uint64_t sequence) {
    for (size_t i = 0; i < s->tale_count; i++)
        if (s->tales[i].epoch == epoch && s->tales[i].sequence == sequence) return &s->tales[i];
    return NULL;
}

static uint32_t person_number(const struct story *s, const char *name) {
    for (size_t i = 0; i < s->people_count; i++)
        if (strcmp(s->people[i].name, name) == 0) return (uint32_t)i + 1;
    return 0;
}

static const char *person_name(const struct story *s, uint32_t number_) {
    return number_ >= 1 && number_ <= s->people_count ? s->people[number_ - 1].name : "?";
}

static const char *name_of(struct story *s, const struct txn *txn) {
    const struct tale *tale = txn != NULL ? tale_of(s, txn->epoch, txn->sequence) : NULL;
    return tale != NULL ? tale->name : "?";
}

/* ------------------------------------------------------------------ the log */

static struct record *append(struct story *s, enum dlog_type type, uint64_t ticket) {
    assert(s->record_count < RECORDS_MAX);
    struct record *record = &s->records[s->record_count++];
    record->type = type;
    record->ticket = ticket;
    return record;
}

static void append_commit(struct story *s, const struct engine_effect *e) {
    Lockstep__LogCommit commit = LOCKSTEP__LOG_COMMIT__INIT;
    Lockstep__LogBranch branches[PARTICIPANTS_MAX];
    Lockstep__LogBranch *list[PARTICIPANTS_MAX];
    char names[128] = "";
    for (uint32_t i = 0; i < e->txn->branch_count; i++) {
        const struct txn_branch *from = &e->txn->branches[i];
        if (from->state != BR_YES) continue;
        Lockstep__LogBranch *to = &branches[commit.n_branches];
        lockstep__log_branch__init(to);
        to->participant = from->id.participant;
        to->system_id = from->id.system_id;
        to->xid = from->id.xid;
        to->lsn = from->id.lsn;
        to->timeline = from->id.timeline;
        to->owner = (char *)(uintptr_t)from->id.owner;
        to->gid = (char *)(uintptr_t)from->id.gid;
        list[commit.n_branches++] = to;
        (void)snprintf(names + strlen(names), sizeof names - strlen(names), " %s", person_name(s, from->participant));
    }
    commit.branches = list;
    commit.epoch = e->txn->epoch;
    commit.sequence = e->txn->sequence;
    if (e->txn->has_key) {
        commit.has_key_digest = commit.has_document_digest = true;
        commit.key_digest = (ProtobufCBinaryData){16, (uint8_t *)(uintptr_t)e->txn->key_digest};
        commit.document_digest = (ProtobufCBinaryData){16, (uint8_t *)(uintptr_t)e->txn->document_digest};
    }
    struct record *record = append(s, DLOG_COMMIT, e->ticket);
    record->length = lockstep__log_commit__pack(&commit, record->bytes);
    engine_set_log_position(s->engine, e->txn->epoch, e->txn->sequence, s->record_count);
    say(s, "log COMMIT %s%s", name_of(s, e->txn), names);
}

static void append_end(struct story *s, const struct engine_effect *e) {
    Lockstep__LogEnd end = LOCKSTEP__LOG_END__INIT;
    end.epoch = e->txn->epoch;
    end.sequence = e->txn->sequence;
    struct record *record = append(s, DLOG_END, e->ticket);
    record->length = lockstep__log_end__pack(&end, record->bytes);
    say(s, "log END %s", name_of(s, e->txn));
}

static void append_hazard(struct story *s, const struct engine_effect *e) {
    Lockstep__LogHazard hazard = LOCKSTEP__LOG_HAZARD__INIT;
    hazard.epoch = e->hazard.epoch;
    hazard.sequence = e->hazard.sequence;
    hazard.participant = e->hazard.participant;
    hazard.reason = (char *)(uintptr_t)e->text;
    struct record *record = append(s, DLOG_HAZARD, e->ticket);
    record->length = lockstep__log_hazard__pack(&hazard, record->bytes);
    const struct tale *tale = tale_of(s, e->hazard.epoch, e->hazard.sequence);
    say(s, "log HAZARD %s %s: %s", tale != NULL ? tale->name : "?", person_name(s, e->hazard.participant), e->text);
}

/* The durable decision of a transaction, or NULL. To be freed by the caller. */
static Lockstep__LogCommit *find_commit(struct story *s, uint32_t epoch, uint64_t sequence) {
    for (size_t i = 0; i < s->durable_count; i++) {
        if (s->records[i].type != DLOG_COMMIT) continue;
        Lockstep__LogCommit *commit = lockstep__log_commit__unpack(NULL, s->records[i].length, s->records[i].bytes);
        assert(commit != NULL);
        if (commit->epoch == epoch && commit->sequence == sequence) return commit;
        lockstep__log_commit__free_unpacked(commit, NULL);
    }
    return NULL;
}

/* ----------------------------------------------------------------- the step */

static const char *why_refused(enum refuse_why why) {
    switch (why) {
    case REFUSE_BUSY:
        return "429 busy";
    case REFUSE_KEYS_FULL:
        return "429 keys full";
    case REFUSE_NOMEM:
        return "429 no memory";
    case REFUSE_OFFLINE:
        return "503 offline";
    case REFUSE_DRAINING:
        return "503 draining";
    case REFUSE_LOG_FULL:
        return "503 log full";
    case REFUSE_KEY_MISMATCH:
        return "422 key of another document";
    }
    return "?";
}

static const char *verdict_word(enum verdict verdict) {
    switch (verdict) {
    case VERDICT_IS_PENDING:
        return "pending";
    case VERDICT_IS_COMMIT:
        return "commit";
    case VERDICT_IS_ABORT:
        return "abort";
    case VERDICT_IS_STRANGER:
        return "stranger";
    case VERDICT_IS_FOREIGN:
        return "foreign";
    case VERDICT_IS_HUMAN:
        return "human";
    case VERDICT_IS_FORGOTTEN:
        return "forgotten";
    }
    return "?";
}

static void say_outcome(struct story *s, const struct txn *txn) {
    bool reason = txn->outcome != OUTCOME_COMMITTED && txn->cause.reason[0] != '\0';
    say(s, "answer %s %s%s%s%s%s", name_of(s, txn), txn_outcome_name(txn->outcome), reason ? ": " : "",
        reason && txn->cause.sqlstate[0] != '\0' ? txn->cause.sqlstate : "",
        reason && txn->cause.sqlstate[0] != '\0' ? " " : "", reason ? txn->cause.reason : "");
}

static void accepted(struct story *s, const struct txn *txn) {
    struct tale *tale = tale_by_name(s, s->running->name);
    tale->epoch = txn->epoch;
    tale->sequence = txn->sequence;
    tale->only = txn->one_participant ? txn->branches[0].participant : 0;
    memcpy(tale->gtid, txn->gtid, sizeof tale->gtid);
    words_rename(s->words, tale->gtid, tale->name);
    (void)snprintf(tale->state, sizeof tale->state, "%s", "new");
}

static void carry_out(struct story *s, const struct engine_effect *e) {
    const char *at = e->txn != NULL && e->branch < e->txn->branch_count
                         ? person_name(s, e->txn->branches[e->branch].participant)
                         : "";
    const struct tale *other;
    switch (e->kind) {
    case EF_ACCEPTED:
        accepted(s, e->txn);
        return;
    case EF_JOINED:
        other = tale_of(s, e->joined.epoch, e->joined.sequence);
        say(s, "joins %s", other != NULL ? other->name : "?");
        return;
    case EF_REFUSED:
        say(s, "refused: %s%s%s", why_refused(e->refused.why), e->refused.participant != 0 ? " " : "",
            e->refused.participant != 0 ? person_name(s, e->refused.participant) : "");
        return;
    case EF_SEND_WORK:
        say(s, "send WORK %s %s part %u%s", name_of(s, e->txn), at, e->work.part, e->work.last ? " last" : "");
        return;
    case EF_SEND_DECIDE:
        say(s, "send %s %s %s", e->decide.commit ? "COMMIT" : "ABORT", name_of(s, e->txn), at);
        return;
    case EF_SEND_SETTLE:
        say(s, "send SETTLE %s %s", name_of(s, e->txn), at);
        return;
    case EF_VERDICT:
        say(s, "verdict for %s: %s", person_name(s, e->verdict.participant), verdict_word(e->verdict.verdict));
        return;
    case EF_LOG_COMMIT:
        append_commit(s, e);
        return;
    case EF_LOG_END:
        append_end(s, e);
        return;
    case EF_LOG_HAZARD:
        append_hazard(s, e);
        return;
    case EF_OUTCOME:
        say_outcome(s, e->txn);
        return;
    case EF_APPLIED:
        say(s, "applied %s", name_of(s, e->txn));
        return;
    case EF_PENDING:
        say(s, "pending %s", name_of(s, e->txn));
        return;
    case EF_REPORT:
        say(s, "report: %s", e->text);
        return;
    case EF_RELEASE:
        return;
    case EF_STOP:
        say(s, "stop %d: %s", e->stop.exit_status, e->text);
        s->dead = true;
        return;
    }
    assert(!"effect kind");
}

static const char *state_now(const struct story *s, const struct tale *tale) {
    const struct txn *txn = engine_find(s->engine, tale->epoch, tale->sequence);
    if (txn != NULL) return txn_state_name(txn->state);
    const struct txn_finished *finished = engine_find_finished(s->engine, tale->epoch, tale->sequence);
    return finished != NULL ? txn_outcome_name(finished->outcome) : "unknown";
}

static void say_changes(struct story *s) {
    for (size_t i = 0; i < s->tale_count; i++) {
        struct tale *tale = &s->tales[i];
        const char *now = tale->state[0] != '\0' ? state_now(s, tale) : "";
        if (strcmp(now, tale->state) != 0) {
            say(s, "%s %s -> %s", tale->name, tale->state, now);
            (void)snprintf(tale->state, sizeof tale->state, "%s", now);
        }
    }
}

static void step(struct story *s, struct engine_event *event) {
    event->now_us = s->now_us;
    engine_set_log_room(s->engine, s->room);
    engine_step(s->engine, event, &s->effects);
    engine_check(s->engine);
    size_t begin = words_length(s->words);
    for (size_t i = 0; i < s->effects.count; i++) carry_out(s, &s->effects.list[i]);
    size_t changes = words_length(s->words);
    say_changes(s);
    words_bring_forward(s->words, begin,
                        changes); /* the changes of state are told first, what follows from them after */
}

/* ---------------------------------------------------------------- commands */

static void bring_up(struct story *s, uint32_t who, uint32_t credits) {
    struct engine_event event = {.kind = EV_AGENT_UP};
    event.agent_up.participant = who;
    event.agent_up.link = s->people[who - 1].link = ++s->next_link;
    event.agent_up.credits = credits;
    event.agent_up.system_id = SYSTEM_ID + who;
    event.agent_up.timeline = s->people[who - 1].timeline;
    step(s, &event);
}

static void make_ready(struct story *s, uint32_t who) {
    struct engine_event event = {.kind = EV_AGENT_READY};
    event.agent.participant = who;
    event.agent.link = s->people[who - 1].link;
    step(s, &event);
}

/* join A B [credits=n]: new or known participants, linked and ready */
static bool do_join(struct story *s, char *words[], size_t count) {
    uint32_t credits = (uint32_t)words_number(words, count, "credits", 8);
    for (size_t i = 1; i < count; i++) {
        if (strchr(words[i], '=') != NULL) continue;
        uint32_t who = person_number(s, words[i]);
        if (who == 0) {
            if (s->people_count == PARTICIPANTS_MAX) return complain(s, "too many participants");
            struct person *person = &s->people[s->people_count++];
            (void)snprintf(person->name, sizeof person->name, "%s", words[i]);
            person->timeline = 1;
            who = (uint32_t)s->people_count;
            struct engine_event event = {.kind = EV_PARTICIPANT};
            event.participant.number = who;
            event.participant.name = person->name;
            step(s, &event);
        }
        bring_up(s, who, credits);
        make_ready(s, who);
    }
    return true;
}

/* up A | ready A | down A | late A (the old link's down arrives after a new one is up) */
static bool do_link(struct story *s, char *words[], size_t count) {
    uint32_t who = count >= 2 ? person_number(s, words[1]) : 0;
    if (who == 0) return complain(s, "which participant?");
    if (strcmp(words[0], "up") == 0) {
        bring_up(s, who, (uint32_t)words_number(words, count, "credits", 8));
    } else if (strcmp(words[0], "ready") == 0) {
        make_ready(s, who);
    } else {
        struct engine_event event = {.kind = EV_AGENT_DOWN};
        event.agent.participant = who;
        event.agent.link = words_number(words, count, "link", s->people[who - 1].link);
        step(s, &event);
    }
    return true;
}

/* credit A n */
static bool do_credit(struct story *s, char *words[], size_t count) {
    uint32_t who = count == 3 ? person_number(s, words[1]) : 0;
    if (who == 0) return complain(s, "credit WHO NUMBER");
    struct engine_event event = {.kind = EV_CREDIT};
    event.credit.participant = who;
    event.credit.link = s->people[who - 1].link;
    event.credit.credits = (uint32_t)strtoul(words[2], NULL, 10);
    step(s, &event);
    return true;
}

/* begin g1 on A B [then A] [key=k] [document=d] [deadline=30s]: one step each, "then" steps wait for all before them */
static bool do_begin(struct story *s, char *words[], size_t count) {
    if (count < 4 || strcmp(words[2], "on") != 0) return complain(s, "begin NAME on PARTICIPANT...");
    if (tale_by_name(s, words[1]) != NULL || s->tale_count == NAMES_MAX)
        return complain(s, "%s has begun already", words[1]);
    uint32_t participants[PARTICIPANTS_MAX], participant_count = 0;
    struct engine_step_spec steps[WORDS_MAX];
    uint16_t before[WORDS_MAX][WORDS_MAX];
    uint32_t step_count = 0, settled = 0;
    for (size_t i = 3; i < count; i++) {
        if (strchr(words[i], '=') != NULL) continue;
        if (strcmp(words[i], "then") == 0) {
            settled = step_count;
            continue;
        }
        uint32_t who = person_number(s, words[i]);
        if (who == 0) return complain(s, "nobody is called %s", words[i]);
        uint32_t branch = 0;
        while (branch < participant_count && participants[branch] != who) branch++;
        if (branch == participant_count) participants[participant_count++] = who;
        for (uint16_t b = 0; b < settled; b++) before[step_count][b] = b;
        steps[step_count] = (struct engine_step_spec){(uint16_t)branch, (uint16_t)settled, before[step_count]};
        step_count++;
    }
    struct tale *tale = &s->tales[s->tale_count++];
    *tale = (struct tale){0};
    (void)snprintf(tale->name, sizeof tale->name, "%s", words[1]);
    s->running = tale;
    struct engine_event event = {.kind = EV_RUN};
    const char *key = words_option(words, count, "key"), *document = words_option(words, count, "document");
    const char *deadline = words_option(words, count, "deadline");
    event.run.document = tale;
    event.run.app = 1;
    event.run.participants = participants;
    event.run.participant_count = participant_count;
    event.run.steps = steps;
    event.run.step_count = step_count;
    event.run.deadline_us = s->now_us + words_duration(deadline != NULL ? deadline : "30s");
    event.run.has_key = key != NULL;
    if (key != NULL) (void)snprintf((char *)event.run.key_digest, 16, "%s", key);
    (void)snprintf((char *)event.run.document_digest, 16, "%s", document != NULL ? document : "the same");
    step(s, &event);
    if (tale->state[0] == '\0') s->tale_count--; /* refused or joined: the name is free again */
    return true;
}

/* vote A g1 yes|no|read-only|continue|committed|exists|broken ["reason"] [xid=n] [sqlstate=x] [part=n] [link=n]
 * [first=g0] */
static bool do_vote(struct story *s, char *words[], size_t count) {
    static const char *const kinds[] = {"yes", "no", "read-only", "continue", "committed", "exists", "broken"};
    uint32_t who = count >= 4 ? person_number(s, words[1]) : 0;
    const struct tale *tale = who != 0 ? tale_by_name(s, words[2]) : NULL;
    if (tale == NULL) return complain(s, "vote WHO NAME KIND");
    struct engine_event event = {.kind = EV_VOTE};
    size_t kind = 0;
    while (kind < sizeof kinds / sizeof kinds[0] && strcmp(kinds[kind], words[3]) != 0) kind++;
    if (kind == sizeof kinds / sizeof kinds[0]) return complain(s, "what vote is %s?", words[3]);
    char gid[LS_GID_MAX + 1];
    ls_gid_format(LS_GID_READABLE, tale->gtid, s->people[who - 1].name, gid);
    event.vote.participant = who;
    event.vote.link = words_number(words, count, "link", s->people[who - 1].link);
    event.vote.epoch = tale->epoch;
    event.vote.sequence = tale->sequence;
    event.vote.kind = (enum vote_kind)kind;
    event.vote.part = (uint32_t)words_number(words, count, "part", 0);
    event.vote.id = (struct txn_branch_id){.participant = who,
                                           .timeline = s->people[who - 1].timeline,
                                           .system_id = SYSTEM_ID + who,
                                           .xid = words_number(words, count, "xid", XID + who),
                                           .lsn = 4096,
                                           .gid = gid,
                                           .owner = "shop"};
    event.vote.sqlstate = words_option(words, count, "sqlstate");
    event.vote.reason = count >= 5 && strchr(words[4], '=') == NULL ? words[4] : NULL;
    const char *first = words_option(words, count, "first");
    const struct tale *existing = first != NULL ? tale_by_name(s, first) : NULL;
    if (existing != NULL) {
        event.vote.existing_epoch = existing->epoch;
        event.vote.existing_sequence = existing->sequence;
        event.vote.existing_same_document = true;
    }
    step(s, &event);
    return true;
}

/* done A g1 committed|aborted|hazard ["reason"] [stranger=1] */
static bool do_done(struct story *s, char *words[], size_t count) {
    static const char *const kinds[] = {"committed", "aborted", "hazard"};
    uint32_t who = count >= 4 ? person_number(s, words[1]) : 0;
    const struct tale *tale = who != 0 ? tale_by_name(s, words[2]) : NULL;
    if (tale == NULL) return complain(s, "done WHO NAME KIND");
    size_t kind = 0;
    while (kind < 3 && strcmp(kinds[kind], words[3]) != 0) kind++;
    if (kind == 3) return complain(s, "what end is %s?", words[3]);
    struct engine_event event = {.kind = EV_DONE};
    event.done.participant = who;
    event.done.link = words_number(words, count, "link", s->people[who - 1].link);
    event.done.epoch = tale->epoch;
    event.done.sequence = tale->sequence;
    event.done.kind = (enum done_kind)kind;
    event.done.stranger = words_number(words, count, "stranger", 0) != 0;
    event.done.reason = count >= 5 && strchr(words[4], '=') == NULL ? words[4] : NULL;
    step(s, &event);
    return true;
}

/* inquire A g1 [xid=n] [kept=beyond] [history=changed]: A has found the gid of g1 prepared; or: inquire A epoch=e
 * sequence=n */
static bool do_inquire(struct story *s, char *words[], size_t count) {
    uint32_t who = count >= 3 ? person_number(s, words[1]) : 0;
    if (who == 0) return complain(s, "inquire WHO NAME");
    const struct tale *tale = tale_by_name(s, words[2]);
    struct engine_event event = {.kind = EV_INQUIRY};
    event.inquiry.participant = who;
    event.inquiry.link = s->people[who - 1].link;
    event.inquiry.epoch = tale != NULL ? tale->epoch : (uint32_t)words_number(words, count, "epoch", 0);
    event.inquiry.sequence = tale != NULL ? tale->sequence : words_number(words, count, "sequence", 0);
    if (event.inquiry.epoch == 0 || event.inquiry.sequence == 0) return complain(s, "about what?");
    char gtid[LS_GTID_MAX + 1], gid[LS_GID_MAX + 1];
    struct ls_gtid id = {.coordinator = COORDINATOR,
                         .incarnation = INCARNATION,
                         .epoch = event.inquiry.epoch,
                         .sequence = event.inquiry.sequence};
    ls_gtid_format(&id, gtid);
    ls_gid_format(LS_GID_READABLE, gtid, s->people[who - 1].name, gid);
    event.inquiry.gid = gid;
    event.inquiry.xid = words_number(words, count, "xid", XID + who);
    event.inquiry.system_id = SYSTEM_ID + who;
    event.inquiry.timeline = s->people[who - 1].timeline;
    const char *history = words_option(words, count, "history"), *kept = words_option(words, count, "kept");
    event.inquiry.history_changed = history != NULL && strcmp(history, "changed") == 0;
    struct txn_branch_id ids[PARTICIPANTS_MAX];
    Lockstep__LogCommit *commit = find_commit(s, event.inquiry.epoch, event.inquiry.sequence);
    if (kept != NULL && strcmp(kept, "beyond") == 0) {
        event.inquiry.kept = KEPT_BEYOND_HORIZON;
    } else if (event.inquiry.epoch > s->config.epoch) {
        event.inquiry.kept = KEPT_FUTURE;
    } else if (commit != NULL) {
        event.inquiry.kept = KEPT_COMMIT;
        event.inquiry.kept_branches = ids;
        event.inquiry.kept_branch_count = (uint32_t)commit->n_branches;
        for (size_t i = 0; i < commit->n_branches; i++) {
            const Lockstep__LogBranch *b = commit->branches[i];
            ids[i] = (struct txn_branch_id){.participant = b->participant,
                                            .timeline = b->timeline,
                                            .system_id = b->system_id,
                                            .xid = b->xid,
                                            .lsn = b->lsn,
                                            .gid = b->gid,
                                            .owner = b->owner};
        }
    }
    step(s, &event);
    if (commit != NULL) lockstep__log_commit__free_unpacked(commit, NULL);
    return true;
}

/* durable [n]: the disk has everything that was logged, or all but the last n */
static bool do_durable(struct story *s, char *words[], size_t count) {
    size_t but = count >= 2 ? strtoul(words[1], NULL, 10) : 0;
    if (but > s->record_count - s->durable_count) return complain(s, "so much is not waiting");
    s->durable_count = s->record_count - but;
    if (s->durable_count == 0) return true;
    struct engine_event event = {.kind = EV_LOG_DURABLE};
    event.log_durable.ticket = s->records[s->durable_count - 1].ticket;
    step(s, &event);
    return true;
}

static void new_engine(struct story *s) {
    s->engine = engine_new(&s->config);
    assert(s->engine != NULL);
    engine_set_log_room(s->engine, s->room);
}

static uint32_t app_number(void *context, const char *app) {
    (void)context;
    return app[0] != '\0' ? 1 : 0;
}

/* crash: what is not durable is lost, and with it all memory */
static bool do_crash(struct story *s) {
    engine_free(s->engine);
    s->engine = NULL;
    s->dead = true;
    say(s, "crash: %zu of %zu records were durable", s->durable_count, s->record_count);
    s->record_count = s->durable_count;
    return true;
}

/* restart: the next epoch begins with what the log says */
static bool do_restart(struct story *s) {
    if (s->engine != NULL) return complain(s, "it has not crashed");
    struct recovery *recovery = recovery_new();
    assert(recovery != NULL);
    struct ls_error err;
    for (size_t i = 0; i < s->people_count; i++) {
        Lockstep__LogParticipant who = LOCKSTEP__LOG_PARTICIPANT__INIT;
        uint8_t bytes[128];
        who.number = (uint32_t)i + 1;
        who.name = s->people[i].name;
        size_t length = lockstep__log_participant__pack(&who, bytes);
        enum ls_status status = recovery_record(recovery, DLOG_PARTICIPANT, 0, bytes, length, &err);
        assert(status == LS_OK);
    }
    for (size_t i = 0; i < s->record_count; i++) {
        enum ls_status status =
            recovery_record(recovery, s->records[i].type, i + 1, s->records[i].bytes, s->records[i].length, &err);
        assert(status == LS_OK);
        s->records[i].ticket = 0; /* of an earlier life */
    }
    s->config.epoch++;
    s->dead = false;
    new_engine(s);
    recovery_apply(recovery, s->engine, app_number, NULL, s->now_us, &s->effects);
    engine_check(s->engine);
    say(s, "restart: epoch %u, %zu open decisions", s->config.epoch, recovery_open_count(recovery));
    recovery_free(recovery);
    say_changes(s);
    return true;
}

/* wait 5s: time passes; timers ring when they are due */
static bool do_wait(struct story *s, char *words[], size_t count) {
    if (count != 2) return complain(s, "how long?");
    uint64_t until = s->now_us + words_duration(words[1]);
    uint64_t due;
    while ((due = engine_next_timer(s->engine)) <= until) {
        s->now_us = due > s->now_us ? due : s->now_us;
        struct engine_event event = {.kind = EV_TICK};
        step(s, &event);
    }
    s->now_us = until;
    return true;
}

static bool do_cancel(struct story *s, char *words[], size_t count) {
    const struct tale *tale = count >= 2 ? tale_by_name(s, words[1]) : NULL;
    if (tale == NULL) return complain(s, "cancel what?");
    struct engine_event event = {.kind = EV_CANCEL};
    event.cancel.epoch = tale->epoch;
    event.cancel.sequence = tale->sequence;
    event.cancel.reason = "cancelled by the client";
    step(s, &event);
    return true;
}

/* ask g1: a client asks for a one-participant transaction of an earlier life */
static bool do_ask(struct story *s, char *words[], size_t count) {
    const struct tale *tale = count >= 2 ? tale_by_name(s, words[1]) : NULL;
    if (tale == NULL || tale->only == 0) return complain(s, "ask about what?");
    struct engine_event event = {.kind = EV_SETTLE};
    event.settle.epoch = tale->epoch;
    event.settle.sequence = tale->sequence;
    event.settle.participant = tale->only;
    event.settle.app = 1;
    step(s, &event);
    return true;
}

/* limits in-flight=n waiting=n presume=5s room=bytes: before anything else, or after a restart (room: at any time) */
static bool do_limits(struct story *s, char *words[], size_t count) {
    s->room = words_number(words, count, "room", s->room);
    if (words_option(words, count, "in-flight") == NULL && words_option(words, count, "waiting") == NULL &&
        words_option(words, count, "presume") == NULL) {
        return true;
    }
    if (s->people_count != 0) return complain(s, "limits come first");
    s->config.in_flight_max = (uint32_t)words_number(words, count, "in-flight", s->config.in_flight_max);
    s->config.waiting_max = (uint32_t)words_number(words, count, "waiting", s->config.waiting_max);
    const char *presume = words_option(words, count, "presume");
    if (presume != NULL) s->config.presume_wait_us = words_duration(presume);
    engine_free(s->engine);
    new_engine(s);
    return true;
}

static bool do_drain(struct story *s) {
    struct engine_event event = {.kind = EV_DRAIN};
    step(s, &event);
    say(s, "draining");
    return true;
}

const char *story_complaint(const struct story *s) {
    return words_complaint(s->words);
}

const char *story_take_trace(struct story *s) {
    return words_take(s->words);
}

bool story_command(struct story *s, const char *command) {
    char copy[1024];
    char *words[WORDS_MAX];
    if (strlen(command) >= sizeof copy) return complain(s, "too long");
    memcpy(copy, command, strlen(command) + 1);
    size_t count = words_split(copy, words);
    if (count == 0) return true;
    if (s->agent == NULL && strcmp(words[0], "agent") == 0) {
        s->agent = agent_story_new(s->words);
        return true;
    }
    if (s->agent != NULL) return agent_story_command(s->agent, words, count);
    if (strcmp(words[0], "restart") == 0) return do_restart(s);
    if (s->dead) return complain(s, "the coordinator is dead");
    if (strcmp(words[0], "crash") == 0) return do_crash(s);
    if (strcmp(words[0], "join") == 0) return do_join(s, words, count);
    if (strcmp(words[0], "begin") == 0) return do_begin(s, words, count);
    if (strcmp(words[0], "vote") == 0) return do_vote(s, words, count);
    if (strcmp(words[0], "done") == 0) return do_done(s, words, count);
    if (strcmp(words[0], "inquire") == 0) return do_inquire(s, words, count);
    if (strcmp(words[0], "durable") == 0) return do_durable(s, words, count);
    if (strcmp(words[0], "wait") == 0) return do_wait(s, words, count);
    if (strcmp(words[0], "cancel") == 0) return do_cancel(s, words, count);
    if (strcmp(words[0], "ask") == 0) return do_ask(s, words, count);
    if (strcmp(words[0], "credit") == 0) return do_credit(s, words, count);
    if (strcmp(words[0], "limits") == 0) return do_limits(s, words, count);
    if (strcmp(words[0], "drain") == 0) return do_drain(s);
    if (strcmp(words[0], "up") == 0 || strcmp(words[0], "ready") == 0 || strcmp(words[0], "down") == 0)
        return do_link(s, words, count);
    return complain(s, "unknown command %s", words[0]);
}

/* --------------------------------------------------------------------- life */

struct story *story_new(void) {
    struct story *s = calloc(1, sizeof *s);
    assert(s != NULL);
    s->config = (struct engine_config){.coordinator = COORDINATOR,
                                       .incarnation = INCARNATION,
                                       .epoch = 1,
                                       .in_flight_max = 16,
                                       .waiting_max = 8,
                                       .finished_max = 64,
                                       .keys_max = 64,
                                       .resend_us = 5000000};
    s->words = words_new();
    s->room = 1 << 20;
    s->now_us = 1000000;
    new_engine(s);
    return s;
}

void story_free(struct story *s) {
    if (s == NULL) return;
    engine_free(s->engine);
    engine_effects_free(&s->effects);
    agent_story_free(s->agent);
    words_free(s->words);
    free(s);
}
