/* SPDX-License-Identifier: MIT */
#include "hypervisor/saved_path.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "place.h"
#include "util/cleanup.h"

static void path_is_refused_with_the_reason_or_can_be_had(void **state)
{
    static const struct {
        const char *path, *why; /* NULL: it can be had */
    } cases[] = {
        {"/jail/rw.img", NULL},
        {"rw.img", NULL},
        {"./rw.img", NULL},
        {"images/deep/rw.img", NULL},
        {"memory.img", NULL},
        {"images/memory", NULL},
        {"..rw.img", NULL},
        {"", "is not the path of a file"},
        {"/", "is not the path of a file"},
        {"./", "is not the path of a file"},
        {"images/", "is not the path of a file"},
        {".//etc/passwd", "has \"//\", \".\" or \"..\" in it"},
        {"images/../rw.img", "has \"//\", \".\" or \"..\" in it"},
        {"././rw.img", "has \"//\", \".\" or \"..\" in it"},
        {"images/..", "has \"//\", \".\" or \"..\" in it"},
        {"/a/../b", "has \"//\", \".\" or \"..\" in it"},
        {"..", "leads out of the VMM's directory"},
        {"../rw.img", "leads out of the VMM's directory"},
        {"./../rw.img", "has \"//\", \".\" or \"..\" in it"},
        {".", "is the name of a file of the VMM's"},
        {"memory", "is the name of a file of the VMM's"},
        {"./state", "is the name of a file of the VMM's"},
        {"memory/rw.img", "is the name of a file of the VMM's"},
        {"vmm.sock", "is the name of a file of the VMM's"},
        {"drive-rootfs", "is the name of a file of the VMM's"},
        {"disk0.1.qcow2", "is the name of a file of the VMM's"},
        {"/etc/passwd", "is in a folder of the system"},
        {"/usr", "is in a folder of the system"},
    };
    (void)state;
    for (size_t i = 0; i < array_length(cases); i++) {
        const char *why = saved_path_refuse(cases[i].path);
        if (!why || !cases[i].why ? why != cases[i].why : strcmp(why, cases[i].why) != 0)
            fail_msg("%s: %s", cases[i].path, why ? why : "can be had");
    }
}

/* What is there stays, and links, which a VMM may have made, lead nowhere. */
static void file_is_made_only_where_nothing_is(void **state)
{
    char directory[128];
    struct error err;
    struct stat st;
    (void)state;
    assert_int_equal(place_make(directory, sizeof directory, "saved-path"), 0);
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(saved_path_make(fd, "./a/b/c", &err), 0);
    assert_int_equal(fstatat(fd, "a/b/c", &st, 0), 0);
    assert_true(S_ISREG(st.st_mode) && st.st_size == 0);
    assert_int_equal(saved_path_make(fd, "a/b/c", &err), 0);
    assert_int_equal(symlinkat("a", fd, "link"), 0);
    assert_int_equal(saved_path_make(fd, "link/d", &err), -ENOTDIR);
    assert_non_null(strstr(err.text, "link/d"));
    assert_int_equal(saved_path_make(fd, "a/b/c/d", &err), -ENOTDIR);
    assert_int_equal(symlinkat("nothing", fd, "dangling"), 0);
    assert_int_equal(saved_path_make(fd, "dangling", &err), 0);
    assert_int_equal(fstatat(fd, "nothing", &st, 0), -1);
    close(fd);
    place_remove(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(path_is_refused_with_the_reason_or_can_be_had),
        cmocka_unit_test(file_is_made_only_where_nothing_is),
    };
    return cmocka_run_group_tests_name("saved_path", tests, NULL, NULL);
}
