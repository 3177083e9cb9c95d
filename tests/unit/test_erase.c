/* SPDX-License-Identifier: MIT */
#include "place.h"
#include "store/erase.h"
#include "world.h"

enum { FAR_MS = 30000 };

struct yard {
    char path[512];
    int fd;
    struct eraser *eraser;
    /* Each warning waits for it, so that the eraser is held up. */
    struct gate told, go_on;
    char text[1024];
};

static void warn(void *context, const char *text)
{
    struct yard *yard = context;
    snprintf(yard->text, sizeof yard->text, "%s", text);
    gate_post(&yard->told);
    assert_true(gate_wait(&yard->go_on, FAR_MS));
}

static int setup(void **state)
{
    struct error err;
    struct yard *yard = calloc(1, sizeof *yard);
    if (!yard || place_make(yard->path, sizeof yard->path, "hypefs-erase") < 0)
        return -1;
    *state = yard;
    gate_init(&yard->told);
    gate_init(&yard->go_on);
    yard->fd = open(yard->path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    return eraser_create(warn, yard, &yard->eraser, &err);
}

static int teardown(void **state)
{
    struct yard *yard = *state;
    eraser_destroy(yard->eraser);
    close(yard->fd);
    gate_finish(&yard->told);
    gate_finish(&yard->go_on);
    place_remove(yard->path);
    free(yard);
    return 0;
}

/* A directory of that name with a file in it. */
static void make(const struct yard *yard, const char *name)
{
    assert_int_equal(mkdirat(yard->fd, name, 0700), 0);
    auto_close int fd = openat(yard->fd, name, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    auto_close int file = openat(fd, "memory", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(file >= 0);
}

static bool has(const struct yard *yard, const char *name)
{
    return faccessat(yard->fd, name, F_OK, 0) == 0;
}

static void directories_when_they_were_added_are_deleted(void **state)
{
    struct yard *yard = *state;
    make(yard, "a");
    make(yard, "b");
    eraser_add(yard->eraser, yard->fd, "a", "instances");
    eraser_add(yard->eraser, yard->fd, "b", "instances");
    eraser_await(yard->eraser);
    assert_false(has(yard, "a"));
    assert_false(has(yard, "b"));
}

static void directory_that_cannot_be_deleted_is_told_and_the_next_is_deleted(void **state)
{
    struct yard *yard = *state;
    make(yard, "b");
    gate_post(&yard->go_on);
    eraser_add(yard->eraser, yard->fd, "missing", "snapshots");
    eraser_add(yard->eraser, yard->fd, "b", "snapshots");
    eraser_await(yard->eraser);
    assert_non_null(strstr(yard->text, "still takes room in snapshots/ of the store"));
    assert_non_null(strstr(yard->text, "missing"));
    assert_false(has(yard, "b"));
}

/* As much as no disk has is asked for, and nothing. */
static void room_is_waited_for_only_where_there_is_little(void **state)
{
    struct yard *yard = *state;
    eraser_await_room(yard->eraser, yard->fd, UINT64_MAX / 2); /* nothing is being erased */
    eraser_add(yard->eraser, yard->fd, "missing", "snapshots");
    assert_true(gate_wait(&yard->told, FAR_MS));
    gate_post(&yard->go_on);
    eraser_await_room(yard->eraser, yard->fd, UINT64_MAX / 2);
    make(yard, "b");
    eraser_add(yard->eraser, yard->fd, "b", "snapshots");
    eraser_await_room(yard->eraser, yard->fd, UINT64_MAX / 2);
    assert_false(has(yard, "b"));
}

struct end {
    struct eraser *eraser;
    struct gate begun;
    pid_t tid;
};

static void *destroy(void *argument)
{
    struct end *end = argument;
    end->tid = gettid();
    gate_post(&end->begun);
    eraser_destroy(end->eraser);
    return NULL;
}

/* The first is held up for longer than the end waits for others. */
static void end_leaves_what_it_has_not_begun_in_time(void **state)
{
    struct yard *yard = *state;
    pthread_t thread;
    struct end end = {.eraser = yard->eraser};
    gate_init(&end.begun);
    make(yard, "b");
    eraser_add(yard->eraser, yard->fd, "missing", "snapshots");
    eraser_add(yard->eraser, yard->fd, "b", "snapshots");
    assert_true(gate_wait(&yard->told, FAR_MS));
    assert_int_equal(pthread_create(&thread, NULL, destroy, &end), 0);
    yard->eraser = NULL;
    assert_true(gate_wait(&end.begun, FAR_MS));
    world_await_asleep(end.tid);
    gate_post(&yard->go_on);
    pthread_join(thread, NULL);
    gate_finish(&end.begun);
    assert_true(has(yard, "b"));
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(directories_when_they_were_added_are_deleted),
        test(directory_that_cannot_be_deleted_is_told_and_the_next_is_deleted),
        test(room_is_waited_for_only_where_there_is_little),
        test(end_leaves_what_it_has_not_begun_in_time),
    };
    setenv("HYPEFS_TEST_TIMING", "erase:0", 1);
    return cmocka_run_group_tests_name("erase", tests, NULL, NULL);
}
