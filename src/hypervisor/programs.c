/* SPDX-License-Identifier: MIT */
#include "hypervisor/programs.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/thread.h"

enum { KNOWN_MAX = 8 }; /* a mount has one program for each backend; the oldest goes first */

struct known {
    struct program program;
    struct stat file;
};

struct vmm_programs {
    pthread_mutex_t lock; /* of all that follows */
    struct known known[KNOWN_MAX];
    size_t count; /* that were ever put; the place is modulo KNOWN_MAX */
};

int vmm_programs_create(struct vmm_programs **ret, struct error *err)
{
    struct vmm_programs *programs = calloc(1, sizeof *programs);
    if (!programs)
        return error_set(err, ENOMEM, "no memory for what is known of VMM programs");
    pthread_mutex_init(&programs->lock, NULL);
    *ret = programs;
    return 0;
}

void vmm_programs_destroy(struct vmm_programs *programs)
{
    if (!programs)
        return;
    pthread_mutex_destroy(&programs->lock);
    free(programs);
}

static bool executable(const char *path, struct stat *ret)
{
    return stat(path, ret) == 0 && S_ISREG(ret->st_mode) && access(path, X_OK) == 0;
}

static bool search(const char *name, char ret[static PATH_MAX], struct stat *ret_file)
{
    const char *path = getenv("PATH");
    for (const char *part = path ? path : "/usr/bin:/bin"; *part;) {
        size_t length = strcspn(part, ":");
        int size = snprintf(ret, PATH_MAX, "%.*s/%s", (int)length, part, name);
        /* Only absolute folders: the VMM is started in another one than ours. */
        if (part[0] == '/' && size < PATH_MAX && executable(ret, ret_file))
            return true;
        part += length + (part[length] == ':');
    }
    return false;
}

static int locate(const char *binary, struct known *ret, struct error *err)
{
    char *path = ret->program.path;
    if (!strchr(binary, '/'))
        return search(binary, path, &ret->file)
                   ? 0
                   : error_set(err, EIO,
                               "%s is not in PATH: install it, or give hypefs its path",
                               binary);
    if (binary[0] == '/' && strlen(binary) < PATH_MAX)
        memcpy(path, binary, strlen(binary) + 1);
    else if (!realpath(binary, path))
        return error_io(err, errno, "%s", binary);
    if (executable(path, &ret->file))
        return 0;
    return error_set(err, EIO, "%s is not a program that can be executed", binary);
}

int vmm_program_check(const char *binary, struct error *err)
{
    struct known known;
    return locate(binary, &known, err);
}

static bool same(const struct known *a, const struct known *b)
{
    return strcmp(a->program.path, b->program.path) == 0 && a->file.st_dev == b->file.st_dev &&
           a->file.st_ino == b->file.st_ino && a->file.st_size == b->file.st_size &&
           a->file.st_mtim.tv_sec == b->file.st_mtim.tv_sec &&
           a->file.st_mtim.tv_nsec == b->file.st_mtim.tv_nsec;
}

static bool recall(struct vmm_programs *programs, struct known *wanted)
{
    bool found = false;
    auto_lock(&programs->lock);
    for (size_t i = 0; !found && i < KNOWN_MAX && i < programs->count; i++) {
        found = same(&programs->known[i], wanted);
        if (found)
            *wanted = programs->known[i];
    }
    return found;
}

static void keep(struct vmm_programs *programs, const struct known *known)
{
    auto_lock(&programs->lock);
    programs->known[programs->count++ % KNOWN_MAX] = *known;
}

int programs_find(struct vmm_programs *programs, const char *binary, program_probe *probe,
                  int cancel_fd, struct program *ret, struct error *err)
{
    struct known known = {0};
    int r = locate(binary, &known, err);
    if (r < 0)
        return r;
    if (!programs || !recall(programs, &known)) {
        r = probe(cancel_fd, &known.program, err);
        if (r < 0)
            return r;
        if (programs)
            keep(programs, &known);
    }
    *ret = known.program;
    return 0;
}
