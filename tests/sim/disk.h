/*
 * disk.h: the disk under the coordinator's decision log: struct dlog_io over memory.
 *
 * Fault model. A file has two faces: what the page cache shows, and what the medium holds. Writes reach the cache;
 * fdatasync copies the sectors of this file that are dirty to the medium. Names (create, rename, unlink) become durable
 * with sync_dir, in order.
 *   - A crash of the process keeps the cache.
 *   - A crash of the machine keeps the medium; of each dirty sector it keeps the old bytes, the new bytes, or garbage
 * in the range that was written. Bytes of the same sector that were not written again are never hurt (the log pads to
 * what it needs). Of the names not yet synced a prefix of the changes survives.
 *   - A failed fdatasync (EIO) marks the pages clean although only some sectors reached the medium: the cache goes on
 * showing what the disk does not have (hazards D2).
 *   - A write or a read may fail (EIO), a write may be short. The disk may be full: allocate answers ENOSPC.
 *   - A byte that was durable may be another one at a start (and is mended from a mirror when the log was refused).
 *   - The process may die at any operation: from there on nothing it asks for happens (disk_cut).
 */
#ifndef SIM_DISK_H
#define SIM_DISK_H

#include "coordinator/dlog/io.h"
#include "tests/sim/world.h"

#define DISK_ROOT "/data" /* the one directory that is always there */

void disk_start(struct world *world);
void disk_stop(struct world *world);
/* A new, empty one. */
void disk_wipe(struct world *world);
void disk_heal(struct world *world);

const struct dlog_io *disk_io(struct world *world);

/* The process dies at the `operations`-th operation from now: this and all later ones fail and do nothing. */
void disk_cut(struct world *world, uint64_t operations);
bool disk_was_cut(const struct world *world);
/* Neither a cut nor a failure is pending any more. */
void disk_calm(struct world *world);
/* One of the next `within` reads fails. */
void disk_fail_read_soon(struct world *world, uint64_t within);
/* One of the next `within` writes or syncs fails. */
void disk_fail_soon(struct world *world, uint64_t within);
void disk_set_full(struct world *world, bool full);

/* A second disk with what the medium of the first holds now: a snapshot, a backup. */
void disk_clone(struct world *world, uint32_t from, uint32_t to);
/* Damages one byte of these, which both cache and medium hold, or mends it again. False: they are not there. */
bool disk_damage(struct world *world, const void *bytes, size_t length);
void disk_mend(struct world *world);
/* The process is gone: descriptors are closed, cut and pending failure are forgotten. */
void disk_process_gone(struct world *world);
/* The machine is gone: the cache is, too. */
void disk_machine_gone(struct world *world);

/* Whoever wants to know is told of every range of bytes that reaches the medium, with some bytes around it. */
typedef void (*disk_durable_visit)(struct world *world, const uint8_t *bytes, size_t length);
void disk_on_durable(struct world *world, disk_durable_visit visit);
/* True when the medium (not the cache) holds the bytes now. */
bool disk_medium_holds(const struct world *world, const void *bytes, size_t length);

#endif
