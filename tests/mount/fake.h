/* SPDX-License-Identifier: MIT */
/* fake: instances and snapshots of tests/fake_vmm, through the mount: of fake_firecracker, or,
 * where HYPEFS_TEST_FAKE is "cloud-hypervisor", of fake_cloud_hypervisor. */
#ifndef HYPEFS_TESTS_MOUNT_FAKE_H
#define HYPEFS_TESTS_MOUNT_FAKE_H

#include "harness/harness.h"

bool fake_is_firecracker(void);
/* As a config names it, and as texts do. */
const char *fake_hypervisor(void);
const char *fake_title(void);
/* Its path; and what is asked for its VM's state. */
const char *fake_program(void);
const char *fake_state_path(void);

/* instances/ID/FILE */
char *fake_instance(struct harness *h, const char *id, const char *file);

/* Variables of the fake, from its next start on. */
void fake_tell(struct harness *h, const char *variables);
/* Mounts with a fake whose guest acks. */
void fake_mount(struct harness *h);
/* The same with an option more. */
void fake_mount_with(struct harness *h, const char *option, const char *value);

/* An instance in state created; `members` go on in its config, from a comma on. */
void fake_make(struct harness *h, const char *id, const char *cmdline, const char *members);
/* instances/x, which runs; what goes wrong with its process is told (FAKE_VMM_FAULT). */
void fake_boot(struct harness *h, const char *fault);
/* The request of its VMM, past hypefs; the answer has that word. */
void fake_ask(struct harness *h, const char *request, const char *word);
/* The state of its VM, as the VMM has it. */
void fake_assert_vm(struct harness *h, const char *word);
/* Of its record. For harness_await_that(). */
bool fake_has_intent(void *harness);
/* Boots one, puts it to rest and publishes snapshots/base; the instance is gone. */
void fake_publish(struct harness *h, const char *cmdline, const char *members);
/* snapshots/base as an import leaves it, whose state is of that version and has these members more;
 * `edit` is jq's, of its snapshot.json. */
void fake_craft(struct harness *h, const struct harness_snapshot *snapshot, const char *version,
                const char *members, const char *edit);
/* Stops and removes it. */
void fake_drop(struct harness *h, const char *id);

#endif
