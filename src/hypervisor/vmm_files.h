/* SPDX-License-Identifier: MIT */
/* vmm_files: which files a VMM's process has open, as /proc/PID/fd tells. No state; any thread. */
#ifndef HYPEFS_HYPERVISOR_VMM_FILES_H
#define HYPEFS_HYPERVISOR_VMM_FILES_H

#include <sys/stat.h>
#include <sys/types.h>

#include "util/error.h"

/* EIO if the process has a descriptor by which it could write to the file, which the text calls
 * `what`, or if that cannot be told; ESRCH if it has ended. */
int vmm_files_check_readonly(pid_t pid, const struct stat *file, const char *what,
                             struct error *err);

#endif
