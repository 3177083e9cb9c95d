/* SPDX-License-Identifier: MIT */
/* info: an instance in words, for its `info` in the tree. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "instance/config.h"
#include "instance/internal.h"
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
        json_add_string(json, "signal", name);
    } else if (instance->exit.code >= 0) {
        json_add_number(json, "code", instance->exit.code);
    } else {
        json_add_null(json, "code");
    }
    json_add_string(json, "at", instance->exit_at);
    return json;
}

bool instance_describe_end(struct instance *instance, struct error *ret)
{
    pthread_mutex_lock(&instance->table->lock);
    bool ended = instance->state == INSTANCE_STOPPED && instance->exit.ended &&
                 instance->exit.signal == SIGBUS;
    pthread_mutex_unlock(&instance->table->lock);
    if (ended)
        error_set(ret, EIO,
                  "the VMM was ended by SIGBUS: the store had no room, or its user no quota, for a "
                  "page that the guest wrote to its memory (df and quota -s tell which), or a disk "
                  "cannot be read: make room and write running");
    return ended;
}

/* Everybody may read `info`, and only its owner `config`: no command line, paths and addresses. */
static cJSON *summary(const struct machine *machine)
{
    cJSON *json = cJSON_CreateObject();
    json_add_string(json, "hypervisor", machine->hypervisor->name);
    json_add_string(json, "machine", machine_board_names[machine->board]);
    json_add_string(json, "accel", machine_accel_names[machine->accel]);
    json_add_number(json, "vcpus", machine->vcpus);
    json_add_number(json, "memory_mib", (double)(machine->memory_bytes >> 20));
    cJSON *network = json_add_object(json, "network");
    json_add_string(network, "mode", machine_network_names[machine->network]);
    json_add_number(json, "disks", (double)machine->disk_count);
    return json;
}

/* With the lock held. */
static void describe_pause(cJSON *info, const struct instance_pause *pause)
{
    if (pause->ms == 0) {
        json_add_null(info, "pause_ms");
        json_add_null(info, "switched");
        return;
    }
    json_add(info, "pause_ms", json_milliseconds(pause->ms));
    json_add_bool(info, "switched", pause->switched);
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
    json_add_string(info, "id", instance->id);
    json_add_string(info, "state", instance_state_names[instance->state]);
    json_add_string(info, "hypervisor", instance->machine.hypervisor->name);
    if (instance->vmm)
        json_add_number(info, "pid", instance->vmm->pid);
    else
        json_add_null(info, "pid");
    json_add(info, "confinement",
             instance->vmm ? vmm_describe_confinement(instance->vmm) : cJSON_CreateNull());
    json_add_string(info, "created_at", instance->created_at);
    if (instance->source.id[0]) {
        source = json_add_object(info, "source");
        json_add_string(source, instance_source_words[instance->source.kind], instance->source.id);
    } else {
        json_add_null(info, "source");
    }
    json_add_number(info, "memory_bytes", (double)instance->machine.memory_bytes);
    json_add(info, "config", configured(instance));
    describe_pause(info, &instance->last_pause);
    json_add(info, "exit", instance_exit(instance));
    if (instance->state == INSTANCE_STANDBY)
        describe_trust(info, instance->image);
    pthread_mutex_unlock(&instance->table->lock);
    return json_print(info);
}
