/* SPDX-License-Identifier: MIT */
/*
 * scan_image: reads an image and scans it, in pieces, by as many threads as there are processors
 * for this process, but SCAN_PARTS_MAX. The caller's thread is one of them, and the only one that
 * calls `progress`; it begins alone, because others are no gain for a small image. Whoever has
 * scanned a piece takes the next one. If pieces fail, the error of the first of them in the image
 * counts: all before it were scanned.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mailbox/scan.h"
#include "util/cleanup.h"
#include "util/sparse.h"
#include "util/thread.h"

/* Small enough to be in the processor's cache when it is looked at. */
enum { PIECE_SIZE = 64 * FRAME_SIZE, ALONE_SIZE = 4 * PIECE_SIZE };
static_assert((int)FRAME_SIZE == (int)SPARSE_BLOCK, "what is no hole begins and ends with a page");

/* 512 TiB: offsets up to here keep all their digits in JSON. */
#define IMAGE_MAX (INT64_C(1) << 49)

/* An image that is scanned. */
struct work {
    int fd;
    uint64_t size;
    pthread_mutex_t lock; /* guards the following, and the file's offset */
    uint64_t next, end;   /* the next piece, and the end of the data in which that lies */
    uint64_t done;        /* bytes of the image, with holes */
    bool stop;
    uint64_t failed_at;
    struct error failure; /* code 0: none */
};

struct worker {
    struct work *work;
    pthread_t thread;
    uint8_t *bytes; /* PIECE_SIZE */
    struct scan found;
};

/* `passed` is the piece with the hole before it. At the end of an image it may be a hole only. */
struct piece {
    uint64_t at, passed;
    size_t size;
};

static int became_shorter(struct error *err)
{
    return error_set(err, EIO, "the image became shorter while it was read");
}

static int read_whole(int fd, uint8_t *bytes, size_t size, uint64_t offset, struct error *err)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = pread(fd, bytes + done, size - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_errno(err, errno, "cannot read the image at byte %" PRIu64, offset + done);
        if (n == 0)
            return became_shorter(err);
        done += (size_t)n;
    }
    return 0;
}

/* With the lock held. */
static void fail(struct work *work, uint64_t at, const struct error *why)
{
    if (work->failure.code == 0 || at < work->failed_at) {
        work->failure = *why;
        work->failed_at = at;
    }
    work->stop = true;
}

/* False: there is none, or none is to be begun any more. */
static bool take_piece(struct work *work, struct piece *ret)
{
    struct error why;
    auto_lock(&work->lock);
    const uint64_t from = work->next;
    if (work->stop || from == work->size)
        return false;
    if (from >= work->end &&
        sparse_next(work->fd, from, work->size, &work->next, &work->end, &why) < 0) {
        fail(work, from, &why);
        return false;
    }
    const uint64_t left = work->end - work->next;
    ret->at = work->next;
    ret->size = left < PIECE_SIZE ? (size_t)left : PIECE_SIZE;
    work->next += ret->size;
    ret->passed = work->next - from;
    return true;
}

static int scan_piece(struct worker *worker, const struct piece *piece, struct error *err)
{
    int r = read_whole(worker->work->fd, worker->bytes, piece->size, piece->at, err);
    if (r < 0)
        return r;
    r = scan_pages(worker->bytes, piece->size, piece->at, &worker->found);
    worker->found.data_bytes += piece->size;
    return r < 0 ? error_errno(err, -r, "cannot scan the image") : 0;
}

/* False: there is nothing more to do. */
static bool work_on(struct worker *worker, uint64_t *ret_done)
{
    struct work *work = worker->work;
    struct piece piece;
    struct error why;
    if (!take_piece(work, &piece))
        return false;
    int r = scan_piece(worker, &piece, &why);
    auto_lock(&work->lock);
    if (r < 0)
        fail(work, piece.at, &why);
    else
        *ret_done = work->done += piece.passed;
    return r == 0;
}

static void *help(void *argument)
{
    uint64_t done;
    while (work_on(argument, &done))
        ;
    return NULL;
}

static size_t processors(void)
{
    cpu_set_t set;
    /* It fails where there are more than such a set can name. */
    int count = sched_getaffinity(0, sizeof set, &set) < 0 ? SCAN_PARTS_MAX : CPU_COUNT(&set);
    return count < SCAN_PARTS_MAX ? (size_t)count : SCAN_PARTS_MAX;
}

/* Starts the workers from `*count` on; as many as can be had. */
static void start_helpers(struct worker *workers, size_t *count)
{
    for (const size_t wanted = processors(); *count < wanted; ++*count) {
        struct worker *worker = &workers[*count];
        worker->work = workers[0].work;
        if (!worker->bytes)
            worker->bytes = malloc(PIECE_SIZE);
        if (!worker->bytes || thread_start(help, worker, &worker->thread, NULL) < 0)
            return; /* it is tried again after the next piece */
    }
}

static void stop(struct work *work)
{
    auto_lock(&work->lock);
    work->stop = true;
}

static int scan_data(struct work *work, struct worker *workers, scan_progress *progress,
                     void *context, struct error *err)
{
    uint64_t done = 0, told = 0;
    bool go_on = true;
    size_t count = 1;

    while (go_on && work_on(&workers[0], &done)) {
        told = done;
        go_on = !progress || progress(context, done, work->size);
        if (go_on && count == 1 && workers[0].found.data_bytes >= ALONE_SIZE && done < work->size)
            start_helpers(workers, &count);
    }
    if (!go_on)
        stop(work);
    for (size_t i = 1; i < count; i++)
        pthread_join(workers[i].thread, NULL);
    if (go_on && work->failure.code == 0 && told < work->size && progress)
        go_on = progress(context, work->size, work->size);
    if (!go_on)
        return error_set(err, ECANCELED, "the scan was cancelled");
    if (work->failure.code != 0 && err)
        *err = work->failure;
    return -work->failure.code;
}

static int scan_and_merge(int fd, uint64_t size, scan_progress *progress, void *context,
                          struct scan *ret, struct error *err)
{
    struct work work = {.fd = fd, .size = size, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct worker workers[SCAN_PARTS_MAX] = {{.work = &work, .bytes = malloc(PIECE_SIZE)}};
    struct scan parts[SCAN_PARTS_MAX];

    int r = workers[0].bytes ? scan_data(&work, workers, progress, context, err)
                             : error_errno(err, ENOMEM, "cannot scan the image");
    for (size_t i = 0; i < SCAN_PARTS_MAX; i++) {
        parts[i] = workers[i].found;
        free_wiped(workers[i].bytes, PIECE_SIZE);
    }
    pthread_mutex_destroy(&work.lock);
    if (r == 0 && scan_merge(parts, SCAN_PARTS_MAX, ret) < 0)
        r = error_errno(err, ENOMEM, "cannot scan the image");
    for (size_t i = 0; i < SCAN_PARTS_MAX; i++)
        scan_finish(&parts[i]);
    return r;
}

int scan_image(int fd, scan_progress *progress, void *context, struct scan *ret, struct error *err)
{
    struct scan scan = {0};
    struct stat st;

    if (fstat(fd, &st) < 0)
        return error_errno(err, errno, "cannot stat the image");
    if (!S_ISREG(st.st_mode))
        return error_set(err, EINVAL, "not a regular file");
    if (st.st_size > IMAGE_MAX)
        return error_set(err, EFBIG, "larger than 512 TiB");
    off_t size = st.st_size;
    int r = scan_and_merge(fd, (uint64_t)size, progress, context, &scan, err);
    if (r == 0 && (fstat(fd, &st) < 0 || st.st_size < size))
        r = became_shorter(err);
    if (r == 0 && scan_mark_first(&scan) < 0)
        r = error_errno(err, ENOMEM, "cannot scan the image");
    if (r < 0) {
        scan_finish(&scan);
        return r;
    }
    *ret = scan;
    return 0;
}

/* ---- an image that has become another ---- */

static int read_file(void *context, uint64_t offset, void *bytes, size_t size, struct error *err)
{
    return read_whole(*(const int *)context, bytes, size, offset, err);
}

static int scan_with(uint8_t *bytes, const struct scan_pages_of *pages, scan_progress *progress,
                     void *context, struct scan *found, struct error *err)
{
    const uint64_t size = pages->size;
    uint64_t at = 0, run;

    for (; at < size && page_set_next(pages->set, at, PIECE_SIZE, &at, &run); at += run) {
        run = run < size - at ? run : size - at;
        int r = pages->read(pages->context, at, bytes, (size_t)run, err);
        if (r == 0 && scan_pages(bytes, (size_t)run, at, found) < 0)
            r = error_errno(err, ENOMEM, "cannot scan the image");
        if (r < 0)
            return r;
        if (progress && !progress(context, at + run, size))
            return error_set(err, ECANCELED, "the scan was cancelled");
    }
    return 0;
}

/* Adds to *found what lies in those pages; `progress` may be NULL. A guest's memory may hold a
 * payload. */
static int scan_set(const struct scan_pages_of *pages, scan_progress *progress, void *context,
                    struct scan *found, struct error *err)
{
    uint8_t *bytes = malloc(PIECE_SIZE);
    int r = bytes ? scan_with(bytes, pages, progress, context, found, err)
                  : error_errno(err, ENOMEM, "cannot scan the image");
    free_wiped(bytes, PIECE_SIZE);
    return r;
}

static int keep_unchanged(const struct scan *found, const struct page_set *changed,
                          struct scan *ret)
{
    ret->candidates = calloc(found->count + 1, sizeof *ret->candidates);
    if (!ret->candidates)
        return -ENOMEM;
    for (size_t i = 0; i < found->count; i++)
        if (!page_set_has(changed, found->candidates[i].offset))
            ret->candidates[ret->count++] = found->candidates[i];
    return 0;
}

static int count_data(int fd, uint64_t size, uint64_t *ret, struct error *err)
{
    uint64_t start, end = 0;
    for (*ret = 0; end < size; *ret += end - start) {
        int r = sparse_next(fd, end, size, &start, &end, err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* So much that a whole scan, which reads each page once and has threads, takes no longer? */
static bool is_most(uint64_t changed, uint64_t data)
{
    return changed > ALONE_SIZE && changed > data / (2 * SCAN_PARTS_MAX);
}

/* parts: what stays of the base's list, what lies in the changed pages now, and what lay there. */
static int compare(int fd, const struct scan_base *base, scan_progress *progress, void *context,
                   struct scan parts[3], struct scan *ret, struct error *err)
{
    struct stat st, before;
    uint64_t data_bytes = 0;

    if (fstat(fd, &st) < 0 || fstat(base->fd, &before) < 0)
        return error_errno(err, errno, "cannot stat the image");
    const uint64_t size = (uint64_t)st.st_size;
    int r = count_data(fd, size, &data_bytes, err);
    if (r < 0)
        return r;
    if (st.st_size != before.st_size || base->found->truncated ||
        is_most(page_set_bytes(base->changed), data_bytes))
        return error_set(err, EAGAIN, "the image has to be scanned as a whole");
    struct scan_pages_of pages = {
        .read = read_file, .context = (void *)&base->fd, .size = size, .set = base->changed};
    r = scan_set(&pages, progress, context, &parts[2], err);
    pages.context = &fd;
    if (r == 0)
        r = scan_set(&pages, progress, context, &parts[1], err);
    if (r < 0)
        return r;
    if (parts[2].truncated || parts[2].noise > base->found->noise)
        return error_set(err, EAGAIN, "the image has to be scanned as a whole");
    if (keep_unchanged(base->found, base->changed, &parts[0]) < 0 ||
        scan_merge(parts, 2, ret) < 0 || scan_mark_first(ret) < 0)
        return error_errno(err, ENOMEM, "cannot scan the image");
    ret->noise += base->found->noise - parts[2].noise;
    ret->data_bytes = data_bytes;
    return 0;
}

/* What was found becomes *ret, unless r is a failure; its parts are over. Returns r. */
static int hand_over(int r, struct scan parts[], size_t count, struct scan *found, struct scan *ret)
{
    for (size_t i = 0; i < count; i++)
        scan_finish(&parts[i]);
    if (r < 0)
        scan_finish(found);
    else
        *ret = *found;
    return r;
}

int scan_changed(int fd, const struct scan_base *base, scan_progress *progress, void *context,
                 struct scan *ret, struct error *err)
{
    struct scan parts[3] = {0}, scan = {0};
    int r = compare(fd, base, progress, context, parts, &scan, err);
    return hand_over(r, parts, array_length(parts), &scan, ret);
}

/* ---- memory of which some pages are known to be new ---- */

int scan_set_of(const struct scan_pages_of *pages, scan_progress *progress, void *context,
                struct scan *ret, struct error *err)
{
    static const struct scan nothing;
    const struct scan *base = pages->base ? pages->base : &nothing;
    struct scan parts[2] = {{.truncated = base->truncated}}, scan = {0};
    int r = scan_set(pages, progress, context, &parts[1], err);
    if (r == 0 && (keep_unchanged(base, pages->set, &parts[0]) < 0 ||
                   scan_merge(parts, 2, &scan) < 0 || scan_mark_first(&scan) < 0))
        r = error_errno(err, ENOMEM, "cannot scan the memory");
    return hand_over(r, parts, array_length(parts), &scan, ret);
}
