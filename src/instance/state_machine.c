/* SPDX-License-Identifier: MIT */
/* state_machine: the table of transitions, how one is begun, and how it ends. */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "hypervisor/disks.h"
#include "instance/internal.h"

/*
 * All there are. The steps are run in this order; if one fails, it and those before are undone, the
 * last first. What a copy does to a VM that runs is undone when it has succeeded, too.
 *
 * A daemon that is killed leaves the intent in the record. If the VMM lives, the next daemon lets
 * the VM go on; if not, the instance is what `if_gone` says (recover.c). Without an intent the
 * state in the record counts, and a VM that ran and has no VMM any more is stopped.
 */
#define ROW(by, from, to, intent, if_gone, ...)                                                    \
    {                                                                                              \
        BY_##by, INSTANCE_##from, INSTANCE_##to, INTENT_##intent, INSTANCE_##if_gone,              \
        {                                                                                          \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }
static const struct transition transitions[] = {
    ROW(STATE, CREATED, RUNNING, NONE, CREATED, STEP_LIMITS, STEP_TURN, STEP_CONFIG, STEP_ACQUIRE,
        STEP_BOOT, STEP_RECORD, STEP_ARRIVE),
    ROW(STATE, STOPPED, RUNNING, NONE, STOPPED, STEP_LIMITS, STEP_TURN, STEP_CONFIG, STEP_ACQUIRE,
        STEP_BOOT, STEP_RECORD, STEP_ARRIVE),
    ROW(STATE, STANDBY, RUNNING, RESTORE, STANDBY, STEP_LIMITS, STEP_TURN, STEP_ACQUIRE, STEP_LOAD,
        STEP_RESUME, STEP_ARRIVE, STEP_REMOVE),
    ROW(STATE, PAUSED, RUNNING, RESUME, STOPPED, STEP_RESUME, STEP_ARRIVE),
    /* One that was held, with what a save has left beside it; or one that has halted. */
    ROW(STATE, RUNNING, RUNNING, NONE, STOPPED, STEP_GO_ON, STEP_REMOVE),
    ROW(STATE, RUNNING, PAUSED, PAUSE, STOPPED, STEP_HOLD, STEP_RECORD, STEP_ARRIVE),
    ROW(STATE, RUNNING, STANDBY, STANDBY, STOPPED, STEP_HOLD, STEP_SAVE, STEP_RECORD, STEP_END,
        STEP_RELEASE, STEP_ARRIVE),
    ROW(STATE, PAUSED, STANDBY, NONE, STOPPED, STEP_PAUSE, STEP_SAVE, STEP_RECORD, STEP_END,
        STEP_RELEASE, STEP_ARRIVE),
    ROW(STATE, RUNNING, STOPPED, NONE, STOPPED, STEP_END, STEP_RELEASE, STEP_ARRIVE, STEP_REMOVE),
    ROW(STATE, PAUSED, STOPPED, NONE, STOPPED, STEP_END, STEP_RELEASE, STEP_ARRIVE, STEP_REMOVE),
    ROW(STATE, CREATED, STOPPED, NONE, CREATED, STEP_RECORD, STEP_ARRIVE, STEP_REMOVE),
    ROW(STATE, STANDBY, STOPPED, NONE, STANDBY, STEP_RECORD, STEP_ARRIVE, STEP_REMOVE),
    ROW(STATE, STOPPED, STOPPED, NONE, STOPPED, STEP_REMOVE), /* of one that ended by itself */
    ROW(COPY, RUNNING, RUNNING, COPY, STOPPED, STEP_PREPARE, STEP_HOLD, STEP_COPY),
    ROW(SWITCH, RUNNING, RUNNING, COPY, STOPPED, STEP_HOLD, STEP_COPY, STEP_BESIDE, STEP_REPLACE,
        STEP_DISMISS),
    ROW(COPY, PAUSED, PAUSED, NONE, STOPPED, STEP_PAUSE, STEP_COPY),
    ROW(COPY, STANDBY, STANDBY, NONE, STANDBY, STEP_COPY),
    ROW(VMM, RUNNING, STOPPED, NONE, STOPPED, STEP_RELEASE, STEP_ARRIVE, STEP_REMOVE),
    ROW(VMM, PAUSED, STOPPED, NONE, STOPPED, STEP_RELEASE, STEP_ARRIVE, STEP_REMOVE),
};

static const struct transition *find(enum transition_by by, enum instance_state from,
                                     enum instance_state to)
{
    for (size_t i = 0; i < array_length(transitions); i++)
        if (transitions[i].by == by && transitions[i].from == from && transitions[i].to == to)
            return &transitions[i];
    return NULL;
}

enum instance_state instance_if_gone(enum instance_intent intent)
{
    const struct transition *transition = transitions;
    while (transition->intent != intent)
        transition++;
    return transition->if_gone;
}

/* What fails then is told with the failure before, or is one itself. */
static int undo(struct transit *transit, int r, struct error *err)
{
    while (transit->done-- > 0) {
        const struct step *step = &instance_steps[transit->transition->steps[transit->done]];
        if (step->undo)
            step->undo(transit);
    }
    if (transit->why.code == 0)
        return r;
    if (r == 0)
        return error_set(err, transit->why.code, "%s", transit->why.text);
    error_append(err, "; and %s", transit->why.text);
    return r;
}

/* What it leaves to be given back, whatever came of it. */
static void finish(struct transit *transit)
{
    if (transit->has_turn)
        turns_release(transit->instance->table->setup.turns);
    if (transit->instance->vmm)
        vmm_release(transit->instance->vmm);
    if (!transit->instance->ending) /* which has it now */
        instance_finish_transit(transit);
}

static int go_through(struct transit *transit, struct error *err)
{
    const enum step_name *steps = transit->transition->steps;
    int r = 0;
    while (r == 0 && steps[transit->done] != STEP_NONE)
        r = instance_steps[steps[transit->done++]].run(transit, err);
    return r;
}

/* What fails when somebody has had it ended fails because of that, however it looks: a VMM that was
 * cut short in a command does not take the next one. But a stop that fails is a failure. */
static bool is_cut_short(const struct transit *transit)
{
    return atomic_load(&transit->instance->cancelled) && !transit->instance->ending &&
           transit->transition->to != INSTANCE_STOPPED;
}

/* Does it write an image, or begin a VM? To pause one and to let it go on needs none. */
static bool needs_room(const struct transit *transit)
{
    const struct transition *transition = transit->transition;
    const bool has_vm = transition->from == INSTANCE_RUNNING || transition->from == INSTANCE_PAUSED;
    if (transition->by == BY_COPY)
        return transit->prepare;
    return transition->to == INSTANCE_STANDBY || transition->by == BY_SWITCH ||
           (!has_vm && transition->to != INSTANCE_STOPPED);
}

static int run(struct transit *transit, struct error *err)
{
    const struct transition *transition = transit->transition;
    struct instance *instance = transit->instance;
    transit->next = (struct instance_next){transition->to, &instance->machine, instance->vmm,
                                           instance->loaded, INTENT_NONE};
    if (needs_room(transit))
        store_await_room(instance->table->setup.store, instance->machine.memory_bytes);
    int r = go_through(transit, err);
    if (!instance->ending && (r < 0 || transition->by == BY_COPY))
        r = undo(transit, r, err);
    if (r < 0 && is_cut_short(transit))
        r = -ECANCELED;
    finish(transit);
    return instance_explain_cancel(instance, r, err);
}

int instance_copy(struct instance *instance, instance_work *prepare, instance_work *work,
                  void *context, double *ret_paused_ms, struct error *err)
{
    struct transit transit = {.instance = instance,
                              .transition = find(BY_COPY, instance->state, instance->state),
                              .prepare = prepare,
                              .work = work,
                              .context = context};
    if (!transit.transition)
        return error_set(err, EINVAL,
                         "an instance that is %s has no memory to snapshot: write running to its "
                         "state first",
                         instance_state_names[instance->state]);
    int r = run(&transit, err);
    *ret_paused_ms = transit.paused_ms;
    return r;
}

int instance_switch(struct instance *instance, instance_work *work, const char *image,
                    void *context, double *ret_paused_ms, bool *ret_saved, struct error *err)
{
    struct transit transit = {.instance = instance,
                              .transition = find(BY_SWITCH, INSTANCE_RUNNING, INSTANCE_RUNNING),
                              .image = image,
                              .work = work,
                              .context = context};
    int r = run(&transit, err);
    *ret_saved = transit.is_saved;
    *ret_paused_ms = transit.paused_ms;
    return r;
}

/* A VMM that ended by itself with a signal: nobody waits for it who could be told. */
static void warn_of_exit(const struct instance *instance)
{
    if (instance->exit.signal != 0)
        instances_warn(instance->table, "the VMM of %s was ended by %s%s", instance->id,
                       strsignal(instance->exit.signal),
                       instance->exit.signal == SIGBUS ? ": is the disk of the store full?" : "");
}

/* It had ended already, or has now, so no step fails. */
static void note_exit(struct instance *instance)
{
    struct transit transit = {.instance = instance,
                              .transition = find(BY_VMM, instance->state, INSTANCE_STOPPED)};
    pthread_mutex_lock(&instance->table->lock);
    auto_free struct transit *ending = steal_pointer(instance->ending);
    pthread_mutex_unlock(&instance->table->lock);
    if (ending) {
        go_through(ending, NULL);
        finish(ending);
    } else {
        run(&transit, NULL);
        warn_of_exit(instance);
    }
}

void instance_end(struct instance *instance)
{
    struct instances *table = instance->table;
    struct vmm_exit exit = {0};
    struct error why = {0};
    if (instance->vmm)
        vmm_reap(instance->vmm, &exit);
    if (exit.ended)
        note_exit(instance);
    /* What is put off is on record as far as it came. */
    if (!instance->ending && instance_record(instance, &why) < 0)
        instances_warn(table, "%s", why.text);

    pthread_mutex_lock(&table->lock);
    /* In one step with `busy`: the end of a VMM is told once, and must find the instance idle. */
    int r = instance->vmm ? instance_watch(instance, &why) : 0;
    instance_release_owner(instance);
    pthread_mutex_unlock(&table->lock);
    if (r < 0)
        instances_warn(table, "%s", why.text);
    table->setup.on_change(table->setup.context, instance->id);
}

/* With the lock held, or by the owner: a VM that is to run may have halted by itself where disks
 * can be full, or it could not be told to go on. */
static bool may_stand_still(const struct instance *instance)
{
    return instance->state == INSTANCE_RUNNING &&
           (instance_must_resume(instance) ||
            (instance->machine.hypervisor->may_halt && disks_are_written(&instance->machine)));
}

/* And stays there. What is under way with a VM that is to run sees to it that it does. */
static bool is_there(struct instance *instance, enum instance_state target)
{
    auto_lock(&instance->table->lock);
    return instance->state == target && target != INSTANCE_STOPPED && !instance->ending &&
           !instance->changing && (instance->busy || !may_stand_still(instance));
}

int instance_change(struct instance *instance, enum instance_state target, uid_t user,
                    struct error *err)
{
    if (is_there(instance, target))
        return 0;
    int r =
        instance_begin(instance, target == INSTANCE_STOPPED ? BEGIN_STOPPING : BEGIN_CHANGING, err);
    if (r == -ENODEV && target == INSTANCE_STOPPED && instance->state == INSTANCE_WAITING)
        return 0; /* its commit has ended it, as was to be */
    if (r < 0)
        return r;
    struct transit transit = {
        .instance = instance, .transition = find(BY_STATE, instance->state, target), .user = user};
    if (instance->state == target && target != INSTANCE_STOPPED && !may_stand_still(instance))
        r = 0; /* another thread was faster */
    else if (!transit.transition)
        r = error_set(err, EINVAL, "an instance that is %s cannot become %s",
                      instance_state_names[instance->state], instance_state_names[target]);
    else
        r = run(&transit, err);
    instance_end(instance);
    return r;
}
