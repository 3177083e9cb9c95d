/* SPDX-License-Identifier: MIT */
/* config_files: the host's files that a config names, looked at when it is written. */
#ifndef HYPEFS_INSTANCE_CONFIG_FILES_H
#define HYPEFS_INSTANCE_CONFIG_FILES_H

#include <stddef.h>

#include "store/store.h"

/*
 * Of an acceptable text (config_parse): ENOENT, EACCES and others of a kernel, initrd or disk that
 * is not there, may not be read, or, a disk that is not read-only, not be written; EINVAL of a
 * kernel or initrd that is no regular file, and of a disk that is hypefs's own (own.h). What they
 * are is asked again by a boot. ETIMEDOUT of a path that does not answer: so this waits, but for
 * some seconds only, and no lock is to be held.
 */
int config_check_files(const struct store *store, const char *text, size_t size, struct error *err);

#endif
