/*
 * main.c: lockstepd: words on the command line, configuration, start, exit
 * status.
 *
 *   lockstepd --config FILE            runs in the foreground; logs to stderr
 *   lockstepd --config FILE --check-config
 *   lockstepd --help-config            a sample configuration: every key, its
 * default, what it does lockstepd --list-failpoints lockstepd --version
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/daemon.h"
#include "common/diag.h"
#include "common/failpoint.h"
#include "coordinator/host.h"

enum option_code { OPT_CONFIG = 1, OPT_CHECK, OPT_HELP_CONFIG, OPT_FAILPOINTS, OPT_VERSION, OPT_HELP };

static const struct option options[] = {
    {"config", required_argument, NULL, OPT_CONFIG},
    {"check-config", no_argument, NULL, OPT_CHECK},
    {"help-config", no_argument, NULL, OPT_HELP_CONFIG},
    {"list-failpoints", no_argument, NULL, OPT_FAILPOINTS},
    {"version", no_argument, NULL, OPT_VERSION},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static void usage(FILE *out) {
    (void)fprintf(out, "lockstepd: the coordinator of lockstep\n"
                       "  --config FILE        configuration (YAML); LOCKSTEP_<KEY> "
                       "in the environment overrides a key\n"
                       "  --check-config       check it and exit\n"
                       "  --help-config        print a sample with every key\n"
                       "  --list-failpoints    print the names of the crash points\n"
                       "  --version\n"
                       "Exit status: 0 stopped in order, 1 error, 2 usage, 74 the "
                       "decision log failed, 78 configuration or fence.\n");
}

static int exit_status_of(enum ls_status status) {
    if (status == LS_ERR_IO || status == LS_ERR_CORRUPT) {
        return LS_EXIT_IO;
    }
    bool configuration = status == LS_ERR_CONFIG || status == LS_ERR_EXISTS || status == LS_ERR_MISMATCH ||
                         status == LS_ERR_INVALID || status == LS_ERR_DENIED;
    return configuration ? LS_EXIT_CONFIG : LS_EXIT_ERROR;
}

static int check_configuration(const char *file) {
    struct coordinator_conf conf;
    struct ls_error err;
    enum ls_status status = coordinator_conf_load(file, &conf, &err);
    if (status != LS_OK) {
        (void)fprintf(stderr, "%s\n", err.text);
        return exit_status_of(status);
    }
    SSL_CTX *tls = NULL;
    status = coordinator_conf_load_tls(&conf, &tls, &err);
    SSL_CTX_free(tls);
    coordinator_conf_free(&conf);
    if (status != LS_OK) {
        (void)fprintf(stderr, "%s\n", err.text);
        return LS_EXIT_CONFIG;
    }
    (void)puts("the configuration is good");
    return LS_EXIT_OK;
}

static int run(const char *file) {
    struct coordinator_conf conf;
    struct ls_error err;
    static struct host host = {.lock_fd = -1};
    enum ls_status status = coordinator_conf_load(file, &conf, &err);
    if (status != LS_OK) {
        (void)fprintf(stderr, "%s\n", err.text);
        return exit_status_of(status); /* 78 is not tried again: only for what is wrong with the configuration */
    }
    diag_setup("lockstepd", conf.diag_level, conf.diag_format);
    status = daemon_harden(&err);
    if (status == LS_OK) {
        status = failpoint_setup(conf.faults, &err);
    }
    if (status == LS_OK) {
        status = host_start(&host, &conf, file, &err);
    } else {
        coordinator_conf_free(&conf);
    }
    int exit_status;
    if (status == LS_OK) {
        exit_status = host_run(&host);
    } else {
        exit_status = exit_status_of(status);
        diag(DIAG_ERROR, "cannot start", "error", err.text, NULL);
    }
    host_free(&host);
    return exit_status;
}

int main(int argc, char **argv) {
    const char *file = NULL;
    bool check = false;
    for (int code; (code = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (code) {
        case OPT_CONFIG:
            file = optarg;
            break;
        case OPT_CHECK:
            check = true;
            break;
        case OPT_HELP_CONFIG:
            conf_print_sample(stdout, coordinator_conf_keys, coordinator_conf_key_count);
            return LS_EXIT_OK;
        case OPT_FAILPOINTS:
            failpoint_list(stdout, "lockstepd");
            return LS_EXIT_OK;
        case OPT_VERSION:
            (void)puts("lockstepd " LOCKSTEP_VERSION);
            return LS_EXIT_OK;
        case OPT_HELP:
            usage(stdout);
            return LS_EXIT_OK;
        default:
            usage(stderr);
            return LS_EXIT_USAGE;
        }
    }
    if (optind < argc) {
        (void)fprintf(stderr, "lockstepd: unexpected argument `%s`\n", argv[optind]);
        return LS_EXIT_USAGE;
    }
    return check ? check_configuration(file) : run(file);
}
