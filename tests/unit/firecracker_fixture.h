/* SPDX-License-Identifier: MIT */
/*
 * firecracker_fixture: what the tests of the Firecracker backend share; they run it against
 * tests/fake_vmm, which is not Firecracker: see there.
 */
#ifndef HYPEFS_TESTS_UNIT_FIRECRACKER_FIXTURE_H
#define HYPEFS_TESTS_UNIT_FIRECRACKER_FIXTURE_H

#include "vmm_fixture.h"

enum { MEMORY_BYTES = 8 << 20, PAGE = 4096, TEXT_SIZE = 1024 };
const char *fake(void);

struct vmm_context context_in(struct fixture *fixture, const char *name);

struct machine plain_machine(void);
/* Fills in what a boot records; the texts that were given are not the machine's. */
void finish_booted(struct machine *machine);
/* A saved state by hand: `members` is the JSON behind the version, and the image is sparse. */
void make_base(const struct vmm_context *context, off_t memory_bytes, const char *version,
               const char *members);
void assert_nothing_left(const struct vmm_context *context);

struct vmm *load(const struct vmm_context *context, const struct machine *machine);
void try_to_load(const struct vmm_context *context, const struct machine *machine, int code,
                 const char *words);
void assert_load_fails(const struct vmm_context *context, const struct machine *machine, int code,
                       const char *words);
void stop(struct vmm *vmm);
/* Waits for a text in a file of the directory. */
void await_file(const struct vmm_context *context, const char *name, const char *text);
/* Two: "rootfs", which can be written to, and "data". */
void make_base_with_drives(const struct vmm_context *context);

struct machine_disk frozen_disk(void);

#endif
