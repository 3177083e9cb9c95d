/* SPDX-License-Identifier: MIT */
/*
 * confine: what of the host a VMM needs, for the program that shuts it in (src/confine/vmm.c) and
 * in whose place it then runs. A VMM sees nothing that is not named here: the files of its machine,
 * the image that it is loaded from, its own program. For the backends. Any thread.
 */
#ifndef HYPEFS_HYPERVISOR_CONFINE_H
#define HYPEFS_HYPERVISOR_CONFINE_H

#include "hypervisor/hypervisor.h"
#include "util/arguments.h"

/* The options for src/confine/vmm.c, all but those of a machine that only its backend knows.
 * `image`: what it is loaded from, as for a load; NULL: it is booted. */
void confine_begin(struct arguments *ret, const struct vmm_context *context,
                   const struct machine *machine, const char *image, const char *program);

/* More: "--ro", "--rw", "--dev", "--tap". */
void confine_add(struct arguments *arguments, const char *option, const char *path);
/* More: "--ro-at", "--rw-at". */
void confine_add_at(struct arguments *arguments, const char *option, const char *path,
                    const char *file);

/* And who it is to be, if not the daemon's user. */
void confine_add_user(struct arguments *arguments, uid_t uid, gid_t gid);

#endif
