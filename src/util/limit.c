/* SPDX-License-Identifier: MIT */
#include "util/limit.h"

#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "util/cleanup.h"

enum { VALUE_SIZE = 64 };

/* "unlimited", or the number that this process is held to. */
static void value_of(int resource, char ret[static VALUE_SIZE])
{
    struct rlimit limit;
    if (getrlimit((__rlimit_resource_t)resource, &limit) < 0)
        snprintf(ret, VALUE_SIZE, "unknown");
    else if (limit.rlim_cur == RLIM_INFINITY)
        snprintf(ret, VALUE_SIZE, "unlimited");
    else
        snprintf(ret, VALUE_SIZE, "%ju", (uintmax_t)limit.rlim_cur);
}

/* The first line of a small file; false if there is none. */
static bool read_line(const char *path, char *ret, int size)
{
    auto_fclose FILE *file = fopen(path, "re");
    if (!file || !fgets(ret, size, file))
        return false;
    ret[strcspn(ret, "\n")] = 0;
    return true;
}

/* Of the process's own cgroup (v2). */
static void pids_max(char ret[static VALUE_SIZE])
{
    char own[PATH_MAX], path[PATH_MAX + 64];
    snprintf(ret, VALUE_SIZE, "unknown");
    if (!read_line("/proc/self/cgroup", own, sizeof own) || strncmp(own, "0::", 3) != 0)
        return;
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/pids.max", own + 3);
    read_line(path, ret, VALUE_SIZE);
}

static void descriptors(char *ret)
{
    char value[VALUE_SIZE];
    value_of(RLIMIT_NOFILE, value);
    snprintf(ret, LIMIT_TEXT_SIZE,
             "a process may have %s files open (RLIMIT_NOFILE): raise that with ulimit -Hn, or "
             "LimitNOFILE= in the unit, and start hypefs anew",
             value);
}

static void host_files(char *ret)
{
    char value[VALUE_SIZE] = "unknown";
    read_line("/proc/sys/fs/file-max", value, sizeof value);
    snprintf(ret, LIMIT_TEXT_SIZE,
             "all processes of the host may have %s files open (sysctl fs.file-max)", value);
}

static void processes(char *ret)
{
    char own[VALUE_SIZE], group[VALUE_SIZE];
    value_of(RLIMIT_NPROC, own);
    pids_max(group);
    snprintf(ret, LIMIT_TEXT_SIZE,
             "no more processes and threads: the user may have %s (RLIMIT_NPROC; raise it with "
             "ulimit -Hu or LimitNPROC=), the cgroup %s (pids.max; TasksMax=)",
             own, group);
}

static bool is_infinite(int resource)
{
    struct rlimit limit;
    return getrlimit((__rlimit_resource_t)resource, &limit) == 0 && limit.rlim_cur == RLIM_INFINITY;
}

bool limit_has_memory(void)
{
    return !is_infinite(RLIMIT_AS) || !is_infinite(RLIMIT_DATA);
}

static void memory(char *ret)
{
    char space[VALUE_SIZE], data[VALUE_SIZE];
    if (!limit_has_memory()) {
        snprintf(ret, LIMIT_TEXT_SIZE,
                 "the host or the cgroup (memory.max) has none left, or the request is larger than "
                 "all it has; the process itself has no limit (RLIMIT_AS, RLIMIT_DATA)");
        return;
    }
    value_of(RLIMIT_AS, space);
    value_of(RLIMIT_DATA, data);
    snprintf(ret, LIMIT_TEXT_SIZE,
             "a process may have %s bytes of address space and %s of data (RLIMIT_AS, RLIMIT_DATA; "
             "raise them with ulimit -Hv, -Hd); else the host or the cgroup (memory.max) has none "
             "left",
             space, data);
}

static void file_size(char *ret)
{
    char value[VALUE_SIZE];
    if (is_infinite(RLIMIT_FSIZE)) {
        snprintf(ret, LIMIT_TEXT_SIZE,
                 "its file system has no files that large; the process itself has no limit "
                 "(RLIMIT_FSIZE)");
        return;
    }
    value_of(RLIMIT_FSIZE, value);
    snprintf(ret, LIMIT_TEXT_SIZE,
             "a process may make files of %s bytes (RLIMIT_FSIZE; raise that with ulimit -Hf or "
             "LimitFSIZE= and start hypefs anew); else its file system has no larger ones",
             value);
}

static const struct {
    int code;
    const char *words;          /* NULL: */
    void (*explain)(char *ret); /* at least LIMIT_TEXT_SIZE bytes */
} limits[] = {
    {EMFILE, NULL, descriptors},
    {ENFILE, NULL, host_files},
    {EAGAIN, NULL, processes},
    {ENOMEM, NULL, memory},
    {EFBIG, NULL, file_size},
    {ENOSPC, "its file system has no room or no inodes left: df and df -i of the store tell which",
     NULL},
    {EDQUOT, "the user's quota on its file system is used up: quota -s tells it", NULL},
    {EROFS, "its file system is mounted read-only: mount -o remount,rw", NULL},
    {EMLINK,
     "its file system allows one file no more hard links: remove forks of this image, or take a "
     "snapshot anew",
     NULL},
};

static size_t find(int code)
{
    size_t i = 0;
    while (i < array_length(limits) && limits[i].code != code)
        i++;
    return i;
}

bool limit_is(int code)
{
    return find(code) < array_length(limits);
}

bool limit_is_room(int code)
{
    return code == ENOSPC || code == EDQUOT;
}

int limit_named(const char *words)
{
    for (size_t i = 0; i < array_length(limits); i++)
        if (strstr(words, strerrordesc_np(limits[i].code)))
            return limits[i].code;
    return 0;
}

int limit_or_io(int r)
{
    return limit_is(-r) ? r : -EIO;
}

void limit_explain(int code, char ret[static LIMIT_TEXT_SIZE])
{
    size_t i = find(code);
    ret[0] = 0;
    if (i == array_length(limits))
        return;
    if (limits[i].words)
        snprintf(ret, LIMIT_TEXT_SIZE, "%s", limits[i].words);
    else
        limits[i].explain(ret);
}
