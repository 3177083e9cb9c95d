/* SPDX-License-Identifier: MIT */
/* guest_memory: the memory of a guest by offset of its image, in a VMM that maps the image
 * privately: /proc/PID/maps tells where, and /proc/PID/mem reaches it. What is written there is the
 * VMM's own copy of a page: the image stays as it is. The mappings are read once: a VMM does not
 * move its guest's memory. One thread at a time, but any number may read. */
#ifndef HYPEFS_HYPERVISOR_GUEST_MEMORY_H
#define HYPEFS_HYPERVISOR_GUEST_MEMORY_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/error.h"
#include "util/page_set.h"

struct guest_memory;

/* /proc/PID/mem, CLOEXEC. Permission is checked here and then no more. ESRCH: see below. */
int guest_memory_open_process(pid_t pid, int *ret_fd, struct error *err);

/* Finds the mappings of the image in the process whose mem file memory_fd is (borrowed, as long as
 * the object lives). EIO if there are none, ESRCH if the process has just ended. */
int guest_memory_create(pid_t pid, int memory_fd, int image_fd, struct guest_memory **ret,
                        struct error *err);
/* The same of a VMM that shares the file with the VM that it has booted: what is written is in the
 * file, too. */
int guest_memory_create_shared(pid_t pid, int memory_fd, int image_fd, struct guest_memory **ret,
                               struct error *err);
/* The same of a VM of so many bytes that was booted in memory of its VMM's own, of no file: by its
 * size. EIO: there is no such mapping, or it cannot be told from others. */
int guest_memory_create_own(pid_t pid, int memory_fd, uint64_t size, struct guest_memory **ret,
                            struct error *err);
void guest_memory_destroy(struct guest_memory *memory);
/* Only whether there are such mappings: 0, or what guest_memory_create() returns. */
int guest_memory_check(pid_t pid, int image_fd, struct error *err);

/* EIO unless the whole range lies in exactly one mapping, and that is private and writable. */
int guest_memory_read(const struct guest_memory *memory, uint64_t offset, void *bytes, size_t size,
                      struct error *err);
int guest_memory_write(const struct guest_memory *memory, uint64_t offset, const void *bytes,
                       size_t size, struct error *err);

/* Called with pages that lie one after another, from that offset of the image on. Not 0: stop. */
typedef int guest_memory_visit(void *context, uint64_t offset, const uint8_t *bytes, size_t size,
                               struct error *err);

/* Visits the pages that the VMM has written to: those that /proc/PID/pagemap shows to be the
 * process's own, as they are when they are read. ECANCELED when `cancel_fd` (-1: never) becomes
 * readable. */
int guest_memory_visit_written(const struct guest_memory *memory, pid_t pid, int cancel_fd,
                               guest_memory_visit *visit, void *context, struct error *err);

/* Writes into `fd`, a copy of the image (-1: none, only to know which they are), those pages. What
 * became zeros becomes a hole. The VM is paused. Adds the pages to `ret` (may be NULL), and says there that these are all. */
int guest_memory_copy_written(const struct guest_memory *memory, pid_t pid, int fd, int cancel_fd,
                              struct page_set *ret, struct error *err);

#endif
