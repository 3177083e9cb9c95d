/* SPDX-License-Identifier: MIT */
/* Transitions of Firecracker's VMs, played by tests/fake_firecracker, of which nobody knows how
 * they ended: what hypefs says then is never more than what is so. */
#include "fixture.h"

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
    assert_works(kill(pid, SIGSTOP));
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

/* ---- a VM that somebody else has let go on ---- */

static void save_of_a_paused_vm_that_runs_pauses_it_first(void **state)
{
    static const char *const targets[][2] = {{"snapshot", "s"}, {"state", "standby"}};
    static const char request[] = "PATCH /vm HTTP/1.1\r\nContent-Length: 19\r\n\r\n"
                                  "{\"state\":\"Resumed\"}";
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

/* ---- a VMM that does not end ---- */

static char *held(struct harness *h)
{
    return harness_format(h, "%s/held", h->directory);
}

static int setup_held(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    struct harness *h = *state;
    setenv("HYPEFS_TEST_HELD", held(h), 1);
    setenv("HYPEFS_TEST_TIMING", "stop:1,kill:1", 1);
    setenv("ASAN_OPTIONS", "verify_asan_link_order=0", 1);
    setenv("LD_PRELOAD", getenv("HYPEFS_SLOW_DISK"), 1);
    fake_mount(h);
    unsetenv("LD_PRELOAD");
    unsetenv("HYPEFS_TEST_TIMING");
    return 0;
}

/* The fork of instances/x in standby gets its payload: the memory is that of the VM. */
static void assert_saved(struct harness *h)
{
    harness_put(file(h, "forks/new/mailboxes/m"),
                "{\"payload\":{\"n\":1},\"wait_for_ack\":true,\"ack_timeout_ms\":30000}");
    harness_put(file(h, "forks/new/commit"), "f");
    fake_drop(h, "f");
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
    assert_fails(kill(pid, 0), ESRCH);
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
        held_test(vmm_that_does_not_end_leaves_what_was_to_be),
        held_test(daemon_that_ends_before_the_vmm_leaves_the_image),
    };
    harness_enter();
    return cmocka_run_group_tests_name("firecracker_outcomes", tests, NULL, NULL);
}
