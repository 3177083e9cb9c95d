/* SPDX-License-Identifier: MIT */
/*
 * hypefs-vmm: is run in the place of a VMM. It shuts itself in, and becomes the VMM, which then can
 * do little but its work, even if its guest has taken it over.
 *
 *   hypefs-vmm [OPTION]… -- PROGRAM [ARGUMENT]…
 *
 *     --ro PATH        a file or a folder, to be read
 *     --rw PATH        to be written to, too
 *     --dev PATH       the same, and it is a device or has some
 *     --ro-at PATH FILE, --rw-at PATH FILE
 *                      the same, and what is found at PATH is FILE, whatever the host has there
 *     --net            the network is the host's; else there is none
 *     --pid-fd N       where the program's pid is told, as a line; N is an open descriptor
 *     --check          shuts a process in and ends it: exits with 0 if that works here
 *
 * The program has namespaces of its own: user (with the same user in it), mount, pid, ipc, uts and,
 * without --net, network. Its / is a file system in memory that nobody can write to, with nothing
 * in it but the system's programs and libraries, a few devices, a /proc of its own, the working
 * directory, which it can write to, and what the options name. PATH may be relative to that; the
 * file or folder has the same path inside. What is named later lies over what was named before.
 * Nothing is ever made on the host.
 *
 * It has no capabilities, can get none, and system calls that a VMM does not need are refused
 * (filter.h). It leads a session, and is pid 1 of its namespace: what it has started ends with it.
 * With --pid-fd it is a child of whoever called hypefs-vmm, which ends once the pid is told; else
 * hypefs-vmm waits for it, and ends with its status.
 *
 * What cannot be done is a line on standard error, and the status 126; 127: the program cannot be
 * run.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/capability.h>

#include "confine/filter.h"

enum { CANNOT_CONFINE = 126, CANNOT_RUN = 127, PLACES_MAX = 4096 };

/* ---- what there is inside ---- */

enum access { READ, WRITE, DEVICE };
struct place {
    const char *path;   /* where it is found inside */
    const char *source; /* what lies there; NULL: the same path */
    enum access access;
    bool optional; /* not every host has it */
    bool as_link;  /* where it is a link, it is one inside, too */
    int tree;      /* what lies there, detached */
};

static const struct place system_places[] = {
    {"/usr", .optional = true},
    {"/bin", .optional = true, .as_link = true},
    {"/sbin", .optional = true, .as_link = true},
    {"/lib", .optional = true, .as_link = true},
    {"/lib32", .optional = true, .as_link = true},
    {"/lib64", .optional = true, .as_link = true},
    {"/libx32", .optional = true, .as_link = true},
    {"/nix/store", .optional = true},
    {"/gnu/store", .optional = true},
    {"/etc/alternatives", .optional = true},
    {"/etc/ld.so.cache", .optional = true},
    {"/etc/ld.so.conf", .optional = true},
    {"/etc/ld.so.conf.d", .optional = true},
    {"/etc/localtime", .optional = true, .as_link = true},
    {"/sys/devices/system/cpu", .optional = true},
    {"/sys/devices/system/node", .optional = true},
    {"/sys/kernel/mm/transparent_hugepage", .optional = true},
    {"/dev/null", .access = DEVICE},
    {"/dev/zero", .access = DEVICE},
    {"/dev/full", .access = DEVICE, .optional = true},
    {"/dev/random", .access = DEVICE, .optional = true},
    {"/dev/urandom", .access = DEVICE},
    {"/dev/kvm", .access = DEVICE, .optional = true},
};
static const struct place network_places[] = {
    {"/etc/resolv.conf", .optional = true},
    {"/dev/net/tun", .access = DEVICE, .optional = true},
    {"/dev/vhost-net", .access = DEVICE, .optional = true},
};

static struct place places[PLACES_MAX];
static size_t place_count;
static bool has_network;
static int pid_fd = -1;
static char here[PATH_MAX]; /* the working directory */

/* Where the new / is made: every host has it, and nothing of it is needed once the trees are open.
 */
static const char scratch[] = "/sys";
/* Inside, for a moment: a name that no place has. */
static const char old_root[] = "/.hypefs-vmm";

__attribute__((format(printf, 2, 3), noreturn)) static void fail(int status, const char *format,
                                                                 ...)
{
    const char *why = strerrordesc_np(errno);
    va_list arguments;
    fputs("hypefs-vmm: ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, ": %s\n", why);
    exit(status);
}

static void add_place(struct place place)
{
    errno = E2BIG;
    if (place_count == PLACES_MAX)
        fail(CANNOT_CONFINE, "%s", place.path);
    place.tree = -1;
    places[place_count++] = place;
}

static void add_table(const struct place *table, size_t count)
{
    for (size_t i = 0; i < count; i++)
        add_place(table[i]);
}

/* ---- namespaces ---- */

static void write_map(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        fail(CANNOT_CONFINE, "cannot write %s", path);
    close(fd);
}

static void make_namespaces(void)
{
    const unsigned user = geteuid(), group = getegid();
    const int flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS |
                      (has_network ? 0 : CLONE_NEWNET);
    char text[64];
    if (unshare(flags) < 0)
        fail(CANNOT_CONFINE, "cannot make namespaces");
    write_map("/proc/self/setgroups", "deny");
    snprintf(text, sizeof text, "%u %u 1", user, user);
    write_map("/proc/self/uid_map", text);
    snprintf(text, sizeof text, "%u %u 1", group, group);
    write_map("/proc/self/gid_map", text);
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

/* ---- the file system ---- */

static void open_tree_of(struct place *place)
{
    const char *source = place->source ? place->source : place->path;
    struct mount_attr attributes = {.attr_set = MOUNT_ATTR_NOSUID};
    struct stat st;
    if (lstat(source, &st) == 0 && S_ISLNK(st.st_mode) && place->as_link)
        return; /* it is made anew */
    /* What is in the working directory may be an earlier VMM's, which must not choose for this one
     * what of the host it sees. */
    place->tree = open_tree(AT_FDCWD, source,
                            OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE |
                                (source[0] == '/' ? 0 : AT_SYMLINK_NOFOLLOW));
    if (place->tree < 0 && errno == ENOENT && place->optional)
        return;
    if (place->tree >= 0 && fstat(place->tree, &st) == 0 && S_ISLNK(st.st_mode)) {
        errno = ELOOP;
        fail(CANNOT_CONFINE, "%s", source);
    }
    /* Devices can be written to all the same; but they cannot be given another mode. */
    if (place->access != WRITE)
        attributes.attr_set |= MOUNT_ATTR_RDONLY;
    if (place->access != DEVICE)
        attributes.attr_set |= MOUNT_ATTR_NODEV;
    if (place->access == WRITE)
        attributes.attr_set |= MOUNT_ATTR_NOEXEC;
    if (place->tree < 0 || mount_setattr(place->tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes,
                                         sizeof attributes) < 0)
        fail(CANNOT_CONFINE, "%s", source);
}

static dev_t new_device;

/* Nothing is made but in the new /: a name that leads elsewhere is one that the host has. */
static bool may_make(const char *directory)
{
    struct stat st;
    if (stat(directory, &st) < 0)
        return false;
    errno = EXDEV;
    return st.st_dev == new_device;
}

/* The directories on the way to the last part of a path. */
static void make_way(char *path)
{
    for (char *slash = strchr(path + sizeof scratch, '/'); slash; slash = strchr(slash + 1, '/')) {
        struct stat st;
        *slash = 0;
        if (stat(path, &st) < 0) {
            char *last = strrchr(path, '/');
            *last = 0;
            bool may = may_make(path);
            *last = '/';
            if (!may || mkdir(path, 0755) < 0)
                fail(CANNOT_CONFINE, "cannot make %s", path + sizeof scratch - 1);
        }
        *slash = '/';
    }
}

static void make_target(char *path, bool is_directory)
{
    struct stat st;
    make_way(path);
    if (stat(path, &st) == 0)
        return;
    char *last = strrchr(path, '/');
    *last = 0;
    bool may = may_make(path);
    *last = '/';
    int fd = may && !is_directory ? open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600) : -1;
    if (!may || (is_directory ? mkdir(path, 0755) : fd) < 0)
        fail(CANNOT_CONFINE, "cannot make %s", path + sizeof scratch - 1);
    if (fd >= 0)
        close(fd);
}

static void make_link(const char *from, char *path)
{
    char target[PATH_MAX];
    ssize_t size = readlink(from, target, sizeof target - 1);
    if (size < 0)
        return;
    target[size] = 0;
    make_way(path);
    if (symlink(target, path) < 0)
        fail(CANNOT_CONFINE, "cannot make the link %s", from);
}

static void put(struct place *place)
{
    char path[2 * PATH_MAX + sizeof scratch];
    struct stat st;
    bool relative = place->path[0] != '/';
    snprintf(path, sizeof path, "%s%s%s%s", scratch, relative ? here : "", relative ? "/" : "",
             place->path);
    if (place->tree < 0) {
        make_link(place->path, path);
        return;
    }
    if (fstat(place->tree, &st) < 0)
        fail(CANNOT_CONFINE, "%s", place->path);
    make_target(path, S_ISDIR(st.st_mode));
    if (move_mount(place->tree, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        fail(CANNOT_CONFINE, "cannot put %s where the program finds it", place->path);
    close(place->tree);
}

/* Of the new pid namespace. A host that hides parts of its own /proc (in a container) allows none:
 * then there is none. */
static void put_proc(void)
{
    char path[64];
    snprintf(path, sizeof path, "%s/proc", scratch);
    if (mkdir(path, 0755) < 0)
        fail(CANNOT_CONFINE, "cannot make /proc");
    mount("proc", path, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, NULL);
}

/* The first process's / cannot be exchanged where that is the kernel's own (an initramfs). */
static void change_root(void)
{
    char old[64];
    snprintf(old, sizeof old, "%s%s", scratch, old_root);
    if (!may_make(scratch) || mkdir(old, 0700) < 0)
        fail(CANNOT_CONFINE, "cannot make a directory");
    if (syscall(SYS_pivot_root, scratch, old) == 0) {
        if (umount2(old_root, MNT_DETACH) < 0 || rmdir(old_root) < 0)
            fail(CANNOT_CONFINE, "cannot leave the host's /");
        return;
    }
    if (errno != EINVAL || rmdir(old) < 0 || chdir(scratch) < 0 ||
        mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0)
        fail(CANNOT_CONFINE, "cannot replace /");
}

static void make_root(void)
{
    struct mount_attr closed = {.attr_set = MOUNT_ATTR_RDONLY};
    struct stat st;
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        fail(CANNOT_CONFINE, "cannot keep mounts from the host");
    for (size_t i = 0; i < place_count; i++)
        open_tree_of(&places[i]);
    if (mount("hypefs-vmm", scratch, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755") < 0 ||
        stat(scratch, &st) < 0)
        fail(CANNOT_CONFINE, "cannot make a file system in memory");
    new_device = st.st_dev;
    put_proc();
    for (size_t i = 0; i < place_count; i++)
        put(&places[i]);
    change_root();
    if (mount_setattr(AT_FDCWD, "/", 0, &closed, sizeof closed) < 0)
        fail(CANNOT_CONFINE, "cannot close the file system in memory");
}

/* Standard input was opened on the host, whose device it would be. */
static void open_null(void)
{
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (fd < 0 || dup2(fd, STDIN_FILENO) < 0)
        fail(CANNOT_CONFINE, "/dev/null");
}

/* ---- rights ---- */

/* Those that the user namespace has given: root there would get them back by an exec. */
static void drop_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};
    for (int i = 0; prctl(PR_CAPBSET_READ, i, 0, 0, 0) >= 0; i++)
        if (prctl(PR_CAPBSET_DROP, i, 0, 0, 0) < 0)
            fail(CANNOT_CONFINE, "cannot drop capabilities");
    if (syscall(SYS_capset, &header, none) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        fail(CANNOT_CONFINE, "cannot drop capabilities");
}

/* ---- arguments ---- */

__attribute__((noreturn)) static void misuse(void)
{
    fputs("usage: hypefs-vmm [--ro PATH] [--rw PATH] [--dev PATH] [--ro-at PATH FILE] "
          "[--rw-at PATH FILE] [--net] [--pid-fd N] -- PROGRAM [ARGUMENT]…\n"
          "       hypefs-vmm --check\n",
          stderr);
    exit(CANNOT_CONFINE);
}

static const struct option {
    const char *name;
    int values;
    struct place place;
} options[] = {
    {"--ro", 1, {.access = READ}},     {"--rw", 1, {.access = WRITE}},
    {"--dev", 1, {.access = DEVICE}},  {"--ro-at", 2, {.access = READ}},
    {"--rw-at", 2, {.access = WRITE}},
};

/* How many arguments were read; 0: it is none of these. */
static int read_place(char **argv, int left)
{
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        struct place place = options[i].place;
        if (strcmp(argv[0], options[i].name) != 0 || left <= options[i].values)
            continue;
        place.path = argv[1];
        place.source = options[i].values > 1 ? argv[2] : NULL;
        add_place(place);
        return 1 + options[i].values;
    }
    return 0;
}

/* Returns the program and its arguments; NULL: --check. */
static char **read_arguments(int argc, char **argv)
{
    int i = 1;
    while (i < argc && strcmp(argv[i], "--") != 0) {
        int read = read_place(&argv[i], argc - i);
        if (read > 0) {
            i += read;
        } else if (strcmp(argv[i], "--net") == 0) {
            has_network = true;
            i++;
        } else if (strcmp(argv[i], "--pid-fd") == 0 && i + 1 < argc) {
            pid_fd = atoi(argv[i + 1]);
            i += 2;
        } else if (strcmp(argv[i], "--check") == 0 && i + 1 == argc) {
            return NULL;
        } else {
            misuse();
        }
    }
    if (i + 1 >= argc)
        misuse();
    return &argv[i + 1];
}

int main(int argc, char **argv)
{
    add_table(system_places, sizeof system_places / sizeof *system_places);
    if (!getcwd(here, sizeof here))
        here[0] = 0;
    if (here[0] == '/' && here[1])
        add_place((struct place){.path = here, .access = WRITE});
    char **program = read_arguments(argc, argv);
    errno = ENOENT;
    if (!program)
        place_count = sizeof system_places / sizeof *system_places;
    else if (here[0] != '/' || !here[1])
        fail(CANNOT_CONFINE, "a program cannot be shut in in the working directory \"%s\"", here);
    if (has_network)
        add_table(network_places, sizeof network_places / sizeof *network_places);
    make_namespaces();
    if (program)
        become_first();
    if (pid_fd >= 0)
        close(pid_fd);
    if (program && setsid() < 0)
        fail(CANNOT_CONFINE, "cannot make a session");
    make_root();
    open_null();
    if (program && chdir(here) < 0)
        fail(CANNOT_CONFINE, "%s", here);
    drop_capabilities();
    if (filter_install() < 0)
        fail(CANNOT_CONFINE, "cannot filter system calls");
    if (!program)
        return 0;
    execvp(program[0], program);
    fail(CANNOT_RUN, "%s", program[0]);
}
