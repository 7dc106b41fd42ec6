/*
 * mutate.h: changes one place deep inside of a nested encoding and mends all lengths around it, so that the fuzzer does
 * not break the outside with every byte that it inserts inside.
 */
#ifndef LOCKSTEP_TESTS_FUZZ_MUTATE_H
#define LOCKSTEP_TESTS_FUZZ_MUTATE_H

#include <stddef.h>
#include <stdint.h>

/* For LLVMFuzzerCustomMutator(). Protocol Buffers; X.509 (DER). */
size_t mutate_protobuf(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t mutate_der(uint8_t *data, size_t size, size_t max, unsigned seed);

#endif
