/* SPDX-License-Identifier: MIT */
/*
 * world: a store in a directory of its own, with a comma and a space in its path, and the layers
 * over it in this process: snapshots without a VM, instances as an earlier daemon left them, and
 * processes that stand for VMMs. It is neither the tree (tree_fixture.h) nor VMMs that are talked
 * to (vmm_fixture.h).
 */
#ifndef HYPEFS_TESTS_UNIT_WORLD_H
#define HYPEFS_TESTS_UNIT_WORLD_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "frames.h"
#include "gate.h"
#include "instance/instance.h"
#include "store/snapshot.h"
#include "test.h"
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
    void (*_Atomic on_scanned)(struct world *world); /* before `scanned` is posted */
    void (*_Atomic on_changed)(struct world *world, const char *id);
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
void world_await_asleep(pid_t tid);
void world_scanned(void *context);
void world_changed(void *context, const char *id);
/* Locks of its own, in these two: the layers call with theirs, and from any thread. */
void world_complain(void *context, const char *text);
/* The directory, and nothing in it yet. */
int world_setup_empty(void **state);
void world_close(struct world *world);
int world_teardown(void **state);
void world_open_store(struct world *world);
/* The layers over an open store. */
void world_open_layers(struct world *world);
int world_setup(void **state);
/* As a daemon that ends and is started again. */
void world_restart(struct world *world);
/* The path of something in the base directory; valid until the next call. */
const char *world_path(const struct world *world, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void world_write(const char *path, mode_t mode, const void *bytes, size_t size);
void world_write_text(const char *path, const char *text);
/* The whole file with a NUL behind it; NULL if there is none. Owned. */
char *world_read(const char *path);
bool world_has(const char *path);
mode_t world_mode(const char *path);
/* How many names there are in a directory of the base, hidden ones too. */
int world_count(const char *path);
/* Waits until no thread of the store has descriptors of its own: what was removed is erased, and no
 * image is looked at. */
void world_await_idle(struct world *world);
/* How many descriptors this process has. */
int world_descriptors(void);
/* What a snapshot of a microvm with that much memory says of it, without what publishing adds. */
cJSON *world_snapshot_json(size_t memory_bytes);

struct world_image {
    uint8_t bytes[FIXTURE_MEMORY];
    size_t size;
};
uint8_t *world_page(struct world_image *image, size_t number);
int world_fill(void *context, const struct store_entry *entry, struct error *err);
/* Publishes a snapshot with that image. */
void world_publish(struct world *world, const char *id, const struct world_image *image);
/* One page-aligned, armed mailbox: "box", token "token", at page 1. */
void world_publish_box(struct world *world, const char *id);
/* A program in QEMU's place. */
void world_install_qemu(const struct world *world, const char *script);
/* One that tells its version, says in the fifo "started" that it runs, and then waits for ever. */
void world_install_qemu_that_hangs(const struct world *world);
/* Of the version that the snapshots here were saved by; ends at once when it is to run a VM. */
extern const char world_qemu_that_dies[];
size_t world_adopt(struct world *world, pid_t pid, int pidfd);
/* A process that lives until it is ended, in that directory, with no descriptor of ours (the
 * store's lock is one). Returns its index in `children`. Nothing tells that it is ours. */
size_t world_spawn(struct world *world, const char *directory);
/* The same, started as VMMs are. */
size_t world_spawn_vmm(struct world *world, const char *directory);
bool world_child_ended(const struct world *world, size_t child, int timeout_ms);

/* ---- instances as an earlier daemon left them, some with a child as the VMM that runs on ---- */

/* Field 22 of /proc/PID/stat, and the machine's boot: what tells a process from a later one. */
void world_describe_child(const struct world *world, size_t child, char *ret, size_t size);
/* An instance's directory, if it is not there. */
void world_make_instance(const struct world *world, const char *id);
/* A child that a daemon has started in an instance's directory, which is made, and what a record
 * says of it. */
size_t world_spawn_in_instance(struct world *world, const char *id, char *ret, size_t size);
/* An instance's directory in the store as a daemon left it. `json` without the outer braces: what
 * follows the version. */
void world_leave_instance(const struct world *world, const char *id, const char *json);
void world_remove_instance(const struct world *world, const char *id);
/* The recorded machine of an instance that ran. */
extern const char world_machine[];
/* The same with a child as its VMM, which is returned. */
size_t world_leave_with_vmm(struct world *world, const char *id, const char *json);
/* Beside it, an overlay over its first disk, the raw file /none. */
void world_leave_overlay(struct world *world, const char *id);
/* A daemon that can read all that was left. */
void world_open_whole(struct world *world);
struct instance *world_found(struct world *world, const char *id);

/* ---- the kept list of what was found in a snapshot's image ---- */

/* A list that is made anew is another file. */
ino_t world_kept_list(const struct world *world, const char *id);
/* As it is now; owned. */
char *world_info_now(struct snapshot *snapshot);
/* When its kept list is read; owned. */
char *world_info(struct world *world, struct snapshot *snapshot);

#define IN_WORLD(test) cmocka_unit_test_setup_teardown(test, world_setup, world_teardown)
#define IN_EMPTY(test) cmocka_unit_test_setup_teardown(test, world_setup_empty, world_teardown)

#endif
