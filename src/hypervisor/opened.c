/* SPDX-License-Identifier: MIT */
#include "hypervisor/opened.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/disks.h"
#include "hypervisor/guest_memory.h"
#include "hypervisor/vmm_process.h"
#include "util/cleanup.h"
#include "util/directory.h"
#include "util/text.h"

enum { PATH_SIZE = 64 }; /* of a file in /proc/PID */

static const char deleted[] = " (deleted)";

struct walk {
    pid_t pid;
    struct file_id id;
    opened_visit *visit;
    void *context; /* of that */
    size_t count;
};

/* A directory_visit of /proc/PID/fd. */
static int look_at(void *context, int directory_fd, const char *name, struct error *err)
{
    struct walk *walk = context;
    struct stat file;
    (void)err;
    walk->count++;
    if (fstatat(directory_fd, name, &file, 0) < 0 || !file_id_equal(file_id_of(&file), walk->id))
        return 0;
    return walk->visit(walk->pid, name, walk->context);
}

int opened_walk(pid_t pid, struct file_id file, opened_visit *visit, void *context)
{
    struct walk walk = {.pid = pid, .id = file, .visit = visit, .context = context};
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    int r = directory_walk(AT_FDCWD, path, look_at, &walk, NULL);
    /* A process that ends closes all of its descriptors before it is gone. */
    return r == -ENOENT || (r == 0 && walk.count == 0) ? -ESRCH : r;
}

/* What the walk has returned, in words: EIO, ESRCH. */
static int explain_walk(pid_t pid, int r, struct error *err)
{
    if (r == -ESRCH)
        return error_set(err, ESRCH, "process %d has ended", (int)pid);
    return error_io(err, -r, "cannot find out which files process %d has open%s", (int)pid,
                    r == -EACCES ? " (a VMM's program must have no file capabilities)" : "");
}

static bool is_same(int directory_fd, const char *name, struct file_id id)
{
    struct stat file;
    return fstatat(directory_fd, name, &file, 0) == 0 && file_id_equal(file_id_of(&file), id);
}

/* An opened_visit of one descriptor. */
static int take_path(pid_t pid, const char *descriptor, void *context)
{
    snprintf(context, PATH_SIZE, "/proc/%d/fd/%.16s", (int)pid, descriptor);
    return 1;
}

/* 1 and its path if the VMM has a descriptor of that file, 0 if not. */
static int find(const struct vmm *vmm, struct file_id id, char ret[static PATH_SIZE],
                struct error *err)
{
    int r = opened_walk(vmm->pid, id, take_path, ret);
    return r < 0 ? vmm_ended(vmm, explain_walk(vmm->pid, r, err), err) : r;
}

/* A pmem device's file is closed when it is mapped. 1 if the VMM maps what is at the path, else 0.
 */
static int find_mapped(const struct vmm *vmm, const char *path, struct error *err)
{
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return error_io(err, errno, "disk %s", path);
    int r = guest_memory_check(vmm->pid, fd, err);
    return r == 0 ? 1 : r == -EIO ? 0 : vmm_ended(vmm, r, err);
}

/* The name of the file that the VMM was given, from the instance's directory. */
static const char *given(const struct machine *machine, size_t index, char ret[DISK_COPY_SIZE])
{
    const struct machine_disk *disk = &machine->disks[index];
    if (disk->readonly || !machine->hypervisor->copies_disks)
        return disk->path;
    disk_drive_name(disk, ret);
    return ret;
}

/* The one that the VMM was given is the user's, or a file of its own directory, where it may have
 * put a link since. */
static bool stat_given(const struct vmm_context *context, const struct machine *machine,
                       size_t index, const char *path, struct stat *ret)
{
    if (path[0] != '/' && fstatat(context->directory_fd, path, ret, AT_SYMLINK_NOFOLLOW) == 0 &&
        !S_ISLNK(ret->st_mode))
        return true;
    return stat(machine->disks[index].path, ret) == 0;
}

/* Which file the disk is: a daemon before this one may not have remembered it, or a block device by
 * its node. */
static struct file_id id_of(const struct vmm_context *context, const struct vmm *vmm,
                            const struct machine *machine, size_t index)
{
    char name[DISK_COPY_SIZE];
    struct file_id id = vmm->disks[index];
    struct stat file;
    if (stat_given(context, machine, index, given(machine, index, name), &file) &&
        (id.inode == 0 || S_ISBLK(file.st_mode)))
        id = file_id_of(&file);
    return id;
}

static int remember(const struct vmm_context *context, struct vmm *vmm,
                    const struct machine *machine, size_t index, struct error *err)
{
    char descriptor[PATH_SIZE], name[DISK_COPY_SIZE];
    const char *path = given(machine, index, name);
    struct stat file;
    if (!stat_given(context, machine, index, path, &file))
        return error_io(err, errno, "disk %s", path);
    int r = disk_check_key(&machine->disks[index], &file, err);
    if (r == 0)
        r = machine->disks[index].pmem ? find_mapped(vmm, path, err)
                                       : find(vmm, file_id_of(&file), descriptor, err);
    if (r == 0)
        return error_set(err, EIO,
                         "disk %s is not the file that the VMM has opened: it was replaced just "
                         "now, or the saved state names another path",
                         path);
    if (r > 0)
        vmm->disks[index] = file_id_of(&file);
    return r < 0 ? r : 0;
}

int opened_remember(const struct vmm_context *context, struct vmm *vmm,
                    const struct machine *machine, struct error *err)
{
    int r = 0;
    for (size_t i = 0; i < machine->interface_count; i++)
        vmm->taps[i] = if_nametoindex(machine->interfaces[i].tap);
    for (size_t i = 0; i < machine->disk_count && r == 0; i++)
        r = remember(context, vmm, machine, i, err);
    return r;
}

/* Where it is now cannot be told of a VMM that is shut in: it has but that file of the folder. */
static int explain_renamed(const char *path, struct file_id id, const char *now, struct error *err)
{
    const char *slash = strrchr(path, '/');
    if (strcmp(now, path) == 0 && slash)
        return error_set(
            err, EIO,
            "disk %s is not the file that the VM has open, which has another name now "
            "(find %.*s/ -xdev -inum %ju tells it): put that back (mv, not cp) and try "
            "again",
            path, (int)(slash - path), path, (uintmax_t)id.inode);
    return error_set(err, EIO,
                     "disk %s is not the file that the VM has open, which is now at %s: put "
                     "that back (mv, not cp) and try again",
                     path, now);
}

/* What became of the file that the VMM has open. */
static int explain(const char *path, struct file_id id, const char *descriptor, struct error *err)
{
    char now[PATH_MAX];
    ssize_t size = readlink(descriptor, now, sizeof now - 1);
    now[size > 0 ? size : 0] = '\0';
    text_make_printable(now, strlen(now), '?');
    char *end = strstr(now, deleted);
    if (!end || end[sizeof deleted - 1])
        return explain_renamed(path, id, now, err);
    return error_set(err, EIO,
                     "disk %s is not the file that the VM has open, which was removed or "
                     "replaced: the VM runs on, but cannot be saved; what is on that disk can be "
                     "copied from %s",
                     path, descriptor);
}

static int check(const struct vmm_context *context, const struct vmm *vmm,
                 const struct machine *machine, size_t index, struct error *err)
{
    char descriptor[PATH_SIZE];
    const char *path = machine->disks[index].path;
    struct file_id id = id_of(context, vmm, machine, index);
    const bool pmem = machine->disks[index].pmem;
    int r = pmem ? find_mapped(vmm, path, err) : find(vmm, id, descriptor, err);
    if (r < 0)
        return r;
    if (r == 0)
        return error_set(err, EIO,
                         "disk %s is not the file that the VM has open: put that back (mv, not cp) "
                         "and try again",
                         path);
    return pmem || is_same(context->directory_fd, path, id) ? 0
                                                            : explain(path, id, descriptor, err);
}

int opened_check(const struct vmm_context *context, const struct vmm *vmm,
                 const struct machine *machine, struct error *err)
{
    int r = 0;
    for (size_t i = 0; i < machine->disk_count && r == 0; i++)
        if (machine->disks[i].readonly || !machine->hypervisor->copies_disks)
            r = check(context, vmm, machine, i, err);
    return r;
}

int opened_open(const struct vmm_context *context, const struct vmm *vmm,
                const struct machine *machine, size_t index, int *ret, struct error *err)
{
    char descriptor[PATH_SIZE];
    int r = find(vmm, id_of(context, vmm, machine, index), descriptor, err);
    if (r == 0)
        return error_set(err, EIO, "the VMM does not have the file of the disk %s open",
                         machine->disks[index].path);
    if (r < 0)
        return r;
    int fd = open(descriptor, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return error_io(err, errno, "%s, which is the disk %s, cannot be opened", descriptor,
                        machine->disks[index].path);
    *ret = fd;
    return 0;
}

/* ---- taps ---- */

struct tap_search {
    const struct vmm *vmm;
    const char *tap;
    int fd;
};

/* The descriptor may have become another file's since its number was found. */
static bool is_of_tap(int fd, const char *tap)
{
    struct ifreq request = {0};
    return ioctl(fd, TUNGETIFF, &request) == 0 && strcmp(request.ifr_name, tap) == 0;
}

/* The kernel tells of each descriptor of a tap which interface it is of. A directory_visit. */
static int take_tap(void *context, int directory_fd, const char *name, struct error *err)
{
    struct tap_search *search = context;
    char line[PATH_SIZE], tap[MACHINE_TAP_MAX + 1];
    (void)err;
    auto_close int fd = openat(directory_fd, name, O_RDONLY | O_CLOEXEC);
    auto_fclose FILE *file = fd >= 0 ? fdopen(fd, "r") : NULL;
    bool found = false;
    if (file)
        steal_fd(&fd);
    while (file && !found && fgets(line, sizeof line, file))
        found = sscanf(line, "iff: %15s", tap) == 1 && strcmp(tap, search->tap) == 0;
    if (!found)
        return 0;
    auto_close int taken = pidfd_getfd(search->vmm->pidfd, (int)strtol(name, NULL, 10), 0);
    if (taken < 0)
        return -errno;
    if (!is_of_tap(taken, search->tap))
        return 0;
    search->fd = steal_fd(&taken);
    return 1;
}

int opened_take_tap(const struct vmm *vmm, const char *tap, int *ret, struct error *err)
{
    struct tap_search search = {.vmm = vmm, .tap = tap, .fd = -1};
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "/proc/%d/fdinfo", (int)vmm->pid);
    int r = directory_walk(AT_FDCWD, path, take_tap, &search, NULL);
    if (r == 0)
        return error_set(err, EIO, "the process %d does not have the tap %s open", (int)vmm->pid,
                         tap);
    if (r < 0)
        return error_io(
            err, -r, "the tap %s cannot be taken over from the process %d%s", tap, (int)vmm->pid,
            r == -EPERM ? " (with ptrace_scope 1 the daemon must have started it)" : "");
    *ret = search.fd;
    return 0;
}

/* ---- the store's own files ---- */

int opened_check_own(const struct vmm_context *context, const struct vmm *vmm, const char *name,
                     struct error *err)
{
    char descriptor[PATH_SIZE];
    struct stat file;
    if (fstatat(context->directory_fd, name, &file, AT_SYMLINK_NOFOLLOW) < 0)
        return error_io(err, errno, "the VM's file %s in the store", name);
    int r = find(vmm, file_id_of(&file), descriptor, err);
    if (r != 0)
        return r < 0 ? r : 0;
    return error_set(err, EIO,
                     "the file %s in the store is not the one that the VM has open: somebody "
                     "replaced it; put that back (mv, not cp) and try again",
                     name);
}

/* 1 or 0; -errno. A descriptor that is closed meanwhile writes nothing. */
static int is_writable(pid_t pid, const char *descriptor, void *context)
{
    char path[PATH_SIZE], line[PATH_SIZE];
    unsigned flags = 0;
    (void)context;
    snprintf(path, sizeof path, "/proc/%d/fdinfo/%.16s", (int)pid, descriptor);
    auto_fclose FILE *file = fopen(path, "re");
    if (!file)
        return errno == ENOENT ? 0 : -errno;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "flags: %o", &flags) == 1)
            return (flags & O_ACCMODE) != O_RDONLY && !(flags & O_PATH);
    return -EIO;
}

int opened_check_readonly(pid_t pid, const struct stat *file, const char *what, struct error *err)
{
    int r = opened_walk(pid, file_id_of(file), is_writable, NULL);
    if (r < 0)
        return explain_walk(pid, r, err);
    if (r > 0)
        return error_set(err, EIO,
                         "the VMM (process %d) has opened %s for writing, and its guest could "
                         "change what others share",
                         (int)pid, what);
    return 0;
}
