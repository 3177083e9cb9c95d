/* SPDX-License-Identifier: MIT */
/* turn: when a fork may load its VM, of which only so many do at the same time. */
#include <errno.h>

#include "fork/internal.h"
#include "util/process.h"

/* Most guests ack within 2 s of computing, if they do. How long that takes is up to what else the
 * host does. */
enum {
    LOOK_MS = 2000,   /* so often it is looked at what a guest that has not acked does: */
    REST_MS = 40,     /* one that has computed for less since the last look waits for something */
    ENOUGH_MS = 2000, /* and one that has computed for so long since the first may go on for ever */
};

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

/* Its guest does not need the processor that its turn keeps for it, or has had it for long enough.
 */
static bool is_over(const struct fork *fork, double cpu_ms)
{
    return fork->turn_due_ms > 0 &&
           (cpu_ms - fork->turn_cpu_ms < REST_MS || cpu_ms - fork->turn_first_cpu_ms >= ENOUGH_MS);
}

double turn_limit(struct fork *fork, double deadline_ms)
{
    double now_ms = process_now_ms();
    if (fork->has_turn && now_ms >= fork->turn_due_ms) {
        double cpu_ms = process_cpu_ms(fork->vmm->pid);
        if (is_over(fork, cpu_ms))
            turn_end(fork);
        if (fork->turn_due_ms == 0)
            fork->turn_first_cpu_ms = cpu_ms;
        fork->turn_cpu_ms = cpu_ms;
        fork->turn_due_ms = now_ms + LOOK_MS;
    }
    return fork->has_turn && fork->turn_due_ms < deadline_ms ? fork->turn_due_ms : deadline_ms;
}

double turn_used_ms(const struct fork *fork)
{
    return process_cpu_ms(fork->vmm->pid) - fork->turn_first_cpu_ms;
}
