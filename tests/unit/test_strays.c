/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "store/strays.h"
#include "store_fixture.h"

/* A new directory beside the store, opened. */
static int make_directory(const struct world *world, const char *name)
{
    assert_int_equal(mkdir(world_path(world, "%s", name), 0700), 0);
    int fd = open(world_path(world, "%s", name), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static size_t spawn_in(struct world *world, const char *name)
{
    return world_spawn(world, world_path(world, "%s", name));
}

static void strays_when_in_the_directory_are_ended_and_all_others_kept(void **state)
{
    struct world *world = *state;
    struct strays strays;
    auto_close int entry = make_directory(world, "entry");
    auto_close int below = make_directory(world, "entry/below");
    close(make_directory(world, "entry-2"));
    size_t first = spawn_in(world, "entry"), second = spawn_in(world, "entry");
    size_t lower = spawn_in(world, "entry/below"), other = spawn_in(world, "entry-2");
    size_t ours = spawn_in(world, "entry");

    strays_find(&strays);
    strays_end(&strays, entry, world->children[ours].pid);
    assert_true(world_child_ended(world, first, 0));
    assert_true(world_child_ended(world, second, 0));
    assert_false(world_child_ended(world, ours, 0));
    assert_false(world_child_ended(world, lower, 0));
    assert_false(world_child_ended(world, other, 0));

    /* Those that have ended meanwhile are no hindrance. */
    strays_end(&strays, entry, 0);
    assert_true(world_child_ended(world, ours, 0));
    assert_false(world_child_ended(world, lower, 0));
    strays_finish(&strays);
    assert_int_equal(strays.count, 0);
    strays_end(&strays, below, 0);
    assert_false(world_child_ended(world, lower, 0));
}

static void stray_when_its_directory_was_renamed_is_ended(void **state)
{
    struct world *world = *state;
    struct strays strays;
    char from[PATH_MAX];
    auto_close int entry = make_directory(world, ".new-1");
    size_t child = spawn_in(world, ".new-1");
    snprintf(from, sizeof from, "%s", world_path(world, ".new-1"));

    strays_find(&strays);
    assert_int_equal(rename(from, world_path(world, ".old-1")), 0);
    strays_end(&strays, entry, 0);
    assert_true(world_child_ended(world, child, 0));
    strays_finish(&strays);
}

/* A process in the directory of its own that goes to another one, "aside", when it is told to. */
struct mover {
    pid_t pid;
    int told, went;
};

static struct mover start_mover(const struct world *world, const char *from)
{
    struct mover mover;
    int told[2], went[2];
    char byte = 'r', aside[PATH_MAX];
    snprintf(aside, sizeof aside, "%s", world_path(world, "aside"));
    assert_int_equal(pipe2(told, O_CLOEXEC) | pipe2(went, O_CLOEXEC), 0);
    mover.pid = fork();
    assert_true(mover.pid >= 0);
    if (mover.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(told[1]);
        if (chdir(world_path(world, "%s", from)) < 0 || write(went[1], &byte, 1) != 1 ||
            read(told[0], &byte, 1) != 1 || chdir(aside) < 0 || write(went[1], &byte, 1) != 1)
            _exit(1);
        _exit(read(told[0], &byte, 1) == 1 ? 0 : 1);
    }
    close(told[0]);
    close(went[1]);
    mover.told = told[1];
    mover.went = went[0];
    assert_int_equal(read(mover.went, &byte, 1), 1);
    return mover;
}

static void stray_when_it_has_left_the_directory_since_is_kept(void **state)
{
    struct world *world = *state;
    struct strays strays;
    char byte = 'x';
    int status;
    auto_close int entry = make_directory(world, "entry");
    auto_close int aside = make_directory(world, "aside");
    struct mover mover = start_mover(world, "entry");

    strays_find(&strays);
    assert_int_equal(write(mover.told, &byte, 1), 1);
    assert_int_equal(read(mover.went, &byte, 1), 1);
    strays_end(&strays, entry, 0);
    strays_end(&strays, aside, 0); /* nor was it there when they were found */
    assert_int_equal(write(mover.told, &byte, 1), 1);
    assert_int_equal(waitpid(mover.pid, &status, 0), mover.pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    strays_finish(&strays);
    close(mover.told);
    close(mover.went);
}

static void process_when_it_came_after_they_were_found_is_kept(void **state)
{
    struct world *world = *state;
    struct strays strays;
    auto_close int entry = make_directory(world, "entry");

    strays_find(&strays);
    size_t child = spawn_in(world, "entry");
    strays_end(&strays, entry, 0);
    assert_false(world_child_ended(world, child, 0));
    strays_finish(&strays);
}

static void we_ourselves_are_no_stray(void **state)
{
    struct world *world = *state;
    struct strays strays;
    auto_close int before = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    auto_close int entry = make_directory(world, "entry");

    assert_int_equal(fchdir(entry), 0);
    strays_find(&strays);
    strays_end(&strays, entry, 0);
    assert_int_equal(fchdir(before), 0);
    strays_finish(&strays);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_EMPTY(strays_when_in_the_directory_are_ended_and_all_others_kept),
        IN_EMPTY(stray_when_its_directory_was_renamed_is_ended),
        IN_EMPTY(stray_when_it_has_left_the_directory_since_is_kept),
        IN_EMPTY(process_when_it_came_after_they_were_found_is_kept),
        IN_EMPTY(we_ourselves_are_no_stray),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
