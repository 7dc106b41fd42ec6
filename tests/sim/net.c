/* net.c: see net.h. */
#include "tests/sim/net.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/frame.h"
#include "tests/sim/agent_host.h"
#include "tests/sim/check.h"
#include "tests/sim/coord_host.h"
#include "tests/sim/relay.h"

#define LINKS_MAX 64u
#define QUEUE_MAX 512u

/* Of a link between two agents, COORD is the side that has accepted it. */
enum side { COORD = 0, AGENT = 1 };

struct packet {
    uint8_t *bytes;
    size_t length;
    uint64_t at_us;
};

/* What one end has yet to receive, in order. */
struct stream {
    struct packet queue[QUEUE_MAX];
    uint32_t head, count;
    uint64_t last_at_us; /* nothing may arrive before this */
    bool scheduled;      /* a delivery call is in the event queue */
    bool silent;         /* nothing is delivered until the receiver gives up, or a partition ends */
    uint64_t silent_us;  /* since then */
    bool ending;         /* after the last packet the receiver hears that the link is gone */
};

struct link {
    uint64_t number; /* 0: free */
    uint32_t participant;
    uint32_t who;      /* the coordinator at the other end */
    uint64_t life;     /* of the agent process */
    bool peer;         /* the other end is an agent, too */
    uint32_t acceptor; /* then: whose */
    uint64_t acceptor_life;
    uint64_t heard_us[2]; /* when this side last received something */
    uint64_t sent_us[2];  /* and sent something */
    bool open[2];         /* this side still has its end */
    struct stream in[2];  /* towards this side */
    uint8_t *again[2];    /* a frame towards this side that will come a second time */
    size_t again_size[2];
};

struct sim_net {
    struct link *links[LINKS_MAX];
    uint64_t next_number;
    bool cut[SIM_PARTICIPANTS_MAX][2]; /* a partition: nothing gets through towards this side */
};

static void pump(struct world *world, uint64_t slot_side, uint64_t number);
static void dead_timer(struct world *world, uint64_t slot_side, uint64_t number);

static struct link *find(struct world *world, uint64_t number, uint64_t *ret_slot) {
    struct sim_net *net = world->net;
    struct link *link = net->links[number % LINKS_MAX];
    if (link == NULL || link->number != number) return NULL;
    if (ret_slot != NULL) *ret_slot = number % LINKS_MAX;
    return link;
}

static void drop_from(struct stream *stream, uint32_t keep) {
    while (stream->count > keep) {
        uint32_t at = (stream->head + --stream->count) % QUEUE_MAX;
        free(stream->queue[at].bytes);
        stream->queue[at].bytes = NULL;
    }
}

static void free_link(struct world *world, struct link *link) {
    drop_from(&link->in[COORD], 0);
    drop_from(&link->in[AGENT], 0);
    world->net->links[link->number % LINKS_MAX] = NULL;
    free(link->again[COORD]);
    free(link->again[AGENT]);
    free(link);
}

static void free_if_closed(struct world *world, struct link *link) {
    if (!link->open[COORD] && !link->open[AGENT]) free_link(world, link);
}

static void schedule(struct world *world, struct link *link, enum side to, uint64_t at_us) {
    struct stream *stream = &link->in[to];
    if (stream->scheduled) return;
    stream->scheduled = true;
    uint64_t delay = at_us > world->now_us ? at_us - world->now_us : 0;
    world_after(world, delay, pump, link->number % LINKS_MAX * 2 + to, link->number);
}

static uint64_t message_delay(struct world *world) {
    return rng_delay(&world->rng, world->healed ? 100 : world->options.net_us);
}

/* The receiver hears that the link is gone, after what is still queued for it. */
static void end_stream(struct world *world, struct link *link, enum side to) {
    struct stream *stream = &link->in[to];
    if (!link->open[to] || stream->ending) return;
    stream->ending = true;
    stream->silent = false;
    uint64_t at = world->now_us + message_delay(world);
    if (at > stream->last_at_us) stream->last_at_us = at;
    schedule(world, link, to, stream->count > 0 ? stream->queue[stream->head].at_us : stream->last_at_us);
}

static void close_end(struct world *world, struct link *link, enum side side) {
    link->open[side] = false;
    drop_from(&link->in[side], 0);
    end_stream(world, link, side == COORD ? AGENT : COORD);
}

static const char *side_name(const struct link *link, enum side side) {
    return side == AGENT ? "agent" : link->peer ? "peer" : "coordinator";
}

static void tell_down(struct world *world, struct link *link, enum side side) {
    uint64_t number = link->number;
    uint32_t participant = link->participant;
    uint32_t who = link->who;
    uint64_t life = link->life;
    bool peer = link->peer;
    if (peer && side == COORD) {
        participant = link->acceptor;
        life = link->acceptor_life;
    }
    world_trace(world, "net", "down", "link %llu p%u noticed by %s", (unsigned long long)number, link->participant + 1,
                side_name(link, side));
    link->open[side] = false;
    drop_from(&link->in[side], 0);
    link->in[side].ending = true;
    end_stream(world, link, side == COORD ? AGENT : COORD);
    free_if_closed(world, link);
    uint32_t was = world_as(world, who);
    if (peer)
        relay_link_down(world, participant, life, number);
    else if (side == COORD)
        coord_link_down(world, number);
    else
        agent_host_link_down(world, participant, life, number);
    (void)world_as(world, was);
}

static uint64_t paused_until(const struct world *world, const struct link *link, enum side side) {
    if (side == AGENT) return agent_host_paused_until(world, link->participant, link->life);
    return link->peer ? agent_host_paused_until(world, link->acceptor, link->acceptor_life) : coord_paused_until(world);
}

/* Hands over everything that is due towards one side. */
static void pump(struct world *world, uint64_t slot_side, uint64_t number) {
    enum side to = (enum side)(slot_side % 2);
    struct link *link = find(world, number, NULL);
    if (link == NULL) return;
    struct stream *stream = &link->in[to];
    stream->scheduled = false;
    if (!link->open[to] || stream->silent) return;
    (void)world_as(world, link->who);
    uint64_t paused = paused_until(world, link, to);
    if (paused > world->now_us) {
        schedule(world, link, to, paused);
        return;
    }
    if (stream->count > 0) {
        struct packet packet = stream->queue[stream->head];
        if (packet.at_us <= world->now_us) {
            stream->queue[stream->head].bytes = NULL;
            stream->head = (stream->head + 1) % QUEUE_MAX;
            stream->count--;
            link->heard_us[to] = world->now_us;
            if (link->peer)
                relay_frame(world, to == COORD ? link->acceptor : link->participant,
                            to == COORD ? link->acceptor_life : link->life, number, packet.bytes, packet.length);
            else if (to == COORD)
                coord_frame(world, number, packet.bytes, packet.length);
            else
                agent_host_frame(world, link->participant, link->life, number, packet.bytes, packet.length);
            free(packet.bytes);
            link = find(world, number, NULL); /* the receiver may have closed it */
            if (link == NULL) return;
            stream = &link->in[to];
        }
        if (!link->open[to]) return;
        if (stream->count > 0) {
            schedule(world, link, to, stream->queue[stream->head].at_us);
            return;
        }
    }
    if (stream->ending) {
        if (stream->last_at_us > world->now_us)
            schedule(world, link, to, stream->last_at_us);
        else
            tell_down(world, link, to);
    }
}

static void enqueue(struct world *world, struct link *link, enum side to, uint8_t *bytes, size_t size) {
    struct stream *stream = &link->in[to];
    assert(stream->count < QUEUE_MAX);
    uint64_t at = world->now_us + message_delay(world);
    if (at < stream->last_at_us) at = stream->last_at_us;
    stream->last_at_us = at;
    stream->queue[(stream->head + stream->count++) % QUEUE_MAX] = (struct packet){bytes, size, at};
    if (!stream->silent) schedule(world, link, to, stream->queue[stream->head].at_us);
}

/* The newest frame of this direction once more, behind whatever is sent until then. */
static void sent_again(struct world *world, uint64_t to, uint64_t number) {
    struct link *link = find(world, number, NULL);
    if (link == NULL || world->healed || !link->open[0] || !link->open[1] || link->in[to].ending ||
        link->again[to] == NULL)
        return;
    sim_coverage.doubles++;
    world_trace(world, "net", "again", "link %llu p%u towards %s", (unsigned long long)number, link->participant + 1,
                side_name(link, (enum side)to));
    enqueue(world, link, (enum side)to, link->again[to], link->again_size[to]);
    link->again[to] = NULL;
}

static void send_again_later(struct world *world, struct link *link, enum side to, const uint8_t *bytes, size_t size) {
    if (link->again[to] != NULL || !world_fault(world, world->options.double_pm)) return;
    if (link->peer && world->options.relay_keep_ms > 0) return; /* an old page behind its pruning: no TCP does that */
    link->again[to] = malloc(size);
    assert(link->again[to] != NULL);
    memcpy(link->again[to], bytes, size);
    link->again_size[to] = size;
    uint64_t mean = rng_below(&world->rng, 2) == 0 ? SECOND : 2 * world->options.net_us + MS;
    world_after(world, rng_delay(&world->rng, mean), sent_again, to, link->number);
}

static void send_to(struct world *world, uint64_t number, enum side to, const Lockstep__Frame *frame) {
    struct link *link = find(world, number, NULL);
    if (link == NULL || !link->open[to] || !link->open[1 - to])
        return; /* written into a socket whose other end is gone: the sender will notice */
    struct stream *stream = &link->in[to];
    if (stream->ending) return;
    link->sent_us[1 - to] = world->now_us;
    size_t size = frame_size(frame);
    uint8_t *bytes = malloc(size);
    struct ls_error err;
    assert(bytes != NULL);
    if (frame_encode(frame, bytes, size, &err) != LS_OK) {
        free(bytes);
        world_wrong(world, "a frame cannot be encoded: %s", err.text);
    }
    /* of these the newest counts: no TCP gives an old one behind it */
    if (frame->body_case != LOCKSTEP__FRAME__BODY_ROUTE && frame->body_case != LOCKSTEP__FRAME__BODY_CREDIT)
        send_again_later(world, link, to, bytes, size);
    enqueue(world, link, to, bytes, size);
}

void net_send_to_coord(struct world *world, uint64_t link, const Lockstep__Frame *frame) {
    send_to(world, link, COORD, frame);
}

void net_send_to_agent(struct world *world, uint64_t link, const Lockstep__Frame *frame) {
    send_to(world, link, AGENT, frame);
}

void net_send_to_peer(struct world *world, uint64_t number, bool by_acceptor, const Lockstep__Frame *frame) {
    send_to(world, number, by_acceptor ? AGENT : COORD, frame);
}

void net_close(struct world *world, uint64_t number, bool by_coord) {
    struct link *link = find(world, number, NULL);
    if (link == NULL || !link->open[by_coord ? COORD : AGENT]) return;
    close_end(world, link, by_coord ? COORD : AGENT);
    free_if_closed(world, link);
}

static void end_with_its_process(struct world *world, struct link *link, enum side side) {
    struct stream *out = &link->in[side == COORD ? AGENT : COORD];
    /* what the dead process wrote may have left, or not */
    if (!out->ending && out->count > 0) drop_from(out, (uint32_t)rng_below(&world->rng, out->count + 1));
    close_end(world, link, side);
    free_if_closed(world, link);
}

static void gone(struct world *world, enum side side, uint32_t participant, uint64_t life) {
    for (size_t i = 0; i < LINKS_MAX; i++) {
        struct link *link = world->net->links[i];
        if (link == NULL || !link->open[side]) continue;
        if (side == COORD && link->peer) continue;
        if (side == AGENT ? link->participant != participant || link->life != life : link->who != world->who) continue;
        end_with_its_process(world, link, side);
    }
}

void net_coord_gone(struct world *world) {
    gone(world, COORD, 0, 0);
}

void net_agent_gone(struct world *world, uint32_t participant, uint64_t life) {
    gone(world, AGENT, participant, life);
    for (size_t i = 0; i < LINKS_MAX; i++) {
        struct link *link = world->net->links[i];
        if (link != NULL && link->peer && link->open[COORD] && link->acceptor == participant &&
            link->acceptor_life == life)
            end_with_its_process(world, link, COORD);
    }
}

bool net_leads_to_stale(const struct world *world, uint64_t number) {
    const struct link *link = world->net->links[number % LINKS_MAX];
    return link != NULL && link->number == number && !link->peer && link->who == SIM_STALE;
}

/* ------------------------------------------------------------------- faults */

/* Both directions lose a suffix; both ends hear of it, each in its own time. A late one keeps its frames for a long
 * while, so that they reach a coordinator or an agent that has gone on to another link. */
static void reset_link(struct world *world, struct link *link) {
    sim_coverage.resets++;
    world_trace(world, "net", "reset", "link %llu p%u", (unsigned long long)link->number, link->participant + 1);
    bool late = world_fault(world, world->options.late_pm);
    enum side slow = rng_below(&world->rng, 2) == 0 ? COORD : AGENT;
    for (enum side to = COORD; to <= AGENT; to++) {
        struct stream *stream = &link->in[to];
        if (!link->open[to] || stream->ending) continue;
        drop_from(stream, (uint32_t)rng_below(&world->rng, stream->count + 1));
        if (late && to == slow) {
            uint64_t stretch = rng_between(&world->rng, 100 * MS, 3 * SECOND);
            for (uint32_t i = 0; i < stream->count; i++) stream->queue[(stream->head + i) % QUEUE_MAX].at_us += stretch;
            stream->last_at_us += stretch;
        }
        end_stream(world, link, to);
    }
}

static void reset_timer(struct world *world, uint64_t slot, uint64_t number) {
    (void)slot;
    struct link *link = find(world, number, NULL);
    if (link == NULL || world->healed) return;
    reset_link(world, link);
}

static void fall_silent(struct world *world, struct link *link, enum side to) {
    link->in[to].silent = true;
    link->in[to].silent_us = link->heard_us[to] = world->now_us;
    world_after(world, LS_PEER_DEAD_MS * MS, dead_timer, link->number % LINKS_MAX * 2 + to, link->number);
}

static void silence_timer(struct world *world, uint64_t slot, uint64_t number) {
    (void)slot;
    struct link *link = find(world, number, NULL);
    if (link == NULL || world->healed) return;
    enum side to = rng_below(&world->rng, 2) == 0 ? COORD : AGENT;
    if (!link->open[to] || link->in[to].ending || link->in[to].silent) return;
    world_trace(world, "net", "silence", "link %llu p%u towards %s", (unsigned long long)number, link->participant + 1,
                side_name(link, to));
    fall_silent(world, link, to);
}

/* What was under way towards this side is lost for it; its own direction loses a suffix. */
static void give_up(struct world *world, struct link *link, enum side side) {
    drop_from(&link->in[side], 0);
    link->in[side].silent = false;
    struct stream *back = &link->in[1 - side];
    if (link->open[1 - side] && !back->ending) drop_from(back, (uint32_t)rng_below(&world->rng, back->count + 1));
    tell_down(world, link, side);
}

/* The receiver of a silent direction gives up. */
static void dead_timer(struct world *world, uint64_t slot_side, uint64_t number) {
    enum side to = (enum side)(slot_side % 2);
    struct link *link = find(world, number, NULL);
    if (link == NULL || !link->open[to] || !link->in[to].silent ||
        world->now_us - link->in[to].silent_us < LS_PEER_DEAD_MS * MS)
        return;
    give_up(world, link, to);
}

/* What was held back arrives now. */
static void speak_again(struct world *world, struct link *link, enum side to) {
    struct stream *stream = &link->in[to];
    if (!link->open[to] || !stream->silent) return;
    stream->silent = false;
    stream->last_at_us = world->now_us;
    for (uint32_t p = 0; p < stream->count; p++) stream->queue[(stream->head + p) % QUEUE_MAX].at_us = world->now_us;
    if (stream->count > 0) schedule(world, link, to, world->now_us);
}

/* Which directions of which participants a partition must leave alone for this side to receive anything: bits as in
 * partition_timer(). Agents that are cut off see no other agent either. */
static uint64_t sides_of(const struct link *link, enum side to) {
    if (!link->peer) return UINT64_C(1) << (2 * link->participant + to);
    uint32_t from = to == COORD ? link->participant : link->acceptor,
             receiver = to == COORD ? link->acceptor : link->participant;
    return UINT64_C(1) << (2 * from + COORD) | UINT64_C(1) << (2 * receiver + AGENT);
}

static uint64_t sides_cut(const struct sim_net *net) {
    uint64_t sides = 0;
    for (uint32_t p = 0; p < SIM_PARTICIPANTS_MAX; p++) {
        for (enum side to = COORD; to <= AGENT; to++) sides |= (uint64_t)net->cut[p][to] << (2 * p + to);
    }
    return sides;
}

static void partition_ends(struct world *world, uint64_t sides, uint64_t unused) {
    (void)unused;
    struct sim_net *net = world->net;
    for (uint32_t p = 0; p < SIM_PARTICIPANTS_MAX; p++) {
        for (enum side to = COORD; to <= AGENT; to++) {
            if ((sides >> (2 * p + to) & 1) != 0) net->cut[p][to] = false;
        }
    }
    for (size_t i = 0; i < LINKS_MAX; i++) {
        for (enum side to = COORD; to <= AGENT && net->links[i] != NULL; to++) {
            uint64_t needs = sides_of(net->links[i], to);
            if ((sides & needs) != 0 && (sides_cut(net) & needs) == 0) speak_again(world, net->links[i], to);
        }
    }
    world_trace(world, "net", "mended", "sides %llx", (unsigned long long)sides);
}

/* Some participants and the coordinator lose sight of each other: whole, or one direction only. */
static void partition_timer(struct world *world, uint64_t a, uint64_t b) {
    struct sim_net *net = world->net;
    if (world->healed) return;
    uint64_t sides = 0;
    uint32_t direction = (uint32_t)rng_below(&world->rng, 3); /* COORD, AGENT: towards it; 2: both */
    for (uint32_t p = 0; p < world->options.participants; p++) {
        if (rng_below(&world->rng, 2) == 0 || net->cut[p][COORD] || net->cut[p][AGENT]) continue;
        for (enum side to = COORD; to <= AGENT; to++) {
            if (direction != 2 && direction != (uint32_t)to) continue;
            net->cut[p][to] = true;
            sides |= UINT64_C(1) << (2 * p + to);
        }
    }
    for (size_t i = 0; i < 2 * LINKS_MAX && sides != 0; i++) {
        struct link *link = net->links[i / 2];
        enum side to = (enum side)(i % 2);
        if (link != NULL && (sides_of(link, to) & sides) != 0 && link->open[to] && !link->in[to].ending &&
            !link->in[to].silent)
            fall_silent(world, link, to);
    }
    if (sides != 0) {
        uint64_t length = rng_delay(&world->rng, rng_below(&world->rng, 2) == 0 ? 2 * SECOND : 12 * SECOND);
        world_trace(world, "net", "partition", "sides %llx for %llu ms", (unsigned long long)sides,
                    (unsigned long long)(length / MS));
        sim_coverage.partitions++;
        world_after(world, length, partition_ends, sides, 0);
    }
    world_after(world, rng_delay(&world->rng, world->options.partition_ms * MS), partition_timer, a, b);
}

void net_heal(struct world *world) {
    memset(world->net->cut, 0, sizeof world->net->cut);
    for (size_t i = 0; i < LINKS_MAX; i++) {
        for (enum side to = COORD; to <= AGENT && world->net->links[i] != NULL; to++)
            speak_again(world, world->net->links[i], to);
    }
}

/* As in common/peer.c: who has heard nothing for too long gives up, who has sent nothing for a while pings; the answer to
 * a ping is something sent. */
static void keep_alive(struct world *world, uint64_t slot_side, uint64_t number) {
    enum side side = (enum side)(slot_side % 2);
    struct link *link = find(world, number, NULL);
    if (link == NULL || !link->open[side]) return;
    (void)world_as(world, link->who);
    const struct stream *in = &link->in[side];
    uint64_t paused = paused_until(world, link, side), quiet = world->now_us - link->sent_us[side];
    uint64_t wait = LS_PING_INTERVAL_MS * MS;
    if (paused > world->now_us) {
        wait = paused - world->now_us;
    } else if (in->count > 0 && !in->silent && in->queue[in->head].at_us <= world->now_us) {
        wait = MS; /* what came meanwhile is read first */
    } else if (world->now_us - link->heard_us[side] >= LS_PEER_DEAD_MS * MS) {
        if (world->idle) world_wrong(world, "an idle link of p%u is given up", link->participant + 1);
        give_up(world, link, side);
        return;
    } else if (quiet < wait) {
        wait -= quiet;
    } else if (side == COORD) {
        coord_ping(world, number);
    } else {
        agent_host_ping(world, link->participant, link->life, number);
    }
    world_after(world, wait, keep_alive, slot_side, number);
}

/* -------------------------------------------------------------------- dial */

/* Does anybody hear a dial, and who? SIM_COORDS: nobody. */
static uint32_t dial_reaches(struct world *world, uint32_t participant) {
    uint32_t who = coord_reached(world);
    bool cut = world->net->cut[participant][COORD] || world->net->cut[participant][AGENT];
    (void)world_as(world, who);
    return cut || !coord_listens(world) || world_fault(world, 20) ? SIM_COORDS : who;
}

/* A link with a number of its own, 0: there are too many. */
static uint64_t new_link(struct world *world, uint32_t participant, uint64_t life, const char *to) {
    struct sim_net *net = world->net;
    uint64_t number = 0;
    for (uint64_t tries = 0; tries < LINKS_MAX && number == 0; tries++) {
        uint64_t next = ++net->next_number;
        if (net->links[next % LINKS_MAX] == NULL) number = next;
    }
    if (number == 0) return 0;
    struct link *link = calloc(1, sizeof *link);
    assert(link != NULL);
    link->number = number;
    link->participant = participant;
    link->life = life;
    link->open[COORD] = link->open[AGENT] = true;
    link->heard_us[COORD] = link->heard_us[AGENT] = world->now_us;
    link->sent_us[COORD] = link->sent_us[AGENT] = world->now_us;
    net->links[number % LINKS_MAX] = link;
    if (world->options.reset_ms > 0 && !world->healed)
        world_after(world, rng_delay(&world->rng, world->options.reset_ms * MS), reset_timer, 0, number);
    if (world->options.silence_ms > 0 && !world->healed)
        world_after(world, rng_delay(&world->rng, world->options.silence_ms * MS), silence_timer, 0, number);
    sim_coverage.links++;
    world_trace(world, "net", "link", "%llu p%u%s", (unsigned long long)number, participant + 1, to);
    return number;
}

static void dial_arrives(struct world *world, uint64_t participant, uint64_t life) {
    uint64_t paused = agent_host_paused_until(world, (uint32_t)participant, life);
    if (paused > world->now_us) {
        world_after(world, paused - world->now_us, dial_arrives, participant, life);
        return;
    }
    uint32_t who = dial_reaches(world, (uint32_t)participant);
    if (who != SIM_COORDS && coord_paused_until(world) > world->now_us) {
        world_after(world, coord_paused_until(world) - world->now_us, dial_arrives, participant, life);
        return;
    }
    bool alive = agent_host_alive(world, (uint32_t)participant, life);
    uint64_t number = who != SIM_COORDS && alive
                          ? new_link(world, (uint32_t)participant, life, who == SIM_STALE ? " to the stale copy" : "")
                          : 0;
    if (number == 0) {
        agent_host_link_down(world, (uint32_t)participant, life, 0);
        return;
    }
    world->net->links[number % LINKS_MAX]->who = who;
    for (enum side side = COORD; side <= AGENT; side++)
        world_after(world, LS_PING_INTERVAL_MS * MS, keep_alive, number % LINKS_MAX * 2 + side, number);
    coord_link_open(world, number, (uint32_t)participant);
    agent_host_link_up(world, (uint32_t)participant, life, number);
}

static void peer_dial_arrives(struct world *world, uint64_t from_to, uint64_t life) {
    uint32_t from = (uint32_t)(from_to & 0xff), to = (uint32_t)(from_to >> 8);
    uint64_t paused = agent_host_paused_until(world, from, life), acceptor_life = relay_listens(world, to);
    if (acceptor_life != 0 && agent_host_paused_until(world, to, acceptor_life) > paused)
        paused = agent_host_paused_until(world, to, acceptor_life);
    if (paused > world->now_us) {
        world_after(world, paused - world->now_us, peer_dial_arrives, from_to, life);
        return;
    }
    bool cut = (sides_cut(world->net) & (UINT64_C(3) << (2 * from) | UINT64_C(3) << (2 * to))) != 0;
    char where[16];
    snprintf(where, sizeof where, " to p%u", to + 1);
    uint64_t number = !cut && acceptor_life != 0 && agent_host_alive(world, from, life) && !world_fault(world, 20)
                          ? new_link(world, from, life, where)
                          : 0;
    if (number != 0) {
        struct link *link = world->net->links[number % LINKS_MAX];
        link->peer = true;
        link->acceptor = to;
        link->acceptor_life = acceptor_life;
        relay_link_open(world, to, acceptor_life, number);
    }
    relay_link_up(world, from, life, to, number);
}

void net_dial_peer(struct world *world, uint32_t from, uint64_t life, uint32_t to) {
    world_after(world, 2 * message_delay(world), peer_dial_arrives, from | (uint64_t)to << 8, life);
}

void net_dial(struct world *world, uint32_t participant, uint64_t life) {
    world_after(world, 2 * message_delay(world), dial_arrives, participant, life);
}

void net_start(struct world *world) {
    world->net = calloc(1, sizeof *world->net);
    assert(world->net != NULL);
    if (world->options.partition_ms > 0)
        world_after(world, rng_delay(&world->rng, world->options.partition_ms * MS), partition_timer, 0, 0);
}

void net_stop(struct world *world) {
    if (world->net == NULL) return;
    for (size_t i = 0; i < LINKS_MAX; i++)
        if (world->net->links[i] != NULL) free_link(world, world->net->links[i]);
    free(world->net);
    world->net = NULL;
}
