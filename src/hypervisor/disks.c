/* SPDX-License-Identifier: MIT */
#include "hypervisor/disks.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/directory.h"
#include "util/fault.h"
#include "util/json.h"
#include "util/plain_file.h"

bool disk_is_block_device(const char *path)
{
    struct stat file;
    return stat(path, &file) == 0 && S_ISBLK(file.st_mode);
}

unsigned disk_top(const struct machine_disk *disk)
{
    return disk->key[0] && !disk->readonly ? disk->layers + 1 : 0;
}

bool disks_are_written(const struct machine *machine)
{
    for (size_t i = 0; i < machine->disk_count; i++)
        if (!machine->disks[i].readonly)
            return true;
    return false;
}

int disks_check_room(const struct machine *machine, struct error *err)
{
    for (size_t i = 0; i < machine->disk_count; i++)
        if (disk_top(&machine->disks[i]) > DISK_LAYERS_MAX)
            return error_set(err, EOPNOTSUPP,
                             "disk %s was saved %d times, and each time became an overlay: make "
                             "one file of them with qemu-img convert, and boot from that",
                             machine->disks[i].path, DISK_LAYERS_MAX);
    return 0;
}

int disk_check_kind(const char *path, bool readonly, const struct stat *file, struct error *err)
{
    if (S_ISREG(file->st_mode) || (S_ISBLK(file->st_mode) && readonly))
        return 0;
    if (S_ISBLK(file->st_mode))
        return error_set(err, EINVAL,
                         "the disk %s is a block device, which can only be \"readonly\", because "
                         "it cannot be frozen with a VM's memory: copy it into a file with "
                         "qemu-img convert -O raw, and use that",
                         path);
    return error_set(err, EINVAL,
                     "the disk %s is not a regular file: give one, or a block device that is "
                     "\"readonly\"",
                     path);
}

static int link_file(int from_fd, int to_fd, const char *name, struct error *err)
{
    struct stat st;
    if (linkat(from_fd, name, to_fd, name, 0) < 0)
        return error_io(err, errno, "the disk %s cannot be linked", name);
    if (fstatat(to_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
        return 0;
    unlinkat(to_fd, name, 0); /* a VMM has put it in the place of a disk */
    return error_set(err, EIO, "the disk %s is not a regular file", name);
}

/* The same blocks in a file of its own: what one file has, nobody can change by the other. 1: that
 * file system has no reflinks. */
static int clone_file(int from_fd, int to_fd, const char *name, struct error *err)
{
    auto_close int from = -1;
    int r = plain_file_open(from_fd, name, O_RDONLY, name, &from, err);
    if (r < 0)
        return r;
    auto_close int to =
        openat(to_fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (to < 0)
        return error_io(err, errno, "the disk %s cannot be copied", name);
    if (ioctl(to, FICLONE, from) < 0) {
        const int code = errno;
        if (unlinkat(to_fd, name, 0) < 0)
            return error_io(err, errno, "the disk %s cannot be removed", name);
        return code == EOPNOTSUPP || code == ENOTTY || code == EXDEV || code == EINVAL
                   ? 1
                   : error_io(err, code, "the disk %s cannot be copied", name);
    }
    return fsync(to) < 0 ? error_io(err, errno, "the disk %s cannot be written", name) : 0;
}

static int link_apart(int from_fd, int to_fd, const char *name, struct error *err)
{
    int r = clone_file(from_fd, to_fd, name, err);
    return r > 0 ? link_file(from_fd, to_fd, name, err) : r;
}

int disks_link(const struct machine *machine, int from_fd, int to_fd, enum disks_of of,
               struct error *err)
{
    int (*const link)(int, int, const char *, struct error *) =
        of == DISKS_OF_RUNNING ? link_apart : link_file;
    char name[DISK_NAME_SIZE];
    int r = 0;
    for (size_t i = 0; i < machine->disk_count && r == 0; i++) {
        const struct machine_disk *disk = &machine->disks[i];
        for (unsigned layer = 1; layer <= disk->layers && r == 0; layer++) {
            disk_layer_name(i, layer, name);
            r = link(from_fd, to_fd, name, err);
        }
        if (r == 0 && of == DISKS_OF_IMAGE && disk->frozen)
            r = link_file(from_fd, to_fd, disk->frozen, err);
        if (r == 0 && of != DISKS_OF_RUNNING && disk->lower)
            r = link_file(from_fd, to_fd, disk->lower, err);
    }
    return r;
}

static void drop_copy(const struct machine_disk *disk, int directory_fd)
{
    char name[DISK_COPY_SIZE];
    if (disk->readonly)
        return;
    disk_copy_name(disk, name);
    unlinkat(directory_fd, name, 0);
    if (disk->lower) /* its VM runs on that */
        return;
    disk_lower_name(disk, name);
    unlinkat(directory_fd, name, 0);
}

void disks_swap(struct machine *a, struct machine *b)
{
    struct machine_disk *disks = a->disks;
    size_t count = a->disk_count;
    a->disks = b->disks;
    a->disk_count = b->disk_count;
    b->disks = disks;
    b->disk_count = count;
}

void disks_drop_copies(const struct machine *machine, int directory_fd)
{
    for (size_t i = 0; i < machine->disk_count; i++)
        drop_copy(&machine->disks[i], directory_fd);
}

void disks_drop_tops(const struct machine *machine, int directory_fd)
{
    char name[DISK_NAME_SIZE];
    for (size_t i = 0; i < machine->disk_count; i++) {
        disk_layer_name(i, disk_top(&machine->disks[i]), name);
        if (disk_top(&machine->disks[i]) > 0)
            unlinkat(directory_fd, name, 0);
    }
}

static bool is_of(const struct machine_disk *disk, size_t index, const char *name)
{
    char own[DISK_NAME_SIZE], copy[DISK_COPY_SIZE];
    bool found = false;
    for (unsigned layer = 1; layer <= disk_top(disk) && !found; layer++) {
        disk_layer_name(index, layer, own);
        found = strcmp(own, name) == 0;
    }
    if (found || !disk->frozen)
        return found;
    disk_copy_name(disk, copy);
    if (strcmp(copy, name) == 0)
        return true;
    disk_drive_name(disk, copy);
    return strcmp(copy, name) == 0 || (disk->lower && strcmp(disk->lower, name) == 0);
}

/* A directory_visit. */
static int tidy(void *context, int directory_fd, const char *name, struct error *err)
{
    const struct machine *machine = context;
    bool needed = !disk_owns_name(name);
    for (size_t i = 0; i < machine->disk_count && !needed; i++)
        needed = is_of(&machine->disks[i], i, name);
    if (needed)
        return 0;
    fault_point(FAULT_UNLINK);
    unlinkat(directory_fd, name, 0);
    fault_point(FAULT_UNLINKED);
    (void)err;
    return 0;
}

void disks_tidy(const struct machine *machine, int directory_fd)
{
    /* What stays takes room until the next time. */
    (void)!directory_walk(directory_fd, ".", tidy, (void *)(uintptr_t)machine, NULL);
}

static bool copy_text(char **place)
{
    const char *text = *place;
    *place = text ? strdup(text) : NULL;
    return !text || *place;
}

int disks_copy(struct machine *machine, struct error *err)
{
    size_t count = machine->disk_count;
    struct machine_disk *disks = calloc(count + 1, sizeof *disks);
    const struct machine_disk *from = machine->disks;
    if (!disks)
        return error_set(err, ENOMEM, "no memory for a machine's disks");
    bool complete = true;
    for (size_t i = 0; i < count; i++) {
        struct machine_disk *disk = &disks[i];
        *disk = from[i];
        char **texts[] = {&disk->id,         &disk->path,   &disk->format,
                          &disk->saved_path, &disk->frozen, &disk->lower};
        for (size_t j = 0; j < array_length(texts); j++)
            complete = copy_text(texts[j]) && complete;
    }
    machine->disks = disks;
    if (complete)
        return 0;
    disks_finish(machine);
    return error_set(err, ENOMEM, "no memory for a machine's disks");
}

void disks_finish(struct machine *machine)
{
    for (size_t i = 0; i < machine->disk_count; i++) {
        free(machine->disks[i].id);
        free(machine->disks[i].path);
        free(machine->disks[i].format);
        free(machine->disks[i].saved_path);
        free(machine->disks[i].frozen);
        free(machine->disks[i].lower);
    }
    free(machine->disks);
    machine->disks = NULL;
    machine->disk_count = 0;
}

bool disks_match(const struct machine *a, const struct machine *b, size_t index)
{
    if (a->hypervisor != b->hypervisor || index >= a->disk_count || index >= b->disk_count)
        return false;
    const struct machine_disk *x = &a->disks[index], *y = &b->disks[index];
    return x->readonly == y->readonly && strcmp(x->path, y->path) == 0 &&
           strcmp(x->format, y->format) == 0;
}

/* What `to` was told before goes. */
static bool keep_text(char **to, const char *from)
{
    free(*to);
    *to = from ? strdup(from) : NULL;
    return !from || *to;
}

int disks_keep_lower(struct machine *machine, const struct machine *from, struct error *err)
{
    for (size_t i = 0; i < machine->disk_count; i++)
        if (!keep_text(&machine->disks[i].lower, from->disks[i].lower))
            return error_set(err, ENOMEM, "no memory for a machine's disks");
    return 0;
}

int disks_keep(struct machine *machine, const struct machine *from, struct error *err)
{
    for (size_t i = 0; i < machine->disk_count; i++) {
        if (machine->disks[i].readonly || !disks_match(machine, from, i))
            continue;
        struct machine_disk *disk = &machine->disks[i];
        const struct machine_disk *its = &from->disks[i];
        memcpy(disk->key, its->key, sizeof disk->key);
        disk->layers = its->layers;
        if (!keep_text(&disk->id, its->id) || !keep_text(&disk->frozen, its->frozen) ||
            !keep_text(&disk->lower, its->lower))
            return error_set(err, ENOMEM, "no memory for a machine's disks");
    }
    return 0;
}
