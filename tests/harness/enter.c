/* SPDX-License-Identifier: MIT */
/* enter: the surroundings of a test program, and the keeper that takes them away again. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <linux/fs.h>
#include <mntent.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness/internal.h"
#include "util/cleanup.h"

enum { FUSE_MAJOR = 10, FUSE_MINOR = 229, OPEN_TO_ALL = 0666, DESCRIPTORS_MAX = 16 };

static const char base_variable[] = "HYPEFS_TEST_BASE";

const char *harness_base(void)
{
    return getenv(base_variable);
}

__attribute__((noreturn)) static void skip_all(const char *why)
{
    printf("1..0 # SKIP %s\n", why);
    fflush(stdout);
    _exit(HARNESS_SKIPPED);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    (void)st;
    (void)type;
    (void)walk;
    remove(path);
    return 0;
}

void harness_remove_tree(const char *directory)
{
    nftw(directory, remove_one, DESCRIPTORS_MAX, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

static bool is_below(const char *path, const char *directory)
{
    size_t size = strlen(directory);
    return strncmp(path, directory, size) == 0 && (path[size] == '/' || path[size] == 0);
}

/* The last one mounted below, or NULL. Returns owned. */
static char *find_mount(const char *directory)
{
    char *found = NULL;
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    for (const struct mntent *entry; mounts && (entry = getmntent(mounts));)
        if (is_below(entry->mnt_dir, directory)) {
            free(found);
            found = strdup(entry->mnt_dir);
        }
    if (mounts)
        endmntent(mounts);
    return found;
}

static void unmount_as_user(const char *path)
{
    pid_t child = fork();
    if (child == 0) {
        execlp("fusermount3", "fusermount3", "-u", "-z", "--", path, (char *)NULL);
        _exit(127);
    }
    if (child > 0)
        waitpid(child, NULL, 0);
}

void harness_unmount_below(const char *directory)
{
    enum { TRIES = 100 }; /* mounts of one program */
    for (int i = 0; i < TRIES; i++) {
        auto_free char *path = find_mount(directory);
        if (!path)
            return;
        if (umount2(path, MNT_DETACH) < 0)
            unmount_as_user(path);
    }
}

void harness_thaw_below(const char *directory)
{
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    for (const struct mntent *entry; mounts && (entry = getmntent(mounts));) {
        if (!is_below(entry->mnt_dir, directory) || strcmp(entry->mnt_type, "ext4") != 0)
            continue;
        auto_close int fd = open(entry->mnt_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ioctl(fd, FITHAW, 0); /* EINVAL of the others */
    }
    if (mounts)
        endmntent(mounts);
}

static void end_one(const char *pid, const char *directory)
{
    char link[64], cwd[4096];
    snprintf(link, sizeof link, "/proc/%.20s/cwd", pid);
    auto_close int pidfd = pidfd_open(atoi(pid), 0);
    ssize_t size = pidfd >= 0 ? readlink(link, cwd, sizeof cwd - 1) : -1;
    if (size <= 0)
        return;
    cwd[size] = 0;
    if (is_below(cwd, directory) && pidfd_send_signal(pidfd, SIGKILL, NULL, 0) == 0)
        harness_await_pidfd(pidfd, HARNESS_DEADLINE_MS);
}

void harness_end_inside(const char *directory)
{
    auto_closedir DIR *proc = opendir("/proc");
    for (struct dirent *entry; proc && (entry = readdir(proc));)
        if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' && atoi(entry->d_name) != getpid())
            end_one(entry->d_name, directory);
}

/* Children, and what was orphaned by them. */
static void kill_children(void)
{
    char path[64], list[4096];
    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    for (;;) {
        auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t size = fd >= 0 ? read(fd, list, sizeof list - 1) : 0;
        list[size > 0 ? size : 0] = 0;
        char *end = list;
        for (long pid; (pid = strtol(end, &end, 10)) > 0;)
            kill((pid_t)pid, SIGKILL);
        if (size <= 0 || waitpid(-1, NULL, 0) < 0)
            return;
    }
}

/* Waits for the tests, or until it is told to end. */
static int keep(pid_t worker, const sigset_t *signals)
{
    for (;;) {
        int status, number;
        if (sigwait(signals, &number) != 0)
            continue;
        if (number != SIGCHLD)
            return 128 + number;
        for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
            if (pid == worker)
                return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
}

/* Returns in the child. */
static void leave_keeper(void)
{
    sigset_t signals, before;
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    sigprocmask(SIG_BLOCK, &signals, &before);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    fflush(NULL);
    pid_t worker = fork();
    if (worker == 0) {
        sigprocmask(SIG_SETMASK, &before, NULL);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        return;
    }
    int status = worker > 0 ? keep(worker, &signals) : 1;
    harness_thaw_below(harness_base());
    kill_children();
    harness_unmount_below(harness_base());
    harness_remove_tree(harness_base());
    _exit(status);
}

static void make_base(uid_t uid)
{
    char path[256];
    const char *parent = getenv("TMPDIR");
    snprintf(path, sizeof path, "%.200s/hypefs-test-XXXXXX", parent ? parent : "/tmp");
    if (!mkdtemp(path) || (uid != geteuid() && chown(path, uid, (gid_t)uid) < 0)) {
        perror("cannot make a directory for the test");
        _exit(1);
    }
    setenv(base_variable, path, 1);
}

/* A device that everyone may open, where the host's is root's alone. */
static void open_fuse_to_all(void)
{
    struct stat st;
    char node[300];
    if (stat("/dev/fuse", &st) == 0 && (st.st_mode & OPEN_TO_ALL) == OPEN_TO_ALL)
        return;
    snprintf(node, sizeof node, "%s/fuse", harness_base());
    if (mknod(node, S_IFCHR | OPEN_TO_ALL, makedev(FUSE_MAJOR, FUSE_MINOR)) < 0 ||
        chmod(node, OPEN_TO_ALL) < 0 || mount(node, "/dev/fuse", NULL, MS_BIND, NULL) < 0)
        skip_all("/dev/fuse is root's alone, and no node for users can be laid over it");
    unlink(node);
}

/* Lays the file at `from` over a new one below the base. */
static bool bring_file(const char *from, const char *path)
{
    auto_close int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
    return fd >= 0 && mount(from, path, NULL, MS_BIND, NULL) == 0;
}

/* Files that tests find by variables may lie where only root can go, too. */
static void bring_files(void)
{
    static const char *const variables[] = {"HYPEFS_NO_FILES", "HYPEFS_SLOW_DISK",
                                            "HYPEFS_SLOW_QEMU", "HYPEFS_ATTACK", "FAKE_FIRECRACKER",
                                            "FAKE_CLOUD_HYPERVISOR"};
    for (size_t i = 0; i < array_length(variables); i++) {
        char path[300];
        const char *from = getenv(variables[i]);
        snprintf(path, sizeof path, "%s/%s", harness_base(), variables[i]);
        if (!from)
            continue;
        if (!bring_file(from, path))
            skip_all("a file of the tests cannot be laid where an ordinary user can read it");
        setenv(variables[i], path, 1);
    }
}

/* What a build for coverage counts, an ordinary user cannot write into root's build folder. It has
 * a folder of its own beside, open to all, which may lie where only root can go. */
static void bring_coverage(void)
{
    char path[300];
    const char *folder = getenv("HYPEFS_TEST_COVERAGE");
    if (!folder)
        return;
    snprintf(path, sizeof path, "%s/coverage", harness_base());
    if ((mkdir(folder, 0700) < 0 && errno != EEXIST) || chmod(folder, 01777) < 0 ||
        mkdir(path, 0700) < 0 || mount(folder, path, NULL, MS_BIND, NULL) < 0)
        skip_all("there is no place for what the user's programs count");
    setenv("GCOV_PREFIX", path, 1);
}

/* What hypefs looks for from where it lies itself: in the build folder, and installed. */
static bool bring_beside(const char *program)
{
    static const char *const files[] = {"preload/hypefs-readonly.so", "confine/hypefs-vmm"};
    const char *slash = strrchr(program, '/');
    char from[600], to[400];
    bool brought = true;
    for (size_t i = 0; i < array_length(files); i++) {
        snprintf(from, sizeof from, "%.*s/../%s", (int)(slash ? slash - program : 0), program,
                 files[i]);
        snprintf(to, sizeof to, "%s/libexec/hypefs/%s", harness_base(), strrchr(files[i], '/') + 1);
        brought = bring_file(from, to) && brought;
    }
    return brought;
}

/* The program under test may lie where only root can go. It is brought as if it were installed. */
static void bring_program(void)
{
    static const char *const folders[] = {"bin", "libexec", "libexec/hypefs"};
    char path[300];
    const char *program = getenv("HYPEFS");
    for (size_t i = 0; i < array_length(folders); i++) {
        snprintf(path, sizeof path, "%s/%s", harness_base(), folders[i]);
        mkdir(path, 0755);
    }
    snprintf(path, sizeof path, "%s/bin/hypefs", harness_base());
    if (!bring_file(program, path) || !bring_beside(program))
        skip_all("the program cannot be laid where an ordinary user can run it");
    setenv("HYPEFS", path, 1);
}

static void become(uid_t uid)
{
    if (setgroups(0, NULL) < 0 || setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0) {
        perror("cannot become the user of HYPEFS_TEST_UID");
        _exit(1);
    }
    /* Changing users took both away. */
    prctl(PR_SET_DUMPABLE, 1);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

void harness_enter(void)
{
    harness_enter_with(NULL);
}

void harness_enter_with(const char *(*prepare)(const char *base))
{
    const char *text = getenv("HYPEFS_TEST_UID");
    /* A shell that runs the tests in the background has these ignored, or nohup. */
    signal(SIGINT, SIG_DFL);
    signal(SIGQUIT, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    uid_t uid = text ? (uid_t)strtoul(text, NULL, 10) : geteuid();
    if (text && geteuid() != 0)
        skip_all("this is an ordinary user already, for whom the test runs without this too");
    bool isolated = geteuid() == 0 && unshare(CLONE_NEWNS) == 0 &&
                    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
    if (!getenv("HYPEFS")) {
        fputs("HYPEFS does not name the program under test\n", stderr);
        _exit(1);
    }
    if (access("/dev/fuse", F_OK) < 0)
        skip_all("there is no /dev/fuse");
    if (uid != geteuid() && !isolated)
        skip_all("only root with mount namespaces can run the tests as another user");
    make_base(uid);
    if (uid != 0) /* tests look into the daemon, which only root could */
        setenv("HYPEFS_TEST_DUMPABLE", "1", 1);
    leave_keeper();
    const char *why = prepare ? prepare(harness_base()) : NULL;
    if (why)
        skip_all(why);
    if (uid != geteuid()) {
        open_fuse_to_all();
        bring_program();
        bring_files();
        bring_coverage();
        become(uid);
    } else if (access("/dev/fuse", R_OK | W_OK) < 0) {
        skip_all("this user may not open /dev/fuse");
    }
    if (chdir(harness_base()) < 0)
        _exit(1);
}
