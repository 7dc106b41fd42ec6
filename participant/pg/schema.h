/*
 * schema.h: what a database needs before an agent can serve it, as SQL: the schema `lockstep`, its roles and rights.
 *
 * Who may do what there:
 *   lockstep (NOLOGIN)   owns schema, tables and functions; nobody logs in as it
 *   the agent's role     reads and writes fence, life and outcome; prunes outcome and barrier by functions; reads the timeline history; is a
 *                        member of the app roles, so that it may end their backends and finish their prepared transactions
 *   app roles            may call outcome_insert(), saga_attempt() and saga_keep(), which do nothing without the secret of the agent's present
 *                        life (nor do inbox_take() and inbox_park()); barrier(), barrier_keep() and barrier_result(), which touch only what
 *                        services of the same role have made; emit(), emit_later(), append(), load(), keep_snapshot(), on(), off() and declare_terminal(),
 *                        which write events and nothing else; and fence_ahead(), which does nothing unless the agent has logged the session in
 *                        (a finisher under SET ROLE). No right on any table or view: UPDATE is enough for LOCK TABLE, and finishers would wait for the branch they are to finish.
 *   the superuser who runs it owns timeline_history(), the one thing that needs its rights: it reads the file of the present timeline
 */
#ifndef LOCKSTEP_PG_SCHEMA_H
#define LOCKSTEP_PG_SCHEMA_H

#include <stddef.h>

#include "lockstep/status.h"

/* Grows with every change of the objects below; the agent refuses a database that has another one. */
#define PG_SCHEMA_VERSION 7
#define PG_SCHEMA_VERSION_TEXT "7"

/*
 * The SQL for one database, to be run by a superuser; heap, caller frees. Running it again changes nothing. The agent's role is made (LOGIN, no
 * password) if it is missing; app roles must exist. LS_ERR_INVALID: a role name that is empty, too long or not UTF-8.
 */
enum ls_status pg_schema_sql(const char *agent_role, const char *const *app_roles, size_t app_role_count, char **ret_sql,
                             struct ls_error *err) LS_MUST_CHECK;

/* Parts of it. */
extern const char pg_schema_barrier[]; /* schema_barrier.c */
extern const char pg_schema_events[];  /* schema_events.c */
extern const char pg_schema_relay[];   /* schema_relay.c */
extern const char pg_schema_blocking[]; /* schema_blocking.c */

/* A quoted identifier or literal into `out`; false: does not fit. */
int pg_quote(char quote, const char *text, char *out, size_t size);

#endif
