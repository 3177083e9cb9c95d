/* SPDX-License-Identifier: MIT */
/* craft: snapshots without a VM. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness/internal.h"
#include "mailbox/frame.h"
#include "util/cleanup.h"

enum { MEMORY_DEFAULT = 16 * 1024 * 1024 };

static void plant(int fd, const struct harness_frame *frame)
{
    enum frame_kind kind = frame->name ? FRAME_FORK : FRAME_NETWORK;
    const struct frame_layout *layout = &frame_layouts[kind];
    const char *payload = frame->payload ? frame->payload : "";
    uint8_t bytes[FRAME_MARKER_MAX];
    struct frame_marker marker = {.kind = kind, .token_size = strlen(frame->token)};
    uint8_t fields[8];

    snprintf(marker.name, sizeof marker.name, "%s", frame->name ? frame->name : "");
    memcpy(marker.token, frame->token, marker.token_size);
    if (frame_encode_marker(&marker, bytes) == 0)
        give_up("no such frame: %s, %s", marker.name, frame->token);
    frame_store_u32(fields, frame->sequence);
    frame_store_u32(fields + 4, (uint32_t)strlen(payload));
    off_t at = (off_t)frame->offset;
    if (pwrite(fd, bytes, layout->sequence, at) < 0 ||
        pwrite(fd, fields, sizeof fields, at + (off_t)layout->sequence) < 0 ||
        pwrite(fd, payload, strlen(payload), at + (off_t)layout->payload) < 0)
        give_up("cannot write a memory image");
}

static char *describe(struct harness *h, const struct harness_snapshot *snapshot, uint64_t size)
{
    const char *version = snapshot->version ? snapshot->version : "0.0.0";
    return harness_format(
        h,
        "{\"version\":1,\"uuid\":\"%032x\",\"kind\":\"%s\",\"hypervisor\":\"%s\","
        "\"hypervisor_version\":\"%s\",\"memory_bytes\":%" PRIu64 ","
        "\"created_at\":\"2024-01-02T03:04:05.678Z\",\"machine\":{\"memory_bytes\":%" PRIu64 ","
        "\"vcpus\":1,\"machine\":\"microvm\",\"accel\":\"tcg\","
        "\"network\":{\"mode\":\"none\",\"restrict\":false},\"disks\":[],"
        "\"type\":\"microvm\",\"cpu\":\"max\",\"host_cpu\":null,\"version\":\"%s\"}}\n",
        (unsigned)strlen(snapshot->id), snapshot->kind ? snapshot->kind : "standby",
        snapshot->hypervisor ? snapshot->hypervisor : "qemu", version, size, size, version);
}

void harness_craft(struct harness *h, const struct harness_snapshot *snapshot)
{
    uint64_t size = snapshot->memory_bytes ? snapshot->memory_bytes : MEMORY_DEFAULT;
    mkdir(h->store, 0700);
    mkdir(harness_store_path(h, "snapshots"), 0700);
    if (mkdir(harness_store_path(h, "snapshots/%s", snapshot->id), 0700) < 0)
        give_up("cannot make the snapshot %s", snapshot->id);
    auto_close int fd = open(harness_store_path(h, "snapshots/%s/memory", snapshot->id),
                             O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
        give_up("cannot make a memory image");
    for (size_t i = 0; i < snapshot->count; i++)
        plant(fd, &snapshot->frames[i]);
    harness_put(harness_store_path(h, "snapshots/%s/state", snapshot->id), "no state\n");
    harness_put(harness_store_path(h, "snapshots/%s/snapshot.json", snapshot->id),
                describe(h, snapshot, size));
}
