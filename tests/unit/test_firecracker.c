/* SPDX-License-Identifier: MIT */
/* The backend against tests/fake_firecracker, which is not Firecracker: see there. */
#include "firecracker_fixture.h"

static void program_that_tells_no_version_is_not_used(void **state)
{
    struct fixture *fixture = *state;
    struct vmm_context base = context_in(fixture, "base");
    struct machine machine = plain_machine();
    struct vmm *vmm = NULL;
    struct error err = {0};
    auto_free char *other = fixture_script(fixture, "other", "#!/bin/sh\necho Firecracker vOne\n");
    base.binary = other;
    assert_int_equal(vmm_boot(&base, &machine, &vmm, &err), -EIO);
    assert_non_null(strstr(err.text, "does not print a version of Firecracker"));
    assert_nothing_left(&base);
}

static void boot_save_and_load_deliver_what_is_written_into_memory(void **state)
{
    struct fixture *fixture = *state;
    struct vmm_context base = context_in(fixture, "base"), fork = context_in(fixture, "fork");
    struct machine machine = plain_machine();
    struct vmm *vmm = NULL;
    struct error err = {0};
    uint8_t bytes[16];

    assert_int_equal(vmm_boot(&base, &machine, &vmm, &err), 0);
    assert_int_equal(machine.accel, ACCEL_KVM);
    assert_string_equal(machine.version, "1.7.0");
    await_file(&base, "console.log", "ready");
    vmm_release(vmm);
    assert_int_equal(vmm_save(&base, vmm, &machine, &fixture_save, &err), -EIO); /* it runs */
    assert_non_null(
        strstr(err.text, "saving the VM: PUT /snapshot/create: Create snapshot error: "));
    assert_int_equal(vmm_pause(&base, vmm, &err), 0);
    assert_int_equal(vmm_save(&base, vmm, &machine, &fixture_save, &err), 0);
    assert_int_equal(vmm_resume(&base, vmm, &err), 0);
    stop(vmm);

    auto_free char *before = fixture_read(base.directory_fd, "memory", NULL);
    vmm = load(&fork, &machine);
    const size_t at = 3 * PAGE; /* of "m" */
    assert_int_equal(vmm_read_memory(vmm, at, bytes, sizeof bytes, &err), 0);
    assert_memory_equal(bytes, "HYPEMAN_FORK_MAI", sizeof bytes);
    assert_int_equal(vmm_write_memory(vmm, at + 264, "{\"a\":1}", 7, &err), 0);
    assert_int_equal(vmm_write_memory(vmm, at + 260, "\7\0\0\0", 4, &err), 0);
    assert_int_equal(vmm_write_memory(vmm, at + 256, "\1\0\0\0", 4, &err), 0);
    assert_int_equal(vmm_resume(&fork, vmm, &err), 0);
    vmm_release(vmm);
    await_file(&fork, "console.log", "m {\"a\":1}\n");
    auto_free char *after = fixture_read(base.directory_fd, "memory", NULL);
    assert_memory_equal(before, after, MEMORY_BYTES);
    stop(vmm);
    finish_booted(&machine);
}

static void save_never_writes_into_what_was_saved_before(void **state)
{
    struct vmm_context base = context_in(*state, "base");
    struct machine machine = plain_machine();
    struct vmm *vmm = NULL;
    struct error err = {0};
    fixture_write(base.directory_fd, "memory", 0600, "older memory", 12);
    fixture_write(base.directory_fd, "state", 0600, "older state", 11);
    assert_int_equal(linkat(base.directory_fd, "memory", base.directory_fd, "memory2", 0), 0);
    assert_int_equal(linkat(base.directory_fd, "state", base.directory_fd, "state2", 0), 0);
    assert_int_equal(vmm_boot(&base, &machine, &vmm, &err), 0);
    assert_int_equal(vmm_pause(&base, vmm, &err), 0);
    assert_int_equal(vmm_save(&base, vmm, &machine, &fixture_save, &err), 0);
    auto_free char *memory = fixture_read(base.directory_fd, "memory2", NULL);
    auto_free char *saved = fixture_read(base.directory_fd, "state2", NULL);
    assert_string_equal(memory, "older memory");
    assert_string_equal(saved, "older state");
    stop(vmm);
    finish_booted(&machine);
}

static void boot_when_it_is_refused_has_the_words_and_leaves_nothing(void **state)
{
    struct vmm_context base = context_in(*state, "base");
    struct machine machine = plain_machine();
    struct vmm *vmm = NULL;
    struct error err = {0};
    machine.kernel = (char[]){"/no/such/kernel"};
    assert_int_equal(vmm_boot(&base, &machine, &vmm, &err), -EIO);
    assert_string_equal(err.text, "booting the VM: PUT /boot-source: Boot source error: The kernel "
                                  "file cannot be opened: No such file or directory (os error 2) "
                                  "(kernel is /no/such/kernel)");
    assert_nothing_left(&base);
}

static void memory_of_a_large_image_is_reached_in_all_its_regions(void **state)
{
    static const uint64_t gib = 1 << 30;
    struct vmm_context fork = context_in(*state, "fork");
    struct machine machine = plain_machine();
    struct error err = {0};
    uint8_t bytes[8];
    machine.memory_bytes = 3 * gib + (64 << 20);
    make_base(&fork, (off_t)machine.memory_bytes, "1.7.0", "");
    struct vmm *vmm = load(&fork, &machine);
    const uint64_t places[] = {0, 3 * gib - PAGE, 3 * gib, 3 * gib + (63 << 20)};
    for (size_t i = 0; i < array_length(places); i++) {
        assert_int_equal(vmm_write_memory(vmm, places[i], "payload", 8, &err), 0);
        assert_int_equal(vmm_read_memory(vmm, places[i], bytes, 8, &err), 0);
        assert_string_equal((char *)bytes, "payload");
    }
    /* Across both regions; in the slot that is not plugged in; behind the end. */
    assert_int_equal(vmm_read_memory(vmm, 3 * gib - 4, bytes, 8, &err), -EIO);
    assert_int_equal(vmm_write_memory(vmm, machine.memory_bytes - PAGE, "payload", 8, &err), -EIO);
    assert_non_null(strstr(err.text, "not private and writable"));
    assert_int_equal(vmm_read_memory(vmm, machine.memory_bytes, bytes, 8, &err), -EIO);
    stop(vmm);
    auto_close int image = openat(fork.directory_fd, "../base/memory", O_RDONLY | O_CLOEXEC);
    for (size_t i = 0; i < array_length(places); i++) {
        assert_int_equal(pread(image, bytes, 8, (off_t)places[i]), 8);
        assert_memory_equal(bytes, (char[8]){0}, 8);
    }
}

/* ---- drives ---- */

static void drives_that_can_be_written_to_are_each_forks_own(void **state)
{
    struct vmm_context a = context_in(*state, "fork-a"), b = context_in(*state, "fork-b");
    struct machine machine = plain_machine();
    struct machine_disk disk = frozen_disk();
    struct error err = {0};
    machine.disks = &disk;
    machine.disk_count = 1;
    make_base_with_drives(&a);
    struct vmm *first = load(&a, &machine), *second = load(&b, &machine);
    auto_free char *copy = fixture_read(a.directory_fd, "drive-rootfs", NULL);
    assert_string_equal(copy, "frozen content");
    assert_int_equal(vmm_resume(&a, first, &err), 0);
    assert_int_equal(vmm_resume(&b, second, &err), 0);
    await_file(&a, "drive-rootfs", "fork-a content"); /* the fake's guest writes its id there */
    await_file(&b, "drive-rootfs", "fork-b content");
    auto_free char *frozen = fixture_read(a.directory_fd, "../base/disk-0", NULL);
    auto_free char *origin = fixture_read(a.directory_fd, "../base/origin", NULL);
    assert_string_equal(frozen, "frozen content");
    assert_string_equal(origin, "later content");
    stop(first);
    stop(second);
}

static void drives_that_nobody_named_are_refused_unless_they_are_readonly(void **state)
{
    struct vmm_context fork = context_in(*state, "fork");
    struct machine machine = plain_machine();
    struct machine_disk disk = frozen_disk();
    make_base_with_drives(&fork);
    assert_load_fails(&fork, &machine, EOPNOTSUPP,
                      "the VM can write to the drive rootfs (../base/origin), which");
    machine.disks = &disk;
    machine.disk_count = 1;
    disk.frozen = NULL;
    assert_load_fails(&fork, &machine, EOPNOTSUPP, "import the snapshot again with --config");
    disk.frozen = (char[]){"disk-1"};
    assert_load_fails(&fork, &machine, EIO, "the frozen copy disk-1 cannot be opened: No such");
    disk = frozen_disk();
    disk.id = (char[]){"other"};
    assert_load_fails(&fork, &machine, EOPNOTSUPP, "the drive rootfs");
    make_base(&fork, MEMORY_BYTES, "1.7.0", "");
    assert_load_fails(&fork, &machine, EIO, "PATCH /drives/other: Drive config error");
}

static void drives_with_long_ids_have_files_of_their_own(void **state)
{
#define LONG "r123456789012345678901234567890123456789012345678901234567890123456789012"
#define DRIVE(id, file)                                                                            \
    "{\"drive_id\":\"" id "\",\"path_on_host\":\"../base/" file "\",\"is_read_only\":false}"
    struct vmm_context fork = context_in(*state, "fork");
    struct machine machine = plain_machine();
    struct machine_disk disks[] = {frozen_disk(), frozen_disk()};
    disks[0].id = (char[]){LONG "a"};
    disks[1].id = (char[]){LONG "b"};
    machine.disks = disks;
    machine.disk_count = array_length(disks);
    make_base_with_drives(&fork);
    make_base(&fork, MEMORY_BYTES, "1.7.0",
              "\"drives\":[" DRIVE(LONG "a", "origin") "," DRIVE(LONG "b", "shared") "]");
    stop(load(&fork, &machine));
    assert_true(fixture_has(fork.directory_fd, "drive-" LONG "a"));
    assert_true(fixture_has(fork.directory_fd, "drive-" LONG "b"));
}

static void pmem_that_can_be_written_to_is_refused(void **state)
{
    struct vmm_context fork = context_in(*state, "fork");
    struct machine machine = plain_machine();
    make_base_with_drives(&fork);
    make_base(&fork, MEMORY_BYTES, "1.7.0",
              "\"pmem\":[{\"id\":\"a\",\"path_on_host\":\"../base/shared\",\"read_only\":true},"
              "{\"id\":\"b\",\"path_on_host\":\"../base/origin\",\"read_only\":false}]");
    assert_load_fails(&fork, &machine, EOPNOTSUPP,
                      "the VM can write to the pmem device b (../base/origin), which");
    make_base(&fork, MEMORY_BYTES, "1.7.0",
              "\"pmem\":[{\"id\":\"a\",\"path_on_host\":\"../base/shared\",\"read_only\":true}]");
    stop(load(&fork, &machine));
}

static void pmem_that_is_named_must_be_the_file_that_is_mapped(void **state)
{
    struct fixture *fixture = *state;
    struct vmm_context fork = context_in(fixture, "fork");
    struct machine machine = plain_machine();
    struct machine_disk disk = frozen_disk();
    struct error err = {0};
    char path[PATH_MAX];
    make_base_with_drives(&fork);
    make_base(&fork, MEMORY_BYTES, "1.7.0",
              "\"pmem\":[{\"id\":\"a\",\"path_on_host\":\"../base/shared\",\"read_only\":true}]");
    machine.disks = &disk;
    machine.disk_count = 1;
    disk.id = (char[]){"a"};
    disk.frozen = NULL;
    disk.readonly = disk.pmem = true;
    disk.path = path;
    snprintf(path, sizeof path, "%s/base/disk-0", fixture->base);
    assert_load_fails(&fork, &machine, EIO, "is not the file that the VMM has opened");
    snprintf(path, sizeof path, "%s/base/shared", fixture->base);
    struct vmm *vmm = load(&fork, &machine);
    assert_int_equal(vmm_pause(&fork, vmm, &err), 0);
    /* Nobody says by a path any more what the VM maps. */
    assert_int_equal(renameat(fork.directory_fd, "../base/disk-0", fork.directory_fd, path), 0);
    assert_int_equal(vmm_save(&fork, vmm, &machine, &fixture_save, &err), -EIO);
    assert_non_null(strstr(err.text, "/base/shared is not the file that the VM has open"));
    stop(vmm);
}

/* ---- network, vsock ---- */

static void tap_that_is_another_needs_a_version_that_can(void **state)
{
    static char tap[] = "lo", id[] = "eth0";
    struct vmm_context fork = context_in(*state, "fork");
    struct machine machine = plain_machine();
    struct machine_interface interface = {.id = id, .tap = tap, .replaced = true};
    machine.network = NETWORK_TAP;
    machine.interfaces = &interface;
    machine.interface_count = 1;
    make_base(&fork, MEMORY_BYTES, "1.11.9", "");
    setenv("FAKE_VMM_VERSION", "1.11.9", 1);
    assert_load_fails(&fork, &machine, EOPNOTSUPP,
                      "needs Firecracker 1.12, and this one is 1.11.9");
    setenv("FAKE_VMM_VERSION", "1.12.0-dev", 1);
    make_base(&fork, MEMORY_BYTES, "1.12.0-dev", "");
    assert_load_fails(&fork, &machine, EIO, "Unknown Network Device."); /* it was sent */
    interface.id = NULL;
    assert_load_fails(&fork, &machine, EOPNOTSUPP, "import it again with --config");
    interface.tap = (char[]){"no-such-tap"};
    assert_load_fails(&fork, &machine, EIO, "the tap no-such-tap: No such device");
    interface.tap = tap;
    interface.replaced = false;
    stop(load(&fork, &machine));
    unsetenv("FAKE_VMM_VERSION");
}

static void memory_that_was_on_hugetlbfs_needs_a_version_that_maps_it(void **state)
{
    struct vmm_context fork = context_in(*state, "fork");
    struct machine machine = plain_machine();
    setenv("FAKE_VMM_VERSION", "1.17.0-dev", 1);
    make_base(&fork, MEMORY_BYTES, "1.17.0-dev", "\"huge_pages\":\"2M\"");
    assert_load_fails(&fork, &machine, EIO, "import it again with a --config that says huge_pages");
    machine.huge_pages = true;
    stop(load(&fork, &machine));
    setenv("FAKE_VMM_VERSION", "1.16.2", 1);
    make_base(&fork, MEMORY_BYTES, "1.16.2", "\"huge_pages\":\"2M\"");
    assert_load_fails(&fork, &machine, EOPNOTSUPP,
                      "needs Firecracker 1.17 to be forked, and this one is 1.16.2");
    unsetenv("FAKE_VMM_VERSION");
}

static void vsock_when_the_version_can_is_each_forks_own(void **state)
{
    struct vmm_context a = context_in(*state, "a"), b = context_in(*state, "b");
    struct machine machine = plain_machine();
    char vsock[] = "../base/v.sock";
    machine.vsock = vsock;
    setenv("FAKE_VMM_VERSION", "1.16.0", 1);
    make_base(&a, MEMORY_BYTES, "1.16.0", "\"vsock\":\"../base/v.sock\"");
    struct vmm *first = load(&a, &machine), *second = load(&b, &machine);
    assert_true(fixture_has(a.directory_fd, "vsock.sock"));
    assert_true(fixture_has(b.directory_fd, "vsock.sock"));
    assert_false(fixture_has(a.directory_fd, "../base/v.sock"));
    stop(first);
    stop(second);
    /* What an earlier one has left there is in nobody's way. */
    stop(load(&a, &machine));
    /* Before, the path is that of the saved state, and two forks cannot both have it. */
    setenv("FAKE_VMM_VERSION", "1.15.0", 1);
    make_base(&a, MEMORY_BYTES, "1.15.0", "\"vsock\":\"../base/v.sock\"");
    first = load(&a, &machine);
    assert_true(fixture_has(a.directory_fd, "../base/v.sock"));
    try_to_load(&b, &machine, EBUSY, "the vsock's socket ../base/v.sock is in use");
    stop(first);
    /* It is left there, in a directory that is neither's own: only who knows it may remove it. */
    try_to_load(&b, &machine, EBUSY, "or use Firecracker 1.16 or later");
    assert_true(fixture_has(a.directory_fd, "../base/v.sock"));
    unsetenv("FAKE_VMM_VERSION");
}

static void vsock_in_the_own_directory_when_nobody_listens_is_made_anew(void **state)
{
    struct vmm_context a = context_in(*state, "a");
    struct machine machine = plain_machine();
    static const char *const paths[] = {"v.sock", "./v.sock", "../a/v.sock"};
    setenv("FAKE_VMM_VERSION", "1.15.0", 1);
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        auto_free char *path = strdup(paths[i]), *words = NULL;
        assert_true(asprintf(&words, "\"vsock\":\"%s\"", path) > 0);
        machine.vsock = path;
        make_base(&a, MEMORY_BYTES, "1.15.0", words);
        stop(load(&a, &machine));
        assert_true(fixture_has(a.directory_fd, "v.sock"));
        stop(load(&a, &machine));
    }
    unsetenv("FAKE_VMM_VERSION");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(program_that_tells_no_version_is_not_used),
        WITH(boot_save_and_load_deliver_what_is_written_into_memory),
        WITH(save_never_writes_into_what_was_saved_before),
        WITH(boot_when_it_is_refused_has_the_words_and_leaves_nothing),
        WITH(memory_of_a_large_image_is_reached_in_all_its_regions),
        WITH(drives_that_can_be_written_to_are_each_forks_own),
        WITH(drives_that_nobody_named_are_refused_unless_they_are_readonly),
        WITH(drives_with_long_ids_have_files_of_their_own),
        WITH(pmem_that_can_be_written_to_is_refused),
        WITH(pmem_that_is_named_must_be_the_file_that_is_mapped),
        WITH(tap_that_is_another_needs_a_version_that_can),
        WITH(memory_that_was_on_hugetlbfs_needs_a_version_that_maps_it),
        WITH(vsock_when_the_version_can_is_each_forks_own),
        WITH(vsock_in_the_own_directory_when_nobody_listens_is_made_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
