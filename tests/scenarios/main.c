/*
 * main.c: lockstep-scenarios: runs the stories in tests/scenarios and compares their traces.
 *
 *   lockstep-scenarios [--update] DIRECTORY|FILE...
 *
 * A file is one story: lines beginning with '#' tell it, commands follow (several on a line with ';'), then a line
 * `----` and the trace that is expected, which ends with an empty line; then more commands. --update writes the trace
 * that came out into the file. Last line: `N passed, N failed`.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lockstep/status.h"
#include "tests/scenarios/story.h"

struct text {
    char *bytes;
    size_t length, capacity;
};

static void text_add(struct text *text, const char *more, size_t length) {
    if (text->length + length + 1 > text->capacity) {
        text->capacity = (text->length + length + 1) * 2;
        text->bytes = realloc(text->bytes, text->capacity);
        if (text->bytes == NULL) abort();
    }
    memcpy(text->bytes + text->length, more, length);
    text->length += length;
    text->bytes[text->length] = '\0';
}

static bool read_file(const char *path, struct text *ret_text) {
    FILE *in = fopen(path, "r");
    if (in == NULL) return false;
    char buffer[4096];
    size_t got;
    text_add(ret_text, "", 0);
    while ((got = fread(buffer, 1, sizeof buffer, in)) > 0) text_add(ret_text, buffer, got);
    bool good = ferror(in) == 0;
    (void)fclose(in);
    return good;
}

static bool write_file(const char *path, const struct text *text) {
    FILE *out = fopen(path, "w");
    if (out == NULL) return false;
    bool good = fwrite(text->bytes, 1, text->length, out) == text->length;
    return fclose(out) == 0 && good;
}

/* The next line of the text, without its end; NULL behind the last. */
static char *next_line(char **rest) {
    if (*rest == NULL || **rest == '\0') return NULL;
    char *line = *rest;
    char *end = strchr(line, '\n');
    *rest = end != NULL ? end + 1 : NULL;
    if (end != NULL) *end = '\0';
    return line;
}

static bool run_commands(struct story *story, const char *line) {
    char copy[1024];
    if (strlen(line) >= sizeof copy) return false;
    memcpy(copy, line, strlen(line) + 1);
    char *rest = copy, *command;
    while ((command = strsep(&rest, ";")) != NULL) {
        command += strspn(command, " ");
        if (*command != '\0' && !story_command(story, command)) return false;
    }
    return true;
}

/* Plays the story; *ret_played is the file as it should be. False: a command made no sense. */
static bool play(const char *path, char *text, struct text *ret_played) {
    struct story *story = story_new();
    char *rest = text, *line;
    bool good = true;
    while (good && (line = next_line(&rest)) != NULL) {
        text_add(ret_played, line, strlen(line));
        text_add(ret_played, "\n", 1);
        if (strcmp(line, "----") == 0) {
            while ((line = next_line(&rest)) != NULL && *line != '\0') {
            } /* what was expected until now */
            const char *trace = story_take_trace(story);
            text_add(ret_played, trace, strlen(trace));
            if (line != NULL) text_add(ret_played, "\n", 1);
        } else if (*line != '#' && *line != '\0' && !run_commands(story, line)) {
            fprintf(stderr, "%s: \"%s\": %s\n", path, line, story_complaint(story));
            good = false;
        }
    }
    const char *left = good ? story_take_trace(story) : "";
    if (*left != '\0') {
        fprintf(stderr, "%s: the last commands have no ---- behind them\n", path);
        good = false;
    }
    story_free(story);
    return good;
}

static void print_difference(const char *path, const char *expected, const char *played) {
    size_t line = 1, at = 0;
    for (size_t i = 0; expected[i] != '\0' && expected[i] == played[i]; i++) {
        if (expected[i] == '\n') {
            line++;
            at = i + 1;
        }
    }
    printf("FAILED %s:%zu\n  expected: %.*s\n  came:     %.*s\n", path, line, (int)strcspn(expected + at, "\n"),
           expected + at, (int)strcspn(played + at, "\n"), played + at);
}

static bool run_file(const char *path, bool update) {
    struct text expected = {0}, work = {0}, played = {0};
    bool good = false;
    if (!read_file(path, &expected)) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
    } else {
        text_add(&work, expected.bytes, expected.length);
        text_add(&played, "", 0);
        good = play(path, work.bytes, &played);
        if (good && strcmp(expected.bytes, played.bytes) != 0) {
            if (update) {
                good = write_file(path, &played);
                printf("updated %s\n", path);
            } else {
                print_difference(path, expected.bytes, played.bytes);
                good = false;
            }
        }
    }
    free(expected.bytes);
    free(work.bytes);
    free(played.bytes);
    return good;
}

static int is_story(const struct dirent *entry) {
    size_t length = strlen(entry->d_name);
    return length > 4 && strcmp(entry->d_name + length - 4, ".txt") == 0;
}

int main(int argc, char **argv) {
    unsigned passed = 0, failed = 0;
    bool update = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--update") == 0) {
            update = true;
            continue;
        }
        struct dirent **names;
        int count = scandir(argv[i], &names, is_story, alphasort);
        if (count < 0 && errno == ENOTDIR) {
            *(run_file(argv[i], update) ? &passed : &failed) += 1;
            continue;
        }
        if (count < 0) {
            fprintf(stderr, "%s: %s\n", argv[i], strerror(errno));
            return LS_EXIT_ERROR;
        }
        for (int n = 0; n < count; n++) {
            char path[1024];
            (void)snprintf(path, sizeof path, "%s/%s", argv[i], names[n]->d_name);
            *(run_file(path, update) ? &passed : &failed) += 1;
            free(names[n]);
        }
        free(names);
    }
    /* as cmocka says it, for scripts/run-check; then as this project says it */
    printf("[  PASSED  ] %u test(s).\n", passed);
    if (failed > 0) printf("[  FAILED  ] %u test(s).\n", failed);
    printf("%u passed, %u failed\n", passed, failed);
    return failed == 0 && passed > 0 ? LS_EXIT_OK : LS_EXIT_ERROR;
}
