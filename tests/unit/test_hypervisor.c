/* SPDX-License-Identifier: MIT */
/* What needs no QEMU: the checks before one is spawned, and how VMMs end. Scripts stand for QEMU.
 */
#include <sys/pidfd.h>

#include "vmm_fixture.h"

enum { MEMORY_BYTES = 1 << 20 };

/* Answers --version, and marks in the working directory that it was started for more. */
#define FAKE                                                                                       \
    "#!/bin/sh\n"                                                                                  \
    "case \"$*\" in *--version) echo 'QEMU emulator version 7.2.22 (Fake)'; exit 0;; esac\n"       \
    "printf '%s\\n' \"$@\" > spawned\n"

static char type[] = "microvm", cpu[] = "max", version[] = "7.2.22", other_version[] = "7.2.21";

static struct machine recorded_machine(void)
{
    return (struct machine){.hypervisor = hypervisor_find("qemu"),
                            .memory_bytes = MEMORY_BYTES,
                            .vcpus = 1,
                            .accel = ACCEL_TCG,
                            .type = type,
                            .cpu = cpu,
                            .version = version};
}

/* The image's directory, which the contexts' are beside. */
static int open_image(const struct vmm_context *context)
{
    mkdirat(context->directory_fd, "../base", 0700);
    int fd = openat(context->directory_fd, "../base", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void make_memory(const struct vmm_context *context, off_t size)
{
    auto_close int image = open_image(context);
    fixture_write(image, "state", 0600, "", 0);
    fixture_write(image, "memory", 0600, "", 0);
    auto_close int fd = openat(image, "memory", O_RDWR | O_CLOEXEC);
    assert_int_equal(ftruncate(fd, size), 0);
}

static int load(const struct vmm_context *context, const struct machine *machine, struct error *err)
{
    struct vmm *vmm = NULL;
    int r = vmm_load(context, machine, "../base", &vmm, err);
    assert_null(vmm);
    return r;
}

static void assert_no_child_left(void)
{
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
}

static void find_knows_each_name_and_nothing_else(void **state)
{
    (void)state;
    const struct hypervisor *qemu = hypervisor_find("qemu");
    assert_non_null(qemu);
    for (size_t i = 0; i < HYPERVISORS; i++)
        assert_string_equal(hypervisor_find(hypervisor_names[i])->name, hypervisor_names[i]);
    assert_null(hypervisor_names[HYPERVISORS]);
    assert_null(hypervisor_find("QEMU"));
    assert_null(hypervisor_find(""));
}

/* Boots with a program that asks to be given up as soon as it gets a question, and then takes its
 * time. */
static void give_up_when_asked(struct fixture *fixture, const char *name, const char *question)
{
    char text[256], fifo[64];
    snprintf(fifo, sizeof fifo, "%s fifo", name);
    assert_int_equal(mkfifoat(fixture->base_fd, fifo, 0600), 0);
    auto_close int asked = openat(fixture->base_fd, fifo, O_RDWR | O_CLOEXEC);
    snprintf(text, sizeof text,
             "#!/bin/sh\ncase \"$*\" in %s*) echo > \"$0 fifo\"; sleep 1000;; esac\n"
             "echo QEMU version 9.1.0\n",
             question);
    auto_free char *path = fixture_script(fixture, name, text);
    struct vmm_context context = fixture_context(fixture, "boot", path);
    struct machine machine = {
        .hypervisor = fixture->qemu, .memory_bytes = MEMORY_BYTES, .vcpus = 1, .accel = ACCEL_TCG};
    struct vmm *vmm = NULL;
    struct error err = {0};

    context.cancel_fd = asked;
    assert_int_equal(vmm_boot(&context, &machine, &vmm, &err), -ECANCELED);
    assert_int_equal(err.code, ECANCELED);
    assert_false(fixture_has(context.directory_fd, "memory"));
    assert_no_child_left();
    assert_int_equal(unlinkat(fixture->base_fd, "boot", AT_REMOVEDIR), 0);
}

static void boot_when_the_program_takes_long_to_answer_can_be_cancelled(void **state)
{
    give_up_when_asked(*state, "slow", "--version");
    give_up_when_asked(*state, "slow sandbox", "-sandbox");
}

static void load_when_the_program_is_none_is_eio(void **state)
{
    struct fixture *fixture = *state;
    auto_free char *silent = fixture_script(fixture, "silent", "#!/bin/sh\necho version one\n");
    auto_free char *failing = fixture_script(fixture, "failing", "#!/bin/sh\necho bad >&2; exit 9");
    auto_free char *plain = fixture_script(fixture, "plain", "");
    assert_int_equal(chmod(plain, 0600), 0);
    struct vmm_context context = fixture_context(fixture, "vm", NULL);
    struct machine machine = recorded_machine();
    const struct {
        const char *path, *word;
    } cases[] = {
        {"/no/such/qemu", "/no/such/qemu"},
        {"no-such-qemu", "PATH"},
        {silent, "version"},
        {failing, "bad"},
        {plain, "executed"},
        {fixture->base, "executed"},
    };

    make_memory(&context, MEMORY_BYTES);
    for (size_t i = 0; i < array_length(cases); i++) {
        struct error err = {0};
        context.binary = cases[i].path;
        if (load(&context, &machine, &err) != -EIO || !strstr(err.text, cases[i].word))
            fail_msg("%s: %s", cases[i].path, err.text);
    }
}

static void load_when_the_memory_does_not_fit_spawns_nothing(void **state)
{
    struct fixture *fixture = *state;
    auto_free char *fake = fixture_script(fixture, "fake", FAKE);
    struct vmm_context context = fixture_context(fixture, "vm", fake);
    struct machine machine = recorded_machine();
    static const struct {
        off_t size; /* -1: no file */
        const char *word;
    } cases[] = {
        {-1, "No such file"}, {MEMORY_BYTES - 1, "1048575"}, {MEMORY_BYTES + 1, "1048577"}};

    for (size_t i = 0; i < array_length(cases); i++) {
        struct error err = {0};
        if (cases[i].size >= 0)
            make_memory(&context, cases[i].size);
        assert_int_equal(load(&context, &machine, &err), -EIO);
        assert_non_null(strstr(err.text, cases[i].word));
    }
    assert_false(fixture_has(context.directory_fd, "spawned"));
}

static void load_when_the_record_does_not_fit_spawns_nothing(void **state)
{
    struct fixture *fixture = *state;
    auto_free char *fake = fixture_script(fixture, "fake", FAKE);
    struct vmm_context context = fixture_context(fixture, "vm", fake);
    struct machine machines[7];
    const int codes[] = {EOPNOTSUPP, EIO, EIO, EIO, EIO, EIO, EIO};

    make_memory(&context, MEMORY_BYTES);
    for (size_t i = 0; i < array_length(machines); i++)
        machines[i] = recorded_machine();
    machines[0].version = other_version;
    machines[1].version = NULL;
    machines[2].type = NULL;
    machines[3].cpu = NULL;
    machines[4].accel = ACCEL_AUTO;
    machines[5].accel = ACCEL_KVM;
    machines[6].accel = ACCEL_KVM;
    machines[6].host_cpu = other_version;
    for (size_t i = 0; i < array_length(machines); i++) {
        struct error err = {0};
        assert_int_equal(load(&context, &machines[i], &err), -codes[i]);
        assert_int_equal(err.code, codes[i]);
        assert_non_null(strstr(err.text, "loading the VM: the snapshot "));
    }
    assert_false(fixture_has(context.directory_fd, "spawned"));
}

static void load_when_a_file_is_none_spawns_nothing(void **state)
{
    static const struct {
        const char *name, *what;
    } files[] = {{"memory", "the memory image of the snapshot base"},
                 {"state", "the device state of the snapshot base"}};
    struct fixture *fixture = *state;
    auto_free char *fake = fixture_script(fixture, "fake", FAKE);
    struct vmm_context context = fixture_context(fixture, "vm", fake);
    struct machine machine = recorded_machine();

    auto_close int image = open_image(&context);
    for (size_t i = 0; i < array_length(files); i++) {
        struct error err = {0};
        make_memory(&context, MEMORY_BYTES);
        unlinkat(image, files[i].name, 0);
        assert_int_equal(load(&context, &machine, &err), -EIO);
        assert_non_null(strstr(err.text, files[i].what));
        assert_non_null(strstr(err.text, "No such file"));
        assert_int_equal(mkfifoat(image, files[i].name, 0600), 0);
        assert_int_equal(load(&context, &machine, &err), -EIO);
        assert_non_null(strstr(err.text, files[i].what));
        assert_non_null(strstr(err.text, "not a regular file"));
        unlinkat(image, files[i].name, 0);
        assert_int_equal(symlinkat("elsewhere", image, files[i].name), 0);
        assert_int_equal(load(&context, &machine, &err), -EIO);
        assert_non_null(strstr(err.text, files[i].what));
        unlinkat(image, files[i].name, 0);
    }
    assert_false(fixture_has(context.directory_fd, "spawned"));
}

static void load_when_the_vmm_dies_tells_its_last_words(void **state)
{
    struct fixture *fixture = *state;
    auto_free char *fake =
        fixture_script(fixture, "fake",
                       FAKE "echo; echo 'not this time' >&2; printf 'really\\t\\n\\n' >&2; exit 7");
    struct vmm_context context = fixture_context(fixture, "vm", fake);
    struct machine machine = recorded_machine();
    struct error err = {0};

    fixture_write(context.directory_fd, "vmm.log", 0600, "of another run\n", 15);
    make_memory(&context, MEMORY_BYTES);
    assert_int_equal(load(&context, &machine, &err), -EIO);
    assert_string_equal(err.text,
                        "loading the VM: QEMU has ended (status 7):  not this time really");
    assert_true(fixture_has(context.directory_fd, "spawned"));
    assert_false(fixture_has(context.directory_fd, "qmp.sock"));
    assert_no_child_left();
}

static void load_when_the_vmm_is_killed_tells_the_signal(void **state)
{
    struct fixture *fixture = *state;
    auto_free char *fake = fixture_script(fixture, "fake", FAKE "kill -9 $$");
    struct vmm_context context = fixture_context(fixture, "vm", fake);
    struct machine machine = recorded_machine();
    struct error err = {0};

    make_memory(&context, MEMORY_BYTES);
    assert_int_equal(load(&context, &machine, &err), -EIO);
    assert_string_equal(err.text, "loading the VM: QEMU has ended (signal 9)");
    assert_no_child_left();
}

static void load_when_the_vmm_talks_long_keeps_the_end(void **state)
{
    struct fixture *fixture = *state;
    auto_free char *fake = fixture_script(
        fixture, "fake", FAKE "printf '%05000d' 7; printf '\\033[2J the end\\n'; exit 1");
    struct vmm_context context = fixture_context(fixture, "vm", fake);
    struct machine machine = recorded_machine();
    struct error err = {0};

    make_memory(&context, MEMORY_BYTES);
    assert_int_equal(load(&context, &machine, &err), -EIO);
    assert_non_null(strstr(err.text, "7 [2J the end"));
    assert_true(strlen(err.text) < 500);
}

static void load_when_cancelled_ends_the_vmm_at_once(void **state)
{
    struct fixture *fixture = *state;
    auto_free char *fake = fixture_script(fixture, "fake", FAKE "exec sleep 1000");
    struct vmm_context context = fixture_context(fixture, "vm", fake);
    struct machine machine = recorded_machine();
    struct error err = {0};
    int ends[2];

    make_memory(&context, MEMORY_BYTES);
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    assert_int_equal(write(ends[1], "x", 1), 1);
    context.cancel_fd = ends[0];
    double start_ms = process_now_ms();
    assert_int_equal(load(&context, &machine, &err), -ECANCELED);
    assert_true(process_now_ms() - start_ms < FAR_MS / 2);
    assert_int_equal(err.code, ECANCELED);
    assert_false(fixture_has(context.directory_fd, "qmp.sock"));
    assert_no_child_left();
    close(ends[0]);
    close(ends[1]);
}

static void boot_when_the_vmm_dies_leaves_only_logs(void **state)
{
    struct fixture *fixture = *state;
    auto_free char *fake = fixture_script(fixture, "fake", FAKE "echo no such kernel; exit 1");
    struct vmm_context context = fixture_context(fixture, "vm", fake);
    struct machine machine = {
        .hypervisor = fixture->qemu, .memory_bytes = MEMORY_BYTES, .vcpus = 1};
    struct vmm *vmm = NULL;
    struct error err = {0};

    /* A memory file of before is a snapshot's by now. */
    fixture_write(context.directory_fd, "memory", 0600, "frozen", 6);
    assert_int_equal(linkat(context.directory_fd, "memory", fixture->base_fd, "frozen", 0), 0);
    assert_int_equal(vmm_boot(&context, &machine, &vmm, &err), -EIO);
    assert_string_equal(err.text, "booting the VM: QEMU has ended (status 1): no such kernel");
    auto_free char *frozen = fixture_read(fixture->base_fd, "frozen", NULL);
    assert_string_equal(frozen, "frozen");
    assert_null(vmm);
    assert_int_equal(machine.accel, ACCEL_AUTO);
    assert_null(machine.cpu);
    assert_false(fixture_has(context.directory_fd, "memory"));
    assert_false(fixture_has(context.directory_fd, "qmp.sock"));
    struct stat log;
    assert_int_equal(fstatat(context.directory_fd, "vmm.log", &log, 0), 0);
    assert_int_equal(log.st_mode & 07777, 0600);
    assert_no_child_left();
}

/* The host's, that is. */
static void boot_when_its_error_is_of_the_hosts_kernel_names_no_file(void **state)
{
#define WORDS "Could not access KVM kernel module: No such file or directory"
    struct fixture *fixture = *state;
    auto_free char *fake = fixture_script(fixture, "fake", FAKE "echo '" WORDS "'; exit 1");
    struct vmm_context context = fixture_context(fixture, "vm", fake);
    struct machine machine = {.hypervisor = fixture->qemu,
                              .memory_bytes = MEMORY_BYTES,
                              .vcpus = 1,
                              .kernel = (char[]){"/bin/true"}};
    struct vmm *vmm = NULL;
    struct error err = {0};
    assert_int_equal(vmm_boot(&context, &machine, &vmm, &err), -EIO);
    assert_non_null(strstr(err.text, WORDS));
    assert_null(strstr(err.text, "(kernel is "));
}

/* A VMM would wait for a FIFO's other end, and read a device for ever. */
static void boot_of_what_is_no_regular_file_is_refused_before_anything_is_spawned(void **state)
{
    struct fixture *fixture = *state;
    auto_free char *fake = fixture_script(fixture, "fake", "#!/bin/sh\necho > \"$0.started\"\n");
    struct vmm_context context = fixture_context(fixture, "vm", fake);
    char fifo[BASE_SIZE + 8];
    snprintf(fifo, sizeof fifo, "%s/fifo", fixture->base);
    assert_int_equal(mkfifo(fifo, 0600), 0);
#define MACHINE .hypervisor = fixture->qemu, .memory_bytes = MEMORY_BYTES, .vcpus = 1
    struct machine_disk disk = {.path = fifo, .format = (char[]){"raw"}, .readonly = true};
    const struct {
        struct machine machine;
        const char *why;
    } cases[] = {
        {{MACHINE, .kernel = fifo}, "the kernel "},
        {{MACHINE, .kernel = fake, .initrd = fixture->base}, "the initrd "},
        {{MACHINE, .kernel = fake, .disks = &disk, .disk_count = 1}, "the disk "},
    };
    for (size_t i = 0; i < array_length(cases); i++) {
        struct machine machine = cases[i].machine;
        struct vmm *vmm = NULL;
        struct error err = {0};
        assert_int_equal(vmm_boot(&context, &machine, &vmm, &err), -EINVAL);
        if (!strstr(err.text, cases[i].why) || !strstr(err.text, "is not a regular file"))
            fail_msg("%s", err.text);
        assert_false(fixture_has(fixture->base_fd, "fake.started"));
    }
}

/* Starts a shell and returns it as a VMM once it has printed a line, which is given back too. */
static struct vmm *start_shell(const char *command, char line[static 64])
{
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    char *argv[] = {(char[]){"sh"}, (char[]){"-c"}, (char *)(uintptr_t)command, NULL};
    struct process_spec spec = {
        .path = "/bin/sh", .argv = argv, .directory_fd = -1, .output_fd = ends[1], .error_fd = -1};
    pid_t pid;
    int pidfd;
    struct vmm *vmm = NULL;
    assert_int_equal(process_spawn(&spec, &pid, &pidfd, NULL), 0);
    close(ends[1]);
    ssize_t got = read(ends[0], line, 63);
    assert_true(got > 0);
    line[got] = '\0';
    close(ends[0]);
    assert_int_equal(vmm_create(hypervisor_find("qemu"), pid, pidfd, &vmm, NULL), 0);
    return vmm;
}

static void stop_when_the_process_obeys_knows_its_status(void **state)
{
    char line[64];
    struct vmm_exit exit;
    struct error err = {0};

    (void)state;
    struct vmm *vmm = start_shell("trap 'exit 5' TERM; echo ready; while :; do :; done", line);
    vmm_reap(vmm, &exit);
    assert_false(exit.ended);
    assert_int_equal(vmm_stop(vmm, &err), 0);
    for (int i = 0; i < 2; i++) {
        vmm_reap(vmm, &exit);
        assert_true(exit.ended);
        assert_int_equal(exit.code, 5);
        assert_int_equal(exit.signal, 0);
    }
    assert_int_equal(vmm_stop(vmm, &err), 0);
    vmm_close(vmm);
    assert_no_child_left();
}

static void stop_when_the_process_ignores_it_kills(void **state)
{
    char line[64];
    struct vmm_exit exit;
    struct error err = {0};

    (void)state;
    struct vmm *vmm = start_shell("trap '' TERM; echo ready; exec sleep 1000", line);
    setenv("HYPEFS_TEST_TIMING", "stop:200", 1);
    int r = vmm_stop(vmm, &err);
    unsetenv("HYPEFS_TEST_TIMING");
    assert_int_equal(r, 0);
    vmm_reap(vmm, &exit);
    assert_true(exit.ended);
    assert_int_equal(exit.code, -1);
    assert_int_equal(exit.signal, SIGKILL);
    vmm_close(vmm);
    assert_no_child_left();
}

static void stop_when_the_process_is_not_our_child_ends_it_too(void **state)
{
    char line[64];
    struct vmm_exit exit;
    struct error err = {0};
    struct vmm *vmm = NULL;

    (void)state;
    struct vmm *shell = start_shell("sleep 1000 & echo $!", line);
    pid_t pid = atoi(line);
    assert_true(pid > 1);
    int pidfd = pidfd_open(pid, 0);
    assert_true(pidfd >= 0);
    assert_int_equal(process_poll(&shell->pidfd, 1, process_now_ms() + FAR_MS), 1);
    vmm_reap(shell, &exit);
    assert_true(exit.ended);
    assert_int_equal(exit.code, 0);
    vmm_close(shell);

    assert_int_equal(vmm_create(hypervisor_find("qemu"), pid, pidfd, &vmm, NULL), 0);
    vmm_reap(vmm, &exit);
    assert_false(exit.ended);
    assert_int_equal(vmm_stop(vmm, &err), 0);
    vmm_reap(vmm, &exit);
    assert_true(exit.ended);
    assert_int_equal(exit.code, -1);
    assert_int_equal(exit.signal, 0);
    vmm_close(vmm);
}

static void calls_when_nobody_listens_are_eio(void **state)
{
    struct machine none = {0};
    struct fixture *fixture = *state;
    struct vmm_context context = fixture_context(fixture, "vm", NULL);
    char line[64];
    struct error err = {0};

    struct vmm *vmm = start_shell("echo ready; exec sleep 1000", line);
    assert_int_equal(vmm_pause(&context, vmm, &err), -EIO);
    assert_non_null(strstr(err.text, "pausing the VM: nobody answers"));
    assert_int_equal(vmm_resume(&context, vmm, &err), -EIO);
    assert_int_equal(vmm_save(&context, vmm, &none, &fixture_save, &err), -EIO);
    assert_int_equal(vmm_stop(vmm, &err), 0);
    assert_int_equal(vmm_pause(&context, vmm, &err), -EIO);
    assert_non_null(strstr(err.text, "QEMU has ended"));
    vmm_close(vmm);
    vmm_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(find_knows_each_name_and_nothing_else),
        WITH(boot_when_the_program_takes_long_to_answer_can_be_cancelled),
        WITH(load_when_the_program_is_none_is_eio),
        WITH(load_when_the_memory_does_not_fit_spawns_nothing),
        WITH(load_when_the_record_does_not_fit_spawns_nothing),
        WITH(load_when_a_file_is_none_spawns_nothing),
        WITH(load_when_the_vmm_dies_tells_its_last_words),
        WITH(load_when_the_vmm_is_killed_tells_the_signal),
        WITH(load_when_the_vmm_talks_long_keeps_the_end),
        WITH(load_when_cancelled_ends_the_vmm_at_once),
        WITH(boot_when_the_vmm_dies_leaves_only_logs),
        WITH(boot_when_its_error_is_of_the_hosts_kernel_names_no_file),
        WITH(boot_of_what_is_no_regular_file_is_refused_before_anything_is_spawned),
        WITH(stop_when_the_process_obeys_knows_its_status),
        WITH(stop_when_the_process_ignores_it_kills),
        WITH(stop_when_the_process_is_not_our_child_ends_it_too),
        WITH(calls_when_nobody_listens_are_eio),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
