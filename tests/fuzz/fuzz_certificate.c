/*
 * fuzz_certificate.c: who a certificate is, after its chain was checked: a CA of the operator's may sign names that we
 * never thought of. Input: length and bytes of the serial number, then the extensions (DER). The rest of a certificate
 * is nothing that we look at, and OpenSSL takes a millisecond for the key alone.
 */
#include "tests/fuzz/fuzz.h"

#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/x509.h>

#include "common/tls.h"
#include "lockstep/ids.h"
#include "tests/fuzz/mutate.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed) {
    size_t head = size > 0 ? 1 + data[0] % 40u : 0;
    if (head >= size || seed % 8 == 0) return LLVMFuzzerMutate(data, size, max);
    return head + mutate_der(data + head, size - head, max - head, seed);
}

/* A certificate with this serial number and these extensions; NULL when the extensions cannot be read. */
static X509 *certificate_of(const uint8_t *serial, size_t serial_length, const uint8_t *der, size_t size) {
    const uint8_t *at = der;
    X509_EXTENSIONS *extensions = d2i_X509_EXTENSIONS(NULL, &at, (long)size);
    if (extensions == NULL) return NULL;
    X509 *certificate = X509_new();
    BIGNUM *number = BN_bin2bn(serial, (int)serial_length, NULL);
    REQUIRE(certificate != NULL && number != NULL);
    REQUIRE(BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate)) != NULL);
    for (int i = 0; i < sk_X509_EXTENSION_num(extensions); i++)
        REQUIRE(X509_add_ext(certificate, sk_X509_EXTENSION_value(extensions, i), -1));
    BN_free(number);
    sk_X509_EXTENSION_pop_free(extensions, X509_EXTENSION_free);
    return certificate;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    size_t serial = size > 0 ? data[0] % 40u : 0;
    if (size < 1 + serial) return 0;
    X509 *certificate = certificate_of(data + 1, serial, data + 1 + serial, size - 1 - serial);
    if (certificate != NULL) {
        struct tls_identity identity = {0};
        struct ls_error err = {0};
        enum ls_status status = tls_certificate_identity(certificate, &identity, &err);
        if (status == LS_OK) {
            char uri[LS_IDENTITY_MAX + 32];
            int length = snprintf(uri, sizeof uri, "lockstep://%s/%s", tls_role_name(identity.role), identity.name);
            REQUIRE(identity.role != TLS_ROLE_NONE && ls_name_valid(identity.name, LS_IDENTITY_MAX));
            REQUIRE(memmem(data, size, uri, (size_t)length) != NULL);
            REQUIRE(identity.serial[0] != '\0' && strlen(identity.serial) < sizeof identity.serial);
        } else {
            fuzz_refused(status, &err);
            REQUIRE(status == LS_ERR_DENIED && identity.role == TLS_ROLE_NONE);
        }
        X509_free(certificate);
    }
    ERR_clear_error();
    return 0;
}
