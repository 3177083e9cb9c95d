/* SPDX-License-Identifier: MIT */
/* trust: what another user can replace would make root mount, read or write elsewhere than was
 * asked for. Trusted are root and the user that this process runs as. */
#ifndef HYPEFS_UTIL_TRUST_H
#define HYPEFS_UTIL_TRUST_H

#include "util/error.h"

/* EPERM if a component of the path is somebody else's symbolic link. It need not be there. */
int trust_path(const char *path, struct error *err);

/* EPERM if the directory is a symbolic link, somebody else owns it, or others may write to it. What
 * is no directory is no fault. `name` is in `parent_fd`, "" is that itself; `path` is for texts. */
int trust_directory(int parent_fd, const char *name, const char *path, struct error *err);

#endif
