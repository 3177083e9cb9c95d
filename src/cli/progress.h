/* SPDX-License-Identifier: MIT */
/* progress: a bar on a terminal at stderr, for what takes over a second. One thread. */
#ifndef HYPEFS_CLI_PROGRESS_H
#define HYPEFS_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *label; /* constant: what is being done */
    double start_ms, drawn_ms;
    bool wanted, drawn;
};

void progress_begin(struct progress *progress, const char *label);
/* Draws it anew when it is time to; of `size` bytes, which are not 0, `done` are. */
void progress_draw(struct progress *progress, uint64_t done, uint64_t size);
/* Wipes it away. It may begin again. */
void progress_end(struct progress *progress);

#endif
