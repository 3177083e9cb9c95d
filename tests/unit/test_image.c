/* SPDX-License-Identifier: MIT */
#include "world.h"

/* Scans, see scan_image in the build file: how many there were, whether they fail, and whether they
 * go on until they are told to stop. */
static atomic_uint scans;
static atomic_int scan_failure;
static atomic_bool held;

/* A path where a directory is made when a scan begins, so that its list cannot be kept. */
static const char *list_in_the_way;

int __real_scan_image(int fd, scan_progress *progress, void *context, struct scan *ret,
                      struct error *err);
int __wrap_scan_image(int fd, scan_progress *progress, void *context, struct scan *ret,
                      struct error *err);

int __wrap_scan_image(int fd, scan_progress *progress, void *context, struct scan *ret,
                      struct error *err)
{
    scans++;
    if (list_in_the_way) /* once */
        mkdir(steal_pointer(list_in_the_way), 0700);
    while (held) {
        if (progress && !progress(context, 0, 1))
            return error_set(err, ECANCELED, "the scan was cancelled");
        sched_yield();
    }
    return scan_failure ? error_errno(err, scan_failure, "cannot read the image")
                        : __real_scan_image(fd, progress, context, ret, err);
}

/* A directory "d" with a memory image: an armed mailbox "box" at page 1. Returns its descriptor. */
static int make_directory(struct world *world)
{
    struct world_image image = {.size = FIXTURE_MEMORY};
    frames_arm(world_page(&image, 1), "box", "token");
    assert_int_equal(mkdir(world_path(world, "d"), 0700), 0);
    world_write(world_path(world, "d/memory"), 0600, image.bytes, image.size);
    int fd = open(world_path(world, "d"), O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

/* Another image of the same size: a mailbox "other" at page 2. */
static void change_image(const struct world *world)
{
    struct world_image image = {.size = FIXTURE_MEMORY};
    frames_arm(world_page(&image, 2), "other", "token");
    assert_int_equal(remove(world_path(world, "d/memory")), 0);
    world_write(world_path(world, "d/memory"), 0600, image.bytes, image.size);
}

static void drop_list(const struct world *world)
{
    unlink(world_path(world, "d/mailboxes.json"));
}

static void assert_holds(const struct image_index *index, const char *name, uint64_t offset)
{
    assert_int_equal(index->scan.count, 1);
    assert_string_equal(index->scan.candidates[0].marker.name, name);
    assert_int_equal(index->scan.candidates[0].offset, offset);
}

static void scan_when_done_keeps_the_list_beside_the_image(void **state)
{
    struct world *world = *state;
    auto_close int fd = make_directory(world);
    struct image_index *index = NULL;
    struct stat st;
    char key[128];
    assert_int_equal(fstatat(fd, "memory", &st, 0), 0);
    assert_int_equal(image_scan(fd, NULL, &index, &world->err), 0);
    assert_holds(index, "box", FRAME_SIZE);
    image_index_unref(index);
    auto_json cJSON *json = NULL;
    assert_int_equal(store_read_json(fd, "mailboxes.json", &json, &world->err), 0);
    snprintf(key, sizeof key, "size=%d inode=%ju mtime=%jd.%09ld", FIXTURE_MEMORY,
             (uintmax_t)st.st_ino, (intmax_t)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "image")), key);
    assert_int_equal(world_count(world_path(world, "d")), 2);
}

static void scan_when_there_is_no_image_fails_and_writes_nothing(void **state)
{
    struct world *world = *state;
    auto_close int fd = make_directory(world);
    struct image_index *index = NULL;
    assert_int_equal(remove(world_path(world, "d/memory")), 0);
    assert_int_equal(image_scan(fd, NULL, &index, &world->err), -EIO);
    assert_int_equal(mkfifo(world_path(world, "d/memory"), 0600), 0);
    alarm(FIXTURE_FAR_MS / 1000);
    assert_int_equal(image_scan(fd, NULL, &index, &world->err), -EIO);
    alarm(0);
    assert_int_equal(remove(world_path(world, "d/memory")), 0);
    assert_int_equal(symlink("/dev/zero", world_path(world, "d/memory")), 0);
    assert_int_equal(image_scan(fd, NULL, &index, &world->err), -EIO);
    assert_non_null(strstr(world->err.text, "memory image"));
    assert_null(index);
    assert_false(world_has(world_path(world, "d/mailboxes.json")));
}

static void scan_when_the_image_has_holes_reads_only_its_data(void **state)
{
    struct world *world = *state;
    auto_close int fd = make_directory(world);
    struct image_index *index = NULL;
    assert_int_equal(truncate(world_path(world, "d/memory"), 1 << 30), 0);
    assert_int_equal(image_scan(fd, NULL, &index, &world->err), 0);
    assert_holds(index, "box", FRAME_SIZE);
    assert_in_range(index->scan.data_bytes, FIXTURE_MEMORY, 1 << 20);
    image_index_unref(index);
}

static struct image *start(struct world *world)
{
    struct image *image = NULL;
    scans = 0;
    scan_failure = 0;
    held = false;
    assert_int_equal(
        image_create(make_directory(world), "snapshots", "d", &world->scans, &image, &world->err),
        0);
    return image;
}

static void put_kept_list(struct world *world, const struct image *image, const char *name)
{
    struct image_index *index = NULL;
    assert_int_equal(image_scan(image->directory_fd, NULL, &index, &world->err), 0);
    image_index_unref(index);
    auto_free char *text = world_read(world_path(world, "d/mailboxes.json"));
    memcpy(strstr(text, "\"box\"") + 1, name, 3);
    world_write_text(world_path(world, "d/mailboxes.json"), text);
    scans = 0;
}

/* Whoever looks may hold locks, and the list may be large: a thread reads it. */
static void kept_list_when_it_fits_is_read_in_the_background_without_a_scan(void **state)
{
    struct world *world = *state;
    struct image_index *index = NULL, *again = NULL;
    struct image *image = start(world);
    put_kept_list(world, image, "fox");
    assert_int_equal(image_index(image, &index, &world->err), -IMAGE_READING);
    assert_true(gate_wait(&world->scanned, FIXTURE_FAR_MS));
    assert_int_equal(image_index(image, &index, &world->err), 0);
    assert_holds(index, "fox", FRAME_SIZE);
    assert_int_equal(image_index(image, &again, &world->err), 0);
    assert_ptr_equal(index, again);
    assert_int_equal(scans, 0);
    image_index_unref(index);
    image_index_unref(again);
    image_unref(image);
}

static void kept_list_when_it_fits_is_taken_and_not_scanned(void **state)
{
    struct world *world = *state;
    struct image_index *index = NULL;
    struct image *image = start(world);
    put_kept_list(world, image, "fox");
    assert_int_equal(image_load_or_scan(image->directory_fd, NULL, &index, &world->err), 0);
    assert_holds(index, "fox", FRAME_SIZE);
    image_index_unref(index);
    assert_int_equal(scans, 0);
    change_image(world);
    index = NULL;
    assert_int_equal(image_load_or_scan(image->directory_fd, NULL, &index, &world->err), -EIO);
    assert_null(index);
    assert_int_equal(scans, 0);
    image_unref(image);
}

/* Looks until all that is done in the background has ended. */
static void assert_scanned_anew(struct world *world, struct image *image, const char *name,
                                uint64_t offset)
{
    struct image_index *index = NULL;
    unsigned before = scans;
    int r = image_index(image, &index, &world->err);
    assert_true(r == -IMAGE_READING || r == -IMAGE_SCANNING);
    assert_null(index);
    while ((r = image_index(image, &index, &world->err)) < 0) {
        assert_true(r == -IMAGE_READING || r == -IMAGE_SCANNING);
        assert_true(gate_wait(&world->scanned, FIXTURE_FAR_MS));
    }
    assert_int_equal(scans, before + 1);
    assert_holds(index, name, offset);
    image_index_unref(index);
}

/* Looks until it is known that it was changed: it is not scanned. */
static void assert_changed(struct world *world, struct image *image, const char *what)
{
    struct image_index *index = NULL;
    unsigned before = scans;
    assert_int_equal(image_index_wait(image, NULL, &index, &world->err), -EIO);
    if (!strstr(world->err.text, what))
        fail_msg("no '%s' in '%s'", what, world->err.text);
    assert_non_null(strstr(world->err.text, "hypefs accept"));
    assert_int_equal(image_index(image, &index, &world->err), -EIO);
    assert_null(index);
    assert_int_equal(scans, before);
}

static void image_when_another_one_without_a_list_is_scanned_and_that_is_told(void **state)
{
    struct world *world = *state;
    struct image_index *index = NULL, *later = NULL;
    struct image *image = start(world);
    assert_scanned_anew(world, image, "box", FRAME_SIZE);
    assert_non_null(strstr(world->complaints, "snapshots/d: its image had no mailboxes.json"));
    assert_int_equal(image_index(image, &index, &world->err), 0);
    change_image(world);
    drop_list(world);
    assert_scanned_anew(world, image, "other", 2 * FRAME_SIZE);
    assert_holds(index, "box", FRAME_SIZE); /* a list that somebody holds stays as it was */
    image_index_unref(index);
    assert_int_equal(image_index_wait(image, NULL, &later, &world->err), 0);
    image_index_unref(later);
    image_unref(image);
}

static void image_when_it_was_changed_is_eio_until_somebody_vouches_for_it(void **state)
{
    struct world *world = *state;
    struct image_index *index = NULL;
    struct image *image = start(world);
    auto_json cJSON *files = cJSON_CreateArray(), *none = cJSON_CreateArray();
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1700000000}};
    assert_scanned_anew(world, image, "box", FRAME_SIZE);
    assert_int_equal(utimensat(AT_FDCWD, world_path(world, "d/memory"), times, 0), 0);
    assert_changed(world, image, "is 2023-11-14T22:13:20.000000000Z");
    change_image(world);
    assert_changed(world, image, "mtime was ");

    assert_int_equal(image_accept(image, NULL, FIXTURE_MEMORY + 1, files, &world->err), -EIO);
    assert_non_null(strstr(world->err.text, "bytes"));
    assert_changed(world, image, "mtime was ");
    assert_int_equal(image_accept(image, NULL, FIXTURE_MEMORY, files, &world->err), 0);
    assert_int_equal(cJSON_GetArraySize(files), 1);
    assert_non_null(strstr(cJSON_GetArrayItem(files, 0)->valuestring, "memory: "));
    assert_int_equal(image_index(image, &index, &world->err), 0);
    assert_holds(index, "other", 2 * FRAME_SIZE);
    assert_non_null(cJSON_GetObjectItemCaseSensitive(index->accepted, "at"));
    image_index_unref(index);
    image_unref(image);

    /* That is kept, and there is nothing more to vouch for. */
    int fd = open(world_path(world, "d"), O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    assert_int_equal(image_create(fd, "snapshots", "d", &world->scans, &image, &world->err), 0);
    assert_int_equal(image_index_wait(image, NULL, &index, &world->err), 0);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(index->accepted, "files")),
                     1);
    image_index_unref(index);
    assert_int_equal(image_accept(image, NULL, FIXTURE_MEMORY, none, &world->err), 0);
    assert_int_equal(cJSON_GetArraySize(none), 0);
    image_unref(image);
}

/* As an instance's that was put in standby once more. */
static void image_when_another_one_was_scanned_with_it_is_not_scanned_again(void **state)
{
    struct world *world = *state;
    struct image_index *index = NULL;
    struct image *image = start(world);
    assert_scanned_anew(world, image, "box", FRAME_SIZE);
    change_image(world);
    assert_int_equal(image_scan(image->directory_fd, NULL, &index, &world->err), 0);
    image_index_unref(index);
    scans = 0;
    assert_int_equal(image_index_wait(image, NULL, &index, &world->err), 0);
    assert_holds(index, "other", 2 * FRAME_SIZE);
    assert_int_equal(scans, 0);
    image_index_unref(index);
    image_unref(image);
}

static void kept_list_when_it_is_damaged_is_eio(void **state)
{
    static const char *const damages[] = {"",           "{}",          "[]",
                                          "{\"image\"", "not json",    "{\"image\":1,\"found\":{}}",
                                          "\xFF\xFE",   "{\"a\":null}"};
    struct world *world = *state;
    struct image *image = start(world);
    for (size_t i = 0; i < array_length(damages); i++) {
        world_write_text(world_path(world, "d/mailboxes.json"), damages[i]);
        change_image(world); /* or the list in memory would fit */
        assert_changed(world, image, "(");
    }
    image_unref(image);
}

/* The key is right and the list says what no scan could have found. */
static void kept_list_when_it_is_impossible_is_eio(void **state)
{
    static const struct {
        const char *from, *to;
    } lies[] = {{"\"offset\": 4096", "\"offset\": 1e15"},
                {"\"kind\": \"fork\"", "\"kind\": \"none\""},
                {"\"name\": \"box\"", "\"name\": \"b/x\""},
                {"\"noise\"", "\"n0ise\""}};
    struct world *world = *state;
    struct image_index *index = NULL;
    struct image *image = start(world);
    for (size_t i = 0; i < array_length(lies); i++) {
        assert_int_equal(image_scan(image->directory_fd, NULL, &index, &world->err), 0);
        image_index_unref(index);
        auto_free char *text = world_read(world_path(world, "d/mailboxes.json"));
        char *at = strstr(text, lies[i].from);
        assert_non_null(at);
        memcpy(at, lies[i].to, strlen(lies[i].to));
        world_write_text(world_path(world, "d/mailboxes.json"), text);
        assert_changed(world, image, "mailboxes.json is damaged");
        image_unref(image);
        int fd = open(world_path(world, "d"), O_DIRECTORY | O_RDONLY | O_CLOEXEC);
        assert_int_equal(image_create(fd, "snapshots", "d", &world->scans, &image, &world->err), 0);
    }
    image_unref(image);
}

static void image_when_it_is_gone_or_no_file_is_eio(void **state)
{
    struct world *world = *state;
    struct image_index *index = NULL;
    struct image *image = start(world);
    assert_int_equal(remove(world_path(world, "d/memory")), 0);
    assert_int_equal(image_index(image, &index, &world->err), -EIO);
    assert_non_null(strstr(world->err.text, "memory image"));
    assert_int_equal(mkdir(world_path(world, "d/memory"), 0700), 0);
    assert_int_equal(image_index(image, &index, &world->err), -EIO);
    assert_int_equal(image_index_wait(image, NULL, &index, &world->err), -EIO);
    assert_non_null(strstr(world->err.text, "regular"));
    assert_null(index);
    image_unref(image);
    assert_int_equal(world->scanned.count, 0);
}

/* The disk is full, or must not be written to. */
static int open_kind(const struct world *world)
{
    int fd = open(world->base, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

/* It has no descriptor, and what is opened for it is its own directory and no other. */
static void image_at_rest_is_opened_only_where_its_directory_lies(void **state)
{
    struct world *world = *state;
    struct image *image = start(world);
    auto_close int kind_fd = open_kind(world);
    image_rest(image, kind_fd);
    assert_int_equal(image->directory_fd, -1);
    assert_int_equal(image_check_place(image), 0);
    auto_close int fd = image_open(image, &world->err);
    assert_true(fd >= 0);
    char from[PATH_MAX];
    snprintf(from, sizeof from, "%s", world_path(world, "d"));
    assert_int_equal(rename(from, world_path(world, "away")), 0);
    assert_int_equal(image_check_place(image), -ENOENT);
    assert_int_equal(image_open(image, &world->err), -EIO);
    assert_int_equal(mkdir(from, 0700), 0);
    assert_int_equal(image_check_place(image), -EBUSY);
    assert_int_equal(image_open(image, &world->err), -EIO);
    assert_int_equal(rmdir(from), 0);
    assert_int_equal(symlink("away", from), 0);
    assert_int_equal(image_check_place(image), -EBUSY);
    assert_int_equal(image_open(image, &world->err), -EIO);
    assert_int_equal(unlink(from), 0);
    char away[PATH_MAX];
    snprintf(away, sizeof away, "%s", world_path(world, "away"));
    assert_int_equal(rename(away, from), 0);
    assert_int_equal(image_check_place(image), 0);
    image->born.tv_nsec++; /* the same inode, born at another time */
    image->born.tv_sec++;
    assert_int_equal(image_check_place(image), -EBUSY);
    assert_int_equal(image_open(image, &world->err), -EIO);
    image_unref(image);
}

static void list_when_it_cannot_be_kept_is_good_all_the_same(void **state)
{
    struct world *world = *state;
    struct image_index *index = NULL;
    struct image *image = start(world);
    list_in_the_way = world_path(world, "d/mailboxes.json");
    assert_scanned_anew(world, image, "box", FRAME_SIZE);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(image_index(image, &index, &world->err), 0);
        image_index_unref(index);
    }
    assert_int_equal(image_index_wait(image, NULL, &index, &world->err), 0);
    image_index_unref(index);
    assert_int_equal(scans, 1);
    image_unref(image);
    char *told = strstr(world->complaints, "snapshots/d: its mailboxes.json cannot be written");
    assert_non_null(told);
    assert_non_null(strstr(told, "Is a directory"));
    assert_null(strchr(strchr(told, '\n') + 1, '\n')); /* and that once */
}

/* Whoever only shows what is known, and looks again and again, must not cause scan after scan. */
static void scan_when_it_failed_is_tried_again_by_who_waits(void **state)
{
    struct world *world = *state;
    struct image_index *index = NULL;
    struct image *image = start(world);
    scan_failure = EIO;
    assert_int_equal(image_index(image, &index, &world->err), -IMAGE_SCANNING);
    assert_true(gate_wait(&world->scanned, FIXTURE_FAR_MS));
    for (int i = 0; i < 3; i++) {
        assert_int_equal(image_index(image, &index, &world->err), -EIO);
        assert_non_null(strstr(world->err.text, "cannot scan the memory image"));
    }
    assert_int_equal(scans, 1);
    assert_int_equal(image_index_wait(image, NULL, &index, &world->err), -EIO);
    assert_int_equal(scans, 2);
    scan_failure = 0;
    assert_int_equal(image_index(image, &index, &world->err), -EIO);
    assert_int_equal(image_index_wait(image, NULL, &index, &world->err), 0);
    assert_holds(index, "box", FRAME_SIZE);
    image_index_unref(index);
    assert_int_equal(scans, 3);
    image_unref(image);
}

static void scan_that_failed_when_the_image_is_another_one_is_tried_again_at_once(void **state)
{
    struct world *world = *state;
    struct image *image = start(world);
    struct image_index *index = NULL;
    scan_failure = EIO;
    assert_int_equal(image_index_wait(image, NULL, &index, &world->err), -EIO);
    assert_true(gate_wait(&world->scanned, FIXTURE_FAR_MS));
    scan_failure = 0;
    change_image(world);
    drop_list(world);
    assert_int_equal(image_index(image, &index, &world->err), -IMAGE_SCANNING);
    assert_int_equal(image_index_wait(image, NULL, &index, &world->err), 0);
    assert_holds(index, "other", 2 * FRAME_SIZE);
    image_index_unref(index);
    image_unref(image);
}

static void *wait_for_index(void *argument)
{
    struct image_index *index = NULL;
    return image_index_wait(argument, NULL, &index, NULL) == 0 ? index : NULL;
}

static void image_when_many_wait_gives_all_the_same_list(void **state)
{
    struct world *world = *state;
    void *indexes[8];
    pthread_t threads[8];
    struct image *image = start(world);
    for (size_t i = 0; i < array_length(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, wait_for_index, image), 0);
    for (size_t i = 0; i < array_length(threads); i++)
        assert_int_equal(pthread_join(threads[i], &indexes[i]), 0);
    for (size_t i = 0; i < array_length(threads); i++) {
        assert_non_null(indexes[i]);
        assert_ptr_equal(indexes[i], indexes[0]);
    }
    for (size_t i = 0; i < array_length(threads); i++)
        image_index_unref(indexes[i]);
    image_unref(image);
    image_scans_wait(&world->scans);
    assert_int_equal(world->scanned.count, 1);
}

/* Its scan holds it, and goes on. */
static void image_when_let_go_during_a_scan_is_not_waited_for(void **state)
{
    struct world *world = *state;
    struct image_index *index = NULL;
    int before = world_descriptors();
    struct image *image = start(world);
    held = true;
    assert_int_equal(image_index(image, &index, &world->err), -IMAGE_SCANNING);
    image_unref(image);
    held = false;
    assert_true(gate_wait(&world->scanned, FIXTURE_FAR_MS));
    image_scans_wait(&world->scans);
    assert_true(world_has(world_path(world, "d/mailboxes.json")));
    assert_int_equal(world_descriptors(), before);
}

static void *wait_for_code(void *argument)
{
    struct image_index *index = NULL;
    return (void *)(intptr_t)image_index_wait(argument, NULL, &index, NULL);
}

static void image_when_removed_ends_its_scan_and_is_enodev(void **state)
{
    struct world *world = *state;
    struct image_index *index = NULL;
    pthread_t thread;
    void *code;
    struct image *image = start(world);
    held = true;
    assert_int_equal(image_index(image, &index, &world->err), -IMAGE_SCANNING);
    assert_int_equal(pthread_create(&thread, NULL, wait_for_code, image), 0);
    image_remove(image);
    assert_int_equal(pthread_join(thread, &code), 0);
    assert_int_equal((intptr_t)code, -ENODEV);
    assert_int_equal(image_index(image, &index, &world->err), -ENODEV);
    assert_int_equal(image_index(image, &index, &world->err), -ENODEV);
    assert_true(gate_wait(&world->scanned, FIXTURE_FAR_MS)); /* although it is held */
    assert_false(world_has(world_path(world, "d/mailboxes.json")));
    assert_int_equal(world_count(world_path(world, "d")), 1);
    image_unref(image);
}

/* At whatever moment: from then on the directory can be erased. */
static void image_when_removed_is_not_written_to_any_more(void **state)
{
    enum { TIMES = 200 };
    struct world *world = *state;
    for (int i = 0; i < TIMES; i++) {
        struct image_index *index = NULL;
        struct image *image = start(world);
        assert_int_equal(image_index(image, &index, &world->err), -IMAGE_SCANNING);
        while (scans == 0 && i % 2)
            sched_yield();
        for (int spin = 0; spin < i * 100; spin++)
            atomic_thread_fence(memory_order_seq_cst);
        image_remove(image);
        remove(world_path(world, "d/mailboxes.json"));
        assert_int_equal(remove(world_path(world, "d/memory")), 0);
        assert_int_equal(rmdir(world_path(world, "d")), 0);
        assert_true(gate_wait(&world->scanned, FIXTURE_FAR_MS));
        image_unref(image);
    }
}

static void scan_when_the_daemon_stops_ends(void **state)
{
    struct world *world = *state;
    struct image_index *index = NULL;
    struct image *image = start(world);
    atomic_bool stop = true;
    held = true;
    assert_int_equal(image_scan(image->directory_fd, &stop, &index, &world->err), -ESHUTDOWN);
    assert_int_equal(image_index(image, &index, &world->err), -IMAGE_SCANNING);
    image_scans_wait(&world->scans);
    assert_int_equal(world->scanned.count, 1);
    assert_int_equal(image_index_wait(image, NULL, &index, &world->err), -ESHUTDOWN);
    assert_non_null(strstr(world->err.text, "stopping"));
    change_image(world);
    assert_int_equal(image_index(image, &index, &world->err), -ESHUTDOWN);
    assert_non_null(strstr(world->err.text, "stopping"));
    assert_false(world_has(world_path(world, "d/mailboxes.json")));
    image_unref(image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_EMPTY(scan_when_done_keeps_the_list_beside_the_image),
        IN_EMPTY(scan_when_there_is_no_image_fails_and_writes_nothing),
        IN_EMPTY(scan_when_the_image_has_holes_reads_only_its_data),
        IN_EMPTY(kept_list_when_it_fits_is_read_in_the_background_without_a_scan),
        IN_EMPTY(kept_list_when_it_fits_is_taken_and_not_scanned),
        IN_EMPTY(image_when_another_one_without_a_list_is_scanned_and_that_is_told),
        IN_EMPTY(image_when_it_was_changed_is_eio_until_somebody_vouches_for_it),
        IN_EMPTY(image_when_another_one_was_scanned_with_it_is_not_scanned_again),
        IN_EMPTY(kept_list_when_it_is_damaged_is_eio),
        IN_EMPTY(kept_list_when_it_is_impossible_is_eio),
        IN_EMPTY(image_when_it_is_gone_or_no_file_is_eio),
        IN_EMPTY(image_at_rest_is_opened_only_where_its_directory_lies),
        IN_EMPTY(list_when_it_cannot_be_kept_is_good_all_the_same),
        IN_EMPTY(scan_when_it_failed_is_tried_again_by_who_waits),
        IN_EMPTY(scan_that_failed_when_the_image_is_another_one_is_tried_again_at_once),
        IN_EMPTY(image_when_many_wait_gives_all_the_same_list),
        IN_EMPTY(image_when_let_go_during_a_scan_is_not_waited_for),
        IN_EMPTY(image_when_removed_ends_its_scan_and_is_enodev),
        IN_EMPTY(image_when_removed_is_not_written_to_any_more),
        IN_EMPTY(scan_when_the_daemon_stops_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
