/* page.c: see page.h. */
#include "bench/page.h"

#include <assert.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"

#define TEXT_MAX 4096

static const char style[] =
    "body{font:15px/1.45 system-ui,sans-serif;max-width:1120px;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0;font-size:13px;display:block;overflow-x:auto}"
    "td,th{border-bottom:1px solid #ddd;padding:.25em .6em;text-align:right;vertical-align:top}"
    "td:first-child,th:first-child{text-align:left}th{border-bottom:2px solid #999}"
    "pre{margin:.2em 0;font-size:12px;white-space:pre-wrap}"
    "h1,h2,h3{line-height:1.2}h2{margin-top:2em;border-top:1px solid #ccc;padding-top:.6em}"
    ".plots{display:flex;flex-wrap:wrap;gap:12px}"
    "svg text{font:12px system-ui,sans-serif;fill:#222}svg .end{text-anchor:end}svg .middle{text-anchor:middle}"
    "svg .title{font-weight:600}svg .grid{stroke:#e6e6e6;fill:none}svg .axis{stroke:#555;fill:none}"
    "svg .band{fill:#d62728;opacity:.12}svg .fault{stroke:#d62728;stroke-dasharray:4 3;fill:none}";

void page_begin(struct page *page, FILE *out, bool html, const char *title) {
    *page = (struct page){.out = out, .html = html};
    if (html) {
        (void)fprintf(out, "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><meta name='viewport' "
                           "content='width=device-width'><title>");
        svg_text(out, title);
        (void)fprintf(out, "</title><style>%s</style></head><body>\n", style);
    }
    page_heading(page, 1, "%s", title);
}

void page_end(struct page *page) {
    if (page->html) (void)fprintf(page->out, "</body></html>\n");
    free(page->cells);
}

void page_heading(struct page *page, uint32_t level, const char *format, ...) {
    char text[TEXT_MAX];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (page->html) {
        (void)fprintf(page->out, "<h%u>", level);
        svg_text(page->out, text);
        (void)fprintf(page->out, "</h%u>\n", level);
        return;
    }
    (void)fprintf(page->out, "%s%s\n", level > 1 ? "\n" : "", text);
    for (size_t i = 0; i < strlen(text); i++) (void)fputc(level == 1 ? '=' : level == 2 ? '-' : '.', page->out);
    (void)fprintf(page->out, "\n\n");
}

void page_text(struct page *page, const char *format, ...) {
    char text[TEXT_MAX];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (page->html) {
        (void)fprintf(page->out, "<p>");
        svg_text(page->out, text);
        (void)fprintf(page->out, "</p>\n");
    } else {
        (void)fprintf(page->out, "%s\n\n", text);
    }
}

void page_code(struct page *page, const char *text) {
    (void)fprintf(page->out, page->html ? "<pre>" : "    ");
    if (page->html) {
        svg_text(page->out, text);
    } else {
        (void)fputs(text, page->out);
    }
    (void)fprintf(page->out, page->html ? "</pre>\n" : "\n");
}

void page_plots_begin(struct page *page) {
    if (page->html) (void)fprintf(page->out, "<div class='plots'>\n");
}

void page_plot(struct page *page, const struct svg_plot *plot) {
    if (page->html && plot->series_count > 0) svg_write(page->out, plot);
}

void page_plots_end(struct page *page) {
    if (page->html) (void)fprintf(page->out, "</div>\n");
}

/* ---------------------------------------------------------------------------- tables */

void page_table_begin(struct page *page, uint32_t columns) {
    assert(columns <= PAGE_COLUMNS_MAX);
    page->columns = columns;
    page->filled = 0;
}

void page_cell(struct page *page, const char *format, ...) {
    va_list args;

    if (page->filled == page->capacity) {
        page->capacity = page->capacity > 0 ? 2 * page->capacity : 256;
        page->cells = realloc(page->cells, page->capacity * sizeof *page->cells);
        if (page->cells == NULL) exit(bench_fail(NULL, EXIT_FAILURE, "out of memory"));
    }
    va_start(args, format);
    (void)vsnprintf(page->cells[page->filled++], PAGE_CELL_MAX, format, args);
    va_end(args);
}

static void html_table(const struct page *page) {
    (void)fprintf(page->out, "<table>\n");
    for (uint32_t i = 0; i < page->filled; i++) {
        const char *tag = i < page->columns ? "th" : "td";
        if (i % page->columns == 0) (void)fprintf(page->out, "<tr>");
        (void)fprintf(page->out, "<%s>", tag);
        svg_text(page->out, page->cells[i]);
        (void)fprintf(page->out, "</%s>", tag);
        if (i % page->columns == page->columns - 1) (void)fprintf(page->out, "</tr>\n");
    }
    (void)fprintf(page->out, "</table>\n");
}

static void text_table(const struct page *page) {
    int widths[PAGE_COLUMNS_MAX] = {0};

    for (uint32_t i = 0; i < page->filled; i++)
        if ((int)strlen(page->cells[i]) > widths[i % page->columns])
            widths[i % page->columns] = (int)strlen(page->cells[i]);
    for (uint32_t i = 0; i < page->filled; i++) {
        uint32_t column = i % page->columns;
        (void)fprintf(page->out, column == 0 ? "%-*s" : "  %*s", widths[column], page->cells[i]);
        if (column == page->columns - 1) (void)fputc('\n', page->out);
    }
    (void)fputc('\n', page->out);
}

void page_table_end(struct page *page) {
    assert(page->filled % page->columns == 0);
    if (page->html) {
        html_table(page);
    } else {
        text_table(page);
    }
}
