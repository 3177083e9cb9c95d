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

/* Is the page, behind its marker, a declared frame that is armed and empty, and has taken that? */
bool frames_is_empty(const uint8_t *page, enum frame_kind kind, uint32_t taken);

/* The reply in an armed declared frame with zeros behind it, as a text; NULL if it is none. */
const char *frames_reply(const uint8_t *page, enum frame_kind kind);

/* Makes a declared frame of an armed one that fills a page. */
void frames_declare(uint8_t *page, enum frame_kind kind, const char *reply, uint32_t taken);

/* {"x":"aaa…"} of that many bytes. Returns owned. */
char *frames_payload(size_t size);

#endif
