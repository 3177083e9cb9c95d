/* SPDX-License-Identifier: MIT */
#include "util/meminfo.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/cleanup.h"

static bool read_kib(const char *text, const char *name, unsigned long long *ret)
{
    const char *at = strstr(text, name);
    if (!at)
        return false;
    char *end;
    at += strlen(name);
    *ret = strtoull(at, &end, 10);
    return end != at;
}

int meminfo_available(const char *path, int *ret_percent, struct error *err)
{
    char text[4096];
    unsigned long long total, available;
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t size = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
    if (size < 0)
        return error_io(err, errno, "%s cannot be read", path);
    text[size] = 0;
    if (!read_kib(text, "MemTotal:", &total) || !read_kib(text, "MemAvailable:", &available) ||
        total == 0 || available > total)
        return error_set(err, EINVAL, "%s does not have MemTotal and MemAvailable", path);
    *ret_percent = (int)((long double)available * 100 / (long double)total);
    return 0;
}
