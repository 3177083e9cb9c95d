/* SPDX-License-Identifier: MIT */
/* Instances with a real VMM: boot, console, standby, snapshot, stop, and what goes wrong. */
#include "fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tiny_guest.h"
#include "util/cleanup.h"

static const char *const names[] = {"m", "a", NULL};

static char *file(struct harness *h, const char *name)
{
    return harness_path(h, "instances/x/%s", name);
}

static char *info(struct harness *h, const char *member)
{
    return harness_json(h, harness_get(h, file(h, "info")), member);
}

static void make(struct harness *h)
{
    assert_works(mkdir(harness_path(h, "instances/x"), 0755));
    harness_put(file(h, "config"), tiny_guest_config(h, names));
}

static void boot(struct harness *h)
{
    make(h);
    harness_put(file(h, "state"), "running\n");
    harness_await(h, file(h, "console"), "ready\n");
}

static int setup(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    harness_mount(*state, NULL);
    return 0;
}

static void instance_when_running_is_what_info_says(void **state)
{
    struct harness *h = *state;
    boot(h);
    assert_string_equal(harness_get(h, file(h, "state")), "running\n");
    assert_string_equal(info(h, "state"), "running");
    assert_string_equal(info(h, "config.memory_mib"), "8");
    assert_works(kill(atoi(info(h, "pid")), 0));
    harness_put(file(h, "state"), "running"); /* it is already */
    assert_errno(harness_write(file(h, "config"), "{}"), EBUSY);
    assert_file_contains(file(h, "error"), "stopped");
    assert_fails(rmdir(harness_path(h, "instances/x")), EBUSY);
    assert_file_contains(file(h, "error"), "stopped");
    assert_works(access(file(h, "mailboxes"), F_OK));
}

static void assert_no_way(struct harness *h, const char *from, const char *const *words)
{
    for (; *words; words++) {
        assert_errno(harness_write(file(h, "state"), *words), EINVAL);
        assert_file_contains(
            file(h, "error"),
            harness_format(h, "an instance that is %s cannot become %s\n", from, *words));
        assert_string_equal(harness_get(h, file(h, "state")), harness_format(h, "%s\n", from));
    }
}

static void assert_nothing_to_save(struct harness *h, const char *from)
{
    assert_errno(harness_write(file(h, "snapshot"), "s"), EINVAL);
    assert_file_contains(file(h, "error"),
                         harness_format(h, "an instance that is %s has no memory", from));
    assert_errno(harness_write(file(h, "forks/new/commit"), "f"), EOPNOTSUPP);
    assert_file_contains(file(h, "forks/new/error"), "has no memory to fork from");
}

static void transitions_that_do_not_exist_are_refused(void **state)
{
    static const char *const resting[] = {"paused", "standby", NULL};
    struct harness *h = *state;
    make(h);
    assert_no_way(h, "created", resting);
    assert_nothing_to_save(h, "created");
    harness_put(file(h, "state"), "running");
    harness_await(h, file(h, "console"), "ready\n");
    harness_put(file(h, "state"), "standby");
    assert_string_equal(harness_get(h, file(h, "error")), "");
    assert_no_way(h, "standby", (const char *const[]){"paused", NULL});
    harness_put(file(h, "state"), "stopped");
    assert_no_way(h, "stopped", resting);
    assert_nothing_to_save(h, "stopped");
}

/* Whoever ended it, nobody listens at its socket any more. */
static void socket_of_a_vmm_goes_with_it(void **state)
{
    struct harness *h = *state;
    const char *socket = harness_store_path(h, "instances/x/run/qmp.sock");
    boot(h);
    assert_works(access(socket, F_OK));
    harness_put(file(h, "state"), "standby");
    assert_fails(access(socket, F_OK), ENOENT);
    harness_put(file(h, "state"), "stopped");
    harness_put(file(h, "state"), "running");
    harness_put(file(h, "state"), "stopped");
    assert_fails(access(socket, F_OK), ENOENT);
    harness_put(file(h, "state"), "running");
    assert_works(kill(atoi(info(h, "pid")), SIGKILL));
    harness_await(h, file(h, "state"), "stopped");
    assert_fails(access(socket, F_OK), ENOENT);
    harness_put(file(h, "state"), "running");
    pid_t pid = atoi(info(h, "pid"));
    auto_close int pidfd = pidfd_open(pid, 0);
    assert_int_equal(harness_unmount(h), 0);
    assert_works(kill(pid, SIGKILL));
    assert_int_equal(poll(&(struct pollfd){.fd = pidfd, .events = POLLIN}, 1, HARNESS_DEADLINE_MS),
                     1);
    harness_mount(h, NULL);
    assert_fails(access(socket, F_OK), ENOENT);
}

static void instance_in_standby_has_mailboxes_and_no_vmm(void **state)
{
    struct harness *h = *state;
    boot(h);
    pid_t pid = atoi(info(h, "pid"));
    harness_put(file(h, "state"), "standby");
    assert_string_equal(harness_get(h, file(h, "state")), "standby\n");
    assert_fails(kill(pid, 0), ESRCH);
    assert_string_equal(info(h, "pid"), "null");
    assert_string_equal(info(h, "exit"), "null");
    assert_string_equal(assert_shell("bash", "ls instances/x/mailboxes | tr '\\n' ' '", 0).out,
                        "a m ");
    assert_string_equal(harness_json(h, harness_get(h, file(h, "mailboxes/a")), "markers.0.token"),
                        "token-a");
    assert_errno(harness_write(file(h, "config"), "{}"), EBUSY);
    harness_put(file(h, "state"), "standby");
}

static void snapshot_of_an_instance_in_standby_outlives_it(void **state)
{
    struct harness *h = *state;
    boot(h);
    harness_put(file(h, "state"), "standby");
    harness_put(file(h, "snapshot"), "one\n");
    harness_put(file(h, "snapshot"), "two");
    assert_errno(harness_write(file(h, "snapshot"), "two"), EEXIST);
    assert_file_contains(file(h, "error"), "two");
    assert_errno(harness_write(file(h, "snapshot"), "-"), EINVAL);
    const char *snapshot = harness_get(h, harness_path(h, "snapshots/one/info"));
    assert_string_equal(harness_json(h, snapshot, "source_instance"), "x");
    assert_string_equal(harness_json(h, snapshot, "kind"), "standby");
    assert_string_equal(harness_json(h, snapshot, "hypervisor"), "qemu");
    assert_string_equal(harness_json(h, snapshot, "memory_bytes"), "8388608");
    assert_string_equal(harness_json(h, snapshot, "undelivered"), "[]");
    const char *sum = "sha256sum < $S/snapshots/one/memory";
    const char *before = assert_shell("bash", sum, 0).out;
    harness_put(file(h, "state"), "stopped"); /* its own saved memory is dropped */
    assert_fails(access(file(h, "mailboxes"), F_OK), ENOENT);
    harness_put(file(h, "state"), "running");
    harness_await(h, file(h, "console"), "ready\nready\n");
    harness_put(file(h, "state"), "stopped");
    assert_works(rmdir(harness_path(h, "instances/x")));
    assert_string_equal(assert_shell("bash", sum, 0).out, before);
    assert_works(rmdir(harness_path(h, "snapshots/one")));
    harness_put(harness_path(h, "snapshots/two/forks/new/commit"), "f1");
}

static void snapshot_when_its_id_is_none_is_refused(void **state)
{
    struct harness *h = *state;
    char id[65];
    memset(id, 'a', sizeof id - 1);
    id[64] = 0;
    boot(h);
    harness_put(file(h, "state"), "standby");
    const char *const bad[] = {"new", id, harness_format(h, "%s%s", id, id), "a-", "-1", "commit"};
    for (size_t i = 0; i < array_length(bad); i++) {
        struct harness_result result =
            assert_shell("bash", harness_format(h, "echo %s > instances/x/snapshot", bad[i]), 1);
        assert_contains(result.err, "Invalid argument");
        assert_file_contains(file(h, "error"), "snapshot takes an id");
    }
    assert_string_equal(assert_shell("bash", "ls -A snapshots $S/snapshots | grep -v :", 0).out,
                        "\n");
    harness_put(file(h, "snapshot"), id + 1); /* 63 characters */
    assert_works(access(harness_path(h, "snapshots/%s/mailboxes/m", id + 1), F_OK));
    assert_string_equal(harness_get(h, file(h, "error")), "");
}

static bool host_virtualizes(struct harness *h)
{
    return harness_shell(h, "bash", "grep -qwE 'vmx|svm' /proc/cpuinfo").status == 0;
}

/* A restore has to repeat what "auto" was. */
static void snapshot_of_a_machine_with_accel_auto_tells_what_it_was(void **state)
{
    struct harness *h = *state;
    boot(h);
    assert_string_equal(info(h, "config.accel"), "auto");
    harness_put(file(h, "state"), "standby");
    harness_put(file(h, "snapshot"), "s");
    const char *json = harness_get(h, harness_store_path(h, "snapshots/s/snapshot.json"));
    const char *accel = harness_json(h, json, "machine.accel");
    bool kvm = host_virtualizes(h) && access("/dev/kvm", R_OK | W_OK) == 0;
    assert_string_equal(accel, kvm ? "kvm" : "tcg");
    assert_string_equal(harness_json(h, json, "machine.cpu"), kvm ? "host" : "max");
    assert_string_equal(info(h, "config.accel"), "auto");
}

static void store_path_with_a_comma_and_a_space_is_one_for_vms_too(void **state)
{
    struct harness *h = *state;
    h->store = harness_format(h, "%s/a, store,share=on", h->directory);
    harness_mount(h, NULL);
    tiny_guest_snapshot(h, "base", names); /* boot, standby, snapshot */
    harness_put(harness_path(h, "snapshots/base/forks/new/mailboxes/m"), "{\"n\":1}");
    harness_put(harness_path(h, "snapshots/base/forks/new/commit"), "f1");
    harness_await(h, harness_path(h, "instances/f1/console"), "m {\"n\":1}\n");
    assert_works(access(harness_store_path(h, "instances/f1/console.log"), F_OK));
    assert_string_equal(assert_shell("bash", "ls -A $T | grep store", 0).out,
                        "a, store,share=on\n");
    harness_put(harness_path(h, "instances/f1/state"), "stopped");
    assert_works(rmdir(harness_path(h, "instances/f1")));
    assert_works(rmdir(harness_path(h, "snapshots/base")));
}

static void store_of_a_running_vm_is_closed_to_others(void **state)
{
    struct harness *h = *state;
    boot(h);
    harness_put(file(h, "state"), "standby");
    harness_put(file(h, "snapshot"), "s");
    assert_string_equal(assert_shell("bash", "find $S -mindepth 1 -perm /077", 0).out, "");
}

static void console_with_tail_shows_what_is_appended(void **state)
{
    struct harness *h = *state;
    make(h);
    struct harness_child tail =
        harness_start_shell(h, "bash", "exec tail -n +1 -f instances/x/console > $T/seen");
    harness_put(file(h, "state"), "running");
    harness_await(h, harness_format(h, "%s/seen", h->directory), "ready\n");
    harness_put(file(h, "state"), "stopped");
    harness_put(file(h, "state"), "running");
    harness_await(h, harness_format(h, "%s/seen", h->directory), "ready\nready\n");
    kill(tail.pid, SIGTERM);
    harness_finish(h, &tail);
    struct stat st;
    assert_works(stat(file(h, "console"), &st));
    assert_int_equal(st.st_size, strlen(harness_get(h, file(h, "console"))));
    assert_shell("bash", "tail -c 6 instances/x/console | grep -qx ready", 0);
}

static void state_and_info_when_polled_tell_of_changes(void **state)
{
    struct harness *h = *state;
    char text[4096];
    make(h);
    struct pollfd fds[] = {
        {.fd = open(file(h, "state"), O_RDONLY | O_CLOEXEC), .events = POLLPRI},
        {.fd = open(file(h, "info"), O_RDONLY | O_CLOEXEC), .events = POLLPRI},
    };
    for (size_t i = 0; i < array_length(fds); i++) {
        assert_int_equal(poll(&fds[i], 1, 0), 1);
        assert_true(pread(fds[i].fd, text, sizeof text, 0) > 0);
        assert_int_equal(poll(&fds[i], 1, 0), 0);
    }
    harness_put(file(h, "state"), "running");
    for (size_t i = 0; i < array_length(fds); i++) {
        assert_int_equal(poll(&fds[i], 1, HARNESS_DEADLINE_MS), 1);
        assert_true(pread(fds[i].fd, text, sizeof text, 0) > 0);
    }
    assert_int_equal(poll(fds, array_length(fds), 0), 0);
    assert_works(kill(atoi(info(h, "pid")), SIGKILL)); /* by itself: nobody wrote anything */
    for (size_t i = 0; i < array_length(fds); i++) {
        assert_int_equal(poll(&fds[i], 1, HARNESS_DEADLINE_MS), 1);
        close(fds[i].fd);
    }
    assert_string_equal(harness_get(h, file(h, "state")), "stopped\n");
}

/* The one who is woken by the change may write the next command at once. */
static void state_when_it_changes_can_be_acted_on(void **state)
{
    struct harness *h = *state;
    make(h);
    for (int i = 0; i < 5; i++) {
        struct harness_child child =
            harness_start_shell(h, "bash", "echo running > instances/x/state");
        harness_await(h, file(h, "state"), "running");
        struct harness_child next =
            harness_start_shell(h, "bash", "echo standby > instances/x/state");
        harness_await(h, file(h, "state"), "standby");
        harness_put(file(h, "snapshot"), harness_format(h, "s%d", i));
        harness_put(file(h, "state"), "stopped");
        assert_int_equal(harness_finish(h, &child).status, 0);
        assert_int_equal(harness_finish(h, &next).status, 0);
    }
}

static void vmm_that_is_killed_leaves_a_stopped_instance(void **state)
{
    struct harness *h = *state;
    boot(h);
    assert_works(kill(atoi(info(h, "pid")), SIGKILL));
    harness_await(h, file(h, "state"), "stopped");
    assert_string_equal(info(h, "exit.signal"), "SIGKILL");
    assert_string_equal(info(h, "pid"), "null");
    harness_put(file(h, "config"), tiny_guest_config(h, names));
    harness_put(file(h, "state"), "running");
    harness_await(h, file(h, "console"), "ready\nready\n");
    assert_string_equal(info(h, "exit"), "null");
}

/* The next daemon would know nothing of it, and end it. */
static void boot_that_cannot_be_put_on_record_is_taken_back(void **state)
{
    struct harness *h = *state;
    make(h);
    const char *before = harness_get(h, harness_store_path(h, "instances/x/instance.json"));
    assert_works(mkdir(harness_store_path(h, "instances/x/instance.json.tmp"), 0700));
    assert_errno(harness_write(file(h, "state"), "running"), EISDIR);
    assert_file_contains(file(h, "error"), "record cannot be written, so the VM was ended again");
    assert_file_contains(file(h, "error"), "instance.json");
    assert_string_equal(harness_get(h, file(h, "state")), "created\n");
    assert_string_equal(info(h, "pid"), "null");
    assert_shell("bash", "readlink /proc/[0-9]*/cwd 2> /dev/null | grep -xF $S/instances/x/run", 1);
    assert_fails(access(harness_store_path(h, "instances/x/run/memory"), F_OK), ENOENT);
    assert_fails(access(harness_store_path(h, "instances/x/run/qmp.sock"), F_OK), ENOENT);
    assert_string_equal(harness_get(h, harness_store_path(h, "instances/x/instance.json")), before);
    assert_works(rmdir(harness_store_path(h, "instances/x/instance.json.tmp")));
    harness_put(file(h, "state"), "running");
    harness_kill(h);
    harness_mount(h, NULL);
    assert_string_equal(harness_get(h, file(h, "state")), "running\n");
}

/* Somebody reads a log where it lies in the store. */
static void daemon_that_starts_ends_nobody_who_looks_around_in_the_store(void **state)
{
    struct harness *h = *state;
    boot(h);
    struct harness_child tail = harness_start_shell(
        h, "bash", "cd $S/instances/x && echo there > $T/seen && exec tail -f vmm.log");
    harness_await(h, harness_format(h, "%s/seen", h->directory), "there\n");
    auto_close int pidfd = pidfd_open(tail.pid, 0);
    const char *pid = info(h, "pid");
    harness_kill(h);
    harness_mount(h, NULL);
    assert_int_equal(poll(&(struct pollfd){.fd = pidfd, .events = POLLIN}, 1, 0), 0);
    assert_string_equal(info(h, "pid"), pid);
    kill(tail.pid, SIGTERM);
    harness_finish(h, &tail);
}

static void boot_of_what_qemu_refuses_says_its_words(void **state)
{
    struct harness *h = *state;
    make(h);
    /* It was there when config was written. */
    const char *kernel = harness_format(h, "%s/short-lived", h->directory);
    const char *config = harness_format(h, "{\"kernel\":\"%s\",\"memory_mib\":8}", kernel);
    harness_put(kernel, "k");
    harness_put(file(h, "config"), config);
    assert_works(unlink(kernel));
    assert_errno(harness_write(file(h, "state"), "running"), EIO);
    assert_file_contains(file(h, "error"), kernel);
    assert_file_contains(file(h, "vmm.log"), kernel);
    assert_string_equal(harness_get(h, file(h, "state")), "created\n");
    assert_works(mkdir(kernel, 0700));
    assert_errno(harness_write(file(h, "state"), "running"), EINVAL);
    assert_file_contains(file(h, "error"), "is not a regular file");
    const char *disk = harness_format(h, "%s/disk", h->directory);
    harness_put(disk, "d");
    harness_put(file(h, "config"),
                harness_format(h,
                               "{\"kernel\":\"%s\",\"disks\":[{\"path\":\"%s\","
                               "\"format\":\"raw\",\"readonly\":true}]}",
                               harness_json(h, tiny_guest_config(h, names), "kernel"), disk));
    assert_works(unlink(disk));
    assert_errno(harness_write(file(h, "state"), "running"), EIO);
    assert_file_contains(file(h, "error"), disk);
    harness_put(file(h, "config"), tiny_guest_config(h, names));
    harness_put(file(h, "state"), "running");
    assert_string_equal(harness_get(h, file(h, "error")), "");
}

static void cmdline_with_commas_reaches_qemu_as_it_is(void **state)
{
    struct harness *h = *state;
    make(h);
    const char *kernel = harness_json(h, harness_get(h, file(h, "config")), "kernel");
    const char *odd = harness_format(h, "%s,share=on, x", kernel);
    assert_works(rename(kernel, odd));
    harness_put(file(h, "config"),
                harness_format(h,
                               "{\"kernel\":\"%s\",\"memory_mib\":8,\"cmdline\":\"a,b=c "
                               "-S\"}",
                               odd));
    harness_put(file(h, "state"), "running");
    harness_await(h, file(h, "console"), "ready\n");
    assert_shell(
        "bash",
        harness_format(h, "tr '\\0' '\\n' < /proc/%s/cmdline | grep '^a,b=c -S'", info(h, "pid")),
        0);
}

static void walk_with_vms_of_all_states_finishes(void **state)
{
    struct harness *h = *state;
    boot(h);
    harness_put(file(h, "state"), "standby");
    harness_put(file(h, "snapshot"), "s");
    harness_put(harness_path(h, "snapshots/s/forks/new/mailboxes/m"), "{\"word\":\"needle\"}");
    harness_put(harness_path(h, "snapshots/s/forks/new/commit"), "f1");
    harness_await(h, harness_path(h, "instances/f1/console"), "needle");
    assert_works(mkdir(harness_path(h, "instances/y"), 0755));
    const char *found = assert_shell("bash", "grep -rl needle . 2> $T/err | sort", 0).out;
    assert_string_equal(found, "./instances/f1/console\n");
    assert_shell(
        "bash",
        "ls -lR > $T/list && find . | wc -l && du . && ! grep -v -e denied -e /events: $T/err", 0);
    assert_string_equal(harness_get(h, harness_path(h, "instances/f1/state")), "running\n");
}

#define lifecycle_test(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        lifecycle_test(instance_when_running_is_what_info_says),
        lifecycle_test(transitions_that_do_not_exist_are_refused),
        lifecycle_test(socket_of_a_vmm_goes_with_it),
        lifecycle_test(instance_in_standby_has_mailboxes_and_no_vmm),
        lifecycle_test(snapshot_of_an_instance_in_standby_outlives_it),
        lifecycle_test(snapshot_when_its_id_is_none_is_refused),
        lifecycle_test(snapshot_of_a_machine_with_accel_auto_tells_what_it_was),
        bare_test(store_path_with_a_comma_and_a_space_is_one_for_vms_too),
        lifecycle_test(store_of_a_running_vm_is_closed_to_others),
        lifecycle_test(console_with_tail_shows_what_is_appended),
        lifecycle_test(state_and_info_when_polled_tell_of_changes),
        lifecycle_test(state_when_it_changes_can_be_acted_on),
        lifecycle_test(vmm_that_is_killed_leaves_a_stopped_instance),
        lifecycle_test(boot_that_cannot_be_put_on_record_is_taken_back),
        lifecycle_test(daemon_that_starts_ends_nobody_who_looks_around_in_the_store),
        lifecycle_test(boot_of_what_qemu_refuses_says_its_words),
        lifecycle_test(cmdline_with_commas_reaches_qemu_as_it_is),
        lifecycle_test(walk_with_vms_of_all_states_finishes),
    };
    harness_enter();
    if (!tiny_guest_possible())
        return HARNESS_SKIPPED;
    return cmocka_run_group_tests_name("lifecycle", tests, NULL, NULL);
}
