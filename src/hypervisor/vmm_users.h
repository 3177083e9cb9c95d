/* SPDX-License-Identifier: MIT */
/*
 * vmm_users: which user of the host each VMM is, where root has given hypefs users for them: one of
 * its own for each, or one for all. They have no files: what a VMM has is shown to it as its own
 * (src/confine/idmap.h). So a user is free again as soon as its VMM has ended. Locked inside, any
 * thread.
 */
#ifndef HYPEFS_HYPERVISOR_VMM_USERS_H
#define HYPEFS_HYPERVISOR_VMM_USERS_H

#include <sys/types.h>

#include "util/error.h"

/* As the command line has them. None: `first` is 0. */
struct vmm_user_range {
    uid_t first, last; /* the same: one for all */
    gid_t gid;         /* of all */
};

struct vmm_users;

int vmm_users_create(const struct vmm_user_range *range, struct vmm_users **ret, struct error *err);
void vmm_users_destroy(struct vmm_users *users); /* NULL is fine */

uid_t vmm_users_first(const struct vmm_users *users);
gid_t vmm_users_group(const struct vmm_users *users);
/* EAGAIN: all have a VMM. */
int vmm_users_take(struct vmm_users *users, uid_t *ret, struct error *err);
/* The user of a process that runs already; one that is none of ours is left alone. */
void vmm_users_note(struct vmm_users *users, uid_t uid);
void vmm_users_give(struct vmm_users *users, uid_t uid);

#endif
