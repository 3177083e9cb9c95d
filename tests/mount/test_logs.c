/* SPDX-License-Identifier: MIT */
/*
 * The logs of an instance are kept short while others append to them. The guests are tiny and
 * silent; what a VMM would write at full speed is appended by the tests, as QEMU does it.
 */
#include "fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake.h"
#include "tiny_guest.h"
#include "util/cleanup.h"

enum { MAX = 65536, LINE = 64, LINES = 3 * MAX / LINE };

static char *file(struct harness *h, const char *name)
{
    return harness_path(h, "instances/x/%s", name);
}

static off_t size_of(const char *path)
{
    struct stat st;
    assert_works(stat(path, &st));
    return st.st_size;
}

static void boot(struct harness *h, const char *more)
{
    char *config = tiny_guest_config(h, (const char *const[]){"m", NULL});
    config[strrchr(config, '}') - config] = 0;
    assert_works(mkdir(file(h, ""), 0755));
    harness_put(file(h, "config"), harness_format(h, "%s%s}", config, more));
    harness_put(file(h, "state"), "running");
    harness_await(h, file(h, "console"), "ready\n");
}

/* Numbered lines. */
static void append(struct harness *h, const char *log, int lines)
{
    char line[LINE + 1];
    auto_close int fd =
        open(harness_store_path(h, "instances/x/%s", log), O_WRONLY | O_APPEND | O_CLOEXEC);
    for (int i = 0; i < lines; i++) {
        snprintf(line, sizeof line, "%063d\n", i);
        assert_int_equal(write(fd, line, LINE), LINE);
    }
}

static bool is_short(void *argument)
{
    struct stat st;
    return stat(argument, &st) == 0 && st.st_size <= MAX;
}

static int setup(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    harness_mount(*state, NULL);
    return 0;
}

static void log_that_grew_keeps_its_newest_half_behind_a_line_that_says_so(void **state)
{
    static const struct {
        const char *log, *shown;
    } logs[] = {{"console.log", "console"}, {"vmm.log", "vmm.log"}};
    struct harness *h = *state;
    boot(h, ",\"console_max_bytes\":65536");
    struct harness_child events =
        harness_start_shell(h, "bash", "exec grep -m 2 log-shortened events");
    harness_await_blocked(h, events.pid);
    for (size_t i = 0; i < array_length(logs); i++) {
        const char *path = file(h, logs[i].shown);
        append(h, logs[i].log, LINES);
        harness_await_that(is_short, (void *)(uintptr_t)path, "a short log");
        const char *text = harness_get(h, path);
        assert_int_equal((off_t)strlen(text), size_of(path));
        assert_true(strlen(text) >= MAX / 2 - LINE);
        assert_int_equal(strncmp(text, "[hypefs: ", 9), 0);
        assert_contains(text, "bytes of output before this line are gone: at most 65536 are kept");
        assert_contains(text, harness_format(h, "%063d\n", LINES - 1));
        assert_null(strstr(text, harness_format(h, "%063d\n", 0)));
    }
    struct harness_result told = harness_finish(h, &events);
    assert_contains(told.out, "\"instance\":\"x\",\"file\":\"console\"");
    assert_contains(told.out, "\"instance\":\"x\",\"file\":\"vmm.log\"");
    assert_string_equal(harness_get(h, file(h, "state")), "running\n");
}

/* What it was asked, and refused, is in its log. */
static void have_firecracker_log(struct harness *h, const char *word)
{
    assert_shell(
        "bash",
        harness_format(h,
                       "cd $S/instances/x/run && python3 -c 'import socket; "
                       "s = socket.socket(socket.AF_UNIX); s.connect(\"vmm.sock\"); "
                       "s.send(b\"PUT /%s HTTP/1.1\\r\\nContent-Length: 2\\r\\n\\r\\n{}\"); "
                       "s.recv(100)'",
                       word),
        0);
    harness_await(h, file(h, "vmm.log"), "Received Error");
}

/* It opens its log without O_APPEND. */
static void log_of_firecracker_when_cut_goes_on_at_its_end(void **state)
{
    struct harness *h = *state;
    const char *path = file(h, "vmm.log");
    assert_int_equal(harness_unmount(h), 0);
    fake_mount(h);
    fake_make(h, "x", "", ",\"console_max_bytes\":65536");
    harness_put(file(h, "state"), "running");
    have_firecracker_log(h, "first");
    append(h, "vmm.log", LINES);
    harness_await_that(is_short, (void *)(uintptr_t)path, "a short log");
    assert_null(strstr(harness_get(h, path), "Received Error"));
    have_firecracker_log(h, "second");
    const char *text = harness_get(h, path);
    assert_int_equal((off_t)strlen(text), size_of(path)); /* no zeros in it */
    assert_int_equal(strncmp(text, "[hypefs: ", 9), 0);
    assert_true(strstr(text, "Received Error") >
                strstr(text, harness_format(h, "%063d\n", LINES - 1)));
    fake_drop(h, "x");
}

/* tail says that it was cut, and goes on with what is there. */
static void tail_of_a_console_that_is_cut_goes_on(void **state)
{
    enum { BEFORE = MAX / LINE - 50 };
    struct harness *h = *state;
    boot(h, ",\"console_max_bytes\":65536");
    const char *heard = harness_format(h, "%s/heard", h->directory);
    harness_put(heard, "");
    struct harness_child tail = harness_start_shell(
        h, "bash", "exec timeout 60 tail -n +1 -f instances/x/console > $T/heard 2> $T/said");
    append(h, "console.log", BEFORE);
    harness_await(h, heard, harness_format(h, "%063d\n", BEFORE - 1));
    append(h, "console.log", 100);
    harness_await(h, heard, "[hypefs: ");
    assert_file_contains(harness_format(h, "%s/said", h->directory), "file truncated");
    assert_works(kill(tail.pid, SIGTERM));
    harness_finish(h, &tail);
    assert_true(is_short(file(h, "console")));
}

static void zero_written_to_console_empties_it(void **state)
{
    struct harness *h = *state;
    const char *console = file(h, "console");
    boot(h, "");
    assert_errno(harness_write(console, "1"), EINVAL);
    assert_file_contains(file(h, "error"), "console takes only a 0");
    assert_shell("bash", ": > instances/x/console", 0); /* no command */
    assert_string_equal(harness_get(h, console), "ready\n");
    assert_shell("bash", "echo 0 > instances/x/console", 0);
    assert_int_equal(size_of(console), 0);
    assert_string_equal(harness_get(h, file(h, "error")), "");
    assert_errno(harness_write(file(h, "vmm.log"), "0"), EACCES);
    /* The VMM goes on behind that. */
    harness_put(file(h, "state"), "stopped");
    harness_put(file(h, "state"), "running");
    harness_await(h, console, "ready\n");
    assert_string_equal(harness_get(h, console), "ready\n");
}

static void bound_is_the_sources_unless_options_say_another(void **state)
{
    static const char *const bad[] = {"65535", "0", "-1", "1099511627777", "\"1\"", "1.5"};
    struct harness *h = *state;
    boot(h, ",\"console_max_bytes\":70000");
    assert_file_contains(file(h, "config"), "70000");
    harness_put(file(h, "state"), "standby");
    harness_put(file(h, "snapshot"), "s");
    const char *new = harness_path(h, "snapshots/s/forks/new");
    for (size_t i = 0; i < array_length(bad); i++)
        assert_errno(harness_write(harness_format(h, "%s/options", new),
                                   harness_format(h, "{\"console_max_bytes\":%s}", bad[i])),
                     EINVAL);
    assert_file_contains(harness_format(h, "%s/error", new), "console_max_bytes");
    harness_put(harness_format(h, "%s/options", new), "{}");
    harness_put(harness_format(h, "%s/commit", new), "one");
    harness_put(harness_format(h, "%s/options", new), "{\"console_max_bytes\":80000}");
    harness_put(harness_format(h, "%s/commit", new), "two");
    const char *one = harness_get(h, harness_path(h, "instances/one/config"));
    const char *two = harness_get(h, harness_path(h, "instances/two/config"));
    assert_string_equal(harness_json(h, one, "console_max_bytes"), "70000");
    assert_string_equal(harness_json(h, two, "console_max_bytes"), "80000");
    assert_works(mkdir(harness_path(h, "instances/plain"), 0755));
    const char *plain = harness_get(h, harness_path(h, "instances/plain/config"));
    assert_string_equal(harness_json(h, plain, "console_max_bytes"), "16777216");
}

#define log_test(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        log_test(log_that_grew_keeps_its_newest_half_behind_a_line_that_says_so),
        log_test(log_of_firecracker_when_cut_goes_on_at_its_end),
        log_test(tail_of_a_console_that_is_cut_goes_on),
        log_test(zero_written_to_console_empties_it),
        log_test(bound_is_the_sources_unless_options_say_another),
    };
    setenv("HYPEFS_TEST_TIMING", "look:100", 1);
    harness_enter();
    if (!tiny_guest_possible())
        return HARNESS_SKIPPED;
    return cmocka_run_group_tests_name("logs", tests, NULL, NULL);
}
