/*
 * metrics_text.h: reading what a daemon answers to GET /metrics on its Unix socket.
 */
#ifndef BENCH_METRICS_TEXT_H
#define BENCH_METRICS_TEXT_H

/* Heap, or NULL when nobody answers. */
char *metrics_fetch(const char *socket_path);
/* Sum of the samples of that name, whatever their labels; without those whose labels contain `except` (may be NULL). */
double metrics_sum(const char *text, const char *name, const char *except);

#endif
