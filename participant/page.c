/* page.c: see page.h. Pages are bounded in events and bytes, so that a crash is all that shortage of memory is worth.
 */
#include "participant/page.h"

#include "common/memory.h"
#include <assert.h>
#include <stdlib.h>

struct page *page_new(uint32_t capacity) {
    struct page *page = memory_new(sizeof(*page));
    page->capacity = capacity;
    page->events = memory_new(capacity * sizeof(*page->events));
    page->items = memory_new(capacity * sizeof(*page->items));
    return page;
}

void page_free(struct page *page) {
    if (page == NULL) return;
    for (uint32_t i = 0; i < page->count; i++) {
        struct page_event *event = &page->events[i];
        char *const texts[] = {event->type, event->key, event->saga, event->payload, event->source, event->handler};
        for (size_t n = 0; n < sizeof(texts) / sizeof(texts[0]); n++) free(texts[n]);
    }
    free(page->events);
    free(page->items);
    free(page);
}

void page_add(struct page *page, const struct page_event *event) {
    assert(page->count < page->capacity);
    struct page_event *to = &page->events[page->count];
    *to = *event;
    to->type = memory_copy(event->type);
    to->key = memory_copy(event->key);
    to->saga = memory_copy(event->saga);
    to->payload = memory_copy(event->payload);
    to->source = memory_copy(event->source);
    to->handler = memory_copy(event->handler);
    page->items[page->count++] = (struct relay_item){.position = to->position,
                                                     .type = to->type,
                                                     .handler = to->handler,
                                                     .source = to->source,
                                                     .attempts = to->attempts};
}

struct page *page_of_frame(const Lockstep__Events *events) {
    struct page *page = page_new((uint32_t)events->n_events);
    for (size_t i = 0; i < events->n_events; i++) {
        const Lockstep__Event *from = events->events[i];
        const struct page_event event = {.position = (int64_t)from->position,
                                         .version = (int64_t)from->version,
                                         .type = from->type,
                                         .key = from->key,
                                         .saga = from->saga,
                                         .payload = from->payload};
        page_add(page, &event);
    }
    return page;
}

void page_to_frame(const struct page *page, Lockstep__Events *ret_events, void **ret_list) {
    Lockstep__Event **list = memory_new(page->count * (sizeof(Lockstep__Event *) + sizeof(Lockstep__Event)));
    Lockstep__Event *items = (Lockstep__Event *)(void *)(list + page->count);
    for (uint32_t i = 0; i < page->count; i++) {
        const struct page_event *from = &page->events[i];
        lockstep__event__init(&items[i]);
        items[i].position = (uint64_t)from->position;
        items[i].version = (uint64_t)from->version;
        items[i].type = from->type;
        items[i].key = from->key;
        items[i].saga = from->saga;
        items[i].payload = from->payload;
        list[i] = &items[i];
    }
    lockstep__events__init(ret_events);
    ret_events->n_events = page->count;
    ret_events->events = list;
    *ret_list = list;
}
