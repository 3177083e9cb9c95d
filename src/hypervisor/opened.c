/* SPDX-License-Identifier: MIT */
#include "hypervisor/opened.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/disks.h"
#include "hypervisor/vmm_files.h"
#include "hypervisor/vmm_process.h"
#include "util/cleanup.h"
#include "util/text.h"

enum { DESCRIPTOR_SIZE = 64 }; /* "/proc/PID/fd/N" */

static const char deleted[] = " (deleted)";

static bool is_same(int directory_fd, const char *name, struct file_id id)
{
    struct stat file;
    return fstatat(directory_fd, name, &file, 0) == 0 && file_id_equal(file_id_of(&file), id);
}

/* A vmm_files_visit of one descriptor. */
static int take_path(pid_t pid, const char *descriptor, void *context)
{
    snprintf(context, DESCRIPTOR_SIZE, "/proc/%d/fd/%.16s", (int)pid, descriptor);
    return 1;
}

/* 1 and its path if the VMM has a descriptor of that file, 0 if not. */
static int find(const struct vmm *vmm, struct file_id id, char ret[static DESCRIPTOR_SIZE],
                struct error *err)
{
    int r = vmm_files_walk(vmm->pid, id, take_path, ret);
    return r < 0 ? vmm_ended(vmm, "the VMM", vmm_files_explain(vmm->pid, r, err), err) : r;
}

/* The name of the file that the VMM was given, from the instance's directory. */
static const char *given(const struct machine *machine, size_t index, char ret[DISK_COPY_SIZE])
{
    const struct machine_disk *disk = &machine->disks[index];
    if (disk->readonly || !machine->hypervisor->copies_disks)
        return disk->path;
    disk_drive_name(disk, ret);
    return ret;
}

/* Which file the disk is: a daemon before this one may not have remembered it. */
static struct file_id id_of(const struct vmm_context *context, const struct vmm *vmm,
                            const struct machine *machine, size_t index)
{
    char name[DISK_COPY_SIZE];
    struct file_id id = vmm->disks[index];
    struct stat file;
    if (id.inode == 0 &&
        (fstatat(context->directory_fd, given(machine, index, name), &file, 0) == 0 ||
         stat(machine->disks[index].path, &file) == 0))
        id = file_id_of(&file);
    return id;
}

static int remember(const struct vmm_context *context, struct vmm *vmm,
                    const struct machine *machine, size_t index, struct error *err)
{
    char descriptor[DESCRIPTOR_SIZE], name[DISK_COPY_SIZE];
    const char *path = given(machine, index, name);
    struct stat file;
    if (fstatat(context->directory_fd, path, &file, 0) < 0)
        return error_io(err, errno, "disk %s", path);
    int r = disk_check_key(&machine->disks[index], &file, err);
    if (r == 0)
        r = find(vmm, file_id_of(&file), descriptor, err);
    if (r == 0)
        return error_set(err, EIO,
                         "disk %s is not the file that the VMM has opened: it was replaced just "
                         "now, or the saved state names another path",
                         path);
    if (r > 0)
        vmm->disks[index] = file_id_of(&file);
    return r < 0 ? r : 0;
}

int opened_remember(const struct vmm_context *context, struct vmm *vmm,
                    const struct machine *machine, struct error *err)
{
    int r = 0;
    for (size_t i = 0; i < machine->interface_count; i++)
        vmm->taps[i] = if_nametoindex(machine->interfaces[i].tap);
    for (size_t i = 0; i < machine->disk_count && r == 0; i++)
        r = remember(context, vmm, machine, i, err);
    return r;
}

/* What became of the file that the VMM has open. */
static int explain(const char *path, const char *descriptor, struct error *err)
{
    char now[PATH_MAX];
    ssize_t size = readlink(descriptor, now, sizeof now - 1);
    now[size > 0 ? size : 0] = '\0';
    text_make_printable(now, strlen(now), '?');
    char *end = strstr(now, deleted);
    if (!end || end[sizeof deleted - 1])
        return error_set(err, EIO,
                         "disk %s is not the file that the VM has open, which is now at %s: put "
                         "that back (mv, not cp) and try again",
                         path, now);
    return error_set(err, EIO,
                     "disk %s is not the file that the VM has open, which was removed or "
                     "replaced: the VM runs on, but cannot be saved; what is on that disk can be "
                     "copied from %s",
                     path, descriptor);
}

static int check(const struct vmm_context *context, const struct vmm *vmm,
                 const struct machine *machine, size_t index, struct error *err)
{
    char descriptor[DESCRIPTOR_SIZE];
    const char *path = machine->disks[index].path;
    struct file_id id = id_of(context, vmm, machine, index);
    int r = find(vmm, id, descriptor, err);
    if (r < 0)
        return r;
    if (r == 0)
        return error_set(err, EIO,
                         "disk %s is not the file that the VM has open: put that back (mv, not cp) "
                         "and try again",
                         path);
    return is_same(context->directory_fd, path, id) ? 0 : explain(path, descriptor, err);
}

int opened_check(const struct vmm_context *context, const struct vmm *vmm,
                 const struct machine *machine, struct error *err)
{
    int r = 0;
    for (size_t i = 0; i < machine->disk_count && r == 0; i++)
        if (machine->disks[i].readonly || !machine->hypervisor->copies_disks)
            r = check(context, vmm, machine, i, err);
    return r;
}

int opened_open(const struct vmm_context *context, const struct vmm *vmm,
                const struct machine *machine, size_t index, int *ret, struct error *err)
{
    char descriptor[DESCRIPTOR_SIZE];
    int r = find(vmm, id_of(context, vmm, machine, index), descriptor, err);
    if (r == 0)
        return error_set(err, EIO, "the VMM does not have the file of the disk %s open",
                         machine->disks[index].path);
    if (r < 0)
        return r;
    int fd = open(descriptor, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return error_io(err, errno, "%s, which is the disk %s, cannot be opened", descriptor,
                        machine->disks[index].path);
    *ret = fd;
    return 0;
}

int opened_check_own(const struct vmm_context *context, const struct vmm *vmm, const char *name,
                     struct error *err)
{
    char descriptor[DESCRIPTOR_SIZE];
    struct stat file;
    if (fstatat(context->directory_fd, name, &file, AT_SYMLINK_NOFOLLOW) < 0)
        return error_io(err, errno, "the VM's file %s in the store", name);
    int r = find(vmm, file_id_of(&file), descriptor, err);
    if (r != 0)
        return r < 0 ? r : 0;
    return error_set(err, EIO,
                     "the file %s in the store is not the one that the VM has open: somebody "
                     "replaced it; put that back (mv, not cp) and try again",
                     name);
}
