/* SPDX-License-Identifier: MIT */
/* Guests without any network: acks that are read off their memory, and clones that differ. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vm/vm.h"

enum { TRIES = 5, CLOCK_SLACK_S = 60, RANDOM_DIGITS = 32 };
static const char box[] = "first.v1", asleep[] = "asleep.v1", loose[] = "loose.v1";

#define BY_MEMORY(deed, ms)                                                                        \
    "{\"payload\":{\"do\":\"" deed "\"},\"wait_for_ack\":true,\"ack\":\"memory\","                 \
    "\"ack_timeout_ms\":" ms "}"

static const char parameters[] = "hypefs.mailboxes=first.v1,loose.v1 hypefs.loose=loose.v1 "
                                 "hypefs.asleep=asleep.v1 hypefs.twin";

static int make_template(void **state)
{
    return vm_make_template(state, "microvm", parameters);
}

static void fork_when_its_guest_consumes_the_payload_is_acked(void **state)
{
    struct harness *h = *state;
    char *result = vm_fork(h, "web-1", box, BY_MEMORY("silent", "30000"));
    assert_string_equal(harness_json(h, result, "mailboxes.0.acked"), "true");
    assert_string_equal(harness_json(h, result, "mailboxes.0.consumed"), "true");
    assert_string_equal(harness_json(h, result, "mailboxes.0.copies"), "2"); /* one is a twin */
    assert_true(atof(harness_json(h, result, "mailboxes.0.ack_ms")) > 0);
}

static void reply_of_the_guest_is_in_the_result_byte_for_byte(void **state)
{
    static const char reply[] = "{ \"answer\":[4.20e1,\"\\u00e9\"] }";
    struct harness *h = *state;
    char *result = vm_fork(h, "web-1", box,
                           harness_format(h,
                                          "{\"payload\":{\"do\":\"reply\",\"reply\":%s},"
                                          "\"wait_for_ack\":true," VM_PATIENT "}",
                                          reply));
    assert_non_null(strstr(result, harness_format(h, "\"reply\": %s,\n", reply)));
    assert_string_equal(harness_json(h, result, "mailboxes.0.copies"), "2");
    assert_null(strstr(harness_get(h, h->log), "answer"));
    struct vm_frame frames[VM_FRAMES_MAX];
    size_t count = vm_read_frames(h, "web-1", box, frames);
    for (size_t i = 0; i < count; i++)
        assert_true(frames[i].pinned); /* each kernel has one of the two ways at least */
    assert_string_equal(
        harness_json(h, harness_get(h, harness_path(h, "snapshots/base/mailboxes/first.v1")),
                     "payload_capacity"),
        "3824");
}

/* The page that was written to stays behind as it is, and the guest uses another one. */
static void payload_that_is_taken_from_a_page_that_has_moved_is_acked(void **state)
{
    struct harness *h = *state;
    vm_stage(h, "new", box, "{\"payload\":{\"do\":\"move\"}}");
    vm_stage(h, "new", loose,
             "{\"payload\":{\"do\":\"reply\",\"reply\":{\"s\":\"not-for-an-image\"}},"
             "\"wait_for_ack\":true," VM_PATIENT "}");
    char *result = vm_commit(h, "new", "web-1");
    size_t at = strcmp(harness_json(h, result, "mailboxes.0.name"), loose) == 0 ? 0 : 1;
    assert_string_equal(harness_json(h, result, harness_format(h, "mailboxes.%zu.copies", at)),
                        "1");
    assert_string_equal(harness_json(h, result, harness_format(h, "mailboxes.%zu.reply.s", at)),
                        "not-for-an-image");
    harness_put(harness_path(h, "instances/web-1/snapshot"), "after");
    struct harness_result found = harness_run(
        h, (const char *const[]){"grep", "-qaF", "not-for-an-image",
                                 harness_store_path(h, "snapshots/after/memory"), NULL});
    assert_int_equal(found.status, 1);
    assert_int_equal(rmdir(harness_path(h, "snapshots/after")), 0);
}

static void commit_when_the_guest_leaves_a_refusal_fails_with_its_reason(void **state)
{
    struct harness *h = *state;
    vm_stage(h, "new", box, BY_MEMORY("fail", "30000"));
    char *result = vm_commit_fails(h, "new", "web-1", EREMOTEIO,
                                   (const char *const[]){box, "told to fail", NULL});
    assert_string_equal(harness_json(h, result, "mailboxes.0.consumed"), "true");
    vm_assert_running(h, (const char *const[]){NULL});
}

static void commit_when_nobody_looks_into_the_mailbox_times_out(void **state)
{
    struct harness *h = *state;
    vm_stage(h, "new", asleep, BY_MEMORY("ack", "300"));
    char *result = vm_commit_fails(
        h, "new", "web-1", ETIMEDOUT,
        (const char *const[]){asleep, "within 300 ms: its mailbox was not armed again", NULL});
    assert_string_equal(harness_json(h, result, "mailboxes.0.consumed"), "false");
    vm_assert_running(h, (const char *const[]){NULL});
}

/* The page is zeros, its sequence too; with twice the time, until the guest was quick enough. */
static void commit_when_the_mailboxs_page_is_reused_is_not_acked(void **state)
{
    struct harness *h = *state;
    for (int ms = 500;; ms *= 2) {
        vm_stage(h, "new", box, "{\"payload\":{\"do\":\"reuse\"}}");
        vm_stage(h, "new", asleep,
                 harness_format(h,
                                "{\"payload\":{},\"wait_for_ack\":true,\"ack\":\"memory\","
                                "\"ack_timeout_ms\":%d}",
                                ms));
        char *result =
            vm_commit_fails(h, "new", "web-1", ETIMEDOUT, (const char *const[]){asleep, NULL});
        char *consumed = harness_json(h, result, "mailboxes.0.consumed");
        if (strcmp(harness_json(h, result, "mailboxes.0.name"), asleep) != 0)
            consumed = harness_json(h, result, "mailboxes.1.consumed");
        if (strcmp(consumed, "null") == 0)
            break;
        assert_string_equal(consumed, "false");
        assert_true(ms < 16000);
    }
    assert_non_null(strstr(harness_get(h, vm_draft(h, "new", "error")), "for something else"));
}

/* A daemon that stood still until the deadline has passed looks once more before it says that there
 * was no ack. */
static void fork_that_acked_while_the_daemon_stood_still_is_acked(void **state)
{
    enum { DEADLINE_S = 4 };
    struct harness *h = *state;
    vm_stage(h, "new", box, BY_MEMORY("later", "4000"));
    struct vm_pending *commit = vm_start_commit(h, "new", "web-1");
    vm_await_pending_payload(h, box, "{\"do\":\"later\"}");
    harness_stop_process(h->daemon);
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += DEADLINE_S;
    vm_await_pending_line(h, "first.v1 is armed again");
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until,
                    NULL); /* what is tested is that it is over */
    assert_int_equal(kill(h->daemon, SIGCONT), 0);
    assert_int_equal(vm_finish_commit(commit), 0);
}

/* What a fork's program reads from /dev/urandom, and its clock. */
struct reading {
    char random[RANDOM_DIGITS + 1];
    long long time;
};

static struct reading read_in(struct harness *h, const char *id, const char *options)
{
    struct reading reading;
    harness_put(vm_draft(h, "new", "options"), options);
    vm_fork(h, id, box, BY_MEMORY("random", "30000"));
    char *console = harness_await(h, vm_console(h, id), " time=");
    console = harness_await(h, vm_console(h, id), "is armed again");
    char *line = strstr(console, "vm_guest: random=");
    assert_int_equal(sscanf(line, "vm_guest: random=%32s time=%lld", reading.random, &reading.time),
                     2);
    assert_int_equal(vm_change(h, id, "stopped"), 0);
    return reading;
}

static void clones_with_identity_differ_and_know_the_time(void **state)
{
    struct harness *h = *state;
    struct reading first = read_in(h, "web-1", "{\"identity\":true}");
    struct reading second = read_in(h, "web-2", "{\"identity\":true}");
    assert_string_not_equal(first.random, second.random);
    assert_true(llabs(second.time - (long long)time(NULL)) < CLOCK_SLACK_S);
    assert_true(second.time >= first.time);
}

/* That is why. Guests reseed by a timer, and all clones of a snapshot do it at the same time after
 * their resume: if that is before they read, another snapshot is tried. */
static void clones_without_identity_read_the_same_random_bytes(void **state)
{
    vm_needs_qemu(); /* others' VMs have a virtio-rng or a VMGenID, so clones reseed */
    struct harness *h = *state;
    for (int i = 0; i < TRIES; i++) {
        struct reading first = read_in(h, harness_format(h, "a-%d", i), "{}");
        struct reading second = read_in(h, harness_format(h, "b-%d", i), "{}");
        if (strcmp(first.random, second.random) == 0)
            return;
        assert_int_equal(rmdir(harness_path(h, "instances/a-%d", i)), 0);
        assert_int_equal(rmdir(harness_path(h, "instances/b-%d", i)), 0);
        assert_int_equal(rmdir(harness_path(h, "snapshots/base")), 0);
        vm_make_base(h, "microvm", parameters);
    }
    fail_msg("the clones of %d snapshots had different random bytes", TRIES);
}

#define test(name) cmocka_unit_test_setup_teardown(name, vm_setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(fork_when_its_guest_consumes_the_payload_is_acked),
        test(reply_of_the_guest_is_in_the_result_byte_for_byte),
        test(payload_that_is_taken_from_a_page_that_has_moved_is_acked),
        test(commit_when_the_guest_leaves_a_refusal_fails_with_its_reason),
        test(commit_when_nobody_looks_into_the_mailbox_times_out),
        test(fork_that_acked_while_the_daemon_stood_still_is_acked),
        test(commit_when_the_mailboxs_page_is_reused_is_not_acked),
        test(clones_with_identity_differ_and_know_the_time),
        test(clones_without_identity_read_the_same_random_bytes),
    };
    vm_enter_with_network("{\"mode\":\"none\"}", NULL);
    return cmocka_run_group_tests_name("memory", tests, make_template, harness_teardown);
}
