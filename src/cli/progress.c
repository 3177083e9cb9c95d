/* SPDX-License-Identifier: MIT */
#include "cli/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "util/process.h"

enum { WIDTH = 40, AFTER_MS = 1000, EVERY_MS = 100 };

void progress_begin(struct progress *progress, const char *label)
{
    *progress = (struct progress){
        .label = label, .start_ms = process_now_ms(), .wanted = isatty(STDERR_FILENO)};
}

void progress_draw(struct progress *progress, uint64_t done, uint64_t size)
{
    double now = process_now_ms(), part = (double)done / (double)size;
    if (!progress->wanted || now - progress->start_ms < AFTER_MS ||
        now - progress->drawn_ms < EVERY_MS)
        return;
    int filled = (int)(part * WIDTH);
    fprintf(stderr, "\r%s [%.*s%*s] %3.0f %% of %" PRIu64 " MiB", progress->label, filled,
            "########################################", WIDTH - filled, "", part * 100, size >> 20);
    progress->drawn_ms = now;
    progress->drawn = true;
}

void progress_end(struct progress *progress)
{
    if (progress->drawn)
        fputs("\r\033[K", stderr);
    progress->drawn = false;
}
