/* SPDX-License-Identifier: MIT */
/* info: an instance in words, for its `info` in the tree. */
#include <stdio.h>
#include <string.h>

#include "instance/config.h"
#include "instance/instance.h"
#include "util/json.h"

cJSON *instance_exit(const struct instance *instance)
{
    if (!instance->exit.ended)
        return cJSON_CreateNull();
    cJSON *json = cJSON_CreateObject();
    if (instance->exit.signal) {
        char name[16];
        const char *abbreviation = sigabbrev_np(instance->exit.signal);
        snprintf(name, sizeof name, "SIG%s", abbreviation ? abbreviation : "?");
        cJSON_AddStringToObject(json, "signal", name);
    } else if (instance->exit.code >= 0) {
        cJSON_AddNumberToObject(json, "code", instance->exit.code);
    } else {
        cJSON_AddNullToObject(json, "code");
    }
    cJSON_AddStringToObject(json, "at", instance->exit_at);
    return json;
}

/* Everybody may read `info`, and only its owner `config`: no command line, paths and addresses. */
static cJSON *summary(const struct machine *machine)
{
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "hypervisor", machine->hypervisor->name);
    cJSON_AddStringToObject(json, "machine", machine_board_names[machine->board]);
    cJSON_AddStringToObject(json, "accel", machine_accel_names[machine->accel]);
    cJSON_AddNumberToObject(json, "vcpus", machine->vcpus);
    cJSON_AddNumberToObject(json, "memory_mib", (double)(machine->memory_bytes >> 20));
    cJSON *network = cJSON_AddObjectToObject(json, "network");
    cJSON_AddStringToObject(network, "mode", machine_network_names[machine->network]);
    cJSON_AddNumberToObject(json, "disks", (double)machine->disk_count);
    return json;
}

/* With the lock held: the config with all its defaults. What a boot has chosen for "auto" is not of
 * it, so the text counts. */
static cJSON *configured(const struct instance *instance)
{
    struct machine machine = {0};
    if (!instance->config ||
        config_parse(instance->config, strlen(instance->config), &machine, NULL) < 0)
        return summary(&instance->machine);
    cJSON *json = summary(&machine);
    machine_finish(&machine);
    return json;
}

static void describe_trust(cJSON *info, struct image *image)
{
    struct image_index *index = NULL;
    struct error why = {0};
    image_index(image, &index, &why);
    snapshot_describe_trust(info, index, &why);
    image_index_unref(index);
}

char *instance_info(struct instance *instance)
{
    auto_json cJSON *info = cJSON_CreateObject();
    cJSON *source;

    pthread_mutex_lock(&instance->table->lock);
    cJSON_AddStringToObject(info, "id", instance->id);
    cJSON_AddStringToObject(info, "state", instance_state_names[instance->state]);
    cJSON_AddStringToObject(info, "hypervisor", instance->machine.hypervisor->name);
    if (instance->vmm)
        cJSON_AddNumberToObject(info, "pid", instance->vmm->pid);
    else
        cJSON_AddNullToObject(info, "pid");
    cJSON_AddStringToObject(info, "created_at", instance->created_at);
    if (instance->source[0]) {
        source = cJSON_AddObjectToObject(info, "source");
        cJSON_AddStringToObject(source, instance->of_instance ? "instance" : "snapshot",
                                instance->source);
    } else {
        cJSON_AddNullToObject(info, "source");
    }
    cJSON_AddNumberToObject(info, "memory_bytes", (double)instance->machine.memory_bytes);
    cJSON_AddItemToObject(info, "config", configured(instance));
    cJSON_AddItemToObject(info, "exit", instance_exit(instance));
    if (instance->state == INSTANCE_STANDBY)
        describe_trust(info, instance->image);
    pthread_mutex_unlock(&instance->table->lock);
    return json_print(info);
}
