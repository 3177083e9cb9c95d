/* SPDX-License-Identifier: MIT */
/* list_fixture: the kept list of what was found in a snapshot's image. Header only. */
#ifndef HYPEFS_TESTS_UNIT_LIST_FIXTURE_H
#define HYPEFS_TESTS_UNIT_LIST_FIXTURE_H

#include "store_fixture.h"

/* A list that is made anew is another file. */
static inline ino_t world_kept_list(const struct world *world, const char *id)
{
    struct stat st;
    assert_int_equal(stat(world_path(world, "store/snapshots/%s/mailboxes.json", id), &st), 0);
    return st.st_ino;
}

/* As it is now; owned. */
static inline char *world_info_now(struct snapshot *snapshot)
{
    auto_json cJSON *info = snapshot_info(snapshot);
    return json_print(info);
}

/* When its kept list is read; owned. */
static inline char *world_info(struct world *world, struct snapshot *snapshot)
{
    struct image_index *index;
    if (image_index_wait(snapshot->image, NULL, &index, &world->err) < 0)
        fail_msg("image_index_wait: %s", world->err.text);
    image_index_unref(index);
    return world_info_now(snapshot);
}

#endif
