/* SPDX-License-Identifier: MIT */
/*
 * unsynced: forks that run and that the disk does not have yet. A commit does not wait for the
 * disk: what would be lost with the host's memory is the record of a VM that is lost with it, too.
 * So such a fork's directory has a file "unsynced", with the id of the host's boot, until the disk
 * has all of it: some seconds later, or before its next record. After another boot, the kernel may
 * have kept the directory's name and not what its records and disks hold; then the fork is
 * discarded.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/disks.h"
#include "instance/internal.h"
#include "util/directory.h"
#include "util/fault.h"
#include "util/json.h"
#include "util/process.h"
#include "util/text_file.h"
#include "util/timing.h"

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
    instance->unsynced_at_ms = process_now_ms();
    instance->unsynced = true;
    return 0;
}

/* A directory_visit. In a VMM's directory there may be anything; and what is gone is gone. */
static int sync_file(void *context, int directory_fd, const char *name, struct error *err)
{
    struct stat st;
    auto_close int fd = openat(directory_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    (void)context;
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || fsync(fd) == 0)
        return 0;
    return error_errno(err, errno, "cannot write %s in the store", name);
}

static int sync_files(int directory_fd, struct error *err)
{
    int r = directory_walk(directory_fd, ".", sync_file, NULL, err);
    return r == 0 && fsync(directory_fd) < 0
               ? error_errno(err, errno, "cannot write a directory of the store")
               : r;
}

int instance_sync(struct instance *instance, struct error *err)
{
    const int kind_fd = instance->table->setup.store->kind_fd[STORE_INSTANCES];
    if (!instance->unsynced)
        return 0;
    auto_close int fd = instance_open_entry(instance, err);
    int r = fd < 0 ? fd : sync_files(instance->image->directory_fd, err);
    if (r == 0)
        r = sync_files(fd, err);
    if (r == 0 && fsync(kind_fd) < 0)
        r = error_errno(err, errno, "cannot write instances/ in the store");
    fault_point(FAULT_SYNCED);
    if (r < 0)
        return r;
    instance->unsynced = false;
    unlinkat(fd, marker, 0); /* else the next start does */
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

/* A directory_visit. One that others have, too, is on the disk. */
static int find_disk(void *context, int directory_fd, const char *name, struct error *err)
{
    struct stat st;
    (void)context;
    return disk_owns_name(name) && fstatat(directory_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
                   S_ISREG(st.st_mode) && st.st_nlink == 1
               ? error_set(err, EIO, "its disk %s may not be whole", name)
               : 0;
}

bool instance_is_torn(int entry_fd, struct error *ret_why)
{
    bool other_boot = false;
    if (!has_marker(entry_fd, &other_boot) || !other_boot)
        return false;
    auto_close int run_fd = store_open_run(entry_fd, ret_why);
    if (run_fd >= 0 && directory_walk(run_fd, ".", find_disk, NULL, ret_why) == -EIO)
        return true;
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

/* ---- in the background ---- */

enum { FAILED_MS = 60000 }; /* until it is tried again */

/* With the lock held: is it time that the disk has it? */
static bool is_due(const struct instance *instance)
{
    return instance->published && instance->state != INSTANCE_WAITING && instance->unsynced &&
           process_now_ms() - instance->unsynced_at_ms >= timing_ms(TIMING_SYNC);
}

/* With the lock held: one of them, with a reference. */
static struct instance *find_due(struct instances *table)
{
    for (struct instance *i = table->by_id; i && !table->stopping; i = i->hh.next)
        if (is_due(i)) {
            i->references++;
            return i;
        }
    return NULL;
}

/* Its owner may do the same meanwhile. */
static void sync_one(struct instance *instance)
{
    struct error why;
    if (instance_sync(instance, &why) == 0)
        return;
    auto_lock(&instance->table->lock);
    if (!instance->removed)
        instances_warn(instance->table, "instance %s: %s", instance->id, why.text);
    instance->unsynced_at_ms = process_now_ms() + FAILED_MS;
}

static void *sync_due(void *argument)
{
    struct instances *table = argument;
    struct instance *instance;
    pthread_mutex_lock(&table->lock);
    while ((instance = find_due(table))) {
        pthread_mutex_unlock(&table->lock);
        sync_one(instance);
        instance_unref(instance);
        pthread_mutex_lock(&table->lock);
    }
    table->syncing = false;
    pthread_cond_broadcast(&table->idle);
    pthread_mutex_unlock(&table->lock);
    return NULL;
}

void instances_sync_due(struct instances *table)
{
    pthread_mutex_lock(&table->lock);
    struct instance *due = table->syncing ? NULL : find_due(table);
    if (due)
        table->syncing = true;
    pthread_mutex_unlock(&table->lock);
    instance_unref(due);
    if (!due || thread_detach(sync_due, table, NULL) == 0)
        return;
    auto_lock(&table->lock);
    table->syncing = false; /* the next look tries again */
}
