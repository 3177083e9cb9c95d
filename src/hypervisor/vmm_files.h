/* SPDX-License-Identifier: MIT */
/* vmm_files: which files a VMM's process has open, as /proc/PID/fd tells. No state; any thread. */
#ifndef HYPEFS_HYPERVISOR_VMM_FILES_H
#define HYPEFS_HYPERVISOR_VMM_FILES_H

#include <sys/stat.h>
#include <sys/types.h>

#include "util/error.h"
#include "util/file_key.h"

/* Calls `visit` with each descriptor (its number) of the process that is of that file, until one
 * returns something else than 0, and returns that. -ESRCH if the process has ended, or ends. */
typedef int vmm_files_visit(pid_t pid, const char *descriptor, void *context);
int vmm_files_walk(pid_t pid, struct file_id file, vmm_files_visit *visit, void *context);

/* What the walk has returned, in words: EIO, ESRCH. */
int vmm_files_explain(pid_t pid, int r, struct error *err);

/* EIO if the process has a descriptor by which it could write to the file, which the text calls
 * `what`, or if that cannot be told; ESRCH if it has ended. */
int vmm_files_check_readonly(pid_t pid, const struct stat *file, const char *what,
                             struct error *err);

#endif
