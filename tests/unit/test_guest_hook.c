/* SPDX-License-Identifier: MIT */
/* The agent's hook: what it is started with, and what is kept of what it says. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/hook.h"
#include "test.h"

enum { DEADLINE_MS = 20000, PAYLOAD_MAX = 3832 };

struct fixture {
    char folder[64], hook[96];
    struct signals signals;
    sigset_t mask;
    char *said; /* what the last hook_run() passed on; owned */
    size_t said_size;
    struct hook_result result;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    assert_non_null(f);
    *state = f;
    snprintf(f->folder, sizeof f->folder, "/tmp/test_guest_hook.XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    snprintf(f->hook, sizeof f->hook, "%s/hook", f->folder);
    sigprocmask(SIG_SETMASK, NULL, &f->mask);
    return signals_open(&f->signals);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    signals_handle(&f->signals);
    close(f->signals.fd);
    sigprocmask(SIG_SETMASK, &f->mask, NULL);
    unlink(f->hook);
    rmdir(f->folder);
    free(f->said);
    free(f);
    return 0;
}

/* Runs `program` with our stdout going to f->said. */
static void run_program(struct fixture *f, const char *program, const char *payload, size_t size)
{
    int console = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0),
        memory = memfd_create("said", MFD_CLOEXEC);

    assert_true(console >= 0 && memory >= 0);
    fflush(stdout);
    dup2(memory, STDOUT_FILENO);
    hook_run(program, "box.v1", payload, size, &f->signals, &f->result);
    dup2(console, STDOUT_FILENO);
    close(console);
    f->said_size = (size_t)lseek(memory, 0, SEEK_END);
    free(f->said);
    f->said = calloc(1, f->said_size + 1);
    assert_non_null(f->said);
    assert_int_equal(pread(memory, f->said, f->said_size, 0), f->said_size);
    close(memory);
}

static void run(struct fixture *f, const char *script, const char *payload, size_t size)
{
    int fd = open(f->hook, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
    assert_true(fd >= 0);
    dprintf(fd, "#!/bin/sh\n%s\n", script);
    close(fd);
    run_program(f, f->hook, payload, size);
}

static void hook_when_it_fails_gives_its_last_line_and_its_status(void **state)
{
    static const struct {
        const char *script, *reason;
    } cases[] = {
        {"printf 'a\\nb'; exit 1", "b (hook exit status 1)"},
        {"printf 'a\\nb\\n\\n \\t \\n'; exit 1", "b (hook exit status 1)"},
        {"printf 'a\\rb\\r\\n'; exit 1", "b (hook exit status 1)"},
        {"printf ' a b \\n'; exit 1", " a b  (hook exit status 1)"},
        {"printf 'longer\\nb\\n'; exit 1", "b (hook exit status 1)"},
        {"printf one >&2; printf ' and '; printf two >&2; exit 1", "onetwo (hook exit status 1)"},
        {"echo why >&2; echo later; exit 255", "why (hook exit status 255)"},
        {"exit 9", "hook exit status 9"},
        {"printf '\\n\\n'; exit 9", "hook exit status 9"},
        {"echo last words; kill -9 $$", "last words (hook killed by signal 9)"},
        {"kill -15 $$", "hook killed by signal 15"},
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        run(f, cases[i].script, "{}", 2);
        assert_false(f->result.applied);
        assert_string_equal(f->result.reason, cases[i].reason);
    }
}

static void hook_when_its_last_line_is_long_gives_the_beginning_of_it(void **state)
{
    struct fixture *f = *state;

    run(f, "printf 'begin%0600d\\n' 7; exit 1", "{}", 2);
    assert_int_equal(strlen(f->result.reason), HYPEFS_MAILBOX_REASON_MAX);
    assert_memory_equal(f->result.reason, "begin000", 8);
    assert_non_null(strstr(f->result.reason, "000 (hook exit status 1)"));
}

static void hook_when_it_succeeds_has_said_all_and_has_no_reason(void **state)
{
    enum { LINES = 300, LINE = 1001 }; /* more than any pipe holds */
    struct fixture *f = *state;

    run(f, "i=0; while [ $i -lt 300 ]; do printf '%01000d\\n' $i; i=$((i + 1)); done", "{}", 2);
    assert_true(f->result.applied);
    assert_string_equal(f->result.reason, "");
    assert_int_equal(f->said_size, LINES * LINE);
    assert_string_equal(f->said + f->said_size - 4, "299\n");
}

static void hook_when_it_succeeds_replies_with_its_output(void **state)
{
    static const struct {
        const char *script, *reply;
    } cases[] = {
        {"echo '{\"a\": [1.50]}'", "{\"a\": [1.50]}"},
        {"echo done; echo why >&2", "{\"output\":\"done\\n\"}"},
        {"echo why >&2", ""},
        {"echo '{\"a\":1}'; echo '{\"b\":2}'", "{\"output\":\"{\\\"a\\\":1}\\n{\\\"b\\\":2}\\n\"}"},
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        run(f, cases[i].script, "{}", 2);
        assert_true(f->result.applied);
        f->result.reply[f->result.reply_size] = '\0';
        assert_string_equal(f->result.reply, cases[i].reply);
    }
    run(f, "echo '{}'; exit 1", "{}", 2);
    assert_int_equal(f->result.reply_size, 0);
}

static void hook_gets_the_payload_as_it_is_and_the_mailboxs_name(void **state)
{
    struct fixture *f = *state;
    char payload[PAYLOAD_MAX];

    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (char)(i % 255 + 1);
    run(f, "cat; printf %s \"$HYPEFS_MAILBOX\"", payload, sizeof payload);
    assert_true(f->result.applied);
    assert_int_equal(f->said_size, sizeof payload + strlen("box.v1"));
    assert_memory_equal(f->said, payload, sizeof payload);
    assert_string_equal(f->said + sizeof payload, "box.v1");
    /* One that reads nothing does not fail by that. */
    run(f, "exit 0", payload, sizeof payload);
    assert_true(f->result.applied);
}

static void hook_starts_with_none_of_our_signals_blocked_or_ignored(void **state)
{
    static const int signals[] = {SIGPIPE, SIGTERM, SIGINT, SIGCHLD};
    struct fixture *f = *state;
    unsigned long long blocked, ignored;
    void (*before)(int) = signal(SIGPIPE, SIG_IGN);

    run(f, "exec grep -E '^Sig(Blk|Ign):' /proc/self/status", "{}", 2);
    signal(SIGPIPE, before);
    assert_int_equal(sscanf(f->said, "SigBlk: %llx SigIgn: %llx", &blocked, &ignored), 2);
    assert_true(blocked == 0);
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        assert_false(ignored >> (signals[i] - 1) & 1);
}

static void hook_when_we_are_told_to_end_is_waited_for(void **state)
{
    struct fixture *f = *state;

    run(f, "kill -TERM $PPID; echo done", "{}", 2);
    signals_handle(&f->signals); /* the end of the hook may have been looked at first */
    assert_true(f->signals.stop);
    assert_true(f->result.applied);
    assert_string_equal(f->said, "done\n");
}

static void hook_when_its_name_has_no_slash_is_looked_for_in_path(void **state)
{
    struct fixture *f = *state;

    run_program(f, "cat", "{\"a\":1}", 7);
    assert_true(f->result.applied);
    assert_string_equal(f->said, "{\"a\":1}");
    run_program(f, "no-such-hook", "{}", 2);
    assert_false(f->result.applied);
    assert_string_equal(f->result.reason, "cannot run no-such-hook: No such file or directory");
}

/* As the first process of a guest has them: orphans of others, while a hook runs or none. */
static void children_when_they_end_are_reaped_whose_ever_they_are(void **state)
{
    struct fixture *f = *state;
    struct pollfd fd = {.fd = f->signals.fd, .events = POLLIN};
    int ends[2];
    char byte;

    for (int while_a_hook_runs = 0; while_a_hook_runs < 2; while_a_hook_runs++) {
        assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
        pid_t child = fork();
        if (child == 0)
            _exit(0);
        close(ends[1]); /* the child's end is the last */
        assert_int_equal(read(ends[0], &byte, 1), 0);
        close(ends[0]);
        assert_int_equal(poll(&fd, 1, DEADLINE_MS), 1);
        if (while_a_hook_runs)
            run(f, "exit 3", "{}", 2);
        else
            signals_handle(&f->signals);
        assert_int_equal(waitpid(child, NULL, WNOHANG), -1);
        assert_int_equal(errno, ECHILD);
        assert_false(f->signals.stop);
    }
    assert_string_equal(f->result.reason, "hook exit status 3");
}

static size_t descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    size_t count = 0;

    assert_non_null(directory);
    while (readdir(directory))
        count++;
    closedir(directory);
    return count;
}

static void hook_leaves_no_descriptor_whatever_became_of_it(void **state)
{
    struct fixture *f = *state;
    size_t before = descriptors();

    run(f, "exit 0", "{}", 2);
    run(f, "exit 1", "{}", 2);
    run_program(f, "/no/such/hook", "{}", 2);
    assert_int_equal(descriptors(), before);
    /* Nor has the hook one more than the three. */
    run(f, "exec ls /proc/self/fd", "{}", 2);
    assert_string_equal(f->said, "0\n1\n2\n3\n"); /* the last is ls's own */
}

#define HOOK(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        HOOK(hook_when_it_fails_gives_its_last_line_and_its_status),
        HOOK(hook_when_its_last_line_is_long_gives_the_beginning_of_it),
        HOOK(hook_when_it_succeeds_has_said_all_and_has_no_reason),
        HOOK(hook_when_it_succeeds_replies_with_its_output),
        HOOK(hook_gets_the_payload_as_it_is_and_the_mailboxs_name),
        HOOK(hook_starts_with_none_of_our_signals_blocked_or_ignored),
        HOOK(hook_when_we_are_told_to_end_is_waited_for),
        HOOK(hook_when_its_name_has_no_slash_is_looked_for_in_path),
        HOOK(children_when_they_end_are_reaped_whose_ever_they_are),
        HOOK(hook_leaves_no_descriptor_whatever_became_of_it),
    };
    close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC); /* what we were started with */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
