/* SPDX-License-Identifier: MIT */
#include "guest/manager.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/internal.h"

extern char **environ;

enum { PATH_SIZE = 256, LOOK_EVERY_MS = 10 };

struct target {
    const char *root, *interface;
    int index;
    int64_t deadline_ms; /* of all managers together */
};

/* Not below 0, by which poll() would wait for ever. */
static int left_ms(const struct target *target)
{
    int64_t left = target->deadline_ms - guest_now_ms();
    return left > 0 ? (int)left : 0;
}

/* A unit of systemd that runs has a control group. */
static bool is_running(const char *root, const char *unit)
{
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/sys/fs/cgroup/system.slice/%s.service", root, unit);
    return access(path, F_OK) == 0;
}

static int spawn(const char *const *argv, pid_t *ret)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;

    sigemptyset(&none);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setsigmask(&attributes, &none);
    int r =
        posix_spawnp(ret, argv[0], &actions, &attributes, (char *const *)(uintptr_t)argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return -r;
}

/* 0 if it ended with exit status 0. */
static int run_tool(const struct target *target, const char *const *argv)
{
    pid_t pid;
    int status = 0, r = spawn(argv, &pid);
    if (r < 0)
        return r;
    struct pollfd end = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
    int n = 0;
    while (end.fd >= 0 && (n = poll(&end, 1, left_ms(target))) < 0 && errno == EINTR)
        ;
    if (end.fd >= 0)
        close(end.fd);
    if (n <= 0)
        kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (n <= 0)
        return -ETIMEDOUT;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

/* ---- systemd-networkd: a file that says so, before all others ---- */

static bool networkd_has_released(const struct target *target)
{
    char path[PATH_SIZE], line[PATH_SIZE];
    bool released = true;
    snprintf(path, sizeof path, "%s/run/systemd/netif/links/%d", target->root, target->index);
    FILE *file = fopen(path, "re");
    if (!file)
        return true; /* it does not know the interface */
    while (fgets(line, sizeof line, file))
        if (strncmp(line, "ADMIN_STATE=", strlen("ADMIN_STATE=")) == 0)
            released = strcmp(line, "ADMIN_STATE=unmanaged\n") == 0;
    fclose(file);
    return released;
}

static int write_networkd_file(const struct target *target)
{
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/run/systemd/network", target->root);
    if (mkdir(path, 0755) < 0 && errno != EEXIST)
        return -errno;
    snprintf(path, sizeof path, "%s/run/systemd/network/00-hypefs-%s.network", target->root,
             target->interface);
    FILE *file = fopen(path, "we");
    if (!file)
        return -errno;
    int r = fprintf(file, "[Match]\nName=%s\n[Link]\nUnmanaged=yes\n", target->interface) < 0 ? -EIO
                                                                                              : 0;
    return fclose(file) != 0 && r == 0 ? -errno : r;
}

static int release_from_networkd(const struct target *target)
{
    if (networkd_has_released(target))
        return 0;
    int r = write_networkd_file(target);
    if (r == 0)
        r = run_tool(target, (const char *[]){"networkctl", "reload", NULL});
    /* The tool does not wait for it. */
    while (r == 0 && !networkd_has_released(target)) {
        if (left_ms(target) == 0)
            return -ETIMEDOUT;
        poll(NULL, 0, LOOK_EVERY_MS);
    }
    return r;
}

/* ---- NetworkManager ---- */

static int release_from_network_manager(const struct target *target)
{
    return run_tool(target, (const char *[]){"nmcli", "device", "set", target->interface, "managed",
                                             "no", NULL});
}

static const struct {
    const char *unit;
    int (*release)(const struct target *target);
} managers[] = {
    {"systemd-networkd", release_from_networkd},
    {"NetworkManager", release_from_network_manager},
};

int manager_release(const char *root, const char *interface, int index, int patience_ms)
{
    const struct target target = {.root = root,
                                  .interface = interface,
                                  .index = index,
                                  .deadline_ms = guest_now_ms() + patience_ms};
    int r = 0;
    for (size_t i = 0; i < sizeof managers / sizeof managers[0] && r == 0; i++)
        if (is_running(root, managers[i].unit))
            r = managers[i].release(&target);
    return r;
}
