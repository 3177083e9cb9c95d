/* SPDX-License-Identifier: MIT */
#include "hypervisor/drives.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/disks.h"
#include "hypervisor/opened.h"
#include "hypervisor/overlay.h"
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

static int find_size(const struct vmm_context *context, const char *path, uint64_t *ret,
                     struct error *err)
{
    struct stat file;
    if (fstatat(context->directory_fd, path, &file, AT_SYMLINK_NOFOLLOW) < 0)
        return error_io(err, errno, "%s", path);
    if (!S_ISREG(file.st_mode))
        return error_set(err, EIO, "%s is not a regular file", path);
    *ret = (uint64_t)file.st_size;
    return 0;
}

/* `lower` lies in the same directory. */
static int mend(const struct vmm_context *context, const struct machine_disk *disk,
                const char *path, bool whole, struct error *err)
{
    auto_close int fd = -1;
    auto_free char *lower = NULL;
    const char *name = strrchr(path, '/');
    uint64_t size;
    int directory = name ? (int)(name + 1 - path) : 0;
    if (asprintf(&lower, "%.*s%s", directory, path, disk->lower) < 0)
        return error_set(err, ENOMEM, "no memory for a path");
    int r = find_size(context, lower, &size, err);
    if (r == 0)
        r = plain_file_open(context->directory_fd, path, O_RDWR, path, &fd, err);
    return r == 0 ? overlay_mend(fd, size, disk->lower, whole, err) : r;
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

/* For an instance that leaves standby, what it is made of is removed next; a fork's is there for
 * others, too, and is on the disk some seconds later. */
static int copy_frozen(const struct vmm_context *context, const struct machine_disk *disk,
                       const char *image, struct error *err)
{
    const bool lasts = strcmp(image, ".") == 0;
    char name[DISK_COPY_SIZE], what[NAME_SIZE * 2];
    auto_free char *path = NULL;
    disk_drive_name(disk, name);
    snprintf(what, sizeof what, "the frozen copy %s", disk->frozen);
    if (asprintf(&path, "%s/%s", image, disk->frozen) < 0)
        return error_set(err, ENOMEM, "no memory for a path");
    int r = copy_file(context, what, path, name, lasts, err);
    return r == 0 && disk->lower ? mend(context, disk, name, true, err) : r;
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
    /* Its VMM may have ended in the middle of something. */
    if (r == 0 && !disk->readonly && disk->lower)
        r = mend(context, disk, copied, false, err);
    if (r < 0)
        return drive_prefix(disk, r, err);
    *ret = strdup(disk->readonly ? disk->path : copied);
    return *ret ? 0 : error_set(err, ENOMEM, "no memory for a path");
}

/* The raw copy at `path` becomes what is below an empty overlay there, unless clones can have the
 * same blocks. */
static int put_below(const struct vmm_context *context, struct machine_disk *disk, const char *path,
                     const char *directory, struct error *err)
{
    char name[DISK_COPY_SIZE];
    auto_free char *lower = NULL;
    auto_close int fd = -1, from = -1;
    uint64_t size;
    disk_lower_name(disk, name);
    int r = find_size(context, path, &size, err);
    if (r < 0 || !overlay_fits(size, name))
        return r;
    if (asprintf(&lower, "%s/%s", directory, name) < 0)
        return error_set(err, ENOMEM, "no memory for a path");
    if (renameat(context->directory_fd, path, context->directory_fd, lower) < 0)
        return error_io(err, errno, "%s cannot be moved", path);
    r = plain_file_open(context->directory_fd, lower, O_RDONLY, lower, &from, err);
    if (r == 0)
        r = vmm_new_file(context, path, &fd, err);
    if (r < 0)
        return r;
    if (ioctl(fd, FICLONE, from) == 0)
        unlinkat(context->directory_fd, lower, 0);
    else if (!(disk->lower = strdup(name)))
        r = error_set(err, ENOMEM, "no memory for a name");
    else
        r = overlay_create(fd, size, name, err);
    if (r == 0 && fsync(fd) < 0)
        r = error_io(err, errno, "%s cannot be written", path);
    return r;
}

/* The VM writes to an overlay: what is below is the image's, too. */
static int link_lower(const struct vmm_context *context, const struct vmm *vmm,
                      const struct machine_disk *disk, const char *directory, struct error *err)
{
    auto_free char *path = NULL;
    int r = opened_check_own(context, vmm, disk->lower, err);
    if (r < 0 || strcmp(directory, ".") == 0)
        return r;
    if (asprintf(&path, "%s/%s", directory, disk->lower) < 0)
        return error_set(err, ENOMEM, "no memory for a path");
    r = vmm_remove_old(context, path, err);
    if (r == 0 && linkat(context->directory_fd, disk->lower, context->directory_fd, path, 0) < 0)
        r = error_io(err, errno, "%s cannot be linked", disk->lower);
    return r;
}

static int freeze(const struct vmm_context *context, const struct vmm *vmm, struct machine *machine,
                  size_t index, const struct drives_save *save, struct error *err)
{
    struct machine_disk *disk = &machine->disks[index];
    char name[DISK_COPY_SIZE];
    auto_free char *path = NULL;
    auto_close int from = -1;
    disk_copy_name(disk, name);
    auto_free char *frozen = strdup(name);
    if (!frozen || asprintf(&path, "%s/%s", save->directory, name) < 0)
        return error_set(err, ENOMEM, "no memory for a path");
    int r = opened_open(context, vmm, machine, index, &from, err);
    if (r == 0)
        r = copy(context, "its file", from, path, true, err);
    if (r == 0 && disk->lower)
        r = link_lower(context, vmm, disk, save->directory, err);
    if (r == 0 && disk->lower)
        r = mend(context, disk, path, true, err);
    else if (r == 0 && save->overlays)
        r = put_below(context, disk, path, save->directory, err);
    if (r < 0)
        return r;
    free(disk->frozen);
    disk->frozen = steal_pointer(frozen);
    return 0;
}

static void remove_at(const struct vmm_context *context, const char *directory, const char *name)
{
    auto_free char *path = NULL;
    if (asprintf(&path, "%s/%s", directory, name) >= 0)
        unlinkat(context->directory_fd, path, 0);
}

/* All but what is below the file that the VM goes on with, whose place is the same directory. */
static void remove_frozen(const struct vmm_context *context, const struct machine *machine,
                          const struct drives_save *save, const bool *had_lower)
{
    const bool ends = strcmp(save->directory, ".") == 0;
    for (size_t i = 0; i < machine->disk_count; i++) {
        char name[DISK_COPY_SIZE];
        if (machine->disks[i].readonly || !machine->disks[i].id)
            continue;
        disk_copy_name(&machine->disks[i], name);
        remove_at(context, save->directory, name);
        disk_lower_name(&machine->disks[i], name);
        if (!ends || !had_lower[i])
            remove_at(context, save->directory, name);
    }
}

int drives_freeze(const struct vmm_context *context, const struct vmm *vmm, struct machine *machine,
                  const struct drives_save *save, struct error *err)
{
    bool had_lower[MACHINE_DISKS_MAX] = {false};
    int r = 0;
    for (size_t i = 0; i < machine->disk_count && i < MACHINE_DISKS_MAX; i++)
        had_lower[i] = machine->disks[i].lower != NULL;
    for (size_t i = 0; i < machine->disk_count && r == 0; i++) {
        const struct machine_disk *disk = &machine->disks[i];
        if (disk->readonly)
            continue;
        r = disk->id ? freeze(context, vmm, machine, i, save, err)
                     : error_set(err, EIO, "the record of the machine has no id for it");
        r = drive_prefix(disk, r, err);
    }
    if (r < 0)
        remove_frozen(context, machine, save, had_lower);
    return r;
}
