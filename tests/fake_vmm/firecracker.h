/* SPDX-License-Identifier: MIT */
/* firecracker: what the files of fake_firecracker share beyond fake.h. */
#ifndef HYPEFS_TESTS_FAKE_VMM_FIRECRACKER_H
#define HYPEFS_TESTS_FAKE_VMM_FIRECRACKER_H

#include "fake.h"

/* 0, or -1 with the fault's text. */
int firecracker_boot(struct fake *fake, char fault[static FAKE_TEXT_SIZE]);
int firecracker_load(struct fake *fake, const cJSON *body, char fault[static FAKE_TEXT_SIZE]);
int firecracker_create(struct fake *fake, const char *state, const char *memory,
                       char fault[static FAKE_TEXT_SIZE]);

#endif
