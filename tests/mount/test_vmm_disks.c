/* SPDX-License-Identifier: MIT */
/* Drives that Firecracker's VMs write to, as far as its test peer can show: its guest writes the
 * VM's id to each when it starts. */
#include "fake.h"
#include "fixture.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const char drive[] = "0123456789";

static char *instance(struct harness *h, const char *id, const char *file)
{
    return harness_path(h, "instances/%s/%s", id, file);
}

static void change(struct harness *h, const char *id, const char *state)
{
    int code = harness_write(instance(h, id, "state"), state);
    if (code != 0)
        fail_msg("%s: %s", id, harness_get(h, instance(h, id, "error")));
}

static void commit(struct harness *h, const char *source, const char *id)
{
    int code = harness_write(harness_path(h, "%s/forks/new/commit", source), id);
    if (code != 0)
        fail_msg("%s: %s", id, harness_get(h, harness_path(h, "%s/forks/new/error", source)));
}

static void assert_drive(struct harness *h, const char *path, const char *content)
{
    assert_string_equal(harness_get(h, harness_store_path(h, "%s", path)), content);
}

static void await_drive(struct harness *h, const char *id, const char *content)
{
    harness_await(h, harness_store_path(h, "instances/%s/run/drive-disk0", id), content);
}

/* "t" runs, and has written its id to the user's file. */
static int setup(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    struct harness *h = *state;
    char *origin = harness_format(h, "%s/origin", h->directory);
    harness_put(origin, drive);
    fake_mount(h);
    assert_works(mkdir(instance(h, "t", ""), 0755));
    harness_put(instance(h, "t", "config"),
                harness_format(h,
                               "{\"hypervisor\":\"%s\",\"kernel\":\"/etc/passwd\","
                               "\"memory_mib\":8,\"disks\":[{\"path\":\"%s\","
                               "\"format\":\"raw\"}]}",
                               fake_hypervisor(), origin));
    change(h, "t", "running");
    harness_await(h, origin, "t1234");
    return 0;
}

static void forks_have_copies_of_what_was_saved(void **state)
{
    struct harness *h = *state;
    harness_put(instance(h, "t", "snapshot"), "live");
    assert_drive(h, "snapshots/live/frozen-disk0", "t123456789");
    commit(h, "snapshots/live", "one");
    await_drive(h, "one", "one3456789");
    change(h, "one", "standby");
    assert_drive(h, "instances/one/run/frozen-disk0", "one3456789");
    /* The state of this one names the copy that it ran on. */
    commit(h, "instances/one", "second");
    await_drive(h, "second", "second6789");
    harness_put(instance(h, "one", "snapshot"), "rest");
    change(h, "one", "running");
    await_drive(h, "one", "one3456789");
    harness_put(harness_path(h, "snapshots/rest/forks/new/options"),
                "{\"target_state\":\"standby\"}");
    commit(h, "snapshots/rest", "three");
    change(h, "three", "running");
    await_drive(h, "three", "three56789");
    assert_drive(h, "snapshots/rest/frozen-disk0", "one3456789");
    assert_drive(h, "snapshots/live/frozen-disk0", "t123456789");
    assert_string_equal(harness_get(h, harness_format(h, "%s/origin", h->directory)), "t123456789");
    assert_shell("bash", "[ ! -e $S/instances/one/run/frozen-disk0 ]", 0);
}

static void boot_again_finds_the_newest_drive(void **state)
{
    struct harness *h = *state;
    char *origin = harness_format(h, "%s/origin", h->directory);
    change(h, "t", "standby");
    change(h, "t", "stopped");
    harness_put(origin, "changed since");
    change(h, "t", "running");
    await_drive(h, "t", "t123456789");
    change(h, "t", "standby");
    change(h, "t", "running");
    change(h, "t", "stopped");
    change(h, "t", "running");
    assert_string_equal(harness_get(h, origin), "changed since");
    /* Of another disk it is not. */
    change(h, "t", "stopped");
    harness_put(instance(h, "t", "config"), "{}");
    assert_shell("bash", "[ ! -e $S/instances/t/run/drive-disk0 ]", 0);
}

/* "reader" has, read-only, what "t" has no longer. */
static void boot_reader(struct harness *h, const char *path)
{
    change(h, "t", "stopped");
    assert_works(mkdir(instance(h, "reader", ""), 0755));
    harness_put(instance(h, "reader", "config"),
                harness_format(h,
                               "{\"hypervisor\":\"%s\",\"kernel\":\"/etc/passwd\","
                               "\"memory_mib\":8,\"disks\":[{\"path\":\"%s\","
                               "\"format\":\"raw\",\"readonly\":true}]}",
                               fake_hypervisor(), path));
    change(h, "reader", "running");
}

static void assert_changed(struct harness *h, const char *written, const char *text)
{
    assert_errno(harness_write(written, text), EIO);
    const char *error =
        harness_format(h, "%.*serror", (int)(strrchr(written, '/') - written) + 1, written);
    assert_file_contains(error, "/origin is not as it was when the VM was saved");
}

static void disk_that_is_only_read_is_to_stay_what_it_was_at_the_save(void **state)
{
    struct harness *h = *state;
    char *origin = harness_format(h, "%s/origin", h->directory);
    boot_reader(h, origin);
    harness_put(instance(h, "reader", "snapshot"), "live");
    commit(h, "snapshots/live", "one");
    change(h, "reader", "standby");
    assert_shell("bash", "mv $T/origin $T/kept; cp $T/kept $T/origin", 0);
    assert_changed(h, harness_path(h, "snapshots/live/forks/new/commit"), "two");
    assert_changed(h, harness_path(h, "instances/reader/forks/new/commit"), "two");
    assert_changed(h, instance(h, "reader", "state"), "running");
    assert_shell("bash", "mv $T/kept $T/origin", 0);
    commit(h, "snapshots/live", "two");
    change(h, "reader", "running");
}

static void disk_that_is_only_read_is_nobodys_to_write_to_once_it_was_saved(void **state)
{
    struct harness *h = *state;
    boot_reader(h, harness_format(h, "%s/origin", h->directory));
    harness_put(instance(h, "reader", "snapshot"), "live");
    assert_errno(harness_write(instance(h, "t", "state"), "running"), EBUSY);
    assert_file_contains(instance(h, "t", "error"), "is frozen: the snapshot live");
    assert_works(rmdir(harness_path(h, "snapshots/live")));
    assert_errno(harness_write(instance(h, "t", "state"), "running"), EBUSY);
    assert_file_contains(instance(h, "t", "error"), "is frozen: the instance reader");
    /* A boot does not mind. */
    change(h, "reader", "stopped");
    change(h, "t", "running");
    change(h, "t", "stopped");
    assert_shell("bash", "echo changed > $T/origin", 0);
    change(h, "reader", "running");
    change(h, "reader", "standby");
    change(h, "reader", "running");
}

static char *config_of(struct harness *h, const char *first, const char *second)
{
    return harness_format(h,
                          "{\"hypervisor\":\"%s\",\"kernel\":\"/etc/passwd\","
                          "\"memory_mib\":8,\"disks\":[{\"path\":\"%s\",\"format\":\"raw\"},"
                          "{\"path\":\"%s\",\"format\":\"raw\"}]}",
                          fake_hypervisor(), first, second);
}

/* Also when their names changed places, whichever daemon wrote them. */
static void copies_are_not_those_of_another_disk(void **state)
{
    struct harness *h = *state;
    char *a = harness_format(h, "%s/origin", h->directory);
    char *b = harness_format(h, "%s/other", h->directory);
    harness_put(b, "abcdefghij");
    change(h, "t", "stopped");
    for (int i = 0; i < 3; i++) {
        harness_put(instance(h, "t", "config"), config_of(h, a, b));
        change(h, "t", "running");
        harness_await(h, b, "tbcdefghij");
        change(h, "t", "standby");
        change(h, "t", "stopped");
        assert_shell("bash", "[ -e $S/instances/t/run/frozen-disk0 ]", 0);
        if (i > 0)
            harness_put(instance(h, "t", "config"), config_of(h, a, b));
        if (i > 1) {
            assert_int_equal(harness_unmount(h), 0);
            fake_mount(h);
        }
        assert_shell("bash", "[ -e $S/instances/t/run/frozen-disk1 ]", 0);
        harness_put(instance(h, "t", "config"), config_of(h, b, a));
        assert_shell("bash", "ls $S/instances/t/run | grep -e ^frozen -e ^drive", 1);
        harness_put(a, drive);
        change(h, "t", "running");
        harness_await(h, a, "t123456789");
        change(h, "t", "stopped");
    }
}

/* As a daemon leaves it that is killed in a write to config, before it dropped them. */
static void copies_that_were_left_behind_are_not_booted_from(void **state)
{
    struct harness *h = *state;
    char *origin = harness_format(h, "%s/origin", h->directory);
    change(h, "t", "stopped");
    harness_put(harness_store_path(h, "instances/t/run/frozen-disk0"), "of another disk");
    harness_put(harness_store_path(h, "instances/t/run/drive-disk0"), "of another disk");
    harness_kill(h);
    fake_mount(h);
    assert_shell("bash", "ls $S/instances/t/run | grep -e ^frozen -e ^drive", 1);
    harness_put(origin, drive);
    change(h, "t", "running");
    harness_await(h, origin, "t123456789");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(forks_have_copies_of_what_was_saved),
        TEST(boot_again_finds_the_newest_drive),
        TEST(disk_that_is_only_read_is_to_stay_what_it_was_at_the_save),
        TEST(disk_that_is_only_read_is_nobodys_to_write_to_once_it_was_saved),
        TEST(copies_are_not_those_of_another_disk),
        TEST(copies_that_were_left_behind_are_not_booted_from),
    };
    harness_enter();
    return cmocka_run_group_tests_name("vmm_disks", tests, NULL, NULL);
}
