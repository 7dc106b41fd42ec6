/*
 * opt.c: see opt.h. Kept by hand because getopt_long accepts unique prefixes (a later option then changes the meaning
 * of a script) and has no place for ranges and help.
 */
#include "client/opt.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum ls_status opt_parse_ms(const char *text, uint32_t *ret_ms) {
    static const struct {
        const char *unit;
        uint64_t ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"min", 60000}, {"h", 3600000}};
    uint64_t value = 0;
    const char *c = text;

    for (; isdigit((unsigned char)*c); c++) {
        value = value * 10 + (uint64_t)(*c - '0');
        if (value > UINT32_MAX) return LS_ERR_INVALID;
    }
    if (c == text) return LS_ERR_INVALID;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(c, units[i].unit) != 0) continue;
        if (value * units[i].ms > UINT32_MAX) return LS_ERR_INVALID;
        *ret_ms = (uint32_t)(value * units[i].ms);
        return LS_OK;
    }
    return LS_ERR_INVALID;
}

static enum ls_status parse_u32(const char *text, uint32_t *ret_value) {
    uint64_t value = 0;

    if (*text == '\0' || strlen(text) > 10) return LS_ERR_INVALID;
    for (const char *c = text; *c != '\0'; c++) {
        if (!isdigit((unsigned char)*c)) return LS_ERR_INVALID;
        value = value * 10 + (uint64_t)(*c - '0');
    }
    if (value > UINT32_MAX) return LS_ERR_INVALID;
    *ret_value = (uint32_t)value;
    return LS_OK;
}

static enum ls_status store_number(const struct opt *opt, const char *word, const char *value, struct ls_error *err) {
    uint32_t number = 0;
    enum ls_status status = opt->kind == OPT_MS ? opt_parse_ms(value, &number) : parse_u32(value, &number);
    const char *unit = opt->kind == OPT_MS ? "ms" : "";

    if (status != LS_OK)
        return ls_fail(err, LS_ERR_INVALID, "%s: `%s` is not %s", word, value,
                       opt->kind == OPT_MS ? "a time such as 500ms, 5s or 2min" : "a number");
    if (number < opt->min || (opt->max != 0 && number > opt->max))
        return ls_fail(err, LS_ERR_INVALID, "%s: `%s` is outside %u%s to %u%s", word, value, opt->min, unit, opt->max,
                       unit);
    *(uint32_t *)opt->target = number;
    return LS_OK;
}

static enum ls_status store(const struct opt *opt, const char *word, const char *value, struct ls_error *err) {
    struct opt_list *list = opt->target;

    switch (opt->kind) {
    case OPT_FLAG:
        *(bool *)opt->target = true;
        return LS_OK;
    case OPT_TEXT:
        *(const char **)opt->target = value;
        return LS_OK;
    case OPT_U32:
    case OPT_MS:
        return store_number(opt, word, value, err);
    case OPT_LIST:
        if (list->count == OPT_LIST_MAX)
            return ls_fail(err, LS_ERR_INVALID, "%s: given more than %d times", word, OPT_LIST_MAX);
        list->items[list->count++] = value;
        return LS_OK;
    }
    return LS_ERR_BUG;
}

static const struct opt *find_long(const struct opt *opts, size_t count, const char *name, size_t length) {
    for (size_t i = 0; i < count; i++)
        if (strlen(opts[i].name) == length && memcmp(opts[i].name, name, length) == 0) return &opts[i];
    return NULL;
}

static const struct opt *find_short(const struct opt *opts, size_t count, char letter) {
    for (size_t i = 0; i < count; i++)
        if (opts[i].letter == letter) return &opts[i];
    return NULL;
}

/* Takes the option at argv[*index] and its value. */
static enum ls_status take(const struct opt *opts, size_t count, int argc, char **argv, int *index,
                           struct ls_error *err) {
    const char *word = argv[*index], *value = NULL;
    const struct opt *opt;

    if (word[1] == '-') {
        const char *equals = strchr(word, '=');
        opt = find_long(opts, count, word + 2, equals != NULL ? (size_t)(equals - word - 2) : strlen(word + 2));
        if (equals != NULL) value = equals + 1;
    } else {
        opt = find_short(opts, count, word[1]);
        if (word[2] != '\0') value = word + 2;
    }
    if (opt == NULL) return ls_fail(err, LS_ERR_INVALID, "unknown option `%s`", word);
    if (opt->kind == OPT_FLAG && value != NULL)
        return ls_fail(err, LS_ERR_INVALID, "`%s`: --%s takes no value", word, opt->name);
    if (opt->kind != OPT_FLAG && value == NULL) {
        if (*index + 1 >= argc) return ls_fail(err, LS_ERR_INVALID, "`%s` needs a value (%s)", word, opt->value);
        value = argv[++*index];
    }
    return store(opt, word, value, err);
}

enum ls_status opt_parse(const struct opt *opts, size_t count, int argc, char **argv, bool stop_at_operand,
                         struct opt_operands *ret_operands, struct ls_error *err) {
    size_t operands = 0;
    bool ended = false;

    for (int i = 1; i < argc; i++) {
        bool option = !ended && argv[i][0] == '-' && argv[i][1] != '\0';
        if (!option) {
            if (stop_at_operand) ended = true;
            argv[1 + operands++] = argv[i]; /* never overtakes i */
        } else if (strcmp(argv[i], "--") == 0) {
            ended = true;
        } else {
            enum ls_status status = take(opts, count, argc, argv, &i, err);
            if (status != LS_OK) return status;
        }
    }
    ret_operands->items = argv + 1;
    ret_operands->count = operands;
    return LS_OK;
}

void opt_help(FILE *out, const struct opt *opts, size_t count) {
    for (size_t i = 0; i < count; i++) {
        char left[64], letter[8] = "    ";
        if (opts[i].letter != 0) (void)snprintf(letter, sizeof letter, "-%c, ", opts[i].letter);
        (void)snprintf(left, sizeof left, "%s--%s%s%s", letter, opts[i].name, opts[i].value != NULL ? " " : "",
                       opts[i].value != NULL ? opts[i].value : "");
        (void)fprintf(out, "  %-28s %s\n", left, opts[i].help);
    }
}
