/*
 * words.h: what the two kinds of stories share: reading commands, writing the trace, and the names that stories give to
 * things.
 */
#ifndef SCENARIO_WORDS_H
#define SCENARIO_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lockstep/status.h"

#define WORDS_MAX 24

struct story_words;

struct story_words *words_new(void);
void words_free(struct story_words *words);
/* The trace since the last call. Valid until the next line. */
const char *words_take(struct story_words *words);
const char *words_complaint(const struct story_words *words);
/* Bytes of trace so far. */
size_t words_length(const struct story_words *words);
/* Moves the trace from `from` to its end to the place `to`. */
void words_bring_forward(struct story_words *words, size_t to, size_t from);
/* One line of trace; machine-made names are replaced by the story's. */
void words_say(struct story_words *words, const char *fmt, ...) LS_PRINTF(2, 3);
/* Remembers why a command makes no sense; false. */
bool words_complain(struct story_words *words, const char *fmt, ...) LS_PRINTF(2, 3);
/* From now on `from` is shown as `to`. */
void words_rename(struct story_words *words, const char *from, const char *to);

/* Splits at spaces; "several words" stay together. */
size_t words_split(char *command, char *words[WORDS_MAX]);
/* The value of "key=value" among the words, or NULL. */
const char *words_option(char *words[], size_t count, const char *key);
uint64_t words_number(char *words[], size_t count, const char *key, uint64_t otherwise);
/* "5s", "200ms" in microseconds. */
uint64_t words_duration(const char *text);

struct agent_story;
struct agent_story *agent_story_new(struct story_words *words);
void agent_story_free(struct agent_story *story);
bool agent_story_command(struct agent_story *story, char *words[], size_t count);

#endif
