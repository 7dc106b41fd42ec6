/*
 * world.h: virtual time, the event queue, the trace, and the mix of faults that one seed draws.
 *
 * Nothing in the simulator reads a clock or another source of chance: the same seed gives the same trace to the byte,
 * whose hash is printed. Parts of the world (disk, net, pg, hosts, clients, checkers) schedule calls of themselves with
 * world_after(); a call that outlives the process it belongs to is recognised by the life number the caller passes
 * along.
 */
#ifndef SIM_WORLD_H
#define SIM_WORLD_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "lockstep/status.h"
#include "tests/sim/rng.h"

#define SIM_PARTICIPANTS_MAX 4u
#define SIM_CLIENTS_MAX 3u
#define SIM_COORDS 2u
#define SIM_STALE 1u /* the stale copy */
#define SIM_TRACE_LINES 256u
#define SIM_TRACE_BYTES 224u

#define MS UINT64_C(1000)
#define SECOND (UINT64_C(1000) * MS)

/*
 * name, what it is, how a seed draws it. Rates named _pm are per 1000 chances; means named _ms and _us are virtual time
 * between two such events, 0 = never. `O(chance, value)` draws the value for `chance` of 100 seeds and 0 for the
 * others.
 */
#define SIM_OPTIONS(X)                                                                                          \
    X(participants, "databases that take part", BETWEEN(2, 4))                                                  \
    X(shared_cluster, "1: the first two databases live in one cluster", O(30, 1))                               \
    X(clients, "client programs", BETWEEN(1, 3))                                                                \
    X(transactions, "documents per client", BETWEEN(2, 12))                                                     \
    X(think_us, "mean pause between two documents of a client", BETWEEN(1, 400) * MS)                           \
    X(rows, "rows per database that statements choose from", BETWEEN(1, 40))                                    \
    X(read_pm, "statements that only read", O(60, BETWEEN(50, 600)))                                            \
    X(single_pm, "documents that name one participant", O(60, BETWEEN(50, 500)))                                \
    X(keyed_pm, "documents with an Idempotency-Key", O(60, BETWEEN(100, 1000)))                                 \
    X(fail_pm, "statements that the database refuses", O(60, BETWEEN(10, 200)))                                 \
    X(defer_pm, "branches that fail at PREPARE", O(40, BETWEEN(10, 200)))                                       \
    X(break_pm, "statements that end their transaction behind everybody's back", O(20, BETWEEN(5, 60)))         \
    X(xa_pm, "documents whose gids are to look like XA ids", O(30, BETWEEN(100, 1000)))                         \
    X(after_pm, "steps that wait for a step of another branch", O(50, BETWEEN(50, 600)))                        \
    X(saga_pm, "documents that run as sagas", O(50, BETWEEN(100, 1000)))                                        \
    X(saga_deadline_ms, "deadline of a saga", BETWEEN(300, 30000))                                              \
    X(attempts, "attempts at a step of a saga, 0: the policy's", BETWEEN(0, 5))                                 \
    X(pivot_pm, "sagas with a pivot", BETWEEN(0, 1000))                                                         \
    X(operate_ms, "mean time between two looks of an operator at the dead letters", BETWEEN(200, 5000))         \
    X(deadline_ms, "deadline of a transaction", BETWEEN(200, 30000))                                            \
    X(lock_timeout_ms, "lock_timeout of a branch", BETWEEN(50, 5000))                                           \
    X(cancel_pm, "documents that their client cancels on the way", O(30, BETWEEN(10, 200)))                     \
    X(impatient_pm, "requests whose client goes away and asks again", O(50, BETWEEN(10, 300)))                  \
    X(credits, "branches an agent can hold", BETWEEN(1, 12))                                                    \
    X(waiting_max, "transactions the coordinator queues", BETWEEN(1, 16))                                       \
    X(in_flight_max, "transactions the coordinator admits", BETWEEN(4, 64))                                     \
    X(resend_ms, "open decisions are sent again this often", BETWEEN(500, 5000))                                \
    X(presume_wait_ms, "a start presumes nothing of earlier epochs for so long", O(70, BETWEEN(100, 10000)))    \
    X(net_us, "mean delay of a message", BETWEEN(20, 20000))                                                    \
    X(reset_ms, "mean time between two resets of one link", O(50, BETWEEN(500, 20000)))                         \
    X(silence_ms, "mean time between two silences of one direction", O(30, BETWEEN(2000, 30000)))               \
    X(partition_ms, "mean time between two partitions, whole or of one direction", O(35, BETWEEN(1500, 20000))) \
    X(double_pm, "frames that arrive twice, the second time after others", O(30, BETWEEN(2, 60)))               \
    X(late_pm, "resets after which frames of the old link still arrive", O(40, BETWEEN(100, 1000)))             \
    X(coord_crash_ms, "mean time between two crashes of the coordinator", O(60, BETWEEN(300, 15000)))           \
    X(coord_cut_pm, "effects at which the coordinator dies", O(40, BETWEEN(1, 10)))                             \
    X(coord_machine_pm, "crashes of the coordinator that take the machine along", BETWEEN(0, 1000))             \
    X(agent_crash_ms, "mean time between two crashes of one agent", O(60, BETWEEN(300, 15000)))                 \
    X(agent_cut_pm, "effects at which an agent dies", O(40, BETWEEN(1, 10)))                                    \
    X(server_crash_ms, "mean time between two crashes of one server", O(50, BETWEEN(500, 20000)))               \
    X(drain_ms, "mean time between two orderly stops (SIGTERM) of a process", O(20, BETWEEN(1000, 15000)))      \
    X(twin_ms, "mean time until somebody starts a second agent for a participant", O(15, BETWEEN(500, 8000)))   \
    X(clone_ms, "time until a copy of the log is taken, to be started later as if it were the coordinator",     \
      O(15, BETWEEN(500, 10000)))                                                                               \
    X(lost_ms, "time until the coordinator's log is lost, with its machine", O(8, BETWEEN(500, 8000)))          \
    X(clone_early_pm, "copies of the log that are taken right before a decision is written", BETWEEN(0, 1000))  \
    X(clone_instead_pm, "copies that run instead of the coordinator, not beside it", BETWEEN(0, 1000))          \
    X(pause_ms, "mean time between two pauses of a process (SIGSTOP, a virtual machine that hangs)",            \
      O(30, BETWEEN(1000, 15000)))                                                                              \
    X(clock_pm, "readings of a wall clock that has jumped, here or at a server", O(30, BETWEEN(10, 1000)))      \
    X(restart_ms, "mean time until something that crashed is back", BETWEEN(10, 3000))                          \
    X(all_crash_pm, "crashes that take everything along", O(30, BETWEEN(10, 300)))                              \
    X(disk_us, "mean duration of a log write", BETWEEN(50, 10000))                                              \
    X(disk_keep_pm, "unsynced sectors that survive a machine crash", BETWEEN(0, 1000))                          \
    X(disk_garble_pm, "unsynced sectors that come out garbled", BETWEEN(0, 500))                                \
    X(disk_cut_pm, "log writes in the middle of which the coordinator dies", O(40, BETWEEN(5, 100)))            \
    X(disk_fail_pm, "log writes whose write or sync fails", O(25, BETWEEN(5, 60)))                              \
    X(disk_read_pm, "starts and readings of the log in which a read fails", O(25, BETWEEN(5, 200)))             \
    X(rot_pm, "starts of the coordinator that find a sector of the log damaged", O(20, BETWEEN(50, 500)))       \
    X(disk_full_pm, "housekeeping rounds that find the disk full", O(25, BETWEEN(50, 600)))                     \
    X(segment_kib, "size of a log segment", 64 << BETWEEN(0, 1))                                                \
    X(log_kib, "size of the log", BETWEEN(400, 2000))                                                           \
    X(retention_ms, "retention window", O(50, BETWEEN(200, 15000)))                                             \
    X(stall_pm, "moments at which a backend stands still, deaf to everything", O(30, BETWEEN(1, 40)))           \
    X(statement_us, "mean duration of a statement", BETWEEN(50, 20000))                                         \
    X(finish_us, "mean duration of PREPARE, COMMIT PREPARED and the like", BETWEEN(50, 20000))                  \
    X(session_drop_pm, "server calls whose session breaks before or after they act", O(40, BETWEEN(2, 60)))     \
    X(prepare_fail_pm, "PREPAREs that the server refuses", O(40, BETWEEN(5, 100)))                              \
    X(check_interval_ms, "client_connection_check_interval of a backend, 0: none", O(50, BETWEEN(50, 2000)))    \
    X(failover_ms, "mean time between two failovers of one server", O(25, BETWEEN(1000, 20000)))                \
    X(together_pm, "failovers that take the coordinator's process along", O(15, BETWEEN(100, 1000)))            \
    X(lossy_pm, "failovers to a standby that lags", O(50, BETWEEN(100, 1000)))                                  \
    X(outside_ms, "mean time between two acts of an outside hand", O(15, BETWEEN(1000, 20000)))                 \
    X(stranger_ms, "mean time between two strangers who take a finished gid", O(20, BETWEEN(500, 10000)))       \
    X(chaos_ms, "length of the phase with faults", BETWEEN(1000, 20000))                                        \
    X(flows, "choreographed sagas", O(30, BETWEEN(3, 40)))                                                      \
    X(flow_refuse_pm, "choreographed sagas of which a later place refuses its step", BETWEEN(0, 500))           \
    X(flow_late_pm, "choreographed sagas with a deadline", BETWEEN(0, 700))                                     \
    X(poison_pm, "handlers of one kind and step that fail for a while, or until somebody mends them",           \
      O(70, BETWEEN(5, 150)))                                                                                   \
    X(relay_keys, "keys that choreographed sagas share", BETWEEN(1, 16))                                        \
    X(relay_sessions, "handlers that run at once at a participant", BETWEEN(1, 4))                              \
    X(relay_page, "events in a page", BETWEEN(1, 12))                                                           \
    X(relay_claim, "events given positions at once", BETWEEN(1, 20))                                            \
    X(relay_attempts, "attempts of a handler, then a dead letter", BETWEEN(1, 10))                              \
    X(relay_ack_ms, "how long an acknowledgement is waited for", BETWEEN(500, 30000))                           \
    X(relay_backoff_ms, "longest pause between two attempts of a handler", BETWEEN(200, 5000))                  \
    X(relay_keep_ms, "what is through is taken out of the inbox after this", O(40, BETWEEN(1000, 5000)))        \
    X(relay_late_ms, "mean time until a participant subscribes that does so late", O(30, BETWEEN(100, 8000)))   \
    X(relay_leave, "1: dead letters stay where they are in the end", O(20, 1))                                  \
    X(position_us, "mean time between PREPARE and the reading of its position", 20)                             \
    X(slow_sweep, "1: agents sweep every 10 s, as configured unless told, not every 2", O(20, 1))

struct sim_options {
#define X(name, what, how) uint64_t name;
    SIM_OPTIONS(X)
#undef X
};

/* How a seed ended. The values are the exit statuses of lockstep-sim. */
enum sim_result { SIM_PASSED = 0, SIM_CRASH = 10, SIM_WRONG = 11, SIM_STUCK = 12 };

struct world;
typedef void (*world_call)(struct world *world, uint64_t a, uint64_t b);

struct world_event {
    uint64_t at_us, order;
    world_call call;
    uint64_t a, b;
    uint32_t who; /* on whose behalf: see world_as() */
};

struct sim_disk;
struct sim_net;
struct sim_pg;
struct sim_coord;
struct sim_agents;
struct sim_clients;
struct sim_check;
struct sim_relay;

struct world {
    struct sim_options options;
    struct rng rng;
    uint64_t seed, now_us, order, steps;
    bool healed; /* faults are off: everything must come to its end */
    bool idle;   /* everything has, and nobody says anything but Ping and Pong: links must hold */
    bool verbose;
    struct world_event *heap;
    size_t heap_count, heap_capacity;
    /* The coordinator (0), and for a while a stale copy of it (1), each with its disk. The two pointers are the ones of
     * whoever is being run: see world_as(). */
    struct sim_coord *coord, *coords[SIM_COORDS];
    struct sim_disk *disk, *disks[SIM_COORDS];
    uint32_t who;
    bool stale_seen;  /* the copy has been started once */
    bool copy_wanted; /* of the log as it is right before the next decision is written */
    uint64_t stale_position, stale_reached_pm;
    uint32_t incarnation; /* of the log: 1 once the first is lost */
    bool accepted;        /* the operator has said that there is no other log any more */
    struct sim_net *net;
    struct sim_pg *pg;
    struct sim_agents *agents;
    struct sim_clients *clients;
    struct sim_check *check;
    struct saga_book *saga_books, *past_saga_books;
    struct sim_relay *relay; /* NULL: no choreography */
    uint64_t trace_hash, trace_lines;
    char (*trace)[SIM_TRACE_BYTES]; /* ring of SIM_TRACE_LINES */
    enum sim_result result;
    char why[512];
    jmp_buf escape;
};

/* Draws the options of a seed. */
void sim_options_draw(struct sim_options *options, uint64_t seed);
/* Sets one option by name; false: no such option. */
bool sim_option_set(struct sim_options *options, const char *name, uint64_t value);
/* Name of option `index`, NULL behind the last; *ret_value points to it. */
const char *sim_option_at(struct sim_options *options, size_t index, uint64_t **ret_value, const char **ret_what);
void sim_options_print(FILE *out, struct sim_options *options);

/* Runs one seed from beginning to end. The world is left for the caller to print. */
enum sim_result world_run(struct world *world, uint64_t seed, const struct sim_options *options, bool verbose);
/* Frees what a run left, even one that ended in the middle of something. */
void world_clear(struct world *world);
void world_free(struct world *world);
void world_print_tail(const struct world *world, FILE *out);

/* Calls `call(a, b)` after `delay_us`; calls due at the same time come in the order in which they were asked for. */
void world_after(struct world *world, uint64_t delay_us, world_call call, uint64_t a, uint64_t b);

/* From here on world->coord and world->disk are those of `who`; calls asked for are made on the same one's behalf.
 * Returns who it was before. */
uint32_t world_as(struct world *world, uint32_t who);

/* One line of the trace: time, actor, word, detail. docs/simulator.md lists the words. */
void world_trace(struct world *world, const char *actor, const char *word, const char *fmt, ...) LS_PRINTF(4, 5);

/* A promise is broken: ends the seed. */
_Noreturn void world_wrong(struct world *world, const char *fmt, ...) LS_PRINTF(2, 3);
_Noreturn void world_stuck(struct world *world, const char *fmt, ...) LS_PRINTF(2, 3);

/* Everything loses power at once. */
void world_power_failure(struct world *world);

/* How long a pause lasts: mostly short, sometimes longer than the dead timer. */
uint64_t world_pause_length(struct world *world);
/* How often an agent sweeps. */
uint64_t world_sweep_us(const struct world *world);

/* True when a fault with this rate strikes; never in the healed phase. */
bool world_fault(struct world *world, uint64_t permille);

#endif
