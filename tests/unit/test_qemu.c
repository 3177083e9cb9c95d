/* SPDX-License-Identifier: MIT */
/* The QEMU backend with a real QEMU. */
#include <sys/pidfd.h>

#include "qemu_fixture.h"

/* A template in standby: "memory" and "state" in its directory. */
struct template
{
    struct machine machine;
    struct vmm_context context;
};

static struct template make_template(struct fixture *fixture, enum machine_board board)
{
    struct template template = {.machine = small_machine(fixture, board),
                                .context = fixture_context(fixture, "template", NULL)};
    struct vmm *vmm = boot(&template.context, &template.machine);
    MUST(vmm_pause(&template.context, vmm, why));
    MUST(vmm_save(&template.context, vmm, &template.machine, &fixture_save, why));
    MUST(vmm_stop(vmm, why));
    assert_int_equal(vmm->exit.code, 0);
    vmm_close(vmm);
    return template;
}

static void finish_template(struct template *template)
{
    machine_finish(&template->machine);
}

static int load(const struct template *template, const struct vmm_context *context,
                struct vmm **ret, struct error *err)
{
    return vmm_load(context, &template->machine, "../template", ret, err);
}

static void assert_no_child_left(void)
{
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
}

/* The whole way: two forks of one image, each with a letter of its own. */
static void fork_twice(struct fixture *fixture, enum machine_board board, const char *type)
{
    struct template template = make_template(fixture, board);
    assert_int_equal(strncmp(template.machine.type, type, strlen(type)), 0);
    assert_int_equal(template.machine.accel, ACCEL_TCG);
    size_t size = 0;
    auto_free char *before = fixture_read(template.context.directory_fd, "memory", &size);
    assert_int_equal(size, MEMORY_BYTES);

    static const char *const letters[] = {"X", "Y"};
    struct vmm_context contexts[2];
    struct vmm *vmms[2] = {NULL, NULL};
    for (size_t i = 0; i < 2; i++) {
        char byte = 1;
        contexts[i] = fixture_context(fixture, letters[i], NULL);
        MUST(load(&template, &contexts[i], &vmms[i], why));
        MUST(vmm_read_memory(vmms[i], LETTER, &byte, 1, why));
        assert_int_equal(byte, 0);
        MUST(vmm_write_memory(vmms[i], LETTER, letters[i], 1, why));
    }
    for (size_t i = 0; i < 2; i++) {
        MUST(vmm_resume(&contexts[i], vmms[i], why));
        await_console(&contexts[i], letters[i]);
        MUST(vmm_pause(&contexts[i], vmms[i], why));
        char bytes[8] = "";
        MUST(vmm_read_memory(vmms[i], LETTER, bytes, sizeof bytes, why));
        assert_memory_equal(bytes, "\0\0\0\0\1\0\0\0", sizeof bytes);
        vmm_release(vmms[i]);
        MUST(vmm_resume(&contexts[i], vmms[i], why));
        MUST(vmm_stop(vmms[i], why));
        vmm_close(vmms[i]);
    }
    auto_free char *after = fixture_read(template.context.directory_fd, "memory", NULL);
    assert_memory_equal(before, after, size);
    assert_no_child_left();
    finish_template(&template);
}

static void microvm_when_forked_twice_gives_each_its_own(void **state)
{
    fork_twice(*state, MACHINE_MICROVM, "microvm");
}

static void q35_when_forked_twice_gives_each_its_own(void **state)
{
    fork_twice(*state, MACHINE_Q35, "pc-q35-");
}

static void boot_when_running_shares_its_memory_file(void **state)
{
    struct fixture *fixture = *state;
    struct vmm_context context = fixture_context(fixture, "template", NULL);
    struct machine machine = small_machine(fixture, MACHINE_MICROVM);
    struct vmm *vmm = boot(&context, &machine);

    auto_close int memory = openat(context.directory_fd, "memory", O_RDWR | O_CLOEXEC);
    assert_int_equal(pwrite(memory, "Z", 1, LETTER), 1);
    await_console(&context, "AZ");
    /* Sparse as it was made: far less than its length is there. */
    struct stat file;
    assert_int_equal(fstat(memory, &file), 0);
    assert_int_equal(file.st_mode & 07777, 0600);
    assert_int_equal(file.st_size, MEMORY_BYTES);
    assert_true(file.st_blocks * 512 < MEMORY_BYTES / 2);
    MUST(vmm_stop(vmm, why));
    vmm_close(vmm);
    machine_finish(&machine);
}

static void guest_that_resets_ends_its_vmm(void **state)
{
    struct fixture *fixture = *state;
    struct vmm_context context = fixture_context(fixture, "template", NULL);
    struct machine machine = small_machine(fixture, MACHINE_MICROVM);
    struct vmm *vmm = boot(&context, &machine);
    struct vmm_exit exit;

    vmm_reap(vmm, &exit);
    assert_false(exit.ended);
    auto_close int memory = openat(context.directory_fd, "memory", O_RDWR | O_CLOEXEC);
    assert_int_equal(pwrite(memory, "T", 1, LETTER), 1);
    assert_int_equal(process_poll(&vmm->pidfd, 1, process_now_ms() + FAR_MS), 1);
    vmm_reap(vmm, &exit);
    assert_true(exit.ended);
    assert_int_equal(exit.code, 0);
    vmm_close(vmm);
    machine_finish(&machine);
}

static void save_when_an_old_state_is_linked_elsewhere_leaves_it(void **state)
{
    struct fixture *fixture = *state;
    struct vmm_context context = fixture_context(fixture, "template", NULL);
    struct machine machine = small_machine(fixture, MACHINE_MICROVM);
    struct vmm *vmm = boot(&context, &machine);
    struct error err = {0};

    fixture_write(context.directory_fd, "state", 0600, "frozen", 6);
    assert_int_equal(linkat(context.directory_fd, "state", fixture->base_fd, "frozen", 0), 0);
    MUST(vmm_pause(&context, vmm, why));
    MUST(vmm_save(&context, vmm, &machine, &fixture_save, why));
    auto_free char *frozen = fixture_read(fixture->base_fd, "frozen", NULL);
    assert_string_equal(frozen, "frozen");

    /* A killed VMM: what is asked of it then fails and says so. */
    assert_int_equal(kill(vmm->pid, SIGKILL), 0);
    assert_int_equal(vmm_save(&context, vmm, &machine, &fixture_save, &err), -EIO);
    assert_non_null(strstr(err.text, "QEMU has ended")); /* whatever has noticed it first */
    assert_false(fixture_has(context.directory_fd, "state")); /* nor that of the save before */
    assert_int_equal(vmm_resume(&context, vmm, &err), -EIO);
    MUST(vmm_stop(vmm, why));
    vmm_close(vmm);
    machine_finish(&machine);
}

/* A load that must fail, and leave no process, socket or change of the image behind. */
static void load_fails(struct fixture *fixture, const struct template *template, const char *binary,
                       int code, const char *words)
{
    struct vmm_context context = fixture_context(fixture, "fork", binary);
    struct vmm *vmm = NULL;
    struct error err = {0};

    assert_int_equal(load(template, &context, &vmm, &err), -code);
    assert_null(vmm);
    if (!strstr(err.text, words))
        fail_msg("no '%s' in '%s'", words, err.text);
    assert_false(fixture_has(context.directory_fd, "qmp.sock"));
    assert_no_child_left();
}

static void load_when_the_state_is_cut_short_is_eio_with_its_words(void **state)
{
    struct fixture *fixture = *state;
    struct template template = make_template(fixture, MACHINE_MICROVM);
    auto_close int cut = openat(template.context.directory_fd, "state", O_RDWR | O_CLOEXEC);
    struct stat file;
    assert_int_equal(fstat(cut, &file), 0);
    assert_int_equal(ftruncate(cut, file.st_size / 2), 0);
    load_fails(fixture, &template, NULL, EIO, "load of migration failed");
    finish_template(&template);
}

static void load_when_the_program_lies_about_its_version_is_eopnotsupp(void **state)
{
    struct fixture *fixture = *state;
    auto_free char *liar =
        fixture_script(fixture, "liar",
                       "#!/bin/sh\ncase \"$*\" in *--version) echo version 7.9.9; exit 0;; esac\n"
                       "exec qemu-system-x86_64 \"$@\"\n");
    struct template template = make_template(fixture, MACHINE_MICROVM);
    free(template.machine.version);
    template.machine.version = strdup("7.9.9");
    load_fails(fixture, &template, liar, EOPNOTSUPP, "saved by QEMU 7.9.9, and this one is ");
    finish_template(&template);
}

/* The script's QEMU ends with it. */
static void assert_ended(int directory_fd, const char *pid_file)
{
    auto_free char *text = fixture_read(directory_fd, pid_file, NULL);
    assert_non_null(text);
    auto_close int pidfd = pidfd_open(atoi(text), 0);
    if (pidfd >= 0)
        assert_int_equal(process_poll(&pidfd, 1, process_now_ms() + FAR_MS), 1);
    else
        assert_int_equal(errno, ESRCH);
}

static void start_when_a_script_does_not_exec_is_eio_and_ends_both(void **state)
{
    struct fixture *fixture = *state;
    auto_free char *wrapper = fixture_script(
        fixture, "wrapper",
        "#!/bin/sh\ncase \"$*\" in *--version) exec qemu-system-x86_64 --version;; esac\n"
        "qemu-system-x86_64 \"$@\" &\necho $! > ../pid\nwait\n");
    struct template template = make_template(fixture, MACHINE_MICROVM);
    load_fails(fixture, &template, wrapper, EIO, "must exec");
    assert_ended(fixture->base_fd, "pid");

    struct vmm_context context = fixture_context(fixture, "boot", wrapper);
    struct vmm *vmm = NULL;
    struct error err = {0};
    assert_int_equal(vmm_boot(&context, &template.machine, &vmm, &err), -EIO);
    assert_non_null(strstr(err.text, "must exec"));
    assert_ended(fixture->base_fd, "pid");
    finish_template(&template);
}

static void load_when_a_script_execs_works(void **state)
{
    struct fixture *fixture = *state;
    auto_free char *wrapper =
        fixture_script(fixture, "wrapper", "#!/bin/sh\n: wraps\nexec qemu-system-x86_64 \"$@\"\n");
    struct template template = make_template(fixture, MACHINE_MICROVM);
    struct vmm_context context = fixture_context(fixture, "fork", wrapper);
    struct vmm *vmm = NULL;

    MUST(load(&template, &context, &vmm, why));
    MUST(vmm_write_memory(vmm, LETTER, "W", 1, why));
    MUST(vmm_resume(&context, vmm, why));
    await_console(&context, "W");
    MUST(vmm_stop(vmm, why));
    vmm_close(vmm);
    finish_template(&template);
}

static void disk_when_read_only_goes_along_into_forks(void **state)
{
    struct fixture *fixture = *state;
    struct vmm_context context = fixture_context(fixture, "template", NULL);
    struct template template = {.machine = small_machine(fixture, MACHINE_MICROVM),
                                .context = context};
    char sector[512] = "contents";
    fixture_write(fixture->base_fd, "disk,locking=off", 0600, sector, sizeof sector);
    struct machine_disk *disk = calloc(1, sizeof *disk);
    assert_non_null(disk);
    assert_true(asprintf(&disk->path, "%s/disk,locking=off", fixture->base) > 0);
    disk->format = strdup("raw");
    disk->readonly = true;
    template.machine.disks = disk;
    template.machine.disk_count = 1;

    struct vmm *vmm = boot(&context, &template.machine), *forked = NULL;
    MUST(vmm_pause(&context, vmm, why));
    MUST(vmm_save(&context, vmm, &template.machine, &fixture_save, why));
    struct vmm_context fork_context = fixture_context(fixture, "fork", NULL);
    MUST(load(&template, &fork_context, &forked, why));
    MUST(vmm_resume(&fork_context, forked, why));
    MUST(vmm_stop(forked, why));
    MUST(vmm_stop(vmm, why));
    vmm_close(forked);
    vmm_close(vmm);
    finish_template(&template);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(microvm_when_forked_twice_gives_each_its_own),
        WITH(q35_when_forked_twice_gives_each_its_own),
        WITH(boot_when_running_shares_its_memory_file),
        WITH(guest_that_resets_ends_its_vmm),
        WITH(save_when_an_old_state_is_linked_elsewhere_leaves_it),
        WITH(load_when_the_state_is_cut_short_is_eio_with_its_words),
        WITH(load_when_the_program_lies_about_its_version_is_eopnotsupp),
        WITH(start_when_a_script_does_not_exec_is_eio_and_ends_both),
        WITH(load_when_a_script_execs_works),
        WITH(disk_when_read_only_goes_along_into_forks),
    };
    return qemu_is_there() ? cmocka_run_group_tests(tests, NULL, NULL) : MESON_SKIPPED;
}
