/* SPDX-License-Identifier: MIT */
/*
 * load: the VM of a snapshot, loaded and paused, in an entry of the store that nobody sees yet.
 * Texts call the snapshot `name`, as in "the snapshot base". No state; any thread.
 */
#ifndef HYPEFS_FORK_LOAD_H
#define HYPEFS_FORK_LOAD_H

#include "hypervisor/disks.h"
#include "instance/instance.h"

/* From what snapshot.json says. EOPNOTSUPP: it cannot be forked. */
int load_machine(const cJSON *json, const char *name, struct machine *ret, struct error *err);

/* A hard link to that file of the image. */
int load_link(int image_fd, const char *name, const char *file, int directory_fd, const char *as,
              struct error *err);

/* The directory, with the frozen disks of the machine; `of` as in disks_link(). It is to be
 * discarded, after a failure too. */
int load_entry(const struct store *store, const struct snapshot *snapshot, const char *name,
               const struct machine *machine, enum disks_of of, struct store_entry *ret,
               struct error *err);

/* Loads the VM there; `context` is of that directory. It keeps hold of the image, so that it can be
 * saved again, and forked, whatever becomes of the snapshot. A VM may be there after a failure. */
int load_vm(const struct vmm_context *context, const struct snapshot *snapshot, const char *name,
            const struct machine *machine, struct vmm **ret, struct error *err);

/* Ends the VM (NULL: none) at once, and removes the directory. */
void load_discard(struct store_entry *entry, struct vmm *vmm);

#endif
