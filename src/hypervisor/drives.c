/* SPDX-License-Identifier: MIT */
#include "hypervisor/drives.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/disks.h"
#include "hypervisor/opened.h"
#include "hypervisor/vmm_process.h"
#include "util/cleanup.h"
#include "util/plain_file.h"
#include "util/sparse.h"

enum { NAME_SIZE = 96 };

/* A link is none: that leads to the user's file. */
static bool has(const struct vmm_context *context, const char *name)
{
    struct stat file;
    return fstatat(context->directory_fd, name, &file, AT_SYMLINK_NOFOLLOW) == 0 &&
           S_ISREG(file.st_mode);
}

/* A new file in the context's directory, or one below it, from that. */
static int copy(const struct vmm_context *context, const char *what, int from, const char *to_path,
                bool lasts, struct error *err)
{
    struct stat file;
    auto_close int to = -1;
    if (fstat(from, &file) < 0)
        return error_io(err, errno, "%s cannot be read", what);
    if (!S_ISREG(file.st_mode))
        return error_set(err, EIO, "%s is not a regular file", what);
    int r = vmm_new_file(context, to_path, &to, err);
    if (r < 0)
        return r;
    r = sparse_copy(from, to, &file, vmm_copy_goes_on, (void *)(uintptr_t)context, err);
    if (r == 0 && lasts && fsync(to) < 0)
        r = error_errno(err, errno, "%s cannot be written", to_path);
    if (r < 0)
        unlinkat(context->directory_fd, to_path, 0);
    return r;
}

static int copy_file(const struct vmm_context *context, const char *what, const char *from_path,
                     const char *to_path, bool lasts, struct error *err)
{
    auto_close int from = -1;
    int r = plain_file_open(context->directory_fd, from_path, O_RDONLY, what, &from, err);
    return r == 0 ? copy(context, what, from, to_path, lasts, err) : r;
}

static int copy_frozen(const struct vmm_context *context, const struct machine_disk *disk,
                       const char *image, struct error *err)
{
    char name[DISK_COPY_SIZE], what[NAME_SIZE * 2];
    auto_free char *path = NULL;
    disk_drive_name(disk, name);
    snprintf(what, sizeof what, "the frozen copy %s", disk->frozen);
    if (asprintf(&path, "%s/%s", image, disk->frozen) < 0)
        return error_set(err, ENOMEM, "no memory for a path");
    return copy_file(context, what, path, name, false, err);
}

int drive_prefix(const struct machine_disk *disk, int r, struct error *err)
{
    return r < 0 ? error_prefix(err, r, "the drive %s", disk->id ? disk->id : disk->path) : 0;
}

int drives_copy(const struct vmm_context *context, const struct machine *machine, const char *image,
                struct error *err)
{
    int r = 0;
    for (size_t i = 0; i < machine->disk_count && r == 0; i++) {
        const struct machine_disk *disk = &machine->disks[i];
        if (!disk->frozen)
            continue;
        r = disk->id ? copy_frozen(context, disk, image, err)
                     : error_set(err, EIO, "a disk in snapshot.json is frozen and has no id");
        r = drive_prefix(disk, r, err);
    }
    return r;
}

bool drive_is_users(const struct vmm_context *context, const struct machine_disk *disk)
{
    char copied[DISK_COPY_SIZE], frozen[DISK_COPY_SIZE];
    disk_drive_name(disk, copied);
    disk_copy_name(disk, frozen);
    return !disk->readonly && !has(context, frozen) && !has(context, copied);
}

int drive_path(const struct vmm_context *context, const struct machine_disk *disk, char **ret,
               struct error *err)
{
    char copied[DISK_COPY_SIZE], frozen[DISK_COPY_SIZE];
    disk_drive_name(disk, copied);
    disk_copy_name(disk, frozen);
    int r = 0;
    if (!disk->readonly && has(context, frozen)) {
        r = copy_file(context, "what was saved of it", frozen, copied, true, err);
        if (r == 0)
            unlinkat(context->directory_fd, frozen, 0);
    } else if (!disk->readonly && !has(context, copied)) {
        /* The saved state names the link, not the user's file: where it is loaded, a copy lies in
         * the link's place, and nothing need lie at the path any more. */
        r = vmm_new_link(context, disk->path, copied, err);
    }
    if (r < 0)
        return drive_prefix(disk, r, err);
    *ret = strdup(disk->readonly ? disk->path : copied);
    return *ret ? 0 : error_set(err, ENOMEM, "no memory for a path");
}

static int freeze(const struct vmm_context *context, const struct vmm *vmm, struct machine *machine,
                  size_t index, const char *directory, struct error *err)
{
    struct machine_disk *disk = &machine->disks[index];
    char name[DISK_COPY_SIZE];
    auto_free char *path = NULL;
    auto_close int from = -1;
    disk_copy_name(disk, name);
    auto_free char *frozen = strdup(name);
    if (!frozen || asprintf(&path, "%s/%s", directory, name) < 0)
        return error_set(err, ENOMEM, "no memory for a path");
    int r = opened_open(context, vmm, machine, index, &from, err);
    if (r == 0)
        r = copy(context, "its file", from, path, true, err);
    if (r < 0)
        return r;
    free(disk->frozen);
    disk->frozen = steal_pointer(frozen);
    return 0;
}

static void remove_frozen(const struct vmm_context *context, const struct machine *machine,
                          const char *directory)
{
    for (size_t i = 0; i < machine->disk_count; i++) {
        char name[DISK_COPY_SIZE];
        auto_free char *path = NULL;
        if (machine->disks[i].readonly || !machine->disks[i].id)
            continue;
        disk_copy_name(&machine->disks[i], name);
        if (asprintf(&path, "%s/%s", directory, name) >= 0)
            unlinkat(context->directory_fd, path, 0);
    }
}

int drives_freeze(const struct vmm_context *context, const struct vmm *vmm, struct machine *machine,
                  const char *directory, struct error *err)
{
    int r = 0;
    for (size_t i = 0; i < machine->disk_count && r == 0; i++) {
        const struct machine_disk *disk = &machine->disks[i];
        if (disk->readonly)
            continue;
        r = disk->id ? freeze(context, vmm, machine, i, directory, err)
                     : error_set(err, EIO, "the record of the machine has no id for it");
        r = drive_prefix(disk, r, err);
    }
    if (r < 0)
        remove_frozen(context, machine, directory);
    return r;
}
