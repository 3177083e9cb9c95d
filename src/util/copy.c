/* SPDX-License-Identifier: MIT */
#include "util/copy.h"

#include <errno.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/process.h"

enum { CHUNK_SIZE = 1 << 20 };

static int write_all(int fd, const char *bytes, size_t size, off_t offset)
{
    for (size_t done = 0; done < size;) {
        ssize_t put = pwrite(fd, bytes + done, size - done, offset + (off_t)done);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return put < 0 ? -errno : -EIO;
        done += (size_t)put;
    }
    return 0;
}

/* The bytes from `offset` to `end`, in which there is no hole. */
static int copy_range(int from_fd, int to_fd, int cancel_fd, off_t offset, off_t end, char *buffer)
{
    while (offset < end) {
        size_t size = end - offset < CHUNK_SIZE ? (size_t)(end - offset) : CHUNK_SIZE;
        if (cancel_fd >= 0 && process_poll(&cancel_fd, 1, 0) > 0)
            return -ECANCELED;
        ssize_t got = pread(from_fd, buffer, size, offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? -errno : -EIO; /* it has become shorter */
        int r = write_all(to_fd, buffer, (size_t)got, offset);
        if (r < 0)
            return r;
        offset += got;
    }
    return 0;
}

static int copy_data(int from_fd, int to_fd, int cancel_fd, off_t size)
{
    auto_free char *buffer = malloc(CHUNK_SIZE);
    if (!buffer)
        return -ENOMEM;
    for (off_t offset = 0; offset < size;) {
        off_t data = lseek(from_fd, offset, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            break; /* a hole up to the end */
        off_t hole = data < 0 ? -1 : lseek(from_fd, data, SEEK_HOLE);
        if (hole < 0)
            return -errno;
        int r = copy_range(from_fd, to_fd, cancel_fd, data, hole < size ? hole : size, buffer);
        if (r < 0)
            return r;
        offset = hole;
    }
    return ftruncate(to_fd, size) < 0 ? -errno : 0;
}

int copy_file(int from_fd, int to_fd, int cancel_fd, struct error *err)
{
    struct stat file;
    if (ioctl(to_fd, FICLONE, from_fd) == 0)
        return 0;
    if (fstat(from_fd, &file) < 0)
        return error_errno(err, errno, "the size of the file cannot be read");
    int r = copy_data(from_fd, to_fd, cancel_fd, file.st_size);
    if (r == -ECANCELED)
        return error_set(err, ECANCELED, "given up while copying");
    return r < 0 ? error_errno(err, -r, "copying failed") : 0;
}
