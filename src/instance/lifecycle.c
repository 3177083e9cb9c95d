/* SPDX-License-Identifier: MIT */
/* lifecycle: the table of transitions, and what each does to the VMM and its files. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include "instance/config.h"
#include "instance/internal.h"
#include "util/cleanup.h"
#include "util/json.h"

typedef int transition(struct instance *instance, struct error *err);

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
}

/* With the lock held. */
static int may_begin(struct instance *instance, bool stop, struct error *err)
{
    struct instances *table = instance->table;
    instance_settle(instance);
    if (stop && instance->busy && !table->stopping) {
        cancel(instance);
        while (instance->busy)
            pthread_cond_wait(&table->idle, &table->lock);
    }
    if (table->stopping)
        return error_set(err, ESHUTDOWN, "the daemon is stopping");
    if (instance->removed)
        return error_set(err, ENODEV, "the instance %s is removed", instance->id);
    if (instance->busy)
        return error_set(
            err, EBUSY, "another transition is under way: wait for it, or write stopped to end it");
    return 0;
}

int instance_begin(struct instance *instance, bool stop, struct error *err)
{
    auto_close int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return error_errno(err, errno, "cannot make an event descriptor");
    pthread_mutex_lock(&instance->table->lock);
    int r = may_begin(instance, stop, err);
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
    bool begun = instance->vmm && !instance->busy && !instance->table->stopping;
    if (begun)
        instance->busy = instance->settling = true;
    pthread_mutex_unlock(&instance->table->lock);
    return begun;
}

/* With the lock held. From here on others see the state, and may act on it. */
static void reach(struct instance *instance, enum instance_state state)
{
    instance->state = state;
    instance->settling = true;
}

static void set_state(struct instance *instance, enum instance_state state)
{
    pthread_mutex_lock(&instance->table->lock);
    reach(instance, state);
    pthread_mutex_unlock(&instance->table->lock);
}

void instance_forget_vmm(struct instance *instance)
{
    struct vmm_exit exit;
    vmm_reap(instance->vmm, &exit);
    pthread_mutex_lock(&instance->table->lock);
    struct vmm *vmm = steal_pointer(instance->vmm);
    struct snapshot *mapped = steal_pointer(instance->mapped);
    instance->exit = exit;
    store_time_now(instance->exit_at);
    pthread_mutex_unlock(&instance->table->lock);
    instance_drop_taps(instance);
    instance_drop_socket(instance, vmm->hypervisor);
    vmm_close(vmm);
    if (mapped) {
        snapshot_leave(mapped);
        snapshot_unref(mapped);
    }
}

void instance_drop_socket(struct instance *instance, const struct hypervisor *hypervisor)
{
    unlinkat(instance->image->directory_fd, hypervisor->socket, 0);
}

void instance_drop_image(struct instance *instance)
{
    static const char *const names[] = {"memory", "state", "mailboxes.json", "saving"};
    for (size_t i = 0; i < array_length(names); i++)
        unlinkat(instance->image->directory_fd, names[i], 0);
}

static int nothing_to_boot(const struct instance *instance, struct error *err)
{
    if (instance->source[0])
        return error_set(err, EOPNOTSUPP,
                         "this fork has nothing to boot from: give its config a \"kernel\"");
    return error_set(err, EINVAL,
                     "nothing to boot: write {\"kernel\":\"/path\", …} to config first");
}

/* As the config says: what is known of a machine that ran, or of a snapshot's, tells no kernel. */
static int machine_to_boot(const struct instance *instance, struct machine *ret, struct error *err)
{
    struct machine machine;
    if (!instance->config)
        return nothing_to_boot(instance, err);
    int r = config_parse(instance->config, strlen(instance->config), &machine, err);
    if (r < 0)
        return r;
    if (!machine.kernel) {
        machine_finish(&machine);
        return nothing_to_boot(instance, err);
    }
    *ret = machine;
    return 0;
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

void instance_end(struct instance *instance)
{
    struct instances *table = instance->table;
    struct vmm_exit exit = {0};
    struct error why = {0};
    if (instance->vmm)
        vmm_reap(instance->vmm, &exit);
    if (exit.ended) {
        instance_forget_vmm(instance);
        set_state(instance, INSTANCE_STOPPED);
        instance_drop_image(instance);
        tell_exit(instance);
    }
    if (instance_save(instance, instance->image->directory_fd, &why) < 0)
        table->setup.complain(table->setup.context, why.text);

    pthread_mutex_lock(&table->lock);
    /* In one step with `busy`: the end of a VMM is told once, and must find the instance idle. */
    int r = instance->vmm ? instance_watch(instance, &why) : 0;
    instance->busy = instance->settling = false;
    if (instance->cancel_fd >= 0)
        close(steal_fd(&instance->cancel_fd));
    pthread_cond_broadcast(&table->idle);
    pthread_mutex_unlock(&table->lock);
    if (r < 0)
        table->setup.complain(table->setup.context, why.text);
    table->setup.changed(table->setup.context, instance->id);
}

static struct vmm_context context_of(const struct instance *instance,
                                     const struct hypervisor *hypervisor)
{
    return instance_context(instance, hypervisor, instance->image->directory_fd,
                            instance->cancel_fd);
}

/* A VMM that is on no record is ended by the next start of the daemon: then rather at once. */
static int boot_on_record(struct instance *instance, struct machine *machine, struct vmm **ret,
                          struct error *err)
{
    struct vmm_context context = context_of(instance, machine->hypervisor);
    struct vmm *vmm;
    int r = vmm_boot(&context, machine, &vmm, err);
    if (r < 0)
        return r;
    vmm_release(vmm);
    const struct instance_next next = {INSTANCE_RUNNING, machine, vmm};
    r = instance_save_as(instance, &next, instance->image->directory_fd, err);
    if (r < 0) {
        vmm_stop(vmm, NULL);
        vmm_close(vmm);
        instance_drop_socket(instance, machine->hypervisor);
        instance_drop_image(instance);
        return error_prefix(err, r, "the VM cannot be put on record, and was ended again");
    }
    *ret = vmm;
    return 0;
}

static int boot(struct instance *instance, struct error *err)
{
    struct machine machine;
    struct vmm *vmm = NULL;
    int r = machine_to_boot(instance, &machine, err);
    if (r < 0)
        return r;
    r = instance_take_taps(instance, &machine, err);
    if (r == 0)
        r = boot_on_record(instance, &machine, &vmm, err);
    if (r < 0) {
        instance_drop_taps(instance);
        machine_finish(&machine);
        return r;
    }
    pthread_mutex_lock(&instance->table->lock);
    struct machine old = instance->machine;
    instance->machine = machine;
    instance->vmm = vmm;
    instance->exit = (struct vmm_exit){0};
    reach(instance, INSTANCE_RUNNING);
    pthread_mutex_unlock(&instance->table->lock);
    machine_finish(&old);
    return 0;
}

static int sync_file(struct instance *instance, const char *name, struct error *err)
{
    auto_close int fd = openat(instance->image->directory_fd, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0)
        return error_errno(err, errno, "cannot write %s in the store", name);
    return 0;
}

/* Everything that can fail is done while the VM could still go on. */
static int save_paused(struct instance *instance, const struct vmm_context *context,
                       struct error *err)
{
    struct image_index *index = NULL;
    int r = vmm_save(context, instance->vmm, err);
    if (r == 0)
        r = sync_file(instance, "state", err);
    if (r == 0)
        r = sync_file(instance, "memory", err);
    if (r == 0)
        r = image_scan(instance->image->directory_fd, &instance->cancelled, &index, err);
    image_index_unref(index);
    return r;
}

/* There while a VM may be paused for a save: a daemon that is killed meanwhile leaves it so. */
static const char saving_name[] = "saving";

static int mark_saving(struct instance *instance, struct error *err)
{
    auto_close int fd =
        openat(instance->image->directory_fd, saving_name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    return fd >= 0 ? 0 : error_errno(err, errno, "cannot write %s in the store", saving_name);
}

static void unmark_saving(struct instance *instance)
{
    unlinkat(instance->image->directory_fd, saving_name, 0);
}

/* The save has failed, or was cut short: the VM goes on as if it had never begun. */
static int undo_save(struct instance *instance, struct error *err)
{
    struct vmm_context context = context_of(instance, instance->vmm->hypervisor);
    context.cancel_fd = -1;
    unlinkat(instance->image->directory_fd, "state", 0);
    unlinkat(instance->image->directory_fd, "mailboxes.json", 0);
    if (!instance->vmm->hypervisor->shares_memory)
        unlinkat(instance->image->directory_fd, "memory", 0); /* a copy, as large as the guest */
    int r = vmm_resume(&context, instance->vmm, err);
    vmm_release(instance->vmm);
    if (r == 0)
        unmark_saving(instance);
    return r;
}

void instance_undo_cut_save(struct instance *instance, struct error *err)
{
    struct stat st;
    if (instance->vmm && fstatat(instance->image->directory_fd, saving_name, &st, 0) == 0 &&
        undo_save(instance, err) < 0)
        error_prefix(err, -1, "%s is paused, for a save of it was cut short", instance->id);
}

static int standby(struct instance *instance, struct error *err)
{
    const int directory_fd = instance->image->directory_fd;
    struct vmm_context context = context_of(instance, instance->vmm->hypervisor);
    const struct instance_next saved = {INSTANCE_STANDBY, &instance->machine, NULL};
    struct error why = {0}, resume_error = {0};
    if (instance->source[0])
        return error_set(err, EOPNOTSUPP, "forks cannot be put into standby yet");
    int r = mark_saving(instance, &why);
    if (r == 0)
        r = vmm_pause(&context, instance->vmm, &why);
    if (r == 0)
        r = save_paused(instance, &context, &why);
    if (r == 0) /* from here on the image counts, and what is left of the VMM does not */
        r = instance_save_as(instance, &saved, directory_fd, &why);
    if (r == 0)
        r = vmm_stop(instance->vmm, &why);
    if (r < 0) {
        if (undo_save(instance, &resume_error) < 0)
            return error_set(err, why.code, "%.450s; and the VM does not go on: %.450s", why.text,
                             resume_error.text);
        return error_set(err, why.code, "%s", why.text);
    }
    unmark_saving(instance);
    instance_forget_vmm(instance);
    pthread_mutex_lock(&instance->table->lock);
    instance->exit = (struct vmm_exit){0};
    reach(instance, INSTANCE_STANDBY);
    pthread_mutex_unlock(&instance->table->lock);
    return 0;
}

/* On record before the image goes: a record of standby must not outlive its image. Only a disk that
 * is full does not count, for dropping the image is what makes room on it. */
static int record_stop(struct instance *instance, struct error *err)
{
    const struct instance_next next = {.state = INSTANCE_STOPPED, .machine = &instance->machine};
    int r = instance_save_as(instance, &next, instance->image->directory_fd, err);
    return r == -ENOSPC || r == -EDQUOT ? 0 : r;
}

static int stop(struct instance *instance, struct error *err)
{
    int r = instance->vmm ? vmm_stop(instance->vmm, err) : record_stop(instance, err);
    if (r < 0)
        return r;
    if (instance->vmm)
        instance_forget_vmm(instance);
    set_state(instance, INSTANCE_STOPPED);
    instance_drop_image(instance);
    return 0;
}

static int not_yet(struct instance *instance, struct error *err)
{
    return error_set(
        err, EOPNOTSUPP,
        instance->state == INSTANCE_STANDBY
            ? "an instance in standby cannot be resumed yet: fork a snapshot of it, or "
              "write stopped, then running, which boots it without its memory"
            : "instances cannot be paused yet: write standby or stopped");
}

/* [from][to]; NULL: there is no such transition. */
static transition *const transitions[INSTANCE_STATES][INSTANCE_STATES] = {
    [INSTANCE_CREATED] = {[INSTANCE_RUNNING] = boot, [INSTANCE_STOPPED] = stop},
    [INSTANCE_RUNNING] =
        {[INSTANCE_PAUSED] = not_yet, [INSTANCE_STANDBY] = standby, [INSTANCE_STOPPED] = stop},
    [INSTANCE_PAUSED] =
        {[INSTANCE_RUNNING] = not_yet, [INSTANCE_STANDBY] = not_yet, [INSTANCE_STOPPED] = stop},
    [INSTANCE_STANDBY] = {[INSTANCE_RUNNING] = not_yet, [INSTANCE_STOPPED] = stop},
    [INSTANCE_STOPPED] = {[INSTANCE_RUNNING] = boot},
};

/* A transition that was ended from outside says by whom. */
static int explain_cancel(struct instance *instance, int r, struct error *err)
{
    if (r != -ECANCELED && r != -ESHUTDOWN) /* a scan knows only of the latter */
        return r;
    return instance->table->stopping ? error_set(err, ESHUTDOWN, "the daemon is stopping")
                                     : error_set(err, ECANCELED, "ended by a write of stopped");
}

int instance_change(struct instance *instance, enum instance_state target, struct error *err)
{
    if (instance_state(instance) == target && target != INSTANCE_STOPPED)
        return 0;
    int r = instance_begin(instance, target == INSTANCE_STOPPED, err);
    if (r < 0)
        return r;
    transition *go = transitions[instance->state][target];
    if (instance->state == target && target == INSTANCE_STOPPED)
        instance_drop_image(instance); /* what a VM that ended by itself has left */
    else if (instance->state == target)
        r = 0; /* another thread was faster: its image stays */
    else if (!go)
        r = error_set(err, EINVAL, "an instance that is %s cannot become %s",
                      instance_state_names[instance->state], instance_state_names[target]);
    else
        r = explain_cancel(instance, go(instance, err), err);
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
}
