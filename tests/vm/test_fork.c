/* SPDX-License-Identifier: MIT */
/* What forks are made of: payloads that arrive as they were staged, and what is left as it was. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mailbox/frame.h"
#include "vm/vm.h"

enum { PAYLOAD_MAX = FRAME_TAIL - 264, MAILBOXES = 3 };

static const char first[] = "first.v1", second[] = "second.v1", third[] = "third.v1";

static int make_template(void **state)
{
    return vm_make_template(state, "microvm",
                            "hypefs.mailboxes=first.v1=token-1,second.v1=token-2,third.v1");
}

static void fork_when_acked_has_its_payload(void **state)
{
    struct harness *h = *state;
    char *result = vm_fork(h, "web-1", first, VM_REQUEST_UDP("ack", ",\"n\":\"web-1\""));
    assert_string_equal(harness_json(h, result, "instance"), "web-1");
    assert_string_equal(harness_json(h, result, "source"), "snapshots/base");
    assert_string_equal(harness_json(h, result, "mailboxes.0.name"), first);
    assert_string_equal(harness_json(h, result, "mailboxes.0.acked"), "true");
    assert_string_equal(harness_json(h, result, "mailboxes.0.ack_text"),
                        "stage=applied mailbox=first.v1");
    assert_string_not_equal(harness_json(h, result, "mailboxes.0.copies"), "0");
    char *console = harness_await(h, vm_console(h, "web-1"), "first.v1 is armed again");
    assert_non_null(strstr(console, "payload={\"do\":\"ack\",\"n\":\"web-1\",\"ack_port\":"));
    vm_assert_running(h, (const char *const[]){"web-1", NULL});
}

static void fork_when_ack_comes_after_progress_is_acked_by_the_ack(void **state)
{
    struct harness *h = *state;
    char *result = vm_fork(h, "web-1", first, VM_REQUEST_UDP("progress", ""));
    assert_string_equal(harness_json(h, result, "mailboxes.0.ack_text"),
                        "stage=applied mailbox=first.v1");
}

static void fork_when_several_mailboxes_are_staged_fills_each(void **state)
{
    struct harness *h = *state;
    static const char *const names[MAILBOXES] = {first, second, third};
    for (size_t i = 0; i < MAILBOXES; i++)
        vm_stage(h, "new", names[i],
                 harness_format(
                     h, "{\"payload\":{\"for\":\"%s\"},\"wait_for_ack\":true,\"ack\":\"udp\",%s}",
                     names[i], VM_PATIENT));
    char *result = vm_commit(h, "new", "web-1");
    for (size_t i = 0; i < MAILBOXES; i++) {
        assert_string_equal(harness_json(h, result, harness_format(h, "mailboxes.%zu.name", i)),
                            names[i]);
        assert_string_equal(harness_json(h, result, harness_format(h, "mailboxes.%zu.acked", i)),
                            "true");
        harness_await(h, vm_console(h, "web-1"),
                      harness_format(h, "vm_guest: %s payload={\"for\":\"%s\",\"ack_port\":",
                                     names[i], names[i]));
    }
}

static void fork_when_nothing_is_staged_runs_and_its_mailboxes_stay_armed(void **state)
{
    struct harness *h = *state;
    char *result = vm_commit(h, "new", "plain");
    static const char *const names[MAILBOXES] = {first, second, third};
    assert_string_equal(harness_json(h, result, "mailboxes"), "[]");
    vm_assert_running(h, (const char *const[]){"plain", NULL});
    for (size_t i = 0; i < MAILBOXES; i++) {
        struct vm_frame frames[VM_FRAMES_MAX];
        size_t count = vm_read_frames(h, "plain", names[i], frames);
        for (size_t j = 0; j < count; j++)
            assert_true(frames[j].sequence == 0 && frames[j].length == FRAME_DECLARED &&
                        frames[j].empty);
    }
    /* Nor has the guest taken anything. That it could, each of them shows. */
    assert_string_equal(harness_get(h, vm_console(h, "plain")), "");
    for (size_t i = 0; i < MAILBOXES; i++) {
        vm_write_frames(h, "plain", names[i], "{\"later\":1}");
        vm_await_payload(h, "plain", names[i], "{\"later\":1}");
    }
}

static void fork_when_payload_has_odd_text_delivers_it_byte_for_byte(void **state)
{
    struct harness *h = *state;
    static const char *const payloads[] = {
        "{}",
        "{\"n\":12345678901234567890,\"big\":1e400,\"small\":-0.10E-30,\"z\":1.0}",
        "{ \"b\" :1, \"a\":2,   \"b2\":[ ] }",
        "{\"text\":\"\\u0041\\n \xC3\xA4\xE2\x82\xAC\xF0\x9F\x90\xA7\"}",
    };
    for (size_t i = 0; i < sizeof payloads / sizeof payloads[0]; i++) {
        const char *id = harness_format(h, "odd-%zu", i);
        char *result = vm_fork(h, id, first, harness_format(h, " \n%s\n", payloads[i]));
        assert_string_equal(harness_json(h, result, "mailboxes.0.payload_bytes"),
                            harness_format(h, "%zu", strlen(payloads[i])));
        assert_string_equal(harness_json(h, result, "mailboxes.0.acked"), "null");
        vm_await_payload(h, id, first, payloads[i]);
    }
}

/* {"pad":"xxx…"} of that many bytes. */
static char *padded(struct harness *h, size_t size)
{
    static const char begin[] = "{\"pad\":\"", end[] = "\"}";
    char *text = harness_alloc(h, size + 1);
    memset(text, 'x', size);
    memcpy(text, begin, strlen(begin));
    memcpy(text + size - strlen(end), end, strlen(end));
    return text;
}

static void fork_when_payload_fills_the_mailbox_delivers_all_of_it(void **state)
{
    struct harness *h = *state;
    char *payload = padded(h, PAYLOAD_MAX);
    vm_fork(h, "full", first, payload);
    vm_await_payload(h, "full", first, payload);
}

static void fork_when_ack_port_just_fits_delivers_both(void **state)
{
    struct harness *h = *state;
    char *payload = padded(h, PAYLOAD_MAX - strlen(",\"ack_port\":65535"));
    char *result =
        vm_fork(h, "full", first,
                harness_format(h, "{\"payload\":%s,\"wait_for_ack\":true,\"ack\":\"udp\",%s}",
                               payload, VM_PATIENT));
    assert_string_equal(harness_json(h, result, "mailboxes.0.acked"), "true");
    harness_await(
        h, vm_console(h, "full"),
        harness_format(h, "payload=%.*s,\"ack_port\":", (int)strlen(payload) - 1, payload));
}

static void commit_when_token_is_given_takes_only_the_right_one(void **state)
{
    struct harness *h = *state;
    vm_stage(h, "new", first, "{\"payload\":{},\"token\":\"token-2\"}");
    vm_commit_fails(h, "new", "web-1", EKEYREJECTED, (const char *const[]){first, "token", NULL});
    vm_assert_running(h, (const char *const[]){NULL});
    vm_fork(h, "web-1", first, "{\"payload\":{\"right\":1},\"token\":\"token-1\"}");
    vm_await_payload(h, "web-1", first, "{\"right\":1}");
}

static void commit_when_one_of_several_mailboxes_is_missing_delivers_nothing(void **state)
{
    struct harness *h = *state;
    vm_stage(h, "new", first, "{\"a\":1}");
    vm_stage(h, "new", "no-such.v1", "{\"a\":1}");
    vm_commit_fails(h, "new", "web-1", ENOENT, (const char *const[]){"no-such.v1", NULL});
    vm_assert_running(h, (const char *const[]){NULL});
    assert_int_equal(access(vm_draft(h, "new", "mailboxes/no-such.v1"), F_OK), -1);
    vm_stage(h, "new", first, "{\"a\":1}");
    vm_commit(h, "new", "web-1");
    vm_await_payload(h, "web-1", first, "{\"a\":1}");
}

static void commit_when_repeated_makes_a_fork_each_time(void **state)
{
    struct harness *h = *state;
    vm_fork(h, "one", first, "{\"n\":1}");
    assert_string_equal(harness_get(h, vm_draft(h, "new", "status")), "empty\n");
    char *result = vm_fork(h, "1", first, "{\"n\":2}");
    const char *made = harness_json(h, result, "instance");
    assert_int_equal(mkdir(harness_path(h, "snapshots/base/forks/three"), 0755), 0);
    vm_stage(h, "three", first, "{\"n\":3}");
    vm_commit(h, "three", "1");
    assert_string_equal(harness_get(h, vm_draft(h, "three", "status")), "committed\n");
    assert_int_equal(harness_write(vm_draft(h, "three", "commit"), "1"), 0);
    vm_await_payload(h, "one", first, "{\"n\":1}");
    vm_await_payload(h, made, first, "{\"n\":2}");
    vm_await_payload(h, "three", first, "{\"n\":3}");
    vm_assert_running(h, (const char *const[]){"one", made, "three", NULL});

    vm_stage(h, "new", first, "{\"n\":4}");
    assert_int_equal(harness_write(vm_draft(h, "new", "commit"), "one"), EEXIST);
}

static void forks_when_they_ran_leave_the_image_as_it_was(void **state)
{
    struct harness *h = *state;
    char *before = vm_checksum(h);
    vm_fork(h, "one", first, VM_REQUEST("ack", ",\"n\":1"));
    vm_fork(h, "two", second, VM_REQUEST("ack", ",\"n\":2"));
    harness_await(h, vm_console(h, "one"), "first.v1 is armed again");
    harness_await(h, vm_console(h, "two"), "second.v1 is armed again");
    assert_string_equal(vm_checksum(h), before);
    assert_int_equal(vm_change(h, "one", "stopped"), 0);
    assert_int_equal(vm_change(h, "two", "stopped"), 0);
    assert_string_equal(vm_checksum(h), before);
}

#define test(name) cmocka_unit_test_setup_teardown(name, vm_setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(fork_when_acked_has_its_payload),
        test(fork_when_ack_comes_after_progress_is_acked_by_the_ack),
        test(fork_when_several_mailboxes_are_staged_fills_each),
        test(fork_when_nothing_is_staged_runs_and_its_mailboxes_stay_armed),
        test(fork_when_payload_has_odd_text_delivers_it_byte_for_byte),
        test(fork_when_payload_fills_the_mailbox_delivers_all_of_it),
        test(fork_when_ack_port_just_fits_delivers_both),
        test(commit_when_token_is_given_takes_only_the_right_one),
        test(commit_when_one_of_several_mailboxes_is_missing_delivers_nothing),
        test(commit_when_repeated_makes_a_fork_each_time),
        test(forks_when_they_ran_leave_the_image_as_it_was),
    };
    vm_enter();
    return cmocka_run_group_tests_name("fork", tests, make_template, harness_teardown);
}
