/* SPDX-License-Identifier: MIT */
/* mount_confine: how VMMs of a mount will be shut in, from what its command line says and this host
 * can do. */
#ifndef HYPEFS_CLI_MOUNT_CONFINE_H
#define HYPEFS_CLI_MOUNT_CONFINE_H

#include "cli/mount_arguments.h"

struct mount_confine {
    bool is_on;
    struct vmm_confine vmm;
};

/* Tries it. `warn` is told what the user is to know; a script among the arguments' programs is left
 * open. EPERM, EIO: --confine strict, and it cannot be as strict. `ret` is zeroed before, and to be
 * finished in any case. */
int mount_confine_prepare(struct mount_arguments *arguments,
                          void (*warn)(void *context, const char *text), void *context,
                          struct mount_confine *ret, struct error *err);
void mount_confine_finish(struct mount_confine *confine);

#endif
