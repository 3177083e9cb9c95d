/* SPDX-License-Identifier: MIT */
/* page_set: some of the pages of a memory image. A bit for each, so 32 KiB for each GiB. One thread
 * at a time. */
#ifndef HYPEFS_UTIL_PAGE_SET_H
#define HYPEFS_UTIL_PAGE_SET_H

#include <stdbool.h>
#include <stdint.h>

#include "util/error.h"

enum { PAGE_SET_PAGE = 4096 };

struct page_set {
    uint8_t *bits; /* owned; a multiple of 8 */
    uint64_t pages;
    bool complete; /* for who fills it to say: nothing is missing in it */
};

/* An empty one for an image of so many bytes. -ENOMEM. */
int page_set_create(uint64_t bytes, struct page_set *ret, struct error *err);
/* A zeroed struct is fine. */
void page_set_finish(struct page_set *set);

/* All pages in which these bytes lie; what lies behind the image is left out. */
void page_set_add(struct page_set *set, uint64_t offset, uint64_t size);
bool page_set_has(const struct page_set *set, uint64_t offset);
/* Of all pages in it. */
uint64_t page_set_bytes(const struct page_set *set);

/* The next bytes at or behind `from`, a page's beginning, that are in it one after another, at most
 * `most` of them, whole pages. False: there are none. */
bool page_set_next(const struct page_set *set, uint64_t from, uint64_t most, uint64_t *ret_start,
                   uint64_t *ret_size);

#endif
