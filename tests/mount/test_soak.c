/* SPDX-License-Identifier: MIT */
/*
 * Many users at once: processes that stage, commit, pause, save, fork again, stop and remove, while
 * others list and read all there is. The VMMs are tests/fake_firecracker, which is not Firecracker.
 * No call may fail that the rules do not let fail, nothing may hang, and when all have left the
 * daemon must have no more descriptors, threads, processes or memory than before.
 *
 * HYPEFS_SOAK says how many times as much is done (run.sh --soak).
 */
#include "fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/cleanup.h"

enum { USERS = 50, WATCHERS = 3, PATH_SIZE = 512 };

/* A sanitizer's own memory grows with what it has seen. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { GROWTH_KIB = 1024 * 1024 };
#else
enum { GROWTH_KIB = 8192 };
#endif

static const char template_config[] =
    "{\"hypervisor\":\"firecracker\",\"kernel\":\"/etc/passwd\",\"memory_mib\":8,"
    "\"cmdline\":\"mailboxes=m\"}";

static char *fake_firecracker(struct harness *h)
{
    const char *fake = getenv("FAKE_FIRECRACKER");
    assert_non_null(fake);
    return fixture_script(
        h, "firecracker",
        harness_format(h, "#!/bin/sh\nexport FAKE_VMM_GUEST=ack\nexec '%s' \"$@\"\n", fake));
}

static int setup(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    struct harness *h = *state;
    harness_mount(h, (const char *const[]){"--firecracker", fake_firecracker(h), NULL});
    assert_works(mkdir(harness_path(h, "instances/base"), 0755));
    harness_put(harness_path(h, "instances/base/config"), template_config);
    harness_put(harness_path(h, "instances/base/state"), "running");
    harness_await(h, harness_path(h, "instances/base/console"), "ready");
    harness_put(harness_path(h, "instances/base/state"), "standby");
    harness_put(harness_path(h, "instances/base/snapshot"), "base");
    assert_works(rmdir(harness_path(h, "instances/base")));
    return 0;
}

/* ---- what one user does; in a process of its own, where nothing of cmocka may be used ---- */

struct user {
    const char *mount;
    int number;
};

__attribute__((noreturn, format(printf, 2, 3))) static void give_up(int code, const char *format,
                                                                    ...)
{
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, ": %s\n", code ? strerrordesc_np(code) : "not as it should be");
    _exit(1);
}

__attribute__((format(printf, 3, 0))) static void
path_of(const struct user *user, char ret[PATH_SIZE], const char *format, va_list args)
{
    int size = snprintf(ret, PATH_SIZE, "%s/", user->mount);
    vsnprintf(ret + size, PATH_SIZE - (size_t)size, format, args);
}

/* What the file "error" beside that one says. */
static void tell_error(const char *path)
{
    char beside[PATH_SIZE + 8], text[1024] = "";
    const char *slash = strrchr(path, '/');
    snprintf(beside, sizeof beside, "%.*s/error", (int)(slash - path), path);
    auto_close int fd = open(beside, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && read(fd, text, sizeof text - 1) > 0)
        fputs(text, stderr);
}

/* Writes, and must succeed. */
__attribute__((format(printf, 3, 4))) static void put(const struct user *user, const char *text,
                                                      const char *format, ...)
{
    char path[PATH_SIZE];
    va_list args;
    va_start(args, format);
    path_of(user, path, format, args);
    va_end(args);
    struct harness_steps steps =
        harness_write_steps(path, O_WRONLY | O_TRUNC | O_CREAT, text, strlen(text));
    if (!steps.open && !steps.write && !steps.close)
        return;
    tell_error(path);
    give_up(steps.open ? steps.open : steps.write ? steps.write : steps.close, "writing %s to %s",
            text, path);
}

__attribute__((format(printf, 3, 4))) static void expect(const struct user *user, const char *text,
                                                         const char *format, ...)
{
    char path[PATH_SIZE], found[64] = "";
    va_list args;
    va_start(args, format);
    path_of(user, path, format, args);
    va_end(args);
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, found, sizeof found - 1) < 0)
        give_up(errno, "reading %s", path);
    if (strcmp(found, text) != 0)
        give_up(0, "%s is %s", path, found);
}

__attribute__((format(printf, 3, 4))) static void
change(const struct user *user, int (*call)(const char *path), const char *format, ...)
{
    char path[PATH_SIZE];
    va_list args;
    va_start(args, format);
    path_of(user, path, format, args);
    va_end(args);
    if (call(path) < 0)
        give_up(errno, "%s", path);
}

static int make(const char *path)
{
    return mkdir(path, 0755);
}

static void stage_and_commit(const struct user *user, const char *source, const char *id)
{
    static const char request[] = "{\"payload\":{\"n\":1},\"wait_for_ack\":true,"
                                  "\"ack_timeout_ms\":30000}";
    change(user, make, "%s/forks/%s", source, id);
    put(user, request, "%s/forks/%s/mailboxes/m", source, id);
    put(user, "1", "%s/forks/%s/commit", source, id);
    expect(user, "committed\n", "%s/forks/%s/status", source, id);
    expect(user, "running\n", "instances/%s/state", id);
}

/* As another machine: a fork has none to boot until its config has a kernel. */
static void restart(const struct user *user, const char *id)
{
    put(user, "stopped", "instances/%s/state", id);
    put(user, template_config, "instances/%s/config", id);
    put(user, "running", "instances/%s/state", id);
    expect(user, "running\n", "instances/%s/state", id);
}

static void stop_and_remove(const struct user *user, const char *id)
{
    put(user, "stopped", "instances/%s/state", id);
    change(user, rmdir, "instances/%s", id);
}

/* A fork of the snapshot that all use; one of that fork, which goes on; one of a snapshot of it. */
static void use(const struct user *user)
{
    char a[32], b[32], c[32], snapshot[32], source[64];
    snprintf(a, sizeof a, "a-%d", user->number);
    snprintf(b, sizeof b, "b-%d", user->number);
    snprintf(c, sizeof c, "c-%d", user->number);
    snprintf(snapshot, sizeof snapshot, "s-%d", user->number);
    stage_and_commit(user, "snapshots/base", a);
    put(user, "paused", "instances/%s/state", a);
    put(user, "running", "instances/%s/state", a);
    put(user, "standby", "instances/%s/state", a);
    snprintf(source, sizeof source, "instances/%s", a);
    stage_and_commit(user, source, b);
    put(user, "running", "instances/%s/state", a);
    put(user, snapshot, "instances/%s/snapshot", b);
    snprintf(source, sizeof source, "snapshots/%s", snapshot);
    stage_and_commit(user, source, c);
    restart(user, c);
    stop_and_remove(user, c);
    change(user, rmdir, "snapshots/%s", snapshot);
    stop_and_remove(user, b);
    stop_and_remove(user, a);
}

/* What others do meanwhile. Things go while they are looked at: that is no failure. */
static void watch(const struct user *user)
{
    static const char script[] = "cd \"$0\" && while :; do ls -lR >/dev/null 2>&1; "
                                 "cat instances/*/info snapshots/*/info snapshots/*/mailboxes/* "
                                 ">/dev/null 2>&1; done";
    execlp("sh", "sh", "-c", script, user->mount, NULL);
    _exit(127);
}

/* ---- all of them ---- */

static pid_t start(const struct user *user, void (*run)(const struct user *user))
{
    pid_t pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        run(user);
        _exit(0);
    }
    assert_true(pid > 0);
    setpgid(pid, pid);
    return pid;
}

static void crowd(struct harness *h)
{
    pid_t users[USERS], watchers[WATCHERS];
    int failed = 0, status;
    struct user user = {.mount = h->mount};
    for (size_t i = 0; i < WATCHERS; i++)
        watchers[i] = start(&user, watch);
    for (user.number = 0; user.number < USERS; user.number++)
        users[user.number] = start(&user, use);
    for (size_t i = 0; i < USERS; i++) {
        assert_int_equal(waitpid(users[i], &status, 0), users[i]);
        failed += status != 0;
    }
    for (size_t i = 0; i < WATCHERS; i++) {
        kill(-watchers[i], SIGKILL);
        assert_int_equal(waitpid(watchers[i], &status, 0), watchers[i]);
    }
    assert_int_equal(failed, 0);
}

struct use {
    size_t descriptors, kib;
};

static size_t count_entries(const char *path)
{
    auto_closedir DIR *directory = opendir(path);
    size_t count = 0;
    assert_non_null(directory);
    while (readdir(directory))
        count++;
    return count;
}

static struct use look(struct harness *h)
{
    const char *status = harness_get(h, harness_format(h, "/proc/%d/status", h->daemon));
    const char *rss = strstr(status, "RssAnon:");
    assert_non_null(rss);
    return (struct use){.descriptors = count_entries(harness_format(h, "/proc/%d/fd", h->daemon)),
                        .kib = strtoul(rss + strlen("RssAnon:"), NULL, 10)};
}

/* Threads of jobs end a moment after their answers. What stays are libfuse's ten, ten of ours at
 * most, the sanitizer's, and "." and "..". */
static bool is_quiet(void *argument)
{
    enum { AT_REST = 23 };
    struct harness *h = argument;
    return count_entries(harness_format(h, "/proc/%d/task", h->daemon)) <= AT_REST;
}

static struct use settle(struct harness *h)
{
    harness_await_that(is_quiet, h, "the daemon to be idle");
    assert_no_instance(h);
    return look(h);
}

struct limit {
    struct harness *h;
    size_t descriptors;
};

/* The kernel closes files after the answer. */
static bool has_released(void *argument)
{
    const struct limit *limit = argument;
    return look(limit->h).descriptors <= limit->descriptors;
}

/* The first crowd fills pools and caches: what the later ones need more is lost, but for what the
 * allocator needs to get to rest (4 MiB in ten crowds, and then no more). */
static void crowd_when_it_has_left_leaves_nothing(void **state)
{
    struct harness *h = *state;
    const char *many = getenv("HYPEFS_SOAK");
    int times = many ? atoi(many) : 1;
    const char *before = assert_shell("bash", "sha256sum < $S/snapshots/base/memory", 0).out;
    crowd(h);
    struct use first = settle(h);
    for (int i = 0; i < times; i++)
        crowd(h);
    struct use last = settle(h);
    struct limit limit = {h, first.descriptors};
    print_message("%zu descriptors and %zu KiB became %zu and %zu\n", first.descriptors, first.kib,
                  last.descriptors, last.kib);
    harness_await_that(has_released, &limit, "what is gone to be released");
    assert_true(last.kib <= first.kib + GROWTH_KIB);
    assert_string_equal(assert_shell("bash", "sha256sum < $S/snapshots/base/memory", 0).out,
                        before);
    assert_works(rmdir(harness_path(h, "snapshots/base")));
    harness_await_erased(h);
    assert_int_equal(count_entries(harness_store_path(h, "snapshots")), 2);
    assert_int_equal(count_entries(harness_store_path(h, "instances")), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(
        crowd_when_it_has_left_leaves_nothing, setup, harness_teardown)};
    harness_enter();
    return cmocka_run_group_tests_name("soak", tests, NULL, NULL);
}
