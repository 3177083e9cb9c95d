/* SPDX-License-Identifier: MIT */
/*
 * instance_fixture: instances in a world's store as an earlier daemon left them, some with a child
 * as the VMM that runs on.
 */
#ifndef HYPEFS_TESTS_UNIT_INSTANCE_FIXTURE_H
#define HYPEFS_TESTS_UNIT_INSTANCE_FIXTURE_H

#include "store_fixture.h"

/* Field 22 of /proc/PID/stat, and the machine's boot: what tells a process from a later one. */
static inline void world_describe_child(const struct world *world, size_t child, char *ret,
                                        size_t size)
{
    char path[64], text[1024], booted[64], *field;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)world->children[child].pid);
    auto_fclose FILE *stat = fopen(path, "re");
    auto_fclose FILE *boot = fopen("/proc/sys/kernel/random/boot_id", "re");
    assert_true(stat && boot && fgets(text, sizeof text, stat) &&
                fgets(booted, sizeof booted, boot));
    booted[strcspn(booted, "\n")] = 0;
    field = strrchr(text, ')');
    for (int i = 2; i < 22; i++)
        field = strchr(field + 1, ' ');
    snprintf(ret, size, "{\"pid\":%d,\"start_time\":\"%.*s\",\"boot_id\":\"%s\"}",
             (int)world->children[child].pid, (int)strcspn(field + 1, " "), field + 1, booted);
}

/* An instance's directory, if it is not there. */
static inline void world_make_instance(const struct world *world, const char *id)
{
    mkdir(world_path(world, "store"), 0700);
    mkdir(world_path(world, "store/instances"), 0700);
    mkdir(world_path(world, "store/instances/%s", id), 0700);
}

/* A child that a daemon has started in an instance's directory, which is made, and what a record
 * says of it. */
static inline size_t world_spawn_in_instance(struct world *world, const char *id, char *ret,
                                             size_t size)
{
    world_make_instance(world, id);
    size_t child = world_spawn_vmm(world, world_path(world, "store/instances/%s", id));
    world_describe_child(world, child, ret, size);
    return child;
}

/* An instance's directory in the store as a daemon left it. `json` without the outer braces: what
 * follows the version. */
static inline void world_leave_instance(const struct world *world, const char *id, const char *json)
{
    auto_free char *text = NULL;
    assert_true(asprintf(&text, "{\"version\":1,\"id\":\"%s\",\"hypervisor\":\"qemu\",%s}\n", id,
                         json) > 0);
    world_make_instance(world, id);
    world_write_text(world_path(world, "store/instances/%s/instance.json", id), text);
    world_write_text(world_path(world, "store/instances/%s/console.log", id), "");
    world_write_text(world_path(world, "store/instances/%s/vmm.log", id), "");
}

static inline void world_remove_instance(const struct world *world, const char *id)
{
    nftw(world_path(world, "store/instances/%s", id), world_remove, 16, FTW_DEPTH | FTW_PHYS);
}

/* The recorded machine of an instance that ran. */
static const char world_machine[] =
    "\"machine\":{\"memory_bytes\":268435456,\"vcpus\":2,\"machine\":\"q35\",\"accel\":\"tcg\","
    "\"network\":{\"mode\":\"none\",\"restrict\":false},\"disks\":[],\"type\":\"pc-q35-7.2\","
    "\"cpu\":\"max\",\"host_cpu\":null,\"version\":\"7.2.22\"}";

/* The same with a child as its VMM, which is returned. */
static inline size_t world_leave_with_vmm(struct world *world, const char *id, const char *json)
{
    char vmm[256];
    auto_free char *more = NULL;
    size_t child = world_spawn_in_instance(world, id, vmm, sizeof vmm);
    assert_true(asprintf(&more, "%s,\"vmm\":%s", json, vmm) > 0);
    world_leave_instance(world, id, more);
    return child;
}

/* Beside it, an overlay over its first disk, the raw file /none. */
static inline void world_leave_overlay(struct world *world, const char *id)
{
    /* A qcow2 file's header, and the name of the file below. */
    static const char overlay[] = "QFI\xfb\0\0\0\3\0\0\0\0\0\0\0\x68\0\0\0\5";
    char header[0x68] = {0};
    auto_fclose FILE *file = fopen(world_path(world, "store/instances/%s/disk0.1.qcow2", id), "we");
    assert_non_null(file);
    memcpy(header, overlay, sizeof overlay);
    assert_int_equal(fwrite(header, sizeof header, 1, file), 1);
    assert_true(fputs("/none", file) >= 0);
}

/* A daemon that can read all that was left. */
static inline void world_open_whole(struct world *world)
{
    world_open_store(world);
    world_open_layers(world);
    assert_string_equal(world->complaints, "");
}

static inline struct instance *world_found(struct world *world, const char *id)
{
    struct instance *instance = instances_find(&world->instances, id);
    if (!instance)
        fail_msg("%s is not there: %s", id, world->complaints);
    return instance;
}

#endif
