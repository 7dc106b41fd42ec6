/*
 * xid.h: numbers as PostgreSQL writes them: LSNs, names of WAL files, timeline histories, 32-bit transaction ids. Pure.
 */
#ifndef LOCKSTEP_PG_XID_H
#define LOCKSTEP_PG_XID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "participant/core/agent.h"

/* The full id of a 32-bit one (pg_prepared_xacts shows no epoch): the one nearest to `xmax`, since a prepared transaction is always
 * within 2^31 of the next id. 0 when there is none. */
uint64_t pg_full_xid(uint32_t xid, uint64_t xmax);
/* Decimal digits only. */
bool pg_parse_u64(const char *text, uint64_t *ret_value);
/* "16/B374D848" */
bool pg_parse_lsn(const char *text, uint64_t *ret_lsn);
/* The timeline in "000000010000000000000001". */
bool pg_parse_walfile(const char *text, uint32_t *ret_timeline);
/*
 * A timeline history file: lines "timeline <tab> lsn <tab> reason", comments with '#'. Keeps the newest `max` switches, oldest first. False: a
 * line that is none of that, or timelines that do not grow.
 */
bool pg_parse_history(const char *text, struct agent_switch *ret_list, uint32_t max, uint32_t *ret_count);

#endif
