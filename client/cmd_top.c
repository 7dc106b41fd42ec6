/*
 * cmd_top.c: `lockstep top`: what the coordinator does at this moment, again and again, on the whole screen. The
 * terminal is as before when it ends, by `q`, by a signal, or because the coordinator is gone for good.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "client/cmd.h"
#include "client/top_view.h"

#define VERB "top"
#define ATTEMPTS 1u /* it looks again in a moment anyway */
#define INTERVAL_DEFAULT_MS 1000u
#define LISTED_MAX 1000u
#define BLOCKED_ASKED 4     /* of the oldest, what they block is asked */
#define BLOCKED_AGE_MS 1000 /* that are older than this */

static const char usage[] =
    "usage: lockstep top [--interval TIME] [--once]\n\n"
    "Transactions in flight and in doubt, sessions blocked behind them, latencies of the phases, sagas, dead letters.\n"
    "For an administrator. `q` ends it.\n\n";

static volatile sig_atomic_t ended, put_aside;
static struct termios before_us;

static void on_signal(int number) {
    if (number == SIGTSTP)
        put_aside = 1;
    else
        ended = 1;
}

static double seconds_now(void) {
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* ---- what the coordinator says */

static void frame_free(struct top_frame *frame) {
    if (frame == NULL) return;
    free(frame->metrics);
    json_decref(frame->participants);
    json_decref(frame->transactions);
    free(frame);
}

/* The array `name` of an answer; NULL and `error`: there is none. Clears the result. */
static json_t *take_array(struct lockstep_result *result, const char *name, struct top_frame *frame) {
    json_t *body = result->status == LOCKSTEP_OK ? cmd_body(result) : NULL;
    json_t *array = json_incref(json_object_get(body, name));

    if (array == NULL && frame->error[0] == '\0')
        (void)snprintf(frame->error, sizeof frame->error, "%s%s%s", lockstep_status_text(result->status),
                       result->reason[0] != '\0' ? ": " : "", result->reason);
    json_decref(body);
    lockstep_result_clear(result);
    return array;
}

static bool is_open(const json_t *entry) {
    const char *phase = json_string_value(json_object_get(entry, "phase"));

    return !json_is_true(json_object_get(entry, "applied")) && phase != NULL && strcmp(phase, "waiting") != 0 &&
           strcmp(phase, "active") != 0;
}

static int older_first(const void *a, const void *b) {
    const json_t *const *left = a, *const *right = b;
    json_int_t x = json_integer_value(json_object_get(*left, "age_ms")),
               y = json_integer_value(json_object_get(*right, "age_ms"));

    return x < y ? 1 : x > y ? -1 : 0;
}

/* Those that may hold prepared branches, oldest first. */
static json_t *open_ones(const json_t *list) {
    json_t *entry, *found = json_array(), **sorted = calloc(json_array_size(list) + 1, sizeof(json_t *));
    size_t index, count = 0;

    json_array_foreach((json_t *)(uintptr_t)list, index, entry) {
        if (sorted != NULL && is_open(entry)) sorted[count++] = entry;
    }
    if (sorted != NULL) qsort((void *)sorted, count, sizeof(json_t *), older_first);
    for (size_t i = 0; i < count; i++) (void)json_array_append(found, sorted[i]);
    free((void *)sorted);
    return found;
}

static void ask_blocked(struct lockstep *client, json_t *entry) {
    struct lockstep_result result;
    const char *gtid = json_string_value(json_object_get(entry, "gtid"));
    json_int_t waiting = 0;
    bool known = false;
    const json_t *branch;
    size_t index;

    if (gtid == NULL) return;
    (void)lockstep_blocking(client, gtid, &result);
    json_t *body = cmd_body(&result);
    json_array_foreach(json_object_get(body, "branches"), index, branch) {
        const json_t *count = json_object_get(json_object_get(branch, "blocking"), "waiting");
        known = known || json_is_integer(count);
        waiting += json_integer_value(count);
    }
    if (known) (void)json_object_set_new(entry, "blocked", json_sprintf("%lld", (long long)waiting));
    json_decref(body);
    lockstep_result_clear(&result);
}

static struct top_frame *look(struct lockstep *client) {
    struct top_frame *frame = calloc(1, sizeof *frame);
    struct lockstep_result result;

    if (frame == NULL) return NULL;
    frame->at = seconds_now();
    if (lockstep_metrics(client, &result) == LOCKSTEP_OK && result.body != NULL)
        frame->metrics = strndup(result.body, result.body_length);
    else
        (void)snprintf(frame->error, sizeof frame->error, "%s%s%s", lockstep_status_text(result.status),
                       result.reason[0] != '\0' ? ": " : "", result.reason);
    lockstep_result_clear(&result);
    if (frame->metrics == NULL) return frame;
    (void)lockstep_participants(client, &result);
    frame->participants = take_array(&result, "participants", frame);
    (void)lockstep_list(client, NULL, LISTED_MAX, &result);
    json_t *list = take_array(&result, "transactions", frame);
    frame->transactions = open_ones(list);
    json_decref(list);
    for (size_t i = 0; i < BLOCKED_ASKED && i < json_array_size(frame->transactions); i++) {
        json_t *entry = json_array_get(frame->transactions, i);
        if (json_integer_value(json_object_get(entry, "age_ms")) > BLOCKED_AGE_MS) ask_blocked(client, entry);
    }
    return frame;
}

/* ---- the screen */

static void screen_begin(void) {
    struct termios raw = before_us;
    struct sigaction action = {.sa_handler = on_signal};

    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    raw.c_cc[VMIN] = 0;
    raw.c_cc[VTIME] = 0;
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGHUP, &action, NULL);
    (void)sigaction(SIGTSTP, &action, NULL);
    (void)tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    (void)fputs("\x1b[?1049h\x1b[?25l", stdout); /* the other screen, no cursor */
    (void)fflush(stdout);
}

static void screen_end(void) {
    (void)fputs("\x1b[?25h\x1b[?1049l", stdout);
    (void)fflush(stdout);
    (void)tcsetattr(STDIN_FILENO, TCSANOW, &before_us);
}

/* Ctrl-Z: the terminal as it was, until somebody says `fg`. */
static void stand_aside(void) {
    put_aside = 0;
    screen_end();
    (void)raise(SIGSTOP);
    screen_begin();
}

static void draw(const struct top_frame *now, const struct top_frame *before) {
    struct winsize size = {.ws_row = 24, .ws_col = 80};

    (void)ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
    unsigned lines = size.ws_row > 2 ? size.ws_row - 1u : 23u;
    struct top_page page = {.columns = size.ws_col > 0 ? size.ws_col : 80u, .lines_left = &lines, .screen = true};
    (void)fputs("\x1b[H", stdout);
    top_render(stdout, &page, now, before);
    (void)fputs("\x1b[J", stdout);
    (void)fflush(stdout);
}

/* True: `q`, or the terminal is gone. */
static bool wait_for_key(uint32_t ms) {
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    char key;

    if (poll(&input, 1, (int)ms) <= 0) return false;
    ssize_t got = read(STDIN_FILENO, &key, 1);
    return got <= 0 || key == 'q' || key == 'Q';
}

static int run_screen(struct lockstep *client, uint32_t interval_ms) {
    struct top_frame *before = NULL;

    if (isatty(STDOUT_FILENO) != 1 || isatty(STDIN_FILENO) != 1 || tcgetattr(STDIN_FILENO, &before_us) != 0)
        return cmd_usage(VERB, "this is no terminal: use --once");
    screen_begin();
    while (!ended) {
        struct top_frame *now = look(client);
        if (now == NULL) break;
        if (!ended) draw(now, before != NULL && before->error[0] == '\0' ? before : NULL);
        frame_free(before);
        before = now;
        if (ended || wait_for_key(interval_ms)) break;
        if (put_aside) stand_aside();
    }
    screen_end();
    frame_free(before);
    return LS_EXIT_OK;
}

static int run_once(struct lockstep *client) {
    struct top_frame *frame = look(client);
    unsigned lines = 10000;
    const struct top_page page = {.columns = 1000, .lines_left = &lines, .screen = false};

    if (frame == NULL) return cmd_fail(VERB, LS_EXIT_ERROR, "out of memory");
    int exit_status = LS_EXIT_OK;
    if (frame->error[0] != '\0')
        exit_status = cmd_fail(VERB, frame->metrics == NULL ? LS_EXIT_UNREACHABLE : LS_EXIT_ERROR, "%s", frame->error);
    else
        top_render(stdout, &page, frame, NULL);
    frame_free(frame);
    return exit_status;
}

int cmd_top(int argc, char **argv) {
    struct cmd_session session = cmd_session_global;
    uint32_t interval_ms = INTERVAL_DEFAULT_MS;
    bool once = false;
    struct opt opts[CMD_SESSION_OPTS + 2] = {
        {"interval", 'i', OPT_MS, &interval_ms, "TIME", "between two looks, 100ms to 1h (1s)", 100, 3600000},
        {"once", '1', OPT_FLAG, &once, NULL, "one look, figures since the coordinator's start", 0, 0},
    };
    struct opt_operands operands;
    struct lockstep *client;
    struct ls_error err;

    cmd_session_opts(&session, opts + 2);
    if (opt_parse(opts, CMD_SESSION_OPTS + 2, argc, argv, false, &operands, &err) != LS_OK)
        return cmd_usage(VERB, "%s", err.text);
    if (session.help) {
        (void)fputs(usage, stdout);
        opt_help(stdout, opts, CMD_SESSION_OPTS + 2);
        return LS_EXIT_OK;
    }
    if (operands.count > 0) return cmd_usage(VERB, "what is `%s`?", operands.items[0]);
    if (session.timeout_ms == 0) session.timeout_ms = 5000;
    int exit_status = cmd_open(VERB, &session, once ? 0 : ATTEMPTS, &client);
    if (exit_status != LS_EXIT_OK) return exit_status;
    exit_status = once ? run_once(client) : run_screen(client, interval_ms);
    lockstep_close(client);
    return exit_status;
}
