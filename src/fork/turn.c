/* SPDX-License-Identifier: MIT */
/* turn: when a fork may load its VM, of which only so many do at the same time. */
#include <errno.h>

#include "fork/internal.h"
#include "util/process.h"

enum { TURN_AFTER_RESUME_MS = 2000 }; /* most guests ack within it, if they do */

static struct loads *loads_of(const struct fork *fork)
{
    return fork->engine->instances->setup.loads;
}

static bool is_given_up(void *context)
{
    const struct fork_engine *engine = ((const struct fork *)context)->engine;
    return process_poll(&engine->cancel_fd, 1, 0) > 0 ||
           (engine->abandoned && atomic_load(engine->abandoned));
}

int turn_take(struct fork *fork, void (*queued)(void *fork), struct error *err)
{
    const struct loads_caller caller = {.is_over = is_given_up, .queued = queued, .context = fork};
    warm_begin(fork->engine->warm);
    fork->starting = true;
    if (loads_take(loads_of(fork), &caller) < 0)
        return error_set(err, ECANCELED,
                         "the write was interrupted while the commit waited for its turn to load: "
                         "commit again");
    fork->has_turn = true;
    return 0;
}

void turn_end(struct fork *fork)
{
    if (fork->has_turn)
        loads_give(loads_of(fork));
    fork->has_turn = false;
}

double turn_limit(struct fork *fork, double deadline_ms)
{
    double end_ms = fork->resumed_at_ms + TURN_AFTER_RESUME_MS;
    if (fork->has_turn && process_now_ms() >= end_ms)
        turn_end(fork);
    return fork->has_turn && end_ms < deadline_ms ? end_ms : deadline_ms;
}
