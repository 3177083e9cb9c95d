/* SPDX-License-Identifier: MIT */
#include "hypervisor/qemu_record.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/machine.h"
#include "hypervisor/qemu_control.h"
#include "util/cleanup.h"
#include "util/json.h"

static const char *const cpu_models[ACCELS] = {[ACCEL_KVM] = "host", [ACCEL_TCG] = "max"};

int qemu_record_begin(enum machine_accel wanted, struct machine *ret, struct error *err)
{
    ret->accel = machine_resolve_accel(wanted);
    ret->cpu = strdup(cpu_models[ret->accel]);
    return ret->cpu ? 0 : error_set(err, ENOMEM, "no memory for a machine's CPU");
}

/* "pc-q35-7.2" of "pc-q35-7.2-machine". */
static int read_type(const struct vmm_context *context, struct vmm *vmm, char **ret,
                     struct error *err)
{
    static const char suffix[] = "-machine";
    cJSON *arguments = cJSON_CreateObject();
    json_add_string(arguments, "path", "/machine");
    json_add_string(arguments, "property", "type");
    auto_json cJSON *answer = NULL;
    int r = qemu_control_execute_with(context, vmm, "qom-get", arguments, -1, &answer, err);
    if (r < 0)
        return r;
    const char *type = cJSON_GetStringValue(answer);
    size_t length = type ? strlen(type) : 0;
    if (length < sizeof suffix || strcmp(type + length - strlen(suffix), suffix) != 0)
        return error_set(err, EIO, "QEMU does not say what its machine's type is");
    *ret = strndup(type, length - strlen(suffix));
    return *ret ? 0 : error_set(err, ENOMEM, "no memory for a machine's type");
}

int qemu_record_finish(const struct vmm_context *context, struct vmm *vmm, struct machine *ret,
                       struct error *err)
{
    ret->version = strdup(qmp_version(vmm->state));
    if (!ret->version)
        return error_set(err, ENOMEM, "no memory for a machine's version");
    int r = ret->accel == ACCEL_KVM ? machine_host_cpu(&ret->host_cpu, err) : 0;
    return r < 0 ? r : read_type(context, vmm, &ret->type, err);
}

void qemu_record_put(struct machine *machine, struct machine *recorded)
{
    const struct {
        char **to, **from;
    } members[] = {
        {&machine->type, &recorded->type},
        {&machine->cpu, &recorded->cpu},
        {&machine->host_cpu, &recorded->host_cpu},
        {&machine->version, &recorded->version},
    };
    for (size_t i = 0; i < array_length(members); i++) {
        free(*members[i].to);
        *members[i].to = steal_pointer(*members[i].from);
    }
    machine->accel = recorded->accel;
}

int qemu_record_check_complete(const struct machine *machine, struct error *err)
{
    const struct {
        const char *name, *value;
    } members[] = {{"type", machine->type}, {"cpu", machine->cpu}, {"version", machine->version}};
    for (size_t i = 0; i < array_length(members); i++)
        if (!members[i].value)
            return error_set(err, EIO, "the snapshot does not say what the machine's %s is",
                             members[i].name);
    if (machine->vcpus == 0)
        return error_set(err, EIO, "the snapshot does not say how many vcpus the machine has");
    if (machine->accel == ACCEL_AUTO || (machine->accel == ACCEL_KVM && !machine->host_cpu))
        return error_set(err, EIO, "the snapshot does not say what ran the machine's CPUs");
    return 0;
}

int qemu_record_check(const struct machine *machine, const struct program *program,
                      struct error *err)
{
    int r = qemu_record_check_complete(machine, err);
    if (r < 0)
        return r;
    if (strcmp(program->version, machine->version) != 0)
        return error_set(err, EOPNOTSUPP,
                         "the snapshot was saved by qemu %s, and the program here is %s",
                         machine->version, program->version);
    return machine_check_host_cpu(machine, err);
}

int qemu_record_check_greeting(const struct machine *machine, const struct vmm *vmm,
                               struct error *err)
{
    const char *version = qmp_version(vmm->state);
    if (strcmp(version, machine->version) == 0)
        return 0;
    return error_set(err, EOPNOTSUPP, "the snapshot was saved by QEMU %s, and this one is %s",
                     machine->version, version);
}
