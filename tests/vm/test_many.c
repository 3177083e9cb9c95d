/* SPDX-License-Identifier: MIT */
/* Ten forks at the same time, and the mount meanwhile. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/process.h"
#include "vm/vm.h"

enum { FORKS = 10, STAT_EVERY_MS = 10 };

static const char box[] = "first.v1";

static int make_template(void **state)
{
    return vm_make_template(state, "microvm", "hypefs.mailboxes=first.v1");
}

/* Looks at a file of the mount again and again until it is told to stop. */
struct looker {
    pthread_t thread;
    const char *path;
    atomic_bool stop;
    size_t count, failures;
    double longest_ms;
};

static void *look(void *argument)
{
    struct looker *looker = argument;
    auto_close int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    const struct timespec every = {.tv_nsec = STAT_EVERY_MS * 1000000L};
    uint64_t ticks;
    timerfd_settime(timer, 0, &(struct itimerspec){every, every}, NULL);
    while (!looker->stop && read(timer, &ticks, sizeof ticks) == sizeof ticks) {
        struct stat st;
        double begun = process_now_ms();
        looker->failures += stat(looker->path, &st) < 0;
        double took = process_now_ms() - begun;
        if (took > looker->longest_ms)
            looker->longest_ms = took;
        looker->count++;
    }
    return NULL;
}

static struct looker *start_looking(struct harness *h)
{
    struct looker *looker = harness_alloc(h, sizeof *looker);
    looker->path = harness_path(h, "snapshots/base/info");
    assert_int_equal(pthread_create(&looker->thread, NULL, look, looker), 0);
    return looker;
}

static void stop_looking(struct looker *looker)
{
    looker->stop = true;
    pthread_join(looker->thread, NULL);
    assert_int_equal(looker->failures, 0);
}

static const char *id_of(struct harness *h, size_t i)
{
    return harness_format(h, "web-%zu", i);
}

static void stage_all(struct harness *h, const char *format)
{
    for (size_t i = 0; i < FORKS; i++) {
        assert_int_equal(mkdir(harness_path(h, "snapshots/base/forks/%s", id_of(h, i)), 0755), 0);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        vm_stage(h, id_of(h, i), box, harness_format(h, format, i));
#pragma GCC diagnostic pop
    }
}

static void assert_has_only_its_own(struct harness *h, size_t i)
{
    char *console = harness_await(h, vm_console(h, id_of(h, i)), "first.v1 is armed again");
    char *payload = strstr(console, "payload=");
    assert_non_null(payload);
    assert_non_null(strstr(payload, harness_format(h, "\"name\":\"clone %zu\"", i)));
    assert_null(strstr(payload + 1, "payload="));
}

/* No look at the tree takes as long as the quickest commit: none has waited for one. */
static void forks_when_ten_are_made_at_once_each_get_their_own(void **state)
{
    struct harness *h = *state;
    struct vm_pending *commits[FORKS];
    const char *ids[FORKS + 1] = {NULL};
    double quickest_ms = 1e9;
    char *before = vm_checksum(h);
    stage_all(h, VM_REQUEST("ack", ",\"name\":\"clone %zu\""));
    struct looker *looker = start_looking(h);
    for (size_t i = 0; i < FORKS; i++)
        commits[i] = vm_start_commit(h, id_of(h, i), "1");
    for (size_t i = 0; i < FORKS; i++)
        assert_int_equal(vm_finish_commit(commits[i]), 0);
    stop_looking(looker);
    for (size_t i = 0; i < FORKS; i++) {
        ids[i] = id_of(h, i);
        char *result = harness_get(h, vm_draft(h, ids[i], "result"));
        assert_string_equal(harness_json(h, result, "status"), "committed");
        assert_string_equal(harness_json(h, result, "mailboxes.0.acked"), "true");
        double total_ms = strtod(harness_json(h, result, "timings_ms.total"), NULL);
        if (total_ms < quickest_ms)
            quickest_ms = total_ms;
        assert_has_only_its_own(h, i);
    }
    print_message("%zu looks, the longest of %.1f ms; the quickest commit took %.1f ms\n",
                  looker->count, looker->longest_ms, quickest_ms);
    assert_true(looker->count > 0);
    assert_true(looker->longest_ms < quickest_ms);
    vm_assert_running(h, ids);
    assert_string_equal(vm_checksum(h), before);
}

static bool all_wait(void *argument)
{
    struct harness *h = argument;
    for (size_t i = 0; i < FORKS; i++) {
        const char *id = id_of(h, i);
        if (strcmp(harness_get(h, vm_draft(h, id, "status")), "committing\n") != 0)
            return false;
    }
    return true;
}

/* More commits wait than libfuse has threads by default, and the tree answers all the same. */
static void mount_when_ten_commits_wait_answers_takes_another_and_can_end(void **state)
{
    struct harness *h = *state;
    struct vm_pending *commits[FORKS];
    stage_all(h, VM_REQUEST("silent", ",\"n\":%zu"));
    for (size_t i = 0; i < FORKS; i++)
        commits[i] = vm_start_commit(h, id_of(h, i), "1");
    harness_await_that(all_wait, h, "all commits wait");
    vm_commit(h, "new", "plain");
    assert_string_equal(harness_get(h, harness_path(h, "instances/plain/state")), "running\n");
    for (size_t i = 0; i < FORKS; i++)
        assert_false(vm_is_done(commits[i]));
    assert_int_equal(harness_unmount(h), 0);
    for (size_t i = 0; i < FORKS; i++)
        assert_int_equal(vm_finish_commit(commits[i]), ESHUTDOWN);
    harness_mount(h, NULL);
    vm_assert_running(h, (const char *const[]){"plain", NULL});
}

#define test(name) cmocka_unit_test_setup_teardown(name, vm_setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(forks_when_ten_are_made_at_once_each_get_their_own),
        test(mount_when_ten_commits_wait_answers_takes_another_and_can_end),
    };
    vm_enter();
    return cmocka_run_group_tests_name("many", tests, make_template, harness_teardown);
}
