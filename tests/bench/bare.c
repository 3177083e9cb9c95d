/* SPDX-License-Identifier: MIT */
#include "bench/bare.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/bench.h"
#include "mailbox/frame.h"
#include "util/cleanup.h"

enum { CMDLINE_MAX = 16384, LINE_MAX_SIZE = 256 };

/* All arguments, each with its NUL, with `from` in one of them replaced. */
static void write_arguments(struct harness *h, const char *text, size_t size, const char *from,
                            const char *to, const char *path)
{
    size_t replaced = 0;
    auto_fclose FILE *file = fopen(path, "we");
    assert_non_null(file);
    for (const char *at = text; at < text + size; at += strlen(at) + 1) {
        const char *found = strstr(at, from);
        replaced += found != NULL;
        const char *argument =
            found ? harness_format(h, "%.*s%s%s", (int)(found - at), at, to, found + strlen(from))
                  : at;
        assert_int_equal(fwrite(argument, 1, strlen(argument) + 1, file), strlen(argument) + 1);
    }
    assert_int_equal(replaced, 1);
}

static size_t read_arguments(const char *path, char ret[static CMDLINE_MAX])
{
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, ret, CMDLINE_MAX - 1);
    assert_true(size > 0);
    ret[size > 0 ? size : 0] = 0;
    return (size_t)size;
}

static void find_offsets(struct harness *h, const char *text, struct bare *ret)
{
    size_t count = 0;
    for (size_t i = 0; count < BARE_OFFSETS_MAX; i++) {
        const char *offset = harness_json(h, text, harness_format(h, "markers.%zu.offset", i));
        if (strcmp(offset, "(none)") == 0)
            break;
        if (strtoull(offset, NULL, 10) % FRAME_SIZE == 0)
            ret->offsets[count++] = offset;
    }
    assert_int_not_equal(count, 0);
}

void bare_copy(struct harness *h, pid_t pid, const char *snapshot, const char *mailbox,
               struct bare *ret)
{
    char text[CMDLINE_MAX];
    size_t size = read_arguments(harness_format(h, "/proc/%d/cmdline", (int)pid), text);
    *ret = (struct bare){.image = harness_store_path(h, "snapshots/%s/memory", snapshot),
                         .state = harness_store_path(h, "snapshots/%s/state", snapshot),
                         .directory = harness_format(h, "%s/bare-%s", h->directory, snapshot),
                         .arguments = harness_format(h, "%s/bare-%s.args", h->directory, snapshot)};
    assert_int_equal(mkdir(ret->directory, 0700), 0);
    write_arguments(h, text, size, harness_format(h, "../../../snapshots/%s/memory", snapshot),
                    ret->image, ret->arguments);
    find_offsets(h, harness_get(h, harness_path(h, "snapshots/%s/mailboxes/%s", snapshot, mailbox)),
                 ret);
}

void bare_use_image(struct harness *h, struct bare *bare, const char *image)
{
    char text[CMDLINE_MAX];
    size_t size = read_arguments(bare->arguments, text);
    bare->arguments = harness_format(h, "%s.args", image);
    write_arguments(h, text, size, bare->image, image, bare->arguments);
    bare->image = image;
    bare->directory = harness_format(h, "%s.dir", image);
    assert_int_equal(mkdir(bare->directory, 0700), 0);
}

static void become(const struct bare *bare, int in, int out)
{
    enum { FIXED = 5 };
    const char *argv[FIXED + BARE_OFFSETS_MAX + 1] = {bench_program("BARE_QEMU"), bare->arguments,
                                                      bare->directory, bare->state, bare->image};
    memcpy(argv + FIXED, bare->offsets, sizeof bare->offsets);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (dup2(in, 0) >= 0 && dup2(out, 1) >= 0)
        execv(argv[0], (char *const *)(uintptr_t)argv);
    _exit(127);
}

struct bare_fork bare_start(const struct bare *bare)
{
    struct bare_fork fork_ = {.stdin_fd = -1};
    char line[LINE_MAX_SIZE] = "";
    int in[2], out[2], pid = 0;
    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    fflush(NULL);
    fork_.runner = fork();
    if (fork_.runner == 0)
        become(bare, in[0], out[1]);
    close(in[0]);
    close(out[1]);
    fork_.stdin_fd = in[1];
    bool said = poll(&(struct pollfd){.fd = out[0], .events = POLLIN}, 1, HARNESS_DEADLINE_MS) == 1;
    ssize_t size = said ? read(out[0], line, sizeof line - 1) : -1;
    close(out[0]);
    if (size <= 0 || sscanf(line, "%lf %lf %d", &fork_.resumed_ms, &fork_.acked_ms, &pid) != 3)
        fail_msg("bare_qemu has no fork");
    fork_.pid = pid;
    return fork_;
}

void bare_end(struct bare_fork *fork_)
{
    int status;
    close(fork_->stdin_fd);
    assert_int_equal(waitpid(fork_->runner, &status, 0), fork_->runner);
    assert_int_equal(status, 0);
}
