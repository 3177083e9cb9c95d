/* SPDX-License-Identifier: MIT */
#include "instance/live.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#include "hypervisor/freeze.h"
#include "hypervisor/vmm_process.h"
#include "instance/internal.h"
#include "util/process.h"

enum { FREEZE_MS = 100, FREEZE_TRIES = 5 };

/* ---- the VM ---- */

/* With the lock held. */
static int has_vm(const struct instance *instance, struct error *err)
{
    const char *state = instance_state_names[instance->state];
    if (instance->state == INSTANCE_WAITING)
        return instance_busy(instance, err);
    if (instance->state == INSTANCE_STANDBY)
        return error_set(err, EOPNOTSUPP,
                         "the instance %s is in standby: write running to its state first, or "
                         "deliver to a fork of it",
                         instance->id);
    if (!instance->vmm)
        return error_set(err, EOPNOTSUPP, "the instance %s is %s, and nothing runs there",
                         instance->id, state);
    return 0;
}

/* Its owner for a moment. */
static int begin(struct instance *instance, struct error *err)
{
    pthread_mutex_lock(&instance->table->lock);
    int r = has_vm(instance, err);
    pthread_mutex_unlock(&instance->table->lock);
    if (r == 0)
        r = instance_begin(instance, BEGIN_BRIEFLY, err);
    if (r < 0)
        return r;
    r = has_vm(instance, err); /* it may have become another state before */
    if (r < 0)
        instance_end(instance);
    return r;
}

/* With the lock held: what is needed to reach its memory. */
static int see(const struct instance *instance, struct instance_view *ret, struct vmm *ret_vmm,
               struct machine *ret_machine, struct error *err)
{
    int r = has_vm(instance, err);
    if (r < 0)
        return r;
    *ret_vmm = (struct vmm){.hypervisor = instance->vmm->hypervisor,
                            .pid = instance->vmm->pid,
                            .pidfd = fcntl(instance->vmm->pidfd, F_DUPFD_CLOEXEC, 0)};
    *ret_machine = (struct machine){.memory_bytes = instance->machine.memory_bytes};
    ret->life = instance->life;
    ret->paused = instance->state == INSTANCE_PAUSED;
    if (instance->base_index)
        ret->base = image_index_ref(instance->base_index);
    return ret_vmm->pidfd < 0 ? error_errno(err, errno, "cannot watch the VMM") : 0;
}

int instance_look(struct instance *instance, struct instance_view *ret, struct error *err)
{
    struct instance_view view = {0};
    struct machine machine;
    struct vmm vmm = {.pidfd = -1};
    pthread_mutex_lock(&instance->table->lock);
    int r = see(instance, &view, &vmm, &machine, err);
    const bool loaded = instance->loaded;
    pthread_mutex_unlock(&instance->table->lock);
    struct vmm_context context = instance_context(instance);
    if (r == 0)
        r = live_memory_open(&context, &vmm, &machine, loaded, &view.memory, err);
    cleanup_close(&vmm.pidfd);
    if (r < 0)
        instance_view_finish(&view);
    else
        *ret = view;
    return r;
}

int instance_view(struct instance *instance, struct instance_view *ret, struct error *err)
{
    int r = begin(instance, err);
    if (r < 0)
        return r;
    r = instance_look(instance, ret, err);
    instance_end(instance);
    return r;
}

void instance_view_finish(struct instance_view *view)
{
    live_memory_close(steal_pointer(view->memory));
    image_index_unref(steal_pointer(view->base));
}

bool instance_was_ended(struct instance *instance, const struct instance_view *view)
{
    auto_lock(&instance->table->lock);
    return instance->ended_life >= view->life;
}

struct work {
    int (*work)(void *context, struct error *err);
    void *context;
};

/* Two instance_works. */
static int nothing(struct instance *instance, void *context, struct error *err)
{
    (void)instance;
    (void)context;
    (void)err;
    return 0;
}

static int run_work(struct instance *instance, void *context, struct error *err)
{
    const struct work *work = context;
    (void)instance;
    return work->work(work->context, err);
}

/* Where a process may not be traced, its VM pauses. That may take as long as a save, and a write of
 * stopped ends it. */
static int pause_and_run(struct instance *instance, struct work *work, double *ret_ms,
                         struct error *err)
{
    pthread_mutex_lock(&instance->table->lock);
    instance->recording = false;
    pthread_cond_broadcast(&instance->table->idle);
    pthread_mutex_unlock(&instance->table->lock);
    return instance_copy(instance, nothing, run_work, work, ret_ms, err);
}

static int freeze(struct instance *instance, struct work *work, double *ret_ms, struct error *err)
{
    struct error why = {0};
    int r = -EAGAIN;
    for (int i = 0; i < FREEZE_TRIES && r == -EAGAIN; i++)
        r = freeze_run(instance->vmm->pid, process_now_ms() + FREEZE_MS, work->work, work->context,
                       ret_ms, &why);
    if (r == -EAGAIN || r == -EACCES)
        return pause_and_run(instance, work, ret_ms, err);
    return r < 0 ? vmm_ended(instance->vmm, error_set(err, -r, "%s", why.text), err) : 0;
}

int instance_freeze(struct instance *instance, const struct instance_view *view,
                    int (*work)(void *context, struct error *err), void *context, double *ret_ms,
                    struct error *err)
{
    struct work both = {work, context};
    int r = begin(instance, err);
    if (r < 0)
        return r;
    if (instance->life != view->life || instance->vmm->pid != view->memory->pid)
        r = error_set(err, ESTALE, "the VM of %s is another one", instance->id);
    else
        r = freeze(instance, &both, ret_ms, err);
    instance_end(instance);
    return r;
}

/* ---- the list ---- */

struct image_index *instance_list(struct instance *instance, double *ret_at_ms)
{
    auto_lock(&instance->table->lock);
    const bool is_found = instance->list && (instance->listed_at_ms > 0 || !instance->base_index);
    struct image_index *list = is_found ? instance->list : instance->base_index;
    if (ret_at_ms)
        *ret_at_ms = is_found ? instance->listed_at_ms : 0;
    return list ? image_index_ref(list) : NULL;
}

struct search {
    struct instances *table;
    int pidfd;
};

/* A scan_progress. */
static bool goes_on(void *context, uint64_t done, uint64_t size)
{
    const struct search *search = context;
    (void)done;
    (void)size;
    return !atomic_load(&search->table->setup.snapshots->scans.stop) &&
           process_poll(&search->pidfd, 1, 0) <= 0;
}

/* What its image has is not known after a restart. */
static int find_base(struct instance *instance, struct instance_view *view, struct search *search,
                     struct error *err)
{
    struct scan scan;
    if (!view->memory->loaded || view->base)
        return 0;
    int r = scan_image(view->memory->image_fd, goes_on, search, &scan, err);
    if (r == 0)
        r = image_index_create(view->memory->image_fd, &scan, &view->base, err);
    if (r < 0)
        return r;
    auto_lock(&instance->table->lock);
    if (instance->life == view->life && instance->loaded && !instance->base_index)
        instance_set_base_index(instance, view->base);
    return 0;
}

int instance_search(struct instance *instance, struct instance_view *view, struct error *err)
{
    struct search search = {instance->table, view->memory->pidfd};
    struct image_index *list = NULL;
    struct scan scan;
    const double now_ms = process_now_ms();
    int r = find_base(instance, view, &search, err);
    if (r == 0)
        r = live_memory_search(view->memory, view->base ? &view->base->scan : NULL, goes_on,
                               &search, &scan, err);
    if (r == 0)
        r = image_index_create(-1, &scan, &list, err);
    if (r < 0)
        return r;
    pthread_mutex_lock(&instance->table->lock);
    if (instance->life == view->life && now_ms > instance->listed_at_ms) {
        struct image_index *before = instance->list;
        instance->list = list;
        instance->listed_at_ms = now_ms;
        list = before;
    }
    pthread_mutex_unlock(&instance->table->lock);
    image_index_unref(list);
    return 0;
}

void instance_search_failed(struct instance *instance)
{
    struct image_index *list;
    struct scan nothing = {0};
    if (image_index_create(-1, &nothing, &list, NULL) < 0)
        return;
    pthread_mutex_lock(&instance->table->lock);
    if (instance->vmm && !instance->list && !instance->base_index) {
        instance->list = steal_pointer(list);
        instance->listed_at_ms = 0;
    }
    pthread_mutex_unlock(&instance->table->lock);
    image_index_unref(list);
}

/* ---- turns ---- */

/* With the lock held. */
static bool is_first(const struct instance *instance, const struct instance_turn *turn)
{
    const struct instance_turn *before = instance->turns;
    while (before != turn && strcmp(before->name, turn->name) != 0)
        before = before->next;
    return before == turn;
}

void instance_join_turns(struct instance *instance, struct instance_turn *turn)
{
    auto_lock(&instance->table->lock);
    DL_APPEND(instance->turns, turn);
}

int instance_await_turn(struct instance *instance, struct instance_turn *turn, struct error *err)
{
    struct instances *table = instance->table;
    auto_lock(&table->lock);
    while (!is_first(instance, turn) && !table->stopping && !turn->abandoned)
        pthread_cond_wait(&table->idle, &table->lock);
    if (table->stopping)
        return error_set(err, ESHUTDOWN, "the daemon is stopping");
    if (!is_first(instance, turn))
        return error_set(err, ECANCELED,
                         "the write was interrupted before its payload was delivered, because "
                         "others were before it: write it again");
    return 0;
}

void instance_abandon_turn(struct instance *instance, struct instance_turn *turn)
{
    auto_lock(&instance->table->lock);
    turn->abandoned = true;
    pthread_cond_broadcast(&instance->table->idle);
}

bool instance_is_delivering(struct instance *instance, const char *name)
{
    auto_lock(&instance->table->lock);
    return instance_has_turn(instance, name);
}

void instance_end_turn(struct instance *instance, struct instance_turn *turn)
{
    auto_lock(&instance->table->lock);
    DL_DELETE(instance->turns, turn);
    pthread_cond_broadcast(&instance->table->idle);
}

/* ---- what is kept ---- */

int instance_record_delivery(struct instance *instance, const char *name, cJSON *record,
                             cJSON **ret_before, struct error *err)
{
    int r = begin(instance, err);
    if (r < 0) {
        cJSON_Delete(record);
        return r;
    }
    r = instance_keep_delivery(instance, name, record, ret_before, err);
    instance_end(instance);
    return r;
}
