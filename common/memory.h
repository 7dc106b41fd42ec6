/*
 * memory.h: memory for something small. Without it the process stops: a crash is the shorter way to recovery than
 * running without.
 */
#ifndef LOCKSTEP_MEMORY_H
#define LOCKSTEP_MEMORY_H

#include <stddef.h>

/* Zeroed; never NULL, also for 0 bytes. To be freed with free(). */
void *memory_new(size_t size);
/* Of a text; NULL for NULL. To be freed with free(). */
char *memory_copy(const char *text);

#endif
