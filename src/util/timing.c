/* SPDX-License-Identifier: MIT */
#include "util/timing.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    int ms;
} timings[] = {
#define TIMING_ROW(constant, name, ms) {name, ms},
    TIMINGS(TIMING_ROW)
#undef TIMING_ROW
};

int timing_ms(enum timing timing)
{
#ifdef HYPEFS_TESTS
    size_t length = strlen(timings[timing].name);
    for (const char *at = getenv("HYPEFS_TEST_TIMING"); at; at = strchr(at, ','), at += !!at)
        if (strncmp(at, timings[timing].name, length) == 0 && at[length] == ':')
            return (int)strtol(at + length + 1, NULL, 10);
#endif
    return timings[timing].ms;
}
