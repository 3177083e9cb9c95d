/* SPDX-License-Identifier: MIT */
/*
 * store_fixture: what the tests of store, instance, fork and the tree share: a store in a directory
 * of its own (with a comma and a space in its path), the layers over it, snapshots without a VM,
 * and processes that stand for VMMs. Header only; it needs cmocka included before.
 */
#ifndef HYPEFS_TESTS_UNIT_STORE_FIXTURE_H
#define HYPEFS_TESTS_UNIT_STORE_FIXTURE_H

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "frames.h"
#include "gate.h"
#include "instance/instance.h"
#include "store/snapshot.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/process.h"

enum {
    FIXTURE_FAR_MS = 30000, /* nothing takes this long */
    FIXTURE_CHILDREN = 16,
    FIXTURE_PAGES = 8,
    FIXTURE_MEMORY = FIXTURE_PAGES * FRAME_SIZE,
};

struct world {
    char base[PATH_MAX / 4], path[PATH_MAX / 2], qemu[PATH_MAX / 2];
    struct store store;
    struct vmm_programs *programs;
    struct vmm_binary binary; /* `qemu` */
    struct snapshots snapshots;
    struct instances instances;
    bool store_is_open, layers_are_open;
    struct error err;

    struct gate scanned, changed;
    void (*on_scanned)(struct world *world); /* before `scanned` is posted */
    void (*on_changed)(struct world *world, const char *id);
    void *context; /* of these two */
    void (*on_happened)(void *events, const struct instance *instance, enum instance_event what,
                        enum instance_state from);
    void (*on_snapshot)(void *events, const char *id, bool removed);
    void *events; /* of these two; NULL: they are not called */
    char complaints[4096];
    char happenings[1024];    /* of instances and snapshots */
    struct image_scans scans; /* of images that the test makes itself */

    struct {
        pid_t pid;
        int pidfd;
    } children[FIXTURE_CHILDREN];
    size_t child_count;
};

/* Waits until a thread of this process is asleep: it is held up, or has nothing more to do. */
static inline void world_await_asleep(pid_t tid)
{
    double deadline_ms = process_now_ms() + FIXTURE_FAR_MS;
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)tid);
    for (;;) {
        auto_fclose FILE *stat = fopen(path, "re");
        const char *name_end = stat && fgets(text, sizeof text, stat) ? strrchr(text, ')') : NULL;
        if (name_end && name_end[2] == 'S')
            return;
        assert_true(name_end && process_now_ms() < deadline_ms);
        sched_yield();
    }
}

static inline void world_scanned(void *context)
{
    struct world *world = context;
    if (world->on_scanned)
        world->on_scanned(world);
    gate_post(&world->scanned);
}

static inline void world_changed(void *context, const char *id)
{
    struct world *world = context;
    if (world->on_changed)
        world->on_changed(world, id);
    gate_post(&world->changed);
}

/* Locks of its own, in these two: the layers call with theirs, and from any thread. */
static inline void world_complain(void *context, const char *text)
{
    struct world *world = context;
    pthread_mutex_lock(&world->scanned.lock);
    size_t used = strlen(world->complaints);
    snprintf(world->complaints + used, sizeof world->complaints - used, "%s\n", text);
    pthread_mutex_unlock(&world->scanned.lock);
}

__attribute__((format(printf, 2, 3))) static inline void world_note(struct world *world,
                                                                    const char *format, ...)
{
    va_list args;
    pthread_mutex_lock(&world->changed.lock);
    size_t used = strlen(world->happenings);
    va_start(args, format);
    vsnprintf(world->happenings + used, sizeof world->happenings - used, format, args);
    va_end(args);
    pthread_mutex_unlock(&world->changed.lock);
}

static inline void world_happened(void *listener, const struct instance *instance,
                                  enum instance_event what, enum instance_state from)
{
    static const char *const words[] = {"made", "state", "ended", "removed"};
    const struct world *world = listener;
    if (world->events)
        world->on_happened(world->events, instance, what, from);
    world_note(listener, "%s %s %s %s\n", words[what], instance->id, instance_state_names[from],
               instance_state_names[instance->state]);
}

static inline void world_snapshot_happened(void *listener, const char *id, bool removed)
{
    const struct world *world = listener;
    if (world->events)
        world->on_snapshot(world->events, id, removed);
    world_note(listener, "%s %s\n", removed ? "gone" : "published", id);
}

static inline int world_remove(const char *path, const struct stat *file, int type,
                               struct FTW *walk)
{
    (void)file;
    (void)type;
    (void)walk;
    return remove(path);
}

/* The directory, and nothing in it yet. */
static inline int world_setup_empty(void **state)
{
    const char *tmp = getenv("TMPDIR");
    struct world *world = calloc(1, sizeof *world);
    if (!world)
        return -1;
    gate_init(&world->scanned);
    gate_init(&world->changed);
    image_scans_init(&world->scans, world_scanned, world_complain, world);
    world->store = (struct store){.lock_fd = -1, .kind_fd = {-1, -1}};
    snprintf(world->base, sizeof world->base, "%.512s/hypefs store,x=y-XXXXXX",
             tmp && tmp[0] == '/' ? tmp : "/tmp");
    *state = world;
    if (!mkdtemp(world->base))
        return -1;
    snprintf(world->path, sizeof world->path, "%s/store", world->base);
    snprintf(world->qemu, sizeof world->qemu, "%s/qemu", world->base);
    return 0;
}

static inline void world_close(struct world *world)
{
    if (world->layers_are_open) {
        instances_close(&world->instances);
        snapshots_close(&world->snapshots);
        vmm_programs_destroy(world->programs);
    }
    if (world->store_is_open)
        store_close(&world->store);
    world->layers_are_open = world->store_is_open = false;
}

static inline int world_teardown(void **state)
{
    struct world *world = *state;
    world_close(world);
    image_scans_finish(&world->scans);
    for (size_t i = 0; i < world->child_count; i++) {
        pidfd_send_signal(world->children[i].pidfd, SIGKILL, NULL, 0);
        waitid(P_PIDFD, (id_t)world->children[i].pidfd, &(siginfo_t){0}, WEXITED);
        close(world->children[i].pidfd);
    }
    nftw(world->base, world_remove, 16, FTW_DEPTH | FTW_PHYS);
    gate_finish(&world->scanned);
    gate_finish(&world->changed);
    free(world);
    return 0;
}

static inline void world_open_store(struct world *world)
{
    int r = store_open(world->path, false, NULL, &world->store, &world->err);
    if (r < 0)
        fail_msg("store_open: %s", world->err.text);
    world->store_is_open = true;
}

/* The layers over an open store. */
static inline void world_open_layers(struct world *world)
{
    const struct instances_setup setup = {.store = &world->store,
                                          .snapshots = &world->snapshots,
                                          .binaries = &world->binary,
                                          .binary_count = 1,
                                          .on_change = world_changed,
                                          .warn = world_complain,
                                          .context = world,
                                          .on_event = world_happened,
                                          .listener = world};
    struct instances_setup complete = setup;
    world->binary = (struct vmm_binary){"qemu", world->qemu};
    assert_int_equal(vmm_programs_create(&world->programs, &world->err), 0);
    complete.programs = world->programs;
    assert_int_equal(snapshots_open(&world->store, world_scanned, world_complain, world,
                                    &world->snapshots, &world->err),
                     0);
    world->snapshots.listener = world;
    world->snapshots.happened = world_snapshot_happened;
    assert_int_equal(instances_open(&complete, &world->instances, &world->err), 0);
    world->layers_are_open = true;
}

static inline int world_setup(void **state)
{
    int r = world_setup_empty(state);
    if (r == 0) {
        world_open_store(*state);
        world_open_layers(*state);
    }
    return r;
}

/* As a daemon that ends and is started again. */
static inline void world_restart(struct world *world)
{
    world_close(world);
    world_open_store(world);
    world_open_layers(world);
}

/* The path of something in the base directory; valid until the next call. */
__attribute__((format(printf, 2, 3))) static inline const char *
world_path(const struct world *world, const char *format, ...)
{
    static char path[PATH_MAX];
    va_list args;
    int used = snprintf(path, sizeof path, "%s/", world->base);
    va_start(args, format);
    vsnprintf(path + used, sizeof path - (size_t)used, format, args);
    va_end(args);
    return path;
}

static inline void world_write(const char *path, mode_t mode, const void *bytes, size_t size)
{
    auto_close int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, size), (ssize_t)size);
}

static inline void world_write_text(const char *path, const char *text)
{
    world_write(path, 0600, text, strlen(text));
}

/* The whole file with a NUL behind it; NULL if there is none. Owned. */
static inline char *world_read(const char *path)
{
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat file;
    if (fd < 0)
        return NULL;
    assert_int_equal(fstat(fd, &file), 0);
    char *text = malloc((size_t)file.st_size + 1);
    assert_non_null(text);
    assert_int_equal(read(fd, text, (size_t)file.st_size), file.st_size);
    text[file.st_size] = 0;
    return text;
}

static inline bool world_has(const char *path)
{
    struct stat file;
    return lstat(path, &file) == 0;
}

static inline mode_t world_mode(const char *path)
{
    struct stat st;
    assert_int_equal(lstat(path, &st), 0);
    return st.st_mode;
}

/* How many names there are in a directory of the base, hidden ones too. */
static inline int world_count(const char *path)
{
    auto_closedir DIR *dir = opendir(path);
    int count = 0;
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    return count;
}

/* How many descriptors this process has. */
static inline int world_descriptors(void)
{
    return world_count("/proc/self/fd");
}

/* What a snapshot of a microvm with that much memory says of it, without what publishing adds. */
static inline cJSON *world_snapshot_json(size_t memory_bytes)
{
    char text[512];
    cJSON *json = NULL;
    int size = snprintf(text, sizeof text,
                        "{\"kind\":\"standby\",\"hypervisor\":\"qemu\","
                        "\"hypervisor_version\":\"7.2.22\",\"memory_bytes\":%zu,"
                        "\"source_instance\":\"base\",\"machine\":{\"memory_bytes\":%zu,"
                        "\"vcpus\":1,\"machine\":\"microvm\",\"accel\":\"tcg\","
                        "\"network\":{\"mode\":\"user\",\"restrict\":false},\"disks\":[],"
                        "\"type\":\"microvm\",\"cpu\":\"max\",\"host_cpu\":null,"
                        "\"version\":\"7.2.22\"}}",
                        memory_bytes, memory_bytes);
    assert_int_equal(json_parse(text, (size_t)size, &json, NULL), 0);
    return json;
}

struct world_image {
    uint8_t bytes[FIXTURE_MEMORY];
    size_t size;
};

static inline uint8_t *world_page(struct world_image *image, size_t number)
{
    return image->bytes + number * FRAME_SIZE;
}

static inline int world_fill(void *context, const struct store_entry *entry, struct error *err)
{
    int directory_fd = entry->fd;
    const struct world_image *image = context;
    auto_close int memory =
        openat(directory_fd, "memory", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    auto_close int device =
        openat(directory_fd, "state", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (memory < 0 || device < 0 || write(device, "device", 6) != 6 ||
        write(memory, image->bytes, image->size) != (ssize_t)image->size)
        return error_errno(err, errno, "cannot fill the snapshot");
    return 0;
}

/* Publishes a snapshot with that image. */
static inline void world_publish(struct world *world, const char *id,
                                 const struct world_image *image)
{
    struct world_image copy = *image;
    auto_json cJSON *json = world_snapshot_json(image->size);
    if (snapshots_publish(&world->snapshots, id, &json, world_fill, &copy, &world->err) < 0)
        fail_msg("snapshots_publish: %s", world->err.text);
}

/* One page-aligned, armed mailbox: "box", token "token", at page 1. */
static inline void world_publish_box(struct world *world, const char *id)
{
    struct world_image image = {.size = FIXTURE_MEMORY};
    frames_arm(world_page(&image, 1), "box", "token");
    world_publish(world, id, &image);
}

/* A program in QEMU's place. */
static inline void world_install_qemu(const struct world *world, const char *script)
{
    world_write(world->qemu, 0700, script, strlen(script));
}

/* Of the version that the snapshots here were saved by; ends at once when it is to run a VM. */
static const char world_qemu_that_dies[] =
    "#!/bin/sh\n"
    "case \"$*\" in *--version) echo 'QEMU emulator version 7.2.22 (Debian)'; exit 0;; esac\n"
    "echo 'qemu: no such luck' >&2\n"
    "exit 3\n";

static inline size_t world_adopt(struct world *world, pid_t pid, int pidfd)
{
    assert_true(world->child_count < FIXTURE_CHILDREN);
    world->children[world->child_count].pid = pid;
    world->children[world->child_count].pidfd = pidfd;
    return world->child_count++;
}

/* A process that lives until it is ended, in that directory, with no descriptor of ours (the
 * store's lock is one). Returns its index in `children`. Nothing tells that it is ours. */
static inline size_t world_spawn(struct world *world, const char *directory)
{
    enum { READY = STDERR_FILENO + 1 };
    int ends[2];
    char byte;
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid_t parent = getpid(), pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(ends[1], READY);
        close_range(READY + 1, ~0U, 0);
        if (getppid() != parent || (directory && chdir(directory) < 0) || write(READY, "r", 1) != 1)
            _exit(1);
        close(READY);
        for (;;)
            pause();
    }
    close(ends[1]);
    auto_close int ready = ends[0];
    int pidfd = pidfd_open(pid, 0);
    assert_true(pidfd >= 0);
    assert_int_equal(read(ready, &byte, 1), 1);
    return world_adopt(world, pid, pidfd);
}

/* The same, started as VMMs are. */
static inline size_t world_spawn_vmm(struct world *world, const char *directory)
{
    char *argv[] = {(char[]){"tail"}, (char[]){"-f"}, (char[]){"/dev/null"}, NULL};
    auto_close int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct process_spec spec = {
        .path = argv[0], .argv = argv, .directory_fd = fd, .output_fd = -1, .error_fd = -1};
    pid_t pid;
    int pidfd;
    assert_true(fd >= 0);
    assert_int_equal(process_spawn(&spec, &pid, &pidfd, &world->err), 0);
    /* The kernel lets the parent of a vfork go on some moments before the child's environment can
     * be seen in /proc. */
    double deadline_ms = process_now_ms() + 10000;
    while (!process_has_mark(pid) && process_now_ms() < deadline_ms)
        process_poll(&pidfd, 1, process_now_ms() + 1);
    assert_true(process_has_mark(pid));
    return world_adopt(world, pid, pidfd);
}

static inline bool world_child_ended(const struct world *world, size_t child, int timeout_ms)
{
    return process_poll(&world->children[child].pidfd, 1, process_now_ms() + timeout_ms) > 0;
}

#define IN_WORLD(test) cmocka_unit_test_setup_teardown(test, world_setup, world_teardown)
#define IN_EMPTY(test) cmocka_unit_test_setup_teardown(test, world_setup_empty, world_teardown)

#endif
