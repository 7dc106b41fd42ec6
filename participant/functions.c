/* functions.c: see functions.h. */
#include "participant/functions.h"

#include <ctype.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

static const char *skip_space(const char *at)
{
    while (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r')
        at++;
    return at;
}

/* The word at *at, whole; moves behind it and the space that follows. */
static bool take_word(const char **at, const char *word)
{
    size_t length = strlen(word);
    if (strncasecmp(*at, word, length) != 0)
        return false;
    char next = (*at)[length];
    if (isalnum((unsigned char)next) || next == '_' || next == '$' || next == '.')
        return false;
    *at = skip_space(*at + length);
    return true;
}

static bool take_char(const char **at, char c)
{
    if (**at != c)
        return false;
    *at = skip_space(*at + 1);
    return true;
}

static bool is_name_char(char c)
{
    return isalnum((unsigned char)c) || c == '_' || c == '$' || c == '.';
}

static size_t name_length(const char *at)
{
    size_t length = 0;
    if (isdigit((unsigned char)*at) || *at == '$' || *at == '.')
        return 0;
    while (is_name_char(at[length]))
        length++;
    return length;
}

static bool listed(const char *name, size_t length, const char *allowed)
{
    const char *at = skip_space(allowed);
    while (*at != '\0') {
        size_t n = name_length(at);
        if (n == length && strncasecmp(at, name, n) == 0)
            return true;
        at = skip_space(at + n);
        if (*at == ',')
            at = skip_space(at + 1);
        else if (n == 0)
            return false;
    }
    return false;
}

static bool take_parameter(const char **at)
{
    const char *digits = *at + 1;
    size_t length = 0;
    if (**at != '$')
        return false;
    while (isdigit((unsigned char)digits[length]))
        length++;
    if (length == 0)
        return false;
    *at = skip_space(digits + length);
    return true;
}

static bool take_arguments(const char **at)
{
    if (!take_char(at, '('))
        return false;
    if (take_char(at, ')'))
        return true;
    do {
        if (!take_parameter(at))
            return false;
    } while (take_char(at, ','));
    return take_char(at, ')');
}

bool functions_allowed(const char *sql, const char *allowed)
{
    const char *at = skip_space(sql);
    if (take_word(&at, "select")) {
        if (take_char(&at, '*') && !take_word(&at, "from"))
            return false;
    } else if (!take_word(&at, "call")) {
        return false;
    }
    const char *name = at;
    size_t length = name_length(at);
    if (length == 0 || !listed(name, length, allowed))
        return false;
    at = skip_space(at + length);
    if (!take_arguments(&at))
        return false;
    (void)take_char(&at, ';');
    return *at == '\0';
}

bool functions_list_valid(const char *allowed)
{
    const char *at = skip_space(allowed);
    for (;;) {
        size_t length = name_length(at);
        const char *dot = memchr(at, '.', length);
        if (length == 0 || at[length - 1] == '.' || (dot != NULL && memchr(dot + 1, '.', length - (size_t)(dot + 1 - at)) != NULL))
            return false;
        at = skip_space(at + length);
        if (*at == '\0')
            return true;
        if (*at != ',')
            return false;
        at = skip_space(at + 1);
    }
}
