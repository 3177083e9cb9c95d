/* SPDX-License-Identifier: MIT */
/* Commits that wait for acks: the test sends them in the guest's place. */
#include "fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tiny_guest.h"
#include "util/cleanup.h"

enum { LONG_MS = 30000, SHORT_MS = 150, MAILBOXES_MAX = 16 };

static char *fork_path(struct harness *h, const char *fork, const char *file)
{
    return harness_path(h, "snapshots/base/forks/%s/%s", fork, file);
}

static char *result_of(struct harness *h, const char *fork, const char *member)
{
    return harness_json(h, harness_get(h, fork_path(h, fork, "result")), member);
}

static void ack_of_the_mailbox_ends_the_wait(void **state)
{
    struct harness *h = *state;
    tiny_guest_stage(h, "new", "m", "{\"n\":1}", LONG_MS);
    struct harness_child commit = tiny_guest_commit(h, "new", "f1");
    int port = tiny_guest_port(h, "m");
    assert_string_equal(harness_get(h, fork_path(h, "new", "status")), "committing\n");
    tiny_guest_send(port, " stage=applied mailbox=m note=fine\n");
    assert_int_equal(harness_finish(h, &commit).status, 0);
    assert_string_equal(result_of(h, "f1", "mailboxes.0.acked"), "true");
    assert_string_equal(result_of(h, "f1", "mailboxes.0.ack"), "udp");
    assert_string_equal(result_of(h, "f1", "mailboxes.0.ack_text"),
                        "stage=applied mailbox=m note=fine");
    assert_true(atof(result_of(h, "f1", "mailboxes.0.ack_ms")) > 0);
    assert_string_equal(
        result_of(h, "f1", "mailboxes.0.payload_bytes"),
        harness_format(h, "%zu", strlen(harness_format(h, "{\"n\":1,\"ack_port\":%d}", port))));
    assert_file_contains(harness_path(h, "instances/f1/console"),
                         harness_format(h, "m {\"n\":1,\"ack_port\":%d}\n", port));
}

static void ack_port_in_an_empty_payload_stands_alone(void **state)
{
    struct harness *h = *state;
    harness_put(
        fork_path(h, "new", "mailboxes/m"),
        "{\"payload\":{ \n },\"wait_for_ack\":true,\"ack\":\"udp\",\"ack_timeout_ms\":30000}");
    struct harness_child commit = tiny_guest_commit(h, "new", "f1");
    int port = tiny_guest_port(h, "m");
    tiny_guest_send(port, "stage=applied mailbox=m");
    assert_int_equal(harness_finish(h, &commit).status, 0);
    assert_file_contains(harness_path(h, "instances/f1/console"),
                         harness_format(h, "m { \n \"ack_port\":%d}\n", port));
}

static void datagrams_that_are_no_ack_do_not_end_the_wait(void **state)
{
    struct harness *h = *state;
    static const char *const others[] = {
        "stage=applied mailbox=mm",
        "stage=applied mailbox=",
        "mailbox=m",
        "stage=mailbox_seen mailbox=m",
        "ok: stage=applied mailbox=m",
        "stage=applied mailbox=M",
        "applied m",
        "",
    };
    tiny_guest_stage(h, "new", "m", "{}", LONG_MS);
    struct harness_child commit = tiny_guest_commit(h, "new", "f1");
    int port = tiny_guest_port(h, "m");
    for (size_t i = 0; i < array_length(others); i++)
        tiny_guest_send(port, others[i]);
    /* It comes last; it would come too late if one of them counted. */
    tiny_guest_send(port, "stage=failed mailbox=m reason=the-last");
    assert_int_equal(harness_finish(h, &commit).status, 1);
    assert_string_equal(result_of(h, "new", "error.code"), "EREMOTEIO");
    assert_file_contains(fork_path(h, "new", "error"), "the-last");
}

static void guest_that_never_acks_is_destroyed(void **state)
{
    struct harness *h = *state;
    tiny_guest_stage(h, "new", "m", "{\"n\":1}", SHORT_MS);
    assert_errno(harness_write(fork_path(h, "new", "commit"), "f1"), ETIMEDOUT);
    assert_no_instance(h);
    assert_string_equal(harness_get(h, fork_path(h, "new", "status")), "failed\n");
    static const char *const words[] = {
        "no ack for mailbox m within 150 ms: the payload was taken nevertheless",
        "; 0 other datagrams came",
        "acks are received at 127.0.0.1",
        "its console ends: \"m {",
        "\"ack\": \"memory\"",
        "\"ack_timeout_ms\"",
        "\"on_ack_failure\": \"keep\"",
    };
    for (size_t i = 0; i < array_length(words); i++)
        assert_file_contains(fork_path(h, "new", "error"), words[i]);
    assert_string_equal(result_of(h, "new", "error.code"), "ETIMEDOUT");
    assert_string_equal(result_of(h, "new", "error.phase"), "ack");
    assert_string_equal(result_of(h, "new", "mailboxes.0.acked"), "false");
    assert_fails(access(fork_path(h, "f1", ""), F_OK), ENOENT);
    assert_fails(access(fork_path(h, "new", "mailboxes/m"), F_OK), ENOENT); /* it is empty again */
    assert_works(rmdir(harness_path(h, "snapshots/base")));
}

static void guest_that_never_acks_stays_where_failures_are_kept(void **state)
{
    struct harness *h = *state;
    assert_works(mkdir(fork_path(h, "d", ""), 0755));
    harness_put(fork_path(h, "d", "options"), "{\"on_ack_failure\":\"keep\"}");
    tiny_guest_stage(h, "d", "m", "{\"n\":1}", SHORT_MS);
    assert_errno(harness_write(fork_path(h, "d", "commit"), "d"), ETIMEDOUT);
    assert_string_equal(harness_get(h, fork_path(h, "d", "status")), "failed\n");
    assert_string_equal(harness_get(h, harness_path(h, "instances/d/state")), "running\n");
    harness_await(h, fork_path(h, "d", "instance/console"), "m {\"n\":1,");
    assert_errno(harness_write(fork_path(h, "d", "mailboxes/a"), "{}"), EPERM);
    assert_errno(harness_write(fork_path(h, "d", "commit"), "d"), ETIMEDOUT);
    assert_string_equal(assert_shell("bash", "ls instances", 0).out, "d\n");
    harness_put(harness_path(h, "instances/d/state"), "stopped");
    assert_works(rmdir(harness_path(h, "instances/d")));
    assert_fails(access(fork_path(h, "d", ""), F_OK), ENOENT);
}

static void failure_of_new_that_is_kept_leaves_a_failed_record(void **state)
{
    struct harness *h = *state;
    harness_put(fork_path(h, "new", "options"), "{\"on_ack_failure\":\"keep\"}");
    tiny_guest_stage(h, "new", "m", "{}", SHORT_MS);
    assert_errno(harness_write(fork_path(h, "new", "commit"), "f1"), ETIMEDOUT);
    assert_string_equal(harness_get(h, fork_path(h, "f1", "status")), "failed\n");
    assert_file_contains(fork_path(h, "f1", "error"), "no ack for mailbox m");
    assert_string_equal(result_of(h, "f1", "error.code"), "ETIMEDOUT");
    assert_string_equal(harness_get(h, harness_path(h, "instances/f1/state")), "running\n");
    assert_errno(harness_write(fork_path(h, "new", "commit"), "f1"), EEXIST);
}

static void refusal_of_the_guest_fails_the_commit_with_its_reason(void **state)
{
    struct harness *h = *state;
    tiny_guest_stage(h, "new", "m", "{}", LONG_MS);
    struct harness_child commit = tiny_guest_commit(h, "new", "f1");
    tiny_guest_send(tiny_guest_port(h, "m"), "stage=failed mailbox=m reason=disk-full");
    struct harness_result result = harness_finish(h, &commit);
    assert_int_equal(result.status, 1);
    assert_contains(result.err, "Remote I/O error");
    assert_file_contains(fork_path(h, "new", "error"), "disk-full");
    assert_string_equal(result_of(h, "new", "error.code"), "EREMOTEIO");
    assert_string_equal(result_of(h, "new", "error.mailbox"), "m");
    assert_no_instance(h);
}

static void acks_of_several_mailboxes_are_all_waited_for(void **state)
{
    struct harness *h = *state;
    static const char *const names[] = {"a", "m"};
    harness_put(fork_path(h, "new", "mailboxes/b"), "{\"quiet\":true}");
    for (size_t i = 0; i < array_length(names); i++)
        tiny_guest_stage(h, "new", names[i], "{}", LONG_MS);
    struct harness_child commit = tiny_guest_commit(h, "new", "f1");
    int port = tiny_guest_port(h, "a");
    assert_int_equal(tiny_guest_port(h, "m"), port);
    tiny_guest_send(port, "stage=applied mailbox=b");
    tiny_guest_send(port, "stage=applied mailbox=m");
    assert_string_equal(harness_get(h, fork_path(h, "new", "status")), "committing\n");
    tiny_guest_send(port, "stage=applied mailbox=a");
    assert_int_equal(harness_finish(h, &commit).status, 0);
    assert_string_equal(result_of(h, "f1", "mailboxes.0.acked"), "null");
    assert_string_equal(result_of(h, "f1", "mailboxes.1.acked"), "true");
    assert_string_equal(result_of(h, "f1", "mailboxes.2.acked"), "true");
}

static void mailboxes_when_16_are_staged_are_all_delivered(void **state)
{
    struct harness *h = *state;
    const char *names[MAILBOXES_MAX + 1] = {NULL};
    for (int i = 0; i < MAILBOXES_MAX; i++)
        names[i] = harness_format(h, "box-%d", i);
    tiny_guest_snapshot(h, "many", names);
    for (int i = 0; i < MAILBOXES_MAX; i++)
        harness_put(harness_path(h, "snapshots/many/forks/new/mailboxes/%s", names[i]),
                    harness_format(h,
                                   "{\"payload\":{\"i\":%d},\"wait_for_ack\":true,\"ack\":\"udp\","
                                   "\"ack_timeout_ms\":30000}",
                                   i));
    struct harness_child commit =
        harness_start_shell(h, "bash", "echo f1 > snapshots/many/forks/new/commit");
    for (int i = MAILBOXES_MAX - 1; i >= 0; i--)
        tiny_guest_send(tiny_guest_port(h, names[i]),
                        harness_format(h, "stage=applied mailbox=%s", names[i]));
    assert_int_equal(harness_finish(h, &commit).status, 0);
}

static void guest_that_dies_before_its_ack_fails_the_commit(void **state)
{
    struct harness *h = *state;
    tiny_guest_stage(h, "new", "m", "{}", LONG_MS);
    struct harness_child commit = tiny_guest_commit(h, "new", "f1");
    tiny_guest_port(h, "m");
    assert_shell("bash",
                 "for p in /proc/[0-9]*; do case $(readlink $p/cwd) in $S/instances/.new-*) "
                 "kill -9 ${p#/proc/};; esac; done 2> /dev/null; true",
                 0);
    struct harness_result result = harness_finish(h, &commit);
    assert_contains(result.err, "Input/output error");
    assert_string_equal(result_of(h, "new", "error.code"), "EIO");
    assert_file_contains(fork_path(h, "new", "error"), "ended before its guest acked");
    assert_no_instance(h);
}

/* The kernel's table of sockets, in which 127.0.0.2 is 0200007F. */
static bool is_bound(struct harness *h, const char *address, int port)
{
    return strstr(harness_get(h, "/proc/net/udp"), harness_format(h, " %s:%04X ", address, port));
}

/* Commits `new` as `id`; its ack is received on 127.0.0.2 alone. */
static void assert_ack_at_127_0_0_2(struct harness *h, const char *id)
{
    tiny_guest_stage(h, "new", "m", "{\"n\":1}", LONG_MS);
    struct harness_child commit = tiny_guest_commit(h, "new", id);
    int port = tiny_guest_port(h, "m");
    assert_true(is_bound(h, "0200007F", port));
    assert_false(is_bound(h, "00000000", port));
    tiny_guest_send_to("127.0.0.1", port, "stage=failed mailbox=m reason=another-address");
    tiny_guest_send_to("127.0.0.2", port, "stage=applied mailbox=m");
    assert_int_equal(harness_finish(h, &commit).status, 0);
    assert_string_equal(result_of(h, id, "mailboxes.0.acked"), "true");
    assert_false(is_bound(h, "0200007F", port));
}

static void ack_address_of_the_options_is_where_acks_are_received(void **state)
{
    struct harness *h = *state;
    harness_put(fork_path(h, "new", "options"), "{\"ack_address\":\"127.0.0.2\"}");
    assert_ack_at_127_0_0_2(h, "f1");
}

static void ack_address_of_the_mount_counts_where_the_options_have_none(void **state)
{
    struct harness *h = *state;
    assert_int_equal(harness_unmount(h), 0);
    harness_mount(h, (const char *const[]){"--ack-address", "127.0.0.2", NULL});
    assert_ack_at_127_0_0_2(h, "f1");
    harness_put(fork_path(h, "new", "options"), "{\"ack_address\":\"127.0.0.1\"}");
    tiny_guest_stage(h, "new", "m", "{\"n\":1}", LONG_MS);
    struct harness_child commit = tiny_guest_commit(h, "new", "f2");
    int port = tiny_guest_port(h, "m");
    assert_true(is_bound(h, "0100007F", port));
    tiny_guest_send(port, "stage=applied mailbox=m");
    assert_int_equal(harness_finish(h, &commit).status, 0);
}

static void ack_address_that_is_not_this_hosts_fails_the_commit(void **state)
{
    struct harness *h = *state;
    static const char options[] = "{\"ack_address\":\"192.0.2.1\"}";
    harness_put(fork_path(h, "new", "options"), options);
    tiny_guest_stage(h, "new", "m", "{\"n\":1}", LONG_MS);
    assert_errno(harness_write(fork_path(h, "new", "commit"), "f1"), EINVAL);
    assert_file_contains(fork_path(h, "new", "error"),
                         "192.0.2.1, which is no address of this host");
    assert_string_equal(result_of(h, "new", "error.code"), "EINVAL");
    assert_string_equal(result_of(h, "new", "error.mailbox"), "null");
    assert_no_instance(h);
    harness_put(fork_path(h, "new", "options"), options);
    harness_put(fork_path(h, "new", "mailboxes/m"), "{\"n\":1}"); /* no ack is asked for */
    harness_put(fork_path(h, "new", "commit"), "f1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        guest_test(ack_of_the_mailbox_ends_the_wait),
        guest_test(ack_port_in_an_empty_payload_stands_alone),
        guest_test(datagrams_that_are_no_ack_do_not_end_the_wait),
        guest_test(guest_that_never_acks_is_destroyed),
        guest_test(guest_that_never_acks_stays_where_failures_are_kept),
        guest_test(failure_of_new_that_is_kept_leaves_a_failed_record),
        guest_test(refusal_of_the_guest_fails_the_commit_with_its_reason),
        guest_test(acks_of_several_mailboxes_are_all_waited_for),
        guest_test(mailboxes_when_16_are_staged_are_all_delivered),
        guest_test(guest_that_dies_before_its_ack_fails_the_commit),
        guest_test(ack_address_of_the_options_is_where_acks_are_received),
        guest_test(ack_address_of_the_mount_counts_where_the_options_have_none),
        guest_test(ack_address_that_is_not_this_hosts_fails_the_commit),
    };
    harness_enter();
    if (!tiny_guest_possible())
        return HARNESS_SKIPPED;
    return cmocka_run_group_tests_name("acks", tests, NULL, NULL);
}
