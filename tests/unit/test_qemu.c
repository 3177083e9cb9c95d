/* SPDX-License-Identifier: MIT */
/*
 * The QEMU backend with a real QEMU. The guest is 80 bytes of code and no kernel: it prints 'A' at
 * boot, then waits for a byte at LETTER, prints it, zeroes it and counts at COUNTER.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <sys/inotify.h>
#include <sys/pidfd.h>

#include "hypervisor/disks.h"
#include "hypervisor/programs.h"
#include "vmm_fixture.h"

enum { MEMORY_BYTES = 32 << 20, LETTER = 0x200000, COUNTER = 0x200004, MESON_SKIPPED = 77 };

/* A multiboot image, linked to 1 MiB. */
static const unsigned char guest[] = {
    0x02, 0xb0, 0xad, 0x1b,                   /* magic */
    0x00, 0x00, 0x01, 0x00,                   /* flags: the addresses below are valid */
    0xfe, 0x4f, 0x51, 0xe4,                   /* checksum of both */
    0x00, 0x00, 0x10, 0x00,                   /* address of this header */
    0x00, 0x00, 0x10, 0x00,                   /* and of the image's start */
    0x00, 0x10, 0x10, 0x00,                   /* end of what is loaded */
    0x00, 0x00, 0x00, 0x00,                   /* nothing to be zeroed */
    0x20, 0x00, 0x10, 0x00,                   /* entry */
    0xba, 0xf8, 0x03, 0x00, 0x00,             /*       mov $0x3f8, %edx: the serial port */
    0xb0, 0x41,                               /*       mov $'A', %al */
    0xee,                                     /*       out %al, (%dx) */
    0xa0, 0x00, 0x00, 0x20, 0x00,             /* wait: mov LETTER, %al */
    0x84, 0xc0,                               /*       test %al, %al */
    0x74, 0xf7,                               /*       jz wait */
    0x3c, 0x54,                               /*       cmp $'T', %al */
    0x74, 0x10,                               /*       je trap */
    0xee,                                     /*       out %al, (%dx) */
    0xff, 0x05, 0x04, 0x00, 0x20, 0x00,       /*       incl COUNTER */
    0xc6, 0x05, 0x00, 0x00, 0x20, 0x00, 0x00, /*       movb $0, LETTER */
    0xeb, 0xe3,                               /*       jmp wait */
    0x0f, 0x01, 0x1d, 0x10, 0x00, 0x20, 0x00, /* trap: lidt of zeros */
    0xcc,                                     /*       int3: a triple fault, which resets */
};

static char kernel_path[PATH_MAX];

static struct machine small_machine(const struct fixture *fixture, enum machine_board board)
{
    char page[0x1000] = {0};
    memcpy(page, guest, sizeof guest);
    fixture_write(fixture->base_fd, "guest,x", 0600, page, sizeof page);
    snprintf(kernel_path, sizeof kernel_path, "%s/guest,x", fixture->base);
    return (struct machine){.hypervisor = fixture->qemu,
                            .memory_bytes = MEMORY_BYTES,
                            .vcpus = 1,
                            .board = board,
                            .accel = ACCEL_TCG,
                            .network = NETWORK_USER,
                            .kernel = strdup(kernel_path)};
}

/* Waits until the console holds the text, and nothing but it. */
static void await_console(const struct vmm_context *context, const char *text)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d/console.log", context->directory_fd);
    auto_close int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    assert_true(inotify_add_watch(watch, path, IN_MODIFY) >= 0);
    double deadline_ms = process_now_ms() + FAR_MS;
    for (;;) {
        auto_free char *console = fixture_read(context->directory_fd, "console.log", NULL);
        assert_non_null(console);
        if (strcmp(console, text) == 0)
            return;
        if (process_poll(&watch, 1, deadline_ms) <= 0)
            fail_msg("the console has '%s' instead of '%s'", console, text);
        char events[4096];
        while (read(watch, events, sizeof events) > 0)
            ;
    }
}

/* The call succeeds; its error goes to `why`. */
#define MUST(call)                                                                                 \
    do {                                                                                           \
        struct error why_ = {0};                                                                   \
        struct error *why = &why_;                                                                 \
        if ((call) < 0)                                                                            \
            fail_msg("%s: %s", #call, why->text);                                                  \
    } while (0)

/* Boots the guest in "template" until it runs. */
static struct vmm *boot(const struct vmm_context *context, struct machine *machine)
{
    struct vmm *vmm = NULL;
    MUST(vmm_boot(context, machine, &vmm, why));
    await_console(context, "A");
    return vmm;
}

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
    assert_string_equal(err.text,
                        "saving the VM: xen-save-devices-state: QEMU has ended (signal 9)");
    assert_false(fixture_has(context.directory_fd, "state"));
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
                       "#!/bin/sh\ncase \"$*\" in *--version) echo version 9.9.9; exit 0;; esac\n"
                       "exec qemu-system-x86_64 \"$@\"\n");
    struct template template = make_template(fixture, MACHINE_MICROVM);
    free(template.machine.version);
    template.machine.version = strdup("9.9.9");
    load_fails(fixture, &template, liar, EOPNOTSUPP, "saved by QEMU 9.9.9, and this one is ");
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

static void add_writable_disk(struct fixture *fixture, struct machine *machine)
{
    char sector[512] = "contents";
    fixture_write(fixture->base_fd, "disk,x", 0600, sector, sizeof sector);
    machine->disks = calloc(1, sizeof *machine->disks);
    assert_non_null(machine->disks);
    machine->disk_count = 1;
    assert_true(asprintf(&machine->disks[0].path, "%s/disk,x", fixture->base) > 0);
    machine->disks[0].format = strdup("raw");
}

/* What a record from before the last save would say, is found to be as the machine. */
static void assert_found(const struct vmm_context *context, struct vmm *vmm,
                         const struct machine *before, const struct machine *machine)
{
    struct machine found = *before;
    MUST(disks_copy(&found, why));
    MUST(vmm_find_disks(context, vmm, &found, why));
    assert_string_equal(found.disks[0].key, machine->disks[0].key);
    assert_int_equal(found.disks[0].layers, machine->disks[0].layers);
    disks_finish(&found);
}

static void disk_of_a_vm_that_goes_on_is_switched_once_for_each_save(void **state)
{
    struct fixture *fixture = *state;
    struct vmm_context context = fixture_context(fixture, "template", NULL);
    struct machine machine = small_machine(fixture, MACHINE_Q35);
    const struct vmm_save save = {.directory = "../image"}, wrong = {.directory = "../none"};
    struct error err = {0};

    fixture_context(fixture, "image", NULL);
    add_writable_disk(fixture, &machine);
    struct vmm *vmm = boot(&context, &machine);
    MUST(vmm_pause(&context, vmm, why));
    for (unsigned layers = 0; layers < 2; layers++) {
        struct machine before = machine;
        MUST(disks_copy(&before, why));
        MUST(vmm_save(&context, vmm, &machine, &save, why));
        assert_int_equal(machine.disks[0].layers, layers);
        assert_found(&context, vmm, &before, &machine);
        assert_found(&context, vmm, &machine, &machine);
        disks_finish(&before);
    }
    /* One that fails after the switch has switched all the same. */
    assert_int_equal(vmm_save(&context, vmm, &machine, &wrong, &err), -EIO);
    assert_int_equal(machine.disks[0].layers, 2);
    assert_found(&context, vmm, &machine, &machine);
    MUST(vmm_resume(&context, vmm, why));
    MUST(vmm_stop(vmm, why));
    vmm_close(vmm);
    machine_finish(&machine);
}

static void disk_that_cannot_be_switched_stays_as_it_is(void **state)
{
    struct fixture *fixture = *state;
    struct vmm_context context = fixture_context(fixture, "template", NULL);
    struct machine machine = small_machine(fixture, MACHINE_MICROVM);
    const struct vmm_save save = {.directory = "../image"};
    struct error err = {0};
    auto_free char *path = strdup(getenv("PATH"));

    fixture_context(fixture, "image", NULL);
    add_writable_disk(fixture, &machine);
    struct vmm *vmm = boot(&context, &machine);
    MUST(vmm_pause(&context, vmm, why));
    setenv("PATH", fixture->base, true);
    assert_int_equal(vmm_save(&context, vmm, &machine, &save, &err), -EIO);
    setenv("PATH", path, true);
    assert_non_null(strstr(err.text, "qemu-img is not in PATH"));
    assert_string_equal(machine.disks[0].key, "");
    assert_false(fixture_has(context.directory_fd, "disk0.1.qcow2"));
    /* Nor when what is to lie below is not there. */
    machine.disks[0].layers = 4;
    snprintf(machine.disks[0].key, sizeof machine.disks[0].key, "k");
    assert_int_equal(vmm_save(&context, vmm, &machine, &save, &err), -EIO);
    machine.disks[0].layers = 0;
    machine.disks[0].key[0] = 0;
    assert_found(&context, vmm, &machine, &machine);
    MUST(vmm_save(&context, vmm, &machine, &save, why));
    /* To end it, and again, for something else went wrong. */
    struct machine ended = machine;
    MUST(disks_copy(&ended, why));
    MUST(vmm_save(&context, vmm, &ended, &fixture_save, why));
    disks_finish(&ended);
    MUST(vmm_save(&context, vmm, &machine, &fixture_save, why));
    MUST(vmm_stop(vmm, why));
    vmm_close(vmm);
    machine_finish(&machine);
}

/* As when the record of a save could not be written. */
static void boot_over_a_top_that_others_have_is_eio(void **state)
{
    struct fixture *fixture = *state;
    struct vmm_context context = fixture_context(fixture, "template", NULL);
    struct machine machine = small_machine(fixture, MACHINE_MICROVM);
    struct error err = {0};
    struct vmm *vmm = NULL;

    add_writable_disk(fixture, &machine);
    disks_freeze(&machine);
    vmm = boot(&context, &machine);
    MUST(vmm_stop(vmm, why));
    vmm_close(vmm);
    assert_int_equal(linkat(context.directory_fd, "disk0.1.qcow2", fixture->base_fd, "x", 0), 0);
    assert_int_equal(vmm_boot(&context, &machine, &vmm, &err), -EIO);
    assert_non_null(strstr(err.text, "the overlay disk0.1.qcow2 is frozen"));
    assert_int_equal(unlinkat(fixture->base_fd, "x", 0), 0);
    MUST(vmm_boot(&context, &machine, &vmm, why));
    MUST(vmm_stop(vmm, why));
    vmm_close(vmm);
    machine_finish(&machine);
}

static int no_probe(int cancel_fd, struct program *ret, struct error *err)
{
    (void)cancel_fd;
    (void)ret;
    (void)err;
    return 0;
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
        WITH(disk_of_a_vm_that_goes_on_is_switched_once_for_each_save),
        WITH(disk_that_cannot_be_switched_stays_as_it_is),
        WITH(boot_over_a_top_that_others_have_is_eio),
    };
    struct program program;
    struct error err = {0};
    if (programs_find(NULL, "qemu-system-x86_64", no_probe, -1, &program, &err) < 0) {
        printf("skipped: %s\n", err.text);
        return MESON_SKIPPED;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
