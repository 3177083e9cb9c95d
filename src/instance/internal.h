/* SPDX-License-Identifier: MIT */
/* internal: what the files of instance/ share and nobody else may use. */
#ifndef HYPEFS_INSTANCE_INTERNAL_H
#define HYPEFS_INSTANCE_INTERNAL_H

#include "instance/instance.h"

/* record.c: instance.json. `instance` is owned by the caller (busy, or not published). A load
 * fails, and changes nothing, when it cannot be told whether a VMM still runs. */
int instance_save(struct instance *instance, int directory_fd, struct error *err);
/* The same, with what the instance is about to become. */
struct instance_next {
    enum instance_state state;
    const struct machine *machine;
    const struct vmm *vmm; /* NULL: none */
};
int instance_save_as(struct instance *instance, const struct instance_next *next, int directory_fd,
                     struct error *err);
int instance_load(struct instances *table, const char *id, struct instance **ret,
                  struct error *err);

/* instance.c */
struct instance *instance_create(struct instances *table, const char *id);
void instance_insert(struct instance *instance);
/* Takes the descriptor, also when it fails. */
int instance_set_directory(struct instance *instance, int fd, struct error *err);

/* lifecycle.c: begin makes the caller the owner (busy) or fails; end gives that up, records what is
 * there now and tells `changed`. */
int instance_begin(struct instance *instance, bool stop, struct error *err);
/* The same for the end of a VMM, if there is one and nobody else looks after it. */
bool instance_begin_ended(struct instance *instance);
void instance_end(struct instance *instance);
/* With the lock held: waits while it is settling. */
void instance_settle(struct instance *instance);
/* The VMM has ended: state stopped, exit kept, memory let go. Owned by the caller. */
void instance_forget_vmm(struct instance *instance);
/* What the end of a VMM leaves: a socket that nobody listens at. */
void instance_drop_socket(struct instance *instance, const struct hypervisor *hypervisor);
/* The memory of an instance that is neither running nor in standby. Snapshots made of it hold links
 * of their own, so nothing is lost. */
void instance_drop_image(struct instance *instance);
/* A daemon was killed during a save: the VM goes on as if that had never begun. */
void instance_undo_cut_save(struct instance *instance, struct error *err);

/* taps.c: the machine's taps become the instance's. EBUSY if another has one of them. */
int instance_take_taps(struct instance *instance, const struct machine *machine, struct error *err);
int instance_take_taps_locked(struct instance *instance, const struct machine *machine,
                              struct error *err);
/* The same for a VMM that runs on them already; nobody else knows the instance yet. */
void instance_keep_taps(struct instance *instance, const struct machine *machine);
void instance_drop_taps(struct instance *instance);

/* watch.c */
int instances_watch(struct instances *table, struct error *err);
void instances_unwatch(struct instances *table);
int instance_watch(struct instance *instance, struct error *err);

#endif
