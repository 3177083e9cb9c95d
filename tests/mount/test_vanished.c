/* SPDX-License-Identifier: MIT */
/* Instances whose directory others take out of the store, put back, or put another one there. */
#include "fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tiny_guest.h"
#include "util/cleanup.h"

static const char *const names[] = {"m", NULL};

static char *file(struct harness *h, const char *name)
{
    return harness_path(h, "instances/x/%s", name);
}

static void make(struct harness *h)
{
    assert_works(mkdir(harness_path(h, "instances/x"), 0755));
}

static void boot(struct harness *h)
{
    make(h);
    harness_put(file(h, "config"), tiny_guest_config(h, names));
    harness_put(file(h, "state"), "running\n");
    harness_await(h, file(h, "console"), "ready\n");
}

static int setup(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    harness_mount(*state, NULL);
    return 0;
}

static bool is_gone(void *path)
{
    return access(path, F_OK) < 0 && errno == ENOENT;
}

static void await_gone(struct harness *h, const char *id)
{
    harness_await_that(is_gone, harness_path(h, "instances/%s", id), id);
}

/* Such as by rm -rf. While its VM runs, it stays; and then nothing is left of it. */
static void instance_that_was_taken_out_of_the_store_vanishes(void **state)
{
    struct harness *h = *state;
    if (!tiny_guest_possible())
        skip();
    boot(h);
    pid_t pid = atoi(harness_json(h, harness_get(h, file(h, "info")), "pid"));
    auto_close int vmm = pidfd_open(pid, 0);
    assert_works(vmm);
    assert_shell("bash", "rm -rf $S/instances/x", 0);
    assert_errno(rmdir(harness_path(h, "instances/x")) < 0 ? errno : 0, EBUSY);
    harness_await(h, h->log, "the directory of the instance x was taken out of the store");
    assert_works(access(file(h, "state"), F_OK));
    assert_errno(harness_write(file(h, "state"), "stopped"), 0);
    assert_int_equal(poll(&(struct pollfd){.fd = vmm, .events = POLLIN}, 1, 0), 1);
    await_gone(h, "x");
    boot(h); /* the id is free */
    harness_put(file(h, "state"), "stopped");
    assert_shell("bash", "rm -rf $S/instances/x", 0);
    await_gone(h, "x");
    assert_shell("bash", "[ -z \"$(ls instances)\" ]", 0);
}

/* They are moved back when the first of them has left the tree, while the daemon removes the
 * others. Then it looks at the store again, for the one that is erased. */
static void instances_that_are_put_back_while_they_vanish_keep_their_directories(void **state)
{
    struct harness *h = *state;
    assert_shell("bash",
                 "mkdir instances/i{0..199} $T/away && mv $S/instances/i* $T/away && "
                 "while [ -e instances/i0 ]; do :; done && mv $T/away/* $S/instances",
                 0);
    make(h);
    assert_shell("bash", "rm -rf $S/instances/x", 0);
    await_gone(h, "x");
    assert_shell("bash", "ls $S/instances/i{0..199}/instance.json > $T/list", 0);
    harness_unmount(h);
    harness_mount(h, NULL);
    assert_string_equal(assert_shell("bash", "ls instances | wc -l", 0).out, "200\n");
}

/* In one step, or the daemon might see that nothing lies there. */
static void exchange(struct harness *h, const char *name)
{
    assert_works(renameat2(AT_FDCWD, harness_format(h, "%s/%s", h->directory, name), AT_FDCWD,
                           harness_store_path(h, "instances/x"), RENAME_EXCHANGE));
}

static void rmdir_when_another_directory_lies_there_is_refused_and_erases_nothing(void **state)
{
    struct harness *h = *state;
    make(h);
    assert_shell("bash", "cp -a $S/instances/x $T/other && echo kept > $T/other/mine", 0);
    exchange(h, "other");
    assert_fails(rmdir(harness_path(h, "instances/x")), EBUSY);
    assert_file_contains(file(h, "error"), "instances/x in the store is not the directory");
    assert_string_equal(harness_get(h, harness_store_path(h, "instances/x/mine")), "kept\n");
    harness_await(h, h->log, "hypefs: instances/x in the store is not the directory");
    assert_works(access(file(h, "state"), F_OK));
    exchange(h, "other");
    assert_works(rmdir(harness_path(h, "instances/x")));
    harness_await_erased(h);
    assert_shell("bash", "[ -z \"$(ls -A $S/instances)\" ]", 0);
}

static bool is_empty(void *path)
{
    char byte;
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd >= 0 && read(fd, &byte, 1) == 0;
}

/* Without any request that would look at the store. */
static void error_of_what_cannot_be_shown_goes_when_that_is_taken_out_of_the_store(void **state)
{
    struct harness *h = *state;
    char text[512];
    const char *error = harness_path(h, "error");
    assert_works(mkdir(harness_store_path(h, "instances/broken"), 0700));
    assert_works(harness_unmount(h));
    harness_mount(h, NULL);
    assert_file_contains(error, "load instances/broken: ");
    auto_close int fd = open(error, O_RDONLY | O_CLOEXEC);
    struct pollfd pollfd = {.fd = fd, .events = POLLPRI};
    assert_true(read(fd, text, sizeof text) > 0);
    assert_int_equal(poll(&pollfd, 1, 0), 0);
    assert_works(rmdir(harness_store_path(h, "instances/broken")));
    assert_int_equal(poll(&pollfd, 1, 30000), 1);
    harness_await_that(is_empty, (void *)error, "no error is told of");
}

#define vanished_test(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        vanished_test(instance_that_was_taken_out_of_the_store_vanishes),
        vanished_test(instances_that_are_put_back_while_they_vanish_keep_their_directories),
        vanished_test(error_of_what_cannot_be_shown_goes_when_that_is_taken_out_of_the_store),
        vanished_test(rmdir_when_another_directory_lies_there_is_refused_and_erases_nothing),
    };
    setenv("HYPEFS_TEST_TIMING", "look:100", 1);
    harness_enter();
    return cmocka_run_group_tests_name("vanished", tests, NULL, NULL);
}
