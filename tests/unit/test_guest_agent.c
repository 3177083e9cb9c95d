/* SPDX-License-Identifier: MIT */
/* The agent, but for what it does to networks (test_guest_netns.c); the test plays the host. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent_fixture.h"
#include "frames.h"

struct fixture {
    char folder[64];
    char hook[96];
    int ack_fd;
    uint16_t ack_port;
    struct agent agent;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    assert_non_null(f);
    snprintf(f->folder, sizeof f->folder, "/tmp/test_guest_agent.XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    snprintf(f->hook, sizeof f->hook, "%s/hook", f->folder);
    f->ack_fd = ack_open(htonl(INADDR_LOOPBACK), &f->ack_port);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    static const char *const files[] = {"hook", "payload", "name", "go"};
    struct fixture *f = *state;
    char path[128];

    agent_stop(&f->agent);
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

static void start_ready(struct fixture *f, const char *mailbox, const char *other)
{
    agent_start(&f->agent,
                (const char *[]){"--hook", f->hook, "--ack-address", "127.0.0.1", "--mailbox",
                                 mailbox, other ? "--mailbox" : NULL, other, NULL});
    agent_wait_for_output(&f->agent, "hypefs-guest: ready\n");
}

/* Delivers {…,"ack_port":PORT}; `members` is empty or ends with a comma. */
static void deliver(const struct fixture *f, const char *name, const char *members)
{
    char payload[512];
    snprintf(payload, sizeof payload, "{%s\"ack_port\":%u}", members, (unsigned)f->ack_port);
    agent_deliver(&f->agent, name, payload);
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
    assert_non_null(strstr(f->agent.output, "hypefs-guest: armed kernel.identity.v1\n"));
    deliver(f, "kernel.identity.v1", "\"n\":12345678901234567890,");
    ack_expect(f->ack_fd, "stage=applied mailbox=kernel.identity.v1");
    agent_wait_for_output(&f->agent, "hypefs-guest: applied kernel.identity.v1\n");
    assert_non_null(strstr(f->agent.output, "said by the hook\n"));
    snprintf(payload, sizeof payload, "{\"n\":12345678901234567890,\"ack_port\":%u}", f->ack_port);
    expect_file(f, "payload", payload);
    expect_file(f, "name", "kernel.identity.v1\n");
    agent_look(&f->agent, "kernel.identity.v1", frame);
    assert_string_equal(frames_reply(frame, FRAME_FORK), "{\"output\":\"said by the hook\\n\"}");
    deliver(f, "kernel.identity.v1", "");
    ack_expect(f->ack_fd, "stage=applied mailbox=kernel.identity.v1");
}

/* Those that hold its pages where they are, too. */
static void agent_leaves_none_of_its_descriptors_to_the_hook(void **state)
{
    struct fixture *f = *state;

    write_hook(f, "exec ls /proc/self/fd");
    start_ready(f, "a", "b");
    deliver(f, "a", "");
    ack_expect(f->ack_fd, "stage=applied mailbox=a");
    agent_wait_for_output(&f->agent, "hypefs-guest: applied a\n");
    assert_non_null(strstr(f->agent.output, "ready\n0\n1\n2\n3\nhypefs")); /* the last is ls's */
}

static void agent_when_the_hook_fails_sends_its_last_line(void **state)
{
    struct fixture *f = *state;
    uint8_t frame[FRAME_SIZE];

    write_hook(f, "echo first; echo no such role >&2; echo; exit 1");
    start_ready(f, "a=template-token", NULL);
    deliver(f, "a", "");
    ack_expect(f->ack_fd, "stage=failed mailbox=a reason=no_such_role_(hook_exit_status_1)");
    agent_wait_for_output(&f->agent, "hypefs-guest: failed a: no such role (hook exit status 1)\n");
    agent_look(&f->agent, "a", frame);
    assert_int_equal(frame_load_u32(frame + 256), 0);
    assert_int_equal(frame_load_u32(frame + 260), FRAME_REFUSED);
    assert_string_equal((char *)frame + 264, "no such role (hook exit status 1)");
    assert_memory_equal(frame + 26, "template-token", 15);
}

static void agent_when_the_hook_says_nothing_sends_what_became_of_it(void **state)
{
    struct fixture *f = *state;

    write_hook(f, "exit 7");
    start_ready(f, "a", NULL);
    deliver(f, "a", "");
    ack_expect(f->ack_fd, "stage=failed mailbox=a reason=hook_exit_status_7");
    write_hook(f, "kill -9 $$");
    deliver(f, "a", "");
    ack_expect(f->ack_fd, "stage=failed mailbox=a reason=hook_killed_by_signal_9");
}

static void agent_when_the_hook_cannot_be_run_fails_the_payload(void **state)
{
    struct fixture *f = *state;
    char expected[256];

    write_hook(f, "exit 0");
    start_ready(f, "a", NULL);
    assert_int_equal(unlink(f->hook), 0);
    deliver(f, "a", "");
    snprintf(expected, sizeof expected,
             "stage=failed mailbox=a reason=cannot_run_%s:_No_such_file_or_directory", f->hook);
    ack_expect(f->ack_fd, expected);
}

static void agent_whose_hook_cannot_be_run_ends_at_once(void **state)
{
    static const struct {
        const char *hook, *says;
    } cases[] = {
        {"/nonexistent", "the hook /nonexistent cannot be run: No such file or directory"},
        {"no-such-hook", "the hook no-such-hook cannot be run: No such file or directory"},
        {"/etc/passwd", "the hook /etc/passwd cannot be run: Permission denied"},
        {"/tmp", "the hook /tmp cannot be run: Permission denied"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture *f;
        set_up((void **)&f);
        agent_start(&f->agent, (const char *[]){"-m", "a", "-k", cases[i].hook, NULL});
        assert_int_equal(agent_wait_for_end(&f->agent), 1);
        assert_non_null(strstr(f->agent.output, cases[i].says));
        assert_null(strstr(f->agent.output, "armed"));
        tear_down((void **)&f);
    }
    (void)state;
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
    agent_wait_for_output(&f->agent, "a waits\n");
    deliver(f, "b", "");
    int go = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(go >= 0);
    assert_int_equal(write(go, "go\n", 3), 3);
    close(go);
    ack_expect(f->ack_fd, "stage=applied mailbox=a");
    ack_expect(f->ack_fd, "stage=applied mailbox=b");
}

static void agent_when_the_hook_leaves_a_process_behind_does_not_wait_for_it(void **state)
{
    struct fixture *f = *state;
    int left;

    write_hook(f, "tail -f /dev/null & echo left $!; exit 0");
    start_ready(f, "a", NULL);
    deliver(f, "a", "");
    agent_wait_for_output(&f->agent, "hypefs-guest: applied a\n");
    assert_int_equal(sscanf(strstr(f->agent.output, "left "), "left %d", &left), 1);
    kill(left, SIGKILL);
    ack_expect(f->ack_fd, "stage=applied mailbox=a");
}

/* Nothing is changed for a payload that is not valid, so that no network of the test's own is
 * needed; nor is a hook. */
static void agent_with_network_alone_fails_what_is_not_valid(void **state)
{
    static const char marker[64] = "HYPEMAN_RESUME_NETWORK_MAILBOX_V1\0token-of-this-template";
    struct fixture *f = *state;
    uint8_t frame[FRAME_SIZE];

    agent_start(&f->agent, (const char *[]){"--network=token-of-this-template", "--ack-address",
                                            "127.0.0.1", NULL});
    agent_wait_for_output(&f->agent, "hypefs-guest: ready\n");
    assert_memory_equal(f->agent.output, "hypefs-guest: armed (network)\n", 30);
    agent_look(&f->agent, NULL, frame);
    assert_memory_equal(frame, marker, sizeof marker);
    deliver(f, NULL,
            "\"mac\":\"02:00:00:00:00:07\",\"ipv4\":\"10.0.0.7\",\"prefix\":24,"
            "\"ack_key\":\"00112233445566778899aabbccddeeff\",");
    ack_expect(f->ack_fd, "stage=failed mac=02:00:00:00:00:07 ip=10.0.0.7 "
                          "key=00112233445566778899aabbccddeeff "
                          "reason=interface_name_is_not_1_to_15_of_A-Z_a-z_0-9___._-");
    deliver(f, NULL,
            "\"interface_name\":\"no.such-if_0\",\"mac\":\"02:00:00:00:00:07\","
            "\"ipv4\":\"10.0.0.7\",\"prefix\":24,");
    ack_expect(f->ack_fd, "stage=failed mac=02:00:00:00:00:07 ip=10.0.0.7 "
                          "reason=no.such-if_0:_there_is_no_such_interface");
    agent_wait_for_output(&f->agent,
                          "hypefs-guest: failed (network): no.such-if_0: there is no such "
                          "interface\n");
    agent_look(&f->agent, NULL, frame);
    assert_memory_equal(frame, marker, sizeof marker);
    assert_int_equal(frame_load_u32(frame + 64), 0);
    assert_int_equal(frame_load_u32(frame + 68), FRAME_REFUSED);
    assert_string_equal((char *)frame + 72, "no.such-if_0: there is no such interface");
}

static void agent_when_told_to_end_exits_with_0(void **state)
{
    struct fixture *f = *state;

    write_hook(f, "exit 0");
    start_ready(f, "a", NULL);
    kill(f->agent.pid, SIGTERM);
    assert_int_equal(agent_wait_for_end(&f->agent), 0);
}

/* The agent's processes for commands, oldest first: their mailboxes are hypefs.exec, hypefs.exec.2
 * and so on. */
static size_t find_workers(const struct fixture *f, struct agent ret[4])
{
    char path[64];
    size_t count = 0;
    int pid;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)f->agent.pid, (int)f->agent.pid);
    FILE *children = fopen(path, "re");
    assert_non_null(children);
    while (count < 4 && fscanf(children, "%d", &pid) == 1)
        ret[count++] = (struct agent){.pid = pid};
    fclose(children);
    return count;
}

static void expect_reply(const struct agent *worker, const char *name, const char *reply)
{
    uint8_t frame[FRAME_SIZE];
    agent_look(worker, name, frame);
    assert_int_equal(frame_load_u32(frame + 260), FRAME_DECLARED | strlen(reply));
    assert_memory_equal(frame + 264, reply, strlen(reply));
}

static void agent_with_exec_runs_commands_side_by_side(void **state)
{
    struct fixture *f = *state;
    struct agent workers[4];
    agent_start(&f->agent, (const char *const[]){"--exec", NULL});
    agent_wait_for_output(&f->agent, "armed hypefs.exec.4\nhypefs-guest: ready\n");
    assert_int_equal(find_workers(f, workers), 4);
    /* The first waits for what the second does. */
    char payload[256];
    snprintf(payload, sizeof payload,
             "{\"argv\":[\"sh\",\"-c\",\"mkfifo fifo && cat fifo\"],\"cwd\":\"%s\"}", f->folder);
    agent_deliver(&workers[0], "hypefs.exec", payload);
    snprintf(payload, sizeof payload,
             "{\"argv\":[\"sh\",\"-c\",\"until [ -p fifo ]; do sleep 0.01; done; echo a > fifo; "
             "rm fifo\"],\"cwd\":\"%s\"}",
             f->folder);
    agent_deliver(&workers[1], "hypefs.exec.2", payload);
    expect_reply(&workers[0], "hypefs.exec", "{\"exit\":0,\"stdout\":\"a\\n\",\"stderr\":\"\"}");
    expect_reply(&workers[1], "hypefs.exec.2", "{\"exit\":0,\"stdout\":\"\",\"stderr\":\"\"}");
    /* What is no request is refused. */
    uint8_t frame[FRAME_SIZE];
    agent_deliver(&workers[2], "hypefs.exec.3", "{}");
    agent_look(&workers[2], "hypefs.exec.3", frame);
    assert_int_equal(frame_load_u32(frame + 260), FRAME_REFUSED);
    assert_string_equal((char *)frame + 264,
                        "\"argv\" must be given: the command and its arguments");
    kill(f->agent.pid, SIGTERM);
    assert_int_equal(agent_wait_for_end(&f->agent), 0);
}

static void agent_with_exec_replaces_a_process_that_was_killed(void **state)
{
    struct fixture *f = *state;
    struct agent workers[4];
    agent_start(&f->agent, (const char *const[]){"--exec", NULL});
    agent_wait_for_output(&f->agent, "ready\n");
    assert_int_equal(find_workers(f, workers), 4);
    kill(workers[1].pid, SIGKILL);
    agent_wait_for_output(&f->agent, "ready\nhypefs-guest: armed hypefs.exec.2\n");
    assert_int_equal(find_workers(f, workers), 4);
    agent_deliver(&workers[3], "hypefs.exec.2", "{\"argv\":[\"echo\",\"anew\"]}");
    expect_reply(&workers[3], "hypefs.exec.2",
                 "{\"exit\":0,\"stdout\":\"anew\\n\",\"stderr\":\"\"}");
    kill(f->agent.pid, SIGTERM);
    assert_int_equal(agent_wait_for_end(&f->agent), 0);
}

static void agent_with_wrong_options_says_why_and_exits_with_2(void **state)
{
    static const struct {
        const char *arguments[6];
        const char *says;
    } cases[] = {
        {{"--hook", "/bin/true"}, "--mailbox is missing"},
        {{"--exec", "--hook", "/bin/true"}, "--mailbox is missing"},
        {{"--mailbox", "a"}, "--hook is missing"},
        {{"--mailbox", "a b", "--hook", "/bin/true"}, "a b"},
        {{"--mailbox", "a=", "--hook", "/bin/true"}, "token"},
        {{"--network", "--hook", "/bin/true"}, "--mailbox is missing"},
        {{"--network", "--mailbox", "a"}, "--hook is missing"},
        {{"--network", "-n"}, "twice"},
        {{"--network=cret567890123456789012345678901"}, "token for --network"},
        {{"-ncret567890123456789012345678901"}, "token for --network"},
        {{"--network="}, "token for --network"},
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
        agent_start(&f->agent, arguments);
        assert_int_equal(agent_wait_for_end(&f->agent), 2);
        assert_non_null(strstr(f->agent.output, cases[i].says));
        assert_null(strstr(f->agent.output, "cret"));
        assert_ptr_equal(strchr(f->agent.output, '\n'), f->agent.output + f->agent.output_size - 1);
        tear_down((void **)&f);
    }
    (void)state;
}

static void agent_asked_for_help_or_version_prints_it(void **state)
{
    struct fixture *f = *state;

    agent_start(&f->agent, (const char *[]){"--help", NULL});
    assert_int_equal(agent_wait_for_end(&f->agent), 0);
    assert_memory_equal(f->agent.output, "Usage: hypefs-guest ", 20);
    close(f->agent.output_fd);
    agent_start(&f->agent, (const char *[]){"--version", NULL});
    assert_int_equal(agent_wait_for_end(&f->agent), 0);
    assert_memory_equal(f->agent.output, "hypefs-guest ", 13);
}

static void agent_that_cannot_print_its_help_fails(void **state)
{
    static const char *const options[] = {"--help", "--version"};
    (void)state;
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        int status = 0;
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            const char *argv[] = {"hypefs-guest", options[i], NULL};
            int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
            dup2(full, STDOUT_FILENO);
            dup2(full, STDERR_FILENO);
            execv(getenv("HYPEFS_GUEST"), (char **)argv);
            _exit(127);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 1);
    }
}

#define agent_test(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        agent_test(agent_when_the_hook_succeeds_acks_and_arms_again),
        agent_test(agent_leaves_none_of_its_descriptors_to_the_hook),
        agent_test(agent_when_the_hook_fails_sends_its_last_line),
        agent_test(agent_when_the_hook_says_nothing_sends_what_became_of_it),
        cmocka_unit_test(agent_that_cannot_print_its_help_fails),
        cmocka_unit_test(agent_whose_hook_cannot_be_run_ends_at_once),
        agent_test(agent_when_the_hook_cannot_be_run_fails_the_payload),
        agent_test(agent_with_two_mailboxes_keeps_one_while_the_other_is_applied),
        agent_test(agent_when_the_hook_leaves_a_process_behind_does_not_wait_for_it),
        agent_test(agent_with_network_alone_fails_what_is_not_valid),
        agent_test(agent_when_told_to_end_exits_with_0),
        agent_test(agent_with_exec_runs_commands_side_by_side),
        agent_test(agent_with_exec_replaces_a_process_that_was_killed),
        agent_test(agent_with_wrong_options_says_why_and_exits_with_2),
        agent_test(agent_asked_for_help_or_version_prints_it),
    };
    if (!getenv("HYPEFS_GUEST")) {
        fputs("HYPEFS_GUEST must name the agent\n", stderr);
        return 2;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
