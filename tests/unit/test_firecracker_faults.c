/* SPDX-License-Identifier: MIT */
/* A Firecracker that refuses, dies, hangs or answers nonsense. */
#include <sys/eventfd.h>

#include "firecracker_fixture.h"

enum { SOON_MS = 200, FAULT_SIZE = 64 };

static void load_when_firecracker_refuses_has_its_words(void **state)
{
    struct vmm_context fork = context_in(*state, "fork");
    struct machine machine = plain_machine();
    make_base(&fork, MEMORY_BYTES, "1.8.0", "");
    assert_load_fails(&fork, &machine, EIO,
                      "loading the VM: PUT /snapshot/load: Load snapshot error: Failed to restore "
                      "from snapshot: Failed to get snapshot state from file: Failed to load "
                      "snapshot state from file: Invalid snapshot version");
}

static const struct {
    const char *what, *words;
} faults[] = {
    {"die", "(status 3)"},
    {"hang", "Firecracker does not "},
    {"garbage", "Firecracker answers with something that is not HTTP"},
    {"half", "Firecracker has closed the connection within its answer"},
    {"400", "told to refuse"},
    {"500", "told to refuse"},
};

/* Calls `attempt` with each fault of each of the calls. Only who hangs has little time: all others
 * are to be told by what they do. */
static void try_faults(struct vmm_context *context, const char *const *calls,
                       void (*attempt)(const struct vmm_context *context, const char *fault,
                                       const char *words))
{
    static const char *const whens[] = {"before", "during", "after"};
    for (; *calls; calls++)
        for (size_t when = 0; when < array_length(whens); when++)
            for (size_t i = 0; i < array_length(faults); i++) {
                char fault[FAULT_SIZE];
                snprintf(fault, sizeof fault, "%s:%s:%s", *calls, whens[when], faults[i].what);
                context->answer_ms = strcmp(faults[i].what, "hang") == 0 ? SOON_MS : 0;
                setenv("FAKE_VMM_FAULT", fault, 1);
                attempt(context, fault, faults[i].words);
                unsetenv("FAKE_VMM_FAULT");
                assert_nothing_left(context);
            }
}

/* What the fault's call returned: only one that comes after the answer may have no part in it. */
static void assert_failed(int r, const char *fault, const char *words, const struct error *err)
{
    if (r == 0 ? !strstr(fault, ":after:") : r != -EIO || !strstr(err->text, words))
        fail_msg("%s: %d, %s", fault, r, err->text);
}

static void end(const struct vmm_context *context, struct vmm *vmm)
{
    stop(vmm);
    unlinkat(context->directory_fd, "vmm.sock", 0);
}

/* A load, and a resume that must fail if the load does not. */
static void try_load(const struct vmm_context *context, const char *fault, const char *words)
{
    struct machine machine = plain_machine();
    struct machine_disk disk = frozen_disk();
    struct vmm *vmm = NULL;
    struct error err = {0};
    machine.disks = &disk;
    machine.disk_count = 1;
    int r = vmm_load(context, &machine, "../base", &vmm, &err);
    if (r == 0) {
        r = vmm_resume(context, vmm, &err);
        if (r == 0 && strstr(fault, "after:die")) /* after the last answer: the watch will see it */
            assert_int_equal(process_poll(&vmm->pidfd, 1, process_now_ms() + FAR_MS), 1);
        end(context, vmm);
    }
    assert_failed(r, fault, words, &err);
}

static void faults_of_each_call_of_a_load_are_eio_and_leave_nothing(void **state)
{
    static const char *const calls[] = {"version", "load", "config", "drive", "vm", NULL};
    struct vmm_context fork = context_in(*state, "fork");
    make_base_with_drives(&fork);
    try_faults(&fork, calls, try_load);
}

static void try_boot(const struct vmm_context *context, const char *fault, const char *words)
{
    static char path[] = "/etc/passwd", format[] = "raw";
    struct machine machine = plain_machine();
    struct vmm *vmm = NULL;
    struct error err = {0};
    machine.disks = calloc(1, sizeof *machine.disks);
    machine.disk_count = 1;
    assert_non_null(machine.disks);
    machine.disks[0] =
        (struct machine_disk){.path = strdup(path), .format = strdup(format), .readonly = true};
    int r = vmm_boot(context, &machine, &vmm, &err);
    if (r == 0)
        end(context, vmm);
    assert_failed(r, fault, words, &err);
    finish_booted(&machine);
}

static void faults_of_each_call_of_a_boot_are_eio_and_leave_nothing(void **state)
{
    static const char *const calls[] = {"version", "machine-config", "boot-source",
                                        "drive",   "actions",        NULL};
    struct vmm_context base = context_in(*state, "base");
    try_faults(&base, calls, try_boot);
}

/* What has failed has no files, whether they were made before that or not. */
static void try_save(const struct vmm_context *context, const char *fault, const char *words)
{
    struct machine machine = plain_machine();
    struct vmm *vmm = NULL;
    struct error err = {0};
    struct vmm_context patient = *context;
    patient.answer_ms = 0;
    assert_int_equal(vmm_boot(&patient, &machine, &vmm, &err), 0);
    assert_int_equal(vmm_pause(&patient, vmm, &err), 0);
    int r = vmm_save(context, vmm, &machine, &fixture_save, &err);
    assert_failed(r, fault, words, &err);
    assert_int_equal(fixture_has(context->directory_fd, "memory"), r == 0);
    assert_int_equal(fixture_has(context->directory_fd, "state"), r == 0);
    end(context, vmm);
    finish_booted(&machine);
}

static void faults_of_a_save_are_eio_and_leave_no_files(void **state)
{
    static const char *const calls[] = {"create", NULL};
    struct vmm_context base = context_in(*state, "base");
    try_faults(&base, calls, try_save);
}

static void start_when_it_fails_says_why(void **state)
{
    struct fixture *fixture = *state;
    struct vmm_context fork = context_in(fixture, "fork");
    struct machine machine = plain_machine();
    make_base(&fork, MEMORY_BYTES, "1.7.0", "");
    fork.answer_ms = SOON_MS;
    setenv("FAKE_VMM_FAULT", "start:before:die", 1);
    assert_load_fails(&fork, &machine, EIO,
                      "Firecracker has ended before it listened at its socket (status 3): ");
    setenv("FAKE_VMM_FAULT", "start:before:hang", 1);
    assert_load_fails(&fork, &machine, EIO, "Firecracker does not listen at its socket vmm.sock");
    unsetenv("FAKE_VMM_FAULT");
    auto_free char *script =
        fixture_script(fixture, "script",
                       "#!/bin/sh\n[ $1 = --version ] && exec echo Firecracker v1.7.0\n"
                       "echo no room for it >&2; exit 9\n");
    fork.binary = script;
    assert_load_fails(&fork, &machine, EIO, "(status 9): no room for it");
    fork.binary = "/nonexistent/firecracker";
    assert_load_fails(&fork, &machine, EIO, "/nonexistent/firecracker");
}

static void load_when_cancelled_is_ecanceled_at_once(void **state)
{
    static const char *const hangs[] = {"start:before:hang", "version:during:hang",
                                        "load:before:hang"};
    struct vmm_context fork = context_in(*state, "fork");
    struct machine machine = plain_machine();
    make_base(&fork, MEMORY_BYTES, "1.7.0", "");
    auto_close int cancel = eventfd(1, EFD_CLOEXEC);
    fork.cancel_fd = cancel;
    for (size_t i = 0; i < array_length(hangs); i++) {
        setenv("FAKE_VMM_FAULT", hangs[i], 1);
        assert_load_fails(&fork, &machine, ECANCELED, "given up");
    }
    unsetenv("FAKE_VMM_FAULT");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(load_when_firecracker_refuses_has_its_words),
        WITH(faults_of_each_call_of_a_load_are_eio_and_leave_nothing),
        WITH(faults_of_each_call_of_a_boot_are_eio_and_leave_nothing),
        WITH(faults_of_a_save_are_eio_and_leave_no_files),
        WITH(start_when_it_fails_says_why),
        WITH(load_when_cancelled_is_ecanceled_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
