/*
 * status.c: the table of status.h made into functions.
 */
#include "lockstep/status.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

#include "common/text.h"

#undef ls_fail

static const struct {
    const char *name, *text;
    enum ls_class class_;
} table[LS_STATUS_COUNT] = {
#define X(name, class_, text) [name] = {#name, text, class_},
    LS_STATUS_LIST(X)
#undef X
};

enum ls_class ls_status_class(enum ls_status status) {
    assert((unsigned)status < LS_STATUS_COUNT);
    return table[status].class_;
}

const char *ls_status_text(enum ls_status status) {
    assert((unsigned)status < LS_STATUS_COUNT);
    return table[status].text;
}

const char *ls_status_name(enum ls_status status) {
    assert((unsigned)status < LS_STATUS_COUNT);
    return table[status].name;
}

enum ls_status ls_fail(struct ls_error *err, enum ls_status status, const char *fmt, ...) {
    assert((unsigned)status < LS_STATUS_COUNT && status != LS_OK);
    if (err) {
        /* Longer than the text, so that the cut falls between characters. The arguments may point into *err. */
        char line[LS_ERROR_TEXT_MAX + 8];
        va_list args;
        va_start(args, fmt);
        (void)vsnprintf(line, sizeof line, fmt, args); /* cutting is intended */
        va_end(args);
        err->status = status;
        text_copy_line(err->text, sizeof err->text, line);
    }
    return status;
}
