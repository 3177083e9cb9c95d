/* SPDX-License-Identifier: MIT */
/* Mounts whose daemon is gone, made by hand in a mount namespace of this process's own. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <mntent.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "cli/mountpoint.h"
#include "test.h"
#include "util/cleanup.h"
#include "util/text.h"

#define NAME "a mount, \\x\t"

struct place {
    char base[512], path[1024]; /* of the mountpoint */
    int fuse;                   /* the daemon's end; -1: it is gone */
    struct error err;
};

/* By how much each look at the clock comes later than the one before: as if held up between. */
static double held_up_ms, clock_ms;
static bool waited_for_ever;

double __real_process_now_ms(void);
double __wrap_process_now_ms(void);
double __wrap_process_now_ms(void)
{
    return __real_process_now_ms() + (clock_ms += held_up_ms);
}

int __real_poll(struct pollfd *fds, nfds_t count, int timeout_ms);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout_ms);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
    waited_for_ever |= timeout_ms < 0;
    return __real_poll(fds, count, timeout_ms < 0 ? 0 : timeout_ms);
}

static int write_file(const char *path, const char *text)
{
    auto_close int fd = open(path, O_WRONLY | O_CLOEXEC);
    return fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : -1;
}

/* Mounts of this process are seen by nobody else, and end with it. */
static int enter_namespace(void **state)
{
    char map[64];
    uid_t uid = geteuid();
    gid_t gid = getegid();
    (void)state;
    if (unshare(uid == 0 ? CLONE_NEWNS : CLONE_NEWNS | CLONE_NEWUSER) < 0) {
        print_message("no mount namespace of my own: %s\n", strerror(errno));
        return -1;
    }
    if (uid != 0) {
        write_file("/proc/self/setgroups", "deny");
        snprintf(map, sizeof map, "0 %u 1\n", uid);
        write_file("/proc/self/uid_map", map);
        snprintf(map, sizeof map, "0 %u 1\n", gid);
        write_file("/proc/self/gid_map", map);
    }
    return mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL);
}

static int setup(void **state)
{
    const char *tmp = getenv("TMPDIR");
    struct place *place = calloc(1, sizeof *place);
    if (!place)
        return -1;
    *state = place;
    place->fuse = -1;
    snprintf(place->base, sizeof place->base, "%.400s/hypefs-stale-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(place->base))
        return -1;
    snprintf(place->path, sizeof place->path, "%s/" NAME, place->base);
    return mkdir(place->path, 0700);
}

static int teardown(void **state)
{
    struct place *place = *state;
    cleanup_close(&place->fuse);
    while (umount2(place->path, MNT_DETACH) == 0)
        ;
    rmdir(place->path);
    rmdir(place->base);
    free(place);
    return 0;
}

/* How many file systems of that type are mounted there. */
static int mounted(const struct place *place, const char *type)
{
    int count = 0;
    struct mntent *entry;
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    assert_non_null(mounts);
    while ((entry = getmntent(mounts)))
        count += strcmp(entry->mnt_dir, place->path) == 0 && strcmp(entry->mnt_type, type) == 0;
    endmntent(mounts);
    return count;
}

/* A mount of that type; its daemon has not answered yet. */
static void mount_fuse(struct place *place, const char *type)
{
    char options[128];
    place->fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    assert_true(place->fuse >= 0);
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=%u,group_id=%u", place->fuse,
             geteuid(), getegid());
    if (mount("hypefs", place->path, type, MS_NOSUID | MS_NODEV, options) < 0)
        fail_msg("mount: %s", strerror(errno));
    assert_int_equal(mounted(place, type), 1);
}

static void kill_daemon(struct place *place)
{
    close(steal_fd(&place->fuse));
}

static void mount_when_its_daemon_is_gone_is_cleared(void **state)
{
    struct place *place = *state;
    struct stat st;
    mount_fuse(place, "fuse.hypefs");
    kill_daemon(place);
    assert_int_equal(stat(place->path, &st), -1);
    assert_int_equal(errno, ENOTCONN);
    assert_int_equal(mountpoint_clear(place->path, &place->err), 0);
    assert_int_equal(mounted(place, "fuse.hypefs"), 0);
    assert_int_equal(stat(place->path, &st), 0);
}

static void mount_when_named_in_another_way_is_cleared(void **state)
{
    struct place *place = *state;
    char link[1024], other[2048];
    snprintf(link, sizeof link, "%s/link", place->base);
    assert_int_equal(symlink(place->base, link), 0);
    snprintf(other, sizeof other, "%s/./..//%s//" NAME "///", link, basename(place->base));
    mount_fuse(place, "fuse.hypefs");
    kill_daemon(place);
    assert_int_equal(mountpoint_clear(other, &place->err), 0);
    remove(link);
    assert_int_equal(mounted(place, "fuse.hypefs"), 0);
}

static void mount_when_it_is_not_ours_is_left_alone(void **state)
{
    struct place *place = *state;
    mount_fuse(place, "fuse.other");
    kill_daemon(place);
    assert_int_equal(mountpoint_clear(place->path, &place->err), 0);
    assert_int_equal(mounted(place, "fuse.other"), 1);
    umount2(place->path, MNT_DETACH);
    assert_int_equal(mount("none", place->path, "tmpfs", 0, NULL), 0);
    assert_int_equal(mountpoint_clear(place->path, &place->err), 0);
    assert_int_equal(mounted(place, "tmpfs"), 1);
}

static void mount_when_ours_lies_below_another_is_left_alone(void **state)
{
    struct place *place = *state;
    mount_fuse(place, "fuse.hypefs");
    kill_daemon(place);
    /* Some kernels look at the root first: then nothing can lie over one that is gone. */
    bool covered = mount("none", place->path, "tmpfs", 0, NULL) == 0;
    assert_true(covered || errno == ENOTCONN);
    assert_int_equal(mountpoint_clear(place->path, &place->err), 0);
    assert_int_equal(mounted(place, "tmpfs"), covered);
    assert_int_equal(mounted(place, "fuse.hypefs"), covered);
}

static void path_when_nothing_is_mounted_there_is_left_alone(void **state)
{
    struct place *place = *state;
    char path[2048];
    struct stat st;
    assert_int_equal(mountpoint_clear(place->path, &place->err), 0);
    assert_int_equal(stat(place->path, &st), 0);
    snprintf(path, sizeof path, "%s/missing", place->path);
    assert_int_equal(mountpoint_clear(path, &place->err), 0);
    snprintf(path, sizeof path, "%s/missing/below", place->path);
    assert_int_equal(mountpoint_clear(path, &place->err), 0);
    assert_int_equal(mountpoint_clear("/", &place->err), 0);
    assert_int_equal(place->err.code, 0);
}

/* Answers as a hypefs does that has only a root; ends when the mount does. */
static void *serve(void *argument)
{
    const int fuse = *(int *)argument;
    static char request[FUSE_MIN_READ_BUFFER + 65536];
    for (;;) {
        ssize_t size = read(fuse, request, sizeof request);
        if (size < 0 && errno == ENODEV)
            return NULL;
        const struct fuse_in_header *in = (const void *)request;
        struct {
            struct fuse_out_header header;
            union {
                struct fuse_init_out init;
                struct fuse_attr_out attr;
            } body;
        } out = {.header.unique = in->unique};
        size_t body = 0;
        if (in->opcode == FUSE_INIT) {
            out.body.init = (struct fuse_init_out){
                .major = FUSE_KERNEL_VERSION, .minor = 31, .max_write = 4096, .max_background = 1};
            body = sizeof out.body.init;
        } else if (in->opcode == FUSE_GETATTR) {
            out.body.attr.attr = (struct fuse_attr){.ino = 1, .mode = S_IFDIR | 0755, .nlink = 1};
            body = sizeof out.body.attr;
        } else {
            out.header.error = -ENOSYS;
        }
        out.header.len = (uint32_t)(sizeof out.header + body);
        if (size > 0 && write(fuse, &out, out.header.len) < 0 && errno == ENODEV)
            return NULL;
    }
}

static void mount_when_its_daemon_answers_is_busy(void **state)
{
    struct place *place = *state;
    pthread_t thread;
    mount_fuse(place, "fuse.hypefs");
    assert_int_equal(pthread_create(&thread, NULL, serve, &place->fuse), 0);
    int r = mountpoint_clear(place->path, &place->err);
    int count = mounted(place, "fuse.hypefs");
    umount2(place->path, MNT_DETACH);
    pthread_join(thread, NULL);
    assert_int_equal(r, -EBUSY);
    assert_int_equal(count, 1);
    assert_non_null(strstr(place->err.text, "a hypefs is mounted at"));
    char shown[sizeof place->path];
    text_escape(place->path, strlen(place->path), "", shown, sizeof shown);
    assert_non_null(strstr(place->err.text, shown));
}

/* As one that is stopped: it has the mount, and never reads a request. */
static void mount_when_its_daemon_does_not_answer_is_busy_in_other_words(void **state)
{
    struct place *place = *state;
    mount_fuse(place, "fuse.hypefs");
    setenv("HYPEFS_TEST_TIMING", "silent:200", 1);
    int r = mountpoint_clear(place->path, &place->err);
    unsetenv("HYPEFS_TEST_TIMING");
    assert_int_equal(r, -EBUSY);
    assert_int_equal(mounted(place, "fuse.hypefs"), 1);
    assert_non_null(strstr(place->err.text, "does not answer"));
}

/* With each number of descriptors that are too few: a failure to look is no free place. */
static void mount_when_descriptors_are_missing_is_not_taken_for_none(void **state)
{
    enum { ENOUGH = 6 };
    struct place *place = *state;
    pthread_t thread;
    struct rlimit before, limit;
    int r = -EMFILE, missing, free_fd;
    bool child_is_left = false;
    mount_fuse(place, "fuse.hypefs");
    assert_int_equal(pthread_create(&thread, NULL, serve, &place->fuse), 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    free_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    close(free_fd);
    while (waitpid(-1, NULL, 0) > 0) /* those of other tests, which were killed */
        ;
    held_up_ms = 700; /* nobody waits for long */
    for (missing = ENOUGH; missing > 0 && r == -EMFILE && !child_is_left; missing--) {
        limit = (struct rlimit){(rlim_t)(free_fd + ENOUGH - missing), before.rlim_max};
        setrlimit(RLIMIT_NOFILE, &limit);
        r = mountpoint_clear(place->path, &place->err);
        child_is_left = r != -EBUSY && waitpid(-1, NULL, WNOHANG) >= 0;
    }
    held_up_ms = 0;
    setrlimit(RLIMIT_NOFILE, &before);
    int count = mounted(place, "fuse.hypefs");
    umount2(place->path, MNT_DETACH);
    pthread_join(thread, NULL);
    assert_int_equal(count, 1);
    assert_int_equal(r, -EBUSY);
    assert_in_range(missing, 1, ENOUGH - 2);
    assert_false(child_is_left);
}

static void wait_when_it_is_held_up_ends(void **state)
{
    struct place *place = *state;
    pthread_t thread;
    mount_fuse(place, "fuse.hypefs");
    assert_int_equal(pthread_create(&thread, NULL, serve, &place->fuse), 0);
    held_up_ms = 1500; /* the second look is within the time, the third is not */
    int r = mountpoint_clear(place->path, &place->err);
    held_up_ms = 0;
    umount2(place->path, MNT_DETACH);
    pthread_join(thread, NULL);
    assert_int_equal(r, -EBUSY);
    assert_false(waited_for_ever);
}

#define PLACE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    enum { SKIPPED = 77 };
    const struct CMUnitTest tests[] = {
        PLACE(mount_when_its_daemon_is_gone_is_cleared),
        PLACE(mount_when_named_in_another_way_is_cleared),
        PLACE(mount_when_it_is_not_ours_is_left_alone),
        PLACE(mount_when_ours_lies_below_another_is_left_alone),
        PLACE(path_when_nothing_is_mounted_there_is_left_alone),
        PLACE(mount_when_its_daemon_answers_is_busy),
        PLACE(mount_when_its_daemon_does_not_answer_is_busy_in_other_words),
        PLACE(mount_when_descriptors_are_missing_is_not_taken_for_none),
        PLACE(wait_when_it_is_held_up_ends),
    };
    if (access("/dev/fuse", R_OK | W_OK) < 0 || enter_namespace(NULL) < 0) {
        puts("skipped: this needs /dev/fuse, and root or user namespaces");
        return SKIPPED;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
