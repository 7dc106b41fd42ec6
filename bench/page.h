/*
 * page.h: one text in two forms: an HTML page that needs nothing else, and plain text. Plots are only in the first;
 * their figures stand in tables of both.
 */
#ifndef BENCH_PAGE_H
#define BENCH_PAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "bench/svg.h"

#define PAGE_COLUMNS_MAX 24u
#define PAGE_CELL_MAX 512u

struct page {
    FILE *out;
    bool html;
    /* the table under way */
    uint32_t columns, filled, capacity;
    char (*cells)[PAGE_CELL_MAX];
};

void page_begin(struct page *page, FILE *out, bool html, const char *title);
void page_end(struct page *page);
/* level 1 to 3 */
void page_heading(struct page *page, uint32_t level, const char *format, ...) __attribute__((format(printf, 3, 4)));
void page_text(struct page *page, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A line as it is typed. */
void page_code(struct page *page, const char *text);
/* Plots stand side by side until something else comes. */
void page_plots_begin(struct page *page);
void page_plot(struct page *page, const struct svg_plot *plot);
void page_plots_end(struct page *page);
/* The first row is the head. */
void page_table_begin(struct page *page, uint32_t columns);
void page_cell(struct page *page, const char *format, ...) __attribute__((format(printf, 2, 3)));
void page_table_end(struct page *page);

#endif
