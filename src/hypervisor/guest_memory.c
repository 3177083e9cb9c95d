/* SPDX-License-Identifier: MIT */
#include "hypervisor/guest_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hypervisor/mappings.h"
#include "util/cleanup.h"
#include "util/process.h"
#include "util/sparse.h"

enum { PATH_SIZE = 64 };

struct guest_memory {
    int fd;
    struct mappings mappings;
};

/* A process that is ending is one for some moments more, without memory. */
static int ended(const char *process, struct error *err)
{
    return error_set(err, ESRCH, "process %s has ended", process);
}

static int cannot_open(const char *path, int code, struct error *err)
{
    if (code != EACCES && code != EPERM)
        return error_io(err, code, "%s cannot be opened", path);
    return error_set(err, EIO,
                     "the VMM's memory is closed to hypefs: the VMM runs as another user, its "
                     "program has file capabilities (setcap -r takes them away), or ptrace is "
                     "restricted here (kernel.yama.ptrace_scope; 1 keeps an ordinary user's daemon "
                     "from the VMMs of an earlier one: run it as root or with CAP_SYS_PTRACE, or "
                     "set it to 0)");
}

/* Calls `visit` for each mapping of a process until it returns other than 0. */
static int walk(const char *pid, int (*visit)(const struct mapping *mapping, void *context),
                void *context, struct error *err)
{
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "/proc/%.20s/maps", pid);
    auto_fclose FILE *file = fopen(path, "re");
    if (!file && errno == ESRCH)
        return ended(pid, err);
    if (!file)
        return cannot_open(path, errno, err);
    auto_free char *line = NULL;
    size_t size = 0;
    int r = 0;
    while (r == 0 && getline(&line, &size, file) > 0) {
        struct mapping mapping;
        if (!mapping_parse(line, &mapping))
            return error_set(err, EIO, "%s has a line that is not understood", path);
        r = visit(&mapping, context);
    }
    if (r < 0)
        return error_errno(err, -r, "the mappings in %s", path);
    return 0;
}

struct own_page {
    uint64_t address;
    struct mapped_file file;
    bool found;
};

static int find_own_page(const struct mapping *mapping, void *context)
{
    struct own_page *page = context;
    if (page->address < mapping->start || page->address >= mapping->end)
        return 0;
    page->file = mapping->file;
    page->found = true;
    return 1;
}

/* A low address, which the kernel takes if it is free: lines are in the order of addresses, and the
 * daemon has hundreds. */
static int identify(int image_fd, struct mapped_file *ret, struct error *err)
{
    enum { FIRST = 1024 * 1024 };
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    void *mapped = mmap((void *)(uintptr_t)FIRST, size, PROT_READ, MAP_PRIVATE, image_fd, 0);
    if (mapped == MAP_FAILED)
        return error_io(err, errno, "the memory image cannot be mapped");
    struct own_page page = {.address = (uintptr_t)mapped};
    int r = walk("self", find_own_page, &page, err);
    munmap(mapped, size);
    if (r < 0)
        return r;
    if (!page.found)
        return error_set(err, EIO,
                         "hypefs's own mapping of the memory image is not in /proc/self/maps");
    *ret = page.file;
    return 0;
}

struct collector {
    struct mapped_file file;
    bool shared;   /* what is shared counts, and nothing else */
    uint64_t size; /* of memory of no file; 0: it is of that file */
    struct guest_memory *memory;
    bool alive; /* it has some mapping */
};

static int collect(const struct mapping *mapping, void *context)
{
    struct collector *collector = context;
    struct mapping found = *mapping;
    collector->alive = true;
    if (collector->size > 0 ? mapping->file.inode != 0 || mapping->shared
                            : !mapping_is_of(mapping, &collector->file))
        return 0;
    if (collector->shared)
        found.usable = mapping->shared;
    return mappings_add(&collector->memory->mappings, &found);
}

int guest_memory_open_process(pid_t pid, int *ret_fd, struct error *err)
{
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "/proc/%d/mem", (int)pid);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0 && errno == ESRCH)
        return error_set(err, ESRCH, "process %d has ended", (int)pid);
    if (fd < 0)
        return cannot_open(path, errno, err);
    *ret_fd = fd;
    return 0;
}

/* A VMM's heap may lie beside its guest's memory, without access to be told apart: then that begins
 * or ends with the mapping, where the address is the rounder one. */
static uint64_t guess_start(const struct mapping *mapping, uint64_t size)
{
    const uint64_t last = mapping->end - size;
    return __builtin_ctzll(last) > __builtin_ctzll(mapping->start) ? last : mapping->start;
}

/* The only mapping of that size, or else the only one that is a little larger, has the memory from
 * `offset` on. */
static bool find_region(const struct mappings *all, uint64_t offset, uint64_t size,
                        struct mappings *ret)
{
    enum { BESIDE_MAX = 8 << 20 };
    const struct mapping *found[2] = {NULL};
    size_t times[2] = {0};
    for (size_t i = 0; i < all->count; i++) {
        const struct mapping *mapping = &all->items[i];
        const uint64_t bytes = mapping->end - mapping->start;
        if (!mapping->usable || bytes < size || bytes - size > BESIDE_MAX)
            continue;
        found[bytes > size] = mapping;
        times[bytes > size]++;
    }
    const size_t which = times[0] == 0;
    if (times[which] != 1)
        return false;
    struct mapping mapping = *found[which];
    mapping.start = guess_start(&mapping, size);
    mapping.end = mapping.start + size;
    mapping.offset = offset;
    return mappings_add(ret, &mapping) == 0;
}

/* Memory of no file is known by its size. A large one has two regions: what ends at the gap below 4
 * GiB, and the rest. */
static int lay_out(struct collector *collector, struct error *err)
{
    static const uint64_t gaps[] = {UINT64_C(0xC0000000), UINT64_C(0xD0000000)};
    struct mappings all = collector->memory->mappings, *ret = &collector->memory->mappings;
    *ret = (struct mappings){0};
    bool found = find_region(&all, 0, collector->size, ret);
    for (size_t i = 0; i < array_length(gaps) && !found && collector->size > gaps[i]; i++) {
        ret->count = 0;
        found = find_region(&all, 0, gaps[i], ret) &&
                find_region(&all, gaps[i], collector->size - gaps[i], ret);
    }
    mappings_finish(&all);
    return found ? 0
                 : error_set(
                       err, EIO,
                       "which of its VMM's mappings is the VM's memory is not known: deliver to a "
                       "fork of it");
}

static int not_mapped(pid_t pid, struct error *err)
{
    return error_set(err, EIO,
                     "process %d does not map the memory image (a wrapper script must exec the "
                     "VMM)",
                     (int)pid);
}

static int create(pid_t pid, int memory_fd, struct collector *collector, struct guest_memory **ret,
                  struct error *err)
{
    char name[PATH_SIZE];
    struct guest_memory *memory = calloc(1, sizeof *memory);
    if (!memory)
        return error_set(err, ENOMEM, "no memory for the VMM's mappings");
    memory->fd = memory_fd;
    collector->memory = memory;
    snprintf(name, sizeof name, "%d", (int)pid);
    int r = walk(name, collect, collector, err);
    if (r == 0 && !collector->alive)
        r = ended(name, err);
    else if (r == 0 && collector->size > 0)
        r = lay_out(collector, err);
    else if (r == 0 && memory->mappings.count == 0)
        r = not_mapped(pid, err);
    if (r < 0) {
        guest_memory_destroy(memory);
        return r;
    }
    *ret = memory;
    return 0;
}

int guest_memory_create(pid_t pid, int memory_fd, int image_fd, struct guest_memory **ret,
                        struct error *err)
{
    struct collector collector = {0};
    int r = identify(image_fd, &collector.file, err);
    return r == 0 ? create(pid, memory_fd, &collector, ret, err) : r;
}

int guest_memory_create_shared(pid_t pid, int memory_fd, int image_fd, struct guest_memory **ret,
                               struct error *err)
{
    struct collector collector = {.shared = true};
    int r = identify(image_fd, &collector.file, err);
    return r == 0 ? create(pid, memory_fd, &collector, ret, err) : r;
}

int guest_memory_create_own(pid_t pid, int memory_fd, uint64_t size, struct guest_memory **ret,
                            struct error *err)
{
    struct collector collector = {.size = size};
    return create(pid, memory_fd, &collector, ret, err);
}

void guest_memory_destroy(struct guest_memory *memory)
{
    if (!memory)
        return;
    mappings_finish(&memory->mappings);
    free(memory);
}

int guest_memory_check(pid_t pid, int image_fd, struct error *err)
{
    struct guest_memory *memory = NULL;
    int r = guest_memory_create(pid, -1, image_fd, &memory, err);
    guest_memory_destroy(memory);
    return r;
}

/* What pread or pwrite returned: 0 of a process that has no memory any more. */
static int access_failed(const char *what, ssize_t result, struct error *err)
{
    return error_set(err, EIO, "the VMM's memory cannot be %s (has it ended?)%s%s", what,
                     result < 0 ? ": " : "", result < 0 ? strerrordesc_np(errno) : "");
}

static int read_address(const struct guest_memory *memory, uint64_t address, void *bytes,
                        size_t size, struct error *err)
{
    for (size_t done = 0; done < size;) {
        ssize_t got = pread(memory->fd, (char *)bytes + done, size - done, (off_t)(address + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return access_failed("read", got, err);
        done += (size_t)got;
    }
    return 0;
}

int guest_memory_read(const struct guest_memory *memory, uint64_t offset, void *bytes, size_t size,
                      struct error *err)
{
    uint64_t address;
    int r = mappings_translate(&memory->mappings, offset, size, &address, err);
    return r < 0 ? r : read_address(memory, address, bytes, size, err);
}

int guest_memory_write(const struct guest_memory *memory, uint64_t offset, const void *bytes,
                       size_t size, struct error *err)
{
    uint64_t address;
    int r = mappings_translate(&memory->mappings, offset, size, &address, err);
    if (r < 0)
        return r;
    for (size_t done = 0; done < size;) {
        ssize_t put =
            pwrite(memory->fd, (const char *)bytes + done, size - done, (off_t)(address + done));
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return access_failed("written", put, err);
        done += (size_t)put;
    }
    return 0;
}

/* ---- what was written ---- */

enum { ENTRIES = 4096, RUN_PAGES = 64 }; /* read at a time */

struct written {
    const struct guest_memory *memory;
    int pagemap_fd;
    size_t page_size;
    guest_memory_visit *visit;
    void *context;
    uint64_t entries[ENTRIES];
    uint8_t *bytes; /* RUN_PAGES pages; NULL: only which they are is wanted */
};

/* `count` pages that lie one after another, at most RUN_PAGES. */
static int visit_run(struct written *written, uint64_t address, uint64_t offset, size_t count,
                     struct error *err)
{
    size_t size = count * written->page_size;
    if (!written->bytes)
        return written->visit(written->context, offset, NULL, size, err);
    int r = read_address(written->memory, address, written->bytes, size, err);
    return r < 0 ? r : written->visit(written->context, offset, written->bytes, size, err);
}

/* The entries of `count` pages from `address` on, which are offset `offset` of the image. */
static int visit_entries(struct written *written, uint64_t address, uint64_t offset, size_t count,
                         struct error *err)
{
    int r = 0;
    for (size_t i = 0, run; i < count && r == 0; i += run) {
        bool wanted;
        run = pagemap_run(written->entries + i, count - i, RUN_PAGES, &wanted);
        if (wanted)
            r = visit_run(written, address + i * written->page_size,
                          offset + i * written->page_size, run, err);
    }
    return r;
}

static int visit_mapping(struct written *written, const struct mapping *mapping, int cancel_fd,
                         struct error *err)
{
    const uint64_t page_size = written->page_size;
    for (uint64_t at = mapping->start; at < mapping->end;) {
        uint64_t pages = (mapping->end - at) / page_size;
        size_t count = pages < ENTRIES ? (size_t)pages : ENTRIES;
        ssize_t got = pread(written->pagemap_fd, written->entries, count * sizeof(uint64_t),
                            (off_t)(at / page_size * sizeof(uint64_t)));
        if (got != (ssize_t)(count * sizeof(uint64_t)))
            return access_failed("looked through", got, err);
        int r = visit_entries(written, at, mapping->offset + (at - mapping->start), count, err);
        if (r != 0)
            return r;
        if (cancel_fd >= 0 && process_poll(&cancel_fd, 1, 0) > 0)
            return error_set(err, ECANCELED, "cancelled");
        at += count * page_size;
    }
    return 0;
}

static int visit_written(const struct guest_memory *memory, pid_t pid, int cancel_fd, bool reads,
                         guest_memory_visit *visit, void *context, struct error *err)
{
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "/proc/%d/pagemap", (int)pid);
    auto_close int pagemap = open(path, O_RDONLY | O_CLOEXEC);
    if (pagemap < 0)
        return cannot_open(path, errno, err);
    auto_free struct written *written = malloc(sizeof *written);
    size_t page_size = (size_t)sysconf(_SC_PAGESIZE);
    auto_free uint8_t *bytes = reads ? malloc(RUN_PAGES * page_size) : NULL;
    if (!written || (reads && !bytes))
        return error_set(err, ENOMEM, "no memory for pages of the VM's");
    *written = (struct written){.memory = memory,
                                .pagemap_fd = pagemap,
                                .page_size = page_size,
                                .visit = visit,
                                .context = context,
                                .bytes = bytes};
    int r = 0;
    for (size_t i = 0; i < memory->mappings.count && r == 0; i++)
        if (memory->mappings.items[i].usable)
            r = visit_mapping(written, &memory->mappings.items[i], cancel_fd, err);
    if (bytes)
        explicit_bzero(bytes, RUN_PAGES * page_size);
    return r;
}

int guest_memory_visit_written(const struct guest_memory *memory, pid_t pid, int cancel_fd,
                               guest_memory_visit *visit, void *context, struct error *err)
{
    return visit_written(memory, pid, cancel_fd, true, visit, context, err);
}

struct copied {
    int image_fd;
    struct page_set *set; /* or NULL */
};

static int copy_run(void *context, uint64_t offset, const uint8_t *bytes, size_t size,
                    struct error *err)
{
    const struct copied *copied = context;
    if (copied->set)
        page_set_add(copied->set, offset, size);
    return bytes ? sparse_put(copied->image_fd, bytes, size, offset, err) : 0;
}

int guest_memory_copy_written(const struct guest_memory *memory, pid_t pid, int fd, int cancel_fd,
                              struct page_set *ret, struct error *err)
{
    struct copied copied = {.image_fd = fd, .set = ret};
    int r = visit_written(memory, pid, cancel_fd, fd >= 0, copy_run, &copied, err);
    if (r == 0 && ret)
        ret->complete = true;
    return r;
}
