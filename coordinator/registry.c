/* registry.c: see registry.h. */
#include "coordinator/registry.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define NAME_SLOTS 32768u /* a power of two, more than twice LS_PARTICIPANT_NUMBER_MAX */

struct registry {
    struct registry_participant *by_number[LS_PARTICIPANT_NUMBER_MAX + 1];
    uint16_t by_name[NAME_SLOTS]; /* open addressing; 0: free */
    uint32_t highest;
    char **acceptances; /* subjects, oldest first */
    size_t acceptance_count;
};
_Static_assert(LS_PARTICIPANT_NUMBER_MAX < NAME_SLOTS / 2 && LS_PARTICIPANT_NUMBER_MAX <= UINT16_MAX,
               "the table never fills");

struct registry *registry_new(void) {
    return calloc(1, sizeof(struct registry));
}

void registry_free(struct registry *registry) {
    if (registry == NULL) {
        return;
    }
    for (uint32_t i = 1; i <= registry->highest; i++) {
        if (registry->by_number[i] != NULL) free(registry->by_number[i]->sightings);
        free(registry->by_number[i]);
    }
    for (size_t i = 0; i < registry->acceptance_count; i++) free(registry->acceptances[i]);
    free(registry->acceptances);
    free(registry);
}

static void apply_acceptance(struct registry_participant *participant, const char *subject) {
    size_t length = strlen(participant->name);
    if (strncmp(subject, participant->name, length) == 0 && subject[length] == ' ' &&
        strlen(subject + length + 1) == LS_INCARNATION_LEN) {
        memcpy(participant->accepted_incarnation, subject + length + 1, LS_INCARNATION_LEN + 1);
    }
}

enum ls_status registry_accept(struct registry *registry, const char *subject) {
    char *copy = strdup(subject);
    char **grown =
        copy == NULL ? NULL : realloc(registry->acceptances, (registry->acceptance_count + 1) * sizeof(char *));
    if (grown == NULL) {
        free(copy);
        return LS_ERR_NOMEM;
    }
    registry->acceptances = grown;
    registry->acceptances[registry->acceptance_count++] = copy;
    for (uint32_t i = 1; i <= registry->highest; i++) {
        if (registry->by_number[i] != NULL) apply_acceptance(registry->by_number[i], copy);
    }
    return LS_OK;
}

/* The slot that holds the name, or the free one where it belongs. */
static uint32_t name_slot(const struct registry *registry, const char *name) {
    uint32_t slot = (uint32_t)XXH3_64bits(name, strlen(name)) & (NAME_SLOTS - 1);
    while (registry->by_name[slot] != 0 && strcmp(registry->by_number[registry->by_name[slot]]->name, name) != 0) {
        slot = (slot + 1) & (NAME_SLOTS - 1);
    }
    return slot;
}

enum ls_status registry_add(struct registry *registry, uint32_t number, const char *name,
                            struct registry_participant **ret_participant, struct ls_error *err) {
    if (number < 1 || number > LS_PARTICIPANT_NUMBER_MAX) {
        return ls_fail(err, LS_ERR_FULL, "no number is left for participant %s", name);
    }
    uint32_t slot = name_slot(registry, name);
    struct registry_participant *participant = registry->by_number[number];
    if (registry->by_name[slot] != (participant == NULL ? 0 : number)) {
        return ls_fail(err, LS_ERR_MISMATCH, "participant %s or number %u is another's", name, number);
    }
    if (participant == NULL) {
        participant = calloc(1, sizeof *participant);
        if (participant == NULL) {
            return ls_fail(err, LS_ERR_NOMEM, "out of memory");
        }
        participant->number = number;
        (void)snprintf(participant->name, sizeof participant->name, "%s", name);
        registry->by_number[number] = participant;
        registry->by_name[slot] = (uint16_t)number;
        registry->highest = number > registry->highest ? number : registry->highest;
        for (size_t i = 0; i < registry->acceptance_count; i++) {
            apply_acceptance(participant, registry->acceptances[i]);
        }
    }
    *ret_participant = participant;
    return LS_OK;
}

struct registry_participant *registry_by_number(const struct registry *registry, uint32_t number) {
    return number >= 1 && number <= LS_PARTICIPANT_NUMBER_MAX ? registry->by_number[number] : NULL;
}

struct registry_participant *registry_by_name(const struct registry *registry, const char *name) {
    return registry->by_number[registry->by_name[name_slot(registry, name)]]; /* by_number[0] is NULL */
}

uint32_t registry_next_number(const struct registry *registry) {
    return registry->highest < LS_PARTICIPANT_NUMBER_MAX ? registry->highest + 1 : 0;
}

uint32_t registry_highest(const struct registry *registry) {
    return registry->highest;
}

/* ---- sightings ---- */

const struct registry_sighting *registry_sighting(const struct registry_participant *participant, uint32_t epoch,
                                                  uint64_t sequence) {
    for (uint32_t i = 0; i < participant->sighting_count; i++) {
        const struct registry_sighting *sighting = &participant->sightings[i];
        if (sighting->epoch == epoch && sighting->sequence == sequence) return sighting;
    }
    return NULL;
}

static void remove_sighting(struct registry_participant *participant, size_t at) {
    struct registry_sighting *list = participant->sightings;
    memmove(list + at, list + at + 1, (--participant->sighting_count - at) * sizeof *list);
}

enum ls_status registry_sight(struct registry_participant *participant, uint32_t epoch, uint64_t sequence, uint64_t lsn,
                              uint64_t end) {
    const struct registry_sighting *earlier = registry_sighting(participant, epoch, sequence);
    if (earlier != NULL) {
        remove_sighting(participant, (size_t)(earlier - participant->sightings));
    } else if (participant->sighting_count == LS_SIGHTINGS_MAX) {
        remove_sighting(participant, 0);
    }
    struct registry_sighting *grown =
        realloc(participant->sightings, (participant->sighting_count + 1) * sizeof *participant->sightings);
    if (grown == NULL) return LS_ERR_NOMEM;
    participant->sightings = grown;
    grown[participant->sighting_count++] =
        (struct registry_sighting){.epoch = epoch, .sequence = sequence, .lsn = lsn, .end = end};
    return LS_OK;
}

bool registry_sightings_new(const struct registry_participant *participant) {
    uint32_t count = participant->sighting_count; /* the newest stand at the end */
    return count > 0 && participant->sightings[count - 1].end == REGISTRY_NOT_LOGGED;
}

void registry_sightings_logged(struct registry_participant *participant, uint64_t end) {
    for (; registry_sightings_new(participant) && end == 0; participant->sighting_count--) {
    }
    for (uint32_t i = 0; i < participant->sighting_count; i++) {
        struct registry_sighting *sighting = &participant->sightings[i];
        sighting->end = sighting->end == REGISTRY_NOT_LOGGED ? end : sighting->end;
    }
}

/* ---- identities ---- */

struct apps {
    char **identities; /* [0] is "" */
    uint32_t count, capacity;
    uint32_t *slots; /* open addressing over identities; 0: free */
};
#define APP_SLOTS ((size_t)2 * REGISTRY_APPS_MAX)

struct apps *apps_new(void) {
    struct apps *apps = calloc(1, sizeof *apps);
    if (apps == NULL) {
        return NULL;
    }
    apps->slots = calloc(APP_SLOTS, sizeof *apps->slots);
    apps->capacity = 16;
    apps->identities = calloc(apps->capacity, sizeof *apps->identities);
    if (apps->slots == NULL || apps->identities == NULL) {
        apps_free(apps);
        return NULL;
    }
    apps->count = 1;
    return apps;
}

void apps_free(struct apps *apps) {
    if (apps == NULL) {
        return;
    }
    for (uint32_t i = 1; i < apps->count; i++) {
        free(apps->identities[i]);
    }
    free(apps->identities);
    free(apps->slots);
    free(apps);
}

uint32_t apps_number(struct apps *apps, const char *identity) {
    if (identity[0] == '\0') {
        return 0;
    }
    size_t slot = (size_t)XXH3_64bits(identity, strlen(identity)) & (APP_SLOTS - 1);
    while (apps->slots[slot] != 0) {
        if (strcmp(apps->identities[apps->slots[slot]], identity) == 0) {
            return apps->slots[slot];
        }
        slot = (slot + 1) & (APP_SLOTS - 1);
    }
    if (apps->count >= REGISTRY_APPS_MAX) {
        return 0;
    }
    if (apps->count == apps->capacity) {
        char **grown = realloc(apps->identities, (size_t)2 * apps->capacity * sizeof *grown);
        if (grown == NULL) {
            return 0;
        }
        apps->identities = grown;
        apps->capacity *= 2;
    }
    char *copy = strdup(identity);
    if (copy == NULL) {
        return 0;
    }
    apps->identities[apps->count] = copy;
    apps->slots[slot] = apps->count;
    return apps->count++;
}

const char *apps_identity(const struct apps *apps, uint32_t number) {
    assert(number < apps->count);
    return number == 0 ? "" : apps->identities[number];
}
