/* SPDX-License-Identifier: MIT */
#include "util/page_set.h"

#include <errno.h>
#include <stdlib.h>

int page_set_create(uint64_t bytes, struct page_set *ret, struct error *err)
{
    const uint64_t pages = bytes / PAGE_SET_PAGE + (bytes % PAGE_SET_PAGE != 0);
    uint8_t *bits = calloc((size_t)(pages / 8 + 1), 1);
    if (!bits)
        return error_set(err, ENOMEM, "out of memory");
    *ret = (struct page_set){.bits = bits, .pages = pages};
    return 0;
}

void page_set_finish(struct page_set *set)
{
    free(set->bits);
    *set = (struct page_set){0};
}

static bool has(const struct page_set *set, uint64_t page)
{
    return page < set->pages && (set->bits[page / 8] & 1U << page % 8);
}

bool page_set_has(const struct page_set *set, uint64_t offset)
{
    return has(set, offset / PAGE_SET_PAGE);
}

uint64_t page_set_bytes(const struct page_set *set)
{
    uint64_t pages = 0;
    for (uint64_t i = 0; i < (set->pages + 7) / 8; i++)
        pages += (unsigned)__builtin_popcount(set->bits[i]);
    return pages * PAGE_SET_PAGE;
}

void page_set_add(struct page_set *set, uint64_t offset, uint64_t size)
{
    if (size == 0)
        return;
    const uint64_t last = (offset + size - 1) / PAGE_SET_PAGE;
    for (uint64_t page = offset / PAGE_SET_PAGE; page <= last && page < set->pages; page++)
        set->bits[page / 8] |= (uint8_t)(1U << page % 8);
}

bool page_set_next(const struct page_set *set, uint64_t from, uint64_t most, uint64_t *ret_start,
                   uint64_t *ret_size)
{
    uint64_t page = from / PAGE_SET_PAGE;
    while (page < set->pages && !has(set, page))
        page += page % 8 == 0 && set->bits[page / 8] == 0 ? 8 : 1;
    if (page >= set->pages)
        return false;
    *ret_start = page * PAGE_SET_PAGE;
    *ret_size = 0;
    while (*ret_size < most && has(set, page++))
        *ret_size += PAGE_SET_PAGE;
    return true;
}
