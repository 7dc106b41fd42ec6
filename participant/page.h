/* page.h: events in memory, on their way between database, wire and the relay's core. Each owns its texts. */
#ifndef LOCKSTEP_AGENT_PAGE_H
#define LOCKSTEP_AGENT_PAGE_H

#include <stdint.h>

#include "lockstep.pb-c.h"
#include "participant/core/relay.h"

struct page_event {
    int64_t position, version;
    char *type, *key, *saga, *payload;
    char *source, *handler; /* of parked ones; else NULL */
    uint32_t attempts;
};

struct page {
    uint32_t count, capacity;
    struct page_event *events;
    struct relay_item *items; /* the core's view of them */
};

struct page *page_new(uint32_t capacity);
void page_free(struct page *page);
/* Copies the texts. */
void page_add(struct page *page, const struct page_event *event);
struct page *page_of_frame(const Lockstep__Events *events);
/* The message borrows from the page; *ret_list is to be freed. */
void page_to_frame(const struct page *page, Lockstep__Events *ret_events, void **ret_list);

#endif
