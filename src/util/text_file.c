/* SPDX-License-Identifier: MIT */
#include "util/text_file.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"

int text_file_read(int fd, size_t max, char **ret, size_t *ret_size)
{
    struct stat file;
    if (fstat(fd, &file) < 0)
        return -errno;
    if (!S_ISREG(file.st_mode))
        return -EINVAL;
    if ((size_t)file.st_size > max)
        return -EFBIG;
    size_t size = (size_t)file.st_size;
    auto_free char *text = malloc(size + 1);
    if (!text)
        return -ENOMEM;
    ssize_t got = pread(fd, text, size, 0);
    if (got < 0 || (size_t)got != size)
        return got < 0 ? -errno : -EIO;
    text[size] = '\0';
    *ret = steal_pointer(text);
    *ret_size = size;
    return 0;
}

int text_file_write(int fd, const char *text, size_t size)
{
    while (size > 0) {
        ssize_t put = write(fd, text, size);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return -errno;
        text += put;
        size -= (size_t)put;
    }
    return 0;
}
