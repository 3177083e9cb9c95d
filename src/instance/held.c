/* SPDX-License-Identifier: MIT */
/* held: files of a VMM that keep out of the way of its successor, which makes its own under their
 * names: its sockets, and the files that its disks write to. They have ".held" behind their names
 * for as long. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "hypervisor/disks.h"
#include "instance/internal.h"
#include "util/directory.h"
#include "util/fault.h"

enum { HELD_SIZE = 64 };

static const char suffix[] = ".held";

static int hold(int directory_fd, const char *name, struct error *err)
{
    char held[HELD_SIZE];
    snprintf(held, sizeof held, "%s%s", name, suffix);
    if (renameat(directory_fd, name, directory_fd, held) < 0 && errno != ENOENT)
        return error_errno(err, errno, "%s cannot be renamed", name);
    fault_point(FAULT_LINKED);
    return 0;
}

int instance_hold_files(const struct instance *instance, struct error *err)
{
    const struct machine *machine = &instance->machine;
    const int directory_fd = instance->image->directory_fd;
    char name[DISK_NAME_SIZE];
    int r = 0;
    for (const char *const *socket = machine->hypervisor->sockets; *socket && r == 0; socket++)
        r = hold(directory_fd, *socket, err);
    for (size_t i = 0; i < machine->disk_count && r == 0; i++)
        if (disk_top(&machine->disks[i]) > 0) {
            disk_layer_name(i, disk_top(&machine->disks[i]), name);
            r = hold(directory_fd, name, err);
        }
    return r;
}

/* The length of the name without the suffix; 0: it has none. */
static size_t held_length(const char *name)
{
    size_t size = strlen(name), end = sizeof suffix - 1;
    bool is_held = size > end && size < HELD_SIZE && strcmp(name + size - end, suffix) == 0;
    return is_held ? size - end : 0;
}

static void warn(const struct instance *instance, const char *name, const char *what)
{
    instances_warn(instance->table, "%s of the instance %s cannot be %s in the store: %s", name,
                   instance->id, what, strerrordesc_np(errno));
}

/* A directory_visit. */
static int give_back(void *context, int directory_fd, const char *name, struct error *err)
{
    char own[HELD_SIZE];
    (void)err;
    size_t length = held_length(name);
    if (length == 0)
        return 0;
    snprintf(own, sizeof own, "%.*s", (int)length, name);
    if (renameat(directory_fd, name, directory_fd, own) < 0)
        warn(context, name, "renamed");
    return 0;
}

/* A directory_visit. */
static int drop(void *context, int directory_fd, const char *name, struct error *err)
{
    (void)err;
    if (held_length(name) > 0 && unlinkat(directory_fd, name, 0) < 0)
        warn(context, name, "removed");
    return 0;
}

/* What fails is told in the log. */
void instance_settle_held_files(struct instance *instance, bool loaded)
{
    struct error why;
    if (directory_walk(instance->image->directory_fd, ".", loaded ? drop : give_back, instance,
                       &why) < 0)
        instances_warn(instance->table, "%s, in the store: %s", instance->id, why.text);
}
