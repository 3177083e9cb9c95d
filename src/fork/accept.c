/* SPDX-License-Identifier: MIT */
#include "fork/accept.h"

#include <errno.h>

#include "hypervisor/disks.h"
#include "util/cleanup.h"
#include "util/json.h"

/* The disks of a snapshot that cannot be forked are not known. */
static int accept_disks(struct snapshot *snapshot, cJSON *files, struct error *err)
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

int accept_snapshot(struct snapshot *snapshot, struct error *err)
{
    struct snapshots *table = snapshot->table;
    struct error why = {0}, text;
    auto_json cJSON *files = cJSON_CreateArray();
    int r = snapshot_use(snapshot, &why);
    if (r == 0) {
        r = accept_disks(snapshot, files, &why);
        if (r == 0)
            r = image_accept(snapshot->image, NULL, snapshot->memory_bytes, files, &why);
        snapshot_leave(snapshot);
    }
    if (r == 0)
        error_set(&text, 0, "the snapshot %s is accepted: %d of its files had changed",
                  snapshot->id, cJSON_GetArraySize(files));
    else
        error_set(&text, 0, "the snapshot %s cannot be accepted: %.400s", snapshot->id, why.text);
    table->complain(table->context, text.text);
    if (r < 0 && err)
        *err = why;
    return r;
}
