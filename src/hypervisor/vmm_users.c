/* SPDX-License-Identifier: MIT */
#include "hypervisor/vmm_users.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "util/cleanup.h"
#include "util/thread.h"

struct vmm_users {
    struct vmm_user_range range;
    size_t count;
    pthread_mutex_t lock;
    size_t next;  /* to be tried first: those that were given back wait for their turn */
    bool taken[]; /* in the order of the range */
};

int vmm_users_create(const struct vmm_user_range *range, struct vmm_users **ret, struct error *err)
{
    const size_t count = (size_t)(range->last - range->first) + 1;
    struct vmm_users *users = calloc(1, sizeof *users + count * sizeof *users->taken);
    if (!users)
        return error_set(err, ENOMEM, "no memory for the users of VMMs");
    users->range = *range;
    users->count = count;
    pthread_mutex_init(&users->lock, NULL);
    *ret = users;
    return 0;
}

void vmm_users_destroy(struct vmm_users *users)
{
    if (!users)
        return;
    pthread_mutex_destroy(&users->lock);
    free(users);
}

uid_t vmm_users_first(const struct vmm_users *users)
{
    return users->range.first;
}

gid_t vmm_users_group(const struct vmm_users *users)
{
    return users->range.gid;
}

static bool is_shared(const struct vmm_users *users)
{
    return users->count == 1;
}

int vmm_users_take(struct vmm_users *users, uid_t *ret, struct error *err)
{
    auto_lock(&users->lock);
    for (size_t i = 0; i < users->count; i++) {
        size_t index = (users->next + i) % users->count;
        if (users->taken[index] && !is_shared(users))
            continue;
        users->taken[index] = true;
        users->next = index + 1;
        *ret = users->range.first + (uid_t)index;
        return 0;
    }
    return error_set(err, EAGAIN,
                     "all %zu users of --vmm-uids have a VMM (VMs that are loaded ahead, by warm, "
                     "count): end some, or give hypefs mount a larger range",
                     users->count);
}

static void set_taken(struct vmm_users *users, uid_t uid, bool taken)
{
    auto_lock(&users->lock);
    if (uid >= users->range.first && uid <= users->range.last)
        users->taken[uid - users->range.first] = taken;
}

void vmm_users_note(struct vmm_users *users, uid_t uid)
{
    set_taken(users, uid, true);
}

void vmm_users_give(struct vmm_users *users, uid_t uid)
{
    set_taken(users, uid, false);
}
