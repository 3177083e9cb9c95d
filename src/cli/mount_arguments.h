/* SPDX-License-Identifier: MIT */
/* mount_arguments: what hypefs mount is told on its command line. */
#ifndef HYPEFS_CLI_MOUNT_ARGUMENTS_H
#define HYPEFS_CLI_MOUNT_ARGUMENTS_H

#include <stdbool.h>

#include "cli/cli.h"
#include "fs/ops.h"

enum { MOUNT_READABLE_MAX = 32 };

struct mount_arguments {
    char *store, *mountpoint;    /* owned, absolute */
    char *programs[HYPERVISORS]; /* owned: those of `binaries` that have a path, which is absolute
                                    or without a slash */
    struct vmm_binary binaries[HYPERVISORS];
    const char *ack_address; /* NULL: 127.0.0.1 */
    unsigned max_loads;
    struct instance_limits limits;
    bool foreground, insecure_store;
    enum confine_mode { CONFINE_AUTO, CONFINE_STRICT, CONFINE_OFF } confine;
    struct vmm_user_range vmm_users;    /* none: `first` is 0 */
    const char *user;                   /* that the daemon is to be; NULL: who it is */
    char *readable[MOUNT_READABLE_MAX]; /* for VMMs */
    size_t readable_count;
    struct fork_rules rules;
    struct fuse_args fuse;
};

extern const struct cli_command cli_mount_command;

/* CLI_GO_ON, or the exit status. `ret` is zeroed before, and to be finished in any case. */
int mount_arguments_read(int argc, char **argv, struct mount_arguments *ret);
void mount_arguments_finish(struct mount_arguments *arguments);

/* A session for libfuse's options; after a failure its line is on stderr. The same return value. */
int mount_arguments_open_session(struct mount_arguments *arguments, struct ops_context *ops,
                                 struct fuse_session **ret);

#endif
