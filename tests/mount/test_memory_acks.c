/* SPDX-License-Identifier: MIT */
/* Acks that no network carries, and identities, with the fake Firecracker's guest; with real ones
 * in vm/test_memory.c. */
#include "fixture.h"

#include <ctype.h>
#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake.h"
#include "util/cleanup.h"

#define BY_MEMORY(ms) ",\"wait_for_ack\":true,\"ack\":\"memory\",\"ack_timeout_ms\":" ms

static char *draft(struct harness *h, const char *fork, const char *file)
{
    return harness_path(h, "snapshots/base/forks/%s/%s", fork, file);
}

static void stage(struct harness *h, const char *mailbox, const char *members)
{
    harness_put(draft(h, "new", harness_format(h, "mailboxes/%s", mailbox)),
                harness_format(h, "{\"payload\":{\"n\":1}%s}", members));
}

static char *result(struct harness *h, const char *fork, const char *member)
{
    return harness_json(h, harness_get(h, draft(h, fork, "result")), member);
}

static int setup(void **state)
{
    int r = harness_setup(state);
    if (r == 0) {
        fake_mount(*state);
        fake_publish(*state, "mailboxes=m,a", "");
    }
    return r;
}

static void consumed_payload_is_an_ack(void **state)
{
    struct harness *h = *state;
    stage(h, "m", BY_MEMORY("30000"));
    harness_put(draft(h, "new", "commit"), "f1");
    assert_string_equal(result(h, "f1", "mailboxes.0.acked"), "true");
    assert_string_equal(result(h, "f1", "mailboxes.0.ack"), "memory");
    assert_string_equal(result(h, "f1", "mailboxes.0.ack_text"), "null");
    assert_string_equal(result(h, "f1", "mailboxes.0.consumed"), "true");
    assert_true(atof(result(h, "f1", "mailboxes.0.ack_ms")) > 0);
    assert_file_contains(fake_instance(h, "f1", "console"), "m {\"n\":1}\n"); /* as it is */
    fake_drop(h, "f1");
}

/* The guest runs before its VMM has said that it does. */
static void ack_before_the_resume_is_answered_takes_time_all_the_same(void **state)
{
    struct harness *h = *state;
    fake_tell(h, "FAKE_VMM_GUEST=ack FAKE_VMM_FAULT=vm#1:during:late");
    stage(h, "m", BY_MEMORY("30000"));
    stage(h, "a", BY_MEMORY("30000"));
    harness_put(draft(h, "new", "commit"), "f1");
    assert_true(atof(result(h, "f1", "mailboxes.0.ack_ms")) > 0);
    assert_true(atof(result(h, "f1", "mailboxes.1.ack_ms")) > 0);
    fake_tell(h, "FAKE_VMM_GUEST=ack");
    fake_drop(h, "f1");
}

static void refusal_in_the_frame_fails_the_commit(void **state)
{
    struct harness *h = *state;
    fake_tell(h, "FAKE_VMM_GUEST=refuse");
    stage(h, "m", BY_MEMORY("30000"));
    assert_errno(harness_write(draft(h, "new", "commit"), "f1"), EREMOTEIO);
    assert_file_contains(draft(h, "new", "error"), "mailbox m: the disk is full");
    assert_string_equal(result(h, "new", "mailboxes.0.acked"), "false");
    assert_string_equal(result(h, "new", "mailboxes.0.consumed"), "true");
    assert_no_instance(h);
}

static void payload_that_nobody_takes_times_out(void **state)
{
    struct harness *h = *state;
    fake_tell(h, "FAKE_VMM_GUEST=absent");
    stage(h, "m", BY_MEMORY("150"));
    assert_errno(harness_write(draft(h, "new", "commit"), "f1"), ETIMEDOUT);
    assert_file_contains(draft(h, "new", "error"),
                         "no ack for mailbox m within 150 ms: its mailbox was not armed again");
    assert_file_contains(draft(h, "new", "error"), "\"ack\": \"udp\" for a guest that answers by");
    assert_string_equal(result(h, "new", "mailboxes.0.acked"), "false");
    assert_string_equal(result(h, "new", "mailboxes.0.consumed"), "false");
    assert_no_instance(h);
}

static void pages_that_the_guest_reuses_are_no_ack(void **state)
{
    struct harness *h = *state;
    fake_tell(h, "FAKE_VMM_GUEST=reuse");
    stage(h, "m", BY_MEMORY("300"));
    assert_errno(harness_write(draft(h, "new", "commit"), "f1"), ETIMEDOUT);
    assert_file_contains(draft(h, "new", "error"), "for something else");
    assert_string_equal(result(h, "new", "mailboxes.0.acked"), "false");
    assert_string_equal(result(h, "new", "mailboxes.0.consumed"), "null");
    assert_no_instance(h);
}

/* What lies in the store of a fork that nobody sees yet; NULL: nothing does. */
static char *log_of_a_commit(struct harness *h)
{
    glob_t found;
    char *path = NULL;
    if (glob(harness_store_path(h, "instances/.new-*/console.log"), 0, NULL, &found) == 0)
        path = harness_format(h, "%s", found.gl_pathv[0]);
    globfree(&found);
    return path;
}

static bool has_log(void *h)
{
    return log_of_a_commit(h) != NULL;
}

static bool is_short(void *path)
{
    struct stat st;
    return stat(path, &st) == 0 && st.st_size <= 65536;
}

/* An ack by memory may be waited for for a day, and the guest writes all the time. */
static void console_of_a_fork_that_is_waited_for_is_kept_short(void **state)
{
    static char bytes[3 * 65536];
    struct harness *h = *state;
    fake_tell(h, "FAKE_VMM_GUEST=absent");
    harness_put(draft(h, "new", "options"), "{\"console_max_bytes\":65536}");
    stage(h, "m", BY_MEMORY("86400000"));
    struct harness_child commit =
        harness_start_shell(h, "bash", "echo f1 > snapshots/base/forks/new/commit");
    harness_await_that(has_log, h, "the fork's console");
    char *log = log_of_a_commit(h);
    auto_close int fd = open(log, O_WRONLY | O_APPEND | O_CLOEXEC);
    memset(bytes, 'x', sizeof bytes);
    assert_int_equal(write(fd, bytes, sizeof bytes), sizeof bytes);
    harness_await_that(is_short, log, "a short console");
    assert_file_contains(log, "at most 65536 are kept");
    assert_works(kill(commit.pid, SIGTERM));
    harness_finish(h, &commit);
}

static void payload_without_ack_is_looked_at_too(void **state)
{
    struct harness *h = *state;
    fake_tell(h, "FAKE_VMM_GUEST=absent");
    stage(h, "m", "");
    harness_put(draft(h, "new", "commit"), "f1");
    assert_string_equal(result(h, "f1", "mailboxes.0.acked"), "null");
    assert_string_equal(result(h, "f1", "mailboxes.0.consumed"), "false");
    fake_drop(h, "f1");
    assert_errno(harness_write(draft(h, "new", "mailboxes/nobody"), "{}"), 0);
    assert_errno(harness_write(draft(h, "new", "commit"), "f2"), ENOENT);
    assert_string_equal(result(h, "new", "mailboxes.0.consumed"), "null");
}

/* The member "fork" that is in the console's line of that mailbox, by its path. */
static char *identity(struct harness *h, const char *fork, const char *mailbox, const char *member)
{
    harness_await(h, fake_instance(h, fork, "console"), harness_format(h, "%s {", mailbox));
    const char *line = strstr(harness_get(h, fake_instance(h, fork, "console")),
                              harness_format(h, "%s {", mailbox));
    char *json = harness_format(h, "%.*s", (int)strcspn(line, "\n"), line);
    return harness_json(h, json + strlen(mailbox) + 1, harness_format(h, "fork.%s", member));
}

static void assert_hex(const char *text, size_t size)
{
    assert_int_equal(strlen(text), size);
    assert_int_equal(strspn(text, "0123456789abcdef"), size);
}

static void identity_is_the_last_member_of_each_payload(void **state)
{
    struct harness *h = *state;
    for (int i = 1; i <= 2; i++) {
        harness_put(draft(h, "new", "options"), "{\"identity\":true}");
        stage(h, "m", BY_MEMORY("30000"));
        stage(h, "a", BY_MEMORY("30000"));
        harness_put(draft(h, "new", "commit"), harness_format(h, "f%d", i));
    }
    assert_shell("bash",
                 "now=$(date +%s) && for f in f1 f2; do "
                 "grep -oE '\"time\":[0-9]{10}' instances/$f/console | cut -d: -f2 | "
                 "while read -r t; do (( t <= now && t > now - 600 )) || exit 1; done || exit 1; "
                 "done",
                 0);
    assert_string_equal(identity(h, "f1", "m", "id"), "f1");
    assert_string_equal(identity(h, "f1", "a", "id"), "f1");
    assert_hex(identity(h, "f1", "m", "generation"), 32);
    assert_hex(identity(h, "f1", "m", "seed"), 64);
    assert_string_equal(identity(h, "f1", "m", "seed"), identity(h, "f1", "a", "seed"));
    assert_string_equal(identity(h, "f1", "m", "generation"), identity(h, "f1", "a", "generation"));
    assert_string_not_equal(identity(h, "f1", "m", "seed"), identity(h, "f2", "m", "seed"));
    assert_string_not_equal(identity(h, "f1", "m", "generation"),
                            identity(h, "f2", "m", "generation"));
    assert_shell("bash", "! grep -rqE 'seed|generation' $S/instances/*/fork.json", 0);
    fake_drop(h, "f1");
    fake_drop(h, "f2");
}

static void identity_that_does_not_fit_fails_before_any_work(void **state)
{
    struct harness *h = *state;
    harness_put(draft(h, "new", "options"), "{\"identity\":true}");
    harness_put(draft(h, "new", "mailboxes/m"), "{\"fork\":{}}");
    assert_errno(harness_write(draft(h, "new", "commit"), "f1"), EINVAL);
    assert_file_contains(draft(h, "new", "error"),
                         "mailbox \"m\": the payload has a member \"fork\"");
    assert_string_equal(result(h, "new", "error.phase"), "validate");
    assert_string_equal(result(h, "new", "error.mailbox"), "m");
    harness_put(draft(h, "new", "options"), "{\"identity\":true}");
    assert_shell("bash", "printf '{\"x\":\"%3700s\"}' '' > snapshots/base/forks/new/mailboxes/m",
                 0);
    assert_errno(harness_write(draft(h, "new", "commit"), "f1"), EFBIG);
    assert_file_contains(draft(h, "new", "error"), "are needed for \"fork\"");
    assert_no_instance(h);
}

static char *payload_of(struct harness *h, int size)
{
    return harness_format(h, "{\"x\":\"%*s\"}", size - 8, "");
}

/* What is set aside for it is what it takes with the longest id: 229 bytes of 3832. */
static void identity_that_just_fits_is_delivered(void **state)
{
    enum { ROOM = 3832 - 229 };
    struct harness *h = *state;
    char *id = harness_format(h, "a%062d", 0);
    harness_put(draft(h, "new", "options"), "{\"identity\":true}");
    harness_put(draft(h, "new", "mailboxes/m"), payload_of(h, ROOM + 1));
    assert_errno(harness_write(draft(h, "new", "commit"), id), EFBIG);
    assert_no_instance(h);
    harness_put(draft(h, "new", "options"), "{\"identity\":true}");
    harness_put(draft(h, "new", "mailboxes/m"), payload_of(h, ROOM));
    harness_put(draft(h, "new", "commit"), id);
    assert_string_equal(result(h, id, "mailboxes.0.payload_bytes"), "3832");
    assert_string_equal(identity(h, id, "m", "id"), id);
    fake_drop(h, id);
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

int main(void)
{
    setenv("HYPEFS_TEST_TIMING", "look:100", 1);
    harness_enter();
    const struct CMUnitTest tests[] = {
        test(consumed_payload_is_an_ack),
        test(ack_before_the_resume_is_answered_takes_time_all_the_same),
        test(refusal_in_the_frame_fails_the_commit),
        test(payload_that_nobody_takes_times_out),
        test(pages_that_the_guest_reuses_are_no_ack),
        test(console_of_a_fork_that_is_waited_for_is_kept_short),
        test(payload_without_ack_is_looked_at_too),
        test(identity_is_the_last_member_of_each_payload),
        test(identity_that_does_not_fit_fails_before_any_work),
        test(identity_that_just_fits_is_delivered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
