/* SPDX-License-Identifier: MIT */
/*
 * An image that has no list is scanned in the background; one that does not fit its list is not,
 * until somebody vouches for it (test_accept.c). To look at what happens meanwhile, reading the
 * image waits while there is a gate (slow_disk.c).
 */
#include "fixture.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"

static char *gate(struct harness *h)
{
    return harness_format(h, "%s/gate", h->directory);
}

static void hold(struct harness *h)
{
    harness_put(gate(h), "");
}

static void let_go(struct harness *h)
{
    assert_works(unlink(gate(h)));
}

/* The daemon's disk is slow. An ASan that is not linked statically wants to be the first. */
static int setup(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    struct harness *h = *state;
    setenv("HYPEFS_TEST_GATE", gate(h), 1);
    setenv("ASAN_OPTIONS", "verify_asan_link_order=0", 1);
    setenv("LD_PRELOAD", getenv("HYPEFS_SLOW_DISK"), 1);
    int r = fixture_fill(h);
    unsetenv("LD_PRELOAD");
    return r;
}

static int teardown(void **state)
{
    struct harness *h = *state;
    unlink(gate(h));
    return harness_teardown(state);
}

/* Another image without a list: as if somebody had made it by hand. */
static void touch_image_of(struct harness *h, const char *id)
{
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1700000000}};
    unlink(harness_store_path(h, "snapshots/%s/mailboxes.json", id));
    assert_works(utimensat(AT_FDCWD, harness_store_path(h, "snapshots/%s/memory", id), times, 0));
}

static void touch_image(struct harness *h)
{
    touch_image_of(h, "base");
}

static char *mailboxes_of_info(struct harness *h)
{
    return harness_json(h, harness_get(h, harness_path(h, "snapshots/base/info")), "mailboxes");
}

static void lookups_while_the_image_is_scanned_wait(void **state)
{
    struct harness *h = *state;
    static const char *const scripts[] = {"ls snapshots/base/mailboxes",
                                          "cat snapshots/base/mailboxes/m",
                                          "stat snapshots/base/mailboxes/none"};
    struct harness_child children[array_length(scripts)];
    hold(h);
    touch_image(h);
    for (size_t i = 0; i < array_length(scripts); i++)
        children[i] = harness_start_shell(h, "bash", scripts[i]);
    for (size_t i = 0; i < array_length(scripts); i++)
        harness_await_blocked(h, children[i].pid);
    assert_string_equal(mailboxes_of_info(h), "null");
    /* The rest of the mount answers. */
    assert_shell("bash", "ls -l snapshots/base && ls snapshots/base/forks/new && cat README", 0);
    harness_put(harness_path(h, "snapshots/base/forks/new/mailboxes/m"), "{}");
    for (size_t i = 0; i < array_length(scripts); i++)
        harness_await_blocked(h, children[i].pid);
    let_go(h);
    assert_string_equal(harness_finish(h, &children[0]).out, "a\nb\nm\n");
    assert_contains(harness_finish(h, &children[1]).out, "token-m");
    assert_contains(harness_finish(h, &children[2]).err, "No such file");
    assert_string_equal(mailboxes_of_info(h), "[\"m\",\"a\",\"b\"]");
}

static void lookup_that_waits_can_be_interrupted(void **state)
{
    struct harness *h = *state;
    hold(h);
    touch_image(h);
    struct harness_child list = harness_start_shell(h, "bash", "ls snapshots/base/mailboxes");
    struct harness_child look = harness_start_shell(h, "bash", "cat snapshots/base/mailboxes/m");
    harness_await_blocked(h, list.pid);
    harness_await_blocked(h, look.pid);
    assert_works(kill(-list.pid, SIGINT));
    assert_works(kill(-look.pid, SIGTERM));
    assert_int_equal(harness_finish(h, &list).status, 128 + SIGINT);
    assert_int_equal(harness_finish(h, &look).status, 128 + SIGTERM);
    assert_string_equal(mailboxes_of_info(h), "null");
    let_go(h);
    assert_shell("bash", "ls snapshots/base/mailboxes/m", 0);
}

static void read_of_a_mailbox_that_is_open_waits_for_the_scan(void **state)
{
    struct harness *h = *state;
    const char *before = harness_get(h, harness_path(h, "snapshots/base/mailboxes/m"));
    struct harness_child reader =
        harness_start_shell(h, "bash",
                            "exec 3< snapshots/base/mailboxes/m; echo > $T/open; while [ ! -e "
                            "$T/go ]; do read -t 0.02; "
                            "done < <(exec tail -f /dev/null); exec cat <&3");
    harness_await(h, harness_format(h, "%s/open", h->directory), "\n");
    hold(h);
    touch_image(h);
    harness_put(harness_format(h, "%s/go", h->directory), "");
    harness_await_blocked(h, reader.pid);
    let_go(h);
    assert_string_equal(harness_finish(h, &reader).out, before);
}

static void list_that_was_removed_is_made_again(void **state)
{
    struct harness *h = *state;
    assert_int_equal(harness_unmount(h), 0);
    assert_works(unlink(harness_store_path(h, "snapshots/base/mailboxes.json")));
    harness_mount(h, NULL);
    assert_string_equal(assert_shell("bash", "ls snapshots/base/mailboxes | tr '\\n' ' '", 0).out,
                        "a b m ");
    assert_works(access(harness_store_path(h, "snapshots/base/mailboxes.json"), F_OK));
}

static void list_that_is_damaged_is_made_again_by_accept(void **state)
{
    struct harness *h = *state;
    static const char *const scripts[] = {": > mailboxes.json", "echo '{}' > mailboxes.json",
                                          "sed -i 's/inode=/inode=9/' mailboxes.json",
                                          "rm mailboxes.json; mkfifo mailboxes.json"};
    harness_get(h, harness_path(h, "snapshots/base/mailboxes/m")); /* the first list */
    for (size_t i = 0; i < array_length(scripts); i++) {
        assert_int_equal(harness_unmount(h), 0);
        assert_shell("bash", harness_format(h, "cd $S/snapshots/base && %s", scripts[i]), 0);
        harness_mount(h, NULL);
        assert_errno(harness_read_errno(harness_path(h, "snapshots/base/mailboxes/m")), EIO);
        harness_put(harness_path(h, "snapshots/base/accept"), "1");
        assert_string_equal(
            harness_json(h, harness_get(h, harness_path(h, "snapshots/base/mailboxes/m")),
                         "markers.0.offset"),
            "4096");
    }
}

/* What the kept list says is looked up in the image again before it is used. */
static void marker_that_changed_behind_the_list_fails_the_commit(void **state)
{
    struct harness *h = *state;
    struct stat st;
    const char *memory = harness_store_path(h, "snapshots/base/memory");
    assert_works(stat(memory, &st));
    auto_close int fd = open(memory, O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "X", 1, 4096), 1);
    assert_works(futimens(fd, (const struct timespec[]){st.st_atim, st.st_mtim}));
    harness_put(harness_path(h, "snapshots/base/forks/new/mailboxes/m"), "{}");
    assert_errno(harness_write(harness_path(h, "snapshots/base/forks/new/commit"), "1"), EIO);
    assert_file_contains(harness_path(h, "snapshots/base/forks/new/error"), "changed");
}

/* What was waiting for the image ends at once, and nothing is left of the snapshot. */
static void snapshot_removed_while_it_is_scanned_is_gone_at_once(void **state)
{
    struct harness *h = *state;
    hold(h);
    touch_image(h);
    struct harness_child list = harness_start_shell(h, "bash", "ls snapshots/base/mailboxes");
    struct harness_child look = harness_start_shell(h, "bash", "cat snapshots/base/mailboxes/m");
    harness_await_blocked(h, list.pid);
    harness_await_blocked(h, look.pid);
    assert_shell("bash", "timeout 20 rmdir snapshots/base", 0);
    assert_contains(harness_finish(h, &list).err, "No such file or directory");
    assert_contains(harness_finish(h, &look).err, "No such");
    harness_await_erased(h);
    assert_string_equal(assert_shell("bash", "ls -A snapshots $S/snapshots | grep -v :", 0).out,
                        "\n");
    let_go(h);
    assert_int_equal(harness_unmount(h), 0);
    assert_string_equal(assert_shell("bash", "ls -A $S/snapshots", 0).out, "");
}

/* The kernel's word that it has forgotten them must not wait for the scans: libfuse believes a
 * thread that takes such a word to be free, and starts no other. */
static void snapshots_removed_while_they_are_scanned_stop_nobody(void **state)
{
    enum { SNAPSHOTS = 4 };
    static const struct harness_frame frame = {.offset = 4096, .name = "m", .token = "t"};
    struct harness *h = *state;
    assert_int_equal(harness_unmount(h), 0);
    for (int i = 0; i < SNAPSHOTS; i++)
        harness_craft(h, &(struct harness_snapshot){
                             .id = harness_format(h, "s%d", i), .frames = &frame, .count = 1});
    setenv("LD_PRELOAD", getenv("HYPEFS_SLOW_DISK"), 1);
    harness_mount(h, NULL);
    unsetenv("LD_PRELOAD");
    hold(h);
    for (int i = 0; i < SNAPSHOTS; i++) {
        const char *id = harness_format(h, "s%d", i);
        touch_image_of(h, id);
        assert_shell("bash", harness_format(h, "timeout 10 cat snapshots/%s/info", id), 0);
        assert_shell("bash", harness_format(h, "timeout 10 rmdir snapshots/%s", id), 0);
    }
    assert_shell("bash", "timeout 10 cat README", 0);
    harness_await_erased(h);
    assert_string_equal(assert_shell("bash", "ls -A $S/snapshots", 0).out, "base\n");
    let_go(h);
}

static void commit_while_the_image_is_scanned_waits(void **state)
{
    struct harness *h = *state;
    harness_put(harness_path(h, "snapshots/base/forks/new/mailboxes/none"), "{}");
    hold(h);
    touch_image(h);
    struct harness_child list = harness_start_shell(h, "bash", "ls snapshots/base/mailboxes");
    harness_await_blocked(h, list.pid);
    struct harness_child commit =
        harness_start_shell(h, "bash", "echo 1 > snapshots/base/forks/new/commit");
    harness_await_blocked(h, commit.pid);
    let_go(h);
    assert_contains(harness_finish(h, &commit).err, "No such file");
    assert_int_equal(harness_finish(h, &list).status, 0);
}

/* A commit that is made by a thread; the strings are the harness's. */
struct writer {
    pthread_t thread;
    const char *directory; /* of the draft */
    const char *commit;
    int code;
};

static void *write_commit(void *argument)
{
    struct writer *writer = argument;
    writer->code = harness_write(writer->commit, "1");
    return NULL;
}

static void make_draft(struct harness *h, int number, struct writer *ret)
{
    ret->directory = harness_path(h, "snapshots/base/forks/d%d", number);
    ret->commit = harness_format(h, "%s/commit", ret->directory);
    assert_works(mkdir(ret->directory, 0755));
    harness_put(harness_format(h, "%s/mailboxes/none", ret->directory), "{}");
}

static void start_writer(struct writer *writer)
{
    enum { STACK_SIZE = 65536 };
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    assert_int_equal(pthread_attr_setstacksize(&attributes, STACK_SIZE), 0);
    assert_int_equal(pthread_create(&writer->thread, &attributes, write_commit, writer), 0);
    pthread_attr_destroy(&attributes);
}

static void commit_while_1024_others_are_under_way_gives_eagain(void **state)
{
    enum { COMMITS_MAX = 1024 };
    static struct writer writers[COMMITS_MAX], more;
    struct harness *h = *state;
    for (int i = 0; i < COMMITS_MAX; i++)
        make_draft(h, i, &writers[i]);
    make_draft(h, COMMITS_MAX, &more);
    hold(h);
    touch_image(h);
    for (int i = 0; i < COMMITS_MAX; i++)
        start_writer(&writers[i]);
    for (int i = 0; i < COMMITS_MAX; i++)
        harness_await(h, harness_format(h, "%s/status", writers[i].directory), "committing");
    assert_errno(harness_write(more.commit, "1"), EAGAIN);
    assert_file_contains(harness_format(h, "%s/error", more.directory),
                         "1024 commits and deliveries are under way: try again later");
    assert_file_contains(harness_format(h, "%s/mailboxes/none", more.directory), "{}");
    let_go(h);
    for (int i = 0; i < COMMITS_MAX; i++) {
        pthread_join(writers[i].thread, NULL);
        assert_errno(writers[i].code, ENOENT);
    }
    assert_errno(harness_write(more.commit, "1"), ENOENT);
    assert_no_instance(h);
}

static void image_that_cannot_be_scanned_gives_eio(void **state)
{
    struct harness *h = *state;
    assert_shell("bash", "mv $S/snapshots/base/memory $T/memory", 0);
    assert_errno(harness_read_errno(harness_path(h, "snapshots/base/mailboxes/m")), EIO);
    struct harness_result result = assert_shell("bash", "ls snapshots/base/mailboxes", 2);
    assert_contains(result.err, "Input/output error");
    assert_string_equal(mailboxes_of_info(h), "null");
    assert_shell("bash", "mv $T/memory $S/snapshots/base/memory", 0);
    assert_shell("bash", "cat snapshots/base/mailboxes/m", 0);
}

#define slow_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        slow_test(lookups_while_the_image_is_scanned_wait),
        slow_test(lookup_that_waits_can_be_interrupted),
        slow_test(read_of_a_mailbox_that_is_open_waits_for_the_scan),
        mounted_test(list_that_was_removed_is_made_again),
        mounted_test(list_that_is_damaged_is_made_again_by_accept),
        mounted_test(marker_that_changed_behind_the_list_fails_the_commit),
        slow_test(snapshot_removed_while_it_is_scanned_is_gone_at_once),
        slow_test(snapshots_removed_while_they_are_scanned_stop_nobody),
        slow_test(commit_while_the_image_is_scanned_waits),
        slow_test(commit_while_1024_others_are_under_way_gives_eagain),
        mounted_test(image_that_cannot_be_scanned_gives_eio),
    };
    harness_enter();
    return cmocka_run_group_tests_name("rescan", tests, NULL, NULL);
}
