/*
 * dlog_disk.h: a disk in memory for the tests of the decision log, and what several of them share.
 *
 * A file has a cache (what reads see) and a medium (what a power failure leaves). fdatasync moves dirty sectors to the
 * medium; names reach it with sync_dir. Every operation that changes something is counted, so that a test can let each
 * of them fail, or die, once.
 */
#ifndef LOCKSTEP_TESTS_DLOG_DISK_H
#define LOCKSTEP_TESTS_DLOG_DISK_H

#include "coordinator/dlog/dlog.h"

/* Under sanitizers everything takes ten times as long: the long loops go in steps then. DLOG_ALL=1 in the environment:
 * no steps anywhere. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TEST_STEP 8u
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define TEST_STEP 8u
#endif
#endif
#ifndef TEST_STEP
#define TEST_STEP 1u
#endif

#define TEST_INCARNATION "0a1b2c3d4e5f"

enum disk_fault {
    DISK_FINE,
    DISK_DIES,       /* this operation and all later ones do nothing and fail */
    DISK_DIES_AFTER, /* this one is done, later ones fail */
    DISK_EIO,        /* this one fails; a failed sync marks pages clean, some of which never reached the medium */
    DISK_ENOSPC,
    DISK_SHORT /* a write writes half (other operations: EIO) */
};
enum disk_crash {
    DISK_KEEPS,   /* the process died: the cache stays */
    DISK_LOSES,   /* power failure: nothing unsynced is left */
    DISK_PARTS,   /* power failure: of each unsynced sector old or new bytes, of unsynced names the first few changes */
    DISK_GARBLES, /* the same, or garbage where bytes were written */
    DISK_CRASHES
};

struct disk;
struct disk *disk_new(uint64_t seed);
void disk_free(struct disk *disk);
/* An independent copy, faults and counters cleared. */
struct disk *disk_clone(const struct disk *disk);
const struct dlog_io *disk_io(struct disk *disk);
/* The operation `at` from now (1: the next one) meets this fault. */
void disk_set_fault(struct disk *disk, enum disk_fault fault, uint64_t at);
/* The read `at` from now (open, size, list, pread) fails with EIO, once. */
void disk_set_read_fault(struct disk *disk, uint64_t at);
bool disk_read_fault_passed(const struct disk *disk);
void disk_set_full(struct disk *disk, bool full); /* allocate and create answer ENOSPC */
bool disk_dead(const struct disk *disk);
bool disk_fault_passed(const struct disk *disk);
uint64_t disk_operations(const struct disk *disk);
uint64_t disk_syncs(const struct disk *disk);
/* Ends the life of process or machine; faults are cleared. */
void disk_crash(struct disk *disk, enum disk_crash crash);
/* No descriptor may be left open. */
int disk_open_files(const struct disk *disk);

/* ---- what is on it */
size_t disk_list(const struct disk *disk, const char *suffix, char names[][64], size_t max); /* sorted */
uint8_t *disk_bytes(struct disk *disk, const char *name,
                    uint64_t *ret_size);              /* cache; changing them changes the medium, see disk_touch */
void disk_touch(struct disk *disk, const char *name); /* medium = cache */
void disk_cut(struct disk *disk, const char *name, uint64_t size);
void disk_remove(struct disk *disk, const char *name);
void disk_copy(struct disk *disk, const char *from, const char *to);
void disk_put(struct disk *disk, const char *name, const uint8_t *bytes, uint64_t size);

/* ---- payloads */
size_t test_commit(uint32_t epoch, uint64_t sequence, size_t branches, uint8_t *out); /* LogCommit */
size_t test_epoch(uint32_t epoch, uint8_t *out);
size_t test_participant(uint32_t number, const char *name, uint8_t *out);
size_t test_hazard(uint32_t epoch, uint64_t sequence, uint32_t participant, uint8_t *out);
size_t test_audit(const char *subject, uint8_t *out);
#define TEST_PAYLOAD 32768

struct dlog_options test_options(struct disk *disk);
/* dlog_open, next epoch, relog, write: ready to work. */
enum ls_status test_start(const struct dlog_options *options, struct dlog **ret_log, uint32_t *ret_epoch,
                          struct ls_error *err);

#endif
