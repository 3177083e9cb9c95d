/* SPDX-License-Identifier: MIT */
/* What lies in the store and cannot be shown: the command that mounts says so, and `error` at the
 * root for as long as it is there. */
#include "fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"

static const char spoil[] = "cd $S/instances && mkdir Upper && : > file && "
                            "mkdir $'es\\x0cape' && "
                            "echo '{' > broken/instance.json && "
                            "sed -i 's/\"version\": 2,/\"version\": 9,/' newer/instance.json && "
                            "mkdir .hidden && mkdir -p .new-1/below && "
                            "$HYPEFS mount --store $T/other .new-1/below && "
                            "echo '{}' > ../snapshots/base/snapshot.json";

static const struct {
    const char *start, *words;
} wanted[] = {
    {"load instances/Upper: EINVAL: ", "\"Upper\" is not an id: 1 to 63 of "},
    {"load instances/es\\u000cape: EINVAL: ", "is not an id"},
    {"load instances/file: ENOTDIR: ", "cannot open instances/file in the store"},
    {"load instances/broken: ", "instance broken: instance.json: "},
    {"load instances/newer: EOPNOTSUPP: ", "instance.json: \"version\" is 9, of a newer hypefs"},
    {"load snapshots/base: ", "snapshot base: snapshot.json: "},
    {"remove instances/.new-1: ", "another file system is mounted at below: unmount that"},
};

static int setup(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    struct harness *h = *state;
    harness_craft(h, &(struct harness_snapshot){.id = "base"});
    harness_mount(h, NULL);
    if (mkdir(harness_path(h, "instances/broken"), 0755) < 0 ||
        mkdir(harness_path(h, "instances/newer"), 0755) < 0)
        return -1;
    assert_string_equal(harness_get(h, harness_path(h, "error")), "");
    return harness_unmount(h);
}

/* The line that is about it, of `error` or of what was printed. */
static const char *line_of(struct harness *h, const char *text, const char *start)
{
    const char *found = strstr(text, start);
    if (!found)
        fail_msg("no %s in:\n%s", start, text);
    return harness_format(h, "%.*s", (int)strcspn(found, "\n"), found);
}

static void entries_that_cannot_be_shown_are_named_in_error_with_the_remedy(void **state)
{
    struct harness *h = *state;
    assert_shell("bash", spoil, 0);
    harness_mount(h, NULL);
    const char *error = harness_get(h, harness_path(h, "error"));
    const char *log = harness_get(h, h->log);
    for (size_t i = 0; i < array_length(wanted); i++) {
        const char *line = line_of(h, error, wanted[i].start);
        assert_contains(line, wanted[i].words);
        bool left = wanted[i].start[0] == 'r';
        assert_contains(line, left ? "it takes room until a start of the daemon can remove it"
                                   : "it is not shown: repair it, or move it out of ");
        assert_contains(log, wanted[i].words);
    }
    assert_string_equal(assert_shell("bash", "wc -l < $M/error", 0).out,
                        harness_format(h, "%zu\n", array_length(wanted)));
    assert_string_equal(assert_shell("bash", "ls $M/instances $M/snapshots | tr -d '\\n'", 0).out,
                        harness_format(h, "%s/instances:%s/snapshots:", h->mount, h->mount));
    /* The id is taken, and the text leads to the reason. */
    assert_fails(mkdir(harness_path(h, "instances/broken"), 0755), EEXIST);
    assert_contains(harness_get(h, harness_path(h, "error")),
                    "the file error at the root of the mount says why");
    /* Once it is out of the way it is no longer told of. */
    assert_shell("bash", "mv $S/instances/broken $T", 0);
    assert_works(mkdir(harness_path(h, "instances/broken"), 0755));
    assert_null(strstr(harness_get(h, harness_path(h, "error")), "load instances/broken"));
}

static void mount_in_the_background_prints_what_it_does_not_show(void **state)
{
    struct harness *h = *state;
    assert_shell("bash", spoil, 0);
    struct harness_result result = assert_shell(
        "bash",
        "cd / && $HYPEFS mount --store $S $M && fusermount3 -u $M && flock -w 60 $S/lock true", 0);
    for (size_t i = 0; i < array_length(wanted); i++)
        assert_contains(result.err, wanted[i].words);
    assert_contains(line_of(h, result.err, "hypefs mount: instances/newer: "),
                    "it is not shown: repair it, or move it out of instances/ in the store");
}

static void snapshot_that_turns_up_broken_is_named_until_it_is_gone(void **state)
{
    struct harness *h = *state;
    harness_mount(h, NULL);
    assert_shell("bash", "mkdir $S/snapshots/bad; ls $M/snapshots", 0);
    assert_contains(harness_get(h, harness_path(h, "error")), "load snapshots/bad: ENOENT: ");
    assert_shell("bash", "rmdir $S/snapshots/bad; ls $M/snapshots", 0);
    assert_string_equal(harness_get(h, harness_path(h, "error")), "");
    /* Mended under the same name, it is shown. */
    assert_shell("bash", "mv $S/snapshots/base $S/snapshots/Base; ls $M/snapshots", 0);
    assert_contains(harness_get(h, harness_path(h, "error")), "load snapshots/Base: EINVAL: ");
    assert_shell("bash", "mv $S/snapshots/Base $S/snapshots/base; ls $M/snapshots/base", 0);
    assert_string_equal(harness_get(h, harness_path(h, "error")), "");
}

/* As cp does it; each piece is looked at. */
static void snapshot_that_is_copied_in_pieces_is_shown_when_it_is_complete(void **state)
{
    struct harness *h = *state;
    harness_mount(h, NULL);
    assert_shell("bash",
                 "cd $S/snapshots && mkdir copy && cp -a base/memory copy && ls $M/snapshots && "
                 "head -c 20 base/snapshot.json > copy/snapshot.json",
                 0);
    assert_shell("bash", "ls $M/snapshots/copy", 2);
    assert_contains(harness_get(h, harness_path(h, "error")), "load snapshots/copy: ");
    assert_shell("bash", "cp -a $S/snapshots/base/snapshot.json $S/snapshots/copy", 0);
    assert_string_equal(assert_shell("bash", "ls $M/snapshots", 0).out, "base\ncopy\n");
    assert_string_equal(harness_get(h, harness_path(h, "error")), "");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(entries_that_cannot_be_shown_are_named_in_error_with_the_remedy),
        TEST(mount_in_the_background_prints_what_it_does_not_show),
        TEST(snapshot_that_turns_up_broken_is_named_until_it_is_gone),
        TEST(snapshot_that_is_copied_in_pieces_is_shown_when_it_is_complete),
    };
    harness_enter();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
