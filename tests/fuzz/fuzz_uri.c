/*
 * fuzz_uri.c: the text of a certificate's name, lockstep://role/name. It decides what its holder may do, so there must
 * be one way only to write each.
 */
#include "tests/fuzz/fuzz.h"

#include "common/tls.h"
#include "lockstep/ids.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tls_identity identity = {0};
    struct ls_error err = {0};
    char *exact = malloc(size + (size == 0)); /* no NUL behind it */
    REQUIRE(exact != NULL);
    if (size > 0) memcpy(exact, data, size);
    enum ls_status status = tls_parse_uri(exact, size, &identity, &err);
    if (status == LS_OK) {
        char printed[LS_IDENTITY_MAX + 32];
        int length = snprintf(printed, sizeof printed, "lockstep://%s/%s", tls_role_name(identity.role), identity.name);
        REQUIRE(identity.role != TLS_ROLE_NONE && ls_name_valid(identity.name, LS_IDENTITY_MAX));
        REQUIRE((size_t)length == size && memcmp(printed, exact, size) == 0);
    } else {
        fuzz_refused(status, &err);
        REQUIRE(status == LS_ERR_DENIED && identity.role == TLS_ROLE_NONE && identity.name[0] == '\0');
    }
    free(exact);
    return 0;
}
