/* SPDX-License-Identifier: MIT */
#include "store/erase.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <utlist.h>

#include "util/cleanup.h"
#include "util/directory.h"
#include "util/fault.h"
#include "util/process.h"
#include "util/thread.h"
#include "util/timing.h"

struct erasure {
    int parent_fd;
    const char *where;
    struct erasure *next;
    char name[];
};

struct eraser {
    void (*warn)(void *context, const char *text);
    void *context;
    pthread_t thread;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    struct erasure *list; /* the first is under way */
    uint64_t added, done;
    double stop_at_ms; /* none is begun from then on; 0: the end has not come */
};

/* A directory_visit. A probe or a VMM that was killed may have left a directory of files. */
static int remove_file(void *context, int directory_fd, const char *name, struct error *err)
{
    (void)context;
    fault_point(FAULT_ERASE);
    return directory_remove(directory_fd, name, err);
}

int erase_directory(int parent_fd, const char *name, struct error *err)
{
    enum { TRIES = 3 };
    int r = 0;
    for (int i = 0; i < TRIES && r == 0; i++) {
        r = directory_walk(parent_fd, name, remove_file, NULL, err);
        fault_point(FAULT_ERASE);
        if (r == 0 && unlinkat(parent_fd, name, AT_REMOVEDIR) == 0)
            break;
        if (r == 0 && (errno != ENOTEMPTY || i + 1 == TRIES))
            r = error_errno(err, errno, "%s cannot be removed", name);
    }
    fault_point(FAULT_ERASED);
    return r;
}

static void erase(const struct eraser *eraser, int parent_fd, const char *name, const char *where)
{
    struct error why;
    int r = erase_directory(parent_fd, name, &why);
    if (r == 0 || !eraser->warn)
        return;
    error_prefix(&why, r,
                 "what was removed still takes room in %s/ of the store, until the next start of "
                 "the daemon removes it",
                 where);
    eraser->warn(eraser->context, why.text);
}

static bool is_late(const struct eraser *eraser)
{
    return eraser->stop_at_ms > 0 && process_now_ms() >= eraser->stop_at_ms;
}

static void *run(void *argument)
{
    struct eraser *eraser = argument;
    auto_lock(&eraser->lock);
    for (;;) {
        struct erasure *first = eraser->list;
        if (!first && eraser->stop_at_ms > 0)
            return NULL;
        if (!first) {
            pthread_cond_wait(&eraser->changed, &eraser->lock);
            continue;
        }
        bool late = is_late(eraser);
        pthread_mutex_unlock(&eraser->lock);
        if (!late)
            erase(eraser, first->parent_fd, first->name, first->where);
        pthread_mutex_lock(&eraser->lock);
        LL_DELETE(eraser->list, first);
        free(first);
        eraser->done++;
        pthread_cond_broadcast(&eraser->changed);
    }
}

static void finish(struct eraser *eraser)
{
    pthread_cond_destroy(&eraser->changed);
    pthread_mutex_destroy(&eraser->lock);
    free(eraser);
}

int eraser_create(void (*warn)(void *context, const char *text), void *context, struct eraser **ret,
                  struct error *err)
{
    struct eraser *eraser = calloc(1, sizeof *eraser);
    if (!eraser)
        return error_set(err, ENOMEM, "out of memory");
    eraser->warn = warn;
    eraser->context = context;
    pthread_mutex_init(&eraser->lock, NULL);
    pthread_cond_init(&eraser->changed, NULL);
    int r = thread_start(run, eraser, &eraser->thread, err);
    if (r < 0)
        finish(eraser);
    else
        *ret = eraser;
    return r;
}

void eraser_destroy(struct eraser *eraser)
{
    if (!eraser)
        return;
    pthread_mutex_lock(&eraser->lock);
    eraser->stop_at_ms = process_now_ms() + timing_ms(TIMING_ERASE);
    pthread_cond_broadcast(&eraser->changed);
    pthread_mutex_unlock(&eraser->lock);
    pthread_join(eraser->thread, NULL);
    finish(eraser);
}

void eraser_add(struct eraser *eraser, int parent_fd, const char *name, const char *where)
{
    struct erasure *erasure = calloc(1, sizeof *erasure + strlen(name) + 1);
    if (!erasure) {
        erase(eraser, parent_fd, name, where);
        return;
    }
    *erasure = (struct erasure){.parent_fd = parent_fd, .where = where};
    memcpy(erasure->name, name, strlen(name) + 1);
    auto_lock(&eraser->lock);
    LL_APPEND(eraser->list, erasure);
    eraser->added++;
    pthread_cond_broadcast(&eraser->changed);
}

void eraser_await(struct eraser *eraser)
{
    auto_lock(&eraser->lock);
    const uint64_t all = eraser->added;
    while (eraser->done < all)
        pthread_cond_wait(&eraser->changed, &eraser->lock);
}

/* Records, logs and drives take room beside what was asked for. */
static bool has_room(int directory_fd, uint64_t bytes)
{
    enum { MORE_MIB = 64, INODES = 1024, PART = 20 };
    struct statvfs fs;
    if (fstatvfs(directory_fd, &fs) < 0) /* whoever needs the room finds out */
        return true;
    const uint64_t available = (uint64_t)fs.f_bavail * fs.f_frsize;
    const uint64_t all = (uint64_t)fs.f_blocks * fs.f_frsize;
    const bool inodes = fs.f_files == 0 || fs.f_favail >= INODES; /* some have no number of them */
    return inodes && available >= all / PART && available >= bytes + ((uint64_t)MORE_MIB << 20);
}

void eraser_await_room(struct eraser *eraser, int directory_fd, uint64_t bytes)
{
    auto_lock(&eraser->lock);
    const uint64_t all = eraser->added;
    while (eraser->done < all && !has_room(directory_fd, bytes))
        pthread_cond_wait(&eraser->changed, &eraser->lock);
}
