/* load.c: see load.h. */
#include "bench/load.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "lockstep/status.h"

#define EVENTS_MAX 256

volatile sig_atomic_t load_interrupted;

void load_open(struct load *load) {
    (void)pthread_mutex_init(&load->mutex, NULL);
    load->random.state = load->options->seed;
}

void load_close(struct load *load) {
    bench_samples_free(&load->latencies);
    bench_samples_free(&load->visible);
    free(load->undone.items);
    (void)pthread_mutex_destroy(&load->mutex);
}

void load_begin(struct load *load) {
    uint64_t now_us = bench_now_us();

    load->begin_us = now_us + (uint64_t)load->options->warm_up_ms * 1000u;
    load->end_us = load->begin_us + (uint64_t)load->options->seconds * 1000000u;
    load->give_up_us = load->end_us + (uint64_t)load->options->seconds * 1000000u;
    load->schedule_us = (double)now_us;
    atomic_store(&load->started, true);
}

/* Pauses as between strangers who do not know of each other: exponentially distributed. */
static uint64_t next_arrival(struct load *load) {
    double part = ((double)(bench_random_next(&load->random) >> 11) + 0.5) / (double)(1ull << 53);

    load->schedule_us += -log(part) * 1e6 / load->options->rate;
    return (uint64_t)load->schedule_us;
}

bool load_next(struct load *load, uint64_t now_us, uint64_t *ret_begin_us) {
    if (load_interrupted) return false;
    if (load->options->rate == 0) {
        *ret_begin_us = now_us + (uint64_t)load->options->think_ms * 1000u;
        return *ret_begin_us < load->end_us;
    }
    (void)pthread_mutex_lock(&load->mutex);
    uint64_t begin_us = next_arrival(load);
    bool served = begin_us < load->end_us && now_us < load->give_up_us;
    if (!served)
        for (; begin_us < load->end_us; begin_us = next_arrival(load)) load->unserved++;
    (void)pthread_mutex_unlock(&load->mutex);
    *ret_begin_us = begin_us;
    return served;
}

/* ------------------------------------------------------------------- counting */

static bool counts(const struct load *load, uint64_t at_us) {
    return at_us >= load->begin_us && at_us < load->end_us;
}

void load_committed(struct load *load, uint64_t since_us, uint64_t known_us, uint64_t visible_us) {
    (void)pthread_mutex_lock(&load->mutex);
    atomic_fetch_add_explicit(&load->all_committed, 1, memory_order_relaxed);
    if (counts(load, known_us)) load->committed++;
    /* In the open loop a latency belongs to the time its transaction was due: the slow ones end late. */
    if (counts(load, load->options->rate > 0 ? since_us : known_us)) {
        bench_samples_add(&load->latencies, known_us - since_us);
        if (visible_us > 0) bench_samples_add(&load->visible, visible_us - since_us);
    }
    (void)pthread_mutex_unlock(&load->mutex);
    atomic_fetch_add_explicit(&load->done, 1, memory_order_relaxed);
}

void load_visible(struct load *load, uint64_t since_us, uint64_t visible_us) {
    (void)pthread_mutex_lock(&load->mutex);
    atomic_fetch_add_explicit(&load->all_committed, 1, memory_order_relaxed);
    if (counts(load, visible_us)) {
        load->committed++;
        bench_samples_add(&load->visible, visible_us - since_us);
    }
    (void)pthread_mutex_unlock(&load->mutex);
    atomic_fetch_add_explicit(&load->done, 1, memory_order_relaxed);
}

static void add_cause(struct load *load, const char *text) {
    uint32_t i = 0;

    while (i < load->cause_count && strncmp(load->causes[i].text, text, LOAD_CAUSE_TEXT - 1) != 0) i++;
    if (i == LOAD_CAUSES_MAX) i--; /* the last one stands for what came later, too */
    if (i == load->cause_count) {
        (void)snprintf(load->causes[i].text, LOAD_CAUSE_TEXT, "%s", text);
        load->cause_count++;
    }
    load->causes[i].count++;
}

static void add_number(struct load_numbers *numbers, uint64_t number) {
    if (numbers->count == numbers->capacity) {
        numbers->capacity = numbers->capacity > 0 ? numbers->capacity * 2 : 1024;
        numbers->items = realloc(numbers->items, numbers->capacity * sizeof *numbers->items);
        if (numbers->items == NULL) exit(bench_fail(NULL, LS_EXIT_ERROR, "out of memory"));
    }
    numbers->items[numbers->count++] = number;
}

void load_aborted(struct load *load, const struct work *work, const char *cause) {
    (void)pthread_mutex_lock(&load->mutex);
    add_number(&load->undone, work->number);
    if (counts(load, bench_now_us())) {
        load->aborted++;
        add_cause(load, cause);
    }
    (void)pthread_mutex_unlock(&load->mutex);
    atomic_fetch_add_explicit(&load->done, 1, memory_order_relaxed);
}

void load_half(struct load *load, const struct work *work, const char *cause) {
    (void)work;
    (void)pthread_mutex_lock(&load->mutex);
    if (counts(load, bench_now_us())) {
        load->half++;
        add_cause(load, cause);
    }
    (void)pthread_mutex_unlock(&load->mutex);
    atomic_fetch_add_explicit(&load->done, 1, memory_order_relaxed);
}

/* ------------------------------------------------------------- the event loop */

int load_loop_open(struct load_loop *loop) {
    loop->random.state = loop->load->options->seed;
    loop->clients = calloc(loop->load->clients, sizeof *loop->clients);
    loop->epoll = epoll_create1(EPOLL_CLOEXEC);
    loop->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (loop->clients == NULL || loop->epoll < 0 || loop->timer < 0 ||
        epoll_ctl(loop->epoll, EPOLL_CTL_ADD, loop->timer, &event) != 0)
        return bench_fail(loop->load->options->name, LS_EXIT_ERROR, "out of memory or descriptors");
    for (uint32_t i = 0; i < loop->load->clients; i++) loop->clients[i].number = i;
    return LS_EXIT_OK;
}

void load_loop_close(struct load_loop *loop) {
    if (loop->epoll >= 0) (void)close(loop->epoll);
    if (loop->timer >= 0) (void)close(loop->timer);
    free(loop->clients);
}

bool load_loop_watch(struct load_loop *loop, int fd, struct load_source *source) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = source};

    if (epoll_ctl(loop->epoll, EPOLL_CTL_ADD, fd, &event) == 0) return true;
    (void)bench_fail(loop->load->options->name, LS_EXIT_ERROR, "a session cannot be watched");
    return false;
}

static void begin(struct load_loop *loop, struct load_client *client, uint64_t now_us) {
    client->waiting = false;
    client->begun_us = now_us;
    work_draw(loop->load->workload, &loop->random, &client->work);
    loop->begin(loop->context, client);
}

static void set_timer(const struct load_loop *loop) {
    uint64_t first_us = UINT64_MAX;

    for (uint32_t i = 0; i < loop->load->clients; i++)
        if (loop->clients[i].waiting && loop->clients[i].since_us < first_us) first_us = loop->clients[i].since_us;
    struct itimerspec at = {0};
    if (first_us != UINT64_MAX)
        at.it_value = (struct timespec){(time_t)(first_us / 1000000u), (long)(first_us % 1000000u) * 1000};
    (void)timerfd_settime(loop->timer, TFD_TIMER_ABSTIME, &at, NULL);
}

/* With no pause the next transaction begins at once; a begin that lies behind us, too. */
static void take_next(struct load_loop *loop, struct load_client *client) {
    uint64_t now_us = bench_now_us();

    if (loop->load->broken || !load_next(loop->load, now_us, &client->since_us)) {
        loop->active--;
    } else if (client->since_us <= now_us) {
        begin(loop, client, now_us);
    } else {
        client->waiting = true;
        set_timer(loop);
    }
}

void load_loop_free(struct load_loop *loop, struct load_client *client) {
    take_next(loop, client);
}

static void on_timer(struct load_loop *loop) {
    uint64_t count, now_us = bench_now_us();

    if (read(loop->timer, &count, sizeof count) < 0) return; /* set anew meanwhile */
    for (uint32_t i = 0; i < loop->load->clients; i++) {
        struct load_client *client = &loop->clients[i];
        if (!client->waiting || client->since_us > now_us) continue;
        begin(loop, client, now_us);
    }
    set_timer(loop);
}

/* An interrupted run waits for nobody who has not begun. */
static void send_home(struct load_loop *loop) {
    for (uint32_t i = 0; i < loop->load->clients; i++) {
        if (!loop->clients[i].waiting) continue;
        loop->clients[i].waiting = false;
        loop->active--;
    }
}

int load_loop_run(struct load_loop *loop) {
    load_begin(loop->load);
    loop->active = loop->load->clients;
    for (uint32_t i = 0; i < loop->load->clients; i++) take_next(loop, &loop->clients[i]);
    while (loop->active > 0 && !loop->load->broken) {
        struct epoll_event events[EVENTS_MAX];
        int count = epoll_wait(loop->epoll, events, EVENTS_MAX, 100);
        for (int i = 0; i < count && !loop->load->broken; i++) {
            struct load_source *source = events[i].data.ptr;
            if (source == NULL) {
                on_timer(loop);
            } else {
                source->ready(source->context);
            }
        }
        if (load_interrupted) send_home(loop);
    }
    return loop->load->broken
               ? bench_fail(loop->load->options->name, LS_EXIT_ERROR, "a session failed: the run is void")
               : LS_EXIT_OK;
}
