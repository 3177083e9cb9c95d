/* SPDX-License-Identifier: MIT */
#include "util/meminfo.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/cleanup.h"

/* The number behind a name. */
static bool read_field(const char *text, const char *name, unsigned long long *ret)
{
    const char *at = strstr(text, name);
    if (!at)
        return false;
    char *end;
    at += strlen(name);
    *ret = strtoull(at, &end, 10);
    return end != at;
}

/* A file of the kernel's, which is no larger than what is of use of it. -errno. */
static int read_text(const char *path, char *ret, size_t room)
{
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t size = fd >= 0 ? read(fd, ret, room - 1) : -1;
    ret[size > 0 ? size : 0] = 0;
    return size < 0 ? -errno : 0;
}

int meminfo_read(const char *path, struct meminfo *ret, struct error *err)
{
    char text[4096];
    unsigned long long total, available;
    int r = read_text(path, text, sizeof text);
    if (r < 0)
        return error_io(err, -r, "%s cannot be read", path);
    if (!read_field(text, "MemTotal:", &total) || !read_field(text, "MemAvailable:", &available) ||
        total == 0 || available > total)
        return error_set(err, EINVAL, "%s does not have MemTotal and MemAvailable", path);
    *ret = (struct meminfo){.total = total * 1024, .available = available * 1024};
    return 0;
}

int meminfo_available(const char *path, int *ret_percent, struct error *err)
{
    struct meminfo memory;
    int r = meminfo_read(path, &memory, err);
    if (r == 0)
        *ret_percent = (int)((long double)memory.available * 100 / (long double)memory.total);
    return r;
}

/* A number in a file of the cgroup; of memory.max that is "max" where there is no limit. */
static bool read_number(const char *directory, const char *name, uint64_t *ret)
{
    char path[PATH_MAX + 32], text[64], *end;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    if (read_text(path, text, sizeof text) < 0)
        return false;
    *ret = strtoull(text, &end, 10);
    return end != text;
}

static uint64_t reclaimable(const char *directory)
{
    static const char *const names[] = {"\nactive_file ", "\ninactive_file "};
    char path[PATH_MAX + 32], text[8192];
    unsigned long long sum = 0, bytes;
    snprintf(path, sizeof path, "%s/memory.stat", directory);
    if (read_text(path, text, sizeof text) < 0)
        return 0;
    for (size_t i = 0; i < array_length(names); i++)
        if (read_field(text, names[i], &bytes))
            sum += bytes;
    return sum;
}

static bool read_limit(const char *directory, uint64_t enough, struct meminfo *ret)
{
    uint64_t max, current;
    if (!read_number(directory, "memory.max", &max) ||
        !read_number(directory, "memory.current", &current))
        return false;
    *ret = (struct meminfo){.total = max, .available = max > current ? max - current : 0};
    if (ret->available < enough)
        ret->available += reclaimable(directory);
    if (ret->available > max)
        ret->available = max;
    return true;
}

bool meminfo_cgroup(const char *self, const char *root, uint64_t enough, struct meminfo *ret)
{
    char text[4096], directory[PATH_MAX];
    bool found = false;
    if (read_text(self, text, sizeof text) < 0)
        return false;
    char *path = strncmp(text, "0::/", 4) == 0 ? text : strstr(text, "\n0::/"); /* that of v2 */
    if (!path)
        return false;
    path = strchr(path, '/');
    path[strcspn(path, "\n")] = 0;
    for (;;) { /* up to the root of what is seen of the tree */
        struct meminfo limit;
        snprintf(directory, sizeof directory, "%s%s", root, path);
        if (read_limit(directory, enough, &limit) && (!found || limit.available < ret->available)) {
            *ret = limit;
            found = true;
        }
        char *slash = strrchr(path, '/');
        if (!slash)
            return found;
        *slash = 0;
    }
}
