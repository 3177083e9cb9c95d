/* SPDX-License-Identifier: MIT */
/* Payloads for VMs that run: each is taken once, whatever happens around them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "vm/vm.h"

static const char box[] = "first.v1", other[] = "second.v1";

static int make_template(void **state)
{
    return vm_make_template(
        state, "microvm",
        "hypefs.mailboxes=first.v1,second.v1 hypefs.asleep=asleep.v1 hypefs.twin hypefs.child");
}

static char *in(struct harness *h, const char *id, const char *file)
{
    return harness_path(h, "instances/%s/%s", id, file);
}

static char *mailbox(struct harness *h, const char *id, const char *name)
{
    return harness_path(h, "instances/%s/mailboxes/%s", id, name);
}

static char *last(struct harness *h, const char *id, const char *name, const char *member)
{
    return harness_json(h, harness_get(h, mailbox(h, id, name)),
                        harness_format(h, "last.%s", member));
}

static void must_deliver(struct harness *h, const char *id, const char *name, const char *text)
{
    int code = harness_write(mailbox(h, id, name), text);
    if (code != 0)
        fail_msg("%s: %s: %s", id, strerrorname_np(code), harness_get(h, in(h, id, "error")));
}

static size_t count_lines(const char *text, const char *line)
{
    size_t count = 0;
    for (; (text = strstr(text, line)); text += strlen(line))
        count++;
    return count;
}

/* Each of `count` payloads is on the console once, in that order. */
static void assert_each_once(struct harness *h, const char *id, const char *name, unsigned count)
{
    const char *at = harness_get(h, vm_console(h, id));
    assert_int_equal(count_lines(at, harness_format(h, "vm_guest: %s payload={\"live\":", name)),
                     count);
    for (unsigned i = 0; i < count; i++) {
        const char *line = harness_format(h, "vm_guest: %s payload={\"live\":%u}", name, i);
        at = strstr(at, line);
        if (!at)
            fail_msg("payload %u was lost, or came too late", i);
    }
}

static char *numbered(struct harness *h, unsigned number)
{
    return harness_format(h, "{\"payload\":{\"live\":%u},\"wait_for_ack\":true," VM_PATIENT "}",
                          number);
}

static void fork_when_it_runs_takes_one_payload_after_the_other(void **state)
{
    enum { COUNT = 200 };
    struct harness *h = *state;
    vm_fork(h, "web-1", box, VM_REQUEST("ack", ""));
    for (unsigned i = 0; i < COUNT; i++)
        must_deliver(h, "web-1", box, numbered(h, i));
    assert_each_once(h, "web-1", box, COUNT);
    assert_string_equal(last(h, "web-1", box, "acked"), "true");
    assert_string_equal(last(h, "web-1", box, "consumed"), "true");
    assert_string_equal(last(h, "web-1", box, "ack"), "memory");
    assert_string_equal(harness_get(h, in(h, "web-1", "error")), "");
}

static void booted_one_takes_one_payload_after_the_other(void **state)
{
    enum { COUNT = 50 };
    struct harness *h = *state;
    vm_boot(h, "microvm", "hypefs.mailboxes=first.v1");
    for (unsigned i = 0; i < COUNT; i++)
        must_deliver(h, "template", box, numbered(h, i));
    assert_each_once(h, "template", box, COUNT);
}

/* ---- guests ---- */

static void refused(struct harness *h, const char *id, const char *name, const char *text, int code,
                    const char *words)
{
    int got = harness_write(mailbox(h, id, name), text);
    if (got != code)
        fail_msg("%s, not %s: %s", strerrorname_np(got), strerrorname_np(code),
                 harness_get(h, in(h, id, "error")));
    assert_non_null(strstr(harness_get(h, in(h, id, "error")), words));
}

/* Who waits for one that arms its mailbox late is waited for by the next. */
static void guest_that_arms_its_mailbox_late_takes_each_in_turn(void **state)
{
    struct harness *h = *state;
    vm_fork(h, "web-1", box, VM_REQUEST("ack", ""));
    struct harness_child children[2];
    for (size_t i = 0; i < array_length(children); i++)
        children[i] = harness_start_shell(
            h, "sh",
            harness_format(h,
                           "echo '{\"payload\":{\"live\":%zu,\"do\":\"later\"},"
                           "\"wait_for_ack\":true," VM_PATIENT "}' > instances/web-1/mailboxes/%s",
                           i, box));
    for (size_t i = 0; i < array_length(children); i++)
        assert_string_equal(harness_finish(h, &children[i]).err, "");
    const char *console = harness_get(h, vm_console(h, "web-1"));
    for (size_t i = 0; i < array_length(children); i++)
        assert_int_equal(count_lines(console, harness_format(h, "payload={\"live\":%zu,", i)), 1);
}

static void payload_that_no_software_takes_is_withdrawn(void **state)
{
    static const char sleeper[] = "asleep.v1";
    struct harness *h = *state;
    vm_fork(h, "web-1", box, VM_REQUEST("ack", ""));
    for (int i = 0; i < 3; i++)
        refused(h, "web-1", sleeper,
                "{\"payload\":{\"s\":\"withdrawn\"},\"wait_for_ack\":true,\"ack_timeout_ms\":100}",
                ETIMEDOUT, "was not taken, and is withdrawn");
    struct vm_frame frames[VM_FRAMES_MAX];
    size_t count = vm_read_frames(h, "web-1", sleeper, frames);
    assert_true(count > 0);
    for (size_t i = 0; i < count; i++)
        assert_true(frames[i].sequence == 0 && frames[i].length == FRAME_DECLARED &&
                    frames[i].empty);
    must_deliver(h, "web-1", box, numbered(h, 0)); /* the others are none the worse */
}

static void refusal_of_a_guest_is_told(void **state)
{
    struct harness *h = *state;
    vm_fork(h, "web-1", box, VM_REQUEST("ack", ""));
    refused(h, "web-1", box, VM_REQUEST("fail", ""), EREMOTEIO, "told to fail");
}

static void ack_by_datagram_is_waited_for(void **state)
{
    struct harness *h = *state;
    vm_needs_qemu();
    vm_fork(h, "web-1", box, VM_REQUEST("ack", ""));
    must_deliver(h, "web-1", box, VM_REQUEST_UDP("ack", ""));
    assert_non_null(strstr(last(h, "web-1", box, "ack_text"), "stage=applied mailbox=first.v1"));
}

/* A program has crashed, and armed its mailbox anew, say; and two share a token. */
static void mailboxes_of_one_name_are_told_apart_by_their_tokens(void **state)
{
    struct harness *h = *state;
    vm_boot(h, "microvm", "hypefs.mailboxes=first.v1=one,first.v1=two,second.v1=one");
    refused(h, "template", box, numbered(h, 0), ENOTUNIQ, "several tokens");
    must_deliver(h, "template", other, numbered(h, 0));
    for (unsigned i = 0; i < 4; i++)
        must_deliver(h, "template", box,
                     harness_format(h,
                                    "{\"payload\":{\"live\":%u},\"token\":\"%s\","
                                    "\"wait_for_ack\":true," VM_PATIENT "}",
                                    i, i % 2 ? "one" : "two"));
    assert_each_once(h, "template", box, 4);
    assert_each_once(h, "template", other, 1);
}

static void network_is_taken_while_the_guest_runs(void **state)
{
    struct harness *h = *state;
    vm_boot(h, "microvm", "hypefs.network hypefs.network_deed=silent hypefs.mailboxes=first.v1");
    harness_put(in(h, "template", "network"),
                "{\"interface_name\":\"eth9\",\"mac\":\"02:00:00:00:00:07\","
                "\"ipv4\":\"10.0.0.7\",\"prefix\":24}");
    char *network = harness_get(h, in(h, "template", "network"));
    assert_string_equal(harness_json(h, network, "last.status"), "applied");
    assert_string_equal(harness_json(h, network, "last.consumed"), "true");
    harness_await(h, vm_console(h, "template"), "vm_guest: (network) payload={\"interface_name\"");
}

/* ---- in any order with all else ---- */

static struct harness_child start_deliveries(struct harness *h, const char *id, unsigned count)
{
    return harness_start_shell(
        h, "bash",
        harness_format(h,
                       "for ((i = 0; i < %u; i++)); do echo '{\"payload\":{\"live\":'$i'},"
                       "\"wait_for_ack\":true," VM_PATIENT "}' > instances/%s/mailboxes/%s || "
                       "{ cat instances/%s/error; exit 1; }; done",
                       count, id, box, id));
}

static void finish_deliveries(struct harness *h, struct harness_child *child, const char *id,
                              unsigned count)
{
    struct harness_result result = harness_finish(h, child);
    if (result.status != 0)
        fail_msg("%s%s", result.out, result.err);
    assert_each_once(h, id, box, count);
}

/* One that was booted goes on in another VMM at its first snapshot. */
static void snapshots_meanwhile_lose_nothing(void **state)
{
    enum { COUNT = 60 };
    struct harness *h = *state;
    vm_use_network("{\"mode\":\"none\"}");
    vm_boot(h, "microvm", "hypefs.mailboxes=first.v1");
    vm_use_network(NULL);
    int pid = vm_pid(h, "template");
    struct harness_child child = start_deliveries(h, "template", COUNT);
    harness_await(h, vm_console(h, "template"), "{\"live\":3}");
    for (int i = 0; i < 3; i++)
        harness_put(in(h, "template", "snapshot"), harness_format(h, "s%d", i));
    if (strcmp(vm_vmm(), "firecracker") != 0)
        assert_int_not_equal(vm_pid(h, "template"), pid);
    finish_deliveries(h, &child, "template", COUNT);
    /* In none of them is more than the payload that was under way. */
    char *names = harness_get(h, harness_path(h, "snapshots/s2/info"));
    assert_string_equal(harness_json(h, names, "source_instance"), "template");
}

static void commits_from_the_running_one_meanwhile_lose_nothing(void **state)
{
    enum { COUNT = 60 };
    struct harness *h = *state;
    vm_fork(h, "web-1", box, VM_REQUEST("ack", ""));
    struct harness_child child = start_deliveries(h, "web-1", COUNT);
    harness_await(h, vm_console(h, "web-1"), "{\"live\":3}");
    for (int i = 0; i < 2; i++) {
        harness_put(in(h, "web-1", "forks/new/options"), "{\"from_running\":true}");
        harness_put(in(h, "web-1", "forks/new/commit"), harness_format(h, "of-running-%d", i));
        must_deliver(h, harness_format(h, "of-running-%d", i), other, numbered(h, 0));
    }
    finish_deliveries(h, &child, "web-1", COUNT);
}

static void daemon_that_is_killed_leaves_a_vm_that_takes_the_next(void **state)
{
    struct harness *h = *state;
    vm_fork(h, "web-1", box, VM_REQUEST("ack", ""));
    must_deliver(h, "web-1", box, numbered(h, 0));
    harness_kill(h);
    harness_mount(h, NULL);
    must_deliver(h, "web-1", box, numbered(h, 1));
    assert_each_once(h, "web-1", box, 2);
    assert_int_equal(vm_change(h, "web-1", "standby"), 0);
    assert_int_equal(vm_change(h, "web-1", "running"), 0);
    must_deliver(h, "web-1", box, numbered(h, 2));
    assert_each_once(h, "web-1", box, 3);
}

/* Its twin gets the payload, too, and nobody takes it there. */
static void secret_that_was_taken_is_in_no_snapshot(void **state)
{
    struct harness *h = *state;
    vm_fork(h, "web-1", box, VM_REQUEST("ack", ""));
    must_deliver(h, "web-1", box,
                 "{\"payload\":{\"do\":\"hush\",\"s\":\"never-in-a-snapshot\"},"
                 "\"wait_for_ack\":true," VM_PATIENT "}");
    assert_string_equal(last(h, "web-1", box, "copies"), "2");
    harness_put(in(h, "web-1", "snapshot"), "s");
    struct harness_result result =
        harness_run(h, (const char *const[]){"grep", "-qaF", "never-in-a-snapshot",
                                             harness_store_path(h, "snapshots/s/memory"), NULL});
    assert_int_equal(result.status, 1);
    result = harness_run(h, (const char *const[]){"grep", "-rqF", "never-in-a-snapshot",
                                                  harness_store_path(h, "instances"), NULL});
    assert_int_equal(result.status, 1);
}

#define test(name) cmocka_unit_test_setup_teardown(name, vm_setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(fork_when_it_runs_takes_one_payload_after_the_other),
        test(booted_one_takes_one_payload_after_the_other),
        test(guest_that_arms_its_mailbox_late_takes_each_in_turn),
        test(payload_that_no_software_takes_is_withdrawn),
        test(refusal_of_a_guest_is_told),
        test(ack_by_datagram_is_waited_for),
        test(mailboxes_of_one_name_are_told_apart_by_their_tokens),
        test(network_is_taken_while_the_guest_runs),
        test(snapshots_meanwhile_lose_nothing),
        test(commits_from_the_running_one_meanwhile_lose_nothing),
        test(daemon_that_is_killed_leaves_a_vm_that_takes_the_next),
        test(secret_that_was_taken_is_in_no_snapshot),
    };
    vm_enter();
    return cmocka_run_group_tests_name("live", tests, make_template, harness_teardown);
}
