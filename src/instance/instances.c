/* SPDX-License-Identifier: MIT */
/* instances: their table when the daemon starts, with the VMMs that run on, and its end. */
#include <errno.h>
#include <sys/stat.h>

#include "instance/internal.h"
#include "store/notes.h"
#include "store/strays.h"
#include "util/cleanup.h"
#include "util/process.h"
#include "util/timing.h"

struct load_context {
    struct instances *table;
    struct strays strays;
};

/* ---- VMs that have to go on, or to be asked for their disks ---- */

/* Its instance is busy until then: a VMM that hangs must not keep the mount from answering. */
static void *recover(void *argument)
{
    struct instance *instance = argument;
    struct instances *table = instance->table;
    struct error why = {0};
    int r = instance_recover_vmm(instance, &why);
    if (r < 0 && r != -ECANCELED)
        instances_warn(table, "%s", why.text);
    instance_end(instance);
    instance_unref(instance);
    auto_lock(&table->lock);
    table->recovering--;
    pthread_cond_broadcast(&table->idle);
    return NULL;
}

/* After a failure its VMM is watched, as that of any other instance. */
static int begin_recovery(struct instance *instance, struct error *err)
{
    struct instances *table = instance->table;
    struct error why;
    int r = instance_begin(instance, BEGIN_OR_FAIL, err);
    if (r < 0) {
        if (instance_watch(instance, &why) < 0)
            error_append(err, "; %s", why.text);
        return error_prefix(err, r, "%s %s", instance->id, instance_unrecovered(instance));
    }
    pthread_mutex_lock(&table->lock);
    table->recovering++;
    pthread_mutex_unlock(&table->lock);
    r = thread_detach(recover, instance_ref(instance), err);
    if (r == 0)
        return 0;
    error_prefix(err, r, "%s %s", instance->id, instance_unrecovered(instance));
    instance_unref(instance);
    instance_end(instance);
    pthread_mutex_lock(&table->lock);
    table->recovering--;
    pthread_mutex_unlock(&table->lock);
    return r;
}

/* With the lock held. */
static void warn_of_unrecovered(struct instances *table)
{
    for (struct instance *i = table->by_id; i; i = i->hh.next)
        if (i->busy)
            instances_warn(table,
                           "the VM %s %s, and its VMM does not answer yet: hypefs goes on waiting; "
                           "write stopped to its state to end the VM",
                           i->id, instance_unrecovered(i));
}

/* What goes on by itself does so before anybody looks. They have that time together. */
static void await_recovered(struct instances *table)
{
    double deadline_ms = process_now_ms() + timing_ms(TIMING_RECOVER);
    int code = 0;
    auto_lock(&table->lock);
    while (table->recovering > 0 && code == 0)
        code = thread_wait_until(&table->idle, &table->lock, deadline_ms);
    if (table->recovering > 0)
        warn_of_unrecovered(table);
}

/* ---- the table ---- */

static void leave_out(struct instances *table, const char *name, struct error *why)
{
    store_notes_unread(table->setup.store->notes, STORE_INSTANCES, name, why);
    instances_warn(table, "%s", why->text);
}

/* A fork of which the host's end has left no whole record. */
static bool discard_torn(const struct instances *table, const char *id)
{
    const struct store *store = table->setup.store;
    char hidden[STORE_HIDDEN_SIZE];
    struct error why;
    struct stat st;
    auto_close int fd = store_open_entry(store, STORE_INSTANCES, id, NULL);
    if (fd < 0 || !instance_is_torn(fd, &why) || fstat(fd, &st) < 0)
        return false;
    error_prefix(&why, 0,
                 "the instance %s is discarded: the disk did not have all of it when the host went "
                 "down, and its VM ended then",
                 id);
    instances_warn(table, "%s", why.text);
    int r = store_unpublish(store, STORE_INSTANCES, id, file_id_of(&st), hidden, &why);
    if (r == 0)
        r = store_erase(store, STORE_INSTANCES, hidden, &why);
    if (r < 0)
        instances_warn(table, "%s", why.text);
    return true;
}

static int load_one(void *context, const char *id, struct error *err)
{
    struct load_context *load_context = context;
    struct instances *table = load_context->table;
    struct instance *instance;
    struct error why = {0};
    (void)err;
    if (discard_torn(table, id))
        return 0;
    if (store_check_id(id, &why) < 0 || instance_load(table, id, &instance, &why) < 0) {
        leave_out(table, id, &why);
        return 0;
    }
    /* Its files may be another process's, which runs on; or there is no memory. */
    if (strays_end(&load_context->strays, instance->image->directory_fd,
                   instance->vmm ? instance->vmm->pid : 0, &why) < 0 ||
        instance_insert(instance, &why) < 0) {
        error_prefix(&why, 0, "instance %s", id);
        leave_out(table, id, &why);
        instance_unref(instance);
        return 0;
    }
    if (!instance->vmm)
        hypervisor_drop_sockets(instance->machine.hypervisor, instance->image->directory_fd);
    instance_recover_files(instance);
    instance_rest(instance);
    instance_unref(instance);
    return 0;
}

/*
 * The VMs' lives begin when all instances are in the table: who is told that one has changed may
 * look for its forks. Once it is recovered or watched, an instance is another thread's: what
 * recovers has it watched at the end (instance_end), and nothing here touches it after that. The
 * watch may remove others from the table by then.
 */
static int begin_lives(struct instances *table, struct error *err)
{
    size_t count;
    struct error why;
    auto_free struct snapshot_name *names = instances_list(table, NULL, &count);
    if (!names)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < count; i++) {
        struct instance *instance = instances_find(table, names[i].id);
        int r = !instance || !instance->vmm       ? 0
                : instance_must_recover(instance) ? begin_recovery(instance, &why)
                                                  : instance_watch(instance, &why);
        if (r < 0)
            instances_warn(table, "%s", why.text);
        instance_unref(instance);
    }
    return 0;
}

int instances_open(const struct instances_setup *setup, struct instances *ret, struct error *err)
{
    *ret = (struct instances){.setup = *setup, .epoll_fd = -1, .stop_fd = -1, .inotify_fd = -1};
    pthread_mutex_init(&ret->lock, NULL);
    pthread_cond_init(&ret->idle, NULL);
    int r = instances_watch(ret, err);
    if (r < 0)
        return r;
    struct load_context context = {.table = ret};
    r = strays_find(&context.strays, err);
    if (r == 0)
        r = store_list(setup->store, STORE_INSTANCES, load_one, &context, err);
    strays_finish(&context.strays);
    if (r == 0)
        r = begin_lives(ret, err);
    if (r == 0)
        await_recovered(ret);
    return r;
}

void instances_join(struct instances *instances)
{
    pthread_mutex_lock(&instances->lock);
    while (instances->recovering > 0 || instances->syncing)
        pthread_cond_wait(&instances->idle, &instances->lock);
    pthread_mutex_unlock(&instances->lock);
    instances_unwatch(instances);
}

void instances_close(struct instances *instances)
{
    instances_stop(instances);
    instances_join(instances);
    cleanup_close(&instances->stop_fd);
    cleanup_close(&instances->epoll_fd);
    cleanup_close(&instances->inotify_fd);
    struct instance *instance, *next;
    HASH_ITER (hh, instances->by_id, instance, next) {
        HASH_DEL(instances->by_id, instance);
        instance_unref(instance);
    }
    pthread_cond_destroy(&instances->idle);
    pthread_mutex_destroy(&instances->lock);
}
