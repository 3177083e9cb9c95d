/* SPDX-License-Identifier: MIT */
#include "hypervisor/qemu_disks.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/disks.h"
#include "hypervisor/qemu_control.h"
#include "hypervisor/vmm_process.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/plain_file.h"
#include "util/process.h"

enum {
    QCOW2_HEADER_SIZE = 80,
    SECTOR = 512,
    IMG_MS = 60000,
    IMG_OUTPUT_MAX = 1024,
    NUMBER_SIZE = 24,
};

static const char img_name[] = "qemu-img";

void qemu_disk_node(size_t index, unsigned layer, char ret[QEMU_NODE_SIZE])
{
    if (layer == 0)
        snprintf(ret, QEMU_NODE_SIZE, "disk%zu", index);
    else
        snprintf(ret, QEMU_NODE_SIZE, "disk%zu.%u", index, layer);
}

/* ---- files ---- */

struct qcow2 {
    uint64_t size;            /* of the disk that the guest sees */
    uint64_t backing, length; /* where the name of the file below it is; 0: there is none */
    bool has_data;
};

static uint64_t big_endian(const unsigned char *bytes, size_t size)
{
    uint64_t value = 0;
    for (size_t i = 0; i < size; i++)
        value = value << 8 | bytes[i];
    return value;
}

static int read_qcow2(int fd, const char *path, struct qcow2 *ret, struct error *err)
{
    static const unsigned char magic[4] = {'Q', 'F', 'I', 0xfb};
    enum {
        VERSION = 4,
        BACKING = 8,
        LENGTH = 16,
        SIZE = 24,
        FEATURES = 72,
        EXTERNAL_DATA = 1 << 2
    };
    unsigned char header[QCOW2_HEADER_SIZE];
    ssize_t got = pread(fd, header, sizeof header, 0);
    if (got < 0)
        return error_errno(err, errno, "disk %s cannot be read", path);
    if ((size_t)got < sizeof header || memcmp(header, magic, sizeof magic) != 0)
        return error_set(err, EINVAL, "disk %s is no qcow2 file", path);
    *ret = (struct qcow2){.size = big_endian(header + SIZE, 8),
                          .backing = big_endian(header + BACKING, 8),
                          .length = big_endian(header + LENGTH, 4),
                          .has_data = header[VERSION + 3] >= 3 &&
                                      big_endian(header + FEATURES, 8) & EXTERNAL_DATA};
    return 0;
}

/* A qcow2 can name other files, which QEMU would open. */
static int check_qcow2(int fd, const char *path, struct error *err)
{
    struct qcow2 qcow2;
    int r = read_qcow2(fd, path, &qcow2, err);
    if (r < 0)
        return r;
    if (qcow2.backing != 0)
        return error_set(err, EINVAL,
                         "disk %s has a backing file: make one file of both with qemu-img convert",
                         path);
    if (qcow2.has_data)
        return error_set(
            err, EINVAL,
            "disk %s has an external data file: make one file of both with qemu-img convert", path);
    return 0;
}

static int check_disk(const struct machine_disk *disk, struct error *err)
{
    auto_close int fd = open(disk->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return error_io(err, errno, "disk %s", disk->path);
    struct stat file;
    if (fstat(fd, &file) < 0)
        return error_errno(err, errno, "disk %s", disk->path);
    int r = disk_check_kind(disk->path, disk->readonly, &file, err);
    if (r == 0)
        r = disk_check_key(disk, &file, err);
    return r == 0 && strcmp(disk->format, "qcow2") == 0 ? check_qcow2(fd, disk->path, err) : r;
}

static int check_frozen(const struct machine_disk *disk, struct error *err)
{
    if (disk->readonly || disk->key[0])
        return 0;
    return error_set(err, EOPNOTSUPP,
                     "disk %s can be written to, but is not frozen as after a save by hypefs: its "
                     "forks would share it",
                     disk->path);
}

int qemu_disks_check(const struct machine *machine, bool restore, struct error *err)
{
    int r = 0;
    for (size_t i = 0; i < machine->disk_count && r == 0; i++) {
        r = check_disk(&machine->disks[i], err);
        if (r == 0 && restore)
            r = check_frozen(&machine->disks[i], err);
    }
    return r;
}

/* ---- overlays ---- */

/* A file of a chain. */
struct layer {
    char path[DISK_NAME_SIZE]; /* of an overlay */
    const char *name, *format;
};

static void describe(const struct machine_disk *disk, size_t index, unsigned number,
                     struct layer *ret)
{
    disk_layer_name(index, number, ret->path);
    ret->name = number == 0 ? disk->path : ret->path;
    ret->format = number == 0 ? disk->format : "qcow2";
}

/* The user's file may be reached by links; an overlay may be a VMM's. */
static int open_layer(const struct vmm_context *context, const struct layer *layer, int *ret,
                      struct error *err)
{
    if (layer->name == layer->path)
        return plain_file_open(context->directory_fd, layer->name, O_RDONLY, layer->name, ret, err);
    int fd = open(layer->name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return error_io(err, errno, "disk %s", layer->name);
    *ret = fd;
    return 0;
}

static int find_size(const struct vmm_context *context, const struct layer *layer, uint64_t *ret,
                     struct error *err)
{
    auto_close int fd = -1;
    struct stat file;
    int r = open_layer(context, layer, &fd, err);
    if (r < 0)
        return r;
    if (fstat(fd, &file) < 0)
        return error_io(err, errno, "disk %s", layer->name);
    struct qcow2 qcow2 = {.size = ((uint64_t)file.st_size + SECTOR - 1) / SECTOR * SECTOR};
    r = strcmp(layer->format, "qcow2") == 0 ? read_qcow2(fd, layer->name, &qcow2, err) : 0;
    if (r == 0)
        *ret = qcow2.size;
    return r;
}

/* It is made where no VMM can put a link in its place. `-u`: the file below is not opened, which a
 * VM that is still writing to it would not allow. */
static int create(const struct vmm_context *context, const struct layer *below,
                  const struct layer *layer, uint64_t size, struct error *err)
{
    char number[NUMBER_SIZE], made[DISK_NAME_SIZE + 8];
    snprintf(number, sizeof number, "%" PRIu64, size);
    snprintf(made, sizeof made, "%s.tmp", layer->name);
    const char *const arguments[] = {img_name, "create", "-q",        "-f", "qcow2",
                                     "-u",     "-b",     below->name, "-F", below->format,
                                     made,     number,   NULL};
    auto_free char *output = NULL;
    int r = process_output(context->entry_fd, arguments, IMG_OUTPUT_MAX, IMG_MS, context->cancel_fd,
                           &output, err);
    if (r == -ENOENT)
        return error_set(err, EIO,
                         "qemu-img is not in PATH, and a writable disk needs it: install it (on "
                         "Debian, the package qemu-utils)");
    if (r == 0)
        r = vmm_remove_old(context, layer->name, err);
    if (r == 0 && renameat(context->entry_fd, made, context->directory_fd, layer->name) < 0)
        r = error_io(err, errno, "it cannot be moved");
    if (r < 0)
        unlinkat(context->entry_fd, made, 0);
    return r < 0 ? error_prefix(err, r, "the overlay %s", layer->name) : 0;
}

static int add_overlay(const struct vmm_context *context, const struct machine_disk *disk,
                       size_t index, unsigned number, struct error *err)
{
    struct layer below, layer;
    uint64_t size = 0;
    describe(disk, index, number - 1, &below);
    describe(disk, index, number, &layer);
    int r = find_size(context, &below, &size, err);
    return r < 0 ? r : create(context, &below, &layer, size, err);
}

/* Is there one to go on with? 1 or 0. One with other links is frozen, whatever the record says. */
static int find_overlay(const struct vmm_context *context, size_t index, unsigned number,
                        struct error *err)
{
    char name[DISK_NAME_SIZE];
    struct stat file;
    disk_layer_name(index, number, name);
    if (fstatat(context->directory_fd, name, &file, AT_SYMLINK_NOFOLLOW) < 0)
        return 0;
    if (S_ISREG(file.st_mode) && file.st_nlink == 1)
        return 1;
    return error_set(err, EIO,
                     "the overlay %s is frozen, because something was saved with it, and must not "
                     "be written to: fork what was saved",
                     name);
}

int qemu_disks_make(const struct vmm_context *context, const struct machine *machine, bool restore,
                    struct error *err)
{
    for (size_t i = 0; i < machine->disk_count; i++) {
        unsigned top = disk_top(&machine->disks[i]);
        int r = top > 0 && !restore ? find_overlay(context, i, top, err) : 0;
        if (r == 0 && top > 0)
            r = add_overlay(context, &machine->disks[i], i, top, err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- a running VM ---- */

/* QEMU does not probe the file, nor open what lies below it: that is the node that it has. */
static void add_action(cJSON *actions, size_t index, unsigned top)
{
    char old[QEMU_NODE_SIZE], new[QEMU_NODE_SIZE], file[DISK_NAME_SIZE];
    qemu_disk_node(index, top, old);
    qemu_disk_node(index, top + 1, new);
    disk_layer_name(index, top + 1, file);
    cJSON *action = cJSON_CreateObject();
    json_add_string(action, "type", "blockdev-snapshot-sync");
    cJSON *data = json_add_object(action, "data");
    json_add_string(data, "node-name", old);
    json_add_string(data, "snapshot-file", file);
    json_add_string(data, "snapshot-node-name", new);
    json_add_string(data, "format", "qcow2");
    json_add_string(data, "mode", "existing");
    json_append(actions, action);
}

/* All disks or none. */
static int transact(const struct vmm_context *context, struct vmm *vmm,
                    const struct machine *machine, struct error *err)
{
    cJSON *arguments = cJSON_CreateObject();
    cJSON *actions = json_add_array(arguments, "actions");
    for (size_t i = 0; i < machine->disk_count; i++)
        if (!machine->disks[i].readonly)
            add_action(actions, i, disk_top(&machine->disks[i]));
    return qemu_control_execute_with(context, vmm, "transaction", arguments, -1, NULL, err);
}

static void remove_new(const struct vmm_context *context, const struct machine *machine)
{
    char name[DISK_NAME_SIZE];
    for (size_t i = 0; i < machine->disk_count; i++) {
        disk_layer_name(i, disk_top(&machine->disks[i]) + 1, name);
        if (!machine->disks[i].readonly)
            unlinkat(context->directory_fd, name, 0);
    }
}

static bool has_node(const cJSON *nodes, const char *name)
{
    const cJSON *node;
    cJSON_ArrayForEach (node, nodes) {
        const char *its = json_get_text(node, "node-name");
        if (its && strcmp(its, name) == 0)
            return true;
    }
    return false;
}

/* Does the VM write to another file of the disk than `machine` says? */
static bool has_next(const cJSON *nodes, const struct machine *machine, size_t index)
{
    char name[QEMU_NODE_SIZE];
    qemu_disk_node(index, disk_top(&machine->disks[index]) + 1, name);
    return !machine->disks[index].readonly && has_node(nodes, name);
}

/* Is the file after the one that the disk's record tells a complete overlay over that? */
static bool has_next_file(const struct vmm_context *context, const struct machine_disk *disk,
                          size_t index)
{
    struct layer below, layer;
    char name[PATH_MAX];
    struct qcow2 qcow2;
    describe(disk, index, disk_top(disk), &below);
    describe(disk, index, disk_top(disk) + 1, &layer);
    size_t size = strlen(below.name);
    auto_close int fd = -1;
    return plain_file_open(context->directory_fd, layer.path, O_RDONLY, layer.path, &fd, NULL) ==
               0 &&
           size < sizeof name && read_qcow2(fd, layer.path, &qcow2, NULL) == 0 &&
           qcow2.length == size && pread(fd, name, size, (off_t)qcow2.backing) == (ssize_t)size &&
           memcmp(name, below.name, size) == 0;
}

/* One that was made and never written to has the same content. */
static void find_files(const struct vmm_context *context, struct machine *machine)
{
    for (size_t i = 0; i < machine->disk_count; i++) {
        struct machine_disk *disk = &machine->disks[i];
        while (!disk->readonly && disk->layers < DISK_LAYERS_MAX && has_next_file(context, disk, i))
            disk_freeze(disk);
    }
}

int qemu_disks_find(const struct vmm_context *context, struct vmm *vmm, struct machine *machine,
                    struct error *err)
{
    if (!vmm) {
        find_files(context, machine);
        return 0;
    }
    auto_json cJSON *nodes = NULL;
    cJSON *arguments = cJSON_CreateObject();
    json_add_bool(arguments, "flat", true);
    int r = qemu_control_execute_with(context, vmm, "query-named-block-nodes", arguments, -1,
                                      &nodes, err);
    for (size_t i = 0; i < machine->disk_count && r == 0; i++)
        while (has_next(nodes, machine, i))
            disk_freeze(&machine->disks[i]);
    return r;
}

int qemu_disks_switch(const struct vmm_context *context, struct vmm *vmm, struct machine *machine,
                      struct error *err)
{
    int r = 0;
    if (!disks_are_written(machine))
        return 0;
    for (size_t i = 0; i < machine->disk_count && r == 0; i++) {
        const struct machine_disk *disk = &machine->disks[i];
        if (!disk->readonly)
            r = add_overlay(context, disk, i, disk_top(disk) + 1, err);
    }
    if (r < 0) {
        remove_new(context, machine);
        return r;
    }
    /* If no answer comes, it may have been done: what is new stays, and whoever saves next asks. */
    r = transact(context, vmm, machine, err);
    if (r == 0)
        disks_freeze(machine);
    return r;
}
