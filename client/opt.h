/*
 * opt.h: the command line: one table of options per verb, from which parsing and --help both come.
 *
 * Long options take "--name value" or "--name=value", short ones "-o value" or "-ovalue"; "--" ends them; a lone "-" is
 * an operand. Every complaint names the offending word. Pure but for opt_help().
 */
#ifndef CLIENT_OPT_H
#define CLIENT_OPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "lockstep/status.h"

#define OPT_LIST_MAX 32

enum opt_kind {
    OPT_FLAG, /* bool */
    OPT_TEXT, /* const char *, into argv */
    OPT_U32,  /* uint32_t, min..max */
    OPT_MS,   /* uint32_t milliseconds: digits with ms, s, min or h; min..max */
    OPT_LIST  /* struct opt_list: may be given several times */
};

struct opt_list {
    const char *items[OPT_LIST_MAX];
    size_t count;
};

struct opt {
    const char *name; /* without the dashes */
    char letter;      /* 0: none */
    enum opt_kind kind;
    void *target;
    const char *value; /* what stands for the value in --help; NULL for flags */
    const char *help;
    uint32_t min, max;
};

/* What is left: operands, pointing into argv. */
struct opt_operands {
    char **items;
    size_t count;
};

/*
 * Parses argv[1..argc-1]; `argv` is reordered. With `stop_at_operand` the first operand ends the options, so that
 * ret_operands->items[0] can be the name of a verb with options of its own. LS_ERR_INVALID: err names the word.
 */
enum ls_status opt_parse(const struct opt *opts, size_t count, int argc, char **argv, bool stop_at_operand,
                         struct opt_operands *ret_operands, struct ls_error *err) LS_MUST_CHECK;

/* One line per option, aligned. */
void opt_help(FILE *out, const struct opt *opts, size_t count);

/* "250ms", "5s", "2min", "1h". LS_ERR_INVALID leaves *ret_ms untouched. */
enum ls_status opt_parse_ms(const char *text, uint32_t *ret_ms) LS_MUST_CHECK;

#endif
