/* SPDX-License-Identifier: MIT */
/* talk: finds an instance in a mounted tree, delivers a payload to one of its mailboxes, and reads
 * the guest's reply. By the tree's files alone: for `hypefs send` and `hypefs exec`. */
#ifndef HYPEFS_CLI_TALK_H
#define HYPEFS_CLI_TALK_H

#include <stdbool.h>
#include <stdint.h>

#include "util/error.h"

enum { TALK_TIMEOUT_MS = 30000, TALK_TIMEOUT_MAX = 86400000 };

/* A number of ms from 1 on. */
bool talk_parse_timeout(const char *text, int64_t *ret);

struct talk {
    int fd; /* the instance's directory */
    char *path;
};

/* `name` is the id of an instance of the tree that is mounted at `mount`, or, if that is NULL, of
 * the only tree of this host that has one of that id; or the path of its directory, with a slash.
 * ENOENT; EEXIST: several trees have it. */
int talk_open(const char *mount, const char *name, struct talk *ret, struct error *err);
void talk_close(struct talk *talk);

/* ENOENT: the instance has no mailbox of that name, and which it has. */
int talk_check(const struct talk *talk, const char *mailbox, struct error *err);
/* Writes the request {"payload":PAYLOAD,"wait_for_ack":true,"ack_timeout_ms":…}, and waits for the
 * guest. *ret_reply, owned, is the reply as the guest has written it, NULL if it gave none. Errors
 * are those of the write, with the tree's reason; EAGAIN, if it is not to queue: another payload is
 * waited for there. */
int talk_deliver(const struct talk *talk, const char *mailbox, const char *payload,
                 int64_t timeout_ms, bool queue, char **ret_reply, struct error *err);

#endif
