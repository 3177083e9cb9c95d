/* SPDX-License-Identifier: MIT */
/* Disks that a real QEMU writes to. */
#include <signal.h>
#include <sys/pidfd.h>

#include "hypervisor/disks.h"
#include "qemu_fixture.h"

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
    struct machine first = machine;
    MUST(disks_copy(&first, why));
    for (unsigned layers = 0; layers < 2; layers++) {
        struct machine before = machine;
        MUST(disks_copy(&before, why));
        MUST(vmm_save(&context, vmm, &machine, &save, why));
        assert_int_equal(machine.disks[0].layers, layers);
        assert_found(&context, vmm, &before, &machine);
        assert_found(&context, vmm, &machine, &machine);
        disks_finish(&before);
    }
    assert_found(&context, vmm, &first, &machine);
    /* A save with a record that is older than what the VM writes to does not take that for new. */
    MUST(vmm_save(&context, vmm, &first, &save, why));
    assert_int_equal(first.disks[0].layers, 2);
    assert_true(fixture_has(context.directory_fd, "disk0.1.qcow2"));
    assert_true(fixture_has(context.directory_fd, "disk0.2.qcow2"));
    disks_swap(&machine, &first);
    disks_finish(&first);
    /* One that fails after the switch has switched all the same. */
    assert_int_equal(vmm_save(&context, vmm, &machine, &wrong, &err), -EIO);
    assert_int_equal(machine.disks[0].layers, 3);
    assert_found(&context, vmm, &machine, &machine);
    MUST(vmm_resume(&context, vmm, why));
    MUST(vmm_stop(vmm, why));
    vmm_close(vmm);
    machine_finish(&machine);
}

/* As a crash of the host leaves it: the VM is gone, its record is two saves behind, and a third was
 * cut short while its overlay was made. */
static void disks_of_a_vm_that_has_ended_are_found_by_their_files(void **state)
{
    struct fixture *fixture = *state;
    struct vmm_context context = fixture_context(fixture, "template", NULL);
    struct machine machine = small_machine(fixture, MACHINE_Q35);
    const struct vmm_save save = {.directory = "../image"};

    fixture_context(fixture, "image", NULL);
    add_writable_disk(fixture, &machine);
    struct vmm *vmm = boot(&context, &machine);
    assert_found(&context, NULL, &machine, &machine);
    struct machine before = machine;
    MUST(disks_copy(&before, why));
    MUST(vmm_pause(&context, vmm, why));
    for (int i = 0; i < 2; i++)
        MUST(vmm_save(&context, vmm, &machine, &save, why));
    MUST(vmm_stop(vmm, why));
    vmm_close(vmm);
    assert_found(&context, NULL, &before, &machine);
    fixture_write(context.directory_fd, "disk0.3.qcow2", 0600, "QFI\xfb", 4);
    assert_found(&context, NULL, &before, &machine);
    assert_int_equal(unlinkat(context.directory_fd, "disk0.3.qcow2", 0), 0);
    /* Nor one that lies over another file. */
    assert_int_equal(
        linkat(context.directory_fd, "disk0.1.qcow2", context.directory_fd, "disk0.3.qcow2", 0), 0);
    assert_found(&context, NULL, &before, &machine);
    disks_finish(&before);
    machine_finish(&machine);
}

static void save_to_end_a_vm_keeps_what_it_writes_to_by_whatever_record(void **state)
{
    struct fixture *fixture = *state;
    struct vmm_context context = fixture_context(fixture, "template", NULL);
    struct machine machine = small_machine(fixture, MACHINE_Q35);
    const struct vmm_save save = {.directory = "../image"};

    fixture_context(fixture, "image", NULL);
    add_writable_disk(fixture, &machine);
    struct vmm *vmm = boot(&context, &machine);
    MUST(vmm_pause(&context, vmm, why));
    MUST(vmm_save(&context, vmm, &machine, &save, why));
    struct machine before = machine;
    MUST(disks_copy(&before, why));
    MUST(vmm_save(&context, vmm, &machine, &save, why));
    MUST(vmm_save(&context, vmm, &before, &fixture_save, why));
    assert_int_equal(before.disks[0].layers, 2);
    assert_true(fixture_has(context.directory_fd, "disk0.2.qcow2"));
    disks_finish(&before);
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

/* A qemu-img that makes the VMM hang when it is done. Returns the PATH before. */
static char *install_qemu_img_that_stops(struct fixture *fixture, pid_t pid)
{
    char *before = strdup(getenv("PATH"));
    auto_free char *script = NULL, *path = NULL;
    assert_true(asprintf(&script, "#!/bin/sh\nPATH='%s'\nqemu-img \"$@\" && kill -STOP %d\n",
                         before, (int)pid) > 0);
    assert_true(asprintf(&path, "%s:%s", fixture->base, before) > 0);
    fixture_write(fixture->base_fd, "qemu-img", 0700, script, strlen(script));
    setenv("PATH", path, true);
    return before;
}

static void overlay_when_the_vmm_does_not_say_that_it_took_it_stays(void **state)
{
    struct fixture *fixture = *state;
    struct vmm_context context = fixture_context(fixture, "template", NULL);
    struct machine machine = small_machine(fixture, MACHINE_MICROVM);
    const struct vmm_save save = {.directory = "../image"};
    struct error err = {0};

    fixture_context(fixture, "image", NULL);
    add_writable_disk(fixture, &machine);
    struct vmm *vmm = boot(&context, &machine);
    MUST(vmm_pause(&context, vmm, why));
    auto_free char *path = install_qemu_img_that_stops(fixture, vmm->pid);
    context.answer_ms = 2000;
    assert_int_equal(vmm_save(&context, vmm, &machine, &save, &err), -EIO);
    setenv("PATH", path, true);
    assert_non_null(strstr(err.text, "transaction"));
    assert_true(fixture_has(context.directory_fd, "disk0.1.qcow2"));
    pidfd_send_signal(vmm->pidfd, SIGCONT, NULL, 0);
    context.answer_ms = 0;
    MUST(vmm_save(&context, vmm, &machine, &save, why));
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(disk_of_a_vm_that_goes_on_is_switched_once_for_each_save),
        WITH(disks_of_a_vm_that_has_ended_are_found_by_their_files),
        WITH(save_to_end_a_vm_keeps_what_it_writes_to_by_whatever_record),
        WITH(disk_that_cannot_be_switched_stays_as_it_is),
        WITH(overlay_when_the_vmm_does_not_say_that_it_took_it_stays),
        WITH(boot_over_a_top_that_others_have_is_eio),
    };
    return qemu_is_there() ? cmocka_run_group_tests(tests, NULL, NULL) : MESON_SKIPPED;
}
