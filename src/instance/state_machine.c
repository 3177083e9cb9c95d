/* SPDX-License-Identifier: MIT */
/* state_machine: which transitions there are, how one is begun and how it ends. */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "hypervisor/disks.h"
#include "instance/internal.h"

/* [from][to]; NULL: there is no such transition. */
typedef int transition(struct instance *instance, struct error *err);
static transition *const transitions[INSTANCE_STATES][INSTANCE_STATES] = {
    [INSTANCE_CREATED] =
        {[INSTANCE_RUNNING] = instance_boot, [INSTANCE_STOPPED] = instance_end_vmm},
    [INSTANCE_RUNNING] = {[INSTANCE_RUNNING] = instance_go_on,
                          [INSTANCE_PAUSED] = instance_pause,
                          [INSTANCE_STANDBY] = instance_standby,
                          [INSTANCE_STOPPED] = instance_end_vmm},
    [INSTANCE_PAUSED] = {[INSTANCE_RUNNING] = instance_unpause,
                         [INSTANCE_STANDBY] = instance_standby,
                         [INSTANCE_STOPPED] = instance_end_vmm},
    [INSTANCE_STANDBY] =
        {[INSTANCE_RUNNING] = instance_restore, [INSTANCE_STOPPED] = instance_end_vmm},
    [INSTANCE_STOPPED] = {[INSTANCE_RUNNING] = instance_boot},
};

/* A VMM that ended by itself with a signal: nobody waits for it who could be told. */
static void tell_exit(struct instance *instance)
{
    struct instances *table = instance->table;
    struct error text;
    if (instance->exit.signal == 0)
        return;
    error_set(&text, EIO, "the VMM of %s was ended by %s%s", instance->id,
              strsignal(instance->exit.signal),
              instance->exit.signal == SIGBUS ? ": is the disk of the store full?" : "");
    table->setup.complain(table->setup.context, text.text);
}

static void reach_end(struct instance *instance)
{
    pthread_mutex_lock(&instance->table->lock);
    instance_tell(instance, INSTANCE_VMM_ENDED, instance->state);
    instance_reach(instance, INSTANCE_STOPPED);
    pthread_mutex_unlock(&instance->table->lock);
}

void instance_end(struct instance *instance)
{
    struct instances *table = instance->table;
    struct vmm_exit exit = {0};
    struct error why = {0};
    if (instance->vmm)
        vmm_reap(instance->vmm, &exit);
    if (exit.ended) {
        instance_forget_vmm(instance);
        reach_end(instance);
        instance_drop_image(instance);
        tell_exit(instance);
    }
    if (instance_record(instance, &why) < 0)
        table->setup.complain(table->setup.context, why.text);

    pthread_mutex_lock(&table->lock);
    /* In one step with `busy`: the end of a VMM is told once, and must find the instance idle. */
    int r = instance->vmm ? instance_watch(instance, &why) : 0;
    instance_release(instance);
    pthread_mutex_unlock(&table->lock);
    if (r < 0)
        table->setup.complain(table->setup.context, why.text);
    table->setup.changed(table->setup.context, instance->id);
}

/* With the lock held, or by the owner: a VM that is to run may have halted by itself where disks
 * can be full, or it could not be told to go on. */
static bool may_stand_still(const struct instance *instance)
{
    return instance->state == INSTANCE_RUNNING &&
           (instance_must_go_on(instance) ||
            (instance->machine.hypervisor->may_halt && disks_are_written(&instance->machine)));
}

/* What is under way with a VM that is to run sees to it that it does. */
static bool is_there(struct instance *instance, enum instance_state target)
{
    pthread_mutex_lock(&instance->table->lock);
    bool there = instance->state == target && target != INSTANCE_STOPPED &&
                 (instance->busy || !may_stand_still(instance));
    pthread_mutex_unlock(&instance->table->lock);
    return there;
}

static bool is_cancelled(void *context)
{
    return atomic_load(&((struct instance *)context)->cancelled);
}

/* A VMM that is to start or load waits for its turn. */
static int go(struct instance *instance, transition *run, enum instance_state target,
              struct error *err)
{
    const struct loads_caller caller = {.is_over = is_cancelled, .context = instance};
    struct loads *loads = instance->table->setup.loads;
    if (target != INSTANCE_RUNNING || instance->vmm)
        return run(instance, err);
    int r = loads_take(loads, &caller);
    if (r < 0)
        return error_set(err, -r, "cancelled");
    r = run(instance, err);
    loads_give(loads);
    return r;
}

int instance_change(struct instance *instance, enum instance_state target, struct error *err)
{
    if (is_there(instance, target))
        return 0;
    int r =
        instance_begin(instance, target == INSTANCE_STOPPED ? BEGIN_STOPPING : BEGIN_OR_FAIL, err);
    if (r == -ENODEV && target == INSTANCE_STOPPED && instance->state == INSTANCE_WAITING)
        return 0; /* its commit has ended it, as was to be */
    if (r < 0)
        return r;
    transition *run = transitions[instance->state][target];
    if (instance->state == target && target == INSTANCE_STOPPED)
        instance_drop_image(instance); /* what a VM that ended by itself has left */
    else if (instance->state == target && !may_stand_still(instance))
        r = 0; /* another thread was faster: its image stays */
    else if (!run)
        r = error_set(err, EINVAL, "an instance that is %s cannot become %s",
                      instance_state_names[instance->state], instance_state_names[target]);
    else
        r = instance_explain_cancel(instance, go(instance, run, target, err), err);
    instance_end(instance);
    return r;
}
