/* SPDX-License-Identifier: MIT */
/* Ten forks at the same time, and the mount meanwhile. */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "vm/vm.h"

enum { FORKS = 10, LOOKS = 50 };

static const char box[] = "first.v1";

static int make_template(void **state)
{
    return vm_make_template(state, "microvm", "hypefs.mailboxes=first.v1");
}

/* Where guests that hold their acks wait to be let go: on 127.0.0.1. */
static int listen_for_guests(int *ret_port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, size), 0);
    assert_int_equal(listen(fd, FORKS), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    *ret_port = ntohs(address.sin_port);
    return fd;
}

static int accept_guest(int listener)
{
    assert_int_equal(
        poll(&(struct pollfd){.fd = listener, .events = POLLIN}, 1, HARNESS_DEADLINE_MS), 1);
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static const char *id_of(struct harness *h, size_t i)
{
    return harness_format(h, "web-%zu", i);
}

/* `members` of the payloads, besides "do" and "name". */
static void stage_all(struct harness *h, const char *deed, const char *members)
{
    for (size_t i = 0; i < FORKS; i++) {
        assert_int_equal(mkdir(harness_path(h, "snapshots/base/forks/%s", id_of(h, i)), 0755), 0);
        vm_stage(h, id_of(h, i), box,
                 harness_format(h,
                                "{\"payload\":{\"do\":\"%s\",\"name\":\"clone %zu\"%s},"
                                "\"wait_for_ack\":true,\"ack\":\"udp\"," VM_PATIENT "}",
                                deed, i, members));
    }
}

static void start_all(struct harness *h, struct vm_pending *ret[FORKS])
{
    for (size_t i = 0; i < FORKS; i++)
        ret[i] = vm_start_commit(h, id_of(h, i), "1");
}

static void assert_pending(struct vm_pending *const commits[FORKS])
{
    for (size_t i = 0; i < FORKS; i++)
        assert_false(vm_is_done(commits[i]));
}

static void assert_has_only_its_own(struct harness *h, size_t i)
{
    char *console = harness_await(h, vm_console(h, id_of(h, i)), "first.v1 is armed again");
    char *payload = strstr(console, "payload=");
    assert_non_null(payload);
    assert_non_null(strstr(payload, harness_format(h, "\"name\":\"clone %zu\"", i)));
    assert_null(strstr(payload + 1, "payload="));
}

/* All guests have their payloads before the first may ack, and nobody waits for any of them. */
static void forks_when_ten_are_made_at_once_each_get_their_own(void **state)
{
    struct harness *h = *state;
    struct vm_pending *commits[FORKS];
    const char *ids[FORKS + 1] = {NULL};
    struct stat st;
    int port, guests[FORKS];
    auto_close int listener = listen_for_guests(&port);
    char *before = vm_checksum(h);
    stage_all(h, "hold", harness_format(h, ",\"go\":%d", port));
    start_all(h, commits);
    for (size_t i = 0; i < FORKS; i++)
        guests[i] = accept_guest(listener);
    for (size_t i = 0; i < LOOKS; i++)
        assert_int_equal(stat(harness_path(h, "snapshots/base/info"), &st), 0);
    assert_pending(commits);
    for (size_t i = 0; i < FORKS; i++)
        close(guests[i]);
    for (size_t i = 0; i < FORKS; i++) {
        ids[i] = id_of(h, i);
        assert_int_equal(vm_finish_commit(commits[i]), 0);
        char *result = harness_get(h, vm_draft(h, ids[i], "result"));
        assert_string_equal(harness_json(h, result, "status"), "committed");
        assert_string_equal(harness_json(h, result, "mailboxes.0.acked"), "true");
        assert_has_only_its_own(h, i);
    }
    vm_assert_running(h, ids);
    assert_string_equal(vm_checksum(h), before);
}

/* More commits wait than libfuse has threads by default, and the tree answers all the same. */
static void mount_when_ten_commits_wait_answers_takes_another_and_can_end(void **state)
{
    struct harness *h = *state;
    struct vm_pending *commits[FORKS];
    stage_all(h, "silent", "");
    start_all(h, commits);
    for (size_t i = 0; i < FORKS; i++)
        vm_await_pending_payload(
            h, box, harness_format(h, "{\"do\":\"silent\",\"name\":\"clone %zu\",", i));
    vm_commit(h, "new", "plain");
    assert_string_equal(harness_get(h, harness_path(h, "instances/plain/state")), "running\n");
    assert_pending(commits);
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
