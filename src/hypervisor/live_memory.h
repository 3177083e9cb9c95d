/* SPDX-License-Identifier: MIT */
/*
 * live_memory: the memory of a VM that runs or is paused, by offset of its image, for who does not
 * own its VMM: with descriptors and mappings of its own, it is of that process, and fails when that
 * has ended. What is read while the VM runs may change at once; what is written has to be written
 * while its VMM stands still (freeze.h). One thread at a time, but any number may read.
 */
#ifndef HYPEFS_HYPERVISOR_LIVE_MEMORY_H
#define HYPEFS_HYPERVISOR_LIVE_MEMORY_H

#include "hypervisor/hypervisor.h"
#include "mailbox/deliver.h"

struct live_memory {
    pid_t pid;
    int pidfd;
    int memory_fd;               /* /proc/PID/mem */
    int image_fd;                /* that it was loaded from, or shares; -1: neither */
    bool loaded;                 /* what it has written is in private pages */
    uint64_t size;               /* bytes */
    struct guest_memory *memory; /* its mappings */
};

/* By the owner of `vmm`, which may be given up then. `loaded` as of struct vmm_save. EIO, and ESRCH
 * has become that. */
int live_memory_open(const struct vmm_context *context, const struct vmm *vmm,
                     const struct machine *machine, bool loaded, struct live_memory **ret,
                     struct error *err);
void live_memory_close(struct live_memory *memory); /* NULL is fine */

/* Its context is the memory. */
struct memory_io live_memory_io(struct live_memory *memory);

/* Finds the frames that are there now. Of a VM that was loaded, `base` is what lies in the image,
 * and only its own pages are read; of one that was booted, all that is not zeros. ECANCELED as soon
 * as `progress` (may be NULL) says so. *ret is overwritten. */
int live_memory_search(struct live_memory *memory, const struct scan *base, scan_progress *progress,
                       void *context, struct scan *ret, struct error *err);

#endif
