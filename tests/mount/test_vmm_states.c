/* SPDX-License-Identifier: MIT */
/* The life of VMs, played by test peers of Firecracker and Cloud Hypervisor: all transitions, and
 * what is left when a call of one fails, dies or hangs. */
#include "fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake.h"
#include "util/cleanup.h"

static char *file(struct harness *h, const char *name)
{
    return fake_instance(h, "x", name);
}

static char *info(struct harness *h, const char *member)
{
    return harness_json(h, harness_get(h, file(h, "info")), member);
}

static int change(struct harness *h, const char *word)
{
    return harness_write(file(h, "state"), word);
}

static void assert_state(struct harness *h, const char *word)
{
    assert_string_equal(harness_get(h, file(h, "state")), harness_format(h, "%s\n", word));
    assert_string_equal(info(h, "state"), word);
}

static int setup(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    fake_mount(*state);
    return 0;
}

/* The fork of snapshots/… or instances/… that has taken its payload. */
static void fork_of(struct harness *h, const char *source, const char *id, const char *options)
{
    harness_put(harness_path(h, "%s/forks/new/mailboxes/m", source),
                harness_format(h,
                               "{\"payload\":{\"for\":\"%s\"},\"wait_for_ack\":true,"
                               "\"ack_timeout_ms\":30000}",
                               id));
    harness_put(harness_path(h, "%s/forks/new/options", source), options);
    assert_errno(harness_write(harness_path(h, "%s/forks/new/commit", source), id), 0);
    assert_file_contains(fake_instance(h, id, "console"),
                         harness_format(h, "m {\"for\":\"%s\"}\n", id));
}

/* Of the two checks below no program is started: they stand in loops, where that took most of the
 * time. */
static void assert_none_of(const char *directory, bool (*is_left)(const char *name))
{
    auto_closedir DIR *entries = opendir(directory);
    assert_non_null(entries);
    for (struct dirent *entry; (entry = readdir(entries));)
        if (is_left(entry->d_name))
            fail_msg("%s was left in %s", entry->d_name, directory);
}

static bool is_one_of(const char *name, const char *const *names)
{
    while (*names && strcmp(name, *names) != 0)
        names++;
    return *names;
}

/* The memory of a Cloud Hypervisor's VM that was booted is a file all the time. */
static bool is_of_save(const char *name)
{
    static const char *const names[] = {"state", "mailboxes.json", "saved.tmp", "memory", NULL};
    return is_one_of(name, names) && (fake_is_firecracker() || strcmp(name, "memory") != 0);
}

static bool is_of_restore(const char *name)
{
    static const char *const names[] = {"base", "vmm.sock", NULL};
    return is_one_of(name, names);
}

static bool is_hidden(const char *name)
{
    return name[0] == '.' && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* Nothing of a save is left, nor an intent. */
static void assert_no_leftovers(struct harness *h)
{
    assert_none_of(harness_store_path(h, "instances/x"), is_of_save);
    assert_none_of(harness_store_path(h, "snapshots"), is_hidden);
    assert_false(fake_has_intent(h));
}

/* ---- what works ---- */

static void walk(struct harness *h, bool booted)
{
    const bool switches = booted && !fake_is_firecracker(); /* whose memory is no file */
    pid_t pid = atoi(info(h, "pid")), first = pid;
    harness_put(file(h, "state"), "paused");
    assert_state(h, "paused");
    harness_put(file(h, "snapshot"), "of-paused");
    assert_state(h, "paused");
    harness_put(file(h, "state"), "running");
    assert_state(h, "running");
    harness_put(file(h, "snapshot"), "of-running");
    assert_state(h, "running");
    assert_no_leftovers(h);
    pid = atoi(info(h, "pid"));
    assert_int_equal(pid != first, switches);
    auto_close int pidfd = pidfd_open(pid, 0);
    harness_put(file(h, "state"), "standby");
    assert_state(h, "standby");
    assert_fails(pidfd_send_signal(pidfd, 0, NULL, 0), ESRCH);
    assert_works(access(file(h, "mailboxes/m"), F_OK));
    harness_put(file(h, "snapshot"), "of-standby");
    harness_put(file(h, "state"), "running");
    assert_state(h, "running");
    assert_int_not_equal(atoi(info(h, "pid")), pid);
    assert_no_leftovers(h);
    harness_put(file(h, "state"), "paused");
    harness_put(file(h, "state"), "standby");
    harness_put(file(h, "state"), "running");
    const char *of_running = harness_get(h, harness_path(h, "snapshots/of-running/info"));
    assert_true(strtod(harness_json(h, of_running, "pause_ms"), NULL) > 0);
    assert_string_equal(harness_json(h, of_running, "switched"), switches ? "true" : "false");
    for (size_t i = 0; i < 2; i++)
        assert_string_equal(
            harness_json(h,
                         harness_get(h, harness_path(h, "snapshots/of-%s/info",
                                                     i == 0 ? "paused" : "standby")),
                         "pause_ms"),
            "null");
    fork_of(h, "snapshots/of-running", "of-running", "{}");
    fork_of(h, "snapshots/of-paused", "of-paused", "{}");
    fork_of(h, "snapshots/of-standby", "of-standby", "{}");
}

static void instance_that_was_booted_goes_through_all_states(void **state)
{
    struct harness *h = *state;
    fake_boot(h, "");
    walk(h, true);
    harness_put(file(h, "state"), "stopped");
    assert_shell("bash", "! ls $S/instances/x | grep -xE 'memory|state|base'", 0);
    harness_put(file(h, "state"), "running");
    fake_drop(h, "x");
}

static void fork_goes_through_all_states(void **state)
{
    struct harness *h = *state;
    fake_publish(h, "mailboxes=m,a", "");
    const char *sum = "sha256sum < $S/snapshots/base/memory";
    const char *before = assert_shell("bash", sum, 0).out;
    fork_of(h, "snapshots/base", "x", "{}");
    walk(h, false);
    assert_string_equal(assert_shell("bash", sum, 0).out, before);
    harness_put(file(h, "state"), "paused");
    harness_put(file(h, "state"), "stopped");
    assert_errno(change(h, "running"), EOPNOTSUPP);
    assert_works(rmdir(file(h, "")));
}

static void forks_of_forks_have_no_payload_of_those_before(void **state)
{
    struct harness *h = *state;
    const char *source = "snapshots/base";
    fake_publish(h, "mailboxes=m,a", "");
    for (int i = 1; i <= 3; i++) {
        const char *id = harness_format(h, "payload-of-%d", i);
        fork_of(h, source, id, "{}");
        harness_put(fake_instance(h, id, "snapshot"), harness_format(h, "s%d", i));
        assert_shell("bash", harness_format(h, "! grep -qa payload-of- $S/snapshots/s%d/memory", i),
                     0);
        assert_shell(
            "bash",
            harness_format(h, "(( $(stat -c %%b $S/snapshots/s%d/memory) * 512 < 1 << 20 ))", i),
            0);
        source = harness_format(h, "snapshots/s%d", i);
    }
}

static void inodes_are_unique_in_an_instance_that_shows_its_mailboxes(void **state)
{
    struct harness *h = *state;
    fake_make(h, "x", "mailboxes=m,a network", "");
    harness_put(file(h, "state"), "running");
    harness_await(h, file(h, "console"), "ready");
    harness_put(file(h, "state"), "standby");
    assert_works(access(file(h, "network"), F_OK));
    assert_string_equal(
        assert_shell("bash", "find instances/x -printf '%i\\n' | sort | uniq -d", 0).out, "");
}

static void forks_of_instances_are_made_of_each_state(void **state)
{
    struct harness *h = *state;
    fake_boot(h, "");
    assert_errno(harness_write(file(h, "forks/new/commit"), "f"), EOPNOTSUPP);
    assert_file_contains(file(h, "forks/new/error"), "from_running");
    fork_of(h, "instances/x", "f1", "{\"from_running\":true}");
    const char *pid = info(h, "pid");
    assert_state(h, "running");
    harness_put(file(h, "state"), "paused");
    fork_of(h, "instances/x", "f2", "{\"from_running\":true}");
    assert_state(h, "paused");
    assert_string_equal(info(h, "pid"), pid);
    assert_no_leftovers(h);
    harness_put(file(h, "state"), "standby");
    fork_of(h, "instances/x", "f3", "{}");
    assert_fails(rmdir(file(h, "")), EBUSY);
    harness_put(file(h, "forks/new/options"), "{\"target_state\":\"standby\"}");
    harness_put(file(h, "forks/new/commit"), "f4");
    assert_string_equal(harness_get(h, fake_instance(h, "f4", "state")), "standby\n");
    harness_put(fake_instance(h, "f4", "state"), "running");
    fake_drop(h, "f3");
    assert_fails(access(file(h, "forks/f3"), F_OK), ENOENT);
    /* The source gives its memory up, which f4 keeps, and takes the record of f4 along. */
    assert_fails(rmdir(file(h, "")), EBUSY);
    harness_put(file(h, "state"), "stopped");
    assert_string_equal(harness_get(h, fake_instance(h, "f4", "fork/status")), "committed\n");
    assert_works(rmdir(file(h, "")));
    assert_fails(access(fake_instance(h, "f4", "fork"), F_OK), ENOENT);
    assert_string_equal(harness_get(h, fake_instance(h, "f4", "state")), "running\n");
    harness_put(fake_instance(h, "f4", "snapshot"), "after");
    assert_string_equal(harness_get(h, fake_instance(h, "f1", "state")), "running\n");
}

/* ---- what goes wrong ---- */

static const char *const whens[] = {"before", "during", "after"};
static const struct {
    const char *what, *words;
} faults[] = {
    {"garbage", " answers with something that is not HTTP"},
    {"half", " has closed the connection within its answer"},
    {"400", "told to refuse"},
    {"500", "told to refuse"},
};

/* Of an instance that runs, or is paused, an answer to one call is not what it should be: `words`,
 * a state or an id, fails, and succeeds when it is written again. */
static void check_failing(struct harness *h, const char *call, const char *from, const char *target,
                          const char *text)
{
    for (size_t when = 0; when < array_length(whens); when++)
        for (size_t i = 0; i < array_length(faults); i++) {
            fake_boot(h, harness_format(h, "%s:%s:%s", call, whens[when], faults[i].what));
            const char *pid = info(h, "pid");
            if (strcmp(from, "running") != 0)
                harness_put(file(h, "state"), from);
            assert_errno(harness_write(file(h, target), text), EIO);
            assert_file_contains(file(h, "error"), faults[i].words);
            if (faults[i].words[0] == ' ')
                assert_file_contains(file(h, "error"), fake_title());
            assert_state(h, from);
            fake_assert_vm(h, strcmp(from, "paused") == 0 ? "Paused" : "Running");
            assert_string_equal(info(h, "pid"), pid);
            assert_no_leftovers(h);
            harness_put(file(h, target), text);
            assert_string_equal(harness_get(h, file(h, "error")), "");
            fake_drop(h, "x");
            if (strcmp(target, "snapshot") == 0)
                assert_works(rmdir(harness_path(h, "snapshots/%s", text)));
        }
}

static void pause_that_fails_leaves_it_running(void **state)
{
    check_failing(*state, "vm#1", "running", "state", "paused");
    check_failing(*state, "vm#1", "running", "state", "standby");
    check_failing(*state, "vm#1", "running", "snapshot", "s");
}

static void save_that_fails_leaves_the_state_before(void **state)
{
    check_failing(*state, "create#1", "running", "state", "standby");
    check_failing(*state, "create#1", "paused", "state", "standby");
    check_failing(*state, "create#1", "running", "snapshot", "s");
    check_failing(*state, "create#1", "paused", "snapshot", "s");
}

/* The VMM in which it was to go on refuses, dies or says nothing that is understood: it goes on in
 * the one that it had, and is copied. */
static void snapshot_when_the_other_vmm_fails_is_a_copy(void **state)
{
    static const char *const failures[] = {
        "version:before:400", "version:during:die", "load:before:400", "load:during:die",
        "load:after:half",    "vm:before:500",      "vm:during:die",   "vm:after:garbage"};
    struct harness *h = *state;
    for (size_t i = 0; i < array_length(failures); i++) {
        fake_boot(h, "");
        const char *pid = info(h, "pid");
        fake_tell(h, harness_format(h, "FAKE_VMM_FAULT=%s", failures[i]));
        harness_put(file(h, "snapshot"), "s");
        fake_tell(h, "FAKE_VMM_FAULT=");
        assert_state(h, "running");
        fake_assert_vm(h, "Running");
        assert_string_equal(info(h, "pid"), pid);
        assert_string_equal(info(h, "switched"), "false");
        assert_no_leftovers(h);
        assert_shell("bash", "! ls -A $S/instances/x | grep -E 'held|base|frozen'", 0);
        assert_file_contains(h->log, "x cannot go on in another VMM, so its memory is copied");
        fork_of(h, "snapshots/s", "f", "{}");
        fake_drop(h, "f");
        /* What has failed is not tried again, until the next boot. */
        harness_put(file(h, "snapshot"), "t");
        assert_string_equal(info(h, "pid"), pid);
        assert_works(rmdir(harness_path(h, "snapshots/t")));
        assert_works(rmdir(harness_path(h, "snapshots/s")));
        harness_put(file(h, "state"), "stopped");
        harness_put(file(h, "state"), "running");
        pid = info(h, "pid");
        harness_put(file(h, "snapshot"), "s");
        assert_string_not_equal(info(h, "pid"), pid);
        assert_string_equal(info(h, "switched"), "true");
        fake_drop(h, "x");
        assert_works(rmdir(harness_path(h, "snapshots/s")));
    }
}

static void resume_that_fails_leaves_it_paused(void **state)
{
    check_failing(*state, "vm#2", "paused", "state", "running");
}

static void fork_of_one_that_cannot_be_saved_fails_and_it_goes_on(void **state)
{
    struct harness *h = *state;
    fake_boot(h, "create#1:before:400");
    harness_put(file(h, "forks/new/options"), "{\"from_running\":true}");
    assert_errno(harness_write(file(h, "forks/new/commit"), "f"), EIO);
    assert_file_contains(file(h, "forks/new/error"), "told to refuse create with 400");
    assert_state(h, "running");
    assert_no_leftovers(h);
    harness_put(file(h, "forks/new/options"), "{\"from_running\":true}");
    harness_put(file(h, "forks/new/commit"), "f");
    fake_drop(h, "f");
    fake_drop(h, "x");
}

static void restore_that_fails_leaves_it_in_standby(void **state)
{
    static const char *const calls[] = {"version", "load", "config", "vm"};
    struct harness *h = *state;
    fake_boot(h, "");
    harness_put(file(h, "state"), "standby");
    const char *sum = "sha256sum < $S/instances/x/run/memory";
    const char *before = assert_shell("bash", sum, 0).out;
    for (size_t call = 0; call < array_length(calls); call++)
        for (size_t when = 0; when < array_length(whens); when++)
            for (size_t i = 0; i < array_length(faults); i++) {
                if (!fake_is_firecracker() && strcmp(calls[call], "config") == 0)
                    continue; /* it has no such call */
                fake_tell(h, harness_format(h, "FAKE_VMM_FAULT=%s:%s:%s", calls[call], whens[when],
                                            faults[i].what));
                assert_errno(change(h, "running"), EIO);
                assert_file_contains(file(h, "error"), faults[i].words);
                assert_state(h, "standby");
                assert_string_equal(info(h, "pid"), "null");
                assert_string_equal(info(h, "exit"), "null");
                assert_none_of(harness_store_path(h, "instances/x"), is_of_restore);
            }
    assert_string_equal(assert_shell("bash", sum, 0).out, before);
    fake_tell(h, "FAKE_VMM_FAULT=");
    harness_put(file(h, "state"), "running");
}

/* The VM is lost with its VMM, whatever was to be done. */
static void vmm_that_dies_meanwhile_is_a_stopped_instance(void **state)
{
    struct harness *h = *state;
    static const struct {
        const char *fault, *target, *text;
    } cases[] = {
        {"vm#1:before:die", "state", "paused"},
        {"vm#1:during:die", "state", "standby"},
        {"create#1:before:die", "state", "standby"},
        {"create#1:during:die", "snapshot", "s"},
    };
    for (size_t i = 0; i < array_length(cases); i++) {
        fake_boot(h, cases[i].fault);
        assert_errno(harness_write(file(h, cases[i].target), cases[i].text), EIO);
        assert_file_contains(file(h, "error"), "status 3");
        assert_state(h, "stopped");
        assert_string_equal(info(h, "exit.code"), "3");
        assert_no_leftovers(h);
        fake_drop(h, "x");
    }
}

/* ---- what hangs ---- */

static void assert_ended(struct harness *h, struct harness_child *child)
{
    struct harness_result result = harness_finish(h, child);
    assert_int_equal(result.status, 1);
    assert_contains(result.err, "Operation canceled");
}

static void stopped_ends_what_hangs(void **state)
{
    static const struct {
        const char *fault, *first, *command;
    } cases[] = {
        {"vm#1:before:hang", NULL, "echo paused > instances/x/state"},
        {"vm#1:during:hang", NULL, "echo standby > instances/x/state"},
        {"create:before:hang", NULL, "echo standby > instances/x/state"},
        {"create:during:hang", NULL, "echo s > instances/x/snapshot"},
        {"create:before:hang", "paused", "echo standby > instances/x/state"},
        {"vm#2:before:hang", "paused", "echo running > instances/x/state"},
        {"load:before:hang", "standby", "echo running > instances/x/state"},
        {"vm:during:hang", "standby", "echo running > instances/x/state"},
    };
    struct harness *h = *state;
    for (size_t i = 0; i < array_length(cases); i++) {
        bool rests = cases[i].first && strcmp(cases[i].first, "standby") == 0;
        fake_boot(h, rests ? "" : cases[i].fault);
        if (cases[i].first)
            harness_put(file(h, "state"), cases[i].first);
        if (rests)
            fake_tell(h, harness_format(h, "FAKE_VMM_FAULT=%s", cases[i].fault));
        struct harness_child child = harness_start_shell(h, "bash", cases[i].command);
        harness_await_blocked(h, child.pid);
        harness_put(file(h, "state"), "stopped");
        assert_ended(h, &child);
        assert_state(h, "stopped");
        assert_string_equal(info(h, "pid"), "null");
        assert_no_leftovers(h);
        fake_drop(h, "x");
    }
}

static void stop_of_the_source_ends_a_fork_that_waits_for_its_copy(void **state)
{
    struct harness *h = *state;
    fake_boot(h, "create:before:hang");
    harness_put(file(h, "forks/new/options"), "{\"from_running\":true}");
    struct harness_child child =
        harness_start_shell(h, "bash", "echo f > instances/x/forks/new/commit");
    harness_await_blocked(h, child.pid);
    harness_put(file(h, "state"), "stopped");
    assert_ended(h, &child);
    const char *result = harness_get(h, file(h, "forks/new/result"));
    assert_string_equal(harness_json(h, result, "error.code"), "ECANCELED");
    assert_string_equal(harness_json(h, result, "error.phase"), "locate");
    assert_file_contains(file(h, "forks/new/error"), "ended by a write of stopped");
    assert_no_leftovers(h);
    fake_drop(h, "x");
}

/* ---- signals ---- */

struct writer {
    int fd, code; /* errno of the write */
};

static void on_signal(int number)
{
    (void)number;
}

static void *write_standby(void *argument)
{
    struct writer *writer = argument;
    writer->code = write(writer->fd, "standby", 7) < 0 ? errno : 0;
    return NULL;
}

/* The VMM stands still, so that the transition does. */
static void write_that_is_interrupted_leaves_the_transition_to_go_on(void **state)
{
    struct harness *h = *state;
    const struct sigaction action = {.sa_handler = on_signal}; /* no SA_RESTART */
    pthread_t thread;
    fake_boot(h, "");
    pid_t pid = atoi(info(h, "pid"));
    struct writer writer = {.fd = open(file(h, "state"), O_WRONLY | O_CLOEXEC)};
    assert_works(writer.fd);
    sigaction(SIGUSR1, &action, NULL);
    harness_stop_process(pid);
    assert_int_equal(pthread_create(&thread, NULL, write_standby, &writer), 0);
    harness_await_that(fake_has_intent, h, "the pause begins");
    pthread_kill(thread, SIGUSR1);
    pthread_join(thread, NULL);
    assert_errno(writer.code, EINTR);
    assert_state(h, "running");
    assert_errno(change(h, "paused"), EBUSY); /* it is under way */
    assert_works(kill(pid, SIGCONT));
    harness_await(h, file(h, "state"), "standby");
    assert_int_equal(write(writer.fd, "standby", 7), 7); /* its outcome */
    close(writer.fd);
    assert_state(h, "standby");
    fake_drop(h, "x");
}

#define state_test(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        state_test(instance_that_was_booted_goes_through_all_states),
        state_test(fork_goes_through_all_states),
        state_test(forks_of_forks_have_no_payload_of_those_before),
        state_test(inodes_are_unique_in_an_instance_that_shows_its_mailboxes),
        state_test(forks_of_instances_are_made_of_each_state),
        state_test(pause_that_fails_leaves_it_running),
        state_test(save_that_fails_leaves_the_state_before),
        state_test(resume_that_fails_leaves_it_paused),
        state_test(fork_of_one_that_cannot_be_saved_fails_and_it_goes_on),
        state_test(restore_that_fails_leaves_it_in_standby),
        state_test(vmm_that_dies_meanwhile_is_a_stopped_instance),
        state_test(stopped_ends_what_hangs),
        state_test(stop_of_the_source_ends_a_fork_that_waits_for_its_copy),
        state_test(write_that_is_interrupted_leaves_the_transition_to_go_on),
    };
    /* Firecracker's memory is no file: its VMs never go on in another. */
    const struct CMUnitTest switches[] = {state_test(snapshot_when_the_other_vmm_fails_is_a_copy)};
    harness_enter();
    int failed = cmocka_run_group_tests_name("vmm_states", tests, NULL, NULL);
    if (!fake_is_firecracker())
        failed += cmocka_run_group_tests_name("vmm_switches", switches, NULL, NULL);
    return failed;
}
