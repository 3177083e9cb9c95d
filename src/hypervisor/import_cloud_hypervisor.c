/* SPDX-License-Identifier: MIT */
/* What Cloud Hypervisor saves (vm.snapshot): config.json and state.json become one, and
 * memory-ranges is made the file that the VM maps, however its memory was kept before. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/cloud_hypervisor_state.h"
#include "hypervisor/import.h"
#include "util/cleanup.h"
#include "util/json.h"

static double number_of(const cJSON *json, const char *name)
{
    const cJSON *item = json_get(json, name);
    return cJSON_IsNumber(item) ? item->valuedouble : 0;
}

/* Memory that the guest had, be it in zones, plugged in later, or both. */
int import_read_cloud_hypervisor(const cJSON *json, struct machine *ret, struct error *err)
{
    const cJSON *memory = json_get(json, "memory"), *zone;
    double size = number_of(memory, "size") + number_of(memory, "hotplugged_size");
    if (!cJSON_IsObject(memory))
        return error_set(err, EINVAL,
                         "this is no config.json of Cloud Hypervisor's: it has no \"memory\"");
    cJSON_ArrayForEach (zone, json_get(memory, "zones"))
        size += number_of(zone, "size") + number_of(zone, "hotplugged_size");
    if (!(size >= 0 && size < 0x1p53))
        return error_set(err, EINVAL, "\"memory\" has no size");
    ret->memory_bytes = (uint64_t)size;
    return 0;
}

int import_combine_cloud_hypervisor(const cJSON *config, const char *state_text,
                                    struct machine *machine, char **ret, struct error *err)
{
    struct cloud_hypervisor_state state = {.config = cJSON_Duplicate(config, true)};
    int r = state.config ? json_parse(state_text, strlen(state_text), &state.state, err)
                         : error_set(err, ENOMEM, "out of memory");
    if (r == 0)
        r = cloud_hypervisor_state_normalize(&state, machine->memory_bytes, err);
    if (r == 0)
        r = cloud_hypervisor_state_tell(&state, machine, err);
    if (r == 0 && !(*ret = cloud_hypervisor_state_print(&state)))
        r = error_set(err, ENOMEM, "out of memory");
    cloud_hypervisor_state_finish(&state);
    if (r != -EIO)
        return r;
    if (err)
        err->code = EINVAL; /* the files do not fit each other */
    return -EINVAL;
}
