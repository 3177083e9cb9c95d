/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "store/image.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/thread.h"

static const char not_regular[] = "the memory image is not a regular file";

void image_scans_init(struct image_scans *scans, void (*scanned)(void *context),
                      void (*warn)(void *context, const char *text), void *context)
{
    *scans = (struct image_scans){.scanned = scanned, .warn = warn, .context = context};
    pthread_mutex_init(&scans->lock, NULL);
    pthread_cond_init(&scans->ended, NULL);
}

void image_scans_stop(struct image_scans *scans)
{
    auto_lock(&scans->lock);
    atomic_store(&scans->stop, true);
}

void image_scans_wait(struct image_scans *scans)
{
    image_scans_stop(scans);
    auto_lock(&scans->lock);
    while (scans->running > 0)
        pthread_cond_wait(&scans->ended, &scans->lock);
}

void image_scans_finish(struct image_scans *scans)
{
    image_scans_wait(scans);
    pthread_cond_destroy(&scans->ended);
    pthread_mutex_destroy(&scans->lock);
}

static bool begin(struct image_scans *scans)
{
    auto_lock(&scans->lock);
    bool begun = !atomic_load(&scans->stop);
    scans->running += begun;
    return begun;
}

static void end(struct image_scans *scans)
{
    auto_lock(&scans->lock);
    scans->running--;
    pthread_cond_broadcast(&scans->ended);
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
    image->kind_fd = -1;
    image->scans = scans;
    snprintf(image->name, sizeof image->name, "%s/%s", kind, id);
    pthread_mutex_init(&image->writing, NULL);
    pthread_mutex_init(&image->lock, NULL);
    pthread_cond_init(&image->changed, NULL);
    *ret = image;
    return 0;
}

static struct image *image_ref(struct image *image)
{
    atomic_fetch_add(&image->references, 1);
    return image;
}

void image_unref(struct image *image)
{
    if (!image || atomic_fetch_sub(&image->references, 1) != 1)
        return;
    image_index_unref(image->index);
    free(image->attempt);
    if (image->directory_fd >= 0)
        close(image->directory_fd);
    pthread_cond_destroy(&image->changed);
    pthread_mutex_destroy(&image->lock);
    pthread_mutex_destroy(&image->writing);
    free(image);
}

/* ---- its directory ---- */

static const char *id_of(const struct image *image)
{
    return strchr(image->name, '/') + 1;
}

/* An inode's number may be another directory's once the first is gone: the time of birth is not. */
static int identify(int at_fd, const char *path, struct file_id *ret, struct statx_timestamp *born)
{
    struct statx st;
    if (statx(at_fd, path, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_BTIME, &st) < 0)
        return -errno;
    *ret = (struct file_id){makedev(st.stx_dev_major, st.stx_dev_minor), (ino_t)st.stx_ino};
    *born = st.stx_mask & STATX_BTIME ? st.stx_btime : (struct statx_timestamp){0};
    return 0;
}

static bool is_its_place(const struct image *image, int at_fd, const char *path, int *ret_errno)
{
    struct file_id directory;
    struct statx_timestamp born;
    int r = identify(at_fd, path, &directory, &born);
    *ret_errno = -r;
    return r == 0 && file_id_equal(directory, image->directory) &&
           born.tv_sec == image->born.tv_sec && born.tv_nsec == image->born.tv_nsec;
}

void image_rest(struct image *image, int kind_fd)
{
    if (identify(image->directory_fd, "", &image->directory, &image->born) < 0)
        return; /* then it keeps it */
    image->kind_fd = kind_fd;
    close(steal_fd(&image->directory_fd));
}

int image_open(const struct image *image, struct error *err)
{
    static const char gone[] = "the memory image is gone";
    int code;
    if (image->directory_fd >= 0) {
        int fd = fcntl(image->directory_fd, F_DUPFD_CLOEXEC, 0);
        return fd >= 0 ? fd : error_errno(err, errno, "the memory image cannot be opened");
    }
    auto_close int fd =
        openat(image->kind_fd, id_of(image), O_DIRECTORY | O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT || errno == ENOTDIR || errno == ELOOP
                   ? error_set(err, EIO, "%s", gone)
                   : error_errno(err, errno, "the memory image cannot be opened");
    return is_its_place(image, fd, "", &code) ? steal_fd(&fd) : error_set(err, EIO, "%s", gone);
}

int image_check_place(const struct image *image)
{
    int code;
    if (image->directory_fd >= 0 || is_its_place(image, image->kind_fd, id_of(image), &code))
        return 0;
    return code != 0 ? -code : -EBUSY;
}

void image_drop(struct image *image)
{
    auto_lock(&image->lock);
    atomic_store(&image->dropped, true);
    pthread_cond_broadcast(&image->changed);
}

void image_remove(struct image *image)
{
    image_drop(image);
    auto_lock(&image->writing);
}

/* A list that cannot be kept is good until the daemon ends. That of a removed image is not kept. */
static void keep(struct image *image, int directory_fd, const struct image_index *index)
{
    struct image_scans *scans = image->scans;
    struct error why = {0}, text;
    pthread_mutex_lock(&image->writing);
    if (!atomic_load(&image->dropped))
        image_index_save(directory_fd, index, &why);
    pthread_mutex_unlock(&image->writing);
    if (why.code == 0)
        return;
    error_set(&text, why.code,
              "%s: its mailboxes.json cannot be written, so its image is scanned again at the next "
              "start: %.300s",
              image->name, why.text);
    scans->warn(scans->context, text.text);
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

/* An image without a list: it is taken as it is, which is not kept quiet. */
static int first_look(struct image *image, int directory_fd, struct image_index **ret,
                      struct error *err)
{
    struct image_scans *scans = image->scans;
    struct error text;
    if (image->finding == IMAGE_READING) /* nobody else writes it now */
        set_finding(image, IMAGE_SCANNING);
    int r = image_index_scan(directory_fd, still_wanted, image, ret, err);
    if (r < 0)
        return r == -ECANCELED ? image_stopping(err) : r;
    error_set(&text, 0, "%s: its image had no mailboxes.json, and was accepted as it is",
              image->name);
    scans->warn(scans->context, text.text);
    keep(image, directory_fd, *ret);
    return 0;
}

/* What a thread has found out, or what it failed with. */
static void found_out(struct image *image, struct image_index *index, const struct error *failure)
{
    pthread_mutex_lock(&image->lock);
    image_index_unref(image->index);
    image->index = index;
    if (failure->code == 0)
        free(steal_pointer(image->attempt));
    else if (image->attempt)
        image->attempt->failure = *failure;
    pthread_mutex_unlock(&image->lock);
    set_finding(image, 0);
}

static void look_for(struct image *image, struct image_index **ret, struct error *failure)
{
    auto_close int fd = image_open(image, failure);
    if (fd >= 0 && image_index_read(fd, ret, failure) == -ENOENT)
        first_look(image, fd, ret, failure);
}

static void *find_out(void *argument)
{
    struct image *image = argument;
    struct image_scans *scans = image->scans;
    struct error failure = {0};
    struct image_index *index = NULL;
    look_for(image, &index, &failure);
    found_out(image, index, &failure);
    image_unref(image);
    end(scans);
    return NULL;
}

static int start(struct image *image, int directory_fd, const char key[IMAGE_KEY_SIZE],
                 struct error *err)
{
    bool kept = faccessat(directory_fd, image_index_name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    struct image_attempt *attempt = calloc(1, sizeof *attempt);
    if (!attempt)
        return error_set(err, ENOMEM, "out of memory");
    if (!begin(image->scans)) {
        free(attempt);
        return image_stopping(err);
    }
    memcpy(attempt->key, key, IMAGE_KEY_SIZE);
    free(image->attempt);
    image->attempt = attempt;
    image->finding = kept ? IMAGE_READING : IMAGE_SCANNING;
    int r = thread_detach(find_out, image_ref(image), err);
    if (r < 0) {
        image->finding = 0;
        free(steal_pointer(image->attempt));
        image_unref(image);
        end(image->scans);
        return error_prefix(err, r, "cannot scan the memory image");
    }
    return -image->finding;
}

static bool pending(int r)
{
    return r == -IMAGE_READING || r == -IMAGE_SCANNING;
}

/* It cannot be looked at: EIO if it is gone. */
static int no_image(int code, struct error *err)
{
    return code == ENOENT ? error_set(err, EIO, "the memory image is gone")
                          : error_errno(err, code, "cannot stat the memory image");
}

/* With image->lock held. */
static int look(struct image *image, struct image_index **ret, struct error *err)
{
    struct stat st;
    char key[IMAGE_KEY_SIZE];
    if (image->finding && !atomic_load(&image->dropped))
        return -image->finding;
    auto_close int fd = image_open(image, err);
    if (fd < 0)
        return fd;
    if (fstatat(fd, image_memory_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return no_image(errno, err);
    if (!S_ISREG(st.st_mode))
        return error_set(err, EIO, "%s", not_regular);
    image_key(fd, &st, key);
    if (image->index && strcmp(image->index->key, key) == 0) {
        *ret = image_index_ref(image->index);
        return 0;
    }
    if (atomic_load(&image->dropped))
        return error_set(err, ENODEV, "the memory image is removed");
    image_index_unref(steal_pointer(image->index));
    const struct image_attempt *last = image->attempt;
    if (last && last->failure.code != 0 && strcmp(last->key, key) == 0) {
        if (err)
            *err = last->failure;
        return -last->failure.code;
    }
    return start(image, fd, key, err);
}

int image_index(struct image *image, struct image_index **ret, struct error *err)
{
    auto_lock(&image->lock);
    return look(image, ret, err);
}

int image_index_wait(struct image *image, const atomic_bool *stop, struct image_index **ret,
                     struct error *err)
{
    int r;
    auto_lock(&image->lock);
    if (image->attempt)
        image->attempt->failure.code = 0;
    while (pending(r = look(image, ret, err)) && !(stop && atomic_load(stop)))
        pthread_cond_wait(&image->changed, &image->lock);
    return pending(r) ? error_set(err, ECANCELED, "cancelled") : r;
}

void image_wake(struct image *image)
{
    auto_lock(&image->lock);
    pthread_cond_broadcast(&image->changed);
}

/* ---- vouching ---- */

static void add_change(const char *file, const char *change, cJSON *files)
{
    char line[2 * FILE_KEY_CHANGE_SIZE];
    if (!change[0])
        return;
    snprintf(line, sizeof line, "%s: %s", file, change);
    json_append(files, cJSON_CreateString(line));
}

/* A line for `files` for each of the image's files that is not as its list says. EIO if one is not
 * there. */
static int note_changes(int directory_fd, const struct stat *st, cJSON *files, struct error *err)
{
    auto_json cJSON *json = NULL;
    char memory[FILE_KEY_CHANGE_SIZE] = "it had no mailboxes.json";
    char state[FILE_KEY_CHANGE_SIZE] = "";
    if (store_read_json(directory_fd, image_index_name, &json, NULL) == 0)
        image_tell_changes(directory_fd, json, st, memory, state);
    int r = image_check_state(directory_fd, json, err);
    if (r < 0)
        return r;
    add_change("memory", memory, files);
    add_change("state", state, files);
    return json_is_whole(files) ? 0 : error_set(err, ENOMEM, "out of memory");
}

static cJSON *describe_acceptance(const cJSON *files)
{
    char now[STORE_TIME_SIZE];
    cJSON *accepted = cJSON_CreateObject();
    store_time_now(now);
    json_add_string(accepted, "at", now);
    json_add(accepted, "files", cJSON_Duplicate(files, true));
    return accepted;
}

static int save_accepted(struct image *image, int directory_fd, struct image_index *index,
                         const cJSON *files, struct error *err)
{
    index->accepted = describe_acceptance(files);
    if (!json_is_whole(index->accepted))
        return error_set(err, ENOMEM, "out of memory");
    auto_lock(&image->writing);
    return atomic_load(&image->dropped) ? error_set(err, ENODEV, "the memory image is removed")
                                        : image_index_save(directory_fd, index, err);
}

/* Somebody vouches for it, until `stop` (may be NULL) is true. */
struct acceptance {
    struct image *image;
    const atomic_bool *stop;
};

static bool is_stopped(const struct acceptance *acceptance)
{
    return acceptance->stop && atomic_load(acceptance->stop);
}

static bool still_accepted(void *context, uint64_t done, uint64_t size)
{
    const struct acceptance *acceptance = context;
    return !is_stopped(acceptance) && still_wanted(acceptance->image, done, size);
}

static int scan_and_accept(struct acceptance *acceptance, uint64_t bytes, cJSON *files,
                           struct image_index **ret, struct error *err)
{
    struct stat st;
    struct image *image = acceptance->image;
    struct image_index *index = NULL;
    auto_close int fd = image_open(image, err);
    if (fd < 0)
        return fd;
    if (fstatat(fd, image_memory_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return no_image(errno, err);
    if (!S_ISREG(st.st_mode))
        return error_set(err, EIO, "%s", not_regular);
    if ((uint64_t)st.st_size != bytes)
        return error_set(
            err, EIO, "the memory image has %jd bytes and the machine %ju: it cannot be accepted",
            (intmax_t)st.st_size, (uintmax_t)bytes);
    int r = note_changes(fd, &st, files, err);
    if (r < 0)
        return r;
    r = image_index_scan(fd, still_accepted, acceptance, &index, err);
    if (r == 0)
        r = save_accepted(image, fd, index, files, err);
    if (r < 0) {
        image_index_unref(index);
        return r == -ECANCELED ? image_stopping(err) : r;
    }
    *ret = index;
    return 0;
}

int image_accept(struct image *image, const atomic_bool *stop, uint64_t bytes, cJSON *files,
                 struct error *err)
{
    struct acceptance acceptance = {.image = image, .stop = stop};
    struct error failure = {0};
    struct image_index *index = NULL;
    pthread_mutex_lock(&image->lock);
    while (image->finding && !is_stopped(&acceptance))
        pthread_cond_wait(&image->changed, &image->lock);
    bool begun = !image->finding;
    if (begun)
        image->finding = IMAGE_SCANNING;
    pthread_mutex_unlock(&image->lock);
    if (!begun)
        return error_set(err, ECANCELED, "cancelled");
    int r = scan_and_accept(&acceptance, bytes, files, &index, &failure);
    pthread_mutex_lock(&image->lock);
    free(steal_pointer(image->attempt)); /* after a failure it is looked at again */
    pthread_mutex_unlock(&image->lock);
    found_out(image, index, &failure);
    if (r < 0 && err)
        *err = failure;
    return r;
}
