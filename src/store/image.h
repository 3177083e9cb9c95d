/* SPDX-License-Identifier: MIT */
/*
 * image: the memory image of a snapshot or of an instance in standby, and the kept list of what was
 * found in it (the file "mailboxes.json" beside the file "memory").
 *
 * The list belongs to an image of a certain size, inode and mtime. When those no longer fit (a
 * backup was restored), the image is scanned again in a thread of its own; until that has ended
 * image_index() says EINPROGRESS. Locks: image.lock, innermost; nothing is called with it held.
 */
#ifndef HYPEFS_STORE_IMAGE_H
#define HYPEFS_STORE_IMAGE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <time.h>

#include "mailbox/scan.h"
#include "util/error.h"

/* What was found in an image; constant once made. Counted references. */
struct image_index {
    atomic_uint references;
    struct scan scan;
    uint64_t size, inode;
    struct timespec mtime;
};

struct image_index *image_index_ref(struct image_index *index);
void image_index_unref(struct image_index *index);

/* Scans "memory" of the directory and writes "mailboxes.json" (fsynced). Returns a reference.
 * ESHUTDOWN as soon as *stop (may be NULL) is true. */
int image_scan(int directory_fd, const atomic_bool *stop, struct image_index **ret,
               struct error *err);

/* The same; ECANCELED as soon as `progress` (may be NULL) says so. */
int image_scan_with(int directory_fd, scan_progress *progress, void *context,
                    struct image_index **ret, struct error *err);

/* What tells that an image is still the one that was looked at: size, inode and mtime in a text. */
enum { IMAGE_KEY_SIZE = 128 };
void image_key(const struct stat *st, char ret[IMAGE_KEY_SIZE]);

struct image {
    pthread_mutex_t lock;
    pthread_cond_t changed;    /* a scan or its thread ended */
    int directory_fd;          /* owned */
    struct image_index *index; /* NULL until known */
    bool scanning;
    unsigned threads;     /* of scans, that still use this struct */
    struct error failure; /* of the last scan; code 0: none */
    void (*scanned)(void *context);
    void *context;
    const atomic_bool *stop; /* borrowed */
    atomic_bool dropped;     /* what it is of is removed: a scan under way ends */
};

/* Takes the descriptor. `scanned` is called, without locks, when a scan in the background ended;
 * `stop` ends one under way. */
void image_init(struct image *image, int directory_fd, void (*scanned)(void *context),
                void *context, const atomic_bool *stop);
/* Ends a scan under way, soon, with ENODEV: nobody needs it any more. Any thread. */
void image_drop(struct image *image);
/* Waits for a scan that is under way. */
void image_finish(struct image *image);

/*
 * Returns a reference to the list that fits the image as it is now. EINPROGRESS: it is being made;
 * `scanned` will be called. EIO and others: there is no readable image.
 */
int image_index(struct image *image, struct image_index **ret, struct error *err);

/* The same, but waits. */
int image_index_wait(struct image *image, struct image_index **ret, struct error *err);

#endif
