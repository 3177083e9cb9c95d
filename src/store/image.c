/* SPDX-License-Identifier: MIT */
#include "store/image.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "store/store.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/thread.h"

static const char memory_name[] = "memory";
static const char index_name[] = "mailboxes.json";

struct image_index *image_index_ref(struct image_index *index)
{
    atomic_fetch_add(&index->references, 1);
    return index;
}

void image_index_unref(struct image_index *index)
{
    if (!index || atomic_fetch_sub(&index->references, 1) != 1)
        return;
    scan_finish(&index->scan);
    free(index);
}

static bool fits(const struct image_index *index, const struct stat *st)
{
    return index->size == (uint64_t)st->st_size && index->inode == st->st_ino &&
           index->mtime.tv_sec == st->st_mtim.tv_sec && index->mtime.tv_nsec == st->st_mtim.tv_nsec;
}

static struct image_index *index_create(const struct stat *st)
{
    struct image_index *index = calloc(1, sizeof *index);
    if (index) {
        atomic_init(&index->references, 1);
        index->size = (uint64_t)st->st_size;
        index->inode = st->st_ino;
        index->mtime = st->st_mtim;
    }
    return index;
}

/* Numbers of 64 bits do not fit into JSON's doubles: the key is one string. */
static void print_key(uint64_t size, uint64_t inode, const struct timespec *mtime,
                      char ret[IMAGE_KEY_SIZE])
{
    snprintf(ret, IMAGE_KEY_SIZE, "size=%" PRIu64 " inode=%" PRIu64 " mtime=%lld.%09ld", size,
             inode, (long long)mtime->tv_sec, mtime->tv_nsec);
}

void image_key(const struct stat *st, char ret[IMAGE_KEY_SIZE])
{
    print_key((uint64_t)st->st_size, st->st_ino, &st->st_mtim, ret);
}

static int index_save(int directory_fd, const struct image_index *index, struct error *err)
{
    char key[IMAGE_KEY_SIZE];
    auto_json cJSON *json = cJSON_CreateObject();
    cJSON *found = scan_to_json(&index->scan);
    print_key(index->size, index->inode, &index->mtime, key);
    cJSON_AddStringToObject(json, "image", key);
    if (!found || !cJSON_AddItemToObject(json, "found", found)) {
        cJSON_Delete(found);
        return error_set(err, ENOMEM, "out of memory");
    }
    return store_stage_json(directory_fd, index_name, json, err);
}

/* The kept list, if there is a valid one for this very image; else NULL. */
static struct image_index *index_load(int directory_fd, const struct stat *st)
{
    char key[IMAGE_KEY_SIZE];
    auto_json cJSON *json = NULL;
    if (store_read_json(directory_fd, index_name, &json, NULL) < 0)
        return NULL;
    struct image_index *index = index_create(st);
    if (!index)
        return NULL;
    image_key(st, key);
    const char *kept = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "image"));
    const cJSON *found = cJSON_GetObjectItemCaseSensitive(json, "found");
    if (kept && found && strcmp(kept, key) == 0 &&
        scan_from_json(found, index->size, &index->scan, NULL) == 0)
        return index;
    image_index_unref(index);
    return NULL;
}

static bool go_on(void *context, uint64_t done, uint64_t size)
{
    const atomic_bool *stop = context;
    (void)done;
    (void)size;
    return !atomic_load(stop);
}

int image_scan_with(int directory_fd, scan_progress *progress, void *context,
                    struct image_index **ret, struct error *err)
{
    struct stat st;
    auto_close int fd =
        openat(directory_fd, memory_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return error_errno(err, errno, "cannot open the memory image");
    struct image_index *index = index_create(&st);
    if (!index)
        return error_set(err, ENOMEM, "out of memory");
    int r = scan_image(fd, progress, context, &index->scan, err);
    if (r == 0)
        r = index_save(directory_fd, index, err);
    if (r < 0) {
        image_index_unref(index);
        return error_prefix(err, r, "cannot scan the memory image");
    }
    *ret = index;
    return 0;
}

int image_scan(int directory_fd, const atomic_bool *stop, struct image_index **ret,
               struct error *err)
{
    int r = image_scan_with(directory_fd, stop ? go_on : NULL, (void *)(uintptr_t)stop, ret, err);
    return r == -ECANCELED
               ? error_set(err, ESHUTDOWN, "cannot scan the memory image: the daemon is stopping")
               : r;
}

void image_init(struct image *image, int directory_fd, void (*scanned)(void *context),
                void *context, const atomic_bool *stop)
{
    *image = (struct image){
        .directory_fd = directory_fd, .scanned = scanned, .context = context, .stop = stop};
    pthread_mutex_init(&image->lock, NULL);
    pthread_cond_init(&image->changed, NULL);
}

void image_finish(struct image *image)
{
    pthread_mutex_lock(&image->lock);
    while (image->threads > 0)
        pthread_cond_wait(&image->changed, &image->lock);
    pthread_mutex_unlock(&image->lock);
    image_index_unref(image->index);
    if (image->directory_fd >= 0)
        close(image->directory_fd);
    pthread_cond_destroy(&image->changed);
    pthread_mutex_destroy(&image->lock);
}

static bool still_wanted(void *context, uint64_t done, uint64_t size)
{
    const struct image *image = context;
    (void)done;
    (void)size;
    return !atomic_load(&image->dropped) && !(image->stop && atomic_load(image->stop));
}

void image_drop(struct image *image)
{
    atomic_store(&image->dropped, true);
}

static void *scan_again(void *argument)
{
    struct image *image = argument;
    struct image_index *index = NULL;
    struct error failure = {0};
    int r = image_scan_with(image->directory_fd, still_wanted, image, &index, &failure);
    if (r == -ECANCELED && atomic_load(&image->dropped))
        error_set(&failure, ENODEV, "the memory image is removed");
    else if (r == -ECANCELED)
        error_set(&failure, ESHUTDOWN, "cannot scan the memory image: the daemon is stopping");

    pthread_mutex_lock(&image->lock);
    image_index_unref(image->index);
    image->index = index;
    image->failure = failure;
    image->scanning = false;
    pthread_cond_broadcast(&image->changed);
    pthread_mutex_unlock(&image->lock);
    if (image->scanned)
        image->scanned(image->context);

    pthread_mutex_lock(&image->lock);
    image->threads--;
    pthread_cond_broadcast(&image->changed);
    pthread_mutex_unlock(&image->lock);
    return NULL;
}

static int start_scan(struct image *image, struct error *err)
{
    int r = thread_detach(scan_again, image, err);
    if (r < 0)
        return error_prefix(err, r, "cannot scan the memory image");
    image->scanning = true;
    image->threads++;
    return -EINPROGRESS;
}

/* With image->lock held. */
static int look(struct image *image, struct image_index **ret, struct error *err)
{
    struct stat st;
    if (image->scanning)
        return -EINPROGRESS;
    if (fstatat(image->directory_fd, memory_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return error_errno(err, errno == ENOENT ? EIO : errno, "the memory image is gone");
    if (!S_ISREG(st.st_mode))
        return error_set(err, EIO, "the memory image is not a regular file");
    if (image->index && !fits(image->index, &st))
        image_index_unref(steal_pointer(image->index));
    if (!image->index) /* it may have been scanned when it was saved again */
        image->index = index_load(image->directory_fd, &st);
    if (image->index) {
        *ret = image_index_ref(image->index);
        return 0;
    }
    if (image->failure.code != 0) { /* told once; the next look tries again */
        if (err)
            *err = image->failure;
        int code = image->failure.code;
        image->failure.code = 0;
        return -code;
    }
    return start_scan(image, err);
}

int image_index(struct image *image, struct image_index **ret, struct error *err)
{
    pthread_mutex_lock(&image->lock);
    int r = look(image, ret, err);
    pthread_mutex_unlock(&image->lock);
    return r;
}

int image_index_wait(struct image *image, struct image_index **ret, struct error *err)
{
    pthread_mutex_lock(&image->lock);
    int r;
    while ((r = look(image, ret, err)) == -EINPROGRESS)
        while (image->scanning)
            pthread_cond_wait(&image->changed, &image->lock);
    pthread_mutex_unlock(&image->lock);
    return r;
}
