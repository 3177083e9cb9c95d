/* SPDX-License-Identifier: MIT */
/* accept: somebody says that the files of a snapshot or of an instance, its image and its disks,
 * are as they should be. They are checked, the image is scanned anew, and what is there then is on
 * record. */
#include <errno.h>

#include "hypervisor/disks.h"
#include "instance/internal.h"
#include "util/json.h"

static int accept_disks(struct instance *instance, cJSON *files, struct error *err)
{
    struct machine machine = instance->machine;
    int r = disks_copy(&machine, err);
    if (r < 0)
        return r;
    r = disks_accept(&machine, files, err);
    if (r == 0 && cJSON_GetArraySize(files) > 0) {
        instance_swap_disks(instance, &machine);
        r = instance_record(instance, err);
        if (r < 0)
            instance_swap_disks(instance, &machine);
    }
    disks_finish(&machine);
    return r;
}

/* A VM that runs has its files open, whatever lies at their names. */
static int accept(struct instance *instance, cJSON *files, struct error *err)
{
    if (instance->state != INSTANCE_STANDBY && instance->state != INSTANCE_STOPPED)
        return error_set(
            err, EINVAL,
            "an instance that is %s has nothing to accept: only one in standby or stopped has",
            instance_state_names[instance->state]);
    int r = accept_disks(instance, files, err);
    if (r == 0 && instance->state == INSTANCE_STANDBY)
        r = image_accept(instance->image, &instance->cancelled, instance->machine.memory_bytes,
                         files, err);
    return r;
}

int instance_accept(struct instance *instance, struct error *err)
{
    auto_json cJSON *files = cJSON_CreateArray();
    int r = instance_begin(instance, BEGIN_OR_FAIL, err);
    if (r < 0)
        return r;
    r = instance_explain_cancel(instance, accept(instance, files, err), err);
    instance_end(instance);
    return r;
}

/* The disks of a snapshot that cannot be forked are not known. */
static int accept_snapshot_disks(struct snapshot *snapshot, cJSON *files, struct error *err)
{
    struct machine machine;
    const cJSON *json = snapshot_machine(snapshot);
    if (!json)
        return 0;
    int r = machine_from_json(json, &machine, err);
    if (r < 0)
        return error_set(err, EIO, "the machine: %s", err->text);
    r = disks_accept(&machine, files, err);
    if (r == 0 && cJSON_GetArraySize(files) > 0) {
        auto_json cJSON *changed = machine_to_json(&machine);
        r = changed ? snapshot_set_machine(snapshot, changed, err)
                    : error_set(err, ENOMEM, "out of memory");
    }
    machine_finish(&machine);
    return r;
}

int snapshot_accept(struct snapshot *snapshot, struct error *err)
{
    struct snapshots *table = snapshot->table;
    struct error why = {0}, text;
    auto_json cJSON *files = cJSON_CreateArray();
    int r = snapshot_use(snapshot, &why);
    if (r == 0) {
        r = accept_snapshot_disks(snapshot, files, &why);
        if (r == 0)
            r = image_accept(snapshot->image, NULL, snapshot->memory_bytes, files, &why);
        snapshot_leave(snapshot);
    }
    if (r == 0)
        error_set(&text, 0, "the snapshot %s is accepted: %d of its files had changed",
                  snapshot->id, cJSON_GetArraySize(files));
    else
        error_set(&text, 0, "the snapshot %s cannot be accepted: %.400s", snapshot->id, why.text);
    table->warn(table->context, text.text);
    if (r < 0 && err)
        *err = why;
    return r;
}
