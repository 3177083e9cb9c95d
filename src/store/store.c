/* SPDX-License-Identifier: MIT */
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "store/erase.h"
#include "store/format.h"
#include "store/notes.h"
#include "store/probe.h"
#include "store/store_lock.h"
#include "store/strays.h"
#include "util/cleanup.h"
#include "util/directory.h"
#include "util/fault.h"
#include "util/limit.h"

/* An entry that is written is locked, so that it is not taken for a leftover: an import needs no
 * lock of the store, and a daemon may start meanwhile. True too where a file system has no locks on
 * directories; false if somebody else holds it. */
static bool lock_entry(int fd)
{
    return flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;
}

static bool begins(const char *name, const char *prefix)
{
    return strncmp(name, prefix, strlen(prefix)) == 0;
}

struct removal {
    const struct store *store;
    enum store_kind kind;
    const struct store_leftovers *leftovers;
    struct strays strays;
};

static void tell_leftover(const struct removal *removal, const char *name, int directory_fd)
{
    const struct store_leftovers *leftovers = removal->leftovers;
    struct error text;
    if (leftovers && begins(name, STORE_NEW) &&
        leftovers->describe(removal->kind, directory_fd, &text))
        leftovers->warn(leftovers->context, text.text);
}

static int end_strays(const struct removal *removal, int directory_fd, struct error *err)
{
    auto_close int run = store_open_run(directory_fd, err);
    return run < 0 ? run : strays_end(&removal->strays, run, 0, err);
}

/* A directory_visit. What cannot be removed now is a leftover for the next start, too. */
static int remove_leftover(void *context, int kind_fd, const char *name, struct error *err)
{
    const struct removal *removal = context;
    struct error why;
    if (!begins(name, STORE_NEW) && !begins(name, STORE_GONE))
        return 0;
    auto_close int inside = openat(kind_fd, name, O_DIRECTORY | O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (inside < 0)
        return errno == EMFILE || errno == ENFILE || errno == ENOMEM
                   ? error_errno(err, errno, "cannot open %s in the store", name)
                   : 0;
    if (!lock_entry(inside)) /* it is being written */
        return 0;
    int r = end_strays(removal, inside, &why);
    if (r == 0)
        tell_leftover(removal, name, inside);
    if (r < 0 || erase_directory(kind_fd, name, &why) < 0)
        store_notes_left(removal->store->notes, removal->kind, name, &why);
    return 0;
}

static int remove_leftovers(const struct store *store, const struct store_leftovers *leftovers,
                            struct error *err)
{
    struct removal removal = {.store = store, .leftovers = leftovers};
    int r = strays_find(&removal.strays, err);
    for (int kind = 0; kind < STORE_KINDS && r == 0; kind++) {
        removal.kind = (enum store_kind)kind;
        r = directory_walk(store->kind_fd[kind], ".", remove_leftover, &removal, err);
        if (r < 0)
            error_prefix(err, r, "%s/ in the store", store_kind_names[kind]);
    }
    strays_finish(&removal.strays);
    return r;
}

static int make_path(const char *path, struct error *err)
{
    auto_free char *copy = strdup(path);
    if (!copy)
        return error_set(err, ENOMEM, "out of memory");
    for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        if (mkdir(copy, 0755) < 0 && errno != EEXIST)
            return error_errno(err, errno, "cannot make the directory %s", copy);
        *slash = '/';
    }
    if (mkdir(copy, 0700) < 0 && errno != EEXIST)
        return error_errno(err, errno, "cannot make the store %s", path);
    return 0;
}

static int open_kind(int store_fd, const char *name, struct error *err)
{
    if (mkdirat(store_fd, name, 0700) < 0 && errno != EEXIST)
        return error_errno(err, errno, "cannot make %s/ in the store", name);
    int fd = openat(store_fd, name, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    return fd >= 0 ? fd : error_errno(err, errno, "cannot open %s/ in the store", name);
}

/* The directory, made if it is missing. What root does not trust it does not write to. */
static int open_directory(const char *path, bool insecure, struct store *store, int *ret_fd,
                          struct error *err)
{
    *store = (struct store){.lock_fd = -1, .kind_fd = {-1, -1}};
    int r = make_path(path, err);
    if (r < 0)
        return r;
    *ret_fd = open(path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    if (*ret_fd < 0)
        return error_errno(err, errno, "cannot open the store %s", path);
    return geteuid() == 0 && !insecure ? probe_trust(*ret_fd, path, err) : 0;
}

static int open_kinds(int store_fd, struct store *store, struct error *err)
{
    int r = 0;
    for (int kind = 0; kind < STORE_KINDS && r >= 0; kind++)
        r = store->kind_fd[kind] = open_kind(store_fd, store_kind_names[kind], err);
    return r < 0 ? r : 0;
}

/* Somebody may have removed the file "lock" of a daemon that runs, and the next has made another. A
 * file system that has no locks for directories is used without. */
static int lock_again(const struct store *store, const char *path, struct error *err)
{
    if (flock(store->kind_fd[STORE_INSTANCES], LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK)
        return 0;
    return error_set(err, EBUSY,
                     "the store %s is in use by another hypefs, whose file \"lock\" somebody has "
                     "removed: stop that one and wait until it has ended",
                     path);
}

static int find_root_files(int store_fd, struct store *store, struct error *err)
{
    static const char *const names[STORE_ROOT_FILES] = {"lock", "format"};
    struct stat st;
    for (size_t i = 0; i < array_length(names); i++) {
        if (fstatat(store_fd, names[i], &st, AT_SYMLINK_NOFOLLOW) < 0) {
            if (errno == ENOENT) /* there was no room for it */
                continue;
            return error_errno(err, errno, "cannot stat %s in the store", names[i]);
        }
        store->root_files[i] = file_id_of(&st);
    }
    return 0;
}

/* What finds no room at the start can wait, or is asked again at the next start. */
static int go_on_without_room(const struct store_leftovers *leftovers, int r, struct error *err)
{
    if (!limit_is_room(-r))
        return r;
    error_append(err, "; the store is used all the same, but what needs room in it fails: make "
                      "some, by rmdir of instances and snapshots, say");
    if (leftovers && err)
        leftovers->warn_user(leftovers->context, err->text);
    if (err)
        *err = (struct error){0};
    return 0;
}

int store_open(const char *path, bool insecure, const struct store_leftovers *leftovers,
               struct store *ret, struct error *err)
{
    struct store store;
    auto_close int fd = -1;
    int r = open_directory(path, insecure, &store, &fd, err);
    if (r == 0)
        r = store.lock_fd = store_lock_take(fd, path, err);
    if (r >= 0)
        r = open_kinds(fd, &store, err);
    if (r == 0)
        r = lock_again(&store, path, err);
    if (r == 0)
        r = go_on_without_room(leftovers, format_claim(fd, path, err), err);
    if (r == 0)
        r = find_root_files(fd, &store, err);
    if (r == 0)
        r = go_on_without_room(leftovers,
                               probe_file_system(store.kind_fd[STORE_INSTANCES], path, err), err);
    if (r == 0)
        r = store_notes_create(&store.notes, err);
    if (r == 0)
        r = eraser_create(leftovers ? leftovers->warn : NULL, leftovers ? leftovers->context : NULL,
                          &store.eraser, err);
    if (r == 0)
        r = remove_leftovers(&store, leftovers, err);
    if (r < 0)
        store_close(&store);
    else
        *ret = store;
    return r;
}

int store_attach(const char *path, bool insecure, struct store *ret, struct error *err)
{
    struct store store;
    auto_close int fd = -1;
    int r = open_directory(path, insecure, &store, &fd, err);
    if (r == 0)
        r = open_kinds(fd, &store, err);
    if (r == 0)
        r = format_check(fd, path, err);
    if (r < 0)
        store_close(&store);
    else
        *ret = store;
    return r;
}

void store_close(struct store *store)
{
    eraser_destroy(steal_pointer(store->eraser));
    for (int kind = 0; kind < STORE_KINDS; kind++)
        if (store->kind_fd[kind] >= 0)
            close(steal_fd(&store->kind_fd[kind]));
    if (store->lock_fd >= 0)
        store_lock_give(steal_fd(&store->lock_fd));
    store_notes_destroy(steal_pointer(store->notes));
}

/* Makes a directory and locks it. EAGAIN: a daemon that starts was faster and removes it. */
static int create_directory(struct store_entry *entry, struct error *err)
{
    struct stat st;
    store_hidden_name(STORE_NEW, entry->name);
    if (mkdirat(entry->kind_fd, entry->name, 0700) < 0)
        return error_errno(err, errno, "cannot make a directory in the store");
    entry->fd = openat(entry->kind_fd, entry->name, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    fault_point(FAULT_ENTRY_MADE);
    if (entry->fd >= 0 && lock_entry(entry->fd) && fstat(entry->fd, &st) == 0 && st.st_nlink > 0)
        return 0;
    int code = entry->fd >= 0 || errno == ENOENT ? EAGAIN : errno;
    cleanup_close(&entry->fd);
    entry->fd = -1;
    unlinkat(entry->kind_fd, entry->name, AT_REMOVEDIR);
    return code == EAGAIN
               ? error_set(err, EAGAIN,
                           "a daemon that starts has removed a new directory of the store")
               : error_errno(err, code, "cannot open a new directory in the store");
}

static const char run_name[] = "run";

/* That it is there must be on the disk as soon as the entry is. */
static int create_run(struct store_entry *entry, struct error *err)
{
    if (mkdirat(entry->fd, run_name, 0700) < 0)
        return error_errno(err, errno, "cannot make a directory in the store");
    int r = entry->run_fd = store_open_run(entry->fd, err);
    return r < 0 ? r : 0;
}

static int create_entry(struct store_entry *entry, bool has_run, struct error *err)
{
    int r = create_directory(entry, err);
    if (r == 0 && has_run && (r = create_run(entry, err)) < 0)
        store_entry_discard(entry);
    return r;
}

int store_entry_create(const struct store *store, enum store_kind kind, struct store_entry *ret,
                       struct error *err)
{
    enum { TRIES = 3 };
    struct store_entry entry = {.kind_fd = store->kind_fd[kind], .fd = -1, .run_fd = -1};
    int r = -EAGAIN;
    for (int i = 0; i < TRIES && r == -EAGAIN; i++)
        r = create_entry(&entry, kind == STORE_INSTANCES, err);
    if (r == 0)
        *ret = entry;
    return r;
}

int store_taken(int kind_fd, const char *id, struct error *err)
{
    char link[40], path[PATH_MAX] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", kind_fd);
    if (readlink(link, path, sizeof path - 1) < 0)
        path[0] = 0;
    return error_set(err, EEXIST,
                     "the id %s is taken in the store by %s/%s: use another id; if nothing of that "
                     "name is shown, that entry cannot be read (the file error at the root of the "
                     "mount says why) and may be moved away",
                     id, path, id);
}

static bool is_there(int kind_fd, const char *id)
{
    struct stat st;
    return fstatat(kind_fd, id, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Where the file system cannot be told to replace nothing (NFS, say), a directory still replaces
 * no file, and no directory that has something in it, as all entries have. */
static int rename_to_new(int kind_fd, const char *name, const char *id)
{
    if (renameat2(kind_fd, name, kind_fd, id, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP)
        return -errno;
    if (is_there(kind_fd, id))
        return -EEXIST;
    if (renameat(kind_fd, name, kind_fd, id) == 0)
        return 0;
    int code = errno;
    return is_there(kind_fd, id) ? -EEXIST : -code;
}

static void close_entry(struct store_entry *entry)
{
    close(steal_fd(&entry->fd));
    if (entry->run_fd >= 0)
        close(steal_fd(&entry->run_fd));
}

int store_entry_publish(struct store_entry *entry, const char *id, bool lasts, struct error *err)
{
    fault_point(FAULT_PUBLISH_FSYNC);
    if (lasts && fsync(entry->fd) < 0)
        return error_errno(err, errno, "cannot write the store's entry for %s", id);
    fault_point(FAULT_PUBLISH_RENAME);
    int r = rename_to_new(entry->kind_fd, entry->name, id);
    if (r < 0)
        return r == -EEXIST ? store_taken(entry->kind_fd, id, err)
                            : error_errno(err, -r, "cannot publish %s", id);
    fault_point(FAULT_PUBLISH_RENAMED);
    if (lasts && fsync(entry->kind_fd) < 0) {
        /* It might be gone after a power cut: so it is not there now either. */
        r = error_errno(err, errno, "cannot publish %s", id);
        if (renameat(entry->kind_fd, id, entry->kind_fd, entry->name) < 0)
            error_append(err, "; and this cannot be undone: it will be there after the next start");
        return r;
    }
    fault_point(FAULT_PUBLISHED);
    close_entry(entry);
    return 0;
}

void store_entry_discard(struct store_entry *entry)
{
    if (entry->fd < 0)
        return;
    close_entry(entry);
    (void)erase_directory(entry->kind_fd, entry->name, NULL); /* else the next start does */
}

int store_open_entry(const struct store *store, enum store_kind kind, const char *id,
                     struct error *err)
{
    int fd = openat(store->kind_fd[kind], id, O_DIRECTORY | O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    return fd >= 0 ? fd
                   : error_errno(err, errno, "cannot open %s/%s in the store",
                                 store_kind_names[kind], id);
}

int store_open_run(int entry_fd, struct error *err)
{
    const int flags = O_DIRECTORY | O_RDONLY | O_NOFOLLOW | O_CLOEXEC;
    int fd = openat(entry_fd, run_name, flags);
    if (fd < 0 && errno == EACCES) /* a VMM may have taken the right away */
        fd = directory_open_own(entry_fd, run_name);
    if (fd < 0 && errno == ENOENT)
        fd = openat(entry_fd, ".", flags);
    return fd >= 0 ? fd : error_errno(err, errno, "cannot open the directory run in the store");
}

int store_entry_check(const struct store *store, enum store_kind kind, const char *id,
                      struct file_id directory, struct error *err)
{
    struct stat st;
    if (fstatat(store->kind_fd[kind], id, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return error_errno(err, errno, "cannot stat %s/%s in the store", store_kind_names[kind],
                           id);
    return file_id_equal(file_id_of(&st), directory)
               ? 0
               : error_set(err, EBUSY,
                           "%s/%s in the store is not the directory that is shown, but another "
                           "one, which somebody put there: move it away (mv), or mount again, and "
                           "it is shown instead",
                           store_kind_names[kind], id);
}

int store_unpublish(const struct store *store, enum store_kind kind, const char *id,
                    struct file_id directory, char ret_hidden[STORE_HIDDEN_SIZE], struct error *err)
{
    char name[STORE_HIDDEN_SIZE];
    int r = store_entry_check(store, kind, id, directory, err);
    if (r < 0)
        return r;
    store_hidden_name(STORE_GONE, name);
    fault_point(FAULT_UNPUBLISH_RENAME);
    if (renameat(store->kind_fd[kind], id, store->kind_fd[kind], name) < 0)
        return error_errno(err, errno, "cannot remove %s/%s from the store", store_kind_names[kind],
                           id);
    fault_point(FAULT_UNPUBLISH_RENAMED);
    if (store_entry_check(store, kind, name, directory, NULL) < 0) { /* replaced just now */
        rename_to_new(store->kind_fd[kind], name, id);
        return store_entry_check(store, kind, id, directory, err);
    }
    memcpy(ret_hidden, name, sizeof name);
    return 0;
}

int store_erase(const struct store *store, enum store_kind kind, const char *name,
                struct error *err)
{
    /* That it is out of sight, before anything of it is gone. */
    if (fsync(store->kind_fd[kind]) < 0)
        return error_errno(err, errno,
                           "what was removed still takes room in %s/ of the store, until the next "
                           "start of the daemon removes it: %s cannot be removed",
                           store_kind_names[kind], name);
    eraser_add(store->eraser, store->kind_fd[kind], name, store_kind_names[kind]);
    return 0;
}

void store_await_room(const struct store *store, uint64_t bytes)
{
    eraser_await_room(store->eraser, store->kind_fd[STORE_INSTANCES], bytes);
}

void store_await_erased(const struct store *store)
{
    eraser_await(store->eraser);
}
