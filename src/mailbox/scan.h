/* SPDX-License-Identifier: MIT */
/* scan: finds candidates for mailboxes in a raw memory image, and keeps the list. A candidate is a
 * marker (mailbox/frame.h) that lies, with its sequence and length fields, within one 4096-byte
 * page of the image: what lies beyond it there need not be next to it for the guest. All else that
 * begins with the magic is noise: counted, skipped. What may be written is decided later
 * (mailbox/deliver.h). Images are untrusted. Holes (SEEK_DATA) are skipped. No locks; any
 * thread. */
#ifndef HYPEFS_MAILBOX_SCAN_H
#define HYPEFS_MAILBOX_SCAN_H

#include <cjson/cJSON.h>

#include "mailbox/frame.h"
#include "util/error.h"
#include "util/page_set.h"

enum { SCAN_CANDIDATES_MAX = 4096 };

struct candidate {
    struct frame_marker marker;
    uint64_t offset;   /* of the magic, in bytes from the image's start */
    uint32_t capacity; /* payload bytes up to the page's, the frame's or the image's end, or to the
                          tail of a declared one */
    bool page_aligned;
    bool declared; /* and armed, page-aligned and whole (frame.h) */
    bool pending;  /* sequence is not 0 */
    bool clean; /* the page behind the marker: zeros, an earlier payload or a refusal, and zeros */
    bool first; /* a fork candidate whose name none before it has */
};

struct scan {
    struct candidate *candidates; /* by offset; owned */
    size_t count;
    bool truncated;      /* there were more than SCAN_CANDIDATES_MAX */
    uint64_t noise;      /* places with a magic that are no candidates */
    uint64_t data_bytes; /* that were read: the image without its holes */
};

/* Called now and then while scanning, by the caller's thread, with bytes of the image done, each
 * time more; may be NULL. False: stop. */
typedef bool scan_progress(void *context, uint64_t done, uint64_t size);

/* Reads the whole image, with up to SCAN_PARTS_MAX threads that end before it returns, and moves
 * the file's offset. EIO, and what pread gives, EINVAL if it is not a regular file, EFBIG over 512
 * TiB, ECANCELED if `progress` said so. Overwrites *ret. */
int scan_image(int fd, scan_progress *progress, void *context, struct scan *ret, struct error *err);

/* Adds candidates of a page of an image, or less, to *scan. `offset` is the page's. -ENOMEM. */
int scan_page(const uint8_t *bytes, size_t size, uint64_t offset, struct scan *scan);

/* The same of any number of pages; of the last one there may be only a part. */
int scan_pages(const uint8_t *bytes, size_t size, uint64_t offset, struct scan *scan);

enum { SCAN_PARTS_MAX = 4 };

/* One list of several, each by offset, that have no page in common; as if all had been found by one
 * scan, which sets `first` (below). -ENOMEM. */
int scan_merge(const struct scan parts[], size_t count, struct scan *ret);

/* What scan_image() finds in an image that another one, `base`, has become, from what it found in
 * that: nothing but the pages in `changed` differs. Only these are read, of both. EAGAIN if it
 * cannot be told from that, or not faster: the whole image has to be scanned. */
struct scan_base {
    int fd;
    const struct scan *found;
    const struct page_set *changed;
};
int scan_changed(int fd, const struct scan_base *base, scan_progress *progress, void *context,
                 struct scan *ret, struct error *err);

/* What lies in memory that is read through a function: in the pages of `set`, and elsewhere what
 * `base` (NULL: nothing) says. The pages may change meanwhile. */
struct scan_pages_of {
    int (*read)(void *context, uint64_t offset, void *bytes, size_t size, struct error *err);
    void *context;
    uint64_t size; /* bytes, of the whole memory */
    const struct page_set *set;
    const struct scan *base;
};
int scan_set_of(const struct scan_pages_of *pages, scan_progress *progress, void *context,
                struct scan *ret, struct error *err);

/* NULL and a zeroed struct are fine. */
void scan_finish(struct scan *scan);

/* Sets `first` of all, as scan_image() and scan_from_json() do: names may be thousands. -ENOMEM. */
int scan_mark_first(struct scan *scan);

/* The list as JSON, to be kept beside an image, and back. The text from the store is untrusted:
 * EINVAL for anything that scan_to_json() could not have written for an image of that size. */
cJSON *scan_to_json(const struct scan *scan);
int scan_from_json(const cJSON *json, uint64_t image_size, struct scan *ret, struct error *err);

/* Which candidates are declared, by their offsets. It is apart from the list, to which a version
 * that does not know it would object; NULL is what such a version has written: none is known. */
cJSON *scan_declared_to_json(const struct scan *scan);
int scan_declared_from_json(const cJSON *json, struct scan *scan, struct error *err);

/*
 * What a user sees of all fork candidates with that name:
 * { "name", "payload_capacity", "markers": [ { "token" or "token_hex", "offset", "page_aligned",
 *   "state": "armed"|"pending" } ] }
 * payload_capacity is the least of the candidates that a delivery would use: the page-aligned ones
 * if there are any. With the name "": of all network candidates, and there is no "name" in it.
 * Returns owned; NULL if there is no such candidate.
 */
cJSON *scan_describe(const struct scan *scan, const char *name);

/* The index of the next candidate at or behind `from` that is the first of its name; scan->count
 * when there is none: for walking the names in order of their first offset. */
size_t scan_next_name(const struct scan *scan, size_t from);

#endif
