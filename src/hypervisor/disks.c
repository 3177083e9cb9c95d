/* SPDX-License-Identifier: MIT */
#include "hypervisor/disks.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/directory.h"
#include "util/fault.h"
#include "util/json.h"
#include "util/plain_file.h"

void disk_layer_name(size_t index, unsigned layer, char ret[DISK_NAME_SIZE])
{
    snprintf(ret, DISK_NAME_SIZE, "disk%zu.%u.qcow2", index, layer);
}

void disk_copy_name(const struct machine_disk *disk, char ret[DISK_COPY_SIZE])
{
    snprintf(ret, DISK_COPY_SIZE, "frozen-%s", disk->id ? disk->id : "");
}

void disk_drive_name(const struct machine_disk *disk, char ret[DISK_COPY_SIZE])
{
    snprintf(ret, DISK_COPY_SIZE, "drive-%s", disk->id ? disk->id : "");
}

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

/* ---- keys ---- */

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
    }
    return r;
}

static void drop_copy(const struct machine_disk *disk, int directory_fd)
{
    char name[DISK_COPY_SIZE];
    disk_copy_name(disk, name);
    if (!disk->readonly)
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

/* "disk7.3.qcow2" and what disk_copy_name() and disk_drive_name() make. */
static bool is_of_a_disk(const char *name)
{
    size_t index;
    unsigned layer;
    int end = 0;
    return strncmp(name, "frozen-", 7) == 0 || strncmp(name, "drive-", 6) == 0 ||
           (sscanf(name, "disk%zu.%u.qcow2%n", &index, &layer, &end) == 2 && end > 0 && !name[end]);
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
    return strcmp(copy, name) == 0;
}

/* A directory_visit. */
static int tidy(void *context, int directory_fd, const char *name, struct error *err)
{
    const struct machine *machine = context;
    bool needed = !is_of_a_disk(name);
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
        char **texts[] = {&disk->id, &disk->path, &disk->format, &disk->saved_path, &disk->frozen};
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

int disks_keep(struct machine *machine, const struct machine *from, struct error *err)
{
    for (size_t i = 0; i < machine->disk_count; i++) {
        if (machine->disks[i].readonly || !disks_match(machine, from, i))
            continue;
        struct machine_disk *disk = &machine->disks[i];
        const struct machine_disk *its = &from->disks[i];
        memcpy(disk->key, its->key, sizeof disk->key);
        disk->layers = its->layers;
        if (!keep_text(&disk->id, its->id) || !keep_text(&disk->frozen, its->frozen))
            return error_set(err, ENOMEM, "no memory for a machine's disks");
    }
    return 0;
}
