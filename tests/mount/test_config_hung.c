/* SPDX-License-Identifier: MIT */
/* Configs that name files of a file system that does not answer. Root alone can mount one. */
#include "fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"

enum { WRITERS = 12 }; /* more than threads that FUSE's requests have */

static int server_fd = -1; /* what makes the file system wait */

struct writer {
    pthread_t thread;
    const char *path, *text;
    atomic_bool ended;
    int code;
};

/* T/hung: nobody serves it, and who asks it waits until the descriptor is closed. */
static void mount_hung(struct harness *h)
{
    const char *path = harness_format(h, "%s/hung", h->directory);
    server_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    const char *options = harness_format(h, "fd=%d,rootmode=40000,user_id=0,group_id=0", server_fd);
    assert_works(mkdir(path, 0700));
    assert_works(mount("hung", path, "fuse", MS_NOSUID | MS_NODEV, options));
}

static char *hung_config(struct harness *h)
{
    return harness_format(h, "{\"kernel\":\"%s/hung/kernel\"}\n", h->directory);
}

struct expected {
    struct harness *h;
    int count;
};

/* So many of the daemon's threads wait for a file system. */
static bool are_held(void *argument)
{
    const struct expected *expected = argument;
    struct harness *h = expected->h;
    return harness_shell(h, "bash",
                         harness_format(h,
                                        "cat /proc/%d/task/*/stat | grep -c '^[0-9]* (.*) D ' | "
                                        "grep -qx %d",
                                        (int)h->daemon, expected->count))
               .status == 0;
}

static void await_held(struct harness *h, int count)
{
    struct expected expected = {h, count};
    harness_await_that(are_held, &expected, "the daemon's threads wait for the file system");
}

static void *write_config(void *argument)
{
    struct writer *writer = argument;
    writer->code = harness_write(writer->path, writer->text);
    writer->ended = true;
    return NULL;
}

static char *file_of(struct harness *h, size_t index, const char *name)
{
    return harness_path(h, "instances/x%zu/%s", index, name);
}

/* What has to go through FUSE's threads: names that the kernel does not know yet. */
static void assert_mount_answers(struct harness *h)
{
    for (size_t i = 0; i < WRITERS; i++)
        assert_string_equal(harness_get(h, file_of(h, i, "state")), "created\n");
    auto_closedir DIR *directory = opendir(harness_path(h, "instances"));
    assert_non_null(directory);
    assert_non_null(readdir(directory));
    assert_works(mkdir(harness_path(h, "instances/other"), 0755));
}

static void configs_on_a_file_system_that_hangs_are_etimedout_and_hold_nobody_up(void **state)
{
    struct harness *h = *state;
    struct writer writers[WRITERS] = {0};
    mount_hung(h);
    for (size_t i = 0; i < WRITERS; i++) {
        assert_works(mkdir(file_of(h, i, ""), 0755));
        writers[i] = (struct writer){.path = file_of(h, i, "config"), .text = hung_config(h)};
    }
    for (size_t i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&writers[i].thread, NULL, write_config, &writers[i]), 0);
    await_held(h, WRITERS);
    assert_mount_answers(h);
    bool early = false; /* none of them had to end for that */
    for (size_t i = 0; i < WRITERS; i++)
        early = early || writers[i].ended;
    for (size_t i = 0; i < WRITERS; i++)
        pthread_join(writers[i].thread, NULL);
    assert_false(early);
    for (size_t i = 0; i < WRITERS; i++) {
        assert_errno(writers[i].code, ETIMEDOUT);
        assert_file_contains(file_of(h, i, "error"), "did not answer within 5 s");
        assert_string_equal(harness_json(h, harness_get(h, file_of(h, i, "info")), "config.kernel"),
                            "(none)");
    }
}

static void config_whose_write_was_interrupted_is_not_taken(void **state)
{
    struct harness *h = *state;
    mount_hung(h);
    assert_works(mkdir(file_of(h, 0, ""), 0755));
    harness_put(harness_format(h, "%s/text", h->directory), hung_config(h));
    struct harness_child child =
        harness_start_shell(h, "bash", "cat $T/text > instances/x0/config");
    await_held(h, 1);
    assert_works(kill(-child.pid, SIGINT));
    assert_int_not_equal(harness_finish(h, &child).status, 0);
    assert_file_contains(file_of(h, 0, "error"), "config: the write was interrupted");
    assert_errno(harness_write(file_of(h, 0, "state"), "running"), EINVAL);
    harness_put(file_of(h, 0, "config"), "{\"vcpus\":2}");
    close(steal_fd(&server_fd)); /* the look comes to its end, and is nobody's any more */
    await_held(h, 0);
    assert_string_equal(harness_get(h, file_of(h, 0, "error")), "");
    assert_string_equal(harness_get(h, file_of(h, 0, "config")), "{\"vcpus\":2}");
}

static void instance_that_is_removed_during_the_look_is_enodev(void **state)
{
    struct harness *h = *state;
    mount_hung(h);
    assert_works(mkdir(file_of(h, 0, ""), 0755));
    struct writer writer = {.path = file_of(h, 0, "config"), .text = hung_config(h)};
    assert_int_equal(pthread_create(&writer.thread, NULL, write_config, &writer), 0);
    await_held(h, 1);
    int removed = rmdir(file_of(h, 0, ""));
    pthread_join(writer.thread, NULL);
    assert_works(removed);
    assert_errno(writer.code, ENODEV);
}

static int setup(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    harness_mount(*state, NULL);
    return 0;
}

static int teardown(void **state)
{
    if (server_fd >= 0)
        close(steal_fd(&server_fd));
    return harness_teardown(state);
}

#define hung_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        hung_test(configs_on_a_file_system_that_hangs_are_etimedout_and_hold_nobody_up),
        hung_test(config_whose_write_was_interrupted_is_not_taken),
        hung_test(instance_that_is_removed_during_the_look_is_enodev),
    };
    harness_enter();
    if (geteuid() != 0)
        return 0; /* root alone can mount a file system that nobody serves */
    return cmocka_run_group_tests_name("config_hung", tests, NULL, NULL);
}
