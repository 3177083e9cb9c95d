/* SPDX-License-Identifier: MIT */
/* user: a user of the guest's, as whom a command is run. Reads /etc/passwd and /etc/group itself,
 * for a static program cannot use those libraries that the C library would. Part of the agent. */
#ifndef HYPEFS_GUEST_USER_H
#define HYPEFS_GUEST_USER_H

#include <sys/types.h>

enum { USER_GROUPS_MAX = 64, USER_TEXT_MAX = 255 };

struct user {
    uid_t uid;
    gid_t gid, groups[USER_GROUPS_MAX]; /* the first of the groups is gid */
    size_t group_count;
    char name[USER_TEXT_MAX + 1], home[USER_TEXT_MAX + 1], shell[USER_TEXT_MAX + 1];
};

/* By name or by number. -ESRCH: there is none. */
int user_find(const char *name, struct user *ret);

/* HOME, USER, LOGNAME and SHELL; what is not known of it is unset. -ENOMEM. */
int user_set_environment(const struct user *user);

/* For ever. -EPERM: this is not root. */
int user_become(const struct user *user);

#endif
