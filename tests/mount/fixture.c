/* SPDX-License-Identifier: MIT */
#include "fixture.h"

#include "fake.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/http.h"
#include "util/cleanup.h"
#include "util/process.h"

int fixture_fill(struct harness *h)
{
    static const struct harness_frame frames[] = {
        {.offset = 4096, .name = "m", .token = "token-m"},
        {.offset = 8192, .name = "a", .token = "token-a"},
        {.offset = 12288, .name = "b", .token = "token-b"},
    };
    harness_craft(h, &(struct harness_snapshot){.id = "base", .frames = frames, .count = 3});
    harness_mount(h, NULL);
    /* The lookup waits until the image has been scanned. */
    return access(harness_path(h, "snapshots/base/mailboxes/m"), F_OK);
}

int fixture_setup(void **state)
{
    return harness_setup(state) < 0 ? -1 : fixture_fill(*state);
}

char *fixture_script(struct harness *h, const char *name, const char *text)
{
    char *path = harness_format(h, "%s/%s", h->programs, name);
    mkdir(h->programs, 0700);
    assert_works(chmod(h->programs, 0755)); /* root's VMMs are other users */
    harness_put(path, text);
    assert_works(chmod(path, 0755));
    return path;
}

static const char *name_of(int code)
{
    return code == 0 ? "success" : strerrorname_np(code);
}

void fixture_assert_errno(int got, int wanted, const char *what, const char *file, int line)
{
    if (got == wanted)
        return;
    print_error("%s: %s, not %s\n", what, name_of(got), name_of(wanted));
    _fail(file, line);
}

void fixture_assert_contains(const char *text, const char *part, const char *file, int line)
{
    if (strstr(text, part))
        return;
    print_error("\"%s\" is not in \"%s\"\n", part, text);
    _fail(file, line);
}

struct harness_result fixture_assert_shell(struct harness *h, const char *shell, const char *script,
                                           int wanted, const char *file, int line)
{
    struct harness_result result = harness_shell(h, shell, script);
    if (result.status != wanted) {
        print_error("%s -c '%s': status %d, not %d\n%s%s", shell, script, result.status, wanted,
                    result.out, result.err);
        _fail(file, line);
    }
    return result;
}

const char *fixture_mount_disk(const char *base)
{
    char path[512], options[80];
    const char *uid = getenv("HYPEFS_TEST_UID");
    if (geteuid() != 0)
        return NULL;
    snprintf(path, sizeof path, "%.400s/disk", base);
    snprintf(options, sizeof options, "size=24m,mode=0700,uid=%.16s,gid=%.16s", uid ? uid : "0",
             uid ? uid : "0");
    if (mkdir(path, 0700) < 0 || mount("none", path, "tmpfs", 0, options) < 0)
        return "no small disk can be mounted";
    setenv("HYPEFS_TEST_DISK", path, 1);
    return NULL;
}

void fixture_fill_file(const char *path)
{
    static const char zeros[65536];
    auto_close int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    assert_works(fd);
    while (write(fd, zeros, sizeof zeros) > 0)
        ;
    assert_errno(errno, ENOSPC);
}

void assert_no_instance(struct harness *h)
{
    harness_await_erased(h);
    struct harness_result result =
        harness_shell(h, "bash",
                      "ls -A $S/instances instances | grep -v -e : -e '^$'; "
                      "readlink /proc/[0-9]*/cwd 2> /dev/null | grep -F $S");
    assert_string_equal(result.out, "");
}

void fixture_make_old(struct harness *h, const char *id)
{
    assert_shell("bash",
                 harness_format(h,
                                "cd $S/instances && mv %s/*.json %s/*.log %s/run && "
                                "mv %s/run .old && rmdir %s && mv .old %s",
                                id, id, id, id, id, id),
                 0);
}

/* What it answers. */
static const char *ask(struct harness *h, const char *id)
{
    const char *directory = harness_store_path(h, "instances/%s/run", id);
    if (access(directory, F_OK) < 0) /* one of version 0.1 */
        directory = harness_store_path(h, "instances/%s", id);
    auto_close int fd = open(directory, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    const struct http_request request = {.peer = "the fake",
                                         .directory_fd = fd,
                                         .socket = "vmm.sock",
                                         .method = "GET",
                                         .path = fake_state_path()};
    const struct process_limits limits = {
        .pidfd = -1, .cancel_fd = -1, .deadline_ms = process_now_ms() + HARNESS_DEADLINE_MS};
    struct http_reply reply = {0};
    struct error err = {0};
    if (http_call(&request, &limits, &reply, &err) < 0) {
        print_error("%s: %s\n", directory, err.text);
        fail();
    }
    const char *state = harness_json(h, reply.body, "state");
    free(reply.body);
    return state;
}

void assert_vmm_is(struct harness *h, const char *id, const char *state)
{
    const char *info = harness_get(h, harness_path(h, "instances/%s/info", id));
    assert_string_equal(harness_json(h, info, "state"), state);
    assert_works(kill(atoi(harness_json(h, info, "pid")), 0));
    const char *said = ask(h, id);
    if (strcasecmp(said, state) == 0)
        return;
    print_error("%s is %s, and its VM is %s\n", id, state, said);
    fail();
}
