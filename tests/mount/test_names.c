/* SPDX-License-Identifier: MIT */
/*
 * The kernel keeps names and the attributes of directories, and nobody ever sees what does not
 * hold: writers change things at random, and each says before and after a change what the truth is
 * (a sequence lock: odd while it changes). Others, in mount namespaces of their own and as another
 * user, look, and compare what they have seen with the truth if that was the same before and after.
 *
 * HYPEFS_NAMES says how many changes each writer makes.
 */
#include "fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "util/cleanup.h"

enum { WRITERS = 3, LOOKERS = 3, CHANGES = 1500, TEXT_MAX = 200, NOBODY = 65534 };

/* What a writer has, with its number in the name. */
enum item {
    DRAFT, /* a directory, and what lies in it: */
    DRAFT_OPTIONS,
    DRAFT_MAILBOX,
    DRAFT_NETWORK,
    KEPT, /* another one, in which files are renamed: */
    KEPT_A,
    KEPT_B,
    INSTANCE,
    CONFIG,
    FORK, /* in standby or stopped, from here on: */
    FORK_MAILBOXES,
    FORK_MAILBOX,
    FORK_LINK,
    RECORD,
    RECORD_LINK,
    ITEMS
};
static const char *const paths[ITEMS] = {
    [DRAFT] = "snapshots/base/forks/d%d",
    [DRAFT_OPTIONS] = "snapshots/base/forks/d%d/options",
    [DRAFT_MAILBOX] = "snapshots/base/forks/d%d/mailboxes/m",
    [DRAFT_NETWORK] = "snapshots/base/forks/d%d/network",
    [KEPT] = "snapshots/base/forks/e%d",
    [KEPT_A] = "snapshots/base/forks/e%d/mailboxes/a",
    [KEPT_B] = "snapshots/base/forks/e%d/mailboxes/b",
    [INSTANCE] = "instances/i%d",
    [CONFIG] = "instances/i%d/config",
    [FORK] = "instances/f%d",
    [FORK_MAILBOXES] = "instances/f%d/mailboxes",
    [FORK_MAILBOX] = "instances/f%d/mailboxes/m",
    [FORK_LINK] = "instances/f%d/fork",
    [RECORD] = "snapshots/base/forks/f%d",
    [RECORD_LINK] = "snapshots/base/forks/f%d/instance",
};

struct truth {
    atomic_uint sequence;
    bool is_there;
    off_t size;             /* of a file that is collected; -1: whatever it is */
    struct timespec before; /* the last change began then: a directory's mtime is not older */
};

static struct truth (*truths)[ITEMS]; /* of each writer; shared by all processes */
static struct progress {
    atomic_int writers; /* that are not done */
    atomic_ulong looks, compared;
} * progress;
static const char *mount_path;

/* ---- in processes of their own, where nothing of cmocka may be used ---- */

__attribute__((noreturn, format(printf, 1, 2))) static void give_up(const char *format, ...)
{
    int code = errno;
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, " (%s)\n", strerrordesc_np(code));
    _exit(1);
}

static const char *path_of(enum item item, int writer)
{
    static char path[512];
    int at = snprintf(path, sizeof path, "%s/", mount_path);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(path + at, sizeof path - (size_t)at, paths[item], writer);
#pragma GCC diagnostic pop
    return path;
}

/* The directory that has the name; or itself. */
static enum item parent_of(enum item item)
{
    return item <= DRAFT_NETWORK ? DRAFT : item <= KEPT_B ? KEPT : item;
}

static void begin_one(int writer, enum item item)
{
    atomic_fetch_add(&truths[writer][item].sequence, 1);
    clock_gettime(CLOCK_REALTIME, &truths[writer][item].before);
}

static void begin(int writer, enum item first, enum item last)
{
    for (enum item item = first; item <= last; item++)
        begin_one(writer, item);
}

static void set(int writer, enum item item, bool is_there, off_t size)
{
    truths[writer][item].is_there = is_there;
    truths[writer][item].size = size;
}

static void end(int writer, enum item first, enum item last)
{
    for (enum item item = first; item <= last; item++)
        atomic_fetch_add(&truths[writer][item].sequence, 1);
}

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    size_t size = strlen(text);
    if (fd < 0 || write(fd, text, size) != (ssize_t)size || close(fd) < 0)
        give_up("writing %s", path);
}

/* {"x":"…"}, of a random size. */
static const char *random_text(void)
{
    static char text[TEXT_MAX + 32];
    int size = rand() % TEXT_MAX;
    snprintf(text, sizeof text, "{\"payload\":{\"x\":\"%*s\"}}", size, "");
    return text;
}

static bool has(int writer, enum item item)
{
    return truths[writer][item].is_there;
}

/* Its directory changes only if the name comes. */
static void write_text(int writer, enum item item, const char *text)
{
    const enum item parent = parent_of(item);
    const bool comes = !has(writer, item) && parent != item;
    if (comes)
        begin_one(writer, parent);
    begin(writer, item, item);
    put(path_of(item, writer), text);
    set(writer, item, true, (off_t)strlen(text));
    end(writer, item, item);
    if (comes)
        end(writer, parent, parent);
}

static void drop(int writer, enum item item)
{
    begin_one(writer, parent_of(item));
    begin(writer, item, item);
    if (unlink(path_of(item, writer)) < 0)
        give_up("unlink %s", path_of(item, writer));
    set(writer, item, false, -1);
    end(writer, item, item);
    end(writer, parent_of(item), parent_of(item));
}

static void toggle_file(int writer, enum item item, const char *text)
{
    if (has(writer, item) && rand() % 3 == 0)
        drop(writer, item);
    else
        write_text(writer, item, text);
}

/* With what lies in it. */
static void toggle_directory(int writer, enum item directory, enum item last, enum item there)
{
    const bool was = has(writer, directory);
    begin(writer, directory, last);
    const char *path = path_of(directory, writer);
    if ((was ? rmdir(path) : mkdir(path, 0755)) < 0)
        give_up("%s %s", was ? "rmdir" : "mkdir", path);
    for (enum item item = directory; item <= last; item++)
        set(writer, item, !was && item <= there, -1);
    end(writer, directory, last);
}

static void rename_kept(int writer)
{
    enum item from = has(writer, KEPT_A) ? KEPT_A : KEPT_B, to = from == KEPT_A ? KEPT_B : KEPT_A;
    char path[512];
    if (!has(writer, from)) {
        write_text(writer, from, random_text());
        return;
    }
    begin(writer, KEPT, KEPT_B);
    snprintf(path, sizeof path, "%s", path_of(from, writer));
    if (rename(path, path_of(to, writer)) < 0)
        give_up("rename %s", path);
    set(writer, to, true, truths[writer][from].size);
    set(writer, from, false, -1);
    end(writer, KEPT, KEPT_B);
}

/* In standby, stopped, gone, and anew. */
static void change_fork(int writer)
{
    char path[512], id[16];
    begin(writer, FORK, RECORD_LINK);
    if (!has(writer, FORK)) {
        snprintf(id, sizeof id, "f%d", writer);
        snprintf(path, sizeof path, "%s/snapshots/base/forks/%s", mount_path, id);
        if (mkdir(path, 0755) < 0)
            give_up("mkdir %s", path);
        snprintf(path, sizeof path, "%s/snapshots/base/forks/%s/options", mount_path, id);
        put(path, "{\"target_state\":\"standby\"}");
        snprintf(path, sizeof path, "%s/snapshots/base/forks/%s/commit", mount_path, id);
        put(path, "1");
        for (enum item item = FORK; item <= RECORD_LINK; item++)
            set(writer, item, true, -1);
    } else if (has(writer, FORK_MAILBOXES)) {
        snprintf(path, sizeof path, "%s/instances/f%d/state", mount_path, writer);
        put(path, "stopped");
        set(writer, FORK_MAILBOXES, false, -1);
        set(writer, FORK_MAILBOX, false, -1);
    } else {
        if (rmdir(path_of(FORK, writer)) < 0)
            give_up("rmdir %s", path_of(FORK, writer));
        for (enum item item = FORK; item <= RECORD_LINK; item++)
            set(writer, item, false, -1);
    }
    end(writer, FORK, RECORD_LINK);
}

static void change_draft(int writer)
{
    switch (has(writer, DRAFT) ? rand() % 4 : 0) {
    case 0:
        toggle_directory(writer, DRAFT, DRAFT_NETWORK, DRAFT_OPTIONS);
        break;
    case 1:
        write_text(writer, DRAFT_OPTIONS, rand() % 2 ? "{\"target_state\":\"standby\"}" : "{}");
        break;
    case 2:
        toggle_file(writer, DRAFT_MAILBOX, random_text());
        break;
    default:
        toggle_file(writer, DRAFT_NETWORK,
                    "{\"interface_name\":\"eth0\",\"mac\":\"02:00:00:00:00:0a\",\"ipv4\":\"10.0.0."
                    "7\",\"prefix\":24}");
    }
}

static void change_instance(int writer)
{
    if (!has(writer, INSTANCE) || rand() % 4 == 0)
        toggle_directory(writer, INSTANCE, CONFIG, CONFIG);
    else
        write_text(writer, CONFIG,
                   rand() % 2 ? "{\"kernel\":\"/etc/passwd\",\"memory_mib\":8}"
                              : "{\"kernel\":\"/etc/passwd\",\"memory_mib\":16}");
}

static void run_writer(int writer, int changes)
{
    srand((unsigned)writer + 1);
    toggle_directory(writer, KEPT, KEPT_B, KEPT);
    for (int i = 0; i < changes; i++) {
        const int which = rand() % 40;
        if (which == 0)
            change_fork(writer);
        else if (which < 5)
            change_instance(writer);
        else if (which < 15)
            rename_kept(writer);
        else
            change_draft(writer);
    }
    atomic_fetch_sub(&progress->writers, 1);
    _exit(0);
}

static bool is_directory(enum item item)
{
    return item == DRAFT || item == KEPT || item == INSTANCE || item == FORK ||
           item == FORK_MAILBOXES || item == RECORD;
}

static bool is_link(enum item item)
{
    return item == FORK_LINK || item == RECORD_LINK;
}

static void check_attributes(const struct truth *truth, enum item item, int writer,
                             const struct stat *st)
{
    const mode_t type = is_directory(item) ? S_IFDIR : is_link(item) ? S_IFLNK : S_IFREG;
    if ((st->st_mode & S_IFMT) != type)
        give_up("%s has the mode %o", path_of(item, writer), st->st_mode);
    if (!is_directory(item) && truth->size >= 0 && st->st_size != truth->size)
        give_up("%s has %jd bytes, and not %jd", path_of(item, writer), (intmax_t)st->st_size,
                (intmax_t)truth->size);
}

static void check_link(enum item item, int writer)
{
    char target[256] = "", wanted[256];
    snprintf(wanted, sizeof wanted,
             item == FORK_LINK ? "../../snapshots/base/forks/f%d" : "../../../../instances/f%d",
             writer);
    if (readlink(path_of(item, writer), target, sizeof target - 1) >= 0 &&
        strcmp(target, wanted) != 0)
        give_up("%s leads to %s", path_of(item, writer), target);
}

/* By one of the ways in which programs ask. */
static int look(const char *path, enum item item, struct stat *ret)
{
    const int way = rand() % 3;
    if (way == 0)
        return lstat(path, ret);
    auto_close int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (way == 1 && is_directory(item) && fd >= 0) {
        auto_close int opened = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return opened < 0 ? -1 : fstat(opened, ret);
    }
    if (fd < 0 || fstatat(fd, "", ret, AT_EMPTY_PATH) == 0)
        return fd < 0 ? -1 : 0;
    errno = errno == ESTALE ? ENOENT : errno; /* nothing was asked when it was opened */
    return -1;
}

/* An answer to a lookup that was late may bring an old time once (fs/node.h). */
static bool is_older(const struct stat *st, const struct truth *truth)
{
    return st->st_mtim.tv_sec < truth->before.tv_sec ||
           (st->st_mtim.tv_sec == truth->before.tv_sec &&
            st->st_mtim.tv_nsec < truth->before.tv_nsec);
}

static void look_once(void)
{
    const int writer = rand() % WRITERS;
    const enum item item = (enum item)(rand() % ITEMS);
    struct truth *truth = &truths[writer][item];
    struct stat st;
    unsigned before = atomic_load(&truth->sequence);
    const struct truth now = *truth;
    int code = look(path_of(item, writer), item, &st) < 0 ? errno : 0;
    if (is_link(item) && code == 0)
        check_link(item, writer);
    if (is_directory(item) && code == 0 && is_older(&st, &now))
        code = look(path_of(item, writer), item, &st) < 0 ? errno : 0;
    atomic_fetch_add(&progress->looks, 1);
    if (before % 2 || atomic_load(&truth->sequence) != before)
        return;
    atomic_fetch_add(&progress->compared, 1);
    if (code != (now.is_there ? 0 : ENOENT)) {
        errno = code;
        give_up("%s should %sbe there", path_of(item, writer), now.is_there ? "" : "not ");
    }
    if (code == 0)
        check_attributes(&now, item, writer, &st);
    if (code == 0 && is_directory(item) && item != RECORD && is_older(&st, &now))
        give_up("%s has an old mtime", path_of(item, writer));
}

static void run_looker(int number)
{
    srand((unsigned)number + 1000);
    if (geteuid() == 0 && number > 0 && unshare(CLONE_NEWNS) < 0)
        give_up("unshare");
    if (geteuid() == 0 && number == 2 && (setgid(NOBODY) < 0 || setuid(NOBODY) < 0))
        give_up("setuid");
    while (atomic_load(&progress->writers) > 0)
        look_once();
    _exit(0);
}

/* ---- the test ---- */

static pid_t start(void (*run)(int number, int changes), int number, int changes)
{
    pid_t pid = fork();
    assert_works(pid);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        run(number, changes);
    }
    return pid;
}

static void run_looker_of(int number, int changes)
{
    (void)changes;
    run_looker(number);
}

static void *share(size_t size)
{
    void *ret = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(ret, MAP_FAILED);
    return ret;
}

static void nobody_sees_what_does_not_hold(void **state)
{
    struct harness *h = *state;
    const char *changes = getenv("HYPEFS_NAMES");
    pid_t pids[WRITERS + LOOKERS];
    int failed = 0;
    harness_unmount(h);
    harness_mount(h, geteuid() == 0 ? (const char *const[]){"-o", "allow_other", NULL} : NULL);
    if (geteuid() == 0) /* the test's own folder is to be passable for another user */
        assert_works(chmod(h->directory, 0755) < 0 ? -1 : chmod(harness_base(), 0755));
    mount_path = h->mount;
    truths = share(sizeof *truths * WRITERS);
    progress = share(sizeof *progress);
    atomic_store(&progress->writers, WRITERS);
    for (int i = 0; i < WRITERS; i++)
        for (int item = 0; item < ITEMS; item++)
            truths[i][item].size = -1;
    for (int i = 0; i < WRITERS; i++)
        pids[i] = start(run_writer, i, changes ? atoi(changes) : CHANGES);
    for (int i = 0; i < LOOKERS; i++)
        pids[WRITERS + i] = start(run_looker_of, i, 0);
    for (size_t i = 0; i < array_length(pids); i++) {
        int status;
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        failed += status != 0;
        if (i < WRITERS && status != 0)
            atomic_fetch_sub(&progress->writers, 1);
    }
    print_message("%lu looks, of which %lu could be compared\n", atomic_load(&progress->looks),
                  atomic_load(&progress->compared));
    assert_int_equal(failed, 0);
    assert_true(atomic_load(&progress->compared) > atomic_load(&progress->looks) / 4);
}

/* ---- a daemon that is killed ---- */

enum { CLIENTS = 8 };

static bool is_cut_off(int code)
{
    return code == ENOTCONN || code == ECONNABORTED;
}

/* Everything that waits for a lock of the kernel's, too, until the daemon is gone. */
static void run_client(int number, int changes)
{
    char draft[512], file[544], other[544];
    struct stat st;
    (void)changes;
    snprintf(draft, sizeof draft, "%s/snapshots/base/forks/c%d", mount_path, number / 2);
    snprintf(file, sizeof file, "%s/mailboxes/m", draft);
    snprintf(other, sizeof other, "%s/mailboxes/a", draft);
    for (;;) {
        errno = 0;
        mkdir(draft, 0755);
        int fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        (void)!write(fd, "{\"payload\":{}}", 14);
        close(fd);
        rename(file, other);
        unlink(other);
        rmdir(draft);
        atomic_fetch_add(&progress->looks, 1);
        if (stat(file, &st) < 0 && is_cut_off(errno))
            _exit(0);
    }
}

static bool are_busy(void *argument)
{
    (void)argument;
    return atomic_load(&progress->looks) > 100;
}

static void clients_of_a_daemon_that_is_killed_come_back(void **state)
{
    struct harness *h = *state;
    pid_t pids[CLIENTS];
    mount_path = h->mount;
    progress = share(sizeof *progress);
    for (int i = 0; i < CLIENTS; i++)
        pids[i] = start(run_client, i, 0);
    harness_await_that(are_busy, NULL, "the clients are busy");
    harness_kill(h);
    for (size_t i = 0; i < array_length(pids); i++) {
        auto_close int pidfd = pidfd_open(pids[i], 0);
        struct pollfd ended = {.fd = pidfd, .events = POLLIN};
        int status;
        assert_int_equal(poll(&ended, 1, HARNESS_DEADLINE_MS), 1);
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        mounted_test(nobody_sees_what_does_not_hold),
        mounted_test(clients_of_a_daemon_that_is_killed_come_back),
    };
    harness_enter();
    return cmocka_run_group_tests_name("names", tests, NULL, NULL);
}
