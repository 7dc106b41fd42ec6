/*
 * hash.c: digests and random bytes, from OpenSSL. Both stop the process rather than return something weaker.
 */
#include "common/hash.h"

#include <assert.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct hash {
    EVP_MD_CTX *context;
};

static void must(int ok, const char *what) {
    if (ok == 1) return;
    (void)fprintf(stderr, "OpenSSL cannot %s\n", what);
    abort();
}

struct hash *hash_begin(void) {
    struct hash *hash = malloc(sizeof *hash);
    must(hash != NULL, "allocate a digest");
    hash->context = EVP_MD_CTX_new();
    must(hash->context != NULL, "allocate a digest");
    must(EVP_DigestInit_ex(hash->context, EVP_sha256(), NULL), "begin a digest");
    return hash;
}

void hash_add(struct hash *hash, const void *data, size_t length) {
    uint8_t prefix[8];
    for (size_t i = 0; i < sizeof prefix; i++) prefix[i] = (uint8_t)((uint64_t)length >> (56 - 8 * i));
    must(EVP_DigestUpdate(hash->context, prefix, sizeof prefix), "digest");
    must(EVP_DigestUpdate(hash->context, data, length), "digest");
}

void hash_end(struct hash *hash, uint8_t ret_digest[HASH_BYTES]) {
    uint8_t whole[EVP_MAX_MD_SIZE];
    unsigned length = 0;
    must(EVP_DigestFinal_ex(hash->context, whole, &length), "end a digest");
    assert(length >= HASH_BYTES);
    memcpy(ret_digest, whole, HASH_BYTES);
    EVP_MD_CTX_free(hash->context);
    free(hash);
}

void hash_pair(const char *a, const char *b, uint8_t ret_digest[HASH_BYTES]) {
    struct hash *hash = hash_begin();
    hash_add(hash, a, strlen(a));
    hash_add(hash, b, strlen(b));
    hash_end(hash, ret_digest);
}

void random_hex(size_t digits, char *ret_text) {
    static const char hex[] = "0123456789abcdef";
    uint8_t bytes[32];
    assert(digits <= sizeof bytes * 2);
    must(RAND_bytes(bytes, (int)sizeof bytes), "give random bytes");
    for (size_t i = 0; i < digits; i++) ret_text[i] = hex[(bytes[i / 2] >> (i % 2 ? 4 : 0)) & 15];
    ret_text[digits] = '\0';
}

uint64_t random_u64(void) {
    uint64_t value;
    must(RAND_bytes((unsigned char *)&value, (int)sizeof value), "give random bytes");
    return value;
}
