/*
 * fuzz_statement.c: may this SQL stand in a transaction? The first line is a list of functions for an application that
 * may call nothing else, the rest is the statement. What must not matter: comments and white space in front, upper and
 * lower case.
 */
#include "tests/fuzz/fuzz.h"

#include <ctype.h>

#include "common/statement.h"
#include "participant/functions.h"

static enum ls_status check(const char *sql, size_t length) {
    struct ls_error err = {0};
    char *exact = malloc(length + (length == 0)); /* no NUL behind it */
    REQUIRE(exact != NULL);
    if (length > 0) memcpy(exact, sql, length);
    enum ls_status status = statement_check(exact, length, &err);
    if (status != LS_OK) {
        fuzz_refused(status, &err);
        REQUIRE(status == LS_ERR_INVALID);
    }
    free(exact);
    return status;
}

static enum ls_status check_behind(const char *prefix, const char *sql, size_t length) {
    size_t before = strlen(prefix);
    char *longer = malloc(before + length + 1);
    REQUIRE(longer != NULL);
    memcpy(longer, prefix, before); /* NOLINT(bugprone-not-null-terminated-result): bytes, no text */
    if (length > 0) memcpy(longer + before, sql, length);
    enum ls_status status = check(longer, before + length);
    free(longer);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *allowed = fuzz_line(&data, &size);
    char *sql = fuzz_text(data, size);
    enum ls_status status = check(sql, size);
    REQUIRE(check_behind("/* /**/ */\f--\r( ", sql, size) == status);
    if (functions_list_valid(allowed) && functions_allowed(sql, allowed)) {
        REQUIRE(memchr(sql, '\0', size) != NULL || status == LS_OK);
        REQUIRE(strchr(sql, '\'') == NULL && strchr(sql, '"') == NULL);
    }
    for (size_t i = 0; i < size; i++)
        sql[i] = (char)(isupper((unsigned char)sql[i]) ? tolower(sql[i]) : toupper((unsigned char)sql[i]));
    REQUIRE(check(sql, size) == status);
    free(sql);
    free(allowed);
    return 0;
}
