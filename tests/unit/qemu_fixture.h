/* SPDX-License-Identifier: MIT */
/*
 * qemu_fixture: a real QEMU for tests of its backend. The guest is 80 bytes of code and no kernel:
 * it prints 'A' at boot, then waits for a byte at LETTER, prints it, zeroes it and counts at
 * COUNTER.
 */
#ifndef HYPEFS_TESTS_UNIT_QEMU_FIXTURE_H
#define HYPEFS_TESTS_UNIT_QEMU_FIXTURE_H

#include <sys/inotify.h>

#include "hypervisor/programs.h"
#include "vmm_fixture.h"

enum { MEMORY_BYTES = 32 << 20, LETTER = 0x200000, COUNTER = 0x200004, MESON_SKIPPED = 77 };

struct machine small_machine(const struct fixture *fixture, enum machine_board board);
/* Waits until the console holds the text, and nothing but it. */
void await_console(const struct vmm_context *context, const char *text);
/* The call succeeds; its error goes to `why`. */
#define MUST(call)                                                                                 \
    do {                                                                                           \
        struct error why_ = {0};                                                                   \
        struct error *why = &why_;                                                                 \
        if ((call) < 0)                                                                            \
            fail_msg("%s: %s", #call, why->text);                                                  \
    } while (0)

/* Boots the guest in "template" until it runs. */
struct vmm *boot(const struct vmm_context *context, struct machine *machine);
/* Is there one? Says so if not, and then the test is to end with MESON_SKIPPED. */
bool qemu_is_there(void);

#endif
