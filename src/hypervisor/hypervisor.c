/* SPDX-License-Identifier: MIT */
#include "hypervisor/hypervisor.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/disks.h"
#include "hypervisor/guest_memory.h"
#include "hypervisor/http.h"
#include "hypervisor/machine.h"
#include "hypervisor/opened.h"
#include "hypervisor/vmm_process.h"
#include "util/cleanup.h"
#include "util/fault.h"
#include "util/plain_file.h"

static const struct hypervisor *const backends[HYPERVISORS] = {
    &qemu_hypervisor, &firecracker_hypervisor, &cloud_hypervisor_hypervisor};
const char *const hypervisor_names[] = {"qemu", "firecracker", "cloud-hypervisor", NULL};

int hypervisors_open(struct error *err)
{
    return http_open(err);
}

void hypervisors_close(void)
{
    http_close();
}

const struct hypervisor *hypervisor_find(const char *name)
{
    for (size_t i = 0; i < array_length(backends); i++)
        if (strcmp(backends[i]->name, name) == 0)
            return backends[i];
    return NULL;
}

/* A call that has returned. */
static int done(const char *what, enum fault after, int r, struct error *err)
{
    fault_point(after);
    return r < 0 ? error_prefix(err, r, "%s", what) : r;
}

int vmm_check(const struct machine *machine, struct error *err)
{
    return machine->hypervisor->check ? machine->hypervisor->check(machine, err) : 0;
}

/* A VMM would wait for the other end of a FIFO. Of one that is missing it says so itself. */
static int check_boot_file(const char *what, const char *path, struct error *err)
{
    struct stat st;
    if (path && stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return error_set(err, EINVAL, "the %s %s is not a regular file: give another in config",
                         what, path);
    return 0;
}

static int check_boot_disk(const struct machine_disk *disk, struct error *err)
{
    struct stat st;
    return stat(disk->path, &st) == 0 ? disk_check_kind(disk->path, disk->readonly, &st, err) : 0;
}

/* A VMM that has just started: it is ended if it did not open what it was to open. An image (NULL:
 * none) is shared by all that are loaded from it, whatever the VMM, whatever its version. */
static int take(const struct vmm_context *context, const struct machine *machine,
                const struct stat *image, struct vmm *vmm, struct vmm **ret, struct error *err)
{
    int r = image ? opened_check_readonly(vmm->pid, image, "the memory image", err) : 0;
    if (r == 0)
        r = opened_remember(context, vmm, machine, err);
    if (r == 0) {
        *ret = vmm;
        return 0;
    }
    r = vmm_ended(vmm, r, err);
    r = vmm_explain(context, vmm, vmm_log_size(context), r, err);
    return vmm_abandon(context, machine->hypervisor, vmm, r, err);
}

static int boot(const struct vmm_context *context, struct machine *machine, struct vmm **ret,
                struct error *err)
{
    struct vmm *vmm = NULL;
    int r = check_boot_file("kernel", machine->kernel, err);
    if (r == 0)
        r = check_boot_file("initrd", machine->initrd, err);
    for (size_t i = 0; i < machine->disk_count && r == 0; i++)
        r = check_boot_disk(&machine->disks[i], err);
    if (r == 0)
        r = machine->hypervisor->boot(context, machine, &vmm, err);
    return r < 0 ? r : take(context, machine, NULL, vmm, ret, err);
}

/* A VMM's words may only say "the kernel", or the name that a disk was given: adds the path. */
static void name_file(const char *word, const char *path, struct error *err)
{
    static const char *const hosts[] = {" module", " holds "}; /* behind the host's kernel */
    const char *rest = path ? strcasestr(err->text, word) : NULL;
    if (!rest || strstr(err->text, path))
        return;
    rest += strlen(word);
    bool other = isdigit((unsigned char)rest[0]);
    for (size_t i = 0; i < array_length(hosts); i++)
        other = other || strncmp(rest, hosts[i], strlen(hosts[i])) == 0;
    if (!other)
        error_append(err, " (%s is %s)", word, path);
}

static void name_files(const struct machine *machine, struct error *err)
{
    char disk[32];
    machine_explain_taps(machine, err);
    name_file("kernel", machine->kernel, err);
    name_file("initrd", machine->initrd, err);
    for (size_t i = 0; i < machine->disk_count; i++) {
        snprintf(disk, sizeof disk, "disk%zu", i);
        name_file(disk, machine->disks[i].path, err);
    }
}

int vmm_boot(const struct vmm_context *context, struct machine *machine, struct vmm **ret,
             struct error *err)
{
    assert(machine->memory_bytes > 0 && machine->vcpus > 0);
    fault_point(FAULT_BOOT);
    int r = boot(context, machine, ret, err);
    if (r < 0 && r != -ECANCELED && err)
        name_files(machine, err);
    return done("booting the VM", FAULT_BOOTED, r, err);
}

/* One file of an image. VMMs get it by its path, so links and what else is no file are kept from
 * them here. Texts name whose it is: the snapshot's, by the last part of the image's path, or the
 * instance's own. */
static int check_file(const struct vmm_context *context, const char *image, const char *name,
                      const char *what, struct stat *ret, struct error *err)
{
    const bool own = strcmp(image, ".") == 0;
    const char *slash = strrchr(image, '/');
    auto_free char *path = NULL, *words = NULL;
    auto_close int fd = -1;
    if (asprintf(&path, "%s/%s", image, name) < 0 ||
        asprintf(&words, "the %s of the %s %s", what, own ? "instance" : "snapshot",
                 own && context->id ? context->id
                 : slash            ? slash + 1
                                    : image) < 0)
        return error_set(err, ENOMEM, "no memory for a path");
    int r = plain_file_open(context->directory_fd, path, O_RDONLY, words, &fd, err);
    return r == 0 && fstat(fd, ret) < 0 ? error_io(err, errno, "%s", words) : r;
}

/* What a machine that was saved in its firmware boots from. */
static int check_needed(const struct machine *machine, const char *what, const char *path,
                        struct error *err)
{
    if (!machine->in_firmware || !path)
        return 0;
    if (access(path, R_OK) < 0)
        return error_io(err, errno,
                        "the VM was saved before it had read its %s %s, and needs that now", what,
                        path);
    return check_boot_file(what, path, err);
}

static int load(const struct vmm_context *context, const struct machine *machine, const char *image,
                struct vmm **ret, struct error *err)
{
    struct stat memory, state;
    struct vmm *vmm = NULL;
    int r = check_file(context, image, "memory", "memory image", &memory, err);
    if (r == 0 && (uint64_t)memory.st_size != machine->memory_bytes)
        r = error_set(err, EIO, "the memory image has %jd bytes, and the machine has %" PRIu64,
                      (intmax_t)memory.st_size, machine->memory_bytes);
    if (r == 0)
        r = check_file(context, image, "state", "device state", &state, err);
    if (r == 0)
        r = disks_check_readonly(machine, err);
    if (r == 0)
        r = check_needed(machine, "kernel", machine->kernel, err);
    if (r == 0)
        r = check_needed(machine, "initrd", machine->initrd, err);
    if (r == 0)
        r = machine->hypervisor->load(context, machine, image, &vmm, err);
    return r < 0 ? r : take(context, machine, &memory, vmm, ret, err);
}

int vmm_load(const struct vmm_context *context, const struct machine *machine, const char *image,
             struct vmm **ret, struct error *err)
{
    fault_point(FAULT_LOAD);
    int r = load(context, machine, image, ret, err);
    if (r < 0 && r != -ECANCELED && err)
        machine_explain_taps(machine, err);
    return done("loading the VM", FAULT_LOADED, r, err);
}

int vmm_read_memory(void *context, uint64_t offset, void *bytes, size_t size, struct error *err)
{
    const struct vmm *vmm = context;
    assert(vmm->memory);
    return guest_memory_read(vmm->memory, offset, bytes, size, err);
}

int vmm_write_memory(void *context, uint64_t offset, const void *bytes, size_t size,
                     struct error *err)
{
    const struct vmm *vmm = context;
    assert(vmm->memory);
    return guest_memory_write(vmm->memory, offset, bytes, size, err);
}

int vmm_visit_written(const struct vmm *vmm, int cancel_fd, guest_memory_visit *visit,
                      void *context, struct error *err)
{
    assert(vmm->memory);
    return guest_memory_visit_written(vmm->memory, vmm->pid, cancel_fd, visit, context, err);
}

int vmm_resume(const struct vmm_context *context, struct vmm *vmm, struct error *err)
{
    fault_point(FAULT_RESUME);
    return done("resuming the VM", FAULT_RESUMED, vmm->hypervisor->resume(context, vmm, err), err);
}

int vmm_pause(const struct vmm_context *context, struct vmm *vmm, struct error *err)
{
    fault_point(FAULT_PAUSE);
    return done("pausing the VM", FAULT_PAUSED, vmm->hypervisor->pause(context, vmm, err), err);
}

int vmm_prepare(const struct vmm_context *context, struct vmm *vmm, struct vmm_save *save,
                struct error *err)
{
    if (!save->loaded || !vmm->hypervisor->prepare)
        return 0;
    int r = vmm->hypervisor->prepare(context, vmm, save, err);
    save->prepared = r == 0;
    return r < 0 ? error_prefix(err, r, "copying the image of the VM") : 0;
}

int vmm_save(const struct vmm_context *context, struct vmm *vmm, struct machine *machine,
             const struct vmm_save *save, struct error *err)
{
    fault_point(FAULT_SAVE);
    int r = opened_check(context, vmm, machine, err);
    if (r == 0)
        r = vmm->hypervisor->save(context, vmm, machine, save, err);
    if (r == 0) {
        disks_note_readonly(machine);
        /* A file may have been replaced meanwhile, and then the disks' keys would be of that. */
        r = opened_check(context, vmm, machine, err);
    }
    return done("saving the VM", FAULT_SAVED, r, err);
}

int vmm_find_disks(const struct vmm_context *context, struct vmm *vmm, struct machine *machine,
                   struct error *err)
{
    if (!machine->hypervisor->find_disks)
        return 0;
    int r = machine->hypervisor->find_disks(context, vmm, machine, err);
    return r < 0 ? error_prefix(err, r, "asking the VM for its disks") : r;
}
