/*
 * sweep.c: prepared transactions that nobody here is working on: listed, asked about, finished.
 *
 * One cycle, page by page (AGENT_INQUIRY_ITEMS_MAX rows, ordered by gid):
 *   DB_SCAN -> Inquiry -> Answer -> DB_SCAN of the same page -> finish what is listed again, prove what is not
 * So a transaction is acted upon only if it was listed before the question and after the answer, with the same xid
 * (hazards 1.12: prepared, then active, then the log, then prepared again; the two in the middle are the
 * coordinator's). Reading the page again instead of each branch by itself is what makes the recovery of thousands
 * quick: every look at pg_prepared_xacts costs the whole list. For the same reason decisions that arrive during the
 * first cycle on a link wait for its pages ("parked").
 *
 * What is alive here is never asked about: a gid is listed while its PREPARE still waits for a standby (hazards 1.18).
 * What has voted YES is asked about once its link is gone, or when it has waited for a whole sweep interval; and it is
 * asked about even if it is not listed any more, for then an outside hand has finished it and only the verdict tells
 * whether that is what was decided.
 *
 * The first cycle on a link goes before Ready; then one every sweep interval, for ever: an orphan may appear at any
 * time.
 */
#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "participant/core/agent_internal.h"

static void scan_page(struct agent *a) {
    a->sweep_us = AGENT_NEVER;
    struct agent_effect *effect = agent_emit(a, AEF_DB_SCAN);
    effect->op = a->scan_op = agent_new_op(a, SLOT_CONTROL);
    effect->scan.after = agent_text(a, "%s", a->page_after);
    effect->scan.limit = AGENT_INQUIRY_ITEMS_MAX;
}

void sweep_begin(struct agent *a) {
    assert(a->scan_op == 0 && a->inquiry_token == 0);
    a->sweeping = true;
    a->sweep_left = false;
    a->sweep_cycle++;
    a->human_count = 0;
    a->foreign_count = 0;
    a->page_after[0] = '\0';
    a->page_again = false;
    a->stats.sweeps++;
    scan_page(a);
}

void sweep_end_of_link(struct agent *a) {
    a->scan_op = 0;
    a->inquiry_token = 0;
    a->sweep_us = AGENT_NEVER;
    a->sweeping = false;
    a->item_count = 0;
    a->sweeps_hasty = 0;
}

/* What waited for a page of this cycle and was on none. */
static void prove_parked(struct agent *a) {
    for (struct agent_branch *b = a->order_first; b != NULL; b = b->order_next)
        if (b->parked) drive_prove_parked(a, b);
}

static void cycle_done(struct agent *a) {
    a->sweeping = false;
    prove_parked(a);
    if (a->human_count > 0)
        agent_report(a, true, NULL,
                     "%" PRIu32
                     " prepared transactions need a human: the coordinator's log no longer goes back that far",
                     a->human_count);
    if (a->foreign_count > a->foreign_told)
        agent_report(
            a, true, NULL,
            "%" PRIu32
            " prepared transactions bear gids of ours, but belong to roles that this agent may not act as: they "
            "are left alone",
            a->foreign_count);
    a->foreign_told = a->foreign_count;
    /* What was left, or is not answered yet, holds locks meanwhile: ask again soon. The pause grows to a second and no
     * further, since a coordinator that waits for the last participant to join can answer from one moment to the next.
     */
    uint64_t again_max_us = a->config.sweep_us < SWEEP_AGAIN_MAX_US ? a->config.sweep_us : SWEEP_AGAIN_MAX_US;
    a->sweeps_hasty = a->sweep_left ? a->sweeps_hasty + 1 : 0;
    a->sweep_us = a->now_us + (a->sweep_left && a->config.sweep_us > SWEEP_AGAIN_US
                                   ? agent_backoff_us(a, a->sweeps_hasty, SWEEP_AGAIN_US, again_max_us)
                                   : a->config.sweep_us);
    if (a->state == AGENT_ASKING) {
        agent_become(a, AGENT_SERVING);
        agent_emit(a, AEF_SEND_READY);
        kept_begin(a);
    }
}

static void send_inquiry(struct agent *a) {
    a->inquiry_token = ++a->serial;
    a->inquiry_due_us = a->now_us + a->config.link_answer_us;
    struct agent_effect *effect = agent_emit(a, AEF_SEND_INQUIRY);
    effect->inquiry.token = a->inquiry_token;
    effect->inquiry.items = a->item_out;
    effect->inquiry.count = a->item_count;
    effect->inquiry.server = a->scan_server;
}

static struct agent_prepared *add_item(struct agent *a, const char *gid, uint64_t xid, const char *owner,
                                       uint64_t age_ms) {
    struct sweep_item *item = &a->items[a->item_count];
    memcpy(item->gid, gid, strlen(gid) + 1);
    memcpy(item->owner, owner, strlen(owner) + 1);
    item->xid = xid;
    item->vanished = false;
    struct agent_prepared *out = &a->item_out[a->item_count++];
    *out = (struct agent_prepared){.gid = item->gid, .xid = xid, .owner = item->owner, .age_ms = age_ms};
    return out;
}

/* Has voted YES, and waits for a word that this link may never bring by itself. */
static bool waits_too_long(const struct agent *a, const struct agent_branch *b) {
    return b->state == AGB_PREPARED && (b->link != a->link || a->now_us - b->prepared_us >= a->config.sweep_us);
}

/* Branches that have voted YES and are not listed any more: an outside hand has finished them. The verdict leads to a
 * proof. */
static bool ask_about_vanished(struct agent *a) {
    for (struct agent_branch *b = a->order_first; b != NULL && a->item_count < AGENT_INQUIRY_ITEMS_MAX;
         b = b->order_next) {
        if (!waits_too_long(a, b) || b->asked_cycle == a->sweep_cycle) continue;
        b->asked_cycle = a->sweep_cycle;
        add_item(a, b->gid, b->bound.xid, b->owner, (a->now_us - b->prepared_us) / 1000)->vanished = true;
        a->items[a->item_count - 1].vanished = true;
    }
    if (a->item_count == 0) return false;
    send_inquiry(a);
    return true;
}

static void page_done(struct agent *a) {
    a->item_count = 0;
    if (a->page_more) {
        memcpy(a->page_after, a->page_last, sizeof(a->page_after));
        scan_page(a);
    } else if (!ask_about_vanished(a)) {
        cycle_done(a);
    }
}

/* Ours by its gid. Anybody can prepare something under such a name; the coordinator, which believes what it is asked
 * about, must not hear of what cannot have been prepared here. */
static bool parse_row(const struct agent *a, const struct agent_prepared *row, struct ls_gtid *ret_id) {
    enum ls_gid_form form;
    char participant[LS_PARTICIPANT_MAX + 1];
    if (strlen(row->gid) > LS_GID_MAX || strlen(row->owner) > LS_ROLE_MAX || row->xid == 0) return false;
    if (ls_gid_parse(row->gid, &form, ret_id, participant) != LS_OK) return false;
    return strcmp(ret_id->coordinator, a->config.coordinator) == 0 && strcmp(participant, a->config.participant) == 0;
}

/* The row is the proof that a parked branch waits for. */
static bool unpark(struct agent *a, const struct agent_prepared *row, const struct agent_server *server) {
    struct ls_gtid id;
    struct agent_branch *b = parse_row(a, row, &id) ? table_find(a, &id) : NULL;
    if (b == NULL || !b->parked || strcmp(b->gid, row->gid) != 0) return false;
    if (b->bound.xid != 0 && b->bound.xid != row->xid) return false; /* a stranger: the proof must see more than this */
    return drive_on_listed(a, b, row, server);
}

/* Not something that is being worked on here. */
static bool to_be_asked(struct agent *a, const struct agent_prepared *row) {
    struct ls_gtid id;
    if (!parse_row(a, row, &id)) return false;
    if (row->foreign) {
        a->foreign_count++;
        return false;
    }
    struct agent_branch *b = table_find(a, &id);
    if (b == NULL) return true;
    if (strcmp(b->gid, row->gid) != 0 || !waits_too_long(a, b)) return false;
    if (b->bound.xid == row->xid) b->asked_cycle = a->sweep_cycle;
    return true;
}

static void take_rows(struct agent *a, const struct agent_event *event) {
    a->item_count = 0;
    for (uint32_t i = 0; i < event->scan.count; i++) {
        const struct agent_prepared *row = &event->scan.rows[i];
        if (!a->sweeping) return; /* what was listed has shown that the server lost WAL, and the link is gone */
        if (!unpark(a, row, &event->scan.server) && to_be_asked(a, row))
            (void)add_item(a, row->gid, row->xid, row->owner, row->age_ms);
    }
}

static struct agent_branch *parked_item(const struct agent *a, const struct sweep_item *item) {
    enum ls_gid_form form;
    struct ls_gtid id;
    char participant[LS_PARTICIPANT_MAX + 1];
    enum ls_status status = ls_gid_parse(item->gid, &form, &id, participant);
    assert(status == LS_OK); /* only such are asked about */
    struct agent_branch *b = table_find(a, &id);
    return b != NULL && b->parked && strcmp(b->gid, item->gid) == 0 ? b : NULL;
}

/* The page was read again after its answer: what is listed still is finished, what is not is proved. */
static void act_on_page(struct agent *a, const struct agent_event *event) {
    a->page_again = false;
    for (uint32_t i = 0; i < event->scan.count; i++) (void)unpark(a, &event->scan.rows[i], &event->scan.server);
    if (!a->sweeping) return; /* the link is gone over it; the parked look for themselves */
    for (uint32_t i = 0; i < a->item_count; i++) {
        struct agent_branch *b = parked_item(a, &a->items[i]);
        if (b != NULL) drive_prove_parked(a, b);
    }
    page_done(a);
}

static bool same_history(const struct agent_server *x, const struct agent_server *y) {
    return x->system_id == y->system_id && x->timeline == y->timeline;
}

void sweep_on_scan(struct agent *a, const struct agent_event *event) {
    a->scan_op = 0;
    if (!event->scan.ok) {
        a->scan_attempts++;
        a->sweep_us =
            a->now_us + agent_backoff_us(a, a->scan_attempts, a->config.backoff_min_us, a->config.backoff_max_us);
        return;
    }
    a->scan_attempts = 0;
    if (!same_history(&event->scan.server, &a->server)) {
        /* A failover: the coordinator must hear of it by a new Hello and prove its branches again before anything is
         * asked. */
        link_drop(a, "the server's history has changed");
        return;
    }
    assert(event->scan.count <= AGENT_INQUIRY_ITEMS_MAX);
    assert(!event->scan.more || event->scan.count > 0);
    a->scan_server = event->scan.server;
    if (a->page_again) {
        act_on_page(a, event);
        return;
    }
    a->page_more = event->scan.more;
    if (a->page_more) {
        const char *last = event->scan.rows[event->scan.count - 1].gid;
        assert(strlen(last) <= LS_GID_MAX && strcmp(last, a->page_after) > 0);
        memcpy(a->page_last, last, strlen(last) + 1);
    }
    take_rows(a, event);
    if (!a->sweeping) return;
    if (a->item_count == 0)
        page_done(a);
    else
        send_inquiry(a);
}

static void act(struct agent *a, const struct sweep_item *item, const struct agent_answer_item *answer) {
    switch (answer->verdict) {
    case AGENT_VERDICT_PENDING:
        a->sweep_left = true; /* not known yet: ask again soon */
        return;
    case AGENT_VERDICT_FOREIGN:
        return;
    case AGENT_VERDICT_HUMAN:
        if (a->human_count++ == 0)
            agent_report(a, true, NULL, "prepared transaction %s needs a human: %s", item->gid,
                         answer->reason != NULL ? answer->reason : "beyond the horizon of the coordinator's log");
        return;
    case AGENT_VERDICT_COMMIT:
    case AGENT_VERDICT_ABORT:
    case AGENT_VERDICT_STRANGER:
    case AGENT_VERDICT_FORGOTTEN:
        drive_on_verdict(a, item, answer->verdict);
        return;
    }
    assert(false && "verdict");
}

void sweep_on_answer(struct agent *a, const struct agent_event *event) {
    if (a->inquiry_token == 0 || event->answer.token != a->inquiry_token) return;
    bool same = event->answer.count == a->item_count;
    for (uint32_t i = 0; same && i < a->item_count; i++)
        same = strcmp(event->answer.items[i].gid, a->items[i].gid) == 0 &&
               event->answer.items[i].xid == a->items[i].xid &&
               (uint32_t)event->answer.items[i].verdict <= AGENT_VERDICT_FORGOTTEN;
    if (!same) {
        link_drop(a, "an Answer that does not answer the Inquiry");
        return;
    }
    a->inquiry_token = 0;
    for (uint32_t i = 0; i < a->item_count; i++) {
        act(a, &a->items[i], &event->answer.items[i]);
        a->page_again = a->page_again || parked_item(a, &a->items[i]) != NULL;
    }
    if (a->page_again)
        scan_page(a);
    else
        page_done(a);
}

void sweep_tick(struct agent *a) {
    if (a->inquiry_token != 0 && a->inquiry_due_us <= a->now_us) {
        link_drop(a, "an Inquiry was not answered");
        return;
    }
    if (a->sweep_us > a->now_us) return;
    if (a->sweeping)
        scan_page(a);
    else
        sweep_begin(a);
}
