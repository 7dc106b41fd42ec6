/*
 * voter.c: `lockstep-bench voter`: an agent without a database, for figures of the coordinator alone.
 *
 * Speaks the real protocol over the real link (common/peer.h, mutual TLS) and answers at once: every last Work is voted
 * YES, every decision is Done. It keeps nothing: what it votes for exists nowhere, and a transaction that would be its
 * alone (one_phase) is refused, because its outcome row would be the only truth about it.
 */
#include <errno.h>
#include <event2/event.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "client/opt.h"
#include "common/hash.h"
#include "common/peer.h"
#include "lockstep/ids.h"
#include "lockstep/status.h"

#define NAME "voter"
#define REDIAL_MS 200
#define STATEMENTS_MAX 1000u

struct voter {
    const char *participant, *coordinator, *address, *ca, *certificate, *key;
    uint32_t credits;
    bool silent; /* says nothing about decisions: they stay open, for figures of recovery */
    bool tell;   /* prints what it is told, and remembers where the coordinator's log stood, as an agent does */
    Lockstep__Fence fence;
    char fence_incarnation[LS_INCARNATION_LEN + 1]; /* "": none yet */
    struct event_base *base;
    SSL_CTX *tls;
    struct peer *peer;
    struct event *redial;
    char nonce[33];
    uint64_t system_id, position; /* position: stands for xid and LSN */
    uint64_t votes, ends;
};

static char *borrowed(const char *text) {
    return (char *)(uintptr_t)text;
}

static void send_frame(struct voter *voter, Lockstep__Frame *frame) {
    if (peer_send(voter->peer, frame) != LS_OK) peer_close(voter->peer, "a frame cannot be sent", false);
}

static void on_open(void *context, struct peer *peer, const struct tls_identity *identity) {
    struct voter *voter = context;
    if (identity->role != TLS_ROLE_COORDINATOR || strcmp(identity->name, voter->coordinator) != 0) {
        peer_close(peer, "not the coordinator that was asked for", true);
        return;
    }
    Lockstep__Hello hello = LOCKSTEP__HELLO__INIT;
    hello.version = LS_PROTOCOL_VERSION_SAGA;
    hello.version_min = LS_PROTOCOL_VERSION_MIN;
    hello.participant = borrowed(voter->participant);
    hello.coordinator = borrowed(voter->coordinator);
    hello.nonce = voter->nonce;
    hello.system_id = voter->system_id;
    hello.timeline = 1;
    hello.insert_lsn = voter->position;
    hello.credits = voter->credits;
    hello.server_version = borrowed("0");
    hello.database = borrowed("none");
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    frame.body_case = LOCKSTEP__FRAME__BODY_HELLO;
    frame.hello = &hello;
    if (voter->tell && voter->fence_incarnation[0] != '\0') frame.fence = &voter->fence;
    send_frame(voter, &frame);
}

/* The newest position it was shown. One that is gone from the log, or has another checksum: an agent would refuse. */
static void remember(struct voter *voter, const Lockstep__Fence *fence) {
    if (fence == NULL || strlen(fence->incarnation) != LS_INCARNATION_LEN) return;
    bool same = strcmp(fence->incarnation, voter->fence_incarnation) == 0;
    if (same && fence->position < voter->fence.position) return;
    voter->fence = *fence;
    memcpy(voter->fence_incarnation, fence->incarnation, sizeof voter->fence_incarnation);
    voter->fence.incarnation = voter->fence_incarnation;
}

static void tell(const char *what, const char *of) {
    (void)printf("told %s %s\n", what, of);
    (void)fflush(stdout);
}

static void check_chain(const struct voter *voter, const Lockstep__Frame *frame) {
    const Lockstep__Welcome *welcome = frame->welcome;
    if (voter->fence_incarnation[0] == '\0' || frame->fence == NULL ||
        strcmp(voter->fence_incarnation, frame->fence->incarnation) != 0) {
        return;
    }
    if (!welcome->has_chain_at || welcome->chain_at != voter->fence.chain) tell("stale", voter->participant);
}

static void on_welcome(struct voter *voter) {
    Lockstep__Ready ready = LOCKSTEP__READY__INIT;
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    frame.body_case = LOCKSTEP__FRAME__BODY_READY;
    frame.ready = &ready;
    send_frame(voter, &frame);
    (void)printf("voting for %s\n", voter->participant);
    (void)fflush(stdout);
}

static void on_work(struct voter *voter, const Lockstep__Work *work) {
    static Lockstep__StepResult results[STATEMENTS_MAX];
    static Lockstep__StepResult *list[STATEMENTS_MAX];
    char gid[LS_GID_MAX + 1];
    Lockstep__Vote vote = LOCKSTEP__VOTE__INIT;
    vote.gtid = work->gtid;
    for (size_t i = 0; i < work->n_statements && i < STATEMENTS_MAX; i++) {
        lockstep__step_result__init(&results[i]);
        results[i].step = work->statements[i]->step;
        results[i].rows_affected = 1;
        list[vote.n_results++] = &results[i];
    }
    vote.results = list;
    if (work->has_one_phase && work->one_phase) {
        vote.kind = LOCKSTEP__VOTE_KIND__NO;
        vote.n_results = 0;
        vote.reason = borrowed("a voter has no database to commit in: name two participants");
    } else if (!work->last) {
        vote.kind = LOCKSTEP__VOTE_KIND__CONTINUE;
        vote.has_part = true;
        vote.part = work->part;
    } else {
        bool xa = work->has_gid_form && work->gid_form == LOCKSTEP__GID_FORM__XA;
        ls_gid_format(xa ? LS_GID_XA : LS_GID_READABLE, work->gtid, voter->participant, gid);
        vote.kind = LOCKSTEP__VOTE_KIND__YES;
        vote.gid = gid;
        vote.has_xid = vote.has_lsn = vote.has_system_id = vote.has_timeline = true;
        vote.xid = vote.lsn = ++voter->position;
        vote.system_id = voter->system_id;
        vote.timeline = 1;
        vote.owner = borrowed("voter");
        voter->votes++;
    }
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    frame.body_case = LOCKSTEP__FRAME__BODY_VOTE;
    frame.vote = &vote;
    send_frame(voter, &frame);
}

static void say_done(struct voter *voter, const char *gtid, bool committed) {
    Lockstep__Done done = LOCKSTEP__DONE__INIT;
    done.gtid = borrowed(gtid);
    done.kind = committed ? LOCKSTEP__DONE_KIND__DONE_COMMITTED : LOCKSTEP__DONE_KIND__DONE_ABORTED;
    Lockstep__Frame frame = LOCKSTEP__FRAME__INIT;
    frame.body_case = LOCKSTEP__FRAME__BODY_DONE;
    frame.done = &done;
    voter->ends++;
    send_frame(voter, &frame);
}

static void on_frame(void *context, struct peer *peer, const Lockstep__Frame *frame) {
    struct voter *voter = context;
    if (voter->tell && frame->body_case == LOCKSTEP__FRAME__BODY_WELCOME) check_chain(voter, frame);
    if (voter->tell) remember(voter, frame->fence);
    switch (frame->body_case) {
    case LOCKSTEP__FRAME__BODY_WELCOME:
        on_welcome(voter);
        return;
    case LOCKSTEP__FRAME__BODY_WORK:
        on_work(voter, frame->work);
        return;
    case LOCKSTEP__FRAME__BODY_DECIDE:
        if (voter->tell) tell(frame->decide->commit ? "commit" : "abort", frame->decide->gtid);
        if (!voter->silent) say_done(voter, frame->decide->gtid, frame->decide->commit);
        return;
    case LOCKSTEP__FRAME__BODY_SETTLE:
        say_done(voter, frame->settle->gtid, false); /* it never committed one alone */
        return;
    case LOCKSTEP__FRAME__BODY_PROVE:
        for (size_t i = 0; i < frame->prove->n_items; i++) say_done(voter, frame->prove->items[i]->gtid, true);
        return;
    case LOCKSTEP__FRAME__BODY_PING:
    case LOCKSTEP__FRAME__BODY_PONG:
        return;
    case LOCKSTEP__FRAME__BODY__NOT_SET:
    case LOCKSTEP__FRAME__BODY_HELLO:
    case LOCKSTEP__FRAME__BODY_VOTE:
    case LOCKSTEP__FRAME__BODY_DONE:
    case LOCKSTEP__FRAME__BODY_INQUIRY:
    case LOCKSTEP__FRAME__BODY_ANSWER:
    case LOCKSTEP__FRAME__BODY_CREDIT:
    case LOCKSTEP__FRAME__BODY_REFUSE:
    case LOCKSTEP__FRAME__BODY_ERROR:
    case LOCKSTEP__FRAME__BODY_READY:
    case LOCKSTEP__FRAME__BODY_KEPT:
    case LOCKSTEP__FRAME__BODY_FORGET:
    case LOCKSTEP__FRAME__BODY_ROUTE:
    case LOCKSTEP__FRAME__BODY_ASK:
    case LOCKSTEP__FRAME__BODY_TELL:
    case LOCKSTEP__FRAME__BODY_GREET:
    case LOCKSTEP__FRAME__BODY_EVENTS:
    case LOCKSTEP__FRAME__BODY_STORED:
    case _LOCKSTEP__FRAME__BODY__CASE_IS_INT_SIZE:
        break;
    }
    peer_close(peer, "a frame that a coordinator does not send", true);
}

static void dial_later(struct voter *voter) {
    struct timeval delay = {.tv_usec = (suseconds_t)REDIAL_MS * 1000};
    (void)event_add(voter->redial, &delay);
}

static void on_closed(void *context, struct peer *peer, const char *reason) {
    struct voter *voter = context;
    (void)peer;
    (void)fprintf(stderr, "lockstep-bench voter: %s: link closed: %s\n", voter->participant, reason);
    voter->peer = NULL;
    dial_later(voter);
}

static void on_dial(evutil_socket_t fd, short what, void *context) {
    static const struct peer_callbacks callbacks = {.on_open = on_open, .on_frame = on_frame, .on_closed = on_closed};
    struct voter *voter = context;
    struct ls_error err;
    (void)fd;
    (void)what;
    if (peer_dial(voter->base, voter->tls, voter->address, &callbacks, voter, &voter->peer, &err) != LS_OK) {
        (void)bench_fail(NAME, LS_EXIT_ERROR, "%s", err.text);
        dial_later(voter);
    }
}

static void on_signal(evutil_socket_t signal, short what, void *context) {
    struct voter *voter = context;
    (void)signal;
    (void)what;
    (void)event_base_loopbreak(voter->base);
}

static int serve(struct voter *voter) {
    struct event *terminate = evsignal_new(voter->base, SIGTERM, on_signal, voter);
    struct event *interrupt = evsignal_new(voter->base, SIGINT, on_signal, voter);
    voter->redial = evtimer_new(voter->base, on_dial, voter);
    if (terminate == NULL || interrupt == NULL || voter->redial == NULL || event_add(terminate, NULL) != 0 ||
        event_add(interrupt, NULL) != 0) {
        return bench_fail(NAME, LS_EXIT_ERROR, "out of memory");
    }
    (void)signal(SIGPIPE, SIG_IGN); /* a link that is closed while it is written to is dialled again */
    on_dial(-1, 0, voter);
    int failed = event_base_dispatch(voter->base);
    peer_free(voter->peer);
    event_free(voter->redial);
    event_free(terminate);
    event_free(interrupt);
    (void)printf("%s: %" PRIu64 " votes, %" PRIu64 " ends\n", voter->participant, voter->votes, voter->ends);
    return failed < 0 ? LS_EXIT_ERROR : LS_EXIT_OK;
}

static int run(struct voter *voter) {
    struct tls_files files = {.ca = voter->ca, .certificate = voter->certificate, .key = voter->key};
    struct ls_error err;
    if (tls_client_context(&files, &voter->tls, &err) != LS_OK) {
        return bench_fail(NAME, LS_EXIT_CONFIG, "%s", err.text);
    }
    random_hex(sizeof voter->nonce - 1, voter->nonce);
    voter->system_id = random_u64() | 1;
    voter->base = event_base_new();
    int exit_status = voter->base == NULL ? bench_fail(NAME, LS_EXIT_ERROR, "out of memory") : serve(voter);
    if (voter->base != NULL) event_base_free(voter->base);
    SSL_CTX_free(voter->tls);
    return exit_status;
}

int bench_voter(int argc, char **argv) {
    struct voter voter = {.credits = 4096, .fence = LOCKSTEP__FENCE__INIT};
    bool help = false;
    const struct opt opts[] = {
        {"participant", 'p', OPT_TEXT, &voter.participant, "NAME", "whom to vote for", 0, 0},
        {"coordinator", 'c', OPT_TEXT, &voter.coordinator, "NAME", "the coordinator's name", 0, 0},
        {"address", 'a', OPT_TEXT, &voter.address, "HOST:PORT", "its listener for agents", 0, 0},
        {"ca", 0, OPT_TEXT, &voter.ca, "FILE", "certificate authority", 0, 0},
        {"cert", 0, OPT_TEXT, &voter.certificate, "FILE", "certificate lockstep://agent/NAME", 0, 0},
        {"cert-key", 0, OPT_TEXT, &voter.key, "FILE", "its key", 0, 0},
        {"credits", 'n', OPT_U32, &voter.credits, "N", "branches it takes at once (4096)", 1, 1000000},
        {"silent", 0, OPT_FLAG, &voter.silent, NULL, "leave decisions unanswered, so that they stay open", 0, 0},
        {"tell", 0, OPT_FLAG, &voter.tell, NULL,
         "print each decision, and `told stale` when the log has lost what it showed", 0, 0},
        {"help", 'h', OPT_FLAG, &help, NULL, "this text", 0, 0},
    };
    const size_t count = sizeof opts / sizeof opts[0];
    struct opt_operands operands;
    struct ls_error err;
    if (opt_parse(opts, count, argc, argv, false, &operands, &err) != LS_OK) {
        return bench_fail(NAME, LS_EXIT_USAGE, "%s", err.text);
    }
    if (help) {
        (void)printf("usage: lockstep-bench voter OPTIONS\n\nAn agent without a database that votes at once.\n\n");
        opt_help(stdout, opts, count);
        return LS_EXIT_OK;
    }
    if (operands.count > 0) return bench_fail(NAME, LS_EXIT_USAGE, "what is `%s`?", operands.items[0]);
    if (voter.participant == NULL || voter.coordinator == NULL || voter.address == NULL || voter.ca == NULL ||
        voter.certificate == NULL || voter.key == NULL) {
        return bench_fail(NAME, LS_EXIT_USAGE,
                          "--participant, --coordinator, --address, --ca, --cert, --cert-key are needed");
    }
    if (!ls_name_valid(voter.participant, LS_PARTICIPANT_MAX)) {
        return bench_fail(NAME, LS_EXIT_USAGE, "`%s` cannot be the name of a participant", voter.participant);
    }
    return run(&voter);
}
