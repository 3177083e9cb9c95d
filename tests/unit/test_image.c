/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "store_fixture.h"

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
    assert_int_equal(index->size, FIXTURE_MEMORY);
    assert_int_equal(index->inode, st.st_ino);
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
    assert_int_equal(image_scan(fd, NULL, &index, &world->err), -ENOENT);
    assert_int_equal(mkfifo(world_path(world, "d/memory"), 0600), 0);
    alarm(FIXTURE_FAR_MS / 1000);
    assert_int_equal(image_scan(fd, NULL, &index, &world->err), -EINVAL);
    alarm(0);
    assert_int_equal(remove(world_path(world, "d/memory")), 0);
    assert_int_equal(symlink("/dev/zero", world_path(world, "d/memory")), 0);
    assert_int_equal(image_scan(fd, NULL, &index, &world->err), -ELOOP);
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

static void start(struct world *world, struct image *image)
{
    image_init(image, make_directory(world), world_scanned, world, &world->stop);
}

static void kept_list_when_it_fits_is_used_without_a_scan(void **state)
{
    struct world *world = *state;
    struct image_index *index = NULL, *again = NULL;
    struct image image;
    start(world, &image);
    assert_int_equal(image_scan(image.directory_fd, NULL, &index, &world->err), 0);
    image_index_unref(index);
    auto_free char *text = world_read(world_path(world, "d/mailboxes.json"));
    memcpy(strstr(text, "\"box\""), "\"fox\"", 5);
    world_write_text(world_path(world, "d/mailboxes.json"), text);
    assert_int_equal(image_index(&image, &index, &world->err), 0);
    assert_holds(index, "fox", FRAME_SIZE);
    assert_int_equal(image_index(&image, &again, &world->err), 0);
    assert_ptr_equal(index, again);
    image_index_unref(index);
    image_index_unref(again);
    image_finish(&image);
    assert_int_equal(world->scanned.count, 0);
}

/* Looks until the background's scan has ended. */
static void assert_scanned_anew(struct world *world, struct image *image, const char *name,
                                uint64_t offset)
{
    struct image_index *index = NULL;
    assert_int_equal(image_index(image, &index, &world->err), -EINPROGRESS);
    assert_null(index);
    assert_true(gate_wait(&world->scanned, FIXTURE_FAR_MS));
    assert_int_equal(image_index(image, &index, &world->err), 0);
    assert_holds(index, name, offset);
    image_index_unref(index);
}

static void image_when_another_one_is_scanned_in_the_background(void **state)
{
    struct world *world = *state;
    struct image_index *index = NULL, *later = NULL;
    struct image image;
    start(world, &image);
    assert_scanned_anew(world, &image, "box", FRAME_SIZE);
    assert_int_equal(image_index(&image, &index, &world->err), 0);
    change_image(world);
    assert_scanned_anew(world, &image, "other", 2 * FRAME_SIZE);
    assert_holds(index, "box", FRAME_SIZE); /* a list that somebody holds stays as it was */
    image_index_unref(index);
    assert_int_equal(image_index_wait(&image, &later, &world->err), 0);
    image_index_unref(later);
    image_finish(&image);
}

/* As an instance's that was put in standby once more. */
static void image_when_another_one_was_scanned_with_it_is_not_scanned_again(void **state)
{
    struct world *world = *state;
    struct image_index *index = NULL;
    struct image image;
    start(world, &image);
    assert_scanned_anew(world, &image, "box", FRAME_SIZE);
    change_image(world);
    assert_int_equal(image_scan(image.directory_fd, NULL, &index, &world->err), 0);
    image_index_unref(index);
    assert_int_equal(image_index(&image, &index, &world->err), 0);
    assert_holds(index, "other", 2 * FRAME_SIZE);
    image_index_unref(index);
    image_finish(&image);
    assert_int_equal(world->scanned.count, 0);
}

static void kept_list_when_it_is_damaged_is_made_anew(void **state)
{
    static const char *const damages[] = {"",           "{}",          "[]",
                                          "{\"image\"", "not json",    "{\"image\":1,\"found\":{}}",
                                          "\xFF\xFE",   "{\"a\":null}"};
    struct world *world = *state;
    struct image image;
    start(world, &image);
    for (size_t i = 0; i < array_length(damages); i++) {
        world_write_text(world_path(world, "d/mailboxes.json"), damages[i]);
        change_image(world); /* or the list in memory would fit */
        assert_scanned_anew(world, &image, "other", 2 * FRAME_SIZE);
    }
    image_finish(&image);
}

/* The key is right and the list says what no scan could have found. */
static void kept_list_when_it_is_impossible_is_made_anew(void **state)
{
    static const struct {
        const char *from, *to;
    } lies[] = {{"\"offset\": 4096", "\"offset\": 1e15"},
                {"\"kind\": \"fork\"", "\"kind\": \"none\""},
                {"\"name\": \"box\"", "\"name\": \"b/x\""},
                {"\"noise\"", "\"n0ise\""}};
    struct world *world = *state;
    struct image_index *index = NULL;
    struct image image;
    start(world, &image);
    for (size_t i = 0; i < array_length(lies); i++) {
        assert_int_equal(image_scan(image.directory_fd, NULL, &index, &world->err), 0);
        image_index_unref(index);
        auto_free char *text = world_read(world_path(world, "d/mailboxes.json"));
        char *at = strstr(text, lies[i].from);
        assert_non_null(at);
        memcpy(at, lies[i].to, strlen(lies[i].to));
        world_write_text(world_path(world, "d/mailboxes.json"), text);
        assert_scanned_anew(world, &image, "box", FRAME_SIZE);
        image_finish(&image);
        int fd = open(world_path(world, "d"), O_DIRECTORY | O_RDONLY | O_CLOEXEC);
        image_init(&image, fd, world_scanned, world, &world->stop);
    }
    image_finish(&image);
}

static void image_when_it_is_gone_or_no_file_is_eio(void **state)
{
    struct world *world = *state;
    struct image_index *index = NULL;
    struct image image;
    start(world, &image);
    assert_int_equal(remove(world_path(world, "d/memory")), 0);
    assert_int_equal(image_index(&image, &index, &world->err), -EIO);
    assert_non_null(strstr(world->err.text, "memory image"));
    assert_int_equal(mkdir(world_path(world, "d/memory"), 0700), 0);
    assert_int_equal(image_index(&image, &index, &world->err), -EIO);
    assert_int_equal(image_index_wait(&image, &index, &world->err), -EIO);
    assert_non_null(strstr(world->err.text, "regular"));
    assert_null(index);
    image_finish(&image);
    assert_int_equal(world->scanned.count, 0);
}

static void scan_when_it_fails_in_the_background_is_told_once_and_tried_again(void **state)
{
    struct world *world = *state;
    struct image_index *index = NULL;
    struct image image;
    start(world, &image);
    assert_int_equal(mkdir(world_path(world, "d/mailboxes.json"), 0700), 0);
    assert_int_equal(image_index(&image, &index, &world->err), -EINPROGRESS);
    assert_true(gate_wait(&world->scanned, FIXTURE_FAR_MS));
    assert_int_equal(image_index(&image, &index, &world->err), -EISDIR);
    assert_non_null(strstr(world->err.text, "cannot scan the memory image"));
    assert_int_equal(image_index_wait(&image, &index, &world->err), -EISDIR);
    assert_int_equal(remove(world_path(world, "d/mailboxes.json")), 0);
    assert_int_equal(image_index_wait(&image, &index, &world->err), 0);
    assert_holds(index, "box", FRAME_SIZE);
    image_index_unref(index);
    image_finish(&image);
}

static void *wait_for_index(void *argument)
{
    struct image_index *index = NULL;
    return image_index_wait(argument, &index, NULL) == 0 ? index : NULL;
}

static void image_when_many_wait_gives_all_the_same_list(void **state)
{
    struct world *world = *state;
    void *indexes[8];
    pthread_t threads[8];
    struct image image;
    start(world, &image);
    for (size_t i = 0; i < array_length(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, wait_for_index, &image), 0);
    for (size_t i = 0; i < array_length(threads); i++)
        assert_int_equal(pthread_join(threads[i], &indexes[i]), 0);
    for (size_t i = 0; i < array_length(threads); i++) {
        assert_non_null(indexes[i]);
        assert_ptr_equal(indexes[i], indexes[0]);
    }
    for (size_t i = 0; i < array_length(threads); i++)
        image_index_unref(indexes[i]);
    image_finish(&image);
    assert_int_equal(world->scanned.count, 1);
}

static void finish_when_a_scan_runs_waits_for_it(void **state)
{
    struct world *world = *state;
    struct image_index *index = NULL;
    struct image image;
    int before = world_descriptors();
    start(world, &image);
    assert_int_equal(image_index(&image, &index, &world->err), -EINPROGRESS);
    image_finish(&image);
    assert_int_equal(world->scanned.count, 1);
    assert_int_equal(world_descriptors(), before);
}

static void scan_when_the_image_is_dropped_ends(void **state)
{
    struct world *world = *state;
    struct image_index *index = NULL;
    struct image image;
    start(world, &image);
    image_drop(&image);
    assert_int_equal(image_index_wait(&image, &index, &world->err), -ENODEV);
    assert_false(world_has(world_path(world, "d/mailboxes.json")));
    image_finish(&image);
}

static void scan_when_the_daemon_stops_ends(void **state)
{
    struct world *world = *state;
    struct image_index *index = NULL;
    struct image image;
    start(world, &image);
    atomic_store(&world->stop, true);
    assert_int_equal(image_scan(image.directory_fd, &world->stop, &index, &world->err), -ESHUTDOWN);
    assert_int_equal(image_index_wait(&image, &index, &world->err), -ESHUTDOWN);
    assert_non_null(strstr(world->err.text, "stopping"));
    assert_false(world_has(world_path(world, "d/mailboxes.json")));
    image_finish(&image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_EMPTY(scan_when_done_keeps_the_list_beside_the_image),
        IN_EMPTY(scan_when_there_is_no_image_fails_and_writes_nothing),
        IN_EMPTY(scan_when_the_image_has_holes_reads_only_its_data),
        IN_EMPTY(kept_list_when_it_fits_is_used_without_a_scan),
        IN_EMPTY(image_when_another_one_is_scanned_in_the_background),
        IN_EMPTY(image_when_another_one_was_scanned_with_it_is_not_scanned_again),
        IN_EMPTY(kept_list_when_it_is_damaged_is_made_anew),
        IN_EMPTY(kept_list_when_it_is_impossible_is_made_anew),
        IN_EMPTY(image_when_it_is_gone_or_no_file_is_eio),
        IN_EMPTY(scan_when_it_fails_in_the_background_is_told_once_and_tried_again),
        IN_EMPTY(image_when_many_wait_gives_all_the_same_list),
        IN_EMPTY(finish_when_a_scan_runs_waits_for_it),
        IN_EMPTY(scan_when_the_daemon_stops_ends),
        IN_EMPTY(scan_when_the_image_is_dropped_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
