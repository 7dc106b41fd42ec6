/* sampler.c: see sampler.h. */
#include "bench/sampler.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "bench/metrics_text.h"
#include "lockstep/status.h"

#define PROGRESS_US 500000u
#define CPU_TRIES 20u

/* Everything that only grows, at one moment. */
struct moment {
    double committed, at_us;
    double cpu_s[SAMPLER_PROCESSES_MAX], load_cpu_s;
    double wal_syncs, wal_bytes, commits, log_syncs, log_bytes, messages, trips;
    double phase_s[3], phase_count[3], saga_s, saga_count;
};

struct sampler {
    const struct sampler_options *options;
    struct load *load;
    const char *what;
    pthread_t thread;
    PGconn *servers[WORK_DATABASES_MAX]; /* one session for each server, however many databases it has */
    uint32_t server_count;
    struct moment first, last;
    bool complete;
    atomic_bool stop;
    double locks;
    uint32_t lock_samples;
};

/* ------------------------------------------------------------------------- CPU */

/* Fields of /proc/PID/stat behind the name, which may hold blanks, and the state: parent is the 1st, CPU times the 11th
 * to 14th. */
enum { STAT_FIELDS = 14 };

static bool read_stat(int pid, int *ret_parent, double *ret_own_s, double *ret_children_s) {
    char path[64], line[1024];
    long fields[STAT_FIELDS];

    (void)snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "re");
    if (file == NULL) return false;
    size_t length = fread(line, 1, sizeof line - 1, file);
    (void)fclose(file);
    line[length] = '\0';
    const char *behind = strrchr(line, ')');
    if (behind == NULL || strlen(behind) < sizeof ") S " - 1) return false;
    char *end = line + (behind - line) + sizeof ") S" - 1;
    for (size_t i = 0; i < STAT_FIELDS; i++) {
        const char *begin = end;
        fields[i] = strtol(begin, &end, 10);
        if (end == begin) return false;
    }
    *ret_parent = (int)fields[0];
    const double ticks = (double)sysconf(_SC_CLK_TCK);
    *ret_own_s = (double)(fields[10] + fields[11]) / ticks;
    *ret_children_s = (double)(fields[12] + fields[13]) / ticks;
    return true;
}

static void add_children(const struct sampler_options *options, double *cpu_s) {
    const struct dirent *entry;
    int parent;
    double own_s, children_s;

    DIR *folder = opendir("/proc");
    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        int pid = (int)strtol(entry->d_name, NULL, 10);
        if (pid <= 0 || !read_stat(pid, &parent, &own_s, &children_s)) continue;
        for (uint32_t i = 0; i < options->process_count; i++)
            if (options->processes[i].pid == parent) cpu_s[i] += own_s + children_s;
    }
    if (folder != NULL) (void)closedir(folder);
}

/* What the processes have used themselves, and their children that have ended; the sum of the latter tells whether one
 * has ended meanwhile. */
static double read_parents(const struct sampler_options *options, double *cpu_s) {
    double own_s, children_s, ended_s = 0;
    int parent;

    for (uint32_t i = 0; i < options->process_count; i++) {
        cpu_s[i] = 0;
        if (!read_stat(options->processes[i].pid, &parent, &own_s, &children_s)) continue;
        cpu_s[i] = own_s + children_s;
        ended_s += children_s;
    }
    return ended_s;
}

/* A child that ends between the two looks would be in neither: once more, then. */
static void read_cpu(const struct sampler_options *options, struct moment *moment) {
    double ignored[SAMPLER_PROCESSES_MAX];
    struct rusage usage;

    for (uint32_t tries = 0; tries < CPU_TRIES && options->process_count > 0; tries++) {
        double ended_s = read_parents(options, moment->cpu_s);
        add_children(options, moment->cpu_s);
        if (read_parents(options, ignored) <= ended_s) break;
    }
    (void)getrusage(RUSAGE_SELF, &usage);
    moment->load_cpu_s = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                         (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* --------------------------------------------------------------------- servers */

static double value_of(const PGresult *result, int column) {
    return PQntuples(result) == 1 && PQgetisnull(result, 0, column) == 0 ? strtod(PQgetvalue(result, 0, column), NULL)
                                                                         : 0;
}

static bool known_server(const struct sampler *sampler, PGconn *session, char (*ids)[32]) {
    PGresult *result = PQexec(session, "select system_identifier from pg_control_system()");
    char id[32] = "";

    if (PQntuples(result) == 1) (void)snprintf(id, sizeof id, "%s", PQgetvalue(result, 0, 0));
    PQclear(result);
    for (uint32_t i = 0; i < sampler->server_count; i++)
        if (strcmp(ids[i], id) == 0) return true;
    memcpy(ids[sampler->server_count], id, sizeof id);
    return false;
}

static bool connect_servers(struct sampler *sampler) {
    char ids[WORK_DATABASES_MAX][32];

    for (uint32_t d = 0; d < sampler->load->workload->databases; d++) {
        PGconn *session = work_connect(sampler->load->options->name, sampler->load->options->databases[d]);
        if (session == NULL) return false;
        if (known_server(sampler, session, ids)) {
            PQfinish(session);
        } else {
            sampler->servers[sampler->server_count++] = session;
        }
    }
    return true;
}

/* The WAL's position is that of the moment. A server's sessions report syncs and commits once a second only: too many
 * or too few by up to a second's at each end. From 18 on syncs are in pg_stat_io. */
static void read_servers(const struct sampler *sampler, struct moment *moment) {
    for (uint32_t i = 0; i < sampler->server_count; i++) {
        char sql[256];
        (void)snprintf(sql, sizeof sql,
                       "select (%s), pg_current_wal_insert_lsn() - '0/0'::pg_lsn, (select sum(xact_commit) from "
                       "pg_stat_database)",
                       PQserverVersion(sampler->servers[i]) >= 180000
                           ? "select sum(fsyncs) from pg_stat_io where object = 'wal'"
                           : "select wal_sync from pg_stat_wal");
        PGresult *result = PQexec(sampler->servers[i], sql);
        moment->wal_syncs += value_of(result, 0);
        moment->wal_bytes += value_of(result, 1);
        moment->commits += value_of(result, 2);
        PQclear(result);
    }
}

static void look_at_locks(struct sampler *sampler) {
    for (uint32_t i = 0; i < sampler->server_count; i++) {
        PGresult *result =
            PQexec(sampler->servers[i], "select count(distinct virtualtransaction) from pg_locks where locktype = "
                                        "'transactionid' and mode = 'ExclusiveLock' and granted");
        sampler->locks += value_of(result, 0);
        PQclear(result);
    }
    sampler->lock_samples++;
}

/* --------------------------------------------------------------------- daemons */

static void read_coordinator(const char *socket, struct moment *moment) {
    static const char *const phases[3][2] = {
        {"lockstepd_prepare_seconds_sum", "lockstepd_prepare_seconds_count"},
        {"lockstepd_decision_log_seconds_sum", "lockstepd_decision_log_seconds_count"},
        {"lockstepd_commit_seconds_sum", "lockstepd_commit_seconds_count"},
    };
    char *text = socket != NULL ? metrics_fetch(socket) : NULL;

    if (text == NULL) return;
    moment->messages += metrics_sum(text, "lockstepd_messages_sent_total", "\"p") +
                        metrics_sum(text, "lockstepd_messages_received_total", "\"p");
    moment->log_syncs += metrics_sum(text, "lockstepd_log_syncs_total", NULL);
    moment->log_bytes += metrics_sum(text, "lockstepd_log_appended_bytes_total", NULL);
    for (uint32_t i = 0; i < 3; i++) {
        moment->phase_s[i] = metrics_sum(text, phases[i][0], NULL);
        moment->phase_count[i] = metrics_sum(text, phases[i][1], NULL);
    }
    moment->saga_s = metrics_sum(text, "lockstepd_saga_seconds_sum", NULL);
    moment->saga_count = metrics_sum(text, "lockstepd_saga_seconds_count", NULL);
    free(text);
}

/* Between agents each page of events is one message and its acknowledgement another. */
static void read_agents(const struct sampler_options *options, struct moment *moment) {
    for (uint32_t i = 0; i < options->agent_count; i++) {
        char *text = metrics_fetch(options->agents[i]);
        if (text == NULL) continue;
        moment->messages += 2 * metrics_sum(text, "lockstep_agent_pages_acknowledged_total", NULL);
        moment->trips += metrics_sum(text, "lockstep_agent_pipelines_total", NULL) +
                         metrics_sum(text, "lockstep_agent_finished_total", NULL) +
                         metrics_sum(text, "lockstep_agent_deliveries_total", NULL);
        free(text);
    }
}

static void take(const struct sampler *sampler, struct moment *moment) {
    const struct load *load = sampler->load;

    *moment = (struct moment){.at_us = (double)bench_now_us()};
    read_cpu(sampler->options, moment);
    moment->committed = (double)atomic_load(&load->all_committed);
    moment->trips = (double)atomic_load(&load->trips);
    if (load->log != NULL) {
        moment->log_syncs = (double)decision_file_syncs(load->log);
        moment->log_bytes = (double)decision_file_bytes(load->log);
    }
    if (load->daemons) {
        read_coordinator(load->options->socket, moment);
        read_agents(sampler->options, moment);
    }
    read_servers(sampler, moment);
}

/* ------------------------------------------------------------------- the thread */

static void pause_us(uint64_t us) {
    const struct timespec pause = {(time_t)(us / 1000000u), (long)(us % 1000000u) * 1000};
    (void)nanosleep(&pause, NULL);
}

static void show(const struct sampler *sampler, uint64_t now_us, uint64_t *shown_us, uint64_t *shown_done) {
    uint64_t done = atomic_load(&sampler->load->done);

    if (sampler->options->quiet || now_us - *shown_us < PROGRESS_US) return;
    if (isatty(STDERR_FILENO) == 1)
        (void)fprintf(stderr, "\r%s  %5.1f s  %8.0f/s ", sampler->what,
                      ((double)now_us - (double)sampler->load->begin_us) / 1e6,
                      (double)(done - *shown_done) * 1e6 / (double)(now_us - *shown_us));
    *shown_us = now_us;
    *shown_done = done;
}

static void *run_sampler(void *context) {
    struct sampler *sampler = context;
    struct load *load = sampler->load;
    uint64_t shown_us = bench_now_us(), shown_done = 0;
    bool begun = false;

    while (!sampler->stop && !load->broken && !load_interrupted) {
        uint64_t now_us = bench_now_us(), begin_us = atomic_load(&load->started) ? load->begin_us : UINT64_MAX;
        if (!begun && now_us >= begin_us) {
            take(sampler, &sampler->first);
            begun = true;
        }
        if (begun && now_us >= load->end_us) {
            take(sampler, &sampler->last);
            sampler->complete = true;
            return NULL;
        }
        if (begun && sampler->options->period_ms > 0) look_at_locks(sampler);
        show(sampler, now_us, &shown_us, &shown_done);
        uint64_t period_us = sampler->options->period_ms > 0 ? sampler->options->period_ms * 1000u : 20000u;
        uint64_t next_us = begun ? load->end_us : begin_us;
        now_us = bench_now_us();
        if (next_us > now_us) pause_us(next_us - now_us < period_us ? next_us - now_us : period_us);
    }
    return NULL;
}

static void close_sampler(struct sampler *sampler) {
    for (uint32_t i = 0; i < sampler->server_count; i++) PQfinish(sampler->servers[i]);
    free(sampler);
}

struct sampler *sampler_start(const struct sampler_options *options, struct load *load, const char *what) {
    struct sampler *sampler = calloc(1, sizeof *sampler);

    if (sampler == NULL) exit(bench_fail(NULL, LS_EXIT_ERROR, "out of memory"));
    sampler->options = options;
    sampler->load = load;
    sampler->what = what;
    if (!connect_servers(sampler) || pthread_create(&sampler->thread, NULL, run_sampler, sampler) != 0) {
        close_sampler(sampler);
        return NULL;
    }
    return sampler;
}

bool sampler_stop(struct sampler *sampler, struct sampler_result *ret_result) {
    if (!sampler->load->started) sampler->stop = true; /* the load never began: there is no end to wait for */
    (void)pthread_join(sampler->thread, NULL);
    const struct moment *a = &sampler->first, *b = &sampler->last;
    bool complete = sampler->complete;
    if (complete) {
        struct sampler_result result = {.committed = b->committed - a->committed,
                                        .seconds = (b->at_us - a->at_us) / 1e6,
                                        .load_cpu_s = b->load_cpu_s - a->load_cpu_s,
                                        .wal_syncs = b->wal_syncs - a->wal_syncs,
                                        .wal_bytes = b->wal_bytes - a->wal_bytes,
                                        .commits = b->commits - a->commits,
                                        .log_syncs = b->log_syncs - a->log_syncs,
                                        .log_bytes = b->log_bytes - a->log_bytes,
                                        .messages = b->messages - a->messages,
                                        .trips = b->trips - a->trips,
                                        .saga_s = b->saga_s - a->saga_s,
                                        .saga_count = b->saga_count - a->saga_count,
                                        .lock_samples = sampler->lock_samples};
        for (uint32_t i = 0; i < sampler->options->process_count; i++) result.cpu_s[i] = b->cpu_s[i] - a->cpu_s[i];
        for (uint32_t i = 0; i < 3; i++) {
            result.phase_s[i] = b->phase_s[i] - a->phase_s[i];
            result.phase_count[i] = b->phase_count[i] - a->phase_count[i];
        }
        if (sampler->lock_samples > 0) result.locks = sampler->locks / sampler->lock_samples;
        *ret_result = result;
    }
    close_sampler(sampler);
    return complete;
}
