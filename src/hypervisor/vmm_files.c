/* SPDX-License-Identifier: MIT */
#include "hypervisor/vmm_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/directory.h"

enum { PATH_SIZE = 64 };

struct walk {
    pid_t pid;
    struct file_id id;
    vmm_files_visit *visit;
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

int vmm_files_walk(pid_t pid, struct file_id file, vmm_files_visit *visit, void *context)
{
    struct walk walk = {.pid = pid, .id = file, .visit = visit, .context = context};
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    int r = directory_walk(AT_FDCWD, path, look_at, &walk, NULL);
    /* A process that ends closes all of its descriptors before it is gone. */
    return r == -ENOENT || (r == 0 && walk.count == 0) ? -ESRCH : r;
}

int vmm_files_explain(pid_t pid, int r, struct error *err)
{
    if (r == -ESRCH)
        return error_set(err, ESRCH, "process %d has ended", (int)pid);
    return error_io(err, -r, "cannot find out which files process %d has open%s", (int)pid,
                    r == -EACCES ? " (a VMM's program must have no file capabilities)" : "");
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

int vmm_files_check_readonly(pid_t pid, const struct stat *file, const char *what,
                             struct error *err)
{
    int r = vmm_files_walk(pid, file_id_of(file), is_writable, NULL);
    if (r < 0)
        return vmm_files_explain(pid, r, err);
    if (r > 0)
        return error_set(err, EIO,
                         "the VMM (process %d) has opened %s for writing, and its guest could "
                         "change what others share",
                         (int)pid, what);
    return 0;
}
