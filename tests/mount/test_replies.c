/* SPDX-License-Identifier: MIT */
/* What guests reply, and where it is seen, with the stand-ins' guest, whose frames are declared;
 * with real guests in vm/test_memory.c and vm/test_generations.c. */
#include "fixture.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake.h"

#define REPLY                                                                                      \
    "{ \"answer\":[1.0e+2,\"\\u00e9\", \"\xC3\xA9\xC2\x9B\"],\"s\":\"s3cret-of-the-guest\" }"

static char *draft(struct harness *h, const char *fork, const char *file)
{
    return harness_path(h, "snapshots/base/forks/%s/%s", fork, file);
}

static int setup(void **state)
{
    int r = harness_setup(state);
    if (r == 0) {
        fake_mount(*state);
        fake_publish(*state, "mailboxes=m,a network declared", "");
    }
    return r;
}

static void guest_says(struct harness *h, const char *reply)
{
    fake_tell(h, harness_format(h, "FAKE_VMM_GUEST=reply FAKE_VMM_REPLY='%s'", reply));
}

/* f1, whose guest takes a payload out of "m". */
static void commit(struct harness *h, const char *options)
{
    harness_put(draft(h, "new", "options"), options);
    harness_put(
        draft(h, "new", "mailboxes/m"),
        "{\"payload\":{},\"wait_for_ack\":true,\"ack\":\"memory\",\"ack_timeout_ms\":30000}");
    harness_put(draft(h, "new", "commit"), "f1");
}

static char *result(struct harness *h, const char *member)
{
    return harness_json(h, harness_get(h, draft(h, "f1", "result")), member);
}

static void reply_is_shown_byte_for_byte_and_to_its_user_alone(void **state)
{
    struct harness *h = *state;
    struct stat st;
    struct harness_child reader = harness_start_shell(h, "bash", "exec cat events > $T/told");
    harness_await_blocked(h, reader.pid);
    guest_says(h, REPLY);
    commit(h, "{}");
    assert_file_contains(draft(h, "f1", "result"), "\"reply\": " REPLY ",\n");
    assert_file_contains(draft(h, "f1", "mailboxes/m"), "\"reply\": " REPLY ",\n");
    assert_string_equal(result(h, "mailboxes.0.reply_error"), "null");
    assert_string_equal(result(h, "mailboxes.0.acked"), "true");
    assert_works(stat(draft(h, "f1", "result"), &st));
    assert_int_equal(st.st_mode & 07777, 0400);
    assert_works(stat(draft(h, "f1", "mailboxes/m"), &st));
    assert_int_equal(st.st_mode & 07077, 0);
    char *told = harness_await(h, harness_format(h, "%s/told", h->directory), "\"committed\"");
    assert_null(strstr(told, "s3cret"));
    assert_works(kill(reader.pid, SIGTERM));
    harness_finish(h, &reader);
    assert_shell("bash", "! grep -rqa s3cret-of $S --include='*.json' --include='*.log'", 0);
    assert_null(strstr(harness_get(h, h->log), "s3cret"));
    fake_drop(h, "f1");
}

static void remount(struct harness *h)
{
    assert_int_equal(harness_unmount(h), 0);
    fake_mount(h);
}

static void reply_goes_with_the_daemon(void **state)
{
    struct harness *h = *state;
    guest_says(h, REPLY);
    commit(h, "{}");
    remount(h);
    assert_string_equal(result(h, "mailboxes.0.reply"), "null");
    assert_string_equal(result(h, "mailboxes.0.acked"), "true");
    fake_drop(h, "f1");
}

static void reply_that_is_to_be_kept_is_in_the_record(void **state)
{
    struct harness *h = *state;
    guest_says(h, REPLY);
    commit(h, "{\"keep_reply\":true}");
    remount(h);
    assert_file_contains(draft(h, "f1", "result"), "\"reply\": " REPLY ",\n");
    /* What somebody else has written there is no reply. */
    assert_int_equal(harness_unmount(h), 0);
    assert_shell("bash",
                 "cd $S/instances/f1 && jq '.result.mailboxes[0].reply=\"{} {}\"' fork.json > j && "
                 "mv j fork.json",
                 0);
    fake_mount(h);
    assert_string_equal(result(h, "mailboxes.0.reply"), "null");
    fake_drop(h, "f1");
}

static void reply_that_is_none_is_told(void **state)
{
    struct harness *h = *state;
    guest_says(h, "[\"s3cret\"]");
    commit(h, "{}");
    assert_string_equal(result(h, "mailboxes.0.acked"), "true");
    assert_string_equal(result(h, "mailboxes.0.reply"), "null");
    assert_contains(result(h, "mailboxes.0.reply_error"), "not a JSON object");
    assert_null(strstr(harness_get(h, draft(h, "f1", "result")), "s3cret"));
    fake_drop(h, "f1");
}

static void guest_that_does_not_reply_has_none(void **state)
{
    struct harness *h = *state;
    fake_tell(h, "FAKE_VMM_GUEST=ack");
    commit(h, "{}");
    assert_string_equal(result(h, "mailboxes.0.consumed"), "true");
    assert_string_equal(result(h, "mailboxes.0.reply"), "null");
    assert_string_equal(result(h, "mailboxes.0.reply_error"), "null");
    fake_drop(h, "f1");
}

static void refusal_is_one_of_a_declared_frame_too(void **state)
{
    struct harness *h = *state;
    fake_tell(h, "FAKE_VMM_GUEST=refuse");
    harness_put(
        draft(h, "new", "mailboxes/m"),
        "{\"payload\":{},\"wait_for_ack\":true,\"ack\":\"memory\",\"ack_timeout_ms\":30000}");
    assert_errno(harness_write(draft(h, "new", "commit"), "f1"), EREMOTEIO);
    assert_file_contains(draft(h, "new", "error"), "the disk is full");
    assert_no_instance(h);
}

static void reply_to_the_network_is_shown_there(void **state)
{
    struct harness *h = *state;
    guest_says(h, REPLY);
    harness_put(draft(h, "new", "network"),
                "{\"interface_name\":\"eth0\",\"mac\":\"02:00:00:00:00:07\",\"ipv4\":\"10.0.0.7\","
                "\"prefix\":24,\"ack\":\"memory\"}");
    commit(h, "{}");
    assert_string_equal(result(h, "network.status"), "applied");
    assert_string_equal(result(h, "network.reply.s"), "s3cret-of-the-guest");
    assert_string_equal(result(h, "mailboxes.0.reply.s"), "s3cret-of-the-guest");
    fake_drop(h, "f1");
}

static void snapshot_of_the_fork_has_no_reply_and_takes_the_next_payload(void **state)
{
    struct harness *h = *state;
    guest_says(h, REPLY);
    commit(h, "{}");
    harness_put(fake_instance(h, "f1", "snapshot"), "after");
    assert_shell("bash", "! grep -qa s3cret-of $S/snapshots/after/memory", 0);
    assert_string_equal(harness_json(h,
                                     harness_get(h, harness_path(h, "snapshots/after/mailboxes/m")),
                                     "markers.0.state"),
                        "armed");
    harness_put(harness_path(h, "snapshots/after/forks/new/mailboxes/m"),
                "{\"payload\":{\"n\":2},\"wait_for_ack\":true,\"ack\":\"memory\","
                "\"ack_timeout_ms\":30000}");
    harness_put(harness_path(h, "snapshots/after/forks/new/commit"), "f2");
    assert_contains(harness_get(h, harness_path(h, "snapshots/after/forks/f2/result")),
                    "\"reply\": " REPLY ",\n");
    fake_drop(h, "f2");
    fake_drop(h, "f1");
}

static char *payload_of(struct harness *h, int size)
{
    return harness_format(h, "{\"x\":\"%*s\"}", size - 8, "");
}

static void payload_has_room_up_to_the_tail(void **state)
{
    struct harness *h = *state;
    fake_tell(h, "FAKE_VMM_GUEST=ack");
    const char *info = harness_get(h, harness_path(h, "snapshots/base/mailboxes/m"));
    assert_string_equal(harness_json(h, info, "payload_capacity"), "3824");
    info = harness_get(h, harness_path(h, "snapshots/base/network"));
    assert_string_equal(harness_json(h, info, "payload_capacity"), "4016");
    harness_put(draft(h, "new", "mailboxes/m"), payload_of(h, 3825));
    assert_errno(harness_write(draft(h, "new", "commit"), "f1"), EFBIG);
    assert_file_contains(draft(h, "new", "error"), "there is room for 3824");
    assert_no_instance(h);
    harness_put(draft(h, "new", "mailboxes/m"), payload_of(h, 3824));
    harness_put(draft(h, "new", "commit"), "f1");
    assert_string_equal(result(h, "mailboxes.0.payload_bytes"), "3824");
    fake_drop(h, "f1");
}

/* An index of an older version: what the image has is what counts. */
static void index_without_what_is_declared_is_good_for_a_fork(void **state)
{
    struct harness *h = *state;
    assert_int_equal(harness_unmount(h), 0);
    assert_shell("bash",
                 "cd $S/snapshots/base && jq -e '.declared|length==3' mailboxes.json && "
                 "jq 'del(.declared)' mailboxes.json > j && mv j mailboxes.json",
                 0);
    fake_mount(h);
    guest_says(h, REPLY);
    commit(h, "{}");
    assert_file_contains(draft(h, "f1", "result"), "\"reply\": " REPLY ",\n");
    fake_drop(h, "f1");
}

/* It takes the payload once, though two pages have got it, and of neither anything is left. */
static void frame_that_has_moved_gets_the_payload_again(void **state)
{
    struct harness *h = *state;
    fake_tell(h, "FAKE_VMM_GUEST=move FAKE_VMM_REPLY='" REPLY "'");
    harness_put(draft(h, "new", "mailboxes/m"),
                "{\"payload\":{\"n\":\"not-for-the-next\"},\"wait_for_ack\":true,"
                "\"ack\":\"memory\",\"ack_timeout_ms\":30000}");
    harness_put(draft(h, "new", "commit"), "f1");
    assert_file_contains(draft(h, "f1", "result"), "\"reply\": " REPLY ",\n");
    assert_string_equal(result(h, "mailboxes.0.consumed"), "true");
    const char *console = harness_get(h, fake_instance(h, "f1", "console"));
    const char *taken = strstr(console, "m {\"n\"");
    assert_non_null(taken);
    assert_null(strstr(taken + 1, "m {\"n\""));
    harness_put(fake_instance(h, "f1", "snapshot"), "after");
    assert_shell("bash", "! grep -qaE 's3cret-of|not-for-the-next' $S/snapshots/after/memory", 0);
    fake_drop(h, "f1");
}

/* Within the first two times no search is due but the last one, at the deadline; a guest that is
 * slower has the third. */
static void frame_that_has_moved_and_taken_its_payload_is_found_at_the_deadline(void **state)
{
    struct harness *h = *state;
    static const int ms[] = {50, 90, 30000};
    int code = ETIMEDOUT;
    fake_tell(h, "FAKE_VMM_GUEST=carry FAKE_VMM_REPLY='" REPLY "'");
    for (size_t i = 0; i < 3 && code == ETIMEDOUT; i++) {
        harness_put(draft(h, "new", "mailboxes/m"),
                    harness_format(h,
                                   "{\"payload\":{},\"wait_for_ack\":true,\"ack\":\"memory\","
                                   "\"ack_timeout_ms\":%d}",
                                   ms[i]));
        code = harness_write(draft(h, "new", "commit"), "f1");
    }
    assert_errno(code, 0);
    assert_file_contains(draft(h, "f1", "result"), "\"reply\": " REPLY ",\n");
    fake_drop(h, "f1");
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

int main(void)
{
    harness_enter();
    const struct CMUnitTest tests[] = {
        test(reply_is_shown_byte_for_byte_and_to_its_user_alone),
        test(reply_goes_with_the_daemon),
        test(reply_that_is_to_be_kept_is_in_the_record),
        test(reply_that_is_none_is_told),
        test(guest_that_does_not_reply_has_none),
        test(refusal_is_one_of_a_declared_frame_too),
        test(reply_to_the_network_is_shown_there),
        test(snapshot_of_the_fork_has_no_reply_and_takes_the_next_payload),
        test(payload_has_room_up_to_the_tail),
        test(frame_that_has_moved_gets_the_payload_again),
        test(frame_that_has_moved_and_taken_its_payload_is_found_at_the_deadline),
        test(index_without_what_is_declared_is_good_for_a_fork),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
