/*
 * cmd_log.c: `lockstep log verify|dump|stat`: a decision log read offline. Never writes, takes no lock, needs no
 * coordinator and no settings.
 *
 * The log may belong to a running coordinator. What is read while it is being written can look damaged though it is
 * not, so damage is believed only when a second look finds it in the same place.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/cmd.h"
#include "coordinator/core/saga.h"
#include "coordinator/dlog/dlog.h"
#include "coordinator/dlog/kept.h"
#include "lockstep.pb-c.h"
#include "lockstep/ids.h"

#define LOOKS 4
#define DEFAULT_DATA "/var/lib/lockstep"

static const char usage[] =
    "usage: lockstep log verify|dump|stat [DIR]\n\n"
    "Reads the decision log in the data directory DIR ($LOCKSTEP_DATA, else " DEFAULT_DATA "), offline.\n\n"
    "  verify   valid, torn tail (an unfinished last write, which the next start cuts), or corrupt (status 1)\n"
    "  dump     every record, oldest first; with -o json one object per line\n"
    "  stat     what the log holds\n\n";

static const char *const type_names[] = {"",     "epoch", "commit",     "end",        "participant", "hazard",
                                         "mark", "audit", "saga-begin", "saga-phase", "saga-end"};

static const char *verdict_name(enum dlog_verdict verdict) {
    switch (verdict) {
    case DLOG_VALID:
        return "valid";
    case DLOG_TORN_TAIL:
        return "torn tail";
    case DLOG_CORRUPT:
        return "corrupt";
    }
    return "";
}

/* Scans until an answer is not one that a concurrent write may have caused. */
static enum ls_status settle(const char *dir, struct dlog_report *ret_report, struct ls_error *err) {
    struct dlog_report before = {.bad_position = UINT64_MAX};
    enum ls_status status = LS_OK;
    for (int look = 0; look < LOOKS; look++) {
        status = dlog_scan(dir, dlog_io_posix(), NULL, NULL, ret_report, err);
        if (status != LS_OK) {
            continue; /* a segment may just have been renamed */
        }
        if (ret_report->verdict != DLOG_CORRUPT || (ret_report->bad_position == before.bad_position &&
                                                    strcmp(ret_report->bad_segment, before.bad_segment) == 0)) {
            return LS_OK;
        }
        before = *ret_report;
    }
    return status;
}

static int exit_of(const struct dlog_report *report) {
    return report->verdict == DLOG_CORRUPT ? LS_EXIT_ERROR : LS_EXIT_OK;
}

static json_t *u64(uint64_t value) {
    return json_integer((json_int_t)value);
}

/* ----------------------------------------------------------------- verify */

static json_t *report_json(const struct dlog_report *r) {
    json_t *o = json_object();
    (void)json_object_set_new(o, "verdict", json_string(verdict_name(r->verdict)));
    (void)json_object_set_new(o, "coordinator", json_string(r->coordinator));
    (void)json_object_set_new(o, "incarnation", json_string(r->incarnation));
    (void)json_object_set_new(o, "last_epoch", u64(r->last_epoch));
    (void)json_object_set_new(o, "segments", u64(r->segments));
    (void)json_object_set_new(o, "records", u64(r->records));
    (void)json_object_set_new(o, "first_position", u64(r->first_position));
    (void)json_object_set_new(o, "end_position", u64(r->end_position));
    (void)json_object_set_new(o, "proven_durable_position", u64(r->durable_position));
    if (r->verdict != DLOG_VALID) {
        (void)json_object_set_new(o, "bad_segment", json_string(r->bad_segment));
        (void)json_object_set_new(o, "bad_position", u64(r->bad_position));
        (void)json_object_set_new(o, "why", json_string(r->why));
    }
    return o;
}

static void print_report(const struct dlog_report *r) {
    (void)printf("verdict      %s\n", verdict_name(r->verdict));
    if (r->verdict != DLOG_VALID) {
        (void)printf("where        %s, position %" PRIu64 "\nwhy          %s\n", r->bad_segment, r->bad_position,
                     r->why);
    }
    (void)printf("coordinator  %s, incarnation %s, last epoch %u\n", r->coordinator, r->incarnation, r->last_epoch);
    (void)printf("segments     %" PRIu64 "\nrecords      %" PRIu64 "\n", r->segments, r->records);
    (void)printf("positions    %" PRIu64 " to %" PRIu64 ", proven durable up to %" PRIu64 "\n", r->first_position,
                 r->end_position, r->durable_position);
    if (r->verdict == DLOG_TORN_TAIL) {
        (void)printf("\nThe end is a write that did not finish. Nothing says that it was ever durable; the next start "
                     "cuts it off.\n");
    } else if (r->verdict == DLOG_CORRUPT) {
        (void)printf("\nThe log proves that what is bad here was durable: decisions may be missing. lockstepd will not "
                     "start with it.\n"
                     "Keep a copy of the whole directory before anything else.\n");
    }
}

/* ------------------------------------------------------------------- dump */

struct dumping {
    enum cmd_format format;
    const struct dlog_report *report;
    struct ls_error *err;
};

/* What a payload says, as JSON; NULL: it makes no sense. */
static json_t *commit_json(const struct dumping *d, const Lockstep__LogCommit *c) {
    struct ls_gtid gtid = {.epoch = c->epoch, .sequence = c->sequence};
    char text[LS_GTID_MAX + 1], lsn[32], system[32];
    memcpy(gtid.coordinator, d->report->coordinator, sizeof gtid.coordinator);
    memcpy(gtid.incarnation, d->report->incarnation, sizeof gtid.incarnation);
    ls_gtid_format(&gtid, text);
    json_t *branches = json_array();
    for (size_t i = 0; i < c->n_branches; i++) {
        const Lockstep__LogBranch *b = c->branches[i];
        (void)snprintf(lsn, sizeof lsn, "%" PRIX64 "/%" PRIX64, b->lsn >> 32, b->lsn & UINT32_MAX);
        (void)snprintf(system, sizeof system, "%" PRIu64, b->system_id);
        (void)json_array_append_new(branches, json_pack("{s:I,s:s,s:I,s:I,s:s,s:s,s:s}", "participant",
                                                        (json_int_t)b->participant, "system_id", system, "timeline",
                                                        (json_int_t)b->timeline, "xid", (json_int_t)b->xid, "lsn", lsn,
                                                        "owner", b->owner, "gid", b->gid));
    }
    return json_pack("{s:s,s:I,s:I,s:b,s:b,s:s,s:I,s:o}", "gtid", text, "epoch", (json_int_t)c->epoch, "sequence",
                     (json_int_t)c->sequence, "relogged", c->has_relogged && c->relogged, "key", c->has_key_digest != 0,
                     "app", c->app != NULL ? c->app : "", "decided_unix_ms", (json_int_t)c->decided_unix_ms, "branches",
                     branches);
}

static void saga_name(const struct dumping *d, uint32_t epoch, uint64_t sequence, char *ret_text) {
    struct ls_gtid gtid = {.epoch = epoch, .sequence = sequence};
    memcpy(gtid.coordinator, d->report->coordinator, sizeof gtid.coordinator);
    memcpy(gtid.incarnation, d->report->incarnation, sizeof gtid.incarnation);
    ls_gtid_format(&gtid, ret_text);
}

/* The arguments of a document are data: it is named by its size. */
static json_t *saga_json(const struct dumping *d, const struct dlog_record *r) {
    json_t *o = NULL;
    char text[LS_GTID_MAX + 1];
    if (r->type == DLOG_SAGA_BEGIN) {
        Lockstep__LogSagaBegin *m = lockstep__log_saga_begin__unpack(NULL, r->length, r->payload);
        if (m != NULL) {
            saga_name(d, m->epoch, m->sequence, text);
            o = json_pack("{s:s,s:s,s:I,s:b,s:I}", "gtid", text, "app", m->app, "document_bytes",
                          (json_int_t)m->document.len, "key", m->has_key_digest != 0, "begun_unix_ms",
                          (json_int_t)m->begun_unix_ms);
            lockstep__log_saga_begin__free_unpacked(m, NULL);
        }
    } else if (r->type == DLOG_SAGA_PHASE) {
        Lockstep__LogSagaPhase *m = lockstep__log_saga_phase__unpack(NULL, r->length, r->payload);
        if (m != NULL && m->state < SAGA_STATE_COUNT) {
            saga_name(d, m->epoch, m->sequence, text);
            o = json_pack("{s:s,s:s,s:I,s:s,s:s,s:I}", "gtid", text, "state",
                          saga_state_name((enum saga_state)m->state), "failures", (json_int_t)m->n_failures, "sqlstate",
                          m->sqlstate == NULL ? "" : m->sqlstate, "reason", m->reason == NULL ? "" : m->reason,
                          "unix_ms", (json_int_t)m->unix_ms);
        }
        lockstep__log_saga_phase__free_unpacked(m, NULL);
    } else {
        Lockstep__LogSagaEnd *m = lockstep__log_saga_end__unpack(NULL, r->length, r->payload);
        if (m != NULL && m->state < SAGA_STATE_COUNT) {
            saga_name(d, m->epoch, m->sequence, text);
            o = json_pack("{s:s,s:s,s:s,s:I}", "gtid", text, "state", saga_state_name((enum saga_state)m->state),
                          "reason", m->reason == NULL ? "" : m->reason, "unix_ms", (json_int_t)m->unix_ms);
        }
        lockstep__log_saga_end__free_unpacked(m, NULL);
    }
    return o;
}

static json_t *payload_json(const struct dumping *d, const struct dlog_record *r) {
    json_t *o = NULL;
    switch (r->type) {
    case DLOG_EPOCH: {
        Lockstep__LogEpoch *m = lockstep__log_epoch__unpack(NULL, r->length, r->payload);
        o = m == NULL ? NULL
                      : json_pack("{s:I,s:s,s:I}", "epoch", (json_int_t)m->epoch, "version", m->version,
                                  "started_unix_ms", (json_int_t)m->started_unix_ms);
        lockstep__log_epoch__free_unpacked(m, NULL);
        break;
    }
    case DLOG_COMMIT: {
        Lockstep__LogCommit *m = lockstep__log_commit__unpack(NULL, r->length, r->payload);
        if (m != NULL && m->epoch >= 1 && m->sequence >= 1 && m->sequence <= LS_SEQUENCE_MAX) {
            o = commit_json(d, m);
        }
        lockstep__log_commit__free_unpacked(m, NULL);
        break;
    }
    case DLOG_END: {
        Lockstep__LogEnd *m = lockstep__log_end__unpack(NULL, r->length, r->payload);
        o = m == NULL ? NULL
                      : json_pack("{s:I,s:I}", "epoch", (json_int_t)m->epoch, "sequence", (json_int_t)m->sequence);
        lockstep__log_end__free_unpacked(m, NULL);
        break;
    }
    case DLOG_PARTICIPANT: {
        Lockstep__LogParticipant *m = lockstep__log_participant__unpack(NULL, r->length, r->payload);
        char system[32] = "";
        if (m != NULL && m->has_system_id) {
            (void)snprintf(system, sizeof system, "%" PRIu64, m->system_id);
        }
        o = m == NULL
                ? NULL
                : json_pack("{s:I,s:s,s:s,s:I,s:I}", "number", (json_int_t)m->number, "name", m->name, "system_id",
                            system, "timeline", (json_int_t)m->timeline, "sightings", (json_int_t)m->n_sightings);
        lockstep__log_participant__free_unpacked(m, NULL);
        break;
    }
    case DLOG_HAZARD: {
        Lockstep__LogHazard *m = lockstep__log_hazard__unpack(NULL, r->length, r->payload);
        o = m == NULL
                ? NULL
                : json_pack("{s:I,s:I,s:I,s:s}", "epoch", (json_int_t)m->epoch, "sequence", (json_int_t)m->sequence,
                            "participant", (json_int_t)m->participant, "reason", m->reason);
        lockstep__log_hazard__free_unpacked(m, NULL);
        break;
    }
    case DLOG_MARK: {
        Lockstep__LogMark *m = lockstep__log_mark__unpack(NULL, r->length, r->payload);
        o = m == NULL ? NULL
                      : json_pack("{s:I,s:I,s:I,s:I,s:I,s:I}", "running_ms", (json_int_t)m->running_ms, "first_segment",
                                  (json_int_t)m->first_segment, "horizon_epoch", (json_int_t)m->horizon_epoch,
                                  "horizon_sequence", (json_int_t)m->horizon_sequence, "settled_epoch",
                                  (json_int_t)m->settled_epoch, "settled_sequence", (json_int_t)m->settled_sequence);
        lockstep__log_mark__free_unpacked(m, NULL);
        break;
    }
    case DLOG_AUDIT: {
        Lockstep__LogAudit *m = lockstep__log_audit__unpack(NULL, r->length, r->payload);
        o = m == NULL ? NULL
                      : json_pack("{s:s,s:s,s:s,s:s,s:I}", "who", m->who, "act", m->act, "subject", m->subject,
                                  "reason", m->reason, "unix_ms", (json_int_t)m->unix_ms);
        lockstep__log_audit__free_unpacked(m, NULL);
        break;
    }
    case DLOG_SAGA_BEGIN:
    case DLOG_SAGA_PHASE:
    case DLOG_SAGA_END:
        o = saga_json(d, r);
        break;
    }
    return o;
}

/* One value for eyes; what a database or an operator wrote must not drive the terminal. */
static void print_value(const char *key, const json_t *value) {
    if (json_is_string(value)) {
        (void)printf(" %s=", key);
        for (const char *c = json_string_value(value); *c != '\0'; c++) {
            (void)putchar((unsigned char)*c < 0x20 || *c == 0x7f ? '?' : *c);
        }
    } else if (json_is_integer(value)) {
        (void)printf(" %s=%" JSON_INTEGER_FORMAT, key, json_integer_value(value));
    } else if (json_is_true(value)) {
        (void)printf(" %s", key);
    }
}

static void print_record(const struct dlog_record *r, json_t *payload) {
    const char *key;
    json_t *value;
    (void)printf("%12" PRIu64 " %10" PRIu64 "  %-11s", r->position, r->sequence, type_names[r->type]);
    json_object_foreach(payload, key, value) {
        if (strcmp(key, "epoch") == 0 || strcmp(key, "sequence") == 0) {
            if (json_object_get(payload, "gtid") != NULL) {
                continue; /* it says both */
            }
        }
        print_value(key, value);
    }
    (void)putchar('\n');
    size_t i;
    json_t *branch;
    json_array_foreach(json_object_get(payload, "branches"), i, branch) {
        (void)printf("%36s", "");
        json_object_foreach(branch, key, value) {
            print_value(key, value);
        }
        (void)putchar('\n');
    }
}

static enum ls_status on_dump(void *context, const struct dlog_record *record) {
    const struct dumping *d = context;
    json_t *payload = payload_json(d, record);
    if (payload == NULL) {
        return ls_fail(d->err, LS_ERR_CORRUPT, "record at %" PRIu64 " makes no sense as %s", record->position,
                       type_names[record->type]);
    }
    if (d->format == CMD_TABLE) {
        print_record(record, payload);
    } else {
        json_t *o = json_pack("{s:I,s:I,s:I,s:s}", "position", (json_int_t)record->position, "record",
                              (json_int_t)record->sequence, "durable", (json_int_t)record->durable, "type",
                              type_names[record->type]);
        (void)json_object_update(o, payload);
        (void)json_dumpf(o, stdout, JSON_COMPACT);
        (void)putchar('\n');
        json_decref(o);
    }
    json_decref(payload);
    return ferror(stdout) ? ls_fail(d->err, LS_ERR_IO, "cannot write the output") : LS_OK;
}

static int dump(const char *dir, const struct dlog_report *report, enum cmd_format format) {
    struct ls_error err;
    struct dlog_report again;
    struct dumping dumping = {.format = format, .report = report, .err = &err};
    if (format == CMD_TABLE) {
        (void)printf("%12s %10s  %-11s\n", "POSITION", "RECORD", "TYPE");
    }
    if (dlog_scan(dir, dlog_io_posix(), on_dump, &dumping, &again, &err) != LS_OK) {
        (void)fflush(stdout);
        return cmd_fail("log", LS_EXIT_ERROR, "%s", err.text);
    }
    (void)fflush(stdout);
    if (report->verdict != DLOG_VALID) {
        (void)fprintf(stderr, "lockstep log: %s: %s: %s\n", verdict_name(report->verdict), report->bad_segment,
                      report->why);
    }
    return exit_of(report);
}

/* ------------------------------------------------------------------- stat */

struct counting {
    struct kept *kept;
    uint64_t records[DLOG_TYPE_LAST + 1], bytes[DLOG_TYPE_LAST + 1], relogged;
    struct ls_error *err;
};

static enum ls_status on_count(void *context, const struct dlog_record *record) {
    struct counting *c = context;
    struct kept_change change;
    enum ls_status status = kept_prepare(c->kept, record->type, record->payload, record->length, &change, c->err);
    if (status != LS_OK) {
        return status;
    }
    kept_apply(c->kept, &change, record->position);
    c->records[record->type]++;
    c->bytes[record->type] += record->end - record->position;
    c->relogged += record->type == DLOG_COMMIT && change.fields.value[FORMAT_FIELD_RELOGGED] != 0;
    return LS_OK;
}

static void print_stat(const struct dlog_report *report, const struct counting *c) {
    print_report(report);
    (void)printf("\n%-12s %12s %14s\n", "TYPE", "RECORDS", "BYTES");
    for (int type = DLOG_EPOCH; type <= DLOG_TYPE_LAST; type++) {
        (void)printf("%-12s %12" PRIu64 " %14" PRIu64 "\n", type_names[type], c->records[type], c->bytes[type]);
    }
    const struct kept *k = c->kept;
    (void)printf("\ndecisions kept  %" PRIu64 ", of them open %zu\n", k->index.entries, k->open.count);
    (void)printf("sagas kept      %" PRIu64 ", of them open %zu\n", k->saga_begins.entries, k->open_sagas.count);
    (void)printf("copies          %" PRIu64 "\n", c->relogged);
    (void)printf("running time    %" PRIu64 " s\n", k->running_ms / 1000);
    if (k->mark_horizon.epoch != 0) {
        (void)printf("horizon         decisions up to %u.%" PRIu64 " may be gone\n", k->mark_horizon.epoch,
                     k->mark_horizon.sequence);
    } else {
        (void)printf("horizon         none: the log goes back to its beginning\n");
    }
}

static void print_stat_json(const struct dlog_report *report, const struct counting *c) {
    const struct kept *k = c->kept;
    json_t *o = report_json(report), *types = json_object();
    for (int type = DLOG_EPOCH; type <= DLOG_TYPE_LAST; type++) {
        (void)json_object_set_new(
            types, type_names[type],
            json_pack("{s:I,s:I}", "records", (json_int_t)c->records[type], "bytes", (json_int_t)c->bytes[type]));
    }
    (void)json_object_set_new(o, "types", types);
    (void)json_object_set_new(o, "decisions", u64(k->index.entries));
    (void)json_object_set_new(o, "open_decisions", u64(k->open.count));
    (void)json_object_set_new(o, "sagas", u64(k->saga_begins.entries));
    (void)json_object_set_new(o, "open_sagas", u64(k->open_sagas.count));
    (void)json_object_set_new(o, "copies", u64(c->relogged));
    (void)json_object_set_new(o, "running_ms", u64(k->running_ms));
    (void)json_object_set_new(o, "horizon_epoch", u64(k->mark_horizon.epoch));
    (void)json_object_set_new(o, "horizon_sequence", u64(k->mark_horizon.sequence));
    cmd_print_json(o);
    json_decref(o);
}

static int stat_log(const char *dir, const struct dlog_report *report, enum cmd_format format) {
    struct ls_error err;
    struct dlog_report again;
    struct kept *kept = calloc(1, sizeof *kept);
    if (kept == NULL) {
        return cmd_fail("log", LS_EXIT_ERROR, "out of memory");
    }
    struct counting counting = {.kept = kept, .err = &err};
    enum ls_status status = dlog_scan(dir, dlog_io_posix(), on_count, &counting, &again, &err);
    if (status == LS_OK && format == CMD_TABLE) {
        print_stat(report, &counting);
    } else if (status == LS_OK) {
        print_stat_json(report, &counting);
    }
    kept_free(kept);
    free(kept);
    return status == LS_OK ? exit_of(report) : cmd_fail("log", LS_EXIT_ERROR, "%s", err.text);
}

/* ------------------------------------------------------------------ entry */

static int act(const char *action, const char *dir, enum cmd_format format) {
    struct ls_error err;
    struct dlog_report report;
    if (settle(dir, &report, &err) != LS_OK) {
        return cmd_fail("log", LS_EXIT_ERROR, "%s", err.text);
    }
    if (report.segments == 0 && report.verdict == DLOG_VALID) {
        return cmd_fail("log", LS_EXIT_ERROR, "%s/log holds no segment", dir);
    }
    if (strcmp(action, "dump") == 0) {
        return dump(dir, &report, format);
    }
    if (strcmp(action, "stat") == 0) {
        return stat_log(dir, &report, format);
    }
    if (format == CMD_TABLE) {
        print_report(&report);
    } else {
        json_t *o = report_json(&report);
        cmd_print_json(o);
        json_decref(o);
    }
    return exit_of(&report);
}

int cmd_log(int argc, char **argv) {
    const char *dir = NULL, *word = cmd_session_global.format;
    bool help = cmd_session_global.help;
    const struct opt opts[] = {
        {"data-dir", 'd', OPT_TEXT, &dir, "DIR", "data directory of the coordinator (also as an operand)", 0, 0},
        {"output", 'o', OPT_TEXT, &word, "FORMAT", "table or json", 0, 0},
        {"help", 'h', OPT_FLAG, &help, NULL, "this text", 0, 0},
    };
    size_t count = sizeof opts / sizeof opts[0];
    struct opt_operands operands;
    struct ls_error err;
    enum cmd_format format;
    if (opt_parse(opts, count, argc, argv, false, &operands, &err) != LS_OK) {
        return cmd_usage("log", "%s", err.text);
    }
    if (help) {
        (void)fputs(usage, stdout);
        opt_help(stdout, opts, count);
        return LS_EXIT_OK;
    }
    if (operands.count == 0) {
        return cmd_usage("log", "verify, dump or stat?");
    }
    const char *action = operands.items[0];
    if (strcmp(action, "verify") != 0 && strcmp(action, "dump") != 0 && strcmp(action, "stat") != 0) {
        return cmd_usage("log", "unknown action `%s`", action);
    }
    if (operands.count > 2 || (operands.count == 2 && dir != NULL)) {
        return cmd_usage("log", "what is `%s`?", operands.items[operands.count - 1]);
    }
    if (!cmd_parse_format(word, &format)) {
        return cmd_usage("log", "unknown output format `%s`", word);
    }
    if (operands.count == 2) {
        dir = operands.items[1];
    }
    const char *from_environment = getenv("LOCKSTEP_DATA");
    if (dir == NULL) {
        dir = from_environment != NULL && from_environment[0] != '\0' ? from_environment : DEFAULT_DATA;
    }
    return act(action, dir, format);
}
