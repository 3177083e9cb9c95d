/* SPDX-License-Identifier: MIT */
/*
 * store: the directory in which snapshots and instances lie.
 *
 *     STORE/lock                     held by the one daemon that uses the store
 *     STORE/snapshots/<id>/          snapshot.json memory state mailboxes.json
 *     STORE/instances/<id>/          instance.json fork.json vmm.log console.log
 *     STORE/instances/<id>/run/      memory state mailboxes.json …: what its VMM works with
 *     STORE/{snapshots,instances}/.new-*    being written; .gone-*: being removed
 *
 * An entry is written under a hidden name, and appears and disappears whole, by one rename. Who
 * writes one holds a lock (flock) on its directory: what nobody holds is a leftover. Directories
 * are 0700 and files 0600 (the process's umask is 077). What the files mean is said by snapshot.h
 * and the instance layer. What is read from a store is untrusted. Any thread.
 */
#ifndef HYPEFS_STORE_STORE_H
#define HYPEFS_STORE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include <cjson/cJSON.h>

#include "util/error.h"
#include "util/file_key.h"

enum {
    STORE_ID_MAX = 63,               /* bytes of an id */
    STORE_FILE_MAX = 8 * 1024 * 1024 /* bytes of a JSON file of ours */
};

enum store_kind { STORE_SNAPSHOTS, STORE_INSTANCES, STORE_KINDS };

/* names.c: */
extern const char *const store_kind_names[STORE_KINDS]; /* "snapshots", "instances" */
/* [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])? and not "new" or "commit". */
bool store_id_valid(const char *id);
/* The same in words, for messages. */
extern const char store_id_rule[];
/* EINVAL, with what an id is. */
int store_check_id(const char *id, struct error *err);

/* `bytes` random bytes as lower-case hex with a NUL: 2*bytes+1 bytes of `ret`. */
void store_random_hex(char *ret, size_t bytes);

/* A name for what nobody is to see yet, or any more. */
enum { STORE_HIDDEN_SIZE = 32 };
#define STORE_NEW ".new-"
#define STORE_GONE ".gone-"
void store_hidden_name(const char *prefix, char ret[static STORE_HIDDEN_SIZE]);

/* Now, as RFC 3339 in UTC with milliseconds. */
enum { STORE_TIME_SIZE = 32 };
void store_time_now(char ret[STORE_TIME_SIZE]);

enum { STORE_ROOT_FILES = 2 };

struct store_notes;
struct eraser;

struct store {
    int lock_fd;                                 /* -1: attached */
    struct store_notes *notes;                   /* owned; NULL: attached */
    struct eraser *eraser;                       /* owned; NULL: attached */
    int kind_fd[STORE_KINDS];                    /* the two directories */
    struct file_id root_files[STORE_ROOT_FILES]; /* lock and format; of no file: attached */
};

/* Who gets warnings: `warn` of unpublished entries, just before they are removed, and, until the
 * store is closed, of what cannot be erased; `warn_user` of lack of room. */
struct store_leftovers {
    bool (*describe)(enum store_kind kind, int directory_fd, struct error *ret); /* in words */
    void (*warn)(void *context, const char *text);
    void (*warn_user)(void *context, const char *text);
    void *context;
};

/* Opens the store, makes what is missing and takes its lock: EBUSY, with the other's pid, while
 * another daemon holds it. EOPNOTSUPP for another format (format.h); EOPNOTSUPP, or the errno of a
 * limit, for an unfit file system (probe.h). One without room is opened, too, for its VMs may run.
 * Removes what a killed daemon left half-done, and ends VMMs in it; what cannot be removed is in
 * the notes. `leftovers` may be NULL. `insecure`: no EPERM to root where others can change it. */
int store_open(const char *path, bool insecure, const struct store_leftovers *leftovers,
               struct store *ret, struct error *err);
/* The same for who adds an entry while a daemon may run: takes no lock, and removes nothing. */
int store_attach(const char *path, bool insecure, struct store *ret, struct error *err);
/* Waits for what is being erased (erase.h). The lock's file then holds no pid any more. */
void store_close(struct store *store);

/* An entry that nobody sees yet. Zero it before use, fd -1. */
struct store_entry {
    int kind_fd; /* borrowed */
    char name[STORE_HIDDEN_SIZE];
    int fd;     /* the entry's directory; -1: nothing to discard */
    int run_fd; /* of an instance: the directory "run" in that */
};

int store_entry_create(const struct store *store, enum store_kind kind, struct store_entry *ret,
                       struct error *err) __attribute__((warn_unused_result));
/* EEXIST for an id of that directory, with the path: an unreadable entry is not shown. */
int store_taken(int kind_fd, const char *id, struct error *err);
/* EEXIST if the id is taken. If it is to last, the entry's files are fsynced by who wrote them, and
 * directories here; else a power cut may leave whatever the kernel has written by then. */
int store_entry_publish(struct store_entry *entry, const char *id, bool lasts, struct error *err)
    __attribute__((warn_unused_result));
/* Removes what was not published, and closes. */
void store_entry_discard(struct store_entry *entry);

/* Returns the descriptor of an entry's directory, or -errno. */
int store_open_entry(const struct store *store, enum store_kind kind, const char *id,
                     struct error *err);
/* The same of the directory in it in which an instance's VMM works. Instances of version 0.1 have
 * none: then, once more of that of the entry. */
int store_open_run(int entry_fd, struct error *err);

/* Is it that directory that lies at the id? ENOENT: nothing does; EBUSY: something else does. */
int store_entry_check(const struct store *store, enum store_kind kind, const char *id,
                      struct file_id directory, struct error *err)
    __attribute__((warn_unused_result));
/* Takes the entry out of sight at once, without waiting for the disk, and returns the hidden name
 * for store_erase(). ENOENT, EBUSY: it is not that directory, so it stays. */
int store_unpublish(const struct store *store, enum store_kind kind, const char *id,
                    struct file_id directory, char ret_hidden[STORE_HIDDEN_SIZE], struct error *err)
    __attribute__((warn_unused_result));
/* Has a hidden entry's files deleted, by a thread (erase.h). When it returns, the disk has it that
 * the entry is out of sight. A failure is one to be told of, and no more: the next start tries
 * again. */
int store_erase(const struct store *store, enum store_kind kind, const char *hidden,
                struct error *err) __attribute__((warn_unused_result));
/* Where the store's file system has little room for so much, waits for that of what was removed
 * before (eraser_await_room()). */
void store_await_room(const struct store *store, uint64_t bytes);
/* Returns when what was removed before has been erased. */
void store_await_erased(const struct store *store);

/* store_list.c: */
/* Calls `each` for every entry (its name may be no id) but hidden ones, until the first failure. */
int store_list(const struct store *store, enum store_kind kind,
               int (*each)(void *context, const char *name, struct error *err), void *context,
               struct error *err) __attribute__((warn_unused_result));

/* When a file or a directory of the store was read last. */
struct store_seen {
    struct timespec changed; /* its ctime then, */
    bool reliable;           /* and whether every later change shows in it */
};
/* May it have changed since the last call? Zero `seen` before the first. */
bool store_seen_changed(struct store_seen *seen, const struct stat *st);
/* May an entry have come or gone? Likewise. */
bool store_may_have_changed(const struct store *store, enum store_kind kind,
                            struct store_seen *seen);

/* store_json.c: */
/* Writes `name` in the directory as a whole (temporary file, fsync, rename), safe from a power cut.
 * ENOMEM for a tree that is not whole (json.h). After a failure the old file is there; but if the
 * directory could not be synced, the new one is, and a power cut may bring the old one back. */
int store_write_json(int directory_fd, const char *name, const cJSON *json, struct error *err)
    __attribute__((warn_unused_result));
/* The same, but a power cut may bring the old one back, unless the entry is published next. */
int store_stage_json(int directory_fd, const char *name, const cJSON *json, struct error *err)
    __attribute__((warn_unused_result));
/* The same, but does not wait for the disk: a power cut may leave any part of it. */
int store_cache_json(int directory_fd, const char *name, const cJSON *json, struct error *err)
    __attribute__((warn_unused_result));
/* What makes the second the first. */
int store_sync_json(int directory_fd, const char *name, struct error *err);
/* Removes what was left of that by who was killed. Nobody may be writing. */
void store_tidy_entry(int directory_fd);
/* Parsed and known to be an object. Returns owned. */
int store_read_json(int directory_fd, const char *name, cJSON **ret, struct error *err);

#endif
