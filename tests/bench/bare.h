/* SPDX-License-Identifier: MIT */
/* bare: forks by bare_qemu, of what a fork by hypefs is a fork of. */
#ifndef HYPEFS_TESTS_BENCH_BARE_H
#define HYPEFS_TESTS_BENCH_BARE_H

#include "harness/harness.h"

enum { BARE_OFFSETS_MAX = 8 };

struct bare {
    const char *arguments, *directory; /* files; see bare_qemu.c */
    const char *state, *image;
    const char *offsets[BARE_OFFSETS_MAX + 1];
};

struct bare_fork {
    pid_t pid, runner;
    double resumed_ms, acked_ms;
    int stdin_fd;
};

/* The arguments of the QEMU that runs as `pid`, a fork of the snapshot; the payload goes to that
 * mailbox. */
void bare_copy(struct harness *h, pid_t pid, const char *snapshot, const char *mailbox,
               struct bare *ret);
/* Another memory image of the same content. */
void bare_use_image(struct harness *h, struct bare *bare, const char *image);

/* Returns when the guest has acked; the VM runs on until bare_end(). */
struct bare_fork bare_start(const struct bare *bare);
void bare_end(struct bare_fork *fork);

#endif
