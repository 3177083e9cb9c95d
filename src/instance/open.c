/* SPDX-License-Identifier: MIT */
/* open: the table of instances when the daemon starts, with the VMMs that run on, and its end. */
#include "instance/internal.h"
#include "store/strays.h"

struct load_context {
    struct instances *table;
    struct strays strays;
};

static int load_one(void *context, const char *id, struct error *err)
{
    struct load_context *load_context = context;
    struct instances *table = load_context->table;
    struct instance *instance;
    struct error why = {0};
    (void)err;
    if (instance_load(table, id, &instance, &why) < 0) {
        table->setup.complain(table->setup.context, why.text);
        return 0;
    }
    strays_end(&load_context->strays, instance->image->directory_fd,
               instance->vmm ? instance->vmm->pid : 0);
    if (!instance->vmm)
        instance_drop_socket(instance, instance->machine.hypervisor);
    if (instance_recover(instance, &why) < 0)
        table->setup.complain(table->setup.context, why.text);
    instance_insert(instance);
    if (instance->vmm && instance_watch(instance, &why) < 0)
        table->setup.complain(table->setup.context, why.text);
    instance_unref(instance);
    return 0;
}

int instances_open(const struct instances_setup *setup, struct instances *ret, struct error *err)
{
    *ret = (struct instances){.setup = *setup, .epoll_fd = -1, .stop_fd = -1};
    pthread_mutex_init(&ret->lock, NULL);
    pthread_cond_init(&ret->idle, NULL);
    int r = instances_watch(ret, err);
    if (r < 0)
        return r;
    struct load_context context = {.table = ret};
    strays_find(&context.strays);
    r = store_list(setup->store, STORE_INSTANCES, load_one, &context, err);
    strays_finish(&context.strays);
    return r;
}

void instances_close(struct instances *instances)
{
    if (instances->epoll_fd >= 0)
        instances_unwatch(instances);
    struct instance *instance, *next;
    HASH_ITER (hh, instances->by_id, instance, next) {
        HASH_DEL(instances->by_id, instance);
        instance_unref(instance);
    }
    pthread_cond_destroy(&instances->idle);
    pthread_mutex_destroy(&instances->lock);
}
