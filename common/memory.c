/* memory.c: see memory.h. */
#include "common/memory.h"

#include <stdlib.h>
#include <string.h>

void *memory_new(size_t size) {
    void *memory = calloc(1, size > 0 ? size : 1);
    if (memory == NULL) abort();
    return memory;
}

char *memory_copy(const char *text) {
    char *copied = text != NULL ? strdup(text) : NULL;
    if (text != NULL && copied == NULL) abort();
    return copied;
}
