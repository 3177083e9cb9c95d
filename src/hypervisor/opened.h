/* SPDX-License-Identifier: MIT */
/* opened: which files a VMM has open. A path may name another file at any time (mv), and the VM
 * reads and writes what its VMM has open. So the file behind each disk is remembered when the VMM
 * has opened it, and found again in /proc/PID/fd. Any thread, one at a time per struct vmm. */
#ifndef HYPEFS_HYPERVISOR_OPENED_H
#define HYPEFS_HYPERVISOR_OPENED_H

#include <sys/stat.h>

#include "hypervisor/hypervisor.h"

/* Calls `visit` with each descriptor (its number) of the process that is of that file, until one
 * returns something else than 0, and returns that. -ESRCH if the process has ended, or ends. */
typedef int opened_visit(pid_t pid, const char *descriptor, void *context);
int opened_walk(pid_t pid, struct file_id file, opened_visit *visit, void *context);

/* Remembers which disks and taps a VMM that has just started has opened. EIO if a disk is not the
 * file that its path names now, or not the one that its key tells of. */
int opened_remember(const struct vmm_context *context, struct vmm *vmm,
                    const struct machine *machine, struct error *err);

/* EIO, with the remedy, unless the paths of disks that a save does not copy name the open files. */
int opened_check(const struct vmm_context *context, const struct vmm *vmm,
                 const struct machine *machine, struct error *err);

/* What the VMM has open as that disk, for reading, whatever lies at its path by now. EIO. */
int opened_open(const struct vmm_context *context, const struct vmm *vmm,
                const struct machine *machine, size_t index, int *ret, struct error *err);

/* The VMM's own descriptor of that tap, which both have open then. EIO. */
int opened_take_tap(const struct vmm *vmm, const char *tap, int *ret, struct error *err);

/* EIO unless the VMM has that file of the instance's directory open. */
int opened_check_own(const struct vmm_context *context, const struct vmm *vmm, const char *name,
                     struct error *err);

/* EIO if the process has a descriptor by which it could write to the file, which the text calls
 * `what`, or if that cannot be told; ESRCH if it has ended. */
int opened_check_readonly(pid_t pid, const struct stat *file, const char *what, struct error *err);

#endif
