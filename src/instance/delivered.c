/* SPDX-License-Identifier: MIT */
/* delivered: what is kept of the payloads that were delivered to a VM since it runs (live.h). */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "hypervisor/live_memory.h"
#include "instance/internal.h"
#include "instance/live.h"
#include "mailbox/rearm.h"
#include "util/json.h"

static const char file_name[] = "delivered.json";

static void set_member(cJSON **object, const char *name, cJSON *item)
{
    if (!*object)
        *object = cJSON_CreateObject();
    json_set(*object, name, item);
}

/* By the owner: the file is what is kept. It need not be on the disk: without its VMM it says
 * nothing any more. */
static int write_deliveries(struct instance *instance, struct error *err)
{
    pthread_mutex_lock(&instance->table->lock);
    auto_json cJSON *json = cJSON_CreateObject();
    json_add_number(json, "version", 1);
    json_add(json, "delivered", cJSON_Duplicate(instance->delivered, true));
    pthread_mutex_unlock(&instance->table->lock);
    return store_cache_json(instance->entry_fd, file_name, json, err);
}

int instance_keep_delivery(struct instance *instance, const char *name, cJSON *record,
                           cJSON **ret_before, struct error *err)
{
    pthread_mutex_lock(&instance->table->lock);
    *ret_before = cJSON_DetachItemFromObjectCaseSensitive(instance->delivered, name);
    set_member(&instance->delivered, name, record);
    pthread_mutex_unlock(&instance->table->lock);
    return write_deliveries(instance, err);
}

bool instance_has_turn(const struct instance *instance, const char *name)
{
    const struct instance_turn *turn = instance->turns;
    while (turn && (turn->done || strcmp(turn->name, name) != 0))
        turn = turn->next;
    return turn;
}

/* By the owner, or with the lock held. */
static cJSON *all_records(const struct instance *instance, enum instance_saved saved)
{
    const cJSON *of_commit = instance->loaded ? json_get(instance->fork, "delivered") : NULL;
    cJSON *records = cJSON_CreateArray();
    const cJSON *item;
    cJSON_ArrayForEach (item, of_commit)
        json_append(records, cJSON_Duplicate(item, true));
    cJSON_ArrayForEach (item, instance->delivered) {
        if (saved == SAVED_AND_MAPPED && instance_has_turn(instance, item->string))
            continue;
        cJSON *copy = cJSON_Duplicate(item, true);
        if (saved == SAVED_AND_ENDS && cJSON_IsTrue(json_get(item, "waited")))
            json_set(copy, REARM_WITHDRAW, cJSON_CreateBool(true));
        json_append(records, copy);
    }
    return records;
}

cJSON *instance_deliveries(struct instance *instance)
{
    return instance_delivered(instance, SAVED);
}

cJSON *instance_left_behind(struct instance *instance, const char *name)
{
    auto_lock(&instance->table->lock);
    const cJSON *record = json_get(instance->delivered, name);
    cJSON *records = cJSON_CreateArray();
    if (cJSON_IsTrue(json_get(record, "waited")))
        json_append(records, cJSON_Duplicate(record, true));
    return records;
}

int instance_rearm(struct instance *instance, struct error *err)
{
    struct vmm_context context = instance_context(instance);
    struct live_memory *memory = NULL;
    if (!instance->delivered)
        return 0;
    int r = live_memory_open(&context, instance->vmm, &instance->machine, instance->loaded, &memory,
                             err);
    if (r < 0)
        return r;
    auto_json cJSON *records = all_records(instance, SAVED);
    struct memory_io io = live_memory_io(memory);
    r = rearm_memory(&io, memory->size, records, err);
    live_memory_close(memory);
    return r;
}

void instance_delivery_ended(struct instance *instance, const char *name)
{
    auto_lock(&instance->table->lock);
    cJSON *record = cJSON_GetObjectItemCaseSensitive(instance->delivered, name);
    if (record)
        json_set(record, "waited", cJSON_CreateBool(false));
}

cJSON *instance_delivered(struct instance *instance, enum instance_saved saved)
{
    auto_lock(&instance->table->lock);
    return all_records(instance, saved);
}

void instance_set_last(struct instance *instance, const char *name, cJSON *last)
{
    auto_lock(&instance->table->lock);
    set_member(&instance->lasts, name, last);
}

/* Of its commit, if there was none since. */
static const cJSON *of_commit(const struct instance *instance, const char *name)
{
    const cJSON *item, *result = json_get(instance->fork, "result");
    const cJSON *network = json_get(result, "network");
    if (!name[0])
        return cJSON_IsObject(network) ? network : NULL;
    cJSON_ArrayForEach (item, json_get(result, "mailboxes")) {
        const char *its = json_get_text(item, "name");
        if (its && strcmp(its, name) == 0)
            return item;
    }
    return NULL;
}

cJSON *instance_last(struct instance *instance, const char *name)
{
    auto_lock(&instance->table->lock);
    const cJSON *last = json_get(instance->lasts, name);
    if (!last)
        last = of_commit(instance, name);
    return last ? cJSON_Duplicate(last, true) : NULL;
}

/* With the lock held: it is another VM, or none. */
void instance_forget_live(struct instance *instance, bool by_itself, bool keep_delivered)
{
    if (!by_itself)
        instance->ended_life = instance->life;
    instance->life++;
    image_index_unref(steal_pointer(instance->list));
    if (!keep_delivered)
        cJSON_Delete(steal_pointer(instance->delivered));
    cJSON_Delete(steal_pointer(instance->lasts));
}

void instance_remove_deliveries(struct instance *instance)
{
    unlinkat(instance->entry_fd, file_name, 0);
}

void instance_read_deliveries(struct instance *instance)
{
    auto_json cJSON *json = NULL;
    if (store_read_json(instance->entry_fd, file_name, &json, NULL) == 0 &&
        cJSON_IsObject(json_get(json, "delivered")))
        instance->delivered = cJSON_DetachItemFromObjectCaseSensitive(json, "delivered");
}
