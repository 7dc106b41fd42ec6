/*
 * report.h: `lockstep-bench report`: results of comparisons and timelines of the laboratory as one page.
 */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include <jansson.h>
#include <stdint.h>

#include "bench/page.h"

#define REPORT_FILES_MAX 256u

struct report {
    json_t *compares[REPORT_FILES_MAX], *timelines[REPORT_FILES_MAX];
    uint32_t compare_count, timeline_count;
};

/* Missing, or of another type: "" and 0. */
const char *report_text(const json_t *object, const char *key);
double report_number(const json_t *object, const char *key);

void report_compares(struct page *page, const struct report *report);
void report_timelines(struct page *page, const struct report *report);

#endif
