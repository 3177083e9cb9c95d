/* SPDX-License-Identifier: MIT */
/* Transitions of VMs, played by test peers, that have not ended yet, or of which nobody
 * knows how they did: what hypefs says then is never more than what is so. */
#include "fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "fake.h"
#include "util/cleanup.h"

static char *file(struct harness *h, const char *name)
{
    return fake_instance(h, "x", name);
}

static int change(struct harness *h, const char *word)
{
    return harness_write(file(h, "state"), word);
}

static void assert_state(struct harness *h, const char *word)
{
    assert_string_equal(harness_get(h, file(h, "state")), harness_format(h, "%s\n", word));
}

static pid_t pid_of(struct harness *h)
{
    return atoi(harness_json(h, harness_get(h, file(h, "info")), "pid"));
}

static int setup(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    fake_mount(*state);
    return 0;
}

/* A write of a word to `state` in a thread of its own. */
struct writer {
    pthread_t thread;
    const char *word;
    int fd, code; /* errno of the write */
};

static void *write_word(void *argument)
{
    struct writer *writer = argument;
    writer->code = write(writer->fd, writer->word, strlen(writer->word)) < 0 ? errno : 0;
    return NULL;
}

/* Returns when the daemon has begun it. */
static void begin(struct harness *h, struct writer *writer, const char *word)
{
    *writer = (struct writer){.word = word, .fd = open(file(h, "state"), O_WRONLY | O_CLOEXEC)};
    assert_works(writer->fd);
    assert_int_equal(pthread_create(&writer->thread, NULL, write_word, writer), 0);
    harness_await_that(fake_has_intent, h, "the transition begins");
}

static int end(struct writer *writer)
{
    pthread_join(writer->thread, NULL);
    close(writer->fd);
    return writer->code;
}

/* ---- a VM that may have gone on ---- */

static void shutdown_while_a_vm_is_to_go_on_leaves_that_to_the_next_daemon(void **state)
{
    struct harness *h = *state;
    struct writer writer;
    fake_boot(h, "");
    pid_t pid = pid_of(h);
    harness_put(file(h, "state"), "paused");
    harness_stop_process(pid);
    begin(h, &writer, "running");
    assert_works(kill(h->daemon, SIGTERM));
    int code = end(&writer);
    int status = harness_await_end(h);
    bool kept = fake_has_intent(h);
    assert_works(kill(pid, SIGCONT));
    assert_errno(code, ESHUTDOWN);
    assert_int_equal(status, 0);
    assert_true(kept);
    fake_mount(h);
    assert_state(h, "running");
    fake_assert_vm(h, "Running");
    assert_false(fake_has_intent(h));
    harness_put(file(h, "snapshot"), "s");
    assert_state(h, "running");
    fake_drop(h, "x");
}

/* Neither the resume nor the pause after it is answered as it should be. */
static void vm_that_may_have_gone_on_is_running(void **state)
{
    static const char *const words[] = {"running", "paused", "standby", "stopped"};
    struct harness *h = *state;
    for (size_t i = 0; i < array_length(words); i++) {
        fake_boot(h, "vm#2-3:after:garbage");
        harness_put(file(h, "state"), "paused");
        assert_errno(change(h, "running"), EIO);
        assert_file_contains(file(h, "error"), "it is not known whether the VM runs");
        assert_state(h, "running");
        assert_true(fake_has_intent(h));
        harness_put(file(h, "state"), words[i]);
        assert_state(h, words[i]);
        assert_false(fake_has_intent(h));
        if (i < 2)
            fake_assert_vm(h, i == 0 ? "Running" : "Paused");
        fake_drop(h, "x");
    }
}

static bool is_of_save(const char *name)
{
    return strcmp(name, "memory") == 0 || strcmp(name, "state") == 0 ||
           strcmp(name, "mailboxes.json") == 0;
}

static void assert_no_image(struct harness *h)
{
    auto_closedir DIR *entries = opendir(harness_store_path(h, "instances/x/run"));
    assert_non_null(entries);
    for (struct dirent *entry; (entry = readdir(entries));)
        if (is_of_save(entry->d_name))
            fail_msg("%s was left", entry->d_name);
}

/* As if the daemon had been killed when the VM had come out of standby; the next one's request that
 * it go on fails. */
static void running_after_a_start_that_failed_leaves_no_image(void **state)
{
    struct harness *h = *state;
    fake_boot(h, "vm#1:after:garbage");
    harness_kill(h);
    assert_shell("bash",
                 "cd $S/instances/x && jq '.version=2|.intent=\"restore\"' instance.json > j && "
                 "mv j instance.json && touch memory state mailboxes.json",
                 0);
    fake_mount(h);
    assert_contains(harness_get(h, h->log), "x is paused, because work on it was cut short");
    assert_state(h, "running");
    assert_true(fake_has_intent(h));
    harness_put(file(h, "state"), "running");
    assert_false(fake_has_intent(h));
    fake_assert_vm(h, "Running");
    assert_no_image(h);
    fake_drop(h, "x");
}

/* ---- a VM that somebody else has let go on ---- */

static void save_of_a_paused_vm_that_runs_pauses_it_first(void **state)
{
    static const char *const targets[][2] = {{"snapshot", "s"}, {"state", "standby"}};
    const char *request = fake_is_firecracker() ? "PATCH /vm HTTP/1.1\r\nContent-Length: 19\r\n\r\n"
                                                  "{\"state\":\"Resumed\"}"
                                                : "PUT /api/v1/vm.resume HTTP/1.1\r\n\r\n";
    struct harness *h = *state;
    for (size_t i = 0; i < array_length(targets); i++) {
        fake_boot(h, "");
        harness_put(file(h, "state"), "paused");
        fake_ask(h, request, " 204");
        fake_assert_vm(h, "Running");
        harness_put(file(h, targets[i][0]), targets[i][1]);
        if (i == 0)
            fake_assert_vm(h, "Paused");
        assert_state(h, i == 0 ? "paused" : "standby");
        fake_drop(h, "x");
    }
}

/* ---- a state that an instance is about to leave ---- */

static void word_of_a_state_that_is_being_left_is_ebusy(void **state)
{
    static const struct {
        const char *from, *to;
    } cases[] = {{"running", "standby"}, {"running", "paused"}, {"paused", "running"}};
    struct harness *h = *state;
    struct writer writer;
    for (size_t i = 0; i < array_length(cases); i++) {
        fake_boot(h, "");
        pid_t pid = pid_of(h);
        if (strcmp(cases[i].from, "running") != 0)
            harness_put(file(h, "state"), cases[i].from);
        harness_stop_process(pid);
        begin(h, &writer, cases[i].to);
        int code = change(h, cases[i].from);
        assert_works(kill(pid, SIGCONT));
        assert_errno(end(&writer), 0);
        assert_errno(code, EBUSY);
        assert_state(h, cases[i].to);
        fake_drop(h, "x");
    }
}

static void standby_that_is_being_left_is_ebusy(void **state)
{
    struct harness *h = *state;
    struct writer writer;
    fake_boot(h, "");
    harness_put(file(h, "state"), "standby");
    fake_tell(h, "FAKE_VMM_FAULT=vm:before:hang");
    begin(h, &writer, "running");
    int code = change(h, "standby");
    harness_put(file(h, "state"), "stopped");
    assert_errno(end(&writer), ECANCELED);
    assert_errno(code, EBUSY);
}

/* A snapshot keeps the state. */
static void running_while_a_snapshot_is_taken_does_nothing(void **state)
{
    struct harness *h = *state;
    fake_boot(h, "");
    pid_t pid = pid_of(h);
    harness_stop_process(pid);
    struct harness_child child = harness_start_shell(h, "bash", "echo s > instances/x/snapshot");
    harness_await_that(fake_has_intent, h, "the snapshot begins");
    int code = change(h, "running");
    assert_works(kill(pid, SIGCONT));
    assert_int_equal(harness_finish(h, &child).status, 0);
    assert_errno(code, 0);
    fake_assert_vm(h, "Running");
    fake_drop(h, "x");
}

/* ---- a VMM that does not end ---- */

static char *held(struct harness *h)
{
    return harness_format(h, "%s/held", h->directory);
}

static char *unsynced(struct harness *h)
{
    return harness_format(h, "%s/unsynced", h->directory);
}

static int setup_held(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    struct harness *h = *state;
    setenv("HYPEFS_TEST_HELD", held(h), 1);
    setenv("HYPEFS_TEST_UNSYNCED", unsynced(h), 1);
    setenv("HYPEFS_TEST_TIMING", "stop:1,kill:1", 1);
    setenv("ASAN_OPTIONS", "verify_asan_link_order=0", 1);
    setenv("LD_PRELOAD", getenv("HYPEFS_SLOW_DISK"), 1);
    fake_mount(h);
    unsetenv("LD_PRELOAD");
    unsetenv("HYPEFS_TEST_TIMING");
    return 0;
}

/* The fork of instances/x in standby gets its payload: the memory is that of the VM. The time that
 * its VMM has to end may be too short. */
static void assert_saved(struct harness *h)
{
    harness_put(file(h, "forks/new/mailboxes/m"),
                "{\"payload\":{\"n\":1},\"wait_for_ack\":true,\"ack_timeout_ms\":30000}");
    harness_put(file(h, "forks/new/commit"), "f");
    harness_write(fake_instance(h, "f", "state"), "stopped");
    harness_await(h, fake_instance(h, "f", "state"), "stopped");
    assert_works(rmdir(fake_instance(h, "f", "")));
}

static void vmm_that_does_not_end_leaves_what_was_to_be(void **state)
{
    static const struct {
        const char *from, *to;
    } cases[] = {{"running", "standby"},
                 {"paused", "standby"},
                 {"running", "stopped"},
                 {"paused", "stopped"}};
    struct harness *h = *state;
    for (size_t i = 0; i < array_length(cases); i++) {
        const char *will_be = harness_format(h, "becomes %s when it has ended", cases[i].to);
        fake_boot(h, "");
        pid_t pid = pid_of(h);
        if (strcmp(cases[i].from, "running") != 0)
            harness_put(file(h, "state"), cases[i].from);
        harness_put(held(h), "");
        assert_errno(change(h, cases[i].to), EIO);
        assert_file_contains(file(h, "error"), "was killed and does not end");
        assert_file_contains(file(h, "error"), will_be);
        assert_state(h, cases[i].from);
        assert_int_equal(pid_of(h), pid);
        for (size_t word = 0; word < 4; word++) {
            static const char *const words[] = {"running", "paused", "standby", "stopped"};
            assert_errno(change(h, words[word]), EBUSY);
            assert_file_contains(file(h, "error"), will_be);
        }
        assert_errno(harness_write(file(h, "snapshot"), "s"), EBUSY);
        assert_fails(rmdir(file(h, "")), EBUSY);
        assert_works(unlink(held(h)));
        assert_works(kill(pid, SIGKILL));
        harness_await(h, file(h, "state"), cases[i].to);
        if (strcmp(cases[i].to, "standby") == 0)
            assert_saved(h);
        fake_drop(h, "x");
    }
}

/* Which record is on the disk, nobody knows: it may be that of standby. */
static void image_whose_record_may_be_on_the_disk_stays(void **state)
{
    struct harness *h = *state;
    fake_boot(h, "");
    harness_put(unsynced(h), "");
    assert_errno(change(h, "standby"), EIO);
    assert_file_contains(file(h, "error"), "the saved memory stays in the store");
    assert_state(h, "running");
    fake_assert_vm(h, "Running");
    assert_works(access(harness_store_path(h, "instances/x/run/memory"), F_OK));
    assert_works(access(harness_store_path(h, "instances/x/run/state"), F_OK));
    assert_works(unlink(unsynced(h)));
    harness_write(file(h, "state"), "standby"); /* its VMM may have too little time to end */
    harness_await(h, file(h, "state"), "standby");
    assert_saved(h);
}

/* The next daemon ends what the earlier one could not. */
static void daemon_that_ends_before_the_vmm_leaves_the_image(void **state)
{
    struct harness *h = *state;
    fake_boot(h, "");
    pid_t pid = pid_of(h);
    harness_put(held(h), "");
    assert_errno(change(h, "standby"), EIO);
    int status = harness_unmount(h);
    assert_works(unlink(held(h)));
    assert_int_equal(status, 0);
    fake_mount(h);
    assert_state(h, "standby");
    harness_await_gone(pid);
    assert_saved(h);
    harness_put(file(h, "state"), "running");
    fake_drop(h, "x");
}

#define held_test(name) cmocka_unit_test_setup_teardown(name, setup_held, harness_teardown)
#define outcome_test(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        outcome_test(shutdown_while_a_vm_is_to_go_on_leaves_that_to_the_next_daemon),
        outcome_test(vm_that_may_have_gone_on_is_running),
        outcome_test(save_of_a_paused_vm_that_runs_pauses_it_first),
        outcome_test(word_of_a_state_that_is_being_left_is_ebusy),
        outcome_test(standby_that_is_being_left_is_ebusy),
        outcome_test(running_while_a_snapshot_is_taken_does_nothing),
        held_test(vmm_that_does_not_end_leaves_what_was_to_be),
        held_test(image_whose_record_may_be_on_the_disk_stays),
        held_test(daemon_that_ends_before_the_vmm_leaves_the_image),
    };
    /* The others' VMs, once booted, have a memory file that must not be replaced as it is there. */
    const struct CMUnitTest of_firecracker[] = {
        outcome_test(running_after_a_start_that_failed_leaves_no_image),
    };
    harness_enter();
    int failed = cmocka_run_group_tests_name("vmm_outcomes", tests, NULL, NULL);
    if (fake_is_firecracker())
        failed +=
            cmocka_run_group_tests_name("vmm_outcomes of Firecracker", of_firecracker, NULL, NULL);
    return failed;
}
