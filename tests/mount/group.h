/* SPDX-License-Identifier: MIT */
/* group: what the tests of several forks by one write share. The VMMs are those of fake.h, the
 * source is snapshots/base. */
#ifndef HYPEFS_TESTS_MOUNT_GROUP_H
#define HYPEFS_TESTS_MOUNT_GROUP_H

#include "harness/harness.h"

/* A mount with that --max-loads, and snapshots/base with the mailboxes m and a. */
int group_setup_with(void **state, const char *loads);

/* forks/FORK/FILE */
char *group_draft(struct harness *h, const char *fork, const char *file);
/* A payload whose ack is waited for; for 5 s. */
void group_stage_within(struct harness *h, const char *fork, int ack_ms);
void group_stage(struct harness *h, const char *fork);
/* A draft with such a payload. */
void group_make_draft(struct harness *h, const char *id);

/* A line with the ids, in one write; returns the errno. */
int group_write_ids(struct harness *h, const char *path, const char *ids);
/* The same by a shell, not waited for. */
struct harness_child group_start_write(struct harness *h, const char *path, const char *ids);

/* The member of a draft's file. */
const char *group_get(struct harness *h, const char *fork, const char *file, const char *member);
/* Which are in instances/, and in forks/ beside `new` and `commit`. */
void group_assert_forks(struct harness *h, const char *ids);
void group_assert_new_is_empty(struct harness *h);

/* The lines of `events`, from an opening of it on. */
struct group_lines {
    int fd;
    char text[65536];
    size_t size;
    const char *wanted;
};
struct group_lines *group_open_events(struct harness *h);
void group_await_line(struct group_lines *lines, const char *text);
void group_await_step(struct harness *h, struct group_lines *lines, const char *id,
                      const char *step);

/* From now on each VMM starts when the test says what its guest does; "none": it does not start. */
void group_make_gate(struct harness *h);
/* The VMM of that fork, whose turn it is. */
void group_start_one(struct harness *h, struct group_lines *lines, const char *id,
                     const char *guest);

#endif
