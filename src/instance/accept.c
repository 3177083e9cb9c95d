/* SPDX-License-Identifier: MIT */
/* accept: somebody vouches for what an instance at rest is made of, as it is now. */
#include <errno.h>

#include "hypervisor/disks.h"
#include "instance/internal.h"
#include "util/cleanup.h"
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
        r = instance_save(instance, instance->image->directory_fd, err);
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
        return error_set(err, EINVAL,
                         "an instance that is %s has nothing to vouch for: only one in standby or "
                         "stopped has",
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
