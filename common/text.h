/*
 * text.h: UTF-8 that comes from outside. Pure.
 */
#ifndef LOCKSTEP_TEXT_H
#define LOCKSTEP_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* Valid UTF-8 as PostgreSQL takes it: no NUL, no overlong form, no surrogate, at most U+10FFFF. */
bool text_utf8_valid(const char *text, size_t length);
/* Copies into `out` of `size` bytes as one line: cut between characters where it is too long, control characters become
 * spaces, bytes that are not UTF-8 become '?'. For reasons and error texts on their way to a frame, a log or JSON.
 * `text` NULL counts as "". */
void text_copy_line(char *out, size_t size, const char *text);
/* The length of `text`, at most `max`, that ends between characters. */
size_t text_cut(const char *text, size_t length, size_t max);

#endif
