/* SPDX-License-Identifier: MIT */
/* The files that a machine's disks are made of. */
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/disks.h"
#include "util/cleanup.h"
#include "vmm_fixture.h"

static char raw[] = "raw", qcow2[] = "qcow2", gone[] = "/none/of/that/name", id[] = "root";

/* One that is only read, one that was never saved. */
static void make(struct fixture *fixture, struct machine_disk disks[2])
{
    disks[0] = (struct machine_disk){.path = gone, .format = raw, .readonly = true};
    disks[1] = (struct machine_disk){.format = raw};
    assert_true(asprintf(&disks[1].path, "%s/disk", fixture->base) > 0);
    fixture_write(fixture->base_fd, "disk", 0600, "content", 7);
}

static void freeze_makes_a_chain_that_grows(void **state)
{
    struct machine_disk disks[2];
    struct machine machine = {.disks = disks, .disk_count = 2};
    struct stat file;

    make(*state, disks);
    assert_int_equal(disk_top(&disks[1]), 0);
    assert_string_equal(disks[1].key, "");
    disks_freeze(&machine);
    assert_int_equal(disk_top(&disks[0]), 0);
    assert_int_equal(disk_top(&disks[1]), 1);
    assert_int_equal(disks[1].layers, 0);
    assert_int_equal(stat(disks[1].path, &file), 0);
    assert_int_equal(disk_check_key(&disks[1], &file, NULL), 0);
    disks_freeze(&machine);
    assert_int_equal(disks[1].layers, 1);
    assert_int_equal(disks_check_room(&machine, NULL), 0);
    disks[1].layers = DISK_LAYERS_MAX;
    struct error err = {0};
    assert_int_equal(disks_check_room(&machine, &err), -EOPNOTSUPP);
    assert_non_null(strstr(err.text, "qemu-img convert"));
    free(disks[1].path);
}

static void key_when_the_file_is_changed_or_gone_does_not_fit(void **state)
{
    struct fixture *fixture = *state;
    struct machine_disk disks[2];
    struct stat file;
    struct error err = {0};

    make(fixture, disks);
    disk_freeze(&disks[1]);
    fixture_write(fixture->base_fd, "disk", 0600, "contents", 8);
    assert_int_equal(stat(disks[1].path, &file), 0);
    assert_int_equal(disk_check_key(&disks[1], &file, &err), -EIO);
    assert_non_null(strstr(err.text, "is not as it was when the VM was saved"));
    struct machine_disk lost = {.path = gone, .format = raw};
    disk_freeze(&lost);
    assert_int_equal(disk_top(&lost), 1);
    assert_int_equal(disk_check_key(&lost, &file, NULL), -EIO);
    free(disks[1].path);
}

static void key_of_what_is_only_read_is_its_first(void **state)
{
    struct fixture *fixture = *state;
    struct machine_disk disks[2];
    struct machine machine = {.disks = disks, .disk_count = 2}, boot = machine;
    struct machine_disk of_boot;
    struct error err = {0};

    make(fixture, disks);
    disks[1].readonly = true;
    disks_note_readonly(&machine);
    assert_string_equal(disks[0].key, ""); /* there is no file */
    assert_int_equal(disks_check_readonly(&machine, NULL), 0);
    assert_int_equal(disk_top(&disks[1]), 0);
    fixture_write(fixture->base_fd, "disk", 0600, "contents", 8);
    disks_note_readonly(&machine);
    disks_freeze(&machine);
    assert_int_equal(disks_check_readonly(&machine, &err), -EIO);
    assert_non_null(strstr(err.text, "is not as it was when the VM was saved"));
    assert_int_equal(unlinkat(fixture->base_fd, "disk", 0), 0);
    assert_int_equal(disks_check_readonly(&machine, &err), -EIO);
    assert_non_null(strstr(err.text, "No such file"));
    of_boot = disks[1];
    of_boot.key[0] = 0;
    boot.disks = &of_boot;
    boot.disk_count = 1;
    machine.disks = &disks[1];
    assert_int_equal(disks_keep(&boot, &machine, NULL), 0);
    assert_string_equal(of_boot.key, "");
    free(disks[1].path);
}

static void link_takes_what_is_frozen_along(void **state)
{
    struct fixture *fixture = *state;
    int a = fixture_context(fixture, "a", NULL).directory_fd;
    int b = fixture_context(fixture, "b", NULL).directory_fd;
    struct machine_disk disks[] = {{.path = gone, .format = raw, .key = "k", .layers = 2},
                                   {.path = gone, .format = raw, .id = id, .frozen = id}};
    struct machine machine = {.disks = disks, .disk_count = 2};
    char lower[] = "lower-root";
    struct error err = {0};

    fixture_write(a, "disk0.1.qcow2", 0600, "1", 1);
    fixture_write(a, "disk0.2.qcow2", 0600, "2", 1);
    fixture_write(a, "disk0.3.qcow2", 0600, "3", 1);
    assert_int_equal(disks_link(&machine, a, b, true, &err), -EIO);
    assert_non_null(strstr(err.text, "the disk root cannot be linked"));
    disks_tidy(&(struct machine){0}, b);
    assert_false(fixture_has(b, "disk0.1.qcow2"));
    assert_int_equal(disks_link(&machine, a, b, false, &err), 0);
    assert_true(fixture_has(b, "disk0.2.qcow2") && !fixture_has(b, "disk0.3.qcow2"));
    disks_drop_tops(&machine, a);
    assert_true(fixture_has(a, "disk0.2.qcow2") && !fixture_has(a, "disk0.3.qcow2"));
    fixture_write(b, "frozen-root", 0600, "", 0);
    fixture_write(b, "lower-root", 0600, "", 0);
    disks[1].lower = lower;
    disks_drop_copies(&machine, b);
    assert_true(!fixture_has(b, "frozen-root") && fixture_has(b, "lower-root"));
    disks[1].lower = NULL;
    disks_drop_copies(&machine, b);
    assert_false(fixture_has(b, "lower-root"));
}

static void tidy_leaves_what_the_record_tells_of(void **state)
{
    static const char *const kept[] = {"disk0.1.qcow2", "disk0.2.qcow2", "frozen-root",
                                       "drive-root",    "memory",        "disk0.1.qcow2.tmp",
                                       "lower-root"};
    static const char *const left[] = {"disk0.3.qcow2", "disk1.1.qcow2", "disk7.1.qcow2",
                                       "frozen-disk0",  "drive-disk1",   "frozen-",
                                       "lower-disk1"};
    struct fixture *fixture = *state;
    int fd = fixture_context(fixture, "a", NULL).directory_fd;
    char other[] = "disk1", lower[] = "lower-root";
    struct machine_disk disks[] = {
        {.path = gone, .format = raw, .key = "k", .layers = 1},
        {.path = gone, .format = raw, .id = id, .frozen = id, .lower = lower},
        {.path = gone, .format = raw, .id = other}};

    for (size_t i = 0; i < array_length(kept); i++)
        fixture_write(fd, kept[i], 0600, "", 0);
    for (size_t i = 0; i < array_length(left); i++)
        fixture_write(fd, left[i], 0600, "", 0);
    disks_tidy(&(struct machine){.disks = disks, .disk_count = array_length(disks)}, fd);
    for (size_t i = 0; i < array_length(kept); i++)
        assert_true(fixture_has(fd, kept[i]));
    for (size_t i = 0; i < array_length(left); i++)
        assert_false(fixture_has(fd, left[i]));
}

static void copy_is_of_its_own_and_keeps_what_was_written_of_what_matches(void **state)
{
    struct machine_disk disks[] = {{.path = gone, .format = raw, .key = "k", .layers = 2},
                                   {.path = gone, .format = raw, .id = id, .frozen = id}};
    const struct machine machine = {.disks = disks, .disk_count = 2};
    struct machine copy = machine;

    (void)state;
    assert_int_equal(disks_copy(&copy, NULL), 0);
    assert_true(copy.disks != disks && copy.disks[1].id != id);
    assert_string_equal(copy.disks[1].frozen, id);
    assert_string_equal(copy.disks[0].key, "k");

    struct machine_disk wanted[] = {{.path = gone, .format = raw}, {.path = gone, .format = raw}};
    struct machine next = {.disks = wanted, .disk_count = 2};
    assert_int_equal(disks_keep(&next, &copy, NULL), 0);
    assert_string_equal(wanted[0].key, "k");
    assert_int_equal(wanted[0].layers, 2);
    assert_string_equal(wanted[1].id, id);
    assert_string_equal(wanted[1].frozen, id);
    free(wanted[1].id);
    free(wanted[1].frozen);
    wanted[0] = (struct machine_disk){.path = gone, .format = raw, .readonly = true};
    wanted[1] = (struct machine_disk){.path = gone, .format = qcow2};
    assert_int_equal(disks_keep(&next, &copy, NULL), 0);
    assert_string_equal(wanted[0].key, "");
    assert_null(wanted[1].frozen);
    assert_false(disks_match(&next, &copy, 1) || disks_match(&next, &copy, 2));
    wanted[1].format = raw;
    assert_true(disks_match(&next, &copy, 1));
    next.hypervisor = hypervisor_find("firecracker");
    assert_false(disks_match(&next, &copy, 1));
    disks_finish(&copy);
    disks_finish(&copy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(freeze_makes_a_chain_that_grows),
        WITH(key_when_the_file_is_changed_or_gone_does_not_fit),
        WITH(key_of_what_is_only_read_is_its_first),
        WITH(link_takes_what_is_frozen_along),
        WITH(tidy_leaves_what_the_record_tells_of),
        cmocka_unit_test(copy_is_of_its_own_and_keeps_what_was_written_of_what_matches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
