/* SPDX-License-Identifier: MIT */
/* owner: who may change an instance. One thread at a time is its owner (busy), and others wait, are
 * refused, or end what is under way. */
#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "instance/internal.h"
#include "util/process.h"

#define ENDED "ended by a write of stopped"

void instance_await_record(struct instance *instance)
{
    while (instance->recording)
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
    turns_wake(instance->table->setup.turns);
}

int instance_busy(const struct instance *instance, struct error *err)
{
    if (instance->ending)
        return error_set(err, EBUSY, "the VM's process %d " PROCESS_STUCK INSTANCE_WILL_BE,
                         (int)instance->vmm->pid,
                         instance_state_names[instance->ending->transition->to]);
    return error_set(err, EBUSY,
                     instance->state == INSTANCE_WAITING
                         ? "the fork waits for its ack: wait until that has come, or write stopped "
                           "to its state, which ends the wait"
                         : "another transition is under way: wait for it, or write stopped to end "
                           "it");
}

/* With the lock held. Whoever is to stop it comes before all others that wait or would begin: these
 * would find a VMM whose last owner was cut short. */
static bool is_taken(const struct instance *instance, enum instance_begin how)
{
    return instance->busy || (instance->stoppers > 0 && how != BEGIN_STOPPING);
}

/* With the lock held: until it is free, or there is no use in waiting any more. */
static int await_turn(struct instance *instance, enum instance_begin how, struct error *err)
{
    struct instances *table = instance->table;
    const unsigned stops = instance->stops;
    while (is_taken(instance, how) && !table->stopping) {
        if (how == BEGIN_STOPPING) /* each time: another may have begun before this one came */
            cancel(instance);
        pthread_cond_wait(&table->idle, &table->lock);
        if (how != BEGIN_STOPPING && instance->stops != stops && !table->stopping)
            return error_set(err, ECANCELED, ENDED);
    }
    return 0;
}

/* With the lock held. */
static int await_stop(struct instance *instance, struct error *err)
{
    instance->stops++;
    instance->stoppers++;
    int r = await_turn(instance, BEGIN_STOPPING, err);
    instance->stoppers--;
    pthread_cond_broadcast(&instance->table->idle);
    return r;
}

/* With the lock held. */
static int may_begin(struct instance *instance, enum instance_begin how, struct error *err)
{
    int r = 0;
    instance_await_record(instance);
    if (how == BEGIN_STOPPING)
        r = await_stop(instance, err);
    else if (how == BEGIN_WAITING || how == BEGIN_BRIEFLY)
        r = await_turn(instance, how, err);
    if (r < 0)
        return r;
    if (instance->table->stopping)
        return error_set(err, ESHUTDOWN, "the daemon is stopping");
    if (instance->removed)
        return error_set(err, ENODEV, "the instance %s is removed", instance->id);
    return is_taken(instance, how) || instance->ending ? instance_busy(instance, err) : 0;
}

int instance_begin(struct instance *instance, enum instance_begin how, struct error *err)
{
    auto_close int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return error_errno(err, errno, "cannot make an event descriptor");
    auto_lock(&instance->table->lock);
    int r = may_begin(instance, how, err);
    if (r == 0)
        r = instance_keep_entry(instance, err);
    if (r == 0) {
        instance->busy = true;
        instance->changing = how == BEGIN_CHANGING || how == BEGIN_STOPPING;
        instance->recording = how == BEGIN_BRIEFLY;
        instance->cancel_fd = steal_fd(&fd);
        atomic_store(&instance->cancelled, false);
    }
    return r;
}

bool instance_begin_ended(struct instance *instance)
{
    auto_lock(&instance->table->lock);
    bool begun = instance->vmm && !instance->busy && !instance->table->stopping;
    if (begun)
        instance->busy = instance->changing = instance->recording = true;
    return begun;
}

int instance_explain_cancel(struct instance *instance, int r, struct error *err)
{
    if (r != -ECANCELED && r != -ESHUTDOWN) /* a scan knows only of the latter */
        return r;
    auto_lock(&instance->table->lock);
    bool stopping = instance->table->stopping;
    return stopping ? error_set(err, ESHUTDOWN, "the daemon is stopping")
                    : error_set(err, ECANCELED, ENDED);
}

void instance_set_state(struct instance *instance, enum instance_state state)
{
    enum instance_state from = instance->state;
    instance->state = state;
    instance->intent = INTENT_NONE;
    instance->recording = true;
    if (state != from)
        instance_notify(instance, INSTANCE_STATE, from);
}

void instance_set_intent(struct instance *instance, enum instance_intent intent)
{
    auto_lock(&instance->table->lock);
    instance->intent = intent;
}

int instance_watch(struct instance *instance, struct error *err)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = instance->serial};
    int fd = instance->vmm->pidfd;
    if (epoll_ctl(instance->table->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 ||
        (errno == EEXIST && epoll_ctl(instance->table->epoll_fd, EPOLL_CTL_MOD, fd, &event) == 0))
        return 0;
    return error_errno(err, errno, "cannot watch the VMM of %s", instance->id);
}

void instances_stop(struct instances *instances)
{
    pthread_mutex_lock(&instances->lock);
    instances->stopping = true;
    for (struct instance *i = instances->by_id; i; i = i->hh.next)
        cancel(i);
    pthread_mutex_unlock(&instances->lock);
    turns_wake(instances->setup.turns); /* forks look at what tells them that the daemon stops */
}
