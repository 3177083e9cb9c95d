/* SPDX-License-Identifier: MIT */
/* cleanup: variables that release what they hold when they go out of scope, and steal_*() for
 * handing it on. Header only; no module state. */
#ifndef HYPEFS_UTIL_CLEANUP_H
#define HYPEFS_UTIL_CLEANUP_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static inline void cleanup_free(void *pointer)
{
    free(*(void **)pointer);
}

static inline void cleanup_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

static inline void cleanup_closedir(DIR **dir)
{
    if (*dir)
        closedir(*dir);
}

static inline void cleanup_fclose(FILE **file)
{
    if (*file)
        fclose(*file);
}

#define auto_free __attribute__((cleanup(cleanup_free)))
#define auto_close __attribute__((cleanup(cleanup_close)))
#define auto_closedir __attribute__((cleanup(cleanup_closedir)))
#define auto_fclose __attribute__((cleanup(cleanup_fclose)))

/* Frees what may hold a secret: nothing of it stays in memory. NULL is fine. */
static inline void free_wiped(void *bytes, size_t size)
{
    if (bytes)
        explicit_bzero(bytes, size);
    free(bytes);
}

static inline int steal_fd(int *fd)
{
    int stolen = *fd;
    *fd = -1;
    return stolen;
}

#define steal_pointer(pointer)                                                                     \
    ({                                                                                             \
        __typeof__(pointer) *place_ = &(pointer);                                                  \
        __typeof__(pointer) stolen_ = *place_;                                                     \
        *place_ = NULL;                                                                            \
        stolen_;                                                                                   \
    })

#define array_length(array) (sizeof(array) / sizeof((array)[0]))

#endif
