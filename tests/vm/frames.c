/* SPDX-License-Identifier: MIT */
/* frames: what only QEMU knows: whether a guest runs, and a fork's mailboxes in its own memory. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "hypervisor/guest_memory.h"
#include "hypervisor/hypervisor.h"
#include "hypervisor/qmp.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/process.h"
#include "util/unix_socket.h"
#include "vm/vm.h"

#define MUST(call)                                                                                 \
    do {                                                                                           \
        struct error err = {0};                                                                    \
        if ((call) < 0)                                                                            \
            fail_msg("%s: %s", #call, err.text);                                                   \
    } while (0)

cJSON *vm_ask(struct harness *h, const char *id, const char *command)
{
    auto_close int directory =
        open(harness_store_path(h, "instances/%s/run", id), O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    const struct process_limits limits = {
        .pidfd = -1, .cancel_fd = -1, .deadline_ms = process_now_ms() + HARNESS_DEADLINE_MS};
    cJSON *answer = NULL;
    struct qmp *qmp;
    int fd;
    MUST(unix_socket_connect(directory, "qmp.sock", &fd, &err));
    MUST(qmp_open(fd, &limits, &qmp, &err));
    MUST(qmp_execute(qmp, &limits, command, NULL, -1, &answer, &err));
    qmp_close(qmp);
    return answer;
}

bool vm_is_running(struct harness *h, const char *id)
{
    auto_json cJSON *status = vm_ask(h, id, "query-status");
    return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(status, "running"));
}

/* A fork whose VM is paused, for its memory to stand still. */
struct held {
    struct vmm_context context;
    struct vmm *vmm;
    int memory_fd, image_fd;
    struct guest_memory *memory;
};

static struct held hold(struct harness *h, const char *id)
{
    struct held held = {.context.cancel_fd = -1};
    pid_t pid = vm_pid(h, id);
    held.context.directory_fd =
        open(harness_store_path(h, "instances/%s/run", id), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    held.image_fd = open(harness_store_path(h, "instances/%s/base", id), O_RDONLY | O_CLOEXEC);
    held.context.entry_fd = held.context.directory_fd;
    assert_true(held.context.directory_fd >= 0 && held.image_fd >= 0);
    MUST(vmm_create(hypervisor_find(vm_vmm()), pid, pidfd_open(pid, 0), &held.vmm, &err));
    MUST(vmm_pause(&held.context, held.vmm, &err));
    MUST(guest_memory_open_process(pid, &held.memory_fd, &err));
    MUST(guest_memory_create(pid, held.memory_fd, held.image_fd, &held.memory, &err));
    return held;
}

static void let_go(struct held *held)
{
    MUST(vmm_resume(&held->context, held->vmm, &err));
    guest_memory_destroy(held->memory);
    vmm_close(held->vmm);
    close(held->memory_fd);
    close(held->image_fd);
    close(held->context.directory_fd);
}

/* Where base's image has that mailbox; the page-aligned ones, to which a host writes. */
static size_t find_offsets(struct harness *h, const char *mailbox, uint64_t ret[VM_FRAMES_MAX])
{
    size_t count = 0;
    char *text = harness_get(h, harness_path(h, "snapshots/base/mailboxes/%s", mailbox));
    for (size_t i = 0; i < VM_FRAMES_MAX; i++) {
        char *offset = harness_json(h, text, harness_format(h, "markers.%zu.offset", i));
        if (strcmp(offset, "(none)") != 0 && strtoull(offset, NULL, 10) % FRAME_SIZE == 0)
            ret[count++] = strtoull(offset, NULL, 10);
    }
    assert_int_not_equal(count, 0);
    return count;
}

size_t vm_read_frames(struct harness *h, const char *id, const char *mailbox,
                      struct vm_frame ret[VM_FRAMES_MAX])
{
    static const uint8_t zeros[FRAME_SIZE];
    uint64_t offsets[VM_FRAMES_MAX];
    size_t count = find_offsets(h, mailbox, offsets);
    struct held held = hold(h, id);
    for (size_t i = 0; i < count; i++) {
        uint8_t bytes[FRAME_SIZE];
        struct frame_marker marker;
        MUST(guest_memory_read(held.memory, offsets[i], bytes, sizeof bytes, &err));
        assert_true(frame_decode_marker(FRAME_FORK, bytes, sizeof bytes, &marker));
        assert_string_equal(marker.name, mailbox);
        const struct frame_layout *layout = &frame_layouts[FRAME_FORK];
        ret[i].sequence = frame_load_u32(bytes + layout->sequence);
        ret[i].pinned = bytes[FRAME_FLAGS] & FRAME_PINNED;
        ret[i].length = frame_load_u32(bytes + layout->length);
        ret[i].empty =
            memcmp(bytes + layout->payload, zeros, frame_capacity(FRAME_FORK, true)) == 0;
    }
    let_go(&held);
    return count;
}

void vm_write_frames(struct harness *h, const char *id, const char *mailbox, const char *payload)
{
    const struct frame_layout *layout = &frame_layouts[FRAME_FORK];
    uint64_t offsets[VM_FRAMES_MAX];
    uint8_t length[4], sequence[4];
    size_t count = find_offsets(h, mailbox, offsets);
    frame_store_u32(length, (uint32_t)strlen(payload));
    frame_store_u32(sequence, 1);
    struct held held = hold(h, id);
    for (size_t i = 0; i < count; i++) {
        const struct {
            size_t at;
            const void *bytes;
            size_t size;
        } parts[] = {{layout->payload, payload, strlen(payload)},
                     {layout->length, length, sizeof length},
                     {layout->sequence, sequence, sizeof sequence}};
        for (size_t j = 0; j < array_length(parts); j++)
            MUST(guest_memory_write(held.memory, offsets[i] + parts[j].at, parts[j].bytes,
                                    parts[j].size, &err));
    }
    let_go(&held);
}

void vm_assert_image(struct harness *h, const char *id, const char *path)
{
    enum { CHUNK = 1 << 20 };
    struct guest_memory *memory;
    char *live = harness_alloc(h, CHUNK), *saved = harness_alloc(h, CHUNK);
    pid_t pid = vm_pid(h, id);
    auto_close int image =
        open(harness_store_path(h, "instances/%s/base", id), O_RDONLY | O_CLOEXEC);
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    auto_close int process = -1;
    assert_true(image >= 0 && fd >= 0);
    MUST(guest_memory_open_process(pid, &process, &err));
    MUST(guest_memory_create(pid, process, image, &memory, &err));
    off_t size = lseek(fd, 0, SEEK_END);
    assert_true(size > 0 && size % CHUNK == 0);
    for (off_t at = 0; at < size; at += CHUNK) {
        MUST(guest_memory_read(memory, (uint64_t)at, live, CHUNK, &err));
        assert_int_equal(pread(fd, saved, CHUNK, at), CHUNK);
        if (memcmp(live, saved, CHUNK) != 0)
            fail_msg("%s is not the memory of %s, from %jd on", path, id, (intmax_t)at);
    }
    guest_memory_destroy(memory);
}
