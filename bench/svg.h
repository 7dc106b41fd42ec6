/*
 * svg.h: a plot of lines as SVG inside an HTML page: no script, no font or file of anybody else's.
 */
#ifndef BENCH_SVG_H
#define BENCH_SVG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define SVG_SERIES_MAX 16u
#define SVG_POINTS_MAX 1024u
#define SVG_BANDS_MAX 8u

struct svg_series {
    char name[64];
    uint32_t color; /* any number: the same one looks the same in every plot */
    uint32_t count;
    double x[SVG_POINTS_MAX], y[SVG_POINTS_MAX];
};

struct svg_plot {
    const char *title, *x_label, *y_label;
    bool log_x, log_y;
    bool marks;     /* at each point, with its figures when pointed at; x is labelled at the points */
    uint32_t width; /* 0: the usual one */
    struct {
        double from, to; /* equal: a moment */
        char label[128];
    } bands[SVG_BANDS_MAX];
    uint32_t band_count;
    struct svg_series series[SVG_SERIES_MAX];
    uint32_t series_count;
};

/* The series of that name, made when it is not there; NULL when there are too many. */
struct svg_series *svg_series_of(struct svg_plot *plot, const char *name, uint32_t color);
/* Left out when the series is full, or where a logarithm would be asked of 0. */
void svg_add(struct svg_series *series, double x, double y);
void svg_write(FILE *out, const struct svg_plot *plot);
/* With &, <, > and " as HTML wants them. */
void svg_text(FILE *out, const char *text);

#endif
