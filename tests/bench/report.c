/* SPDX-License-Identifier: MIT */
/* report: the lines as a table, and as JSON. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "bench/bench.h"
#include "util/cleanup.h"
#include "util/json.h"

struct spread {
    size_t count;
    double low, median, high; /* quartiles */
};

struct line {
    struct line *next;
    char *name, *unit, *against, *goal, *note;
    struct spread ours, other, ratio;
};

static struct line *first, **last = &first;

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double at(const double *sorted, size_t count, double share)
{
    double place = share * (double)(count - 1);
    size_t below = (size_t)place;
    size_t above = below + 1 < count ? below + 1 : below;
    return sorted[below] + (sorted[above] - sorted[below]) * (place - (double)below);
}

double bench_percentile(const struct bench_samples *samples, size_t percent)
{
    struct bench_samples sorted = *samples;
    qsort(sorted.values, sorted.count, sizeof *sorted.values, compare);
    return sorted.values[sorted.count * percent / 100];
}

static struct spread spread_of(const struct bench_samples *samples)
{
    if (!samples || samples->count == 0)
        return (struct spread){0};
    struct bench_samples sorted = *samples;
    qsort(sorted.values, sorted.count, sizeof *sorted.values, compare);
    return (struct spread){.count = sorted.count,
                           .low = at(sorted.values, sorted.count, 0.25),
                           .median = at(sorted.values, sorted.count, 0.5),
                           .high = at(sorted.values, sorted.count, 0.75)};
}

static struct spread ratio_of(const struct bench_samples *ours, const struct bench_samples *other)
{
    struct bench_samples ratios = {0};
    if (!other || other->count == 0)
        return (struct spread){0};
    assert_int_equal(ours->count, other->count);
    for (size_t i = 0; i < ours->count; i++)
        bench_add(&ratios, ours->values[i] / other->values[i]);
    return spread_of(&ratios);
}

static char *copy(const char *text)
{
    return text ? strdup(text) : NULL;
}

void bench_report(const struct bench_line *line)
{
    struct line *kept = calloc(1, sizeof *kept);
    assert_non_null(kept);
    *kept = (struct line){.name = copy(line->name),
                          .unit = copy(line->unit),
                          .against = copy(line->against),
                          .goal = copy(line->goal),
                          .note = copy(line->note),
                          .ours = spread_of(line->ours),
                          .other = spread_of(line->other),
                          .ratio = ratio_of(line->ours, line->other)};
    *last = kept;
    last = &kept->next;
}

void bench_forget(void)
{
    while (first) {
        struct line *line = first;
        first = line->next;
        free(line->name);
        free(line->unit);
        free(line->against);
        free(line->goal);
        free(line->note);
        free(line);
    }
    last = &first;
}

/* Three digits that count, or what is before the point. */
static void print_number(FILE *file, double value)
{
    int digits = value == 0 ? 0 : 2 - (int)floor(log10(fabs(value)));
    fprintf(file, "%.*f", digits < 0 ? 0 : digits, value);
}

static void print_spread(FILE *file, const struct spread *spread, const char *unit)
{
    if (spread->count == 0)
        return;
    print_number(file, spread->median);
    fprintf(file, "%s%s", unit[0] ? " " : "", unit);
    if (spread->count == 1)
        return;
    fputs(" (", file);
    print_number(file, spread->low);
    fputs("–", file);
    print_number(file, spread->high);
    fputs(")", file);
}

static void print_line(FILE *file, const struct line *line)
{
    fprintf(file, "| %s | ", line->name);
    print_spread(file, &line->ours, line->unit);
    fputs(" | ", file);
    print_spread(file, &line->other, line->unit);
    fprintf(file, "%s%s | ", line->against ? ", " : "", line->against ? line->against : "");
    print_spread(file, &line->ratio, "");
    fprintf(file, " | %s | %s |\n", line->goal ? line->goal : "", line->note ? line->note : "");
}

static double memory_gib(void)
{
    return (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) / (1 << 30);
}

static void print_table(FILE *file)
{
    fprintf(file,
            "\n%d processors, %.0f GiB of memory%s; median (quartiles); "
            "the ratio is that of pairs\n\n"
            "| row | hypefs | against | ratio | goal | note |\n|---|---|---|---|---|---|\n",
            get_nprocs(), memory_gib(), bench_is_quick() ? "; --quick" : "");
    for (const struct line *line = first; line; line = line->next)
        print_line(file, line);
}

static void add_text(cJSON *object, const char *name, const char *text)
{
    if (text)
        cJSON_AddStringToObject(object, name, text);
    else
        cJSON_AddNullToObject(object, name);
}

static void add_spread(cJSON *object, const char *name, const struct spread *spread)
{
    if (spread->count == 0) {
        cJSON_AddNullToObject(object, name);
        return;
    }
    cJSON *json = cJSON_AddObjectToObject(object, name);
    cJSON_AddNumberToObject(json, "samples", (double)spread->count);
    cJSON_AddNumberToObject(json, "median", spread->median);
    cJSON_AddNumberToObject(json, "lower_quartile", spread->low);
    cJSON_AddNumberToObject(json, "upper_quartile", spread->high);
}

static cJSON *to_json(void)
{
    cJSON *json = cJSON_CreateObject();
    cJSON_AddBoolToObject(json, "quick", bench_is_quick());
    cJSON_AddNumberToObject(json, "processors", get_nprocs());
    cJSON_AddNumberToObject(json, "memory_gib", memory_gib());
    cJSON *lines = cJSON_AddArrayToObject(json, "lines");
    for (const struct line *line = first; line; line = line->next) {
        cJSON *item = cJSON_CreateObject();
        add_text(item, "name", line->name);
        add_text(item, "unit", line->unit);
        add_text(item, "against", line->against);
        add_text(item, "goal", line->goal);
        add_text(item, "note", line->note);
        add_spread(item, "hypefs", &line->ours);
        add_spread(item, "other", &line->other);
        add_spread(item, "ratio", &line->ratio);
        cJSON_AddItemToArray(lines, item);
    }
    return json;
}

bool bench_print(FILE *file)
{
    print_table(stdout);
    if (!file)
        return true;
    auto_json cJSON *json = to_json();
    auto_free char *text = cJSON_Print(json);
    if (text && fprintf(file, "%s\n", text) > 0 && fflush(file) == 0)
        return true;
    fprintf(stderr, "bench: the JSON cannot be written: %s\n", strerror(errno));
    return false;
}
