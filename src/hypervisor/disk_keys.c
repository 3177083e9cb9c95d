/* SPDX-License-Identifier: MIT */
/* The keys of disks: what tells that a file or a block device is as it was when it was frozen. */
#include "hypervisor/disks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/json.h"

enum { SYS_PATH_SIZE = 64, SYS_TEXT_SIZE = 512 };

/* One of the files that /sys has for it. */
static int read_sys(const struct stat *device, const char *name, char ret[static SYS_TEXT_SIZE])
{
    char path[SYS_PATH_SIZE];
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u/%s", major(device->st_rdev),
             minor(device->st_rdev), name);
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, ret, SYS_TEXT_SIZE - 1);
    if (size < 0)
        return -errno;
    ret[size] = '\0';
    return 0;
}

/* A partition has that of its disk; 0: this kernel tells none. */
static uintmax_t sequence_of(const struct stat *device)
{
    char text[SYS_TEXT_SIZE];
    uintmax_t sequence = 0;
    if (read_sys(device, "diskseq", text) < 0 && read_sys(device, "../diskseq", text) < 0)
        return 0;
    return sscanf(text, "%20ju", &sequence) == 1 ? sequence : 0;
}

static int read_numbers(const struct stat *device, uintmax_t *ret_sectors, uintmax_t *ret_written)
{
    char text[SYS_TEXT_SIZE];
    int r = read_sys(device, "size", text);
    if (r == 0 && sscanf(text, "%20ju", ret_sectors) != 1)
        r = -EIO;
    if (r == 0)
        r = read_sys(device, "stat", text);
    if (r == 0 && sscanf(text, "%*u %*u %*u %*u %*u %*u %20ju", ret_written) != 1)
        r = -EIO;
    return r;
}

/* Its number, its size, the number that the kernel gave to what is attached there (since 5.15), and
 * the sectors that this host has written to it: its mtime does not change with what is written. The
 * last two begin anew when the host starts. What waits to be written to it is written first. */
static int device_key(const char *path, const struct stat *file, char ret[FILE_KEY_SIZE],
                      struct error *err)
{
    uintmax_t sectors = 0, written = 0;
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || sync_file_range(fd, 0, 0,
                                  SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                                      SYNC_FILE_RANGE_WAIT_AFTER) < 0)
        return error_io(err, errno, "the block device %s", path);
    int r = read_numbers(file, &sectors, &written);
    if (r < 0)
        return error_io(err, -r, "/sys says nothing about the block device %s", path);
    snprintf(ret, FILE_KEY_SIZE, "device=%u:%u sectors=%ju sequence=%ju written=%ju",
             major(file->st_rdev), minor(file->st_rdev), sectors, sequence_of(file), written);
    return 0;
}

static int key_of(const struct machine_disk *disk, const struct stat *file, char ret[FILE_KEY_SIZE],
                  struct error *err)
{
    if (S_ISBLK(file->st_mode))
        return device_key(disk->path, file, ret, err);
    file_key(file, ret);
    return 0;
}

enum { DISK_CHANGE_SIZE = 2 * FILE_KEY_CHANGE_SIZE };

/* 1: the file is not as the key says, and how; 0: it is. */
static int tell_change(const struct machine_disk *disk, const struct stat *file,
                       char ret[DISK_CHANGE_SIZE], struct error *err)
{
    char key[FILE_KEY_SIZE];
    int r = key_of(disk, file, key, err);
    if (r < 0)
        return r;
    if (strcmp(disk->key, key) == 0)
        return 0;
    if (S_ISBLK(file->st_mode))
        snprintf(ret, DISK_CHANGE_SIZE, "was %s, is %s", disk->key, key);
    else
        file_key_tell(disk->key, file, ret);
    return 1;
}

int disk_check_key(const struct machine_disk *disk, const struct stat *file, struct error *err)
{
    char change[DISK_CHANGE_SIZE];
    int r = disk->key[0] ? tell_change(disk, file, change, err) : 0;
    if (r <= 0)
        return r;
    if (S_ISBLK(file->st_mode))
        return error_set(
            err, EIO,
            "disk %s is not as it was when the VM was saved: since then something has written to "
            "the block device, or another was attached there, or the host was started again (%s): "
            "if it is right as it is now, write 1 to accept, or run hypefs accept",
            disk->path, change);
    return error_set(err, EIO,
                     "disk %s is not as it was when the VM was saved (%s): put the old file back "
                     "(mv keeps it the same, cp does not); or, if it is right as it is now, write "
                     "1 to accept, or run hypefs accept",
                     disk->path, change);
}

static const char no_key[] = "gone"; /* which no file's key is */

static void set_key(struct machine_disk *disk)
{
    struct stat file;
    if (stat(disk->path, &file) == 0)
        file_key(&file, disk->key);
    else
        snprintf(disk->key, sizeof disk->key, "%s", no_key);
}

void disks_note_readonly(struct machine *machine)
{
    struct stat file;
    for (size_t i = 0; i < machine->disk_count; i++) {
        struct machine_disk *disk = &machine->disks[i];
        if (disk->readonly && !disk->key[0] && stat(disk->path, &file) == 0 &&
            key_of(disk, &file, disk->key, NULL) < 0)
            snprintf(disk->key, sizeof disk->key, "%s", no_key);
    }
}

static int accept(struct machine_disk *disk, cJSON *lines, struct error *err)
{
    struct stat file;
    char change[DISK_CHANGE_SIZE];
    auto_free char *line = NULL;
    if (!disk->key[0])
        return 0;
    if (stat(disk->path, &file) < 0)
        return error_io(err, errno, "disk %s", disk->path);
    int r = disk_check_kind(disk->path, disk->readonly, &file, err);
    if (r == 0)
        r = tell_change(disk, &file, change, err);
    if (r <= 0)
        return r;
    r = key_of(disk, &file, disk->key, err);
    if (r == 0 && asprintf(&line, "disk %s: %s", disk->path, change) < 0)
        r = error_set(err, ENOMEM, "out of memory");
    if (r == 0)
        json_append(lines, cJSON_CreateString(line));
    return r;
}

int disks_accept(struct machine *machine, cJSON *lines, struct error *err)
{
    int r = 0;
    for (size_t i = 0; i < machine->disk_count && r == 0; i++)
        r = accept(&machine->disks[i], lines, err);
    return r;
}

int disks_check_readonly(const struct machine *machine, struct error *err)
{
    struct stat file;
    for (size_t i = 0; i < machine->disk_count; i++) {
        const struct machine_disk *disk = &machine->disks[i];
        if (!disk->readonly || !disk->key[0])
            continue;
        if (stat(disk->path, &file) < 0)
            return error_io(err, errno, "disk %s", disk->path);
        int r = disk_check_key(disk, &file, err);
        if (r < 0)
            return r;
    }
    return 0;
}

void disk_freeze(struct machine_disk *disk)
{
    if (disk->readonly)
        return;
    if (disk->key[0])
        disk->layers++;
    else
        set_key(disk);
}

void disks_freeze(struct machine *machine)
{
    for (size_t i = 0; i < machine->disk_count; i++)
        disk_freeze(&machine->disks[i]);
}

void disks_renew_keys(struct machine *machine, const struct machine *before, const struct vmm *vmm)
{
    struct stat file;
    for (size_t i = 0; i < machine->disk_count; i++) {
        struct machine_disk *disk = &machine->disks[i];
        if (disk_top(disk) > 0 && disk_top(&before->disks[i]) == 0 &&
            stat(disk->path, &file) == 0 && file_id_equal(file_id_of(&file), vmm->disks[i]))
            file_key(&file, disk->key);
    }
}
