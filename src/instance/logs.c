/* SPDX-License-Identifier: MIT */
/*
 * logs: console.log and vmm.log of each instance are kept short while its VMM appends to them. The
 * VMM has the files themselves, no pipe of ours, so it neither waits for the daemon nor ends with
 * it; the watch looks once a second how long they are.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "instance/internal.h"
#include "util/log_file.h"

const struct instance_log instance_logs[INSTANCE_LOGS] = {
    [INSTANCE_CONSOLE] = {"console.log", "console"},
    [INSTANCE_VMM_LOG] = {"vmm.log", "vmm.log"},
};

static int open_log(int directory_fd, const char *name)
{
    return openat(directory_fd, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
}

/* The first time it is told; of a fork that nobody sees yet, only what failed. */
static void notify(struct instance *instance, enum instance_log_kind kind, const struct error *err)
{
    struct instances *table = instance->table;
    pthread_mutex_lock(&table->lock);
    bool first = !instance->shortened[kind] && (instance->published || err);
    instance->shortened[kind] = instance->shortened[kind] || first;
    if (first && !err)
        instance_notify(instance,
                        kind == INSTANCE_CONSOLE ? INSTANCE_CONSOLE_CUT : INSTANCE_LOG_CUT,
                        instance->state);
    pthread_mutex_unlock(&table->lock);
    if (first && err)
        instances_warn(table, "%s", err->text);
}

static void shorten(struct instance *instance, int directory_fd, enum instance_log_kind kind,
                    off_t max)
{
    const char *name = instance_logs[kind].name;
    struct error err = {0};
    struct stat st;
    off_t gone = 0;
    if (fstatat(directory_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode) ||
        st.st_size <= max)
        return;
    auto_close int fd = open_log(directory_fd, name);
    int r = fd < 0 ? error_errno(&err, errno, "it cannot be opened")
                   : log_file_shorten(fd, max, &gone, &err);
    if (r < 0)
        error_prefix(&err, r, "%s of the instance %s cannot be kept short",
                     instance_logs[kind].shown, instance->id);
    if (r < 0 || gone > 0)
        notify(instance, kind, r < 0 ? &err : NULL);
}

void instance_shorten_logs(struct instance *instance, int directory_fd, uint64_t max)
{
    for (enum instance_log_kind kind = 0; kind < INSTANCE_LOGS; kind++)
        shorten(instance, directory_fd, kind, (off_t)max);
}

/* Those whose VMM lives, by their state, for `vmm` is the owner's; and once more those whose has
 * ended. Returns owned, each with a reference. */
static struct instance **growing(struct instances *table, size_t *ret_count)
{
    struct instance *instance;
    size_t count = 0;
    pthread_mutex_lock(&table->lock);
    struct instance **list = calloc(HASH_COUNT(table->by_id) + 1, sizeof *list);
    for (instance = table->by_id; instance && list; instance = instance->hh.next) {
        if (!instance->published || !instance->image)
            continue;
        bool grows = instance->state == INSTANCE_RUNNING || instance->state == INSTANCE_PAUSED;
        if (grows || instance->logs_grew) {
            instance->references++;
            list[count++] = instance;
        }
        instance->logs_grew = grows;
    }
    pthread_mutex_unlock(&table->lock);
    *ret_count = count;
    return list;
}

void instances_shorten_logs(struct instances *table)
{
    size_t count;
    auto_free struct instance **list = growing(table, &count);
    for (size_t i = 0; i < count; i++) {
        pthread_mutex_lock(&table->lock);
        uint64_t max = machine_log_max(&list[i]->machine);
        pthread_mutex_unlock(&table->lock);
        auto_close int fd = instance_open_entry(list[i], NULL);
        if (fd >= 0)
            instance_shorten_logs(list[i], fd, max);
        instance_unref(list[i]);
    }
}

int instance_empty_console(struct instance *instance, struct error *err)
{
    auto_close int entry_fd = instance_open_entry(instance, err);
    if (entry_fd < 0)
        return entry_fd;
    auto_close int fd = open_log(entry_fd, instance_logs[INSTANCE_CONSOLE].name);
    return fd < 0 || ftruncate(fd, 0) < 0 ? error_errno(err, errno, "console cannot be emptied")
                                          : 0;
}

int instance_make_logs(int directory_fd, struct error *err)
{
    for (size_t i = 0; i < INSTANCE_LOGS; i++) {
        const char *name = instance_logs[i].name;
        auto_close int fd =
            openat(directory_fd, name, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
            return error_errno(err, errno, "cannot make %s in the store", name);
    }
    return 0;
}
