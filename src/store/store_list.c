/* SPDX-License-Identifier: MIT */
/* Which entries a store has, and whether that may have changed. */
#include "store/store.h"

#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#include "util/directory.h"

struct listing {
    int (*each)(void *context, const char *name, struct error *err);
    void *context;
};

/* A directory_visit. Hidden entries are left out, and lost+found of a file system of its own. */
static int list_entry(void *context, int kind_fd, const char *name, struct error *err)
{
    const struct listing *listing = context;
    bool passed_over = name[0] == '.' || strcmp(name, "lost+found") == 0;
    (void)kind_fd;
    return passed_over ? 0 : listing->each(listing->context, name, err);
}

int store_list(const struct store *store, enum store_kind kind,
               int (*each)(void *context, const char *name, struct error *err), void *context,
               struct error *err)
{
    struct listing listing = {each, context};
    int r = directory_walk(store->kind_fd[kind], ".", list_entry, &listing, err);
    return r < 0 ? error_prefix(err, r, "cannot list %s/ in the store", store_kind_names[kind]) : 0;
}

/* A change shows in the ctime, unless it comes within a tick of the file system's clock
 * after the one before: so young times do not count. That clock ticks 100 times a second, or later
 * on a processor that is held up: so it is asked itself. A file system that keeps whole seconds
 * shows it by its times. */
bool store_seen_changed(struct store_seen *seen, const struct stat *st)
{
    enum { GRAIN_MS = 100, COARSE_GRAIN_MS = 2000 };
    struct timespec now;
    bool same = seen->reliable && seen->changed.tv_sec == st->st_ctim.tv_sec &&
                seen->changed.tv_nsec == st->st_ctim.tv_nsec;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    seen->changed = st->st_ctim;
    int64_t age_ms = (int64_t)(now.tv_sec - st->st_ctim.tv_sec) * 1000 +
                     (now.tv_nsec - st->st_ctim.tv_nsec) / 1000000;
    seen->reliable = age_ms > (st->st_ctim.tv_nsec ? GRAIN_MS : COARSE_GRAIN_MS);
    return !same;
}

bool store_may_have_changed(const struct store *store, enum store_kind kind,
                            struct store_seen *seen)
{
    struct stat st;
    return fstat(store->kind_fd[kind], &st) == 0 && store_seen_changed(seen, &st);
}
