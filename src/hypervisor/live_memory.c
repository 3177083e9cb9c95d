/* SPDX-License-Identifier: MIT */
#include "hypervisor/live_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "hypervisor/guest_memory.h"
#include "hypervisor/memory.h"
#include "hypervisor/vmm_process.h"
#include "util/cleanup.h"

static int find_mappings(const struct vmm_context *context, const struct vmm *vmm,
                         struct live_memory *memory, struct error *err)
{
    const struct vmm_save save = {.directory = ".", .loaded = memory->loaded};
    const bool has_file = memory->loaded || vmm->hypervisor->shares_memory;
    int r = has_file ? memory_open(context, vmm, &save, &memory->image_fd, err) : 0;
    if (r < 0)
        return r;
    r = guest_memory_open_process(vmm->pid, &memory->memory_fd, err);
    if (r < 0)
        return r;
    if (!has_file)
        return guest_memory_create_own(vmm->pid, memory->memory_fd, memory->size, &memory->memory,
                                       err);
    return (memory->loaded ? guest_memory_create : guest_memory_create_shared)(
        vmm->pid, memory->memory_fd, memory->image_fd, &memory->memory, err);
}

int live_memory_open(const struct vmm_context *context, const struct vmm *vmm,
                     const struct machine *machine, bool loaded, struct live_memory **ret,
                     struct error *err)
{
    struct live_memory *memory = malloc(sizeof *memory);
    if (!memory)
        return error_set(err, ENOMEM, "out of memory");
    *memory = (struct live_memory){.pid = vmm->pid,
                                   .pidfd = fcntl(vmm->pidfd, F_DUPFD_CLOEXEC, 0),
                                   .memory_fd = -1,
                                   .image_fd = -1,
                                   .loaded = loaded,
                                   .size = machine->memory_bytes};
    int r = memory->pidfd < 0 ? error_errno(err, errno, "cannot watch the VMM")
                              : vmm_ended(vmm, find_mappings(context, vmm, memory, err), err);
    if (r < 0) {
        live_memory_close(memory);
        return r;
    }
    *ret = memory;
    return 0;
}

void live_memory_close(struct live_memory *memory)
{
    if (!memory)
        return;
    guest_memory_destroy(memory->memory);
    cleanup_close(&memory->pidfd);
    cleanup_close(&memory->memory_fd);
    cleanup_close(&memory->image_fd);
    free(memory);
}

static int read_memory(void *context, uint64_t offset, void *bytes, size_t size, struct error *err)
{
    const struct live_memory *memory = context;
    return guest_memory_read(memory->memory, offset, bytes, size, err);
}

static int write_memory(void *context, uint64_t offset, const void *bytes, size_t size,
                        struct error *err)
{
    const struct live_memory *memory = context;
    return guest_memory_write(memory->memory, offset, bytes, size, err);
}

struct memory_io live_memory_io(struct live_memory *memory)
{
    return (struct memory_io){read_memory, write_memory, memory};
}

/* Pages that lie one behind the other may be of two mappings. */
static int read_pages(void *context, uint64_t offset, void *bytes, size_t size, struct error *err)
{
    const struct live_memory *memory = context;
    if (guest_memory_read(memory->memory, offset, bytes, size, NULL) == 0)
        return 0;
    int r = 0;
    for (size_t at = 0; at < size && r == 0; at += FRAME_SIZE)
        r = guest_memory_read(memory->memory, offset + at, (char *)bytes + at, FRAME_SIZE, err);
    return r;
}

/* Shared pages are in the file. */
static int search_file(struct live_memory *memory, scan_progress *progress, void *context,
                       struct scan *ret, struct error *err)
{
    return scan_image(memory->image_fd, progress, context, ret, err);
}

/* Of others, those that its VMM has made its own. */
static int search_pages(struct live_memory *memory, const struct scan *base,
                        scan_progress *progress, void *context, struct scan *ret, struct error *err)
{
    struct page_set written;
    int r = page_set_create(memory->size, &written, err);
    if (r < 0)
        return r;
    r = guest_memory_copy_written(memory->memory, memory->pid, -1, -1, &written, err);
    const struct scan_pages_of pages = {
        .read = read_pages, .context = memory, .size = memory->size, .set = &written, .base = base};
    if (r == 0)
        r = scan_set_of(&pages, progress, context, ret, err);
    page_set_finish(&written);
    return r;
}

int live_memory_search(struct live_memory *memory, const struct scan *base, scan_progress *progress,
                       void *context, struct scan *ret, struct error *err)
{
    const bool is_shared = !memory->loaded && memory->image_fd >= 0;
    return is_shared ? search_file(memory, progress, context, ret, err)
                     : search_pages(memory, base, progress, context, ret, err);
}
