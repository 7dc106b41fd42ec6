/*
 * hash.h: 128-bit digests of lists of byte strings (SHA-256, cut), and random bytes: both from OpenSSL.
 *
 * Every part goes in with its length before it, so ("ab", "c") and ("a", "bc") differ.
 */
#ifndef LOCKSTEP_HASH_H
#define LOCKSTEP_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "lockstep/status.h"

#define HASH_BYTES 16

struct hash;

/* Stops the process when OpenSSL has no memory: there is no answer without a digest. */
struct hash *hash_begin(void);
void hash_add(struct hash *hash, const void *data, size_t length);
/* Writes the digest and frees. */
void hash_end(struct hash *hash, uint8_t ret_digest[HASH_BYTES]);
/* Digest of two strings, e.g. identity and Idempotency-Key. */
void hash_pair(const char *a, const char *b, uint8_t ret_digest[HASH_BYTES]);

/* `digits` lower-case hex digits and a NUL. For incarnations and nonces. Stops the process when there is no randomness.
 */
void random_hex(size_t digits, char *ret_text);
/* 64 random bits, for seeds and jitter. */
uint64_t random_u64(void);

#endif
