/* SPDX-License-Identifier: MIT */
/*
 * disks: the files that a machine's writable disks are made of.
 *
 * A disk that was never saved is the user's file, which the VM writes to. A save freezes it: from
 * then on it is a chain, and each VM writes into a new overlay of its own.
 *
 *     the user's file ◄─ disk0.1.qcow2 ◄─ … ◄─ disk0.N.qcow2 ◄─ disk0.(N+1).qcow2
 *     frozen             frozen overlays, N = layers            the top: while a VM runs
 *
 * 0 is the disk's number. A boot goes on with the top of a VM that has ended. Nothing ever writes
 * to what is frozen. The instance's or snapshot's directory has the overlays, by hard links; the
 * user's file stays where it is, and its key tells whether it has changed. A VMM that knows no such
 * chains has copies instead (machine_disk.frozen; drives.h). The record of a machine tells its
 * overlays and copies: others are what a killed daemon has left. Any thread.
 */
#ifndef HYPEFS_HYPERVISOR_DISKS_H
#define HYPEFS_HYPERVISOR_DISKS_H

#include <stdbool.h>
#include <stddef.h>

#include "hypervisor/hypervisor.h"

enum {
    DISK_LAYERS_MAX = 100,
    DISK_NAME_SIZE = 32, /* of the name of an overlay */
    DISK_COPY_SIZE = 96,
};

/* disk_names.c: */
/* The file with that number of the disk with that index, beside the image; not 0. */
void disk_layer_name(size_t index, unsigned layer, char ret[DISK_NAME_SIZE]);

/* The frozen copy, beside the image, of a disk with an id; the one that its VM writes to; and the
 * raw file that both are overlays over, if they are (machine_disk.lower). */
void disk_copy_name(const struct machine_disk *disk, char ret[DISK_COPY_SIZE]);
void disk_drive_name(const struct machine_disk *disk, char ret[DISK_COPY_SIZE]);
void disk_lower_name(const struct machine_disk *disk, char ret[DISK_COPY_SIZE]);
/* Is it one of these of some disk? */
bool disk_owns_name(const char *name);

/* Is there a block device at that path? False, too, if it may not be looked at. */
bool disk_is_block_device(const char *path);

/* Which file of it a VM that runs writes to; 0: the user's. */
unsigned disk_top(const struct machine_disk *disk);

/* Is there one that a VM writes to? */
bool disks_are_written(const struct machine *machine);

/* EOPNOTSUPP if one of the disks has as many layers as there can be. */
int disks_check_room(const struct machine *machine, struct error *err);

/* EINVAL unless a file of which this is what stat() tells can be a disk: a regular file, or a block
 * device that is only read, for that cannot be frozen as a file is. */
int disk_check_kind(const char *path, bool readonly, const struct stat *file, struct error *err);

/* disk_keys.c: */
/* EIO unless the user's file of a disk, of which this is what stat() tells, is as it was. */
int disk_check_key(const struct machine_disk *disk, const struct stat *file, struct error *err);

/* The files of the disks that are only read get their keys, those that have none yet. */
void disks_note_readonly(struct machine *machine);
/* Somebody vouches for the user's files that have keys, as they are now: for each that has changed
 * `lines`, an array, gets a text that says how. EIO: one is not there. */
int disks_accept(struct machine *machine, cJSON *lines, struct error *err);

/* EIO unless they are as they were. */
int disks_check_readonly(const struct machine *machine, struct error *err);

/* What is written to now becomes frozen. Nothing writes to it any more. */
void disk_freeze(struct machine_disk *disk);
void disks_freeze(struct machine *machine);

/* For a VM that has ended, whose disks are as in `before`, and frozen in `machine`: its VMM may
 * have written to a user's qcow2 even on closing it. The key of a replaced file stays. */
void disks_renew_keys(struct machine *machine, const struct machine *before, const struct vmm *vmm);

/* disks.c again: */
/* Links the frozen files of `machine`. EIO. */
enum disks_of {
    DISKS_OF_FORK,    /* but those in machine_disk.frozen, of which it makes copies */
    DISKS_OF_IMAGE,   /* all */
    DISKS_OF_RUNNING, /* the overlays, for what its VM has saved, from files that the VMM may still
                         have open: where the file system has reflinks, into files of their own */
};
int disks_link(const struct machine *machine, int from_fd, int to_fd, enum disks_of of,
               struct error *err);

/* Removes the frozen copies of an image that is not needed any more. */
void disks_drop_copies(const struct machine *machine, int directory_fd);

/* Removes the tops that no VM has written to, or whose VM never ran. */
void disks_drop_tops(const struct machine *machine, int directory_fd);

/* Removes the overlays and copies that are of no disk of `machine`: its record tells of all that
 * its VM, if it runs, writes to; what it does not tell of is another disk's, or was never used. */
void disks_tidy(const struct machine *machine, int directory_fd);

/* `machine` gets disks of its own, equal to those that it had, which it had from another. */
int disks_copy(struct machine *machine, struct error *err);
void disks_finish(struct machine *machine);
/* Each gets the other's. */
void disks_swap(struct machine *a, struct machine *b);

/* Does disk `index` mean the same file, used in the same way, in both machines? */
bool disks_match(const struct machine *a, const struct machine *b, size_t index);
/* What was written of the disks of `from`, overlays or copies, is that of those of `machine` that
 * match. Of what is only read there is nothing, and it may have been changed before a boot. */
int disks_keep(struct machine *machine, const struct machine *from, struct error *err);

/* `machine` is what was saved of one whose VM goes on with its copies as `from` tells them. */
int disks_keep_lower(struct machine *machine, const struct machine *from, struct error *err);

#endif
