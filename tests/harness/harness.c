/* SPDX-License-Identifier: MIT */
/* harness: one test's directory and daemon. */
#include "harness/harness.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness/internal.h"
#include "util/cleanup.h"

enum { FUSE_MAGIC = 0x65735546, ARGUMENTS_MAX = 32 };

struct harness_block {
    struct harness_block *next;
    max_align_t bytes[];
};

void *harness_alloc(struct harness *h, size_t size)
{
    struct harness_block *block = calloc(1, sizeof *block + size);
    if (!block)
        give_up("out of memory");
    block->next = h->blocks;
    h->blocks = block;
    return block->bytes;
}

__attribute__((format(printf, 3, 0))) static char *
format_list(struct harness *h, const char *prefix, const char *format, va_list args)
{
    auto_free char *text = NULL;
    if (vasprintf(&text, format, args) < 0)
        give_up("out of memory");
    size_t before = strlen(prefix), size = strlen(text);
    char *ret = harness_alloc(h, before + size + 1);
    memcpy(ret, prefix, before);
    memcpy(ret + before, text, size);
    return ret;
}

char *harness_format(struct harness *h, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *ret = format_list(h, "", format, args);
    va_end(args);
    return ret;
}

char *harness_path(struct harness *h, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *ret = format_list(h, harness_format(h, "%s/", h->mount), format, args);
    va_end(args);
    return ret;
}

char *harness_store_path(struct harness *h, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *ret = format_list(h, harness_format(h, "%s/", h->store), format, args);
    va_end(args);
    return ret;
}

int harness_setup(void **state)
{
    char path[512];
    struct harness *h = calloc(1, sizeof *h);
    snprintf(path, sizeof path, "%s/t-XXXXXX", harness_base());
    if (!h || !mkdtemp(path))
        return -1;
    h->daemon_pidfd = -1;
    h->directory = harness_format(h, "%s", path);
    h->store = harness_format(h, "%s/store", path);
    h->mount = harness_format(h, "%s/mount", path);
    h->log = harness_format(h, "%s/daemon.log", path);
    h->programs = harness_format(h, "%s/programs", path);
    *state = h;
    return mkdir(h->mount, 0700);
}

static void export(const struct harness *h)
{
    setenv("M", h->mount, 1);
    setenv("S", h->store, 1);
    setenv("T", h->directory, 1);
    setenv("HOME", h->directory, 1);
    setenv("LC_ALL", "C.UTF-8", 1);
}

static pid_t spawn_daemon(struct harness *h, const char *const *options)
{
    /* What scripts that are given as a VMM become; it is seen by no other. */
    static const char *const played[] = {"FAKE_FIRECRACKER", "FAKE_CLOUD_HYPERVISOR"};
    const char *argv[ARGUMENTS_MAX] = {getenv("HYPEFS"), "mount", "-f", "--store", h->store};
    size_t count = 5;
    if (access(h->programs, F_OK) == 0) {
        argv[count++] = "--vmm-read";
        argv[count++] = h->programs;
    }
    for (size_t i = 0; i < array_length(played); i++)
        if (getenv(played[i])) {
            argv[count++] = "--vmm-read";
            argv[count++] = getenv(played[i]);
        }
    const char *confine = NULL;
    bool has_users = geteuid() != 0;
    for (size_t i = 0; options && options[i]; i++) {
        argv[count++] = options[i];
        confine = strcmp(options[i], "--confine") == 0 ? options[i + 1] : confine;
        has_users = has_users || strncmp(options[i], "--vmm-u", 7) == 0;
    }
    if (!confine) { /* scripts, too */
        argv[count++] = "--confine";
        argv[count++] = confine = "strict";
    }
    if (strcmp(confine, "strict") == 0 && !has_users) { /* root is one that is strict only then */
        argv[count++] = "--vmm-uids";
        argv[count++] = "300000-365535";
    }
    argv[count] = h->mount;
    export(h);
    fflush(NULL);
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int log = open(h->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (null < 0 || log < 0 || dup2(null, 0) < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0 ||
        setpgid(0, 0) < 0)
        _exit(126);
    execv(argv[0], (char *const *)(uintptr_t)argv);
    _exit(127);
}

bool harness_await_pidfd(int pidfd, int timeout_ms)
{
    struct pollfd fd = {.fd = pidfd, .events = POLLIN};
    return poll(&fd, 1, timeout_ms) == 1;
}

int harness_reap(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static bool answers(const struct harness *h)
{
    struct statfs st;
    return statfs(h->mount, &st) == 0 && st.f_type == FUSE_MAGIC;
}

/* The table of mounts says when it changes. */
bool harness_try_mount(struct harness *h, const char *const *options, int *ret_status)
{
    auto_close int mounts = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
    h->daemon = spawn_daemon(h, options);
    h->daemon_pidfd = pidfd_open(h->daemon, 0);
    struct pollfd fds[] = {{.fd = h->daemon_pidfd, .events = POLLIN},
                           {.fd = mounts, .events = POLLPRI}};
    while (!answers(h)) {
        int n = poll(fds, array_length(fds), HARNESS_DEADLINE_MS);
        if (n > 0 && fds[0].revents == 0)
            continue;
        kill(h->daemon, SIGKILL); /* changes nothing where it has ended */
        *ret_status = harness_await_end(h);
        return false;
    }
    return true;
}

void harness_mount(struct harness *h, const char *const *options)
{
    int status;
    if (!harness_try_mount(h, options, &status))
        give_up("the daemon does not answer: %s", harness_get(h, h->log));
}

int harness_await_end(struct harness *h)
{
    if (!harness_await_pidfd(h->daemon_pidfd, HARNESS_DEADLINE_MS)) {
        harness_kill(h);
        give_up("the daemon does not end");
    }
    close(steal_fd(&h->daemon_pidfd));
    int status = harness_reap(h->daemon);
    h->daemon = 0;
    return status;
}

int harness_unmount(struct harness *h)
{
    kill(h->daemon, SIGTERM);
    return harness_await_end(h);
}

void harness_kill(struct harness *h)
{
    kill(h->daemon, SIGKILL);
    harness_reap(h->daemon);
    close(steal_fd(&h->daemon_pidfd));
    h->daemon = 0;
}

static bool sanitizer_complained(const char *log)
{
    static const char *const words[] = {"AddressSanitizer", "LeakSanitizer", "ThreadSanitizer",
                                        "runtime error:"};
    char text[65536];
    auto_close int fd = open(log, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
    text[size > 0 ? size : 0] = 0;
    for (size_t i = 0; i < array_length(words); i++)
        if (strstr(text, words[i])) {
            print_error("%s", text);
            return true;
        }
    return false;
}

int harness_teardown(void **state)
{
    struct harness *h = *state;
    int status = 0;
    harness_thaw_below(h->directory);
    if (h->daemon > 0) {
        kill(h->daemon, SIGTERM);
        if (!harness_await_pidfd(h->daemon_pidfd, HARNESS_DEADLINE_MS)) {
            print_error("the daemon does not end at SIGTERM\n");
            kill(h->daemon, SIGKILL);
        }
        close(steal_fd(&h->daemon_pidfd));
        status = harness_reap(h->daemon);
        if (status != 0 && !h->tolerant)
            print_error("the daemon ended with status %d\n", status);
    }
    bool good = (status == 0 || h->tolerant) && !sanitizer_complained(h->log);
    harness_end_inside(h->directory);
    harness_end_inside(h->store);
    harness_unmount_below(h->directory);
    harness_remove_tree(h->store);
    harness_remove_tree(h->directory);
    while (h->blocks) {
        struct harness_block *block = h->blocks;
        h->blocks = block->next;
        free(block);
    }
    free(h);
    return good ? 0 : -1;
}
