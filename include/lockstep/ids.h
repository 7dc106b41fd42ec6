/*
 * ids.h: the names of transactions, built and parsed in one place.
 *
 *   gtid  <coordinator>.<incarnation>.<epoch>.<sequence>        a transaction on several participants
 *         <coordinator>.<incarnation>.<epoch>.<sequence>-<n>    one participant only: n is its number in the registry,
 *                                                               so that whoever holds the gtid knows whom to ask
 *   gid   lockstep:<gtid>:<participant>                         what PREPARE TRANSACTION is given
 *         1280004948_<base64 gtid>_<base64 participant>         the same for drivers that insist on XA ids
 *
 * The incarnation is drawn when a decision log is created; the epoch grows at every start of the coordinator and is
 * durable before use; sequences start at 1 in each epoch and are dense. Nothing is ever reused (PostgreSQL would accept
 * a finished gid again, see twophase.c and its test 009_twophase.pl).
 *
 * Pure: no allocation, no input or output.
 */
#ifndef LOCKSTEP_IDS_H
#define LOCKSTEP_IDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lockstep/limits.h"
#include "lockstep/status.h"

struct ls_gtid {
    char coordinator[LS_COORDINATOR_MAX + 1];
    char incarnation[LS_INCARNATION_LEN + 1];
    uint32_t epoch;       /* >= 1 */
    uint64_t sequence;    /* 1 .. LS_SEQUENCE_MAX */
    uint32_t participant; /* 0, or the number of the only participant */
};

/* True for a non-empty name of letters, digits, '_' and '-' with at most `max` bytes. */
bool ls_name_valid(const char *name, size_t max);

/* Writes the text form; `text` holds LS_GTID_MAX + 1 bytes. The parts must be valid (assert). */
void ls_gtid_format(const struct ls_gtid *gtid, char text[LS_GTID_MAX + 1]);
/* Parses the canonical text form only (no leading zeros, no signs). LS_ERR_INVALID leaves *ret_gtid untouched. */
enum ls_status ls_gtid_parse(const char *text, struct ls_gtid *ret_gtid) LS_MUST_CHECK;
bool ls_gtid_equal(const struct ls_gtid *a, const struct ls_gtid *b);

enum ls_gid_form { LS_GID_READABLE = 0, LS_GID_XA };
/* Builds a gid; `gid` holds LS_GID_MAX + 1 bytes. The result needs no quoting inside a SQL literal. */
void ls_gid_format(enum ls_gid_form form, const char *gtid, const char *participant, char gid[LS_GID_MAX + 1]);
/* Takes a gid apart. LS_ERR_INVALID for anything that ls_gid_format cannot have built, byte for byte. */
enum ls_status ls_gid_parse(const char *gid, enum ls_gid_form *ret_form, struct ls_gtid *ret_gtid,
                            char ret_participant[LS_PARTICIPANT_MAX + 1]) LS_MUST_CHECK;

#endif
