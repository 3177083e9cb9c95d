/* SPDX-License-Identifier: MIT */
/*
 * The agent as a process of its own: the test plays the host, finds the agent's frames in its
 * memory as a scan of a VM's image would, and writes into them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "mailbox/frame.h"

enum { DEADLINE_MS = 20000, OUTPUT_MAX = 8192, ARGUMENTS_MAX = 12 };

struct fixture {
    char folder[64];
    char hook[96];
    int ack_fd;
    uint16_t ack_port;
    pid_t agent; /* 0: none */
    int output_fd;
    char output[OUTPUT_MAX]; /* all that the agent has printed so far */
    size_t output_size;
};

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int set_up(void **state)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    struct fixture *f = calloc(1, sizeof *f);

    assert_non_null(f);
    snprintf(f->folder, sizeof f->folder, "/tmp/test_guest_agent.XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    snprintf(f->hook, sizeof f->hook, "%s/hook", f->folder);
    f->output_fd = -1;
    f->ack_fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_true(f->ack_fd >= 0);
    assert_int_equal(bind(f->ack_fd, (struct sockaddr *)&address, size), 0);
    assert_int_equal(getsockname(f->ack_fd, (struct sockaddr *)&address, &size), 0);
    f->ack_port = ntohs(address.sin_port);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    static const char *const files[] = {"hook", "payload", "name", "go"};
    struct fixture *f = *state;
    char path[128];

    if (f->agent > 0) {
        kill(f->agent, SIGKILL);
        waitpid(f->agent, NULL, 0);
    }
    if (f->output_fd >= 0)
        close(f->output_fd);
    close(f->ack_fd);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", f->folder, files[i]);
        unlink(path);
    }
    rmdir(f->folder);
    free(f);
    return 0;
}

/* A shell script, run in the test's folder. */
static void write_hook(const struct fixture *f, const char *script)
{
    int fd = open(f->hook, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
    assert_true(fd >= 0);
    dprintf(fd, "#!/bin/sh\ncd '%s' || exit 1\n%s\n", f->folder, script);
    close(fd);
}

/* Starts the agent; `arguments` ends with NULL. */
static void start(struct fixture *f, const char *const *arguments)
{
    const char *argv[ARGUMENTS_MAX + 2] = {"hypefs-guest"};
    int ends[2];

    for (size_t i = 0; i < ARGUMENTS_MAX && arguments[i]; i++)
        argv[i + 1] = arguments[i];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    f->agent = fork();
    assert_true(f->agent >= 0);
    if (f->agent == 0) {
        dup2(ends[1], STDOUT_FILENO);
        dup2(ends[1], STDERR_FILENO);
        execv(getenv("HYPEFS_GUEST"), (char **)argv);
        _exit(127);
    }
    close(ends[1]);
    f->output_fd = ends[0];
}

/* Reads more of the output. False at its end. */
static bool read_more(struct fixture *f, int64_t deadline)
{
    struct pollfd fd = {.fd = f->output_fd, .events = POLLIN};
    int64_t left = deadline - now_ms();

    assert_true(left > 0 && poll(&fd, 1, (int)left) == 1);
    ssize_t n =
        read(f->output_fd, f->output + f->output_size, sizeof f->output - 1 - f->output_size);
    if (n > 0)
        f->output_size += (size_t)n;
    f->output[f->output_size] = '\0';
    return n > 0;
}

static void wait_for_output(struct fixture *f, const char *text)
{
    int64_t deadline = now_ms() + DEADLINE_MS;
    while (!strstr(f->output, text))
        if (!read_more(f, deadline))
            fail_msg("the agent ended without \"%s\": %s", text, f->output);
}

static int wait_for_end(struct fixture *f)
{
    int64_t deadline = now_ms() + DEADLINE_MS;
    int status;

    while (read_more(f, deadline))
        ;
    assert_int_equal(waitpid(f->agent, &status, 0), f->agent);
    f->agent = 0;
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void start_ready(struct fixture *f, const char *mailbox, const char *other)
{
    start(f, (const char *[]){"--hook", f->hook, "--ack-address", "127.0.0.1", "--mailbox", mailbox,
                              other ? "--mailbox" : NULL, other, NULL});
    wait_for_output(f, "hypefs-guest: ready\n");
}

static int open_memory(const struct fixture *f, int flags)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/mem", (int)f->agent);
    int fd = open(path, flags | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

/* The address of the one page that is this mailbox. */
static uintptr_t find_frame(const struct fixture *f, const char *name)
{
    char path[64], line[512];
    uintptr_t found = 0;
    int memory = open_memory(f, O_RDONLY);

    snprintf(path, sizeof path, "/proc/%d/maps", (int)f->agent);
    FILE *maps = fopen(path, "re");
    assert_non_null(maps);
    while (fgets(line, sizeof line, maps)) {
        uintptr_t start, end;
        assert_int_equal(sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &start, &end), 2);
        for (uintptr_t at = start; at < end; at += FRAME_SIZE) {
            uint8_t page[FRAME_SIZE];
            struct frame_marker marker;
            if (pread(memory, page, sizeof page, (off_t)at) != (ssize_t)sizeof page)
                break;
            if (!frame_decode_marker(FRAME_FORK, page, sizeof page, &marker) ||
                strcmp(marker.name, name) != 0)
                continue;
            assert_int_equal(found, 0);
            found = at;
        }
    }
    fclose(maps);
    close(memory);
    assert_int_not_equal(found, 0);
    return found;
}

/* Delivers {…,"ack_port":PORT}; `members` is empty or ends with a comma. */
static void deliver(const struct fixture *f, const char *name, const char *members)
{
    uint8_t frame[FRAME_SIZE] = {0};
    uintptr_t at = find_frame(f, name);
    int memory = open_memory(f, O_RDWR);
    int size =
        snprintf((char *)frame + 264, FRAME_CAPACITY, "{%s\"ack_port\":%u}", members, f->ack_port);

    frame_store_u32(frame + 256, 1);
    frame_store_u32(frame + 260, (uint32_t)size);
    assert_int_equal(pwrite(memory, frame + 260, (size_t)size + 4, (off_t)at + 260), size + 4);
    assert_int_equal(pwrite(memory, frame + 256, 4, (off_t)at + 256), 4);
    close(memory);
}

static void look(const struct fixture *f, const char *name, uint8_t ret[FRAME_SIZE])
{
    int memory = open_memory(f, O_RDONLY);
    assert_int_equal(pread(memory, ret, FRAME_SIZE, (off_t)find_frame(f, name)), FRAME_SIZE);
    close(memory);
}

static void expect_datagram(const struct fixture *f, const char *expected)
{
    char text[2048];
    struct pollfd fd = {.fd = f->ack_fd, .events = POLLIN};

    assert_int_equal(poll(&fd, 1, DEADLINE_MS), 1);
    ssize_t n = recv(f->ack_fd, text, sizeof text - 1, 0);
    assert_true(n >= 0);
    text[n] = '\0';
    assert_string_equal(text, expected);
}

static void expect_file(const struct fixture *f, const char *name, const char *expected)
{
    char path[128], text[FRAME_SIZE];

    snprintf(path, sizeof path, "%s/%s", f->folder, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    assert_true(n >= 0);
    text[n] = '\0';
    assert_string_equal(text, expected);
}

static void agent_when_the_hook_succeeds_acks_and_arms_again(void **state)
{
    struct fixture *f = *state;
    uint8_t frame[FRAME_SIZE];
    char payload[128];

    write_hook(f, "cat > payload; echo \"$HYPEFS_MAILBOX\" > name; echo said by the hook");
    start_ready(f, "kernel.identity.v1", NULL);
    assert_non_null(strstr(f->output, "hypefs-guest: armed kernel.identity.v1\n"));
    deliver(f, "kernel.identity.v1", "\"n\":12345678901234567890,");
    expect_datagram(f, "stage=applied mailbox=kernel.identity.v1");
    wait_for_output(f, "hypefs-guest: applied kernel.identity.v1\n");
    assert_non_null(strstr(f->output, "said by the hook\n"));
    snprintf(payload, sizeof payload, "{\"n\":12345678901234567890,\"ack_port\":%u}", f->ack_port);
    expect_file(f, "payload", payload);
    expect_file(f, "name", "kernel.identity.v1\n");
    look(f, "kernel.identity.v1", frame);
    for (size_t i = 256; i < sizeof frame; i++)
        assert_int_equal(frame[i], 0);
    deliver(f, "kernel.identity.v1", "");
    expect_datagram(f, "stage=applied mailbox=kernel.identity.v1");
}

static void agent_when_the_hook_fails_sends_its_last_line(void **state)
{
    struct fixture *f = *state;
    uint8_t frame[FRAME_SIZE];

    write_hook(f, "echo first; echo no such role >&2; echo; exit 1");
    start_ready(f, "a=template-token", NULL);
    deliver(f, "a", "");
    expect_datagram(f, "stage=failed mailbox=a reason=no_such_role");
    wait_for_output(f, "hypefs-guest: failed a: no such role\n");
    look(f, "a", frame);
    assert_int_equal(frame_load_u32(frame + 256), 0);
    assert_int_equal(frame_load_u32(frame + 260), FRAME_REFUSED);
    assert_string_equal((char *)frame + 264, "no such role");
    assert_memory_equal(frame + 26, "template-token", 15);
}

static void agent_when_the_hook_says_nothing_sends_what_became_of_it(void **state)
{
    struct fixture *f = *state;

    write_hook(f, "exit 7");
    start_ready(f, "a", NULL);
    deliver(f, "a", "");
    expect_datagram(f, "stage=failed mailbox=a reason=hook_exit_status_7");
    write_hook(f, "kill -9 $$");
    deliver(f, "a", "");
    expect_datagram(f, "stage=failed mailbox=a reason=hook_killed_by_signal_9");
}

static void agent_when_the_hook_cannot_be_run_fails_the_payload(void **state)
{
    struct fixture *f = *state;
    char expected[256];

    start_ready(f, "a", NULL);
    deliver(f, "a", "");
    snprintf(expected, sizeof expected,
             "stage=failed mailbox=a reason=cannot_run_%s:_No_such_file_or_directory", f->hook);
    expect_datagram(f, expected);
}

static void agent_with_two_mailboxes_keeps_one_while_the_other_is_applied(void **state)
{
    struct fixture *f = *state;
    char path[128];

    /* The hook of "a" ends only when "b" has been delivered. */
    snprintf(path, sizeof path, "%s/go", f->folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    write_hook(f, "[ \"$HYPEFS_MAILBOX\" = b ] || { echo a waits; read -r word < go; }");
    start_ready(f, "a", "b");
    deliver(f, "a", "");
    wait_for_output(f, "a waits\n");
    deliver(f, "b", "");
    int go = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(go >= 0);
    assert_int_equal(write(go, "go\n", 3), 3);
    close(go);
    expect_datagram(f, "stage=applied mailbox=a");
    expect_datagram(f, "stage=applied mailbox=b");
}

static void agent_when_the_hook_leaves_a_process_behind_does_not_wait_for_it(void **state)
{
    struct fixture *f = *state;
    int left;

    write_hook(f, "tail -f /dev/null & echo left $!; exit 0");
    start_ready(f, "a", NULL);
    deliver(f, "a", "");
    wait_for_output(f, "hypefs-guest: applied a\n");
    assert_int_equal(sscanf(strstr(f->output, "left "), "left %d", &left), 1);
    kill(left, SIGKILL);
    expect_datagram(f, "stage=applied mailbox=a");
}

static void agent_when_told_to_end_exits_with_0(void **state)
{
    struct fixture *f = *state;

    write_hook(f, "exit 0");
    start_ready(f, "a", NULL);
    kill(f->agent, SIGTERM);
    assert_int_equal(wait_for_end(f), 0);
}

static void agent_with_wrong_options_says_why_and_exits_with_2(void **state)
{
    static const struct {
        const char *arguments[6];
        const char *says;
    } cases[] = {
        {{"--hook", "/bin/true"}, "--mailbox is missing"},
        {{"--mailbox", "a"}, "--hook is missing"},
        {{"--mailbox", "a b", "--hook", "/bin/true"}, "a b"},
        {{"--mailbox", "a=", "--hook", "/bin/true"}, "token"},
        {{"-m", "a=se", "-m", "a=cret", "-k", "true"}, "twice: a ("},
        {{"--mailbox", "a", "--hook", "/bin/true", "--ack-address", "localhost"}, "localhost"},
        {{"--mailbox", "a", "--hook", "/bin/true", "more"}, "more"},
        {{"--frobnicate"}, "frobnicate"},
        {{"--hook"}, "argument"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture *f;
        const char *arguments[7] = {NULL};
        memcpy(arguments, cases[i].arguments, sizeof cases[i].arguments);
        set_up((void **)&f);
        start(f, arguments);
        assert_int_equal(wait_for_end(f), 2);
        assert_non_null(strstr(f->output, cases[i].says));
        assert_null(strstr(f->output, "cret"));
        assert_ptr_equal(strchr(f->output, '\n'), f->output + f->output_size - 1);
        tear_down((void **)&f);
    }
    (void)state;
}

static void agent_asked_for_help_or_version_prints_it(void **state)
{
    struct fixture *f = *state;

    start(f, (const char *[]){"--help", NULL});
    assert_int_equal(wait_for_end(f), 0);
    assert_memory_equal(f->output, "Usage: hypefs-guest ", 20);
    close(f->output_fd);
    f->output_size = 0;
    start(f, (const char *[]){"--version", NULL});
    assert_int_equal(wait_for_end(f), 0);
    assert_memory_equal(f->output, "hypefs-guest ", 13);
}

#define agent_test(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        agent_test(agent_when_the_hook_succeeds_acks_and_arms_again),
        agent_test(agent_when_the_hook_fails_sends_its_last_line),
        agent_test(agent_when_the_hook_says_nothing_sends_what_became_of_it),
        agent_test(agent_when_the_hook_cannot_be_run_fails_the_payload),
        agent_test(agent_with_two_mailboxes_keeps_one_while_the_other_is_applied),
        agent_test(agent_when_the_hook_leaves_a_process_behind_does_not_wait_for_it),
        agent_test(agent_when_told_to_end_exits_with_0),
        agent_test(agent_with_wrong_options_says_why_and_exits_with_2),
        agent_test(agent_asked_for_help_or_version_prints_it),
    };
    if (!getenv("HYPEFS_GUEST")) {
        fputs("HYPEFS_GUEST must name the agent\n", stderr);
        return 2;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
