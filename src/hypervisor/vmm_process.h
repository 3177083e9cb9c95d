/* SPDX-License-Identifier: MIT */
/* A VMM's process and its log, for the backends. One thread at a time per struct vmm. */
#ifndef HYPEFS_HYPERVISOR_VMM_PROCESS_H
#define HYPEFS_HYPERVISOR_VMM_PROCESS_H

#include <sys/types.h>

#include "hypervisor/hypervisor.h"
#include "util/process.h"

/* In the context's directory of logs. */
#define VMM_LOG_NAME "vmm.log"
#define VMM_CONSOLE_NAME "console.log"

/* A log to write to: made if it is not there, and appended to. */
int vmm_log_open(const struct vmm_context *context, const char *name, int *ret, struct error *err);

/* Its path from where the VMM works. */
enum { VMM_LOG_PATH_SIZE = 32 };
void vmm_log_path(const struct vmm_context *context, const char *name,
                  char ret[static VMM_LOG_PATH_SIZE]);

/* How long vmm.log is: to be taken before something is tried. */
off_t vmm_log_size(const struct vmm_context *context);

/* The end of what vmm.log got since it had `from` bytes, as one line. */
enum { VMM_WORDS_MAX = 400 };
void vmm_last_words(const struct vmm_context *context, off_t from,
                    char ret[static VMM_WORDS_MAX + 1]);

/* A sparse_progress, with the context as its context: until cancel_fd becomes readable. */
bool vmm_copy_goes_on(void *context, uint64_t done, uint64_t size);

/* Removes a file of the context's directory, or one below it, if there is one. EIO and others. */
int vmm_remove_old(const struct vmm_context *context, const char *path, struct error *err);

/* A new symbolic link of the context's directory, in place of an older one. EIO and others. */
int vmm_new_link(const struct vmm_context *context, const char *target, const char *name,
                 struct error *err);

/* A new file of the context's directory, or one below it, in place of an older one. EIO. */
int vmm_new_file(const struct vmm_context *context, const char *path, int *ret, struct error *err);

/* A file that a VMM was told to make in its directory goes to that path, in place of an older one:
 * what it wrote, in a new file, unless it is large and the file system has no reflinks. EIO: it is
 * no regular file with one name, of the daemon's user. */
int vmm_take_file(const struct vmm_context *context, const char *name, const char *path,
                  struct error *err);

/* Of ESRCH, which guest_memory returns, and of ECONNREFUSED at the VMM's socket: waits a moment for
 * its end, so that it can be explained, and becomes EIO. Any other r is returned. */
int vmm_ended(const struct vmm *vmm, int r, struct error *err);

/* After a VMM's failure r: for EIO, tries whether a limit of the host (a full disk, a quota, a file
 * size) keeps files of the directory from being written, for VMMs do not say why, and are killed if
 * a mapping of a file finds no room. Returns that limit's errno, and the text says so. */
int vmm_find_limit(const struct vmm_context *context, int r, struct error *err);

/* Puts behind the text of a failure how the VMM ended and what it said last since vmm.log had
 * `log_size` bytes; where address space is limited, also that limit, with ENOMEM for EIO if it said
 * that memory was lacking. Else returns what vmm_find_limit() does. */
int vmm_explain(const struct vmm_context *context, struct vmm *vmm, off_t log_size, int r,
                struct error *err);

/* For a VMM that has so long to answer, if the context does not say otherwise. */
struct process_limits vmm_limits(const struct vmm_context *context, const struct vmm *vmm,
                                 int timeout_ms);
/* The same of one that has just been started. */
struct process_limits vmm_start_limits(const struct vmm_context *context, const struct vmm *vmm,
                                       int timeout_ms);

/* Ends a start that failed: no process and no socket stay behind, but for a process that cannot be
 * killed, which the text of the failure then names. `vmm` may be NULL. Returns r. */
int vmm_abandon(const struct vmm_context *context, const struct hypervisor *hypervisor,
                struct vmm *vmm, int r, struct error *err);

#endif
