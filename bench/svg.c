/* svg.c: see svg.h. */
#include "bench/svg.h"

#include <math.h>
#include <string.h>

#define WIDTH 520u
#define HEIGHT 300u
#define LEFT 62.0
#define RIGHT 12.0
#define TOP 30.0
#define BOTTOM 44.0
#define LEGEND_LINE 15.0
#define LEGEND_LEFT 14.0
#define LEGEND_COLUMN 162.0
#define TICKS_MAX 16u
#define DECADES_MAX 20u

static const char *const colors[] = {"#777777", "#1f77b4", "#17becf", "#d62728", "#ff9896",
                                     "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2"};
#define COLOR_COUNT (sizeof colors / sizeof colors[0])

struct axis {
    double low, high, from_px, to_px;
    bool log;
};

void svg_text(FILE *out, const char *text) {
    for (; *text != '\0'; text++) {
        const char *word = *text == '&'   ? "&amp;"
                           : *text == '<' ? "&lt;"
                           : *text == '>' ? "&gt;"
                           : *text == '"' ? "&quot;"
                                          : NULL;
        if (word != NULL) {
            (void)fputs(word, out);
        } else {
            (void)fputc(*text, out);
        }
    }
}

struct svg_series *svg_series_of(struct svg_plot *plot, const char *name, uint32_t color) {
    for (uint32_t i = 0; i < plot->series_count; i++)
        if (strcmp(plot->series[i].name, name) == 0) return &plot->series[i];
    if (plot->series_count == SVG_SERIES_MAX) return NULL;
    struct svg_series *series = &plot->series[plot->series_count++];
    (void)snprintf(series->name, sizeof series->name, "%s", name);
    series->color = color;
    series->count = 0;
    return series;
}

void svg_add(struct svg_series *series, double x, double y) {
    if (series == NULL || series->count == SVG_POINTS_MAX || !isfinite(x) || !isfinite(y)) return;
    series->x[series->count] = x;
    series->y[series->count++] = y;
}

static double place(const struct axis *axis, double value) {
    double low = axis->low, high = axis->high;

    if (axis->log) {
        low = log10(low);
        high = log10(high);
        value = log10(value);
    }
    double part = high > low ? (value - low) / (high - low) : 0.5;
    return axis->from_px + part * (axis->to_px - axis->from_px);
}

static bool shown(const struct svg_plot *plot, double x, double y) {
    return (!plot->log_x || x > 0) && (!plot->log_y || y > 0);
}

static void find_range(const struct svg_plot *plot, struct axis *x, struct axis *y) {
    x->low = y->low = INFINITY;
    x->high = y->high = -INFINITY;
    for (uint32_t s = 0; s < plot->series_count; s++) {
        for (uint32_t i = 0; i < plot->series[s].count; i++) {
            double px = plot->series[s].x[i], py = plot->series[s].y[i];
            if (!shown(plot, px, py)) continue;
            x->low = fmin(x->low, px);
            x->high = fmax(x->high, px);
            y->low = fmin(y->low, py);
            y->high = fmax(y->high, py);
        }
    }
    if (x->low > x->high) x->low = plot->log_x ? 1 : 0, x->high = 1;
    if (y->low > y->high) y->low = plot->log_y ? 1 : 0, y->high = 1;
    if (!plot->log_y) y->low = 0;
    if (!plot->marks) x->low = 0; /* time begins at 0 */
    if (y->high <= y->low) y->high = y->low > 0 ? y->low * 2 : 1;
}

/* 1, 2 or 5 times a power of ten. */
static double nice_step(double range, uint32_t ticks) {
    static const double factors[] = {1, 2, 5};
    double raw = range / ticks, power = pow(10, floor(log10(raw)));

    for (size_t i = 0; i < 3; i++)
        if (factors[i] * power >= raw) return factors[i] * power;
    return 10 * power;
}

static uint32_t linear_ticks(struct axis *axis, double *ticks) {
    double step = nice_step(axis->high - axis->low, 6), first = ceil(axis->low / step) * step;
    uint32_t count = 0;

    axis->high = ceil(axis->high / step - 1e-9) * step;
    while (count < TICKS_MAX && first + count * step <= axis->high + step / 1000) {
        ticks[count] = first + count * step;
        count++;
    }
    return count;
}

/* From the last one below the least to the first one above the most; 1, 2, 5 of each decade, or only its 1. */
static uint32_t log_ticks(struct axis *axis, double *ticks) {
    static const double factors[] = {1, 2, 5};
    const uint32_t each = axis->high / axis->low < 200 ? 3 : 1;
    double first = pow(10, floor(log10(axis->low)));
    uint32_t count = 0;

    for (uint32_t i = 0; i < DECADES_MAX * each && count < TICKS_MAX; i++) {
        const uint32_t decade = i / each;
        double at = first * pow(10, decade) * factors[i % each];
        if (at <= axis->low) count = 0;
        ticks[count++] = at;
        if (at >= axis->high) break;
    }
    axis->low = ticks[0];
    axis->high = fmax(axis->high, ticks[count - 1]);
    return count;
}

/* Where points are: 1, 8, 32 clients. */
static uint32_t point_ticks(const struct svg_plot *plot, double *ticks) {
    uint32_t count = 0;

    for (uint32_t s = 0; s < plot->series_count; s++) {
        for (uint32_t i = 0; i < plot->series[s].count; i++) {
            uint32_t at = 0;
            while (at < count && ticks[at] != plot->series[s].x[i]) at++; /* the same value, not a computed one */
            if (at == count && count < TICKS_MAX) ticks[count++] = plot->series[s].x[i];
        }
    }
    return count;
}

static void write_axes(FILE *out, const struct svg_plot *plot, struct axis *x, struct axis *y) {
    double ticks[TICKS_MAX];
    uint32_t count = plot->log_y ? log_ticks(y, ticks) : linear_ticks(y, ticks);

    for (uint32_t i = 0; i < count; i++) {
        double at = place(y, ticks[i]);
        (void)fprintf(out, "<path d='M%.1f %.1fH%.1f' class='grid'/><text x='%.1f' y='%.1f' class='end'>%g</text>\n",
                      x->from_px, at, x->to_px, x->from_px - 5, at + 4, ticks[i]);
    }
    if (plot->marks) {
        count = point_ticks(plot, ticks);
    } else {
        double high = x->high;
        count = linear_ticks(x, ticks);
        x->high = high;
        while (count > 0 && ticks[count - 1] > high) count--;
    }
    for (uint32_t i = 0; i < count; i++)
        (void)fprintf(out, "<path d='M%.1f %.1fv4' class='axis'/><text x='%.1f' y='%.1f' class='middle'>%g</text>\n",
                      place(x, ticks[i]), y->from_px, place(x, ticks[i]), y->from_px + 16, ticks[i]);
    (void)fprintf(out, "<path d='M%.1f %.1fV%.1fH%.1f' class='axis'/>\n", x->from_px, y->to_px, y->from_px, x->to_px);
    (void)fprintf(out, "<text x='%.1f' y='%.1f' class='middle'>", (x->from_px + x->to_px) / 2, y->from_px + 33);
    svg_text(out, plot->x_label);
    (void)fprintf(out, "</text><text transform='translate(13 %.1f) rotate(-90)' class='middle'>",
                  (y->from_px + y->to_px) / 2);
    svg_text(out, plot->y_label);
    (void)fprintf(out, "</text><text x='%.1f' y='18' class='title'>", x->from_px);
    svg_text(out, plot->title);
    (void)fprintf(out, "</text>\n");
}

static void write_bands(FILE *out, const struct svg_plot *plot, const struct axis *x, const struct axis *y) {
    for (uint32_t i = 0; i < plot->band_count; i++) {
        double from = place(x, fmax(plot->bands[i].from, x->low)), to = place(x, fmin(plot->bands[i].to, x->high));
        (void)fprintf(out, "<rect x='%.1f' y='%.1f' width='%.1f' height='%.1f' class='band'><title>", from, y->to_px,
                      fmax(to - from, 1.5), y->from_px - y->to_px);
        svg_text(out, plot->bands[i].label);
        (void)fprintf(out, "</title></rect><path d='M%.1f %.1fV%.1f' class='fault'/>\n", from, y->from_px, y->to_px);
    }
}

static void write_series(FILE *out, const struct svg_plot *plot, const struct svg_series *series, const struct axis *x,
                         const struct axis *y) {
    const char *color = colors[series->color % COLOR_COUNT];
    bool begun = false;

    (void)fprintf(out, "<path fill='none' stroke='%s' stroke-width='2' d='", color);
    for (uint32_t i = 0; i < series->count; i++) {
        if (!shown(plot, series->x[i], series->y[i])) continue;
        (void)fprintf(out, "%c%.1f %.1f", begun ? 'L' : 'M', place(x, series->x[i]), place(y, series->y[i]));
        begun = true;
    }
    (void)fprintf(out, "'/>\n");
    for (uint32_t i = 0; plot->marks && i < series->count; i++) {
        if (!shown(plot, series->x[i], series->y[i])) continue;
        (void)fprintf(out, "<circle cx='%.1f' cy='%.1f' r='3.5' fill='%s'><title>", place(x, series->x[i]),
                      place(y, series->y[i]), color);
        svg_text(out, series->name);
        (void)fprintf(out, ", %g: %.4g</title></circle>\n", series->x[i], series->y[i]);
    }
}

/* The time of the fault comes last. */
static uint32_t legend_count(const struct svg_plot *plot) {
    return plot->series_count + (plot->band_count > 0);
}

static void write_legend(FILE *out, const struct svg_plot *plot, uint32_t columns, double top) {
    for (uint32_t i = 0; i < legend_count(plot); i++) {
        const uint32_t line = i / columns;
        double left = LEGEND_LEFT + (i % columns) * LEGEND_COLUMN, at = top + line * LEGEND_LINE;
        if (i == plot->series_count) {
            (void)fprintf(out,
                          "<rect x='%.1f' y='%.1f' width='14' height='10' class='band'/><text x='%.1f' y='%.1f'>the "
                          "fault</text>\n",
                          left, at - 9, left + 19, at);
            break;
        }
        (void)fprintf(out, "<rect x='%.1f' y='%.1f' width='14' height='4' fill='%s'/><text x='%.1f' y='%.1f'>", left,
                      at - 6, colors[plot->series[i].color % COLOR_COUNT], left + 19, at);
        svg_text(out, plot->series[i].name);
        (void)fprintf(out, "</text>\n");
    }
}

void svg_write(FILE *out, const struct svg_plot *plot) {
    const double width = plot->width > 0 ? plot->width : WIDTH;
    const uint32_t columns = (uint32_t)((width - LEGEND_LEFT) / LEGEND_COLUMN);
    const double legend = ceil((double)legend_count(plot) / columns) * LEGEND_LINE;
    struct axis x = {.from_px = LEFT, .to_px = width - RIGHT, .log = plot->log_x};
    struct axis y = {.from_px = HEIGHT - BOTTOM, .to_px = TOP, .log = plot->log_y};

    find_range(plot, &x, &y);
    (void)fprintf(
        out, "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %.0f %.0f' width='%.0f' height='%.0f' role='img'>\n",
        width, HEIGHT + legend, width, HEIGHT + legend);
    write_axes(out, plot, &x, &y);
    write_bands(out, plot, &x, &y);
    for (uint32_t i = 0; i < plot->series_count; i++) write_series(out, plot, &plot->series[i], &x, &y);
    write_legend(out, plot, columns, HEIGHT + 8);
    (void)fprintf(out, "</svg>\n");
}
