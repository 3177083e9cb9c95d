/* SPDX-License-Identifier: MIT */
/*
 * exec: runs the command that a payload of the mailbox hypefs.exec asks for, and makes the reply.
 * Part of the agent program, not of the library.
 *
 *     {"argv":["uname","-a"],"env":{"A":"b"},"stdin":"…" or "stdin_base64":"…","cwd":"/",
 *      "user":"nobody","timeout_ms":1000}
 *
 * All but argv may be left out. The reply comes when the command itself has ended, whatever it has
 * left behind:
 *
 *     {"exit":0,"stdout":"…","stderr":"…"}
 *
 * In the place of "exit" there is "signal":"SIGKILL" if a signal has ended it. "timed_out":true: it
 * was ended because timeout_ms were over. "stdout_base64" is there in the place of "stdout" if that
 * is no UTF-8, or would be more than twice as long with its escapes; "stderr" the same. What has no
 * room is left out in the middle, and "dropped" says how many bytes that are.
 */
#ifndef HYPEFS_GUEST_EXEC_H
#define HYPEFS_GUEST_EXEC_H

#include "guest/hook.h"

enum { EXEC_REPLY_MIN = 512, EXEC_REASON_SIZE = 256 };

/* `max`: bytes of the reply, without a NUL, at least EXEC_REPLY_MIN. Returns it, owned by the
 * caller. NULL: the payload is not such a request, or there is no memory, and `reason` says so. A
 * command that cannot be run is a reply: "exit" is 127 if it is not there, else 126, and "stderr"
 * says why. A SIGTERM to the agent ends the command. */
char *exec_run(const char *payload, size_t size, size_t max, struct signals *signals,
               char reason[EXEC_REASON_SIZE]);

#endif
