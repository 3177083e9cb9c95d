/* SPDX-License-Identifier: MIT */
#include "faults.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include "util/process.h"

struct faults faults;
_Thread_local bool faults_armed;

enum { SITES_MAX = 1024, TURNS = 2 };

/* Where calls came from, and how often. */
static struct {
    const void *from;
    unsigned turns;
} sites[SITES_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of all but `faults_armed` */

/* What each record, and all else that is written once, goes through: from one place in the code. */
static bool is_of_the_store(const char *name, const char *file)
{
    static const char *const names[] = {"fsync",  "renameat", "renameat2",
                                        "linkat", "mkdirat",  "ftruncate64"};
    static const char suffix[] = ".json.tmp";
    size_t size = file ? strlen(file) : 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return size >= sizeof suffix - 1 && strcmp(file + size - (sizeof suffix - 1), suffix) == 0;
}

static bool is_counted(const void *from)
{
    size_t i = 0;
    while (i < SITES_MAX && sites[i].from && sites[i].from != from)
        i++;
    assert(i < SITES_MAX);
    sites[i].from = from;
    return sites[i].turns++ < TURNS;
}

void faults_begin(unsigned fail_at)
{
    pthread_mutex_lock(&lock);
    faults.fail_at = fail_at;
    faults.calls = 0;
    faults.failed = NULL;
    faults.name[0] = 0;
    memset(sites, 0, sizeof sites);
    pthread_mutex_unlock(&lock);
}

bool faults_lost_data(void)
{
    return faults.failed &&
           (strcmp(faults.failed, "fsync") == 0 || strcmp(faults.failed, "write") == 0);
}

static bool fails_at(const char *name, const void *from, int code, const char *file)
{
    if (!faults_armed || (faults.only && strcmp(name, faults.only) != 0) ||
        (faults.memory && code != ENOMEM))
        return false;
    pthread_mutex_lock(&lock);
    bool counts = faults.memory || is_of_the_store(name, file) || is_counted(from);
    bool now = counts && ++faults.calls == faults.fail_at;
    if (now)
        faults.failed = name;
    pthread_mutex_unlock(&lock);
    if (now)
        errno = code;
    return now;
}

static bool fails(const char *name, const void *from, int code)
{
    return fails_at(name, from, code, NULL);
}

#define FAILING(type, name, parameters, arguments, code, result)                                   \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters;                                                                 \
    type __wrap_##name parameters                                                                  \
    {                                                                                              \
        return fails(#name, __builtin_return_address(0), code) ? (result)                          \
                                                               : __real_##name arguments;          \
    }

FAILING(void *, malloc, (size_t size), (size), ENOMEM, NULL)
FAILING(void *, calloc, (size_t count, size_t size), (count, size), ENOMEM, NULL)
FAILING(void *, realloc, (void *old, size_t size), (old, size), ENOMEM, NULL)
FAILING(void *, reallocarray, (void *old, size_t count, size_t size), (old, count, size), ENOMEM,
        NULL)
FAILING(char *, strdup, (const char *text), (text), ENOMEM, NULL)
FAILING(char *, strndup, (const char *text, size_t size), (text, size), ENOMEM, NULL)
FAILING(ssize_t, read, (int fd, void *bytes, size_t size), (fd, bytes, size), EIO, -1)
FAILING(ssize_t, pread64, (int fd, void *bytes, size_t size, off_t at), (fd, bytes, size, at), EIO,
        -1)
FAILING(ssize_t, pwrite64, (int fd, const void *bytes, size_t size, off_t at),
        (fd, bytes, size, at), EIO, -1)
FAILING(int, ftruncate64, (int fd, off_t size), (fd, size), ENOSPC, -1)
FAILING(int, fsync, (int fd), (fd), EIO, -1)
FAILING(int, flock, (int fd, int operation), (fd, operation), ENOLCK, -1)
FAILING(struct dirent64 *, readdir64, (DIR * dir), (dir), EIO, NULL)
FAILING(DIR *, fdopendir, (int fd), (fd), ENOMEM, NULL)
FAILING(FILE *, fopen64, (const char *path, const char *mode), (path, mode), EMFILE, NULL)
FAILING(int, renameat, (int from_fd, const char *from, int to_fd, const char *to),
        (from_fd, from, to_fd, to), ENOSPC, -1)
FAILING(int, renameat2, (int from_fd, const char *from, int to_fd, const char *to, unsigned flags),
        (from_fd, from, to_fd, to, flags), ENOSPC, -1)
FAILING(int, linkat, (int from_fd, const char *from, int to_fd, const char *to, int flags),
        (from_fd, from, to_fd, to, flags), ENOSPC, -1)
FAILING(int, mkdirat, (int fd, const char *name, mode_t mode), (fd, name, mode), ENOSPC, -1)
FAILING(int, pidfd_open, (pid_t pid, unsigned flags), (pid, flags), EMFILE, -1)
FAILING(int, pipe2, (int ends[2], int flags), (ends, flags), EMFILE, -1)
FAILING(int, eventfd, (unsigned value, int flags), (value, flags), EMFILE, -1)
FAILING(int, epoll_ctl, (int epoll, int operation, int fd, struct epoll_event *event),
        (epoll, operation, fd, event), ENOSPC, -1)
FAILING(int, posix_spawnp,
        (pid_t * pid, const char *file, const posix_spawn_file_actions_t *actions,
         const posix_spawnattr_t *attributes, char *const *argv, char *const *environment),
        (pid, file, actions, attributes, argv, environment), EAGAIN, EAGAIN)

ssize_t __real_write(int fd, const void *bytes, size_t size);
ssize_t __wrap_write(int fd, const void *bytes, size_t size);
ssize_t __wrap_write(int fd, const void *bytes, size_t size)
{
    char link[32], path[4096] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (faults_armed && readlink(link, path, sizeof path - 1) < 0)
        path[0] = 0;
    return fails_at("write", __builtin_return_address(0), EIO, path)
               ? -1
               : __real_write(fd, bytes, size);
}

int __real_unlinkat(int fd, const char *name, int flags);
int __wrap_unlinkat(int fd, const char *name, int flags);

/* Of what is not there it is no failure. */
int __wrap_unlinkat(int fd, const char *name, int flags)
{
    struct stat st;
    if (faults_armed && faults.unlinking)
        faults.unlinking(fd, name);
    if (faults_armed && fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return -1;
    if (!fails("unlinkat", __builtin_return_address(0), EIO))
        return __real_unlinkat(fd, name, flags);
    snprintf(faults.name, sizeof faults.name, "%s", name);
    return -1;
}

int __real_openat64(int directory_fd, const char *name, int flags, ...);
int __wrap_openat64(int directory_fd, const char *name, int flags, ...);
int __wrap_openat64(int directory_fd, const char *name, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    return fails_at("openat64", __builtin_return_address(0), EMFILE, name)
               ? -1
               : __real_openat64(directory_fd, name, flags, mode);
}

int __real_open64(const char *name, int flags, ...);
int __wrap_open64(const char *name, int flags, ...);
int __wrap_open64(const char *name, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    return fails("open64", __builtin_return_address(0), EMFILE) ? -1
                                                                : __real_open64(name, flags, mode);
}

int __real_fcntl64(int fd, int command, ...);
int __wrap_fcntl64(int fd, int command, ...);
int __wrap_fcntl64(int fd, int command, ...)
{
    va_list args;
    va_start(args, command);
    int argument = va_arg(args, int);
    va_end(args);
    return fails("fcntl64", __builtin_return_address(0), EMFILE)
               ? -1
               : __real_fcntl64(fd, command, argument);
}

int __wrap_asprintf(char **ret, const char *format, ...) __attribute__((format(printf, 2, 3)));
int __wrap_asprintf(char **ret, const char *format, ...)
{
    va_list args;
    if (fails("asprintf", __builtin_return_address(0), ENOMEM))
        return -1;
    va_start(args, format);
    int size = vasprintf(ret, format, args);
    va_end(args);
    return size;
}

struct start {
    void *(*run)(void *argument);
    void *argument;
};

static void *run_armed(void *argument)
{
    struct start start = *(struct start *)argument;
    free(argument);
    faults_armed = true;
    return start.run(start.argument);
}

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*run)(void *argument), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*run)(void *argument), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*run)(void *argument), void *argument)
{
    if (fails("pthread_create", __builtin_return_address(0), EAGAIN))
        return EAGAIN;
    if (!faults.threads)
        return __real_pthread_create(thread, attributes, run, argument);
    struct start *start = __real_malloc(sizeof *start);
    assert(start);
    *start = (struct start){run, argument};
    int code = __real_pthread_create(thread, attributes, run_armed, start);
    if (code)
        free(start);
    return code;
}

/* What it cannot find out is not told, and nobody fails. */
struct process_times __real_process_times(pid_t pid);
struct process_times __wrap_process_times(pid_t pid);
struct process_times __wrap_process_times(pid_t pid)
{
    bool armed = faults_armed;
    faults_armed = false;
    struct process_times times = __real_process_times(pid);
    faults_armed = armed;
    return times;
}
