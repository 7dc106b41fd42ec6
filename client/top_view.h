/*
 * top_view.h: one frame of `lockstep top` from what the coordinator said. Pure but for the stream it writes to.
 */
#ifndef CLIENT_TOP_VIEW_H
#define CLIENT_TOP_VIEW_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "lockstep/status.h"

struct top_frame {
    double at;            /* seconds, monotonic */
    char *metrics;        /* the exposition, heap */
    json_t *participants; /* array */
    json_t *transactions; /* array, oldest first; "blocked" (text): sessions behind it, where they were asked for */
    char error[640];      /* not "": the coordinator did not say, and why */
};

struct top_page {
    unsigned columns;     /* lines are cut to so many characters */
    unsigned *lines_left; /* counts down; nothing is written at 0 */
    bool screen;          /* with escapes that clear to the end of each line */
};

/* `before` NULL: figures over all time instead of since that frame. */
void top_render(FILE *out, const struct top_page *page, const struct top_frame *now, const struct top_frame *before);

#endif
