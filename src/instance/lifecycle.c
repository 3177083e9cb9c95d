/* SPDX-License-Identifier: MIT */
/* lifecycle: the table of transitions, and what each does to the VMM and its files. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include "hypervisor/disks.h"
#include "instance/config.h"
#include "instance/internal.h"
#include "util/cleanup.h"
#include "util/json.h"

void instance_settle(struct instance *instance)
{
    while (instance->settling)
        pthread_cond_wait(&instance->table->idle, &instance->table->lock);
}

/* With the lock held: the transition under way is to give up. */
static void cancel(struct instance *instance)
{
    if (instance->cancel_fd < 0)
        return;
    atomic_store(&instance->cancelled, true);
    eventfd_write(instance->cancel_fd, 1);
    image_wake(instance->image);
    loads_wake(instance->table->setup.loads);
}

int instance_busy(const struct instance *instance, struct error *err)
{
    return error_set(err, EBUSY,
                     instance->state == INSTANCE_WAITING
                         ? "the fork's ack is waited for: wait for that, or write stopped to its "
                           "state, which ends it"
                         : "another transition is under way: wait for it, or write stopped to end "
                           "it");
}

/* With the lock held. */
static int may_begin(struct instance *instance, enum instance_begin how, struct error *err)
{
    struct instances *table = instance->table;
    instance_settle(instance);
    while (how != BEGIN_OR_FAIL && instance->busy && !table->stopping) {
        if (how == BEGIN_STOPPING) /* each time: another may have begun before this one woke */
            cancel(instance);
        pthread_cond_wait(&table->idle, &table->lock);
    }
    if (table->stopping)
        return error_set(err, ESHUTDOWN, "the daemon is stopping");
    if (instance->removed)
        return error_set(err, ENODEV, "the instance %s is removed", instance->id);
    return instance->busy ? instance_busy(instance, err) : 0;
}

int instance_begin(struct instance *instance, enum instance_begin how, struct error *err)
{
    auto_close int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return error_errno(err, errno, "cannot make an event descriptor");
    pthread_mutex_lock(&instance->table->lock);
    int r = may_begin(instance, how, err);
    if (r == 0) {
        instance->busy = true;
        instance->cancel_fd = steal_fd(&fd);
        atomic_store(&instance->cancelled, false);
    }
    pthread_mutex_unlock(&instance->table->lock);
    return r;
}

bool instance_begin_ended(struct instance *instance)
{
    pthread_mutex_lock(&instance->table->lock);
    while (!instance->published) /* in a moment: first it is told that it was made */
        pthread_cond_wait(&instance->table->idle, &instance->table->lock);
    bool begun = instance->vmm && !instance->busy && !instance->table->stopping;
    if (begun)
        instance->busy = instance->settling = true;
    pthread_mutex_unlock(&instance->table->lock);
    return begun;
}

void instance_reach(struct instance *instance, enum instance_state state)
{
    enum instance_state from = instance->state;
    instance->state = state;
    instance->settling = true;
    if (state != from)
        instance_tell(instance, INSTANCE_STATE, from);
}

void instance_set_state(struct instance *instance, enum instance_state state)
{
    pthread_mutex_lock(&instance->table->lock);
    instance_reach(instance, state);
    pthread_mutex_unlock(&instance->table->lock);
}

void instance_forget_vmm(struct instance *instance)
{
    struct vmm_exit exit;
    vmm_reap(instance->vmm, &exit);
    instance_note_disks(instance);
    pthread_mutex_lock(&instance->table->lock);
    struct vmm *vmm = steal_pointer(instance->vmm);
    struct snapshot *mapped = steal_pointer(instance->mapped);
    instance->loaded = false;
    instance->exit = exit;
    store_time_now(instance->exit_at);
    pthread_mutex_unlock(&instance->table->lock);
    instance_drop_taps(instance);
    instance_drop_disks(instance);
    instance_drop_socket(instance, vmm->hypervisor);
    vmm_close(vmm);
    if (mapped) {
        snapshot_leave(mapped);
        snapshot_unref(mapped);
    }
}

void instance_drop_socket(struct instance *instance, const struct hypervisor *hypervisor)
{
    hypervisor_drop_sockets(hypervisor, instance->image->directory_fd);
}

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

void instance_let_go(struct instance *instance)
{
    instance->busy = instance->settling = false;
    if (instance->cancel_fd >= 0)
        close(steal_fd(&instance->cancel_fd));
    pthread_cond_broadcast(&instance->table->idle);
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
    if (instance_save(instance, instance->image->directory_fd, &why) < 0)
        table->setup.complain(table->setup.context, why.text);

    pthread_mutex_lock(&table->lock);
    /* In one step with `busy`: the end of a VMM is told once, and must find the instance idle. */
    int r = instance->vmm ? instance_watch(instance, &why) : 0;
    instance_let_go(instance);
    pthread_mutex_unlock(&table->lock);
    if (r < 0)
        table->setup.complain(table->setup.context, why.text);
    table->setup.changed(table->setup.context, instance->id);
}

/* A transition that was ended from outside says by whom. */
int instance_explain_cancel(struct instance *instance, int r, struct error *err)
{
    if (r != -ECANCELED && r != -ESHUTDOWN) /* a scan knows only of the latter */
        return r;
    pthread_mutex_lock(&instance->table->lock);
    bool stopping = instance->table->stopping;
    pthread_mutex_unlock(&instance->table->lock);
    return stopping ? error_set(err, ESHUTDOWN, "the daemon is stopping")
                    : error_set(err, ECANCELED, "ended by a write of stopped");
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
static int go(struct instance *instance, instance_transition *transition,
              enum instance_state target, struct error *err)
{
    const struct loads_caller caller = {.is_over = is_cancelled, .context = instance};
    struct loads *loads = instance->table->setup.loads;
    if (target != INSTANCE_RUNNING || instance->vmm)
        return transition(instance, err);
    int r = loads_take(loads, &caller);
    if (r < 0)
        return error_set(err, -r, "cancelled");
    r = transition(instance, err);
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
    instance_transition *transition = instance_transitions[instance->state][target];
    if (instance->state == target && target == INSTANCE_STOPPED)
        instance_drop_image(instance); /* what a VM that ended by itself has left */
    else if (instance->state == target && !may_stand_still(instance))
        r = 0; /* another thread was faster: its image stays */
    else if (!transition)
        r = error_set(err, EINVAL, "an instance that is %s cannot become %s",
                      instance_state_names[instance->state], instance_state_names[target]);
    else
        r = instance_explain_cancel(instance, go(instance, transition, target, err), err);
    instance_end(instance);
    return r;
}

void instances_stop(struct instances *instances)
{
    pthread_mutex_lock(&instances->lock);
    instances->stopping = true;
    for (struct instance *i = instances->by_id; i; i = i->hh.next)
        cancel(i);
    pthread_mutex_unlock(&instances->lock);
    loads_wake(instances->setup.loads); /* forks look at what tells them that the daemon stops */
}
