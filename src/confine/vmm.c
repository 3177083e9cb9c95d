/* SPDX-License-Identifier: MIT */
/*
 * hypefs-vmm: is run in the place of a VMM. It shuts itself in, and becomes the VMM, which then can
 * do little but its work, even if its guest has taken it over.
 *
 *   hypefs-vmm [OPTION]… -- PROGRAM [ARGUMENT]…
 *
 *     --ro PATH        a file or a folder, to be read
 *     --rw PATH        to be written to, too
 *     --dev PATH       a device, to be read
 *     --ro-at PATH FILE, --rw-at PATH FILE
 *                      the same, and what is found at PATH is FILE, whatever the host has there
 *     --net            the network is the host's; else there is none
 *     --user UID:GID   the program's user and group, which are not root; by root only. Files that
 *                      the options name, and those that it makes, are this user's for the program,
 *                      and whose they were on the disk (idmap.h); devices are this user's
 *     --no-namespaces  for hosts where there can be none: by Landlock and the filter alone
 *     --tap NAME       with --net: a tap of the host's, which becomes that user's
 *     --own-tap NAME   without --net: a tap in the program's own network, from which nothing leads
 *                      anywhere; NAME may be "": only the device by which taps are opened
 *     --pid-fd N       where the program's pid is told, as a line; N is an open descriptor
 *     --keep-fd N      a descriptor that the program has. With one of these it has, but for the
 *                      standard ones, no others; else those that it is started with
 *     --check          shuts a process in and ends it: exits with 0 if that works here, and in
 *                      this working directory, and prints "landlock N", its version, or 0
 *
 * The program has namespaces of its own: user (with its user alone in it), mount, pid, ipc, uts
 * and, without --net, network. Its / is a file system in memory that nobody can write to, with
 * nothing in it but the system's programs and libraries, a few devices, a /proc of its own, the
 * working directory, which it can write to, and what the options name. PATH may be relative to
 * that; the file or folder has the same path inside. What is named later lies over what was named
 * before. Nothing is ever made on the host.
 *
 * It has no capabilities, can get none, and system calls that a VMM does not need are refused
 * (filter.h). Landlock is a second wall around its files, if the kernel has it (landlock.h). It
 * leads a session, and is pid 1 of its namespace: what it has started ends with it. With --pid-fd
 * it is a child of whoever called hypefs-vmm, which ends once the pid is told; else hypefs-vmm
 * waits for it, and ends with its status.
 *
 * What cannot be done is a line on standard error, and the status 126; 127: the program cannot be
 * run.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "confine/fail.h"
#include "confine/filter.h"
#include "confine/landlock.h"
#include "confine/places.h"

enum { TAPS_MAX = 64, KEPT_MAX = 32 };

static bool has_network, alone;
static int pid_fd = -1;
static char here[PATH_MAX]; /* the working directory */
static struct ids user;     /* uid 0: none is given */
static struct taps {
    const char *names[TAPS_MAX];
    int count;
} taps, own_taps;
static int kept[KEPT_MAX], kept_count; /* descriptors, in order */

/* ---- namespaces ---- */

static int open_process(void)
{
    int fd = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        fail(CANNOT_CONFINE, "/proc/self");
    return fd;
}

/* Only then may an ordinary user say who the groups are (user_namespaces(7)). */
static void deny_groups(int process)
{
    static const char deny[] = "deny";
    int fd = openat(process, "setgroups", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, deny, strlen(deny)) < 0)
        fail(CANNOT_CONFINE, "cannot write /proc/self/setgroups");
    close(fd);
}

/* Who is to become another user makes one of users last (make_user_namespace()): mounts that show
 * files as that user's need the rights of the host's root. */
static void make_namespaces(void)
{
    const struct ids own = {geteuid(), getegid()};
    const int flags = (user.uid ? 0 : CLONE_NEWUSER) | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC |
                      CLONE_NEWUTS | (has_network ? 0 : CLONE_NEWNET);
    if (unshare(flags) < 0)
        fail(CANNOT_CONFINE, "cannot make namespaces");
    if (user.uid)
        return;
    int process = open_process();
    deny_groups(process);
    if (!idmap_write(process, own, own))
        fail(CANNOT_CONFINE, "cannot write /proc/self/uid_map and gid_map");
    close(process);
}

__attribute__((noreturn)) static void end_as(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            fail(CANNOT_CONFINE, "cannot wait for the program");
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

/* The child is the first in its pid namespace. Returns in the child. */
static void become_first(void)
{
    char line[16], go;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        fail(CANNOT_CONFINE, "cannot make a pipe");
    long pid =
        syscall(SYS_clone, pid_fd >= 0 ? CLONE_PARENT | SIGCHLD : SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid < 0)
        fail(CANNOT_CONFINE, "cannot make a process");
    if (pid == 0) {
        /* Nobody would know of it if hypefs-vmm were ended before it has told. */
        close(ends[1]);
        if (read(ends[0], &go, 1) != 1)
            _exit(CANNOT_CONFINE);
        close(ends[0]);
        return;
    }
    int size = snprintf(line, sizeof line, "%ld\n", pid);
    if ((pid_fd >= 0 && write(pid_fd, line, (size_t)size) != size) || write(ends[1], "", 1) != 1)
        _exit(CANNOT_CONFINE);
    if (pid_fd < 0)
        end_as((pid_t)pid);
    _exit(0);
}

/* Standard input was opened on the host, whose device it would be. */
static void open_null(void)
{
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (fd < 0 || dup2(fd, STDIN_FILENO) < 0)
        fail(CANNOT_CONFINE, "/dev/null");
}

/* ---- rights ---- */

/* In the namespace before, whose root may say who is whom in the next. */
__attribute__((noreturn)) static void map_user(int process, int go)
{
    char byte;
    _exit(read(go, &byte, 1) == 1 && idmap_write(process, user, user) ? 0 : 1);
}

/* It is root's, and has that user alone in it: others who are the same user reach nothing of the
 * program by /proc, where its files are its own. `process`: ours, in the host's /proc. */
static void make_user_namespace(int process)
{
    int ends[2], status;
    if (pipe2(ends, O_CLOEXEC) < 0)
        fail(CANNOT_CONFINE, "cannot make a pipe");
    pid_t helper = fork();
    if (helper == 0)
        map_user(process, ends[0]);
    if (helper < 0 || unshare(CLONE_NEWUSER) < 0 || write(ends[1], "", 1) != 1)
        fail(CANNOT_CONFINE, "cannot make a namespace for the user %u", user.uid);
    close(ends[0]);
    close(ends[1]);
    close(process);
    errno = EPERM;
    if (waitpid(helper, &status, 0) < 0 || status != 0)
        fail(CANNOT_CONFINE, "cannot make a namespace for the user %u", user.uid);
}

static void change_user(void)
{
    if (setgroups(0, NULL) < 0 || setresgid(user.gid, user.gid, user.gid) < 0 ||
        setresuid(user.uid, user.uid, user.uid) < 0)
        fail(CANNOT_CONFINE, "cannot become the user %u", user.uid);
}

/* Those that the user namespace has given, or root's: root would get them back by an exec. */
static void drop_rights(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};
    for (int i = 0; prctl(PR_CAPBSET_READ, i, 0, 0, 0) >= 0; i++)
        if (prctl(PR_CAPBSET_DROP, i, 0, 0, 0) < 0 && !alone) /* then an exec gives none */
            fail(CANNOT_CONFINE, "cannot drop capabilities");
    if (user.uid)
        change_user();
    if (syscall(SYS_capset, &header, none) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        fail(CANNOT_CONFINE, "cannot drop capabilities");
}

/* `ret` is open then; false: it is not to be had. */
static bool open_tap(const char *name, int *ret)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    *ret = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (*ret < 0)
        fail(CANNOT_CONFINE, "/dev/net/tun");
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    return ioctl(*ret, TUNSETIFF, &request) == 0;
}

/* As long as another process has it open, it stays whose it is, and the program says so. */
static void give_tap(const char *name)
{
    int fd;
    if (!if_nametoindex(name))
        return;
    if (open_tap(name, &fd) && ioctl(fd, TUNSETOWNER, (unsigned long)user.uid) < 0)
        fail(CANNOT_CONFINE, "cannot give the tap %s to the user %u", name, user.uid);
    close(fd);
}

/* In the new network, with which it goes. */
static void make_tap(const char *name)
{
    const uid_t owner = user.uid ? user.uid : geteuid();
    int fd;
    if (!open_tap(name, &fd) || ioctl(fd, TUNSETOWNER, (unsigned long)owner) < 0 ||
        ioctl(fd, TUNSETPERSIST, 1) < 0)
        fail(CANNOT_CONFINE, "cannot make the tap %s", name);
    close(fd);
}

/* ---- arguments ---- */

__attribute__((noreturn)) static void misuse(void)
{
    fputs(
        "usage: hypefs-vmm [OPTION]… -- PROGRAM [ARGUMENT]…\n"
        "       hypefs-vmm [--no-namespaces] [--user UID:GID] --check\n"
        "options: --ro PATH, --rw PATH, --dev PATH, --ro-at PATH FILE, --rw-at PATH FILE, --net,\n"
        "         --tap NAME, --own-tap NAME, --user UID:GID, --no-namespaces, --pid-fd N,\n"
        "         --keep-fd N\n",
        stderr);
    exit(CANNOT_CONFINE);
}

static void read_user(const char *text)
{
    int end = 0;
    if (sscanf(text, "%u:%u%n", &user.uid, &user.gid, &end) != 2 || text[end] || !user.uid ||
        !user.gid)
        misuse();
}

static void add_tap(struct taps *to, const char *name)
{
    if (to->count == TAPS_MAX)
        misuse();
    to->names[to->count++] = name;
}

static void read_tap(const char *name)
{
    add_tap(&taps, name);
}

static void read_own_tap(const char *name)
{
    add_tap(&own_taps, name);
}

static int read_descriptor(const char *text)
{
    int ret, end = 0;
    if (sscanf(text, "%d%n", &ret, &end) != 1 || text[end] || ret <= STDERR_FILENO)
        misuse();
    return ret;
}

static void read_pid_fd(const char *text)
{
    pid_fd = read_descriptor(text);
}

static void read_kept_fd(const char *text)
{
    const int fd = read_descriptor(text);
    int at = kept_count;
    if (kept_count == KEPT_MAX)
        misuse();
    for (; at > 0 && kept[at - 1] > fd; at--)
        kept[at] = kept[at - 1];
    kept[at] = fd;
    kept_count++;
}

static const struct {
    const char *name;
    void (*read)(const char *value);
} options_with_value[] = {
    {"--user", read_user},     {"--tap", read_tap},         {"--own-tap", read_own_tap},
    {"--pid-fd", read_pid_fd}, {"--keep-fd", read_kept_fd},
};

/* Returns how many arguments it takes; 0: it is none of these. */
static int read_option_with_value(char **argv, int count)
{
    const size_t options = sizeof options_with_value / sizeof *options_with_value;
    for (size_t i = 0; i < options && count > 1; i++)
        if (strcmp(argv[0], options_with_value[i].name) == 0) {
            options_with_value[i].read(argv[1]);
            return 2;
        }
    return 0;
}

/* Returns the program and its arguments; NULL: --check. */
static char **read_arguments(int argc, char **argv)
{
    int i = 1;
    while (i < argc && strcmp(argv[i], "--") != 0) {
        int read = places_read_option(&argv[i], argc - i);
        if (read == 0)
            read = read_option_with_value(&argv[i], argc - i);
        if (read > 0) {
            i += read;
        } else if (strcmp(argv[i], "--net") == 0) {
            has_network = true;
            i++;
        } else if (strcmp(argv[i], "--no-namespaces") == 0) {
            alone = true;
            i++;
        } else if (strcmp(argv[i], "--check") == 0 && i + 1 == argc) {
            break;
        } else {
            misuse();
        }
    }
    if (alone && user.uid) /* whose files would they be? */
        misuse();
    if (own_taps.count > 0 && (alone || has_network))
        misuse();
    if (i < argc && strcmp(argv[i], "--check") == 0)
        return NULL;
    if (i + 1 >= argc)
        misuse();
    return &argv[i + 1];
}

/* A container may refuse the call that is made for that. */
static void close_all(unsigned first, unsigned last)
{
    struct rlimit limit;
    if (first > last || syscall(SYS_close_range, first, last, 0) == 0)
        return;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        fail(CANNOT_CONFINE, "cannot close descriptors");
    for (unsigned fd = first; fd <= last && fd < limit.rlim_max; fd++)
        close((int)fd);
}

/* Whoever has called has thousands, maybe: to name each is what takes long there. */
static void close_others(void)
{
    unsigned next = STDERR_FILENO + 1;
    for (int i = 0; i < kept_count; i++) {
        close_all(next, (unsigned)kept[i] - 1);
        next = (unsigned)kept[i] + 1;
    }
    if (kept_count > 0)
        close_all(next, ~0U);
}

/* `process`: with another user only. */
static void restrict_self(int process)
{
    const bool has_landlock = landlock_version() > 0;
    if (has_landlock || alone) {
        landlock_begin(has_network);
        places_allow(!alone);
    }
    if (user.uid)
        make_user_namespace(process);
    drop_rights();
    if (user.uid)
        places_check(&user);
    if (has_landlock)
        landlock_end();
    const bool is_on_network = has_network && taps.count == 0;
    if (filter_install(!alone          ? FILTER_NAMESPACES
                       : is_on_network ? FILTER_ALONE_ON_NETWORK
                                       : FILTER_ALONE) < 0)
        fail(CANNOT_CONFINE, "cannot filter system calls");
}

int main(int argc, char **argv)
{
    if (!getcwd(here, sizeof here))
        here[0] = 0;
    const bool is_somewhere = here[0] == '/' && here[1];
    places_add_system();
    if (is_somewhere)
        places_add_here(here);
    char **program = read_arguments(argc, argv);
    close_others();
    errno = ENOENT;
    if (program && !is_somewhere)
        fail(CANNOT_CONFINE, "a program cannot be shut in in the working directory \"%s\"", here);
    if (has_network)
        places_add_network();
    if (own_taps.count > 0)
        places_add_tun();
    for (int i = 0; i < taps.count && user.uid; i++)
        give_tap(taps.names[i]);
    if (!alone)
        make_namespaces();
    for (int i = 0; i < own_taps.count; i++)
        if (own_taps.names[i][0])
            make_tap(own_taps.names[i]);
    become_first();
    if (pid_fd >= 0)
        close(pid_fd);
    if (program && setsid() < 0)
        fail(CANNOT_CONFINE, "cannot make a session");
    int process = user.uid ? open_process() : -1;
    if (!alone)
        places_make_root(here, user.uid ? &user : NULL);
    open_null();
    if (!alone && is_somewhere && chdir(here) < 0)
        fail(CANNOT_CONFINE, "%s", here);
    restrict_self(process);
    if (!program)
        return printf("landlock %d\n", landlock_version()) < 0;
    execvp(program[0], program);
    fail(CANNOT_RUN, "%s", program[0]);
}
