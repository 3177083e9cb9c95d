/* SPDX-License-Identifier: MIT */
/* turn: when a fork may load its VM, of which only so many do at the same time. */
#include <errno.h>

#include "fork/internal.h"
#include "util/process.h"

/* Most guests ack within it, if they do: not counted is what they wait for a processor. */
enum { TURN_AFTER_RESUME_MS = 2000 };

static struct turns *turns_of(const struct fork *fork)
{
    return fork->engine->instances->setup.turns;
}

static bool is_abandoned(const struct fork_engine *engine)
{
    return engine->abandoned && atomic_load(engine->abandoned);
}

static bool is_given_up(void *context)
{
    const struct fork_engine *engine = ((const struct fork *)context)->engine;
    return process_poll(&engine->cancel_fd, 1, 0) > 0 || is_abandoned(engine);
}

int turn_acquire(struct fork *fork, void (*queued)(void *fork), struct error *err)
{
    const struct turns_caller caller = {.is_over = is_given_up,
                                        .queued = queued,
                                        .context = fork,
                                        .user = fork->engine->user,
                                        .source = fork->source_id.uuid};
    warm_begin(fork->engine->warm);
    fork->starting = true;
    fork->has_turn = turns_acquire(turns_of(fork), &caller) == 0;
    if (fork->has_turn && !is_abandoned(fork->engine)) /* at the same moment, perhaps */
        return 0;
    return error_set(err, ECANCELED,
                     "the write was interrupted while the commit waited for its turn to load: "
                     "commit again");
}

void turn_end(struct fork *fork)
{
    if (fork->has_turn)
        turns_release(turns_of(fork));
    fork->has_turn = false;
}

double turn_limit(struct fork *fork, double deadline_ms)
{
    double now_ms = process_now_ms();
    if (fork->has_turn && now_ms >= fork->turn_due_ms) {
        if (fork->turn_due_ms == 0)
            fork->at_resume = process_times(fork->vmm->pid);
        fork->turn_due_ms = fork->resumed_at_ms + TURN_AFTER_RESUME_MS + turn_times(fork).waited_ms;
        if (now_ms >= fork->turn_due_ms)
            turn_end(fork);
    }
    return fork->has_turn && fork->turn_due_ms < deadline_ms ? fork->turn_due_ms : deadline_ms;
}

struct process_times turn_times(const struct fork *fork)
{
    const struct process_times now = process_times(fork->vmm->pid), *then = &fork->at_resume;
    return (struct process_times){.ran_ms = now.ran_ms - then->ran_ms,
                                  .waited_ms = now.waited_ms - then->waited_ms};
}
