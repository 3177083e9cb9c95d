/* SPDX-License-Identifier: MIT */
/*
 * hypefs-readonly: laid over a QEMU older than 8.2 with LD_PRELOAD.
 *
 * Such a QEMU can only open the file of a private, writable memory for reading and writing, and a
 * guest that has taken it over could write into an image that all forks share. Here every open of
 * the file that HYPEFS_READONLY names, by the very path that QEMU was given, is made one for
 * reading. A private mapping needs no more than that.
 *
 * When the file was opened the two variables leave the environment, so that programs which QEMU
 * might start inherit neither. A script that stands before QEMU opens no image, and hands them on.
 * The library needs nothing but the C library, and is built without sanitizers, as QEMU is.
 */
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

static bool is_image(const char *path)
{
    const char *image = getenv("HYPEFS_READONLY");
    return image && path && strcmp(path, image) == 0;
}

/* hypefs puts this library in front of what the environment had. */
static void leave_environment(void)
{
    const char *preloaded = getenv("LD_PRELOAD");
    const char *others = preloaded ? strchr(preloaded, ':') : NULL;
    if (others)
        setenv("LD_PRELOAD", others + 1, 1);
    else
        unsetenv("LD_PRELOAD");
    unsetenv("HYPEFS_READONLY");
}

static int open_file(int directory, const char *path, int flags, mode_t mode)
{
    if (!is_image(path))
        return (int)syscall(SYS_openat, directory, path, flags, mode);
    flags &= ~(O_ACCMODE | O_CREAT | O_EXCL | O_TRUNC);
    int fd = (int)syscall(SYS_openat, directory, path, flags | O_RDONLY, 0);
    if (fd >= 0)
        leave_environment();
    return fd;
}

/* The mode is there only where the flags say so. */
#define FORWARD(directory, path, flags)                                                            \
    va_list rest;                                                                                  \
    va_start(rest, flags);                                                                         \
    mode_t mode = (flags) & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;                    \
    va_end(rest);                                                                                  \
    return open_file(directory, path, flags, mode)

EXPORT int open(const char *path, int flags, ...)
{
    FORWARD(AT_FDCWD, path, flags);
}

EXPORT int open64(const char *path, int flags, ...)
{
    FORWARD(AT_FDCWD, path, flags);
}

EXPORT int openat(int directory, const char *path, int flags, ...)
{
    FORWARD(directory, path, flags);
}

EXPORT int openat64(int directory, const char *path, int flags, ...)
{
    FORWARD(directory, path, flags);
}

/* What _FORTIFY_SOURCE makes of the calls without a mode. */
EXPORT int __open_2(const char *path, int flags);
EXPORT int __open_2(const char *path, int flags)
{
    return open_file(AT_FDCWD, path, flags, 0);
}

EXPORT int __open64_2(const char *path, int flags);
EXPORT int __open64_2(const char *path, int flags)
{
    return open_file(AT_FDCWD, path, flags, 0);
}

EXPORT int __openat_2(int directory, const char *path, int flags);
EXPORT int __openat_2(int directory, const char *path, int flags)
{
    return open_file(directory, path, flags, 0);
}

EXPORT int __openat64_2(int directory, const char *path, int flags);
EXPORT int __openat64_2(int directory, const char *path, int flags)
{
    return open_file(directory, path, flags, 0);
}
