/* SPDX-License-Identifier: MIT */
/* Only root can make what belongs to others; for an ordinary user nothing is looked at. */
#include "world.h"
#include "util/trust.h"

enum { SOMEBODY = 12345 };

/* The number of a path below the world's directory. */
static int trusted_path(struct world *world, const char *path)
{
    return trust_path(world_path(world, "%s", path), &world->err);
}

static void path_with_a_link_of_another_user_is_refused(void **state)
{
    struct world *world = *state;
    if (geteuid() != 0)
        skip();
    assert_int_equal(mkdir(world_path(world, "a"), 0700), 0);
    assert_int_equal(mkdir(world_path(world, "a/b"), 0700), 0);
    assert_int_equal(symlink("a", world_path(world, "theirs")), 0);
    assert_int_equal(lchown(world_path(world, "theirs"), SOMEBODY, SOMEBODY), 0);
    assert_int_equal(symlink("theirs/b", world_path(world, "ours")), 0);
    assert_int_equal(symlink("a/../a", world_path(world, "good")), 0);
    assert_int_equal(symlink("loop", world_path(world, "loop")), 0);
    assert_int_equal(trusted_path(world, "a/b"), 0);
    assert_int_equal(trusted_path(world, "good/b"), 0);
    assert_int_equal(trusted_path(world, "good/nowhere/x"), 0);
    assert_int_equal(trusted_path(world, "loop"), 0); /* who opens it is told */
    assert_int_equal(trusted_path(world, "theirs"), -EPERM);
    assert_non_null(strstr(world->err.text, "theirs is a symbolic link of another user"));
    assert_int_equal(trusted_path(world, "theirs/b"), -EPERM);
    assert_int_equal(trusted_path(world, "./good/../ours"), -EPERM); /* a link to it */
}

static int trusted_directory(struct world *world, const char *name)
{
    return trust_directory(AT_FDCWD, world_path(world, "%s", name), name, &world->err);
}

static void directory_that_others_can_change_is_refused(void **state)
{
    struct world *world = *state;
    if (geteuid() != 0)
        skip();
    assert_int_equal(mkdir(world_path(world, "d"), 0700), 0);
    assert_int_equal(symlink("d", world_path(world, "l")), 0);
    assert_int_equal(trusted_directory(world, "d"), 0);
    assert_int_equal(trusted_directory(world, "l"), -EPERM);
    static const mode_t modes[] = {0720, 0702, 01777, 0770};
    for (size_t i = 0; i < array_length(modes); i++) {
        assert_int_equal(chmod(world_path(world, "d"), modes[i]), 0);
        assert_int_equal(trusted_directory(world, "d"), -EPERM);
        assert_non_null(strstr(world->err.text, "others may write to d"));
    }
    assert_int_equal(chmod(world_path(world, "d"), 0755), 0);
    assert_int_equal(trusted_directory(world, "d"), 0);
    assert_int_equal(chown(world_path(world, "d"), SOMEBODY, SOMEBODY), 0);
    assert_int_equal(trusted_directory(world, "d"), -EPERM);
    assert_non_null(strstr(world->err.text, "uid 12345"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(path_with_a_link_of_another_user_is_refused,
                                        world_setup_empty, world_teardown),
        cmocka_unit_test_setup_teardown(directory_that_others_can_change_is_refused,
                                        world_setup_empty, world_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
