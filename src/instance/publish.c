/* SPDX-License-Identifier: MIT */
/* publish: a snapshot of an instance. */
#include <errno.h>
#include <unistd.h>

#include "instance/internal.h"
#include "util/cleanup.h"
#include "util/json.h"

static int link_image(void *context, int directory_fd, struct error *err)
{
    static const char *const names[] = {"memory", "state"};
    struct instance *instance = context;
    for (size_t i = 0; i < array_length(names); i++)
        if (linkat(instance->image->directory_fd, names[i], directory_fd, names[i], 0) < 0)
            return error_errno(err, errno, "cannot link the instance's %s into the snapshot",
                               names[i]);
    /* What was found in it when it was saved. If that cannot be had, the image is scanned again. */
    linkat(instance->image->directory_fd, "mailboxes.json", directory_fd, "mailboxes.json", 0);
    return 0;
}

static cJSON *describe(const struct instance *instance)
{
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "kind", "standby");
    cJSON_AddStringToObject(json, "hypervisor", instance->machine.hypervisor->name);
    cJSON_AddStringToObject(json, "hypervisor_version", instance->machine.version);
    cJSON_AddNumberToObject(json, "memory_bytes", (double)instance->machine.memory_bytes);
    cJSON_AddStringToObject(json, "source_instance", instance->id);
    cJSON_AddItemToObject(json, "machine", machine_to_json(&instance->machine));
    return json;
}

int instance_snapshot(struct instance *instance, const char *id, struct error *err)
{
    int r = instance_begin(instance, false, err);
    if (r < 0)
        return r;
    enum instance_state state = instance->state;
    if (state == INSTANCE_STANDBY) {
        auto_json cJSON *json = describe(instance);
        r = snapshots_publish(instance->table->setup.snapshots, id, json, link_image, instance,
                              err);
    } else if (state == INSTANCE_RUNNING || state == INSTANCE_PAUSED) {
        r = instance->source[0]
                ? error_set(err, EOPNOTSUPP, "forks cannot be snapshotted yet")
                : error_set(err, EOPNOTSUPP,
                            "a %s instance cannot be snapshotted yet: write standby to its state "
                            "first",
                            instance_state_names[state]);
    } else {
        r = error_set(err, EINVAL,
                      "an instance that is %s has no memory to snapshot: write running, then "
                      "standby to its state first",
                      instance_state_names[state]);
    }
    instance_end(instance);
    return r;
}
