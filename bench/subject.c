/* subject.c: see subject.h. */
#include "bench/subject.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lockstep/status.h"

static const struct subject subjects[] = {
    {"none", "independent commits: not atomic", subject_none, false, false},
    {"bare", "two-phase commit by hand, a thread per client, blocking libpq", subject_bare, false, true},
    {"limit", "two-phase commit by hand, one event loop, pipelined second phase", subject_limit, false, true},
    {"2pc", "lockstep, answered when applied everywhere", subject_2pc, true, false},
    {"2pc-decided", "lockstep, answered when decided", subject_2pc_decided, true, false},
    {"orchestrated", "saga, driven by the coordinator", subject_orchestrated, true, false},
    {"choreographed", "saga, driven by events between the databases", subject_choreographed, true, false},
};

const struct subject *subject_at(size_t index) {
    return index < sizeof subjects / sizeof subjects[0] ? &subjects[index] : NULL;
}

const struct subject *subject_find(const char *name) {
    for (size_t i = 0; i < sizeof subjects / sizeof subjects[0]; i++)
        if (strcmp(subjects[i].name, name) == 0) return &subjects[i];
    return NULL;
}

PGconn *subject_session(const struct load *load, uint32_t database) {
    char sql[64];
    PGconn *session = work_connect(load->options->name, load->options->databases[database]);

    if (session == NULL) return NULL;
    (void)snprintf(sql, sizeof sql, "set lock_timeout = %u", load->options->lock_timeout_ms);
    PGresult *result = PQexec(session, sql);
    bool ok = PQresultStatus(result) == PGRES_COMMAND_OK && work_prepare_session(load->workload, session, database) &&
              PQenterPipelineMode(session) == 1;
    PQclear(result);
    if (ok) return session;
    (void)bench_fail(load->options->name, LS_EXIT_ERROR, "%s", PQerrorMessage(session));
    PQfinish(session);
    return NULL;
}

bool subject_result_ok(PGresult *result, char *cause) {
    ExecStatusType status = PQresultStatus(result);
    const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    bool touched = strcmp(PQcmdTuples(result), "0") != 0;

    if ((status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK) && touched) return true;
    if (status == PGRES_PIPELINE_ABORTED) return false; /* something before it has failed */
    if (cause[0] == '\0')
        (void)snprintf(cause, LOAD_CAUSE_TEXT, "%s", !touched ? "refused" : state ? state : "no answer");
    return false;
}

void subject_gid(const struct work *work, uint32_t part, char gid[SUBJECT_GID_MAX]) {
    (void)snprintf(gid, SUBJECT_GID_MAX, "bench-%d-%" PRIu64 "-%" PRIu32, (int)getpid(), work->number, part);
}
