/* SPDX-License-Identifier: MIT */
#include "cli/input.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/cleanup.h"

int input_read(const char *path, size_t max, char **ret, size_t *ret_size, struct error *err)
{
    const bool is_file = path && strcmp(path, "-") != 0;
    auto_close int opened = is_file ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    const int fd = is_file ? opened : STDIN_FILENO;
    const char *name = is_file ? path : "standard input";
    auto_free char *text = malloc(max + 1);
    size_t size = 0;
    ssize_t n = 1;
    if (is_file && opened < 0)
        return error_errno(err, errno, "%s", path);
    if (!text)
        return error_set(err, ENOMEM, "out of memory");
    while (size <= max && n != 0) {
        n = read(fd, text + size, max + 1 - size);
        if (n < 0 && errno != EINTR)
            break;
        size += n > 0 ? (size_t)n : 0;
    }
    if (n < 0 && errno != EINTR)
        return error_errno(err, errno, "%s", name);
    if (size > max)
        return error_set(err, EFBIG, "%s has more than %zu KiB", name, max >> 10);
    text[size] = '\0';
    *ret = steal_pointer(text);
    *ret_size = size;
    return 0;
}
