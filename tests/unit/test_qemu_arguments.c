/* SPDX-License-Identifier: MIT */
#include "hypervisor/disks.h"
#include "hypervisor/machine.h"
#include "hypervisor/qemu_arguments.h"
#include "vmm_fixture.h"

enum { MEMORY_BYTES = 1 << 20 };

static const struct program plain = {.path = "/usr/bin/qemu", .version = "7.2.22"};
static char cpu[] = "max", raw[] = "raw", qcow2[] = "qcow2";

static struct machine small_machine(void)
{
    return (struct machine){
        .memory_bytes = MEMORY_BYTES, .vcpus = 3, .accel = ACCEL_TCG, .cpu = cpu};
}

/* All arguments, each between line breaks. Owned. */
static char *arguments_of(const struct machine *machine, const struct program *program,
                          bool restore)
{
    struct qemu_start start = {.program = program,
                               .type = "thetype",
                               .memory = "a,b/memory",
                               .restore = restore,
                               .qmp_fd = 7,
                               .tap_fd = 8};
    struct error err = {0};
    struct arguments arguments = {0};
    char *text = strdup("\n");
    if (qemu_arguments_create(machine, &start, &arguments, &err) < 0)
        fail_msg("%s", err.text);
    for (size_t i = 0; i < arguments.count; i++) {
        char *longer = NULL;
        assert_true(asprintf(&longer, "%s%s\n", text, arguments.items[i]) > 0);
        free(text);
        text = longer;
    }
    arguments_finish(&arguments);
    return text;
}

static void assert_has(const char *arguments, const char *wanted)
{
    if (!strstr(arguments, wanted))
        fail_msg("no %s in: %s", wanted, arguments);
}

static void assert_lacks(const char *arguments, const char *unwanted)
{
    if (strstr(arguments, unwanted))
        fail_msg("%s in: %s", unwanted, arguments);
}

static void what_a_user_chose_is_passed_as_values_only(void **state)
{
    struct fixture *fixture = *state;
    auto_free char *path = NULL, *wanted = NULL;
    assert_true(asprintf(&path, "%s/disk,readonly=off", fixture->base) > 0);
    fixture_write(fixture->base_fd, "disk,readonly=off", 0600, "", 0);
    struct machine_disk disk = {.path = path, .format = raw, .readonly = true};
    char kernel[] = "/k,accel=kvm", initrd[] = "/i,x=y", cmdline[] = "a=b,c -daemonize";
    struct machine machine = small_machine();
    machine.board = MACHINE_Q35;
    machine.network = NETWORK_USER;
    machine.network_restrict = true;
    machine.disks = &disk;
    machine.disk_count = 1;
    machine.kernel = kernel;
    machine.initrd = initrd;
    machine.cmdline = cmdline;

    auto_free char *arguments = arguments_of(&machine, &plain, false);
    assert_has(arguments, "\n-kernel\n/k,accel=kvm\n-initrd\n/i,x=y\n"
                          "-append\na=b,c -daemonize no_timer_check\n");
    assert_has(arguments, "\n-netdev\n{\"type\":\"user\",\"id\":\"net0\",\"restrict\":true}\n"
                          "-device\n{\"driver\":\"virtio-net-pci\",\"netdev\":\"net0\","
                          "\"guest_announce\":false,\"romfile\":\"\"}\n");
    assert_true(asprintf(&wanted,
                         "\n-blockdev\n{\"driver\":\"raw\",\"node-name\":\"disk0\","
                         "\"read-only\":true,\"file\":{\"driver\":\"file\","
                         "\"filename\":\"%s\"}}\n"
                         "-device\n{\"driver\":\"virtio-blk-pci\",\"drive\":\"disk0\"}\n",
                         path) > 0);
    assert_has(arguments, wanted);
    assert_has(arguments, "\"size\":1048576,\"mem-path\":\"a,b/memory\",\"share\":true,");
    assert_has(arguments, "\n-machine\nthetype,memory-backend=ram,");
    assert_has(arguments, "\n-accel\ntcg\n-cpu\nmax\n-smp\n3\n");
    assert_has(arguments, "\nsocket,id=qmp,fd=7,server=on,wait=off\n");
    assert_has(arguments, "\n-no-reboot\n");
    assert_lacks(arguments, "\n-incoming\n");
}

static void restore_is_private_and_waits_and_has_nothing_to_boot(void **state)
{
    char kernel[] = "/k";
    struct machine machine = small_machine();

    (void)state;
    machine.kernel = kernel;
    auto_free char *arguments = arguments_of(&machine, &plain, true);
    assert_has(arguments, "\"share\":false,");
    assert_has(arguments, "\n-S\n-incoming\ndefer\n-global\nmigration.send-configuration=off\n");
    assert_has(arguments, "\n-machine\nthetype,acpi=on,memory-backend=ram,");
    assert_lacks(arguments, "\n-kernel\n");
    assert_lacks(arguments, "\n-append\n");
    assert_lacks(arguments, "netdev");
    assert_lacks(arguments, "\n-sandbox\n");
}

static void restore_of_firmware_is_private_and_waits_and_boots(void **state)
{
    struct machine machine = small_machine();

    (void)state;
    machine.kernel = (char[]){"/k"};
    machine.in_firmware = true;
    auto_free char *arguments = arguments_of(&machine, &plain, true);
    assert_has(arguments, "\"share\":false,");
    assert_has(arguments, "\n-S\n");
    assert_has(arguments, "\n-kernel\n/k\n");
    assert_lacks(arguments, "\n-incoming\n");
}

/* Before 8.2 `readonly` alone would keep the guest from writing to its memory. */
static void restore_by_a_qemu_that_can_opens_the_image_for_reading_only(void **state)
{
    static const struct {
        const char *version;
        bool can;
    } versions[] = {
        {"7.2.22", false}, {"8.1.5", false}, {"8.2.0", true}, {"9.0.1", true}, {"10.0.13", true}};
    struct machine machine = small_machine();
    (void)state;
    for (size_t i = 0; i < array_length(versions); i++) {
        struct program program = plain;
        snprintf(program.version, sizeof program.version, "%s", versions[i].version);
        auto_free char *restored = arguments_of(&machine, &program, true);
        auto_free char *booted = arguments_of(&machine, &program, false);
        if (versions[i].can)
            assert_has(restored, "\"readonly\":true,\"rom\":\"off\"");
        else
            assert_lacks(restored, "readonly");
        assert_lacks(booted, "readonly");
    }
}

static void tap_is_passed_as_a_descriptor(void **state)
{
    char tap[] = "lo", mac[] = "02:00:00:00:00:01"; /* one that is there on every host */
    struct machine_interface interface = {.tap = tap, .mac = mac};
    struct machine machine = small_machine();
    static const bool restores[] = {false, true};

    (void)state;
    machine.network = NETWORK_TAP;
    machine.interfaces = &interface;
    machine.interface_count = 1;
    for (size_t i = 0; i < array_length(restores); i++) {
        auto_free char *arguments = arguments_of(&machine, &plain, restores[i]);
        assert_has(arguments, "\n-netdev\n{\"type\":\"tap\",\"id\":\"net0\",\"fd\":\"8\"}\n"
                              "-device\n{\"driver\":\"virtio-net-device\",\"netdev\":\"net0\","
                              "\"mac\":\"02:00:00:00:00:01\",\"guest_announce\":false}\n");
    }
    interface.mac = NULL;
    auto_free char *arguments = arguments_of(&machine, &plain, true);
    assert_lacks(arguments, "\"mac\"");
}

static void tap_that_is_not_taken_is_refused(void **state)
{
    char tap[] = "no-such-tap-0";
    struct machine_interface interfaces[] = {{.tap = tap}, {.tap = tap}};
    struct machine machine = small_machine();
    struct qemu_start start = {.program = &plain, .type = "microvm", .memory = "memory"};
    struct error err = {0};
    struct arguments arguments = {0};

    (void)state;
    machine.network = NETWORK_TAP;
    machine.interfaces = interfaces;
    machine.interface_count = 1;
    assert_int_equal(qemu_arguments_create(&machine, &start, &arguments, &err), -EIO);
    assert_non_null(strstr(err.text, "the tap no-such-tap-0: No such device"));
    machine.interface_count = 2;
    assert_int_equal(qemu_arguments_create(&machine, &start, &arguments, &err), -EOPNOTSUPP);
    assert_non_null(strstr(err.text, "2 network interfaces"));
}

static void sandbox_when_the_program_has_one_is_on(void **state)
{
    struct program sandboxed = plain;
    struct machine machine = small_machine();

    (void)state;
    sandboxed.sandbox = true;
    auto_free char *arguments = arguments_of(&machine, &sandboxed, true);
    assert_has(arguments, "\n/usr/bin/qemu\n-sandbox\non,");
}

static void kernel_of_a_microvm_is_told_how_to_reboot_unless_the_user_does(void **state)
{
    char kernel[] = "/k", cmdline[] = "reboot=k x";
    struct machine machine = small_machine();

    (void)state;
    machine.kernel = kernel;
    machine.accel = ACCEL_KVM;
    auto_free char *told = arguments_of(&machine, &plain, false);
    machine.cmdline = cmdline;
    auto_free char *by_user = arguments_of(&machine, &plain, false);
    assert_has(told, "\n-append\nreboot=t\n");
    assert_has(by_user, "\n-append\nreboot=k x\n");
}

static void kernel_of_a_microvm_is_told_its_clock_unless_the_user_does(void **state)
{
    char kernel[] = "/k", cmdline[] = "tsc_early_khz=1 x";
    struct machine machine = small_machine();

    (void)state;
    machine.kernel = kernel;
    auto_free char *told = arguments_of(&machine, &plain, false);
    machine.cmdline = cmdline;
    auto_free char *by_user = arguments_of(&machine, &plain, false);
    machine.cmdline = NULL;
    machine.accel = ACCEL_KVM;
    auto_free char *kvm = arguments_of(&machine, &plain, false);
    assert_has(by_user, "\n-append\ntsc_early_khz=1 x no_timer_check reboot=t\n");
    assert_lacks(kvm, "tsc_early_khz");
    assert_lacks(kvm, "no_timer_check");
    /* A host without a steady counter has nothing to tell. */
    bool steady = machine_host_tsc_khz();
    assert_has(told, steady ? "\n-append\ntsc_early_khz=" : "\n-append\nno_timer_check reboot=t\n");
    assert_true(!steady || strstr(told, " tsc=reliable no_timer_check reboot=t\n"));
    machine.accel = ACCEL_TCG;
    machine.cmdline = (char[]){"tsc=unstable"};
    auto_free char *distrusted = arguments_of(&machine, &plain, false);
    assert_lacks(distrusted, "tsc=reliable");
}

static void kernel_of_a_q35_is_told_not_to_try_its_timer_under_tcg(void **state)
{
    char kernel[] = "/k", cmdline[] = "no_timer_check";
    struct machine machine = small_machine();

    (void)state;
    machine.board = MACHINE_Q35;
    machine.kernel = kernel;
    auto_free char *told = arguments_of(&machine, &plain, false);
    machine.cmdline = cmdline;
    auto_free char *by_user = arguments_of(&machine, &plain, false);
    machine.cmdline = NULL;
    machine.accel = ACCEL_KVM;
    auto_free char *kvm = arguments_of(&machine, &plain, false);
    assert_has(told, "\n-append\nno_timer_check\n");
    assert_has(by_user, "\n-append\nno_timer_check\n");
    assert_lacks(kvm, "-append");
}

/* Each file with its format and what lies below it; only the newest can be written to. */
static void disk_that_was_saved_is_a_chain(void **state)
{
    struct fixture *fixture = *state;
    auto_free char *path = NULL, *wanted = NULL;
    assert_true(asprintf(&path, "%s/disk", fixture->base) > 0);
    fixture_write(fixture->base_fd, "disk", 0600, "", 0);
    struct machine_disk disk = {.path = path, .format = raw};
    struct machine machine = small_machine();
    machine.disks = &disk;
    machine.disk_count = 1;
    auto_free char *fresh = arguments_of(&machine, &plain, false);
    assert_has(fresh, "\"node-name\":\"disk0\",\"read-only\":false,");
    assert_has(fresh, "\"drive\":\"disk0\"}");

    disk_freeze(&disk);
    disk.layers = 1;
    auto_free char *saved = arguments_of(&machine, &plain, true);
    assert_true(
        asprintf(&wanted,
                 "\n-blockdev\n{\"driver\":\"raw\",\"node-name\":\"disk0\",\"read-only\":true,"
                 "\"file\":{\"driver\":\"file\",\"filename\":\"%s\"}}\n"
                 "-blockdev\n{\"driver\":\"qcow2\",\"node-name\":\"disk0.1\","
                 "\"read-only\":true,\"backing\":\"disk0\",\"file\":{\"driver\":\"file\","
                 "\"filename\":\"disk0.1.qcow2\"}}\n"
                 "-blockdev\n{\"driver\":\"qcow2\",\"node-name\":\"disk0.2\","
                 "\"read-only\":false,\"backing\":\"disk0.1\",\"file\":{\"driver\":\"file\","
                 "\"filename\":\"disk0.2.qcow2\"}}\n"
                 "-device\n{\"driver\":\"virtio-blk-device\",\"drive\":\"disk0.2\"}\n",
                 path) > 0);
    assert_has(saved, wanted);
}

static void assert_restore_fails(const struct machine_disk *disk, int code, const char *words)
{
    struct machine machine = small_machine();
    struct qemu_start start = {
        .program = &plain, .type = "microvm", .memory = "memory", .restore = true};
    struct machine_disk copy = *disk;
    struct error err = {0};
    struct arguments arguments = {0};
    machine.disks = &copy;
    machine.disk_count = 1;
    assert_int_equal(qemu_arguments_create(&machine, &start, &arguments, &err), -code);
    assert_non_null(strstr(err.text, words));
}

static void disk_that_forks_would_share_or_that_was_changed_is_refused(void **state)
{
    struct fixture *fixture = *state;
    auto_free char *path = NULL;
    assert_true(asprintf(&path, "%s/disk", fixture->base) > 0);
    fixture_write(fixture->base_fd, "disk", 0600, "", 0);
    struct machine_disk disk = {.path = path, .format = raw};
    assert_restore_fails(&disk, EOPNOTSUPP, "is not frozen");
    disk_freeze(&disk);
    fixture_write(fixture->base_fd, "disk", 0600, "later", 5);
    assert_restore_fails(&disk, EIO, "is not as it was");
}

static void disk_that_is_not_taken_is_refused(void **state)
{
    /* Headers of qcow2 files, version 3. */
    enum { HEADER = 104, BACKING = 15, FEATURES = 79 };
    static const struct {
        const char *name;
        char *format;
        bool readonly;
        int place, value; /* a byte to be set in the header; place -1: no file at all */
        int code;
    } cases[] = {
        {"writable", raw, false, 0, 'Q', 0},
        {"none", raw, true, -1, 0, EIO},
        {"none", qcow2, true, -1, 0, EIO},
        {"wrong", qcow2, true, 0, 'q', EINVAL},
        {"backed", qcow2, true, BACKING, 1, EINVAL},
        {"data", qcow2, true, FEATURES, 4, EINVAL},
        {"good", qcow2, true, 0, 'Q', 0},
        {".", raw, true, -1, 0, EINVAL},
    };
    struct fixture *fixture = *state;

    for (size_t i = 0; i < array_length(cases); i++) {
        char header[HEADER] = {'Q', 'F', 'I', (char)0xfb, 0, 0, 0, 3};
        auto_free char *path = NULL;
        assert_true(asprintf(&path, "%s/%s", fixture->base, cases[i].name) > 0);
        if (cases[i].place >= 0) {
            header[cases[i].place] = (char)cases[i].value;
            fixture_write(fixture->base_fd, cases[i].name, 0600, header, sizeof header);
        }
        struct machine_disk disk = {
            .path = path, .format = cases[i].format, .readonly = cases[i].readonly};
        struct machine machine = small_machine();
        machine.disks = &disk;
        machine.disk_count = 1;
        struct qemu_start start = {.program = &plain, .type = "microvm", .memory = "memory"};
        struct error err = {0};
        struct arguments arguments = {0};
        if (qemu_arguments_create(&machine, &start, &arguments, &err) != -cases[i].code)
            fail_msg("%s: %d %s", cases[i].name, err.code, err.text);
        assert_true(cases[i].code == 0 || strstr(err.text, path));
        arguments_finish(&arguments);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(what_a_user_chose_is_passed_as_values_only),
        cmocka_unit_test(restore_is_private_and_waits_and_has_nothing_to_boot),
        cmocka_unit_test(restore_of_firmware_is_private_and_waits_and_boots),
        cmocka_unit_test(restore_by_a_qemu_that_can_opens_the_image_for_reading_only),
        cmocka_unit_test(tap_is_passed_as_a_descriptor),
        cmocka_unit_test(tap_that_is_not_taken_is_refused),
        cmocka_unit_test(sandbox_when_the_program_has_one_is_on),
        cmocka_unit_test(kernel_of_a_microvm_is_told_how_to_reboot_unless_the_user_does),
        cmocka_unit_test(kernel_of_a_microvm_is_told_its_clock_unless_the_user_does),
        cmocka_unit_test(kernel_of_a_q35_is_told_not_to_try_its_timer_under_tcg),
        WITH(disk_that_was_saved_is_a_chain),
        WITH(disk_that_forks_would_share_or_that_was_changed_is_refused),
        WITH(disk_that_is_not_taken_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
