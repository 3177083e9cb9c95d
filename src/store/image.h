/* SPDX-License-Identifier: MIT */
/*
 * image: the memory image of a snapshot or of an instance in standby, and the kept list of what was
 * found in it (the file "mailboxes.json" beside the file "memory"):
 *
 *     image "size=… inode=… mtime=…"   of the file "memory" when it was scanned
 *     state "size=… inode=… mtime=…"   of the file "state" at that time; may be missing
 *     found { … }                      scan_json
 *     accepted { at, files [ … ] }     when somebody accepted it, and which changes; may be missing
 *
 * If size, inode or mtime of the image or of its state differ from the list's, it was changed: all
 * that needs it fails with EIO until somebody accepts it (image_accept), which scans it again. (A
 * state that is missing, or no file, is left to who loads it.) An image that has no list at all, as
 * one that somebody made by hand, is scanned when it is seen first.
 *
 * A thread of its own reads the list, or scans; until then image_index() says so. It counts a
 * reference of the image, so that nobody waits for a scan but the end of the daemon.
 *
 * Locks: image.writing, then image.lock, then image_scans.lock; with the latter two nothing is
 * called.
 */
#ifndef HYPEFS_STORE_IMAGE_H
#define HYPEFS_STORE_IMAGE_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <cjson/cJSON.h>

#include "mailbox/scan.h"
#include "store/store.h"
#include "util/error.h"
#include "util/file_key.h"

/* A text by which an image is known: size, inode, mtime of "memory" (given) and "state". */
enum { IMAGE_KEY_SIZE = 2 * FILE_KEY_SIZE };
void image_key(int directory_fd, const struct stat *memory, char ret[IMAGE_KEY_SIZE]);

/* What was found in an image; constant once made. Counted references. */
struct image_index {
    atomic_uint references;
    struct scan scan;
    char key[IMAGE_KEY_SIZE];                         /* of the image that was scanned, */
    char memory[FILE_KEY_SIZE], state[FILE_KEY_SIZE]; /* and of its files; "": there is no state */
    cJSON *accepted;                                  /* NULL: nobody had to vouch for it */
};

struct image_index *image_index_ref(struct image_index *index);
void image_index_unref(struct image_index *index);

/* Of what was found in that file (-1: of no image), or in the memory of a VM. Takes the scan, also
 * when it fails. ENOMEM, EIO. */
int image_index_create(int fd, struct scan *scan, struct image_index **ret, struct error *err);

/* For image.c: */
extern const char image_memory_name[], image_index_name[];
/* The kept list. ENOENT: there is none; EIO: it is of another image, or damaged. */
int image_index_read(int directory_fd, struct image_index **ret, struct error *err);
int image_index_save(int directory_fd, const struct image_index *index, struct error *err);
/* Scans the image, without keeping the list. */
int image_index_scan(int directory_fd, scan_progress *progress, void *context,
                     struct image_index **ret, struct error *err);
/* How the files "memory", given, and "state" differ from the kept list; "" if they do not. */
void image_tell_changes(int directory_fd, const cJSON *json, const struct stat *memory,
                        char ret_memory[FILE_KEY_CHANGE_SIZE],
                        char ret_state[FILE_KEY_CHANGE_SIZE]);
/* EIO: the kept list knows a "state", and there is none now. */
int image_check_state(int directory_fd, const cJSON *json, struct error *err);
/* ESHUTDOWN, in words. */
int image_stopping(struct error *err);

/* The image is complete: makes "memory" of the directory read-only. A file that has other links is
 * left as it is: hypefs import --link may have taken it from somebody. */
int image_seal(int directory_fd, struct error *err);

/* Scans "memory" of the directory and writes "mailboxes.json" (fsynced). Returns a reference.
 * ESHUTDOWN as soon as *stop (may be NULL) is true. */
int image_scan(int directory_fd, const atomic_bool *stop, struct image_index **ret,
               struct error *err);

/* Was the list made of that very file, and has it not changed since? */
bool image_index_is_of(const struct image_index *index, int fd);

/* The same as image_scan() of an image that another one has become. Only what has changed is
 * scanned, if what it is now can be told from that. */
int image_scan_changed(int directory_fd, const struct scan_base *base, const atomic_bool *stop,
                       struct image_index **ret, struct error *err);

/* As image_scan(), unless there is a kept list: then that is it, or EIO if it does not fit. */
int image_load_or_scan(int directory_fd, const atomic_bool *stop, struct image_index **ret,
                       struct error *err);

/* EIO if the image is not the one that its kept list is of, or gone; 0 too if there is no list. */
int image_check(int directory_fd, struct error *err);

/* Is the image still the one that the list is of? */
bool image_is(int directory_fd, const struct image_index *index);

/* As image_scan(); ECANCELED as soon as `progress` (may be NULL) says so. */
int image_scan_with(int directory_fd, scan_progress *progress, void *context,
                    struct image_index **ret, struct error *err);

/* The threads of one daemon that read lists and scan. */
struct image_scans {
    pthread_mutex_t lock;
    pthread_cond_t ended;
    unsigned running;
    atomic_bool stop;
    void (*scanned)(void *context); /* what is known of an image has changed; without locks */
    void (*warn)(void *context, const char *text);
    void *context; /* of these two */
};

void image_scans_init(struct image_scans *scans, void (*scanned)(void *context),
                      void (*warn)(void *context, const char *text), void *context);
/* They end with ESHUTDOWN, soon, and no new one begins. */
void image_scans_stop(struct image_scans *scans);
/* The same, and waits until none runs: neither function will be called any more. */
void image_scans_wait(struct image_scans *scans);
void image_scans_finish(struct image_scans *scans);

/* errnos of image_index(): what is being done to find the list out. */
enum { IMAGE_READING = EALREADY, IMAGE_SCANNING = EINPROGRESS };

/* An attempt to find the list out, under way or failed. */
struct image_attempt {
    char key[IMAGE_KEY_SIZE]; /* of the image */
    struct error failure;     /* code 0: none */
};

/* Counted references. Those of 10,000 snapshots are in memory at once. */
struct image {
    atomic_uint references;
    int directory_fd; /* owned; constant once others know it; -1: image_rest() */
    int kind_fd;      /* of image_rest(), borrowed, with what tells that directory from others: */
    struct statx_timestamp born; /* all zeros where the file system does not know it */
    struct file_id directory;
    struct image_scans *scans; /* borrowed; constant */
    char name[STORE_ID_MAX + 16];
    atomic_bool dropped;
    pthread_mutex_t writing; /* the list; not once it is dropped */
    pthread_mutex_t lock;
    pthread_cond_t changed;        /* `finding` or `dropped` */
    struct image_index *index;     /* NULL until known */
    int finding;                   /* 0, or what a thread is doing: IMAGE_READING, IMAGE_SCANNING */
    struct image_attempt *attempt; /* owned; the last one, unless it has succeeded */
};

/* Takes the descriptor, also when it fails. `name` is for complaints, "snapshots/ID". */
int image_create(int directory_fd, const char *kind, const char *id, struct image_scans *scans,
                 struct image **ret, struct error *err);
/* NULL is fine. */
void image_unref(struct image *image);

/* From here on it has a descriptor only while somebody uses it: there may be 10,000. Its directory
 * lies in that one, which stays open, under the id. Nobody else knows it yet. */
void image_rest(struct image *image, int kind_fd);
/* Of its directory, for the caller to close. EIO: that is not there any more. */
int image_open(const struct image *image, struct error *err);
/* Does its directory lie at its place, if it rests? ENOENT: nothing does; EBUSY: another one does.
 */
int image_check_place(const struct image *image);

/* Its snapshot or instance is removed: who waits gets ENODEV, and a scan ends soon. */
void image_drop(struct image *image);
/* The same; when it returns, nothing is written into the directory any more. */
void image_remove(struct image *image);

/* Returns a reference to the list that fits the image as it is now. IMAGE_READING, for a moment, or
 * IMAGE_SCANNING: it is being found out, `scanned` will be called. ENODEV: dropped. EIO and others:
 * there is no readable image, or it is not the one that the list is of. A look that failed is not
 * tried again until the image is another one or somebody waits for it. */
int image_index(struct image *image, struct image_index **ret, struct error *err);

/* The same, but waits: ECANCELED if `stop` (may be NULL) is true, also after an image_wake(). */
int image_index_wait(struct image *image, const atomic_bool *stop, struct image_index **ret,
                     struct error *err);
void image_wake(struct image *image);

/* The image must have that many bytes: EIO. It is scanned anew, and what is there now is what it is
 * to be from then on. `files` is an array with a line of text for each file that somebody vouches
 * for; the image's is added if it has changed. `stop` as of image_index_wait(). */
int image_accept(struct image *image, const atomic_bool *stop, uint64_t bytes, cJSON *files,
                 struct error *err);

#endif
