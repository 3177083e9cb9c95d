/* SPDX-License-Identifier: MIT */
/* Payloads, tokens and seeds leave no trace in the daemon's memory when they are dropped: all
 * that it can write to is searched for them. */
#include "fixture.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake.h"
#include "util/cleanup.h"

enum { PIECE = 1 << 20 };

/* The secrets begin with sixteen bytes that are none: a sanitizer puts marks of its own there when
 * memory is freed. */

/* Sanitizers reserve terabytes, in which no text is. */
#define MAPPING_MAX (UINT64_C(1) << 32)

static char *draft(struct harness *h, const char *fork, const char *file)
{
    return harness_path(h, "snapshots/base/forks/%s/%s", fork, file);
}

/* How often the text is in that range, pages that were never there left out. */
static unsigned count_in(int memory_fd, uint64_t start, uint64_t end, const char *text)
{
    size_t size = strlen(text);
    auto_free char *bytes = malloc(PIECE + size);
    unsigned count = 0;
    assert_non_null(bytes);
    for (uint64_t at = start; at < end; at += PIECE) {
        ssize_t n = pread(memory_fd, bytes, PIECE + size - 1, (off_t)at);
        for (char *found = bytes; n > 0; found++, count++) {
            size_t left = (size_t)(bytes + n - found);
            found = memmem(found, left, text, size);
            if (!found)
                break;
        }
    }
    return count;
}

/* In all of the daemon's writable memory. */
static unsigned count_in_daemon(struct harness *h, const char *text)
{
    char path[64], line[512], flags[8];
    uint64_t start, end;
    unsigned count = 0, mappings = 0;
    snprintf(path, sizeof path, "/proc/%d/mem", (int)h->daemon);
    auto_close int memory_fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_works(memory_fd);
    snprintf(path, sizeof path, "/proc/%d/maps", (int)h->daemon);
    auto_fclose FILE *maps = fopen(path, "re");
    assert_non_null(maps);
    while (fgets(line, sizeof line, maps)) {
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s", &start, &end, flags) != 3 ||
            strncmp(flags, "rw", 2) != 0 || end - start > MAPPING_MAX)
            continue;
        mappings++;
        count += count_in(memory_fd, start, end, text);
    }
    assert_true(mappings > 3);
    return count;
}

struct search {
    struct harness *h;
    const char *text;
};

static bool is_forgotten(void *argument)
{
    const struct search *search = argument;
    return count_in_daemon(search->h, search->text) == 0;
}

/* The kernel tells of a close in its own time, and an open file has its text until then. */
#define assert_forgotten(...) check_forgotten(h, (const char *const[]){__VA_ARGS__, NULL})
static void check_forgotten(struct harness *h, const char *const *texts)
{
    for (; *texts; texts++) {
        struct search search = {.h = h, .text = *texts};
        harness_await_that(is_forgotten, &search,
                           harness_format(h, "the daemon has forgotten \"%s\"", *texts));
    }
}

static int setup(void **state)
{
    int r = harness_setup(state);
    if (r == 0) {
        struct harness *h = *state;
        fake_mount(h);
        fake_publish(h, "mailboxes=m,a network declared", "");
    }
    return r;
}

static void stage(struct harness *h, const char *fork)
{
    harness_put(draft(h, fork, "mailboxes/m"), "{\"payload\":{\"sixteen-bytes-or-more-s3cr3t-1\":1}"
                                               ",\"token\":\"token-m\",\"wait_for_ack\":true,"
                                               "\"ack\":\"memory\",\"ack_timeout_ms\":30000}");
    harness_put(draft(h, fork, "mailboxes/a"), "{\"payload\":{\"sixteen-bytes-or-more-s3cr3t-2\":1}"
                                               ",\"wait_for_ack\":true,\"ack\":\"memory\","
                                               "\"ack_timeout_ms\":30000}");
    harness_put(draft(h, fork, "network"),
                "{\"interface_name\":\"eth0\",\"mac\":\"02:00:00:5e:c3:e7\",\"ipv4\":\"10.0.0.7\","
                "\"prefix\":24}");
    harness_put(draft(h, fork, "options"), "{\"identity\":true,\"wait_for_network\":false}");
}

/* The text between `before` and the next quote, in what the guest printed. */
static char *printed(struct harness *h, const char *id, const char *before)
{
    char *at = strstr(harness_get(h, fake_instance(h, id, "console")), before);
    assert_non_null(at);
    at += strlen(before);
    return harness_format(h, "%.*s", (int)strcspn(at, "\""), at);
}

static void commit_leaves_nothing_of_what_it_delivered(void **state)
{
    struct harness *h = *state;
    stage(h, "new");
    assert_true(count_in_daemon(h, "s3cr3t-1") > 0); /* it is there, and is found */
    harness_put(draft(h, "new", "commit"), "f1");
    char *seed = printed(h, "f1", "\"seed\":\"");
    assert_forgotten("s3cr3t-1", "s3cr3t-2", seed + 32, "02:00:00:5e:c3:e7\",\"ipv4");
    fake_drop(h, "f1");
}

static void reply_is_forgotten_with_its_fork(void **state)
{
    struct harness *h = *state;
    fake_tell(h, "FAKE_VMM_GUEST=reply "
                 "FAKE_VMM_REPLY='{\"sixteen-bytes-or-more-s3cr3t-5\":1}'");
    stage(h, "new");
    harness_put(draft(h, "new", "commit"), "f1");
    assert_shell("bash", "cat snapshots/base/forks/f1/{result,mailboxes/m}", 0);
    assert_true(count_in_daemon(h, "s3cr3t-5") > 0);
    fake_drop(h, "f1");
    /* Its text is in `result` of new until the next commit. */
    assert_errno(harness_write(draft(h, "new", "commit"), "f-1"), 0);
    fake_drop(h, "f-1");
    assert_forgotten("s3cr3t-5");
}

/* In whatever way it ends. */
static void delivery_to_a_vm_that_runs_leaves_nothing(void **state)
{
    static const char *const guests[] = {"ack", "refuse", "absent"};
    struct harness *h = *state;
    for (size_t i = 0; i < array_length(guests); i++) {
        fake_tell(h, harness_format(h, "FAKE_VMM_GUEST=%s", guests[i]));
        harness_put(draft(h, "new", "commit"), "f1");
        int code = harness_write(
            fake_instance(h, "f1", "mailboxes/m"),
            harness_format(h,
                           "{\"payload\":{\"sixteen-bytes-or-more-s3cr3t-4\":1},"
                           "\"token\":\"token-m\",\"wait_for_ack\":true,\"ack_timeout_ms\":%d}",
                           i == 2 ? 300 : 30000));
        assert_errno(code, i == 0 ? 0 : i == 1 ? EREMOTEIO : ETIMEDOUT);
        assert_forgotten("s3cr3t-4");
        assert_errno(harness_write(fake_instance(h, "f1", "mailboxes/m"),
                                   "{\"payload\":{\"sixteen-bytes-or-more-s3cr3t-5\":1}} x"),
                     EINVAL);
        assert_forgotten("s3cr3t-5");
        assert_shell("bash", "! grep -rqa 's3cr3t-[45]' $S/instances/f1/*.json $S/instances/f1/run",
                     0);
        fake_drop(h, "f1");
    }
    fake_tell(h, "FAKE_VMM_GUEST=ack");
}

static void commit_that_fails_leaves_nothing_when_its_draft_is_removed(void **state)
{
    struct harness *h = *state;
    assert_works(mkdir(draft(h, "f1", ""), 0755));
    stage(h, "f1");
    fake_tell(h, "FAKE_VMM_GUEST=refuse");
    assert_errno(harness_write(draft(h, "f1", "commit"), "1"), EREMOTEIO);
    assert_works(rmdir(draft(h, "f1", "")));
    assert_forgotten("s3cr3t-1", "s3cr3t-2", "02:00:00:5e:c3:e7\",\"ipv4");
}

/* A token that the snapshot does not have: what is in the snapshot is known as long as it is. */
static void draft_that_is_removed_leaves_nothing_of_its_tokens(void **state)
{
    struct harness *h = *state;
    assert_works(mkdir(draft(h, "f1", ""), 0755));
    harness_put(draft(h, "f1", "network"),
                "{\"interface_name\":\"eth0\",\"mac\":\"02:00:00:00:00:07\",\"ipv4\":\"10.0.0.7\","
                "\"prefix\":24,\"token\":\"sixteen-bytes-or-more-s3cr3t-3\"}");
    harness_put(draft(h, "f1", "mailboxes/m"),
                "{\"payload\":{},\"token\":\"sixteen-bytes-or-more-s3cr3t-4\"}");
    assert_errno(harness_write(draft(h, "f1", "commit"), "1"), EKEYREJECTED);
    assert_shell("bash", "cat snapshots/base/forks/f1/{network,mailboxes/m}", 0);
    int fd = open(draft(h, "f1", "network"), O_RDWR | O_CLOEXEC); /* the daemon may not forget it */
    assert_works(fd);
    assert_works(rmdir(draft(h, "f1", "")));
    assert_forgotten("s3cr3t-3", "s3cr3t-4");
    close(fd);
}

/* In pieces, too long, refused, of an editor, cut off, not finished. */
static void texts_that_are_not_taken_leave_nothing(void **state)
{
    struct harness *h = *state;
    assert_shell(
        "bash",
        "cd snapshots/base/forks/new/mailboxes\n"
        "printf "
        "'{\"payload\":{\"sixteen-bytes-or-more-s3cr3t-m\":1},\"token\":\"sixteen-bytes-or-more-"
        "s3cr3t-m\",}' > m\n"
        "{ printf '{\"sixteen-bytes-or-more-s3cr3t-a\":'; printf '[1,\\n'; printf '2]}'; } > a\n"
        "{ printf '{\"payload\":{},\"token\":\"sixteen-bytes-or-more-s3cr3t-b\"'; } > b\n"
        "{ printf '{\"sixteen-bytes-or-more-s3cr3t-c\":1'; head -c 20000 /dev/zero | tr '\\0' ' '; "
        "} > c\n"
        "printf sixteen-bytes-or-more-s3cr3t-s > .m.swp\n"
        "printf '{\"payload\":{},\"token\":\"sixteen-bytes-or-more-s3cr3t-d\",\"x\":1}' > d\n"
        "printf '{\"n\":\"sixteen-bytes-or-more-s3cr3t-e\"}' > e; truncate -s 3 e\n"
        "for i in a b c d e m .m.swp; do cat $i; done > $T/seen; rm -f ./* .m.swp",
        0);
    assert_forgotten("s3cr3t-a", "s3cr3t-b", "s3cr3t-c", "s3cr3t-d", "s3cr3t-e", "s3cr3t-m",
                     "s3cr3t-s");
}

static void snapshot_that_is_removed_leaves_nothing_of_its_drafts(void **state)
{
    struct harness *h = *state;
    stage(h, "new");
    assert_works(rmdir(harness_path(h, "snapshots/base")));
    assert_forgotten("s3cr3t-1", "s3cr3t-2");
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

int main(void)
{
    harness_enter();
    const struct CMUnitTest tests[] = {
        test(commit_leaves_nothing_of_what_it_delivered),
        test(delivery_to_a_vm_that_runs_leaves_nothing),
        test(commit_that_fails_leaves_nothing_when_its_draft_is_removed),
        test(reply_is_forgotten_with_its_fork),
        test(draft_that_is_removed_leaves_nothing_of_its_tokens),
        test(texts_that_are_not_taken_leave_nothing),
        test(snapshot_that_is_removed_leaves_nothing_of_its_drafts),
    };
    return cmocka_run_group_tests_name("secrets", tests, NULL, NULL);
}
