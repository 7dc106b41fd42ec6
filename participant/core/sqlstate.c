/*
 * sqlstate.c: the table. See sqlstate.h for what the columns mean.
 *
 * A code that is not listed is NO while building (the server answered ERROR, and an ERROR rolls back) and RETRY through
 * proof while finishing: an unknown answer never becomes a decision.
 */
#include "participant/core/sqlstate.h"

#include <string.h>

#define NO AGENT_SQL_NO
#define AGAIN AGENT_SQL_NO_RETRYABLE
#define UNKNOWN AGENT_SQL_UNKNOWN
#define NO_REPORT AGENT_SQL_NO_REPORT
#define PROVE AGENT_SQL_PROVE
#define RETRY AGENT_SQL_RETRY
#define DENIED AGENT_SQL_DENIED
#define REPORT AGENT_SQL_REPORT

/* Codes before their class. Sources: PostgreSQL's errcodes.txt, twophase.c (LockGXact, MarkAsPreparing). */
static const struct agent_sqlstate_row rows[] = {
    {"", UNKNOWN, RETRY, "a client-side error has no code: the socket died somewhere"},
    {"08", UNKNOWN, RETRY, "connection exception"},
    {"0A000", NO, REPORT, "not preparable (temporary table, NOTIFY, held cursor); finishing: gid of another database"},
    {"22", NO, RETRY, "data exception"},
    {"23", NO, RETRY, "constraint violated, deferred ones at PREPARE included"},
    {"25001", NO, REPORT, "finishing: stood behind another statement since the last Sync"},
    {"25006", AGAIN, RETRY, "read-only: a standby answers, the primary may be back soon"},
    {"25P02", NO, RETRY, "transaction had failed before"},
    {"25P03", UNKNOWN, RETRY, "idle_in_transaction_session_timeout ended the session"},
    {"25P04", UNKNOWN, RETRY, "transaction_timeout ended the session"},
    {"28", NO_REPORT, DENIED, "login refused"},
    {"2D000", NO, RETRY, "a procedure tried to end the transaction"},
    {"3D000", NO_REPORT, REPORT, "database does not exist"},
    {"40001", AGAIN, RETRY, "serialization failure"},
    {"40003", UNKNOWN, RETRY, "statement completion unknown"},
    {"40P01", AGAIN, RETRY, "deadlock"},
    {"40", AGAIN, RETRY, "transaction rolled back"},
    {"42501", NO, DENIED, "rights are missing; finishing: not the owner, nor granted its role"},
    {"42601", NO, REPORT, "syntax error"},
    {"42704", NO, PROVE, "finishing: the gid does not exist, which is a question and not an answer"},
    {"42710", NO_REPORT, RETRY, "the gid is in use: somebody else bears it, ours is prepared at most once"},
    {"53", AGAIN, RETRY, "out of resources: memory, disk, connections, max_prepared_transactions"},
    {"54", NO, RETRY, "program limit exceeded, such as the size of the two-phase state"},
    {"55000", NO_REPORT, RETRY, "two-phase commit is disabled; finishing: somebody else is finishing it just now"},
    {"55006", AGAIN, RETRY, "object in use"},
    {"55P03", AGAIN, RETRY, "lock_timeout"},
    {"57014", AGAIN, RETRY, "cancelled, statement_timeout included"},
    {"57", UNKNOWN, RETRY, "operator intervention: shutdown, crash, starting up, database dropped"},
    {"58", NO_REPORT, REPORT, "system error outside PostgreSQL"},
    {"72000", AGAIN, RETRY, "snapshot too old"},
    {"F0", NO_REPORT, REPORT, "configuration file error"},
    {"LS001", NO, RETRY, "a saga's step whose barrier row has an answer already"},
    {"LS002", NO, RETRY, "a saga's step to be undone that was never done"},
    {"LS003", NO_REPORT, RETRY, "a transaction older than the horizon of outcome rows"},
    {"XX", NO_REPORT, REPORT, "internal error or corrupted data"},
    {"*", NO, RETRY, "an ERROR rolls back; finishing: nothing is known, so prove and try again"},
};
#define ROW_COUNT (sizeof(rows) / sizeof(rows[0]))

const struct agent_sqlstate_row *agent_sqlstate(const char *code) {
    if (code == NULL || code[0] == '\0') return &rows[0];
    for (size_t i = 1; i + 1 < ROW_COUNT; i++) {
        size_t length = strlen(rows[i].code);
        if (strncmp(code, rows[i].code, length) == 0 && (length == 2 || code[length] == '\0')) return &rows[i];
    }
    return &rows[ROW_COUNT - 1];
}

const struct agent_sqlstate_row *agent_sqlstate_table(size_t *ret_count) {
    *ret_count = ROW_COUNT;
    return rows;
}
