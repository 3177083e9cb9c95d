/* SPDX-License-Identifier: MIT */
/*
 * unsynced: forks that run and that the disk does not have yet. A commit does not wait for the
 * disk: what would be lost with the host's memory is the record of a VM that is lost with it, too.
 * So such a fork's directory has a file "unsynced", with the id of the host's boot. After another
 * boot, the kernel may have kept the directory's name and not what its records hold; then the fork
 * is discarded.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "instance/internal.h"
#include "util/fault.h"
#include "util/json.h"
#include "util/plain_file.h"
#include "util/text_file.h"

static const char marker[] = "unsynced", boot_id_path[] = "/proc/sys/kernel/random/boot_id";
static const char *const records[] = {"instance.json", "fork.json"};

int instance_boot_id(char ret[INSTANCE_BOOT_ID_SIZE])
{
    auto_close int fd = open(boot_id_path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd >= 0 ? read(fd, ret, INSTANCE_BOOT_ID_SIZE - 1) : -1;
    if (size < 0)
        return -errno;
    ret[size] = 0;
    ret[strcspn(ret, "\n")] = 0;
    return 0;
}

int instance_begin_unsynced(struct instance *instance, struct error *err)
{
    char booted[INSTANCE_BOOT_ID_SIZE];
    int r = instance_boot_id(booted);
    if (r < 0)
        return error_errno(err, -r, "cannot read %s", boot_id_path);
    auto_close int fd = openat(instance->entry_fd, marker,
                               O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_errno(err, errno, "cannot make the file %s in the store", marker);
    r = text_file_write(fd, booted, strlen(booted));
    if (r < 0)
        return error_errno(err, -r, "cannot write the file %s in the store", marker);
    instance->unsynced = true;
    return 0;
}

static int sync_record(int entry_fd, const char *name, struct error *err)
{
    auto_close int fd = openat(entry_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) /* somebody has removed it */
        return 0;
    return fd >= 0 && fsync(fd) == 0
               ? 0
               : error_errno(err, errno, "cannot write %s in the store", name);
}

int instance_sync(struct instance *instance, struct error *err)
{
    const int kind_fd = instance->table->setup.store->kind_fd[STORE_INSTANCES];
    int r = 0;
    if (!instance->unsynced)
        return 0;
    for (size_t i = 0; i < array_length(records) && r == 0; i++)
        r = sync_record(instance->entry_fd, records[i], err);
    if (r == 0)
        r = store_sync_json(instance->entry_fd, records[0], err);
    if (r == 0 && fsync(kind_fd) < 0)
        r = error_errno(err, errno, "cannot write %s in the store", records[0]);
    fault_point(FAULT_SYNCED);
    if (r < 0)
        return r;
    instance->unsynced = false;
    unlinkat(instance->entry_fd, marker, 0); /* else the next start does */
    return 0;
}

/* *ret: was it made before the host was started again? */
static bool has_marker(int entry_fd, bool *ret_other_boot)
{
    char was[INSTANCE_BOOT_ID_SIZE] = "", is[INSTANCE_BOOT_ID_SIZE];
    auto_close int fd = openat(entry_fd, marker, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t size = read(fd, was, sizeof was - 1);
    *ret_other_boot = size >= 0 && instance_boot_id(is) == 0 && strcmp(was, is) != 0;
    return true;
}

bool instance_is_torn(int entry_fd, struct error *ret_why)
{
    bool other_boot = false;
    if (!has_marker(entry_fd, &other_boot) || !other_boot)
        return false;
    for (size_t i = 0; i < array_length(records); i++) {
        auto_json cJSON *json = NULL;
        int r = store_read_json(entry_fd, records[i], &json, ret_why);
        if (r == -EINVAL || r == -ENOENT)
            return true;
    }
    return false;
}

void instance_read_unsynced(struct instance *instance)
{
    bool other_boot;
    instance->unsynced = has_marker(instance->entry_fd, &other_boot);
}
