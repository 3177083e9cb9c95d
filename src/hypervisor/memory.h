/* SPDX-License-Identifier: MIT */
/* memory: the memory of VMs whose VMM maps files for it, as files. A VM that was booted shares the
 * file "memory" of its directory with its VMM. One that was loaded has what it wrote in its VMM's
 * private mapping of an image, the file "base": its save is a copy of that image with those pages
 * laid over. For backends; one thread at a time per struct vmm. */
#ifndef HYPEFS_HYPERVISOR_MEMORY_H
#define HYPEFS_HYPERVISOR_MEMORY_H

#include "hypervisor/hypervisor.h"

/* A new file "memory" of so many bytes, for a VM that is to be booted. EIO, ENOSPC and others. */
int memory_create(const struct vmm_context *context, uint64_t size, int *ret, struct error *err);

/* Finds the mappings of the image (a directory by its path from the context's) in a VMM that has
 * just loaded it: vmm->memory_fd and vmm->memory. EIO; ESRCH if it has just ended. */
int memory_reach(const struct vmm_context *context, struct vmm *vmm, const char *image,
                 struct error *err);

/* The slot prepare. */
int memory_prepare(const struct vmm_context *context, struct vmm *vmm, const struct vmm_save *save,
                   struct error *err);

/* What a save is made from: EIO unless the VMM maps it, whatever has got that name since. */
int memory_open(const struct vmm_context *context, const struct vmm *vmm,
                const struct vmm_save *save, int *ret, struct error *err);
/* Makes the file "memory" of save->directory from that, unless it is that; or links it. */
int memory_save(const struct vmm_context *context, struct vmm *vmm, const struct vmm_save *save,
                int from, struct error *err);
/* After a save that failed: removes what it, or the preparation, has made. */
void memory_discard(const struct vmm_context *context, const struct vmm_save *save);

#endif
