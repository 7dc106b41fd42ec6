/*
 * decision_file.h: the decision log of the yardsticks: one preallocated file, one writer thread, one fdatasync for all
 * decisions that wait. What a program that commits by hand must at least have; nothing reads it.
 */
#ifndef BENCH_DECISION_FILE_H
#define BENCH_DECISION_FILE_H

#include <stddef.h>
#include <stdint.h>

struct decision_file;

/* Makes the file in `folder` and removes its name, so that nothing stays behind. NULL: said on stderr. */
struct decision_file *decision_file_open(const char *folder);
void decision_file_close(struct decision_file *file);
/* Any thread. Returns the position to wait for. */
uint64_t decision_file_append(struct decision_file *file, const void *record, size_t length);
/* Blocks until everything before `position` is durable. */
void decision_file_wait(struct decision_file *file, uint64_t position);
/* For event loops: readable after each sync (read eight bytes), then decision_file_durable(). */
int decision_file_fd(const struct decision_file *file);
uint64_t decision_file_durable(struct decision_file *file);
uint64_t decision_file_syncs(struct decision_file *file);
uint64_t decision_file_bytes(struct decision_file *file);

#endif
