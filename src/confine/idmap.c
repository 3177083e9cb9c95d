/* SPDX-License-Identifier: MIT */
#include "confine/idmap.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "confine/fail.h"

static bool write_map(int process, const char *name, unsigned inside, unsigned outside)
{
    char text[64];
    int size = snprintf(text, sizeof text, "%u %u 1", inside, outside);
    int fd = openat(process, name, O_WRONLY | O_CLOEXEC);
    bool good = fd >= 0 && write(fd, text, (size_t)size) == size;
    if (fd >= 0)
        close(fd);
    return good;
}

bool idmap_write(int process, struct ids inside, struct ids outside)
{
    return write_map(process, "uid_map", inside.uid, outside.uid) &&
           write_map(process, "gid_map", inside.gid, outside.gid);
}

/* A process that is there for its user namespace, until `hold` is closed. It tells its number in
 * the host's /proc, which is not the one that clone(2) returns in a pid namespace. */
__attribute__((noreturn)) static void stay(int tell, int hold)
{
    char number[16] = "", byte;
    if (readlink("/proc/self", number, sizeof number - 1) > 0)
        (void)!write(tell, number, sizeof number);
    (void)!read(hold, &byte, 1);
    _exit(0);
}

/* The namespace is the map. -1 and errno. */
static int make_namespace(struct ids from, struct ids to)
{
    int told[2], held[2], fd = -1;
    char number[16] = "";
    if (pipe2(told, O_CLOEXEC) < 0 || pipe2(held, O_CLOEXEC) < 0)
        fail(CANNOT_CONFINE, "cannot make a pipe");
    long child = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL);
    if (child == 0) {
        close(held[1]);
        stay(told[1], held[0]);
    }
    int code = errno;
    close(told[1]);
    if (child > 0 && read(told[0], number, sizeof number) == sizeof number) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%s", number);
        int process = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (idmap_write(process, from, to))
            fd = openat(process, "ns/user", O_RDONLY | O_CLOEXEC);
        code = errno;
        close(process);
    }
    close(told[0]);
    close(held[0]);
    close(held[1]);
    if (child > 0)
        waitpid((pid_t)child, NULL, 0);
    errno = code;
    return fd;
}

/* Most files are of one owner: the map of the last one is kept. */
static int find_namespace(struct ids from, struct ids to)
{
    static struct ids of;
    static int fd = -1;
    if (fd >= 0 && of.uid == from.uid && of.gid == from.gid)
        return fd;
    if (fd >= 0)
        close(fd);
    of = from;
    fd = make_namespace(from, to);
    if (fd < 0)
        fail(CANNOT_CONFINE, "cannot make a user namespace for the files of user %u", from.uid);
    return fd;
}

bool idmap_set(int tree, struct ids from, struct ids to)
{
    struct mount_attr mapped = {.attr_set = MOUNT_ATTR_IDMAP,
                                .userns_fd = (__u64)find_namespace(from, to)};
    return mount_setattr(tree, "", AT_EMPTY_PATH, &mapped, sizeof mapped) == 0;
}
