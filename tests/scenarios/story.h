/*
 * story.h: a coordinator for stories: the engine and recovery as they ship, a list of log records in the place of the
 * decision log, and participants that do exactly what the story says. Commands go in, one line of trace per effect and
 * per change of state comes out.
 *
 * docs/scenarios.md lists the commands.
 */
#ifndef SCENARIO_STORY_H
#define SCENARIO_STORY_H

#include <stdbool.h>
#include <stddef.h>

struct story;

struct story *story_new(void);
void story_free(struct story *story);

/* Carries out one command ("vote A g1 yes"). False: it makes no sense, and story_complaint() says why. */
bool story_command(struct story *story, const char *command);
const char *story_complaint(const struct story *story);

/* The trace since the last call, lines ending in '\n'. Valid until the next command. */
const char *story_take_trace(struct story *story);

#endif
