/* SPDX-License-Identifier: MIT */
/* frames: places mailbox frames in memory images that tests make up. */
#ifndef HYPEFS_TESTS_UNIT_FRAMES_H
#define HYPEFS_TESTS_UNIT_FRAMES_H

#include <assert.h>
#include <string.h>

#include "mailbox/frame.h"

/* Marker, sequence, length and payload; the rest of the frame is left as it is. */
void frames_put(uint8_t *frame, enum frame_kind kind, const char *name, const char *token,
                uint32_t sequence, const char *payload);

void frames_arm(uint8_t *frame, const char *name, const char *token);

/* {"x":"aaa…"} of that many bytes. Returns owned. */
char *frames_payload(size_t size);

#endif
