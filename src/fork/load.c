/* SPDX-License-Identifier: MIT */
#include "fork/load.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "hypervisor/disks.h"
#include "util/cleanup.h"
#include "util/fault.h"
#include "util/json.h"

int load_machine(const cJSON *json, const char *name, struct machine *ret, struct error *err)
{
    const char *vmm = json_get_text(json, "hypervisor");
    const char *kind = json_get_text(json, "kind");
    const struct hypervisor *hypervisor = vmm ? hypervisor_find(vmm) : NULL;
    struct error why;
    if (!hypervisor)
        return error_set(err, EOPNOTSUPP, "snapshots of %.40s cannot be forked yet",
                         vmm ? vmm : "an unknown hypervisor");
    if (!kind || strcmp(kind, "standby") != 0)
        return error_set(err, EOPNOTSUPP, "a snapshot of the kind \"%.40s\" cannot be forked",
                         kind ? kind : "");
    if (!json_get(json, "machine"))
        return error_set(err, EOPNOTSUPP,
                         "%s was imported without the configuration of its VM, and cannot be "
                         "forked: import it again with --config",
                         name);
    if (machine_from_json(json_get(json, "machine"), ret, &why) < 0)
        return error_set(err, EIO, "the machine of %s: %s", name, why.text);
    ret->hypervisor = hypervisor;
    return 0;
}

int load_link(int image_fd, const char *name, const char *file, int directory_fd, const char *as,
              struct error *err)
{
    if (linkat(image_fd, file, directory_fd, as, 0) == 0) {
        fault_point(FAULT_LINKED);
        return 0;
    }
    return error_io(err, errno, "the %s of %s cannot be linked into the fork's directory", file,
                    name);
}

int load_entry(const struct store *store, const struct snapshot *snapshot, const char *name,
               const struct machine *machine, enum disks_of of, struct store_entry *ret,
               struct error *err)
{
    auto_close int fd = image_open(snapshot->image, err);
    int r = fd < 0 ? fd : store_entry_create(store, STORE_INSTANCES, ret, err);
    if (r < 0)
        return r;
    r = disks_link(machine, fd, ret->run_fd, of, err);
    return r < 0 ? error_prefix(err, r, "%s", name) : 0;
}

int load_vm(const struct vmm_context *context, const struct snapshot *snapshot, const char *name,
            const struct machine *machine, struct vmm **ret, struct error *err)
{
    char image[STORE_ID_MAX + 32];
    snprintf(image, sizeof image, "../../../snapshots/%s", snapshot->id);
    int r = vmm_load(context, machine, image, ret, err);
    auto_close int fd = r == 0 ? image_open(snapshot->image, err) : r;
    return fd < 0 ? fd : load_link(fd, name, "memory", context->entry_fd, "base", err);
}

void load_discard(struct store_entry *entry, struct vmm *vmm)
{
    if (vmm) {
        pidfd_send_signal(vmm->pidfd, SIGKILL, NULL, 0);
        vmm_stop(vmm, NULL);
        vmm_close(vmm);
    }
    store_entry_discard(entry);
}
