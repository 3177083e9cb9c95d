/* SPDX-License-Identifier: MIT */
/* image_index: what was found in an image, as the file mailboxes.json beside it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "store/image.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/limit.h"
#include "util/plain_file.h"

const char image_memory_name[] = "memory", image_index_name[] = "mailboxes.json";
static const char state_name[] = "state", memory_image[] = "memory image";

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
    cJSON_Delete(index->accepted);
    free(index);
}

static bool stat_state(int directory_fd, struct stat *ret)
{
    return fstatat(directory_fd, state_name, ret, AT_SYMLINK_NOFOLLOW) == 0 &&
           S_ISREG(ret->st_mode);
}

static void state_key(int directory_fd, char ret[FILE_KEY_SIZE])
{
    struct stat st;
    ret[0] = '\0';
    if (stat_state(directory_fd, &st))
        file_key(&st, ret);
}

void image_key(int directory_fd, const struct stat *memory, char ret[IMAGE_KEY_SIZE])
{
    char key[FILE_KEY_SIZE], state[FILE_KEY_SIZE];
    file_key(memory, key);
    state_key(directory_fd, state);
    snprintf(ret, IMAGE_KEY_SIZE, "%s %s", key, state);
}

static int open_memory(int directory_fd, int *ret_fd, struct stat *ret, struct error *err)
{
    int r =
        plain_file_open(directory_fd, image_memory_name, O_RDONLY, "the memory image", ret_fd, err);
    if (r < 0)
        return r;
    return fstat(*ret_fd, ret) < 0 ? error_errno(err, errno, "cannot open the memory image") : 0;
}

int image_seal(int directory_fd, struct error *err)
{
    enum { SEALED = 0400 };
    struct stat st;
    auto_close int fd = -1;
    int r = open_memory(directory_fd, &fd, &st, err);
    if (r < 0)
        return r;
    if (st.st_nlink == 1 && fchmod(fd, SEALED) < 0)
        return error_errno(err, errno, "the memory image cannot be made read-only");
    return 0;
}

static struct image_index *index_create(int directory_fd, const struct stat *st)
{
    struct image_index *index = calloc(1, sizeof *index);
    if (index) {
        atomic_init(&index->references, 1);
        image_key(directory_fd, st, index->key);
        file_key(st, index->memory);
        state_key(directory_fd, index->state);
    }
    return index;
}

int image_index_create(int fd, struct scan *scan, struct image_index **ret, struct error *err)
{
    struct stat st;
    struct image_index *index = calloc(1, sizeof *index);
    int r = !index                          ? error_set(err, ENOMEM, "out of memory")
            : fd >= 0 && fstat(fd, &st) < 0 ? error_errno(err, errno, "cannot stat the image")
                                            : 0;
    if (r < 0) {
        scan_finish(scan);
        free(index);
        return r;
    }
    atomic_init(&index->references, 1);
    index->scan = *scan;
    if (fd >= 0)
        file_key(&st, index->memory);
    *ret = index;
    return 0;
}

int image_index_save(int directory_fd, const struct image_index *index, struct error *err)
{
    auto_json cJSON *json = cJSON_CreateObject();
    json_add_string(json, "image", index->memory);
    if (index->state[0])
        json_add_string(json, "state", index->state);
    json_add(json, "found", scan_to_json(&index->scan));
    json_add(json, "declared", scan_declared_to_json(&index->scan));
    if (index->accepted)
        json_add(json, "accepted", cJSON_Duplicate(index->accepted, true));
    return store_stage_json(directory_fd, image_index_name, json, err);
}

static int not_as_it_was(const char *what, const char *why, struct error *err)
{
    return error_set(err, EIO,
                     "the %s is not what it was when the memory was scanned (%s): if it is right "
                     "as it is now, write 1 to accept, or run hypefs accept",
                     what, why);
}

void image_tell_changes(int directory_fd, const cJSON *json, const struct stat *memory,
                        char ret_memory[FILE_KEY_CHANGE_SIZE], char ret_state[FILE_KEY_CHANGE_SIZE])
{
    struct stat st;
    const char *image = json_get_text(json, "image");
    const char *state = json_get_text(json, "state");
    ret_state[0] = '\0';
    file_key_tell(image ? image : "", memory, ret_memory);
    if (state && stat_state(directory_fd, &st))
        file_key_tell(state, &st, ret_state);
}

int image_check_state(int directory_fd, const cJSON *json, struct error *err)
{
    struct stat st;
    if (!json_get_text(json, "state") || stat_state(directory_fd, &st))
        return 0;
    bool there = fstatat(directory_fd, state_name, &st, AT_SYMLINK_NOFOLLOW) == 0;
    return error_set(err, EIO,
                     there ? "the device state is not a regular file" : "the device state is gone");
}

static int interpret(int directory_fd, const cJSON *json, const struct stat *st,
                     struct image_index *ret, struct error *err)
{
    char memory[FILE_KEY_CHANGE_SIZE], state[FILE_KEY_CHANGE_SIZE];
    struct error why = {0};
    const cJSON *found = json_get(json, "found");
    const cJSON *accepted = json_get(json, "accepted");
    image_tell_changes(directory_fd, json, st, memory, state);
    int r = image_check_state(directory_fd, json, err);
    if (r < 0)
        return r;
    if (memory[0])
        return not_as_it_was(memory_image, memory, err);
    if (state[0])
        return not_as_it_was("device state", state, err);
    if (scan_from_json(found, (uint64_t)st->st_size, &ret->scan, &why) < 0 ||
        scan_declared_from_json(json_get(json, "declared"), &ret->scan, &why) < 0)
        return not_as_it_was(memory_image, "its mailboxes.json is damaged", err);
    ret->accepted = cJSON_IsObject(accepted) ? cJSON_Duplicate(accepted, true) : NULL;
    return 0;
}

int image_index_read(int directory_fd, struct image_index **ret, struct error *err)
{
    struct stat st;
    struct error why = {0};
    auto_json cJSON *json = NULL;
    if (fstatat(directory_fd, image_memory_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return error_set(err, EIO, "the memory image is gone");
    int r = store_read_json(directory_fd, image_index_name, &json, &why);
    if (r == -ENOENT)
        return r;
    if (limit_is(-r)) /* that tells nothing of the image */
        return error_set(err, -r, "%s", why.text);
    if (r < 0)
        return not_as_it_was(memory_image, "its mailboxes.json cannot be read", err);
    struct image_index *index = index_create(directory_fd, &st);
    if (!index)
        return error_set(err, ENOMEM, "out of memory");
    r = interpret(directory_fd, json, &st, index, err);
    if (r < 0)
        image_index_unref(index);
    else
        *ret = index;
    return r;
}

static bool go_on(void *context, uint64_t done, uint64_t size)
{
    const atomic_bool *stop = context;
    (void)done;
    (void)size;
    return !atomic_load(stop);
}

/* What the image has become from is NULL if all of it is to be scanned. */
static int scan_as(int directory_fd, const struct scan_base *base, scan_progress *progress,
                   void *context, struct image_index **ret, struct error *err)
{
    struct stat st;
    auto_close int fd = -1;
    int r = open_memory(directory_fd, &fd, &st, err);
    if (r < 0)
        return r;
    struct image_index *index = index_create(directory_fd, &st);
    if (!index)
        return error_set(err, ENOMEM, "out of memory");
    r = base ? scan_changed(fd, base, progress, context, &index->scan, err)
             : scan_image(fd, progress, context, &index->scan, err);
    if (r < 0) {
        image_index_unref(index);
        return error_prefix(err, r, "cannot scan the memory image");
    }
    *ret = index;
    return 0;
}

int image_index_scan(int directory_fd, scan_progress *progress, void *context,
                     struct image_index **ret, struct error *err)
{
    return scan_as(directory_fd, NULL, progress, context, ret, err);
}

static int scan_and_save(int directory_fd, const struct scan_base *base, scan_progress *progress,
                         void *context, struct image_index **ret, struct error *err)
{
    struct image_index *index;
    int r = scan_as(directory_fd, base, progress, context, &index, err);
    if (r < 0)
        return r;
    r = image_index_save(directory_fd, index, err);
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
    return scan_and_save(directory_fd, NULL, progress, context, ret, err);
}

int image_stopping(struct error *err)
{
    return error_set(err, ESHUTDOWN, "cannot scan the memory image: the daemon is stopping");
}

int image_scan(int directory_fd, const atomic_bool *stop, struct image_index **ret,
               struct error *err)
{
    int r = image_scan_with(directory_fd, stop ? go_on : NULL, (void *)(uintptr_t)stop, ret, err);
    return r == -ECANCELED ? image_stopping(err) : r;
}

int image_scan_changed(int directory_fd, const struct scan_base *base, const atomic_bool *stop,
                       struct image_index **ret, struct error *err)
{
    int r =
        scan_and_save(directory_fd, base, stop ? go_on : NULL, (void *)(uintptr_t)stop, ret, err);
    if (r == -EAGAIN)
        return image_scan(directory_fd, stop, ret, err);
    return r == -ECANCELED ? image_stopping(err) : r;
}

bool image_index_is_of(const struct image_index *index, int fd)
{
    struct stat st;
    char key[FILE_KEY_SIZE];
    if (fstat(fd, &st) < 0)
        return false;
    file_key(&st, key);
    return strcmp(index->memory, key) == 0;
}

int image_check(int directory_fd, struct error *err)
{
    struct image_index *index = NULL;
    int r = image_index_read(directory_fd, &index, err);
    image_index_unref(index);
    return r == -ENOENT ? 0 : r;
}

bool image_is(int directory_fd, const struct image_index *index)
{
    struct stat st;
    char key[IMAGE_KEY_SIZE];
    if (fstatat(directory_fd, image_memory_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return false;
    image_key(directory_fd, &st, key);
    return strcmp(index->key, key) == 0;
}

int image_load_or_scan(int directory_fd, const atomic_bool *stop, struct image_index **ret,
                       struct error *err)
{
    int r = image_index_read(directory_fd, ret, err);
    return r == -ENOENT ? image_scan(directory_fd, stop, ret, err) : r;
}
