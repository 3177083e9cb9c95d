/* SPDX-License-Identifier: MIT */
#include "hypervisor/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/guest_memory.h"
#include "hypervisor/vmm_process.h"
#include "util/cleanup.h"
#include "util/fault.h"
#include "util/plain_file.h"
#include "util/sparse.h"

enum { PATH_SIZE = 128 };

static const char own_name[] = "memory", base_name[] = "base";

static void path_of(const struct vmm_save *save, char ret[PATH_SIZE])
{
    snprintf(ret, PATH_SIZE, "%s/%s", save->directory, own_name);
}

int memory_create(const struct vmm_context *context, uint64_t size, int *ret, struct error *err)
{
    /* An older one may be a snapshot's too, by a hard link: never written to. */
    auto_close int fd = -1;
    int r = vmm_new_file(context, own_name, &fd, err);
    if (r < 0)
        return r;
    if (ftruncate(fd, (off_t)size) == 0) {
        *ret = steal_fd(&fd);
        return 0;
    }
    r = error_errno(err, errno, "the memory file cannot be made %" PRIu64 " bytes long", size);
    unlinkat(context->directory_fd, own_name, 0);
    return r;
}

int memory_reach(const struct vmm_context *context, struct vmm *vmm, const char *image,
                 struct error *err)
{
    auto_free char *path = NULL;
    if (asprintf(&path, "%s/%s", image, own_name) < 0)
        return error_set(err, ENOMEM, "no memory for a path");
    auto_close int fd = -1;
    int r = plain_file_open(context->directory_fd, path, O_RDONLY, path, &fd, err);
    if (r == 0)
        r = guest_memory_open_process(vmm->pid, &vmm->memory_fd, err);
    if (r == 0)
        r = guest_memory_create(vmm->pid, vmm->memory_fd, fd, &vmm->memory, err);
    return vmm_ended(vmm, r, err);
}

/* The pages that the VM has written to are in its VMM's private mapping of the file `base` only. */
static int copy_written(const struct vmm_context *context, struct vmm *vmm, int base, int to,
                        struct page_set *written, struct error *err)
{
    auto_close int process = -1;
    struct guest_memory *memory;
    int r = guest_memory_open_process(vmm->pid, &process, err);
    if (r == 0)
        r = guest_memory_create(vmm->pid, process, base, &memory, err);
    if (r == 0) {
        r = guest_memory_copy_written(memory, vmm->pid, to, context->cancel_fd, written, err);
        guest_memory_destroy(memory);
    }
    return vmm_ended(vmm, r, err);
}

int memory_open(const struct vmm_context *context, const struct vmm *vmm,
                const struct vmm_save *save, int *ret, struct error *err)
{
    const char *name = save->loaded ? base_name : own_name;
    auto_close int fd = -1;
    int r = plain_file_open(save->loaded ? context->entry_fd : context->directory_fd, name,
                            O_RDONLY, "the VM's memory file", &fd, err);
    if (r < 0)
        return r;
    r = vmm_ended(vmm, guest_memory_check(vmm->pid, fd, err), err);
    if (r < 0)
        return error_prefix(err, r, "the file %s in the store is not the memory of the VM", name);
    *ret = steal_fd(&fd);
    return 0;
}

static int copy_file(const struct vmm_context *context, int from, const struct vmm_save *save,
                     struct error *err)
{
    char path[PATH_SIZE];
    struct stat known;
    auto_close int to = -1;
    path_of(save, path);
    if (fstat(from, &known) < 0)
        return error_errno(err, errno, "the VM's memory file");
    int r = vmm_new_file(context, path, &to, err);
    if (r == 0)
        r = sparse_copy(from, to, &known, vmm_copy_goes_on, (void *)(uintptr_t)context, err);
    return r < 0 ? error_prefix(err, r, "copying the VM's memory") : 0;
}

int memory_prepare(const struct vmm_context *context, struct vmm *vmm, const struct vmm_save *save,
                   struct error *err)
{
    auto_close int base = -1;
    int r = memory_open(context, vmm, save, &base, err);
    return r == 0 ? copy_file(context, base, save, err) : r;
}

/* Adds to a copy of the file `base` what the VM has written. */
static int add_written(const struct vmm_context *context, struct vmm *vmm,
                       const struct vmm_save *save, int base, struct error *err)
{
    char path[PATH_SIZE];
    path_of(save, path);
    auto_close int to = -1;
    int r = plain_file_open(context->directory_fd, path, O_RDWR, "the copy of the VM's memory", &to,
                            err);
    return r == 0 ? copy_written(context, vmm, base, to, save->written, err) : r;
}

/* The very file that the VM has, whatever is under its name by now. */
static int link_file(const struct vmm_context *context, const struct vmm_save *save, int from,
                     struct error *err)
{
    char path[PATH_SIZE], descriptor[PATH_SIZE];
    path_of(save, path);
    snprintf(descriptor, sizeof descriptor, "/proc/self/fd/%d", from);
    int r = vmm_remove_old(context, path, err);
    if (r == 0 && linkat(AT_FDCWD, descriptor, context->directory_fd, path, AT_SYMLINK_FOLLOW) < 0)
        r = error_errno(err, errno, "the VM's memory cannot be linked as %s", path);
    fault_point(FAULT_LINKED);
    /* As every image; its VMM has it open already. */
    if (r == 0 && fchmod(from, 0400) < 0)
        r = error_errno(err, errno, "the mode of %s cannot be changed", path);
    return r;
}

/* The VM is to end, and its memory file becomes the image. */
static bool is_in_place(const struct vmm_save *save)
{
    return !save->loaded && strcmp(save->directory, ".") == 0;
}

int memory_save(const struct vmm_context *context, struct vmm *vmm, const struct vmm_save *save,
                int from, struct error *err)
{
    if (is_in_place(save))
        return 0;
    if (save->shared)
        return link_file(context, save, from, err);
    int r = save->prepared ? 0 : copy_file(context, from, save, err);
    return r == 0 && save->loaded ? add_written(context, vmm, save, from, err) : r;
}

void memory_discard(const struct vmm_context *context, const struct vmm_save *save)
{
    char path[PATH_SIZE];
    path_of(save, path);
    if (!is_in_place(save))
        unlinkat(context->directory_fd, path, 0);
}
