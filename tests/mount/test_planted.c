/* SPDX-License-Identifier: MIT */
/* A VMM that was taken over by its guest has put other things under the names of the files that it
 * works with: links to what it cannot reach itself, FIFOs, folders. The daemon neither follows
 * them, nor waits for them, nor leaves them behind. The VMMs are played by test peers of
 * Firecracker, or of Cloud Hypervisor (fake.h), and the test does what they would do. */
#include "fixture.h"

#include "fake.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tiny_guest.h"
#include "util/cleanup.h"

/* In the directory of the VMM; a folder has something in it, and a mode that keeps others out. */
static const char *const names[] = {
    "vmm.sock",    "vmm.sock.held", "vmm.sock.lock", "memory",         "memory.tmp",
    "state",       "state.tmp",     "saved.tmp",     "mailboxes.json", "base",
    "drive-disk0", "frozen-disk0",  "kernel.tmp",    "room.tmp",
};

/* $N is the name. */
static const char *const kinds[] = {
    "ln -s $T/secret $N",
    "ln -s $T/secrets $N",
    "ln -s $S/instances/y/run/$N $N",
    "ln $T/secret $N",
    "mkfifo $N",
    "mkdir -p $N/in/it && touch $N/file && chmod 0 $N/in && chmod 500 $N",
    "ln -s /dev/zero $N",
    "ln -s $N $N",
};

static void make(struct harness *h, const char *id)
{
    assert_shell("bash", harness_format(h, "truncate -s 64K $T/%s.img", id), 0);
    fake_make(h, id, "mailboxes=m",
              harness_format(h, ",\"disks\":[{\"path\":\"%s/%s.img\",\"format\":\"raw\"}]",
                             h->directory, id));
    harness_put(fake_instance(h, id, "state"), "running");
    harness_await(h, fake_instance(h, id, "console"), "ready");
}

static int setup(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    struct harness *h = *state;
    fake_mount(h);
    make(h, "y");
    assert_shell(
        "bash",
        "mkdir $T/secrets && echo SECRET > $T/secret && echo SECRET > $T/secrets/config.json "
        "&& chmod 640 $T/secret && cp $T/secrets/config.json $T/secrets/state.json",
        0);
    return 0;
}

/* Each may fail, and none hangs. A VM may be lost by it: it is that of the VMM. */
static void try_all(struct harness *h)
{
    static const char *const states[] = {"paused", "running", "standby", "running"};
    harness_write(fake_instance(h, "x", "snapshot"), "s");
    for (size_t i = 0; i < array_length(states); i++)
        harness_write(fake_instance(h, "x", "state"), states[i]);
    if (access(harness_path(h, "snapshots/s"), F_OK) == 0)
        harness_write(harness_path(h, "snapshots/s/forks/new/commit"), "f");
}

/* In $S/instances and $S/snapshots there is what is shown, and nothing of the secret. */
static void assert_unharmed(struct harness *h)
{
    assert_shell("bash",
                 "[ \"$(cat $T/secret)\" = SECRET ] && [ $(stat -c %a $T/secret) = 640 ] && "
                 "[ $(ls $T/secrets | wc -l) = 2 ] && [ $(stat -c %h $T/secret) = 1 ]",
                 0);
    assert_vmm_is(h, "y", "running");
    harness_await_erased(h);
    assert_shell("bash", "[ \"$(ls -A $S/instances)\" = y ] && [ -z \"$(ls -A $S/snapshots)\" ]",
                 0);
}

static void assert_no_secret_was_saved(struct harness *h)
{
    assert_shell("bash", "! grep -rqs SECRET $S/snapshots $M/instances/x/error $M/error", 0);
}

static void drop(struct harness *h, const char *id)
{
    if (access(fake_instance(h, id, ""), F_OK) < 0)
        return;
    assert_errno(harness_write(fake_instance(h, id, "state"), "stopped"), 0);
    assert_works(rmdir(fake_instance(h, id, "")));
}

static void whatever_a_vmm_has_planted_harms_nobody(void **state)
{
    struct harness *h = *state;
    for (size_t i = 0; i < array_length(names); i++)
        for (size_t kind = 0; kind < array_length(kinds); kind++) {
            make(h, "x");
            print_message("%s: %s\n", names[i], kinds[kind]);
            assert_shell("bash",
                         harness_format(h, "cd $S/instances/x/run && N=%s && rm -rf $N && %s",
                                        names[i], kinds[kind]),
                         0);
            try_all(h);
            assert_no_secret_was_saved(h);
            drop(h, "f");
            drop(h, "x");
            rmdir(harness_path(h, "snapshots/s"));
            assert_unharmed(h);
        }
}

/* Another instance's socket is not asked in its place. */
static void link_to_anothers_socket_is_no_socket(void **state)
{
    struct harness *h = *state;
    make(h, "x");
    assert_shell("bash",
                 "cd $S/instances/x/run && rm vmm.sock && ln -s ../../y/run/vmm.sock vmm.sock", 0);
    assert_errno(harness_write(fake_instance(h, "x", "state"), "paused"), EIO);
    assert_file_contains(fake_instance(h, "x", "error"), "vmm.sock is not a socket");
    assert_vmm_is(h, "y", "running");
    assert_errno(harness_write(fake_instance(h, "x", "state"), "stopped"), 0);
}

/* ---- QEMU ---- */

static void write_x(struct harness *h, const char *name, const char *text)
{
    int code = harness_write(fake_instance(h, "x", name), text);
    if (code != 0)
        fail_msg("%s: %s", name, harness_get(h, fake_instance(h, "x", "error")));
}

/* What the next VMM is to find there is not what the link leads to. */
static void link_in_the_place_of_a_frozen_overlay_is_not_followed(void **state)
{
    static const char *const mailboxes[] = {"m", NULL};
    struct harness *h = *state;
    const char *kernel = harness_json(h, tiny_guest_config(h, mailboxes), "kernel");
    assert_shell("bash", "truncate -s 64K $T/a.img && cp $T/a.img $T/secrets", 0);
    assert_works(mkdir(fake_instance(h, "x", ""), 0755));
    write_x(h, "config",
            harness_format(h,
                           "{\"kernel\":\"%s\",\"memory_mib\":8,\"network\":{\"mode\":\"none\"},"
                           "\"disks\":[{\"path\":\"%s/a.img\",\"format\":\"raw\"}]}",
                           kernel, h->directory));
    write_x(h, "state", "running");
    harness_await(h, fake_instance(h, "x", "console"), "ready");
    write_x(h, "snapshot", "one");
    write_x(h, "snapshot", "two");
    write_x(h, "state", "stopped");
    assert_shell("bash",
                 "cd $S/instances/x/run && [ -f disk0.2.qcow2 ] && mv disk0.1.qcow2 $T/secrets && "
                 "ln -s $T/secrets/disk0.1.qcow2 .",
                 0);
    assert_errno(harness_write(fake_instance(h, "x", "state"), "running"), EIO);
    assert_file_contains(fake_instance(h, "x", "error"),
                         "disk0.1.qcow2: Too many levels of symbolic links");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(whatever_a_vmm_has_planted_harms_nobody, setup,
                                        harness_teardown),
        cmocka_unit_test_setup_teardown(link_to_anothers_socket_is_no_socket, setup,
                                        harness_teardown),
        cmocka_unit_test_setup_teardown(link_in_the_place_of_a_frozen_overlay_is_not_followed,
                                        setup, harness_teardown),
    };
    setenv("HYPEFS_TEST_TIMING", "stop:300", 1);
    harness_enter();
    return cmocka_run_group_tests_name("planted", tests, NULL, NULL);
}
