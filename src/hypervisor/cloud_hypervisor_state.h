/* SPDX-License-Identifier: MIT */
/* cloud_hypervisor_state: what Cloud Hypervisor saves of a VM beside its memory. That are two texts
 * (config.json and state.json); an image has both in its one file "state":
 *
 *     {"config": …, "state": …}
 *
 * State is a tree of components; each has its data as a JSON text inside of a string, with numbers
 * that no double can hold: so these texts are edited where they are, and never printed anew. Pure
 * but for the files that are named. Any thread. */
#ifndef HYPEFS_HYPERVISOR_CLOUD_HYPERVISOR_STATE_H
#define HYPEFS_HYPERVISOR_CLOUD_HYPERVISOR_STATE_H

#include <stdint.h>
#include <cjson/cJSON.h>

#include "hypervisor/hypervisor.h"

/* Of a VM's directory, relative to it. Nothing has that name when the VM runs: whatever asks Cloud
 * Hypervisor to boot the VM again, its guest above all, ends it thereby. */
#define CLOUD_HYPERVISOR_KERNEL_NAME "kernel.tmp"
#define CLOUD_HYPERVISOR_VSOCK_NAME "vsock.sock"

struct cloud_hypervisor_state {
    cJSON *config, *state; /* owned */
};
void cloud_hypervisor_state_finish(struct cloud_hypervisor_state *state);

/* The two files that Cloud Hypervisor has just written. EIO if one is cut off, or none of its. */
int cloud_hypervisor_state_take(int directory_fd, const char *config_path, const char *state_path,
                                struct cloud_hypervisor_state *ret, struct error *err);

/* Makes it what an image has: the memory is one file of `memory_bytes`, mapped privately, from
 * which nothing is copied; no announcement with the addresses of the VM that was saved; a clock
 * that goes on where it stood; no reboot. EOPNOTSUPP, by name, for what forks would share or cannot
 * have; EIO if it is no state of such a memory. */
int cloud_hypervisor_state_normalize(struct cloud_hypervisor_state *state, uint64_t memory_bytes,
                                     struct error *err);

/* The file of an image, and back. EOPNOTSUPP: it has no configuration in it. */
char *cloud_hypervisor_state_print(const struct cloud_hypervisor_state *state);
int cloud_hypervisor_state_read(int directory_fd, const char *path,
                                struct cloud_hypervisor_state *ret, struct error *err);

/* cloud_hypervisor_machine.c: */
/* The members of a machine that a state tells of. `ret` is to be finished in any case. */
int cloud_hypervisor_state_tell(const struct cloud_hypervisor_state *state, struct machine *ret,
                                struct error *err);

/* For a load: the image's memory, and the taps, drives and socket of `machine`. EIO unless it is
 * that machine. */
int cloud_hypervisor_state_place(struct cloud_hypervisor_state *state,
                                 const struct machine *machine, const char *image,
                                 struct error *err);

/* An item of "disks": the format of the file that a VM of that machine writes to. */
void cloud_hypervisor_set_format(cJSON *item, const struct machine_disk *disk);
/* Of what was saved of it: an image's disks are as they were without overlays, which a load adds.
 */
void cloud_hypervisor_state_forget_overlays(struct cloud_hypervisor_state *state,
                                            const struct machine *machine);

#endif
