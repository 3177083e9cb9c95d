/* SPDX-License-Identifier: MIT */
#include "store/image.h"

#include <errno.h>
#include <fcntl.h>
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

void image_key(const struct stat *st, char ret[IMAGE_KEY_SIZE])
{
    file_key(st, ret);
}

int image_seal(int directory_fd, struct error *err)
{
    enum { SEALED = 0400 };
    struct stat st;
    auto_close int fd =
        openat(directory_fd, memory_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return error_errno(err, errno, "cannot open the memory image");
    if (st.st_nlink == 1 && fchmod(fd, SEALED) < 0)
        return error_errno(err, errno, "the memory image cannot be made read-only");
    return 0;
}

static struct image_index *index_create(const struct stat *st)
{
    struct image_index *index = calloc(1, sizeof *index);
    if (index) {
        atomic_init(&index->references, 1);
        image_key(st, index->key);
    }
    return index;
}

static int index_save(int directory_fd, const struct image_index *index, struct error *err)
{
    auto_json cJSON *json = cJSON_CreateObject();
    cJSON *found = scan_to_json(&index->scan);
    cJSON_AddStringToObject(json, "image", index->key);
    if (!found || !cJSON_AddItemToObject(json, "found", found)) {
        cJSON_Delete(found);
        return error_set(err, ENOMEM, "out of memory");
    }
    return store_stage_json(directory_fd, index_name, json, err);
}

/* The kept list, if there is a valid one for this very image; else NULL. */
static struct image_index *index_load(int directory_fd)
{
    struct stat st;
    auto_json cJSON *json = NULL;
    if (fstatat(directory_fd, memory_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
        store_read_json(directory_fd, index_name, &json, NULL) < 0)
        return NULL;
    struct image_index *index = index_create(&st);
    if (!index)
        return NULL;
    const char *kept = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "image"));
    const cJSON *found = cJSON_GetObjectItemCaseSensitive(json, "found");
    if (kept && found && strcmp(kept, index->key) == 0 &&
        scan_from_json(found, (uint64_t)st.st_size, &index->scan, NULL) == 0)
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

/* Without keeping the list. */
static int scan(int directory_fd, scan_progress *progress, void *context, struct image_index **ret,
                struct error *err)
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
    if (r < 0) {
        image_index_unref(index);
        return error_prefix(err, r, "cannot scan the memory image");
    }
    *ret = index;
    return 0;
}

int image_scan_with(int directory_fd, scan_progress *progress, void *context,
                    struct image_index **ret, struct error *err)
{
    struct image_index *index;
    int r = scan(directory_fd, progress, context, &index, err);
    if (r < 0)
        return r;
    r = index_save(directory_fd, index, err);
    if (r < 0) {
        image_index_unref(index);
        return error_prefix(err, r, "cannot scan the memory image");
    }
    *ret = index;
    return 0;
}

static int stopping(struct error *err)
{
    return error_set(err, ESHUTDOWN, "cannot scan the memory image: the daemon is stopping");
}

int image_scan(int directory_fd, const atomic_bool *stop, struct image_index **ret,
               struct error *err)
{
    int r = image_scan_with(directory_fd, stop ? go_on : NULL, (void *)(uintptr_t)stop, ret, err);
    return r == -ECANCELED ? stopping(err) : r;
}

int image_load_or_scan(int directory_fd, const atomic_bool *stop, struct image_index **ret,
                       struct error *err)
{
    struct image_index *kept = index_load(directory_fd);
    if (!kept)
        return image_scan(directory_fd, stop, ret, err);
    *ret = kept;
    return 0;
}

void image_scans_init(struct image_scans *scans, void (*scanned)(void *context),
                      void (*complain)(void *context, const char *text), void *context)
{
    *scans = (struct image_scans){.scanned = scanned, .complain = complain, .context = context};
    pthread_mutex_init(&scans->lock, NULL);
    pthread_cond_init(&scans->ended, NULL);
}

void image_scans_stop(struct image_scans *scans)
{
    pthread_mutex_lock(&scans->lock);
    atomic_store(&scans->stop, true);
    pthread_mutex_unlock(&scans->lock);
}

void image_scans_wait(struct image_scans *scans)
{
    image_scans_stop(scans);
    pthread_mutex_lock(&scans->lock);
    while (scans->running > 0)
        pthread_cond_wait(&scans->ended, &scans->lock);
    pthread_mutex_unlock(&scans->lock);
}

void image_scans_finish(struct image_scans *scans)
{
    image_scans_wait(scans);
    pthread_cond_destroy(&scans->ended);
    pthread_mutex_destroy(&scans->lock);
}

static bool begin(struct image_scans *scans)
{
    pthread_mutex_lock(&scans->lock);
    bool begun = !atomic_load(&scans->stop);
    scans->running += begun;
    pthread_mutex_unlock(&scans->lock);
    return begun;
}

static void end(struct image_scans *scans)
{
    pthread_mutex_lock(&scans->lock);
    scans->running--;
    pthread_cond_broadcast(&scans->ended);
    pthread_mutex_unlock(&scans->lock);
}

int image_create(int directory_fd, const char *kind, const char *id, struct image_scans *scans,
                 struct image **ret, struct error *err)
{
    struct image *image = calloc(1, sizeof *image);
    if (!image) {
        close(directory_fd);
        return error_set(err, ENOMEM, "out of memory");
    }
    atomic_init(&image->references, 1);
    image->directory_fd = directory_fd;
    image->scans = scans;
    snprintf(image->name, sizeof image->name, "%s/%s", kind, id);
    pthread_mutex_init(&image->writing, NULL);
    pthread_mutex_init(&image->lock, NULL);
    pthread_cond_init(&image->changed, NULL);
    *ret = image;
    return 0;
}

struct image *image_ref(struct image *image)
{
    atomic_fetch_add(&image->references, 1);
    return image;
}

void image_unref(struct image *image)
{
    if (!image || atomic_fetch_sub(&image->references, 1) != 1)
        return;
    image_index_unref(image->index);
    close(image->directory_fd);
    pthread_cond_destroy(&image->changed);
    pthread_mutex_destroy(&image->lock);
    pthread_mutex_destroy(&image->writing);
    free(image);
}

void image_drop(struct image *image)
{
    pthread_mutex_lock(&image->lock);
    atomic_store(&image->dropped, true);
    pthread_cond_broadcast(&image->changed);
    pthread_mutex_unlock(&image->lock);
}

void image_remove(struct image *image)
{
    image_drop(image);
    pthread_mutex_lock(&image->writing);
    pthread_mutex_unlock(&image->writing);
}

/* A list that cannot be kept is good all the same, for as long as the daemon runs. One that is
 * dropped is not kept, or the directory could not be erased. */
static void keep(struct image *image, const struct image_index *index)
{
    struct image_scans *scans = image->scans;
    struct error why = {0}, text;
    pthread_mutex_lock(&image->writing);
    if (!atomic_load(&image->dropped))
        index_save(image->directory_fd, index, &why);
    pthread_mutex_unlock(&image->writing);
    if (why.code == 0)
        return;
    error_set(&text, why.code,
              "%s: the list of its mailboxes cannot be kept, and its image is scanned again when "
              "hypefs starts next: %.300s",
              image->name, why.text);
    scans->complain(scans->context, text.text);
}

static bool still_wanted(void *context, uint64_t done, uint64_t size)
{
    const struct image *image = context;
    (void)done;
    (void)size;
    return !atomic_load(&image->dropped) && !atomic_load(&image->scans->stop);
}

static void set_finding(struct image *image, int finding)
{
    pthread_mutex_lock(&image->lock);
    image->finding = finding;
    pthread_cond_broadcast(&image->changed);
    pthread_mutex_unlock(&image->lock);
    image->scans->scanned(image->scans->context);
}

static void *find_out(void *argument)
{
    struct image *image = argument;
    struct image_scans *scans = image->scans;
    struct error failure = {0};
    struct image_index *index = index_load(image->directory_fd);
    if (!index) {
        if (image->finding == IMAGE_READING) /* nobody else writes it now */
            set_finding(image, IMAGE_SCANNING);
        int r = scan(image->directory_fd, still_wanted, image, &index, &failure);
        if (r == 0)
            keep(image, index);
        else if (r == -ECANCELED)
            stopping(&failure);
    }
    pthread_mutex_lock(&image->lock);
    image->index = index;
    image->failure = failure;
    pthread_mutex_unlock(&image->lock);
    set_finding(image, 0);
    image_unref(image);
    end(scans);
    return NULL;
}

static int start(struct image *image, const char key[IMAGE_KEY_SIZE], struct error *err)
{
    bool kept = faccessat(image->directory_fd, index_name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    if (!begin(image->scans))
        return stopping(err);
    image->finding = kept ? IMAGE_READING : IMAGE_SCANNING;
    int r = thread_detach(find_out, image_ref(image), err);
    if (r < 0) {
        image->finding = 0;
        image_unref(image);
        end(image->scans);
        return error_prefix(err, r, "cannot scan the memory image");
    }
    memcpy(image->tried, key, IMAGE_KEY_SIZE);
    return -image->finding;
}

static bool pending(int r)
{
    return r == -IMAGE_READING || r == -IMAGE_SCANNING;
}

/* With image->lock held. */
static int look(struct image *image, struct image_index **ret, struct error *err)
{
    struct stat st;
    char key[IMAGE_KEY_SIZE];
    if (image->finding && !atomic_load(&image->dropped))
        return -image->finding;
    if (fstatat(image->directory_fd, memory_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return error_errno(err, errno == ENOENT ? EIO : errno, "the memory image is gone");
    if (!S_ISREG(st.st_mode))
        return error_set(err, EIO, "the memory image is not a regular file");
    image_key(&st, key);
    if (image->index && strcmp(image->index->key, key) == 0) {
        *ret = image_index_ref(image->index);
        return 0;
    }
    if (atomic_load(&image->dropped))
        return error_set(err, ENODEV, "the memory image is removed");
    image_index_unref(steal_pointer(image->index));
    if (image->failure.code != 0 && strcmp(image->tried, key) == 0) {
        if (err)
            *err = image->failure;
        return -image->failure.code;
    }
    return start(image, key, err);
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
    image->failure.code = 0;
    while (pending(r = look(image, ret, err)))
        pthread_cond_wait(&image->changed, &image->lock);
    pthread_mutex_unlock(&image->lock);
    return r;
}
